//! Any coming and going of partitions between processes, with crashes, ends with the state of a clean replay.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use barrage_event::{Partition, Position};
use barrage_log::{EmbeddedLog, EventLog as _};
use barrage_worker::{Stores, Unavailable, Worker, WorkerOptions};
use common::{Ingest, Kind, START_MS, append, last, message, open_log, statistics};
use prometheus_client::registry::Registry;
use proptest::prelude::*;

const PARTITIONS: [Partition; 3] = [Partition::room(0), Partition::room(1), Partition::user(0)];
const WORKERS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
enum Op {
    /// Records come.
    Append { partition: usize, records: u32 },
    /// A partition goes from whoever has it to a worker, or to nobody.
    Move { partition: usize, to: Option<usize> },
    /// The group gives a partition to another worker before the one that has it knows.
    Lose { partition: usize, to: usize },
    /// All of a worker's partitions are taken and given back, as a rebalance does.
    Rebalance { worker: usize },
    /// A process dies without a commit and comes back, and gets its partitions again.
    Crash { worker: usize },
}

fn op() -> impl Strategy<Value = Op> {
    let (partition, worker) = (0..PARTITIONS.len(), 0..WORKERS);
    prop_oneof![
        4 => (partition.clone(), 1_u32..200).prop_map(|(partition, records)| Op::Append { partition, records }),
        4 => (partition.clone(), prop::option::weighted(0.8, worker.clone())).prop_map(|(partition, to)| Op::Move { partition, to }),
        2 => (partition, worker.clone()).prop_map(|(partition, to)| Op::Lose { partition, to }),
        2 => worker.clone().prop_map(|worker| Op::Rebalance { worker }),
        1 => worker.prop_map(|worker| Op::Crash { worker }),
    ]
}

/// The processes, and a group coordinator that counts generations for all of them.
struct World<'d> {
    dir: &'d Path,
    log: Arc<EmbeddedLog>,
    workers: Vec<Worker>,
    owner: BTreeMap<Partition, usize>,
    generation: u64,
    /// What the reader beside looks at.
    stores: Arc<Mutex<Vec<Stores>>>,
}

fn process(dir: &Path, log: &Arc<EmbeddedLog>, number: usize) -> Worker {
    let options = WorkerOptions {
        threads: 2,
        commit_interval: Duration::from_millis(2),
        park: Duration::from_millis(if number == 0 { 0 } else { 30_000 }),
        ..WorkerOptions::new(dir.join(format!("worker-{number}")))
    };
    Worker::start_without_partitions(&options, log.clone(), statistics(), &mut Registry::default()).expect("starts")
}

impl World<'_> {
    fn give(&mut self, partitions: &[Partition], worker: usize) {
        self.generation += 1;
        self.workers[worker].assignments().assign(partitions, self.generation, None);
        self.owner.extend(partitions.iter().map(|&p| (p, worker)));
    }

    fn take(&mut self, partitions: &[Partition], worker: usize, lost: bool) {
        self.workers[worker].assignments().revoke(partitions, lost);
        for &partition in partitions {
            let read = self.workers[worker].stores().read(partition, |_| ());
            assert_eq!(read, Err(Unavailable::NotMine(partition)));
        }
    }

    fn owned(&self, worker: usize) -> Vec<Partition> {
        self.owner.iter().filter(|(_, owner)| **owner == worker).map(|(&partition, _)| partition).collect()
    }

    fn run(&mut self, op: &Op, ingest: &mut Ingest, number: &mut u32) {
        match *op {
            Op::Append { partition, records } => {
                let partition = PARTITIONS[partition];
                let records: Vec<Vec<u8>> = (0..records)
                    .map(|n| {
                        *number += 1;
                        let kind = if n % 3 == 0 { Kind::After } else { Kind::Before };
                        let (room, user) = (format!("room_{}", n % 5), format!("user_{}", n % 11));
                        let at = START_MS + i64::from(*number) * 50;
                        ingest.stamp(partition, message(kind, &room, &user, *number, at))
                    })
                    .collect();
                append(self.log.as_ref(), partition, &records);
            }
            Op::Move { partition, to } => {
                let partition = PARTITIONS[partition];
                if let Some(from) = self.owner.remove(&partition) {
                    self.take(&[partition], from, false);
                }
                if let Some(to) = to {
                    self.give(&[partition], to);
                }
            }
            Op::Lose { partition, to } => {
                let partition = PARTITIONS[partition];
                let from = self.owner.get(&partition).copied();
                if from != Some(to) {
                    self.give(&[partition], to);
                    if let Some(from) = from {
                        self.take(&[partition], from, true);
                    }
                }
            }
            Op::Rebalance { worker } => {
                let partitions = self.owned(worker);
                self.take(&partitions, worker, false);
                self.give(&partitions, worker);
            }
            Op::Crash { worker } => {
                drop(self.workers.remove(worker));
                let again = process(self.dir, &self.log, worker);
                self.stores.lock().unwrap_or_else(PoisonError::into_inner)[worker] = again.stores();
                self.workers.insert(worker, again);
                let partitions = self.owned(worker);
                self.give(&partitions, worker);
            }
        }
    }
}

/// Reads everywhere all the time; who answered under which generation, and how far it was.
fn look(stores: &Mutex<Vec<Stores>>, stop: &AtomicBool) -> BTreeMap<(Partition, u64), usize> {
    let mut mine: BTreeMap<(Partition, u64), usize> = BTreeMap::new();
    let mut reached: BTreeMap<(Partition, u64), u64> = BTreeMap::new();
    while !stop.load(Ordering::Acquire) {
        let all = stores.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (worker, stores) in all.iter().enumerate() {
            for partition in PARTITIONS {
                let Ok((generation, next)) = stores.read(partition, |s| (s.generation(), s.next_offset().0)) else {
                    continue;
                };
                let first = *mine.entry((partition, generation)).or_insert(worker);
                assert_eq!(first, worker, "{partition} was two processes' under generation {generation}");
                let before = reached.insert((partition, generation), next).unwrap_or(0);
                assert!(before <= next, "{partition} went back from {before} to {next}");
            }
        }
    }
    mine
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn any_moves_end_with_the_state_of_a_clean_replay(ops in prop::collection::vec(op(), 1..40)) {
        let dir = tempfile::tempdir().expect("a directory");
        let log = open_log(&dir.path().join("log"));
        let workers: Vec<Worker> = (0..WORKERS).map(|n| process(dir.path(), &log, n)).collect();
        let stores = Arc::new(Mutex::new(workers.iter().map(Worker::stores).collect::<Vec<_>>()));
        let mut world =
            World { dir: dir.path(), log: log.clone(), workers, owner: BTreeMap::new(), generation: 0, stores: stores.clone() };
        let stop = Arc::new(AtomicBool::new(false));
        let looking = std::thread::spawn({
            let stop = stop.clone();
            move || look(&stores, &stop)
        });
        let (mut ingest, mut number) = (Ingest::new(1), 0);
        for op in &ops {
            world.run(op, &mut ingest, &mut number);
        }
        for partition in PARTITIONS {
            if !world.owner.contains_key(&partition) {
                world.give(&[partition], 0);
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let mut hashes = BTreeMap::new();
        for (&partition, &worker) in &world.owner {
            let stores = world.workers[worker].stores();
            if log.end(partition).0 > 0 {
                let position = Position { partition, offset: last(log.as_ref(), partition) };
                until_there(&runtime, &stores, position);
            }
            let status = stores.status().into_iter().find(|s| s.partition == partition).expect("it is its owner");
            hashes.insert(partition, (status.state_hash, status.store_hash, status.offset));
        }
        stop.store(true, Ordering::Release);
        looking.join().expect("every read was right");
        for worker in world.workers {
            worker.stop().expect("stops");
        }

        let options = WorkerOptions::new(dir.path().join("clean"));
        let clean = Worker::start(&options, log.clone(), statistics(), &mut Registry::default()).expect("starts");
        for (partition, lived) in hashes {
            if log.end(partition).0 == 0 {
                continue;
            }
            let position = Position { partition, offset: last(log.as_ref(), partition) };
            until_there(&runtime, &clean.stores(), position);
            let status = clean.stores().status().into_iter().find(|s| s.partition == partition).expect("all are its");
            prop_assert_eq!((status.state_hash, status.store_hash, status.offset), lived, "{}", partition);
        }
        clean.stop().expect("stops");
    }
}

/// Waits, also for the store to be opened.
fn until_there(runtime: &tokio::runtime::Runtime, stores: &Stores, position: Position) {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        match runtime.block_on(stores.wait_for(position, PATIENCE)) {
            Ok(()) => return,
            Err(Unavailable::Starting(_)) if std::time::Instant::now() < deadline => std::thread::yield_now(),
            Err(error) => panic!("{position}: {error}"),
        }
    }
}
