//! Answers from one snapshot.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use barrage_event::MessageKind;
use barrage_projection::{
    MinutesPage, RankedRoom, ReadContext, ReaderExt as _, StoreError, Table, TopViewers, ViewersPage, json,
};
use serde_json::{Map, Value as Json};

use crate::proto::{KindTally, Room, RoomMessages, Sender, SenderMessages, Slice};
use crate::retention::{DAY_MS, HOUR_MS, MINUTE_MS};
use crate::tables::{Days, Hours, Minutes, RoomSenders, Rooms, Senders};
use crate::tally::still_waits;

fn type_name(kind: u32) -> &'static str {
    MessageKind::from_wire(i32::try_from(kind).unwrap_or(0)).as_str()
}

/// Open messages by kind that still wait at the time asked for, of one minute range.
fn waiting(cx: &ReadContext<'_>, room: &Room, minutes: std::ops::Range<u32>) -> BTreeMap<u32, u64> {
    let mut counts = BTreeMap::new();
    for w in room.waiting.iter().filter(|w| minutes.contains(&w.minute)) {
        if still_waits(w.second, cx.rules.windows.join_ms, cx.at_ms) {
            *counts.entry(w.kind).or_insert(0) += w.count;
        }
    }
    counts
}

fn room_messages(tallies: &[KindTally], waiting: &BTreeMap<u32, u64>) -> RoomMessages {
    let mut answer = RoomMessages::default();
    for t in tallies {
        let name = type_name(t.kind);
        let throttled = t.open.saturating_sub(waiting.get(&t.kind).copied().unwrap_or(0));
        let add = |total: &mut u64, by_type: &mut BTreeMap<String, u64>, count: u64| {
            if count > 0 {
                *total = total.saturating_add(count);
                *by_type.entry(name.to_owned()).or_insert(0) += count;
            }
        };
        add(&mut answer.attempted, &mut answer.attempted_by_type, t.attempted);
        add(&mut answer.delivered, &mut answer.by_type, t.delivered);
        add(&mut answer.rejected, &mut answer.rejected_by_type, t.rejected);
        add(&mut answer.failed, &mut answer.failed_by_type, t.failed);
        add(&mut answer.throttled, &mut answer.throttled_by_type, throttled);
        add(&mut answer.unattempted, &mut answer.unattempted_by_type, t.unattempted);
    }
    answer
}

fn sender_messages(sender: &Sender) -> SenderMessages {
    SenderMessages {
        delivered: delivered(sender),
        by_type: sender.delivered.iter().map(|c| (type_name(c.kind).to_owned(), c.count)).collect(),
    }
}

fn delivered(sender: &Sender) -> u64 {
    sender.delivered.iter().fold(0, |sum, c| sum.saturating_add(c.count))
}

/// A room without a row has the fields too, so that an answer always has the same form.
pub(crate) fn room(cx: &ReadContext<'_>, room: &str, out: &mut Map<String, Json>) -> Result<bool, StoreError> {
    let found = cx.reader.get::<Rooms>(&(cx.app, room))?;
    let known = found.is_some();
    let row = found.unwrap_or_default();
    let mut messages = room_messages(&row.tallies, &waiting(cx, &row, 0..u32::MAX));
    messages.senders = Some(row.senders);
    out.insert("messages".to_owned(), json(&messages));
    Ok(known)
}

pub(crate) fn user(cx: &ReadContext<'_>, account: &str, out: &mut Map<String, Json>) -> Result<bool, StoreError> {
    let found = cx.reader.get::<Senders>(&(cx.app, account))?;
    let known = found.is_some();
    out.insert("messages".to_owned(), json(&sender_messages(&found.unwrap_or_default())));
    Ok(known)
}

pub(crate) fn rank_rooms(cx: &ReadContext<'_>, visit: &mut dyn FnMut(RankedRoom)) -> Result<(), StoreError> {
    cx.reader.scan::<Rooms>(&(cx.app,), |(_, room), row| {
        visit(RankedRoom { room: room.to_owned(), score: score(&row) });
        ControlFlow::Continue(())
    })
}

/// What a room is ranked by.
pub(crate) fn room_score(cx: &ReadContext<'_>, room: &str) -> Result<Option<u64>, StoreError> {
    Ok(cx.reader.get::<Rooms>(&(cx.app, room))?.map(|row| score(&row)))
}

fn score(room: &Room) -> u64 {
    room.tallies.iter().fold(0, |sum, tally| sum.saturating_add(tally.delivered))
}

/// Senders of a room, most delivered messages first.
pub(crate) fn viewers(
    cx: &ReadContext<'_>,
    room: &str,
    limit: usize,
    after: Option<&str>,
) -> Result<Option<ViewersPage>, StoreError> {
    let Some(mut top) = TopViewers::new(limit, after) else { return Ok(None) };
    cx.reader.scan::<RoomSenders>(&(cx.app, room), |(_, _, account), row| {
        top.offer(delivered(&row), account);
        ControlFlow::Continue(())
    })?;
    let (accounts, next) = top.finish();
    let mut page = ViewersPage { viewers: Vec::with_capacity(accounts.len()), next };
    for account in accounts {
        let row = cx.reader.get::<RoomSenders>(&(cx.app, room, &account))?.unwrap_or_default();
        let mut fields = Map::new();
        fields.insert("account".to_owned(), Json::from(account));
        fields.insert("messages".to_owned(), json(&sender_messages(&row)));
        page.viewers.push(fields);
    }
    Ok(Some(page))
}

/// Slices that overlap [`from_ms`, `to_ms`): minutes where the rules still keep them, else hours, else days.
pub(crate) fn minutes(
    cx: &ReadContext<'_>,
    room: &str,
    (from_ms, to_ms): (i64, i64),
    limit: usize,
) -> Result<MinutesPage, StoreError> {
    let mut page = MinutesPage::default();
    let row = cx.reader.get::<Rooms>(&(cx.app, room))?.unwrap_or_default();
    let span = (from_ms.max(0), to_ms.max(0));
    scan::<Days>(cx, &row, room, DAY_MS, span, limit, &mut page)?;
    scan::<Hours>(cx, &row, room, HOUR_MS, span, limit, &mut page)?;
    scan::<Minutes>(cx, &row, room, MINUTE_MS, span, limit, &mut page)?;
    while page.slices.len() > limit {
        page.slices.pop_last();
    }
    Ok(page)
}

fn scan<T>(
    cx: &ReadContext<'_>,
    row: &Room,
    room: &str,
    width_ms: i64,
    (from_ms, to_ms): (i64, i64),
    limit: usize,
    page: &mut MinutesPage,
) -> Result<(), StoreError>
where
    T: for<'a> Table<Key<'a> = (u32, &'a str, u32), Value = Slice>,
{
    let first = u32::try_from(from_ms / width_ms).unwrap_or(u32::MAX);
    let mut left = limit;
    cx.reader.scan_from::<T>(&(cx.app, room), Some(&(cx.app, room, first)), |(_, _, number), slice| {
        let start_ms = i64::from(number) * width_ms;
        if start_ms >= to_ms || left == 0 {
            return ControlFlow::Break(());
        }
        left -= 1;
        let minutes_wide = u32::try_from(width_ms / MINUTE_MS).unwrap_or(1);
        let first_minute = number.saturating_mul(minutes_wide);
        let waiting = waiting(cx, row, first_minute..first_minute.saturating_add(minutes_wide));
        let mut fields = Map::new();
        fields.insert("messages".to_owned(), json(&room_messages(&slice.tallies, &waiting)));
        page.slices.insert((start_ms, width_ms), fields);
        ControlFlow::Continue(())
    })
}
