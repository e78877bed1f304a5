//! Online duration: for how long an account had at least one device connected, with bounds.

mod machine;
pub mod tables;

/// Messages of the tables and answers, generated from `proto/barrage/online_duration/v1`.
pub mod proto {
    #![allow(missing_docs, unreachable_pub, clippy::doc_markdown, reason = "generated; the comments are the file's")]
    include!(concat!(env!("OUT_DIR"), "/barrage.online_duration.v1.rs"));
}

use barrage_event::rules::DurationRules;

/// How long an account was online, at one time asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Online {
    /// Time with at least one device connected, ms: closed sessions, and open ones up to the time asked for.
    pub ms: u64,
    /// It was at least this, ms.
    pub lower_ms: u64,
    /// It was at most this, ms.
    pub upper_ms: u64,
    /// Whether a device is connected.
    pub now: bool,
    /// When the account came online last, ms since the epoch; 0 when it never did.
    pub since_ms: i64,
    /// When its last device went, ms since the epoch; before `since_ms` when one is connected, 0 when none ever went.
    pub left_ms: i64,
    /// How much before `left_ms` that may have happened, ms.
    pub left_uncertain_ms: u64,
}

/// How long the account was online up to `at_ms`.
///
/// What is folded already is not taken back for an earlier `at_ms`.
#[must_use]
pub fn online(account: &proto::Account, at_ms: i64, rules: &DurationRules) -> Online {
    machine::read(account, at_ms, rules)
}
