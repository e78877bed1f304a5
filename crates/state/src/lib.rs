//! Partition stores on `RocksDB`: one database a partition, one write batch a commit.
//!
//! State is a cache of the log: a commit writes all changed rows and the next offset in one batch and syncs nothing;
//! losing the tail of the state only means reading the log again. This crate knows rows and files. What the rows mean is
//! the projections' business, and when to commit is the worker's.

pub mod directory;
pub mod env;
pub mod proto;
pub mod runtime;
pub mod store;

pub use directory::{PartitionDir, StoreDir};
pub use env::{StateEnv, StateOptions};
pub use runtime::Meta;
pub use store::{Changes, Snapshot, Store};

/// What a store on disk can fail with.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The key-value store failed.
    #[error("the state store in {dir} failed: {source}")]
    Rocks {
        /// Its directory.
        dir: String,
        /// What `RocksDB` says.
        source: rocksdb::Error,
    },
    /// The file system failed.
    #[error("{path}: {source}")]
    File {
        /// The path.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// The store holds what it should not.
    #[error(
        "the state store in {dir} is damaged ({problem}); stop the server, remove that directory and start again: the state is made anew from the log"
    )]
    Damaged {
        /// Its directory.
        dir: String,
        /// What is wrong.
        problem: String,
    },
}
