//! Answers from one snapshot.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::ControlFlow;

use barrage_projection::{
    ListId, RankList, RankQuery, RankedRoom, ReadContext, Reader, ReaderExt as _, StoreError, Table as _, TellStands,
    json,
};
use serde_json::{Map, Value as Json};

use crate::epochs::{LOG_BITS, List};
use crate::proto::{Generation, Generations as GenerationsRow, Heat, Room};
use crate::tables::{Generations, Recent, Rooms};

/// How far a carried room may be from where its generation's shift says, because its sum was rounded: 2^-12 half-lives.
const SHIFT_SLACK: i64 = 1 << 20;

/// Below this a carried room may have lost what it had: 256 half-lives after 1970.
const CARRIED_FROM: u64 = 256 << LOG_BITS;

fn generations(cx: &ReadContext<'_>) -> Result<GenerationsRow, StoreError> {
    let mut row = cx.reader.get::<Generations>(&())?.unwrap_or_default();
    row.settle(cx.at_ms);
    Ok(row)
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

/// Visits the best rooms, and a few more of generations before the one in force.
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

/// Number of the half-life that the scores are counted in.
pub(crate) fn ranking_generation(cx: &ReadContext<'_>) -> Result<u32, StoreError> {
    Ok(generations(cx)?.generations.last().map_or(0, |generation| generation.number))
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

/// What a room is ranked by: one read. A room that was cut off at the end of its list is not ranked, whatever it is worth.
pub(crate) fn room_score(cx: &ReadContext<'_>, sort: &str, room: &str) -> Result<Option<u64>, StoreError> {
    let list = list_of(sort);
    let Some(mut row) = cx.reader.get::<Rooms>(&(cx.app, room))? else { return Ok(None) };
    let generations = generations(cx)?;
    let stands = row.stands().into_iter().any(|stand| {
        let own = generations.from(stand.generation).first().filter(|_| stand.list == list as u8);
        own.and_then(|own| list_in(cx, list, own)).is_some_and(|ranked| ranked.has(stand.score, room))
    });
    let generation = row.carry_over(&generations).filter(|_| stands);
    Ok(generation.map(|generation| row.log(&generation, list)))
}

/// The list of a generation.
fn list_in<'r>(cx: &ReadContext<'r>, list: List, generation: &Generation) -> Option<&'r RankList> {
    cx.reader.rankings().list(ListId { table: Rooms::ID, app: cx.app, list: list as u8, generation: generation.number })
}

/// Counts the rooms before a place. Rooms are read only where they are of a generation before the one in force, and
/// their shift does not tell on which side of the place they are.
pub(crate) fn rooms_before(cx: &ReadContext<'_>, sort: &str, (score, name): (u64, &str)) -> Result<u64, StoreError> {
    let list = list_of(sort);
    let generations = generations(cx)?;
    let mut before = 0;
    with_shifts(&generations, |generation, shift| {
        let Some(ranked) = list_in(cx, list, generation) else { return Ok(()) };
        let Some(shift) = shift else {
            before += ranked.before(score, name) as u64;
            return Ok(());
        };
        for (own, room) in ranked.behind(None) {
            let (lowest, highest) = carried_bounds(own, shift);
            if highest < score {
                break;
            }
            before += u64::from(if lowest > score {
                true
            } else {
                let own = row(cx, &generations, room)?.map(|(row, generation)| row.log(&generation, list));
                own.is_some_and(|own| own > score || own == score && room < name)
            });
        }
        Ok(())
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
    /// Walks down one generation's list until no room of it can be among the best. Rooms of one before the one in force
    /// are carried over when they are read; `shift` tells by how much that moves them.
    fn scan(&mut self, generation: &Generation, shift: Option<i64>) -> Result<(), StoreError> {
        let Some(ranked) = list_in(self.cx, self.list, generation) else { return Ok(()) };
        // Rooms before the page need not be walked over, where the list is in order of the scores.
        for (own, room) in ranked.behind(self.query.after.filter(|_| shift.is_none())) {
            let (lowest, highest) = shift.map_or((own, own), |shift| carried_bounds(own, shift));
            let worst = self.best.peek().filter(|_| self.best.len() >= self.query.keep);
            let least = worst.map_or(self.query.score_min, |Reverse(worst)| self.query.score_min.max(*worst));
            if self.query.keep == 0 || highest < least || shift.is_none() && self.best.len() >= self.query.keep {
                break;
            }
            if shift.is_none() {
                self.offer(room, own);
            } else if self.query.after.is_none_or(|(score, _)| lowest <= score)
                && let Some((row, generation)) = row(self.cx, self.generations, room)?
            {
                self.offer(room, row.log(&generation, self.list));
            }
        }
        Ok(())
    }

    fn offer(&mut self, room: &str, score: u64) {
        let ranked = RankedRoom { room: room.to_owned(), score };
        if self.query.wants(&ranked) {
            self.best.push(Reverse(score));
            if self.best.len() > self.query.keep {
                self.best.pop();
            }
            (self.visit)(ranked);
        }
    }
}

/// The lowest and the highest score that a room of a generation before the one in force has when it is carried over.
fn carried_bounds(own: u64, shift: i64) -> (u64, u64) {
    let moved = |slack: i64| own.saturating_add_signed(shift.saturating_add(slack));
    let (lowest, highest) = (moved(-SHIFT_SLACK), moved(SHIFT_SLACK));
    (if highest < CARRIED_FROM { 0 } else { lowest }, highest)
}

/// Reads the rankings again, from the rooms of the last hours on.
pub(crate) fn read_rankings(reader: &dyn Reader, stands: &mut TellStands<'_>) -> Result<(), StoreError> {
    reader.try_scan_from::<Recent>(&(), None, |(_, app, room), _| {
        let row = reader.get::<Rooms>(&(app, room))?;
        let listed = row.map(|row| row.stands()).filter(|stands| !stands.is_empty());
        Ok(listed.map_or(ControlFlow::Continue(()), |listed| stands(Rooms::ID, app, room, listed)))
    })
}
