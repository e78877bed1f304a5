//! The write-back overlay: rows in use, decoded, in memory.
//!
//! One read-modify-write of the key-value store costs more than everything else an event needs, so a hot row is read
//! once, changed in memory as often as events say, and written once per commit. Rows stay after a commit as a cache and
//! leave it by a clock when the overlay is over its budget.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;

use prost::Message as _;

use crate::bucket::{BucketOverlay, BucketRef, BucketTable};
use crate::codec::row_hash;
use crate::entity::{ENTITIES, Entity};
use crate::entity_overlay::{EntityOverlay, ErasedColumn, PACKED_ROUNDS, Part};
use crate::key::KeyCodec as _;
use crate::ranking::Stands;
use crate::rows::{RowBytes, Rows};
use crate::table::{Backing, Kind, StoreError, Table, TableDef};

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
    /// A row of a ranked table stands here now, and nowhere else.
    fn stands(&mut self, table: u8, row: &[u8], stands: Stands);
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
    /// Moves the clock over one of so many parts of the rows and drops the clean ones that were not used since it came by
    /// last; those of entities are kept as their bytes for some more rounds.
    fn sweep(&mut self, parts: usize);
    /// Gives memory back that is free, where it is much.
    fn shrink(&mut self);
}

/// The overlay of one plain table.
#[derive(Debug)]
pub struct TableOverlay<T: Table> {
    rows: Rows<Option<T::Value>>,
}

impl<T: Table> Default for TableOverlay<T> {
    fn default() -> Self {
        Self { rows: Rows::default() }
    }
}

impl<T: Table> TableOverlay<T> {
    /// Finds the row's slot, reading it from the store when it is not in memory.
    fn fetch(&mut self, backing: &dyn Backing, key: &T::Key<'_>) -> Result<usize, StoreError> {
        if let Some(at) = self.rows.find(T::ID, key) {
            return Ok(at);
        }
        // The value is read behind the row for the hash.
        let mut whole = self.rows.take_scratch();
        let row = RowBytes::from_slice(&whole);
        let mut found = false;
        let result = backing.get(&row, &mut |bytes| {
            whole.extend_from_slice(bytes);
            found = true;
        });
        let row_len = row.len();
        let added = result.and_then(|()| self.add(row, found.then_some(&whole)));
        whole.truncate(row_len);
        self.rows.give_back(whole);
        added
    }

    /// Puts a row in that is not in memory; `whole` is its bytes and its value's, where the store has one.
    fn add(&mut self, row: RowBytes, whole: Option<&Vec<u8>>) -> Result<usize, StoreError> {
        let Some(whole) = whole else { return Ok(self.rows.add(row, None, 0, 0)) };
        let encoded = &whole[row.len()..];
        let value =
            T::Value::decode(encoded).map_err(|e| StoreError::Damaged { table: T::NAME, problem: e.to_string() })?;
        let committed = row_hash(whole, row.len());
        Ok(self.rows.add(row, Some(value), committed, T::MEMORY_PER_BYTE * encoded.len()))
    }

    /// Reads the rows from `first` to `last` that are not in memory, in one walk over the store.
    fn fetch_range(&mut self, backing: &dyn Backing, first: &[u8], last: &[u8]) -> Result<(), StoreError> {
        let mut whole = Vec::new();
        backing.scan_range(first, last, &mut |row, value| {
            if !self.rows.has(row) {
                whole.clear();
                whole.extend_from_slice(row);
                whole.extend_from_slice(value);
                self.add(RowBytes::from_slice(row), Some(&whole))?;
            }
            Ok(())
        })
    }

    /// The row that is looked for, put in as the caller knows it.
    fn fetch_known(&mut self, key: &T::Key<'_>, committed: impl FnOnce(&mut Vec<u8>) -> u128) -> usize {
        self.rows.find(T::ID, key).unwrap_or_else(|| {
            let mut whole = self.rows.take_scratch();
            let row = RowBytes::from_slice(&whole);
            let committed = committed(&mut whole);
            self.rows.give_back(whole);
            self.rows.add(row, None, committed, 0)
        })
    }

    fn value(&mut self, at: usize) -> &mut Option<T::Value> {
        &mut self.rows.slots[at].payload
    }
}

impl<T: Table> ErasedTable for TableOverlay<T> {
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn commit(&mut self, sink: &mut dyn CommitSink, hash: &mut StateHash) {
        let mut whole = self.rows.take_scratch();
        let dirty = self.rows.take_dirty();
        for &at in &dirty {
            let at = at as usize;
            let slot = &mut self.rows.slots[at];
            let committed = u128::from(slot.committed);
            if let Some(value) = &slot.payload {
                whole.clear();
                whole.extend_from_slice(slot.row());
                let row_len = whole.len();
                value.encode_raw(&mut whole);
                let new = row_hash(&whole, row_len);
                if new != committed {
                    let (row, value) = whole.split_at(row_len);
                    sink.put(row, value);
                    hash.change(committed, new);
                    slot.committed = new.into();
                }
                self.rows.charge(at, T::MEMORY_PER_BYTE * (whole.len() - row_len));
            } else {
                if committed != 0 {
                    sink.delete(slot.row());
                    hash.change(committed, 0);
                }
                // Nobody asks again for a row that was taken out, as the places of an index are.
                self.rows.forget(at);
            }
        }
        self.rows.committed(dirty);
        self.rows.give_back(whole);
    }

    fn discard(&mut self) {
        *self = Self::default();
    }

    fn load(&mut self, _: &dyn Backing) -> Result<(), StoreError> {
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.rows.bytes()
    }

    fn dirty_bytes(&self) -> usize {
        self.rows.dirty_bytes()
    }

    fn is_cache(&self) -> bool {
        true
    }

    fn sweep(&mut self, parts: usize) {
        let mut steps = self.rows.part(parts);
        while let Some((at, _)) = self.rows.next_unused(&mut steps) {
            self.rows.forget(at);
        }
    }

    fn shrink(&mut self) {
        if self.rows.is_sparse() {
            self.rows.shrink(|_| ());
        }
    }
}

/// Rows that are read together in one walk at most: their values are in memory at the same time.
const WALKED_MAX: usize = 256;

/// The bytes of a row of its own.
fn row_of<T: Table>(key: &T::Key<'_>) -> Vec<u8> {
    let mut row = vec![T::ID];
    key.encode(&mut row);
    row
}

/// Where a table's rows are.
enum Form<'c, T: Table> {
    Own(&'c mut TableOverlay<T>),
    Part(Part<'c, T>),
}

/// A plain table as a projection sees it while it applies an event.
pub struct TableRef<'c, T: Table> {
    form: Form<'c, T>,
    backing: &'c dyn Backing,
}

impl<T: Table> fmt::Debug for TableRef<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableRef").field("table", &T::NAME).finish_non_exhaustive()
    }
}

impl<'c, T: Table> TableRef<'c, T> {
    fn fetch(&mut self, key: &T::Key<'_>) -> Result<usize, StoreError> {
        match &mut self.form {
            Form::Own(overlay) => overlay.fetch(self.backing, key),
            Form::Part(part) => part.fetch(self.backing, key),
        }
    }

    fn value(&mut self, at: usize) -> Option<&mut T::Value> {
        match &mut self.form {
            Form::Own(overlay) => overlay.value(at).as_mut(),
            Form::Part(part) => part.value(at),
        }
    }

    fn touch(&mut self, at: usize) {
        match &mut self.form {
            Form::Own(overlay) => overlay.rows.touch(at),
            Form::Part(part) => part.touch(at),
        }
    }

    /// The value of a slot, made as the default when there is none; it goes to the next commit.
    fn into_value(mut self, at: usize) -> &'c mut T::Value {
        self.touch(at);
        match self.form {
            Form::Own(overlay) => overlay.value(at).get_or_insert_default(),
            Form::Part(part) => part.into_value(at),
        }
    }

    /// The row's value.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails; the caller passes it on.
    pub fn get(&mut self, key: &T::Key<'_>) -> Result<Option<&T::Value>, StoreError> {
        let at = self.fetch(key)?;
        Ok(self.value(at).map(|value| &*value))
    }

    /// The row's value, to change it; `None` when there is no such row.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails; the caller passes it on.
    pub fn get_mut(&mut self, key: &T::Key<'_>) -> Result<Option<&mut T::Value>, StoreError> {
        let at = self.fetch(key)?;
        if self.value(at).is_some() {
            self.touch(at);
        }
        Ok(self.value(at))
    }

    /// The row's value, to change it; made as the default when there is no such row.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails; the caller passes it on.
    pub fn entry(mut self, key: &T::Key<'_>) -> Result<&'c mut T::Value, StoreError> {
        let at = self.fetch(key)?;
        Ok(self.into_value(at))
    }

    /// Sets the row's value.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails; the caller passes it on.
    pub fn set(self, key: &T::Key<'_>, value: T::Value) -> Result<(), StoreError> {
        *self.entry(key)? = value;
        Ok(())
    }

    /// Takes the row out.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails; the caller passes it on.
    pub fn remove(&mut self, key: &T::Key<'_>) -> Result<Option<T::Value>, StoreError> {
        let at = self.fetch(key)?;
        let value = match &mut self.form {
            Form::Own(overlay) => overlay.value(at).take(),
            Form::Part(part) => part.take(at),
        };
        if value.is_some() {
            self.touch(at);
        }
        Ok(value)
    }

    /// Takes out rows that are neighbours, of which there may be some, by keys that ascend; `removed` gets their values.
    /// Instead of asking for each of them, the store is walked over from the first to the last; whatever else lies between
    /// is read in vain.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails; the caller passes it on.
    pub fn remove_neighbours(
        &mut self,
        keys: &[T::Key<'_>],
        mut removed: impl FnMut(T::Value),
    ) -> Result<(), StoreError> {
        for keys in keys.chunks(WALKED_MAX) {
            if let (Form::Own(overlay), [first, .., last]) = (&mut self.form, keys) {
                overlay.fetch_range(self.backing, &row_of::<T>(first), &row_of::<T>(last))?;
                for key in keys {
                    // What is not in memory now is not in the store.
                    let Some(at) = overlay.rows.find(T::ID, key) else { continue };
                    if let Some(value) = overlay.value(at).take() {
                        overlay.rows.touch(at);
                        removed(value);
                    }
                }
                continue;
            }
            for key in keys {
                self.remove(key)?.into_iter().for_each(&mut removed);
            }
        }
        Ok(())
    }

    /// The value of a row that the caller knows not to exist yet, made as the default, without asking the store.
    ///
    /// A caller that is wrong here would leave a wrong state hash behind, so it must follow from the state itself that
    /// the row is new: a counter of rows that is part of another row, say.
    ///
    /// # Errors
    /// [`StoreError`] when the table is part of an entity's rows, which have to be asked for, and the store fails.
    pub fn entry_known_new(mut self, key: &T::Key<'_>) -> Result<&'c mut T::Value, StoreError> {
        let at = match &mut self.form {
            Form::Own(overlay) => overlay.fetch_known(key, |_| 0),
            Form::Part(part) => part.fetch(self.backing, key)?,
        };
        Ok(self.into_value(at))
    }

    /// Takes out a row that the caller knows to be there with this value, without asking the store.
    ///
    /// As with [`Self::entry_known_new`], a caller that is wrong leaves a wrong state hash behind: that the row is there,
    /// and what its value is, must follow from the state itself.
    ///
    /// # Errors
    /// As those of [`Self::entry_known_new`].
    pub fn remove_known(mut self, key: &T::Key<'_>, value: &T::Value) -> Result<(), StoreError> {
        match &mut self.form {
            Form::Own(overlay) => {
                let at = overlay.fetch_known(key, |whole| {
                    let row_len = whole.len();
                    // Behind the row, as for every hash of one.
                    value.encode_raw(whole);
                    let committed = row_hash(whole, row_len);
                    whole.truncate(row_len);
                    committed
                });
                overlay.rows.touch(at);
                *overlay.value(at) = None;
                Ok(())
            }
            Form::Part(_) => self.remove(key).map(|_| ()),
        }
    }
}

/// The overlays of all tables of one partition.
#[derive(Default)]
pub struct Tables {
    defs: Vec<TableDef>,
    /// By the first byte of their rows.
    overlays: Vec<(u8, Box<dyn ErasedTable>)>,
    /// Place of a table's overlay by its id.
    by_id: Vec<Option<u8>>,
}

impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tables").field("defs", &self.defs).finish_non_exhaustive()
    }
}

/// Parts of a clock's round, and rounds after which every clean row is gone.
const SWEEPS: usize = 64;
const ROUNDS: usize = 2 + PACKED_ROUNDS as usize;

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
        let reserved = ENTITIES.map(|entity| (entity.id(), entity.name()));
        for def in defs {
            let known = tables.defs.iter().map(|known| (known.id, known.name)).chain(reserved);
            match known.into_iter().find(|(id, _)| *id == def.id) {
                Some((_, name)) if name == def.name => {}
                Some((id, first)) => return Err(TableClash { id, first, second: def.name }),
                None => tables.defs.push(*def),
            }
        }
        let mut columns: BTreeMap<Entity, Vec<Box<dyn ErasedColumn>>> = BTreeMap::new();
        for def in tables.defs.clone() {
            match def.kind {
                Kind::Own(make) => tables.put(def.id, make(), &[def.id]),
                Kind::Part(entity, column) => columns.entry(entity).or_default().push(column()),
            }
        }
        for (entity, columns) in columns {
            let ids: Vec<u8> = columns.iter().map(|column| column.id()).collect();
            tables.put(entity.id(), Box::new(EntityOverlay::new(entity, columns)), &ids);
        }
        Ok(tables)
    }

    fn put(&mut self, first_byte: u8, overlay: Box<dyn ErasedTable>, tables: &[u8]) {
        for &table in tables {
            // Ids are u8 and unique, so at most 256 places exist.
            self.by_id[usize::from(table)] = u8::try_from(self.overlays.len()).ok();
        }
        self.overlays.push((first_byte, overlay));
    }

    fn any(&mut self, id: u8) -> Option<&mut dyn Any> {
        let at = (*self.by_id.get(usize::from(id))?)?;
        Some(self.overlays[usize::from(at)].1.as_any_mut())
    }

    /// A plain table.
    ///
    /// # Errors
    /// [`StoreError::Undeclared`] when no projection declared it.
    pub fn table<'c, T: Table>(&'c mut self, backing: &'c dyn Backing) -> Result<TableRef<'c, T>, StoreError> {
        let any = self.any(T::ID).ok_or(StoreError::Undeclared(T::NAME))?;
        let form = if T::ENTITY.is_some() {
            any.downcast_mut::<EntityOverlay>().and_then(EntityOverlay::part).map(Form::Part)
        } else {
            any.downcast_mut().map(Form::Own)
        };
        Ok(TableRef { form: form.ok_or(StoreError::Undeclared(T::NAME))?, backing })
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

    /// Hands every changed row whose first byte `which` takes to `sink`.
    pub fn commit(&mut self, which: &dyn Fn(u8) -> bool, sink: &mut dyn CommitSink, hash: &mut StateHash) {
        for (first_byte, overlay) in &mut self.overlays {
            if which(*first_byte) {
                overlay.commit(sink, hash);
            }
        }
    }

    /// Forgets every change since the last commit.
    ///
    /// # Errors
    /// [`StoreError`] when rows that must be in memory cannot be read again.
    pub fn discard(&mut self, backing: &dyn Backing) -> Result<(), StoreError> {
        for (_, overlay) in &mut self.overlays {
            overlay.discard();
        }
        self.load(backing)
    }

    /// Reads what must always be in memory.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails or holds a damaged row.
    pub fn load(&mut self, backing: &dyn Backing) -> Result<(), StoreError> {
        self.overlays.iter_mut().try_for_each(|(_, overlay)| overlay.load(backing))
    }

    /// Memory in use, bytes, estimated.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.overlays.iter().map(|(_, overlay)| overlay.bytes()).sum()
    }

    /// Memory of rows that changed since the last commit, bytes, estimated.
    #[must_use]
    pub fn dirty_bytes(&self) -> usize {
        self.overlays.iter().map(|(_, overlay)| overlay.dirty_bytes()).sum()
    }

    /// Shrinks the clean rows so that all tables together hold about `target` bytes.
    ///
    /// The clocks of all tables go round at one pace. If each gave an equal share of its bytes, rows in use would have to
    /// make room for others of which nobody wants anything any more, as the duplicate window's.
    ///
    /// What is always in memory takes its part first, but never more than three quarters: rows that many events change
    /// would else be read again after every commit.
    pub fn evict(&mut self, target: usize) {
        let is_cache = |(_, overlay): &&(u8, Box<dyn ErasedTable>)| overlay.is_cache();
        let always: usize = self.bytes() - self.overlays.iter().filter(is_cache).map(|(_, o)| o.bytes()).sum::<usize>();
        let target = target.saturating_sub(always).max(target / 4);
        for _ in 0..ROUNDS * SWEEPS {
            if self.bytes() - always <= target {
                break;
            }
            self.overlays.iter_mut().for_each(|(_, overlay)| overlay.sweep(SWEEPS));
        }
        self.overlays.iter_mut().for_each(|(_, overlay)| overlay.shrink());
    }
}
