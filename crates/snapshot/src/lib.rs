//! Snapshots of partition stores in an object store: a folder, or S3 and what speaks like it.
//!
//! A snapshot is a copy of one partition's store at one offset. A partition that moves to another machine starts from the
//! last one and reads the tail of the log, instead of all of it. A snapshot is a cache like the store itself, unless the
//! log was trimmed behind it: then it is what is left of the records before.
//!
//! # Layout
//!
//! ```text
//! {prefix}/{lineage of the topic}/room-0/files/{xxh3-128}-{bytes}
//! {prefix}/{lineage of the topic}/room-0/manifests/{next offset, 20 digits}-{made at, ms, 13 digits}-{random}.json
//! {prefix}/{lineage of the topic}/room-0/verified/{name of a manifest}
//! ```
//!
//! * Files are named by their content. The table files of `RocksDB` never change, so a file that the snapshot before
//!   holds is not sent again.
//! * A manifest names the files of one snapshot with size and hash. It is written last: without it there is no snapshot.
//! * Names sort by offset; the last one is the newest.
//! * A manifest tells the last record that its store saw. One that the log does not hold at that place is of another
//!   history: it is passed over, counts as none, and is left alone until snapshots of this history lie beyond it.
//! * A log was trimmed behind the snapshot that `verified` names: it outlives newer ones until another one is verified.
//! * Two processes may write snapshots of one partition, for one a former owner that does not know yet. They never write
//!   the same manifest, and equal files are equal. What no manifest names is removed only when it is a day old, so that
//!   an upload under way loses nothing.
//!
//! Calls block; make them from threads that may.

mod bucket;
mod error;
mod expire;
mod lineage;
mod manifest;
mod restore;
mod save;

pub use bucket::{Listed, SnapshotStore};
pub use error::SnapshotError;
pub use expire::Expired;
pub use manifest::{File, Manifest, StatisticVersion};
pub use restore::Wanted;
pub use save::Saved;
