//! Online time by day.
//!
//! Online duration knows how much of it there is at any time, not on which days it was. Whatever changes it passes by
//! here too (of signs of life those that may open a silent session again), so between two looks at an account nothing happened but that time went by: an open session went on from the
//! first look, to the second one or to where it fell silent. That tells the days exactly. What is left is what a late
//! event adds, which counts for the day of that event, and what one takes away, which is taken from the newest days.

use crate::account::{day_of, start_of};
use crate::metrics::Metric;
use crate::proto::Account;
use crate::sources::Online;

/// When an account is looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    /// Time of the event that is the reason, ms.
    pub(crate) event_ms: i64,
    /// Stream time, ms.
    pub(crate) stream_ms: i64,
}

impl Account {
    /// The time that online time is looked at for an event: never before the last look.
    pub(crate) fn look_at(&self, event_ms: i64) -> i64 {
        event_ms.max(self.online_until_ms)
    }

    /// The most that online time can be at a time if nothing happens before.
    pub(crate) fn online_at_most(&self, at_ms: i64) -> u64 {
        let grown = if self.online_open { at_ms.saturating_sub(self.online_until_ms).max(0) } else { 0 };
        self.total(Metric::Online).saturating_add(grown.unsigned_abs())
    }

    /// Puts what was found at [`Self::look_at`] of an event into the days.
    pub(crate) fn put_online(&mut self, found: Online, look: Look) {
        let (from, to) = (self.online_until_ms, self.look_at(look.event_ms));
        let was_open = std::mem::replace(&mut self.online_open, found.open);
        self.online_until_ms = to;
        let known = self.total(Metric::Online);
        if found.ms < known {
            self.take_back(Metric::Online, known - found.ms);
            return;
        }
        let mut left = found.ms - known;
        if left == 0 {
            return;
        }
        let elapsed = if from == 0 { 0 } else { to.saturating_sub(from).unsigned_abs() };
        let run = i64::try_from(left.min(elapsed)).unwrap_or(i64::MAX);
        left -= run.unsigned_abs();
        let (start, end) = if was_open { (from, from.saturating_add(run)) } else { (to.saturating_sub(run), to) };
        self.add_run(start, end, look.stream_ms);
        self.add(Metric::Online, left, day_of(look.event_ms), look.stream_ms);
    }

    /// Adds time online from `start` to `end`, each day what lies in it.
    fn add_run(&mut self, start: i64, end: i64, stream_ms: i64) {
        // Days that are folded are one to `add`, so that a run of years takes no more steps than one of a week.
        let mut at = start;
        let first_kept = start_of(self.folded_below);
        while at < end {
            let midnight = if at < first_kept { first_kept } else { start_of(day_of(at).saturating_add(1)) };
            // No midnight lies beyond the last day that has a number.
            let until = if midnight > at { midnight.min(end) } else { end };
            self.add(Metric::Online, (until - at).unsigned_abs(), day_of(at), stream_ms);
            at = until;
        }
    }
}
