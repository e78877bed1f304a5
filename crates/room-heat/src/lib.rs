//! Room heat: a score per room that loses half its worth every half-life, the ranking by it, and recommendations.
//!
//! | what adds heat | from | weight in the rules |
//! | --- | --- | --- |
//! | a delivered message | `Group.CallbackAfterSendMsg` | `heat.message` |
//! | a like, as like tallies cap it | `Group.CallbackBeforeSendMsg` | `heat.like` |
//! | a minor unit of gift value, as like tallies count it | the message or the bill | `heat.gift_value` |
//! | a viewer who joins | `Group.CallbackAfterNewMemberJoin` | `heat.join` |
//! | a membership, as like tallies count it | the message or the bill | `heat.membership` |
//!
//! Heat decays forwards: an event's weight is multiplied by 2 to the power of its time in half-lives and added, in
//! integers, to the sum of its half-life (epoch). What a sum is worth later is that divided by 2 to the power of the
//! time asked for, which is the same for all rooms: so time does not change the order of rooms, nothing needs to be
//! computed anew as it passes, and the order of events does not matter.
//!
//! Likes and gifts are counted in one place, like tallies, and read from their totals: what those have grown by since
//! the room was last looked at is what the event adds.
//!
//! This crate *is* the meaning of these numbers; it has no IO, no clock and no randomness.

mod epochs;
mod fixed;
mod generation;
mod points;
mod projection;
mod reads;
pub mod tables;
mod wide;

/// Messages of the tables and answers, generated from `proto/barrage/room_heat/v1`.
pub mod proto {
    #![allow(missing_docs, unreachable_pub, clippy::doc_markdown, reason = "generated; the comments are the file's")]
    include!(concat!(env!("OUT_DIR"), "/barrage.room_heat.v1.rs"));
}

use barrage_projection::{Projection, RankQuery, RankedRoom, ReadContext, Reader, Statistic, StoreError, TellStands};
use serde_json::{Map, Value as Json};

pub use projection::RoomHeats;

/// The statistic, for the list of statistics: behind like tallies.
#[derive(Debug, Clone, Copy, Default)]
pub struct RoomHeat;

impl Statistic for RoomHeat {
    fn name(&self) -> &'static str {
        "room-heat"
    }

    fn state_version(&self) -> u32 {
        5
    }

    fn projections(&self) -> Vec<Box<dyn Projection>> {
        vec![Box::new(RoomHeats)]
    }

    fn room(&self, cx: &ReadContext<'_>, room: &str, out: &mut Map<String, Json>) -> Result<bool, StoreError> {
        reads::room(cx, room, out)
    }

    fn read_rankings(&self, reader: &dyn Reader, stands: &mut TellStands<'_>) -> Result<(), StoreError> {
        reads::read_rankings(reader, stands)
    }

    fn room_sorts(&self) -> &'static [&'static str] {
        &["heat", "recommended"]
    }

    fn ranks_in_memory(&self, sort: &str) -> bool {
        self.room_sorts().contains(&sort)
    }

    fn ranking_generation(&self, cx: &ReadContext<'_>, _sort: &str) -> Result<u32, StoreError> {
        reads::ranking_generation(cx)
    }

    fn rank_rooms(
        &self,
        cx: &ReadContext<'_>,
        query: RankQuery<'_>,
        visit: &mut dyn FnMut(RankedRoom),
    ) -> Result<(), StoreError> {
        reads::rank_rooms(cx, query, visit)
    }

    fn room_score(&self, cx: &ReadContext<'_>, sort: &str, room: &str) -> Result<Option<u64>, StoreError> {
        reads::room_score(cx, sort, room)
    }

    fn rooms_before(&self, cx: &ReadContext<'_>, sort: &str, place: (u64, &str)) -> Result<u64, StoreError> {
        reads::rooms_before(cx, sort, place)
    }
}
