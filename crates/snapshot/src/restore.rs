//! Bringing a snapshot back: every file is compared with its hash and the store with its manifest before it may be used.

use std::fmt;
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
use crate::lineage::{say_stranger, stranger};
use crate::manifest::{File, Manifest, hex};

/// Files on their way at once.
const FILES: usize = 4;

/// Which snapshots would do.
#[derive(Clone, Copy)]
pub struct Wanted<'w> {
    /// Of this log as it is now: not beyond its end, not before its start, and with its records.
    pub log: &'w dyn EventLog,
    /// Of this partition.
    pub partition: Partition,
    /// Of this format of the runtime's tables.
    pub format: u32,
    /// Of these statistics and versions.
    pub statistics: &'w [proto::StatisticVersion],
    /// Nearer to the log's end than this offset.
    pub above: u64,
}

impl fmt::Debug for Wanted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wanted").field("partition", &self.partition).field("above", &self.above).finish_non_exhaustive()
    }
}

impl Wanted<'_> {
    fn lineage(&self) -> u128 {
        self.log.lineage(self.partition.topic)
    }

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
        for listed in self.list(wanted.lineage(), partition)? {
            if listed.next_offset <= wanted.above || listed.next_offset < wanted.log.start(partition).0 {
                break;
            }
            match self.try_restore(env, wanted, &listed.name, dir, cancelled) {
                Ok(Some(manifest)) => return Ok(Some(manifest)),
                Ok(None) => remove(dir)?,
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

    /// `None` when the snapshot is not of the log as it is now.
    fn try_restore(
        &self,
        env: &StateEnv,
        wanted: &Wanted<'_>,
        name: &str,
        dir: &Path,
        cancelled: &AtomicBool,
    ) -> Result<Option<Manifest>, SnapshotError> {
        let partition = wanted.partition;
        let mut manifest = self.read(wanted.lineage(), partition, name)?;
        wanted.suits(&manifest).map_err(|problem| SnapshotError::Unusable { name: name.to_owned(), problem })?;
        let is_stranger = |manifest: &Manifest| match stranger(wanted.log, partition, manifest) {
            Ok(Some(problem)) => {
                say_stranger(partition, name, &problem);
                true
            }
            Ok(None) => false,
            // Whoever opens the store asks again, and does not begin from the log's start for that.
            Err(error) => {
                tracing::debug!(%partition, name, %error, "not known to be of this log");
                false
            }
        };
        // First of all, because the files may be many.
        if is_stranger(&manifest) {
            return Ok(None);
        }
        let told = manifest.last_record_id.is_some();
        self.bring(env, wanted.lineage(), partition, name, &mut manifest, dir, cancelled)?;
        Ok((told || !is_stranger(&manifest)).then_some(manifest))
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
        let mut manifest = self.read(log_uuid, partition, name)?;
        let checked = self
            .bring(env, log_uuid, partition, name, &mut manifest, scratch, &AtomicBool::new(false))
            .and_then(|()| Ok(Store::open_read_only(scratch)?.check()?));
        remove(scratch)?;
        checked.map(|_| manifest)
    }

    /// What [`EventLog::trim`] asks for: of every partition the **oldest** snapshot that suits and is newer than the base
    /// before it, or that base, read back and its hashes computed from its rows, so that the newer ones stay of use as
    /// well. The log must hold the last record that it saw. It is marked and stays until another one is. A partition that
    /// holds nothing needs none.
    ///
    /// # Errors
    /// [`SnapshotError::None`] when a partition has no snapshot; what [`SnapshotStore::verify`] says; and
    /// [`SnapshotError::Log`] or [`SnapshotError::Unread`] when the log does not tell whether one is its own.
    pub fn base(
        &self,
        env: &StateEnv,
        log: &dyn EventLog,
        (format, statistics): (u32, &[proto::StatisticVersion]),
        scratch: &Path,
    ) -> Result<SnapshotBase, SnapshotError> {
        let mut next = Vec::new();
        for partition in log.all_partitions() {
            let start = log.start(partition);
            if start == log.end(partition) {
                next.push((partition, start));
                continue;
            }
            let wanted = Wanted { log, partition, format, statistics, above: start.0 };
            next.push((partition, self.base_of(env, &wanted, scratch)?));
        }
        Ok(SnapshotBase { log_uuid: log.uuid(), next, verified: true })
    }

    fn base_of(&self, env: &StateEnv, wanted: &Wanted<'_>, scratch: &Path) -> Result<Offset, SnapshotError> {
        let (log_uuid, partition) = (wanted.lineage(), wanted.partition);
        let marked = self.block_on(self.marked(log_uuid, partition))?;
        let mut suiting = Vec::new();
        for listed in self.list(log_uuid, partition)?.into_iter().rev() {
            if listed.next_offset < wanted.above {
                continue;
            }
            let manifest = self.read(log_uuid, partition, &listed.name)?;
            match stranger(wanted.log, partition, &manifest)? {
                Some(problem) => say_stranger(partition, &listed.name, &problem),
                None if wanted.suits(&manifest).is_ok() => suiting.push(listed.name),
                None => {}
            }
        }
        let before = suiting.iter().rposition(|name| marked.contains(name));
        let newer = suiting.get(before.map_or(0, |before| before + 1));
        let name = newer.or_else(|| suiting.last()).ok_or(SnapshotError::None(partition))?;
        let manifest = self.verify(env, log_uuid, partition, name, scratch)?;
        // Again, because one of an older version tells its last record only now.
        if let Some(problem) = stranger(wanted.log, partition, &manifest)? {
            return Err(SnapshotError::Unusable { name: name.clone(), problem });
        }
        // Before anything is given up behind it.
        self.block_on(self.mark(log_uuid, partition, name))?;
        Ok(Offset(manifest.next_offset))
    }

    /// Brings the files, and completes what the manifest tells by what the store does.
    #[allow(clippy::too_many_arguments, reason = "one caller more would not make it a type")]
    fn bring(
        &self,
        env: &StateEnv,
        log_uuid: u128,
        partition: Partition,
        name: &str,
        manifest: &mut Manifest,
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
        manifest.agrees(&meta).map_err(unusable)?;
        manifest.last_record_id.get_or_insert_with(|| hex(&meta.last_record_id));
        Ok(())
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
