//! Derived events and notifications through crashes: each event takes effect in its room exactly once, each notification
//! is published at least once, and a state that is made anew sends none of them again.

mod common;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use barrage_event::routes::partition_of;
use barrage_event::{EnvelopeView, Event, Offset, Partition, Topic};
use barrage_log::{EmbeddedLog, EventLog};
use barrage_projection::Statistic;
use barrage_worker::{Mark, Publication, Publisher, SourceMarks, Worker, WorkerOptions};
use common::telling::{APP, PATIENCE, ROOMS, Telling, numbered, settled_counts};
use common::{Ingest, append, open_log};
use prometheus_client::registry::Registry;

/// Remembers what was published, and its place as a durable one would. Every third publication fails after a part of it
/// was heard, as a network does.
#[derive(Default)]
struct Heard {
    ids: BTreeMap<String, u32>,
    places: BTreeMap<Partition, (u64, u32)>,
    publications: u32,
}

#[derive(Clone, Default)]
struct Listeners(Arc<Mutex<Heard>>);

impl Publisher for Listeners {
    fn published(&self, partition: Partition) -> Option<(u64, u32)> {
        Some(self.0.lock().expect("no panics").places.get(&partition).copied().unwrap_or((0, 0)))
    }

    fn publish(&self, partition: Partition, messages: Vec<((u64, u32), String, String)>) -> Publication {
        let mut heard = self.0.lock().expect("no panics");
        heard.publications += 1;
        let fails = heard.publications.is_multiple_of(3);
        let count = if fails { messages.len() / 2 } else { messages.len() };
        for ((offset, index), id, text) in messages.into_iter().take(count) {
            assert!(text.contains(&id), "{text}");
            *heard.ids.entry(id).or_default() += 1;
            if !fails {
                heard.places.insert(partition, (offset, index + 1));
            }
        }
        Publication::done(if fails { Err("the listener hung up".to_owned()) } else { Ok(()) })
    }
}

fn worker(dir: &Path, log: &Arc<EmbeddedLog>, listeners: &Listeners) -> Worker {
    let options = WorkerOptions {
        threads: 2,
        commit_interval: Duration::from_millis(2),
        publisher: Some(Arc::new(listeners.clone())),
        ..WorkerOptions::new(dir.to_owned())
    };
    Worker::start(&options, log.clone(), vec![Box::new(Telling)], &mut Registry::default()).expect("starts")
}

fn messages(ingest: &mut Ingest, log: &dyn EventLog, range: std::ops::Range<u32>) {
    for n in range {
        let (partition, record) = numbered(ingest, log, n);
        append(log, partition, &[record]);
    }
}

#[test]
fn every_event_takes_effect_once_through_crashes_at_every_step() {
    const ROUNDS: u32 = 40;
    const EACH: u32 = 60;
    let dir = tempfile::tempdir().expect("a directory");
    let log = open_log(&dir.path().join("log"));
    let listeners = Listeners::default();
    let mut ingest = Ingest::new(1);
    let mut random = 0x9e37_79b9_u64;
    for round in 0..ROUNDS {
        let worker = worker(dir.path(), &log, &listeners);
        messages(&mut ingest, log.as_ref(), round * EACH..(round + 1) * EACH);
        // The process is gone at once, or after a few of the log's groups: between apply, commit, append, its
        // acknowledgement and the commit that takes the rows out. A worker that is dropped commits nothing more.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        for _ in 0..(random >> 60) {
            let seen = log.wait(u64::MAX, Duration::ZERO);
            log.wait(seen, Duration::from_millis(2));
        }
        drop(worker);
    }
    let worker = worker(dir.path(), &log, &listeners);
    let counts = settled_counts(&worker, log.as_ref());
    let each = u64::from(ROUNDS * EACH / ROOMS) * 2;
    let expected: BTreeMap<String, u64> = (0..ROOMS).map(|room| (format!("room_{room}"), each)).collect();
    assert_eq!(counts, expected);
    {
        let heard = listeners.0.lock().expect("no panics");
        assert_eq!(heard.ids.len(), (ROUNDS * EACH) as usize, "every notification was heard");
    }
    let hashes = |worker: &Worker| -> Vec<(Partition, Offset, u128)> {
        worker.stores().status().into_iter().map(|s| (s.partition, s.offset, s.store_hash)).collect()
    };
    let live = hashes(&worker);
    worker.stop().expect("stops");

    // Made anew from the log's start: the same bytes, and nothing is sent again, neither to the log nor to listeners.
    let before = listeners.0.lock().expect("no panics").ids.values().sum::<u32>();
    let ends: Vec<Offset> = log.all_partitions().into_iter().map(|partition| log.end(partition)).collect();
    let clean = dir.path().join("clean");
    let worker = self::worker(&clean, &log, &listeners);
    assert_eq!(settled_counts(&worker, log.as_ref()), expected);
    assert_eq!(hashes(&worker), live, "a clean replay has the same bytes");
    worker.stop().expect("stops");
    let after: Vec<Offset> = log.all_partitions().into_iter().map(|partition| log.end(partition)).collect();
    assert_eq!(after, ends, "nothing was appended a second time");
    assert_eq!(listeners.0.lock().expect("no panics").ids.values().sum::<u32>(), before, "nothing was said again");
}

#[test]
fn a_rebuild_sends_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open_log(&dir.path().join("log"));
    let listeners = Listeners::default();
    let mut ingest = Ingest::new(1);
    let worker = worker(dir.path(), &log, &listeners);
    messages(&mut ingest, log.as_ref(), 0..500);
    let counts = settled_counts(&worker, log.as_ref());
    let ends: Vec<Offset> = log.all_partitions().into_iter().map(|partition| log.end(partition)).collect();
    let said = listeners.0.lock().expect("no panics").ids.values().sum::<u32>();
    let stores = worker.stores();
    for partition in log.all_partitions() {
        stores.rebuild(partition).expect("starts");
    }
    let deadline = Instant::now() + PATIENCE;
    while !stores.status().iter().all(|s| s.rebuild.as_ref().is_some_and(|r| r.done)) {
        assert!(Instant::now() < deadline, "{:?}", stores.status());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(stores.status().iter().all(|s| s.rebuild.as_ref().is_some_and(|r| r.hashes_match == Some(true))));
    assert_eq!(settled_counts(&worker, log.as_ref()), counts);
    let after: Vec<Offset> = log.all_partitions().into_iter().map(|partition| log.end(partition)).collect();
    assert_eq!((after, listeners.0.lock().expect("no panics").ids.values().sum::<u32>()), (ends, said));
    // It goes on where it was.
    messages(&mut ingest, log.as_ref(), 500..600);
    let total: u64 = settled_counts(&worker, log.as_ref()).values().sum();
    assert_eq!(total, 1_200);
    worker.stop().expect("stops");
}

/// Copies a folder.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).expect("copied");
        }
    }
}

#[test]
fn a_store_that_was_left_behind_tells_nothing_twice() {
    for behind in [&["user"][..], &["room"], &["room", "user"]] {
        let dir = tempfile::tempdir().expect("a directory");
        let log = open_log(&dir.path().join("log"));
        let listeners = Listeners::default();
        let mut ingest = Ingest::new(1);
        let (state, old) = (dir.path().join("state"), dir.path().join("old"));
        let first = worker(dir.path(), &log, &listeners);
        messages(&mut ingest, log.as_ref(), 0..300);
        settled_counts(&first, log.as_ref());
        first.stop().expect("stops");
        copy(&state, &old);
        let second = worker(dir.path(), &log, &listeners);
        messages(&mut ingest, log.as_ref(), 300..900);
        let counts = settled_counts(&second, log.as_ref());
        second.stop().expect("stops");
        let ends = || -> Vec<Offset> { log.all_partitions().into_iter().map(|p| log.end(p)).collect() };
        let before = ends();

        for entry in std::fs::read_dir(&old).expect("a directory") {
            let name = entry.expect("an entry").file_name();
            if behind.iter().any(|topic| name.to_string_lossy().starts_with(topic)) {
                std::fs::remove_dir_all(state.join(&name)).expect("removed");
                copy(&old.join(&name), &state.join(&name));
            }
        }
        let third = worker(dir.path(), &log, &listeners);
        assert_eq!(settled_counts(&third, log.as_ref()), counts, "{behind:?}");
        assert_eq!(ends(), before, "{behind:?}: nothing was appended a second time");
        messages(&mut ingest, log.as_ref(), 900..1_000);
        assert_eq!(settled_counts(&third, log.as_ref()).values().sum::<u64>(), 2_000, "{behind:?}");
        third.stop().expect("stops");
    }
}

/// A room that nothing is known of until it is.
struct Silent(AtomicBool);
impl SourceMarks for Silent {
    fn mark(&self, _: Partition, _: Offset, _: (u128, u16)) -> Mark {
        if self.0.load(Ordering::Acquire) { Mark::Known(None) } else { Mark::Unknown }
    }
}

/// Places of the derived events in a partition of rooms, by their source.
fn arrived(log: &dyn EventLog, partition: Partition) -> BTreeMap<u16, Vec<(u64, u32)>> {
    let mut arrived: BTreeMap<u16, Vec<(u64, u32)>> = BTreeMap::new();
    let mut visit = |record: barrage_log::Record<'_>| {
        let envelope = EnvelopeView::decode(record.bytes).expect("an envelope");
        if let (Event::AccountMoves(_), Some(source)) = (&envelope.event, envelope.source) {
            arrived.entry(source.partition).or_default().push((source.offset, source.index));
        }
        ControlFlow::Continue(())
    };
    let mut from = Offset(0);
    while from < log.end(partition) {
        from = log.read(partition, from, usize::MAX, &mut visit).expect("readable");
    }
    arrived
}

#[test]
fn rooms_that_have_to_wait_keep_no_others_waiting_and_stay_in_order() {
    const EACH: u32 = 3_000;
    let dir = tempfile::tempdir().expect("a directory");
    let log = open_log(&dir.path().join("log"));
    let silent = Arc::new(Silent(AtomicBool::new(false)));
    let options = WorkerOptions {
        threads: 2,
        commit_interval: Duration::from_millis(2),
        marks: Some(Arc::clone(&silent) as Arc<dyn SourceMarks>),
        ..WorkerOptions::new(dir.path().to_owned())
    };
    let statistics: Vec<Box<dyn Statistic>> = vec![Box::new(Telling)];
    let as_log: Arc<dyn EventLog> = log.clone();
    let worker = Worker::start_without_partitions(&options, as_log, statistics, &mut Registry::default());
    let worker = worker.expect("starts");
    let place = |room: u32| partition_of(APP, &format!("room_{room}"), log.partitions(Topic::Room));
    // All but one partition of rooms are here.
    let away = Partition::room(place(0));
    let here: Vec<Partition> = log.all_partitions().into_iter().filter(|p| *p != away).collect();
    worker.assignments().assign(&here, 1, None);

    let (mut ingest, mut sent) = (Ingest::new(1), 0);
    let mut send = |count: u32| {
        let mut records: BTreeMap<Partition, Vec<Vec<u8>>> = BTreeMap::new();
        for n in sent..sent + count {
            let (partition, record) = numbered(&mut ingest, log.as_ref(), n);
            records.entry(partition).or_default().push(record);
        }
        records.into_iter().for_each(|(partition, records)| append(log.as_ref(), partition, &records));
        sent += count;
        sent
    };
    let wanted =
        |sent: u32, partition: Partition| 2 * (0..sent).filter(|n| place(n % ROOMS) == partition.index).count();
    let until_there = |sent: u32, partitions: &[Partition]| {
        let deadline = Instant::now() + PATIENCE;
        for &partition in partitions.iter().filter(|p| p.topic == Topic::Room) {
            let count = || arrived(log.as_ref(), partition).values().map(Vec::len).sum::<usize>();
            while count() < wanted(sent, partition) {
                assert!(Instant::now() < deadline, "{partition}: {} of {}", count(), wanted(sent, partition));
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    };
    for _ in 0..2 {
        let sent = send(EACH);
        until_there(sent, &here);
        assert!(arrived(log.as_ref(), away).is_empty(), "nothing is known of it");
    }
    silent.0.store(true, Ordering::Release);
    let sent = send(EACH);
    until_there(sent, &log.all_partitions());
    for partition in log.all_partitions().into_iter().filter(|p| p.topic == Topic::Room) {
        let arrived = arrived(log.as_ref(), partition);
        assert_eq!(arrived.values().map(Vec::len).sum::<usize>(), wanted(sent, partition), "{partition}: once each");
        for (source, places) in arrived {
            assert!(places.is_sorted_by(|a, b| a < b), "{partition} from {source}: in order");
        }
    }
    worker.stop().expect("stops");
}

#[test]
fn nothing_leaves_the_process_while_it_is_doubtful_who_owns_the_partition() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open_log(&dir.path().join("log"));
    let (listeners, sure) = (Listeners::default(), Arc::new(AtomicBool::new(false)));
    let options = WorkerOptions {
        threads: 2,
        commit_interval: Duration::from_millis(2),
        publisher: Some(Arc::new(listeners.clone())),
        is_owner: Some({
            let sure = Arc::clone(&sure);
            Arc::new(move |_| sure.load(Ordering::Acquire))
        }),
        ..WorkerOptions::new(dir.path().to_owned())
    };
    let statistics: Vec<Box<dyn Statistic>> = vec![Box::new(Telling)];
    let worker = Worker::start(&options, log.clone(), statistics, &mut Registry::default()).expect("starts");
    messages(&mut Ingest::new(1), log.as_ref(), 0..50);
    let stores = worker.stores();
    let outgoing = || stores.status().iter().map(|s| s.outgoing).sum::<u64>();
    let deadline = Instant::now() + PATIENCE;
    while outgoing() < 150 {
        assert!(Instant::now() < deadline, "{}", outgoing());
        std::thread::sleep(Duration::from_millis(5));
    }
    // Many steps later, too.
    std::thread::sleep(Duration::from_millis(300));
    let rooms =
        || -> u64 { log.all_partitions().iter().filter(|p| p.topic == Topic::Room).map(|p| log.end(*p).0).sum() };
    assert_eq!((outgoing(), rooms(), listeners.0.lock().expect("no panics").publications), (150, 0, 0));
    sure.store(true, Ordering::Release);
    assert_eq!(settled_counts(&worker, log.as_ref()).values().sum::<u64>(), 100);
    assert_eq!((rooms(), listeners.0.lock().expect("no panics").ids.len()), (100, 50));
    worker.stop().expect("stops");
}
