//! Half-lives. A change of the half-life begins a generation: what a room has then is carried over at its value.
//!
//! In one generation time is counted in half-lives since 1970, with 32 bits behind the point. An event of weight *w* at
//! time *t* is worth w · 2^(t - T) at any later time T, so rooms can be compared by the sum of w · 2^t, which time does
//! not change: forward decay (Cormode, Shkapenyuk, Srivastava, Xu: Forward Decay, ICDE 2009).

use barrage_projection::{Context, StoreError};

use crate::fixed::power_of_two;
use crate::proto::{Generation, Generations as Row};
use crate::tables::Generations;

/// Generations that are remembered. A room that nothing happened in during so many changes of the half-life has no heat.
const GENERATIONS_MAX: usize = 64;

/// Shortest half-life, as the rules have it, so that the number of an epoch stays below 2^28.
const HALF_LIFE_MS_MIN: u64 = 60_000;
/// Longest one, as the rules have it: below 2^30 ms, so that a part of it can be taken 2^32 times.
const HALF_LIFE_MS_MAX: u64 = 7 * 86_400_000;

/// Latest time that is told apart, ms: the year 2109.
const TIME_MS_MAX: i64 = 1 << 42;

/// Where a time lies in a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Number of the epoch.
    pub(crate) epoch: u64,
    /// 2 to the power of the place in it, 1 to 2, with 24 bits behind the point.
    pub(crate) weight: u128,
}

impl Slot {
    /// Of a time in half-lives, with 32 bits behind the point.
    pub(crate) fn at(half_lives: u64) -> Self {
        let fraction = u32::try_from(half_lives & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        Self { epoch: half_lives >> 32, weight: u128::from(power_of_two(fraction)) >> 8 }
    }
}

impl Generation {
    /// Time in half-lives since 1970, with 32 bits behind the point.
    pub(crate) fn half_lives(&self, time_ms: i64) -> u64 {
        let time_ms = time_ms.clamp(0, TIME_MS_MAX).unsigned_abs();
        let part = (time_ms % self.half_life_ms) << 32;
        ((time_ms / self.half_life_ms) << 32) | (part / self.half_life_ms)
    }

    /// Number of the epoch of a time.
    pub(crate) fn epoch(&self, time_ms: i64) -> u64 {
        self.half_lives(time_ms) >> 32
    }

    pub(crate) fn slot(&self, time_ms: i64) -> Slot {
        Slot::at(self.half_lives(time_ms))
    }

    /// When an epoch begins, ms.
    pub(crate) fn begin_ms(&self, epoch: u64) -> i64 {
        i64::try_from(epoch.saturating_mul(self.half_life_ms)).unwrap_or(i64::MAX)
    }

    /// By how much times move where `next` follows this one, half-lives with 32 bits behind the point: the value at the
    /// change stays what it was.
    pub(crate) fn shift_to(&self, next: &Self) -> i64 {
        // Both are below 2^60.
        next.half_lives(next.since_ms).cast_signed() - self.half_lives(next.since_ms).cast_signed()
    }
}

impl Row {
    /// The generation with this number and those after it; empty when it is forgotten.
    pub(crate) fn from(&self, number: u32) -> &[Generation] {
        let at = self.generations.partition_point(|generation| generation.number < number);
        let rest = &self.generations[at..];
        if rest.first().is_some_and(|first| first.number == number) { rest } else { &[] }
    }

    /// Pending generations have begun when it is this time: at an event for good, at a read for its answer.
    pub(crate) fn settle(&mut self, now_ms: i64) {
        let mut before_ms = i64::MIN;
        for generation in &mut self.generations {
            if generation.until_ms > 0 {
                generation.since_ms = generation.until_ms.min(now_ms).max(generation.since_ms).max(before_ms);
                generation.until_ms = 0;
            }
            before_ms = generation.since_ms;
        }
    }

    /// Begins a generation where the half-life is another one, at the earliest and at the latest at these times.
    fn follow(&mut self, half_life_ms: u64, (since_ms, until_ms): (i64, i64)) {
        let last = self.generations.last();
        if last.is_some_and(|last| last.half_life_ms == half_life_ms) {
            return;
        }
        if until_ms == 0 {
            // Nothing is pending any more before one that has begun.
            self.settle(since_ms);
        }
        let last = self.generations.last();
        let number = last.map_or(1, |last| last.number.saturating_add(1));
        // Before the first one there is nothing that it could change.
        let (since_ms, until_ms) = if last.is_some() { (since_ms, until_ms) } else { (0, 0) };
        self.generations.push(Generation { number, half_life_ms, since_ms, until_ms });
        let over = self.generations.len().saturating_sub(GENERATIONS_MAX);
        self.generations.drain(..over);
    }
}

/// The generation in force, begun when the rules at this place of the log name another half-life. Something happens.
pub(crate) fn current(cx: &mut Context<'_>) -> Result<Generation, StoreError> {
    let stream_time_ms = cx.stream_time_ms;
    let half_life_ms = half_life_ms(cx);
    let mut rows = cx.table::<Generations>()?;
    let last = rows.get(&())?.and_then(|row| row.generations.last().copied());
    if let Some(last) = last.filter(|last| last.half_life_ms == half_life_ms && last.until_ms == 0) {
        return Ok(last);
    }
    let row = rows.entry(&())?;
    row.settle(stream_time_ms);
    row.follow(half_life_ms, (stream_time_ms, 0));
    // There is one now.
    Ok(row.generations.last().copied().unwrap_or_default())
}

/// New rules are in force, applied at a time by ingest's clock.
///
/// Stream time says nothing of that in a partition where nothing happens, and a recording that is replayed lies years
/// before it. So a half-life counts from when it was applied, or from the next event on where that comes sooner by the
/// times of receipt; never from before what is known already.
pub(crate) fn rules_applied(cx: &mut Context<'_>, applied_at_ms: i64) -> Result<(), StoreError> {
    let until_ms = if applied_at_ms > cx.stream_time_ms { applied_at_ms } else { 0 };
    let (half_life_ms, since_ms) = (half_life_ms(cx), cx.stream_time_ms);
    cx.table::<Generations>()?.entry(&())?.follow(half_life_ms, (since_ms, until_ms));
    Ok(())
}

fn half_life_ms(cx: &Context<'_>) -> u64 {
    cx.rules.heat.half_life_ms.clamp(HALF_LIFE_MS_MIN, HALF_LIFE_MS_MAX)
}
