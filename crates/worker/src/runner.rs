//! One partition on its thread: reads what is new, commits in time, rebuilds beside when asked.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use barrage_event::{Offset, Partition};
use barrage_log::EventLog;
use barrage_state::PartitionDir;

use crate::budget::BudgetPart;
use crate::common::Common;
use crate::engine::{Applied, Engine, Stop, panic_text};
use crate::fault;
use crate::homes::OpenStore;
use crate::metrics::PartitionLabels;
use crate::rebuild::{Rebuild, same, say_given_up, say_progress};
use crate::sending::Sender;
use crate::shared::Shared;

mod opening;

use opening::Opening;
pub(crate) use opening::Waiting;

/// Bytes of records that one step reads at most before other partitions of the thread have their turn.
const STEP_BYTES: usize = 1 << 20;
/// How long a store that is closed waits for its last reads.
const READS_WAITED_FOR: Duration = Duration::from_secs(2);

/// A partition of this process.
pub(crate) struct Runner {
    common: Arc<Common>,
    shared: Arc<Shared>,
    dir: PartitionDir,
    engine: Option<Engine>,
    /// What the engine's rows may take.
    memory: BudgetPart,
    rebuild: Option<Rebuild>,
    dirty_since: Option<Instant>,
    parked_since: Option<Instant>,
    /// What is waited for, for as long as there is no store.
    opening: Option<Opening>,
    waiting: Waiting,
    sender: Sender,
    labels: PartitionLabels,
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// There may be more to do at once.
    Busy,
    /// Everything that can be had is applied; changes may wait for their commit.
    Idle,
    /// The partition has stopped, or is parked.
    Stopped,
}

impl Runner {
    pub(crate) fn new(common: Arc<Common>, shared: Arc<Shared>) -> Self {
        let partition = shared.partition;
        common.metrics.start(partition);
        let dir = PartitionDir::new(&common.state_dir, partition);
        let labels = partition.into();
        let memory = common.overlay.part();
        Self {
            common,
            shared,
            dir,
            engine: None,
            memory,
            rebuild: None,
            dirty_since: None,
            parked_since: None,
            opening: None,
            waiting: Waiting::default(),
            sender: Sender::default(),
            labels,
        }
    }

    /// Whether an acknowledgement is waited for that ends no wait for the log.
    pub(crate) fn is_sending(&self) -> bool {
        self.sender.is_waiting()
    }

    fn partition(&self) -> Partition {
        self.shared.partition
    }

    /// Next record to apply; `None` when there is no store to apply it to.
    pub(crate) fn next_offset(&self) -> Option<Offset> {
        self.engine.as_ref().map(Engine::next_offset)
    }

    pub(crate) fn parked_since(&self) -> Option<Instant> {
        self.parked_since
    }

    /// Whether no read holds the store of a parked partition, but only its engine and its home. One that is closed under a reader could not be opened again until the reader is
    /// done.
    pub(crate) fn is_unread(&self) -> bool {
        self.engine.as_ref().is_none_or(|engine| Arc::strong_count(engine.store()) <= 2)
    }

    /// The partition was taken away: commits, gives up what is only worth its while for an owner, and keeps the store
    /// open. `None` when there is no store to keep.
    pub(crate) fn park(&mut self) -> Option<OpenStore> {
        if self.parked_since.is_none() {
            self.opening = None;
            self.waiting = Waiting::default();
            self.give_up_rebuild("the partition was taken away");
            self.guarded(Self::commit);
            self.common.metrics.forget(&self.labels);
            self.sender = Sender::default();
            self.parked_since = Some(Instant::now());
        }
        let engine = self.engine.as_ref()?;
        Some(OpenStore { store: Arc::clone(engine.store()), committed: engine.committed().clone() })
    }

    /// The partition is back under another assignment.
    pub(crate) fn resume(&mut self, shared: Arc<Shared>, waiting: Waiting) {
        self.shared = shared;
        self.parked_since = None;
        self.common.metrics.start(self.partition());
        match &self.engine {
            Some(engine) => {
                // One that was parked in time was opened when it was given back; one that came back earlier was not.
                if !self.shared.is_open() {
                    let log = self.common.log.as_ref();
                    self.shared.open_behind(engine.store(), engine.committed(), log, log.ask_ends());
                }
                self.waiting = waiting;
                self.tell();
            }
            None => self.open(waiting),
        }
    }

    fn stop(&mut self, error: &Stop) {
        tracing::error!(partition = %self.partition(), %error, "the partition has stopped");
        self.shared.stop(error.to_string());
        self.common.metrics.stopped.get_or_create(&self.labels).set(1);
        self.opening = None;
        self.dirty_since = None;
        self.sender = Sender::default();
        self.give_up_rebuild("the partition has stopped");
        if let Some(engine) = self.engine.take() {
            let_go(engine);
            self.memory.settle(0);
        }
        self.tell();
    }

    /// Whatever happens in there, the other partitions of the thread go on: an error or a panic stops this one.
    fn guarded<R>(&mut self, what: impl FnOnce(&mut Self) -> Result<R, Stop>) -> Option<R> {
        caught(|| what(self)).inspect_err(|error| self.stop(error)).ok()
    }

    /// When changes have waited long enough for their commit; `None` when there are none.
    pub(crate) fn commit_due(&self) -> Option<Instant> {
        self.dirty_since.map(|since| since + self.common.commit_interval)
    }

    pub(crate) fn step(&mut self) -> Step {
        self.guarded(Self::try_step).unwrap_or(Step::Stopped)
    }

    fn try_step(&mut self) -> Result<Step, Stop> {
        if let Some(opening) = self.opening.take() {
            return self.step_opening(opening);
        }
        let Some(engine) = self.engine.as_mut().filter(|_| self.parked_since.is_none()) else {
            return Ok(Step::Stopped);
        };
        let before = engine.next_offset();
        let Read { mut commit, again } = read(engine, self.common.log.as_ref(), None)?;
        self.sender.step(engine, &self.common)?;
        let moved = engine.next_offset() != before || engine.is_dirty();
        if moved && self.dirty_since.is_none() {
            self.dirty_since = Some(Instant::now());
        }
        // A log that has not fetched yet what it knows to be there gives nothing; it tells when it has.
        let more = again
            || engine.next_offset() != before && engine.next_offset() < self.common.log.end(self.shared.partition);
        if moved {
            let waited = self.dirty_since.map_or(Duration::ZERO, |since| since.elapsed());
            commit |= engine.wants_commit(waited, self.common.commit_interval, more, self.common.overlay_share())
                || self.shared.commit_wanted.swap(false, Ordering::Relaxed);
        }
        if commit {
            self.commit()?;
        }
        self.let_reads_in()?;
        self.update_lag();
        if self.rebuild.is_none() && self.shared.rebuild_wanted.load(Ordering::Acquire) {
            self.start_rebuild();
        }
        if self.rebuild.is_some() {
            self.step_rebuild()?;
            return Ok(Step::Busy);
        }
        Ok(if more { Step::Busy } else { Step::Idle })
    }

    fn commit(&mut self) -> Result<(), Stop> {
        let Some(engine) = &mut self.engine else { return Ok(()) };
        let before = engine.committed().clone();
        let start = Instant::now();
        let (made, taken) = engine.outgoing_touched();
        let place = |made_at, taken_at| {
            if made {
                fault::place(made_at);
            }
            if taken {
                fault::place(taken_at);
            }
        };
        place(fault::BEFORE_COMMIT, fault::BEFORE_TAKEN_COMMIT);
        engine.commit(self.memory.settle(engine.bytes()))?;
        place(fault::AFTER_COMMIT, fault::AFTER_TAKEN_COMMIT);
        self.memory.settle(engine.bytes());
        self.sender.committed();
        self.dirty_since = None;
        self.common.metrics.commit_seconds.observe(start.elapsed().as_secs_f64());
        let after = engine.committed().clone();
        self.common.metrics.count(self.shared.partition, &before, &after);
        self.common.metrics.show(&self.labels, &after, engine.bytes());
        let outgoing = engine.outgoing();
        self.common.metrics.show_outgoing(&self.labels, outgoing);
        // First, so that nobody sees all records applied and nothing on its way when there is.
        self.shared.with_status(|status| status.outgoing = outgoing);
        self.shared.publish(&after);
        Ok(())
    }

    /// Lets reads in when the log's end is reached, and does not leave them waiting for the commit.
    fn let_reads_in(&mut self) -> Result<(), Stop> {
        let Some(engine) = &self.engine else { return Ok(()) };
        let (next, log) = (engine.next_offset().0, self.common.log.as_ref());
        let wanted = self.shared.look_whether_caught_up(log, engine.committed().next_offset);
        if wanted.is_some_and(|end| end <= next) {
            self.commit()?;
            self.shared.look_whether_caught_up(self.common.log.as_ref(), next);
        }
        Ok(())
    }

    fn update_lag(&self) {
        let Some(engine) = &self.engine else { return };
        let end = self.common.log.end(self.partition()).0;
        let lag = end.saturating_sub(engine.committed().next_offset);
        self.common.metrics.lag.get_or_create(&self.labels).set(i64::try_from(lag).unwrap_or(i64::MAX));
    }

    /// Starts the rebuild that is wanted, as soon as it is its turn.
    fn start_rebuild(&mut self) {
        let Some(turn) = self.common.rebuilds.take() else { return };
        self.shared.rebuild_wanted.store(false, Ordering::Release);
        let made = self.dir.next().map_err(Stop::from).and_then(|dir| {
            let (mut engine, _) = self.open_engine(&dir)?;
            if let Some(live) = &self.engine {
                engine.set_outgoing_floor(live.first_unsent()?);
            }
            Ok(Rebuild { engine, dir, memory: self.common.overlay.part(), _turn: turn })
        });
        match made {
            Ok(rebuild) => {
                tracing::info!(partition = %self.partition(), dir = %rebuild.dir.path.display(), "rebuild started");
                self.rebuild = Some(rebuild);
            }
            Err(error) => self.fail_rebuild(&error),
        }
    }

    fn fail_rebuild(&mut self, error: &Stop) {
        tracing::error!(partition = %self.partition(), %error, "the rebuild failed; the live state is kept");
        say_given_up(&self.shared, &error.to_string());
        self.give_up_rebuild("it failed");
    }

    /// Ends a rebuild under way, if there is one, and removes what it has made.
    fn give_up_rebuild(&mut self, why: &str) {
        let wanted = self.shared.rebuild_wanted.swap(false, Ordering::AcqRel);
        let begun = self.rebuild.take().is_some();
        if wanted || begun {
            tracing::info!(partition = %self.partition(), why, "the rebuild was given up");
            say_given_up(&self.shared, why);
        }
        if !begun {
            return;
        }
        if let Err(error) = self.dir.clean() {
            tracing::warn!(partition = %self.partition(), %error, "the given-up rebuild could not be removed");
        }
    }

    fn step_rebuild(&mut self) -> Result<(), Stop> {
        let (Some(rebuild), Some(live)) = (&mut self.rebuild, &self.engine) else { return Ok(()) };
        let end = live.next_offset();
        let stepped = caught(|| rebuild.step(self.common.log.as_ref(), end, self.common.overlay_share()));
        say_progress(&self.shared, rebuild.engine.next_offset(), end);
        match stepped {
            Ok(true) => self.swap(),
            Ok(false) => Ok(()),
            Err(error) => {
                self.fail_rebuild(&error);
                Ok(())
            }
        }
    }

    /// At equal offset: the rebuilt store becomes the live one.
    fn swap(&mut self) -> Result<(), Stop> {
        self.commit()?;
        let (Some(mut rebuild), Some(live)) = (self.rebuild.take(), self.engine.take()) else { return Ok(()) };
        rebuild.engine.forget_outgoing_below(live.first_unsent()?)?;
        let (same, new) = (same(&live, &rebuild.engine), rebuild.engine.committed());
        self.dir.set_current(&rebuild.dir)?;
        tracing::info!(
            partition = %self.shared.partition, offset = new.next_offset, same, state_hash = %new.state_hash_value(),
            "the rebuilt state is in use"
        );
        let outgoing = rebuild.engine.outgoing();
        self.common.metrics.show_outgoing(&self.labels, outgoing);
        self.shared.with_status(|status| status.outgoing = outgoing);
        self.shared.replace(rebuild.engine.store(), new);
        self.shared.with_status(|status| {
            if let Some(progress) = &mut status.rebuild {
                progress.done = true;
                progress.hashes_match = Some(same);
            }
        });
        self.engine = Some(rebuild.engine);
        self.memory = rebuild.memory;
        self.sender = Sender::default();
        // Readers may hold the old store a moment longer; its files go when the last one is done, since the directory
        // entry is all that is removed here.
        drop(live);
        if let Err(error) = self.dir.clean() {
            tracing::warn!(partition = %self.shared.partition, %error, "the old state could not be removed");
        }
        Ok(())
    }

    /// Closes the store; with `commit` what is applied is committed first, else read again at the next start.
    pub(crate) fn close(mut self, commit: bool) -> Result<(), Stop> {
        let parked = self.parked_since.is_some();
        if commit && !parked {
            caught(|| self.commit())?;
        }
        if !parked {
            self.shared.stop("the server is stopping".to_owned());
        }
        let Some(engine) = self.engine.take() else { return Ok(()) };
        let flushed = if commit { engine.store().flush() } else { Ok(()) };
        let_go(engine);
        Ok(flushed?)
    }
}

/// A panic is a defect of the program, told like any other reason to stop.
fn caught<R>(what: impl FnOnce() -> Result<R, Stop>) -> Result<R, Stop> {
    // What was in the middle of something is not used again: whoever asks stops the partition.
    let done = catch_unwind(AssertUnwindSafe(what));
    done.unwrap_or_else(|panic| Err(Stop::Defect(format!("it panicked: {}", panic_text(panic.as_ref())))))
}

/// Closes a store to which no read comes any more. Reads that have begun are waited for, within reason: a store that one
/// still holds could not be opened again in this process.
fn let_go(engine: Engine) {
    let store = Arc::clone(engine.store());
    drop(engine);
    let begun = Instant::now();
    while Arc::strong_count(&store) > 1 && begun.elapsed() < READS_WAITED_FOR {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What one read of the log came to.
pub(crate) struct Read {
    /// A commit is wanted at once.
    pub(crate) commit: bool,
    /// The engine went back: the same records come again.
    pub(crate) again: bool,
}

/// Applies what one step may read.
pub(crate) fn read(engine: &mut Engine, log: &dyn EventLog, until: Option<Offset>) -> Result<Read, Stop> {
    let from = engine.next_offset();
    let mut stop: Option<Stop> = None;
    let (mut commit, mut again) = (false, false);
    if until.is_some_and(|until| from >= until) {
        return Ok(Read { commit, again });
    }
    log.read(engine.partition(), from, STEP_BYTES, &mut |record| match engine.apply(&record) {
        Ok(Applied::Next) if until.is_some_and(|until| record.offset.next() >= until) => ControlFlow::Break(()),
        Ok(Applied::Next) => ControlFlow::Continue(()),
        Ok(Applied::Rewound) => {
            again = true;
            ControlFlow::Break(())
        }
        Ok(Applied::Commit) => {
            commit = true;
            ControlFlow::Break(())
        }
        Err(error) => {
            stop = Some(error);
            ControlFlow::Break(())
        }
    })?;
    stop.map_or(Ok(Read { commit, again }), Err)
}
