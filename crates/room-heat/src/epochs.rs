//! A room's sums, by half-life of event time, and what they are worth.
//!
//! An epoch counts twice what the one before does, so the sum over all of them is one wide number, to which each epoch adds
//! at its place. What two orders of the same events add is the same to the last bit. Only what makes a room fresh is kept
//! epoch by epoch, as long as it is: how much it counts depends on the room's age.

use barrage_projection::{Stand, Stands};

use crate::fixed::{log_two, power_of_two};
use crate::generation::Slot;
use crate::proto::{Fresh, Generation, Generations, Room};
use crate::wide::{Sum, halves, wide};

/// Epochs that are counted, the newest among them. What is older is worth less than 2^-63 of itself.
const EPOCHS_KEPT: u64 = 64;

/// Largest sum of an epoch, and of a room as if all of it were in its newest one: thousandths of a point times 2^24, so
/// that no arithmetic on sums can overflow.
const SUM_MAX: u128 = (1 << 100) - 1;

/// Bits behind the point of an epoch's sum.
const SUM_BITS: u32 = 24;
/// And of a room's sum, so that what is old and small is not cut off.
const WHOLE_BITS: u32 = 36;

/// Longest time that a room is fresh, ms; the rules have less.
const FRESH_MS_MAX: u64 = 1 << 40;

/// A ranking of rooms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum List {
    Heat = 0,
    Recommended = 1,
}

/// Bits of a logarithm behind the point.
pub(crate) const LOG_BITS: u32 = 32;

/// By how much the sums of an epoch change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sums {
    /// All points.
    pub(crate) heat: u128,
    /// Where each account is capped.
    pub(crate) fair: u128,
    /// Where what each account does counts twice, and is capped then.
    pub(crate) fresh: u128,
}

/// Whether a sum went up or down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Add,
    Take,
}

/// The epoch that counts once in the sums of a room whose newest epoch is this: a multiple of 64, so that sums are moved
/// seldom, and what is cut off then is of epochs that are not counted any more.
fn base(newest: u64) -> u64 {
    (newest / EPOCHS_KEPT).saturating_sub(1) * EPOCHS_KEPT
}

/// Epochs from one to a later one.
fn between(from: u64, to: u64) -> u32 {
    u32::try_from(to.saturating_sub(from)).unwrap_or(u32::MAX)
}

impl Room {
    /// The room's epochs are those of this generation from now on.
    pub(crate) fn begin(&mut self, generation: &Generation) {
        (self.generation, self.half_life_ms) = (generation.number, generation.half_life_ms);
    }

    /// Whether it is ranked: something has happened in it. One that was disbanded is not recommended until something
    /// happens in it again.
    pub(crate) fn is_listed(&self, list: List) -> bool {
        self.newest_ms > if list == List::Recommended { self.destroyed_ms } else { 0 }
    }

    /// Where it stands in the lists of its generation.
    pub(crate) fn stands(&self) -> Stands {
        let generation =
            Generation { number: self.generation, half_life_ms: self.half_life_ms, ..Generation::default() };
        let lists = [List::Heat, List::Recommended].into_iter().filter(|&list| self.is_listed(list));
        lists
            .map(|list| Stand { list: list as u8, generation: self.generation, score: self.log(&generation, list) })
            .collect()
    }

    /// Whether an epoch is counted, as far as it is known.
    pub(crate) fn keeps(&self, epoch: u64) -> bool {
        epoch.saturating_add(EPOCHS_KEPT) > self.newest_epoch
    }

    /// Something happened in an epoch; what is too old by then goes.
    pub(crate) fn reach(&mut self, epoch: u64) {
        let newest = epoch.max(self.newest_epoch);
        let by = between(base(self.newest_epoch), base(newest));
        self.newest_epoch = newest;
        if by > 0 {
            self.heat = Sum::from(self.heat).down(by).into();
            self.fair = Sum::from(self.fair).down(by).into();
        }
    }

    /// Changes an epoch's sums, which are kept.
    pub(crate) fn change(&mut self, generation: &Generation, way: Way, epoch: u64, by: Sums) {
        self.reach(epoch);
        let base = base(self.newest_epoch);
        let up = |sum: u128| Sum::from(sum.min(SUM_MAX)).up(between(base, epoch));
        let most = Sum::from(SUM_MAX).up(between(base, self.newest_epoch));
        let (heat, fair) = (Sum::from(self.heat), Sum::from(self.fair));
        let (heat, fair) = match way {
            Way::Add => (heat.saturating_add(up(by.heat)), fair.saturating_add(up(by.fair))),
            Way::Take => (heat.saturating_sub(up(by.heat)), fair.saturating_sub(up(by.fair))),
        };
        self.saturated = self.saturated.saturating_add((heat > most).into());
        (self.heat, self.fair) = (heat.min(most).into(), fair.min(most).into());
        if self.freshness(generation, epoch) > 0 {
            self.change_fresh(way, epoch, by);
        }
    }

    /// Changes by how much more an epoch counts while the room is fresh.
    fn change_fresh(&mut self, way: Way, epoch: u64, by: Sums) {
        let at = self.fresh.partition_point(|fresh| fresh.epoch < epoch);
        if self.fresh.get(at).is_none_or(|fresh| fresh.epoch != epoch) {
            self.fresh.insert(at, Fresh { epoch, ..Fresh::default() });
        }
        let own = &mut self.fresh[at];
        let (more, less) = if way == Way::Add { (by.fresh, by.fair) } else { (by.fair, by.fresh) };
        // What an account adds is at least as much where it counts twice, so this is below 0 only for what was forgotten.
        let sum = wide(own.low, own.high).saturating_add(more).saturating_sub(less);
        (own.low, own.high) = halves(sum.min(SUM_MAX));
    }

    /// Forgets by how much more epochs counted in which the room is not fresh, as far as is known by now.
    pub(crate) fn forget_fresh(&mut self, generation: &Generation) {
        let mut fresh = std::mem::take(&mut self.fresh);
        fresh.retain(|own| {
            (own.low, own.high) != (0, 0) && self.keeps(own.epoch) && self.freshness(generation, own.epoch) > 0
        });
        self.fresh = fresh;
    }

    /// How fresh the room was in an epoch, with 16 bits behind the point: 1 where it begins, falling to 0.
    fn freshness(&self, generation: &Generation, epoch: u64) -> u128 {
        let age_ms = generation.begin_ms(epoch).saturating_sub(self.first_ms).max(0).unsigned_abs();
        let fresh_ms = self.fresh_ms.min(FRESH_MS_MAX);
        match fresh_ms.checked_sub(age_ms) {
            Some(left_ms) if left_ms > 0 => u128::from((left_ms << 16) / fresh_ms),
            _ => 0,
        }
    }

    /// The room's sum as if its newest epoch had just begun, thousandths of a point with 36 bits behind the point.
    fn whole(&self, generation: &Generation, list: List) -> u128 {
        let newest = self.newest_epoch;
        let sum = if list == List::Heat { self.heat } else { self.fair };
        // At most `SUM_MAX` in its newest epoch, so it fits.
        let whole = Sum::from(sum).up(WHOLE_BITS - SUM_BITS).down(between(base(newest), newest)).narrow();
        if list == List::Heat {
            return whole;
        }
        self.fresh.iter().fold(whole, |whole, own| {
            let more = (wide(own.low, own.high) * self.freshness(generation, own.epoch)) >> 16;
            let more = (more << (WHOLE_BITS - SUM_BITS)).checked_shr(between(own.epoch, newest)).unwrap_or(0);
            whole.saturating_add(more)
        })
    }

    /// The logarithm of the room's sum, in half-lives with 32 bits behind the point. Time does not change it.
    pub(crate) fn log(&self, generation: &Generation, list: List) -> u64 {
        let log = log_two(self.whole(generation, list));
        log.map_or(0, |log| (self.newest_epoch << LOG_BITS).saturating_add(log))
    }

    /// What the room is worth at a time, thousandths of a point, rounded. A time before its newest epoch is taken as the
    /// beginning of that: what is still to come is not worth more for it.
    pub(crate) fn score(&self, generation: &Generation, list: List, at_ms: i64) -> u64 {
        let log = self.log(generation, list);
        if log == 0 {
            return 0;
        }
        let at = generation.half_lives(at_ms).max(self.newest_epoch << LOG_BITS);
        let power = log.cast_signed() - at.cast_signed() - (i64::from(WHOLE_BITS) << LOG_BITS);
        let fraction = u32::try_from(power & i64::from(u32::MAX)).unwrap_or(u32::MAX);
        let mantissa = u128::from(power_of_two(fraction));
        let whole = match u32::try_from(power >> LOG_BITS) {
            Ok(up) => mantissa.checked_shl(up).filter(|_| up < 90).unwrap_or(u128::MAX / 2),
            Err(_) => mantissa.checked_shr(u32::try_from(-(power >> LOG_BITS)).unwrap_or(u32::MAX)).unwrap_or(0),
        };
        u64::try_from((whole + (1 << (LOG_BITS - 1))) >> LOG_BITS).unwrap_or(u64::MAX)
    }

    /// Brings the room to the generation in force: what it has becomes one sum, worth the same at each change. Returns
    /// that generation; `None` before there is any.
    pub(crate) fn carry_over(&mut self, generations: &Generations) -> Option<Generation> {
        let current = *generations.generations.last()?;
        if self.generation == current.number {
            return Some(current);
        }
        let known = generations.from(self.generation);
        if known.is_empty() {
            // Of a generation that is forgotten.
            self.clear();
        }
        for pair in known.windows(2) {
            self.carry(&pair[0], &pair[1]);
        }
        self.begin(&current);
        Some(current)
    }

    fn clear(&mut self) {
        (self.heat, self.fair, self.newest_epoch) = (None, None, 0);
        self.fresh.clear();
    }

    fn carry(&mut self, from: &Generation, to: &Generation) {
        let (heat, fair) = (self.whole(from, List::Heat), self.whole(from, List::Recommended));
        let newest = (self.newest_epoch << LOG_BITS).cast_signed();
        self.clear();
        // Negative only for what was forgotten since 1970.
        let Ok(place) = u64::try_from(newest + from.shift_to(to)) else { return };
        let slot = Slot::at(place);
        self.newest_epoch = slot.epoch;
        let up = between(base(slot.epoch), slot.epoch);
        let moved = |whole: u128| {
            let sum = (whole >> (WHOLE_BITS - SUM_BITS)).min(SUM_MAX) * slot.weight;
            Sum::from((sum >> SUM_BITS).min(SUM_MAX)).up(up).into()
        };
        (self.heat, self.fair) = (moved(heat), moved(fair));
    }
}
