//! How far this machine's clock is from the log's, told by the times that brokers give to records.
//!
//! A broker writes a record between its being handed over here and the acknowledgement here. A time of its outside of
//! that span means that the clocks differ by at least the distance, however long the record was on its way.
//!
//! Every broker has a clock of its own, and one of them may be the wrong one. So this machine's clock counts as wrong
//! only when all partitions that were heard of lately say so, and by the least of what they say.

use std::time::{Duration, Instant};

/// What is older than this beside the newest is not asked any more: clocks are put right.
const FRESH: Duration = Duration::from_secs(60);

/// Differences up to here are nobody's business, ms: NTP keeps clocks much closer.
pub(crate) const ALARM_MS: i64 = 10_000;

/// What was seen of one partition's broker.
#[derive(Debug, Clone, Copy)]
struct Seen {
    ahead_ms: i64,
    at: Instant,
}

/// What was seen of all partitions.
#[derive(Debug)]
pub(crate) struct Clocks {
    seen: Vec<Option<Seen>>,
}

impl Clocks {
    /// Of so many sources.
    pub(crate) fn new(sources: usize) -> Self {
        Self { seen: vec![None; sources] }
    }

    /// Notes the log's time of a record that was acknowledged at `acked_ms` by our clock, `took` after it was handed
    /// over. Gives how far our clock is ahead of that broker's at least, ms.
    pub(crate) fn observe(&mut self, source: usize, log_ms: i64, acked_ms: i64, took: Duration, now: Instant) -> i64 {
        let handed_ms = acked_ms.saturating_sub(i64::try_from(took.as_millis()).unwrap_or(i64::MAX));
        let ahead_ms = if log_ms < handed_ms {
            handed_ms.saturating_sub(log_ms)
        } else if log_ms > acked_ms {
            acked_ms.saturating_sub(log_ms)
        } else {
            0
        };
        if let Some(slot) = self.seen.get_mut(source) {
            *slot = Some(Seen { ahead_ms, at: now });
        }
        ahead_ms
    }

    /// By how much our clock is ahead of all that were heard of lately, ms; negative when it is behind, 0 when it is
    /// right or they do not agree.
    pub(crate) fn ahead_ms(&self) -> i64 {
        let Some(newest) = self.seen.iter().flatten().map(|seen| seen.at).max() else { return 0 };
        let fresh = self.seen.iter().flatten().filter(|seen| newest.duration_since(seen.at) <= FRESH);
        let (least, most) =
            fresh.fold((i64::MAX, i64::MIN), |(least, most), seen| (least.min(seen.ahead_ms), most.max(seen.ahead_ms)));
        if least > ALARM_MS {
            least
        } else if most < -ALARM_MS {
            most
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;
    const SLOW: Duration = Duration::from_secs(30);

    #[test]
    fn a_record_that_was_long_on_its_way_says_nothing_of_the_clock() {
        let (mut clocks, now) = (Clocks::new(1), Instant::now());
        for log_ms in [1_000_000, 1_015_000, 1_030_000] {
            assert_eq!(clocks.observe(0, log_ms, 1_030_000, SLOW, now), 0);
            assert_eq!(clocks.ahead_ms(), 0);
        }
        assert_eq!(clocks.observe(0, 1_000_000, 1_030_000 + HOUR, SLOW, now), HOUR);
        assert_eq!(clocks.ahead_ms(), HOUR);
        assert_eq!(clocks.observe(0, 1_030_000 + HOUR, 1_030_000, SLOW, now), -HOUR);
        assert_eq!(clocks.ahead_ms(), -HOUR);
    }

    #[test]
    fn one_broker_alone_does_not_make_our_clock_wrong() {
        let (mut clocks, now) = (Clocks::new(3), Instant::now());
        let mut see = |source, ahead: i64, at: Instant| {
            clocks.observe(source, 0, ahead, Duration::ZERO, at);
            clocks.ahead_ms()
        };
        assert_eq!(see(0, HOUR, now), HOUR, "the only one that was heard of");
        assert_eq!(see(1, 0, now), 0);
        assert_eq!(see(2, -HOUR, now), 0);
        // Put right, or gone: what was seen long ago does not count beside what is seen now.
        let later = now + FRESH + Duration::from_secs(1);
        assert_eq!(see(1, HOUR + 5, later), HOUR + 5);
        assert_eq!(see(0, HOUR, later), HOUR, "by the least of what all say");
        assert_eq!(see(0, ALARM_MS, later), 0, "near enough");
    }

    #[test]
    fn no_time_is_too_far() {
        let (mut clocks, now) = (Clocks::new(1), Instant::now());
        for (log, ours) in [(i64::MIN, i64::MAX), (i64::MAX, i64::MIN), (0, i64::MIN)] {
            clocks.observe(0, log, ours, Duration::MAX, now);
            clocks.ahead_ms();
        }
        clocks.observe(7, 0, HOUR, Duration::ZERO, now);
        assert_eq!(Clocks::new(2).ahead_ms(), 0);
    }
}
