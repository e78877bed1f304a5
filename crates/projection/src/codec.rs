//! Hashes of rows.

use xxhash_rust::xxh3::{xxh3_64, xxh3_128_with_seed};

/// Hash of one row: xxh3-128 over table, key and value, where `row_and_value` is the row's bytes followed by the value's
/// and `row_len` the length of the former, which goes in as the seed so that key and value cannot run into each other.
///
/// A state hash is the sum of these modulo 2^128: one changed row costs one hash, and the order of rows does not matter.
#[must_use]
pub fn row_hash(row_and_value: &[u8], row_len: usize) -> u128 {
    xxh3_128_with_seed(row_and_value, row_len as u64)
}

/// Hash for the overlay's in-memory tables; never persisted.
#[must_use]
pub fn memory_hash(row: &[u8]) -> u64 {
    xxh3_64(row)
}

/// 128 bits that take 16 bytes wherever they stand: a `u128` would round up every slot that holds one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Compact128([u8; 16]);

impl From<u128> for Compact128 {
    fn from(value: u128) -> Self {
        Self(value.to_le_bytes())
    }
}

impl From<Compact128> for u128 {
    fn from(Compact128(bytes): Compact128) -> Self {
        Self::from_le_bytes(bytes)
    }
}
