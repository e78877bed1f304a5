//! An open loop: requests are due at a fixed rate, whether or not earlier ones are answered.
//!
//! Latency counts from the time at which a request was due. A server that stalls therefore shows in the latency of all
//! requests that were due meanwhile, as it would to its callers, and not only in the one that it held.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::http::RawConnection;
use super::{LoadError, LoadReport, Tally, cpu_time};

/// How often the pacer looks for requests that are due. Finer steps cost processor time that the server should have.
const STEP: Duration = Duration::from_micros(200);
/// Permits that wake every connection once all requests are taken, so that it sees that none is left.
const PERMITS_AT_END: usize = Semaphore::MAX_PERMITS / 4;
/// How long after the last request was due answers are waited for.
const GRACE: Duration = Duration::from_secs(30);

/// A load at a fixed rate: what a server's latency is.
#[derive(Debug, Clone, Copy)]
pub struct OpenLoop {
    /// Requests per second; above 0.
    pub rate: f64,
    /// For how long.
    pub duration: Duration,
    /// Connections; at least 1. There must be more than the rate times the usual latency, or requests wait for a
    /// connection, which counts as latency.
    pub connections: usize,
}

/// Runs an open loop over prepared requests, which are used in turn, again and again.
///
/// # Errors
/// When there is nothing to send or no connection at all.
pub async fn open_loop(address: &str, requests: Arc<[Bytes]>, load: OpenLoop) -> Result<LoadReport, LoadError> {
    if requests.is_empty() {
        return Err(LoadError::Nothing("requests"));
    }
    if load.connections == 0 {
        return Err(LoadError::Nothing("connections"));
    }
    if !(load.rate > 0.0 && load.rate.is_finite()) {
        return Err(LoadError::Nothing("a rate"));
    }
    let mut connections = Vec::with_capacity(load.connections);
    for _ in 0..load.connections {
        let connect =
            |error: std::io::Error| LoadError::Connect { address: address.to_owned(), why: error.to_string() };
        connections.push(RawConnection::open(address).await.map_err(connect)?);
    }
    let (started, cpu) = (Instant::now(), cpu_time());
    let run = Arc::new(Run {
        address: address.to_owned(),
        requests,
        schedule: Schedule { started, rate: load.rate, total: count(load.rate * load.duration.as_secs_f64()) },
        due: Semaphore::new(0),
        next: AtomicU64::new(0),
        over: AtomicBool::new(false),
        deadline: started + load.duration + GRACE,
    });
    // A thread, not a task: the runtime's timers are rounded to milliseconds.
    let pacer = {
        let run = Arc::clone(&run);
        thread::spawn(move || run.pace())
    };
    let mut tasks = JoinSet::new();
    for connection in connections {
        tasks.spawn(Arc::clone(&run).connection(connection));
    }
    let mut total = Tally::new();
    while let Some(tally) = tasks.join_next().await {
        match tally {
            Ok(tally) => total.add(tally),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    let elapsed = started.elapsed();
    run.over.store(true, Relaxed);
    if let Err(panic) = pacer.join() {
        std::panic::resume_unwind(panic);
    }
    Ok(total.report(elapsed, cpu_time().saturating_sub(cpu)))
}

/// When which request is due.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    started: Instant,
    rate: f64,
    total: u64,
}

impl Schedule {
    /// How many requests are due after this time.
    fn due_after(&self, elapsed: Duration) -> u64 {
        // The first is due at once.
        count(elapsed.as_secs_f64() * self.rate).saturating_add(1).min(self.total)
    }

    /// When the request with this number is due, from 0.
    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 requests")]
    fn due_at(&self, number: u64) -> Instant {
        self.started + Duration::from_secs_f64(number as f64 / self.rate)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts are not negative and saturate")]
fn count(value: f64) -> u64 {
    value as u64
}

struct Run {
    address: String,
    requests: Arc<[Bytes]>,
    schedule: Schedule,
    /// One permit for each request that is due and not taken: connections queue for them in order.
    due: Semaphore,
    next: AtomicU64,
    over: AtomicBool,
    deadline: Instant,
}

impl Run {
    /// Releases requests when they are due.
    fn pace(&self) {
        let mut released = 0;
        while released < self.schedule.total && !self.over.load(Relaxed) {
            let due = self.schedule.due_after(self.schedule.started.elapsed());
            if due > released {
                self.due.add_permits(usize::try_from(due - released).unwrap_or(Semaphore::MAX_PERMITS));
                released = due;
            }
            let next = self.schedule.due_at(released);
            thread::sleep(next.saturating_duration_since(Instant::now()).max(STEP));
        }
        if released >= self.schedule.total {
            // Whoever still waits has nothing left to wait for, once the released ones are taken.
            self.due.add_permits(PERMITS_AT_END);
        }
    }

    async fn connection(self: Arc<Self>, mut connection: RawConnection) -> Tally {
        let mut tally = Tally::new();
        loop {
            match self.due.acquire().await {
                Ok(permit) => permit.forget(),
                Err(_) => break,
            }
            let number = self.next.fetch_add(1, Relaxed);
            if number >= self.schedule.total {
                break;
            }
            let due = self.schedule.due_at(number);
            let request = &self.requests[usize::try_from(number).unwrap_or(0) % self.requests.len()];
            tally.sent += 1;
            let exchange = connection.exchange(request);
            let problem = match tokio::time::timeout_at(self.deadline.into(), exchange).await {
                Ok(Ok(status)) => {
                    tally.answered(status, Instant::now().saturating_duration_since(due));
                    continue;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer in time".to_owned(),
            };
            tally.failed(problem);
            match RawConnection::open(&self.address).await {
                Ok(fresh) if Instant::now() < self.deadline => connection = fresh,
                Ok(_) | Err(_) => break,
            }
        }
        tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_due_at_the_rate() {
        let schedule = Schedule { started: Instant::now(), rate: 1_000.0, total: 50 };
        for (elapsed_us, due) in [(0, 1), (999, 1), (1_001, 2), (10_500, 11), (49_500, 50), (90_000, 50)] {
            assert_eq!(schedule.due_after(Duration::from_micros(elapsed_us)), due, "{elapsed_us} µs");
        }
        assert_eq!(schedule.due_at(0), schedule.started);
        assert_eq!(schedule.due_at(20) - schedule.started, Duration::from_millis(20));
    }
}
