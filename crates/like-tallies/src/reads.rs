//! Answers from one snapshot.

use std::ops::ControlFlow;

use barrage_projection::{
    RankedRoom, ReadContext, ReaderExt as _, StoreError, TopViewers, ViewersPage, ViewersWindow, json,
};
use serde_json::{Map, Value as Json};

use crate::proto::{GiftTally, LikeTally, MembershipTally, Totals, Viewer, ViewerGifts, ViewerLikes};
use crate::tables::{Accounts, Kept, Rooms, Viewers};
use crate::totals::{HOUR_MS, hour_of};

/// A room or account without a row has the fields too, so that an answer always has the same form.
fn put(totals: Option<Totals>, out: &mut Map<String, Json>) -> bool {
    let known = totals.is_some();
    let Totals { likes, gifts, memberships } = totals.unwrap_or_default();
    let (l, g, m) = (likes.unwrap_or_default(), gifts.unwrap_or_default(), memberships.unwrap_or_default());
    let capped = l.named.saturating_sub(l.count);
    let likes = LikeTally {
        messages: l.messages,
        attempted: l.named.saturating_add(l.rejected),
        count: l.count,
        capped,
        capped_per_message: l.capped_message,
        capped_per_second: capped.saturating_sub(l.capped_message),
        rejected: l.rejected,
        too_late: l.too_late,
        saturated: l.saturated,
    };
    let gifts = GiftTally {
        messages: g.messages,
        count: g.count,
        value: g.value,
        too_late: g.too_late,
        saturated: g.saturated,
    };
    let memberships = MembershipTally { count: m.count, months: m.months, value: m.value, saturated: m.saturated };
    out.insert("likes".to_owned(), json(&likes));
    out.insert("gifts".to_owned(), json(&gifts));
    out.insert("memberships".to_owned(), json(&memberships));
    known
}

pub(crate) fn room(cx: &ReadContext<'_>, room: &str, out: &mut Map<String, Json>) -> Result<bool, StoreError> {
    Ok(put(cx.reader.get::<Rooms>(&(cx.app, room))?, out))
}

pub(crate) fn user(cx: &ReadContext<'_>, account: &str, out: &mut Map<String, Json>) -> Result<bool, StoreError> {
    let row = cx.reader.get::<Accounts>(&(cx.app, account))?;
    Ok(put(row.map(|row| row.totals.unwrap_or_default()), out))
}

pub(crate) fn rank_rooms(
    cx: &ReadContext<'_>,
    sort: &str,
    visit: &mut dyn FnMut(RankedRoom),
) -> Result<(), StoreError> {
    cx.reader.scan::<Rooms>(&(cx.app,), |(_, room), row| {
        visit(RankedRoom { room: room.to_owned(), score: score(sort, &row) });
        ControlFlow::Continue(())
    })
}

/// What a room is ranked by.
pub(crate) fn room_score(cx: &ReadContext<'_>, sort: &str, room: &str) -> Result<Option<u64>, StoreError> {
    Ok(cx.reader.get::<Rooms>(&(cx.app, room))?.map(|row| score(sort, &row)))
}

fn score(sort: &str, room: &Totals) -> u64 {
    match sort {
        "likes" => room.likes.map_or(0, |likes| likes.count),
        _ => room.gifts.map_or(0, |gifts| gifts.value),
    }
}

/// What a viewer is ranked by, and what is said of it.
#[derive(Debug, Clone, Copy, Default)]
struct Did {
    likes: u64,
    gift_count: u64,
    gift_value: u64,
}

impl Did {
    fn in_all(row: &Viewer) -> Self {
        Self { likes: row.likes, gift_count: row.gift_count, gift_value: row.gift_value }
    }

    fn in_hours(row: &Viewer, hours: &std::ops::Range<u32>) -> Self {
        row.hours.iter().filter(|hour| hours.contains(&hour.hour)).fold(Self::default(), |sum, hour| Self {
            likes: sum.likes.saturating_add(hour.likes),
            gift_count: sum.gift_count.saturating_add(hour.gift_count),
            gift_value: sum.gift_value.saturating_add(hour.gift_value),
        })
    }

    fn score(&self, sort: &str) -> u64 {
        if sort == "likes" { self.likes } else { self.gift_value }
    }
}

/// The viewers with the most likes or the greatest gift value, equal ones by account; who has none is left out.
pub(crate) fn viewers(
    cx: &ReadContext<'_>,
    room: &str,
    sort: &str,
    limit: usize,
    after: Option<&str>,
) -> Result<Option<ViewersPage>, StoreError> {
    let Some((best, next)) = top(cx, room, (limit, after), |row| Did::in_all(row).score(sort))? else {
        return Ok(None);
    };
    let viewers = best.into_iter().map(|(account, row)| {
        let likes = ViewerLikes { count: row.likes, capped: Some(row.likes_named.saturating_sub(row.likes)) };
        let gifts = ViewerGifts { count: row.gift_count, value: row.gift_value, messages: Some(row.gift_messages) };
        let mut fields = described(account, &likes, &gifts);
        fields.insert("memberships".to_owned(), row.memberships.into());
        fields
    });
    Ok(Some(ViewersPage { viewers: viewers.collect(), next }))
}

/// The same by what they did in the hours that overlap [`from_ms`, `to_ms`), as far back as every viewer keeps them: rows
/// that were not touched lately may have older ones still.
pub(crate) fn viewers_between(
    cx: &ReadContext<'_>,
    room: &str,
    sort: &str,
    (from_ms, to_ms): (i64, i64),
    (limit, after): (usize, Option<&str>),
) -> Result<Option<ViewersWindow>, StoreError> {
    let first = hour_of(from_ms);
    // One past the hour that the last ms of the span lies in; none where the span is empty.
    let end = if to_ms > from_ms.max(0) { hour_of(to_ms - 1).saturating_add(1) } else { first };
    let kept_from = cx.reader.get::<Kept>(&())?.map_or(0, |kept| kept.hours_from);
    let first = first.max(kept_from).min(end);
    let hours = first..end;
    let span = (i64::from(first) * HOUR_MS, i64::from(end) * HOUR_MS);
    let Some((best, next)) = top(cx, room, (limit, after), |row| Did::in_hours(row, &hours).score(sort))? else {
        return Ok(None);
    };
    let viewers = best.into_iter().map(|(account, row)| {
        let did = Did::in_hours(&row, &hours);
        let likes = ViewerLikes { count: did.likes, capped: None };
        let gifts = ViewerGifts { count: did.gift_count, value: did.gift_value, messages: None };
        described(account, &likes, &gifts)
    });
    Ok(Some(ViewersWindow { page: ViewersPage { viewers: viewers.collect(), next }, span }))
}

fn described(account: String, likes: &ViewerLikes, gifts: &ViewerGifts) -> Map<String, Json> {
    Map::from_iter([
        ("account".to_owned(), Json::from(account)),
        ("likes".to_owned(), json(likes)),
        ("gifts".to_owned(), json(gifts)),
    ])
}

/// The best viewers of a room and the token of the next page.
type Best = (Vec<(String, Viewer)>, Option<String>);

fn top(
    cx: &ReadContext<'_>,
    room: &str,
    (limit, after): (usize, Option<&str>),
    score_of: impl Fn(&Viewer) -> u64,
) -> Result<Option<Best>, StoreError> {
    let Some(mut top) = TopViewers::new(limit, after) else { return Ok(None) };
    cx.reader.scan::<Viewers>(&(cx.app, room), |(_, _, account), row| {
        let score = score_of(&row);
        // An account that was not told is nobody's.
        if score > 0 && !account.is_empty() {
            top.offer(score, account);
        }
        ControlFlow::Continue(())
    })?;
    let (accounts, next) = top.finish();
    let mut rows = Vec::with_capacity(accounts.len());
    for account in accounts {
        let row = cx.reader.get::<Viewers>(&(cx.app, room, &account))?.unwrap_or_default();
        rows.push((account, row));
    }
    Ok(Some((rows, next)))
}
