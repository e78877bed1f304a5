//! `/v1/rooms/{room}`.

use std::sync::Arc;

use barrage_event::Topic;

use super::cacheable;
use crate::api::{Call, Inner, Reply};
use crate::error::ApiError;
use crate::question::Ask;

pub(crate) async fn room(inner: Arc<Inner>, call: Call) -> Result<Reply, ApiError> {
    let app = inner.app(&call).await?;
    let ask = Ask::Room { app, room: call.key.clone() };
    let (fields, seen) = inner.ask_key(Topic::Room, app, &call, ask).await?;
    Ok(cacheable(&call, &[seen], fields.into_text()))
}
