//! Like tallies: likes, gifts and memberships of rooms and accounts, top likers and top givers.
//!
//! | what | from | kept by |
//! | --- | --- | --- |
//! | likes | `Group.CallbackBeforeSendMsg` of a like message that we let pass, capped | room, viewer, account |
//! | gift messages | `Group.CallbackAfterSendMsg` of a gift message | room, viewer, account |
//! | gifts, memberships | those messages, or the app's bills: one of them, by a rule | room, viewer, account |
//!
//! Likes are counted before delivery, because the platform's limit drops them first; how many there are is told by a
//! client, so they are capped, and what was cut off is counted. Messages of a combo tell the total so far and count as
//! one gift with the final count. A bill that is sent again, days later too, never comes here: the runtime drops it by
//! its idempotency key.
//!
//! Rooms and accounts see the same records in different partitions and in different order, and agree: whatever is
//! decided follows from a record, the rules stamped in it, and sums and maxima.
//!
//! This crate *is* the meaning of these numbers; it has no IO, no clock and no randomness.

pub mod combos;
mod happening;
mod projection;
mod reads;
mod seconds;
pub mod tables;
mod totals;

/// Messages of the tables and answers, generated from `proto/barrage/like_tallies/v1`.
pub mod proto {
    #![allow(missing_docs, unreachable_pub, clippy::doc_markdown, reason = "generated; the comments are the file's")]
    include!(concat!(env!("OUT_DIR"), "/barrage.like_tallies.v1.rs"));
}

use barrage_projection::{
    Projection, RankQuery, RankedRoom, ReadContext, Statistic, StoreError, ViewersPage, ViewersWindow,
};
use serde_json::{Map, Value as Json};

pub use happening::{Gift, Happening, What};
pub use projection::{AccountTallies, RoomTallies};
pub use seconds::{SECONDS_MAX, like_second};

/// The statistic, for the list of statistics.
#[derive(Debug, Clone, Copy, Default)]
pub struct LikeTallies;

impl Statistic for LikeTallies {
    fn name(&self) -> &'static str {
        "like-tallies"
    }

    fn state_version(&self) -> u32 {
        3
    }

    fn projections(&self) -> Vec<Box<dyn Projection>> {
        vec![Box::new(RoomTallies), Box::new(AccountTallies)]
    }

    fn room(&self, cx: &ReadContext<'_>, room: &str, out: &mut Map<String, Json>) -> Result<bool, StoreError> {
        reads::room(cx, room, out)
    }

    fn user(&self, cx: &ReadContext<'_>, account: &str, out: &mut Map<String, Json>) -> Result<bool, StoreError> {
        reads::user(cx, account, out)
    }

    fn room_sorts(&self) -> &'static [&'static str] {
        &["likes", "gift_value"]
    }

    fn rank_rooms(
        &self,
        cx: &ReadContext<'_>,
        query: RankQuery<'_>,
        visit: &mut dyn FnMut(RankedRoom),
    ) -> Result<(), StoreError> {
        reads::rank_rooms(cx, query.sort, visit)
    }

    fn room_score(&self, cx: &ReadContext<'_>, sort: &str, room: &str) -> Result<Option<u64>, StoreError> {
        reads::room_score(cx, sort, room)
    }

    fn viewer_sorts(&self) -> &'static [&'static str] {
        &["likes", "gift_value"]
    }

    fn viewer_window_sorts(&self) -> &'static [&'static str] {
        self.viewer_sorts()
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

    fn viewers_between(
        &self,
        cx: &ReadContext<'_>,
        room: &str,
        sort: &str,
        span: (i64, i64),
        (limit, after): (usize, Option<&str>),
    ) -> Result<Option<ViewersWindow>, StoreError> {
        reads::viewers_between(cx, room, sort, span, (limit, after))
    }
}
