//! Which `SdkAppid`s there are, so that `app=` may be left out when there is exactly one.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use barrage_event::Partition;

use crate::error::ApiError;
use crate::owners::{Gather, Owners};
use crate::question::{Ask, Failure, Found};

/// How long what was found is believed: looking asks every partition.
const BELIEVED: Duration = Duration::from_secs(1);
/// Most that are remembered: with more than one, `app=` is needed anyway.
const APPS_MAX: usize = 16;

/// Knows the `SdkAppid`s: the configured ones, else those that anything was counted for.
#[derive(Debug)]
pub(crate) struct Apps {
    configured: Arc<[u32]>,
    /// What was found, and when. An `SdkAppid` that was seen once stays, also when its partition cannot be asked.
    found: Mutex<(Option<Instant>, Arc<[u32]>)>,
}

impl Apps {
    pub(crate) fn new(configured: Vec<u32>) -> Self {
        let configured: BTreeSet<u32> = configured.into_iter().collect();
        Self { configured: configured.into_iter().collect(), found: Mutex::new((None, Arc::default())) }
    }

    /// In order; some of them when there are many.
    pub(crate) async fn known(&self, owners: &Owners) -> Arc<[u32]> {
        if !self.configured.is_empty() {
            return Arc::clone(&self.configured);
        }
        let known = {
            let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
            if let (Some(at), false) = (found.0, found.1.is_empty())
                && at.elapsed() < BELIEVED
            {
                return Arc::clone(&found.1);
            }
            found.1.iter().copied().collect()
        };
        let looked = owners.gather(owners.shape().all(), crate::api::now_ms(), Look(known)).await;
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(Look(apps)) = looked {
            *found = (Some(Instant::now()), apps.into_iter().take(APPS_MAX).collect());
        }
        Arc::clone(&found.1)
    }
}

struct Look(BTreeSet<u32>);

impl Gather for Look {
    const FOLLOWS: bool = false;

    fn ask(&self) -> Ask {
        Ask::Apps
    }

    fn take(&mut self, _: Partition, answered: Result<Found, Failure>) -> Result<(), ApiError> {
        // A partition that cannot be asked is missed here and tells why when it is read.
        if let Ok(Found::Apps(apps)) = answered {
            self.0.extend(apps.into_iter().take(APPS_MAX));
        }
        Ok(())
    }
}
