//! The embedded log: one sequence of segment files for all partitions of both topics, with group commit.
//!
//! * An append becomes one *frame*, under one checksum: it counts as a whole or not at all.
//! * A thread takes all frames that have gathered and writes them as one *group* with one `write` and one `fdatasync`.
//!   While it does, the next group gathers: batching follows the load and no request waits for a timer.
//! * Readers see durable groups only: from memory while they keep up, from pieces of files when they catch up. Both
//!   are shared by all partitions, since their workers read the same log at about the same pace.
//! * After a failed write or `fdatasync` the log takes nothing more. What survives is found out by opening it again.
//!
//! The byte layout stands in `format.rs`.

mod chunk;
mod chunk_cache;
#[cfg(any(test, feature = "test-util"))]
mod faults;
mod format;
mod housekeeper;
mod index_file;
mod inspect;
mod log_time;
mod meta;
mod options;
mod recover;
mod scan;
mod segment;
pub(crate) mod shape;
mod shared;
mod tail;
mod trim;
mod writer;

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use barrage_event::{Offset, Partition, Topic};

use crate::ack::Ack;
use crate::batch::AppendBatch;
use crate::error::{AppendError, OpenError, ReadError, TrimError};
use crate::event_log::{EventLog, Health, Record, SnapshotBase};
use crate::metrics::Metrics;

#[cfg(any(test, feature = "test-util"))]
pub use faults::Faults;
pub use inspect::{Ending, LogReader};
pub use options::EmbeddedOptions;

use shared::Shared;

/// An [`EventLog`] in a directory of this machine, open in this process alone.
///
/// Dropping it closes it, see [`EmbeddedLog::close`].
#[derive(Debug)]
pub struct EmbeddedLog {
    shared: Arc<Shared>,
    dir: PathBuf,
    owned: Mutex<Option<Owned>>,
}

/// What an open log holds and a closed one does not.
#[derive(Debug)]
struct Owned {
    writer: JoinHandle<()>,
    /// Releases the directory when dropped.
    _lock: File,
}

impl EmbeddedLog {
    /// Opens the log in `dir`, or makes it there when there is none.
    ///
    /// Reads the index of every full segment and the whole of the last one; a write that was not finished is cut off
    /// with a warning.
    ///
    /// # Errors
    /// Every [`OpenError`]; a damaged log is never changed.
    pub fn open(dir: &Path, options: &EmbeddedOptions, metrics: Metrics) -> Result<Self, OpenError> {
        options.check()?;
        fs::create_dir_all(dir).map_err(OpenError::io("make", dir))?;
        let lock = meta::lock(dir)?;
        let meta = recover::identify(dir, options)?;
        let recovered = recover::recover(dir, &meta, options)?;
        let segments = recovered.segments.clone();
        let shared = Arc::new(Shared::new(meta, options, segments, recovered.next.clone(), metrics));
        let writer = writer::Writer::new(Arc::clone(&shared), dir.to_owned(), options, recovered)
            .and_then(|writer| std::thread::Builder::new().name("log-writer".to_owned()).spawn(move || writer.run()))
            .map_err(OpenError::io("start the threads of", dir))?;
        Ok(Self { shared, dir: dir.to_owned(), owned: Mutex::new(Some(Owned { writer, _lock: lock })) })
    }

    /// Whether there is room for a segment in the directory of a log that is closed, for one that ended on a full disk.
    ///
    /// # Errors
    /// What the system says to a file of that size.
    pub fn check_room(dir: &Path, options: &EmbeddedOptions) -> Result<(), OpenError> {
        fs::create_dir_all(dir).map_err(OpenError::io("make", dir))?;
        let path = dir.join("room");
        let reserved = File::create(&path).and_then(|file| segment::reserve(&file, options.segment_bytes));
        let removed = fs::remove_file(&path);
        reserved.map_err(OpenError::io("reserve the space of", &path))?;
        removed.map_err(OpenError::io("remove", &path))
    }

    /// Directory of the log.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Takes no more appends, makes durable and acknowledges what was appended, and releases the directory. Durable
    /// records can still be read. Closing twice changes nothing.
    pub fn close(&self) {
        let owned = self.owned.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(owned) = owned else { return };
        self.shared.pending().closing = true;
        self.shared.wake.notify_one();
        // A panic of the writer has failed the log already.
        let _ = owned.writer.join();
        self.shared.advance();
    }

    /// Faults on demand, for tests.
    #[cfg(any(test, feature = "test-util"))]
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }
}

impl Drop for EmbeddedLog {
    fn drop(&mut self) {
        self.close();
    }
}

impl EventLog for EmbeddedLog {
    fn uuid(&self) -> u128 {
        self.shared.meta.uuid
    }

    fn partitions(&self, topic: Topic) -> u16 {
        self.shared.meta.shape.of(topic)
    }

    fn append(&self, batch: &mut AppendBatch) -> Result<Ack, AppendError> {
        self.shared.append(batch)
    }

    fn read(
        &self,
        partition: Partition,
        from: Offset,
        bytes_max: usize,
        visit: &mut dyn FnMut(Record<'_>) -> ControlFlow<()>,
    ) -> Result<Offset, ReadError> {
        self.shared.read(partition, from, bytes_max, visit)
    }

    fn start(&self, partition: Partition) -> Offset {
        let dense = self.shared.meta.shape.dense(partition);
        let start = dense.and_then(|dense| self.shared.starts.get(dense));
        Offset(start.map_or(0, |start| start.load(Ordering::Acquire)))
    }

    fn end(&self, partition: Partition) -> Offset {
        let dense = self.shared.meta.shape.dense(partition);
        let end = dense.and_then(|dense| self.shared.ends.get(dense));
        Offset(end.map_or(0, |end| end.load(Ordering::Acquire)))
    }

    fn wait(&self, seen: u64, timeout: Duration) -> u64 {
        self.shared.wait(seen, timeout)
    }

    fn wake(&self) {
        self.shared.advance();
    }

    fn health(&self) -> Health {
        if let Some(reason) = self.shared.failure.get() {
            return Health::Failed { reason: Arc::clone(reason) };
        }
        if self.shared.pending().closing { Health::Closed } else { Health::Ready }
    }

    fn trim(&self, base: &SnapshotBase) -> Result<Vec<(Partition, Offset)>, TrimError> {
        // Held to the end: nobody else trims, and the directory stays this process's.
        let owned = self.owned.lock().unwrap_or_else(PoisonError::into_inner);
        if owned.is_none() {
            return Err(TrimError::Closed);
        }
        base.check(self)?;
        let partitions = self.all_partitions();
        let mut next = vec![0; self.shared.meta.shape.total()];
        for (partition, offset) in &base.next {
            let dense = self.shared.meta.shape.dense(*partition);
            if let Some(place) = dense.and_then(|dense| next.get_mut(dense)) {
                *place = offset.0;
            }
        }
        self.shared.trim(&self.dir, &next).map_err(|error| TrimError::Failed { reason: error.to_string().into() })?;
        Ok(partitions.into_iter().map(|partition| (partition, self.start(partition))).collect())
    }
}
