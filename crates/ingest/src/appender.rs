//! Numbers records and hands them to the log.
//!
//! Every record carries the incarnation of the process that appended it and its place in the partition among that
//! incarnation's records, from 1 without gaps. A worker keeps one high-water per incarnation and drops what is not
//! above it, so a record that reaches the log twice counts once.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use barrage_event::routes::partition_of;
use barrage_event::{Callback, Partition, Stamp, Topic, append_sequence};
use barrage_log::{AppendBatch, AppendError, BATCH_BYTES_MAX, BATCH_RECORDS_MAX, EventLog, Health};

use crate::clock::Clock;
use crate::spool::{Durable, Spool};

/// Makes the number of an ingest process's run: ms since the epoch in the upper 42 bits, randomness in the lower 22.
///
/// So later runs have higher numbers, and two processes that start in the same ms still differ (but for one case in
/// four million).
///
/// # Errors
/// When the system has no randomness to give.
pub fn new_incarnation(clock: &dyn Clock) -> Result<u64, getrandom::Error> {
    const RANDOM_BITS: u32 = 22;
    let random = u64::from(getrandom::u32()?) >> (u32::BITS - RANDOM_BITS);
    let now_ms = u64::try_from(clock.now_ms()).unwrap_or_default();
    Ok(now_ms << RANDOM_BITS | random)
}

thread_local! {
    /// Records are encoded here before the lock is taken; reused by every event of the thread.
    static ENCODED: RefCell<AppendBatch> = RefCell::default();
}

/// An event on its way into the log.
#[derive(Debug)]
pub struct Appended {
    /// Tells when it is durable.
    pub ack: Durable,
    /// How many records it became.
    pub records: usize,
}

/// Appends records under one incarnation. Shared by requests and by the distribution of rules.
pub struct Appender {
    log: Arc<dyn EventLog>,
    /// What takes over where the log does not acknowledge in time.
    spool: Option<Arc<Spool>>,
    incarnation: u64,
    partitions: [u16; 2],
    /// Number of the last id.
    number: AtomicU64,
    sequences: Mutex<Sequences>,
}

/// What the lock covers: numbering and enqueueing, so that the order of sequences is the order in the log.
#[derive(Debug)]
struct Sequences {
    /// Last sequence of every partition of `barrage.room` and `barrage.user`.
    last: [Vec<u64>; 2],
    /// Reused from append to append.
    batch: AppendBatch,
}

impl std::fmt::Debug for Appender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Appender").field("incarnation", &self.incarnation).finish_non_exhaustive()
    }
}

/// Most memory that the reused batch keeps between appends, bytes: a rare large one must not stay for ever.
const KEEP_BYTES_MAX: usize = 1 << 20;

impl Appender {
    /// An appender for a run of this process. Two appenders must never share an incarnation: see [`new_incarnation`].
    #[must_use]
    pub fn new(log: Arc<dyn EventLog>, incarnation: u64) -> Self {
        Self::with(log, None, incarnation)
    }

    /// The same with a spool before its log.
    #[must_use]
    pub fn spooled(spool: Arc<Spool>, incarnation: u64) -> Self {
        Self::with(Arc::clone(spool.log()), Some(spool), incarnation)
    }

    fn with(log: Arc<dyn EventLog>, spool: Option<Arc<Spool>>, incarnation: u64) -> Self {
        let partitions = Topic::ALL.map(|topic| log.partitions(topic));
        let last = partitions.map(|count| vec![0; usize::from(count)]);
        Self {
            log,
            spool,
            incarnation,
            partitions,
            number: AtomicU64::new(0),
            sequences: Mutex::new(Sequences { last, batch: AppendBatch::new() }),
        }
    }

    /// The incarnation that records are stamped with.
    #[must_use]
    pub const fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The log that records go to.
    #[must_use]
    pub fn log(&self) -> &Arc<dyn EventLog> {
        &self.log
    }

    /// Number of partitions of a topic.
    #[must_use]
    pub const fn partitions(&self, topic: Topic) -> u16 {
        self.partitions[topic_index(topic)]
    }

    /// An id for the next event: the incarnation and a number that only this event has.
    #[must_use]
    pub fn next_id(&self) -> u128 {
        let number = self.number.fetch_add(1, Ordering::Relaxed) + 1;
        u128::from(self.incarnation) << 64 | u128::from(number)
    }

    /// Encodes an event, one record a route, and appends all of them as one atomic unit.
    ///
    /// # Errors
    /// Those of [`EventLog::append`]. An event whose records would be larger than a batch of the log is refused before
    /// they take more memory than that.
    pub fn append_event(&self, event: &Callback<'_>, stamp: &Stamp) -> Result<Appended, AppendError> {
        ENCODED.with_borrow_mut(|encoded| {
            encoded.clear();
            for (place, route) in event.routes().iter().enumerate() {
                let index = partition_of(stamp.app, route.key, self.partitions(route.topic));
                let partition = Partition { topic: route.topic, index };
                encoded.push(partition, |buf| event.encode(stamp, route, place == 0, buf));
                if encoded.bytes() > BATCH_BYTES_MAX || encoded.len() > BATCH_RECORDS_MAX {
                    let (records, bytes) = (encoded.len(), encoded.bytes());
                    *encoded = AppendBatch::new();
                    let (records_max, bytes_max) = (BATCH_RECORDS_MAX, BATCH_BYTES_MAX);
                    return Err(AppendError::BatchTooLarge { records, bytes, records_max, bytes_max });
                }
            }
            let result = self.append(encoded);
            let records = encoded.len();
            if encoded.bytes() > KEEP_BYTES_MAX {
                *encoded = AppendBatch::new();
            }
            result.map(|ack| Appended { ack, records })
        })
    }

    /// Numbers encoded records and enqueues them as one atomic append. The batch is left as it is; only its memory
    /// should be reused.
    ///
    /// # Errors
    /// Those of [`EventLog::append`]; nothing was appended then, and no sequence is used up.
    pub fn append(&self, encoded: &AppendBatch) -> Result<Durable, AppendError> {
        let mut sequences = self.sequences.lock().unwrap_or_else(PoisonError::into_inner);
        let Sequences { last, batch } = &mut *sequences;
        batch.clear();
        for (partition, record) in encoded.iter() {
            let slot = last[topic_index(partition.topic)].get_mut(usize::from(partition.index));
            // A partition that the log does not have is the log's to refuse.
            let sequence = slot.map_or(0, |last| {
                *last += 1;
                *last
            });
            batch.push(partition, |buf| {
                buf.extend_from_slice(record);
                append_sequence(buf, sequence);
            });
        }
        let result = match &self.spool {
            Some(spool) => spool.append(batch),
            None => self.log.append(batch).map(Durable::log),
        };
        if result.is_err() {
            for (partition, _) in encoded.iter() {
                if let Some(last) = last[topic_index(partition.topic)].get_mut(usize::from(partition.index)) {
                    *last -= 1;
                }
            }
        }
        if encoded.bytes() > KEEP_BYTES_MAX {
            *batch = AppendBatch::new();
        }
        result
    }

    /// The spool, if there is one.
    #[must_use]
    pub fn spool(&self) -> Option<&Arc<Spool>> {
        self.spool.as_ref()
    }

    /// Whether the log takes records, for readiness checks.
    #[must_use]
    pub fn health(&self) -> Health {
        self.log.health()
    }

    /// Every partition of both topics.
    #[must_use]
    pub fn all_partitions(&self) -> Vec<Partition> {
        self.log.all_partitions()
    }
}

const fn topic_index(topic: Topic) -> usize {
    match topic {
        Topic::Room => 0,
        Topic::User => 1,
    }
}
