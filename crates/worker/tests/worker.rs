//! The running worker: reads of its own writes, rebuild beside live traffic, stop and start.

mod common;

use std::time::Duration;

use barrage_event::{Offset, Partition, Position};
use barrage_log::EventLog as _;
use barrage_worker::{Phase, Stores, Unavailable, Worker, WorkerOptions};
use common::{Ingest, Kind, ROOM, START_MS, append, last, message, open_log, statistics};
use prometheus_client::registry::Registry;

const PATIENCE: Duration = Duration::from_secs(60);

fn texts(ingest: &mut Ingest, range: std::ops::Range<u32>) -> Vec<Vec<u8>> {
    range
        .map(|n| {
            let (room, user) = (format!("room_{}", n % 7), format!("user_{}", n % 50));
            let kind = if n % 2 == 0 { Kind::Before } else { Kind::After };
            ingest.stamp(ROOM, message(kind, &room, &user, n / 2, START_MS + i64::from(n) * 10))
        })
        .collect()
}

fn status(stores: &Stores, partition: Partition) -> barrage_worker::PartitionStatus {
    stores.status().into_iter().find(|s| s.partition == partition).expect("one of ours")
}

async fn rebuilt(stores: &Stores) -> barrage_worker::RebuildStatus {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let rebuild = status(stores, ROOM).rebuild.expect("was started");
        assert!(rebuild.error.is_none(), "{rebuild:?}");
        if rebuild.done {
            return rebuild;
        }
        assert!(std::time::Instant::now() < deadline, "{rebuild:?}");
        // Progress is polled, as an operator's command does.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_beside_live_traffic_gives_the_live_hash() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open_log(&dir.path().join("log"));
    let mut ingest = Ingest::new(1);
    append(log.as_ref(), ROOM, &texts(&mut ingest, 0..20_000));
    let options = WorkerOptions { threads: 2, ..WorkerOptions::new(dir.path().to_owned()) };
    let worker = Worker::start(&options, log.clone(), statistics(), &mut Registry::default()).expect("starts");
    let stores = worker.stores();
    stores.rebuild(ROOM).expect("starts");
    for round in 0..20 {
        append(log.as_ref(), ROOM, &texts(&mut ingest, 20_000 + round * 500..20_500 + round * 500));
    }
    let rebuild = rebuilt(&stores).await;
    assert_eq!(rebuild.hashes_match, Some(true), "{rebuild:?}");
    let position = Position { partition: ROOM, offset: last(log.as_ref(), ROOM) };
    stores.wait_for(position, PATIENCE).await.expect("comes there");
    // A second one goes on from the swapped store, and finds nothing to do differently either.
    stores.rebuild(ROOM).expect("starts");
    assert_eq!(rebuilt(&stores).await.hashes_match, Some(true));
    let live = status(&stores, ROOM);
    assert_eq!((live.offset, live.phase), (log.end(ROOM), Phase::Live));
    worker.stop().expect("stops");

    // A clean replay elsewhere has the same bytes.
    let clean = common::run(&dir.path().join("clean"), log.as_ref(), statistics());
    assert_eq!(clean.store_hash_value().0, live.store_hash);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_can_wait_for_a_write_and_a_restart_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open_log(&dir.path().join("log"));
    let mut ingest = Ingest::new(1);
    let options = WorkerOptions { threads: 1, ..WorkerOptions::new(dir.path().to_owned()) };
    let mut hashes = Vec::new();
    for round in 0..3_u32 {
        let worker = Worker::start(&options, log.clone(), statistics(), &mut Registry::default()).expect("starts");
        let stores = worker.stores();
        append(log.as_ref(), ROOM, &texts(&mut ingest, round * 100..round * 100 + 100));
        let position = Position { partition: ROOM, offset: last(log.as_ref(), ROOM) };
        stores.wait_for(position, PATIENCE).await.expect("comes there");
        let next = stores.read(ROOM, |snapshot| snapshot.next_offset()).expect("live");
        assert_eq!(next, Offset(u64::from(round) * 100 + 100));
        hashes.push(status(&stores, ROOM).state_hash);
        let beyond = Position { partition: ROOM, offset: next };
        let waited = stores.wait_for(beyond, Duration::ZERO).await;
        assert_eq!(waited, Err(Unavailable::TimedOut(beyond)));
        let not_ours = Partition::room(999);
        assert_eq!(stores.read(not_ours, |_| ()), Err(Unavailable::NotMine(not_ours)));
        worker.stop().expect("stops");
        assert!(stores.read(ROOM, |_| ()).is_err(), "closed");
    }
    hashes.dedup();
    assert_eq!(hashes.len(), 3, "every round changed the state");
}
