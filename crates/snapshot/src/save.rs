//! Taking a snapshot: a checkpoint's files go up, those that are there already do not, and the manifest comes last.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::PoisonError;
use std::time::{SystemTime, UNIX_EPOCH};

use barrage_event::Partition;
use barrage_state::{Meta, Store};
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStoreExt as _, PutPayload, WriteMultipart};
use xxhash_rust::xxh3::Xxh3;

use crate::bucket::SnapshotStore;
use crate::error::SnapshotError;
use crate::manifest::{File, Manifest};

/// A part of a file on its way, bytes. S3 takes parts from 5 MiB on and 10,000 of them.
const PART_BYTES: usize = 8 << 20;
/// Parts under way at once.
const PARTS: usize = 4;

/// Hashes of table files by what the system knows a file by: a table file never changes, so it is read once.
pub(crate) type Hashes = HashMap<(u64, u64, u64, i64, i64), u128>;

/// A snapshot that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// Its manifest's name.
    pub name: String,
    /// What it consists of.
    pub manifest: Manifest,
    /// Bytes that were sent.
    pub bytes_sent: u64,
    /// Bytes that the snapshot before had already.
    pub bytes_reused: u64,
}

/// Files of a store's directory that are no part of the store.
fn is_state(name: &str) -> bool {
    !(name == "LOCK" || name.starts_with("LOG"))
}

fn hash_file(path: &Path) -> Result<u128, SnapshotError> {
    let mut file = fs::File::open(path).map_err(SnapshotError::file(path))?;
    let (mut hash, mut buffer) = (Xxh3::new(), vec![0; 1 << 20]);
    loop {
        let read = file.read(&mut buffer).map_err(SnapshotError::file(path))?;
        if read == 0 {
            return Ok(hash.digest128());
        }
        hash.update(buffer.get(..read).unwrap_or_default());
    }
}

impl SnapshotStore {
    /// Makes a snapshot of a checkpoint, the directory of a store that nobody writes to.
    ///
    /// # Errors
    /// Every [`SnapshotError`]; there is no new snapshot then, and what was sent is removed in time.
    pub fn save(&self, partition: Partition, checkpoint: &Path) -> Result<Saved, SnapshotError> {
        let files = self.files_of(partition, checkpoint)?;
        let meta = Store::open_read_only(checkpoint)?.meta()?.ok_or(SnapshotError::Empty(partition))?;
        self.block_on(self.send(partition, checkpoint, &meta, files))
    }

    fn files_of(&self, partition: Partition, dir: &Path) -> Result<Vec<File>, SnapshotError> {
        let known =
            self.hashes.lock().unwrap_or_else(PoisonError::into_inner).get(&partition).cloned().unwrap_or_default();
        let (mut files, mut hashes) = (Vec::new(), Hashes::new());
        for entry in fs::read_dir(dir).map_err(SnapshotError::file(dir))? {
            let entry = entry.map_err(SnapshotError::file(dir))?;
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            let stat = entry.metadata().map_err(SnapshotError::file(&path))?;
            if !stat.is_file() || !is_state(&name) {
                continue;
            }
            let key = (stat.dev(), stat.ino(), stat.size(), stat.mtime(), stat.mtime_nsec());
            let immutable = path.extension().is_some_and(|extension| extension == "sst");
            let hash = match known.get(&key).filter(|_| immutable) {
                Some(&hash) => hash,
                None => hash_file(&path)?,
            };
            if immutable {
                hashes.insert(key, hash);
            }
            files.push(File { name, bytes: stat.size(), xxh3_128: format!("{hash:032x}") });
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        self.hashes.lock().unwrap_or_else(PoisonError::into_inner).insert(partition, hashes);
        Ok(files)
    }

    async fn send(
        &self,
        partition: Partition,
        dir: &Path,
        meta: &Meta,
        files: Vec<File>,
    ) -> Result<Saved, SnapshotError> {
        let log_uuid = meta.log_uuid.as_slice().try_into().map_or(0, u128::from_be_bytes);
        let (folder, manifests) = (self.files(log_uuid, partition), self.manifests(log_uuid, partition));
        // Only what the snapshot before names is taken as being there: it stays for as long as that one does. Anything
        // else may be about to be removed, and is sent again, which makes it young. So is what was cut or is gone, or it
        // would be missing in every snapshot to come. One that goes on behind this one may be of another history.
        let before = self.newest_until(log_uuid, partition, meta.next_offset).await?;
        let objects = self.objects_in(&folder).await?;
        let sizes: HashMap<&str, u64> =
            objects.iter().filter_map(|object| Some((object.location.filename()?, object.size))).collect();
        let is_whole = |file: &&File| sizes.get(file.object().as_str()) == Some(&file.bytes);
        let there: HashSet<String> = before.iter().flat_map(|m| &m.files).filter(is_whole).map(File::object).collect();
        let (mut bytes_sent, mut bytes_reused, mut reused) = (0, 0, HashSet::new());
        let mut sent = HashSet::new();
        for file in &files {
            let object = file.object();
            if there.contains(&object) {
                bytes_reused += file.bytes;
                reused.insert(object);
            } else if sent.insert(object.clone()) {
                self.send_file(&dir.join(&file.name), &folder.clone().join(object)).await?;
                bytes_sent += file.bytes;
            }
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let created_at_ms = i64::try_from(now).unwrap_or(i64::MAX);
        let manifest = Manifest::new(partition, meta, created_at_ms, files);
        let mut random = [0; 4];
        // Without randomness two processes would have to make the same offset in the same millisecond to clash.
        let _ = getrandom::fill(&mut random);
        let random = u32::from_le_bytes(random);
        let name = format!("{:020}-{created_at_ms:013}-{random:08x}.json", manifest.next_offset);
        let path = manifests.join(name.as_str());
        let bytes = serde_json::to_vec_pretty(&manifest)
            .map_err(|e| SnapshotError::Unusable { name: name.clone(), problem: e.to_string() })?;
        self.objects.put(&path, PutPayload::from(bytes)).await.map_err(SnapshotError::store("write", &path))?;
        let objects = self.objects_in(&folder).await?;
        let names: HashSet<&str> = objects.iter().filter_map(|object| object.location.filename()).collect();
        if !reused.iter().all(|object| names.contains(object.as_str())) {
            self.objects.delete(&path).await.map_err(SnapshotError::store("remove", &path))?;
            return Err(SnapshotError::Overtaken { name });
        }
        Ok(Saved { name, manifest, bytes_sent, bytes_reused })
    }

    async fn newest_until(
        &self,
        log_uuid: u128,
        partition: Partition,
        until: u64,
    ) -> Result<Option<Manifest>, SnapshotError> {
        for listed in self.listed(log_uuid, partition).await?.iter().filter(|listed| listed.next_offset <= until) {
            match self.manifest(log_uuid, partition, &listed.name).await {
                Ok(manifest) => return Ok(Some(manifest)),
                Err(error @ SnapshotError::Unusable { .. }) => tracing::warn!(%partition, %error, "passed over"),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    async fn send_file(&self, from: &Path, to: &ObjectPath) -> Result<(), SnapshotError> {
        let failed = || SnapshotError::store("write", to);
        let mut file = fs::File::open(from).map_err(SnapshotError::file(from))?;
        let size = file.metadata().map_err(SnapshotError::file(from))?.len();
        let mut part = Vec::new();
        if size <= PART_BYTES as u64 {
            file.read_to_end(&mut part).map_err(SnapshotError::file(from))?;
            self.objects.put(to, PutPayload::from(part)).await.map_err(failed())?;
            return Ok(());
        }
        let upload = self.objects.put_multipart(to).await.map_err(failed())?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        loop {
            part.clear();
            let read = (&mut file).take(PART_BYTES as u64).read_to_end(&mut part);
            match read {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    // What S3 keeps of an unfinished upload costs money until it is aborted.
                    drop(upload.abort().await);
                    return Err(SnapshotError::file(from)(error));
                }
            }
            upload.wait_for_capacity(PARTS).await.map_err(failed())?;
            upload.write(&part);
        }
        // It aborts by itself when it fails.
        upload.finish().await.map_err(failed())?;
        Ok(())
    }
}
