//! `/v1/rooms` and `/v1/recommendations`: rankings.

use std::cmp::Reverse;
use std::sync::Arc;

use barrage_event::{Partition, Topic};
use serde::Serialize;

use super::cacheable;
use super::room::HEAT;
use crate::api::{Call, Inner, Reply};
use crate::cursor::{self, Kind};
use crate::error::{ApiError, Code};
use crate::owners::Gather;
use crate::question::{Ask, Failure, Fields, Found, Place, Ranked, Seen};

/// The ranking of `/v1/recommendations`.
const RECOMMENDED: &str = "recommended";

pub(crate) async fn rooms(inner: Arc<Inner>, call: Call) -> Result<Reply, ApiError> {
    let sort = call.params.word("sort", &inner.parts.owners.sorts().rooms)?.unwrap_or_default();
    ranked(inner, call, sort).await
}

pub(crate) async fn recommendations(inner: Arc<Inner>, call: Call) -> Result<Reply, ApiError> {
    if !inner.parts.owners.sorts().rooms.contains(&RECOMMENDED) {
        let message = "no statistic of this server recommends rooms";
        return Err(ApiError::new(Code::UnknownRoute, message, "GET /v1/rooms ranks them"));
    }
    ranked(inner, call, RECOMMENDED).await
}

async fn ranked(inner: Arc<Inner>, call: Call, sort: &'static str) -> Result<Reply, ApiError> {
    let app = inner.app(&call).await?;
    let limit = call.params.limit()?;
    let owners = &inner.parts.owners;
    let after = call.params.text("after").map(|text| decode(sort, text)).transpose()?;
    let (before, after) = after.map_or((0, None), |(before, place)| (before, Some(place)));
    let ranking = Ranking { app, sort, keep: limit + 1, after, best: Vec::new(), seen: Vec::new() };
    let partitions = owners.shape().all_of(Topic::Room).collect();
    let Ranking { mut best, mut seen, .. } = owners.gather(partitions, call.at_ms, ranking).await?;
    seen.sort_unstable_by_key(|seen| seen.partition);
    let more = best.len() > limit;
    best.truncate(limit);
    let last = before.saturating_add(u64::try_from(best.len()).unwrap_or(u64::MAX));
    let next = best.last().filter(|_| more).map(|room| encode(sort, last, &room.place));
    let ranks = (1..).map(|n: u64| before.saturating_add(n));
    let rooms = best.into_iter().zip(ranks).map(|(ranked, rank)| {
        let mut fields = ranked.fields;
        fields.put(None, "rank", Some(rank));
        if sort == HEAT {
            fields.put(Some(HEAT), "rank", Some(rank));
        }
        fields
    });
    let page = Page { next, rooms: rooms.collect(), sort };
    Ok(cacheable(&call, &seen, serde_json::to_string(&page).map_err(ApiError::failed)?))
}

/// The answer; its fields stand in the order of their names, as in every answer.
#[derive(Serialize)]
struct Page<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    rooms: Vec<Fields>,
    sort: &'a str,
}

/// The best rooms of the partitions that answered.
struct Ranking {
    app: u32,
    sort: &'static str,
    /// One more than a page holds: it tells whether there is another page.
    keep: usize,
    after: Option<Place>,
    /// Best first, at most `keep`.
    best: Vec<Ranked>,
    seen: Vec<Seen>,
}

impl Gather for Ranking {
    const FOLLOWS: bool = true;

    fn ask(&self) -> Ask {
        // A full page leaves out whatever is behind its last room, so that nobody reads it in vain.
        let before = self.best.last().filter(|_| self.best.len() >= self.keep).map(|last| last.place.clone());
        Ask::RankRooms { app: self.app, sort: self.sort.to_owned(), keep: self.keep, after: self.after.clone(), before }
    }

    fn take(&mut self, _: Partition, answered: Result<Found, Failure>) -> Result<(), ApiError> {
        let Found::Rooms(rooms, seen) = answered.map_err(|failure| failure.error)? else {
            return Err(Failure::not_an_answer().error);
        };
        self.seen.push(seen);
        self.best.extend(rooms);
        self.best.sort_by(|a, b| a.place.cmp(&b.place));
        self.best.truncate(self.keep);
        Ok(())
    }
}

/// The cursor behind a place, which is the last of so many.
fn encode(sort: &str, rank: u64, (Reverse(score), room): &Place) -> String {
    cursor::encode(Kind::Rooms, sort, &[&rank.to_be_bytes(), &score.to_be_bytes(), room.as_bytes()].concat())
}

fn decode(sort: &str, text: &str) -> Result<(u64, Place), ApiError> {
    let kept = cursor::decode(Kind::Rooms, sort, text)?;
    let (rank, kept) = kept.split_first_chunk().ok_or_else(cursor::wrong)?;
    let (score, room) = kept.split_first_chunk().ok_or_else(cursor::wrong)?;
    let room = std::str::from_utf8(room).map_err(|_| cursor::wrong())?;
    Ok((u64::from_be_bytes(*rank), (Reverse(u64::from_be_bytes(*score)), room.to_owned())))
}

#[cfg(test)]
mod tests {
    use barrage_event::Offset;
    use serde_json::Map;

    use super::*;

    /// What a partition with these rooms answers.
    fn answer(partition: Partition, rooms: &[Place], ask: &Ask) -> Found {
        let Ask::RankRooms { keep, after, before, .. } = ask else { unreachable!("a ranking asks for rankings") };
        let mut places: Vec<&Place> = rooms
            .iter()
            .filter(|place| after.as_ref().is_none_or(|after| *place > after))
            .filter(|place| before.as_ref().is_none_or(|before| *place < before))
            .collect();
        places.sort();
        let fields = || Fields::Made(Map::new());
        let ranked = places.into_iter().take(*keep).map(|place| Ranked { place: place.clone(), fields: fields() });
        let seen = Seen { partition, next_offset: Offset(0), stream_time_ms: 0, rules_version: 0, at_ms: 0 };
        Found::Rooms(ranked.collect(), seen)
    }

    #[test]
    fn pages_hold_every_room_once_in_order_whatever_the_limit_and_however_they_are_shared_out() {
        // A fixed sequence of scores with many ties.
        let rooms: Vec<Place> = (0..257_u64).map(|i| (Reverse(i * 7919 % 13), format!("@TGS#{i}"))).collect();
        let mut sorted = rooms.clone();
        sorted.sort();
        for (limit, partitions) in [(1, 3), (2, 1), (10, 4), (256, 2), (257, 5), (1_000, 4)] {
            // Every other partition answers before it is known what the others have, as other processes do.
            let shared: Vec<Vec<Place>> =
                (0..partitions).map(|n| rooms.iter().skip(n).step_by(partitions).cloned().collect()).collect();
            let mut seen: Vec<Place> = Vec::new();
            let mut after: Option<Place> = None;
            loop {
                let sort = "messages";
                let mut ranking =
                    Ranking { app: 1, sort, keep: limit + 1, after: after.take(), best: Vec::new(), seen: Vec::new() };
                let first = ranking.ask();
                for (n, rooms) in shared.iter().enumerate() {
                    let partition = Partition::room(u16::try_from(n).expect("few"));
                    let ask = if n % 2 == 0 { first.clone() } else { ranking.ask() };
                    ranking.take(partition, Ok(answer(partition, rooms, &ask))).expect("taken");
                }
                let more = ranking.best.len() > limit;
                let mut page: Vec<Place> = ranking.best.into_iter().map(|ranked| ranked.place).collect();
                page.truncate(limit);
                let kept = page.last().map(|place| decode(sort, &encode(sort, 7, place)).expect("our own"));
                after = kept.map(|(rank, place)| {
                    assert_eq!(rank, 7);
                    place
                });
                seen.append(&mut page);
                if !more {
                    break;
                }
            }
            assert_eq!(seen, sorted, "limit {limit}, {partitions} partitions");
        }
    }
}
