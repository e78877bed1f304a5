//! Online duration: for how long an account had at least one device connected, with bounds.
//!
//! From `State.StateChange` on `barrage.user`: a login opens a session on its platform, a logout or a lost connection
//! closes it, a login that pushes devices out closes theirs; the account is online while any session is open. Two
//! devices of one platform cannot be told apart. Everything else that an account does is a sign of life.
//!
//! | case | value | lower bound | upper bound |
//! | --- | --- | --- | --- |
//! | logout | to the logout | the same | the same |
//! | lost connection, device pushed out, login on top of a session | to the report | to the last sign of life, or to the platform's longest delay before the report, whichever is later | as the value |
//! | open session | to the time asked for | as if lost then | as the value |
//! | no end at all | last sign of life and the time-out | to the last sign of life | as the value |
//! | two logins, then two ends | to the first end | the same | to the second |
//! | heartbeat time-out soon after a second login | goes on: it was the former connection | to the last sign of life, until the next one | as the value |
//! | other lost connection soon after a second login | to the report; goes on when a sign of life or another end follows | as if it had ended | as if it goes on, up to the time-out |
//! | a logout within 5 s, or a lost connection within one, of a login that pushed out its own platform | goes on: it was the device that is out | to the last sign of life, until the next one | as the value |
//!
//! What happened within the lateness window is kept one by one and summed in order of time, so its order of arrival
//! does not matter; what is older is folded into sums, whole minutes at a time. A state change that is later than that
//! and behind a folded one changes no past total and is counted; it still opens or closes its session when nothing newer
//! is known of that.
//!
//! This crate *is* the meaning of these numbers; it has no IO, no clock and no randomness.

mod machine;
mod projection;
mod recent;
pub mod tables;

/// Messages of the tables and answers, generated from `proto/barrage/online_duration/v1`.
pub mod proto {
    #![allow(missing_docs, unreachable_pub, clippy::doc_markdown, reason = "generated; the comments are the file's")]
    include!(concat!(env!("OUT_DIR"), "/barrage.online_duration.v1.rs"));
}

use barrage_event::rules::DurationRules;
use barrage_projection::{Projection, ReadContext, ReaderExt as _, Statistic, StoreError, json};
use serde_json::{Map, Value as Json};

pub use projection::{AccountOnlineDuration, sign_of_life};

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
}

/// A time in which an account had no device connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// When its last device went, ms since the epoch.
    pub gone_ms: i64,
    /// How much before that it may have happened, ms; of a connection that was replaced, that it was lost.
    pub uncertain_ms: u64,
    /// Whether that device went by a logout.
    pub logged_out: bool,
    /// When the next one connected, ms since the epoch. At `gone_ms` when a connection was replaced by a login of the same
    /// platform: its client reconnected, or began anew.
    pub back_ms: Option<i64>,
}

impl Gap {
    /// Whether a connection was replaced by the next one, in no time.
    #[must_use]
    pub fn is_replacement(&self) -> bool {
        self.back_ms == Some(self.gone_ms)
    }
}

/// The times without a connection of an account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gaps {
    /// What happened before is folded: of that the list has the last gap at most, and nothing that comes late changes it.
    pub from_ms: i64,
    /// In order of time.
    pub list: Vec<Gap>,
}

/// When the account had no device connected. A session that has fallen silent ends when something shows that.
#[must_use]
pub fn gaps(account: &proto::Account, rules: &DurationRules) -> Gaps {
    machine::gaps(account, rules)
}

/// How long the account was online up to `at_ms`.
///
/// What is folded already is not taken back for an earlier `at_ms`.
#[must_use]
pub fn online(account: &proto::Account, at_ms: i64, rules: &DurationRules) -> Online {
    machine::read(account, at_ms, rules)
}

/// The statistic, for the list of statistics.
#[derive(Debug, Clone, Copy, Default)]
pub struct OnlineDuration;

impl Statistic for OnlineDuration {
    fn name(&self) -> &'static str {
        "online-duration"
    }

    fn state_version(&self) -> u32 {
        4
    }

    fn projections(&self) -> Vec<Box<dyn Projection>> {
        vec![Box::new(AccountOnlineDuration)]
    }

    fn user(&self, cx: &ReadContext<'_>, account: &str, out: &mut Map<String, Json>) -> Result<bool, StoreError> {
        let found = cx.reader.get::<tables::Accounts>(&(cx.app, account))?;
        let known = found.is_some();
        // An account without a row has the fields too, so that an answer always has the same form.
        let row = found.unwrap_or_default();
        let Online { ms, lower_ms, upper_ms, now } = online(&row, cx.at_ms, &cx.rules.duration);
        let answer = proto::Online { ms, lower_ms, upper_ms, now, too_late: row.too_late };
        out.insert("online".to_owned(), json(&answer));
        Ok(known)
    }
}
