//! The callback endpoint: HTTP in, durable records out.
//!
//! This crate *is* the door: who may send, how much at a time, and what is answered. It is *not* the meaning of a
//! callback, which `barrage-event` reads, and *not* the log, which it only appends to. It reads no environment and no
//! configuration file; the binary hands it [`IngestOptions`].
//!
//! | module | holds |
//! | --- | --- |
//! | `server` | accepting, the limit on connections, stopping |
//! | `connection` | deadlines of one connection |
//! | `service`, `callback`, `events` | from a request to its answer |
//! | `auth`, `query`, `admission` | what is checked before a body is read |
//! | [`refusal`], `reply` | every error with its number, and the bytes of answers |
//! | [`appender`] | numbering records and handing them to the log |
//! | [`distribute`] | the rules: applying a version everywhere, then activating it |
//! | [`spool`] | what keeps the promise of an answer while the log does not acknowledge |
//! | [`metrics`] | every metric name of the crate |

mod admission;
pub mod appender;
mod auth;
mod callback;
pub mod clock;
mod connection;
mod deadline;
pub mod distribute;
mod events;
mod exposure;
mod journal;
pub mod metrics;
mod options;
mod query;
pub mod refusal;
mod reply;
mod rules_handle;
mod rules_topic;
mod server;
mod service;
pub mod spool;

pub use appender::{Appended, Appender, new_incarnation};
pub use clock::{Clock, LogClock, SystemClock};
pub use distribute::{Applied, DistributeError, Rules};
pub use exposure::{ExposureError, ExposureWarning, check_exposure};
pub use journal::{JournalError, RulesVersion};
pub use metrics::Metrics;
pub use options::{IngestOptions, OptionError, Secret};
pub use refusal::Refusal;
pub use rules_handle::RulesHandle;
pub use rules_topic::RulesTopic;
pub use server::{IngestError, serve, serve_with_clock};
pub use service::RECEIVED_AT_HEADER;
pub use spool::{Durable, Spool, SpoolError, SpoolMetrics, SpoolOptions, SpoolStatus};
