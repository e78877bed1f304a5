//! The handlers of commands, and of the reads that belong to them.

pub(crate) mod dead_letters;
pub(crate) mod rebuild;
pub(crate) mod rules;
pub(crate) mod snapshots;
pub(crate) mod trim;

use axum::http::StatusCode;
use barrage_event::Partition;
use serde_json::{Map, Value as Json};

use crate::answer::Answer;
use crate::api::{Call, Inner, Reply};
use crate::error::ApiError;
use crate::reads::status::{Statuses, as_of, of_all};

/// An answer about the partitions as such.
async fn about_partitions(
    inner: &Inner,
    call: &Call,
    status: StatusCode,
    fields: Map<String, Json>,
) -> Result<Reply, ApiError> {
    let statuses = of_all(&inner.parts.owners, call.at_ms).await?;
    Ok(about(&statuses, call, status, Json::Object(fields).to_string()))
}

/// The same where the partitions' state was asked for already.
fn about(statuses: &Statuses, call: &Call, status: StatusCode, body: String) -> Reply {
    let as_of = as_of(statuses, call.at_ms);
    Reply::Answer(Answer { status, body, as_of, at_given: false, cacheable: false })
}

/// `partition=`: one, or with `all` (or nothing, where that is allowed) every one of them.
fn partitions(inner: &Inner, call: &Call, needed: bool) -> Result<Vec<Partition>, ApiError> {
    let hint = "one partition, as in room/0, or all";
    let all = || inner.shape().all();
    match call.params.text("partition") {
        None if needed => Err(ApiError::parameter("partition", "is missing", hint)),
        None | Some("all") => Ok(all()),
        Some(text) => match text.parse::<Partition>() {
            Ok(partition) if all().contains(&partition) => Ok(vec![partition]),
            Ok(partition) => Err(ApiError::parameter("partition", format!("there is no partition {partition}"), hint)),
            Err(_) => Err(ApiError::parameter("partition", "is no partition", hint)),
        },
    }
}
