//! `/v1/rooms/{room}/minutes`: slices of time. Old minutes are rolled up to hours and days, so each slice says its width.

use std::sync::Arc;

use barrage_event::Topic;

use super::cacheable;
use crate::TIME_MS_MAX;
use crate::api::{Call, Inner, Reply};
use crate::cursor;
use crate::error::ApiError;
use crate::question::Ask;

pub(crate) async fn minutes(inner: Arc<Inner>, call: Call) -> Result<Reply, ApiError> {
    let app = inner.app(&call).await?;
    let limit = call.params.limit()?;
    let (from_ms, to_ms) = super::span(&call)?.unwrap_or((0, TIME_MS_MAX));
    let after = call.params.text("after").map(cursor::to_slice).transpose()?;
    let ask = Ask::Minutes { app, room: call.key.clone(), from_ms, to_ms, limit, after };
    let (fields, seen) = inner.ask_key(Topic::Room, app, &call, ask).await?;
    Ok(cacheable(&call, &[seen], fields.into_text()))
}
