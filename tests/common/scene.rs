//! An evening that is sent while something happens, and the judge of what is left of it.
//!
//! The judge knows from the sender's own ledger what was answered OK. At the end all of that must be in the log, the
//! numbers must be those of one process that nothing happened to, and the stores those of a clean replay of the log.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use barrage_event::{EnvelopeView, Offset};
use barrage_kafka_fixture::{Broker, prefix};
use barrage_log::{EventLog as _, KafkaLog, KafkaMetrics, KafkaOptions};
use barrage_replay::{Line, LineKind, Options, Progress, Recording, Stop, Target, read_ledger, replay};
use serde_json::Value as Json;

use super::cluster::{Cluster, KEY, Own};
use super::{Server, all_reads, hashes, run, run_with, totals_of, wait_until};

/// One test at a time: each is a broker and several processes, and three of them starve each other on two cores.
static ALONE: Mutex<()> = Mutex::new(());

/// Waits until no other test of this program runs.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes an evening: its file and its truth.
pub(crate) fn evening(dir: &Path, seed: u64, preset: &str) -> (PathBuf, Json) {
    let (recording, truth) = (dir.join(format!("evening-{seed}.jsonl")), dir.join(format!("truth-{seed}.json")));
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let seed = seed.to_string();
    let files = (text(&recording), text(&truth));
    let (code, output) =
        run(["simulate", "--seed", &seed, "--preset", preset, "--out", &files.0, "--expected", &files.1]);
    assert_eq!(code, 0, "{output}");
    drop_timeless_repeats(&recording);
    (recording, serde_json::from_str(&std::fs::read_to_string(&truth).expect("written")).expect("JSON"))
}

/// Takes out the repetitions of callbacks that state no time: what they tell happened when the copy came in that lies in the
/// log first, and where requests are lost and sent again that may be another one than where nothing happens.
fn drop_timeless_repeats(recording: &Path) {
    let text = std::fs::read_to_string(recording).expect("our own recording");
    let mut seen = HashSet::new();
    let is_kept = |line: &&str| {
        // All but the time at which it is sent.
        let what = line.split_once(',').map_or(*line, |(_, what)| what);
        seen.insert(what.to_owned()) || what.contains("\"EventTime\"") || !what.contains("\"body\":")
    };
    let kept: String = text.lines().filter(is_kept).flat_map(|line| [line, "\n"]).collect();
    std::fs::write(recording, kept).expect("written");
}

/// Makes every callback of a recording larger by so many bytes, which change nothing of what it counts.
pub(crate) fn pad(recording: &Path, bytes: usize) {
    let text = std::fs::read_to_string(recording).expect("our own recording");
    let padding = format!(",\"CloudCustomData\":\"{}\"}}}}", "x".repeat(bytes));
    let padded: String = text
        .lines()
        .map(|line| match line.strip_suffix("}}") {
            Some(start) if line.contains("\"body\":{") && !line.contains("\"request\":") => {
                format!("{start}{padding}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    std::fs::write(recording, padded).expect("written");
}

/// The lines of a recording.
pub(crate) fn lines_of(recording: &Path) -> Vec<Line> {
    Recording::open(recording).expect("ours").collect::<Result<_, _>>().expect("our own recording")
}

/// The rooms that a truth knows.
pub(crate) fn rooms_of(truth: &Json) -> Vec<String> {
    truth["rooms"].as_object().expect("rooms").keys().cloned().collect()
}

pub(crate) fn body(line: &Line) -> &[u8] {
    match &line.kind {
        LineKind::Callback { body, .. } | LineKind::Event { body } | LineKind::Request { body, .. } => body,
    }
}

/// A before-callback is answered whatever becomes of its record: such an answer promises nothing.
fn is_before(line: &Line) -> bool {
    matches!(&line.kind, LineKind::Callback { query, .. } if query.contains("CallbackBefore"))
}

/// What became of lines that were sent.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// Requests in flight when the fault began.
    pub(crate) in_flight: u64,
    /// Lines that were not answered OK.
    pub(crate) open: usize,
    /// Codes of the refusals, and how often each came.
    pub(crate) refusals: BTreeMap<String, usize>,
}

/// A cluster, the evening that is sent to it, and what was answered.
pub(crate) struct Scene {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) broker: Broker,
    pub(crate) cluster: Cluster,
    pub(crate) recording: PathBuf,
    truth: Json,
    rest: std::vec::IntoIter<Line>,
    /// Lines that are sent again because they were not answered OK.
    pub(crate) open: Vec<Line>,
    answered: Vec<Line>,
    /// One process on the embedded log that gets what was answered and nothing happens to; made when it is first asked.
    beside: Option<Server>,
    /// How much of `answered` it has.
    told: usize,
    /// All lines of the evening.
    pub(crate) total: usize,
    /// Answers to before-callbacks count for nothing while this is set: their lines are sent again.
    pub(crate) doubt_before: bool,
    _alone: MutexGuard<'static, ()>,
}

/// What a scene begins with.
pub(crate) struct Setting<'a> {
    pub(crate) seed: u64,
    pub(crate) preset: &'a str,
    /// Bytes by which every callback is made larger.
    pub(crate) padding: usize,
    pub(crate) nodes: usize,
    /// Ingests, projectors, queries.
    pub(crate) counts: (usize, usize, usize),
}

impl Default for Setting<'_> {
    fn default() -> Self {
        Self { seed: 7, preset: "small", padding: 0, nodes: 1, counts: (2, 2, 1) }
    }
}

impl Scene {
    pub(crate) fn start(setting: &Setting<'_>) -> Self {
        Self::start_with(setting, Broker::start, |_, _, _| Own::default())
    }

    /// The same with processes that differ: `own` is told the directory of the test, the role and the number.
    pub(crate) fn start_with(
        setting: &Setting<'_>,
        broker: impl FnOnce(usize) -> Broker,
        own: impl Fn(&Path, &str, usize) -> Own + Sync,
    ) -> Self {
        let alone = alone();
        let mut dir = tempfile::tempdir().expect("a directory");
        // For a look at what the processes said.
        dir.disable_cleanup(std::env::var_os("BARRAGE_KEEP").is_some());
        let (recording, truth) = evening(dir.path(), setting.seed, setting.preset);
        if setting.padding > 0 {
            pad(&recording, setting.padding);
        }
        let lines = lines_of(&recording);
        let total = lines.len();
        let broker = broker(setting.nodes);
        let own = |role: &str, number: usize| own(dir.path(), role, number);
        let cluster = Cluster::start_with(dir.path(), &broker.brokers(), &prefix(), setting.counts, &own);
        Self {
            dir,
            broker,
            cluster,
            recording,
            truth,
            rest: lines.into_iter(),
            open: Vec::new(),
            answered: Vec::new(),
            beside: None,
            told: 0,
            total,
            doubt_before: false,
            _alone: alone,
        }
    }

    /// Sends what is open and the next `count` lines of the evening.
    pub(crate) fn send(&mut self, count: usize) -> Sent {
        self.send_through(count, 0, |_, _| ())
    }

    /// The same while something happens, once so many lines were answered.
    pub(crate) fn send_through(
        &mut self,
        count: usize,
        after: u64,
        fault: impl FnOnce(&mut Cluster, &Broker) + Send,
    ) -> Sent {
        let mut lines = std::mem::take(&mut self.open);
        lines.extend(self.rest.by_ref().take(count));
        let all = lines.len() as u64;
        let after = after.min(all / 2);
        let ledger_file = self.dir.path().join("ledger.jsonl");
        let ledger = barrage_replay::Ledger::create(&ledger_file).expect("a ledger");
        let target = Target::new(&self.cluster.balancer.url).and_then(|t| t.with_key(KEY)).expect("our own address");
        let options =
            Options { check_stream_time: false, answer_within: Duration::from_secs(60), ..Options::default() };
        let (progress, stop) = (Progress::new(), Stop::new());
        let in_flight = AtomicU64::new(0);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
        let (cluster, broker) = (&mut self.cluster, &self.broker);
        std::thread::scope(|scope| {
            let (seen, flying) = (Arc::clone(&progress), &in_flight);
            let fault = scope.spawn(move || {
                wait_until("the load has begun, and requests are in flight", || {
                    let now = seen.snapshot();
                    flying.store(now.in_flight, Ordering::SeqCst);
                    // Of a load that is over nothing is in flight any more.
                    (now.answered() >= after && now.in_flight > 0 || now.answered() >= all).then_some(())
                });
                fault(cluster, broker);
            });
            runtime.block_on(async {
                let sent = lines.iter().cloned().map(Ok);
                // What is not answered is what this is about.
                let _ = replay(sent, &target, &options, progress, &stop, Some(ledger)).await;
            });
            fault.join().expect("the fault is over");
        });
        let mut sent = Sent { in_flight: in_flight.into_inner(), ..Sent::default() };
        let mut ok = vec![false; lines.len()];
        for entry in read_ledger(&ledger_file).expect("our own ledger") {
            if let Some(slot) = usize::try_from(entry.line).ok().and_then(|line| ok.get_mut(line)) {
                *slot = entry.is_ok();
            }
            if let (false, Some(code)) = (entry.is_ok(), entry.code) {
                *sent.refusals.entry(code).or_insert(0) += 1;
            }
        }
        for (line, ok) in lines.into_iter().zip(ok) {
            if ok && !(self.doubt_before && is_before(&line)) {
                self.answered.push(line);
            } else {
                self.open.push(line);
            }
        }
        sent.open = self.open.len();
        sent
    }

    /// Sends the rest of the evening until every line was answered OK.
    pub(crate) fn send_rest(&mut self) {
        self.doubt_before = false;
        self.send_until_answered(self.rest.len());
    }

    fn send_until_answered(&mut self, count: usize) {
        let first = self.send(count);
        let mut open = first.open;
        while open > 0 {
            assert!(open < self.total / 10, "{open} lines are refused by living servers: {:?}", first.refusals);
            open = self.send(0).open;
        }
    }

    /// Judges in the middle of the evening, when a fault is over: what was answered is there, and counts once, and the
    /// state is that of a clean replay. Of the users one in `every` is asked for, and no lists: all of it is read at the end.
    pub(crate) fn judge(&mut self, every: usize) {
        self.send_until_answered(0);
        self.cluster.drained();
        let (brokers, prefix) = (self.broker.brokers(), self.cluster.prefix.clone());
        // Read meanwhile: it is seconds of waiting, and nothing is written now.
        let in_log = std::thread::spawn(move || in_log(&brokers, &prefix));
        let beside = self.beside.get_or_insert_with(|| Server::start(&self.dir.path().join("beside")));
        tell(beside, self.answered.get(self.told..).unwrap_or_default());
        self.told = self.answered.len();
        beside.drained();
        let expected = totals_of(&beside.query, &self.truth, every);
        assert_same(&expected, &totals_of(self.cluster.query(), &self.truth, every), "after the fault");
        // The rows made anew from the log's start are those that were lived through.
        let (exit, output) =
            run_with(["rebuild", "--all", "--query", self.cluster.query()], &[("BARRAGE_API_KEY", KEY)]);
        assert_eq!(exit, 0, "{output}");
        assert_eq!(output.matches("the same numbers as before").count(), 8, "{output}");
        missing_none(&self.answered, &in_log.join().expect("the log is read"));
    }

    /// All rooms of the evening.
    pub(crate) fn rooms(&self) -> Vec<String> {
        rooms_of(&self.truth)
    }

    /// Lines that are still to come.
    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    /// Sends the rest, and judges.
    pub(crate) fn end(mut self) {
        self.send_rest();
        if let Some(beside) = self.beside.take() {
            beside.stop();
        }
        let status = self.cluster.drained();
        missing_none(&self.answered, &in_log(&self.broker.brokers(), &self.cluster.prefix));

        // The answers are those of one process that nothing happened to.
        let quiet = Server::start(&self.dir.path().join("quiet"));
        quiet.replay(&self.recording);
        quiet.drained();
        let expected = all_reads(&quiet.query, &self.truth);
        for query in &self.cluster.queries {
            let query = query.query.as_deref().expect("a query process");
            assert_same(&expected, &all_reads(query, &self.truth), "after the faults");
        }
        quiet.stop();
        replays_cleanly(self.dir.path(), &self.broker.brokers(), self.cluster, &status);
    }
}

/// Sends lines to one process, all of which it answers OK.
fn tell(server: &Server, lines: &[Line]) {
    if lines.is_empty() {
        return;
    }
    let target = Target::new(&server.callback).and_then(|t| t.with_query(&server.query));
    let target = target.and_then(|t| t.with_key(&server.key())).expect("our own addresses");
    let options = Options { check_stream_time: false, ..Options::default() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
    let sent = lines.iter().cloned().map(Ok);
    let summary = runtime.block_on(replay(sent, &target, &options, Progress::new(), &Stop::new(), None));
    let summary = summary.expect("lines can be sent");
    assert_eq!(summary.exit_code(), 0, "refused by a process that nothing happens to: {:?}", summary.first_failure);
}

/// Every line that was answered OK lies in the log, as often as it was answered.
pub(crate) fn missing_none(answered: &[Line], in_log: &BTreeMap<Vec<u8>, u64>) {
    let mut wanted: BTreeMap<&[u8], u64> = BTreeMap::new();
    for line in answered {
        *wanted.entry(body(line)).or_insert(0) += 1;
    }
    let missing: Vec<_> = wanted.iter().filter(|(body, n)| in_log.get(**body).is_none_or(|found| found < n)).collect();
    let first = missing.first().map(|(body, _)| String::from_utf8_lossy(body));
    assert!(missing.is_empty(), "{} of {} answered lines, the first: {first:?}", missing.len(), answered.len());
}

/// Stops the cluster; the state that lived through it is that of a clean replay of the same log.
pub(crate) fn replays_cleanly(dir: &Path, brokers: &str, cluster: Cluster, status: &Json) {
    let prefix = cluster.prefix.clone();
    cluster.stop();
    let clean = Cluster::start(&dir.join("clean"), brokers, &prefix, (0, 1, 1));
    let replayed = clean.drained();
    assert_eq!(hashes(&replayed), hashes(status), "the state differs from that of a clean replay");
    clean.stop();
}

/// Every answer is the one expected.
pub(crate) fn assert_same(expected: &BTreeMap<String, Json>, found: &BTreeMap<String, Json>, what: &str) {
    let differing: Vec<_> = expected.iter().filter(|(path, answer)| found.get(*path) != Some(*answer)).collect();
    if let Some((path, answer)) = differing.first() {
        panic!("{what}: {} answers differ, the first: {path}: {answer}, but {:?}", differing.len(), found.get(*path));
    }
}

/// How often each body lies in the log.
pub(crate) fn in_log(brokers: &str, prefix: &str) -> BTreeMap<Vec<u8>, u64> {
    let options = KafkaOptions {
        brokers: brokers.to_owned(),
        topic_prefix: prefix.to_owned(),
        room_partitions: 4,
        user_partitions: 4,
        ..KafkaOptions::default()
    };
    let log = KafkaLog::open(&options, KafkaMetrics::default()).expect("the log of the test");
    let mut counts = BTreeMap::new();
    for partition in log.all_partitions() {
        let end = log.end(partition);
        let mut from = Offset(0);
        while from < end {
            from = log
                .read(partition, from, 1 << 20, &mut |record| {
                    let view = EnvelopeView::decode(record.bytes).expect("what ingest wrote");
                    if !view.body.is_empty() {
                        *counts.entry(view.body.to_vec()).or_insert(0) += 1;
                    }
                    ControlFlow::Continue(())
                })
                .expect("readable");
        }
    }
    counts
}
