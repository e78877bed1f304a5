//! What reads and commands see of the partitions of this process.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use barrage_event::rules::RuleSet;
use barrage_event::{Offset, Partition, Position};
use barrage_log::EventLog;
use barrage_projection::{Rankings, Reader, Statistic, StoreError, VisitRowUntil};
use barrage_state::runtime::DeadLetters;
use barrage_state::{Meta, StateError};

use crate::shared::{Assigned, Reached, Shared};
use crate::status::{PartitionStatus, RebuildError, RebuildStatus, Unavailable};

/// The partitions of this process, those that it has at the time of asking; cheap to clone.
#[derive(Clone)]
pub struct Stores {
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) statistics: Arc<Vec<Box<dyn Statistic>>>,
    pub(crate) assigned: Arc<Assigned>,
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stores").field("partitions", &self.assigned.len()).finish_non_exhaustive()
    }
}

/// One committed state of a partition.
pub struct Snapshot<'s> {
    inner: &'s barrage_state::Snapshot<'s>,
    rules: Arc<RuleSet>,
    partition: Partition,
    generation: u64,
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

    /// The assignment under which the partition was this process's when the snapshot was taken.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
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

    /// The highest (offset, index) that came from a source of derived events: the partition of `barrage.user` with this
    /// number in the log with this uuid; `None` when nothing did.
    #[must_use]
    pub fn source_mark(&self, (log_uuid, partition): (u128, u16)) -> Option<(u64, u32)> {
        let uuid = log_uuid.to_be_bytes();
        let marks = &self.meta().source_marks;
        let mark = marks.iter().find(|mark| mark.log_uuid == uuid && mark.partition == u32::from(partition))?;
        Some((mark.offset, mark.index))
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

    fn rankings(&self) -> &Rankings {
        self.inner.rankings()
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
        self.assigned.partitions()
    }

    /// The assignment under which a partition is this process's; `None` when it is not.
    #[must_use]
    pub fn generation(&self, partition: Partition) -> Option<u64> {
        self.assigned.get(partition).map(|shared| shared.generation)
    }

    /// The `SdkAppid`s that were seen in the partitions of this process, in order, at most
    /// [`crate::APPS_MAX`] from each.
    #[must_use]
    pub fn apps(&self) -> Vec<u32> {
        let mut apps: Vec<u32> = self.assigned.all().iter().flat_map(|shared| shared.apps().to_vec()).collect();
        apps.sort_unstable();
        apps.dedup();
        apps
    }

    fn shared(&self, partition: Partition) -> Result<Arc<Shared>, Unavailable> {
        self.assigned.get(partition).ok_or(Unavailable::NotMine(partition))
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
                // The snapshot was the partition's state for the world if nobody else could have it when it was taken.
                if shared.is_revoked() {
                    return Err(Unavailable::NotMine(partition));
                }
                let rules = shared.rules(inner).map_err(|e| Unavailable::Store(e.to_string()))?;
                let lags = inner.meta().next_offset < end.0;
                Ok(f(&Snapshot { inner, rules, partition, generation: shared.generation, lags }))
            })
            .map_err(failed)?
    }

    /// How far every partition is.
    #[must_use]
    pub fn status(&self) -> Vec<PartitionStatus> {
        self.assigned
            .all()
            .iter()
            .map(|shared| {
                let mut status = shared.with_status(|status| status.clone());
                status.end = self.log.end(shared.partition);
                status
            })
            .collect()
    }

    /// Waits until the record at `position` is applied and committed, and reads see it; asks for a commit at once. A
    /// partition that is being opened is waited for as well.
    ///
    /// # Errors
    /// [`Unavailable::TimedOut`] when that takes longer than `timeout`, or why the partition cannot get there.
    pub async fn wait_for(&self, position: Position, timeout: Duration) -> Result<(), Unavailable> {
        let shared = self.shared(position.partition)?;
        let mut reached = shared.reached.subscribe();
        let is_there = |reached: &Reached| reached.readable && reached.next > position.offset.0;
        if is_there(&reached.borrow()) {
            return Ok(());
        }
        shared.commit_wanted.store(true, Ordering::Relaxed);
        let there = reached.wait_for(|reached| is_there(reached) || reached.ended);
        match tokio::time::timeout(timeout, there).await {
            Ok(Ok(reached)) if is_there(&reached) => Ok(()),
            _ => Err(shared.store().err().unwrap_or(Unavailable::TimedOut(position))),
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
