//! The spool: what keeps the promise of an answer while the log does not acknowledge.
//!
//! IM gives a callback one chance and waits two seconds for the answer. So when records are not acknowledged in time,
//! the spool writes them to a disk of this machine, `fdatasync`s, and the request is answered OK. From then on every
//! record of those partitions goes to the spool, behind the ones before it; when the log is back they are handed to it
//! in order, and once nothing is left to hand over, new records go straight to the log again.
//!
//! The log may get a record twice: it still holds what it was given, and the spool gives it again. Every record
//! carries its incarnation and sequence, so that the workers count it once; what matters here is only that **in each
//! partition the first appearances of an incarnation's records are in the order of their sequences**, because a worker
//! drops what is not above the highest it has seen. Everything below is built around that sentence:
//!
//! * appends, takeovers and the way back are decided under one lock, the same that appends take;
//! * a takeover takes *all* that is unacknowledged of a partition, oldest first;
//! * nothing of a partition goes straight to the log while records of it are in the spool that were not handed over.
//!
//! The disk format is the embedded log's: segments with checksums, group commit, torn tails cut. What was not drained
//! when the process died is drained by the next one, under the same incarnations and sequences.

mod disk;
mod drain;
mod durable;
mod metrics;
mod options;
mod state;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use barrage_log::{AppendBatch, AppendError, EventLog};

pub use disk::SpoolError;
pub use durable::Durable;
pub use metrics::SpoolMetrics;
pub use options::SpoolOptions;

use state::State;

/// The spool in front of a log. Dropped, it stops without a takeover; [`Spool::close`] is the polite way.
pub struct Spool {
    inner: Arc<Inner>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Inner {
    log: Arc<dyn EventLog>,
    dir: PathBuf,
    options: SpoolOptions,
    metrics: SpoolMetrics,
    state: Mutex<State>,
    changed: Condvar,
}

/// How full the spool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct SpoolStatus {
    /// Partitions whose records go to the spool now.
    pub partitions: usize,
    /// Records that the log has not acknowledged yet.
    pub records: u64,
    /// Bytes on the disk while records wait.
    pub bytes: u64,
    /// How long records have been waiting without a break, ms.
    pub since_ms: u64,
    /// Whether the disk takes nothing now.
    pub failed: bool,
}

impl fmt::Debug for Spool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spool").field("dir", &self.inner.dir).finish_non_exhaustive()
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spool {
    /// Opens the spool of `log` in `dir`, and begins to drain what an earlier process left in it.
    ///
    /// # Errors
    /// [`SpoolError`] when the directory cannot be used, is another log's or another process's.
    pub fn open(
        dir: &Path,
        options: SpoolOptions,
        log: Arc<dyn EventLog>,
        metrics: SpoolMetrics,
    ) -> Result<Self, SpoolError> {
        metrics.bytes_max.set(i64::try_from(options.bytes_max).unwrap_or(i64::MAX));
        let disk = disk::Disk::open(dir, &options, log.as_ref(), &metrics)?;
        let state = State::new(disk, log.as_ref());
        let inner = Arc::new(Inner {
            log,
            dir: dir.to_owned(),
            options,
            metrics,
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let thread = {
            let inner = Arc::clone(&inner);
            std::thread::Builder::new().name("spool".to_owned()).spawn(move || drain::run(&inner))
        };
        let thread = thread.map_err(SpoolError::Thread)?;
        Ok(Self { inner, thread: Mutex::new(Some(thread)) })
    }

    /// Hands records to the log, or to the disk where the log does not take them. As [`EventLog::append`], but what it
    /// returns is ready when the records are durable *somewhere*.
    ///
    /// # Errors
    /// What the records themselves are refused for; [`AppendError::Failed`] when neither the log nor the disk takes
    /// anything.
    pub fn append(&self, batch: &mut AppendBatch) -> Result<Durable, AppendError> {
        let inner = &*self.inner;
        let result = inner.state().append(batch, inner.log.as_ref(), &inner.options, &inner.metrics);
        if let Err(AppendError::Failed { .. } | AppendError::Full { .. }) = &result {
            inner.metrics.refused.inc();
        }
        result
    }

    /// How full it is.
    #[must_use]
    pub fn status(&self) -> SpoolStatus {
        self.inner.state().status(Instant::now())
    }

    /// The log that records go to.
    #[must_use]
    pub fn log(&self) -> &Arc<dyn EventLog> {
        &self.inner.log
    }

    /// Takes over everything that the log has not acknowledged, and closes. Nothing is to be appended any more.
    pub fn close(&self) {
        self.inner.state().close();
        self.inner.changed.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic of it has been printed; what is on the disk is drained by the next start.
            drop(thread.join());
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.close();
    }
}
