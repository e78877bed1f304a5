//! What is said of rooms and accounts: the fields of all statistics, put together.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use barrage_event::Offset;
use barrage_projection::{ReadContext, Statistic, ViewersPage};
use barrage_worker::Snapshot;
use serde_json::{Map, Value as Json, json};

use super::top::Top;
use crate::cursor;
use crate::error::{ApiError, Code};
use crate::question::{Fields, Place, Ranked, Slice};

/// Slices of a statistic that start before a time and reach beyond it: at most one of each width (minute, hour, day),
/// and one to spare.
const OVERLAPPING_MAX: usize = 4;

type Statistics = [Box<dyn Statistic>];

/// The fields that all statistics know of a room, or that there is none.
pub(super) fn room_fields(
    statistics: &Statistics,
    cx: &ReadContext<'_>,
    room: &str,
) -> Result<Map<String, Json>, ApiError> {
    let mut fields = Map::new();
    let mut known = false;
    for statistic in statistics {
        known |= statistic.room(cx, room, &mut fields)?;
    }
    if !known {
        return Err(unknown_room(cx.app, room));
    }
    fields.insert("room".to_owned(), room.into());
    Ok(fields)
}

fn unknown_room(app: u32, room: &str) -> ApiError {
    let room: String = room.chars().take(200).collect();
    ApiError::new(
        Code::UnknownRoom,
        format!("nothing was ever seen of room {room} of SdkAppid {app}"),
        "GET /v1/rooms lists rooms; `#` in a room's name is written %23 in a URL",
    )
}

pub(super) fn user_fields(
    statistics: &Statistics,
    cx: &ReadContext<'_>,
    account: &str,
) -> Result<Map<String, Json>, ApiError> {
    let mut fields = Map::new();
    let mut known = false;
    for statistic in statistics {
        known |= statistic.user(cx, account, &mut fields)?;
    }
    if !known {
        let account: String = account.chars().take(200).collect();
        let message = format!("nothing was ever seen of account {account} of SdkAppid {}", cx.app);
        let hint = "accounts are written as in From_Account, percent-encoded";
        return Err(ApiError::new(Code::UnknownUser, message, hint));
    }
    fields.insert("account".to_owned(), account.into());
    Ok(fields)
}

pub(super) fn slices(
    statistics: &Statistics,
    cx: &ReadContext<'_>,
    room: &str,
    (from, to): (i64, i64),
    (limit, after): (usize, Option<Slice>),
) -> Result<Map<String, Json>, ApiError> {
    room_fields(statistics, cx, room)?;
    let start = after.map_or(from, |(start, _)| start.max(from));
    let mut merged: BTreeMap<Slice, Map<String, Json>> = BTreeMap::new();
    for statistic in statistics {
        let page = statistic.minutes(cx, room, (start, to), limit + 1 + OVERLAPPING_MAX)?;
        for (slice, fields) in page.slices {
            if after.is_none_or(|after| slice > after) {
                merged.entry(slice).or_default().extend(fields);
            }
        }
    }
    let more = merged.len() > limit;
    let mut last = None;
    let slices: Vec<Json> = merged
        .into_iter()
        .take(limit)
        .map(|((start, width), mut fields)| {
            last = Some((start, width));
            fields.insert("start".to_owned(), start.into());
            fields.insert("width_ms".to_owned(), width.into());
            Json::Object(fields)
        })
        .collect();
    let mut fields =
        Map::from_iter([("room".to_owned(), Json::from(room)), ("minutes".to_owned(), Json::Array(slices))]);
    if let (true, Some(last)) = (more, last) {
        fields.insert("next".to_owned(), cursor::of_slice(last).into());
    }
    Ok(fields)
}

pub(super) fn viewers(
    statistics: &Statistics,
    cx: &ReadContext<'_>,
    room: &str,
    (sort, limit, after): (&str, usize, Option<&str>),
    asked: Option<(i64, i64)>,
) -> Result<Map<String, Json>, ApiError> {
    room_fields(statistics, cx, room)?;
    let mut answered = None;
    let page = match (statistics.iter().find(|s| s.viewer_sorts().contains(&sort)), asked) {
        (Some(statistic), None) => statistic.viewers(cx, room, sort, limit, after)?.ok_or_else(cursor::wrong)?,
        (Some(statistic), Some(asked)) => {
            let window = statistic.viewers_between(cx, room, sort, asked, (limit, after))?.ok_or_else(cursor::wrong)?;
            answered = Some(window.span);
            window.page
        }
        // No statistic ranks viewers at all.
        (None, _) if sort.is_empty() => ViewersPage::default(),
        (None, _) => return Err(unknown_sort(sort)),
    };
    let viewers = page.viewers.into_iter().map(Json::Object).collect();
    let mut fields = Map::from_iter([
        ("room".to_owned(), Json::from(room)),
        ("sort".to_owned(), sort.into()),
        ("viewers".to_owned(), Json::Array(viewers)),
    ]);
    if let Some((from_ms, to_ms)) = answered {
        fields.insert("from".to_owned(), from_ms.into());
        fields.insert("to".to_owned(), to_ms.into());
    }
    if let Some(next) = page.next {
        fields.insert("next".to_owned(), cursor::of_viewers(sort, asked, &next).into());
    }
    Ok(fields)
}

/// The process that was asked may be of another version than the one that read the request.
fn unknown_sort(sort: &str) -> ApiError {
    ApiError::parameter("sort", format!("`{sort}` is not known to the partition's owner"), "do both run one version?")
}

/// The best places of a ranking, and the generation of their scores.
pub(super) fn ranking(
    statistics: &Statistics,
    cx: &ReadContext<'_>,
    sort: &str,
    mut top: Top<'_>,
) -> Result<(Vec<Place>, u32), ApiError> {
    let (mut known, mut generation) = (sort.is_empty(), 0);
    for statistic in statistics.iter().filter(|s| s.room_sorts().contains(&sort)) {
        known = true;
        generation = statistic.ranking_generation(cx, sort)?;
        let query = top.query(sort);
        statistic.rank_rooms(cx, query, &mut |ranked| top.offer((Reverse(ranked.score), ranked.room)))?;
    }
    if known { Ok((top.into_places(), generation)) } else { Err(unknown_sort(sort)) }
}

/// Rooms of a ranking, best first. One that is not ranked any more is left out.
pub(super) fn ranked_rooms(
    statistics: &Statistics,
    cx: &ReadContext<'_>,
    sort: &str,
    rooms: &[String],
) -> Result<Vec<Ranked>, ApiError> {
    let mut ranked = Vec::with_capacity(rooms.len());
    for room in rooms {
        if let Some(score) = room_score(statistics, cx, sort, room)? {
            let fields = Fields::Made(room_fields(statistics, cx, room)?);
            ranked.push(Ranked { place: (Reverse(score), room.clone()), fields });
        }
    }
    ranked.sort_by(|a, b| a.place.cmp(&b.place));
    Ok(ranked)
}

/// What a room is ranked by; nothing when it is not ranked.
pub(super) fn room_score(
    statistics: &Statistics,
    cx: &ReadContext<'_>,
    sort: &str,
    room: &str,
) -> Result<Option<u64>, ApiError> {
    Ok(ranks_by(statistics, sort)?.room_score(cx, sort, room)?)
}

/// How many rooms stand before a place.
pub(super) fn rooms_before(
    statistics: &Statistics,
    cx: &ReadContext<'_>,
    sort: &str,
    (Reverse(score), name): &Place,
) -> Result<u64, ApiError> {
    Ok(ranks_by(statistics, sort)?.rooms_before(cx, sort, (*score, name))?)
}

fn ranks_by<'s>(statistics: &'s Statistics, sort: &str) -> Result<&'s dyn Statistic, ApiError> {
    let found = statistics.iter().find(|s| s.room_sorts().contains(&sort));
    found.map(|statistic| &**statistic).ok_or_else(|| unknown_sort(sort))
}

/// How many accounts there are at each level, by the one statistic that knows of levels.
pub(super) fn levels(statistics: &Statistics, cx: &ReadContext<'_>) -> Result<BTreeMap<u32, u64>, ApiError> {
    let mut counts = BTreeMap::new();
    for statistic in statistics {
        for (level, accounts) in statistic.levels(cx)? {
            let count: &mut u64 = counts.entry(level).or_default();
            *count = count.saturating_add(accounts);
        }
    }
    Ok(counts)
}

pub(super) fn dead_letters(snapshot: &Snapshot<'_>, from: Offset, limit: usize) -> Result<Vec<Fields>, ApiError> {
    let rows = snapshot.dead_letters(from, limit)?.into_iter().map(|letter| {
        let row = json!({
            "partition": snapshot.partition().to_string(),
            "offset": letter.offset.0,
            "projection": letter.projection,
            "reason": letter.reason,
            "command": letter.command,
            "id": hex(&letter.record_id),
            "log_time": letter.log_time_ms,
        });
        Fields::Made(if let Json::Object(row) = row { row } else { Map::new() })
    });
    Ok(rows.collect())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
