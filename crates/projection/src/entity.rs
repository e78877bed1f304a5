//! Entities: what several statistics have rows about.
//!
//! A message changes what five statistics know of its sender. Rows of their own would be read, hashed and written five
//! times; as parts of one row they are read and written once, and a statistic still sees nothing but its own table.

use crate::table::StoreError;

/// What a table's rows are about, where other tables have rows about the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Entity {
    /// A room: app, `GroupId`. On `barrage.room`.
    Room = 240,
    /// An account in a room: app, `GroupId`, account. On `barrage.room`.
    Viewer = 241,
    /// An account: app, account. On `barrage.user`.
    Account = 242,
}

/// All of them.
pub(crate) const ENTITIES: [Entity; 3] = [Entity::Room, Entity::Viewer, Entity::Account];

impl Entity {
    /// First byte of its rows: no table has it.
    #[must_use]
    pub const fn id(self) -> u8 {
        self as u8
    }

    /// Whether rows that begin with this byte are an entity's.
    #[must_use]
    pub fn has(first_byte: u8) -> bool {
        ENTITIES.iter().any(|entity| entity.id() == first_byte)
    }

    /// Name in messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Room => "rooms",
            Self::Viewer => "viewers",
            Self::Account => "accounts",
        }
    }
}

/// The parts of a row's value, by the ids of their tables, ascending: a table's id, the length of what it keeps as a
/// varint, and that. Persisted.
pub(crate) struct Parts<'v>(pub(crate) &'v [u8]);

impl<'v> Iterator for Parts<'v> {
    type Item = Result<(u8, &'v [u8]), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (&id, mut rest) = self.0.split_first()?;
        let part = prost::decode_length_delimiter(&mut rest).ok().and_then(|length| rest.split_at_checked(length));
        let Some((part, rest)) = part else {
            self.0 = &[];
            let problem = format!("the part of table {id} is longer than the row");
            return Some(Err(StoreError::Damaged { table: "entities", problem }));
        };
        self.0 = rest;
        Some(Ok((id, part)))
    }
}

/// The part of one table; `None` when it has none.
pub(crate) fn part(value: &[u8], table: u8) -> Result<Option<&[u8]>, StoreError> {
    for part in Parts(value) {
        let (id, bytes) = part?;
        if id == table {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

/// Appends the part of a table that is there already as bytes.
pub(crate) fn put_part(table: u8, part: &[u8], out: &mut Vec<u8>) {
    out.push(table);
    // A Vec takes whatever is written to it.
    let _ = prost::encode_length_delimiter(part.len(), out);
    out.extend_from_slice(part);
}
