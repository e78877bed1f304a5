//! `/v1/rooms/{room}/minutes`: slices of time. Old minutes are rolled up to hours and days, so each slice says its width.

use std::collections::BTreeMap;
use std::sync::Arc;

use barrage_event::Topic;
use serde_json::{Map, Value as Json};

use super::{cacheable, room_fields};
use crate::TIME_MS_MAX;
use crate::api::{Call, Inner, Reply};
use crate::cursor::{self, Kind};
use crate::error::ApiError;

/// Start and width of a slice, in ms.
type Slice = (i64, i64);

/// Slices of a statistic that start before a time and reach beyond it: at most one of each width (minute, hour, day),
/// and one to spare.
const OVERLAPPING_MAX: usize = 4;

pub(crate) async fn minutes(inner: Arc<Inner>, call: Call) -> Result<Reply, ApiError> {
    let app = inner.app(&call)?;
    let limit = call.params.limit()?;
    let from = call.params.time("from")?.unwrap_or(0);
    let to = call.params.time("to")?.unwrap_or(TIME_MS_MAX);
    if from > to {
        return Err(ApiError::parameter("from", "lies after `to`", "from and to are ms since the epoch, from <= to"));
    }
    let after = call.params.text("after").map(decode).transpose()?;
    inner.scan(move |inner| slices(inner, &call, app, (from, to), (limit, after))).await
}

fn slices(
    inner: &Inner,
    call: &Call,
    app: u32,
    (from, to): (i64, i64),
    (limit, after): (usize, Option<Slice>),
) -> Result<Reply, ApiError> {
    let start = after.map_or(from, |(start, _)| start.max(from));
    let (merged, seen) = inner.read_key(Topic::Room, app, call, |view| {
        room_fields(inner, view, app, &call.key)?;
        let cx = view.context(app);
        let mut merged: BTreeMap<Slice, Map<String, Json>> = BTreeMap::new();
        for statistic in inner.parts.stores.statistics() {
            let page = statistic.minutes(&cx, &call.key, (start, to), limit + 1 + OVERLAPPING_MAX)?;
            for (slice, fields) in page.slices {
                if after.is_none_or(|after| slice > after) {
                    merged.entry(slice).or_default().extend(fields);
                }
            }
        }
        Ok(merged)
    })?;
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
    let mut fields = Map::from_iter([
        ("room".to_owned(), Json::from(call.key.as_str())),
        ("minutes".to_owned(), Json::Array(slices)),
    ]);
    if let (true, Some(last)) = (more, last) {
        fields.insert("next".to_owned(), encode(last).into());
    }
    Ok(cacheable(call, &[seen], fields))
}

fn encode((start, width): Slice) -> String {
    cursor::encode(Kind::Minutes, "", &[start.to_be_bytes(), width.to_be_bytes()].concat())
}

fn decode(text: &str) -> Result<Slice, ApiError> {
    let kept = cursor::decode(Kind::Minutes, "", text)?;
    let (start, rest) = kept.split_first_chunk().ok_or_else(cursor::wrong)?;
    let width = rest.try_into().map_err(|_| cursor::wrong())?;
    let slice = (i64::from_be_bytes(*start), i64::from_be_bytes(width));
    if (0..=TIME_MS_MAX).contains(&slice.0) && slice.1 >= 0 { Ok(slice) } else { Err(cursor::wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_round_trip_and_forged_ones_are_refused() {
        assert_eq!(decode(&encode((1_556_614_620_000, 60_000))), Ok((1_556_614_620_000, 60_000)));
        for forged in
            [encode((-1, 0)), encode((0, -1)), encode((i64::MAX, 1)), cursor::encode(Kind::Minutes, "", b"short")]
        {
            assert!(decode(&forged).is_err(), "{forged}");
        }
    }
}
