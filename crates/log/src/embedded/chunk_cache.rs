//! Pieces of files in memory, shared by all readers that catch up.
//!
//! Partitions that catch up walk the same files at about the same pace. A piece is read and checked once; whoever
//! wants it meanwhile waits for the one who reads it.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::embedded::chunk::Chunk;
use crate::error::ReadError;

/// Which piece: segment number, position of its first and one past its last byte. The last piece of the newest segment
/// grows; every length of it is a piece of its own.
pub(crate) type Key = (u64, u32, u32);

/// Most buffers that are kept for later.
const FREE_MAX: usize = 2;

/// Least recently used pieces go first.
#[derive(Debug)]
pub(crate) struct ChunkCache {
    slots: Mutex<Slots>,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Slots {
    /// Few and looked up once a piece, so a list is faster than a map.
    list: Vec<Slot>,
    clock: u64,
    /// Buffers of pieces that are gone, for the next ones: fresh memory costs more than reading into it.
    free: Vec<Vec<u8>>,
}

/// A piece, set when it has been read; none when it could not be.
type Shared = Arc<OnceLock<Option<Arc<Chunk>>>>;

#[derive(Debug)]
struct Slot {
    key: Key,
    used: u64,
    /// Weighs its bytes in the file from the start, so that many pieces under way stay inside the bound too.
    bytes: usize,
    chunk: Shared,
}

impl ChunkCache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { slots: Mutex::default(), bytes_max }
    }

    /// The piece `key`, read by `load` into the buffer it is given, if it is not there. The flag tells whether it was.
    pub(crate) fn get(
        &self,
        key: Key,
        load: impl FnOnce(Vec<u8>) -> Result<Chunk, ReadError>,
    ) -> Result<(Arc<Chunk>, bool), ReadError> {
        let shared = self.slot(key);
        let mut load = Some(load);
        let mut failure = None;
        let chunk = shared.get_or_init(|| {
            let load = load.take()?;
            load(self.buffer()).map_err(|error| failure = Some(error)).ok().map(Arc::new)
        });
        if let Some(chunk) = chunk {
            if load.is_none() {
                self.weigh(key, chunk.memory());
            }
            return Ok((Arc::clone(chunk), load.is_some()));
        }
        // A failure is not kept: the one who met it tells it, the others try for themselves.
        self.forget(key, &shared);
        match (failure, load) {
            (Some(error), _) => Err(error),
            (None, Some(load)) => load(self.buffer()).map(|chunk| (Arc::new(chunk), false)),
            (None, None) => unreachable!("a load that was taken gave a chunk or an error"),
        }
    }

    fn buffer(&self) -> Vec<u8> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).free.pop().unwrap_or_default()
    }

    fn slot(&self, key: Key) -> Shared {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.clock += 1;
        let used = slots.clock;
        if let Some(slot) = slots.list.iter_mut().find(|slot| slot.key == key) {
            slot.used = used;
            return Arc::clone(&slot.chunk);
        }
        let chunk = Arc::default();
        slots.list.push(Slot { key, used, bytes: (key.2 - key.1) as usize, chunk: Arc::clone(&chunk) });
        slots.shrink(self.bytes_max);
        chunk
    }

    fn weigh(&self, key: Key, bytes: usize) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.list.iter_mut().find(|slot| slot.key == key) {
            slot.bytes = bytes;
        }
        slots.shrink(self.bytes_max);
    }

    fn forget(&self, key: Key, chunk: &Shared) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.list.retain(|slot| slot.key != key || !Arc::ptr_eq(&slot.chunk, chunk));
    }
}

impl Slots {
    fn shrink(&mut self, bytes_max: usize) {
        while self.list.iter().map(|slot| slot.bytes).sum::<usize>() > bytes_max {
            let oldest = self.list.iter().enumerate().min_by_key(|(_, slot)| slot.used).map(|(index, _)| index);
            let Some(oldest) = oldest else { return };
            let chunk = Arc::into_inner(self.list.swap_remove(oldest).chunk).and_then(OnceLock::into_inner).flatten();
            if let Some(chunk) = chunk.and_then(Arc::into_inner)
                && self.free.len() < FREE_MAX
            {
                self.free.push(chunk.into_bytes());
            }
        }
    }
}
