//! The seam between a log whose partitions are shared out among processes and the worker that runs some of them.
//!
//! Where the log hands partitions out, the log calls: it knows first who owns what. What it calls is the worker's
//! [`Owner`]; what the worker calls back is [`Follow`]. On the embedded log neither is used: one process has all.

use std::fmt;
use std::sync::Arc;

use barrage_event::{Offset, Partition};

/// Told by the log which partitions are this process's; implemented by the worker.
///
/// Calls come from one thread, one after the other.
pub trait Owner: Send + Sync {
    /// These partitions are this process's now, beside those it has already. Returns at once, with the next offset of
    /// every partition whose store is open; the others are reported through `follow` when theirs is.
    fn assigned(&self, partitions: &[Partition], follow: &Arc<dyn Follow>) -> Vec<(Partition, Offset)>;

    /// These partitions are taken away. Returns when each has committed what it applied and answers no more reads.
    ///
    /// With `lost` another process may have them already: nothing is to leave this process any more. A commit into the
    /// own store is harmless even then, because it is only a cache of the log.
    fn revoked(&self, partitions: &[Partition], lost: bool);
}

/// Where a partition whose store is open asks for its records.
pub trait Follow: Send + Sync + fmt::Debug {
    /// Begins to deliver the records of a partition from an offset on, unless it was taken away meanwhile.
    fn follow(&self, partition: Partition, from: Offset);
}
