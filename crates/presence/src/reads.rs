//! Answers from one snapshot.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::ops::ControlFlow;

use barrage_projection::{RankedRoom, ReadContext, ReaderExt as _, StoreError, ViewersPage};
use serde::Serialize;
use serde_json::{Map, Value as Json};

use crate::crowd;
use crate::member::Changes;
use crate::proto::{Chunk, Member, Moment, MomentKind, Room, RoomOnline, Viewer, Watch};
use crate::room::{RING_ENTRIES, RING_ROWS, ended_since, idle_ms};
use crate::tables::{Accounts, Chunks, Members, Recent, Rooms};

/// Members that are listed as recent.
const RECENT_MAX: usize = 1_000;

fn json(value: &impl Serialize) -> Json {
    // Structs of numbers and texts always serialise.
    serde_json::to_value(value).unwrap_or_default()
}

fn chunk(cx: &ReadContext<'_>, room: &str, number: u32) -> Result<Chunk, StoreError> {
    Ok(cx.reader.get::<Chunks>(&(cx.app, room, number))?.unwrap_or_default())
}

pub(crate) fn room(cx: &ReadContext<'_>, room: &str, out: &mut Map<String, Json>) -> Result<bool, StoreError> {
    let Some(row) = cx.reader.get::<Rooms>(&(cx.app, room))? else { return Ok(false) };
    let level = crowd::level_at(&row, cx.at_ms, |number| chunk(cx, room, number))?;
    let answer = RoomOnline {
        now: level.now(),
        peak: level.peak,
        peak_at: if level.peak == 0 { 0 } else { level.peak_at_ms },
        distinct: row.distinct,
        too_late: row.too_late,
    };
    out.insert("online".to_owned(), json(&answer));
    Ok(true)
}

pub(crate) fn user(cx: &ReadContext<'_>, account: &str, out: &mut Map<String, Json>) -> Result<bool, StoreError> {
    let Some(row) = cx.reader.get::<Accounts>(&(cx.app, account))? else { return Ok(false) };
    let open = row.rooms.iter().filter(|room| room.is_open() && !room.told_gone);
    let mut rooms: Vec<&str> = open.map(|room| room.group_id.as_str()).collect();
    rooms.sort_unstable();
    out.insert("rooms".to_owned(), Json::from(rooms));
    Ok(true)
}

pub(crate) fn rank_rooms(cx: &ReadContext<'_>, visit: &mut dyn FnMut(RankedRoom)) -> Result<(), StoreError> {
    let mut failed = None;
    cx.reader.scan::<Rooms>(&(cx.app,), |(_, room), row| {
        match crowd::count_at(&row, cx.at_ms, |number| chunk(cx, room, number)) {
            Ok(score) => {
                visit(RankedRoom { room: room.to_owned(), score });
                ControlFlow::Continue(())
            }
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    failed.map_or(Ok(()), Err)
}

fn viewer(cx: &ReadContext<'_>, room: &Room, account: &str, mut member: Member) -> Viewer {
    if let Some(at_ms) = ended_since(room, &member) {
        member.insert(Moment { at_ms, kind: MomentKind::Ended.into(), uncertain_ms: 0 });
    }
    let idle_ms = idle_ms(cx.rules);
    let stay = member.walk(cx.at_ms, idle_ms, &mut Changes::none());
    let (ms, lower_ms, upper_ms) = stay.watched(cx.at_ms, idle_ms, cx.rules.duration.native_detection_ms);
    Viewer {
        account: account.to_owned(),
        online: stay.on && stay.silent_from(idle_ms).is_none_or(|silent_ms| silent_ms > cx.at_ms),
        joined_at: member.joined_ms,
        watch: Some(Watch { ms, lower_ms, upper_ms }),
    }
}

/// What a page's viewers are ordered by, and its token.
fn token(text: &str) -> Option<(u64, &str)> {
    let (score, account) = text.split_once('.')?;
    Some((score.parse().ok()?, account))
}

/// Members of a room by `recent` or `watch`, highest first, equal ones by account. The token of a page is the last score
/// and account of the page before.
pub(crate) fn viewers(
    cx: &ReadContext<'_>,
    name: &str,
    sort: &str,
    limit: usize,
    after: Option<&str>,
) -> Result<Option<ViewersPage>, StoreError> {
    let after = match after.map(token) {
        None => None,
        Some(Some((score, account))) => Some((Reverse(score), account)),
        Some(None) => return Ok(None),
    };
    let Some(room) = cx.reader.get::<Rooms>(&(cx.app, name))? else { return Ok(Some(ViewersPage::default())) };
    // The worst of the best on top; one more than asked for tells whether there is a next page.
    let mut best: BinaryHeap<(Reverse<u64>, String)> = BinaryHeap::new();
    let mut offer = |score: u64, account: &str| {
        let rank = (Reverse(score), account);
        if after.is_none_or(|after| rank > after) {
            let worst = best.peek().map(|(score, account)| (*score, account.as_str()));
            if best.len() <= limit || worst.is_some_and(|worst| rank < worst) {
                best.push((rank.0, account.to_owned()));
                if best.len() > limit + 1 {
                    best.pop();
                }
            }
        }
    };
    if sort == "recent" {
        for (joined_ms, account) in recent(cx, &room, name)? {
            offer(joined_ms, &account);
        }
    } else {
        cx.reader.scan::<Members>(&(cx.app, name), |(_, _, account), member| {
            offer(viewer(cx, &room, account, member).watch.map_or(0, |watch| watch.ms), account);
            ControlFlow::Continue(())
        })?;
    }
    let mut ranked = best.into_sorted_vec();
    let more = ranked.len() > limit;
    ranked.truncate(limit);
    let next = ranked.last().filter(|_| more).map(|(Reverse(score), account)| format!("{score}.{account}"));
    let mut page = ViewersPage { viewers: Vec::with_capacity(ranked.len()), next };
    for (_, account) in ranked {
        let member = cx.reader.get::<Members>(&(cx.app, name, &account))?.unwrap_or_default();
        if let Json::Object(fields) = json(&viewer(cx, &room, &account, member)) {
            page.viewers.push(fields);
        }
    }
    Ok(Some(page))
}

/// The members that came last, with when they did.
fn recent(cx: &ReadContext<'_>, room: &Room, name: &str) -> Result<Vec<(u64, String)>, StoreError> {
    let mut seen = HashSet::new();
    let mut list = Vec::new();
    let newest = room.joins.saturating_sub(1) / RING_ENTRIES;
    for back in 0..RING_ROWS {
        let Some(row) = newest.checked_sub(back) else { break };
        let place = u32::try_from(row % RING_ROWS).unwrap_or(0);
        let row = cx.reader.get::<Recent>(&(cx.app, name, place))?.unwrap_or_default();
        for entry in row.members.into_iter().rev() {
            if list.len() < RECENT_MAX && seen.insert(entry.account.clone()) {
                list.push((u64::try_from(entry.joined_ms).unwrap_or(0), entry.account));
            }
        }
    }
    Ok(list)
}
