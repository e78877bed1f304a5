//! Presence: who is in a room now, how many there were at most, and for how long each watched.

mod account;
mod crowd;
mod member;
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
        1
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
