//! `/v1/log/trim`: gives up what the embedded log holds behind verified snapshots.

use std::sync::Arc;

use axum::http::StatusCode;
use serde_json::{Map, Value as Json};

use super::about_partitions;
use crate::api::{Call, Inner, Reply};
use crate::error::{ApiError, Code};

const HINT: &str = "only the embedded log is trimmed by Barrage, and only behind a verified snapshot of every partition: \
                    set snapshot.url, and see `barrage snapshot list`";

/// Answers when it is done.
pub(crate) async fn trim(inner: Arc<Inner>, call: Call) -> Result<Reply, ApiError> {
    let conflict = |message: String| ApiError::new(Code::Conflict, message, HINT);
    let starts = inner
        .block(move |inner| match &inner.parts.around.trim {
            Some(trim) => trim().map_err(conflict),
            None => Err(conflict("this process cannot trim its log".to_owned())),
        })
        .await?;
    let starts: Vec<Json> = starts.iter().map(|(partition, offset)| format!("{partition}@{offset}").into()).collect();
    let fields = Map::from_iter([("starts".to_owned(), Json::Array(starts))]);
    about_partitions(&inner, &call, StatusCode::OK, fields).await
}
