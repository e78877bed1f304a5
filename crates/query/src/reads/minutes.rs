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
    let from_ms = call.params.time("from")?.unwrap_or(0);
    let to_ms = call.params.time("to")?.unwrap_or(TIME_MS_MAX);
    if from_ms > to_ms {
        return Err(ApiError::parameter("from", "lies after `to`", "from and to are ms since the epoch, from <= to"));
    }
    let after = call.params.text("after").map(cursor::to_slice).transpose()?;
    let ask = Ask::Minutes { app, room: call.key.clone(), from_ms, to_ms, limit, after };
    let (fields, seen) = inner.ask_key(Topic::Room, app, &call, ask).await?;
    Ok(cacheable(&call, &[seen], fields.into_text()))
}
