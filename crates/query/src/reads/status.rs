//! `/v1/status`: how far each partition is.

use std::sync::Arc;

use axum::http::StatusCode;
use barrage_worker::{PartitionStatus, Phase};
use serde_json::{Map, Value as Json, json};

use crate::answer::{Answer, AsOf, shown_time};
use crate::api::{Call, Inner, Reply};
use crate::error::ApiError;

pub(crate) async fn status(inner: Arc<Inner>, call: Call) -> Result<Reply, ApiError> {
    let statuses = inner.parts.stores.status();
    let as_of = as_of(&statuses, call.at_ms);
    let partitions: Vec<Json> = statuses.iter().map(|s| partition(s, &inner.parts.owner)).collect();
    let lag: u64 = statuses.iter().map(lag).sum();
    let fields = Map::from_iter([
        ("partitions".to_owned(), Json::Array(partitions)),
        ("rules_version".to_owned(), inner.parts.rules.version().into()),
        ("stream_time".to_owned(), as_of.event_time_ms.into()),
        ("lag".to_owned(), lag.into()),
        // The embedded log has no spool: a callback is answered when it is in the log itself.
        ("spool".to_owned(), Json::Null),
        ("version".to_owned(), env!("CARGO_PKG_VERSION").into()),
    ]);
    Ok(Reply::Answer(Answer { status: StatusCode::OK, fields, as_of, at_given: false, cacheable: false }))
}

fn lag(status: &PartitionStatus) -> u64 {
    status.end.0.saturating_sub(status.offset.0)
}

/// What an answer about all partitions rests on.
pub(crate) fn as_of(statuses: &[PartitionStatus], at_ms: i64) -> AsOf {
    AsOf {
        positions: statuses.iter().map(|s| (s.partition, s.offset)).collect(),
        event_time_ms: statuses.iter().filter_map(|s| shown_time(s.stream_time_ms)).max(),
        rules_version: statuses.iter().map(|s| s.rules_version).max().unwrap_or(0),
        at_ms,
    }
}

fn partition(status: &PartitionStatus, owner: &str) -> Json {
    let (phase, error) = match &status.phase {
        Phase::Starting => ("starting", None),
        Phase::Live => ("live", None),
        Phase::Stopped { error } => ("stopped", Some(error.as_str())),
    };
    let mut fields = json!({
        "topic": status.partition.topic.short(),
        "partition": status.partition.index,
        "owner": owner,
        "phase": phase,
        "offset": status.offset.0,
        "end": status.end.0,
        "lag": lag(status),
        "state_hash": format!("{:032x}", status.state_hash),
        "store_hash": format!("{:032x}", status.store_hash),
        "stream_time": shown_time(status.stream_time_ms),
        "rules_version": status.rules_version,
        "applied": status.applied,
        "duplicates": status.duplicates,
        "dead_letters": status.dead_letters,
        "needs_rebuild": status.needs_rebuild,
    });
    if let Some(error) = error {
        fields["error"] = error.into();
    }
    if let Some(rebuild) = &status.rebuild {
        fields["rebuild"] = crate::commands::rebuild::shown(rebuild);
    }
    fields
}
