//! `/v1/rooms`: rankings.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::Arc;

use barrage_event::Topic;
use serde_json::{Map, Value as Json};

use super::{cacheable, room_fields};
use crate::answer::read;
use crate::api::{Call, Inner, Reply};
use crate::cursor::{self, Kind};
use crate::error::ApiError;

/// Place in a ranking: more is first, equal ones by name. Keys never tie, so paging neither skips nor repeats as long
/// as scores stand still.
type Place = (Reverse<u64>, String);

pub(crate) async fn rooms(inner: Arc<Inner>, call: Call) -> Result<Reply, ApiError> {
    let app = inner.app(&call)?;
    let limit = call.params.limit()?;
    let sorts: Vec<&'static str> =
        inner.parts.stores.statistics().iter().flat_map(|s| s.room_sorts()).copied().collect();
    let sort = call.params.word("sort", &sorts)?.unwrap_or_default();
    let after = call.params.text("after").map(|text| decode(sort, text)).transpose()?;
    inner.scan(move |inner| ranking(inner, &call, app, (sort, limit, after.as_ref()))).await
}

fn ranking(
    inner: &Inner,
    call: &Call,
    app: u32,
    (sort, limit, after): (&str, usize, Option<&Place>),
) -> Result<Reply, ApiError> {
    let statistics = inner.parts.stores.statistics();
    let mut top = Top::new(limit + 1, after);
    let mut seen = Vec::new();
    for partition in inner.all_of(Topic::Room) {
        let ((), partition_seen) = read(&inner.parts.stores, partition, call.at_ms, |view| {
            let cx = view.context(app);
            for statistic in statistics.iter().filter(|s| s.room_sorts().contains(&sort)) {
                statistic.rank_rooms(&cx, sort, &mut |ranked| top.offer((Reverse(ranked.score), ranked.room)))?;
            }
            // Ranked and read in one snapshot: score and fields of a room never disagree.
            top.fill(|room| room_fields(inner, view, app, room))
        })?;
        seen.push(partition_seen);
    }
    let mut places = top.places.into_sorted_vec();
    let more = places.len() > limit;
    places.truncate(limit);
    let mut fields = Map::new();
    if let (true, Some(last)) = (more, places.last()) {
        fields.insert("next".to_owned(), encode(sort, &last.place).into());
    }
    let rooms = places.into_iter().map(|p| Json::Object(p.fields.unwrap_or_default())).collect();
    fields.insert("rooms".to_owned(), Json::Array(rooms));
    fields.insert("sort".to_owned(), sort.into());
    Ok(cacheable(call, &seen, fields))
}

/// A room that is among the best so far.
struct Candidate {
    place: Place,
    /// What is known of it, once its partition was read.
    fields: Option<Map<String, Json>>,
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.place == other.place
    }
}

impl Eq for Candidate {}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place.cmp(&other.place)
    }
}

/// The best places seen so far, in memory for one page however many rooms there are.
struct Top<'a> {
    keep: usize,
    after: Option<&'a Place>,
    /// The worst is on top.
    places: BinaryHeap<Candidate>,
}

impl<'a> Top<'a> {
    fn new(keep: usize, after: Option<&'a Place>) -> Self {
        Self { keep, after, places: BinaryHeap::with_capacity(keep + 1) }
    }

    fn offer(&mut self, place: Place) {
        if self.after.is_some_and(|after| place <= *after) {
            return;
        }
        if self.places.len() == self.keep {
            if self.places.peek().is_none_or(|worst| place >= worst.place) {
                return;
            }
            self.places.pop();
        }
        self.places.push(Candidate { place, fields: None });
    }

    /// Reads the fields of those that have none yet.
    fn fill(&mut self, fields: impl Fn(&str) -> Result<Map<String, Json>, ApiError>) -> Result<(), ApiError> {
        // The order does not depend on the fields, so the heap stays one.
        let mut places = std::mem::take(&mut self.places).into_vec();
        for candidate in places.iter_mut().filter(|c| c.fields.is_none()) {
            candidate.fields = Some(fields(&candidate.place.1)?);
        }
        self.places = places.into();
        Ok(())
    }
}

fn encode(sort: &str, (Reverse(score), room): &Place) -> String {
    cursor::encode(Kind::Rooms, sort, &[&score.to_be_bytes(), room.as_bytes()].concat())
}

fn decode(sort: &str, text: &str) -> Result<Place, ApiError> {
    let kept = cursor::decode(Kind::Rooms, sort, text)?;
    let (score, room) = kept.split_first_chunk().ok_or_else(cursor::wrong)?;
    let room = std::str::from_utf8(room).map_err(|_| cursor::wrong())?;
    Ok((Reverse(u64::from_be_bytes(*score)), room.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_hold_every_room_once_in_order_whatever_the_limit() {
        // A fixed sequence of scores with many ties.
        let rooms: Vec<Place> = (0..257_u64).map(|i| (Reverse(i * 7919 % 13), format!("@TGS#{i}"))).collect();
        let mut sorted = rooms.clone();
        sorted.sort();
        for limit in [1, 2, 10, 256, 257, 1_000] {
            let mut seen: Vec<Place> = Vec::new();
            let mut after: Option<Place> = None;
            loop {
                let mut top = Top::new(limit + 1, after.as_ref());
                rooms.iter().for_each(|place| top.offer(place.clone()));
                let mut page: Vec<Place> = top.places.into_sorted_vec().into_iter().map(|c| c.place).collect();
                let more = page.len() > limit;
                page.truncate(limit);
                after = page.last().map(|place| decode("messages", &encode("messages", place)).expect("our own"));
                seen.append(&mut page);
                if !more {
                    break;
                }
            }
            assert_eq!(seen, sorted, "limit {limit}");
        }
    }
}
