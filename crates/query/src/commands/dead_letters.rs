//! `/v1/dead-letters`: events that a statistic could not apply.

use std::sync::Arc;

use axum::http::StatusCode;
use barrage_event::Offset;
use serde_json::{Map, Value as Json, json};

use super::{about_partitions, partitions};
use crate::api::{Call, Inner, Reply};
use crate::error::ApiError;

pub(crate) async fn dead_letters(inner: Arc<Inner>, call: Call) -> Result<Reply, ApiError> {
    let partitions = partitions(&inner, &call, false)?;
    let limit = call.params.limit()?;
    let rows = inner.scan(move |inner| {
        let mut rows = Vec::new();
        for partition in partitions {
            let letters = inner.parts.stores.read(partition, |snapshot| snapshot.dead_letters(Offset(0), limit));
            for letter in letters.map_err(ApiError::unavailable)?? {
                rows.push(json!({
                    "partition": partition.to_string(),
                    "offset": letter.offset.0,
                    "projection": letter.projection,
                    "reason": letter.reason,
                    "command": letter.command,
                    "id": hex(&letter.record_id),
                    "log_time": letter.log_time_ms,
                }));
            }
        }
        Ok(rows)
    });
    let rows = rows.await?;
    let fields = Map::from_iter([("dead_letters".to_owned(), Json::Array(rows))]);
    Ok(about_partitions(&inner, &call, StatusCode::OK, fields))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
