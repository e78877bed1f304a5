//! Which `SdkAppid`s there are, so that `app=` may be left out when there is exactly one.

use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use barrage_message_counts::tables::{Rooms, Senders};
use barrage_projection::{Reader as _, Table};
use barrage_worker::{Snapshot, Stores};

/// How long what was found is believed: looking costs some reads a partition.
const BELIEVED: Duration = Duration::from_secs(1);
/// Most that are looked for: with more than one, `app=` is needed anyway.
const APPS_MAX: usize = 16;

/// Knows the `SdkAppid`s: the configured ones, else those that anything was counted for.
#[derive(Debug)]
pub(crate) struct Apps {
    configured: Vec<u32>,
    stores: Stores,
    found: Mutex<Option<(Instant, Vec<u32>)>>,
}

impl Apps {
    pub(crate) fn new(mut configured: Vec<u32>, stores: Stores) -> Self {
        configured.sort_unstable();
        configured.dedup();
        Self { configured, stores, found: Mutex::new(None) }
    }

    /// In order; some of them when there are many.
    pub(crate) fn known(&self) -> Vec<u32> {
        if !self.configured.is_empty() {
            return self.configured.clone();
        }
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, apps)) = &*found
            && !apps.is_empty()
            && at.elapsed() < BELIEVED
        {
            return apps.clone();
        }
        let mut apps = Vec::new();
        for partition in self.stores.partitions() {
            // A partition that cannot be read is missed here and tells why when it is asked.
            drop(self.stores.read(partition, |snapshot| {
                collect::<Rooms>(snapshot, &mut apps);
                collect::<Senders>(snapshot, &mut apps);
            }));
        }
        apps.sort_unstable();
        apps.dedup();
        *found = Some((Instant::now(), apps.clone()));
        apps
    }
}

/// Jumps from one app's first row to the next app's: the keys of `T` begin with the app, big-endian.
fn collect<T: Table>(snapshot: &Snapshot<'_>, apps: &mut Vec<u32>) {
    let mut from = Some(0_u32);
    for _ in 0..APPS_MAX {
        let Some(app) = from else { break };
        let mut start = vec![T::ID];
        start.extend_from_slice(&app.to_be_bytes());
        let mut next = None;
        let scanned = snapshot.scan_rows(&[T::ID], Some(&start), &mut |row, _| {
            next = row.get(1..5).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
            Ok(ControlFlow::Break(()))
        });
        let (Ok(()), Some(app)) = (scanned, next) else { break };
        apps.push(app);
        from = app.checked_add(1);
    }
}
