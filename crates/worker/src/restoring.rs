//! A snapshot on its way here, beside the thread of its partition.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use barrage_event::Partition;
use barrage_snapshot::{Manifest, SnapshotError, Wanted};
use barrage_state::PartitionDir;
use barrage_state::runtime::FORMAT;

use crate::common::Common;
use crate::engine::versions;
use crate::snapshots::SnapshotOptions;

/// Two restores of one partition never share a directory, also when the first is still being given up.
static NUMBER: AtomicU64 = AtomicU64::new(1);

/// Dropped before it is done, it is given up and removes what it has brought.
pub(crate) struct Restoring {
    done: mpsc::Receiver<Result<Option<Manifest>, SnapshotError>>,
    cancelled: Arc<AtomicBool>,
    dir: PathBuf,
}

/// How it went.
pub(crate) enum Restored {
    /// Not over yet.
    UnderWay,
    /// A complete store lies there.
    Store { dir: PathBuf, next_offset: u64, bytes: u64 },
    /// There is nothing that suits, or the object store failed.
    Nothing,
}

impl Drop for Restoring {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

impl Restoring {
    /// Looks for a snapshot that is nearer to the log's end than `above`, and brings it.
    pub(crate) fn start(
        common: &Arc<Common>,
        options: &SnapshotOptions,
        partition: Partition,
        above: u64,
    ) -> std::io::Result<Self> {
        let name = format!("restore-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let dir = PartitionDir::new(&common.state_dir, partition).beside(&name);
        let cancelled = Arc::new(AtomicBool::new(false));
        let (over, done) = mpsc::channel();
        let restoring = Self { done, cancelled: Arc::clone(&cancelled), dir: dir.clone() };
        let (common, store) = (Arc::clone(common), Arc::clone(&options.store));
        std::thread::Builder::new().name("restore".to_owned()).spawn(move || {
            let statistics = versions(&common.statistics);
            let wanted = Wanted { log: common.log.as_ref(), partition, format: FORMAT, statistics: &statistics, above };
            let restored = store.restore(&common.env, &wanted, &dir, &cancelled);
            if over.send(restored).is_err() || cancelled.load(Ordering::Relaxed) {
                // Nobody wants it any more. What cannot be removed is in nobody's way.
                drop(std::fs::remove_dir_all(&dir));
            }
            common.log.wake();
        })?;
        Ok(restoring)
    }

    pub(crate) fn poll(&self, common: &Common, partition: Partition) -> Restored {
        match self.done.try_recv() {
            Err(mpsc::TryRecvError::Empty) => Restored::UnderWay,
            Ok(Ok(Some(manifest))) => {
                Restored::Store { dir: self.dir.clone(), next_offset: manifest.next_offset, bytes: manifest.bytes() }
            }
            Ok(Ok(None)) => Restored::Nothing,
            Ok(Err(error)) => {
                common.metrics.snapshots.failed("restore");
                tracing::warn!(%partition, %error, "no snapshot could be brought; the log is read instead");
                Restored::Nothing
            }
            Err(mpsc::TryRecvError::Disconnected) => {
                common.metrics.snapshots.failed("restore");
                Restored::Nothing
            }
        }
    }
}
