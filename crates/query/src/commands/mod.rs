//! The handlers of commands, and of the reads that belong to them.

pub(crate) mod dead_letters;
pub(crate) mod rebuild;
pub(crate) mod rules;
pub(crate) mod snapshots;
pub(crate) mod trim;

use std::sync::Arc;

use axum::http::StatusCode;
use barrage_event::Partition;
use serde_json::{Map, Value as Json};

use crate::answer::Answer;
use crate::api::{Call, Inner, Reply};
use crate::error::ApiError;
use crate::question::{Ask, Question};
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

/// Starts something at each of the call's partitions; how it goes on is part of their status.
async fn start_each(inner: Arc<Inner>, call: Call, ask: Ask) -> Result<Reply, ApiError> {
    let mut started = Vec::new();
    for partition in partitions(&inner, &call, true)? {
        let question = Question { partition, at_ms: call.at_ms, ask: ask.clone() };
        inner.parts.owners.ask(question).await.map_err(|failure| failure.error)?;
        started.push(Json::from(partition.to_string()));
    }
    let fields = Map::from_iter([("started".to_owned(), Json::Array(started))]);
    about_partitions(&inner, &call, StatusCode::ACCEPTED, fields).await
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
