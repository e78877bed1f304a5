//! Identities that came before, as part of the state: rows by time, and filters in memory that spare most looks at them.
//!
//! Identities lie in blocks of 32 by a unit of time, the bucket, and shard, in order of arrival, so that a block is full
//! after the same records however commits fall, and a commit rewrites only the last block of a shard. The more came in a
//! bucket before, the more shards one may lie in: with as many in a quiet minute as in a busy one, nearly each would be a row
//! of its own. Nearly every identity is new: a Bloom filter for every eight buckets, in memory alone, says so without a look
//! at the blocks.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::ops::RangeInclusive;

use barrage_projection::{Backing, KeyCodec as _, StoreError, Table, Tables};
use barrage_state::proto::{IdentityBlock, IdentityBucket};
use prost::Message as _;

use crate::bloom::BloomChain;

const IDENTITY_BYTES: usize = 16;
const BLOCK_IDENTITIES: u32 = 32;
/// Shards of a bucket's first identities, as a power of two, and those that there are at most.
const SHARD_BITS: RangeInclusive<u32> = 3..=8;
/// Before there are twice as many shards, each has got so many: two blocks.
const IDENTITIES_PER_SHARD: u32 = 64;
/// Buckets with one filter: a lookup asks about twenty minutes, and each filter is a cache line to look at.
pub(crate) const FILTER_BUCKETS: u32 = 8;

/// Where a window's identities lie.
pub(crate) trait Layout {
    /// Identities by bucket, shard and block.
    type Blocks: for<'a> Table<Key<'a> = (u32, u8, u32), Value = IdentityBlock>;
    /// What is known of each bucket.
    type Buckets: for<'a> Table<Key<'a> = (u32,), Value = IdentityBucket>;
    /// Bytes of an entry: the identity, and what is kept beside it.
    const ENTRY_BYTES: usize;
}

/// The identities of one partition. What it holds itself is made from the rows and can be dropped at any time.
pub(crate) struct Identities<L> {
    /// By their number.
    groups: BTreeMap<u32, Group>,
    /// Groups that have their filter in memory.
    filters: usize,
    /// No bucket goes before the log's time has reached this.
    next_expiry_ms: i64,
    /// Every identity that is kept is in the store.
    committed: bool,
    layout: PhantomData<L>,
}

impl<L> Default for Identities<L> {
    fn default() -> Self {
        Self { groups: BTreeMap::new(), filters: 0, next_expiry_ms: 0, committed: false, layout: PhantomData }
    }
}

impl<L> fmt::Debug for Identities<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identities").field("groups", &self.groups.len()).finish_non_exhaustive()
    }
}

/// What is known of eight buckets.
#[derive(Debug, Default)]
struct Group {
    /// The log's timestamp of each bucket's last record, ms; `None` of one without a record.
    last_log_ms: [Option<i64>; FILTER_BUCKETS as usize],
    /// Read in again from the rows when it is asked for and not here.
    filter: Option<BloomChain>,
}

impl Group {
    /// The buckets that have records, where `number` is the group's.
    fn buckets(&self, number: u32) -> impl Iterator<Item = (u32, i64)> {
        let first = number * FILTER_BUCKETS;
        (first..=first + (FILTER_BUCKETS - 1)).zip(self.last_log_ms).filter_map(|(bucket, last)| Some((bucket, last?)))
    }

    fn bucket(&mut self, bucket: u32) -> &mut Option<i64> {
        &mut self.last_log_ms[(bucket % FILTER_BUCKETS) as usize]
    }
}

/// Where the next identity goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) bucket: u32,
    pub(crate) log_time_ms: i64,
}

/// How many shards there are for the identity that comes after so many of its bucket, as a power of two.
fn shard_bits(before: u32) -> u32 {
    let rounds = before / (IDENTITIES_PER_SHARD << SHARD_BITS.start()) + 1;
    (SHARD_BITS.start() + rounds.ilog2()).min(*SHARD_BITS.end())
}

/// The shard of an identity where there are so many.
fn shard_of(identity: u128, bits: u32) -> u8 {
    // Of the top byte, as the filters use the low half. Its low bits, so that few shards are the first ones.
    identity.to_be_bytes()[0] & (u8::MAX >> (u8::BITS - bits))
}

/// The blocks of a bucket in which an identity may lie.
fn blocks_of(row: &IdentityBucket, bucket: u32, identity: u128) -> Vec<BlockKey> {
    let bits = *SHARD_BITS.start()..=shard_bits(row.total);
    let mut shards: Vec<u8> = bits.map(|bits| shard_of(identity, bits)).collect();
    shards.dedup();
    let count = |shard: u8| row.counts.get(usize::from(shard)).copied().unwrap_or(0);
    shards.into_iter().flat_map(|shard| blocks(bucket, shard, count(shard))).collect()
}

/// A bucket, a shard, and the number of a block.
type BlockKey = (u32, u8, u32);

/// The blocks of a shard with so many identities.
fn blocks(bucket: u32, shard: u8, count: u32) -> impl Iterator<Item = BlockKey> {
    (0..count.div_ceil(BLOCK_IDENTITIES)).map(move |block| (bucket, shard, block))
}

impl<L: Layout> Identities<L> {
    /// Reads which buckets there are; after opening, and after changes were discarded. Filters stay: one that holds more
    /// than there is sends somebody to look at a block in vain, and no more.
    pub(crate) fn load(&mut self, backing: &dyn Backing) -> Result<(), StoreError> {
        let mut before = std::mem::take(self);
        self.committed = true;
        backing.scan(&[L::Buckets::ID], &mut |row, value| {
            let damaged = |problem: String| StoreError::Damaged { table: L::Buckets::NAME, problem };
            let (bucket,) = row.get(1..).map_or(Ok((0,)), <(u32,)>::decode).map_err(|e| damaged(e.to_string()))?;
            let value = IdentityBucket::decode(value).map_err(|e| damaged(e.to_string()))?;
            let number = bucket / FILTER_BUCKETS;
            let group = self.groups.entry(number).or_insert_with(|| {
                let filter = before.groups.get_mut(&number).and_then(|group| group.filter.take());
                self.filters += usize::from(filter.is_some());
                Group { filter, ..Group::default() }
            });
            *group.bucket(bucket) = Some(value.last_log_time);
            Ok(())
        })
    }

    /// What was kept beside an identity in these buckets; `None` when it did not come.
    pub(crate) fn find(
        &mut self,
        identity: u128,
        buckets: RangeInclusive<u32>,
        tables: &mut Tables,
        backing: &dyn Backing,
    ) -> Result<Option<u128>, StoreError> {
        let mut candidates = Vec::new();
        let groups = buckets.start() / FILTER_BUCKETS..=buckets.end() / FILTER_BUCKETS;
        for (&number, group) in self.groups.range_mut(groups) {
            if group.filter.is_none() {
                group.filter = Some(read_filter::<L>(group.buckets(number), self.committed, tables, backing)?);
                self.filters += 1;
            }
            if group.filter.as_ref().is_some_and(|filter| filter.contains(identity)) {
                candidates.extend(group.buckets(number).map(|(bucket, _)| bucket).filter(|b| buckets.contains(b)));
            }
        }
        for bucket in candidates {
            let mut rows = tables.table::<L::Buckets>(backing)?;
            let Some(row) = rows.get(&(bucket,))? else { continue };
            for key in blocks_of(row, bucket, identity) {
                let mut blocks = tables.table::<L::Blocks>(backing)?;
                let Some(block) = blocks.get(&key)? else { continue };
                let mut entries = block.identities.chunks_exact(L::ENTRY_BYTES);
                if let Some(entry) = entries.find(|entry| entry[..IDENTITY_BYTES] == identity.to_le_bytes()) {
                    return Ok(Some(entry[IDENTITY_BYTES..].try_into().map_or(0, u128::from_le_bytes)));
                }
            }
        }
        Ok(None)
    }

    /// Remembers an identity that was just looked for, with what is kept beside it. No more filters than this stay, but
    /// for the last one.
    pub(crate) fn remember(
        &mut self,
        (identity, beside): (u128, &[u8]),
        Place { bucket, log_time_ms }: Place,
        filters_max: usize,
        tables: &mut Tables,
        backing: &dyn Backing,
    ) -> Result<(), StoreError> {
        self.committed = false;
        let row = tables.table::<L::Buckets>(backing)?.entry(&(bucket,))?;
        let bits = shard_bits(row.total);
        let shard = shard_of(identity, bits);
        if row.counts.len() < 1 << bits {
            row.counts.resize(1 << bits, 0);
        }
        row.total = row.total.saturating_add(1);
        row.last_log_time = row.last_log_time.max(log_time_ms);
        let count = &mut row.counts[usize::from(shard)];
        let at = *count;
        *count += 1;
        let key = (bucket, shard, at / BLOCK_IDENTITIES);
        let blocks = tables.table::<L::Blocks>(backing)?;
        let block = if at % BLOCK_IDENTITIES == 0 { blocks.entry_known_new(&key)? } else { blocks.entry(&key)? };
        block.identities.extend_from_slice(&identity.to_le_bytes());
        block.identities.extend_from_slice(beside);
        let number = bucket / FILTER_BUCKETS;
        // As many are expected as came in the eight buckets before.
        let before = self.groups.range(..number).next_back().and_then(|(_, group)| group.filter.as_ref());
        let before = before.map_or(0, BloomChain::len);
        let group = self.groups.entry(number).or_insert_with(|| {
            self.filters += 1;
            // Without a row yet: the empty filter is complete.
            Group { filter: Some(BloomChain::expecting(before)), ..Group::default() }
        });
        let last_log_ms = group.bucket(bucket);
        *last_log_ms = (*last_log_ms).max(Some(log_time_ms));
        // Of a group with rows it was read in when they were looked at.
        if let Some(filter) = &mut group.filter {
            filter.insert(identity);
        }
        while self.filters > filters_max.max(1) {
            // The oldest that is not the one just used.
            let oldest = self.groups.iter_mut().find(|(other, group)| **other != number && group.filter.is_some());
            let Some((_, group)) = oldest else { break };
            group.filter = None;
            self.filters -= 1;
        }
        Ok(())
    }

    /// Drops buckets whose last record is older than this, by the log's time.
    pub(crate) fn expire(
        &mut self,
        log_time_ms: i64,
        keep_ms: u64,
        tables: &mut Tables,
        backing: &dyn Backing,
    ) -> Result<(), StoreError> {
        if log_time_ms < self.next_expiry_ms {
            return Ok(());
        }
        let keep_ms = i64::try_from(keep_ms).unwrap_or(i64::MAX);
        let buckets = self.groups.iter().flat_map(|(&number, group)| group.buckets(number));
        let over: Vec<u32> = buckets
            .filter(|(_, last_log_ms)| last_log_ms.saturating_add(keep_ms) < log_time_ms)
            .map(|(bucket, _)| bucket)
            .collect();
        for bucket in over {
            let row = tables.table::<L::Buckets>(backing)?.remove(&(bucket,))?;
            let counts = row.map(|row| row.counts).unwrap_or_default();
            let blocks = (0..=u8::MAX).zip(counts).flat_map(|(shard, count)| blocks(bucket, shard, count));
            tables.table::<L::Blocks>(backing)?.remove_neighbours(&blocks.collect::<Vec<_>>(), |_| ())?;
            let number = bucket / FILTER_BUCKETS;
            let Some(group) = self.groups.get_mut(&number) else { continue };
            *group.bucket(bucket) = None;
            if group.buckets(number).next().is_none() {
                self.filters -= usize::from(group.filter.is_some());
                self.groups.remove(&number);
            }
        }
        // A bucket that is added later is younger than every one here, so it cannot be due before this. One more
        // millisecond, because a bucket goes when its time is over, not at it.
        let buckets = self.groups.values().flat_map(|group| group.last_log_ms);
        let oldest = buckets.flatten().min().unwrap_or(log_time_ms);
        self.next_expiry_ms = oldest.saturating_add(keep_ms).saturating_add(1);
        Ok(())
    }

    /// The rules changed: what is due has to be looked at again.
    pub(crate) fn rules_changed(&mut self) {
        self.next_expiry_ms = 0;
    }

    /// Memory of the filters, bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.groups.values().filter_map(|group| group.filter.as_ref()).map(BloomChain::bytes).sum()
    }
}

/// The filter of some buckets, from their rows. Where all of them are committed, thousands need not push rows in use out of
/// memory.
fn read_filter<L: Layout>(
    buckets: impl Iterator<Item = (u32, i64)>,
    committed: bool,
    tables: &mut Tables,
    backing: &dyn Backing,
) -> Result<BloomChain, StoreError> {
    let mut counts = Vec::new();
    for (bucket, _) in buckets {
        let row = tables.table::<L::Buckets>(backing)?.get(&(bucket,))?.cloned();
        counts.extend((0..=u8::MAX).zip(row.unwrap_or_default().counts).map(|(shard, count)| (bucket, shard, count)));
    }
    let len: u64 = counts.iter().map(|&(.., count)| u64::from(count)).sum();
    let mut filter = BloomChain::expecting(usize::try_from(len).unwrap_or(usize::MAX));
    let mut row = Vec::new();
    for (bucket, shard, count) in counts {
        for key in blocks(bucket, shard, count) {
            if !committed {
                if let Some(block) = tables.table::<L::Blocks>(backing)?.get(&key)? {
                    insert::<L>(&mut filter, block);
                }
                continue;
            }
            row.clear();
            row.push(L::Blocks::ID);
            key.encode(&mut row);
            let mut found = Ok(());
            backing.get(&row, &mut |bytes| {
                found = IdentityBlock::decode(bytes).map(|block| insert::<L>(&mut filter, &block));
            })?;
            found.map_err(|e| StoreError::Damaged { table: L::Blocks::NAME, problem: e.to_string() })?;
        }
    }
    Ok(filter)
}

fn insert<L: Layout>(filter: &mut BloomChain, block: &IdentityBlock) {
    for entry in block.identities.chunks_exact(L::ENTRY_BYTES) {
        filter.insert(entry[..IDENTITY_BYTES].try_into().map_or(0, u128::from_le_bytes));
    }
}
