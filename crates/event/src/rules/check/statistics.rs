//! Checks the rules of the statistics.

use super::{Errors, limits};
use crate::rules::{DAY_MS, HOUR_MS, MINUTE_MS, RuleSet};

pub(super) fn check(rules: &RuleSet, errors: &mut Errors) {
    let d = &rules.duration;
    errors.range("duration.session_timeout_ms", d.session_timeout_ms, MINUTE_MS, 7 * DAY_MS);
    errors.range("duration.native_detection_ms", d.native_detection_ms, 0, HOUR_MS);
    errors.range("duration.web_detection_ms", d.web_detection_ms, 0, HOUR_MS);
    let p = &rules.presence;
    if p.idle_timeout_ms != 0 {
        errors.range("presence.idle_timeout_ms", p.idle_timeout_ms, MINUTE_MS, 7 * DAY_MS);
    }
    errors.range("presence.back_grace_ms", p.back_grace_ms, 0, HOUR_MS);
    errors.range("presence.member_state_delay_ms", p.member_state_delay_ms, 0, HOUR_MS);
    errors.number("likes.per_message_max", rules.likes.per_message_max, 1, 1_000_000);
    errors.number("likes.per_second_max", rules.likes.per_second_max, 1, 1_000_000);
    errors.range("gifts.combo_ms", rules.gifts.combo_ms, 1_000, DAY_MS);
    let h = &rules.heat;
    errors.range("heat.half_life_ms", h.half_life_ms, MINUTE_MS, 7 * DAY_MS);
    errors.range("heat.fresh_ms", h.fresh_ms, MINUTE_MS, 7 * DAY_MS);
    for (name, weight) in [
        ("message", h.message),
        ("like", h.like),
        ("gift_value", h.gift_value),
        ("join", h.join),
        ("membership", h.membership),
        ("account_max", h.account_max),
    ] {
        errors.number(&format!("heat.{name}"), weight, 0, limits::WEIGHT_MAX);
    }
    let l = &rules.levels;
    let (w, m) = (&l.weights, &l.daily_max);
    for (name, weight, cap) in [
        ("online_minute", w.online_minute, m.online_minute),
        ("message", w.message, m.message),
        ("like", w.like, m.like),
        ("gift_value", w.gift_value, m.gift_value),
        ("membership_month", w.membership_month, m.membership_month),
    ] {
        errors.number(&format!("levels.weights.{name}"), weight, 0, limits::WEIGHT_MAX);
        errors.number(&format!("levels.daily_max.{name}"), cap, 0, limits::POINTS_MAX);
    }
    errors.count("levels.thresholds", l.thresholds.len(), limits::THRESHOLDS_MAX);
    for (i, pair) in l.thresholds.windows(2).enumerate() {
        if pair[0] >= pair[1] {
            errors.add(format!("levels.thresholds[{}]", i + 1), format!("{} is not above {}", pair[1], pair[0]));
        }
    }
    for (i, &points) in l.thresholds.iter().enumerate() {
        errors.number(&format!("levels.thresholds[{i}]"), points, 1, limits::POINTS_MAX);
    }
    errors.number("notify.online_percent", rules.notify.online_percent, 0, 1_000);
    errors.number("notify.online_min", rules.notify.online_min, 1, 1_000_000);
    errors.number("notify.online_number", rules.notify.online_number, 0, 1_000_000_000);
}
