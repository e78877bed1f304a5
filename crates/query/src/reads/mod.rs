//! The handlers of reads.

pub(crate) mod index;
pub(crate) mod minutes;
pub(crate) mod room;
pub(crate) mod rooms;
pub(crate) mod status;
pub(crate) mod user;
pub(crate) mod viewers;

use axum::http::StatusCode;
use serde_json::{Map, Value as Json};

use crate::answer::{Answer, AsOf, Seen, View};
use crate::api::{Call, Inner, Reply};
use crate::error::{ApiError, Code};

/// An answer from what was read that a client may have already.
fn cacheable(call: &Call, seen: &[Seen], fields: Map<String, Json>) -> Reply {
    let as_of = AsOf::of(seen, call.at_ms);
    Reply::Answer(Answer { status: StatusCode::OK, fields, as_of, at_given: call.at_given, cacheable: true })
}

/// The fields that all statistics know of a room, or 404.
fn room_fields(inner: &Inner, view: &View<'_>, app: u32, room: &str) -> Result<Map<String, Json>, ApiError> {
    let cx = view.context(app);
    let mut fields = Map::new();
    let mut known = false;
    for statistic in inner.parts.stores.statistics() {
        known |= statistic.room(&cx, room, &mut fields)?;
    }
    if !known {
        return Err(unknown_room(app, room));
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
