//! Bringing a snapshot back: every file is compared with its hash and the store with its manifest before it may be used.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use barrage_event::{Offset, Partition};
use barrage_log::{EventLog, SnapshotBase};
use barrage_state::{StateEnv, Store, proto};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use object_store::ObjectStoreExt as _;
use object_store::path::Path as ObjectPath;
use xxhash_rust::xxh3::Xxh3;

use crate::bucket::SnapshotStore;
use crate::error::SnapshotError;
use crate::manifest::{File, Manifest};

/// Files on their way at once.
const FILES: usize = 4;

/// Which snapshots would do.
#[derive(Debug, Clone)]
pub struct Wanted<'w> {
    /// Of this log.
    pub log_uuid: u128,
    /// Of this partition.
    pub partition: Partition,
    /// Of this format of the runtime's tables.
    pub format: u32,
    /// Of these statistics and versions.
    pub statistics: &'w [proto::StatisticVersion],
    /// Nearer to the log's end than this offset.
    pub above: u64,
    /// Not beyond the log's end.
    pub until: u64,
}

impl Wanted<'_> {
    fn suits(&self, manifest: &Manifest) -> Result<(), String> {
        if manifest.format != self.format
            || !manifest.statistics.iter().cloned().eq(self.statistics.iter().map(Into::into))
        {
            return Err("it was made by another version of the statistics".to_owned());
        }
        Ok(())
    }
}

impl SnapshotStore {
    /// Brings the newest snapshot that suits into `dir`, which is emptied first. A damaged or foreign one is passed over
    /// with a warning, and the one before is tried. `None` when none is left; `dir` is not there then.
    ///
    /// # Errors
    /// [`SnapshotError::Store`] when the object store fails, [`SnapshotError::Cancelled`] soon after `cancelled` is set.
    pub fn restore(
        &self,
        env: &StateEnv,
        wanted: &Wanted<'_>,
        dir: &Path,
        cancelled: &AtomicBool,
    ) -> Result<Option<Manifest>, SnapshotError> {
        let partition = wanted.partition;
        for listed in self.list(wanted.log_uuid, partition)? {
            if listed.next_offset <= wanted.above {
                break;
            }
            if listed.next_offset > wanted.until {
                tracing::warn!(%partition, snapshot = listed.name, "it is beyond the log's end and is passed over");
                continue;
            }
            let tried = self.read(wanted.log_uuid, partition, &listed.name).and_then(|manifest| {
                wanted
                    .suits(&manifest)
                    .map_err(|problem| SnapshotError::Unusable { name: listed.name.clone(), problem })?;
                self.bring(env, wanted.log_uuid, partition, &listed.name, &manifest, dir, cancelled)?;
                Ok(manifest)
            });
            match tried {
                Ok(manifest) => return Ok(Some(manifest)),
                Err(error) => {
                    remove(dir)?;
                    match error {
                        SnapshotError::Unusable { .. } | SnapshotError::State(_) => {
                            tracing::warn!(%partition, %error, "the snapshot before it is tried");
                        }
                        other => return Err(other),
                    }
                }
            }
        }
        Ok(None)
    }

    /// Reads a snapshot back into `scratch`, which is emptied before and removed after, and computes its hashes from its
    /// rows.
    ///
    /// # Errors
    /// [`SnapshotError::Unusable`] and [`SnapshotError::State`] when it is not what it should be.
    pub fn verify(
        &self,
        env: &StateEnv,
        log_uuid: u128,
        partition: Partition,
        name: &str,
        scratch: &Path,
    ) -> Result<Manifest, SnapshotError> {
        let manifest = self.read(log_uuid, partition, name)?;
        let checked = self
            .bring(env, log_uuid, partition, name, &manifest, scratch, &AtomicBool::new(false))
            .and_then(|()| Ok(Store::open_read_only(scratch)?.check()?));
        remove(scratch)?;
        checked.map(|_| manifest)
    }

    /// What [`EventLog::trim`] asks for: of every partition the **oldest** snapshot that suits and is newer than the base
    /// before it, or that base, read back and its hashes computed from its rows, so that the newer ones stay of use as
    /// well. It is marked and stays until another one is. A partition that holds nothing needs none.
    ///
    /// # Errors
    /// [`SnapshotError::None`] when a partition has no snapshot; and what [`SnapshotStore::verify`] says.
    pub fn base(
        &self,
        env: &StateEnv,
        log: &dyn EventLog,
        (format, statistics): (u32, &[proto::StatisticVersion]),
        scratch: &Path,
    ) -> Result<SnapshotBase, SnapshotError> {
        let log_uuid = log.uuid();
        let mut next = Vec::new();
        for partition in log.all_partitions() {
            let (start, until) = (log.start(partition).0, log.end(partition).0);
            if start == until {
                next.push((partition, Offset(start)));
                continue;
            }
            let wanted = Wanted { log_uuid, partition, format, statistics, above: start, until };
            let before = self.block_on(self.marked(log_uuid, partition))?;
            let mut suiting = Vec::new();
            for listed in self.list(log_uuid, partition)?.into_iter().rev() {
                if (start..=until).contains(&listed.next_offset)
                    && wanted.suits(&self.read(log_uuid, partition, &listed.name)?).is_ok()
                {
                    suiting.push(listed.name);
                }
            }
            let newer = suiting.iter().find(|name| before.as_ref().is_none_or(|before| *name > before));
            let name = newer.or_else(|| suiting.last()).ok_or(SnapshotError::None(partition))?;
            let manifest = self.verify(env, log_uuid, partition, name, scratch)?;
            // Before anything is given up behind it.
            self.block_on(self.mark(log_uuid, partition, name))?;
            next.push((partition, Offset(manifest.next_offset)));
        }
        Ok(SnapshotBase { log_uuid, next, verified: true })
    }

    #[allow(clippy::too_many_arguments, reason = "one caller more would not make it a type")]
    fn bring(
        &self,
        env: &StateEnv,
        log_uuid: u128,
        partition: Partition,
        name: &str,
        manifest: &Manifest,
        dir: &Path,
        cancelled: &AtomicBool,
    ) -> Result<(), SnapshotError> {
        let unusable = |problem: String| SnapshotError::Unusable { name: name.to_owned(), problem };
        remove(dir)?;
        fs::create_dir_all(dir).map_err(SnapshotError::file(dir))?;
        let folder = self.files(log_uuid, partition);
        self.block_on(async {
            stream::iter(&manifest.files)
                .map(|file| self.fetch(file, folder.clone().join(file.object()), dir.join(&file.name), cancelled))
                .buffer_unordered(FILES)
                .try_for_each(|problem| {
                    let result = problem.map_or(Ok(()), |problem| Err(unusable(problem)));
                    async { result }
                })
                .await
        })?;
        fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(SnapshotError::file(dir))?;
        let meta = Store::open(env, dir)?.meta()?.ok_or_else(|| unusable("its store is empty".to_owned()))?;
        manifest.agrees(&meta).map_err(unusable)
    }

    /// One file; what is wrong with it, if the object store is not to blame.
    async fn fetch(
        &self,
        file: &File,
        from: ObjectPath,
        to: std::path::PathBuf,
        cancelled: &AtomicBool,
    ) -> Result<Option<String>, SnapshotError> {
        let found = match self.objects.get(&from).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(Some(format!("its file {from} is missing"))),
            Err(error) => return Err(SnapshotError::store("read", &from)(error)),
        };
        if found.meta.size != file.bytes {
            return Ok(Some(format!("its file {from} has {} bytes, not {}", found.meta.size, file.bytes)));
        }
        let mut out = fs::File::create(&to).map_err(SnapshotError::file(&to))?;
        let mut hash = Xxh3::new();
        let mut chunks = found.into_stream();
        while let Some(chunk) = chunks.try_next().await.map_err(SnapshotError::store("read", &from))? {
            if cancelled.load(Ordering::Relaxed) {
                return Err(SnapshotError::Cancelled);
            }
            hash.update(&chunk);
            out.write_all(&chunk).map_err(SnapshotError::file(&to))?;
        }
        if format!("{:032x}", hash.digest128()) != file.xxh3_128 {
            return Ok(Some(format!("its file {from} has other content than when it was sent")));
        }
        // It becomes the store in use, and a log may be trimmed behind it.
        out.sync_all().map_err(SnapshotError::file(&to))?;
        Ok(None)
    }
}

fn remove(dir: &Path) -> Result<(), SnapshotError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(SnapshotError::file(dir)(error)),
        _ => Ok(()),
    }
}
