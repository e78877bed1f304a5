//! The object store, and where things lie in it.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use barrage_event::Partition;
use futures_util::TryStreamExt as _;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt as _, PutPayload};
use tokio::runtime::Runtime;

use crate::error::SnapshotError;
use crate::manifest::Manifest;
use crate::save::Hashes;

/// Largest manifest that is read, bytes.
const MANIFEST_BYTES_MAX: u64 = 32 << 20;

/// A place for snapshots.
pub struct SnapshotStore {
    pub(crate) objects: Arc<dyn ObjectStore>,
    prefix: ObjectPath,
    url: String,
    /// Let go of without waiting in `drop`, which may happen where waiting is not allowed.
    runtime: Option<Runtime>,
    pub(crate) hashes: Mutex<HashMap<Partition, Hashes>>,
}

impl fmt::Debug for SnapshotStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotStore").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Drop for SnapshotStore {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A snapshot that is there, as its name tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The manifest's name.
    pub name: String,
    /// First offset that it does not hold.
    pub next_offset: u64,
    /// When it was made, ms since the epoch.
    pub created_at_ms: i64,
}

impl Listed {
    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(".json")?.splitn(3, '-');
        let (next, created, _random) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self { name: name.to_owned(), next_offset: next.parse().ok()?, created_at_ms: created.parse().ok()? })
    }
}

impl SnapshotStore {
    /// Opens a place: a folder, which is made, or `s3://BUCKET/PREFIX`. Nothing is asked of S3 yet.
    ///
    /// `options` are the settings of S3 as its tools name them in the environment (`AWS_ACCESS_KEY_ID`,
    /// `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT`, `AWS_ALLOW_HTTP` and so on), in either case; those of other
    /// names are passed over.
    ///
    /// # Errors
    /// [`SnapshotError::Url`] when it is neither or cannot be used, [`SnapshotError::Thread`].
    pub fn open(url: &str, options: impl IntoIterator<Item = (String, String)>) -> Result<Self, SnapshotError> {
        let refused = |problem: String| SnapshotError::Url { url: url.to_owned(), problem };
        let (objects, prefix): (Arc<dyn ObjectStore>, _) = if let Some(place) = url.strip_prefix("s3://") {
            let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
            if bucket.is_empty() {
                return Err(refused("it names no bucket".to_owned()));
            }
            let mut builder = AmazonS3Builder::new().with_bucket_name(bucket);
            for (name, value) in options {
                // Short names are settings too: one called TOKEN is more likely somebody else's.
                let name = name.to_ascii_lowercase();
                if name.starts_with("aws_")
                    && let Ok(key) = name.parse()
                {
                    builder = builder.with_config(key, value);
                }
            }
            let prefix = ObjectPath::parse(prefix).map_err(|e| refused(e.to_string()))?;
            (Arc::new(builder.build().map_err(|e| refused(e.to_string()))?), prefix)
        } else if url.contains("://") && !url.starts_with("file://") {
            return Err(refused("this kind of place is not known".to_owned()));
        } else {
            let folder = Path::new(url.strip_prefix("file://").unwrap_or(url));
            std::fs::create_dir_all(folder).map_err(|e| refused(e.to_string()))?;
            // Synced, because a log may be trimmed behind what lies there.
            let local = LocalFileSystem::new_with_prefix(folder).map_err(|e| refused(e.to_string()))?;
            (Arc::new(local.with_fsync(true).with_automatic_cleanup(false)), ObjectPath::default())
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("object-store")
            .enable_all()
            .build()
            .map_err(SnapshotError::Thread)?;
        Ok(Self { objects, prefix, url: url.to_owned(), runtime: Some(runtime), hashes: Mutex::default() })
    }

    /// The place, as it was given.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn block_on<T>(
        &self,
        future: impl Future<Output = Result<T, SnapshotError>>,
    ) -> Result<T, SnapshotError> {
        match &self.runtime {
            Some(runtime) => runtime.block_on(future),
            None => Err(SnapshotError::Cancelled),
        }
    }

    fn folder(&self, log_uuid: u128, partition: Partition, kind: &str) -> ObjectPath {
        let partition = format!("{}-{}", partition.topic.short(), partition.index);
        self.prefix.clone().join(format!("{log_uuid:032x}")).join(partition).join(kind)
    }

    /// The logs of which there is something, in no order.
    ///
    /// # Errors
    /// [`SnapshotError::Store`].
    pub fn logs(&self) -> Result<Vec<u128>, SnapshotError> {
        let names = self.block_on(self.folders_in(&self.prefix))?;
        Ok(names.iter().filter(|name| name.len() == 32).filter_map(|n| u128::from_str_radix(n, 16).ok()).collect())
    }

    /// The partitions of a log of which there is something, in order.
    ///
    /// # Errors
    /// [`SnapshotError::Store`].
    pub fn partitions(&self, log_uuid: u128) -> Result<Vec<Partition>, SnapshotError> {
        let log = self.prefix.clone().join(format!("{log_uuid:032x}"));
        let names = self.block_on(self.folders_in(&log))?;
        let mut all: Vec<Partition> = names.iter().filter_map(|name| name.replacen('-', "/", 1).parse().ok()).collect();
        all.sort_unstable();
        Ok(all)
    }

    async fn folders_in(&self, folder: &ObjectPath) -> Result<Vec<String>, SnapshotError> {
        let listed = self.objects.list_with_delimiter(Some(folder)).await;
        let listed = listed.map_err(SnapshotError::store("list", folder))?;
        Ok(listed.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned)).collect())
    }

    /// Names of the snapshots that were read back, whose hashes were right, and behind which a log may be trimmed.
    fn marks(&self, log_uuid: u128, partition: Partition) -> ObjectPath {
        self.folder(log_uuid, partition, "verified")
    }

    /// Notes that a snapshot was verified: it is kept until a later one is.
    pub(crate) async fn mark(&self, log_uuid: u128, partition: Partition, name: &str) -> Result<(), SnapshotError> {
        let path = self.marks(log_uuid, partition).join(name);
        let put = self.objects.put(&path, PutPayload::new()).await;
        put.map(drop).map_err(SnapshotError::store("write", &path))?;
        for old in self.objects_in(&self.marks(log_uuid, partition)).await? {
            // A later one may have been marked meanwhile.
            if old.location.filename().is_some_and(|other| other < name) {
                let removed = self.objects.delete(&old.location).await;
                removed.map_err(SnapshotError::store("remove", &old.location))?;
            }
        }
        Ok(())
    }

    /// The snapshots that are marked. There is more than one while a mark is of another history of the log, or is about to
    /// be removed.
    pub(crate) async fn marked(&self, log_uuid: u128, partition: Partition) -> Result<HashSet<String>, SnapshotError> {
        let marks = self.objects_in(&self.marks(log_uuid, partition)).await?;
        Ok(marks.iter().filter_map(|mark| mark.location.filename().map(str::to_owned)).collect())
    }

    pub(crate) fn files(&self, log_uuid: u128, partition: Partition) -> ObjectPath {
        self.folder(log_uuid, partition, "files")
    }

    pub(crate) fn manifests(&self, log_uuid: u128, partition: Partition) -> ObjectPath {
        self.folder(log_uuid, partition, "manifests")
    }

    pub(crate) async fn objects_in(&self, folder: &ObjectPath) -> Result<Vec<ObjectMeta>, SnapshotError> {
        self.objects.list(Some(folder)).try_collect().await.map_err(SnapshotError::store("list", folder))
    }

    /// The snapshots of a partition, the newest first.
    ///
    /// # Errors
    /// [`SnapshotError::Store`].
    pub fn list(&self, log_uuid: u128, partition: Partition) -> Result<Vec<Listed>, SnapshotError> {
        self.block_on(self.listed(log_uuid, partition))
    }

    pub(crate) async fn listed(&self, log_uuid: u128, partition: Partition) -> Result<Vec<Listed>, SnapshotError> {
        let objects = self.objects_in(&self.manifests(log_uuid, partition)).await?;
        let mut all: Vec<Listed> =
            objects.iter().filter_map(|object| Listed::parse(object.location.filename()?)).collect();
        all.sort_by(|a, b| (b.next_offset, b.created_at_ms, &b.name).cmp(&(a.next_offset, a.created_at_ms, &a.name)));
        Ok(all)
    }

    /// What a snapshot consists of.
    ///
    /// # Errors
    /// [`SnapshotError::Unusable`] when the manifest is damaged or another partition's, [`SnapshotError::Store`].
    pub fn read(&self, log_uuid: u128, partition: Partition, name: &str) -> Result<Manifest, SnapshotError> {
        self.block_on(self.manifest(log_uuid, partition, name))
    }

    pub(crate) async fn manifest(
        &self,
        log_uuid: u128,
        partition: Partition,
        name: &str,
    ) -> Result<Manifest, SnapshotError> {
        let unusable = |problem: String| SnapshotError::Unusable { name: name.to_owned(), problem };
        let path = self.manifests(log_uuid, partition).join(name);
        let found = self.objects.get(&path).await.map_err(SnapshotError::store("read", &path))?;
        if found.meta.size > MANIFEST_BYTES_MAX {
            return Err(unusable(format!("its manifest has {} bytes", found.meta.size)));
        }
        let bytes = found.bytes().await.map_err(SnapshotError::store("read", &path))?;
        let manifest = Manifest::parse(&bytes).map_err(unusable)?;
        if manifest.log_uuid != format!("{log_uuid:032x}") || manifest.partition != partition.to_string() {
            let problem = format!("it is of {} of log {}", manifest.partition, manifest.log_uuid);
            return Err(unusable(problem));
        }
        Ok(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_offset_and_time() {
        let listed = Listed::parse("00000000000000000012-1767225600000-0a1b2c3d.json").expect("ours");
        assert_eq!((listed.next_offset, listed.created_at_ms), (12, 1_767_225_600_000));
        for other in ["", "x.json", "1-2.json", "a-1-c.json", "1-b-c.json", "1-2-c.json.new"] {
            assert_eq!(Listed::parse(other), None, "{other}");
        }
    }

    #[test]
    fn places_that_are_none_are_refused_with_what_to_give() {
        for url in ["ftp://x/y", "http://x/y", "s3://"] {
            let error = SnapshotStore::open(url, []).expect_err("no place");
            assert!(error.to_string().contains("s3://BUCKET/PREFIX"), "{error}");
        }
    }
}
