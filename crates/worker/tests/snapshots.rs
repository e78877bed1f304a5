//! Snapshots of running partitions: taken beside, restored elsewhere, and the log trimmed behind them.

mod common;

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use barrage_event::{Offset, Partition, Position};
use barrage_log::{EmbeddedLog, EmbeddedOptions, EventLog as _, Follow, Metrics, SnapshotBase};
use barrage_snapshot::SnapshotStore;
use barrage_state::{StateEnv, StateOptions};
use barrage_worker::{Phase, SnapshotOptions, Stores, Worker, WorkerOptions, versions};
use common::{Ingest, Kind, ROOM, START_MS, append, last, message, statistics};
use prometheus_client::registry::Registry;

const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Heard(mpsc::Sender<(Partition, Offset)>);

impl Follow for Heard {
    fn follow(&self, partition: Partition, from: Offset) {
        // A test that has ended listens no more.
        let _ = self.0.send((partition, from));
    }
}

/// A log of one partition a topic and small segments.
fn small_log(dir: &Path) -> Arc<EmbeddedLog> {
    let options = EmbeddedOptions {
        room_partitions: 1,
        user_partitions: 1,
        segment_bytes: 64 << 10,
        ..EmbeddedOptions::default()
    };
    Arc::new(EmbeddedLog::open(&dir.join("log"), &options, Metrics::default()).expect("opens"))
}

fn place(dir: &Path) -> Arc<SnapshotStore> {
    Arc::new(SnapshotStore::open(dir.join("snapshots").to_str().expect("UTF-8"), []).expect("a folder"))
}

fn options(dir: &Path, store: Option<Arc<SnapshotStore>>, every: Duration) -> WorkerOptions {
    let snapshots = store.map(|store| SnapshotOptions { every, restore_lag: 100, ..SnapshotOptions::new(store) });
    WorkerOptions { threads: 1, snapshots, ..WorkerOptions::new(dir.to_owned()) }
}

fn fill(log: &EmbeddedLog, ingest: &mut Ingest, range: std::ops::Range<u32>) {
    let records: Vec<Vec<u8>> = range
        .map(|n| {
            let envelope = message(Kind::Before, "room_1", &format!("user_{}", n % 9), n, START_MS + i64::from(n) * 10);
            ingest.stamp(ROOM, envelope)
        })
        .collect();
    append(log, ROOM, &records);
}

async fn applied(stores: &Stores, log: &EmbeddedLog) -> (Offset, u128, u128) {
    stores.wait_for(Position { partition: ROOM, offset: last(log, ROOM) }, PATIENCE).await.expect("comes there");
    let status = stores.status().into_iter().find(|s| s.partition == ROOM).expect("ours");
    (status.offset, status.state_hash, status.store_hash)
}

fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

fn metric(registry: &Registry, line: &str) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).expect("encodes");
    text.lines().find_map(|l| l.strip_prefix(line)).unwrap_or_default().trim().to_owned()
}

fn never() -> Duration {
    Duration::from_secs(86_400)
}

#[tokio::test]
async fn a_partition_that_moves_begins_from_the_snapshot() {
    let dir = tempfile::tempdir().expect("a directory");
    let (log, store) = (small_log(dir.path()), place(dir.path()));
    let mut ingest = Ingest::new(1);
    fill(&log, &mut ingest, 0..3_000);
    let one = options(&dir.path().join("one"), Some(store.clone()), never());
    let worker = Worker::start(&one, log.clone(), statistics(), &mut Registry::default()).expect("starts");
    applied(&worker.stores(), &log).await;
    let saved = tokio::task::spawn_blocking({
        let snapshots = worker.snapshots().expect("configured");
        move || snapshots.take(ROOM)
    });
    let saved = saved.await.expect("ends").expect("taken");
    assert_eq!(saved.manifest.next_offset, 3_000);
    fill(&log, &mut ingest, 3_000..3_500);
    let lived = applied(&worker.stores(), &log).await;
    worker.stop().expect("stops");

    // Elsewhere, with nothing.
    let mut registry = Registry::default();
    let two = options(&dir.path().join("two"), Some(store.clone()), never());
    let worker = Worker::start_without_partitions(&two, log.clone(), statistics(), &mut registry).expect("starts");
    let (said, heard) = mpsc::channel();
    let follow: Arc<dyn Follow> = Arc::new(Heard(said));
    let owner = worker.assignments();
    // Taken away while it is on its way, as often as not: the next one begins anew.
    for _ in 0..5 {
        owner.assign(&[ROOM], owner.next_generation(), Some(&follow));
        owner.revoke(&[ROOM], false);
    }
    while heard.try_recv().is_ok() {}
    let ready = owner.assign(&[ROOM], owner.next_generation(), Some(&follow));
    let from = ready.first().copied().unwrap_or_else(|| heard.recv_timeout(PATIENCE).expect("opens"));
    assert!(from.1 >= Offset(3_000), "not from the log's start: {from:?}");
    assert_eq!(applied(&worker.stores(), &log).await, lived);
    assert_ne!(metric(&registry, "barrage_snapshot_restores_total"), "0");
    worker.stop().expect("stops");
    let leftovers = std::fs::read_dir(dir.path().join("two/state/room-0")).expect("readable");
    let leftovers: Vec<String> =
        leftovers.map(|e| e.expect("readable").file_name().into_string().expect("UTF-8")).collect();
    assert_eq!(leftovers.iter().filter(|name| !name.starts_with("restore")).count(), 2, "{leftovers:?}");

    // A store that is here and not far behind is gone on with; one that is far behind is replaced.
    let worker = Worker::start(&one, log.clone(), statistics(), &mut registry).expect("starts");
    assert_eq!(applied(&worker.stores(), &log).await, lived);
    worker.stop().expect("stops");
    let clean = options(&dir.path().join("clean"), None, never());
    let worker = Worker::start(&clean, log.clone(), statistics(), &mut registry).expect("starts");
    assert_eq!(applied(&worker.stores(), &log).await, lived, "as a clean replay");
    worker.stop().expect("stops");
}

#[tokio::test]
async fn snapshots_are_taken_in_time_and_old_ones_go() {
    let dir = tempfile::tempdir().expect("a directory");
    let (log, store) = (small_log(dir.path()), place(dir.path()));
    let mut ingest = Ingest::new(1);
    let mut registry = Registry::default();
    let mut often = options(&dir.path().join("one"), Some(store.clone()), Duration::from_millis(5));
    if let Some(snapshots) = &mut often.snapshots {
        snapshots.at_stop = true;
    }
    let worker = Worker::start(&often, log.clone(), statistics(), &mut registry).expect("starts");
    for round in 0..6_u32 {
        fill(&log, &mut ingest, round * 100..round * 100 + 100);
        let (next, ..) = applied(&worker.stores(), &log).await;
        let is_there =
            || store.list(log.uuid(), ROOM).expect("listed").first().is_some_and(|l| l.next_offset == next.0);
        // The store's calls block, which a task may not.
        std::thread::scope(|scope| scope.spawn(|| until("one comes", is_there)).join()).expect("in time");
    }
    assert_eq!(metric(&registry, "barrage_snapshot_failures_total{action=\"take\"}"), "0");
    assert!(metric(&registry, "barrage_snapshot_last_timestamp_seconds{topic=\"room\",partition=\"0\"}").len() > 5);
    worker.stop().expect("stops");
    let (kept, nothing) = std::thread::spawn(move || {
        (
            store.list(log.uuid(), ROOM).expect("listed").len(),
            store.list(log.uuid(), Partition::user(0)).expect("listed"),
        )
    })
    .join()
    .expect("listed");
    assert_eq!(kept, 3);
    assert_eq!(nothing, [], "a partition that holds nothing needs none");
}

/// Copies a directory of files.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("writable");
    for entry in std::fs::read_dir(from).expect("readable") {
        let path = entry.expect("readable").path();
        std::fs::copy(&path, to.join(path.file_name().expect("named"))).expect("writable");
    }
}

/// A log directory was put back from an older copy: same uuid, and snapshots of what it no longer holds.
#[tokio::test]
async fn snapshots_of_what_the_log_lost_are_in_nobodys_way() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = place(dir.path());
    let mut ingest = Ingest::new(1);
    let run = |log: &Arc<EmbeddedLog>, name: &str, every: Duration| {
        let options = options(&dir.path().join(name), Some(store.clone()), every);
        Worker::start(&options, log.clone(), statistics(), &mut Registry::default()).expect("starts")
    };
    let take = async |worker: &Worker| {
        let snapshots = worker.snapshots().expect("configured");
        tokio::task::spawn_blocking(move || snapshots.take(ROOM)).await.expect("ends").expect("taken").manifest
    };
    let offsets = async |uuid: u128| {
        let store = store.clone();
        let listed = tokio::task::spawn_blocking(move || store.list(uuid, ROOM)).await.expect("ends").expect("listed");
        listed.iter().map(|listed| listed.next_offset).collect::<Vec<_>>()
    };
    let log = small_log(dir.path());
    let uuid = log.uuid();
    fill(&log, &mut ingest, 0..500);
    let worker = run(&log, "one", never());
    applied(&worker.stores(), &log).await;
    take(&worker).await;
    worker.stop().expect("stops");
    drop(log);
    copy(&dir.path().join("log"), &dir.path().join("copy"));
    let log = small_log(dir.path());
    fill(&log, &mut ingest, 500..3_000);
    let worker = run(&log, "one", never());
    for range in [3_000..3_100, 3_100..3_200, 3_200..3_300] {
        fill(&log, &mut ingest, range);
        applied(&worker.stores(), &log).await;
        take(&worker).await;
    }
    worker.stop().expect("stops");
    drop(log);
    std::fs::remove_dir_all(dir.path().join("log")).expect("there");
    copy(&dir.path().join("copy"), &dir.path().join("log"));

    // It goes on another way. A snapshot is due, though there are three that tell of later offsets.
    let log = small_log(dir.path());
    assert_eq!(log.uuid(), uuid);
    let mut other = Ingest::new(2);
    fill(&log, &mut other, 0..500);
    let worker = run(&log, "two", Duration::from_millis(5));
    let (next, ..) = applied(&worker.stores(), &log).await;
    assert_eq!(next, Offset(1_000));
    let deadline = Instant::now() + PATIENCE;
    while !offsets(uuid).await.contains(&1_000) {
        assert!(Instant::now() < deadline, "one is taken in time: {:?}", offsets(uuid).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    worker.stop().expect("stops");
    let worker = run(&log, "two", never());
    fill(&log, &mut other, 500..600);
    applied(&worker.stores(), &log).await;
    assert_eq!(take(&worker).await.next_offset, 1_100, "and by hand");
    let kept = offsets(uuid).await;
    assert_eq!(kept[..5], [3_300, 3_200, 3_100, 1_100, 1_000], "{kept:?}");
    // Beyond those offsets the log is trimmed behind its own snapshots only, and a new machine begins from them.
    fill(&log, &mut other, 600..4_000);
    let lived = applied(&worker.stores(), &log).await;
    for _ in 0..5 {
        let snapshots = worker.snapshots().expect("configured");
        tokio::task::spawn_blocking(move || snapshots.trim()).await.expect("ends").expect("trimmed");
        let start = log.start(ROOM).0;
        assert!(start <= 1_100, "not behind what it lost: {start}");
    }
    worker.stop().expect("stops");
    let worker = run(&log, "three", never());
    assert_eq!(applied(&worker.stores(), &log).await, lived);
    worker.stop().expect("stops");
}

#[tokio::test]
async fn an_object_store_that_fails_stops_no_partition() {
    let dir = tempfile::tempdir().expect("a directory");
    let (log, store) = (small_log(dir.path()), place(dir.path()));
    fill(&log, &mut Ingest::new(1), 0..1_000);
    // Where the folder was is a file now: nothing can be read or written there.
    std::fs::remove_dir_all(dir.path().join("snapshots")).expect("there");
    std::fs::write(dir.path().join("snapshots"), "in the way").expect("writable");
    let mut registry = Registry::default();
    let options = options(&dir.path().join("one"), Some(store), Duration::from_millis(5));
    let worker = Worker::start(&options, log.clone(), statistics(), &mut registry).expect("starts");
    applied(&worker.stores(), &log).await;
    let refused = std::thread::spawn({
        let snapshots = worker.snapshots().expect("configured");
        move || snapshots.take(ROOM)
    });
    refused.join().expect("ends").expect_err("there is no place");
    assert!(worker.stores().status().iter().all(|s| s.phase == Phase::Live));
    worker.stop().expect("stops");
}

#[tokio::test]
async fn a_log_that_was_trimmed_behind_snapshots_needs_them() {
    let dir = tempfile::tempdir().expect("a directory");
    let (log, store) = (small_log(dir.path()), place(dir.path()));
    let mut ingest = Ingest::new(1);
    fill(&log, &mut ingest, 0..3_000);
    let one = options(&dir.path().join("one"), Some(store.clone()), never());
    let worker = Worker::start(&one, log.clone(), statistics(), &mut Registry::default()).expect("starts");
    applied(&worker.stores(), &log).await;
    let snapshots = worker.snapshots().expect("configured");
    let (base, state) = (dir.path().join("scratch"), StateEnv::new(StateOptions::default()));
    let proven = std::thread::spawn({
        let (log, store) = (log.clone(), store.clone());
        move || {
            let versions = versions(&statistics());
            let of = |n| (n, versions.as_slice());
            let none = store.base(&state, log.as_ref(), of(barrage_state::runtime::FORMAT), &base);
            assert!(none.is_err(), "there is no snapshot yet");
            snapshots.take(ROOM).expect("taken");
            assert!(store.base(&state, log.as_ref(), of(1), &base).is_err(), "of another format");
            store.base(&state, log.as_ref(), of(barrage_state::runtime::FORMAT), &base).expect("proven")
        }
    });
    let base: SnapshotBase = proven.join().expect("proven");
    assert!(base.next.contains(&(ROOM, Offset(3_000))), "{base:?}");
    fill(&log, &mut ingest, 3_000..3_200);
    log.trim(&base).expect("trimmed");
    let start = log.start(ROOM);
    assert!(start > Offset(2_000) && start <= Offset(3_000), "{start}");
    let lived = applied(&worker.stores(), &log).await;
    assert!(worker.stores().rebuild(ROOM).is_err(), "the log's start is gone");
    worker.stop().expect("stops");

    // Without the snapshots nothing is made up.
    let without = options(&dir.path().join("without"), None, never());
    let worker = Worker::start(&without, log.clone(), statistics(), &mut Registry::default()).expect("starts");
    let phase = worker.stores().status().remove(0).phase;
    assert!(matches!(&phase, Phase::Stopped { error } if error.contains("nor a snapshot")), "{phase:?}");
    worker.stop().expect("stops");
    let with = options(&dir.path().join("with"), Some(store), never());
    let worker = Worker::start(&with, log.clone(), statistics(), &mut Registry::default()).expect("starts");
    assert_eq!(applied(&worker.stores(), &log).await, lived);
    worker.stop().expect("stops");
}
