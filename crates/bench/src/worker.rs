//! The partition workers: records of a prepared log through the engines of all its partitions, on one thread.
//!
//! The thread does what the worker's threads do, step by step in turn, and commits when they would. One thread's
//! processor time is what a core can do; what `RocksDB`'s own threads add is told apart.

use std::hint::black_box;
use std::ops::{AddAssign, ControlFlow};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use barrage_event::{EnvelopeView, Offset, Partition, Topic};
use barrage_log::{EmbeddedLog, EventLog, Metrics};
use barrage_state::{PartitionDir, StateEnv, StateOptions, StoreDir};
use barrage_worker::{Applied, BudgetPart, Engine, OverlayBudget};

use crate::clock::{Spent, Stopwatch};
use crate::prepare::{self, log_options};
use crate::report::{Aim, Report};
use crate::traffic::Crowd;

/// As in the worker: bytes a step, time between commits.
const STEP_BYTES: usize = 1 << 20;
const COMMIT_INTERVAL: Duration = Duration::from_millis(100);

/// The default of the worker's options.
const OVERLAY_BYTES: usize = 160 << 20;
/// Far less than the cold rows need.
const COLD_OVERLAY_BYTES: usize = 32 << 20;

/// The cold rows are made in so many steps, and given up after this time: a state store that slows down as it grows
/// must not hold up everything else.
const FILL_SLICES: u64 = 10;
const FILL_TIME_MAX: Duration = Duration::from_secs(100);

/// What one way through a log took.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pass {
    records: u64,
    spent: Spent,
    /// Processor time of the thread inside commits.
    commits: Duration,
    commit_count: u32,
}

impl Pass {
    fn per_second(&self) -> f64 {
        self.records as f64 / self.spent.thread.as_secs_f64()
    }

    pub(crate) fn ns(&self) -> f64 {
        self.spent.thread.as_secs_f64() * 1e9 / self.records as f64
    }

    fn commit_ns(&self) -> f64 {
        self.commits.as_secs_f64() * 1e9 / self.records as f64
    }
}

impl AddAssign for Pass {
    fn add_assign(&mut self, more: Self) {
        self.records += more.records;
        self.spent += more.spent;
        self.commits += more.commits;
        self.commit_count += more.commit_count;
    }
}

/// How engines are set up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    /// How many of the statistics, in their order.
    pub(crate) statistics: usize,
    pub(crate) wal: bool,
    pub(crate) overlay_bytes: usize,
}

impl Setup {
    /// The worker's defaults.
    pub(crate) const HOT: Self = Self { statistics: usize::MAX, wal: true, overlay_bytes: OVERLAY_BYTES };
}

/// Reports the worker.
pub(crate) fn run(report: &mut Report, dir: &Path) -> Result<()> {
    hot(report, &dir.join("hot"))?;
    cold(report, &dir.join("cold"))
}

pub(crate) fn open(dir: &Path, partitions: u16) -> Result<Arc<dyn EventLog>> {
    Ok(Arc::new(EmbeddedLog::open(&dir.join("log"), &log_options(partitions), Metrics::default())?))
}

fn hot(report: &mut Report, dir: &Path) -> Result<()> {
    let records = if report.quick() { 150_000 } else { 1_000_000 };
    report.section("worker", "records of a prepared log through all statistics, one thread, four and four partitions");
    let prepared = prepare::mixed(dir, 4, Crowd::HOT, records)?;
    report.note(&format!("hot: {} records of 200 rooms and 20,000 accounts", prepared.records));
    let log = open(dir, 4)?;
    // The first way through brings the files into the page cache.
    read_only(log.as_ref(), false)?;
    let read = read_only(log.as_ref(), false)?;
    let decoded = read_only(log.as_ref(), true)?;
    let setup = Setup::HOT;
    let bare = engines(dir, "bare", &log, Setup { statistics: 0, ..setup })?.finish()?;
    let full = engines(dir, "full", &log, setup)?.finish()?;
    let without = engines(dir, "no-wal", &log, Setup { wal: false, ..setup })?.finish()?;
    report.aimed("hot, per core", full.per_second(), "records/s", Aim::AtLeast(200_000.0));
    report.figure("hot, per core, WAL off", without.per_second(), "records/s");
    report.figure("hot, WAL off to on", without.per_second() / full.per_second(), "times");
    report.figure("hot, RocksDB's own threads", background_ns(&full), "ns");
    report.figure("hot, a record", full.ns(), "ns");
    report.figure("hot, read and walk", read.ns(), "ns");
    report.figure("hot, decode", decoded.ns() - read.ns(), "ns");
    report.figure("hot, numbering, duplicates", bare.ns() - bare.commit_ns() - decoded.ns(), "ns");
    let projection = (full.ns() - full.commit_ns()) - (bare.ns() - bare.commit_ns());
    report.figure("hot, projection", projection, "ns");
    report.figure("hot, commit", full.commit_ns(), "ns");
    report.figure("hot, commit of the duplicate window alone", bare.commit_ns(), "ns");
    report.figure("hot, commits", f64::from(full.commit_count), "");
    Ok(())
}

fn cold(report: &mut Report, dir: &Path) -> Result<()> {
    let (crowd, records) = if report.quick() { (Crowd::COLD_QUICK, 50_000) } else { (Crowd::COLD, 500_000) };
    let cold = prepare::cold(dir, crowd, records)?;
    let measured = cold.records - cold.rooms_before - cold.users_before;
    report.note(&format!(
        "cold: {measured} records over {} (room, account) pairs whose rows are there already, of {} rooms and {} \
         accounts; one and one partition, overlay {} MiB",
        crowd.pairs,
        crowd.rooms,
        crowd.users,
        COLD_OVERLAY_BYTES >> 20
    ));
    let log = open(dir, 1)?;
    let setup = Setup { overlay_bytes: COLD_OVERLAY_BYTES, ..Setup::HOT };
    let mut engines = engines(dir, "full", &log, setup)?;
    let begun = Instant::now();
    let mut filled = Pass::default();
    for slice in 1..=FILL_SLICES {
        let share = |records: u64| Offset(records * slice / FILL_SLICES);
        engines.run_to(|partition| match partition.topic {
            Topic::Room => share(cold.rooms_before),
            Topic::User => share(cold.users_before),
        })?;
        filled = std::mem::take(&mut engines.pass);
        if begun.elapsed() > FILL_TIME_MAX {
            report.note(&format!("making the rows took too long; shown is slice {slice} of {FILL_SLICES} of that"));
            report.aimed("cold, per core", filled.per_second(), "records/s", Aim::AtLeast(50_000.0));
            return Ok(());
        }
    }
    let pass = engines.finish()?;
    report.aimed("cold, per core", pass.per_second(), "records/s", Aim::AtLeast(50_000.0));
    report.figure("cold, a record", pass.ns(), "ns");
    report.figure("cold, commit", pass.commit_ns(), "ns");
    report.figure("cold, RocksDB's own threads", background_ns(&pass), "ns");
    report.figure("cold, while the last pairs are new", filled.per_second(), "records/s");
    Ok(())
}

/// Processor time a record of the process beside the thread.
fn background_ns(pass: &Pass) -> f64 {
    pass.spent.process.saturating_sub(pass.spent.thread).as_secs_f64() * 1e9 / pass.records as f64
}

/// Reads every partition to its end, and decodes each record when asked to.
fn read_only(log: &dyn EventLog, decode: bool) -> Result<Pass> {
    let mut pass = Pass::default();
    let watch = Stopwatch::start();
    let mut next: Vec<(Partition, Offset)> = log.all_partitions().into_iter().map(|p| (p, Offset(0))).collect();
    while next.iter().any(|(partition, next)| *next < log.end(*partition)) {
        for (partition, next) in &mut next {
            *next = log.read(*partition, *next, STEP_BYTES, &mut |record| {
                pass.records += 1;
                if decode {
                    black_box(EnvelopeView::decode(record.bytes).is_ok());
                } else {
                    black_box(record.bytes.len());
                }
                ControlFlow::Continue(())
            })?;
        }
    }
    pass.spent = watch.spent();
    Ok(pass)
}

/// The engines of all partitions and how far they are.
pub(crate) struct Engines {
    log: Arc<dyn EventLog>,
    engines: Vec<(Engine, Option<Instant>, BudgetPart)>,
    /// An equal part of the overlays' memory for each.
    overlay_share: usize,
    stores: Vec<(Partition, StoreDir)>,
    setup: Setup,
    pass: Pass,
}

/// On stores that are made anew.
pub(crate) fn engines(dir: &Path, name: &str, log: &Arc<dyn EventLog>, setup: Setup) -> Result<Engines> {
    let state = dir.join(name);
    let mut stores = Vec::new();
    for partition in log.all_partitions() {
        stores.push((partition, PartitionDir::new(&state, partition).next()?));
    }
    Engines::open(Arc::clone(log), stores, setup)
}

impl Engines {
    fn open(log: Arc<dyn EventLog>, stores: Vec<(Partition, StoreDir)>, setup: Setup) -> Result<Self> {
        let mut statistics = barrage::statistics::statistics();
        statistics.truncate(setup.statistics);
        let statistics = Arc::new(statistics);
        let env = StateEnv::new(StateOptions { wal: setup.wal, ..StateOptions::default() });
        let overlay = OverlayBudget::new(setup.overlay_bytes);
        let overlay_share = overlay.bytes() / stores.len();
        let mut engines = Vec::new();
        for (partition, store) in &stores {
            let (engine, _) = Engine::open(&env, store, *partition, log.as_ref(), &statistics)?;
            engines.push((engine, None, overlay.part()));
        }
        Ok(Self { log, engines, overlay_share, stores, setup, pass: Pass::default() })
    }

    /// On the same stores, as a process has them that has just begun.
    pub(crate) fn opened_again(self) -> Result<Self> {
        let Self { log, engines, stores, setup, .. } = self;
        drop(engines);
        Self::open(log, stores, setup)
    }

    /// Applies the records of each partition up to this offset, but not beyond its end, and commits.
    fn run_to(&mut self, until: impl Fn(Partition) -> Offset) -> Result<()> {
        self.apply_to(until)?;
        let watch = Stopwatch::start();
        for place in 0..self.engines.len() {
            self.commit(place)?;
        }
        self.pass.spent += watch.spent();
        Ok(())
    }

    /// The same, but commits when the worker would and not at the end.
    fn apply_to(&mut self, until: impl Fn(Partition) -> Offset) -> Result<()> {
        let watch = Stopwatch::start();
        let mut busy = true;
        while busy {
            busy = false;
            for place in 0..self.engines.len() {
                let until = until(self.engines[place].0.partition());
                busy |= self.step(place, until)?;
            }
        }
        self.pass.spent += watch.spent();
        Ok(())
    }

    /// How far each partition is after about this many records of all.
    fn share(&self, records: u64) -> impl Fn(Partition) -> Offset + use<> {
        let log = Arc::clone(&self.log);
        let ends: u64 = log.all_partitions().into_iter().map(|partition| log.end(partition).0).sum();
        move |partition| Offset((log.end(partition).0 as f64 * records as f64 / ends as f64) as u64)
    }

    /// Goes on to about this many records over all partitions and commits; what that took since it was asked last.
    pub(crate) fn run_records(&mut self, records: u64) -> Result<Pass> {
        self.run_to(self.share(records))?;
        Ok(std::mem::take(&mut self.pass))
    }

    /// Reads what comes next up to about this many records over all partitions, without applying it: then it lies as near as
    /// records that were written just now, or were read by somebody else.
    pub(crate) fn look_at_records(&self, records: u64) -> Result<()> {
        let until = self.share(records);
        for (engine, ..) in &self.engines {
            let partition = engine.partition();
            let (mut next, end) = (engine.next_offset(), until(partition).min(self.log.end(partition)));
            while next < end {
                next = self.log.read(partition, next, STEP_BYTES, &mut |record| {
                    black_box(record.bytes.len());
                    if record.offset.next() < end { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
                })?;
            }
        }
        Ok(())
    }

    /// What was done so far does not count.
    pub(crate) fn forget_cost(&mut self) {
        self.pass = Pass::default();
    }

    /// Goes on to about this many records over all partitions.
    pub(crate) fn apply_records(&mut self, records: u64) -> Result<()> {
        self.apply_to(self.share(records))
    }

    pub(crate) fn finish(mut self) -> Result<Pass> {
        self.run_to(|_| Offset(u64::MAX))?;
        if let Some((engine, ..)) = self.engines.iter().find(|(e, ..)| e.committed().dead_lettered > 0) {
            bail!("{} has dead letters", engine.partition());
        }
        if let Some((engine, ..)) = self.engines.iter().find(|(e, ..)| e.committed().duplicates > 0) {
            bail!("{} has duplicates, so it did less than it should", engine.partition());
        }
        Ok(self.pass)
    }

    fn step(&mut self, place: usize, until: Offset) -> Result<bool> {
        let (engine, dirty_since, _) = &mut self.engines[place];
        let (partition, from) = (engine.partition(), engine.next_offset());
        let end = until.min(self.log.end(partition));
        if from >= end {
            return Ok(false);
        }
        let mut stop = None;
        self.log.read(partition, from, STEP_BYTES, &mut |record| match engine.apply(&record) {
            Ok(Applied::Next) if record.offset.next() < end => ControlFlow::Continue(()),
            Ok(_) => ControlFlow::Break(()),
            Err(error) => {
                stop = Some(error);
                ControlFlow::Break(())
            }
        })?;
        if let Some(error) = stop {
            return Err(error.into());
        }
        self.pass.records += engine.next_offset().0 - from.0;
        let since = *dirty_since.get_or_insert_with(Instant::now);
        let behind = engine.next_offset() < end;
        if engine.wants_commit(since.elapsed(), COMMIT_INTERVAL, behind, self.overlay_share) {
            self.commit(place)?;
        }
        Ok(true)
    }

    fn commit(&mut self, place: usize) -> Result<()> {
        let (engine, dirty_since, memory) = &mut self.engines[place];
        let watch = Stopwatch::start();
        engine.commit(memory.settle(engine.bytes()))?;
        memory.settle(engine.bytes());
        *dirty_since = None;
        self.pass.commits += watch.spent().thread;
        self.pass.commit_count += 1;
        Ok(())
    }
}
