//! How far this machine's clock is from the log's, told by the times that brokers give to records.
//!
//! A broker writes a record between its being handed over here and the acknowledgement here. A time of its outside of
//! that span means that the clocks differ by at least the distance, however long the record was on its way.
//!
//! Every broker has a clock of its own, and one of them may be the wrong one. So this machine's clock counts as wrong
//! only when all partitions that were heard of lately say so, and by the least of what they say.
//!
//! What was seen is kept against the *steady* clock, which counts from the start of the machine and does not step. So it
//! stays true when somebody sets this machine's clock, and by how much that is wrong from then on is known at once, before
//! Kafka is asked again.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// What is older than this beside the newest is not asked any more: clocks are put right.
const FRESH: Duration = Duration::from_secs(60);

/// Differences up to here are nobody's business, ms: NTP keeps clocks much closer.
pub(crate) const ALARM_MS: i64 = 10_000;

/// No broker's time was heard of yet.
const UNKNOWN: i64 = i64::MIN;

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// What was seen of one partition's broker.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// What its clock showed when the steady clock began.
    start_ms: i64,
    at: Instant,
}

/// What was seen of all partitions.
#[derive(Debug)]
pub(crate) struct Clocks {
    begun: Instant,
    seen: Vec<Option<Seen>>,
    /// What was found last.
    ahead_ms: i64,
}

impl Clocks {
    /// Of so many sources.
    pub(crate) fn new(sources: usize, begun: Instant) -> Self {
        Self { begun, seen: vec![None; sources], ahead_ms: 0 }
    }

    /// Notes the log's time of a record that was acknowledged at `acked_ms` by our clock, `took` after it was handed
    /// over. Gives how far our clock is ahead of that broker's at least, ms.
    pub(crate) fn observe(&mut self, source: usize, log_ms: i64, acked_ms: i64, took: Duration, now: Instant) -> i64 {
        let handed_ms = acked_ms.saturating_sub(millis(took));
        let ahead_ms = if log_ms < handed_ms {
            handed_ms.saturating_sub(log_ms)
        } else if log_ms > acked_ms {
            acked_ms.saturating_sub(log_ms)
        } else {
            0
        };
        // One that was long on its way fits to any clock.
        if (ahead_ms != 0 || millis(took) <= ALARM_MS)
            && let Some(slot) = self.seen.get_mut(source)
        {
            let steady_ms = millis(now.saturating_duration_since(self.begun));
            let start_ms = acked_ms.saturating_sub(ahead_ms).saturating_sub(steady_ms);
            *slot = Some(Seen { start_ms, at: now });
        }
        ahead_ms
    }

    /// By how much our clock, which shows `wall_ms`, is ahead of all that were heard of lately, ms; negative when it is
    /// behind, 0 when it is right or they do not agree. `None` when nobody was heard of.
    fn found(&self, wall_ms: i64, now: Instant) -> Option<i64> {
        let newest = self.seen.iter().flatten().map(|seen| seen.at).max()?;
        let start_ms = wall_ms.saturating_sub(millis(now.saturating_duration_since(self.begun)));
        let fresh = self.seen.iter().flatten().filter(|seen| newest.duration_since(seen.at) <= FRESH);
        let ahead_ms = fresh.map(|seen| start_ms.saturating_sub(seen.start_ms));
        let (least, most) = ahead_ms.fold((i64::MAX, i64::MIN), |(least, most), ms| (least.min(ms), most.max(ms)));
        Some(if least > ALARM_MS {
            least
        } else if most < -ALARM_MS {
            most
        } else {
            0
        })
    }

    /// Lets `followed` follow what was seen. Gives by how much our clock, which shows `wall_ms`, was ahead when that was
    /// done last, and is now.
    pub(crate) fn follow(&mut self, followed: &LogTime, wall_ms: i64, now: Instant) -> (i64, i64) {
        let before_ms = self.ahead_ms;
        if let Some(ahead_ms) = self.found(wall_ms, now) {
            self.ahead_ms = ahead_ms;
            let steady_ms = millis(now.saturating_duration_since(followed.begun));
            let start_ms = wall_ms.saturating_sub(ahead_ms).saturating_sub(steady_ms);
            followed.start_ms.store(start_ms, Ordering::Release);
        }
        (before_ms, self.ahead_ms)
    }
}

/// The log's time as a distance to the steady clock. Asked with every callback, so it is one number.
#[derive(Debug)]
pub(crate) struct LogTime {
    begun: Instant,
    /// What the log's clock showed when the steady clock began.
    start_ms: AtomicI64,
}

impl LogTime {
    /// Nothing is known yet.
    pub(crate) fn new(begun: Instant) -> Self {
        Self { begun, start_ms: AtomicI64::new(UNKNOWN) }
    }

    /// By how much our clock, which shows `wall_ms`, is ahead of the log's; 0 while they agree, or nothing is known.
    pub(crate) fn ahead_ms(&self, wall_ms: i64, now: Instant) -> i64 {
        let start_ms = self.start_ms.load(Ordering::Acquire);
        if start_ms == UNKNOWN {
            return 0;
        }
        let log_ms = start_ms.saturating_add(millis(now.saturating_duration_since(self.begun)));
        let ahead_ms = wall_ms.saturating_sub(log_ms);
        if (-ALARM_MS..=ALARM_MS).contains(&ahead_ms) { 0 } else { ahead_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;
    const SLOW: Duration = Duration::from_secs(30);

    /// What is seen, and what is followed.
    struct Both(Clocks, LogTime);

    impl Both {
        fn new(sources: usize, begun: Instant) -> Self {
            Self(Clocks::new(sources, begun), LogTime::new(begun))
        }

        /// Observes, and gives by how much our clock is ahead by all that was seen.
        fn see(&mut self, source: usize, log_ms: i64, wall_ms: i64, now: Instant) -> i64 {
            self.0.observe(source, log_ms, wall_ms, Duration::ZERO, now);
            let (_, ahead_ms) = self.0.follow(&self.1, wall_ms, now);
            assert_eq!(self.1.ahead_ms(wall_ms, now), ahead_ms, "the same as long as nobody sets the clock");
            ahead_ms
        }
    }

    #[test]
    fn a_record_that_was_long_on_its_way_says_nothing_of_the_clock() {
        let now = Instant::now();
        let Both(mut clocks, followed) = Both::new(1, now);
        for log_ms in [1_000_000, 1_015_000, 1_030_000] {
            assert_eq!(clocks.observe(0, log_ms, 1_030_000, SLOW, now), 0);
            assert_eq!(clocks.follow(&followed, 1_030_000, now), (0, 0));
        }
        assert_eq!(followed.ahead_ms(1_030_000 + HOUR, now), 0, "nothing is known");
        assert_eq!(clocks.observe(0, 1_000_000, 1_030_000 + HOUR, SLOW, now), HOUR);
        assert_eq!(clocks.follow(&followed, 1_030_000 + HOUR, now), (0, HOUR));
        // What it would have fitted to does not count, what was known before does.
        assert_eq!(clocks.observe(0, 1_015_000 + HOUR, 1_030_000 + HOUR, SLOW, now), 0);
        assert_eq!(clocks.follow(&followed, 1_030_000 + HOUR, now), (HOUR, HOUR));
        assert_eq!(clocks.observe(0, 1_030_000 + HOUR, 1_030_000, SLOW, now), -HOUR);
        assert_eq!(clocks.follow(&followed, 1_030_000, now), (HOUR, -HOUR));
    }

    #[test]
    fn one_broker_alone_does_not_make_our_clock_wrong() {
        let begun = Instant::now();
        let mut both = Both::new(3, begun);
        let mut see = |source, ahead: i64, after: Duration| {
            let wall_ms = HOUR + millis(after);
            both.see(source, wall_ms - ahead, wall_ms, begun + after)
        };
        let now = Duration::from_secs(5);
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
    fn a_clock_that_is_set_is_known_to_be_wrong_at_once_and_right_again_when_it_is_set_back() {
        for (before, step) in [(0, HOUR), (0, -HOUR), (HOUR, -HOUR), (-HOUR, HOUR), (HOUR, HOUR)] {
            let begun = Instant::now();
            let mut both = Both::new(3, begun);
            let log_ms = 1_000 * HOUR;
            let at =
                |seconds: u64| (begun + Duration::from_secs(seconds), log_ms + 1_000 * i64::try_from(seconds).unwrap());
            assert_eq!(both.1.ahead_ms(log_ms + before, begun), 0, "nothing is known");
            for source in 0..3 {
                let (now, log_ms) = at(1);
                assert_eq!(both.see(source, log_ms, log_ms + before, now), before);
            }
            // Nothing was heard of since, for however long.
            for seconds in [2, 70, 86_400] {
                let (now, log_ms) = at(seconds);
                assert_eq!(both.1.ahead_ms(log_ms + before, now), before);
                assert_eq!(both.1.ahead_ms(log_ms + before + step, now), before + step);
            }
            // The first that is heard of does not stand against those from before the step.
            let (now, log_ms) = at(3);
            assert_eq!(both.see(1, log_ms, log_ms + before + step, now), before + step);
            assert_eq!(both.see(1, log_ms, log_ms + before, now), before);
        }
    }

    #[test]
    fn no_time_is_too_far() {
        let now = Instant::now();
        for (log, ours) in [(i64::MIN, i64::MAX), (i64::MAX, i64::MIN), (0, i64::MIN), (i64::MIN, i64::MIN)] {
            let Both(mut clocks, followed) = Both::new(1, now);
            for wall in [ours, 0, i64::MIN, i64::MAX] {
                clocks.observe(0, log, ours, Duration::MAX, now);
                clocks.follow(&followed, wall, now);
                followed.ahead_ms(wall, now);
            }
            clocks.observe(7, 0, HOUR, Duration::ZERO, now);
        }
        assert_eq!(Clocks::new(2, now).found(HOUR, now), None);
    }
}
