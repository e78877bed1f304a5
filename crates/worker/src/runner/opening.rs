//! How a partition comes to an open store: the one that is here, a snapshot, or the log from its start.
//!
//! What may take long is asked beside the partition's thread, and every step goes on as far as the answers are there: the
//! other partitions of the thread are read meanwhile.

use std::path::Path;
use std::sync::{Arc, mpsc};

use barrage_log::{Follow, ReadError};
use barrage_state::StoreDir;

use super::{Runner, Step};
use crate::checking::Checking;
use crate::engine::{Engine, Fitness, Stop};
use crate::restoring::{Restored, Restoring};

/// Who waits for a store to be open.
#[derive(Default)]
pub(crate) struct Waiting {
    /// Told the next offset then, unless the partition was taken away.
    pub(crate) follow: Option<Arc<dyn Follow>>,
    /// Let go of then, or when it has failed to.
    pub(crate) opened: Option<mpsc::Sender<()>>,
}

/// What a partition without an open store waits for.
pub(super) enum Opening {
    /// The log has to know where the partition ends before anything can be decided.
    End,
    /// Whether the log still holds what this store has seen last.
    Check { engine: Box<Engine>, checking: Checking, then: Then },
    /// A snapshot on its way.
    Restore(Restoring),
}

/// What follows when the log has what a store has seen.
pub(super) enum Then {
    /// A snapshot may be better than this store.
    Decide,
    /// It is gone on with.
    Open,
    /// It was brought, and becomes the one in use.
    Begin(Brought),
}

/// A store that was made of a snapshot, and is not in use yet.
pub(super) struct Brought {
    store: StoreDir,
    next_offset: u64,
    bytes: u64,
}

/// How a step of the opening ended.
enum Next {
    Wait(Opening),
    Open(Box<Engine>),
}

impl Runner {
    /// Opens the store in later steps; a new one is made when there is none or the one there is of another format. Where a
    /// snapshot is much nearer to the log's end, it is brought first.
    pub(crate) fn open(&mut self, waiting: Waiting) {
        self.waiting = waiting;
        self.opening = Some(Opening::End);
    }

    /// Goes on with opening as far as it can without waiting.
    pub(super) fn step_opening(&mut self, opening: Opening) -> Result<Step, Stop> {
        let next = match opening {
            Opening::End if self.common.log.is_end_known(self.partition()) => self.look_at_local()?,
            Opening::Check { engine, checking, then } => match checking.poll() {
                None => Next::Wait(Opening::Check { engine, checking, then }),
                Some(answer) => self.checked(engine, answer, then)?,
            },
            Opening::Restore(restoring) => match restoring.poll(&self.common, self.partition()) {
                Restored::UnderWay => Next::Wait(Opening::Restore(restoring)),
                Restored::Nothing => self.open_from_log()?,
                Restored::Store { dir, next_offset, bytes } => {
                    drop(restoring);
                    self.begin_from(&dir, next_offset, bytes)?
                }
            },
            Opening::End => Next::Wait(Opening::End),
        };
        match next {
            Next::Wait(opening) => self.opening = Some(opening),
            Next::Open(engine) => {
                self.opened(*engine);
                return Ok(Step::Busy);
            }
        }
        Ok(Step::Idle)
    }

    fn opened(&mut self, engine: Engine) {
        self.common.metrics.show_outgoing(&self.labels, engine.outgoing());
        self.shared.with_status(|status| status.outgoing = engine.outgoing());
        if self.waiting.follow.is_some() {
            let log = self.common.log.as_ref();
            self.shared.open_behind(engine.store(), engine.committed(), log, log.ask_ends());
        } else {
            self.shared.open(engine.store(), engine.committed());
        }
        self.engine = Some(engine);
        self.tell();
    }

    /// Tells those who wait that the store is open, or that it will not be.
    pub(super) fn tell(&mut self) {
        if let Some(engine) = &self.engine {
            // Not only at its next commit: a partition that was taken over in a quiet hour is here all the same.
            self.common.metrics.show(&self.labels, engine.committed(), engine.bytes());
        }
        let Waiting { follow, opened } = std::mem::take(&mut self.waiting);
        if let (Some(follow), Some(next)) = (follow, self.next_offset())
            && !self.shared.is_revoked()
        {
            follow.follow(self.partition(), next);
        }
        drop(opened);
    }

    /// Has the log asked whether it still holds what a store has seen.
    fn check(&self, engine: Engine, then: Then) -> Result<Next, Stop> {
        let engine = Box::new(engine);
        let Some(last) = engine.last_seen() else { return self.checked(engine, Ok(()), then) };
        let checking = Checking::start(&self.common.log, last)
            .map_err(|error| Stop::Defect(format!("no thread to ask the log with: {error}")))?;
        Ok(Next::Wait(Opening::Check { engine, checking, then }))
    }

    fn checked(&self, engine: Box<Engine>, answer: Result<(), Stop>, then: Then) -> Result<Next, Stop> {
        let lag_max = self.common.snapshots.as_ref().map(|options| options.restore_lag);
        let decides = match then {
            Then::Begin(brought) => return self.begun(engine, answer, &brought),
            Then::Decide => true,
            Then::Open => false,
        };
        match (answer, lag_max) {
            (Ok(()), Some(lag_max)) if decides => {
                let next = engine.next_offset().0;
                let lag = self.common.log.end(self.partition()).0.saturating_sub(next);
                if lag <= lag_max {
                    return Ok(Next::Open(engine));
                }
                drop(engine);
                self.bring_snapshot(next + lag_max)
            }
            // What comes next for this store was given up; a snapshot must have it.
            (Err(Stop::Read(ReadError::Trimmed { .. })), Some(_)) if decides => {
                drop(engine);
                self.bring_snapshot(0)
            }
            (Ok(()), _) => Ok(Next::Open(engine)),
            (Err(error), _) => Err(error),
        }
    }

    /// Opens what was brought. It is in use when it was compared with the log, not before: the one that is here may be
    /// better.
    fn begin_from(&self, brought: &Path, next_offset: u64, bytes: u64) -> Result<Next, Stop> {
        let store = self.dir.adopt(brought)?;
        match self.open_engine(&store) {
            Ok((engine, _)) => self.check(engine, Then::Begin(Brought { store, next_offset, bytes })),
            Err(error) => self.refuse(&store, error),
        }
    }

    fn begun(&self, engine: Box<Engine>, answer: Result<(), Stop>, brought: &Brought) -> Result<Next, Stop> {
        let Brought { store, next_offset, bytes } = brought;
        if let Err(error) = answer {
            drop(engine);
            return self.refuse(store, error);
        }
        self.dir.set_current(store)?;
        self.dir.clean()?;
        self.common.metrics.snapshots.restored();
        tracing::info!(
            partition = %self.partition(), next_offset, bytes, "begun from a snapshot; the rest is read from the log"
        );
        Ok(Next::Open(engine))
    }

    /// What was brought is of no use; of another log than this one it is no reason to stop.
    fn refuse(&self, store: &StoreDir, error: Stop) -> Result<Next, Stop> {
        self.dir.remove(store)?;
        if !matches!(error, Stop::LogChanged { .. } | Stop::OtherLog { .. }) {
            return Err(error);
        }
        self.common.metrics.snapshots.failed("restore");
        tracing::warn!(partition = %self.partition(), %error, "no snapshot could be brought; the log is read instead");
        self.open_from_log()
    }

    /// Looks for a snapshot above this offset; without one the log is read.
    fn bring_snapshot(&self, above: u64) -> Result<Next, Stop> {
        let Some(options) = &self.common.snapshots else { return self.open_from_log() };
        tracing::info!(partition = %self.partition(), above, place = options.store.url(), "looking for a snapshot");
        match Restoring::start(&self.common, options, self.partition(), above) {
            Ok(restoring) => Ok(Next::Wait(Opening::Restore(restoring))),
            Err(error) => {
                self.common.metrics.snapshots.failed("restore");
                tracing::warn!(partition = %self.partition(), %error, "no thread to bring a snapshot with");
                self.open_from_log()
            }
        }
    }

    /// The store that is here, if it is to be gone on with.
    fn look_at_local(&self) -> Result<Next, Stop> {
        let (log, partition) = (self.common.log.as_ref(), self.partition());
        self.dir.clean()?;
        let lag_max = self.common.snapshots.as_ref().map(|options| options.restore_lag);
        if let Some(current) = self.dir.current()? {
            if let (engine, Fitness::Fits) = self.open_engine(&current)? {
                return self.check(engine, Then::Decide);
            }
        } else if lag_max.is_some_and(|lag_max| log.end(partition).0 <= lag_max) && log.start(partition).0 == 0 {
            return self.open_from_log();
        }
        self.bring_snapshot(0)
    }

    /// Opens the store that is here, however far behind it is, else makes one from the log's start.
    fn open_from_log(&self) -> Result<Next, Stop> {
        let log = self.common.log.as_ref();
        if let Some(current) = self.dir.current()? {
            let (engine, fitness) = self.open_engine(&current)?;
            if fitness == Fitness::Fits {
                return self.check(engine, Then::Open);
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
                problem: format!(
                    "starts at offset {start}, and there is neither state nor a snapshot of what lay before"
                ),
                dir: self.common.state_dir.display().to_string(),
            });
        }
        let fresh = self.dir.next()?;
        let (engine, _) = self.open_engine(&fresh)?;
        self.dir.set_current(&fresh)?;
        self.dir.clean()?;
        Ok(Next::Open(Box::new(engine)))
    }

    pub(super) fn open_engine(&self, dir: &StoreDir) -> Result<(Engine, Fitness), Stop> {
        let common = &self.common;
        Engine::open(&common.env, dir, self.partition(), common.log.as_ref(), &common.statistics)
    }
}
