//! `/v1/levels`: how many accounts there are at each level.

use std::collections::BTreeMap;
use std::sync::Arc;

use barrage_event::{Partition, Topic};
use serde::Serialize;

use super::cacheable;
use crate::api::{Call, Inner, Reply};
use crate::error::ApiError;
use crate::owners::Gather;
use crate::question::{Ask, Failure, Found, Seen};

pub(crate) async fn levels(inner: Arc<Inner>, call: Call) -> Result<Reply, ApiError> {
    let app = inner.app(&call).await?;
    let owners = &inner.parts.owners;
    let partitions = owners.shape().all_of(Topic::User).collect();
    let counts = Counts { app, levels: BTreeMap::new(), seen: Vec::new() };
    let Counts { levels, mut seen, .. } = owners.gather(partitions, call.at_ms, counts).await?;
    seen.sort_unstable_by_key(|seen| seen.partition);
    let accounts = levels.values().fold(0_u64, |sum, accounts| sum.saturating_add(*accounts));
    let levels = levels.into_iter().map(|(level, accounts)| Level { accounts, level }).collect();
    let distribution = Distribution { accounts, levels };
    Ok(cacheable(&call, &seen, serde_json::to_string(&distribution).map_err(ApiError::failed)?))
}

/// The answer; its fields stand in the order of their names, as in every answer.
#[derive(Serialize)]
struct Distribution {
    accounts: u64,
    /// Sorted by level.
    levels: Vec<Level>,
}

#[derive(Serialize)]
struct Level {
    accounts: u64,
    level: u32,
}

/// The sums over the partitions that answered.
struct Counts {
    app: u32,
    levels: BTreeMap<u32, u64>,
    seen: Vec<Seen>,
}

impl Gather for Counts {
    const FOLLOWS: bool = true;

    fn ask(&self, _: Partition) -> Ask {
        Ask::Levels { app: self.app }
    }

    fn take(&mut self, _: Partition, answered: Result<Found, Failure>) -> Result<(), ApiError> {
        let Found::Levels(levels, seen) = answered.map_err(|failure| failure.error)? else {
            return Err(Failure::not_an_answer().error);
        };
        self.seen.push(seen);
        for (level, accounts) in levels {
            let count = self.levels.entry(level).or_default();
            *count = count.saturating_add(accounts);
        }
        Ok(())
    }
}
