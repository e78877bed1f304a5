//! The duplicate window: which callbacks came before, as part of the state.
//!
//! Identities lie in blocks of 32 by minute of `received_at` and shard, in order of arrival, so that a block is full
//! after the same records however commits fall, and a commit rewrites only the last block of a shard. Nearly every
//! record is new: a Bloom filter for every eight minutes, in memory alone, says so without a look at the blocks.

use std::collections::BTreeMap;

use barrage_event::identity::Identity;
use barrage_event::rules::RuleSet;
use barrage_projection::{Backing, StoreError, Tables, minute_of};
use barrage_state::Meta;
use barrage_state::runtime::{BusinessKeys, IdentityBlocks, IdentityMinutes};
use prost::Message as _;

use crate::bloom::BloomChain;

const IDENTITY_BYTES: usize = 16;
const BLOCK_IDENTITIES: u32 = 32;
const SHARDS: usize = 256;
/// Minutes with one filter: a lookup asks about twenty of them, and each filter is a cache line to look at.
const FILTER_MINUTES: u32 = 8;
/// Filters kept; others are read in again when asked for.
const FILTERS_MAX: usize = 16;
const DAY_MS: i64 = 86_400_000;
/// Shards of a day's business keys.
const BUSINESS_SHARDS: u16 = 1024;
const BUSINESS_KEY_BYTES: usize = 32;

/// The window of one partition. What it holds itself is made from the rows and can be dropped at any time.
#[derive(Debug, Default)]
pub(crate) struct DuplicateWindow {
    /// By their number.
    groups: BTreeMap<u32, Group>,
    /// Groups that have their filter in memory.
    filters: usize,
    /// No minute goes before the log's time has reached this.
    next_expiry_ms: i64,
}

/// What is known of eight minutes.
#[derive(Debug, Default)]
struct Group {
    /// The log's timestamp of each minute's last record, ms; `None` of one without a record.
    last_log_ms: [Option<i64>; FILTER_MINUTES as usize],
    /// Read in again from the rows when it is asked for and not here.
    filter: Option<BloomChain>,
}

impl Group {
    /// The minutes that have records, where `number` is the group's.
    fn minutes(&self, number: u32) -> impl Iterator<Item = (u32, i64)> {
        let first = number * FILTER_MINUTES;
        (first..=first + (FILTER_MINUTES - 1)).zip(self.last_log_ms).filter_map(|(minute, last)| Some((minute, last?)))
    }

    fn minute(&mut self, minute: u32) -> &mut Option<i64> {
        &mut self.last_log_ms[(minute % FILTER_MINUTES) as usize]
    }
}

/// What the business keys say of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BusinessKey {
    New,
    Same,
    OtherContent,
}

fn shard_of(identity: u128) -> u8 {
    // The top byte: the filters use the low half.
    identity.to_be_bytes()[0]
}

impl DuplicateWindow {
    /// Reads in which minutes there are; called after opening and after changes were discarded.
    pub(crate) fn load(backing: &dyn Backing) -> Result<Self, StoreError> {
        let mut window = Self::default();
        backing.scan(&[<IdentityMinutes as barrage_projection::Table>::ID], &mut |row, value| {
            let damaged = |problem: String| StoreError::Damaged { table: "runtime.identity_minutes", problem };
            let minute = row.get(1..5).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
            let minute = minute.ok_or_else(|| damaged("a key is too short".to_owned()))?;
            let value = barrage_state::proto::IdentityMinute::decode(value).map_err(|e| damaged(e.to_string()))?;
            let group = window.groups.entry(minute / FILTER_MINUTES).or_default();
            *group.minute(minute) = Some(value.last_log_time);
            Ok(())
        })?;
        Ok(window)
    }

    /// Whether the record came before inside the window; if not, it is remembered.
    pub(crate) fn seen(
        &mut self,
        identity: Identity,
        received_at_ms: i64,
        log_time_ms: i64,
        rules: &RuleSet,
        tables: &mut Tables,
        backing: &dyn Backing,
    ) -> Result<bool, StoreError> {
        let reach_ms = i64::try_from(rules.windows.duplicates_lookup_ms).unwrap_or(i64::MAX);
        let first = minute_of(received_at_ms.saturating_sub(reach_ms));
        let last = minute_of(received_at_ms.saturating_add(reach_ms));
        let id = identity.0;
        let shard = shard_of(id);
        let mut candidates = Vec::new();
        for (&number, group) in self.groups.range_mut(first / FILTER_MINUTES..=last / FILTER_MINUTES) {
            if group.filter.is_none() {
                group.filter = Some(read_filter(group.minutes(number), tables, backing)?);
                self.filters += 1;
            }
            if group.filter.as_ref().is_some_and(|filter| filter.contains(id)) {
                candidates
                    .extend(group.minutes(number).map(|(minute, _)| minute).filter(|m| (first..=last).contains(m)));
            }
        }
        for minute in candidates {
            let count = shard_count(minute, shard, tables, backing)?;
            for block in 0..count.div_ceil(BLOCK_IDENTITIES) {
                let mut blocks = tables.table::<IdentityBlocks>(backing)?;
                let Some(block) = blocks.get(&(minute, shard, block))? else { continue };
                if block.identities.chunks_exact(IDENTITY_BYTES).any(|known| known == id.to_le_bytes()) {
                    return Ok(true);
                }
            }
        }
        self.remember(id, minute_of(received_at_ms), log_time_ms, tables, backing)?;
        Ok(false)
    }

    fn remember(
        &mut self,
        id: u128,
        minute: u32,
        log_time_ms: i64,
        tables: &mut Tables,
        backing: &dyn Backing,
    ) -> Result<(), StoreError> {
        let shard = shard_of(id);
        let row = tables.table::<IdentityMinutes>(backing)?.entry(&(minute,))?;
        if row.counts.is_empty() {
            row.counts.resize(SHARDS, 0);
        }
        row.last_log_time = row.last_log_time.max(log_time_ms);
        let count = &mut row.counts[usize::from(shard)];
        let at = *count;
        *count += 1;
        let key = (minute, shard, at / BLOCK_IDENTITIES);
        let blocks = tables.table::<IdentityBlocks>(backing)?;
        let block = if at % BLOCK_IDENTITIES == 0 { blocks.entry_known_new(&key)? } else { blocks.entry(&key)? };
        block.identities.extend_from_slice(&id.to_le_bytes());
        let number = minute / FILTER_MINUTES;
        // As many are expected as came in the eight minutes before.
        let before = self.groups.range(..number).next_back().and_then(|(_, group)| group.filter.as_ref());
        let before = before.map_or(0, BloomChain::len);
        let group = self.groups.entry(number).or_insert_with(|| {
            self.filters += 1;
            // Without a row yet: the empty filter is complete.
            Group { filter: Some(BloomChain::expecting(before)), ..Group::default() }
        });
        let last_log_ms = group.minute(minute);
        *last_log_ms = (*last_log_ms).max(Some(log_time_ms));
        // Of a group with rows it was read in when they were looked at.
        if let Some(filter) = &mut group.filter {
            filter.insert(id);
        }
        if self.filters > FILTERS_MAX {
            // The oldest that is not the one just used.
            let oldest = self.groups.iter_mut().find(|(other, group)| **other != number && group.filter.is_some());
            if let Some((_, group)) = oldest {
                group.filter = None;
                self.filters -= 1;
            }
        }
        Ok(())
    }

    /// Drops minutes whose last record is older than the rules keep, by the log's time.
    pub(crate) fn expire(
        &mut self,
        log_time_ms: i64,
        rules: &RuleSet,
        tables: &mut Tables,
        backing: &dyn Backing,
    ) -> Result<(), StoreError> {
        if log_time_ms < self.next_expiry_ms {
            return Ok(());
        }
        let keep_ms = i64::try_from(rules.windows.duplicates_keep_ms).unwrap_or(i64::MAX);
        let minutes = self.groups.iter().flat_map(|(&number, group)| group.minutes(number));
        let over: Vec<u32> = minutes
            .filter(|(_, last_log_ms)| last_log_ms.saturating_add(keep_ms) < log_time_ms)
            .map(|(minute, _)| minute)
            .collect();
        for minute in over {
            let row = tables.table::<IdentityMinutes>(backing)?.remove(&(minute,))?;
            let counts = row.map(|row| row.counts).unwrap_or_default();
            for (shard, count) in (0..=u8::MAX).zip(counts) {
                for block in 0..count.div_ceil(BLOCK_IDENTITIES) {
                    tables.table::<IdentityBlocks>(backing)?.remove(&(minute, shard, block))?;
                }
            }
            let number = minute / FILTER_MINUTES;
            let Some(group) = self.groups.get_mut(&number) else { continue };
            *group.minute(minute) = None;
            if group.minutes(number).next().is_none() {
                self.filters -= usize::from(group.filter.is_some());
                self.groups.remove(&number);
            }
        }
        // A minute that is added later is younger than every one here, so it cannot be due before this. One more
        // millisecond, because a minute goes when its time is over, not at it.
        let minutes = self.groups.values().flat_map(|group| group.last_log_ms);
        let oldest = minutes.flatten().min().unwrap_or(log_time_ms);
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

fn shard_count(minute: u32, shard: u8, tables: &mut Tables, backing: &dyn Backing) -> Result<u32, StoreError> {
    let mut minutes = tables.table::<IdentityMinutes>(backing)?;
    let row = minutes.get(&(minute,))?;
    Ok(row.and_then(|row| row.counts.get(usize::from(shard)).copied()).unwrap_or(0))
}

/// The filter of some minutes, from their rows.
fn read_filter(
    minutes: impl Iterator<Item = (u32, i64)>,
    tables: &mut Tables,
    backing: &dyn Backing,
) -> Result<BloomChain, StoreError> {
    let mut counts = Vec::new();
    for (minute, _) in minutes {
        let row = tables.table::<IdentityMinutes>(backing)?.get(&(minute,))?.cloned();
        counts.extend((0..=u8::MAX).zip(row.unwrap_or_default().counts).map(|(shard, count)| (minute, shard, count)));
    }
    let len: u64 = counts.iter().map(|&(.., count)| u64::from(count)).sum();
    let mut filter = BloomChain::expecting(usize::try_from(len).unwrap_or(usize::MAX));
    for (minute, shard, count) in counts {
        for block in 0..count.div_ceil(BLOCK_IDENTITIES) {
            let mut blocks = tables.table::<IdentityBlocks>(backing)?;
            let Some(block) = blocks.get(&(minute, shard, block))? else { continue };
            for known in block.identities.chunks_exact(IDENTITY_BYTES) {
                filter.insert(known.try_into().map_or(0, u128::from_le_bytes));
            }
        }
    }
    Ok(filter)
}

fn day_of(time_ms: i64) -> u32 {
    u32::try_from(time_ms.max(0) / DAY_MS).unwrap_or(u32::MAX)
}

/// Looks a business event up among those of the days that the rules keep; remembers it when it is new.
pub(crate) fn business_key(
    (identity, content): (Identity, u128),
    log_time_ms: i64,
    rules: &RuleSet,
    meta: &mut Meta,
    tables: &mut Tables,
    backing: &dyn Backing,
) -> Result<BusinessKey, StoreError> {
    let today = day_of(log_time_ms);
    let keep_days = u32::try_from(rules.windows.business_keep_ms.div_ceil(DAY_MS.unsigned_abs())).unwrap_or(u32::MAX);
    let floor = today.saturating_sub(keep_days);
    let (over, kept): (Vec<u32>, Vec<u32>) = meta.business_days.iter().partition(|&&day| day < floor);
    if !over.is_empty() {
        for day in over {
            for shard in 0..BUSINESS_SHARDS {
                tables.table::<BusinessKeys>(backing)?.remove(&(day, shard))?;
            }
        }
        meta.business_days = kept;
    }
    let id = identity.0.to_le_bytes();
    // The remainder is below 1024.
    let shard = u16::try_from(identity.0 % u128::from(BUSINESS_SHARDS)).unwrap_or(0);
    for &day in &meta.business_days {
        let mut keys = tables.table::<BusinessKeys>(backing)?;
        let Some(row) = keys.get(&(day, shard))? else { continue };
        for known in row.keys.chunks_exact(BUSINESS_KEY_BYTES) {
            if known[..IDENTITY_BYTES] == id {
                let same = known[IDENTITY_BYTES..] == content.to_le_bytes();
                return Ok(if same { BusinessKey::Same } else { BusinessKey::OtherContent });
            }
        }
    }
    if !meta.business_days.contains(&today) {
        meta.business_days.push(today);
        meta.business_days.sort_unstable();
    }
    let row = tables.table::<BusinessKeys>(backing)?.entry(&(today, shard))?;
    row.keys.extend_from_slice(&id);
    row.keys.extend_from_slice(&content.to_le_bytes());
    Ok(BusinessKey::New)
}
