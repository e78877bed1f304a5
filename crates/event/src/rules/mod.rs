//! The rules: everything that changes what a number means, as one versioned set.
//!
//! A rule set is a TOML text. It is appended to the log as an event and stamped, by version, into every record that
//! was classified by it. [`RuleSet::default`] is the shipped one, documented line by line in `default.toml`.

mod check;
mod compiled;
mod custom;
mod statistics;
mod words;

use serde::{Deserialize, Serialize};

pub use check::{RuleError, limits};
pub use compiled::{Compiled, Verdict};
pub use custom::{Classified, Custom};
pub use statistics::{
    DurationRules, GiftRules, GiftSource, HeatRules, LevelCaps, LevelRules, LevelWeights, LikeRules, NotifyRules,
    PresenceRules,
};

/// The shipped rule set in its file form, with a comment on every line.
pub const DEFAULT_TOML: &str = include_str!("default.toml");

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

/// A rule set. Every part may be left out of the file and is then as shipped.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RuleSet {
    /// How custom elements are read.
    pub custom: CustomRules,
    /// Within what time things belong together.
    pub windows: Windows,
    /// How long detail is kept.
    pub retention: Retention,
    /// Online duration of accounts.
    pub duration: DurationRules,
    /// Who is in a room.
    pub presence: PresenceRules,
    /// Caps of likes.
    pub likes: LikeRules,
    /// Gifts and memberships.
    pub gifts: GiftRules,
    /// Heat of rooms.
    pub heat: HeatRules,
    /// Levels of accounts.
    pub levels: LevelRules,
    /// What is told to `barrage.notifications`.
    pub notify: NotifyRules,
    /// How before-callbacks are answered.
    pub before: Before,
}

/// How the `Data` of a custom element is read, when it is JSON.
///
/// A path is names joined by dots; a number is a place in an array, from 0: `gift.list.0.id`. An empty path reads
/// nothing. `Data` that is not JSON, or whose type is none of the lists, is of kind `custom`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CustomRules {
    /// Where the type stands. Default `type`.
    #[serde(rename = "type")]
    pub type_path: String,
    /// Types that mean a gift; a number in `Data` is compared by its digits. Default `["gift"]`.
    pub gift: Vec<String>,
    /// Types that mean likes. Default `["like"]`.
    pub like: Vec<String>,
    /// Types that mean a membership. Default `["membership"]`.
    pub membership: Vec<String>,
    /// Types that mean a notice. Default `["notice"]`.
    pub notice: Vec<String>,
    /// Where the number of likes or gifts stands. Default `count`; 1 when it is not there.
    pub count: String,
    /// Where the value of the whole message stands, in minor units. Default `value`.
    pub value: String,
    /// Where the gift's id stands. Default `gift_id`.
    pub gift_id: String,
    /// Where stands what makes several messages one combo. Default `combo_id`.
    pub combo_id: String,
    /// Where the app's order stands. Default `order_id`.
    pub order_id: String,
    /// Where the membership's tier stands. Default `tier`.
    pub tier: String,
    /// Where the membership's months stand. Default `months`.
    pub months: String,
}

impl Default for CustomRules {
    fn default() -> Self {
        Self {
            type_path: "type".to_owned(),
            gift: vec!["gift".to_owned()],
            like: vec!["like".to_owned()],
            membership: vec!["membership".to_owned()],
            notice: vec!["notice".to_owned()],
            count: "count".to_owned(),
            value: "value".to_owned(),
            gift_id: "gift_id".to_owned(),
            combo_id: "combo_id".to_owned(),
            order_id: "order_id".to_owned(),
            tier: "tier".to_owned(),
            months: "months".to_owned(),
        }
    }
}

/// Within what time things belong together, by time of receipt unless it says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Windows {
    /// How long after a before-callback its after-callback may come until the message counts as throttled, ms.
    /// Default 10,000: IM delivers within a second, and waits 2 s for an answer before it goes on.
    pub join_ms: u64,
    /// How long before and after are still joined, which takes *throttled* back, ms. Default 600,000: a retry or a
    /// spool may bring an after-callback minutes late.
    pub join_late_ms: u64,
    /// How far from a record a duplicate of it is looked for, ms. Default 600,000: IM retries within minutes.
    pub duplicates_lookup_ms: u64,
    /// How long identities are kept, by the log's time, ms. Default 3,600,000; at most a day.
    pub duplicates_keep_ms: u64,
    /// How long idempotency keys of business events are kept, ms. Default 7 days: billing systems retry for days.
    pub business_keep_ms: u64,
    /// How late an event may come and still change what is kept in detail, by event time, ms. Default 600,000.
    pub lateness_ms: u64,
}

impl Default for Windows {
    fn default() -> Self {
        Self {
            join_ms: 10_000,
            join_late_ms: 10 * MINUTE_MS,
            duplicates_lookup_ms: 10 * MINUTE_MS,
            duplicates_keep_ms: HOUR_MS,
            business_keep_ms: 7 * DAY_MS,
            lateness_ms: 10 * MINUTE_MS,
        }
    }
}

/// How long detail is kept before it is rolled up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// How long minutes are kept before they become hours, ms. Default 48 h: today and yesterday at full detail.
    pub minutes_ms: u64,
    /// How long hours are kept before they become days, ms. Default 60 days: two months to compare.
    pub hours_ms: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self { minutes_ms: 2 * DAY_MS, hours_ms: 60 * DAY_MS }
    }
}

/// How `Group.CallbackBeforeSendMsg` is answered. Mutes come first, then words in their order; the first that
/// applies decides. Other before-callbacks are allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Before {
    /// Who may not speak.
    pub mute: Mute,
    /// What may not be said.
    pub words: Vec<Words>,
}

/// Rooms and accounts whose messages are rejected, in every app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mute {
    /// Rooms in which nobody may speak. Default none.
    pub rooms: Vec<String>,
    /// Accounts that may speak in no room. Default none.
    pub users: Vec<String>,
    /// `ErrorCode` of the answer: 1, or 10100 to 10200 to be shown to the sender. Default 1.
    pub code: u32,
    /// `ErrorInfo` of the answer, for the sender. Default empty.
    pub message: String,
    /// Accounts that may not speak in one room. Default none.
    pub room_users: Vec<RoomUser>,
}

impl Default for Mute {
    fn default() -> Self {
        Self { rooms: Vec::new(), users: Vec::new(), code: 1, message: String::new(), room_users: Vec::new() }
    }
}

/// An account in a room.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoomUser {
    /// The room.
    pub room: String,
    /// The account.
    pub user: String,
}

/// Words that a message's text may not contain; upper and lower case are the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Words {
    /// The words. A word may hold spaces and be in any script.
    pub words: Vec<String>,
    /// Whether a word must stand alone. Default `part`.
    #[serde(rename = "match", default)]
    pub matching: Matching,
    /// What becomes of the message. Default `reject`.
    #[serde(default)]
    pub action: WordAction,
    /// `ErrorCode` of a rejection: 1 (default), or 10100 to 10200 to be shown to the sender. Not for `drop`, which is
    /// always answered with 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u32>,
    /// `ErrorInfo` of the answer, for the sender. Default empty.
    #[serde(default)]
    pub message: String,
}

/// Whether a word must stand alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Matching {
    /// Anywhere, inside other words too. The right one for Chinese and Japanese, which put no spaces between words.
    #[default]
    Part,
    /// Only with no letter or digit right before or after it. As every Chinese character is a letter, a Chinese word
    /// then matches only as the whole text or between punctuation.
    Whole,
}

/// What becomes of a message that contains a word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WordAction {
    /// Not delivered; the sender sees an error.
    #[default]
    Reject,
    /// Not delivered; the sender sees success.
    Drop,
}

/// Why a text is no rule set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    /// The text is longer than a record of the log should be.
    #[error("the rule set has {bytes} bytes, more than {}", limits::TOML_BYTES_MAX)]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// It cannot be read.
    #[error("line {line}: {}{problem}", if field.is_empty() { String::new() } else { format!("`{field}`: ") })]
    Unreadable {
        /// Line, from 1.
        line: usize,
        /// Table and key on that line, as far as it can be told.
        field: String,
        /// What is wrong.
        problem: String,
    },
}

impl RuleSet {
    /// Reads a rule set; fields that it does not name are as shipped, unknown ones are refused.
    ///
    /// Does not check the values: see [`RuleSet::validate`].
    ///
    /// # Errors
    /// A [`RulesError`] that names line and field.
    pub fn from_toml(text: &str) -> Result<Self, RulesError> {
        if text.len() > limits::TOML_BYTES_MAX {
            return Err(RulesError::TooLong { bytes: text.len() });
        }
        toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start).min(text.len());
            let (line, field) = check::locate(text, at);
            RulesError::Unreadable { line, field, problem: error.message().to_owned() }
        })
    }

    /// The rule set as TOML, every field named, without comments.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "no value of a rule set lacks a form in TOML")]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a rule set is made of strings, numbers and tables only")
    }
}
