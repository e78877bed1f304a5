//! A closed loop: each connection sends its next request when the last one is answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;

use super::http::RawConnection;
use super::{LoadError, LoadReport, Tally, cpu_time};

/// A load that goes as fast as answers come: what a server can do at most.
#[derive(Debug, Clone, Copy)]
pub struct ClosedLoop {
    /// Connections, each with one request in flight; at least 1.
    pub connections: usize,
    /// Ends after this many requests.
    pub requests: Option<u64>,
    /// Sends no request after this time.
    pub duration: Option<Duration>,
}

/// Runs a closed loop over prepared requests, which are used in turn, again and again.
///
/// A connection that fails is counted and replaced; one that cannot be made ends its share of the load.
///
/// # Errors
/// When there is nothing to send, no end to it, or no connection at all.
pub async fn closed_loop(address: &str, requests: Arc<[Bytes]>, load: ClosedLoop) -> Result<LoadReport, LoadError> {
    if requests.is_empty() {
        return Err(LoadError::Nothing("requests"));
    }
    if load.connections == 0 {
        return Err(LoadError::Nothing("connections"));
    }
    if load.requests.is_none() && load.duration.is_none() {
        return Err(LoadError::Nothing("an end"));
    }
    let mut connections = Vec::with_capacity(load.connections);
    for _ in 0..load.connections {
        let connect =
            |error: std::io::Error| LoadError::Connect { address: address.to_owned(), why: error.to_string() };
        connections.push(RawConnection::open(address).await.map_err(connect)?);
    }
    let (started, cpu) = (Instant::now(), cpu_time());
    let run = Run {
        address: address.to_owned(),
        requests,
        next: AtomicU64::new(0),
        most: load.requests.unwrap_or(u64::MAX),
        until: load.duration.map(|duration| started + duration),
    };
    let run = Arc::new(run);
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
    Ok(total.report(started.elapsed(), cpu_time().saturating_sub(cpu)))
}

struct Run {
    address: String,
    requests: Arc<[Bytes]>,
    next: AtomicU64,
    most: u64,
    until: Option<Instant>,
}

impl Run {
    async fn connection(self: Arc<Self>, mut connection: RawConnection) -> Tally {
        let mut tally = Tally::new();
        // The time of an answer is the time of the next request: one look at the clock a request.
        let mut now = Instant::now();
        while self.until.is_none_or(|until| now < until) {
            let number = self.next.fetch_add(1, Relaxed);
            if number >= self.most {
                break;
            }
            let request = &self.requests[usize::try_from(number).unwrap_or(0) % self.requests.len()];
            tally.sent += 1;
            let outcome = connection.exchange(request).await;
            let answered = Instant::now();
            match outcome {
                Ok(status) => tally.answered(status, answered - now),
                Err(error) => {
                    tally.failed(error.to_string());
                    match RawConnection::open(&self.address).await {
                        Ok(fresh) => connection = fresh,
                        Err(_) => break,
                    }
                }
            }
            now = answered;
        }
        tally
    }
}
