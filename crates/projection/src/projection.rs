//! The fold: one event in, changed rows out.

use std::fmt;

use barrage_event::envelope::EnvelopeView;
use barrage_event::rules::RuleSet;
use barrage_event::{Derived, Offset, Partition, Topic};

use crate::bucket::{BucketRef, BucketTable};
use crate::effects::{Effects, Intent};
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

/// Where in the log an event stands.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The partition.
    pub partition: Partition,
    /// The record's offset.
    pub offset: Offset,
    /// Stream time, ms: the running maximum of `received_at`, this record's included.
    pub stream_time_ms: i64,
    /// The record's timestamp in the log, ms.
    pub log_time_ms: i64,
}

/// The rules that an event is applied by.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'c> {
    /// Those in force at this place of the log: weights and time-outs.
    pub current: &'c RuleSet,
    /// Those of the version that is stamped in the record: caps and classification, so that a room and its viewers never
    /// disagree.
    pub stamped: &'c RuleSet,
    /// Version of `current`.
    pub version: u32,
}

/// What a projection has while it applies one event.
pub struct Context<'c> {
    tables: &'c mut Tables,
    backing: &'c dyn Backing,
    effects: &'c mut Effects,
    /// The partition.
    pub partition: Partition,
    /// The record's offset.
    pub offset: Offset,
    /// Stream time, ms: the running maximum of `received_at`, this record's included.
    pub stream_time_ms: i64,
    /// The record's timestamp in the log, ms.
    pub log_time_ms: i64,
    /// The rules in force at this place of the log: weights and time-outs.
    pub rules: &'c RuleSet,
    /// The rules that are stamped in the record: caps and classification, so that a room and its viewers never disagree.
    pub stamped: &'c RuleSet,
    /// Version of `rules`.
    pub rules_version: u32,
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
        effects: &'c mut Effects,
        place: Place,
        rules: Rules<'c>,
    ) -> Self {
        Self {
            tables,
            backing,
            effects,
            partition: place.partition,
            offset: place.offset,
            stream_time_ms: place.stream_time_ms,
            log_time_ms: place.log_time_ms,
            rules: rules.current,
            stamped: rules.stamped,
            rules_version: rules.version,
        }
    }

    /// Tells a room something of an account. Only on partitions of `barrage.user`: one flow, and nothing derived causes
    /// another derived event.
    ///
    /// It leaves with the commit that holds this event's other changes and takes effect in the room exactly once.
    pub fn derive(&mut self, derived: Derived) {
        debug_assert_eq!(self.partition.topic, Topic::User, "derived events flow from accounts to rooms");
        self.effects.derived.push(derived);
    }

    /// Tells `barrage.notifications` something, at least once.
    pub fn notify(&mut self, intent: Intent) {
        self.effects.intents.push(intent);
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
