//! The trait that ingest writes to and workers read from.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use barrage_event::{Offset, Partition, Topic};

use crate::ack::Ack;
use crate::batch::AppendBatch;
use crate::error::{AppendError, ReadError, TrimError};

/// A durable record, as a reader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its offset in the partition. Offsets of a partition are dense: the first is 0, each next one is one more.
    pub offset: Offset,
    /// The log's own clock when the record was written, in ms since the Unix epoch. It may step back between records
    /// when the machine's clock was set back.
    pub timestamp_ms: i64,
    /// The bytes that were appended.
    pub bytes: &'a [u8],
}

/// Whether a log can take appends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It can.
    Ready,
    /// It can, up to a limit, and something is wrong that a person must see: what is appended may not become durable
    /// before it is put right.
    Impaired {
        /// What is wrong, for a person.
        reason: Arc<str>,
    },
    /// Writing failed and the log takes nothing more until it is opened again; durable records can still be read.
    Failed {
        /// What failed, for a person.
        reason: Arc<str>,
    },
    /// It was closed.
    Closed,
}

/// What a snapshot covers: the proof that [`EventLog::trim`] asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotBase {
    /// The log that the snapshot was made from, [`EventLog::uuid`].
    pub log_uuid: u128,
    /// For every partition of both topics, the first offset that the snapshot does **not** hold.
    pub next: Vec<(Partition, Offset)>,
    /// Whether the snapshot was read back from where it is kept and its state hash compared.
    pub verified: bool,
}

/// An ordered, durable log of two topics with a fixed number of partitions.
///
/// Implementations are shared between threads behind an `Arc`. Nothing in the trait is asynchronous but the
/// acknowledgement: appending never blocks on a disk or a network, and reading is done by threads of their own.
pub trait EventLog: Send + Sync + 'static {
    /// Identity of the log, made with it.
    fn uuid(&self) -> u128;

    /// Identity of what a topic of the log holds. State, snapshots, and what was derived from records remember it, so that
    /// offsets are never taken for those of other records. It is another one when a topic was made anew, where the log
    /// outlives that.
    fn lineage(&self, topic: Topic) -> u128 {
        let _ = topic;
        self.uuid()
    }

    /// Number of partitions of a topic, at least 1, fixed when the log was made.
    fn partitions(&self, topic: Topic) -> u16;

    /// Enqueues the records as **one** atomic write and returns at once; the acknowledgement follows when all of them
    /// are durable. The order of calls is the order in every partition. (On Kafka a crash may leave a part of a batch
    /// that was not acknowledged, and a record may be there more than once; its first appearances are in order.)
    ///
    /// On success the batch is empty again (its memory is kept for the next use); on an error it is unchanged and
    /// nothing was appended. An empty batch is acknowledged at once.
    ///
    /// # Errors
    /// [`AppendError::Full`] when too much is waiting (shed the request), [`AppendError::RecordTooLarge`],
    /// [`AppendError::BatchTooLarge`] and [`AppendError::UnknownPartition`] for the batch itself,
    /// [`AppendError::Failed`] and [`AppendError::Closed`] when the log takes nothing more.
    fn append(&self, batch: &mut AppendBatch) -> Result<Ack, AppendError>;

    /// Visits durable records of one partition in order, starting at `from`, until `bytes_max` bytes were visited, the
    /// end is reached or `visit` returns [`ControlFlow::Break`]; a log in which partitions lie side by side also stops when
    /// it has walked over four times as many. Returns the offset to go on from.
    ///
    /// At least one record is visited when there is one, however small `bytes_max` is. The record on which `visit`
    /// breaks counts as visited. A `from` at or past the end visits nothing and is returned unchanged.
    ///
    /// # Errors
    /// [`ReadError::Trimmed`] when `from` lies before [`EventLog::start`], [`ReadError::UnknownPartition`],
    /// [`ReadError::Changed`] or [`ReadError::Gap`] when the partition is not what it was, and [`ReadError::Corrupt`]
    /// or [`ReadError::Io`] when the stored bytes cannot be had; records before the damage were visited then. A server
    /// that cannot be reached is no error: nothing is visited, and [`EventLog::health`] says so.
    fn read(
        &self,
        partition: Partition,
        from: Offset,
        bytes_max: usize,
        visit: &mut dyn FnMut(Record<'_>) -> ControlFlow<()>,
    ) -> Result<Offset, ReadError>;

    /// First offset of the partition that is still there; 0 until the log is trimmed, and for a partition the log does
    /// not have.
    fn start(&self, partition: Partition) -> Offset;

    /// One past the last durable record of the partition (its high-water); 0 for a partition the log does not have.
    fn end(&self, partition: Partition) -> Offset;

    /// Begins to find out where the partitions end at this moment, and returns the number of the question.
    /// [`EventLog::end`] of a partition is at least that far once [`EventLog::ends_answered`] of it has reached the number. A
    /// log that always knows has nothing to ask.
    fn ask_ends(&self) -> u64 {
        0
    }

    /// The last question of [`EventLog::ask_ends`] that was answered for this partition: one without a leader is behind the
    /// others. The generation changes with it.
    fn ends_answered(&self, partition: Partition) -> u64 {
        let _ = partition;
        u64::MAX
    }

    /// Whether it is known where the partition ends. As long as it is not, because nobody who knows could be asked yet,
    /// [`EventLog::end`] says nothing of what the partition holds.
    fn is_end_known(&self, partition: Partition) -> bool {
        let _ = partition;
        true
    }

    /// Blocks the calling thread until the log's generation differs from `seen` or `timeout` is over, and returns the
    /// generation. It changes whenever records have become durable, and once when the log fails or is closed.
    ///
    /// Take the generation **before** reading: `wait(seen)` then returns at once if records came in between. A
    /// `timeout` of zero only asks for the generation.
    fn wait(&self, seen: u64, timeout: Duration) -> u64;

    /// Ends every [`EventLog::wait`] under way, as if something had become durable: for a thread that waits for the log
    /// and is wanted for something else.
    ///
    /// The default does nothing, so that whoever waits looks around when its timeout is over.
    fn wake(&self) {}

    /// Whether the log takes appends, for readiness checks.
    fn health(&self) -> Health;

    /// By how much this machine's clock is ahead of the clock that gives records their time, ms; negative when it is
    /// behind. 0 as long as they agree, or nothing is known. A log on this machine has no other clock.
    fn clock_ahead_ms(&self) -> i64 {
        0
    }

    /// Gives up records that a snapshot covers, as many as can be without touching one that it does not, and returns the
    /// new start of every partition.
    ///
    /// # Errors
    /// [`TrimError`] when `base` does not prove that nothing is lost, or when the implementation cannot trim.
    fn trim(&self, base: &SnapshotBase) -> Result<Vec<(Partition, Offset)>, TrimError>;

    /// Every partition of both topics, in the order in which answers list them.
    fn all_partitions(&self) -> Vec<Partition> {
        Topic::ALL
            .into_iter()
            .flat_map(|topic| (0..self.partitions(topic)).map(move |index| Partition { topic, index }))
            .collect()
    }
}

impl SnapshotBase {
    /// Checks that this base was verified, belongs to `log` and covers every partition of it between its start and its
    /// end.
    ///
    /// # Errors
    /// The first reason why trimming behind this base could lose a record.
    pub fn check(&self, log: &dyn EventLog) -> Result<(), TrimError> {
        if self.log_uuid != log.uuid() {
            return Err(TrimError::OtherLog { log: log.uuid(), snapshot: self.log_uuid });
        }
        if !self.verified {
            return Err(TrimError::NotVerified);
        }
        for partition in log.all_partitions() {
            let Some((_, next)) = self.next.iter().find(|(covered, _)| *covered == partition) else {
                return Err(TrimError::NotCovered { partition });
            };
            let (start, end) = (log.start(partition), log.end(partition));
            if *next < start || *next > end {
                return Err(TrimError::OutOfRange { partition, next: *next, start, end });
            }
        }
        Ok(())
    }
}
