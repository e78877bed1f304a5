//! The write-back overlay: rows in use, decoded, in memory.
//!
//! One read-modify-write of the key-value store costs more than everything else an event needs, so a hot row is read
//! once, changed in memory as often as events say, and written once per commit. Rows stay after a commit as a cache and
//! leave it by a clock when the overlay is over its budget.

use std::any::Any;
use std::fmt;

use hashbrown::HashTable;
use prost::Message as _;

use crate::bucket::{BucketOverlay, BucketRef, BucketTable};
use crate::codec::{memory_hash, row_hash};
use crate::key::KeyCodec as _;
use crate::table::{Backing, StoreError, Table, TableDef};

/// Sum of row hashes modulo 2^128.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StateHash(pub u128);

impl StateHash {
    /// One row's hash goes from `old` to `new`; 0 stands for no row.
    pub fn change(&mut self, old: u128, new: u128) {
        self.0 = self.0.wrapping_sub(old).wrapping_add(new);
    }
}

impl fmt::Display for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Takes the changed rows at a commit.
pub trait CommitSink {
    /// The row has this value now.
    fn put(&mut self, row: &[u8], value: &[u8]);
    /// The row is gone.
    fn delete(&mut self, row: &[u8]);
}

/// An overlay whose table type the runtime does not know.
pub trait ErasedTable: Any + Send {
    /// For the typed access of [`Tables::table`].
    fn as_any_mut(&mut self) -> &mut dyn Any;
    /// Hands every changed row to `sink` and marks it clean.
    fn commit(&mut self, sink: &mut dyn CommitSink, hash: &mut StateHash);
    /// Forgets everything, changes too: the state is the committed one again.
    fn discard(&mut self);
    /// Reads what must always be in memory; called after opening and after [`Self::discard`].
    ///
    /// # Errors
    /// [`StoreError`] when the store fails or holds a damaged row.
    fn load(&mut self, backing: &dyn Backing) -> Result<(), StoreError>;
    /// Memory in use, bytes, estimated.
    fn bytes(&self) -> usize;
    /// Memory of rows that changed since the last commit, bytes, estimated.
    fn dirty_bytes(&self) -> usize;
    /// Whether clean rows can be dropped and read again; else all rows are always in memory.
    fn is_cache(&self) -> bool;
    /// Drops clean rows that were not used lately until at most `target` bytes are left, as far as possible.
    fn evict(&mut self, target: usize);
}

/// Estimated memory of a row beside its key and value: slot, index entry, allocator.
const ROW_OVERHEAD_BYTES: usize = 64;

#[derive(Debug)]
struct Slot<V> {
    row: Box<[u8]>,
    value: Option<V>,
    /// Hash of the committed row; 0 when the store has none.
    committed: u128,
    bytes: u32,
    dirty: bool,
    used: bool,
}

/// The overlay of one plain table.
#[derive(Debug)]
pub struct TableOverlay<T: Table> {
    index: HashTable<u32>,
    slots: Vec<Slot<T::Value>>,
    free: Vec<u32>,
    dirty: Vec<u32>,
    scratch: Vec<u8>,
    bytes: usize,
    dirty_bytes: usize,
    clock: usize,
}

impl<T: Table> Default for TableOverlay<T> {
    fn default() -> Self {
        Self {
            index: HashTable::new(),
            slots: Vec::new(),
            free: Vec::new(),
            dirty: Vec::new(),
            scratch: Vec::new(),
            bytes: 0,
            dirty_bytes: 0,
            clock: 0,
        }
    }
}

impl<T: Table> TableOverlay<T> {
    /// Encodes the key into `scratch` and finds its slot in memory.
    fn find(&mut self, key: &T::Key<'_>) -> (u64, Option<usize>) {
        self.scratch.clear();
        self.scratch.push(T::ID);
        key.encode(&mut self.scratch);
        let hash = memory_hash(&self.scratch);
        let slots = &self.slots;
        let row = self.scratch.as_slice();
        let found = self.index.find(hash, |&i| *slots[i as usize].row == *row);
        (hash, found.map(|&i| i as usize))
    }

    fn add(
        &mut self,
        hash: u64,
        row: Box<[u8]>,
        value: Option<T::Value>,
        committed: u128,
        value_bytes: usize,
    ) -> usize {
        let bytes = row.len() + value_bytes + size_of::<Slot<T::Value>>() + ROW_OVERHEAD_BYTES;
        // A row is in use when it is asked for a second time: what many events touch once each must not push out what
        // all of them touch.
        let slot =
            Slot { row, value, committed, bytes: u32::try_from(bytes).unwrap_or(u32::MAX), dirty: false, used: false };
        self.bytes += bytes;
        let at = if let Some(at) = self.free.pop() {
            self.slots[at as usize] = slot;
            at
        } else {
            // 2^32 rows of 64 bytes are beyond any budget, so the number always fits.
            let at = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
            self.slots.push(slot);
            at
        };
        let slots = &self.slots;
        self.index.insert_unique(hash, at, |&i| memory_hash(&slots[i as usize].row));
        at as usize
    }

    /// Finds the row's slot, reading it from the store when it is not in memory.
    fn fetch(&mut self, backing: &dyn Backing, key: &T::Key<'_>) -> Result<usize, StoreError> {
        let (hash, found) = self.find(key);
        if let Some(at) = found {
            self.slots[at].used = true;
            return Ok(at);
        }
        // The row is kept aside, because the value is read behind it for the hash.
        let row_len = self.scratch.len();
        let mut whole = std::mem::take(&mut self.scratch);
        let row: Box<[u8]> = whole.as_slice().into();
        let mut decoded = None;
        let result = backing.get(&row, &mut |bytes| {
            whole.extend_from_slice(bytes);
            decoded = Some(T::Value::decode(bytes));
        });
        let found_bytes = whole.len() - row_len;
        let committed = if decoded.is_some() { row_hash(&whole, row_len) } else { 0 };
        whole.truncate(row_len);
        self.scratch = whole;
        result?;
        let value = decoded.transpose().map_err(|e| StoreError::Damaged { table: T::NAME, problem: e.to_string() })?;
        Ok(self.add(hash, row, value, committed, found_bytes))
    }

    /// Drops a row that is not dirty from memory.
    fn forget(&mut self, at: u32) {
        let slot = &mut self.slots[at as usize];
        let hash = memory_hash(&slot.row);
        slot.row = Box::default();
        slot.value = None;
        self.bytes -= slot.bytes as usize;
        if let Ok(entry) = self.index.find_entry(hash, |&i| i == at) {
            entry.remove();
        }
        self.free.push(at);
    }

    fn touch(&mut self, at: usize) {
        let slot = &mut self.slots[at];
        if !slot.dirty {
            slot.dirty = true;
            self.dirty_bytes += slot.bytes as usize;
            // Slots are numbered by `add`, which keeps them inside u32.
            self.dirty.push(u32::try_from(at).unwrap_or(u32::MAX));
        }
    }
}

impl<T: Table> ErasedTable for TableOverlay<T> {
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn commit(&mut self, sink: &mut dyn CommitSink, hash: &mut StateHash) {
        let mut whole = std::mem::take(&mut self.scratch);
        let mut dirty = std::mem::take(&mut self.dirty);
        for at in dirty.drain(..) {
            let slot = &mut self.slots[at as usize];
            slot.dirty = false;
            if let Some(value) = &slot.value {
                whole.clear();
                whole.extend_from_slice(&slot.row);
                value.encode_raw(&mut whole);
                let new = row_hash(&whole, slot.row.len());
                if new != slot.committed {
                    sink.put(&slot.row, &whole[slot.row.len()..]);
                    hash.change(slot.committed, new);
                    slot.committed = new;
                }
                let bytes = whole.len() + size_of::<Slot<T::Value>>() + ROW_OVERHEAD_BYTES;
                self.bytes = self.bytes - slot.bytes as usize + bytes;
                slot.bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            } else {
                if slot.committed != 0 {
                    sink.delete(&slot.row);
                    hash.change(slot.committed, 0);
                }
                // Nobody asks again for a row that was taken out, as the places of an index are.
                self.forget(at);
            }
        }
        self.dirty = dirty;
        self.scratch = whole;
        self.dirty_bytes = 0;
    }

    fn discard(&mut self) {
        *self = Self::default();
    }

    fn load(&mut self, _: &dyn Backing) -> Result<(), StoreError> {
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn dirty_bytes(&self) -> usize {
        self.dirty_bytes
    }

    fn is_cache(&self) -> bool {
        true
    }

    fn evict(&mut self, target: usize) {
        // Two rounds at most: the first takes the marks of use away, the second finds what was not used since.
        let mut steps = self.slots.len() * 2;
        while self.bytes > target && steps > 0 {
            steps -= 1;
            self.clock = if self.clock + 1 >= self.slots.len() { 0 } else { self.clock + 1 };
            let slot = &mut self.slots[self.clock];
            if slot.row.is_empty() || slot.dirty {
                continue;
            }
            if slot.used {
                slot.used = false;
                continue;
            }
            self.forget(u32::try_from(self.clock).unwrap_or(u32::MAX));
        }
        if self.slots.len() == self.free.len() {
            *self = Self::default();
        }
    }
}

/// A plain table as a projection sees it while it applies an event.
pub struct TableRef<'c, T: Table> {
    overlay: &'c mut TableOverlay<T>,
    backing: &'c dyn Backing,
}

impl<T: Table> fmt::Debug for TableRef<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableRef").field("table", &T::NAME).finish_non_exhaustive()
    }
}

impl<'c, T: Table> TableRef<'c, T> {
    /// The row's value.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails; the caller passes it on.
    pub fn get(&mut self, key: &T::Key<'_>) -> Result<Option<&T::Value>, StoreError> {
        let at = self.overlay.fetch(self.backing, key)?;
        Ok(self.overlay.slots[at].value.as_ref())
    }

    /// The row's value, to change it; `None` when there is no such row.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails; the caller passes it on.
    pub fn get_mut(&mut self, key: &T::Key<'_>) -> Result<Option<&mut T::Value>, StoreError> {
        let at = self.overlay.fetch(self.backing, key)?;
        if self.overlay.slots[at].value.is_some() {
            self.overlay.touch(at);
        }
        Ok(self.overlay.slots[at].value.as_mut())
    }

    /// The row's value, to change it; made as the default when there is no such row.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails; the caller passes it on.
    pub fn entry(self, key: &T::Key<'_>) -> Result<&'c mut T::Value, StoreError> {
        let at = self.overlay.fetch(self.backing, key)?;
        self.overlay.touch(at);
        Ok(self.overlay.slots[at].value.get_or_insert_default())
    }

    /// Sets the row's value.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails; the caller passes it on.
    pub fn set(&mut self, key: &T::Key<'_>, value: T::Value) -> Result<(), StoreError> {
        let at = self.overlay.fetch(self.backing, key)?;
        self.overlay.touch(at);
        self.overlay.slots[at].value = Some(value);
        Ok(())
    }

    /// The value of a row that the caller knows not to exist yet, made as the default, without asking the store.
    ///
    /// A caller that is wrong here would leave a wrong state hash behind, so it must follow from the state itself that
    /// the row is new: a counter of rows that is part of another row, say.
    pub fn entry_known_new(self, key: &T::Key<'_>) -> &'c mut T::Value {
        let (hash, found) = self.overlay.find(key);
        let at = found.unwrap_or_else(|| {
            let row = self.overlay.scratch.as_slice().into();
            self.overlay.add(hash, row, None, 0, 0)
        });
        self.overlay.touch(at);
        self.overlay.slots[at].value.get_or_insert_default()
    }

    /// Takes out a row that the caller knows to be there with this value, without asking the store.
    ///
    /// As with [`Self::entry_known_new`], a caller that is wrong leaves a wrong state hash behind: that the row is there,
    /// and what its value is, must follow from the state itself.
    pub fn remove_known(self, key: &T::Key<'_>, value: &T::Value) {
        let (hash, found) = self.overlay.find(key);
        let at = found.unwrap_or_else(|| {
            let row: Box<[u8]> = self.overlay.scratch.as_slice().into();
            // Behind the row, as for every hash of one.
            value.encode_raw(&mut self.overlay.scratch);
            let committed = row_hash(&self.overlay.scratch, row.len());
            self.overlay.add(hash, row, None, committed, 0)
        });
        self.overlay.touch(at);
        self.overlay.slots[at].value = None;
    }

    /// Takes the row out.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails; the caller passes it on.
    pub fn remove(&mut self, key: &T::Key<'_>) -> Result<Option<T::Value>, StoreError> {
        let at = self.overlay.fetch(self.backing, key)?;
        let value = self.overlay.slots[at].value.take();
        if value.is_some() {
            self.overlay.touch(at);
        }
        Ok(value)
    }
}

/// The overlays of all tables of one partition.
#[derive(Default)]
pub struct Tables {
    defs: Vec<TableDef>,
    overlays: Vec<Box<dyn ErasedTable>>,
    /// Place of a table's overlay by its id.
    by_id: Vec<Option<u8>>,
}

impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tables").field("defs", &self.defs).finish_non_exhaustive()
    }
}

/// Two tables that cannot live in one store.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("tables `{first}` and `{second}` both use the id {id}: give one of them an id of its own")]
pub struct TableClash {
    /// The id.
    pub id: u8,
    /// The table that has it.
    pub first: &'static str,
    /// The table that wants it too.
    pub second: &'static str,
}

impl Tables {
    /// Makes the overlays of the declared tables.
    ///
    /// # Errors
    /// [`TableClash`] when two of them have one id.
    pub fn new(defs: &[TableDef]) -> Result<Self, TableClash> {
        let mut tables = Self { by_id: vec![None; 256], ..Self::default() };
        for def in defs {
            if let Some(at) = tables.by_id[usize::from(def.id)] {
                let first = tables.defs[usize::from(at)].name;
                if first == def.name {
                    continue;
                }
                return Err(TableClash { id: def.id, first, second: def.name });
            }
            // Ids are u8 and unique, so at most 256 places exist.
            tables.by_id[usize::from(def.id)] = u8::try_from(tables.overlays.len()).ok();
            tables.defs.push(*def);
            tables.overlays.push(def.overlay());
        }
        Ok(tables)
    }

    fn any(&mut self, id: u8) -> Option<&mut dyn Any> {
        let at = (*self.by_id.get(usize::from(id))?)?;
        Some(self.overlays[usize::from(at)].as_any_mut())
    }

    /// A plain table.
    ///
    /// # Errors
    /// [`StoreError::Undeclared`] when no projection declared it.
    pub fn table<'c, T: Table>(&'c mut self, backing: &'c dyn Backing) -> Result<TableRef<'c, T>, StoreError> {
        let overlay = self
            .any(T::ID)
            .and_then(|any| any.downcast_mut::<TableOverlay<T>>())
            .ok_or(StoreError::Undeclared(T::NAME))?;
        Ok(TableRef { overlay, backing })
    }

    /// A bucket table.
    ///
    /// # Errors
    /// [`StoreError::Undeclared`] when no projection declared it.
    pub fn buckets<T: BucketTable>(&mut self) -> Result<BucketRef<'_, T>, StoreError> {
        self.any(T::ID)
            .and_then(|any| any.downcast_mut::<BucketOverlay<T>>())
            .map(BucketRef::new)
            .ok_or(StoreError::Undeclared(T::NAME))
    }

    /// Hands every changed row of the tables with ids that `which` takes to `sink`.
    pub fn commit(&mut self, which: &dyn Fn(u8) -> bool, sink: &mut dyn CommitSink, hash: &mut StateHash) {
        for (def, overlay) in self.defs.iter().zip(&mut self.overlays) {
            if which(def.id) {
                overlay.commit(sink, hash);
            }
        }
    }

    /// Forgets every change since the last commit.
    ///
    /// # Errors
    /// [`StoreError`] when rows that must be in memory cannot be read again.
    pub fn discard(&mut self, backing: &dyn Backing) -> Result<(), StoreError> {
        for overlay in &mut self.overlays {
            overlay.discard();
        }
        self.load(backing)
    }

    /// Reads what must always be in memory.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails or holds a damaged row.
    pub fn load(&mut self, backing: &dyn Backing) -> Result<(), StoreError> {
        self.overlays.iter_mut().try_for_each(|overlay| overlay.load(backing))
    }

    /// Memory in use, bytes, estimated.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.overlays.iter().map(|o| o.bytes()).sum()
    }

    /// Memory of rows that changed since the last commit, bytes, estimated.
    #[must_use]
    pub fn dirty_bytes(&self) -> usize {
        self.overlays.iter().map(|o| o.dirty_bytes()).sum()
    }

    /// Shrinks the clean rows so that all tables together hold about `target` bytes.
    ///
    /// What is always in memory takes its part first, but never more than three quarters: rows that many events change
    /// would else be read again after every commit.
    pub fn evict(&mut self, target: usize) {
        let cached: usize = self.overlays.iter().filter(|overlay| overlay.is_cache()).map(|o| o.bytes()).sum();
        let target = target.saturating_sub(self.bytes() - cached).max(target / 4);
        if cached <= target {
            return;
        }
        for overlay in self.overlays.iter_mut().filter(|overlay| overlay.is_cache()) {
            // Every table gives the same share; 128-bit so that the product cannot overflow.
            let share = (overlay.bytes() as u128 * target as u128 / cached as u128) as usize;
            overlay.evict(share);
        }
    }

    /// The declared tables.
    #[must_use]
    pub fn defs(&self) -> &[TableDef] {
        &self.defs
    }
}
