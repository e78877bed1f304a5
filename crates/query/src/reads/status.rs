//! `/v1/status`: how far each partition is.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::StatusCode;
use barrage_event::Partition;
use barrage_worker::{PartitionStatus, Phase};
use serde_json::{Map, Value as Json, json};

use crate::answer::{Answer, AsOf, shown_time};
use crate::api::{Call, Inner, Reply};
use crate::error::ApiError;
use crate::owners::{Gather, Owners};
use crate::question::{Ask, Failure, Found};

pub(crate) async fn status(inner: Arc<Inner>, call: Call) -> Result<Reply, ApiError> {
    let owners = &inner.parts.owners;
    let statuses = of_all(owners, call.at_ms).await?;
    let as_of = as_of(&statuses, call.at_ms);
    let partitions: Vec<Json> = statuses
        .iter()
        .map(|(at, status)| {
            let owner = owners.owner(*at);
            let owner = owner.claim().map(|claim| &*claim.process);
            match status {
                Ok(status) => partition(status, owner),
                Err(error) => unavailable(*at, owner, error),
            }
        })
        .collect();
    // Whoever waits for the lag to be nothing must not be told so while a partition is not known.
    let lag: Option<u64> = statuses.values().map(|status| status.as_ref().ok().map(|status| lag(status))).sum();
    let fields = Map::from_iter([
        ("partitions".to_owned(), Json::Array(partitions)),
        ("rules_version".to_owned(), inner.parts.rules.version().into()),
        ("stream_time".to_owned(), as_of.event_time_ms.into()),
        ("lag".to_owned(), lag.into()),
        // The embedded log has no spool: a callback is answered when it is in the log itself.
        ("spool".to_owned(), inner.parts.around.spools.as_ref().map_or(Json::Null, |spools| spools())),
        ("version".to_owned(), env!("CARGO_PKG_VERSION").into()),
    ]);
    let body = Json::Object(fields).to_string();
    Ok(Reply::Answer(Answer { status: StatusCode::OK, body, as_of, at_given: false, cacheable: false }))
}

/// Every partition, with its state or why it cannot be had.
pub(crate) type Statuses = BTreeMap<Partition, Result<Box<PartitionStatus>, ApiError>>;

/// Asks every partition for its state. One that has no owner, or whose owner does not answer, holds up nobody.
pub(crate) async fn of_all(owners: &Owners, at_ms: i64) -> Result<Statuses, ApiError> {
    struct All(Statuses);

    impl Gather for All {
        const FOLLOWS: bool = false;

        fn ask(&self, _: Partition) -> Ask {
            Ask::Status
        }

        fn take(&mut self, partition: Partition, answered: Result<Found, Failure>) -> Result<(), ApiError> {
            let status = match answered {
                Ok(Found::Status(status)) => Ok(status),
                Ok(_) => Err(Failure::not_an_answer().error),
                Err(failure) => Err(failure.error),
            };
            self.0.insert(partition, status);
            Ok(())
        }
    }

    Ok(owners.gather(owners.shape().all(), at_ms, All(Statuses::new())).await?.0)
}

fn lag(status: &PartitionStatus) -> u64 {
    status.end.0.saturating_sub(status.offset.0)
}

/// What an answer about all partitions rests on: those that answered.
pub(crate) fn as_of(statuses: &Statuses, at_ms: i64) -> AsOf {
    let known = || statuses.values().filter_map(|status| status.as_ref().ok());
    AsOf {
        positions: known().map(|s| (s.partition, s.offset)).collect(),
        event_time_ms: known().filter_map(|s| shown_time(s.stream_time_ms)).max(),
        rules_version: known().map(|s| s.rules_version).max().unwrap_or(0),
        at_ms,
    }
}

fn partition(status: &PartitionStatus, owner: Option<&str>) -> Json {
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
        "outgoing": status.outgoing,
    });
    if let Some(error) = error {
        fields["error"] = error.into();
    }
    if let Some(rebuild) = &status.rebuild {
        fields["rebuild"] = crate::commands::rebuild::shown(rebuild);
    }
    fields
}

/// A partition whose state cannot be had: nothing of it is known, and nothing is claimed.
fn unavailable(partition: Partition, owner: Option<&str>, error: &ApiError) -> Json {
    json!({
        "topic": partition.topic.short(),
        "partition": partition.index,
        "owner": owner,
        "phase": "unavailable",
        "offset": null,
        "end": null,
        "lag": null,
        "state_hash": null,
        "store_hash": null,
        "stream_time": null,
        "rules_version": null,
        "applied": null,
        "duplicates": null,
        "dead_letters": null,
        "needs_rebuild": null,
        "outgoing": null,
        "error": error.message,
    })
}
