//! Percentiles of durations.

use std::time::Duration;

/// The duration that a share of all, 0 to 1, does not exceed; zero when there are none. Sorts.
pub(crate) fn percentile(durations: &mut [Duration], share: f64) -> Duration {
    durations.sort_unstable();
    let rank = (durations.len() as f64 * share).ceil() as usize;
    durations.get(rank.clamp(1, durations.len().max(1)) - 1).copied().unwrap_or_default()
}

/// Milliseconds.
pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_ranks() {
        let mut durations: Vec<_> = (1..=200).rev().map(Duration::from_micros).collect();
        for (share, expected) in [(0.0, 1), (0.5, 100), (0.99, 198), (1.0, 200)] {
            assert_eq!(percentile(&mut durations, share), Duration::from_micros(expected), "{share}");
        }
        assert_eq!(percentile(&mut [], 0.5), Duration::ZERO);
    }
}
