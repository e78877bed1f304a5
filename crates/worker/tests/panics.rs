//! A defect of a statistic outside of what it applies stops its partition loudly, and no other.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use barrage_event::{EnvelopeView, Event, Partition, Topic, proto as wire};
use barrage_log::EventLog;
use barrage_projection::{
    ApplyError, Context, Entity, Projection, Reader, Stands, Statistic, StoreError, Table, TableDef, TellStands,
};
use barrage_worker::{Phase, Stores, Worker, WorkerOptions};
use common::{Ingest, Kind, ROOM, START_MS, append, message, open_log};
use prometheus_client::registry::Registry;

const PATIENCE: Duration = Duration::from_secs(60);
const OTHER: Partition = Partition::room(1);
/// What the figure over which ranking panics.
const UNLUCKY: u64 = 13;

/// Messages of a room, in `used`.
struct Counted;
impl Table for Counted {
    const ID: u8 = 200;
    const NAME: &'static str = "test.counted";
    type Key<'a> = (u32, &'a str);
    type Value = wire::QuotaAlarm;
    const ENTITY: Option<Entity> = Some(Entity::Room);
    const STANDS: Option<fn(&wire::QuotaAlarm) -> Stands> = Some(|row| {
        assert!(row.used != UNLUCKY, "over this figure");
        Stands::new()
    });
}

struct Counter;
impl Projection for Counter {
    fn name(&self) -> &'static str {
        "test.counter"
    }
    fn topic(&self) -> Topic {
        Topic::Room
    }
    fn tables(&self) -> Vec<TableDef> {
        vec![TableDef::of::<Counted>()]
    }
    fn apply(&self, cx: &mut Context<'_>, record: &EnvelopeView<'_>) -> Result<(), ApplyError> {
        let Event::AfterSend(message) = &record.event else { return Ok(()) };
        cx.table::<Counted>()?.entry(&(record.app, message.group_id))?.used += 1;
        Ok(())
    }
}

struct Fragile {
    /// Reading the rankings panics.
    opening: Arc<AtomicBool>,
}
impl Statistic for Fragile {
    fn name(&self) -> &'static str {
        "test"
    }
    fn state_version(&self) -> u32 {
        1
    }
    fn projections(&self) -> Vec<Box<dyn Projection>> {
        vec![Box::new(Counter)]
    }
    fn read_rankings(&self, reader: &dyn Reader, _: &mut TellStands<'_>) -> Result<(), StoreError> {
        // The other partition has no such room.
        let mut row = vec![Entity::Room.id()];
        row.extend_from_slice(&1_400_000_000_u32.to_be_bytes());
        row.extend_from_slice(b"\x07unlucky");
        let mut found = false;
        reader.scan_rows(&row, None, &mut |_, _| {
            found = true;
            Ok(std::ops::ControlFlow::Break(()))
        })?;
        assert!(!found || !self.opening.load(Ordering::Acquire), "while it was opened");
        Ok(())
    }
}

fn start(dir: &Path, log: Arc<dyn EventLog>, opening: &Arc<AtomicBool>) -> Worker {
    let options = WorkerOptions { threads: 1, ..WorkerOptions::new(dir.to_owned()) };
    let statistics: Vec<Box<dyn Statistic>> = vec![Box::new(Fragile { opening: Arc::clone(opening) })];
    Worker::start(&options, log, statistics, &mut Registry::default()).expect("starts")
}

fn send(log: &dyn EventLog, ingest: &mut Ingest, partition: Partition, room: &str, numbers: std::ops::Range<u32>) {
    for n in numbers {
        let record = ingest.stamp(partition, message(Kind::After, room, "user", n, START_MS + i64::from(n)));
        append(log, partition, &[record]);
    }
}

fn phase(stores: &Stores, partition: Partition) -> Phase {
    stores.status().into_iter().find(|s| s.partition == partition).expect("all are its").phase
}

fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_panic_stops_its_partition_with_a_reason_and_the_others_of_the_thread_go_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open_log(&dir.path().join("log"));
    let (mut ingest, opening) = (Ingest::new(1), Arc::new(AtomicBool::new(false)));
    let worker = start(dir.path(), log.clone(), &opening);
    let stores = worker.stores();
    let goes_on = |stores: &Stores, ingest: &mut Ingest, numbers: std::ops::Range<u32>| {
        send(log.as_ref(), ingest, OTHER, "lucky", numbers);
        until("the other partition goes on", || stores.read(OTHER, |s| s.next_offset()) == Ok(log.end(OTHER)));
    };
    goes_on(&stores, &mut ingest, 0..5);
    let unlucky = u32::try_from(UNLUCKY).expect("small");
    // In one record group: the figure is the commit's.
    let records: Vec<Vec<u8>> =
        (0..unlucky).map(|n| ingest.stamp(ROOM, message(Kind::After, "unlucky", "user", n, START_MS))).collect();
    append(log.as_ref(), ROOM, &records);
    until("it stops", || matches!(phase(&stores, ROOM), Phase::Stopped { .. }));
    let Phase::Stopped { error } = phase(&stores, ROOM) else { unreachable!("it does not go on by itself") };
    assert!(error.contains("over this figure") && error.contains("defect"), "{error}");
    goes_on(&stores, &mut ingest, 20..25);
    worker.stop().expect("the others are closed as always");

    // The figure is another one by the next commit, so it goes on; then opening fails.
    send(log.as_ref(), &mut ingest, ROOM, "unlucky", 100..101);
    let worker = start(dir.path(), log.clone(), &opening);
    until("it is applied", || worker.stores().read(ROOM, |s| s.next_offset()) == Ok(log.end(ROOM)));
    worker.stop().expect("stops");
    opening.store(true, Ordering::Release);
    let worker = start(dir.path(), log.clone(), &opening);
    let stores = worker.stores();
    let Phase::Stopped { error } = phase(&stores, ROOM) else { panic!("{:?}", phase(&stores, ROOM)) };
    assert!(error.contains("while it was opened"), "{error}");
    goes_on(&stores, &mut ingest, 30..35);
    worker.stop().expect("stops");
}
