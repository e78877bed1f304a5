//! Answers from one snapshot.

use std::collections::HashMap;
use std::ops::ControlFlow;

use barrage_projection::{RankedRoom, ReadContext, ReaderExt as _, StoreError, TopViewers, ViewersPage, json};
use serde_json::{Map, Value as Json};

use crate::crowd;
use crate::member::Changes;
use crate::proto::{Chunk, Ended, Member, Room, RoomOnline, Viewer, Watch};
use crate::room::{RING_ENTRIES, RING_ROWS, ended_since, idle};
use crate::tables::{Accounts, Chunks, Members, Recent, Rooms};

/// Members that are listed as recent.
const RECENT_MAX: usize = 1_000;

fn chunk(cx: &ReadContext<'_>, room: &str, number: u32) -> Result<Chunk, StoreError> {
    Ok(cx.reader.get::<Chunks>(&(cx.app, room, number))?.unwrap_or_default())
}

/// A room by the rules in force.
fn room_row(cx: &ReadContext<'_>, room: &str) -> Result<Option<Room>, StoreError> {
    let mut row = cx.reader.get::<Rooms>(&(cx.app, room))?;
    if let Some(row) = &mut row {
        crowd::follow_idle(row, cx.rules.presence.idle_timeout_ms);
    }
    Ok(row)
}

/// A room without a row has the fields too, so that an answer always has the same form.
pub(crate) fn room(cx: &ReadContext<'_>, room: &str, out: &mut Map<String, Json>) -> Result<bool, StoreError> {
    let found = room_row(cx, room)?;
    let known = found.is_some();
    let row = found.unwrap_or_default();
    let level = crowd::level_at(&row, cx.at_ms, |number| chunk(cx, room, number))?;
    let answer = RoomOnline {
        now: level.now(),
        peak: level.peak,
        peak_at: if level.peak == 0 { 0 } else { level.peak_at_ms },
        distinct: row.distinct,
        too_late: row.too_late,
    };
    out.insert("online".to_owned(), json(&answer));
    Ok(known)
}

pub(crate) fn user(cx: &ReadContext<'_>, account: &str, out: &mut Map<String, Json>) -> Result<bool, StoreError> {
    let found = cx.reader.get::<Accounts>(&(cx.app, account))?;
    let known = found.is_some();
    let row = found.unwrap_or_default();
    let open = row.rooms.iter().filter(|room| room.is_open(cx.at_ms));
    let mut rooms: Vec<&str> = open.map(|room| room.group_id.as_str()).collect();
    rooms.sort_unstable();
    out.insert("rooms".to_owned(), Json::from(rooms));
    Ok(known)
}

pub(crate) fn rank_rooms(cx: &ReadContext<'_>, visit: &mut dyn FnMut(RankedRoom)) -> Result<(), StoreError> {
    cx.reader.try_scan_from::<Rooms>(&(cx.app,), None, |(_, room), mut row| {
        crowd::follow_idle(&mut row, cx.rules.presence.idle_timeout_ms);
        visit(RankedRoom { room: room.to_owned(), score: score(cx, room, &row)? });
        Ok(ControlFlow::Continue(()))
    })
}

/// What a room is ranked by.
pub(crate) fn room_score(cx: &ReadContext<'_>, room: &str) -> Result<Option<u64>, StoreError> {
    let row = room_row(cx, room)?;
    row.map(|row| score(cx, room, &row)).transpose()
}

fn score(cx: &ReadContext<'_>, room: &str, row: &Room) -> Result<u64, StoreError> {
    crowd::count_at(row, cx.at_ms, |number| chunk(cx, room, number))
}

fn viewer(cx: &ReadContext<'_>, room: &Room, account: &str, mut member: Member) -> Viewer {
    let ended = ended_since(room, &member);
    // As in the room's count: an end that another idle time-out has placed is void, and one that was not placed is none. Those
    // of before a disbanding count up to that.
    let before = |ended: &Ended| cx.at_ms < ended.at_ms && ended.era <= member.era.saturating_add(1);
    let counts = member.era == room.era || room.ended.iter().any(before);
    let idle_ms = idle(member.idle_ms).filter(|_| counts);
    if let Some(ended) = ended {
        member.insert(ended.moment());
    }
    let stay = member.walk(cx.at_ms, idle(member.idle_ms), &mut Changes::default());
    let (ms, lower_ms, upper_ms) = stay.watched(cx.at_ms, idle_ms, cx.rules.duration.native_detection_ms);
    // Whose stay ended in the time for which a disbanding counts late was out by then.
    let out_ms = room.ended.iter().map(|ended| stay.behind(ended)).max().unwrap_or(0);
    let lower_ms = lower_ms.saturating_sub(out_ms);
    Viewer {
        account: account.to_owned(),
        online: stay.on && stay.silent_from(idle_ms).is_none_or(|silent_ms| silent_ms > cx.at_ms),
        joined_at: stay.joined_ms,
        watch: Some(Watch { ms, lower_ms, upper_ms }),
    }
}

/// Members of a room by `recent` or `watch`.
pub(crate) fn viewers(
    cx: &ReadContext<'_>,
    name: &str,
    sort: &str,
    limit: usize,
    after: Option<&str>,
) -> Result<Option<ViewersPage>, StoreError> {
    let Some(mut top) = TopViewers::new(limit, after) else { return Ok(None) };
    let Some(room) = room_row(cx, name)? else { return Ok(Some(ViewersPage::default())) };
    if sort == "recent" {
        for (joined_ms, account) in recent(cx, &room, name)? {
            top.offer(joined_ms, &account);
        }
    } else {
        cx.reader.scan::<Members>(&(cx.app, name), |(_, _, account), member| {
            top.offer(viewer(cx, &room, account, member).watch.map_or(0, |watch| watch.ms), account);
            ControlFlow::Continue(())
        })?;
    }
    let (accounts, next) = top.finish();
    let mut page = ViewersPage { viewers: Vec::with_capacity(accounts.len()), next };
    for account in accounts {
        let member = cx.reader.get::<Members>(&(cx.app, name, &account))?.unwrap_or_default();
        if let Json::Object(fields) = json(&viewer(cx, &room, &account, member)) {
            page.viewers.push(fields);
        }
    }
    Ok(Some(page))
}

/// The members that came last, with when they did. The ring is in the order in which that was told, which decides nothing but
/// what has left it.
fn recent(cx: &ReadContext<'_>, room: &Room, name: &str) -> Result<Vec<(u64, String)>, StoreError> {
    let mut joined: HashMap<String, u64> = HashMap::new();
    let newest = room.joins.saturating_sub(1) / RING_ENTRIES;
    for back in 0..RING_ROWS {
        let Some(row) = newest.checked_sub(back) else { break };
        let place = u32::try_from(row % RING_ROWS).unwrap_or(0);
        let row = cx.reader.get::<Recent>(&(cx.app, name, place))?.unwrap_or_default();
        for entry in row.members {
            let joined_ms = u64::try_from(entry.joined_ms).unwrap_or(0);
            let last_ms = joined.entry(entry.account).or_insert(joined_ms);
            *last_ms = joined_ms.max(*last_ms);
        }
    }
    let mut list: Vec<(u64, String)> = joined.into_iter().map(|(account, joined_ms)| (joined_ms, account)).collect();
    list.sort_unstable_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    list.truncate(RECENT_MAX);
    Ok(list)
}
