//! Why an operation on a log failed: one enum an operation, sorted by what the caller does next.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use barrage_event::{Offset, Partition};

/// Why records were not appended, or not acknowledged.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum AppendError {
    /// Too many bytes wait to become durable. *Shed*: the same append may succeed a moment later.
    #[error("the log is full: {pending_bytes} bytes wait to become durable, the limit is {pending_bytes_max}")]
    Full {
        /// Bytes that wait.
        pending_bytes: usize,
        /// The configured limit.
        pending_bytes_max: usize,
    },
    /// A record is larger than [`crate::RECORD_BYTES_MAX`]. *Reject.*
    #[error("a record for {partition} has {bytes} bytes, the limit is {bytes_max}")]
    RecordTooLarge {
        /// The partition it was meant for.
        partition: Partition,
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The batch is larger than [`crate::BATCH_BYTES_MAX`] or holds more than [`crate::BATCH_RECORDS_MAX`] records.
    /// *Reject*, or append in several batches.
    #[error("a batch has {records} records of {bytes} bytes, the limits are {records_max} and {bytes_max}")]
    BatchTooLarge {
        /// Records in the batch.
        records: usize,
        /// Bytes of all its records.
        bytes: usize,
        /// Limit on records.
        records_max: usize,
        /// Limit on bytes.
        bytes_max: usize,
    },
    /// The log has no such partition: the caller computed it from another partition count.
    #[error("the log has no partition {partition}: topic {} has {partitions}", partition.topic.name())]
    UnknownPartition {
        /// The partition that was asked for.
        partition: Partition,
        /// How many partitions the topic has.
        partitions: u16,
    },
    /// Writing failed. Whether the records survive is unknown; they were never reported as durable. Nothing more is
    /// taken until the log is opened again.
    #[error("the log has failed and takes nothing more until it is opened again: {reason}")]
    Failed {
        /// What failed, for a person.
        reason: Arc<str>,
    },
    /// The log was closed before the records were taken.
    #[error("the log is closed")]
    Closed,
}

/// Why a partition could not be read on. Durable state is suspect: *stop the partition*.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The offset lies before the first record that is still there.
    #[error(
        "{partition}@{from} is no longer in the log, which starts at offset {start}: restore a snapshot or rebuild"
    )]
    Trimmed {
        /// The partition.
        partition: Partition,
        /// The offset that was asked for.
        from: Offset,
        /// The first offset that is still there.
        start: Offset,
    },
    /// The log has no such partition.
    #[error("the log has no partition {partition}")]
    UnknownPartition {
        /// The partition that was asked for.
        partition: Partition,
    },
    /// The partition holds less than it did: its topic was deleted and made anew, or the cluster lost records.
    #[error(
        "{partition} ended at offset {seen} and now ends at {end}: its topic was deleted and made anew, or the cluster \
         lost records. If the topic is the right one, rebuild from it; if not, bring the old one back. Nothing is read \
         from it until this process starts again"
    )]
    Changed {
        /// The partition.
        partition: Partition,
        /// Where it ended, by what was acknowledged or read.
        seen: Offset,
        /// Where it ends now.
        end: Offset,
    },
    /// Offsets are missing inside the partition, so it is not what was appended.
    #[error(
        "{partition} goes from offset {expected} to {found}: the topic was compacted or written in transactions, and \
         records may be lost. Set its cleanup.policy to delete, find out who writes to it, and rebuild"
    )]
    Gap {
        /// The partition.
        partition: Partition,
        /// The offset that should come next.
        expected: Offset,
        /// The offset that came.
        found: Offset,
    },
    /// Stored bytes are not what was written.
    #[error(transparent)]
    Corrupt(#[from] Corruption),
    /// The operating system could not read.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// Damage inside the log, where it is, and what to do about it. Never repaired by itself: acknowledged records may be
/// in the damaged place.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error(
    "the log is damaged in {} at byte {position}: {reason}. Records that were acknowledged may be affected, so nothing \
     was changed. Put the file back from a copy, or look at what can be read with `barrage log`; do not delete it",
    path.display()
)]
pub struct Corruption {
    /// The damaged file.
    pub path: PathBuf,
    /// Where in it, in bytes from its start.
    pub position: u64,
    /// What is wrong there.
    pub reason: String,
}

impl Corruption {
    pub(crate) fn new(path: &Path, position: u64, reason: impl Into<String>) -> Self {
        Self { path: path.to_owned(), position, reason: reason.into() }
    }
}

/// Why a log could not be opened or made.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// An option has a value that cannot work.
    #[error("log option `{option}` is {value}: {reason}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// Its value.
        value: u64,
        /// What would be right.
        reason: String,
    },
    /// The log was made with other partition counts.
    #[error(
        "the log in {} was made with {found_room} room and {found_user} user partitions, the configuration asks for \
         {asked_room} and {asked_user}. The count is fixed when a log is made, since keys are placed by it: set the \
         configuration back to {found_room} and {found_user}, or start a new log in another data directory",
        dir.display()
    )]
    OtherPartitions {
        /// Directory of the log.
        dir: PathBuf,
        /// Room partitions of the log.
        found_room: u16,
        /// User partitions of the log.
        found_user: u16,
        /// Room partitions that were asked for.
        asked_room: u16,
        /// User partitions that were asked for.
        asked_user: u16,
    },
    /// The topics have other partition counts than the configuration, or than the log was made with.
    #[error(
        "the log in Kafka has {found_room} room and {found_user} user partitions, {expected_by} {expected_room} and \
         {expected_user}. The count is fixed when a log is made, since keys are placed by it: {remedy}"
    )]
    OtherTopics {
        /// Partitions of the room topic.
        found_room: u16,
        /// Partitions of the user topic.
        found_user: u16,
        /// Who says otherwise, with a verb.
        expected_by: &'static str,
        /// Room partitions that were expected.
        expected_room: u16,
        /// User partitions that were expected.
        expected_user: u16,
        /// What to do.
        remedy: &'static str,
    },
    /// A topic has settings under which the log could lose records or would refuse them.
    #[error("topic {topic} has {setting}={value}: {reason}")]
    TopicSetting {
        /// The topic.
        topic: String,
        /// Name of the setting.
        setting: &'static str,
        /// Its value.
        value: String,
        /// Why that does not work, and what to do.
        reason: String,
    },
    /// Kafka did not do what was asked.
    #[error("cannot {action} at {brokers}: {reason}")]
    Kafka {
        /// What was tried.
        action: String,
        /// The configured brokers.
        brokers: String,
        /// Kafka's answer.
        reason: String,
    },
    /// Another process has the log open.
    #[error("the log in {} is open in another process: stop that one first, or use another data directory", dir.display())]
    Locked {
        /// Directory of the log.
        dir: PathBuf,
    },
    /// The meta file says something that this version cannot read.
    #[error("{}: {reason}", path.display())]
    Meta {
        /// The meta file.
        path: PathBuf,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// A segment file that must exist does not.
    #[error(
        "segment {} is missing. Put the file back from a copy; without it the records in it are lost, and the log \
         cannot be opened",
        path.display()
    )]
    MissingSegment {
        /// The file that should exist.
        path: PathBuf,
    },
    /// Stored bytes are not what was written.
    #[error(transparent)]
    Corrupt(#[from] Corruption),
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl OpenError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

impl ReadError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

/// Why the log was not trimmed.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum TrimError {
    /// The snapshot was made from another log.
    #[error("the snapshot was made from log {snapshot:032x}, this is log {log:032x}")]
    OtherLog {
        /// This log.
        log: u128,
        /// The snapshot's.
        snapshot: u128,
    },
    /// Nobody has read the snapshot back.
    #[error("the snapshot was not verified: read it back and compare its state hash first")]
    NotVerified,
    /// The snapshot leaves a partition out.
    #[error("the snapshot does not cover partition {partition}")]
    NotCovered {
        /// The partition.
        partition: Partition,
    },
    /// The snapshot claims offsets that the log does not have.
    #[error("the snapshot goes on at {partition}@{next}, the log holds {start} to {end}")]
    OutOfRange {
        /// The partition.
        partition: Partition,
        /// First offset that the snapshot does not hold.
        next: Offset,
        /// First offset of the log.
        start: Offset,
        /// One past the last durable offset.
        end: Offset,
    },
    /// This log is not trimmed by Barrage; for one because its retention is the broker's.
    #[error("this log is not trimmed by Barrage")]
    NoSnapshot,
    /// The log was closed; its files may be another process's.
    #[error("the log is closed")]
    Closed,
    /// The file system failed. Whatever was given up was so durably, and the next opening finishes the removal.
    #[error("the log could not be trimmed to the end: {reason}")]
    Failed {
        /// What the system says.
        reason: Arc<str>,
    },
}
