//! Event times: what a callback states may lie, so it is clamped around the time of receipt.

/// How long before its receipt an event may have happened, ms: 24 h, longer than IM retries anything.
pub const PAST_MS_MAX: i64 = 24 * 60 * 60 * 1000;

/// How long after its receipt an event may claim to have happened, ms: 60 s, what clocks may differ.
pub const FUTURE_MS_MAX: i64 = 60 * 1000;

/// Stated event times below this are seconds, not milliseconds: as milliseconds it is a day of 1973, as seconds the
/// year 5138.
pub const SECONDS_BELOW: i64 = 100_000_000_000;

/// An event time after clamping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clamped {
    /// Event time to use, ms.
    pub occurred_at_ms: i64,
    /// What was stated, ms, when that is something else.
    pub original: Option<i64>,
}

/// Clamps a stated event time to [received - 24 h, received + 60 s]; without one it is the time of receipt.
///
/// Both times are ms since the epoch and may be anything: sums saturate.
#[must_use]
pub fn clamp(event_time: Option<i64>, received_at: i64) -> Clamped {
    let Some(stated) = event_time else {
        return Clamped { occurred_at_ms: received_at, original: None };
    };
    let earliest = received_at.saturating_sub(PAST_MS_MAX);
    let latest = received_at.saturating_add(FUTURE_MS_MAX);
    let occurred_at_ms = stated.clamp(earliest, latest);
    Clamped { occurred_at_ms, original: (occurred_at_ms != stated).then_some(stated) }
}

/// A stated event time in ms: one that can only be seconds is multiplied; zero and negative ones state nothing.
#[must_use]
pub(crate) fn stated_ms(time: Option<i64>) -> Option<i64> {
    match time? {
        ..=0 => None,
        seconds @ 1..SECONDS_BELOW => Some(seconds * 1000),
        ms => Some(ms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    #[test]
    fn times_are_clamped_around_their_receipt() {
        const NOW: i64 = 1_735_689_600_000;
        let table = [
            (None, NOW, None),
            (Some(NOW), NOW, None),
            (Some(NOW - 5), NOW - 5, None),
            (Some(NOW + 60_000), NOW + 60_000, None),
            (Some(NOW + 60_001), NOW + 60_000, Some(NOW + 60_001)),
            (Some(NOW - 86_400_000), NOW - 86_400_000, None),
            (Some(NOW - 86_400_001), NOW - 86_400_000, Some(NOW - 86_400_001)),
            (Some(i64::MAX), NOW + 60_000, Some(i64::MAX)),
            (Some(i64::MIN), NOW - 86_400_000, Some(i64::MIN)),
        ];
        for (stated, occurred_at_ms, original) in table {
            assert_eq!(clamp(stated, NOW), Clamped { occurred_at_ms, original }, "{stated:?}");
        }
    }

    #[test]
    fn seconds_are_told_from_milliseconds() {
        let table = [
            (None, None),
            (Some(-1), None),
            (Some(0), None),
            (Some(1_735_689_600), Some(1_735_689_600_000)),
            (Some(99_999_999_999), Some(99_999_999_999_000)),
            (Some(100_000_000_000), Some(100_000_000_000)),
            (Some(i64::MAX), Some(i64::MAX)),
        ];
        for (stated, ms) in table {
            assert_eq!(stated_ms(stated), ms, "{stated:?}");
        }
    }

    proptest! {
        #[test]
        fn the_result_lies_in_the_window_and_the_original_is_not_lost(stated: Option<i64>, received in any::<i64>()) {
            let clamped = clamp(stated, received);
            prop_assert!(clamped.occurred_at_ms >= received.saturating_sub(PAST_MS_MAX));
            prop_assert!(clamped.occurred_at_ms <= received.saturating_add(FUTURE_MS_MAX));
            prop_assert_eq!(clamped.original.unwrap_or(clamped.occurred_at_ms), stated.unwrap_or(received));
        }

        #[test]
        fn clamping_twice_changes_nothing_more(stated: Option<i64>, received in any::<i64>()) {
            let once = clamp(stated, received).occurred_at_ms;
            prop_assert_eq!(clamp(Some(once), received), Clamped { occurred_at_ms: once, original: None });
        }
    }
}
