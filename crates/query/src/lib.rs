//! Reads of Barrage over HTTP, the commands that go with them, and the admin endpoints.
//!
//! This crate *is* the mapping between HTTP and the committed snapshots of the partition stores: which partition a
//! question concerns, who is asked about it, what is merged from which statistic, and what an error looks like. It computes no number
//! itself: every field of an answer beside `as_of` is a statistic's, but for a room's rank, which is a count over all
//! partitions. It is *not* the place where rules are distributed or partitions owned; it asks for both.
//!
//! | module | holds |
//! | --- | --- |
//! | [`api`] | the service: router, limits, the way of a request |
//! | `routes` | every path with its method, parameters and handler, in one table |
//! | `reads`, `commands` | the handlers |
//! | `question` | what one partition is asked, and what it answers |
//! | `local` | answers from the stores of this process: the only place that reads them |
//! | `owners` | who owns a partition, and the way to that process over internal gRPC |
//! | `apps` | which `SdkAppid`s there are |
//! | `params`, `cursor`, `answer`, [`error`] | what goes in and out: query strings, paging, `as_of`, `ETag`, errors |
//! | [`rules`] | what the commands about rules need from the process around this crate |
//! | [`admin`] | `/metrics`, `/livez`, `/readyz` |
//! | [`server`] | the accept loop with its limits |
//! | [`options`], [`metrics`] | options and metric names |

pub mod admin;
mod answer;
pub mod api;
mod apps;
mod commands;
mod connection;
mod cursor;
pub mod error;
mod local;
pub mod metrics;
pub mod options;
mod owners;
mod params;
mod proto;
mod question;
mod reads;
mod routes;
pub mod rules;
pub mod server;

pub use admin::{Admin, Readiness};
pub use api::Api;
pub use error::ApiError;
pub use local::Local;
pub use metrics::Metrics;
pub use options::{AdminOptions, OptionError, OwnerOptions, QueryOptions};
pub use owners::{
    AllHere, Claim, Directory, Owner, OwnerRecord, OwnerRecordError, OwnerService, OwnerTable, Owners, OwnersParts,
    PeerMarks, Shape, Sorts, serve_owner,
};
pub use rules::{ApplyRulesError, RulesApplied, RulesControl, RulesVersion};
pub use server::{ServerError, ServerLimits, serve};

/// Latest time that is taken from outside, in ms since the epoch: the end of the year 9999.
pub const TIME_MS_MAX: i64 = 253_402_300_799_999;

/// The `OpenAPI` document, as served under `/openapi.json`.
pub const OPENAPI: &str = include_str!("../openapi.json");
