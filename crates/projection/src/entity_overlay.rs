//! The overlay of an entity: one slot for all that the statistics keep about one thing.

use std::any::Any;
use std::fmt;

use prost::Message as _;
use smallvec::{SmallVec, smallvec};

use crate::codec::row_hash;
use crate::entity::{Entity, Parts, part, put_part};
use crate::key::KeyCodec;
use crate::overlay::{CommitSink, ErasedTable, StateHash};
use crate::ranking::Stands;
use crate::rows::{RowBytes, Rows};
use crate::table::{Backing, StoreError, Table};

/// How often the clock comes by in vain before a row goes; from the first time on it is kept as its bytes. So it takes a
/// fraction of its memory, and is decoded again in a tenth of the time that reading it would take.
pub(crate) const PACKED_ROUNDS: u8 = 16;

/// What a column has of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cell(u32);

impl Cell {
    /// Nothing.
    const ABSENT: Self = Self(u32::MAX);
    /// What lies in the row's bytes and was not asked for yet.
    const UNREAD: Self = Self(u32::MAX - 1);
    /// Beside a value's place: it may have changed since the last commit.
    const CHANGED: u32 = 1 << 31;

    /// The value's place in its column.
    fn place(self) -> Option<u32> {
        (self != Self::ABSENT && self != Self::UNREAD).then_some(self.0 & !Self::CHANGED)
    }

    /// A place that may have changed.
    fn changed(self) -> Option<u32> {
        self.place().filter(|_| self.0 & Self::CHANGED != 0)
    }

    fn change(&mut self) {
        if self.place().is_some() {
            self.0 |= Self::CHANGED;
        }
    }

    fn committed(&mut self) {
        if let Some(place) = self.place() {
            self.0 = place;
        }
    }
}

/// The decoded values of one table.
pub(crate) struct Column<T: Table> {
    values: Vec<T::Value>,
    free: Vec<u32>,
}

impl<T: Table> Default for Column<T> {
    fn default() -> Self {
        Self { values: Vec::new(), free: Vec::new() }
    }
}

impl<T: Table> Column<T> {
    fn put(&mut self, value: T::Value) -> u32 {
        if let Some(at) = self.free.pop() {
            self.values[at as usize] = value;
            return at;
        }
        self.values.push(value);
        // As many as there are slots at most: 2^31 of them are beyond any budget.
        u32::try_from(self.values.len() - 1).unwrap_or(u32::MAX)
    }

    fn take(&mut self, at: u32) -> T::Value {
        self.free.push(at);
        std::mem::take(&mut self.values[at as usize])
    }
}

/// A column whose value type the overlay does not know.
pub(crate) trait ErasedColumn: Any + Send {
    fn as_any_mut(&mut self) -> &mut dyn Any;
    /// The table's id.
    fn id(&self) -> u8;
    /// Appends a value with its table's id and its length.
    fn encode(&self, at: u32, out: &mut Vec<u8>);
    /// Memory of a decoded value of which this many bytes are encoded, estimated.
    fn bytes(&self, encoded: usize) -> usize;
    /// Whether its rows stand in rankings.
    fn is_ranked(&self) -> bool;
    /// Where a value stands in them.
    fn stands(&self, at: u32) -> Stands;
    /// Drops a value.
    fn forget(&mut self, at: u32);
    /// An empty column of the same table.
    fn fresh(&self) -> Box<dyn ErasedColumn>;
    /// Moves a value to another column of the same table; returns its place there, `None` when that is one of another table.
    fn move_to(&mut self, at: u32, other: &mut dyn ErasedColumn) -> Option<u32>;
    /// Drops all.
    fn clear(&mut self);
}

/// Memory of a decoded value, bytes, estimated.
fn value_bytes<T: Table>(encoded: usize) -> usize {
    size_of::<T::Value>() + T::MEMORY_PER_BYTE * encoded
}

impl<T: Table> ErasedColumn for Column<T> {
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn id(&self) -> u8 {
        T::ID
    }

    fn encode(&self, at: u32, out: &mut Vec<u8>) {
        out.push(T::ID);
        // A Vec takes whatever is written to it.
        let _ = self.values[at as usize].encode_length_delimited(out);
    }

    fn bytes(&self, encoded: usize) -> usize {
        value_bytes::<T>(encoded)
    }

    fn is_ranked(&self) -> bool {
        T::STANDS.is_some()
    }

    fn stands(&self, at: u32) -> Stands {
        T::STANDS.map(|stands| stands(&self.values[at as usize])).unwrap_or_default()
    }

    fn forget(&mut self, at: u32) {
        self.take(at);
    }

    fn fresh(&self) -> Box<dyn ErasedColumn> {
        Box::new(Self::default())
    }

    fn move_to(&mut self, at: u32, other: &mut dyn ErasedColumn) -> Option<u32> {
        let value = self.take(at);
        other.as_any_mut().downcast_mut::<Self>().map(|other| other.put(value))
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

/// What each column has of a row. In the row's slot, for nearly all entities: elsewhere they would be a cache line more for
/// each look at a row.
type Cells = SmallVec<[Cell; 6]>;

/// What an entity has of a row.
#[derive(Debug, Default)]
struct Payload {
    /// The committed value, empty when the store has none: columns that were not asked for are decoded from it, and a commit
    /// takes from it what did not change, which is most of a row that has become long.
    raw: Vec<u8>,
    cells: Cells,
}

impl Payload {
    /// Memory beside the slot.
    fn bytes(&self) -> usize {
        let spilled = if self.cells.spilled() { self.cells.capacity() * size_of::<Cell>() } else { 0 };
        spilled + self.raw.capacity()
    }
}

/// The rows of one entity.
pub(crate) struct EntityRows {
    entity: Entity,
    /// Ids of the columns, ascending.
    ids: Vec<u8>,
    rows: Rows<Payload>,
}

impl EntityRows {
    fn payload(&mut self, at: usize) -> &mut Payload {
        &mut self.rows.slots[at].payload
    }

    fn cell(&mut self, at: usize, column: usize) -> &mut Cell {
        &mut self.payload(at).cells[column]
    }

    /// Finds the row's slot, reading it from the store when it is not in memory; makes one when it is not there either.
    fn fetch<'k>(&mut self, backing: &dyn Backing, key: &impl KeyCodec<'k>) -> Result<usize, StoreError> {
        if let Some(at) = self.rows.find(self.entity.id(), key) {
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

    /// Puts a row in; `whole` is its bytes and its value's.
    fn add(&mut self, row: RowBytes, whole: Option<&Vec<u8>>) -> Result<usize, StoreError> {
        let value = whole.map_or(&[][..], |whole| &whole[row.len()..]);
        let mut cells: Cells = smallvec![Cell::ABSENT; self.ids.len()];
        for part in Parts(value) {
            let (id, _) = part?;
            let column = self.ids.binary_search(&id).map_err(|_| StoreError::Damaged {
                table: self.entity.name(),
                problem: format!("it has a part of table {id}, which no projection declares"),
            })?;
            cells[column] = Cell::UNREAD;
        }
        let committed = whole.map_or(0, |whole| row_hash(whole, row.len()));
        let payload = Payload { raw: value.to_vec(), cells };
        let bytes = payload.bytes();
        Ok(self.rows.add(row, payload, committed, bytes))
    }
}

/// The overlay of one entity.
pub(crate) struct EntityOverlay {
    rows: EntityRows,
    columns: Vec<Box<dyn ErasedColumn>>,
    /// Places of those whose rows stand in rankings.
    ranked: Vec<usize>,
}

impl fmt::Debug for EntityOverlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EntityOverlay").field("entity", &self.rows.entity).finish_non_exhaustive()
    }
}

impl EntityOverlay {
    /// An empty one, its columns in the order of their ids.
    pub(crate) fn new(entity: Entity, mut columns: Vec<Box<dyn ErasedColumn>>) -> Self {
        columns.sort_by_key(|column| column.id());
        let ids = columns.iter().map(|column| column.id()).collect();
        let ranked = (0..columns.len()).filter(|&place| columns[place].is_ranked()).collect();
        Self { rows: EntityRows { entity, ids, rows: Rows::default() }, columns, ranked }
    }

    /// The part of one table; `None` when it is not one of this overlay's.
    pub(crate) fn part<T: Table>(&mut self) -> Option<Part<'_, T>> {
        let place = self.rows.ids.binary_search(&T::ID).ok()?;
        let column = self.columns[place].as_any_mut().downcast_mut()?;
        Some(Part { rows: &mut self.rows, column, place })
    }

    fn forget(&mut self, at: usize) {
        let payload = self.rows.rows.forget(at);
        for (column, cell) in self.columns.iter_mut().zip(payload.cells) {
            if let Some(place) = cell.place() {
                column.forget(place);
            }
        }
    }

    /// Gives the memory of free slots and free places of columns back.
    fn close_gaps(&mut self) {
        let Self { rows, columns, .. } = self;
        let mut moved_columns: Vec<_> = columns.iter().map(|column| column.fresh()).collect();
        rows.rows.shrink(|payload| {
            for (cell, (old, new)) in payload.cells.iter_mut().zip(columns.iter_mut().zip(&mut moved_columns)) {
                // No row waits for a commit here, so that no value has changed.
                if let Some(place) = cell.place() {
                    *cell = old.move_to(place, new.as_mut()).map_or(Cell::UNREAD, Cell);
                }
            }
        });
        *columns = moved_columns;
    }

    /// Keeps a clean row as its bytes alone; one that the store has not needs none.
    fn pack(&mut self, at: usize) {
        if self.rows.payload(at).raw.is_empty() {
            return self.forget(at);
        }
        for (place, column) in self.columns.iter_mut().enumerate() {
            let cell = self.rows.cell(at, place);
            if let Some(place) = cell.place() {
                column.forget(place);
                *cell = Cell::UNREAD;
            }
        }
        let payload = self.rows.payload(at);
        payload.raw.shrink_to_fit();
        let bytes = payload.bytes();
        self.rows.rows.charge(at, bytes);
    }

    /// Tells where a row stands in rankings, as far as that may have changed.
    fn tell_stands(&self, at: usize, sink: &mut dyn CommitSink) {
        for &place in &self.ranked {
            let column = &self.columns[place];
            let cell = self.rows.rows.slots[at].payload.cells[place];
            let stands = match cell.changed() {
                Some(place) => column.stands(place),
                None if cell == Cell::ABSENT => Stands::new(),
                None => continue,
            };
            sink.stands(column.id(), self.rows.rows.slots[at].row(), stands);
        }
    }

    /// Appends the value of a row: what may have changed from the columns, the rest from its bytes. Returns the memory of what
    /// is decoded.
    fn encode(&self, at: usize, out: &mut Vec<u8>) -> usize {
        let payload = &self.rows.rows.slots[at].payload;
        let mut decoded = 0;
        for (column, &cell) in self.columns.iter().zip(&payload.cells) {
            let before = out.len();
            if let Some(place) = cell.changed() {
                column.encode(place, out);
            } else if cell != Cell::ABSENT
                // It was found when the row was read, or written there by a commit.
                && let Ok(Some(part)) = part(&payload.raw, column.id())
            {
                put_part(column.id(), part, out);
            }
            if cell.place().is_some() {
                decoded += column.bytes(out.len() - before);
            }
        }
        decoded
    }
}

impl ErasedTable for EntityOverlay {
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn commit(&mut self, sink: &mut dyn CommitSink, hash: &mut StateHash) {
        let mut whole = self.rows.rows.take_scratch();
        let dirty = self.rows.rows.take_dirty();
        for &at in &dirty {
            let at = at as usize;
            self.tell_stands(at, sink);
            whole.clear();
            whole.extend_from_slice(self.rows.rows.slots[at].row());
            let row_len = whole.len();
            let decoded = self.encode(at, &mut whole);
            let slot = &mut self.rows.rows.slots[at];
            let committed = u128::from(slot.committed);
            if whole.len() == row_len {
                // No part of it is left.
                if committed != 0 {
                    sink.delete(&whole);
                    hash.change(committed, 0);
                }
                self.forget(at);
                continue;
            }
            slot.payload.cells.iter_mut().for_each(Cell::committed);
            let new = row_hash(&whole, row_len);
            if new != committed {
                let (row, value) = whole.split_at(row_len);
                sink.put(row, value);
                hash.change(committed, new);
                slot.committed = new.into();
                slot.payload.raw.clear();
                slot.payload.raw.extend_from_slice(value);
            }
            let bytes = slot.payload.bytes() + decoded;
            self.rows.rows.charge(at, bytes);
        }
        self.rows.rows.committed(dirty);
        self.rows.rows.give_back(whole);
    }

    fn discard(&mut self) {
        self.rows.rows = Rows::default();
        for column in &mut self.columns {
            column.clear();
        }
    }

    fn load(&mut self, _: &dyn Backing) -> Result<(), StoreError> {
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.rows.rows.bytes()
    }

    fn dirty_bytes(&self) -> usize {
        self.rows.rows.dirty_bytes()
    }

    fn is_cache(&self) -> bool {
        true
    }

    fn sweep(&mut self, parts: usize) {
        let mut steps = self.rows.rows.part(parts);
        while let Some((at, age)) = self.rows.rows.next_unused(&mut steps) {
            match age {
                1 => self.pack(at),
                2..=PACKED_ROUNDS => {}
                _ => self.forget(at),
            }
        }
    }

    fn shrink(&mut self) {
        if self.rows.rows.is_sparse() {
            self.close_gaps();
        }
    }
}

/// One table's part of an entity's rows.
pub(crate) struct Part<'c, T: Table> {
    rows: &'c mut EntityRows,
    column: &'c mut Column<T>,
    /// Place of the column.
    place: usize,
}

impl<'c, T: Table> Part<'c, T> {
    /// Finds the row's slot and decodes this table's part of it.
    pub(crate) fn fetch(&mut self, backing: &dyn Backing, key: &T::Key<'_>) -> Result<usize, StoreError> {
        let at = self.rows.fetch(backing, key)?;
        if *self.rows.cell(at, self.place) == Cell::UNREAD {
            let bytes = part(&self.rows.payload(at).raw, T::ID)?.unwrap_or_default();
            let encoded = bytes.len();
            let value =
                T::Value::decode(bytes).map_err(|e| StoreError::Damaged { table: T::NAME, problem: e.to_string() })?;
            *self.rows.cell(at, self.place) = Cell(self.column.put(value));
            self.rows.rows.charge_more(at, value_bytes::<T>(encoded));
        }
        Ok(at)
    }

    fn cell(&self, at: usize) -> Option<u32> {
        self.rows.rows.slots[at].payload.cells[self.place].place()
    }

    /// The value, made as the default when there is none; it may be changed.
    pub(crate) fn into_value(self, at: usize) -> &'c mut T::Value {
        let place = self.cell(at).unwrap_or_else(|| {
            self.rows.rows.charge_more(at, value_bytes::<T>(0));
            self.column.put(T::Value::default())
        });
        *self.rows.cell(at, self.place) = Cell(place | Cell::CHANGED);
        &mut self.column.values[place as usize]
    }

    pub(crate) fn value(&mut self, at: usize) -> Option<&mut T::Value> {
        let place = self.cell(at)?;
        Some(&mut self.column.values[place as usize])
    }

    /// The value may be changed.
    pub(crate) fn touch(&mut self, at: usize) {
        self.rows.cell(at, self.place).change();
        self.rows.rows.touch(at);
    }

    pub(crate) fn take(&mut self, at: usize) -> Option<T::Value> {
        let place = self.cell(at)?;
        *self.rows.cell(at, self.place) = Cell::ABSENT;
        Some(self.column.take(place))
    }
}
