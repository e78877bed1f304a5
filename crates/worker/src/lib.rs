//! The partition loop: read, drop duplicates, apply, commit.
//!
//! [`engine::Engine`] is the state machine of one partition and has neither thread nor clock. [`Worker`] runs the
//! engines of the partitions that this process owns on a few threads, commits them in time, rebuilds them when asked,
//! and hands out [`Stores`] for reads.

mod bloom;
mod duplicates;
pub mod engine;
mod metrics;
mod pool;
mod runner;
mod stores;

pub use engine::{Applied, DEAD_LETTERS_MAX, Engine, Fitness, Stop};
pub use pool::{Worker, WorkerError, WorkerOptions};
pub use stores::{DeadLetterRow, PartitionStatus, Phase, RebuildError, RebuildStatus, Snapshot, Stores, Unavailable};
