//! What an evening is made of: its size, its habits, and how badly the platform's callbacks behave.
//!
//! Shares are per mille (0 to 1,000) rather than fractions, because the simulator computes with integers only: the
//! same seed must give the same bytes on every machine.

use serde::{Deserialize, Serialize};

/// The knobs of an evening. `Config::default()` is a lively ten minutes; [`Config::small`] and [`Config::large`] are
/// the other presets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Seed of all chance. The same configuration gives the same bytes for ever. Any value.
    pub seed: u64,
    /// SdkAppid of the callbacks. Default 1400000000, which is nobody's.
    pub app: u32,
    /// Rooms of the evening, 1 to 100,000. Their sizes follow Zipf's law: the k-th has 1/k of the first's viewers.
    pub rooms: u32,
    /// Accounts that may come, 1 to 10,000,000. Some come more than once, in short evenings some never.
    pub viewers: u32,
    /// When the evening begins, ms since the epoch, 0 to 4,102,444,800,000 (the year 2100).
    pub start_ms: i64,
    /// Length of the evening, ms, 10,000 to 86,400,000. What is still on its way then (a late callback, a lost
    /// connection that is noticed minutes later) is sent after it.
    pub duration_ms: i64,

    /// Mean stay in a room, ms, 1,000 to 86,400,000. Default 150,000.
    pub stay_ms: u64,
    /// Mean time between two messages of one viewer who is in a room, ms, 1,000 to 86,400,000. Default 40,000.
    pub chat_interval_ms: u64,
    /// Mean time between two merged likes of one viewer, ms, 2,000 to 86,400,000. Default 60,000.
    pub like_interval_ms: u64,
    /// Mean time between two gift combos of one viewer, ms, 1,000 to 86,400,000. Default 900,000.
    pub gift_interval_ms: u64,
    /// Mean time between two memberships bought by one viewer, ms, 1,000 to 86,400,000. Default 6,000,000.
    pub membership_interval_ms: u64,
    /// Mean time between two bursts of chat in one room, ms, 1,000 to 86,400,000. Default 70,000.
    pub burst_interval_ms: u64,
    /// How many times faster people write in a burst, 1 to 1,000. Default 9.
    pub burst_factor: u32,
    /// Messages that the platform delivers per room and second, 1 to 1,000,000. Default 40, as the platform has it.
    pub messages_per_second_max: u32,

    /// Share of visitors with a second device. Default 60.
    pub second_device_permille: u32,
    /// Share of stays that end with a client that dies: no exit is called back. Default 120.
    pub died_permille: u32,
    /// Share of stays that end in a quick leave and re-join whose exit arrives after the join. Default 30.
    pub rejoin_permille: u32,
    /// Share of accounts that are muted, for a room or for the whole app: their messages fail. Default 8.
    pub muted_permille: u32,
    /// Share of rooms of older deployments: no MsgId, no `CloudCustomData`, no callback for
    /// those who apply, no cause of a member state.
    /// Default 250.
    pub older_rooms_permille: u32,
    /// Share of rooms whose app pays for member states (Group.CallbackOnMemberStateChange). Default 400.
    pub member_state_rooms_permille: u32,

    /// Share of callbacks whose EventTime is a quoted string. Default 120.
    pub event_time_text_permille: u32,
    /// Share of callbacks without an EventTime. Such a callback is sent in the millisecond in which it happened, so
    /// that the truth stays exact. Default 25.
    pub event_time_absent_permille: u32,
    /// Share of after-callbacks that are sent again, byte for byte, seconds to minutes (at most four) later.
    /// Default 12.
    pub duplicate_permille: u32,
    /// Share of callbacks that come one to six seconds late. Default 10.
    pub late_permille: u32,
    /// Share of after-callbacks of messages that come 10 to 180 seconds late. Default 1.
    pub very_late_permille: u32,
    /// Share of before-callbacks that come after their after-callback. Default 10.
    pub reordered_permille: u32,
    /// Share of the messages sent by the app's server that bypass the before-callback. Default 100.
    pub unattempted_permille: u32,
    /// Share of delivered messages that are recalled later. Default 4.
    pub recall_permille: u32,
    /// Callbacks per minute that concern no room: one-to-one messages, profiles, friends, alerts, push reports, and
    /// commands that nobody knows. 0 to 1,000,000. Default 40.
    pub other_callbacks_per_minute: u32,
    /// Whether the app's server reports bills as business events. Default true.
    pub billing_feed: bool,
}

/// 2026-01-01 12:00:00 UTC: a fixed time, because a clock would give other bytes on each run.
const START_MS: i64 = 1_767_268_800_000;

/// Longest time in any field, ms: a day.
const INTERVAL_MS_MAX: u64 = 86_400_000;

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 1,
            app: 1_400_000_000,
            rooms: 12,
            viewers: 2_000,
            start_ms: START_MS,
            duration_ms: 600_000,
            stay_ms: 150_000,
            chat_interval_ms: 40_000,
            like_interval_ms: 60_000,
            gift_interval_ms: 900_000,
            membership_interval_ms: 6_000_000,
            burst_interval_ms: 70_000,
            burst_factor: 9,
            messages_per_second_max: 40,
            second_device_permille: 60,
            died_permille: 120,
            rejoin_permille: 30,
            muted_permille: 8,
            older_rooms_permille: 250,
            member_state_rooms_permille: 400,
            event_time_text_permille: 120,
            event_time_absent_permille: 25,
            duplicate_permille: 12,
            late_permille: 10,
            very_late_permille: 1,
            reordered_permille: 10,
            unattempted_permille: 100,
            recall_permille: 4,
            other_callbacks_per_minute: 40,
            billing_feed: true,
        }
    }
}

impl Config {
    /// A minute with three rooms and a hundred viewers: for tests that look at every line.
    #[must_use]
    pub fn small() -> Self {
        Self {
            rooms: 3,
            viewers: 100,
            duration_ms: 60_000,
            stay_ms: 25_000,
            chat_interval_ms: 10_000,
            like_interval_ms: 12_000,
            gift_interval_ms: 120_000,
            membership_interval_ms: 600_000,
            burst_interval_ms: 20_000,
            burst_factor: 20,
            ..Self::default()
        }
    }

    /// Half an hour with 200 rooms and 20,000 viewers: some two million callbacks, for load.
    #[must_use]
    pub fn large() -> Self {
        Self {
            rooms: 200,
            viewers: 20_000,
            duration_ms: 1_800_000,
            stay_ms: 400_000,
            chat_interval_ms: 90_000,
            like_interval_ms: 120_000,
            burst_interval_ms: 150_000,
            other_callbacks_per_minute: 600,
            ..Self::default()
        }
    }

    /// Checks every field against its documented range.
    ///
    /// # Errors
    /// [`ConfigError`] names the first field that is out of range.
    pub fn check(&self) -> Result<(), ConfigError> {
        let ranges: [(&'static str, u64, u64, u64); 26] = [
            ("rooms", self.rooms.into(), 1, 100_000),
            ("viewers", self.viewers.into(), 1, 10_000_000),
            ("start_ms", u64::try_from(self.start_ms).unwrap_or(u64::MAX), 0, 4_102_444_800_000),
            ("duration_ms", u64::try_from(self.duration_ms).unwrap_or(0), 10_000, INTERVAL_MS_MAX),
            ("stay_ms", self.stay_ms, 1_000, INTERVAL_MS_MAX),
            ("chat_interval_ms", self.chat_interval_ms, 1_000, INTERVAL_MS_MAX),
            ("like_interval_ms", self.like_interval_ms, 2_000, INTERVAL_MS_MAX),
            ("gift_interval_ms", self.gift_interval_ms, 1_000, INTERVAL_MS_MAX),
            ("membership_interval_ms", self.membership_interval_ms, 1_000, INTERVAL_MS_MAX),
            ("burst_interval_ms", self.burst_interval_ms, 1_000, INTERVAL_MS_MAX),
            ("burst_factor", self.burst_factor.into(), 1, 1_000),
            ("messages_per_second_max", self.messages_per_second_max.into(), 1, 1_000_000),
            ("other_callbacks_per_minute", self.other_callbacks_per_minute.into(), 0, 1_000_000),
            ("second_device_permille", self.second_device_permille.into(), 0, 1_000),
            ("died_permille", self.died_permille.into(), 0, 1_000),
            ("rejoin_permille", self.rejoin_permille.into(), 0, 1_000),
            ("muted_permille", self.muted_permille.into(), 0, 1_000),
            ("older_rooms_permille", self.older_rooms_permille.into(), 0, 1_000),
            ("member_state_rooms_permille", self.member_state_rooms_permille.into(), 0, 1_000),
            ("event_time_text_permille", self.event_time_text_permille.into(), 0, 1_000),
            ("event_time_absent_permille", self.event_time_absent_permille.into(), 0, 1_000),
            ("duplicate_permille", self.duplicate_permille.into(), 0, 1_000),
            ("late_permille", (self.late_permille.saturating_add(self.very_late_permille)).into(), 0, 1_000),
            ("reordered_permille", self.reordered_permille.into(), 0, 1_000),
            ("unattempted_permille", self.unattempted_permille.into(), 0, 1_000),
            ("recall_permille", self.recall_permille.into(), 0, 1_000),
        ];
        for (field, value, least, most) in ranges {
            if !(least..=most).contains(&value) {
                return Err(ConfigError { field, value, least, most });
            }
        }
        Ok(())
    }
}

/// A field of the configuration is out of its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` is {value}; it must be from {least} to {most}")]
pub struct ConfigError {
    /// Name of the field.
    pub field: &'static str,
    /// What it is.
    pub value: u64,
    /// Least allowed value.
    pub least: u64,
    /// Greatest allowed value.
    pub most: u64,
}
