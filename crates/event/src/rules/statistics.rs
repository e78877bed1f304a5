//! The rules of the statistics: weights, caps, half-life, thresholds and time-outs.
//!
//! Caps and the source of gifts are taken from the version that is stamped in a record, so that a room and its viewers
//! never disagree; weights and time-outs follow the order of the log.

use serde::{Deserialize, Serialize};

use super::{HOUR_MS, MINUTE_MS};

/// Online duration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DurationRules {
    /// How long after its last sign of life a session without an end is taken to have ended, ms. Default 12 h.
    pub session_timeout_ms: u64,
    /// How late the platform tells of a lost connection of a native client at most, ms. Default 400,000.
    pub native_detection_ms: u64,
    /// The same of a Web client, ms. Default 60,000.
    pub web_detection_ms: u64,
}

impl Default for DurationRules {
    fn default() -> Self {
        Self { session_timeout_ms: 12 * HOUR_MS, native_detection_ms: 400_000, web_detection_ms: MINUTE_MS }
    }
}

/// Who is in a room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PresenceRules {
    /// How long after its last sign of life in the room a viewer is taken to have left, ms; provisional. 0, the default,
    /// turns it off: people watch silently for hours.
    pub idle_timeout_ms: u64,
    /// Whether joining a second room from the Web leaves the first one. Default false.
    pub web_one_room: bool,
    /// How long after its last device went an account that is connected again is still in its rooms, ms. Default
    /// 120,000.
    pub back_grace_ms: u64,
    /// How late the platform tells of a member's state at most, ms. Default 50,000.
    pub member_state_delay_ms: u64,
}

impl Default for PresenceRules {
    fn default() -> Self {
        Self { idle_timeout_ms: 0, web_one_room: false, back_grace_ms: 2 * MINUTE_MS, member_state_delay_ms: 50_000 }
    }
}

/// Caps of likes, whose number the client states.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LikeRules {
    /// Likes that one message counts for at most. Default 100.
    pub per_message_max: u64,
    /// Likes of one user in one room and one second at most. Default 100.
    pub per_second_max: u64,
}

impl Default for LikeRules {
    fn default() -> Self {
        Self { per_message_max: 100, per_second_max: 100 }
    }
}

/// Where gifts and memberships are counted from, never from both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GiftSource {
    /// The delivered messages: for apps that send Barrage no bills.
    #[default]
    Messages,
    /// The events of the app's billing.
    Billing,
}

/// Gifts and memberships.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GiftRules {
    /// Where they are counted from. Default `messages`.
    pub source: GiftSource,
    /// A combo goes on while its messages follow each other within this, ms. Default 600,000.
    pub combo_ms: u64,
}

impl Default for GiftRules {
    fn default() -> Self {
        Self { source: GiftSource::Messages, combo_ms: 10 * MINUTE_MS }
    }
}

/// Heat of a room. Weights are thousandths of a point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeatRules {
    /// After this time an event counts half, ms. Default 600,000.
    pub half_life_ms: u64,
    /// A delivered message. Default 1,000.
    pub message: u64,
    /// A like. Default 100.
    pub like: u64,
    /// One minor unit of gift value. Default 50.
    pub gift_value: u64,
    /// A viewer who joins. Default 2,000.
    pub join: u64,
    /// A membership. Default 20,000.
    pub membership: u64,
    /// What one account can add to a room's place among the recommendations within one half-life at most. Default
    /// 50,000.
    pub account_max: u64,
    /// How long a room counts as fresh in the recommendations, from its first event on, ms. Default 1,800,000.
    pub fresh_ms: u64,
}

impl Default for HeatRules {
    fn default() -> Self {
        Self {
            half_life_ms: 10 * MINUTE_MS,
            message: 1_000,
            like: 100,
            gift_value: 50,
            join: 2_000,
            membership: 20_000,
            account_max: 50_000,
            fresh_ms: 30 * MINUTE_MS,
        }
    }
}

/// What each metric of the user level is worth, thousandths of a point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LevelWeights {
    /// A minute online. Default 1,000.
    pub online_minute: u64,
    /// A delivered message. Default 1,000.
    pub message: u64,
    /// A like. Default 100.
    pub like: u64,
    /// A minor unit of gift value. Default 100.
    pub gift_value: u64,
    /// A month of a membership. Default 500,000.
    pub membership_month: u64,
}

impl Default for LevelWeights {
    fn default() -> Self {
        Self { online_minute: 1_000, message: 1_000, like: 100, gift_value: 100, membership_month: 500_000 }
    }
}

/// How much of each metric counts on one day (UTC) at most, against farming; 0 is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LevelCaps {
    /// Minutes online. Default 480.
    pub online_minute: u64,
    /// Delivered messages. Default 300.
    pub message: u64,
    /// Likes. Default 5,000.
    pub like: u64,
    /// Minor units of gift value. Default no limit.
    pub gift_value: u64,
    /// Months of memberships. Default no limit.
    pub membership_month: u64,
}

impl Default for LevelCaps {
    fn default() -> Self {
        Self { online_minute: 480, message: 300, like: 5_000, gift_value: 0, membership_month: 0 }
    }
}

/// User levels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LevelRules {
    /// What each metric is worth.
    pub weights: LevelWeights,
    /// How much of each counts on one day.
    pub daily_max: LevelCaps,
    /// Points from which on an account has level 1, 2, 3 and so on, ascending. Below the first it has level 0.
    pub thresholds: Vec<u64>,
}

impl Default for LevelRules {
    fn default() -> Self {
        Self {
            weights: LevelWeights::default(),
            daily_max: LevelCaps::default(),
            thresholds: vec![10, 50, 150, 400, 1_000, 2_500, 6_000, 15_000, 40_000, 100_000],
        }
    }
}

/// What `barrage.notifications` is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NotifyRules {
    /// Whether a level that is reached is told. Default true.
    pub levels: bool,
    /// A room's online count is told when it has moved by more than this share since it was last told, per cent; 0 never.
    /// Default 20.
    pub online_percent: u64,
    /// But a share of fewer than this is no news, so that rooms of a handful are quiet. Default 10.
    pub online_min: u64,
    /// It is also told when it has moved by this number, whatever share that is; 0 never. Default 1,000.
    pub online_number: u64,
}

impl Default for NotifyRules {
    fn default() -> Self {
        Self { levels: true, online_percent: 20, online_min: 10, online_number: 1_000 }
    }
}
