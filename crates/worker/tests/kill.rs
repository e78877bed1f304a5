//! kill -9 of a real process at every step of a derived event and a notification, between outbox, append and commit: each
//! event takes effect in its room exactly once, each notification is published at least once under its id, and a rebuild
//! sends none of them.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use barrage_event::{EnvelopeView, Event, Offset, Partition, Topic};
use barrage_log::{EmbeddedLog, EventLog};
use barrage_projection::Statistic;
use barrage_worker::{Publication, Publisher, Worker, WorkerOptions, fault};
use common::telling::{PATIENCE, ROOMS, Telling, numbered, settled_counts};
use common::{Ingest, append, open_log};
use prometheus_client::registry::Registry;

const DIR: &str = "BARRAGE_WORKER_KILL_DIR";
const MESSAGES: &str = "BARRAGE_WORKER_KILL_MESSAGES";
/// Between what listeners hear and the note of how far they were told.
const HEARD: &str = "test.heard";
/// Messages that each process appends.
const EACH: u32 = 60;

/// What listeners hear stands in a file, and how far they were told in another, written after it.
struct Paper {
    heard: PathBuf,
    told: PathBuf,
    places: Mutex<BTreeMap<Partition, (u64, u32)>>,
}

impl Paper {
    fn open(dir: &Path) -> Self {
        let (heard, told) = (dir.join("heard"), dir.join("told"));
        let mut places = BTreeMap::new();
        for line in std::fs::read_to_string(&told).unwrap_or_default().split_inclusive('\n') {
            // The last line may be torn.
            let Some(line) = line.strip_suffix('\n') else { continue };
            let mut words = line.split(' ');
            let mut next = || words.next().unwrap();
            let (partition, offset, index): (Partition, u64, u32) =
                (next().parse().unwrap(), next().parse().unwrap(), next().parse().unwrap());
            places.insert(partition, (offset, index));
        }
        Self { heard, told, places: Mutex::new(places) }
    }

    /// Every id that was heard, with the text and how many times.
    fn heard(&self) -> BTreeMap<String, (String, u32)> {
        let mut heard: BTreeMap<String, (String, u32)> = BTreeMap::new();
        for line in std::fs::read_to_string(&self.heard).unwrap_or_default().lines() {
            let (id, text) = line.split_once(' ').unwrap();
            let entry = heard.entry(id.to_owned()).or_insert_with(|| (text.to_owned(), 0));
            assert_eq!(entry.0, text, "{id} is always the same");
            entry.1 += 1;
        }
        heard
    }
}

impl Publisher for Paper {
    fn published(&self, partition: Partition) -> Option<(u64, u32)> {
        Some(self.places.lock().unwrap().get(&partition).copied().unwrap_or((0, 0)))
    }

    fn publish(&self, partition: Partition, messages: Vec<((u64, u32), String, String)>) -> Publication {
        let Some(&((offset, index), ..)) = messages.last() else { return Publication::done(Ok(())) };
        let mut places = self.places.lock().unwrap();
        let put = |path: &Path, text: &str| {
            OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
        };
        put(&self.heard, &messages.iter().map(|(_, id, text)| format!("{id} {text}\n")).collect::<String>());
        fault::place(HEARD);
        put(&self.told, &format!("{partition} {offset} {}\n", index + 1));
        places.insert(partition, (offset, index + 1));
        Publication::done(Ok(()))
    }
}

fn worker(dir: &Path, log: &Arc<EmbeddedLog>, paper: &Arc<Paper>) -> Worker {
    let options = WorkerOptions {
        threads: 2,
        commit_interval: Duration::from_millis(2),
        publisher: Some(Arc::clone(paper) as Arc<dyn Publisher>),
        ..WorkerOptions::new(dir.to_owned())
    };
    let statistics: Vec<Box<dyn Statistic>> = vec![Box::new(Telling)];
    Worker::start(&options, log.clone(), statistics, &mut Registry::default()).unwrap()
}

/// Messages that are in the log.
fn messages_there(log: &dyn EventLog) -> u32 {
    let mut there = BTreeSet::new();
    for partition in log.all_partitions().into_iter().filter(|p| p.topic == Topic::User) {
        let mut from = Offset(0);
        while from < log.end(partition) {
            let mut visit = |record: barrage_log::Record<'_>| {
                if let Event::AfterSend(message) = EnvelopeView::decode(record.bytes).unwrap().event {
                    there.insert(message.random);
                }
                ControlFlow::Continue(())
            };
            from = log.read(partition, from, usize::MAX, &mut visit).unwrap();
        }
    }
    u32::try_from(there.len()).unwrap()
}

/// The process that is killed, or ends when all is sent.
fn run(dir: &Path, messages: u32) {
    let log = open_log(&dir.join("log"));
    let paper = Arc::new(Paper::open(dir));
    let worker = worker(dir, &log, &paper);
    // What the one before had appended is not appended again, and comes under the numbers that it had.
    let there = messages_there(log.as_ref());
    let mut ingest = Ingest::new(1);
    for n in 0..messages {
        let (partition, record) = numbered(&mut ingest, log.as_ref(), n);
        if n >= there {
            append(log.as_ref(), partition, &[record]);
        }
    }
    settled_counts(&worker, log.as_ref());
    worker.stop().unwrap();
}

fn process(dir: &Path, messages: u32, fault: &str) -> ExitStatus {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill_9_at_every_step_loses_and_repeats_nothing", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .env(MESSAGES, messages.to_string())
        .env(fault::FAULT, fault)
        .stdout(Stdio::null())
        .status()
        .unwrap()
}

#[test]
fn kill_9_at_every_step_loses_and_repeats_nothing() {
    if let (Ok(dir), Ok(messages)) = (std::env::var(DIR), std::env::var(MESSAGES)) {
        run(Path::new(&dir), messages.parse().unwrap());
        return;
    }
    let mut heard_twice = 0;
    for place in fault::PLACES.into_iter().chain([HEARD]) {
        let dir = tempfile::tempdir().unwrap();
        // Where the process before was killed, the next one goes on, and is killed there too, later.
        for (round, times) in (1..).zip([1, 3, 7]) {
            let status = process(dir.path(), round * EACH, &format!("{place}:{times}"));
            assert_eq!(status.signal(), Some(9), "{place}, the {times}. time: {status}");
        }
        let status = process(dir.path(), 4 * EACH, "");
        assert!(status.success(), "{place}: {status}");
        heard_twice += check(dir.path(), place);
    }
    assert!(heard_twice > 0, "no process was killed between publishing and its note");
}

/// What there has to be after all; how many notifications were heard twice.
fn check(dir: &Path, place: &str) -> usize {
    let log = open_log(&dir.join("log"));
    let paper = Arc::new(Paper::open(dir));
    let worker = worker(dir, &log, &paper);
    let told = settled_counts(&worker, log.as_ref());
    let expected: BTreeMap<String, u64> =
        (0..ROOMS).map(|room| (format!("room_{room}"), u64::from(4 * EACH / ROOMS) * 2)).collect();
    assert_eq!(told, expected, "{place}: each event takes effect once");
    let heard = paper.heard();
    assert_eq!(heard.len(), 4 * EACH as usize, "{place}: every notification was heard");

    let ends = || -> Vec<Offset> { log.all_partitions().into_iter().map(|partition| log.end(partition)).collect() };
    let before = ends();
    let stores = worker.stores();
    log.all_partitions().into_iter().for_each(|partition| stores.rebuild(partition).unwrap());
    let deadline = Instant::now() + PATIENCE;
    while !stores.status().iter().all(|s| s.rebuild.as_ref().is_some_and(|r| r.done)) {
        assert!(Instant::now() < deadline, "{place}: {:?}", stores.status());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(
        stores.status().iter().all(|s| s.rebuild.as_ref().is_some_and(|r| r.hashes_match == Some(true))),
        "{place}"
    );
    assert_eq!(settled_counts(&worker, log.as_ref()), expected, "{place}");
    assert_eq!((ends(), paper.heard()), (before, heard.clone()), "{place}: a rebuild sends nothing");
    worker.stop().unwrap();
    heard.values().filter(|(_, times)| *times > 1).count()
}
