//! `/v1/users/{account}`.

use std::sync::Arc;

use barrage_event::Topic;

use super::cacheable;
use crate::api::{Call, Inner, Reply};
use crate::error::ApiError;
use crate::question::Ask;

pub(crate) async fn user(inner: Arc<Inner>, call: Call) -> Result<Reply, ApiError> {
    let app = inner.app(&call).await?;
    let ask = Ask::User { app, account: call.key.clone() };
    let (fields, seen) = inner.ask_key(Topic::User, app, &call, ask).await?;
    Ok(cacheable(&call, &[seen], fields.into_text()))
}
