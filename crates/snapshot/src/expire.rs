//! Removing what is no longer needed.

use std::collections::HashSet;
use std::time::Duration;

use barrage_event::Partition;
use barrage_log::EventLog;
use object_store::ObjectStoreExt as _;

use crate::bucket::{Listed, SnapshotStore};
use crate::error::SnapshotError;
use crate::lineage::stranger;
use crate::manifest::File;

/// What was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Expired {
    /// Snapshots.
    pub snapshots: usize,
    /// Files that no snapshot names any more.
    pub files: usize,
    /// Bytes of those files.
    pub bytes: u64,
}

impl SnapshotStore {
    /// Files that no snapshot names are left alone for this long: another process may be sending them for one that it has
    /// not written yet.
    pub const UNNAMED_KEPT: Duration = Duration::from_secs(86_400);

    /// Keeps the `keep` newest snapshots of a partition, at least 1, and those that were verified to trim the log
    /// behind, because nothing else may hold what they do. Removes those before them, and the files that no
    /// snapshot names and that are older than `unnamed_kept` ([`SnapshotStore::UNNAMED_KEPT`]) by the object store's own
    /// clock. A newer one that is not of the log as it is now does not count and is left alone: the other log may come
    /// back.
    ///
    /// # Errors
    /// [`SnapshotError`] when the object store or the log fails or a snapshot that is kept cannot be read: no file is
    /// removed then, because it may be one of its.
    pub fn expire(
        &self,
        log: &dyn EventLog,
        partition: Partition,
        keep: usize,
        unnamed_kept: Duration,
    ) -> Result<Expired, SnapshotError> {
        let log_uuid = log.lineage(partition.topic);
        let old = self.beyond(log, partition, keep.max(1))?;
        self.block_on(async {
            let mut expired = Expired::default();
            let manifests = self.manifests(log_uuid, partition);
            let bases = self.marked(log_uuid, partition).await?;
            for old in old.into_iter().filter(|old| !bases.contains(&old.name)) {
                let path = manifests.clone().join(old.name.as_str());
                self.objects.delete(&path).await.map_err(SnapshotError::store("remove", &path))?;
                expired.snapshots += 1;
            }
            // Files before manifests: a snapshot that is finished in between is seen, and one that is finished later has
            // only files that are young or that the newest one names.
            let files = self.objects_in(&self.files(log_uuid, partition)).await?;
            let written = self.objects_in(&manifests).await?;
            let mut named = HashSet::new();
            for listed in self.listed(log_uuid, partition).await? {
                named.extend(self.manifest(log_uuid, partition, &listed.name).await?.files.iter().map(File::object));
            }
            let now = files.iter().chain(&written).map(|object| object.last_modified.timestamp_millis()).max();
            let kept_ms = i64::try_from(unnamed_kept.as_millis()).unwrap_or(i64::MAX);
            let young = now.unwrap_or(0).saturating_sub(kept_ms);
            for file in files {
                let is_named = file.location.filename().is_some_and(|name| named.contains(name));
                if !is_named && file.last_modified.timestamp_millis() < young {
                    let path = &file.location;
                    self.objects.delete(path).await.map_err(SnapshotError::store("remove", path))?;
                    expired.files += 1;
                    expired.bytes += file.size;
                }
            }
            Ok(expired)
        })
    }

    /// The snapshots before the `keep` newest ones of the log as it is now.
    fn beyond(&self, log: &dyn EventLog, partition: Partition, keep: usize) -> Result<Vec<Listed>, SnapshotError> {
        let log_uuid = log.lineage(partition.topic);
        let mut listed = self.list(log_uuid, partition)?.into_iter();
        let mut own = 0;
        while own < keep {
            let Some(Listed { name, .. }) = listed.next() else { break };
            own += match self.read(log_uuid, partition, &name) {
                Ok(manifest) if stranger(log, partition, &manifest)?.is_some() => 0,
                // One that cannot be read counts, so that it goes when there are enough newer ones.
                Ok(_) | Err(SnapshotError::Unusable { .. }) => 1,
                Err(error) => return Err(error),
            };
        }
        Ok(listed.collect())
    }
}
