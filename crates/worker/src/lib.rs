//! The partition loop: read, drop duplicates, apply, commit.
//!
//! [`engine::Engine`] is the state machine of one partition and has neither thread nor clock. [`Worker`] runs the
//! engines of the partitions that this process owns on a few threads, commits them in time, rebuilds them when asked,
//! and hands out [`Stores`] for reads. Which partitions those are may change while it runs: [`Assignments`].

mod assignments;
mod bloom;
mod budget;
mod checking;
mod common;
mod derived;
mod duplicates;
pub mod engine;
#[cfg(feature = "test-util")]
pub mod fault;
#[cfg(not(feature = "test-util"))]
mod fault;
mod homes;
mod identities;
mod metrics;
mod outbox;
mod pool;
mod publisher;
mod rebuild;
mod restoring;
mod rules_in_force;
mod runner;
mod sending;
mod shared;
mod snapshot_metrics;
mod snapshots;
mod status;
mod stores;
mod thread;

pub use assignments::Assignments;
pub use budget::{BudgetPart, OverlayBudget};
pub use checking::LastSeen;
pub use engine::{APPS_MAX, Applied, DEAD_LETTERS_MAX, Engine, Fitness, Stop, versions};
pub use pool::{IsOwner, Worker, WorkerError, WorkerOptions};
pub use publisher::{Publication, Publisher};
pub use sending::{Mark, SourceMarks};
pub use snapshots::{SnapshotOptions, Snapshots, TakeError, TrimNowError};
pub use status::{PartitionStatus, Phase, RebuildError, RebuildStatus, SnapshotStatus, TakenSnapshot, Unavailable};
pub use stores::{DeadLetterRow, Snapshot, Stores};
