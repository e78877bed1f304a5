//! Where a partition's stores lie: numbered directories and a pointer to the one in use.
//!
//! ```text
//! state/room-0/CURRENT     text: the number of the store in use
//! state/room-0/000001/     the store
//! state/room-0/000002/     a rebuild that has not been swapped in yet, or a store that was swapped out
//! state/room-0/snapshot/   a checkpoint on its way to the snapshots
//! state/room-0/restore-1/  a snapshot on its way here
//! ```
//!
//! The pointer is replaced by a rename, so there is always exactly one store in use.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use barrage_event::Partition;

use crate::StateError;

/// The directory of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionDir(PathBuf);

/// The directory of one store of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreDir {
    /// Its number; later stores have higher ones.
    pub number: u32,
    /// Its path.
    pub path: PathBuf,
}

fn file_error(path: &Path) -> impl FnOnce(std::io::Error) -> StateError + '_ {
    move |source| StateError::File { path: path.display().to_string(), source }
}

impl PartitionDir {
    /// The partition's directory under `state`, which need not exist yet.
    #[must_use]
    pub fn new(state: &Path, partition: Partition) -> Self {
        Self(state.join(format!("{}-{}", partition.topic.short(), partition.index)))
    }

    fn store(&self, number: u32) -> StoreDir {
        StoreDir { number, path: self.0.join(format!("{number:06}")) }
    }

    fn pointer(&self) -> PathBuf {
        self.0.join("CURRENT")
    }

    /// The store in use; `None` when there is none yet.
    ///
    /// # Errors
    /// [`StateError`] when the pointer cannot be read.
    pub fn current(&self) -> Result<Option<StoreDir>, StateError> {
        let path = self.pointer();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(file_error(&path)(e)),
        };
        let number = text.trim().parse().map_err(|_| StateError::Damaged {
            dir: self.0.display().to_string(),
            problem: format!("CURRENT holds `{}`, which is no number", text.trim()),
        })?;
        Ok(Some(self.store(number)))
    }

    /// Makes `store` the one in use, durably.
    ///
    /// # Errors
    /// [`StateError::File`] when the pointer cannot be written.
    pub fn set_current(&self, store: &StoreDir) -> Result<(), StateError> {
        fs::create_dir_all(&self.0).map_err(file_error(&self.0))?;
        let path = self.pointer();
        let temporary = self.0.join("CURRENT.new");
        let mut file = fs::File::create(&temporary).map_err(file_error(&temporary))?;
        writeln!(file, "{:06}", store.number).map_err(file_error(&temporary))?;
        file.sync_all().map_err(file_error(&temporary))?;
        fs::rename(&temporary, &path).map_err(file_error(&path))?;
        fs::File::open(&self.0).and_then(|dir| dir.sync_all()).map_err(file_error(&self.0))
    }

    /// A new, empty store directory with a number above all others.
    ///
    /// # Errors
    /// [`StateError::File`] when it cannot be made.
    pub fn next(&self) -> Result<StoreDir, StateError> {
        let highest = self.numbers()?.into_iter().max().unwrap_or(0);
        let store = self.store(highest + 1);
        fs::create_dir_all(&store.path).map_err(file_error(&store.path))?;
        Ok(store)
    }

    /// A path beside the stores, on the same file system, for something that is no store yet. Nothing is made.
    #[must_use]
    pub fn beside(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Makes a complete store that lies beside the stores one of them, with a number above all others. It is in use only
    /// after [`PartitionDir::set_current`].
    ///
    /// # Errors
    /// [`StateError::File`] when it cannot be moved.
    pub fn adopt(&self, from: &Path) -> Result<StoreDir, StateError> {
        let store = self.next()?;
        // The new directory is empty, so the rename replaces it.
        fs::rename(from, &store.path).map_err(file_error(from))?;
        Ok(store)
    }

    /// Removes a store that is not the one in use.
    ///
    /// # Errors
    /// [`StateError::File`] when it cannot be removed.
    pub fn remove(&self, store: &StoreDir) -> Result<(), StateError> {
        fs::remove_dir_all(&store.path).map_err(file_error(&store.path))
    }

    /// Removes every store but the one in use: rebuilds that were given up, stores that were swapped out.
    ///
    /// # Errors
    /// [`StateError::File`] when one cannot be removed.
    pub fn clean(&self) -> Result<(), StateError> {
        let Some(current) = self.current()? else { return Ok(()) };
        for number in self.numbers()? {
            if number != current.number {
                self.remove(&self.store(number))?;
            }
        }
        Ok(())
    }

    fn numbers(&self) -> Result<Vec<u32>, StateError> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(file_error(&self.0)(e)),
        };
        let mut numbers = Vec::new();
        for entry in entries {
            let entry = entry.map_err(file_error(&self.0))?;
            if let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                numbers.push(number);
            }
        }
        Ok(numbers)
    }
}
