//! `/v1/users/{account}`.

use std::sync::Arc;

use barrage_event::Topic;
use serde_json::Map;

use super::cacheable;
use crate::api::{Call, Inner, Reply};
use crate::error::{ApiError, Code};

/// A point read: microseconds, done where it is.
pub(crate) async fn user(inner: Arc<Inner>, call: Call) -> Result<Reply, ApiError> {
    let app = inner.app(&call)?;
    let (mut fields, seen) = inner.read_key(Topic::User, app, &call, |view| {
        let cx = view.context(app);
        let mut fields = Map::new();
        let mut known = false;
        for statistic in inner.parts.stores.statistics() {
            known |= statistic.user(&cx, &call.key, &mut fields)?;
        }
        if known { Ok(fields) } else { Err(unknown_user(app, &call.key)) }
    })?;
    fields.insert("account".to_owned(), call.key.as_str().into());
    Ok(cacheable(&call, &[seen], fields))
}

fn unknown_user(app: u32, account: &str) -> ApiError {
    let account: String = account.chars().take(200).collect();
    let message = format!("nothing was ever seen of account {account} of SdkAppid {app}");
    ApiError::new(Code::UnknownUser, message, "accounts are written as in From_Account, percent-encoded")
}
