//! The metrics as numbers in a row, so that sums, caps and weights are written once.

use barrage_event::rules::LevelRules;

use crate::proto::Metrics;

/// How many metrics there are.
pub(crate) const COUNT: usize = 5;

/// A metric; its number is its place in [`Amounts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Metric {
    Online = 0,
    Messages = 1,
    Likes = 2,
    GiftValue = 3,
    MembershipMonths = 4,
}

/// An amount of each metric: online time in ms, gift value in minor units.
pub(crate) type Amounts = [u64; COUNT];

const MINUTE_MS: u64 = 60_000;
/// Weights are thousandths of a point.
const THOUSANDTHS: u64 = 1_000;

pub(crate) fn amounts(metrics: Option<Metrics>) -> Amounts {
    let m = metrics.unwrap_or_default();
    [m.online_ms, m.messages, m.likes, m.gift_value, m.membership_months]
}

pub(crate) fn field(metrics: &mut Metrics, metric: Metric) -> &mut u64 {
    match metric {
        Metric::Online => &mut metrics.online_ms,
        Metric::Messages => &mut metrics.messages,
        Metric::Likes => &mut metrics.likes,
        Metric::GiftValue => &mut metrics.gift_value,
        Metric::MembershipMonths => &mut metrics.membership_months,
    }
}

pub(crate) fn add(into: &mut Amounts, more: &Amounts) {
    for (sum, amount) in into.iter_mut().zip(more) {
        *sum = sum.saturating_add(*amount);
    }
}

pub(crate) fn of(amounts: &Amounts) -> Metrics {
    let [online_ms, messages, likes, gift_value, membership_months] = *amounts;
    Metrics { online_ms, messages, likes, gift_value, membership_months }
}

/// What of a day's amounts counts.
pub(crate) fn capped(amounts: &Amounts, rules: &LevelRules) -> Amounts {
    let max = &rules.daily_max;
    let caps =
        [max.online_minute.saturating_mul(MINUTE_MS), max.message, max.like, max.gift_value, max.membership_month];
    std::array::from_fn(|i| if caps[i] == 0 { amounts[i] } else { amounts[i].min(caps[i]) })
}

/// Whole points for each of these amounts.
pub(crate) fn points(amounts: &Amounts, rules: &LevelRules) -> Amounts {
    let w = &rules.weights;
    let [online_ms, messages, likes, gift_value, membership_months] = *amounts;
    [
        part::<{ MINUTE_MS * THOUSANDTHS }>(online_ms, w.online_minute),
        part::<THOUSANDTHS>(messages, w.message),
        part::<THOUSANDTHS>(likes, w.like),
        part::<THOUSANDTHS>(gift_value, w.gift_value),
        part::<THOUSANDTHS>(membership_months, w.membership_month),
    ]
}

fn part<const UNIT: u64>(amount: u64, weight: u64) -> u64 {
    match amount.checked_mul(weight) {
        // A division by a constant is none, and this runs for every event.
        Some(product) => product / UNIT,
        // An account may have had 10^16 of something, and a weight may be 10^9.
        None => u64::try_from(u128::from(amount) * u128::from(weight) / u128::from(UNIT)).unwrap_or(u64::MAX),
    }
}

/// The sum of the parts.
pub(crate) fn score(points: &Amounts) -> u64 {
    points.iter().fold(0, |sum, part| sum.saturating_add(*part))
}

/// How many thresholds a score has reached.
pub(crate) fn level(score: u64, rules: &LevelRules) -> u32 {
    // The rules hold at most a thousand thresholds.
    u32::try_from(rules.thresholds.partition_point(|threshold| *threshold <= score)).unwrap_or(u32::MAX)
}
