//! Answers from one snapshot.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::ControlFlow;

use barrage_projection::{RankQuery, RankedRoom, ReadContext, ReaderExt as _, StoreError, json};
use serde_json::{Map, Value as Json};

use crate::epochs::{LOG_BITS, List, PLACE_BITS};
use crate::projection::index_key;
use crate::proto::{Generation, Generations as GenerationsRow, Heat, Room};
use crate::tables::{Generations, Index, Rooms};

/// Bits of a logarithm that its place in the index does not tell.
const REST_BITS: u32 = LOG_BITS - PLACE_BITS;

/// How far a carried room may be from where its generation's shift says, because its sum was rounded: 2^-12 half-lives.
const SHIFT_SLACK: i64 = 1 << 20;

/// Below this a carried room may have lost what it had: 256 half-lives after 1970.
const CARRIED_FROM: u64 = 256 << LOG_BITS;

fn generations(cx: &ReadContext<'_>) -> Result<GenerationsRow, StoreError> {
    Ok(cx.reader.get::<Generations>(&())?.unwrap_or_default())
}

/// The room as it is in the generation in force.
fn row(
    cx: &ReadContext<'_>,
    generations: &GenerationsRow,
    room: &str,
) -> Result<Option<(Room, Generation)>, StoreError> {
    let row = cx.reader.get::<Rooms>(&(cx.app, room))?;
    Ok(row.and_then(|mut row| row.carry_over(generations).map(|generation| (row, generation))))
}

pub(crate) fn room(cx: &ReadContext<'_>, room: &str, out: &mut Map<String, Json>) -> Result<bool, StoreError> {
    let found = row(cx, &generations(cx)?, room)?;
    let heat = found.as_ref().map_or_else(Heat::default, |(row, generation)| Heat {
        score: row.score(generation, List::Heat, cx.at_ms),
        recommended: row.score(generation, List::Recommended, cx.at_ms),
        too_late: row.too_late,
        saturated: row.saturated,
    });
    out.insert("heat".to_owned(), json(&heat));
    Ok(found.is_some())
}

/// Visits the best rooms, and a few more: those of the last place of the index that may hold one of them.
///
/// The score is the logarithm of the room's sum, which is the same at every time: so is the order of rooms, and a page
/// goes on where the one before ended, however long ago that was.
pub(crate) fn rank_rooms(
    cx: &ReadContext<'_>,
    query: RankQuery<'_>,
    visit: &mut dyn FnMut(RankedRoom),
) -> Result<(), StoreError> {
    let list = list_of(query.sort);
    let generations = generations(cx)?;
    let mut ranking = Ranking { cx, query, list, generations: &generations, best: BinaryHeap::new(), visit };
    with_shifts(&generations, |generation, shift| ranking.scan(generation, shift))
}

fn list_of(sort: &str) -> List {
    if sort == "recommended" { List::Recommended } else { List::Heat }
}

/// Visits the generations, the one in force first, each other one with how far its rooms move when they are carried
/// over to that.
fn with_shifts(
    generations: &GenerationsRow,
    mut visit: impl FnMut(&Generation, Option<i64>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut shift = 0_i64;
    let mut later: Option<&Generation> = None;
    for generation in generations.generations.iter().rev() {
        if let Some(later) = later {
            shift = shift.saturating_add(generation.shift_to(later));
        }
        visit(generation, later.map(|_| shift))?;
        later = Some(generation);
    }
    Ok(())
}

/// What a room is ranked by: one read.
pub(crate) fn room_score(cx: &ReadContext<'_>, sort: &str, room: &str) -> Result<Option<u64>, StoreError> {
    let list = list_of(sort);
    let found = row(cx, &generations(cx)?, room)?;
    let listed = found.filter(|(row, _)| list == List::Heat || row.recommended_place.is_some());
    Ok(listed.map(|(row, generation)| row.log(&generation, list, LOG_BITS)))
}

/// Counts the rooms before a place. The index tells it of nearly all of them; rooms are read only where their place in it
/// is the one that is asked about, and those of generations before the one in force.
pub(crate) fn rooms_before(cx: &ReadContext<'_>, sort: &str, (score, name): (u64, &str)) -> Result<u64, StoreError> {
    let list = list_of(sort);
    let generations = generations(cx)?;
    let mut before = 0;
    with_shifts(&generations, |generation, shift| {
        cx.reader.try_scan_from::<Index>(&(cx.app, list as u8, generation.number), None, |(.., inverted, room), _| {
            let (lowest, highest) = bounds(u64::MAX - inverted, shift);
            if highest < score {
                return Ok(ControlFlow::Break(()));
            }
            if shift.is_none() && lowest > score {
                before += 1;
                return Ok(ControlFlow::Continue(()));
            }
            let own = row(cx, &generations, room)?.map(|(row, generation)| row.log(&generation, list, LOG_BITS));
            before += u64::from(own.is_some_and(|own| own > score || own == score && room < name));
            Ok(ControlFlow::Continue(()))
        })
    })?;
    Ok(before)
}

struct Ranking<'a, 'r> {
    cx: &'a ReadContext<'r>,
    query: RankQuery<'a>,
    list: List,
    generations: &'a GenerationsRow,
    /// The scores of the best so far, the worst on top.
    best: BinaryHeap<Reverse<u64>>,
    visit: &'a mut dyn FnMut(RankedRoom),
}

impl Ranking<'_, '_> {
    /// Walks down one generation of the index until no room of it can be among the best. Rooms of one before the one in
    /// force are carried over when they are read; `shift` tells by how much that moves them.
    fn scan(&mut self, generation: &Generation, shift: Option<i64>) -> Result<(), StoreError> {
        let (cx, app) = (self.cx, self.cx.app);
        let (list, number) = (self.list, generation.number);
        // Rooms before the page need not be walked over, where the index is in order of the scores.
        let from = self.query.after.filter(|_| shift.is_none()).map(|(score, _)| score >> REST_BITS);
        let from = from.map(|place| index_key(app, list, number, place, ""));
        cx.reader.try_scan_from::<Index>(&(app, list as u8, number), from.as_ref(), |(.., inverted, room), _| {
            let (lowest, highest) = bounds(u64::MAX - inverted, shift);
            let worst = self.best.peek().filter(|_| self.best.len() >= self.query.keep);
            let least = worst.map_or(self.query.score_min, |Reverse(worst)| self.query.score_min.max(*worst));
            if self.query.keep == 0 || highest < least {
                return Ok(ControlFlow::Break(()));
            }
            if self.query.after.is_none_or(|(score, _)| lowest <= score) {
                self.offer(room)?;
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    fn offer(&mut self, room: &str) -> Result<(), StoreError> {
        let Some((row, generation)) = row(self.cx, self.generations, room)? else { return Ok(()) };
        let ranked = RankedRoom { room: room.to_owned(), score: row.log(&generation, self.list, LOG_BITS) };
        if self.query.wants(&ranked) {
            self.best.push(Reverse(ranked.score));
            if self.best.len() > self.query.keep {
                self.best.pop();
            }
            (self.visit)(ranked);
        }
        Ok(())
    }
}

/// The lowest and the highest score of rooms in a place of the index.
fn bounds(place: u64, shift: Option<i64>) -> (u64, u64) {
    let (lowest, highest) = (place << REST_BITS, (place << REST_BITS) | ((1 << REST_BITS) - 1));
    let Some(shift) = shift else { return (lowest, highest) };
    let moved = |score: u64, slack: i64| score.saturating_add_signed(shift.saturating_add(slack));
    let (lowest, highest) = (moved(lowest, -SHIFT_SLACK), moved(highest, SHIFT_SLACK));
    (if highest < CARRIED_FROM { 0 } else { lowest }, highest)
}
