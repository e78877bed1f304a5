//! What a partition is doing, and why it cannot be read.

use barrage_event::{Offset, Partition, Position};

/// What a partition is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Opening its store.
    Starting,
    /// Applying records as they come.
    Live,
    /// Stopped; nothing of it is read until the cause is gone and the process was started again, or the partition was
    /// taken away and given back.
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

/// A snapshot that is in the object store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenSnapshot {
    /// Its manifest's name.
    pub name: String,
    /// First offset that it does not hold.
    pub next_offset: Offset,
    /// When it was made, ms since the epoch.
    pub created_at_ms: i64,
    /// Bytes of its files.
    pub bytes: u64,
    /// Hash of the statistics' tables.
    pub state_hash: String,
}

/// The snapshots that this process takes of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SnapshotStatus {
    /// Whether one was asked for and is not complete yet.
    pub taking: bool,
    /// The last one.
    pub last: Option<TakenSnapshot>,
    /// Why the last one that was tried is not there.
    pub error: Option<String>,
}

/// How far a partition is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionStatus {
    /// The partition.
    pub partition: Partition,
    /// Which time this is that the partition was given to this process: another one each time, and later ones are
    /// higher. Who was told of the partition under another generation asks somebody who may no longer have it.
    pub generation: u64,
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
    /// Derived events and notifications of committed records that are not acknowledged yet.
    pub outgoing: u64,
    /// The rebuild under way or the last one since start.
    pub rebuild: Option<RebuildStatus>,
    /// Snapshots of it that this process took or tried; `None` before the first.
    pub snapshot: Option<SnapshotStatus>,
}

/// Why a partition cannot be read now.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum Unavailable {
    /// It is not one of this process, or no longer: its next owner has it, or will in a moment.
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
