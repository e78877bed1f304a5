//! Answers from one snapshot.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use barrage_event::MessageKind;
use barrage_projection::{
    MinutesPage, RankedRoom, ReadContext, ReaderExt as _, StoreError, Table, TopViewers, ViewersPage, json,
};
use serde_json::{Map, Value as Json};

use crate::proto::{KindTally, Minutes as Ten, Room, RoomMessages, Sender, SenderMessages, Slice};
use crate::retention::{DAY_MS, HOUR_MS, MINUTE_MS, MINUTES_PER_ROW};
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
    let whole = |number, slice: Slice| vec![(number, slice.tallies)];
    let minutes = |ten: u32, row: Ten| -> Vec<_> {
        let first = ten.saturating_mul(MINUTES_PER_ROW);
        row.minutes.into_iter().map(|one| (first.saturating_add(one.minute), one.tallies)).collect()
    };
    let mut scan = Scan { cx, row: &row, room, span, limit, page: &mut page };
    scan.table::<Days>(DAY_MS, 1, whole)?;
    scan.table::<Hours>(HOUR_MS, 1, whole)?;
    scan.table::<Minutes>(MINUTE_MS, MINUTES_PER_ROW, minutes)?;
    scan.slices(MINUTE_MS, minutes(row.open_ten, row.open.clone().unwrap_or_default()));
    while page.slices.len() > limit {
        page.slices.pop_last();
    }
    Ok(page)
}

/// Gathers a room's slices of a time.
struct Scan<'s> {
    cx: &'s ReadContext<'s>,
    row: &'s Room,
    room: &'s str,
    /// From and to, ms.
    span: (i64, i64),
    limit: usize,
    page: &'s mut MinutesPage,
}

impl Scan<'_> {
    /// Adds those of a table, of which so many lie in a row; `slices` takes a row apart, each slice with its number, in their
    /// order.
    fn table<T>(
        &mut self,
        width_ms: i64,
        per_row: u32,
        slices: impl Fn(u32, T::Value) -> Vec<(u32, Vec<KindTally>)>,
    ) -> Result<(), StoreError>
    where
        T: for<'a> Table<Key<'a> = (u32, &'a str, u32)>,
    {
        let (app, room) = (self.cx.app, self.room);
        let first = u32::try_from(self.span.0 / width_ms).unwrap_or(u32::MAX);
        let from = (app, room, first / per_row);
        let before = self.page.slices.len();
        self.cx.reader.scan_from::<T>(&(app, room), Some(&from), |(_, _, row), value| {
            let enough = self.page.slices.len() - before >= self.limit;
            if enough || i64::from(row) * i64::from(per_row) * width_ms >= self.span.1 {
                return ControlFlow::Break(());
            }
            self.slices(width_ms, slices(row, value));
            ControlFlow::Continue(())
        })
    }

    /// Adds the slices of a row that overlap the time.
    fn slices(&mut self, width_ms: i64, slices: Vec<(u32, Vec<KindTally>)>) {
        let (from_ms, to_ms) = self.span;
        for (number, tallies) in slices {
            let start_ms = i64::from(number) * width_ms;
            if start_ms < to_ms && start_ms + width_ms > from_ms {
                let fields = fields(self.cx, self.row, (number, width_ms), &tallies);
                self.page.slices.insert((start_ms, width_ms), fields);
            }
        }
    }
}

/// What is told of a slice.
fn fields(
    cx: &ReadContext<'_>,
    row: &Room,
    (number, width_ms): (u32, i64),
    tallies: &[KindTally],
) -> Map<String, Json> {
    let minutes_wide = u32::try_from(width_ms / MINUTE_MS).unwrap_or(1);
    let first_minute = number.saturating_mul(minutes_wide);
    let waiting = waiting(cx, row, first_minute..first_minute.saturating_add(minutes_wide));
    let mut fields = Map::new();
    fields.insert("messages".to_owned(), json(&room_messages(tallies, &waiting)));
    fields
}
