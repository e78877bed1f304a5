//! Watches the clock that gives records their time. There is no other one to compare it with, so it is compared with
//! itself: with the newest record, and with the time that went by since it was last asked.
//!
//! Everything that expires goes by the newest time that was seen. A clock that was ahead once has made everything old
//! that comes before that time is reached, and nothing expires meanwhile. It is followed all the same: a clock that is put
//! right, or a machine that slept, cannot be told from one that is put wrong.

use std::time::{Duration, Instant};

/// Differences up to here are nobody's business, ms: NTP keeps clocks much closer.
const ALARM_MS: i64 = 10_000;
/// Of the time that went by, this part may be the gentle correction of a clock that is a little off.
const SLEW: u32 = 1_000;
/// How long a step forward is told; one back is told until the newest record's time is reached.
const STEP_TOLD: Duration = Duration::from_secs(600);
/// How often the log says that its records are of the future.
const REPEAT: Duration = Duration::from_secs(60);

/// What the clock has shown.
#[derive(Debug)]
pub(crate) struct LogTime {
    newest_ms: i64,
    last_ms: i64,
    asked: Instant,
    stepped: Option<(i64, Instant)>,
    /// When the log last said that the clock is behind its records.
    said: Option<Instant>,
}

/// What is to be said of the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    None,
    /// It went forward by so many ms more than time went by.
    Forward(i64),
    /// It went back by so many ms.
    Back(i64),
    /// Records in the log are so many ms ahead of it.
    Behind(i64),
    /// It has reached the newest record again.
    Reached,
}

impl LogTime {
    /// With the time of the newest record.
    pub(crate) fn new(newest_ms: i64, now_ms: i64, now: Instant) -> Self {
        Self { newest_ms, last_ms: now_ms, asked: now, stepped: None, said: None }
    }

    /// Notes what the clock shows; a record is about to get that time.
    pub(crate) fn observe(&mut self, now_ms: i64, now: Instant) -> News {
        let went_by = now.saturating_duration_since(self.asked);
        let ms = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let step_ms = now_ms.saturating_sub(self.last_ms.saturating_add(ms(went_by)));
        let most_ms = ALARM_MS.saturating_add(ms(went_by / SLEW));
        (self.last_ms, self.asked) = (now_ms, now);
        let behind_ms = self.newest_ms.saturating_sub(now_ms);
        self.newest_ms = self.newest_ms.max(now_ms);
        if step_ms > most_ms {
            self.stepped = Some((step_ms, now));
            self.said = (behind_ms > ALARM_MS).then_some(now);
            return News::Forward(step_ms);
        }
        if behind_ms > ALARM_MS {
            let silent = self.said.is_some_and(|said| now.saturating_duration_since(said) < REPEAT);
            if step_ms < -most_ms {
                self.said = Some(now);
                return News::Back(step_ms.saturating_neg());
            }
            if silent {
                return News::None;
            }
            self.said = Some(now);
            return News::Behind(behind_ms);
        }
        if self.said.take().is_some() { News::Reached } else { News::None }
    }

    /// By how much the clock is ahead of what it should show, ms, for the alarm: less than 0 while it is behind the newest
    /// record.
    pub(crate) fn ahead_ms(&self) -> i64 {
        let behind_ms = self.newest_ms.saturating_sub(self.last_ms);
        if behind_ms > ALARM_MS {
            return behind_ms.saturating_neg();
        }
        match self.stepped {
            Some((step_ms, at)) if self.asked.saturating_duration_since(at) < STEP_TOLD => step_ms,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: i64 = 1_767_225_600_000;
    const DAY: i64 = 86_400_000;
    const HOUR: i64 = 3_600_000;

    #[test]
    fn steps_are_told_either_way_and_correction_is_not() {
        // (time that went by ms, what the clock shows more than that, what is said, the gauge after it)
        let steps = [
            (0, 0, News::None, 0),
            (5_000, 9_000, News::None, 0),
            (1_000, -15_000, News::Back(15_000), -14_000),
            (1_000, 0, News::None, -13_000),
            (2_000, 0, News::None, -11_000),
            (2_000, 0, News::Reached, 0),
            // A day in which it was corrected by half a part in a thousand.
            (DAY, 43_000, News::None, 0),
            (DAY, -43_000, News::None, 0),
            // Ahead by two days, and put right an hour later.
            (1_000, 2 * DAY, News::Forward(2 * DAY), 2 * DAY),
            (HOUR, 0, News::None, 0),
            (1_000, -2 * DAY, News::Back(2 * DAY), -2 * DAY + 1_000),
            (30_000, 0, News::None, -2 * DAY + 31_000),
            (HOUR, 0, News::Behind(2 * DAY - HOUR - 31_000), -2 * DAY + HOUR + 31_000),
            (2 * DAY, 0, News::Reached, 0),
        ];
        let (mut now_ms, mut now) = (START, Instant::now());
        let mut time = LogTime::new(0, now_ms, now);
        for (went_by, more, news, ahead) in steps {
            now_ms += went_by + more;
            now += Duration::from_millis(u64::try_from(went_by).expect("forward"));
            assert_eq!((time.observe(now_ms, now), time.ahead_ms()), (news, ahead), "{went_by} {more}");
        }
    }

    #[test]
    fn records_of_the_future_are_told_at_the_first_look() {
        for (ahead, news) in [(-DAY, News::None), (9_000, News::None), (HOUR, News::Behind(HOUR))] {
            let now = Instant::now();
            let mut time = LogTime::new(START + ahead, START, now);
            assert_eq!(time.observe(START, now), news, "{ahead}");
            assert_eq!(time.ahead_ms(), if news == News::None { 0 } else { -ahead });
        }
    }

    #[test]
    fn no_time_is_too_far() {
        let now = Instant::now();
        let mut time = LogTime::new(i64::MAX, i64::MIN, now);
        for ms in [i64::MAX, i64::MIN, 0, i64::MAX] {
            time.observe(ms, now);
            time.ahead_ms();
        }
    }
}
