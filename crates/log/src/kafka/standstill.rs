//! When a consumer counts as one that will never fetch again.
//!
//! After a broker stood still, librdkafka may keep partitions without a leader for good: everything looks healthy, and
//! nothing comes. What tells that from a cluster that is down is another client, which is asked where partitions end: as
//! long as it gets answers that say that there is more, the consumer is to blame, and is replaced.

use std::time::{Duration, Instant};

/// How long nothing may come of a partition that has more, by default.
pub(crate) const STANDSTILL: Duration = Duration::from_secs(10);
/// Answers of the other client in that time: one alone may be from before the standstill.
const ANSWERS: u64 = 3;
/// The most that the time grows to while replacing does not help, as a multiple of it.
const LONGEST: u32 = 16;

/// A partition that is fetched, as it is now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fetched {
    pub(crate) dense: usize,
    /// Next offset to come.
    pub(crate) next: u64,
    /// Where the partition ends, as far as is known.
    pub(crate) end: u64,
    /// How often another client was told where it ends.
    pub(crate) answers: u64,
}

#[derive(Debug, Clone, Copy)]
struct Behind {
    next: u64,
    since: Instant,
    answers: u64,
}

/// Watches over the fetching of one member of the group, whichever consumer does it.
#[derive(Debug)]
pub(crate) struct Standstill {
    limit: Duration,
    /// How many consumers were replaced for the standstill that there is, as a power of two.
    factor: u32,
    /// Where it stood then.
    last: Option<(usize, u64)>,
    behind: Vec<Option<Behind>>,
}

impl Standstill {
    pub(crate) fn new(partitions: usize) -> Self {
        Self { limit: STANDSTILL, factor: 1, last: None, behind: vec![None; partitions] }
    }

    #[cfg(any(test, feature = "test-util"))]
    pub(crate) fn set_limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    /// A new consumer begins, or nothing can be expected: what was seen does not count.
    pub(crate) fn forget(&mut self) {
        self.behind.fill(None);
    }

    /// The partition that stands still, if one does. `fetched` are those that should be fetched: neither paused nor
    /// given up.
    pub(crate) fn look(&mut self, now: Instant, fetched: &[Fetched]) -> Option<usize> {
        let mut behind = vec![None; self.behind.len()];
        let mut stands = None;
        for partition in fetched {
            let Fetched { dense, next, end, answers } = *partition;
            if self.last.is_some_and(|(last, stood)| last == dense && next > stood) {
                // It helped.
                (self.last, self.factor) = (None, 1);
            }
            let Some(slot) = behind.get_mut(dense).filter(|_| next < end) else { continue };
            let before = self.behind.get(dense).copied().flatten().filter(|before| before.next == next);
            let seen = before.unwrap_or(Behind { next, since: now, answers });
            let long = now.saturating_duration_since(seen.since) >= self.limit * self.factor;
            if long && answers.saturating_sub(seen.answers) >= ANSWERS && stands.is_none() {
                stands = Some((dense, next));
            }
            *slot = Some(seen);
        }
        self.behind = behind;
        let (dense, next) = stands?;
        // One that comes again and again disturbs the others: each time later.
        self.factor = if self.last.is_some() { (self.factor * 2).min(LONGEST) } else { 2 };
        self.last = Some((dense, next));
        self.forget();
        Some(dense)
    }
}

/// Watches over a member that has to be given partitions, be it none of them.
///
/// A group gives them within the time that a rebalance takes: until every other member has answered, or its session is
/// over. librdkafka may lose the way to the coordinator for good, as it does to leaders; then it waits for ever.
#[derive(Debug)]
pub(crate) struct Waiting {
    limit: Duration,
    factor: u32,
    since: Option<(Instant, u64)>,
}

impl Waiting {
    /// `session`: how long the group waits for a member that is gone.
    pub(crate) fn new(session: Duration) -> Self {
        Self { limit: session + STANDSTILL, factor: 1, since: None }
    }

    /// Something was given.
    pub(crate) fn over(&mut self) {
        (self.factor, self.since) = (1, None);
    }

    /// A new consumer begins, what it had was taken away, or nothing can be expected: the time begins anew.
    pub(crate) fn forget(&mut self) {
        self.since = None;
    }

    /// Whether it waits in vain. `answers`: how often the other client was answered.
    pub(crate) fn look(&mut self, now: Instant, answers: u64) -> bool {
        let (since, before) = *self.since.get_or_insert((now, answers));
        let long = now.saturating_duration_since(since) >= self.limit * self.factor;
        if !long || answers.saturating_sub(before) < ANSWERS {
            return false;
        }
        self.factor = (self.factor * 2).min(LONGEST);
        self.since = None;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks once a second, and tells in which seconds a standstill was found.
    fn found(standstill: &mut Standstill, seconds: std::ops::Range<u64>, at: impl Fn(u64) -> Vec<Fetched>) -> Vec<u64> {
        let begun = Instant::now();
        seconds.filter(|&s| standstill.look(begun + Duration::from_secs(s), &at(s)).is_some()).collect()
    }

    fn one(next: u64, end: u64, answers: u64) -> Vec<Fetched> {
        vec![Fetched { dense: 1, next, end, answers }]
    }

    #[test]
    fn only_a_partition_that_has_more_and_gets_nothing_stands_still() {
        type At = fn(u64) -> Vec<Fetched>;
        let table: [(&str, At, &[u64]); 7] = [
            ("nothing more is there", |s| one(5, 5, s), &[]),
            ("records come", |s| one(s, s + 100, s), &[]),
            ("records come slowly", |s| one(s / 9, 100, s), &[]),
            ("nobody can be asked: the cluster is away, or the partition has no leader", |_| one(5, 9, 3), &[]),
            ("it is paused half of the time", |s| if s % 8 < 4 { one(5, 9, s) } else { Vec::new() }, &[]),
            ("it stands still, and replacing does not help", |s| one(5, 9, s), &[10, 31]),
            ("it stands still from 20 s on", |s| one(s.min(20), s + 1, s), &[30]),
        ];
        for (what, at, expected) in table {
            assert_eq!(found(&mut Standstill::new(2), 0..50, at), expected, "{what}");
        }
    }

    #[test]
    fn after_one_that_was_mended_the_next_is_found_as_soon() {
        let mut standstill = Standstill::new(2);
        assert_eq!(found(&mut standstill, 0..12, |s| one(5, 9, s)), [10]);
        assert_eq!(found(&mut standstill, 12..30, |s| one(7, 9, s)), [22], "it had gone on");
        let mut patient = Standstill::new(2);
        let ever = found(&mut patient, 0..2_000, |s| one(5, 9, s));
        let pauses: Vec<u64> = ever.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(pauses.iter().all(|pause| *pause <= 161) && pauses.last() == Some(&161), "{pauses:?}");
    }

    #[test]
    fn a_member_that_is_given_nothing_joins_anew_ever_later_while_the_cluster_answers() {
        let begun = Instant::now();
        let mut waiting = Waiting::new(Duration::from_secs(5));
        let found = |seconds: std::ops::Range<u64>, answers: fn(u64) -> u64, waiting: &mut Waiting| -> Vec<u64> {
            seconds.filter(|&s| waiting.look(begun + Duration::from_secs(s), answers(s))).collect()
        };
        assert_eq!(found(0..100, |_| 7, &mut waiting), [0; 0], "nobody can be asked");
        waiting.forget();
        assert_eq!(found(100..200, |s| s, &mut waiting), [115, 146]);
        waiting.over();
        assert_eq!(found(200..220, |s| s, &mut waiting), [215], "it was mended in between");
    }
}
