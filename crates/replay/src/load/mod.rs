//! Load: prepared requests, sent as fast as answers come or at a fixed rate.
//!
//! What is measured should be the server, so a request costs the generator one write and one read of prepared bytes,
//! and its own processor time is part of the report.

mod closed;
mod http;
mod open;

use std::time::Duration;

use hdrhistogram::Histogram;

pub use closed::{ClosedLoop, closed_loop};
pub use open::{OpenLoop, open_loop};

/// Longest latency that is measured, µs: ten minutes.
const LATENCY_US_MAX: u64 = 600_000_000;

/// What a load run found.
#[derive(Debug, Clone)]
pub struct LoadReport {
    /// Requests that were sent.
    pub sent: u64,
    /// Answers with a status of 200 to 299.
    pub ok: u64,
    /// Answers with another status.
    pub refused: u64,
    /// Requests without an answer: the connection failed.
    pub failed: u64,
    /// What went wrong first, if anything did: an answer's first line, or a connection's error.
    pub first_problem: Option<String>,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// Latency of answered requests, µs. In an open loop from the time at which the request was to be sent.
    pub latency_us: Histogram<u64>,
    /// Processor time of this whole process in the run: the generator's, when nothing else runs in it.
    pub cpu: Duration,
}

impl LoadReport {
    /// Answers per second.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a rate for people; counts below 2^53 are exact anyway")]
    pub fn rate(&self) -> f64 {
        (self.ok + self.refused) as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Processor time of the generator per request.
    #[must_use]
    pub fn cpu_per_request(&self) -> Duration {
        self.cpu.checked_div(u32::try_from(self.sent).unwrap_or(u32::MAX)).unwrap_or_default()
    }
}

/// Why a load cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// There are no requests, connections, or an end.
    #[error("a load needs {0}")]
    Nothing(&'static str),
    /// No connection to the server.
    #[error("no connection to {address}: {why}")]
    Connect {
        /// Host and port.
        address: String,
        /// What went wrong.
        why: String,
    },
}

/// What one connection counted.
#[derive(Debug)]
struct Tally {
    sent: u64,
    ok: u64,
    refused: u64,
    failed: u64,
    first_problem: Option<String>,
    latency_us: Histogram<u64>,
}

impl Tally {
    fn new() -> Self {
        let latency_us =
            Histogram::new_with_max(LATENCY_US_MAX, 3).expect("3 digits up to ten minutes is a valid range");
        Self { sent: 0, ok: 0, refused: 0, failed: 0, first_problem: None, latency_us }
    }

    fn answered(&mut self, status: u16, latency: Duration) {
        self.latency_us.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
        if (200..300).contains(&status) {
            self.ok += 1;
        } else {
            self.refused += 1;
            self.first_problem.get_or_insert_with(|| format!("an answer with status {status}"));
        }
    }

    fn failed(&mut self, why: String) {
        self.failed += 1;
        self.first_problem.get_or_insert(why);
    }

    fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.ok += other.ok;
        self.refused += other.refused;
        self.failed += other.failed;
        if self.first_problem.is_none() {
            self.first_problem = other.first_problem;
        }
        self.latency_us.add(other.latency_us).expect("both have the same range");
    }

    fn report(self, elapsed: Duration, cpu: Duration) -> LoadReport {
        let Self { sent, ok, refused, failed, first_problem, latency_us } = self;
        LoadReport { sent, ok, refused, failed, first_problem, elapsed, latency_us, cpu }
    }
}

/// Processor time that this process has used.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanos.unwrap_or_default())
}
