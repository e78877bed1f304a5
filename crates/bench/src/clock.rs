//! Wall time, and processor time of a thread, of this process and of others.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Ticks per second of the times in `/proc/PID/stat`: `USER_HZ`, which is 100 on every Linux that Rust runs on.
const TICKS_PER_SECOND: u64 = 100;

/// Milliseconds since the epoch.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn processor_time(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// What a piece of work took.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spent {
    /// Wall time.
    pub(crate) wall: Duration,
    /// Processor time of this thread.
    pub(crate) thread: Duration,
    /// Processor time of this process, background threads included.
    pub(crate) process: Duration,
}

impl AddAssign for Spent {
    fn add_assign(&mut self, more: Self) {
        self.wall += more.wall;
        self.thread += more.thread;
        self.process += more.process;
    }
}

/// Measures from its making on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopwatch {
    wall: Instant,
    thread: Duration,
    process: Duration,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self {
            wall: Instant::now(),
            thread: processor_time(ClockId::ThreadCPUTime),
            process: processor_time(ClockId::ProcessCPUTime),
        }
    }

    pub(crate) fn spent(&self) -> Spent {
        Spent {
            wall: self.wall.elapsed(),
            thread: processor_time(ClockId::ThreadCPUTime).saturating_sub(self.thread),
            process: processor_time(ClockId::ProcessCPUTime).saturating_sub(self.process),
        }
    }
}

/// Processor time of another process so far, by groups of threads of one name.
#[derive(Debug, Clone, Default)]
pub(crate) struct ProcessTimes(BTreeMap<String, u64>);

impl ProcessTimes {
    /// Reads the times of all threads that are there now; empty when the process is gone.
    pub(crate) fn of(pid: u32) -> Self {
        let mut groups = BTreeMap::new();
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for task in tasks {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            let Some((name, ticks)) = parse_stat(&stat) else { continue };
            *groups.entry(group(name)).or_insert(0) += ticks;
        }
        Self(groups)
    }

    /// What was spent since `earlier`, by group, the largest first. Threads that ended are missing; servers end none
    /// while they serve.
    pub(crate) fn since(&self, earlier: &Self) -> Vec<(String, Duration)> {
        let before = |name: &str| earlier.0.get(name).copied().unwrap_or(0);
        let mut spent: Vec<_> =
            self.0.iter().map(|(name, &now)| (name.clone(), ticks(now.saturating_sub(before(name))))).collect();
        spent.sort_by_key(|(_, spent)| std::cmp::Reverse(*spent));
        spent
    }
}

/// Processor time of another process so far, threads that have ended included; zero when it is gone.
pub(crate) fn process_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    parse_stat(&stat).map_or(Duration::ZERO, |(_, spent)| ticks(spent))
}

fn ticks(count: u64) -> Duration {
    Duration::from_millis(count * 1_000 / TICKS_PER_SECOND)
}

/// Threads that do the same have names that end in a number.
fn group(name: &str) -> String {
    name.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches(['-', ':']).to_owned()
}

/// Name, and user and system time in ticks, of a line of `stat`.
fn parse_stat(stat: &str) -> Option<(&str, u64)> {
    // The name stands in brackets and may hold anything.
    let (open, close) = (stat.find('(')?, stat.rfind(')')?);
    let mut fields = stat.get(close + 2..)?.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((stat.get(open + 1..close)?, user + system))
}

/// A value in KiB of `/proc/PID/status`, in bytes: `VmRSS`, `VmHWM`, `RssAnon`.
pub(crate) fn memory(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib = line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1_024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_whatever_the_thread_is_called() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 700 45 0 0 20 0";
        for (line, expected) in [
            (format!("12 (log-writer) {rest}"), Some(("log-writer", 745))),
            (format!("12 (a) b (c)) {rest}"), Some(("a) b (c)", 745))),
            ("12 (short) S 1".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(parse_stat(&line), expected, "{line}");
        }
    }

    #[test]
    fn numbered_threads_are_one_group() {
        for (name, expected) in
            [("partitions-1", "partitions"), ("rocksdb:low3", "rocksdb:low"), ("tokio-rt-worker", "tokio-rt-worker")]
        {
            assert_eq!(group(name), expected);
        }
    }

    #[test]
    fn this_process_has_memory() {
        assert!(memory(std::process::id(), "VmRSS") > 1_000_000);
        assert_eq!(memory(std::process::id(), "NoSuchField"), 0);
    }
}
