//! How many members a room has, ms by ms: what changed is kept for the lateness window in chunks of 20 s, older chunks
//! are folded into a number and the peak.
//!
//! Every change is the difference between when a member was there as it was known before and as it is known now. So the
//! sum up to any time is the number of members who were there, whatever the order in which that became known, and is
//! never negative.

use barrage_projection::{Context, StoreError};

use crate::proto::{Chunk, ChunkSum, Room};
use crate::tables::Chunks;

const CHUNK_MS: i64 = 20_000;

/// A room's app and `GroupId`.
pub(crate) type RoomKey<'a> = (u32, &'a str);

fn chunk_of(at_ms: i64) -> u32 {
    u32::try_from(at_ms.max(0) / CHUNK_MS).unwrap_or(u32::MAX)
}

fn begin_of(number: u32) -> i64 {
    i64::from(number) * CHUNK_MS
}

fn offset_of(at_ms: i64) -> u32 {
    // Below 20,000.
    u32::try_from(at_ms.max(0) % CHUNK_MS).unwrap_or(0)
}

/// Adds at an offset; an entry that comes to nothing goes.
fn add<N: Copy + Default + PartialEq>(offsets: &mut Vec<u32>, numbers: &mut Vec<N>, offset: u32, sum: impl Fn(N) -> N) {
    // What is new is nearly always the last.
    let at = match offsets.last() {
        Some(&last) if last < offset => Err(offsets.len()),
        _ => offsets.binary_search(&offset),
    };
    match at {
        Ok(at) if at < numbers.len() => {
            numbers[at] = sum(numbers[at]);
            if numbers[at] == N::default() {
                offsets.remove(at);
                numbers.remove(at);
            }
        }
        Err(at) if at <= numbers.len() => {
            let number = sum(N::default());
            if number != N::default() {
                offsets.insert(at, offset);
                numbers.insert(at, number);
            }
        }
        // A row whose lists differ in length is damaged; it must not stop the partition.
        Ok(_) | Err(_) => {}
    }
}

impl Chunk {
    /// Changes and ends together, by offset.
    fn merged(&self, era: u32) -> Vec<(u32, i64)> {
        let deltas = self.offsets.iter().zip(&self.deltas).map(|(&offset, &delta)| (offset, i64::from(delta)));
        let mut all: Vec<(u32, i64)> = deltas.collect();
        if self.era == era && !self.end_offsets.is_empty() {
            let ends = self.end_offsets.iter().zip(&self.end_counts);
            all.extend(ends.map(|(&offset, &count)| (offset, -i64::from(count))));
            all.sort_by_key(|(offset, _)| *offset);
            all.dedup_by(|next, kept| {
                let same = next.0 == kept.0;
                if same {
                    kept.1 = kept.1.saturating_add(next.1);
                }
                same
            });
        }
        all
    }
}

/// The count as time passes, and its highest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Level {
    count: i64,
    pub(crate) peak: u64,
    pub(crate) peak_at_ms: i64,
}

impl Level {
    fn of(room: &Room) -> Self {
        let mut level = Self { count: 0, peak: room.peak, peak_at_ms: room.peak_at_ms };
        level.change(room.folded_to_ms, room.base);
        level
    }

    fn change(&mut self, at_ms: i64, delta: i64) {
        self.count = self.count.saturating_add(delta);
        if self.now() > self.peak {
            self.peak = self.now();
            self.peak_at_ms = at_ms;
        }
    }

    /// Members online.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.count).unwrap_or(0)
    }

    fn pass(&mut self, number: u32, chunk: &Chunk, era: u32, until_ms: i64) {
        for (offset, delta) in chunk.merged(era) {
            let at_ms = begin_of(number) + i64::from(offset);
            if at_ms > until_ms {
                break;
            }
            self.change(at_ms, delta);
        }
    }
}

/// Count and peak at a time; `chunk` reads a chunk's row.
pub(crate) fn level_at(
    room: &Room,
    at_ms: i64,
    mut chunk: impl FnMut(u32) -> Result<Chunk, StoreError>,
) -> Result<Level, StoreError> {
    let mut level = Level::of(room);
    for sum in room.chunks.iter().take_while(|sum| begin_of(sum.number) <= at_ms) {
        level.pass(sum.number, &chunk(sum.number)?, room.era, at_ms);
    }
    Ok(level)
}

/// The count alone: only the chunk that the time lies in is read.
pub(crate) fn count_at(
    room: &Room,
    at_ms: i64,
    mut chunk: impl FnMut(u32) -> Result<Chunk, StoreError>,
) -> Result<u64, StoreError> {
    let mut level = Level::of(room);
    for sum in room.chunks.iter().take_while(|sum| begin_of(sum.number) <= at_ms) {
        if begin_of(sum.number) + CHUNK_MS <= at_ms.saturating_add(1) {
            level.change(at_ms, total(sum));
        } else {
            level.pass(sum.number, &chunk(sum.number)?, room.era, at_ms);
        }
    }
    Ok(level.now())
}

fn total(sum: &ChunkSum) -> i64 {
    sum.sum.saturating_sub(i64::try_from(sum.ends).unwrap_or(i64::MAX))
}

/// The count with all changes up to the end of the chunk that the time lies in.
pub(crate) fn count_about(room: &Room, at_ms: i64) -> u64 {
    let now = chunk_of(at_ms);
    let sums = room.chunks.iter().take_while(|sum| sum.number <= now).map(total);
    u64::try_from(sums.fold(room.base, i64::saturating_add)).unwrap_or(0)
}

/// Provisional ends that another idle time-out has placed are void, those that have come too: nobody has left for good that
/// nothing was heard of.
pub(crate) fn follow_idle(room: &mut Room, idle_ms: u64) {
    if room.idle_ms == idle_ms {
        return;
    }
    room.idle_ms = idle_ms;
    // The ends in the chunks and in the members' rows are of another era than the room now.
    room.era = room.era.saturating_add(1);
    room.base = room.base.saturating_add(i64::try_from(room.silent).unwrap_or(i64::MAX));
    room.silent = 0;
    for sum in &mut room.chunks {
        sum.ends = 0;
    }
}

/// Folds the chunks that lie before the horizon.
pub(crate) fn fold(cx: &mut Context<'_>, room: &mut Room, key: RoomKey<'_>, horizon_ms: i64) -> Result<(), StoreError> {
    let edge = chunk_of(horizon_ms);
    let old = room.chunks.iter().take_while(|sum| sum.number < edge).count();
    if old > 0 {
        let mut level = Level::of(room);
        for sum in room.chunks.drain(..old) {
            let chunk = cx.table::<Chunks>()?.remove(&(key.0, key.1, sum.number))?.unwrap_or_default();
            level.pass(sum.number, &chunk, room.era, i64::MAX);
            room.silent = room.silent.saturating_add(sum.ends);
        }
        room.base = level.count;
        room.peak = level.peak;
        room.peak_at_ms = level.peak_at_ms;
    }
    room.folded_to_ms = room.folded_to_ms.max(begin_of(edge));
    Ok(())
}

fn in_chunk(
    cx: &mut Context<'_>,
    room: &mut Room,
    key: RoomKey<'_>,
    at_ms: i64,
    change: impl FnOnce(&mut ChunkSum, &mut Chunk),
) -> Result<(), StoreError> {
    let number = chunk_of(at_ms);
    let row_key = (key.0, key.1, number);
    let (at, chunk) = match room.chunks.binary_search_by_key(&number, |sum| sum.number) {
        Ok(at) => (at, cx.table::<Chunks>()?.entry(&row_key)?),
        Err(at) => {
            room.chunks.insert(at, ChunkSum { number, ..ChunkSum::default() });
            let chunk = cx.table::<Chunks>()?.entry_known_new(&row_key)?;
            *chunk = Chunk::default();
            (at, chunk)
        }
    };
    if chunk.era != room.era {
        chunk.era = room.era;
        chunk.end_offsets.clear();
        chunk.end_counts.clear();
    }
    change(&mut room.chunks[at], chunk);
    Ok(())
}

/// One member more or less from `at_ms` on; whether that was in time for the peak.
pub(crate) fn change(
    cx: &mut Context<'_>,
    room: &mut Room,
    key: RoomKey<'_>,
    at_ms: i64,
    delta: i32,
) -> Result<bool, StoreError> {
    if at_ms < room.folded_to_ms {
        room.base = room.base.saturating_add(i64::from(delta));
        return Ok(false);
    }
    in_chunk(cx, room, key, at_ms, |sum, chunk| {
        sum.sum = sum.sum.saturating_add(i64::from(delta));
        add(&mut chunk.offsets, &mut chunk.deltas, offset_of(at_ms), |old: i32| old.saturating_add(delta));
    })?;
    Ok(true)
}

/// A member leaves at `at_ms` unless it shows a sign of life before (`placed`), or does so no more.
pub(crate) fn change_end(
    cx: &mut Context<'_>,
    room: &mut Room,
    key: RoomKey<'_>,
    at_ms: i64,
    placed: bool,
) -> Result<bool, StoreError> {
    if at_ms < room.folded_to_ms {
        room.base = room.base.saturating_add(if placed { -1 } else { 1 });
        room.silent = if placed { room.silent.saturating_add(1) } else { room.silent.saturating_sub(1) };
        return Ok(false);
    }
    in_chunk(cx, room, key, at_ms, |sum, chunk| {
        let step = |old: u32| if placed { old.saturating_add(1) } else { old.saturating_sub(1) };
        sum.ends = if placed { sum.ends.saturating_add(1) } else { sum.ends.saturating_sub(1) };
        add(&mut chunk.end_offsets, &mut chunk.end_counts, offset_of(at_ms), step);
    })?;
    Ok(true)
}

/// Nobody is there any more from `at_ms` on, which is behind all changes but provisional ends: of those the ones before
/// that stay, later ones are void.
pub(crate) fn clear(cx: &mut Context<'_>, room: &mut Room, key: RoomKey<'_>, at_ms: i64) -> Result<(), StoreError> {
    for at in 0..room.chunks.len() {
        let sum = &mut room.chunks[at];
        if sum.ends == 0 {
            continue;
        }
        let chunk = cx.table::<Chunks>()?.entry(&(key.0, key.1, sum.number))?;
        let ends: Vec<(u32, u32)> = chunk.end_offsets.drain(..).zip(chunk.end_counts.drain(..)).collect();
        for (offset, count) in ends {
            if begin_of(sum.number) + i64::from(offset) <= at_ms {
                let count = i32::try_from(count).unwrap_or(i32::MAX);
                add(&mut chunk.offsets, &mut chunk.deltas, offset, |old: i32| old.saturating_sub(count));
                sum.sum = sum.sum.saturating_sub(i64::from(count));
            }
        }
        sum.ends = 0;
    }
    room.silent = 0;
    let rows = |cx: &mut Context<'_>, number| {
        Ok(cx.table::<Chunks>()?.get(&(key.0, key.1, number))?.cloned().unwrap_or_default())
    };
    let there = level_at(room, at_ms, |number| rows(cx, number))?.count;
    let there = i32::try_from(there.max(0)).unwrap_or(i32::MAX);
    if there > 0 {
        change(cx, room, key, at_ms, -there)?;
    }
    Ok(())
}
