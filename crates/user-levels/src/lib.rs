//! User levels: what an account has done, what that is worth by the rules in force, and which level it makes.
//!
//! | metric | from | counted by |
//! | --- | --- | --- |
//! | online time | `State.StateChange` | online duration |
//! | messages | `Group.CallbackAfterSendMsg` | here: one each, of every type |
//! | likes | `Group.CallbackBeforeSendMsg` | like tallies: after their caps |
//! | gift value | delivered gifts, or billing | like tallies: combos merged, from the one source that the rules name |
//! | membership months | delivered memberships, or billing | like tallies |
//!
//! Metrics are stored and nothing that follows from them: weights, thresholds and daily caps are those in force when
//! somebody asks. Amounts are kept for each of the last seven days (UTC), so that the caps can be put on when it is
//! asked; older days are summed, each cut by the caps in force when it was summed, which no later rule changes. A day is
//! that of the event; a session over midnight counts on both days, each what lies in it.
//!
//! `level_reached` is told once per account and level, for every level on the way, in order. It follows from what an
//! account does: a change of rules tells nobody. The highest level that was told is kept; at the account's next event
//! after a change it is raised in silence to the level that the account had at the change by the new rules, and what is
//! reached from there on is told. A level that is lost and reached again is not. Rules that levels do not follow from change
//! nothing of this.
//!
//! This crate *is* the meaning of these numbers; it has no IO, no clock and no randomness.

mod account;
mod metrics;
mod online;
mod projection;
mod reads;
mod sources;
pub mod tables;

/// Messages of the tables and answers, generated from `proto/barrage/user_levels/v1`.
pub mod proto {
    #![allow(missing_docs, unreachable_pub, clippy::doc_markdown, reason = "generated; the comments are the file's")]
    include!(concat!(env!("OUT_DIR"), "/barrage.user_levels.v1.rs"));
}

use std::collections::BTreeMap;

use barrage_projection::{Projection, ReadContext, Statistic, StoreError};
use serde_json::{Map, Value as Json};

pub use account::DAYS_KEPT;
pub use projection::AccountLevels;

/// The statistic, for the list of statistics; behind online duration and like tallies, whose tables it reads.
#[derive(Debug, Clone, Copy, Default)]
pub struct UserLevels;

impl Statistic for UserLevels {
    fn name(&self) -> &'static str {
        "user-levels"
    }

    fn state_version(&self) -> u32 {
        2
    }

    fn projections(&self) -> Vec<Box<dyn Projection>> {
        vec![Box::new(AccountLevels)]
    }

    fn user(&self, cx: &ReadContext<'_>, account: &str, out: &mut Map<String, Json>) -> Result<bool, StoreError> {
        reads::user(cx, account, out)
    }

    fn levels(&self, cx: &ReadContext<'_>) -> Result<BTreeMap<u32, u64>, StoreError> {
        reads::levels(cx)
    }
}
