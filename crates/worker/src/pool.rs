//! The threads that run the partitions of this process.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use barrage_event::Partition;
use barrage_log::EventLog;
use barrage_projection::Statistic;
use barrage_state::{StateEnv, StateOptions};
use prometheus_client::registry::Registry;

use crate::assignments::Assignments;
use crate::budget::OverlayBudget;
use crate::common::Common;
use crate::homes::Homes;
use crate::metrics::Metrics;
use crate::publisher::Publisher;
use crate::rebuild::Turns;
use crate::sending::{LocalMarks, Nowhere, SourceMarks};
use crate::shared::Assigned;
use crate::snapshots::{SnapshotOptions, Snapshots, Snapshotter};
use crate::stores::Stores;
use crate::thread::PartitionThread;

/// Whether a partition is surely this process's, now. False while that is doubtful.
pub type IsOwner = Arc<dyn Fn(Partition) -> bool + Send + Sync>;

/// Settings of the partition workers of one process.
#[derive(Clone)]
pub struct WorkerOptions {
    /// Where the state stores lie: `state/` inside it.
    pub data_dir: PathBuf,
    /// Threads that run partitions, 1 to 64. Default: the machine's cores.
    pub threads: usize,
    /// Longest time between an event and its commit, ms. Default 100 ms: reads see committed state only.
    pub commit_interval: Duration,
    /// Memory for rows in use, bytes, shared by all partitions. Default 160 MiB.
    pub overlay_bytes: usize,
    /// How long the store of a partition that was taken away stays open in case it comes back, 0 s to minutes. Default
    /// 30 s. It costs the memory of its rows, so it is bounded.
    pub park: Duration,
    /// Snapshots; `None` takes none and restores none.
    pub snapshots: Option<SnapshotOptions>,
    /// The stores' shared cache, buffers and threads.
    pub state: StateOptions,
    /// Where notifications go; `None`: nowhere.
    pub publisher: Option<Arc<dyn Publisher>>,
    /// Knows what rooms that are not this process's have seen of derived events; `None`: all are this process's.
    pub marks: Option<Arc<dyn SourceMarks>>,
    /// Asked before anything leaves the process in the name of a partition; `None`: all that it was given are its own.
    pub is_owner: Option<IsOwner>,
}

impl fmt::Debug for WorkerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerOptions")
            .field("data_dir", &self.data_dir)
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

impl WorkerOptions {
    /// The defaults with this data directory.
    #[must_use]
    pub fn new(data_dir: PathBuf) -> Self {
        Self {
            data_dir,
            threads: std::thread::available_parallelism().map_or(2, usize::from),
            commit_interval: Duration::from_millis(100),
            overlay_bytes: 160 << 20,
            park: Duration::from_secs(30),
            snapshots: None,
            state: StateOptions::default(),
            publisher: None,
            marks: None,
            is_owner: None,
        }
    }
}

/// Why the workers could not be started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The system gave no thread.
    #[error("a worker thread could not be started: {0}")]
    Thread(std::io::Error),
    /// A partition could not be closed; its last commit stands, and the rest is read from the log at the next start.
    #[error("partition state could not be closed: {0}")]
    Close(String),
}

/// The partitions of this process, running. Dropped without [`Worker::stop`], it stops too, without a last commit: what
/// was not committed is read from the log again at the next start.
pub struct Worker {
    stores: Stores,
    assignments: Assignments,
    snapshots: Option<Snapshots>,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("stores", &self.stores).finish_non_exhaustive()
    }
}

impl Worker {
    /// Opens every partition of `log` and starts to apply it. Returns when all stores are open or have failed to.
    ///
    /// # Errors
    /// [`WorkerError::Thread`] when no thread can be had. A partition whose store cannot be opened is stopped with an
    /// error in its status; the others run.
    pub fn start(
        options: &WorkerOptions,
        log: Arc<dyn EventLog>,
        statistics: Vec<Box<dyn Statistic>>,
        registry: &mut Registry,
    ) -> Result<Self, WorkerError> {
        let partitions = log.all_partitions();
        let worker = Self::start_without_partitions(options, log, statistics, registry)?;
        let (opened, all_open) = mpsc::channel();
        let assignments = &worker.assignments;
        assignments.assign_and_tell(&partitions, assignments.next_generation(), None, Some(&opened));
        drop(opened);
        // Ends when every partition was tried, or its thread died.
        while all_open.recv().is_ok() {}
        Ok(worker)
    }

    /// Starts the threads; partitions are given to them by [`Worker::assignments`].
    ///
    /// # Errors
    /// [`WorkerError::Thread`] when no thread can be had.
    pub fn start_without_partitions(
        options: &WorkerOptions,
        log: Arc<dyn EventLog>,
        statistics: Vec<Box<dyn Statistic>>,
        registry: &mut Registry,
    ) -> Result<Self, WorkerError> {
        let statistics = Arc::new(statistics);
        let assigned: Arc<Assigned> = Arc::default();
        let stores =
            Stores { log: Arc::clone(&log), statistics: Arc::clone(&statistics), assigned: Arc::clone(&assigned) };
        let common = Arc::new(Common {
            log,
            statistics,
            marks: Arc::new(LocalMarks { stores: stores.clone(), others: options.marks.clone() }),
            is_owner: options.is_owner.clone().unwrap_or_else(|| Arc::new(|_| true)),
            publisher: options.publisher.clone().unwrap_or_else(|| Arc::new(Nowhere)),
            assigned,
            homes: Homes::default(),
            env: StateEnv::new(options.state),
            state_dir: options.data_dir.join("state"),
            metrics: Metrics::register(registry),
            commit_interval: options.commit_interval,
            overlay: OverlayBudget::new(options.overlay_bytes),
            rebuilds: Turns::default(),
            park: options.park,
            snapshots: options.snapshots.clone(),
        });
        let count = options.threads.clamp(1, 64).min(common.log.all_partitions().len().max(1));
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel()).unzip();
        let assignments = Assignments::new(Arc::clone(&common), senders);
        // Dropped on an error, it ends the threads that have started.
        let mut worker = Self { stores, assignments, snapshots: None, threads: Vec::new() };
        for (number, commands) in receivers.into_iter().enumerate() {
            let thread = PartitionThread::new(Arc::clone(&common), commands);
            let handle = std::thread::Builder::new()
                .name(format!("partitions-{number}"))
                .spawn(move || thread.run())
                .map_err(WorkerError::Thread)?;
            worker.threads.push(handle);
        }
        if let Some(options) = &options.snapshots {
            let (snapshots, thread) = Snapshotter::start(common, options.clone()).map_err(WorkerError::Thread)?;
            worker.snapshots = Some(snapshots);
            worker.threads.push(thread);
        }
        Ok(worker)
    }

    /// For reads and commands.
    #[must_use]
    pub fn stores(&self) -> Stores {
        self.stores.clone()
    }

    /// For whoever knows which partitions are this process's.
    #[must_use]
    pub fn assignments(&self) -> Assignments {
        self.assignments.clone()
    }

    /// For snapshots on demand; `None` when none are configured.
    #[must_use]
    pub fn snapshots(&self) -> Option<Snapshots> {
        self.snapshots.clone()
    }

    /// Commits what is applied and closes all stores; before that, takes a last snapshot of each when that is configured.
    ///
    /// # Errors
    /// [`WorkerError::Close`] when a store could not be closed.
    pub fn stop(mut self) -> Result<(), WorkerError> {
        let failed = self.end(true);
        if failed.is_empty() { Ok(()) } else { Err(WorkerError::Close(failed.join("; "))) }
    }

    /// Ends the threads; what went wrong.
    fn end(&mut self, commit: bool) -> Vec<String> {
        let mut failed = Vec::new();
        // Snapshots first: the stores have to be open for the last ones.
        if let Some(snapshots) = self.snapshots.take() {
            snapshots.stop(commit);
            if self.threads.pop().is_some_and(|thread| thread.join().is_err()) {
                failed.push("the thread of the snapshots panicked".to_owned());
            }
        }
        self.assignments.stop(commit);
        for thread in self.threads.drain(..) {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => failed.push(error),
                Err(_) => failed.push("a worker thread panicked".to_owned()),
            }
        }
        failed
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Nobody is left to tell; after `stop` there is nothing to do.
        drop(self.end(false));
    }
}
