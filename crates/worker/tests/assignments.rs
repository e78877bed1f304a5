//! Partitions that come and go while the worker runs.

mod common;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use barrage_event::{Offset, Partition, Position, Topic};
use barrage_log::{EmbeddedLog, EventLog, Follow, Owner as _};
use barrage_state::{PartitionDir, StateEnv, StateOptions, Store};
use barrage_worker::{Phase, Stores, Unavailable, Worker, WorkerOptions};
use common::{Ingest, Kind, Other, ROOM, START_MS, append, last, message, open_log, statistics};
use prometheus_client::registry::Registry;

const PATIENCE: Duration = Duration::from_secs(60);
const OTHER: Partition = Partition::room(1);

/// Hears which partitions are open.
#[derive(Debug)]
struct Heard(mpsc::Sender<(Partition, Offset)>);

impl Follow for Heard {
    fn follow(&self, partition: Partition, from: Offset) {
        // A test that has ended listens no more.
        let _ = self.0.send((partition, from));
    }
}

fn hearing() -> (Arc<dyn Follow>, mpsc::Receiver<(Partition, Offset)>) {
    let (said, heard) = mpsc::channel();
    (Arc::new(Heard(said)), heard)
}

fn start(dir: &Path, log: Arc<dyn EventLog>, park: Duration) -> (Worker, Registry) {
    let options = WorkerOptions { threads: 2, park, ..WorkerOptions::new(dir.to_owned()) };
    let mut registry = Registry::default();
    let worker = Worker::start_without_partitions(&options, log, statistics(), &mut registry).expect("starts");
    (worker, registry)
}

fn fill(log: &EmbeddedLog, ingest: &mut Ingest, partition: Partition, range: std::ops::Range<u32>) {
    let records: Vec<Vec<u8>> = range
        .map(|n| {
            let envelope = message(Kind::Before, "room_1", &format!("user_{}", n % 9), n, START_MS + i64::from(n) * 10);
            ingest.stamp(partition, envelope)
        })
        .collect();
    append(log, partition, &records);
}

fn phase(stores: &Stores, partition: Partition) -> Option<Phase> {
    stores.status().into_iter().find(|s| s.partition == partition).map(|s| s.phase)
}

async fn applied(stores: &Stores, log: &EmbeddedLog, partition: Partition) {
    let position = Position { partition, offset: last(log, partition) };
    stores.wait_for(position, PATIENCE).await.expect("comes there");
}

/// Asks again until it is so; nothing tells of a file that another thread lets go of.
fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

fn is_closed(dir: &Path, partition: Partition) -> bool {
    let env = StateEnv::new(StateOptions { memory_bytes: 8 << 20, ..StateOptions::default() });
    let current = PartitionDir::new(&dir.join("state"), partition).current().expect("readable").expect("made");
    Store::open(&env, &current.path).is_ok()
}

#[tokio::test]
async fn a_partition_that_comes_back_goes_on_where_it_was() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open_log(&dir.path().join("log"));
    let mut ingest = Ingest::new(1);
    fill(&log, &mut ingest, ROOM, 0..500);
    let (worker, registry) = start(dir.path(), log.clone(), PATIENCE);
    let (stores, owner) = (worker.stores(), worker.assignments());
    let (follow, heard) = hearing();
    assert_eq!(stores.read(ROOM, |_| ()), Err(Unavailable::NotMine(ROOM)));
    assert!(stores.status().is_empty() && stores.apps().is_empty());

    assert_eq!(owner.assigned(&[ROOM], &follow), [], "no store is open yet");
    assert_eq!(heard.recv_timeout(PATIENCE), Ok((ROOM, Offset(0))));
    applied(&stores, &log, ROOM).await;
    assert_eq!(stores.apps(), [1_400_000_000]);
    let first = stores.generation(ROOM).expect("ours");
    assert_eq!(stores.read(ROOM, |s| s.generation()), Ok(first));
    let lag = "barrage_worker_lag_records{topic=\"room\",partition=\"0\"}";
    let shown = |registry: &Registry| {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).expect("encodes");
        text
    };
    assert!(shown(&registry).contains(lag));

    fill(&log, &mut ingest, ROOM, 500..600);
    owner.revoked(&[ROOM, OTHER], false);
    assert_eq!(stores.read(ROOM, |_| ()), Err(Unavailable::NotMine(ROOM)));
    assert_eq!((stores.generation(ROOM), stores.status().len()), (None, 0));
    assert!(!shown(&registry).contains(lag), "{}", shown(&registry));
    assert!(shown(&registry).contains("barrage_worker_records_read_total"), "counters stay");
    assert!(!is_closed(dir.path(), ROOM), "parked");

    let ready = owner.assigned(&[ROOM], &follow);
    let [(ROOM, next)] = ready[..] else { panic!("{ready:?}") };
    assert!((500..=600).contains(&next.0), "what was applied is committed: {next}");
    applied(&stores, &log, ROOM).await;
    assert!(stores.generation(ROOM).expect("ours") > first);
    assert_eq!(heard.try_recv(), Err(mpsc::TryRecvError::Empty), "it was open");
    worker.stop().expect("stops");
    assert!(matches!(stores.read(ROOM, |_| ()), Err(Unavailable::Stopped { .. })));
}

#[tokio::test]
async fn a_parked_store_is_closed_when_it_went_elsewhere_or_in_time() {
    for park in [PATIENCE, Duration::ZERO] {
        let dir = tempfile::tempdir().expect("a directory");
        let log = open_log(&dir.path().join("log"));
        fill(&log, &mut Ingest::new(1), ROOM, 0..50);
        let (worker, _) = start(dir.path(), log.clone(), park);
        let (stores, owner) = (worker.stores(), worker.assignments());
        let (follow, heard) = hearing();
        owner.assigned(&[ROOM], &follow);
        assert_eq!(heard.recv_timeout(PATIENCE), Ok((ROOM, Offset(0))));
        applied(&stores, &log, ROOM).await;
        owner.revoked(&[ROOM], true);
        if !park.is_zero() {
            owner.assigned(&[OTHER], &follow);
            assert_eq!(heard.recv_timeout(PATIENCE), Ok((OTHER, Offset(0))));
        }
        until("the store is closed", || is_closed(dir.path(), ROOM));
        // It may come back even so.
        assert_eq!(owner.assigned(&[ROOM], &follow), []);
        assert_eq!(heard.recv_timeout(PATIENCE), Ok((ROOM, Offset(50))));
        assert_eq!(stores.read(ROOM, |s| s.next_offset()), Ok(Offset(50)));
        worker.stop().expect("stops");
    }
}

#[tokio::test]
async fn a_parked_store_stays_open_for_a_read_that_holds_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open_log(&dir.path().join("log"));
    fill(&log, &mut Ingest::new(1), ROOM, 0..50);
    let (worker, _) = start(dir.path(), log.clone(), Duration::ZERO);
    let (stores, owner) = (worker.stores(), worker.assignments());
    let (follow, heard) = hearing();
    owner.assigned(&[ROOM], &follow);
    heard.recv_timeout(PATIENCE).expect("opens");
    applied(&stores, &log, ROOM).await;
    let (assigned_again, next) = stores
        .read(ROOM, |snapshot| {
            owner.revoked(&[ROOM], false);
            // The other thread closes and opens stores meanwhile; this one's waits for the read.
            for _ in 0..3 {
                owner.assigned(&[OTHER], &follow);
                owner.revoked(&[OTHER], false);
            }
            (owner.assigned(&[ROOM], &follow), snapshot.next_offset())
        })
        .expect("the read began before");
    assert_eq!((assigned_again, next), (vec![(ROOM, Offset(50))], Offset(50)));
    until("it is open again", || phase(&stores, ROOM) == Some(Phase::Live));
    worker.stop().expect("stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_partition_that_goes_is_told_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open_log(&dir.path().join("log"));
    let (worker, _) = start(dir.path(), log.clone(), PATIENCE);
    let (stores, owner) = (worker.stores(), worker.assignments());
    let (follow, heard) = hearing();
    owner.assigned(&[ROOM], &follow);
    heard.recv_timeout(PATIENCE).expect("opens");
    let waiting = tokio::spawn({
        let stores = stores.clone();
        let position = Position { partition: ROOM, offset: Offset(9) };
        // Far beyond the test's own patience: only being told ends it.
        async move { stores.wait_for(position, Duration::from_secs(100_000)).await }
    });
    tokio::task::spawn_blocking(move || owner.revoked(&[ROOM], false)).await.expect("ends");
    let told = tokio::time::timeout(PATIENCE, waiting).await.expect("told").expect("ends");
    assert_eq!(told, Err(Unavailable::NotMine(ROOM)));
    worker.stop().expect("stops");
}

#[tokio::test]
async fn a_stopped_partition_opens_anew_when_it_is_given_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open_log(&dir.path().join("log"));
    fill(&log, &mut Ingest::new(1), ROOM, 0..50);
    let pointer = dir.path().join("state/room-0/CURRENT");
    std::fs::create_dir_all(pointer.parent().expect("a parent")).expect("writable");
    std::fs::write(&pointer, "nonsense").expect("writable");
    let (worker, _) = start(dir.path(), log.clone(), PATIENCE);
    let (stores, owner) = (worker.stores(), worker.assignments());
    let (follow, heard) = hearing();
    owner.assigned(&[ROOM], &follow);
    until("it is stopped", || matches!(phase(&stores, ROOM), Some(Phase::Stopped { .. })));
    assert!(matches!(stores.read(ROOM, |_| ()), Err(Unavailable::Stopped { error, .. }) if error.contains("nonsense")));
    std::fs::remove_file(&pointer).expect("there");
    owner.revoked(&[ROOM], false);
    assert_eq!(owner.assigned(&[ROOM], &follow), []);
    assert_eq!(heard.recv_timeout(PATIENCE), Ok((ROOM, Offset(0))));
    applied(&stores, &log, ROOM).await;
    worker.stop().expect("stops");
}

#[tokio::test]
async fn a_rebuild_under_way_is_given_up_with_its_files() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open_log(&dir.path().join("log"));
    let mut ingest = Ingest::new(1);
    fill(&log, &mut ingest, ROOM, 0..60_000);
    let (worker, _) = start(dir.path(), log.clone(), PATIENCE);
    let (stores, owner) = (worker.stores(), worker.assignments());
    let (follow, heard) = hearing();
    owner.assigned(&[ROOM], &follow);
    heard.recv_timeout(PATIENCE).expect("opens");
    applied(&stores, &log, ROOM).await;
    stores.rebuild(ROOM).expect("starts");
    until("it is under way", || stores.status()[0].rebuild.as_ref().is_some_and(|r| r.offset.0 > 0));
    let done = stores.status()[0].rebuild.as_ref().is_some_and(|r| r.done);
    owner.revoked(&[ROOM], false);
    let stores_on_disk = std::fs::read_dir(dir.path().join("state/room-0"))
        .expect("readable")
        .filter(|entry| entry.as_ref().is_ok_and(|e| e.path().is_dir()))
        .count();
    assert_eq!(stores_on_disk, 1, "done before: {done}");
    assert_eq!(owner.assigned(&[ROOM], &follow), [(ROOM, Offset(60_000))]);
    until("it is open again", || phase(&stores, ROOM) == Some(Phase::Live));
    stores.rebuild(ROOM).expect("a new assignment knows of no rebuild");
    worker.stop().expect("stops");
}

/// A log whose start can be asked for only when the gate is open: a store that takes its time to open.
#[derive(Debug)]
struct Gated {
    inner: Arc<EmbeddedLog>,
    open: Mutex<bool>,
    changed: Condvar,
    arrived: mpsc::Sender<Partition>,
}

impl Gated {
    fn set(&self, open: bool) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = open;
        self.changed.notify_all();
    }
}

impl EventLog for Gated {
    fn uuid(&self) -> u128 {
        self.inner.uuid()
    }
    fn partitions(&self, topic: Topic) -> u16 {
        self.inner.partitions(topic)
    }
    fn append(&self, batch: &mut barrage_log::AppendBatch) -> Result<barrage_log::Ack, barrage_log::AppendError> {
        self.inner.append(batch)
    }
    fn read(
        &self,
        partition: Partition,
        from: Offset,
        bytes_max: usize,
        visit: &mut dyn FnMut(barrage_log::Record<'_>) -> ControlFlow<()>,
    ) -> Result<Offset, barrage_log::ReadError> {
        self.inner.read(partition, from, bytes_max, visit)
    }
    fn start(&self, partition: Partition) -> Offset {
        if partition == ROOM {
            let _ = self.arrived.send(partition);
            let closed = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            drop(self.changed.wait_while(closed, |open| !*open));
        }
        self.inner.start(partition)
    }
    fn end(&self, partition: Partition) -> Offset {
        self.inner.end(partition)
    }
    fn wait(&self, seen: u64, timeout: Duration) -> u64 {
        self.inner.wait(seen, timeout)
    }
    fn wake(&self) {
        self.inner.wake();
    }
    fn health(&self) -> barrage_log::Health {
        self.inner.health()
    }
    fn trim(&self, base: &barrage_log::SnapshotBase) -> Result<Vec<(Partition, Offset)>, barrage_log::TrimError> {
        self.inner.trim(base)
    }
}

#[tokio::test]
async fn assignments_may_change_while_a_store_is_opened() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open_log(&dir.path().join("log"));
    fill(&log, &mut Ingest::new(1), ROOM, 0..50);
    let (arrived, opening) = mpsc::channel();
    let gate = Arc::new(Gated { inner: log.clone(), open: Mutex::new(false), changed: Condvar::new(), arrived });
    let (worker, _) = start(dir.path(), gate.clone(), PATIENCE);
    let (stores, owner) = (worker.stores(), worker.assignments());
    let (follow, heard) = hearing();

    assert_eq!(owner.assigned(&[ROOM], &follow), []);
    opening.recv_timeout(PATIENCE).expect("is being opened");
    assert_eq!(stores.read(ROOM, |_| ()), Err(Unavailable::Starting(ROOM)));
    // Another one opens on the other thread meanwhile; being told twice changes nothing.
    assert_eq!(owner.assigned(&[OTHER, ROOM], &follow), []);
    assert_eq!(heard.recv_timeout(PATIENCE), Ok((OTHER, Offset(0))));

    // Taken away while it opens: not readable at once, and the call returns when the opening is over.
    let (returned, revoked) = mpsc::channel();
    let revoking = std::thread::spawn({
        let owner = owner.clone();
        move || {
            owner.revoked(&[ROOM], false);
            returned.send(()).expect("the test listens");
        }
    });
    until("reads are refused", || stores.read(ROOM, |_| ()) == Err(Unavailable::NotMine(ROOM)));
    assert_eq!(revoked.try_recv(), Err(mpsc::TryRecvError::Empty));
    // Given back before that: opened by then, and reported once, under the newer assignment.
    assert_eq!(owner.assigned(&[ROOM], &follow), []);
    let generation = stores.generation(ROOM);
    gate.set(true);
    revoked.recv_timeout(PATIENCE).expect("returns");
    revoking.join().expect("ends");
    assert_eq!(heard.recv_timeout(PATIENCE), Ok((ROOM, Offset(0))));
    applied(&stores, &log, ROOM).await;
    assert_eq!(stores.generation(ROOM), generation);
    worker.stop().expect("stops");
    assert_eq!(heard.try_recv(), Err(mpsc::TryRecvError::Empty), "reported once");
}

#[tokio::test]
async fn a_partition_taken_away_while_it_opens_is_not_followed() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open_log(&dir.path().join("log"));
    let (arrived, opening) = mpsc::channel();
    let gate = Arc::new(Gated { inner: log.clone(), open: Mutex::new(false), changed: Condvar::new(), arrived });
    let (worker, _) = start(dir.path(), gate.clone(), PATIENCE);
    let owner = worker.assignments();
    let (follow, heard) = hearing();
    owner.assigned(&[ROOM], &follow);
    opening.recv_timeout(PATIENCE).expect("is being opened");
    let revoking = std::thread::spawn({
        let owner = owner.clone();
        move || owner.revoked(&[ROOM], true)
    });
    until("reads are refused", || worker.stores().read(ROOM, |_| ()) == Err(Unavailable::NotMine(ROOM)));
    gate.set(true);
    revoking.join().expect("ends");
    assert_eq!(heard.try_recv(), Err(mpsc::TryRecvError::Empty));
    assert_eq!(owner.assigned(&[ROOM], &follow), [(ROOM, Offset(0))], "it was opened all the same, and parked");
    worker.stop().expect("stops");
    // Nothing waits for a worker that has gone.
    owner.revoked(&[ROOM], false);
    assert_eq!(owner.assigned(&[OTHER], &follow), []);
}

/// The thread has both partitions; nothing is heard of one of them, as of one that has no leader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_the_log_is_silent_about_holds_up_no_other_and_starts_when_it_is_heard_of() {
    for ends_unknown in [false, true] {
        let dir = tempfile::tempdir().expect("a directory");
        let inner = open_log(&dir.path().join("log"));
        let mut ingest = Ingest::new(1);
        fill(&inner, &mut ingest, ROOM, 0..500);
        fill(&inner, &mut ingest, OTHER, 0..500);
        let log = Arc::new(Other::new(inner.clone()));
        let options = WorkerOptions { threads: 1, ..WorkerOptions::new(dir.path().to_owned()) };
        let begin = || {
            let mut registry = Registry::default();
            Worker::start_without_partitions(&options, log.clone(), statistics(), &mut registry).expect("starts")
        };
        let worker = begin();
        worker.assignments().assign(&[ROOM, OTHER], 1, None);
        until("all is applied", || worker.stores().status().iter().all(|s| s.offset == Offset(500)));
        let lived = worker.stores().status();
        worker.stop().expect("stops");

        log.silent.lock().expect("no panics").push(ROOM);
        log.ends_unknown.store(ends_unknown, std::sync::atomic::Ordering::Release);
        let worker = begin();
        let (stores, owner) = (worker.stores(), worker.assignments());
        let (follow, heard) = hearing();
        let begun = Instant::now();
        owner.assigned(&[ROOM, OTHER], &follow);
        assert_eq!(heard.recv_timeout(PATIENCE), Ok((OTHER, Offset(500))), "the silent one holds nobody up");
        fill(&inner, &mut ingest, OTHER, 500..600);
        applied(&stores, &inner, OTHER).await;
        assert_eq!(phase(&stores, ROOM), Some(Phase::Starting));
        assert_eq!(stores.read(ROOM, |_| ()), Err(Unavailable::Starting(ROOM)));
        // Taken away and given back meanwhile, as often as the group likes.
        owner.revoked(&[ROOM, OTHER], false);
        assert_eq!(owner.assigned(&[ROOM, OTHER], &follow), [(OTHER, Offset(600))]);
        assert!(begun.elapsed() < Duration::from_secs(30), "a rebalance waited: {:?}", begun.elapsed());
        assert_eq!(phase(&stores, ROOM), Some(Phase::Starting));

        log.silent.lock().expect("no panics").clear();
        log.wake();
        assert_eq!(heard.recv_timeout(PATIENCE), Ok((ROOM, Offset(500))));
        until("it is read", || phase(&stores, ROOM) == Some(Phase::Live));
        let again = stores.status().into_iter().find(|s| s.partition == ROOM).expect("ours");
        let before = lived.iter().find(|s| s.partition == ROOM).expect("was ours");
        assert_eq!((again.store_hash, again.offset), (before.store_hash, before.offset));
        worker.stop().expect("stops");
    }
}
