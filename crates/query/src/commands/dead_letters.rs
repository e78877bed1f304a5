//! `/v1/dead-letters`: events that a statistic could not apply.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::StatusCode;
use barrage_event::{Offset, Partition};
use serde::Serialize;

use super::{about, partitions};
use crate::api::{Call, Inner, Reply};
use crate::error::ApiError;
use crate::owners::Gather;
use crate::question::{Ask, Failure, Fields, Found};
use crate::reads::status::of_all;

pub(crate) async fn dead_letters(inner: Arc<Inner>, call: Call) -> Result<Reply, ApiError> {
    let partitions = partitions(&inner, &call, false)?;
    let limit = call.params.limit()?;
    let owners = &inner.parts.owners;
    let letters = owners.gather(partitions, call.at_ms, Letters { limit, rows: BTreeMap::new() }).await?;
    let page = Page { dead_letters: letters.rows.into_values().flatten().collect() };
    let body = serde_json::to_string(&page).map_err(ApiError::failed)?;
    Ok(about(&of_all(owners, call.at_ms).await?, &call, StatusCode::OK, body))
}

#[derive(Serialize)]
struct Page {
    dead_letters: Vec<Fields>,
}

struct Letters {
    limit: usize,
    rows: BTreeMap<Partition, Vec<Fields>>,
}

impl Gather for Letters {
    const FOLLOWS: bool = true;

    fn ask(&self, _: Partition) -> Ask {
        Ask::DeadLetters { from: Offset(0), limit: self.limit }
    }

    fn take(&mut self, partition: Partition, answered: Result<Found, Failure>) -> Result<(), ApiError> {
        let Found::Rows(rows, _) = answered.map_err(|failure| failure.error)? else {
            return Err(Failure::not_an_answer().error);
        };
        self.rows.insert(partition, rows);
        Ok(())
    }
}
