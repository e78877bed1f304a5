//! Which `SdkAppid`s a partition knows, so that `app=` may be left out when there is exactly one.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use barrage_message_counts::tables::{Rooms, Senders};
use barrage_projection::{Reader as _, Table};
use barrage_worker::Snapshot;

/// Most that are looked for: with more than one, `app=` is needed anyway.
const APPS_MAX: usize = 16;

/// Those that anything was counted for, in order; some of them when there are many.
pub(crate) fn of_partition(snapshot: &Snapshot<'_>) -> Vec<u32> {
    let mut apps = BTreeSet::new();
    collect::<Rooms>(snapshot, &mut apps);
    collect::<Senders>(snapshot, &mut apps);
    apps.into_iter().collect()
}

/// Jumps from one app's first row to the next app's: the keys of `T` begin with the app, big-endian.
fn collect<T: Table>(snapshot: &Snapshot<'_>, apps: &mut BTreeSet<u32>) {
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
        apps.insert(app);
        from = app.checked_add(1);
    }
}
