//! The fold: one event in, changed rows out.

use std::fmt;

use barrage_event::envelope::EnvelopeView;
use barrage_event::rules::RuleSet;
use barrage_event::{Offset, Partition, Topic};

use crate::bucket::{BucketRef, BucketTable};
use crate::overlay::{TableRef, Tables};
use crate::table::{Backing, StoreError, Table, TableDef};

/// Why an event was not applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// This event cannot be applied, now or later: a dead letter. The projection's changes for it are undone.
    #[error("{0}")]
    Reject(String),
    /// The store failed: the partition stops, nothing is skipped.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a projection has while it applies one event.
pub struct Context<'c> {
    tables: &'c mut Tables,
    backing: &'c dyn Backing,
    /// The partition.
    pub partition: Partition,
    /// The record's offset.
    pub offset: Offset,
    /// Stream time, ms: the running maximum of `received_at`, this record's included.
    pub stream_time_ms: i64,
    /// The record's timestamp in the log, ms.
    pub log_time_ms: i64,
    /// The rules in force at this place of the log.
    pub rules: &'c RuleSet,
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("partition", &self.partition)
            .field("offset", &self.offset)
            .field("stream_time_ms", &self.stream_time_ms)
            .finish_non_exhaustive()
    }
}

impl<'c> Context<'c> {
    /// Made by the worker, and by tests that apply a `Vec` of events.
    pub fn new(
        tables: &'c mut Tables,
        backing: &'c dyn Backing,
        partition: Partition,
        offset: Offset,
        (stream_time_ms, log_time_ms): (i64, i64),
        rules: &'c RuleSet,
    ) -> Self {
        Self { tables, backing, partition, offset, stream_time_ms, log_time_ms, rules }
    }

    /// A plain table.
    ///
    /// # Errors
    /// [`StoreError::Undeclared`] when no projection of this partition declared it.
    pub fn table<T: Table>(&mut self) -> Result<TableRef<'_, T>, StoreError> {
        self.tables.table::<T>(self.backing)
    }

    /// A bucket table.
    ///
    /// # Errors
    /// [`StoreError::Undeclared`] when no projection of this partition declared it.
    pub fn buckets<T: BucketTable>(&mut self) -> Result<BucketRef<'_, T>, StoreError> {
        self.tables.buckets::<T>()
    }
}

/// A pure function of (state, event).
///
/// `&self` because a projection keeps nothing outside its tables: same events, same bytes, wherever a batch ends and
/// however often the process restarts. Integers and ordered encodings only; no floats, no clock, no randomness.
pub trait Projection: Send + Sync + 'static {
    /// Name in dead letters and metrics.
    fn name(&self) -> &'static str;

    /// The topic whose partitions it runs on.
    fn topic(&self) -> Topic;

    /// The tables it may use: its own, and those of projections listed before it that it reads.
    fn tables(&self) -> Vec<TableDef>;

    /// Applies one event. Every event of the partition comes by, unknown ones too.
    ///
    /// # Errors
    /// [`ApplyError::Reject`] makes a dead letter and changes nothing; [`ApplyError::Store`] stops the partition.
    fn apply(&self, cx: &mut Context<'_>, record: &EnvelopeView<'_>) -> Result<(), ApplyError>;
}
