//! `/v1/rooms/{room}`.

use std::sync::Arc;

use barrage_event::Topic;

use super::{cacheable, room_fields};
use crate::api::{Call, Inner, Reply};
use crate::error::ApiError;

/// A point read: microseconds, done where it is.
pub(crate) async fn room(inner: Arc<Inner>, call: Call) -> Result<Reply, ApiError> {
    let app = inner.app(&call)?;
    let (fields, seen) = inner.read_key(Topic::Room, app, &call, |view| room_fields(&inner, view, app, &call.key))?;
    Ok(cacheable(&call, &[seen], fields))
}
