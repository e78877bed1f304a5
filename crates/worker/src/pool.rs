//! The threads that run the partitions of this process.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use barrage_log::EventLog;
use barrage_projection::Statistic;
use barrage_state::{StateEnv, StateOptions};
use prometheus_client::registry::Registry;

use crate::metrics::Metrics;
use crate::runner::{Common, Runner, Step};
use crate::stores::{Shared, Stores};

/// Settings of the partition workers of one process.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// Where the state stores lie: `state/` inside it.
    pub data_dir: PathBuf,
    /// Threads that run partitions, 1 to 64. Default: the machine's cores.
    pub threads: usize,
    /// Longest time between an event and its commit, ms. Default 100 ms: reads see committed state only.
    pub commit_interval: Duration,
    /// Memory for rows in use, bytes, shared by all partitions. Default 128 MiB.
    pub overlay_bytes: usize,
    /// The stores' shared cache, buffers and threads.
    pub state: StateOptions,
}

impl WorkerOptions {
    /// The defaults with this data directory.
    #[must_use]
    pub fn new(data_dir: PathBuf) -> Self {
        Self {
            data_dir,
            threads: std::thread::available_parallelism().map_or(2, usize::from),
            commit_interval: Duration::from_millis(100),
            overlay_bytes: 128 << 20,
            state: StateOptions::default(),
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

/// The partitions of this process, running. Dropped without [`Worker::stop`], it stops too, without a last commit.
pub struct Worker {
    stores: Stores,
    stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("stores", &self.stores).finish_non_exhaustive()
    }
}

/// Longest time a thread waits for the log before it looks around.
const WAIT_MAX: Duration = Duration::from_millis(200);
/// The same while a read may ask for a commit.
const WAIT_DIRTY: Duration = Duration::from_millis(10);

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
        let statistics = Arc::new(statistics);
        let common = Arc::new(Common {
            log: Arc::clone(&log),
            statistics: Arc::clone(&statistics),
            env: StateEnv::new(options.state),
            state_dir: options.data_dir.join("state"),
            metrics: Metrics::register(registry),
            commit_interval: options.commit_interval,
            overlay_bytes: options.overlay_bytes / partitions.len().max(1),
        });
        let shared: Vec<Arc<Shared>> = partitions.iter().map(|&p| Arc::new(Shared::new(p))).collect();
        let stores = Stores { log, statistics, partitions: Arc::new(shared.clone()) };
        let stopping = Arc::new(AtomicBool::new(false));
        let threads = options.threads.clamp(1, 64).min(partitions.len().max(1));
        let (opened, all_open) = mpsc::channel();
        let mut handles = Vec::new();
        for thread in 0..threads {
            let runners: Vec<Runner> = shared
                .iter()
                .skip(thread)
                .step_by(threads)
                .map(|shared| Runner::new(Arc::clone(&common), Arc::clone(shared)))
                .collect();
            let (stopping, log, opened) = (Arc::clone(&stopping), Arc::clone(&common.log), opened.clone());
            let handle = std::thread::Builder::new()
                .name(format!("partitions-{thread}"))
                .spawn(move || run(runners, log.as_ref(), &stopping, opened))
                .map_err(WorkerError::Thread)?;
            handles.push(handle);
        }
        drop(opened);
        // Ends when every thread has sent or died.
        while all_open.recv().is_ok() {}
        Ok(Self { stores, stopping, threads: handles })
    }

    /// For reads and commands.
    #[must_use]
    pub fn stores(&self) -> Stores {
        self.stores.clone()
    }

    /// Commits what is applied and closes all stores.
    ///
    /// # Errors
    /// [`WorkerError::Close`] when a store could not be closed.
    pub fn stop(mut self) -> Result<(), WorkerError> {
        self.stopping.store(true, Ordering::Release);
        let mut failed = Vec::new();
        for thread in self.threads.drain(..) {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => failed.push(error),
                Err(_) => failed.push("a worker thread panicked".to_owned()),
            }
        }
        if failed.is_empty() { Ok(()) } else { Err(WorkerError::Close(failed.join("; "))) }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
    }
}

fn run(
    mut runners: Vec<Runner>,
    log: &dyn EventLog,
    stopping: &AtomicBool,
    opened: mpsc::Sender<()>,
) -> Result<(), String> {
    for runner in &mut runners {
        runner.open();
    }
    // The starter waits until every thread has let go of its end.
    drop(opened);
    while !stopping.load(Ordering::Acquire) {
        let seen = log.wait(u64::MAX, Duration::ZERO);
        let mut busy = false;
        for runner in &mut runners {
            busy |= runner.step() == Step::Busy;
        }
        if !busy {
            let dirty = runners.iter().any(|r| r.commit_due().is_some());
            let now = Instant::now();
            let due = runners.iter().filter_map(Runner::commit_due).min();
            let wait = due.map_or(WAIT_MAX, |due| due.saturating_duration_since(now));
            log.wait(seen, if dirty { wait.min(WAIT_DIRTY) } else { wait });
        }
    }
    let mut failed = Vec::new();
    for runner in runners {
        if let Err(error) = runner.close() {
            failed.push(error.to_string());
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
}
