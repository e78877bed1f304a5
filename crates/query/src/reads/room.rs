//! `/v1/rooms/{room}`.

use std::cmp::Reverse;
use std::sync::Arc;

use barrage_event::{Partition, Topic};

use super::cacheable;
use crate::api::{Call, Inner, Reply};
use crate::error::ApiError;
use crate::options::RANK_WAIT;
use crate::owners::Gather;
use crate::question::{Ask, Failure, Fields, Found, Place};

/// The ranking that a room's place is told of, and the field that tells it.
pub(super) const HEAT: &str = "heat";

pub(crate) async fn room(inner: Arc<Inner>, call: Call) -> Result<Reply, ApiError> {
    let app = inner.app(&call).await?;
    let ask = Ask::Room { app, room: call.key.clone() };
    let (mut fields, seen) = inner.ask_key(Topic::Room, app, &call, ask).await?;
    put_rank(&inner, app, &call, &mut fields).await;
    Ok(cacheable(&call, &[seen], fields.into_text()))
}

/// Puts the room's place by heat among all rooms into the answer; null when a partition does not tell its part of it
/// soon: that the others cannot be read is no reason not to answer for this one.
async fn put_rank(inner: &Inner, app: u32, call: &Call, fields: &mut Fields) {
    if inner.parts.owners.sorts().rooms.contains(&HEAT) {
        let rank = tokio::time::timeout(RANK_WAIT, Box::pin(rank(inner, app, call))).await;
        let rank = rank.ok().and_then(Result::ok).flatten();
        fields.put(Some(HEAT), "rank", rank);
    }
}

async fn rank(inner: &Inner, app: u32, call: &Call) -> Result<Option<u64>, ApiError> {
    let ask = Ask::RoomScore { app, sort: HEAT.to_owned(), room: call.key.clone() };
    let Found::Number(Some(score), _) = inner.ask_partition(Topic::Room, app, call, ask).await? else {
        return Ok(None);
    };
    let owners = &inner.parts.owners;
    let partitions = owners.shape().all_of(Topic::Room).collect();
    let count = Before { app, place: (Reverse(score), call.key.clone()), before: 0 };
    let Before { before, .. } = owners.gather(partitions, call.at_ms, count).await?;
    Ok(Some(before.saturating_add(1)))
}

/// How many rooms stand before a place, over all partitions.
struct Before {
    app: u32,
    place: Place,
    before: u64,
}

impl Gather for Before {
    /// A place among the others is not worth a wait for a partition that moves.
    const FOLLOWS: bool = false;

    fn ask(&self, _: Partition) -> Ask {
        Ask::RoomsBefore { app: self.app, sort: HEAT.to_owned(), place: self.place.clone() }
    }

    fn take(&mut self, _: Partition, answered: Result<Found, Failure>) -> Result<(), ApiError> {
        let Found::Number(Some(before), _) = answered.map_err(|failure| failure.error)? else {
            return Err(Failure::not_an_answer().error);
        };
        self.before = self.before.saturating_add(before);
        Ok(())
    }
}
