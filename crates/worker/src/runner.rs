//! One partition on its thread: reads what is new, commits in time, rebuilds beside when asked.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use barrage_event::{Offset, Partition};
use barrage_log::EventLog;
use barrage_projection::Statistic;
use barrage_state::{Meta, PartitionDir, StateEnv, StoreDir};

use crate::engine::{Applied, Engine, Fitness, Stop};
use crate::metrics::{Metrics, PartitionLabels};
use crate::stores::{Phase, Shared};

/// Bytes of records that one step reads at most before other partitions of the thread have their turn.
const STEP_BYTES: usize = 1 << 20;
/// Records between commits at most, so that little is read again after a crash.
const COMMIT_RECORDS: u64 = 100_000;

/// What every runner of the process has in common.
pub(crate) struct Common {
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) statistics: Arc<Vec<Box<dyn Statistic>>>,
    pub(crate) env: StateEnv,
    pub(crate) state_dir: std::path::PathBuf,
    pub(crate) metrics: Metrics,
    pub(crate) commit_interval: Duration,
    /// Memory for the rows of one partition, bytes.
    pub(crate) overlay_bytes: usize,
}

struct Rebuild {
    engine: Engine,
    dir: StoreDir,
}

/// A partition of this process.
pub(crate) struct Runner {
    common: Arc<Common>,
    shared: Arc<Shared>,
    dir: PartitionDir,
    engine: Option<Engine>,
    rebuild: Option<Rebuild>,
    dirty_since: Option<Instant>,
    labels: PartitionLabels,
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// There may be more to do at once.
    Busy,
    /// Everything durable is applied; changes may wait for their commit.
    Idle,
    /// The partition has stopped.
    Stopped,
}

impl Runner {
    pub(crate) fn new(common: Arc<Common>, shared: Arc<Shared>) -> Self {
        let partition = shared.partition;
        common.metrics.start(partition);
        let dir = PartitionDir::new(&common.state_dir, partition);
        Self { common, shared, dir, engine: None, rebuild: None, dirty_since: None, labels: partition.into() }
    }

    fn partition(&self) -> Partition {
        self.shared.partition
    }

    /// Opens the store; a new one is made when there is none or the one there is of another format.
    pub(crate) fn open(&mut self) {
        match self.try_open() {
            Ok(engine) => {
                self.shared.set_store(Some(Arc::clone(engine.store())));
                self.shared.publish(engine.committed());
                self.shared.with_status(|status| status.phase = Phase::Live);
                self.engine = Some(engine);
            }
            Err(error) => self.stop(&error),
        }
    }

    fn try_open(&self) -> Result<Engine, Stop> {
        let log = self.common.log.as_ref();
        self.dir.clean()?;
        if let Some(current) = self.dir.current()? {
            let (engine, fitness) = self.open_engine(&current)?;
            if fitness == Fitness::Fits {
                return Ok(engine);
            }
            tracing::warn!(
                partition = %self.partition(),
                "the state was made by another version; it is made anew from the log's start"
            );
        }
        let start = log.start(self.partition());
        if start.0 > 0 {
            return Err(Stop::LogChanged {
                partition: self.partition(),
                problem: format!("starts at offset {start}, and there is no state of what lay before"),
                dir: self.common.state_dir.display().to_string(),
            });
        }
        let fresh = self.dir.next()?;
        let (engine, _) = self.open_engine(&fresh)?;
        self.dir.set_current(&fresh)?;
        self.dir.clean()?;
        Ok(engine)
    }

    fn open_engine(&self, dir: &StoreDir) -> Result<(Engine, Fitness), Stop> {
        let common = &self.common;
        Engine::open(&common.env, dir, self.partition(), common.log.as_ref(), &common.statistics)
    }

    fn stop(&mut self, error: &Stop) {
        tracing::error!(partition = %self.partition(), %error, "the partition has stopped");
        self.shared.with_status(|status| status.phase = Phase::Stopped { error: error.to_string() });
        self.shared.set_store(None);
        self.common.metrics.stopped.get_or_create(&self.labels).set(1);
        self.engine = None;
        self.rebuild = None;
    }

    /// When changes have waited long enough for their commit; `None` when there are none.
    pub(crate) fn commit_due(&self) -> Option<Instant> {
        self.dirty_since.map(|since| since + self.common.commit_interval)
    }

    pub(crate) fn step(&mut self) -> Step {
        match self.try_step() {
            Ok(step) => step,
            Err(error) => {
                self.stop(&error);
                Step::Stopped
            }
        }
    }

    fn try_step(&mut self) -> Result<Step, Stop> {
        let Some(engine) = &mut self.engine else { return Ok(Step::Stopped) };
        let before = engine.next_offset();
        let mut commit = read(engine, self.common.log.as_ref(), None)?;
        let moved = engine.next_offset() != before || engine.uncommitted() > 0;
        if moved && self.dirty_since.is_none() {
            self.dirty_since = Some(Instant::now());
        }
        if moved {
            let waited = self.dirty_since.is_some_and(|since| since.elapsed() >= self.common.commit_interval);
            commit |= waited
                || engine.uncommitted() >= COMMIT_RECORDS
                || engine.dirty_bytes() > self.common.overlay_bytes / 2
                || self.shared.commit_wanted.swap(false, Ordering::Relaxed);
        }
        let caught_up = engine.next_offset() >= self.common.log.end(self.shared.partition);
        if commit {
            self.commit()?;
        }
        self.update_lag();
        if self.shared.rebuild_wanted.swap(false, Ordering::Acquire) {
            self.start_rebuild();
        }
        if self.rebuild.is_some() {
            self.step_rebuild()?;
            return Ok(Step::Busy);
        }
        Ok(if caught_up { Step::Idle } else { Step::Busy })
    }

    fn commit(&mut self) -> Result<(), Stop> {
        let Some(engine) = &mut self.engine else { return Ok(()) };
        let before = engine.committed().clone();
        let start = Instant::now();
        engine.commit(self.common.overlay_bytes)?;
        self.dirty_since = None;
        self.common.metrics.commit_seconds.observe(start.elapsed().as_secs_f64());
        let engine_bytes = engine.bytes();
        let after = engine.committed().clone();
        self.count(&before, &after);
        self.common
            .metrics
            .overlay_bytes
            .get_or_create(&self.labels)
            .set(i64::try_from(engine_bytes).unwrap_or(i64::MAX));
        self.shared.publish(&after);
        Ok(())
    }

    fn count(&self, before: &Meta, after: &Meta) {
        let m = &self.common.metrics;
        let read = after.next_offset - before.next_offset;
        m.commit_rows.inc_by(read);
        m.read.get_or_create(&self.labels).inc_by(read);
        m.applied.get_or_create(&self.labels).inc_by(after.applied - before.applied);
        m.duplicates.get_or_create(&self.labels).inc_by(after.duplicates - before.duplicates);
        m.resent.get_or_create(&self.labels).inc_by(after.resent - before.resent);
        m.dead_lettered.get_or_create(&self.labels).inc_by(after.dead_lettered - before.dead_lettered);
        m.sequence_gaps.get_or_create(&self.labels).inc_by(after.sequence_gaps - before.sequence_gaps);
        if after.dead_lettered > before.dead_lettered {
            tracing::warn!(
                partition = %self.partition(),
                records = after.dead_lettered - before.dead_lettered,
                "records could not be applied; `barrage dead-letters` lists them"
            );
        }
        #[allow(clippy::cast_precision_loss, reason = "a gauge of seconds: microseconds do not matter")]
        m.stream_time.get_or_create(&self.labels).set(after.stream_time as f64 / 1_000.0);
    }

    fn update_lag(&self) {
        let Some(engine) = &self.engine else { return };
        let end = self.common.log.end(self.partition()).0;
        let lag = end.saturating_sub(engine.committed().next_offset);
        self.common.metrics.lag.get_or_create(&self.labels).set(i64::try_from(lag).unwrap_or(i64::MAX));
    }

    fn start_rebuild(&mut self) {
        let made = self.dir.next().map_err(Stop::from).and_then(|dir| {
            let (engine, _) = self.open_engine(&dir)?;
            Ok(Rebuild { engine, dir })
        });
        match made {
            Ok(rebuild) => {
                tracing::info!(partition = %self.partition(), dir = %rebuild.dir.path.display(), "rebuild started");
                self.rebuild = Some(rebuild);
            }
            Err(error) => self.give_up_rebuild(&error),
        }
    }

    /// A rebuild that fails leaves the live store as it is.
    fn give_up_rebuild(&mut self, error: &Stop) {
        tracing::error!(partition = %self.partition(), %error, "the rebuild was given up; the live state is kept");
        self.rebuild = None;
        self.shared.with_status(|status| {
            if let Some(rebuild) = &mut status.rebuild {
                rebuild.error = Some(error.to_string());
            }
        });
        if let Err(error) = self.dir.clean() {
            tracing::warn!(partition = %self.partition(), %error, "the given-up rebuild could not be removed");
        }
    }

    fn step_rebuild(&mut self) -> Result<(), Stop> {
        let (Some(rebuild), Some(live)) = (&mut self.rebuild, &mut self.engine) else { return Ok(()) };
        let end = live.next_offset();
        let result = read(&mut rebuild.engine, self.common.log.as_ref(), Some(end)).and_then(|commit| {
            let engine = &mut rebuild.engine;
            let full = engine.uncommitted() >= COMMIT_RECORDS
                || engine.dirty_bytes() > self.common.overlay_bytes / 2
                || engine.next_offset() >= end;
            if commit || full { engine.commit(self.common.overlay_bytes) } else { Ok(()) }
        });
        let offset = rebuild.engine.next_offset();
        self.shared.with_status(|status| {
            if let Some(progress) = &mut status.rebuild {
                progress.offset = offset;
                progress.end = end;
            }
        });
        if let Err(error) = result {
            self.give_up_rebuild(&error);
            return Ok(());
        }
        if offset >= end { self.swap() } else { Ok(()) }
    }

    /// At equal offset: the rebuilt store becomes the live one.
    fn swap(&mut self) -> Result<(), Stop> {
        self.commit()?;
        let (Some(rebuild), Some(live)) = (self.rebuild.take(), self.engine.take()) else { return Ok(()) };
        let (old, new) = (live.committed(), rebuild.engine.committed());
        let same = old.state_hash == new.state_hash && old.store_hash_value() == new.store_hash_value();
        self.dir.set_current(&rebuild.dir)?;
        tracing::info!(
            partition = %self.shared.partition, offset = new.next_offset, same, state_hash = %new.state_hash_value(),
            "the rebuilt state is in use"
        );
        self.shared.set_store(Some(Arc::clone(rebuild.engine.store())));
        self.shared.publish(new);
        self.shared.with_status(|status| {
            if let Some(progress) = &mut status.rebuild {
                progress.done = true;
                progress.hashes_match = Some(same);
            }
        });
        self.engine = Some(rebuild.engine);
        // Readers may hold the old store a moment longer; its files go when the last one is done, since the directory
        // entry is all that is removed here.
        drop(live);
        if let Err(error) = self.dir.clean() {
            tracing::warn!(partition = %self.shared.partition, %error, "the old state could not be removed");
        }
        Ok(())
    }

    /// Commits what is applied and closes the store.
    pub(crate) fn close(mut self) -> Result<(), Stop> {
        self.commit()?;
        self.shared.set_store(None);
        if let Some(engine) = self.engine.take() {
            engine.store().flush()?;
        }
        Ok(())
    }
}

/// Applies what one step may read; whether a commit is wanted at once.
fn read(engine: &mut Engine, log: &dyn EventLog, until: Option<Offset>) -> Result<bool, Stop> {
    let from = engine.next_offset();
    let mut stop: Option<Stop> = None;
    let mut commit = false;
    if until.is_some_and(|until| from >= until) {
        return Ok(false);
    }
    log.read(engine.partition(), from, STEP_BYTES, &mut |record| match engine.apply(&record) {
        Ok(Applied::Next) if until.is_some_and(|until| record.offset.next() >= until) => ControlFlow::Break(()),
        Ok(Applied::Next) => ControlFlow::Continue(()),
        Ok(Applied::Rewound) => ControlFlow::Break(()),
        Ok(Applied::Commit) => {
            commit = true;
            ControlFlow::Break(())
        }
        Err(error) => {
            stop = Some(error);
            ControlFlow::Break(())
        }
    })?;
    stop.map_or(Ok(commit), Err)
}
