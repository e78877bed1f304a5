//! The handlers of reads: they compose questions and merge what the partitions answer.

pub(crate) mod index;
pub(crate) mod levels;
pub(crate) mod live;
pub(crate) mod minutes;
pub(crate) mod room;
pub(crate) mod rooms;
pub(crate) mod status;
pub(crate) mod user;
pub(crate) mod viewers;

use axum::http::StatusCode;

use crate::TIME_MS_MAX;
use crate::answer::{Answer, AsOf};
use crate::api::{Call, Reply};
use crate::error::ApiError;
use crate::question::Seen;

/// The span of time that is asked for, [from, to) in ms; `None` when neither end is named.
fn span(call: &Call) -> Result<Option<(i64, i64)>, ApiError> {
    let (from_ms, to_ms) = (call.params.time("from")?, call.params.time("to")?);
    if from_ms.is_none() && to_ms.is_none() {
        return Ok(None);
    }
    let (from_ms, to_ms) = (from_ms.unwrap_or(0), to_ms.unwrap_or(TIME_MS_MAX));
    if from_ms > to_ms {
        return Err(ApiError::parameter("from", "lies after `to`", "from and to are ms since the epoch, from <= to"));
    }
    Ok(Some((from_ms, to_ms)))
}

/// An answer from what was read that a client may have already.
fn cacheable(call: &Call, seen: &[Seen], body: String) -> Reply {
    let as_of = AsOf::of(seen, call.at_ms);
    Reply::Answer(Answer { status: StatusCode::OK, body, as_of, at_given: call.at_given, cacheable: true })
}
