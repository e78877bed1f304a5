//! The runtime's own rows, ids below 16. They are part of `store_hash`, not of `state_hash`.
//!
//! Persisted: never change or reuse an id; retire it in place.

use std::ops::Range;

use barrage_projection::codec::row_hash;
use barrage_projection::{StateHash, Table, TableDef, table};
use prost::Message as _;

use crate::proto;

/// Row of [`Meta`]: id 0 and no key.
pub const META_ROW: &[u8] = &[0];

/// First id of the statistics' tables.
pub const FIRST_STATISTIC_TABLE: u8 = 16;

/// Format of the runtime's rows; another one in a store means that the store is rebuilt.
pub const FORMAT: u32 = 6;

/// How far a store has come.
pub type Meta = proto::StoreMeta;

impl Meta {
    /// Hash of the projections' tables, which hold no offsets: equal for equal answers.
    #[must_use]
    pub fn state_hash_value(&self) -> StateHash {
        StateHash(hash_from(&self.state_hash))
    }

    /// Hash of the runtime's tables.
    #[must_use]
    pub fn runtime_hash_value(&self) -> StateHash {
        StateHash(hash_from(&self.runtime_hash))
    }

    /// Hash of everything in the store, offsets included: equal for stores that read the same log to the same place.
    #[must_use]
    pub fn store_hash_value(&self) -> StateHash {
        let mut bare = self.clone();
        bare.state_hash.clear();
        bare.runtime_hash.clear();
        let mut row = META_ROW.to_vec();
        bare.encode_raw(&mut row);
        let sum = hash_from(&self.state_hash)
            .wrapping_add(hash_from(&self.runtime_hash))
            .wrapping_add(row_hash(&row, META_ROW.len()));
        StateHash(sum)
    }

    /// Keeps the hashes of a commit.
    pub fn set_hashes(&mut self, state: StateHash, runtime: StateHash) {
        self.state_hash = state.0.to_le_bytes().to_vec();
        self.runtime_hash = runtime.0.to_le_bytes().to_vec();
    }
}

fn hash_from(bytes: &[u8]) -> u128 {
    bytes.try_into().map_or(0, u128::from_le_bytes)
}

/// Identities of records by minute of `received_at`, shard and block: the duplicate window.
#[derive(Debug)]
pub struct IdentityBlocks;
impl Table for IdentityBlocks {
    const ID: u8 = 2;
    const NAME: &'static str = "runtime.identity_blocks";
    type Key<'a> = (u32, u8, u32);
    type Value = proto::IdentityBlock;
    // One run of bytes, which grows by halves of itself.
    const MEMORY_PER_BYTE: usize = 2;
}

table!(
    /// What the duplicate window knows of each minute.
    IdentityMinutes, 3, "runtime.identity_minutes", (u32,), proto::IdentityBucket
);

/// Idempotency keys of business events, with the digests of their contents, by day (by the log's timestamps), shard and
/// block.
#[derive(Debug)]
pub struct BusinessBlocks;
impl Table for BusinessBlocks {
    const ID: u8 = 5;
    const NAME: &'static str = "runtime.business_blocks";
    type Key<'a> = (u32, u8, u32);
    type Value = proto::IdentityBlock;
    const MEMORY_PER_BYTE: usize = 2;
}

// 4 was business keys by day and shard, in one row each.
table!(
    /// What is known of the business keys of each day.
    BusinessDays, 1, "runtime.business_days", (u32,), proto::IdentityBucket
);

table!(
    /// Records that a projection could not apply, by offset and the projection's place.
    DeadLetters, 6, "runtime.dead_letters", (u64, u8), proto::DeadLetter
);

table!(
    /// The rules in force (row 0), and the versions before them.
    Rules, 7, "runtime.rules", (u8,), proto::RulesRow
);

/// Ids of the tables that hold what is on its way out. What is in them depends on what was sent, not on the log
/// alone: they are part of no hash.
pub const NOT_HASHED: Range<u8> = 8..FIRST_STATISTIC_TABLE;

table!(
    /// Derived events that wait to be appended: offset and index of their source.
    Outbox, 8, "runtime.outbox", (u64, u32), proto::OutboxRow
);

table!(
    /// Intents that wait to be published: offset and index of their source.
    Intents, 9, "runtime.intents", (u64, u32), proto::IntentRow
);

/// The runtime's tables.
#[must_use]
pub fn tables() -> Vec<TableDef> {
    vec![
        TableDef::of::<IdentityBlocks>(),
        TableDef::of::<IdentityMinutes>(),
        TableDef::of::<BusinessDays>(),
        TableDef::of::<BusinessBlocks>(),
        TableDef::of::<DeadLetters>(),
        TableDef::of::<Rules>(),
        TableDef::of::<Outbox>(),
        TableDef::of::<Intents>(),
    ]
}
