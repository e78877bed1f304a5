//! `/v1/rebuild`: builds a partition's numbers again from the log, beside the live ones.

use std::sync::Arc;

use axum::http::StatusCode;
use barrage_worker::RebuildStatus;
use serde_json::{Map, Value as Json, json};

use super::{about, start_each};
use crate::api::{Call, Inner, Reply};
use crate::error::ApiError;
use crate::question::Ask;
use crate::reads::status::of_all;

/// Starts; progress is read with GET.
pub(crate) async fn start(inner: Arc<Inner>, call: Call) -> Result<Reply, ApiError> {
    start_each(inner, call, Ask::Rebuild).await
}

pub(crate) async fn progress(inner: Arc<Inner>, call: Call) -> Result<Reply, ApiError> {
    let statuses = of_all(&inner.parts.owners, call.at_ms).await?;
    let rows: Vec<Json> = statuses
        .iter()
        .map(|(partition, status)| match status {
            Ok(status) => json!({
                "partition": partition.to_string(),
                "needs_rebuild": status.needs_rebuild,
                "state_hash": format!("{:032x}", status.state_hash),
                "rebuild": status.rebuild.as_ref().map(shown),
            }),
            Err(error) => json!({
                "partition": partition.to_string(),
                "needs_rebuild": null,
                "state_hash": null,
                "rebuild": null,
                "error": error.message,
            }),
        })
        .collect();
    let fields = Map::from_iter([("partitions".to_owned(), Json::Array(rows))]);
    Ok(about(&statuses, &call, StatusCode::OK, Json::Object(fields).to_string()))
}

/// A rebuild as answers show it.
pub(crate) fn shown(rebuild: &RebuildStatus) -> Json {
    json!({
        "offset": rebuild.offset.0,
        "end": rebuild.end.0,
        "done": rebuild.done,
        "hashes_match": rebuild.hashes_match,
        "error": rebuild.error,
    })
}
