//! Compares the clock of a process that takes callbacks with the log's, whether or not anything is appended.
//!
//! Every append tells how far the clocks differ. But where the clock is so wrong that all signatures seem to be old,
//! nothing is appended, and nothing would ever tell.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use barrage_ingest::RulesTopic;
use barrage_log::{EventLog as _, KafkaLog};

/// How often it is looked whether the clock was set, or the topic is reached at last.
const LOOK: Duration = Duration::from_millis(500);
/// How often the clocks are compared without a reason.
const COMPARE: Duration = Duration::from_secs(20);
/// A clock that runs away so far, ms, was set.
const SET_MS: u64 = 1_000;

/// The thread that compares.
#[derive(Debug)]
pub(super) struct ClockWatch {
    stopping: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl ClockWatch {
    /// Begins with a first comparison, where the topic is reached already.
    pub(super) fn start(log: Arc<KafkaLog>, topic: Arc<RulesTopic>) -> anyhow::Result<Self> {
        // The first callback is stamped, and its signature judged, by a clock that was compared.
        let mut next = compare(&log, &topic);
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopping);
        let watch = move || {
            let mut ahead_ms = log.clock_ahead_ms();
            while !stop.load(Ordering::Acquire) {
                std::thread::park_timeout(LOOK);
                let was_set = log.clock_ahead_ms().abs_diff(ahead_ms) > SET_MS;
                if was_set || next.is_none_or(|at| Instant::now() >= at) {
                    next = compare(&log, &topic);
                    ahead_ms = log.clock_ahead_ms();
                }
            }
        };
        let thread = std::thread::Builder::new().name("clock".to_owned()).spawn(watch);
        Ok(Self { stopping, thread: thread.context("the clock cannot be watched")? })
    }

    pub(super) fn stop(self) {
        // It ends when its comparison does, which harms nobody.
        self.stopping.store(true, Ordering::Release);
        self.thread.thread().unpark();
    }
}

/// Compares; when to do so again, none while the topic is not reached.
fn compare(log: &KafkaLog, topic: &RulesTopic) -> Option<Instant> {
    let topic = topic.topic()?;
    if let Err(error) = log.compare_clocks(&topic) {
        tracing::warn!(%error, "this machine's clock could not be compared with the log's");
    }
    Some(Instant::now() + COMPARE)
}
