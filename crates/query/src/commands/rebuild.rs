//! `/v1/rebuild`: builds a partition's numbers again from the log, beside the live ones.

use std::sync::Arc;

use axum::http::StatusCode;
use barrage_worker::RebuildStatus;
use serde_json::{Map, Value as Json, json};

use super::{about_partitions, partitions};
use crate::api::{Call, Inner, Reply};
use crate::error::{ApiError, Code};

/// Starts; progress is read with GET.
pub(crate) async fn start(inner: Arc<Inner>, call: Call) -> Result<Reply, ApiError> {
    let partitions = partitions(&inner, &call, true)?;
    let mut started = Vec::new();
    for partition in partitions {
        if let Err(error) = inner.parts.stores.rebuild(partition) {
            let message = format!("partition {partition} is not rebuilt: {error}");
            return Err(ApiError::new(Code::Conflict, message, "GET /v1/rebuild shows what is at work"));
        }
        started.push(Json::from(partition.to_string()));
    }
    let fields = Map::from_iter([("started".to_owned(), Json::Array(started))]);
    Ok(about_partitions(&inner, &call, StatusCode::ACCEPTED, fields))
}

pub(crate) async fn progress(inner: Arc<Inner>, call: Call) -> Result<Reply, ApiError> {
    let rows: Vec<Json> = inner
        .parts
        .stores
        .status()
        .iter()
        .map(|status| {
            json!({
                "partition": status.partition.to_string(),
                "needs_rebuild": status.needs_rebuild,
                "state_hash": format!("{:032x}", status.state_hash),
                "rebuild": status.rebuild.as_ref().map(shown),
            })
        })
        .collect();
    let fields = Map::from_iter([("partitions".to_owned(), Json::Array(rows))]);
    Ok(about_partitions(&inner, &call, StatusCode::OK, fields))
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
