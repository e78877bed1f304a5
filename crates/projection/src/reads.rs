//! Reads from one committed snapshot of a partition's store.

use std::fmt;
use std::ops::ControlFlow;

use barrage_event::rules::RuleSet;
use prost::Message as _;
use serde::Serialize;
use serde_json::Value as Json;

use crate::entity::{Entity, part};
use crate::key::KeyCodec;
use crate::ranking::Rankings;
use crate::table::{StoreError, Table};

/// Looks at a row and its value, and says whether to go on.
pub type VisitRowUntil<'v> = dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, StoreError> + 'v;

/// One committed snapshot.
pub trait Reader {
    /// The row's value.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the store fails.
    fn get_row(&self, row: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Visits the rows that start with `prefix`, in order, from `from` on when given, until `visit` breaks.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the store fails; or what `visit` returns.
    fn scan_rows(&self, prefix: &[u8], from: Option<&[u8]>, visit: &mut VisitRowUntil<'_>) -> Result<(), StoreError>;

    /// The rankings of its rooms.
    fn rankings(&self) -> &Rankings;
}

/// Typed reads.
pub trait ReaderExt: Reader {
    /// The row's value.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails or the row is damaged.
    fn get<T: Table>(&self, key: &T::Key<'_>) -> Result<Option<T::Value>, StoreError> {
        let mut row = vec![first_byte::<T>()];
        key.encode(&mut row);
        let Some(value) = self.get_row(&row)? else { return Ok(None) };
        value_of::<T>(&value)
    }

    /// Visits the rows whose keys start with the parts of `prefix`, in order.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails or a row is damaged.
    fn scan<'p, T: Table>(
        &self,
        prefix: &impl KeyCodec<'p>,
        visit: impl FnMut(T::Key<'_>, T::Value) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.scan_from::<T>(prefix, None, visit)
    }

    /// As [`Self::scan`], from the key `from` on.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails or a row is damaged.
    fn scan_from<'p, T: Table>(
        &self,
        prefix: &impl KeyCodec<'p>,
        from: Option<&T::Key<'_>>,
        mut visit: impl FnMut(T::Key<'_>, T::Value) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.try_scan_from::<T>(prefix, from, |key, value| Ok(visit(key, value)))
    }

    /// As [`Self::scan_from`], for a visitor that reads other rows.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails or a row is damaged, and what `visit` returns, at which it ends.
    fn try_scan_from<'p, T: Table>(
        &self,
        prefix: &impl KeyCodec<'p>,
        from: Option<&T::Key<'_>>,
        mut visit: impl FnMut(T::Key<'_>, T::Value) -> Result<ControlFlow<()>, StoreError>,
    ) -> Result<(), StoreError> {
        let mut start = vec![first_byte::<T>()];
        prefix.encode(&mut start);
        let from = from.map(|key| {
            let mut row = vec![first_byte::<T>()];
            key.encode(&mut row);
            row
        });
        self.scan_rows(&start, from.as_deref(), &mut |row, bytes| {
            // What other statistics know of an entity says nothing of whether this one does.
            let Some(value) = value_of::<T>(bytes)? else { return Ok(ControlFlow::Continue(())) };
            let key = T::Key::decode(&row[1..]).map_err(|e| StoreError::damaged_key(T::NAME, &e))?;
            visit(key, value)
        })
    }
}

impl<R: Reader + ?Sized> ReaderExt for R {}

/// First byte of the rows that hold a table's values.
fn first_byte<T: Table>() -> u8 {
    T::ENTITY.map_or(T::ID, Entity::id)
}

/// The table's value in the bytes of a row.
fn value_of<T: Table>(bytes: &[u8]) -> Result<Option<T::Value>, StoreError> {
    let bytes = if T::ENTITY.is_some() { part(bytes, T::ID)? } else { Some(bytes) };
    let value = bytes.map(T::Value::decode).transpose();
    value.map_err(|e| StoreError::Damaged { table: T::NAME, problem: e.to_string() })
}

/// A message of an answer as JSON.
#[must_use]
pub fn json(message: &impl Serialize) -> Json {
    // Structs of numbers, texts and maps with text keys always serialise.
    serde_json::to_value(message).unwrap_or_default()
}

/// What a read has beside its question.
pub struct ReadContext<'r> {
    /// The snapshot of the partition that owns the key.
    pub reader: &'r dyn Reader,
    /// `SdkAppid`.
    pub app: u32,
    /// The time asked for, ms; not beyond the stream time while the store lags, so that nothing expires for not having
    /// been read yet.
    pub at_ms: i64,
    /// The rules in force in that partition.
    pub rules: &'r RuleSet,
}

impl fmt::Debug for ReadContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadContext").field("app", &self.app).field("at_ms", &self.at_ms).finish_non_exhaustive()
    }
}
