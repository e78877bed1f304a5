//! What reads and commands see of the partitions of this process.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use barrage_event::rules::RuleSet;
use barrage_event::{Offset, Partition, Position};
use barrage_log::EventLog;
use barrage_projection::{Reader, ReaderExt as _, Statistic, StoreError, VisitRowUntil};
use barrage_state::runtime::{DeadLetters, Rules};
use barrage_state::{Meta, StateError, Store};
use tokio::sync::watch;

/// What a partition is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Opening its store.
    Starting,
    /// Applying records as they come.
    Live,
    /// Stopped; nothing of it is read until the cause is gone and the process was started again.
    Stopped {
        /// Why, and what to do.
        error: String,
    },
}

/// A rebuild under way, or the last one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RebuildStatus {
    /// Next record it applies.
    pub offset: Offset,
    /// Where it is done: the live store's offset.
    pub end: Offset,
    /// Whether it was swapped in.
    pub done: bool,
    /// Whether state hash and store hash were those of the live store when it was; `None` until then.
    pub hashes_match: Option<bool>,
    /// Why it was given up.
    pub error: Option<String>,
}

/// How far a partition is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionStatus {
    /// The partition.
    pub partition: Partition,
    /// What it is doing.
    pub phase: Phase,
    /// Next record to apply; what lies before is committed.
    pub offset: Offset,
    /// One past the last durable record of the log.
    pub end: Offset,
    /// Hash of the statistics' tables.
    pub state_hash: u128,
    /// Hash of everything in the store.
    pub store_hash: u128,
    /// Stream time, ms; 0 before the first record.
    pub stream_time_ms: i64,
    /// Rules in force; 0 before the first.
    pub rules_version: u32,
    /// Records applied.
    pub applied: u64,
    /// Records dropped as duplicates of IM, and those that came twice through ingest.
    pub duplicates: u64,
    /// Records that a projection, or all of Barrage, could not apply.
    pub dead_letters: u64,
    /// Records of a newer version were met: after the update, a rebuild reads them.
    pub needs_rebuild: bool,
    /// The rebuild under way or the last one since start.
    pub rebuild: Option<RebuildStatus>,
}

/// Why a partition cannot be read now.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum Unavailable {
    /// It is not one of this process.
    #[error("partition {0} is not owned by this process")]
    NotMine(Partition),
    /// Its store is being opened.
    #[error("partition {0} is starting; try again in a moment")]
    Starting(Partition),
    /// It has stopped.
    #[error("partition {partition} has stopped: {error}")]
    Stopped {
        /// The partition.
        partition: Partition,
        /// Why.
        error: String,
    },
    /// It has not come to the position in time.
    #[error("partition {} has not reached offset {} yet; try again", .0.partition, .0.offset)]
    TimedOut(Position),
    /// Its store could not be read.
    #[error("{0}")]
    Store(String),
}

/// Why a rebuild was not started.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum RebuildError {
    /// The partition cannot be read.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// There is one already.
    #[error("a rebuild of partition {0} is under way already")]
    UnderWay(Partition),
    /// The log's start is gone.
    #[error("the log of {partition} starts at offset {start}: a rebuild would lose what lay before it")]
    LogTrimmed {
        /// The partition.
        partition: Partition,
        /// First offset that is still there.
        start: Offset,
    },
}

/// What the thread of a partition and its readers share.
pub(crate) struct Shared {
    pub(crate) partition: Partition,
    pub(crate) store: RwLock<Option<Arc<Store>>>,
    pub(crate) status: Mutex<PartitionStatus>,
    pub(crate) committed: watch::Sender<u64>,
    pub(crate) commit_wanted: AtomicBool,
    pub(crate) rebuild_wanted: AtomicBool,
    rules: Mutex<(u32, Arc<RuleSet>)>,
}

impl Shared {
    pub(crate) fn new(partition: Partition) -> Self {
        Self {
            partition,
            store: RwLock::new(None),
            status: Mutex::new(PartitionStatus {
                partition,
                phase: Phase::Starting,
                offset: Offset(0),
                end: Offset(0),
                state_hash: 0,
                store_hash: 0,
                stream_time_ms: 0,
                rules_version: 0,
                applied: 0,
                duplicates: 0,
                dead_letters: 0,
                needs_rebuild: false,
                rebuild: None,
            }),
            committed: watch::Sender::new(0),
            commit_wanted: AtomicBool::new(false),
            rebuild_wanted: AtomicBool::new(false),
            rules: Mutex::new((0, Arc::new(RuleSet::default()))),
        }
    }

    pub(crate) fn with_status<R>(&self, f: impl FnOnce(&mut PartitionStatus) -> R) -> R {
        f(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_store(&self, store: Option<Arc<Store>>) {
        *self.store.write().unwrap_or_else(PoisonError::into_inner) = store;
    }

    pub(crate) fn publish(&self, meta: &Meta) {
        self.with_status(|status| {
            status.offset = Offset(meta.next_offset);
            status.state_hash = meta.state_hash_value().0;
            status.store_hash = meta.store_hash_value().0;
            status.stream_time_ms = meta.stream_time;
            status.rules_version = meta.rules_version;
            status.applied = meta.applied;
            status.duplicates = meta.duplicates + meta.resent;
            status.dead_letters = meta.dead_lettered;
            status.needs_rebuild = meta.newer_records > 0;
        });
        self.committed.send_replace(meta.next_offset);
    }

    fn store(&self) -> Result<Arc<Store>, Unavailable> {
        let store = self.store.read().unwrap_or_else(PoisonError::into_inner).clone();
        store.ok_or_else(|| {
            self.with_status(|status| match &status.phase {
                Phase::Stopped { error } => Unavailable::Stopped { partition: self.partition, error: error.clone() },
                Phase::Starting | Phase::Live => Unavailable::Starting(self.partition),
            })
        })
    }

    /// The rules in force in a snapshot, parsed once a version.
    fn rules(&self, snapshot: &barrage_state::Snapshot<'_>) -> Result<Arc<RuleSet>, StoreError> {
        let version = snapshot.meta().rules_version;
        let mut cached = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.0 != version
            && let Some(row) = snapshot.get::<Rules>(&(0,))?
        {
            let rules = RuleSet::from_toml(&row.rules_toml)
                .map_err(|e| StoreError::Damaged { table: "runtime.rules", problem: e.to_string() })?;
            *cached = (version, Arc::new(rules));
        }
        Ok(Arc::clone(&cached.1))
    }
}

/// The partitions of this process; cheap to clone.
#[derive(Clone)]
pub struct Stores {
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) statistics: Arc<Vec<Box<dyn Statistic>>>,
    pub(crate) partitions: Arc<Vec<Arc<Shared>>>,
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stores").field("partitions", &self.partitions.len()).finish_non_exhaustive()
    }
}

/// One committed state of a partition.
pub struct Snapshot<'s> {
    inner: &'s barrage_state::Snapshot<'s>,
    rules: Arc<RuleSet>,
    partition: Partition,
    lags: bool,
}

impl fmt::Debug for Snapshot<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("partition", &self.partition).finish_non_exhaustive()
    }
}

/// A record that was not applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterRow {
    /// Its offset.
    pub offset: Offset,
    /// The projection that refused it; `envelope`, `business_keys` or `rules` when Barrage itself did.
    pub projection: String,
    /// Why.
    pub reason: String,
    /// `CallbackCommand`, when it could be read.
    pub command: String,
    /// Record id, 16 bytes, or none.
    pub record_id: Vec<u8>,
    /// The log's timestamp, ms.
    pub log_time_ms: i64,
}

impl Snapshot<'_> {
    /// The partition.
    #[must_use]
    pub fn partition(&self) -> Partition {
        self.partition
    }

    /// How far the store had come.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        self.inner.meta()
    }

    /// Next record to apply.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        Offset(self.meta().next_offset)
    }

    /// Stream time, ms; 0 before the first record.
    #[must_use]
    pub fn stream_time_ms(&self) -> i64 {
        self.meta().stream_time
    }

    /// The rules in force.
    #[must_use]
    pub fn rules(&self) -> &Arc<RuleSet> {
        &self.rules
    }

    /// Their version; 0 before the first.
    #[must_use]
    pub fn rules_version(&self) -> u32 {
        self.meta().rules_version
    }

    /// The time to compute elapsed things at: the time asked for, but not beyond stream time while the store lags
    /// behind the log, so that nothing expires for not having been read yet.
    #[must_use]
    pub fn elapsed_at(&self, at_ms: i64) -> i64 {
        if self.lags { at_ms.min(self.stream_time_ms()) } else { at_ms }
    }

    /// The first dead letters, in order of offset.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails.
    pub fn dead_letters(&self, from: Offset, limit: usize) -> Result<Vec<DeadLetterRow>, StoreError> {
        let mut rows = Vec::new();
        if limit == 0 {
            return Ok(rows);
        }
        self.inner.scan_rows(
            &[<DeadLetters as barrage_projection::Table>::ID],
            Some(&{
                let mut row = vec![<DeadLetters as barrage_projection::Table>::ID];
                row.extend_from_slice(&from.0.to_be_bytes());
                row
            }),
            &mut |row, bytes| {
                use prost::Message as _;
                let damaged = |problem: String| StoreError::Damaged { table: "runtime.dead_letters", problem };
                let offset = row.get(1..9).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
                let offset = offset.ok_or_else(|| damaged("a key is too short".to_owned()))?;
                let row = barrage_state::proto::DeadLetter::decode(bytes).map_err(|e| damaged(e.to_string()))?;
                rows.push(DeadLetterRow {
                    offset: Offset(offset),
                    projection: row.projection,
                    reason: row.reason,
                    command: row.command,
                    record_id: row.record_id,
                    log_time_ms: row.log_time,
                });
                Ok(if rows.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
            },
        )?;
        Ok(rows)
    }
}

impl Reader for Snapshot<'_> {
    fn get_row(&self, row: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.get_row(row)
    }

    fn scan_rows(&self, prefix: &[u8], from: Option<&[u8]>, visit: &mut VisitRowUntil<'_>) -> Result<(), StoreError> {
        self.inner.scan_rows(prefix, from, visit)
    }
}

impl Stores {
    /// The log that the stores are made from.
    #[must_use]
    pub fn log(&self) -> &Arc<dyn EventLog> {
        &self.log
    }

    /// The statistics.
    #[must_use]
    pub fn statistics(&self) -> &[Box<dyn Statistic>] {
        &self.statistics
    }

    /// The partitions of this process, in order.
    #[must_use]
    pub fn partitions(&self) -> Vec<Partition> {
        self.partitions.iter().map(|shared| shared.partition).collect()
    }

    fn shared(&self, partition: Partition) -> Result<&Arc<Shared>, Unavailable> {
        self.partitions.iter().find(|s| s.partition == partition).ok_or(Unavailable::NotMine(partition))
    }

    /// Calls `f` with the last committed state of a partition. Blocks for as long as `f` and its reads take.
    ///
    /// # Errors
    /// [`Unavailable`] when the partition is not here, not open or cannot be read.
    pub fn read<R>(&self, partition: Partition, f: impl FnOnce(&Snapshot<'_>) -> R) -> Result<R, Unavailable> {
        let shared = self.shared(partition)?;
        let store = shared.store()?;
        let failed = |error: StateError| Unavailable::Store(error.to_string());
        // Asked before the snapshot is taken: a record that comes in between makes it lag.
        let end = self.log.end(partition);
        store
            .read(|inner| {
                let rules = shared.rules(inner).map_err(|e| Unavailable::Store(e.to_string()))?;
                let lags = inner.meta().next_offset < end.0;
                Ok(f(&Snapshot { inner, rules, partition, lags }))
            })
            .map_err(failed)?
    }

    /// How far every partition is.
    #[must_use]
    pub fn status(&self) -> Vec<PartitionStatus> {
        self.partitions
            .iter()
            .map(|shared| {
                let mut status = shared.with_status(|status| status.clone());
                status.end = self.log.end(shared.partition);
                status
            })
            .collect()
    }

    /// Waits until the record at `position` is applied and committed; asks for a commit at once.
    ///
    /// # Errors
    /// [`Unavailable::TimedOut`] when that takes longer than `timeout`, or why the partition cannot get there.
    pub async fn wait_for(&self, position: Position, timeout: Duration) -> Result<(), Unavailable> {
        let shared = self.shared(position.partition)?;
        let mut committed = shared.committed.subscribe();
        if *committed.borrow() > position.offset.0 {
            return Ok(());
        }
        shared.store()?;
        shared.commit_wanted.store(true, Ordering::Relaxed);
        let reached = committed.wait_for(|next| *next > position.offset.0);
        match tokio::time::timeout(timeout, reached).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(shared.store().err().unwrap_or(Unavailable::TimedOut(position))),
        }
    }

    /// Starts a rebuild of a partition beside the live store. Its progress is in [`Stores::status`].
    ///
    /// # Errors
    /// [`RebuildError`] when there is one already, or the partition or the start of its log is not there.
    pub fn rebuild(&self, partition: Partition) -> Result<(), RebuildError> {
        let shared = self.shared(partition)?;
        shared.store()?;
        let start = self.log.start(partition);
        if start.0 > 0 {
            return Err(RebuildError::LogTrimmed { partition, start });
        }
        shared.with_status(|status| {
            if status.rebuild.as_ref().is_some_and(|r| !r.done && r.error.is_none()) {
                return Err(RebuildError::UnderWay(partition));
            }
            status.rebuild = Some(RebuildStatus {
                offset: Offset(0),
                end: status.offset,
                done: false,
                hashes_match: None,
                error: None,
            });
            Ok(())
        })?;
        shared.rebuild_wanted.store(true, Ordering::Release);
        Ok(())
    }
}
