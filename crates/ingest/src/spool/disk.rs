//! The spool's directory: an embedded log of the same shape as the log that records are meant for.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use barrage_event::{Offset, Partition, Topic};
use barrage_log::{Ack, AppendBatch, AppendError, EmbeddedLog, EmbeddedOptions, EventLog, Health, OpenError};
use serde::{Deserialize, Serialize};

use super::metrics::SpoolMetrics;
use super::options::SpoolOptions;
use crate::clock::{Clock as _, SystemClock};

/// Workers forget an incarnation 30 days after its last record: what is older could count twice. A day to spare.
const SEND_WITHIN: Duration = Duration::from_secs(29 * 86_400);
/// How long a disk that failed is left alone.
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// The files, and what they are called on their way out.
const FILES: &str = "records";
const DRAINED: &str = "drained-";
/// Names the log that the records are meant for.
const OWNER_FILE: &str = "log.json";

/// Why the spool cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The records in it are meant for another log.
    #[error(
        "the spool in {} holds callbacks for log {spool}, this is log {log}: point --brokers back at the log it belongs \
         to and let it drain, or move the directory away to give these callbacks up", path.display()
    )]
    OtherLog {
        /// The spool's directory.
        path: PathBuf,
        /// Uuid that it names.
        spool: String,
        /// Uuid of the log.
        log: String,
    },
    /// Its files cannot be opened.
    #[error("the spool in {} cannot be opened: {source}", path.display())]
    Open {
        /// The spool's directory.
        path: PathBuf,
        /// Why.
        source: OpenError,
    },
    /// The system gave no thread.
    #[error("the spool's thread could not be started: {0}")]
    Thread(io::Error),
}

#[derive(Serialize, Deserialize)]
struct OwnerFile {
    log_uuid: String,
}

/// The spool's files.
#[derive(Debug)]
pub(super) struct Disk {
    dir: PathBuf,
    options: EmbeddedOptions,
    bytes_max: u64,
    log: Arc<EmbeddedLog>,
    /// Offset of the next record of every partition, with those that are on their way to the disk.
    next: BTreeMap<Partition, u64>,
    /// Bytes of records since the directory was empty.
    bytes: u64,
    /// Why nothing is taken, and when to try again; none while that is being done.
    failed: Option<(String, Option<Instant>)>,
    /// Why nothing more is taken until everything was drained: `bytes_max` is used up.
    full: Option<String>,
}

fn io_error<'p>(action: &'static str, path: &'p Path) -> impl FnOnce(io::Error) -> SpoolError + 'p {
    move |source| SpoolError::Io { action, path: path.to_owned(), source }
}

impl Disk {
    pub(super) fn open(
        dir: &Path,
        options: &SpoolOptions,
        log: &dyn EventLog,
        metrics: &SpoolMetrics,
    ) -> Result<Self, SpoolError> {
        Self::open_at(dir, options, log, metrics, SystemClock.now_ms())
    }

    fn open_at(
        dir: &Path,
        options: &SpoolOptions,
        log: &dyn EventLog,
        metrics: &SpoolMetrics,
        now_ms: i64,
    ) -> Result<Self, SpoolError> {
        fs::create_dir_all(dir).map_err(io_error("make the directory", dir))?;
        check_owner(dir, log.uuid())?;
        let embedded = EmbeddedOptions {
            room_partitions: log.partitions(Topic::Room),
            user_partitions: log.partitions(Topic::User),
            segment_bytes: options.segment_bytes,
            // A takeover hands over at once what the log was given and did not acknowledge.
            pending_bytes_max: 512 << 20,
            tail_bytes_max: 4 << 20,
            chunk_cache_bytes_max: 8 << 20,
            ..EmbeddedOptions::default()
        };
        let files = dir.join(FILES);
        remove_drained(dir);
        let open = || {
            EmbeddedLog::open(&files, &embedded, barrage_log::Metrics::default())
                .map_err(|source| SpoolError::Open { path: files.clone(), source })
        };
        let mut opened = open()?;
        let expired = expired_records(&opened, now_ms);
        if expired > 0 {
            opened.close();
            drop(opened);
            let aside = dir.join(format!("expired-{now_ms}"));
            fs::rename(&files, &aside).map_err(io_error("move aside", &files))?;
            sync_dir(dir).map_err(io_error("sync", dir))?;
            metrics.expired.set(i64::try_from(expired).unwrap_or(i64::MAX));
            tracing::error!(
                records = expired, moved_to = %aside.display(),
                "the spool holds callbacks of more than 29 days ago: sent now they could count twice, so they were moved \
                 aside; `barrage log` shows them"
            );
            opened = open()?;
        }
        let next = opened.all_partitions().into_iter().map(|p| (p, opened.end(p).0)).collect();
        let mut disk = Self {
            dir: files.clone(),
            options: embedded.clone(),
            bytes_max: options.bytes_max,
            log: Arc::new(opened),
            next,
            bytes: 0,
            failed: None,
            full: None,
        };
        disk.bytes = disk.size();
        Ok(disk)
    }

    /// The files as a log, to read from.
    pub(super) fn log(&self) -> &Arc<EmbeddedLog> {
        &self.log
    }

    /// Offset of the next record of a partition.
    pub(super) fn next(&self, partition: Partition) -> u64 {
        self.next.get(&partition).copied().unwrap_or(0)
    }

    /// First offset that is still there.
    pub(super) fn start(&self, partition: Partition) -> u64 {
        self.log.start(partition).0
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Why nothing is taken now.
    pub(super) fn failed(&self) -> Option<&str> {
        self.failed.as_ref().map(|(reason, _)| reason.as_str()).or(self.full.as_deref())
    }

    /// Whether any record was written since the directory was empty.
    pub(super) fn is_used(&self) -> bool {
        self.next.iter().any(|(&partition, &next)| next > self.start(partition))
    }

    /// Enqueues records as one unit. The batch is empty after success.
    pub(super) fn append(&mut self, batch: &mut AppendBatch) -> Result<Ack, AppendError> {
        if let Some(reason) = self.failed() {
            return Err(AppendError::Failed { reason: reason.into() });
        }
        let bytes = batch.bytes() as u64;
        if self.bytes.saturating_add(bytes) > self.bytes_max {
            let reason = format!("the spool holds {} bytes, spool.bytes_max is {}", self.bytes, self.bytes_max);
            // A smaller one may fit, but would get past this one.
            self.full = Some(reason.clone());
            return Err(AppendError::Failed { reason: reason.into() });
        }
        let counts: Vec<Partition> = batch.iter().map(|(partition, _)| partition).collect();
        match self.log.append(batch) {
            Ok(ack) => {
                for partition in counts {
                    *self.next.entry(partition).or_default() += 1;
                }
                self.bytes += bytes;
                Ok(ack)
            }
            Err(error) => {
                self.look();
                Err(error)
            }
        }
    }

    /// Notes a failure of the disk.
    pub(super) fn look(&mut self) {
        if self.failed.is_none()
            && let Health::Failed { reason } = self.log.health()
        {
            self.failed = Some((reason.to_string(), Some(Instant::now() + TRY_AGAIN)));
        }
    }

    /// What is to be done with the files now, if anything: with `drained`, when everything was acknowledged by the log,
    /// they are made anew, which is also what makes room on a disk that was full; those of a disk that failed are opened
    /// again.
    ///
    /// Nothing is taken until [`Disk::done`]: every step of it waits for the disk, and no append should wait with it.
    pub(super) fn work(&mut self, drained: bool) -> Option<Work> {
        let failed = match &self.failed {
            None => false,
            Some((_, Some(again))) if Instant::now() >= *again => true,
            Some(_) => return None,
        };
        let anew = drained && self.is_used();
        if !anew && !failed {
            return None;
        }
        let reason = self.failed.take().map_or_else(|| "the spool's files are being made anew".to_owned(), |f| f.0);
        self.failed = Some((reason, None));
        Some(Work { dir: self.dir.clone(), options: self.options.clone(), old: Arc::clone(&self.log), anew })
    }

    /// Takes the files that were opened, or notes that there are none yet.
    pub(super) fn done(&mut self, work: Done) {
        match work.made {
            Ok(log) => {
                if work.anew {
                    self.full = None;
                }
                self.install(log);
            }
            Err(error) => {
                if work.anew {
                    tracing::error!(dir = %self.dir.display(), error, "the spool cannot be made anew; it is tried again");
                }
                self.failed = Some((error, Some(Instant::now() + TRY_AGAIN)));
            }
        }
    }

    fn install(&mut self, log: EmbeddedLog) {
        self.next = log.all_partitions().into_iter().map(|p| (p, log.end(p).0)).collect();
        self.log = Arc::new(log);
        self.failed = None;
        // What was counted may have been lost on its way to the disk.
        self.bytes = self.size();
    }

    pub(super) fn close(&self) {
        self.log.close();
    }

    fn size(&self) -> u64 {
        let Ok(entries) = fs::read_dir(&self.dir) else { return 0 };
        if !self.is_used() {
            return 0;
        }
        entries.filter_map(|entry| entry.ok()?.metadata().ok()).map(|meta| meta.len()).sum()
    }
}

/// Something to be done with the files, beside the spool's lock.
#[derive(Debug)]
pub(super) struct Work {
    dir: PathBuf,
    options: EmbeddedOptions,
    old: Arc<EmbeddedLog>,
    /// Everything in them was acknowledged by the log.
    anew: bool,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Done {
    made: Result<EmbeddedLog, String>,
    anew: bool,
}

impl Work {
    pub(super) fn run(self) -> Done {
        self.old.close();
        let ready = if self.anew { self.set_aside() } else { self.check_room() };
        let open = || EmbeddedLog::open(&self.dir, &self.options, barrage_log::Metrics::default());
        let made = ready.and_then(|()| open().map_err(|error| error.to_string()));
        Done { made, anew: self.anew }
    }

    /// Takes the drained files out of the way, as a whole: a log of which a part was removed when the process was killed
    /// would not open any more.
    fn set_aside(&self) -> Result<(), String> {
        let Some(parent) = self.dir.parent() else { return Ok(()) };
        let aside = parent.join(format!("{DRAINED}{}", SystemClock.now_ms()));
        match fs::rename(&self.dir, &aside).and_then(|()| sync_dir(parent)) {
            // An attempt before this one came so far.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(format!("cannot move {} aside: {error}", self.dir.display()));
            }
            _ => {}
        }
        // Before the new ones are made: a disk that is full has no room for both.
        remove_drained(parent);
        Ok(())
    }

    /// What was durable is still there. The last file has some room left whatever failed: without a look the next records
    /// would be lost again.
    fn check_room(&self) -> Result<(), String> {
        EmbeddedLog::check_room(&self.dir, &self.options).map_err(|error| error.to_string())
    }
}

/// Removes drained files, also those that an earlier process did not get to.
fn remove_drained(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.filter_map(Result::ok) {
        if !entry.file_name().to_string_lossy().starts_with(DRAINED) {
            continue;
        }
        let dir = entry.path();
        if let Err(error) = fs::remove_dir_all(&dir) {
            tracing::warn!(dir = %dir.display(), %error, "drained files of the spool could not be removed");
        }
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

fn check_owner(dir: &Path, uuid: u128) -> Result<(), SpoolError> {
    let path = dir.join(OWNER_FILE);
    let log = format!("{uuid:032x}");
    match fs::read(&path) {
        Ok(bytes) => {
            let owner: OwnerFile = serde_json::from_slice(&bytes)
                .map_err(|error| io_error("read", &path)(io::Error::new(io::ErrorKind::InvalidData, error)))?;
            if owner.log_uuid == log {
                return Ok(());
            }
            Err(SpoolError::OtherLog { path: dir.to_owned(), spool: owner.log_uuid, log })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = serde_json::to_vec(&OwnerFile { log_uuid: log }).unwrap_or_default();
            let new = path.with_extension("new");
            fs::write(&new, text).map_err(io_error("write", &new))?;
            fs::File::open(&new).and_then(|file| file.sync_all()).map_err(io_error("sync", &new))?;
            fs::rename(&new, &path).map_err(io_error("replace", &path))?;
            sync_dir(dir).map_err(io_error("sync", dir))
        }
        Err(error) => Err(io_error("read", &path)(error)),
    }
}

/// How many records there are when the oldest of them is too old to be sent.
fn expired_records(log: &EmbeddedLog, now_ms: i64) -> u64 {
    let oldest_allowed = now_ms.saturating_sub(i64::try_from(SEND_WITHIN.as_millis()).unwrap_or(i64::MAX));
    let (mut records, mut expired) = (0, false);
    for partition in log.all_partitions() {
        let (start, end) = (log.start(partition), log.end(partition));
        records += end.0 - start.0;
        // An unreadable one is found, and told, when it is drained.
        drop(log.read(partition, start, 1, &mut |record| {
            expired |= record.timestamp_ms < oldest_allowed;
            ControlFlow::Break(())
        }));
    }
    if expired { records } else { 0 }
}

/// Reads records of one partition from `from` on, up to `bytes_max` bytes and not beyond `end`, into `batch`.
pub(super) fn read(
    log: &EmbeddedLog,
    partition: Partition,
    (from, end): (u64, u64),
    bytes_max: usize,
    batch: &mut AppendBatch,
) -> Result<u64, barrage_log::ReadError> {
    let next = log.read(partition, Offset(from), bytes_max, &mut |record| {
        batch.push(partition, |buf| buf.extend_from_slice(record.bytes));
        if record.offset.next().0 >= end { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(next.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Partition = Partition::room(0);
    const DAY_MS: i64 = 86_400_000;

    /// The log that records are meant for, and a spool's directory.
    struct Place {
        dir: tempfile::TempDir,
        log: EmbeddedLog,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("works in a test");
            let options = EmbeddedOptions { room_partitions: 1, user_partitions: 1, ..EmbeddedOptions::default() };
            let log = EmbeddedLog::open(&dir.path().join("log"), &options, barrage_log::Metrics::default());
            Self { log: log.expect("works in a test"), dir }
        }

        fn spool(&self) -> PathBuf {
            self.dir.path().join("spool")
        }

        fn open(&self, metrics: &SpoolMetrics) -> Disk {
            let options = SpoolOptions { segment_bytes: 1 << 20, ..SpoolOptions::default() };
            Disk::open(&self.spool(), &options, &self.log, metrics).expect("it opens whatever was left")
        }

        /// What lies in the spool's directory, but for `log.json`.
        fn found(&self) -> Vec<String> {
            let entries = fs::read_dir(self.spool()).expect("there");
            let names = entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned());
            let mut names: Vec<String> = names.filter(|name| name != OWNER_FILE).collect();
            names.sort();
            names
        }
    }

    fn append(disk: &mut Disk, bytes: usize) {
        let mut batch = AppendBatch::new();
        batch.push(ROOM, |buf| buf.resize(bytes, 7));
        disk.append(&mut batch).expect("taken").wait().expect("durable");
    }

    /// A process may be killed between any two steps of making the files anew, each removal of a file among them.
    #[test]
    fn whatever_is_left_of_drained_files_the_next_start_begins_with_empty_ones() {
        let files_of = |dir: &Path| {
            let entries = fs::read_dir(dir).expect("there");
            let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
            files.sort();
            files
        };
        let killed_after = |removed: usize, backwards: bool| {
            let place = Place::new();
            let mut disk = place.open(&SpoolMetrics::default());
            for _ in 0..8 {
                append(&mut disk, 300 << 10);
            }
            disk.close();
            let work = disk.work(true).expect("it was used");
            // As far as it came.
            let aside = place.spool().join(format!("{DRAINED}1"));
            fs::rename(&work.dir, &aside).expect("moved");
            let mut files = files_of(&aside);
            let all = files.len();
            if backwards {
                files.reverse();
            }
            files.iter().take(removed).for_each(|file| fs::remove_file(file).expect("removed"));
            drop((work, disk));
            let mut disk = place.open(&SpoolMetrics::default());
            assert!(!disk.is_used(), "nothing that was drained is sent again");
            assert_eq!(place.found(), [FILES], "killed after {removed}");
            append(&mut disk, 10);
            all
        };
        let all = killed_after(0, false);
        assert!(all > 3, "several segments and what belongs to them: {all}");
        for backwards in [false, true] {
            (1..=all).for_each(|removed| assert_eq!(killed_after(removed, backwards), all));
        }
    }

    #[test]
    fn drained_files_are_made_anew_out_of_the_way_of_those_who_append() {
        let place = Place::new();
        let mut disk = place.open(&SpoolMetrics::default());
        assert!(disk.work(true).is_none(), "unused");
        append(&mut disk, 100);
        assert!(disk.work(false).is_none(), "not drained");
        let work = disk.work(true).expect("it was used");
        assert!(disk.work(true).is_none() && disk.work(false).is_none(), "one at a time");
        let mut batch = AppendBatch::new();
        batch.push(ROOM, |buf| buf.push(1));
        assert!(matches!(disk.append(&mut batch), Err(AppendError::Failed { .. })), "refused, not delayed");
        let done = work.run();
        assert_eq!(place.found(), [FILES]);
        disk.done(done);
        assert_eq!((disk.is_used(), disk.failed()), (false, None));
        append(&mut disk, 100);
        assert_eq!(disk.next(ROOM), 1);
    }

    #[test]
    fn a_disk_that_failed_is_opened_again_by_nobody_who_appends() {
        let place = Place::new();
        let mut disk = place.open(&SpoolMetrics::default());
        append(&mut disk, 100);
        disk.log.faults().fail_write();
        let mut batch = AppendBatch::new();
        batch.push(ROOM, |buf| buf.push(1));
        disk.append(&mut batch).expect("taken").wait().expect_err("not durable");
        disk.look();
        assert!(disk.failed().is_some() && disk.work(false).is_none(), "it is left alone for a while");
        let due = Instant::now().checked_sub(TRY_AGAIN).expect("the machine runs for longer");
        let overdue = |disk: &mut Disk| {
            disk.failed = disk.failed.take().map(|(reason, _)| (reason, Some(due)));
        };
        overdue(&mut disk);
        // However long it is due: the files are those that failed until the spool's thread has opened them again.
        let before = Arc::clone(disk.log());
        batch.push(ROOM, |buf| buf.push(1));
        assert!(matches!(disk.append(&mut batch), Err(AppendError::Failed { .. })));
        assert!(Arc::ptr_eq(&before, disk.log()));

        // Its directory cannot be used yet, then it can.
        let away = place.spool().join("away");
        fs::rename(&disk.dir, &away).expect("moved");
        fs::write(&disk.dir, "in the way").expect("written");
        let work = disk.work(false).expect("due");
        disk.done(work.run());
        assert!(disk.failed().is_some() && disk.work(false).is_none(), "it is left alone for a while");
        fs::remove_file(&disk.dir).expect("removed");
        fs::rename(&away, &disk.dir).expect("moved");
        overdue(&mut disk);
        let work = disk.work(false).expect("due");
        disk.done(work.run());
        assert_eq!(disk.failed(), None);
        assert_eq!(disk.next(ROOM), 1, "what was durable is there, what was not is not");
        append(&mut disk, 100);
    }

    #[test]
    fn callbacks_that_could_count_twice_are_moved_aside_and_told() {
        let place = Place::new();
        let mut disk = place.open(&SpoolMetrics::default());
        for _ in 0..3 {
            append(&mut disk, 100);
        }
        disk.close();
        for (days, expired) in [(0, 0), (28, 0), (30, 3)] {
            assert_eq!(expired_records(&disk.log, SystemClock.now_ms() + days * DAY_MS), expired, "after {days} days");
        }
        drop(disk);
        let metrics = SpoolMetrics::default();
        let options = SpoolOptions { segment_bytes: 1 << 20, ..SpoolOptions::default() };
        let later = SystemClock.now_ms() + 30 * DAY_MS;
        let disk = Disk::open_at(&place.spool(), &options, &place.log, &metrics, later).expect("it opens without them");
        assert!(!disk.is_used(), "nothing of them is sent");
        assert_eq!(metrics.expired.get(), 3);
        let found = place.found();
        let aside = found.first().expect("two").clone();
        assert!(found.len() == 2 && aside.starts_with("expired-") && found[1] == FILES, "{found:?}");
        // They can still be looked at.
        let reader = barrage_log::LogReader::open(&place.spool().join(aside)).expect("a log");
        drop(reader);
    }
}
