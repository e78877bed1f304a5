//! The ground truth in its written form: the expected totals of a recording.
//!
//! The fields without a default are those of the expected files that come with recorded rooms; the others are what a
//! simulated world knows in addition. Both kinds of file read into [`Expected`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Counts by the message's type: `text`, `gift`, ... Types that did not occur are absent.
pub type ByType = BTreeMap<String, u64>;

/// What a correct service must answer about a recording once it has read all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// Lines sent by callback command, duplicates included. Stream callbacks have no command and are counted as
    /// `stream`.
    pub callbacks: BTreeMap<String, u64>,
    /// `at_ms` of the first line.
    pub first_ms: i64,
    /// `at_ms` of the last line.
    pub last_ms: i64,
    /// When the simulated world stood still, ms. Everything that depends on a time asked for (online time, who is
    /// online) is true at this time; later lines only report what had happened before it.
    #[serde(default)]
    pub end_ms: i64,
    /// Business events sent by type, duplicates included.
    #[serde(default)]
    pub events: BTreeMap<String, u64>,
    /// Lotteries and who was in their pools. A simulated evening has none.
    pub lotteries: Vec<ExpectedLottery>,
    /// By GroupId.
    pub rooms: BTreeMap<String, ExpectedRoom>,
    /// By account.
    pub users: BTreeMap<String, ExpectedUser>,
}

/// What is true of one room.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedRoom {
    /// Messages that reached the before-callback, by type.
    pub attempts_by_type: ByType,
    /// Messages that were delivered, by type.
    pub messages_by_type: ByType,
    /// Messages that were delivered.
    pub messages: u64,
    /// Messages that were attempted, not delivered and did not fail: the platform's throttle.
    pub dropped: u64,
    /// Likes (taps, not messages) in delivered messages.
    pub likes: u64,
    /// Likes in attempted messages.
    pub likes_attempted: u64,
    /// Gifts: messages delivered; number and value of what was billed.
    pub gifts: ExpectedGifts,
    /// Accounts that were ever in the room.
    pub distinct_joiners: u64,
    /// Accounts with a delivered message.
    pub distinct_senders: u64,
    /// Most members at one time.
    pub peak_online: u64,
    /// Members at the end.
    pub final_online: u64,

    /// As `peak_online`, where a client that died counts until the platform noticed.
    #[serde(default)]
    pub peak_online_upper: u64,
    /// As `final_online`, where a client that died counts until the platform noticed, or until a join shows that it began
    /// anew.
    #[serde(default)]
    pub final_online_upper: u64,
    /// Messages that were dropped, by type.
    #[serde(default)]
    pub dropped_by_type: ByType,
    /// Messages that failed (a `SendMsgException` was called back).
    #[serde(default)]
    pub failed: u64,
    /// Messages that failed, by type.
    #[serde(default)]
    pub failed_by_type: ByType,
    /// Of those that failed, the ones that had reached the before-callback.
    #[serde(default)]
    pub failed_attempted: u64,
    /// Messages that were delivered without a before-callback.
    #[serde(default)]
    pub unattempted: u64,
    /// Messages that were delivered without a before-callback, by type.
    #[serde(default)]
    pub unattempted_by_type: ByType,
    /// Gifts as the delivered messages tell, combos merged: what can be known without a billing feed.
    #[serde(default)]
    pub gifts_delivered: ExpectedGifts,
    /// Memberships that were opened in the room.
    #[serde(default)]
    pub memberships: u64,
    /// Delivered messages that were recalled later. They stay counted as delivered.
    #[serde(default)]
    pub recalled: u64,
    /// Lines about this room (callbacks and business events) that repeat an earlier line.
    #[serde(default)]
    pub duplicates_sent: u64,
    /// Whether the room was disbanded before the end.
    #[serde(default)]
    pub destroyed: bool,
    /// Delivered messages by type and by minute of their delivery; keys are the minute's first ms since the epoch.
    #[serde(default)]
    pub minutes: BTreeMap<i64, ByType>,
    /// Attempted messages by type and by minute of the attempt.
    #[serde(default)]
    pub attempt_minutes: BTreeMap<i64, ByType>,
    /// By account: everybody who was in the room, wrote in it or gave a gift there.
    #[serde(default)]
    pub viewers: BTreeMap<String, ExpectedViewer>,
}

/// What is true of one account in one room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedViewer {
    /// Delivered messages.
    pub messages: u64,
    /// Likes in attempted messages.
    pub likes_attempted: u64,
    /// Value of the gifts that were billed, minor units.
    pub gift_value: u64,
    /// Whether it was ever in the room.
    pub joined: bool,
    /// Time in the room, ms, up to `end_ms`.
    pub watch_ms: i64,
}

/// Gifts of a room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedGifts {
    /// Delivered gift messages.
    pub messages: u64,
    /// Number of gifts; a combo counts once, with its final count.
    pub count: u64,
    /// Their value, minor units.
    pub value: u64,
}

/// What is true of one account.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedUser {
    /// Delivered messages.
    pub messages: u64,
    /// Likes in delivered messages.
    pub likes: u64,
    /// Value of the gifts that were billed, minor units.
    pub gift_value: u64,
    /// Time with at least one device connected, ms, up to `end_ms`.
    pub online_ms: i64,
    /// Rooms that the account was in or wrote in, sorted.
    pub rooms: Vec<String>,

    /// Delivered messages by type.
    #[serde(default)]
    pub messages_by_type: ByType,
    /// Messages that reached the before-callback, by type.
    #[serde(default)]
    pub attempts_by_type: ByType,
    /// Likes in attempted messages.
    #[serde(default)]
    pub likes_attempted: u64,
    /// Number of gifts that were billed.
    #[serde(default)]
    pub gift_count: u64,
    /// Memberships that were opened.
    #[serde(default)]
    pub memberships: u64,
    /// Lower bound of `online_ms` for one who sees only callbacks: a lost connection ends at its last sign of life or
    /// at the platform's longest delay before the report, whichever is later.
    #[serde(default)]
    pub online_lower_ms: i64,
    /// Upper bound of `online_ms` for one who sees only callbacks: a lost connection ends when the platform noticed.
    #[serde(default)]
    pub online_upper_ms: i64,
    /// Whether a device was connected at `end_ms`.
    #[serde(default)]
    pub online: bool,
}

/// A lottery of a recording.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedLottery {
    /// Its room.
    pub room: String,
    /// What a text must contain; case counts.
    pub keyword: String,
    /// Open from, ms since the epoch.
    pub start_ms: i64,
    /// Open until, exclusive.
    pub end_ms: i64,
    /// Accounts in the pool.
    pub count: u64,
    /// The accounts, sorted.
    pub users: Vec<String>,
}

impl Expected {
    /// Reads an expected file's text.
    ///
    /// # Errors
    /// What does not fit, with line and column.
    pub fn from_json(text: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(text)
    }

    /// The expected file's text: keys sorted, one value a line.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "it cannot panic")]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("maps have text or number keys and nothing else can fail")
    }
}
