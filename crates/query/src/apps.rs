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
    ///
    /// # Errors
    /// Why a partition could not be asked, when none is known: that it would know none either is not said by that.
    pub(crate) async fn known(&self, owners: &Owners) -> Result<Arc<[u32]>, ApiError> {
        if !self.configured.is_empty() {
            return Ok(Arc::clone(&self.configured));
        }
        let known: Arc<[u32]> = {
            let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
            if let (Some(at), false) = (found.0, found.1.is_empty())
                && at.elapsed() < BELIEVED
            {
                return Ok(Arc::clone(&found.1));
            }
            Arc::clone(&found.1)
        };
        let look = Look { apps: known.iter().copied().collect(), missed: None };
        let Look { apps, missed } = match owners.gather(owners.shape().all(), crate::api::now_ms(), look).await {
            Ok(looked) => looked,
            Err(_) if !known.is_empty() => return Ok(known),
            Err(error) => return Err(error),
        };
        if let Some(missed) = missed.filter(|_| apps.is_empty()) {
            return Err(missed);
        }
        let apps: Arc<[u32]> = apps.into_iter().take(APPS_MAX).collect();
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = (Some(Instant::now()), Arc::clone(&apps));
        Ok(apps)
    }
}

struct Look {
    apps: BTreeSet<u32>,
    /// Why a partition was not asked.
    missed: Option<ApiError>,
}

impl Gather for Look {
    const FOLLOWS: bool = false;

    fn ask(&self, _: Partition) -> Ask {
        Ask::Apps
    }

    fn take(&mut self, _: Partition, answered: Result<Found, Failure>) -> Result<(), ApiError> {
        match answered {
            Ok(Found::Apps(apps)) => self.apps.extend(apps.into_iter().take(APPS_MAX)),
            Ok(_) => {}
            Err(failure) => self.missed = Some(failure.error),
        }
        Ok(())
    }
}
