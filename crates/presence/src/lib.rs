//! Presence: who is in a room now, how many there were at most, and for how long each watched.
//!
//! | source | says | uncertain by |
//! | --- | --- | --- |
//! | `Group.CallbackAfterNewMemberJoin`, `…AfterMemberExit` | came, left | exact |
//! | `Group.CallbackOnMemberStateChange` | online, offline: of a user, all devices merged | up to 50 s when the platform noticed it by heartbeats |
//! | `AccountMoves` | when the account's last device went, and when it reconnected within the grace | what online duration says; whether it is back in the room, until the room shows it |
//! | `Group.CallbackAfterGroupDestroyed` | all left | exact |
//! | an idle time-out (off unless the rules say so) | left, until a sign of life | since the last sign of life |
//!
//! All sources set one state per viewer, in order of event time; so a viewer seen through two counts once, and the order
//! of arrival does not matter within the lateness window. A room's count is the sum of what its members' stays changed,
//! ms by ms; the peak is that sum's highest.
//!
//! The account's side, on `barrage.user`, knows the rooms of an account and what online duration says of its
//! connections. A client that dies sends no exit: then its rooms are told. A login within the grace goes on with the
//! stay, unless the account left a room meanwhile, logged out before, or joins a room right after, as a client does that
//! began anew.
//!
//! This crate *is* the meaning of these numbers; it has no IO, no clock and no randomness.

mod account;
mod crowd;
mod member;
mod moves;
mod reads;
mod room;
pub mod tables;

/// Messages of the tables and answers, generated from `proto/barrage/presence/v1`.
pub mod proto {
    #![allow(missing_docs, unreachable_pub, clippy::doc_markdown, reason = "generated; the comments are the file's")]
    include!(concat!(env!("OUT_DIR"), "/barrage.presence.v1.rs"));
}

use barrage_projection::{Projection, RankQuery, RankedRoom, ReadContext, Statistic, StoreError, ViewersPage};
use serde_json::{Map, Value as Json};

pub use account::AccountPresence;
pub use room::RoomPresence;

/// The statistic, for the list of statistics; behind online duration.
#[derive(Debug, Clone, Copy, Default)]
pub struct Presence;

impl Statistic for Presence {
    fn name(&self) -> &'static str {
        "presence"
    }

    fn state_version(&self) -> u32 {
        3
    }

    fn projections(&self) -> Vec<Box<dyn Projection>> {
        vec![Box::new(RoomPresence), Box::new(AccountPresence)]
    }

    fn room(&self, cx: &ReadContext<'_>, room: &str, out: &mut Map<String, Json>) -> Result<bool, StoreError> {
        reads::room(cx, room, out)
    }

    fn user(&self, cx: &ReadContext<'_>, account: &str, out: &mut Map<String, Json>) -> Result<bool, StoreError> {
        reads::user(cx, account, out)
    }

    fn room_sorts(&self) -> &'static [&'static str] {
        &["online"]
    }

    fn rank_rooms(
        &self,
        cx: &ReadContext<'_>,
        _query: RankQuery<'_>,
        visit: &mut dyn FnMut(RankedRoom),
    ) -> Result<(), StoreError> {
        reads::rank_rooms(cx, visit)
    }

    fn room_score(&self, cx: &ReadContext<'_>, _sort: &str, room: &str) -> Result<Option<u64>, StoreError> {
        reads::room_score(cx, room)
    }

    fn viewer_sorts(&self) -> &'static [&'static str] {
        &["recent", "watch"]
    }

    fn viewers(
        &self,
        cx: &ReadContext<'_>,
        room: &str,
        sort: &str,
        limit: usize,
        after: Option<&str>,
    ) -> Result<Option<ViewersPage>, StoreError> {
        reads::viewers(cx, room, sort, limit, after)
    }
}
