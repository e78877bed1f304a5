//! `/v1/rooms` and `/v1/recommendations`: rankings.

use std::cmp::Reverse;
use std::collections::BTreeMap;
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
    let (before, after, counted) =
        after.map_or((0, None, None), |kept| (kept.rank, Some(kept.place), Some(kept.generations)));
    let ranking = Ranking::new(app, sort, limit + 1, after);
    let partitions = owners.shape().all_of(Topic::Room).collect();
    let Ranking { mut best, seen, generations, .. } = owners.gather(partitions, call.at_ms, ranking).await?;
    if counted.is_some_and(|counted| counted != generations) {
        return Err(counted_anew(sort));
    }
    let more = best.len() > limit;
    best.truncate(limit);
    // Only now is it known which rooms are shown: nobody reads the others.
    let mut wanted: BTreeMap<Partition, Vec<String>> = BTreeMap::new();
    for ((_, room), partition) in best {
        wanted.entry(partition).or_default().push(room);
    }
    let partitions = wanted.keys().copied().collect();
    let shown = Shown { app, sort, wanted, rooms: Vec::new(), seen };
    let Shown { rooms: best, seen, .. } = owners.gather(partitions, call.at_ms, shown).await?;
    let seen: Vec<Seen> = seen.into_values().collect();
    let last = before.saturating_add(u64::try_from(best.len()).unwrap_or(u64::MAX));
    let next = best.last().filter(|_| more).map(|room| encode(sort, last, generations, &room.place));
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

/// The places of the best rooms of the partitions that answered.
struct Ranking {
    app: u32,
    sort: &'static str,
    /// One more than a page holds: it tells whether there is another page.
    keep: usize,
    after: Option<Place>,
    /// Best first, at most `keep`.
    best: Vec<(Place, Partition)>,
    generations: Generations,
    seen: BTreeMap<Partition, Seen>,
}

impl Ranking {
    fn new(app: u32, sort: &'static str, keep: usize, after: Option<Place>) -> Self {
        let (best, seen) = (Vec::new(), BTreeMap::new());
        Self { app, sort, keep, after, best, generations: Generations::default(), seen }
    }
}

impl Gather for Ranking {
    const FOLLOWS: bool = true;

    fn ask(&self, _: Partition) -> Ask {
        // A full page leaves out whatever is behind its last room, so that nobody looks at it in vain.
        let before = self.best.last().filter(|_| self.best.len() >= self.keep).map(|(last, _)| last.clone());
        Ask::RankRooms { app: self.app, sort: self.sort.to_owned(), keep: self.keep, after: self.after.clone(), before }
    }

    fn take(&mut self, partition: Partition, answered: Result<Found, Failure>) -> Result<(), ApiError> {
        let Found::Places(places, generation, seen) = answered.map_err(|failure| failure.error)? else {
            return Err(Failure::not_an_answer().error);
        };
        self.seen.insert(partition, seen);
        self.generations.add(generation);
        self.best.extend(places.into_iter().map(|place| (place, partition)));
        self.best.sort_unstable();
        self.best.truncate(self.keep);
        Ok(())
    }
}

/// The rooms of a page.
struct Shown {
    app: u32,
    sort: &'static str,
    wanted: BTreeMap<Partition, Vec<String>>,
    /// Best first, by the places that they have when they are read.
    rooms: Vec<Ranked>,
    /// What they, or where a partition has none of them its ranking, rest on.
    seen: BTreeMap<Partition, Seen>,
}

impl Gather for Shown {
    const FOLLOWS: bool = true;

    fn ask(&self, partition: Partition) -> Ask {
        let rooms = self.wanted.get(&partition).cloned().unwrap_or_default();
        Ask::RankedRooms { app: self.app, sort: self.sort.to_owned(), rooms }
    }

    fn take(&mut self, partition: Partition, answered: Result<Found, Failure>) -> Result<(), ApiError> {
        let Found::Rooms(rooms, seen) = answered.map_err(|failure| failure.error)? else {
            return Err(Failure::not_an_answer().error);
        };
        self.seen.insert(partition, seen);
        self.rooms.extend(rooms);
        self.rooms.sort_by(|a, b| a.place.cmp(&b.place));
        Ok(())
    }
}

/// The generations of the scores of a page: the first and the last, where a change is under way and partitions differ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Generations(Option<(u32, u32)>);

impl Generations {
    fn add(&mut self, generation: u32) {
        let (first, last) = self.0.unwrap_or((generation, generation));
        self.0 = Some((first.min(generation), last.max(generation)));
    }
}

/// Scores are counted otherwise than on the page before, so nothing goes on behind its last one.
fn counted_anew(sort: &str) -> ApiError {
    let message = format!("is of a page whose scores were counted otherwise: the rules of `{sort}` have changed since");
    ApiError::parameter("after", message, "begin with the first page again, without `after`")
}

/// What a cursor keeps: the last place of a page, which is the last of so many.
#[derive(Debug, PartialEq, Eq)]
struct Kept {
    rank: u64,
    generations: Generations,
    place: Place,
}

/// The cursor behind a place, which is the last of so many.
fn encode(sort: &str, rank: u64, generations: Generations, (Reverse(score), room): &Place) -> String {
    let (first, last) = generations.0.unwrap_or_default();
    let (rank, score) = (rank.to_be_bytes(), score.to_be_bytes());
    let kept = [&rank[..], &first.to_be_bytes(), &last.to_be_bytes(), &score, room.as_bytes()].concat();
    cursor::encode(Kind::Rooms, sort, &kept)
}

fn decode(sort: &str, text: &str) -> Result<Kept, ApiError> {
    let kept = cursor::decode(Kind::Rooms, sort, text)?;
    let (rank, kept) = kept.split_first_chunk().ok_or_else(cursor::wrong)?;
    let (first, kept) = kept.split_first_chunk().ok_or_else(cursor::wrong)?;
    let (last, kept) = kept.split_first_chunk().ok_or_else(cursor::wrong)?;
    let (score, room) = kept.split_first_chunk().ok_or_else(cursor::wrong)?;
    let room = std::str::from_utf8(room).map_err(|_| cursor::wrong())?;
    Ok(Kept {
        rank: u64::from_be_bytes(*rank),
        generations: Generations(Some((u32::from_be_bytes(*first), u32::from_be_bytes(*last)))),
        place: (Reverse(u64::from_be_bytes(*score)), room.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use barrage_event::Offset;

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
        let seen = Seen { partition, next_offset: Offset(0), stream_time_ms: 0, rules_version: 0, at_ms: 0 };
        Found::Places(places.into_iter().take(*keep).cloned().collect(), 3, seen)
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
                let mut ranking = Ranking::new(1, sort, limit + 1, after.take());
                let first = ranking.ask(Partition::room(0));
                for (n, rooms) in shared.iter().enumerate() {
                    let partition = Partition::room(u16::try_from(n).expect("few"));
                    let ask = if n % 2 == 0 { first.clone() } else { ranking.ask(partition) };
                    ranking.take(partition, Ok(answer(partition, rooms, &ask))).expect("taken");
                }
                let (more, generations) = (ranking.best.len() > limit, ranking.generations);
                assert_eq!(generations, Generations(Some((3, 3))));
                let mut page: Vec<Place> = ranking.best.into_iter().map(|(place, _)| place).collect();
                page.truncate(limit);
                let cursor = page.last().map(|place| encode(sort, 7, generations, place));
                after = cursor.map(|cursor| {
                    let kept = decode(sort, &cursor).expect("our own");
                    assert_eq!((kept.rank, kept.generations), (7, generations));
                    kept.place
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
