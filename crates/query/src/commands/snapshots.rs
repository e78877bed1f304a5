//! `/v1/snapshots`: has snapshots of partitions taken, and shows the last ones that their owners took.

use std::sync::Arc;

use axum::http::StatusCode;
use barrage_worker::SnapshotStatus;
use serde_json::{Map, Value as Json, json};

use super::{about, start_each};
use crate::api::{Call, Inner, Reply};
use crate::error::ApiError;
use crate::question::Ask;
use crate::reads::status::of_all;

/// Starts; progress is read with GET.
pub(crate) async fn start(inner: Arc<Inner>, call: Call) -> Result<Reply, ApiError> {
    start_each(inner, call, Ask::Snapshot).await
}

pub(crate) async fn progress(inner: Arc<Inner>, call: Call) -> Result<Reply, ApiError> {
    let statuses = of_all(&inner.parts.owners, call.at_ms).await?;
    let rows: Vec<Json> = statuses
        .iter()
        .map(|(partition, status)| {
            let mut row = json!({ "partition": partition.to_string(), "snapshot": null });
            match status {
                Ok(status) => row["snapshot"] = status.snapshot.as_ref().map(shown).into(),
                Err(error) => row["error"] = error.message.as_str().into(),
            }
            row
        })
        .collect();
    let fields = Map::from_iter([("partitions".to_owned(), Json::Array(rows))]);
    Ok(about(&statuses, &call, StatusCode::OK, Json::Object(fields).to_string()))
}

fn shown(snapshot: &SnapshotStatus) -> Json {
    json!({
        "taking": snapshot.taking,
        "error": snapshot.error,
        "last": snapshot.last.as_ref().map(|last| json!({
            "name": last.name,
            "next_offset": last.next_offset.0,
            "created_at": last.created_at_ms,
            "bytes": last.bytes,
            "state_hash": last.state_hash,
        })),
    })
}
