//! Snapshots of this process's partitions, taken in the background.
//!
//! One thread takes them in turn: a checkpoint of the store, which costs the partition's own thread nothing but a flush
//! beside it, then the upload. The object store may fail for as long as it likes: partitions go on, a metric counts, and
//! the next round tries again.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use barrage_event::{Offset, Partition};
#[cfg(doc)]
use barrage_log::EventLog;
use barrage_log::TrimError;
use barrage_snapshot::{Saved, SnapshotError, SnapshotStore};
use barrage_state::PartitionDir;
use barrage_state::runtime::FORMAT;

use crate::common::Common;
use crate::engine::versions;
use crate::shared::{Assigned, Shared};
use crate::status::{TakenSnapshot, Unavailable};

/// Where snapshots are kept and how often they are taken.
#[derive(Debug, Clone)]
pub struct SnapshotOptions {
    /// The place.
    pub store: Arc<SnapshotStore>,
    /// Time between two snapshots of a partition, 1 s to days. Default 10 min: what a partition that moves reads of the
    /// log at most.
    pub every: Duration,
    /// Snapshots of a partition that are kept, 1 to 1,000. Default 3.
    pub keep: usize,
    /// A store that is this many records behind the log is looked for among the snapshots before it is opened. Default
    /// 100,000: what a store that begins empty applies in about a second.
    pub restore_lag: u64,
    /// Whether one more is taken when the worker stops. Default false.
    pub at_stop: bool,
    /// Time between two trims of the log behind the snapshots, 1 s to days. Default `None`: it is kept for ever. Only
    /// for a log that can be trimmed and whose partitions are all this process's.
    pub trim_every: Option<Duration>,
}

impl SnapshotOptions {
    /// The defaults with this place.
    #[must_use]
    pub fn new(store: Arc<SnapshotStore>) -> Self {
        Self { store, every: Duration::from_secs(600), keep: 3, restore_lag: 100_000, at_stop: false, trim_every: None }
    }
}

/// Why a snapshot that was asked for was not taken.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The partition cannot be read.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// It could not be made or sent.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The worker has stopped.
    #[error("the server is stopping")]
    Stopped,
}

/// Why the log was not trimmed.
#[derive(Debug, thiserror::Error)]
pub enum TrimNowError {
    /// No snapshot proves that nothing is lost.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The log refused.
    #[error(transparent)]
    Log(#[from] TrimError),
    /// A rebuild reads the log from its start.
    #[error("a rebuild of {0} is under way and reads the log from its start; trim when it is done")]
    Rebuilding(Partition),
    /// The worker has stopped.
    #[error("the server is stopping")]
    Stopped,
}

/// First offset of every partition.
type Starts = Vec<(Partition, Offset)>;

enum Ask {
    Take {
        partition: Partition,
        reply: mpsc::Sender<Result<Saved, TakeError>>,
    },
    /// As `Take`, but the outcome is in the partition's status.
    Begin {
        partition: Partition,
    },
    Trim {
        reply: mpsc::Sender<Result<Starts, TrimNowError>>,
    },
    Stop {
        take: bool,
    },
}

/// Takes snapshots on demand; cheap to clone.
#[derive(Clone)]
pub struct Snapshots {
    asks: mpsc::Sender<Ask>,
    options: SnapshotOptions,
    assigned: Arc<Assigned>,
}

impl fmt::Debug for Snapshots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshots").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Snapshots {
    /// Has a snapshot of a partition taken as soon as those before it are; how it goes is in
    /// [`crate::PartitionStatus::snapshot`]. While one is waited for, asking again changes nothing.
    ///
    /// # Errors
    /// [`TakeError::Unavailable`] when the partition cannot be read, [`TakeError::Stopped`].
    pub fn begin(&self, partition: Partition) -> Result<(), TakeError> {
        let shared = self.assigned.get(partition).ok_or(Unavailable::NotMine(partition))?;
        shared.store()?;
        let begun = shared.with_status(|status| {
            let status = status.snapshot.get_or_insert_default();
            if !status.taking {
                status.error = None;
            }
            std::mem::replace(&mut status.taking, true)
        });
        if begun {
            return Ok(());
        }
        self.asks.send(Ask::Begin { partition }).map_err(|_| {
            shared.with_status(|status| status.snapshot = None);
            TakeError::Stopped
        })
    }

    /// Gives up what the log holds behind the snapshots, as [`EventLog::trim`] does: of each partition the oldest
    /// snapshot is read back, its hashes computed from its rows, and marked, so that it is kept until another one is.
    /// Returns the new starts. Blocks for as long as that takes.
    ///
    /// # Errors
    /// [`TrimNowError`]; nothing was given up then, or all of it durably.
    pub fn trim(&self) -> Result<Vec<(Partition, Offset)>, TrimNowError> {
        let (reply, answer) = mpsc::channel();
        self.asks.send(Ask::Trim { reply }).map_err(|_| TrimNowError::Stopped)?;
        answer.recv().unwrap_or(Err(TrimNowError::Stopped))
    }

    /// Takes a snapshot of a partition now and returns when it is complete. Blocks.
    ///
    /// # Errors
    /// [`TakeError`]; the partition itself goes on.
    pub fn take(&self, partition: Partition) -> Result<Saved, TakeError> {
        let (reply, answer) = mpsc::channel();
        self.asks.send(Ask::Take { partition, reply }).map_err(|_| TakeError::Stopped)?;
        answer.recv().unwrap_or(Err(TakeError::Stopped))
    }

    /// Where they are kept.
    #[must_use]
    pub fn store(&self) -> &Arc<SnapshotStore> {
        &self.options.store
    }
}

/// Longest time until a partition that has come is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The thread.
pub(crate) struct Snapshotter {
    common: Arc<Common>,
    options: SnapshotOptions,
    asks: mpsc::Receiver<Ask>,
    /// When each assignment's next snapshot is due, and how far the last one was.
    due: BTreeMap<(Partition, u64), Due>,
    trim_due: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Due {
    at: Instant,
    next_offset: u64,
}

impl Snapshotter {
    pub(crate) fn start(
        common: Arc<Common>,
        options: SnapshotOptions,
    ) -> std::io::Result<(Snapshots, JoinHandle<Result<(), String>>)> {
        let (asks, asked) = mpsc::channel();
        let trim_due = options.trim_every.map(|every| Instant::now() + every);
        let assigned = Arc::clone(&common.assigned);
        let this = Self { common, options: options.clone(), asks: asked, due: BTreeMap::new(), trim_due };
        let thread = std::thread::Builder::new().name("snapshots".to_owned()).spawn(move || {
            this.run();
            Ok(())
        })?;
        Ok((Snapshots { asks, options, assigned }, thread))
    }

    fn run(mut self) {
        loop {
            match self.asks.recv_timeout(self.options.every.min(LOOK_EVERY)) {
                Ok(Ask::Take { partition, reply }) => {
                    let taken = self.take_now(partition);
                    // Who asked may have gone.
                    let _ = reply.send(taken);
                }
                // What became of it is in the status.
                Ok(Ask::Begin { partition }) => drop(self.take_now(partition)),
                Ok(Ask::Trim { reply }) => drop(reply.send(self.trim())),
                Ok(Ask::Stop { take }) => {
                    if take && self.options.at_stop {
                        for shared in self.common.assigned.all() {
                            self.take_and_tell(&shared);
                        }
                    }
                    return;
                }
                Err(mpsc::RecvTimeoutError::Timeout) => self.round(),
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn take_now(&mut self, partition: Partition) -> Result<Saved, TakeError> {
        let shared = self.common.assigned.get(partition).ok_or(Unavailable::NotMine(partition))?;
        let saved = self.take(&shared)?;
        let due = Due { at: Instant::now() + self.options.every, next_offset: saved.manifest.next_offset };
        self.due.insert((partition, shared.generation), due);
        Ok(saved)
    }

    /// One snapshot at most, so that asks and a stop are not kept waiting by all of them.
    fn round(&mut self) {
        let assigned = self.common.assigned.all();
        self.due.retain(|&(p, generation), _| assigned.iter().any(|s| s.partition == p && s.generation == generation));
        for shared in &assigned {
            let key = (shared.partition, shared.generation);
            if !self.due.contains_key(&key) {
                let (due, looked) = self.first_due(shared);
                self.due.insert(key, due);
                // It may have taken long to fail: asks and a stop are not kept waiting by all of them.
                if !looked {
                    break;
                }
            }
        }
        let now = Instant::now();
        let next = assigned
            .iter()
            .filter_map(|shared| Some((self.due.get(&(shared.partition, shared.generation))?, shared)))
            .filter(|(due, _)| due.at <= now)
            .min_by_key(|(due, _)| due.at);
        if let Some((_, shared)) = next {
            self.take_and_tell(shared);
        }
        // Not only when none is due: where they take long, one always is.
        self.trim_when_due();
    }

    fn trim_when_due(&mut self) {
        let (Some(every), Some(due)) = (self.options.trim_every, self.trim_due) else { return };
        if due > Instant::now() {
            return;
        }
        self.trim_due = Some(Instant::now() + every);
        match self.trim() {
            Ok(_) => {}
            // At first some partition has none yet.
            Err(TrimNowError::Snapshot(SnapshotError::None(partition))) => {
                tracing::info!(%partition, "the log is not trimmed: a partition has no snapshot yet");
            }
            Err(error) => {
                self.common.metrics.snapshots.failed("trim");
                tracing::warn!(%error, "the log was not trimmed; it is tried again");
            }
        }
    }

    fn trim(&self) -> Result<Starts, TrimNowError> {
        let common = &self.common;
        let rebuilding = |shared: &Arc<Shared>| {
            shared.with_status(|s| s.rebuild.as_ref().is_some_and(|r| !r.done && r.error.is_none()))
        };
        if let Some(shared) = common.assigned.all().iter().find(|shared| rebuilding(shared)) {
            return Err(TrimNowError::Rebuilding(shared.partition));
        }
        let versions = versions(&common.statistics);
        let scratch = common.state_dir.join("verify");
        let base = self.options.store.base(&common.env, common.log.as_ref(), (FORMAT, &versions), &scratch)?;
        let before: Starts = base.next.iter().map(|(p, _)| (*p, common.log.start(*p))).collect();
        let starts = common.log.trim(&base)?;
        if starts != before {
            let given_up: u64 = starts
                .iter()
                .map(|(partition, start)| {
                    let old = before.iter().find(|(p, _)| p == partition).map_or(0, |(_, old)| old.0);
                    start.0.saturating_sub(old)
                })
                .sum();
            tracing::info!(given_up, "the log was trimmed behind verified snapshots");
        }
        Ok(starts)
    }

    /// As old as the newest snapshot of the log as it is now, whoever took it.
    /// False when that cannot be told.
    fn first_due(&self, shared: &Shared) -> (Due, bool) {
        let every = self.options.every;
        match self.options.store.latest(self.common.log.as_ref(), shared.partition) {
            Ok(Some(manifest)) => {
                self.common.metrics.snapshots.taken(shared.partition, manifest.created_at_ms);
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
                let age = now.saturating_sub(u128::try_from(manifest.created_at_ms).unwrap_or(0));
                let age = Duration::from_millis(u64::try_from(age).unwrap_or(u64::MAX));
                (Due { at: Instant::now() + every.saturating_sub(age), next_offset: manifest.next_offset }, true)
            }
            Ok(None) => (Due { at: Instant::now(), next_offset: 0 }, true),
            Err(error) => {
                self.common.metrics.snapshots.failed("look");
                tracing::warn!(partition = %shared.partition, %error, "the snapshots cannot be looked at");
                (Due { at: Instant::now() + every, next_offset: 0 }, false)
            }
        }
    }

    fn take_and_tell(&mut self, shared: &Shared) {
        let key = (shared.partition, shared.generation);
        let before = self.due.get(&key).map_or(0, |due| due.next_offset);
        let mut next_offset = before;
        if shared.with_status(|status| status.offset.0) > before {
            match self.take(shared) {
                Ok(saved) => next_offset = saved.manifest.next_offset,
                Err(TakeError::Unavailable(_) | TakeError::Snapshot(SnapshotError::Empty(_))) => {}
                Err(error) => {
                    self.common.metrics.snapshots.failed("take");
                    tracing::warn!(partition = %shared.partition, %error, "no snapshot was taken; the partition goes on");
                }
            }
        }
        self.due.insert(key, Due { at: Instant::now() + self.options.every, next_offset });
    }

    /// Takes one, and puts what became of it into the partition's status.
    fn take(&self, shared: &Shared) -> Result<Saved, TakeError> {
        let taken = self.take_one(shared);
        shared.with_status(|status| {
            let status = status.snapshot.get_or_insert_default();
            status.taking = false;
            status.error = taken.as_ref().err().map(ToString::to_string);
            if let Ok(saved) = &taken {
                status.last = Some(TakenSnapshot {
                    name: saved.name.clone(),
                    next_offset: Offset(saved.manifest.next_offset),
                    created_at_ms: saved.manifest.created_at_ms,
                    bytes: saved.manifest.bytes(),
                    state_hash: saved.manifest.state_hash.clone(),
                });
            }
        });
        taken
    }

    fn take_one(&self, shared: &Shared) -> Result<Saved, TakeError> {
        let (partition, store) = (shared.partition, &self.options.store);
        let begun = Instant::now();
        let dir = PartitionDir::new(&self.common.state_dir, partition).beside("snapshot");
        let removed = |dir: &Path| match std::fs::remove_dir_all(dir) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(SnapshotError::File { path: dir.to_owned(), source })
            }
            _ => Ok(()),
        };
        removed(&dir)?;
        // The store itself is let go of before the upload, so that it can be closed meanwhile.
        shared.store()?.checkpoint(&dir).map_err(SnapshotError::from)?;
        // It may be another's by now, and nothing is to be said in its name then.
        if !(self.common.is_owner)(partition) {
            removed(&dir)?;
            return Err(Unavailable::NotMine(partition).into());
        }
        let saved = store.save(partition, &dir);
        removed(&dir)?;
        let saved = saved?;
        let metrics = &self.common.metrics.snapshots;
        metrics.saved(partition, &saved, begun.elapsed());
        tracing::info!(
            %partition, next_offset = saved.manifest.next_offset, files = saved.manifest.files.len(),
            bytes_sent = saved.bytes_sent, bytes_reused = saved.bytes_reused, place = store.url(), "snapshot taken"
        );
        if !shared.is_revoked() {
            let log = self.common.log.as_ref();
            match store.expire(log, partition, self.options.keep, SnapshotStore::UNNAMED_KEPT) {
                Ok(expired) if expired.snapshots > 0 => tracing::debug!(%partition, ?expired, "old snapshots removed"),
                Ok(_) => {}
                Err(error) => {
                    metrics.failed("expire");
                    tracing::warn!(%partition, %error, "old snapshots could not be removed; the next round tries again");
                }
            }
        }
        Ok(saved)
    }
}

impl Snapshots {
    /// Ends the thread.
    pub(crate) fn stop(&self, take: bool) {
        // One that has ended needs no telling.
        let _ = self.asks.send(Ask::Stop { take });
    }
}
