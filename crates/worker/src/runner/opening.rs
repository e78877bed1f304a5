//! How a partition comes to an open store: the one that is here, a snapshot, or the log from its start.

use std::path::Path;
use std::sync::{Arc, mpsc};

use barrage_log::{Follow, ReadError};
use barrage_state::StoreDir;

use super::{Runner, Step};
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

/// What is here of a partition.
enum Local {
    /// A store to go on with.
    Open(Box<Engine>),
    /// None, or one that is far behind: a snapshot above this offset is better.
    Behind { above: u64 },
}

impl Runner {
    /// Opens the store; a new one is made when there is none or the one there is of another format. Where a snapshot is
    /// much nearer to the log's end, it is brought first, and the store is open some steps later.
    pub(crate) fn open(&mut self, waiting: Waiting) {
        self.waiting = waiting;
        let opened = self.look_at_local();
        self.go_on(opened);
    }

    fn go_on(&mut self, opened: Result<Local, Stop>) {
        let opened = match opened {
            Ok(Local::Open(engine)) => Ok(*engine),
            Ok(Local::Behind { above }) => match self.start_restore(above) {
                Some(restoring) => {
                    self.restoring = Some(restoring);
                    return;
                }
                None => self.open_from_log(),
            },
            Err(error) => Err(error),
        };
        self.opened(opened);
    }

    fn opened(&mut self, opened: Result<Engine, Stop>) {
        match opened {
            Ok(engine) => {
                self.shared.with_status(|status| status.outgoing = engine.outgoing());
                if self.waiting.follow.is_some() {
                    let log = self.common.log.as_ref();
                    self.shared.open_behind(engine.store(), engine.committed(), log, log.ask_ends());
                } else {
                    self.shared.open(engine.store(), engine.committed());
                }
                self.engine = Some(engine);
            }
            Err(error) => self.stop(&error),
        }
        self.tell();
    }

    /// Tells those who wait that the store is open, or that it will not be.
    pub(super) fn tell(&mut self) {
        let Waiting { follow, opened } = std::mem::take(&mut self.waiting);
        if let (Some(follow), Some(next)) = (follow, self.next_offset())
            && !self.shared.is_revoked()
        {
            follow.follow(self.partition(), next);
        }
        drop(opened);
    }

    fn start_restore(&self, above: u64) -> Option<Restoring> {
        let options = self.common.snapshots.as_ref()?;
        tracing::info!(partition = %self.partition(), above, place = options.store.url(), "looking for a snapshot");
        let started = Restoring::start(&self.common, options, self.partition(), above);
        started
            .inspect_err(|error| {
                self.common.metrics.snapshots.failed("restore");
                tracing::warn!(partition = %self.partition(), %error, "no thread to bring a snapshot with");
            })
            .ok()
    }

    /// Goes on with opening when the snapshot is here, or none is.
    pub(super) fn step_restore(&mut self) -> Step {
        let Some(restoring) = &self.restoring else { return Step::Stopped };
        let restored = restoring.poll(&self.common, self.partition());
        let (dir, next_offset, bytes) = match restored {
            Restored::UnderWay => return Step::Idle,
            Restored::Nothing => {
                self.restoring = None;
                let opened = self.open_from_log();
                self.opened(opened);
                return Step::Busy;
            }
            Restored::Store { dir, next_offset, bytes } => (dir, next_offset, bytes),
        };
        self.restoring = None;
        let opened = match self.begin_from(&dir) {
            Ok(engine) => {
                self.common.metrics.snapshots.restored();
                tracing::info!(
                    partition = %self.partition(), next_offset, bytes, "begun from a snapshot; the rest is read from the log"
                );
                Ok(engine)
            }
            Err(error @ (Stop::LogChanged { .. } | Stop::OtherLog { .. })) => {
                self.common.metrics.snapshots.failed("restore");
                let partition = self.partition();
                tracing::warn!(%partition, %error, "no snapshot could be brought; the log is read instead");
                self.open_from_log()
            }
            Err(error) => Err(error),
        };
        self.opened(opened);
        Step::Busy
    }

    /// Makes what was brought the store in use, but not before it was compared with the log: the one that is here may be
    /// better.
    fn begin_from(&self, brought: &Path) -> Result<Engine, Stop> {
        let store = self.dir.adopt(brought)?;
        let engine = match self.open_engine(&store) {
            Ok((engine, _)) => engine,
            Err(error) => {
                self.dir.remove(&store)?;
                return Err(error);
            }
        };
        self.dir.set_current(&store)?;
        self.dir.clean()?;
        Ok(engine)
    }

    /// The store that is here, if it is to be gone on with.
    fn look_at_local(&self) -> Result<Local, Stop> {
        let log = self.common.log.as_ref();
        self.dir.clean()?;
        let lag_max = self.common.snapshots.as_ref().map(|options| options.restore_lag);
        let mut above = 0;
        if let Some(current) = self.dir.current()? {
            match self.open_engine(&current) {
                Ok((engine, Fitness::Fits)) => {
                    let next = engine.next_offset().0;
                    let lag = log.end(self.partition()).0.saturating_sub(next);
                    match lag_max {
                        Some(lag_max) if lag > lag_max => above = next + lag_max,
                        _ => return Ok(Local::Open(Box::new(engine))),
                    }
                }
                Ok((_, Fitness::Outdated)) => {}
                // What comes next for this store was given up; a snapshot must have it.
                Err(Stop::Read(ReadError::Trimmed { .. })) if lag_max.is_some() => {}
                Err(error) => return Err(error),
            }
        } else if lag_max.is_some_and(|lag_max| log.end(self.partition()).0 <= lag_max)
            && log.start(self.partition()).0 == 0
        {
            return Ok(Local::Open(Box::new(self.open_from_log()?)));
        }
        Ok(Local::Behind { above })
    }

    /// Opens the store that is here, however far behind it is, else makes one from the log's start.
    fn open_from_log(&self) -> Result<Engine, Stop> {
        let log = self.common.log.as_ref();
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
        Ok(engine)
    }

    pub(super) fn open_engine(&self, dir: &StoreDir) -> Result<(Engine, Fitness), Stop> {
        let common = &self.common;
        Engine::open(&common.env, dir, self.partition(), common.log.as_ref(), &common.statistics)
    }
}
