//! Rows in memory, found by their bytes: what the overlays of plain tables and of entities have in common.

use hashbrown::HashTable;
use smallvec::SmallVec;

use crate::codec::{Compact128, memory_hash};
use crate::key::KeyCodec;

/// A row's bytes. Nearly all are short, and what lies in its slot needs neither an allocation nor another cache line.
pub(crate) type RowBytes = SmallVec<[u8; 40]>;

/// Estimated memory of a row beside its slot: the index's entry and what is free in both.
const ROW_OVERHEAD_BYTES: usize = 24;

/// Fewer slots than this are not worth giving back.
const SLOTS_KEPT: usize = 1_024;

#[derive(Debug)]
pub(crate) struct Slot<P> {
    /// Empty in a slot that is free.
    row: RowBytes,
    pub(crate) payload: P,
    /// Hash of the committed row; 0 when the store has none.
    pub(crate) committed: Compact128,
    bytes: u32,
    dirty: bool,
    /// Found since the clock came by last.
    used: bool,
    /// How often the clock came by since then.
    age: u8,
}

impl<P> Slot<P> {
    pub(crate) fn row(&self) -> &[u8] {
        &self.row
    }
}

/// Rows by their bytes, each with a payload.
#[derive(Debug)]
pub(crate) struct Rows<P> {
    index: HashTable<u32>,
    pub(crate) slots: Vec<Slot<P>>,
    free: Vec<u32>,
    dirty: Vec<u32>,
    /// The bytes of the row that was looked for last.
    scratch: Vec<u8>,
    /// Where it was found: one event asks for a room and an account again and again.
    last: usize,
    bytes: usize,
    dirty_bytes: usize,
    clock: usize,
}

impl<P> Default for Rows<P> {
    fn default() -> Self {
        Self {
            index: HashTable::new(),
            slots: Vec::new(),
            free: Vec::new(),
            dirty: Vec::new(),
            scratch: Vec::new(),
            last: 0,
            bytes: 0,
            dirty_bytes: 0,
            clock: 0,
        }
    }
}

impl<P: Default> Rows<P> {
    /// Finds a row's slot in memory, and marks it as in use unless it was the one before, too.
    pub(crate) fn find<'k>(&mut self, table: u8, key: &impl KeyCodec<'k>) -> Option<usize> {
        self.scratch.clear();
        self.scratch.push(table);
        key.encode(&mut self.scratch);
        let row = self.scratch.as_slice();
        let slots = &self.slots;
        if slots.get(self.last).is_none_or(|slot| *slot.row != *row) {
            self.last = *self.index.find(memory_hash(row), |&at| *slots[at as usize].row == *row)? as usize;
            self.slots[self.last].used = true;
        }
        Some(self.last)
    }

    /// Whether a row is in memory; it counts as unused all the same.
    pub(crate) fn has(&self, row: &[u8]) -> bool {
        self.index.find(memory_hash(row), |&at| *self.slots[at as usize].row == *row).is_some()
    }

    /// The bytes of the row that was looked for last, and memory to encode others in; comes back with [`Self::give_back`].
    pub(crate) fn take_scratch(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.scratch)
    }

    pub(crate) fn give_back(&mut self, scratch: Vec<u8>) {
        self.scratch = scratch;
    }

    /// Puts a row in that is not there; `bytes` is the memory of its payload beside the slot.
    pub(crate) fn add(&mut self, row: RowBytes, payload: P, committed: u128, bytes: usize) -> usize {
        let hash = memory_hash(&row);
        // A row is in use when it is asked for a second time: what many events touch once each must not push out what
        // all of them touch.
        let slot = Slot { row, payload, committed: committed.into(), bytes: 0, dirty: false, used: false, age: 0 };
        let at = if let Some(at) = self.free.pop() {
            self.slots[at as usize] = slot;
            at
        } else {
            // 2^32 rows are beyond any budget, so the number always fits.
            let at = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
            self.slots.push(slot);
            at
        };
        let slots = &self.slots;
        self.index.insert_unique(hash, at, |&i| memory_hash(&slots[i as usize].row));
        self.last = at as usize;
        self.charge(self.last, bytes);
        self.last
    }

    /// Sets the estimated memory of a row; `payload` is that beside the slot.
    pub(crate) fn charge(&mut self, at: usize, payload: usize) {
        let slot = &mut self.slots[at];
        let spilled = if slot.row.spilled() { slot.row.capacity() } else { 0 };
        let bytes = payload + spilled + size_of::<Slot<P>>() + ROW_OVERHEAD_BYTES;
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.bytes = self.bytes - slot.bytes as usize + bytes as usize;
        if slot.dirty {
            self.dirty_bytes = self.dirty_bytes - slot.bytes as usize + bytes as usize;
        }
        slot.bytes = bytes;
    }

    /// More memory of a row's payload.
    pub(crate) fn charge_more(&mut self, at: usize, more: usize) {
        let slot = &mut self.slots[at];
        let more = u32::try_from(more).unwrap_or(u32::MAX).min(u32::MAX - slot.bytes);
        slot.bytes += more;
        self.bytes += more as usize;
        if slot.dirty {
            self.dirty_bytes += more as usize;
        }
    }

    /// The row will be handed to the next commit.
    pub(crate) fn touch(&mut self, at: usize) {
        let slot = &mut self.slots[at];
        if !slot.dirty {
            slot.dirty = true;
            self.dirty_bytes += slot.bytes as usize;
            // Slots are numbered by `add`, which keeps them inside u32.
            self.dirty.push(u32::try_from(at).unwrap_or(u32::MAX));
        }
    }

    /// The rows that were touched, which are clean now; comes back with [`Self::committed`]. In their order: the store
    /// puts neighbours in quicker one after the other.
    pub(crate) fn take_dirty(&mut self) -> Vec<u32> {
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.sort_unstable_by(|&a, &b| self.slots[a as usize].row.cmp(&self.slots[b as usize].row));
        for &at in &dirty {
            self.slots[at as usize].dirty = false;
        }
        self.dirty_bytes = 0;
        dirty
    }

    pub(crate) fn committed(&mut self, mut dirty: Vec<u32>) {
        dirty.clear();
        self.dirty = dirty;
    }

    /// Drops a row that is not dirty from memory.
    pub(crate) fn forget(&mut self, at: usize) -> P {
        let slot = &mut self.slots[at];
        let hash = memory_hash(&slot.row);
        slot.row = RowBytes::new();
        self.bytes -= slot.bytes as usize;
        let payload = std::mem::take(&mut slot.payload);
        let at = u32::try_from(at).unwrap_or(u32::MAX);
        if let Ok(entry) = self.index.find_entry(hash, |&i| i == at) {
            entry.remove();
        }
        self.free.push(at);
        payload
    }

    /// The next clean row that the clock comes by and that was not used since it came by last, and how often it came by in
    /// vain by now; it goes `steps` slots on at most.
    pub(crate) fn next_unused(&mut self, steps: &mut usize) -> Option<(usize, u8)> {
        while *steps > 0 {
            *steps -= 1;
            self.clock = if self.clock + 1 >= self.slots.len() { 0 } else { self.clock + 1 };
            let slot = &mut self.slots[self.clock];
            if slot.row.is_empty() || slot.dirty {
                continue;
            }
            if !slot.used {
                slot.age = slot.age.saturating_add(1);
                return Some((self.clock, slot.age));
            }
            slot.used = false;
            slot.age = 0;
        }
        None
    }

    /// Slots in one of so many parts.
    pub(crate) fn part(&self, parts: usize) -> usize {
        self.slots.len().div_ceil(parts)
    }

    /// Whether most of the slots are free, as they are when a partition has caught up with its log, and no change waits.
    pub(crate) fn is_sparse(&self) -> bool {
        self.slots.len() > SLOTS_KEPT && self.free.len() > self.slots.len() / 2 && self.dirty.is_empty()
    }

    /// Gives the memory of free slots back. Rows get other slots; `moved` is shown each one's payload.
    pub(crate) fn shrink(&mut self, mut moved: impl FnMut(&mut P)) {
        let live = self.slots.len() - self.free.len();
        let old = std::mem::replace(&mut self.slots, Vec::with_capacity(live));
        self.index = HashTable::with_capacity(live);
        self.free = Vec::new();
        (self.last, self.clock) = (0, 0);
        for mut slot in old.into_iter().filter(|slot| !slot.row.is_empty()) {
            let (hash, after) = (memory_hash(&slot.row), self.slots.len());
            moved(&mut slot.payload);
            self.slots.push(slot);
            let slots = &self.slots;
            // Fewer than there were, whose numbers fit.
            let at = u32::try_from(after).unwrap_or(u32::MAX);
            self.index.insert_unique(hash, at, |&i| memory_hash(&slots[i as usize].row));
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn dirty_bytes(&self) -> usize {
        self.dirty_bytes
    }
}
