//! The newest groups in memory, from which everybody who keeps up reads.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};

use crate::embedded::chunk::Chunk;

/// How many chunks a reader takes at a time, so that it holds no lock while it visits.
pub(crate) const TAKE: usize = 16;

/// A bounded queue of the newest chunks: whatever is not in it is in a file.
#[derive(Debug)]
pub(crate) struct Tail {
    queue: RwLock<Queue>,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Queue {
    chunks: VecDeque<Arc<Chunk>>,
    bytes: usize,
}

impl Tail {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { queue: RwLock::default(), bytes_max }
    }

    /// Adds the next chunk and drops the oldest ones; gives back the buffer of one that nobody reads any more.
    pub(crate) fn push(&self, chunk: Arc<Chunk>) -> Option<Vec<u8>> {
        let mut dropped = Vec::new();
        {
            let mut queue = self.queue.write().unwrap_or_else(PoisonError::into_inner);
            queue.bytes += chunk.memory();
            queue.chunks.push_back(chunk);
            while queue.bytes > self.bytes_max {
                let Some(oldest) = queue.chunks.pop_front() else { break };
                queue.bytes -= oldest.memory();
                dropped.push(oldest);
            }
        }
        dropped.into_iter().filter_map(Arc::into_inner).map(Chunk::into_bytes).max_by_key(Vec::capacity)
    }

    /// Puts chunks with records of the partition from `from` on into `out`, at most [`TAKE`]. False when the oldest
    /// chunk begins behind `from`.
    pub(crate) fn take(&self, dense: usize, from: u64, out: &mut Vec<Arc<Chunk>>) -> bool {
        let queue = self.queue.read().unwrap_or_else(PoisonError::into_inner);
        if queue.chunks.front().is_none_or(|oldest| from < oldest.first(dense)) {
            return false;
        }
        let at = queue.chunks.partition_point(|chunk| chunk.next(dense) <= from);
        out.extend(queue.chunks.range(at..).take(TAKE).cloned());
        !out.is_empty()
    }
}
