//! The log of what happened: the [`EventLog`] trait, the embedded implementation on segment files, and the one on Kafka.
//!
//! This crate *is* the order and the durability of records: they are appended in atomic batches, acknowledged when
//! they are durable, and read back by partition and offset. It is *not* a codec: a record is bytes to it, and it
//! knows nothing of events, projections or HTTP.
//!
//! | module | holds |
//! | --- | --- |
//! | [`event_log`] | the trait |
//! | [`batch`], [`ack`] | what goes into an append and what comes back |
//! | [`error`] | one enum an operation |
//! | [`embedded`] | the implementation on own segment files, with group commit |
//! | [`kafka`] | the implementation on Kafka, its consumer group and control topics |
//! | [`owner`] | who runs which partition, where a log is shared out among processes |
//! | [`metrics`] | every metric name of the crate |
//! | `conformance` | what every implementation must do, as tests (feature `test-util`) |

pub mod ack;
pub mod batch;
mod clock;
#[cfg(any(test, feature = "test-util"))]
pub mod conformance;
pub mod embedded;
pub mod error;
pub mod event_log;
pub mod kafka;
pub mod metrics;
pub mod owner;

pub use ack::{Ack, Completer, Positions};
pub use batch::AppendBatch;
pub use embedded::{EmbeddedLog, EmbeddedOptions, LogReader};
pub use error::{AppendError, Corruption, OpenError, ReadError, TrimError};
pub use event_log::{EventLog, Health, Record, SnapshotBase};
pub use kafka::{
    Announcements, ControlRecord, ControlTopic, Group, KafkaLog, KafkaMetrics, KafkaOptions, KafkaReader, KnownLog,
};
pub use metrics::Metrics;
pub use owner::{Follow, Owner};

/// Largest record, in bytes: 2 MiB. Every implementation has the same limit, so that a log may move from one to the
/// other; on Kafka it is set on producer, topic and consumer.
pub const RECORD_BYTES_MAX: usize = 2 << 20;

/// Largest batch of one append, in bytes of its records: 8 MiB. A batch is one atomic unit, checked and kept in memory
/// as a whole, so it must not be as large as a caller likes.
pub const BATCH_BYTES_MAX: usize = 8 << 20;

/// Most records in one append: 65,536, for the same reason.
pub const BATCH_RECORDS_MAX: usize = 1 << 16;
