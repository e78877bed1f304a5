//! Tables: what a statistic declares of its state.

use crate::entity::Entity;
use crate::entity_overlay::{Column, ErasedColumn};
use crate::key::{KeyCodec, KeyError};
use crate::overlay::{ErasedTable, TableOverlay};
use crate::ranking::Stands;

/// A value of a table: any protobuf message of the statistic's own folder under `proto/`.
pub trait Value: prost::Message + Default + Clone + PartialEq + Send + 'static {}
impl<T: prost::Message + Default + Clone + PartialEq + Send + 'static> Value for T {}

/// A table of a partition's store. A row's bytes are `ID`, the key, and the value as protobuf.
pub trait Table: 'static {
    /// First byte of every row; never changed or used again for something else. Below 16: the runtime's own.
    const ID: u8;
    /// Name in messages and metrics.
    const NAME: &'static str;
    /// The key, borrowed: looking a row up allocates nothing.
    type Key<'a>: KeyCodec<'a>;
    /// The value.
    type Value: Value;
    /// What its rows are about, where they lie together with those of other tables about the same. Its keys are that
    /// entity's.
    const ENTITY: Option<Entity> = None;
    /// Memory that a decoded value has beside itself for each byte that it is encoded in, about: lists have room for more
    /// than they hold, and a number of a byte or two takes eight.
    const MEMORY_PER_BYTE: usize = 6;
    /// Where a row stands in rankings, for tables of rooms that have them: a function of the value alone, called at
    /// commits.
    const STANDS: Option<fn(&Self::Value) -> Stands> = None;
}

/// Declares a plain table: documentation, name, id, name in messages, key (with the lifetime `'a`) and value. Where the
/// key is `of Room`, `of Viewer` or `of Account`, its rows lie together with those of other statistics about that
/// [`Entity`].
///
/// ```ignore
/// barrage_projection::table!(
///     /// Rooms: app, `GroupId`.
///     Rooms, 16, "message_counts.rooms", of Room, proto::Room
/// );
/// barrage_projection::table!(
///     /// Hours of rooms: app, `GroupId`, hour since the epoch.
///     Hours, 18, "message_counts.hours", (u32, &'a str, u32), proto::Slice
/// );
/// ```
#[macro_export]
macro_rules! table {
    ($(#[$doc:meta])* $name:ident, $id:literal, $text:literal, of Room, $value:ty) => {
        $crate::table!(@entity $(#[$doc])* $name, $id, $text, Room, (u32, &'a str), $value);
    };
    ($(#[$doc:meta])* $name:ident, $id:literal, $text:literal, of Viewer, $value:ty) => {
        $crate::table!(@entity $(#[$doc])* $name, $id, $text, Viewer, (u32, &'a str, &'a str), $value);
    };
    ($(#[$doc:meta])* $name:ident, $id:literal, $text:literal, of Account, $value:ty) => {
        $crate::table!(@entity $(#[$doc])* $name, $id, $text, Account, (u32, &'a str), $value);
    };
    (@entity $(#[$doc:meta])* $name:ident, $id:literal, $text:literal, $entity:ident, $key:ty, $value:ty) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name;
        impl $crate::Table for $name {
            const ID: u8 = $id;
            const NAME: &'static str = $text;
            type Key<'a> = $key;
            type Value = $value;
            const ENTITY: Option<$crate::Entity> = Some($crate::Entity::$entity);
        }
    };
    ($(#[$doc:meta])* $name:ident, $id:literal, $text:literal, $key:ty, $value:ty) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name;
        impl $crate::Table for $name {
            const ID: u8 = $id;
            const NAME: &'static str = $text;
            type Key<'a> = $key;
            type Value = $value;
        }
    };
}

/// What the store could not do. Never a dead letter: it stops the partition.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The key-value store failed.
    #[error("the state store failed: {0}")]
    Io(String),
    /// A row is not what its table says.
    #[error("table {table} holds a damaged row ({problem}); rebuild this partition with `barrage rebuild`")]
    Damaged {
        /// The table.
        table: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A projection asked for a table that it did not declare: a defect of the program.
    #[error("table {0} is not declared by any projection of this partition")]
    Undeclared(&'static str),
    /// The read was ended because nobody waits for its answer any more.
    #[error("the read was given up: nobody waits for it any more")]
    GivenUp,
}

impl StoreError {
    pub(crate) fn damaged_key(table: &'static str, error: &KeyError) -> Self {
        Self::Damaged { table, problem: error.to_string() }
    }
}

/// Looks at a row and its value.
pub type VisitRow<'v> = dyn FnMut(&[u8], &[u8]) -> Result<(), StoreError> + 'v;

/// The committed rows under an overlay.
pub trait Backing {
    /// Hands the row's value to `found`; does not call it when there is no such row.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the store fails.
    fn get(&self, row: &[u8], found: &mut dyn FnMut(&[u8])) -> Result<(), StoreError>;

    /// Visits the rows that start with `prefix`, in order.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the store fails; or what `visit` returns.
    fn scan(&self, prefix: &[u8], visit: &mut VisitRow<'_>) -> Result<(), StoreError>;

    /// Visits the rows from `first` to `last`, these two included, in order.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the store fails; or what `visit` returns.
    fn scan_range(&self, first: &[u8], last: &[u8], visit: &mut VisitRow<'_>) -> Result<(), StoreError>;
}

/// How the rows of a declared table are kept in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// In an overlay of its own.
    Own(fn() -> Box<dyn ErasedTable>),
    /// As a column of an entity's.
    Part(Entity, fn() -> Box<dyn ErasedColumn>),
}

/// How the runtime makes a declared table's overlay.
#[derive(Debug, Clone, Copy)]
pub struct TableDef {
    /// [`Table::ID`].
    pub id: u8,
    /// [`Table::NAME`].
    pub name: &'static str,
    pub(crate) kind: Kind,
}

impl TableDef {
    /// The definition of a plain table.
    #[must_use]
    pub fn of<T: Table>() -> Self {
        let kind = match T::ENTITY {
            Some(entity) => Kind::Part(entity, || Box::new(Column::<T>::default())),
            None => Kind::Own(|| Box::new(TableOverlay::<T>::default())),
        };
        Self { id: T::ID, name: T::NAME, kind }
    }
}
