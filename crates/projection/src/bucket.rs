//! Bucket tables: rows that wait for something and go when their time bucket is over.
//!
//! For state that nearly every record looks up and nearly none finds: messages whose before- or after-callback is still
//! to come. All rows are in memory, so a miss costs no read of the store; a row that comes and goes between two commits
//! is never written; and a whole bucket expires in time proportional to its rows.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;

use hashbrown::HashTable;
use prost::Message as _;

use crate::codec::{Compact128, row_hash};
use crate::key::{KeyCodec as _, KeyError};
use crate::overlay::{CommitSink, ErasedTable, StateHash};
use crate::table::{Backing, Kind, StoreError, TableDef, Value};

/// A table whose rows are found by a 128-bit hash and expire by bucket. A row's bytes are `ID`, bucket, hash.
pub trait BucketTable: 'static {
    /// First byte of every row; never changed or used again for something else.
    const ID: u8;
    /// Name in messages and metrics.
    const NAME: &'static str;
    /// Most rows; above it the oldest bucket goes early. Part of the meaning of the state: never a setting.
    const ROWS_MAX: usize;
    /// The value.
    type Value: Value;
}

/// The minute of a time (ms since the epoch), 0 for times before it: what most rows are bucketed by.
#[must_use]
pub fn minute_of(time_ms: i64) -> u32 {
    u32::try_from(time_ms.max(0) / 60_000).unwrap_or(u32::MAX)
}

const NONE: u32 = u32::MAX;

/// Of a slot that the next commit need not look at.
const CLEAN: u32 = u32::MAX;

/// Its hash in the store is computed again when it is wanted: a row in two is gone before that.
#[derive(Debug)]
struct Slot<V> {
    hash: Compact128,
    value: V,
    bucket: u32,
    next: u32,
    previous: u32,
    /// Place of the row in `dirty`, or `CLEAN`.
    dirty: u32,
}

/// The overlay of one bucket table.
#[derive(Debug)]
pub struct BucketOverlay<T: BucketTable> {
    index: HashTable<u32>,
    slots: Vec<Slot<T::Value>>,
    free: Vec<u32>,
    /// First slot of each bucket's list.
    buckets: BTreeMap<u32, u32>,
    /// Rows that changed: slot, or `NONE` when it went again, and hash of the committed row, 0 when the store has none.
    dirty: Vec<(u32, Compact128)>,
    /// Committed rows that are gone: bucket, hash, hash of the row.
    deleted: Vec<(u32, u128, u128)>,
}

impl<T: BucketTable> Default for BucketOverlay<T> {
    fn default() -> Self {
        Self {
            index: HashTable::new(),
            slots: Vec::new(),
            free: Vec::new(),
            buckets: BTreeMap::new(),
            dirty: Vec::new(),
            deleted: Vec::new(),
        }
    }
}

/// Row hashes are uniform already: their low half serves as the table's hash.
fn table_hash(hash: u128) -> u64 {
    u64::from_le_bytes(hash.to_le_bytes()[..8].try_into().unwrap_or_default())
}

fn row_bytes(id: u8, bucket: u32, hash: u128, out: &mut Vec<u8>) {
    out.clear();
    out.push(id);
    (bucket, hash).encode(out);
}

/// Hash of a row that is in the store as it is here.
fn committed_hash<T: BucketTable>(slot: &Slot<T::Value>) -> u128 {
    let mut row = Vec::with_capacity(64);
    row_bytes(T::ID, slot.bucket, slot.hash.into(), &mut row);
    let row_len = row.len();
    slot.value.encode_raw(&mut row);
    row_hash(&row, row_len)
}

impl<T: BucketTable> BucketOverlay<T> {
    fn find(&self, hash: u128) -> Option<usize> {
        let wanted = Compact128::from(hash);
        self.index.find(table_hash(hash), |&i| self.slots[i as usize].hash == wanted).map(|&i| i as usize)
    }

    /// Puts a row in that the store has, or, with `dirty`, one that it has not.
    fn add(&mut self, bucket: u32, hash: u128, value: T::Value, dirty: bool) {
        let next = self.buckets.get(&bucket).copied().unwrap_or(NONE);
        let slot = Slot { hash: hash.into(), value, bucket, next, previous: NONE, dirty: CLEAN };
        let at = if let Some(at) = self.free.pop() {
            self.slots[at as usize] = slot;
            at
        } else {
            // ROWS_MAX keeps the number far inside u32.
            let at = u32::try_from(self.slots.len()).unwrap_or(NONE);
            self.slots.push(slot);
            at
        };
        if next != NONE {
            self.slots[next as usize].previous = at;
        }
        self.buckets.insert(bucket, at);
        let slots = &self.slots;
        self.index.insert_unique(table_hash(hash), at, |&i| table_hash(slots[i as usize].hash.into()));
        if dirty {
            self.mark(at, 0);
        }
    }

    fn mark(&mut self, at: u32, committed: u128) {
        // Between two commits far fewer rows change than a u32 counts.
        self.slots[at as usize].dirty = u32::try_from(self.dirty.len()).unwrap_or(CLEAN);
        self.dirty.push((at, committed.into()));
    }

    /// The row is about to change.
    fn touch(&mut self, at: usize) {
        if self.slots[at].dirty == CLEAN {
            let committed = committed_hash::<T>(&self.slots[at]);
            self.mark(u32::try_from(at).unwrap_or(NONE), committed);
        }
    }

    fn take(&mut self, at: usize) -> T::Value {
        let slot = &mut self.slots[at];
        let committed = if slot.dirty == CLEAN {
            committed_hash::<T>(slot)
        } else {
            let (row, committed) = &mut self.dirty[slot.dirty as usize];
            *row = NONE;
            (*committed).into()
        };
        let value = std::mem::take(&mut slot.value);
        let (hash, bucket, next, previous) = (u128::from(slot.hash), slot.bucket, slot.next, slot.previous);
        if committed != 0 {
            self.deleted.push((bucket, hash, committed));
        }
        if next != NONE {
            self.slots[next as usize].previous = previous;
        }
        if previous != NONE {
            self.slots[previous as usize].next = next;
        } else if next != NONE {
            self.buckets.insert(bucket, next);
        } else {
            self.buckets.remove(&bucket);
        }
        let at = u32::try_from(at).unwrap_or(NONE);
        if let Ok(entry) = self.index.find_entry(table_hash(hash), |&i| i == at) {
            entry.remove();
        }
        self.free.push(at);
        value
    }

    fn expire_first(&mut self) -> Option<u64> {
        let (&bucket, &first) = self.buckets.first_key_value()?;
        let mut at = first;
        let mut rows = 0;
        while at != NONE {
            let next = self.slots[at as usize].next;
            self.take(at as usize);
            at = next;
            rows += 1;
        }
        self.buckets.remove(&bucket);
        Some(rows)
    }
}

impl<T: BucketTable> ErasedTable for BucketOverlay<T> {
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn commit(&mut self, sink: &mut dyn CommitSink, hash: &mut StateHash) {
        let mut row = Vec::new();
        // Deletions first: a row may have been taken out and put in again. The memory of both lists is given back: they
        // are long once, when a partition is far behind, and short ever after.
        for (bucket, key, committed) in std::mem::take(&mut self.deleted) {
            row_bytes(T::ID, bucket, key, &mut row);
            sink.delete(&row);
            hash.change(committed, 0);
        }
        let mut dirty = std::mem::take(&mut self.dirty);
        // In their order: the store puts neighbours in quicker one after the other. Those that went come last.
        let slots = &self.slots;
        dirty.sort_unstable_by_key(|&(at, _)| {
            slots.get(at as usize).map_or((u32::MAX, u128::MAX), |slot| (slot.bucket, slot.hash.into()))
        });
        for (at, committed) in dirty {
            let Some(slot) = self.slots.get_mut(at as usize) else { continue };
            slot.dirty = CLEAN;
            row_bytes(T::ID, slot.bucket, slot.hash.into(), &mut row);
            let row_len = row.len();
            slot.value.encode_raw(&mut row);
            let new = row_hash(&row, row_len);
            if new != u128::from(committed) {
                sink.put(&row[..row_len], &row[row_len..]);
                hash.change(committed.into(), new);
            }
        }
    }

    fn discard(&mut self) {
        *self = Self::default();
    }

    fn load(&mut self, backing: &dyn Backing) -> Result<(), StoreError> {
        *self = Self::default();
        backing.scan(&[T::ID], &mut |row, bytes| {
            let key = row.get(1..).ok_or(KeyError("too short"));
            let (bucket, hash) =
                key.and_then(<(u32, u128)>::decode).map_err(|e| StoreError::damaged_key(T::NAME, &e))?;
            let value =
                T::Value::decode(bytes).map_err(|e| StoreError::Damaged { table: T::NAME, problem: e.to_string() })?;
            self.add(bucket, hash, value, false);
            Ok(())
        })
    }

    fn bytes(&self) -> usize {
        self.slots.len() * (size_of::<Slot<T::Value>>() + 16)
    }

    fn dirty_bytes(&self) -> usize {
        self.dirty.len() * size_of::<Slot<T::Value>>() + self.deleted.len() * 48
    }

    fn is_cache(&self) -> bool {
        false
    }

    fn sweep(&mut self, _: usize) {}

    fn shrink(&mut self) {}
}

/// A bucket table as a projection sees it while it applies an event.
pub struct BucketRef<'c, T: BucketTable> {
    overlay: &'c mut BucketOverlay<T>,
}

impl<T: BucketTable> fmt::Debug for BucketRef<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BucketRef").field("table", &T::NAME).finish_non_exhaustive()
    }
}

impl<'c, T: BucketTable> BucketRef<'c, T> {
    pub(crate) fn new(overlay: &'c mut BucketOverlay<T>) -> Self {
        Self { overlay }
    }

    /// The row's value.
    #[must_use]
    pub fn get(&self, hash: u128) -> Option<&T::Value> {
        self.overlay.find(hash).map(|at| &self.overlay.slots[at].value)
    }

    /// The row's value, to change it.
    pub fn get_mut(&mut self, hash: u128) -> Option<&mut T::Value> {
        let at = self.overlay.find(hash)?;
        self.overlay.touch(at);
        Some(&mut self.overlay.slots[at].value)
    }

    /// Puts a row in; one of the same hash, in whatever bucket, is replaced. Above `ROWS_MAX` the oldest bucket goes, and is
    /// returned.
    pub fn insert(&mut self, bucket: u32, hash: u128, value: T::Value) -> Option<u32> {
        if let Some(at) = self.overlay.find(hash) {
            if self.overlay.slots[at].bucket == bucket {
                self.overlay.touch(at);
                self.overlay.slots[at].value = value;
                return None;
            }
            self.overlay.take(at);
        }
        let mut gone = None;
        while self.overlay.index.len() >= T::ROWS_MAX {
            gone = self.overlay.buckets.keys().next().copied();
            self.overlay.expire_first();
        }
        self.overlay.add(bucket, hash, value, true);
        gone
    }

    /// Takes a row out.
    pub fn remove(&mut self, hash: u128) -> Option<T::Value> {
        let at = self.overlay.find(hash)?;
        Some(self.overlay.take(at))
    }

    /// Drops all rows of buckets below `floor`; returns their number.
    pub fn expire_below(&mut self, floor: u32) -> u64 {
        let mut rows = 0;
        while self.overlay.buckets.first_key_value().is_some_and(|(&bucket, _)| bucket < floor) {
            rows += self.overlay.expire_first().unwrap_or(0);
        }
        rows
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.overlay.index.len()
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.overlay.index.is_empty()
    }
}

impl TableDef {
    /// The definition of a bucket table.
    #[must_use]
    pub fn buckets<T: BucketTable>() -> Self {
        Self { id: T::ID, name: T::NAME, kind: Kind::Own(|| Box::new(BucketOverlay::<T>::default())) }
    }
}
