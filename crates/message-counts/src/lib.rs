//! Message counts: how many messages were attempted, delivered, rejected, failed, throttled and unattempted, by type,
//! room, sender and minute.
//!
//! | what | from | kept by |
//! | --- | --- | --- |
//! | attempted | `Group.CallbackBeforeSendMsg` | room, minute |
//! | delivered | `Group.CallbackAfterSendMsg` | room, minute, sender in the room, sender |
//! | rejected | our verdict on a before-callback | room, minute |
//! | failed | `Group.CallbackSendMsgException` | room, minute |
//! | throttled | a before-callback that nothing followed inside the join window | room, minute, computed when asked |
//! | senders | `Group.CallbackAfterSendMsg`: accounts with a delivered message | room |
//! | unattempted | an after-callback without a before-callback | room, minute |
//!
//! A message's callbacks are joined on (app, group, sender, `Random`), or its `MsgId` where there is no `Random`; where
//! both callbacks have a `MsgId`, it must be the same. A late or reordered callback repairs what was counted before
//! it came: a throttled message becomes delivered, an unattempted one attempted. The platform's limit of 40 messages a
//! second shows nowhere but here (<https://cloud.tencent.com/document/product/269/1502>).
//!
//! This crate *is* the meaning of these numbers; it has no IO, no clock and no randomness.

mod projection;
mod reads;
mod retention;
pub mod tables;
mod tally;

/// Messages of the tables and answers, generated from `proto/barrage/message_counts/v1`.
pub mod proto {
    #![allow(missing_docs, unreachable_pub, clippy::doc_markdown, reason = "generated; the comments are the file's")]
    include!(concat!(env!("OUT_DIR"), "/barrage.message_counts.v1.rs"));
}

use barrage_projection::{
    MinutesPage, Projection, RankQuery, RankedRoom, ReadContext, Statistic, StoreError, ViewersPage,
};
use serde_json::{Map, Value as Json};

pub use projection::{RoomMessageCounts, SenderMessageCounts};

/// The statistic, for the list of statistics.
#[derive(Debug, Clone, Copy, Default)]
pub struct MessageCounts;

impl Statistic for MessageCounts {
    fn name(&self) -> &'static str {
        "message-counts"
    }

    fn state_version(&self) -> u32 {
        4
    }

    fn projections(&self) -> Vec<Box<dyn Projection>> {
        vec![Box::new(RoomMessageCounts), Box::new(SenderMessageCounts)]
    }

    fn room(&self, cx: &ReadContext<'_>, room: &str, out: &mut Map<String, Json>) -> Result<bool, StoreError> {
        reads::room(cx, room, out)
    }

    fn user(&self, cx: &ReadContext<'_>, account: &str, out: &mut Map<String, Json>) -> Result<bool, StoreError> {
        reads::user(cx, account, out)
    }

    fn room_sorts(&self) -> &'static [&'static str] {
        &["messages"]
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
        &["messages"]
    }

    fn viewers(
        &self,
        cx: &ReadContext<'_>,
        room: &str,
        _sort: &str,
        limit: usize,
        after: Option<&str>,
    ) -> Result<Option<ViewersPage>, StoreError> {
        reads::viewers(cx, room, limit, after)
    }

    fn minutes(
        &self,
        cx: &ReadContext<'_>,
        room: &str,
        span: (i64, i64),
        limit: usize,
    ) -> Result<MinutesPage, StoreError> {
        reads::minutes(cx, room, span, limit)
    }
}
