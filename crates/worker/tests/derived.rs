//! Derived events and notifications through crashes: each event takes effect in its room exactly once, each notification
//! is published at least once, and a state that is made anew sends none of them again.

mod common;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use barrage_event::event::AccountMove;
use barrage_event::{Derived, EnvelopeView, Event, Offset, Partition, Topic, proto as wire};
use barrage_log::{EmbeddedLog, EventLog};
use barrage_projection::{ApplyError, Context, Intent, Projection, ReaderExt as _, Statistic, Table, TableDef};
use barrage_state::runtime::{Intents, Outbox};
use barrage_worker::{Publication, Publisher, Worker, WorkerOptions};
use common::{Ingest, Kind, START_MS, append, message, open_log};
use prometheus_client::registry::Registry;

const APP: u32 = 1_400_000_000;
const ROOMS: u32 = 5;
const PATIENCE: Duration = Duration::from_secs(60);

/// Events that each room was told, in `used`.
struct Told;
impl Table for Told {
    const ID: u8 = 200;
    const NAME: &'static str = "test.told";
    type Key<'a> = (&'a str,);
    type Value = wire::QuotaAlarm;
}

/// Tells a room of every message in it by the way of its sender.
struct Teller;
impl Projection for Teller {
    fn name(&self) -> &'static str {
        "test.teller"
    }
    fn topic(&self) -> Topic {
        Topic::User
    }
    fn tables(&self) -> Vec<TableDef> {
        Vec::new()
    }
    fn apply(&self, cx: &mut Context<'_>, record: &EnvelopeView<'_>) -> Result<(), ApplyError> {
        let Event::AfterSend(message) = &record.event else { return Ok(()) };
        // Two at a time, so that the number among what one record causes matters.
        for back in [false, true] {
            cx.derive(Derived {
                app: record.app,
                group_id: message.group_id.to_owned(),
                account: message.from_account.to_owned(),
                from_ms: record.occurred_at_ms,
                moves: vec![AccountMove { at_ms: record.occurred_at_ms, back, uncertain_ms: 7 }],
                occurred_at_ms: record.occurred_at_ms,
                received_at_ms: record.received_at_ms,
                rules_version: cx.rules_version,
            });
        }
        cx.notify(Intent {
            kind: "test",
            app: record.app,
            key: message.msg_id.to_owned(),
            at_ms: record.occurred_at_ms,
            fields: serde_json::Map::new(),
        });
        Ok(())
    }
}

struct Listener;
impl Projection for Listener {
    fn name(&self) -> &'static str {
        "test.listener"
    }
    fn topic(&self) -> Topic {
        Topic::Room
    }
    fn tables(&self) -> Vec<TableDef> {
        vec![TableDef::of::<Told>()]
    }
    fn apply(&self, cx: &mut Context<'_>, record: &EnvelopeView<'_>) -> Result<(), ApplyError> {
        let Event::AccountMoves(moves) = &record.event else { return Ok(()) };
        cx.table::<Told>()?.entry(&(moves.group_id,))?.used += 1;
        Ok(())
    }
}

struct Telling;
impl Statistic for Telling {
    fn name(&self) -> &'static str {
        "test"
    }
    fn state_version(&self) -> u32 {
        1
    }
    fn projections(&self) -> Vec<Box<dyn Projection>> {
        vec![Box::new(Teller), Box::new(Listener)]
    }
}

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
        let (room, user) = (format!("room_{}", n % ROOMS), format!("user_{}", n % 50));
        let index = barrage_event::routes::partition_of(APP, &user, log.partitions(Topic::User));
        let partition = Partition { topic: Topic::User, index };
        let record = ingest.stamp(partition, message(Kind::After, &room, &user, n, START_MS + i64::from(n) * 10));
        append(log, partition, &[record]);
    }
}

/// Events that the rooms were told, once everything that is on its way is there.
fn settled_counts(worker: &Worker, log: &dyn EventLog) -> BTreeMap<String, u64> {
    let stores = worker.stores();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = log.wait(u64::MAX, Duration::ZERO);
        let mut counts = BTreeMap::new();
        let mut quiet = true;
        for partition in log.all_partitions() {
            let read = stores.read(partition, |snapshot| {
                let mut waiting = 0;
                snapshot.scan::<Outbox>(&(), |_, _| {
                    waiting += 1;
                    ControlFlow::Continue(())
                })?;
                snapshot.scan::<Intents>(&(), |_, _| {
                    waiting += 1;
                    ControlFlow::Continue(())
                })?;
                snapshot.scan::<Told>(&(), |(room,), row| {
                    counts.insert(room.to_owned(), row.used);
                    ControlFlow::Continue(())
                })?;
                Ok::<_, barrage_projection::StoreError>(waiting == 0 && snapshot.next_offset() == log.end(partition))
            });
            quiet &= read.expect("is here").expect("reads");
        }
        if quiet {
            return counts;
        }
        assert!(Instant::now() < deadline, "never quiet: {counts:?}");
        log.wait(seen, Duration::from_millis(5));
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
