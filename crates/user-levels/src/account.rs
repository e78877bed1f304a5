//! What an account's row says: amounts by day, what of them counts, and how they grow.

use barrage_event::rules::LevelRules;

use crate::metrics::{Amounts, Metric, add, amounts, capped, field, level, of, points, score};
use crate::proto::{Account, Day, Metrics};

pub(crate) const DAY_MS: i64 = 86_400_000;

/// Days that are kept one by one. A week, so that a cap that turns out wrong can still be put right for the days that
/// people talk about, and a row stays below 300 bytes.
pub const DAYS_KEPT: u32 = 7;

/// Days since the epoch.
pub(crate) fn day_of(ms: i64) -> u32 {
    u32::try_from(ms.max(0) / DAY_MS).unwrap_or(u32::MAX)
}

/// First ms of a day.
pub(crate) fn start_of(day: u32) -> i64 {
    i64::from(day) * DAY_MS
}

impl Account {
    /// Folds the days that are over a week old at this stream time.
    pub(crate) fn fold(&mut self, stream_time_ms: i64, rules: &LevelRules) {
        let below = day_of(stream_time_ms).saturating_add(1).saturating_sub(DAYS_KEPT);
        if below <= self.folded_below {
            return;
        }
        self.folded_below = below;
        let old = self.days.iter().take_while(|day| day.day < below).count();
        if old == 0 {
            return;
        }
        let mut folded = amounts(self.folded);
        for day in self.days.drain(..old) {
            add(&mut folded, &capped(&amounts(day.metrics), rules));
        }
        self.folded = Some(of(&folded));
    }

    /// The day that something is counted for: its own, unless that is folded, or is ahead of the log, as only a record
    /// that did not come through ingest can be.
    fn day_for(&mut self, day: u32, stream_time_ms: i64) -> &mut Metrics {
        let newest = day_of(stream_time_ms).saturating_add(1);
        let day = day.min(newest).max(self.folded_below);
        let at = match self.days.binary_search_by_key(&day, |d| d.day) {
            Ok(at) => at,
            Err(at) => {
                self.days.insert(at, Day { day, metrics: None });
                at
            }
        };
        self.days[at].metrics.get_or_insert_default()
    }

    /// More of a metric on a day.
    pub(crate) fn add(&mut self, metric: Metric, amount: u64, day: u32, stream_time_ms: i64) {
        if amount == 0 {
            return;
        }
        let total = field(self.totals.get_or_insert_default(), metric);
        *total = total.saturating_add(amount);
        let own = field(self.day_for(day, stream_time_ms), metric);
        *own = own.saturating_add(amount);
    }

    /// Less of a metric, because it was corrected where it is counted: taken from the newest days that have any.
    pub(crate) fn take_back(&mut self, metric: Metric, amount: u64) {
        let total = field(self.totals.get_or_insert_default(), metric);
        *total = total.saturating_sub(amount);
        let mut left = amount;
        for day in self.days.iter_mut().rev() {
            let own = field(day.metrics.get_or_insert_default(), metric);
            let taken = left.min(*own);
            *own -= taken;
            left -= taken;
        }
        // What is folded was cut by caps, so that less may be there than was counted.
        if let Some(folded) = &mut self.folded {
            let own = field(folded, metric);
            *own = own.saturating_sub(left);
        }
    }

    /// The total of a metric is this now; what is new counts for a day.
    pub(crate) fn move_to(&mut self, metric: Metric, total: u64, day: u32, stream_time_ms: i64) {
        let known = self.total(metric);
        if total < known {
            self.take_back(metric, known - total);
        } else {
            self.add(metric, total - known, day, stream_time_ms);
        }
    }

    pub(crate) fn total(&self, metric: Metric) -> u64 {
        amounts(self.totals)[metric as usize]
    }

    /// The most that the level can be at a time if nothing happens before.
    pub(crate) fn level_at_most(&self, at_ms: i64, rules: &LevelRules) -> u32 {
        let mut at_most = self.counted(rules);
        let online = &mut at_most[Metric::Online as usize];
        *online = online.saturating_add(self.online_at_most(at_ms) - self.total(Metric::Online));
        level(score(&points(&at_most, rules)), rules)
    }

    /// What counts of each metric by these rules.
    pub(crate) fn counted(&self, rules: &LevelRules) -> Amounts {
        let mut counted = amounts(self.folded);
        for day in &self.days {
            add(&mut counted, &capped(&amounts(day.metrics), rules));
        }
        counted
    }

    /// The level by these rules.
    pub(crate) fn level(&self, rules: &LevelRules) -> u32 {
        level(score(&points(&self.counted(rules), rules)), rules)
    }
}
