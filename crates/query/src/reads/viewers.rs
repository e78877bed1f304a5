//! `/v1/rooms/{room}/viewers`: members and top lists.

use std::sync::Arc;

use barrage_event::Topic;

use super::cacheable;
use crate::api::{Call, Inner, Reply};
use crate::cursor;
use crate::error::ApiError;
use crate::question::Ask;

pub(crate) async fn viewers(inner: Arc<Inner>, call: Call) -> Result<Reply, ApiError> {
    let app = inner.app(&call).await?;
    let limit = call.params.limit()?;
    let sort = call.params.word("sort", &inner.parts.owners.sorts().viewers)?.unwrap_or_default();
    let span = super::span(&call)?;
    let after = call.params.text("after").map(|text| cursor::to_viewers(sort, span, text)).transpose()?;
    let windows = &inner.parts.owners.sorts().viewer_windows;
    if span.is_some() && !windows.contains(&sort) {
        let hint = format!("with from and to, sort is one of {}", windows.join(", "));
        return Err(ApiError::parameter("sort", format!("`{sort}` is not known for a span of time"), hint));
    }
    let ask = Ask::Viewers { app, room: call.key.clone(), sort: sort.to_owned(), limit, after, span };
    let (fields, seen) = inner.ask_key(Topic::Room, app, &call, ask).await?;
    Ok(cacheable(&call, &[seen], fields.into_text()))
}
