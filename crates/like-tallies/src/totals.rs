//! Arithmetic on totals. Sums saturate, and it is counted when they do.

use crate::combos::Added;
use crate::proto::{Gifts, Hour, Likes, Memberships, Viewer};
use crate::seconds::Counted;

/// Hours of a viewer that are kept at most, however long the rules keep detail: a week.
pub(crate) const HOURS_MAX: u32 = 7 * 24;

pub(crate) const HOUR_MS: i64 = 3_600_000;

/// Hour since the epoch, 0 for times before it.
pub(crate) fn hour_of(time_ms: i64) -> u32 {
    u32::try_from(time_ms.max(0) / HOUR_MS).unwrap_or(u32::MAX)
}

/// Adds, and tells whether the sum is at its limit.
fn add(total: &mut u64, more: u64) -> bool {
    let (sum, over) = total.overflowing_add(more);
    *total = if over { u64::MAX } else { sum };
    over
}

impl Likes {
    pub(crate) fn add(&mut self, stated: u64, counted: &Counted) {
        let full = add(&mut self.messages, 1)
            | add(&mut self.named, stated)
            | add(&mut self.capped_message, counted.over_message)
            | add(&mut self.count, counted.count);
        add(&mut self.too_late, counted.too_late.into());
        add(&mut self.saturated, full.into());
    }

    pub(crate) fn refuse(&mut self, stated: u64) {
        let full = add(&mut self.rejected, stated);
        add(&mut self.saturated, full.into());
    }
}

impl Gifts {
    pub(crate) fn add(&mut self, message: bool, added: &Added) {
        let full = add(&mut self.messages, message.into())
            | add(&mut self.count, added.count)
            | add(&mut self.value, added.value);
        add(&mut self.too_late, added.too_late.into());
        add(&mut self.saturated, full.into());
    }
}

impl Memberships {
    pub(crate) fn add(&mut self, months: u64, value: u64) {
        let full = add(&mut self.count, 1) | add(&mut self.months, months) | add(&mut self.value, value);
        add(&mut self.saturated, full.into());
    }
}

impl Viewer {
    pub(crate) fn add_likes(&mut self, stated: u64, count: u64, at: (u32, u32)) {
        add(&mut self.likes_named, stated);
        add(&mut self.likes, count);
        self.add_to_hour(at, &Hour { likes: count, ..Hour::default() });
    }

    pub(crate) fn add_gift(&mut self, message: bool, added: &Added, hours_from: u32) {
        add(&mut self.gift_messages, message.into());
        add(&mut self.gift_count, added.count);
        add(&mut self.gift_value, added.value);
        let to = hour_of(added.at_ms);
        let mut did = Hour { gift_count: added.count, gift_value: added.value, ..Hour::default() };
        if let Some((from_ms, count, value)) = added.moved
            && hour_of(from_ms) != to
        {
            self.take_from_hour(hour_of(from_ms), count, value);
            add(&mut did.gift_count, count);
            add(&mut did.gift_value, value);
        }
        self.add_to_hour((to, hours_from), &did);
    }

    /// Takes out what a combo had put into an hour that is not its own.
    fn take_from_hour(&mut self, number: u32, count: u64, value: u64) {
        let Ok(at) = self.hours.binary_search_by_key(&number, |hour| hour.hour) else { return };
        let hour = &mut self.hours[at];
        hour.gift_count = hour.gift_count.saturating_sub(count);
        hour.gift_value = hour.gift_value.saturating_sub(value);
        if (Hour { hour: number, ..Hour::default() }) == *hour {
            self.hours.remove(at);
        }
    }

    /// Adds what was done in an hour to it where it is among those that are kept; older ones go. An hour of nothing is none,
    /// as the one that a combo left: else its row would tell in which order likes that count nothing came.
    fn add_to_hour(&mut self, (number, hours_from): (u32, u32), did: &Hour) {
        let over = self.hours.iter().take_while(|hour| hour.hour < hours_from).count();
        self.hours.drain(..over);
        if number < hours_from || *did == Hour::default() {
            return;
        }
        let at = match self.hours.binary_search_by_key(&number, |hour| hour.hour) {
            Ok(at) => at,
            Err(at) => {
                self.hours.insert(at, Hour { hour: number, ..Hour::default() });
                at
            }
        };
        let hour = &mut self.hours[at];
        add(&mut hour.likes, did.likes);
        add(&mut hour.gift_count, did.gift_count);
        add(&mut hour.gift_value, did.gift_value);
    }
}
