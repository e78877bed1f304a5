//! A room's sums, by half-life of event time, and what they are worth.

use barrage_projection::{Stand, Stands};

use crate::fixed::{log_two, power_of_two};
use crate::generation::Slot;
use crate::proto::{Epoch, Generation, Generations, Room};

/// Epochs that are kept, the newest among them. What is older is worth less than 2^-63 of itself.
const EPOCHS_KEPT: u64 = 64;

/// Largest sum of an epoch: thousandths of a point times 2^24, so that no arithmetic on sums can overflow.
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

pub(crate) fn wide(low: u64, high: u64) -> u128 {
    u128::from(high) << 64 | u128::from(low)
}

pub(crate) fn halves(wide: u128) -> (u64, u64) {
    let low = u64::try_from(wide & u128::from(u64::MAX)).unwrap_or(u64::MAX);
    (low, u64::try_from(wide >> 64).unwrap_or(u64::MAX))
}

impl Epoch {
    fn sum(&self, list: List) -> u128 {
        match list {
            List::Heat => wide(self.heat_low, self.heat_high),
            List::Recommended => wide(self.fair_low, self.fair_high),
        }
    }

    fn sums(&self) -> Sums {
        let fresh = wide(self.fresh_low, self.fresh_high);
        Sums { heat: self.sum(List::Heat), fair: self.sum(List::Recommended), fresh }
    }

    fn set(&mut self, sums: Sums) {
        (self.heat_low, self.heat_high) = halves(sums.heat.min(SUM_MAX));
        (self.fair_low, self.fair_high) = halves(sums.fair.min(SUM_MAX));
        (self.fresh_low, self.fresh_high) = halves(sums.fresh.min(SUM_MAX));
    }
}

/// Sums of an epoch, or by how much they change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sums {
    /// All points.
    pub(crate) heat: u128,
    /// Where each account is capped.
    pub(crate) fair: u128,
    /// Where what each account does counts twice, and is capped then.
    pub(crate) fresh: u128,
}

impl Sums {
    fn with(self, more: Self, change: fn(u128, u128) -> u128) -> Self {
        Self {
            heat: change(self.heat, more.heat),
            fair: change(self.fair, more.fair),
            fresh: change(self.fresh, more.fresh),
        }
    }
}

/// Whether a sum went up or down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Add,
    Take,
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

    pub(crate) fn newest_epoch(&self) -> u64 {
        let carried = self.carried.map_or(0, |carried| carried.number);
        self.epochs.last().map_or(carried, |newest| newest.number.max(carried))
    }

    /// Whether an epoch is kept, as far as it is known.
    pub(crate) fn keeps(&self, epoch: u64) -> bool {
        epoch.saturating_add(EPOCHS_KEPT) > self.newest_epoch()
    }

    /// Changes an epoch's sums; what is too old by then goes.
    pub(crate) fn change(&mut self, way: Way, epoch: u64, by: Sums) {
        let found = self.epochs.binary_search_by_key(&epoch, |epoch| epoch.number);
        let at = match (found, way) {
            (Ok(at), _) => at,
            (Err(_), Way::Take) => return,
            (Err(at), Way::Add) => {
                self.epochs.insert(at, Epoch { number: epoch, ..Epoch::default() });
                at
            }
        };
        let own = &mut self.epochs[at];
        match way {
            Way::Add => {
                let sums = own.sums().with(by, u128::saturating_add);
                self.saturated = self.saturated.saturating_add((sums.heat > SUM_MAX).into());
                own.set(sums);
            }
            Way::Take => {
                let sums = own.sums().with(by, u128::saturating_sub);
                own.set(sums);
                if sums == Sums::default() {
                    self.epochs.remove(at);
                }
            }
        }
        let newest = self.newest_epoch();
        let over = self.epochs.iter().take_while(|epoch| epoch.number.saturating_add(EPOCHS_KEPT) <= newest).count();
        self.epochs.drain(..over);
        self.carried = self.carried.filter(|carried| carried.number.saturating_add(EPOCHS_KEPT) > newest);
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
        let newest = self.newest_epoch();
        // Every sum is below 2^101 and there are at most 65 of them, of which each is at most half the next.
        let worth = |epoch: &Epoch, sum: u128| {
            let age = u32::try_from(newest - epoch.number).unwrap_or(u32::MAX);
            (sum << (WHOLE_BITS - SUM_BITS)).checked_shr(age).unwrap_or(0)
        };
        // What was carried over had its freshness counted then.
        let mut whole = self.carried.as_ref().map_or(0, |carried| worth(carried, carried.sum(list)));
        for epoch in self.epochs.iter().rev() {
            let sum = match list {
                List::Heat => epoch.sum(list),
                // Between the two sums, of which none has more of an account than the cap.
                List::Recommended => {
                    let Sums { fair, fresh, .. } = epoch.sums();
                    fair + ((fresh.saturating_sub(fair) * self.freshness(generation, epoch.number)) >> 16)
                }
            };
            whole = whole.saturating_add(worth(epoch, sum));
        }
        whole
    }

    /// The logarithm of the room's sum, in half-lives with 32 bits behind the point. Time does not change it.
    pub(crate) fn log(&self, generation: &Generation, list: List) -> u64 {
        let log = log_two(self.whole(generation, list));
        log.map_or(0, |log| (self.newest_epoch() << LOG_BITS).saturating_add(log))
    }

    /// What the room is worth at a time, thousandths of a point, rounded. A time before its newest epoch is taken as the
    /// beginning of that: what is still to come is not worth more for it.
    pub(crate) fn score(&self, generation: &Generation, list: List, at_ms: i64) -> u64 {
        let log = self.log(generation, list);
        if log == 0 {
            return 0;
        }
        let at = generation.half_lives(at_ms).max(self.newest_epoch() << LOG_BITS);
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
            self.epochs.clear();
            self.carried = None;
        }
        for pair in known.windows(2) {
            self.carry(&pair[0], &pair[1]);
        }
        self.begin(&current);
        Some(current)
    }

    fn carry(&mut self, from: &Generation, to: &Generation) {
        let (heat, fair) = (self.whole(from, List::Heat), self.whole(from, List::Recommended));
        let newest = (self.newest_epoch() << LOG_BITS).cast_signed();
        self.epochs.clear();
        self.carried = None;
        // Negative only for what was forgotten since 1970.
        let Ok(place) = u64::try_from(newest + from.shift_to(to)) else { return };
        let slot = Slot::at(place);
        let moved = |whole: u128| ((whole >> (WHOLE_BITS - SUM_BITS)).min(SUM_MAX) * slot.weight) >> SUM_BITS;
        let mut carried = Epoch { number: slot.epoch, ..Epoch::default() };
        carried.set(Sums { heat: moved(heat), fair: moved(fair), fresh: 0 });
        self.carried = Some(carried);
    }
}
