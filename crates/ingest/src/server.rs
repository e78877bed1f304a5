//! The accept loop: connections, their limit, and stopping without losing an answer.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use crate::appender::Appender;
use crate::clock::{Clock, SystemClock};
use crate::connection::{ConnectionState, Timed, Timeouts};
use crate::metrics::{ConnectionError, Metrics};
use crate::options::{IngestOptions, OptionError, ms};
use crate::rules_handle::RulesHandle;
use crate::service::Service;

/// Largest head of a request, bytes, and what a connection's buffer may hold. Far above any URL of IM.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Pause after a failed accept: without free file descriptors the next one would fail at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a silent connection is kept open after the stop signal.
const SILENT_GRACE: Duration = Duration::from_millis(500);

/// Why ingest could not serve.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// An option cannot work.
    #[error(transparent)]
    Option(#[from] OptionError),
}

/// How far a stop has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Running,
    /// Answers tell clients that the connection closes.
    Stopping,
    /// Silent connections are closed, too.
    Closing,
    /// The deadline is over.
    Abandoned,
}

/// Serves callbacks and business events on `listener` until `shutdown` is ready.
///
/// Then no connection is accepted any more, requests that have arrived are answered, and the function returns when all
/// connections are closed or `stop_deadline_ms` is over.
///
/// # Errors
/// [`IngestError::Option`] when an option is out of range; nothing else ends the loop but `shutdown`.
pub async fn serve(
    listener: TcpListener,
    options: IngestOptions,
    appender: Arc<Appender>,
    rules: RulesHandle,
    metrics: Metrics,
    shutdown: impl Future<Output = ()>,
) -> Result<(), IngestError> {
    serve_with_clock(listener, options, appender, rules, metrics, Arc::new(SystemClock), shutdown).await
}

/// [`serve`] with a clock of the caller's.
///
/// # Errors
/// Those of [`serve`].
pub async fn serve_with_clock(
    listener: TcpListener,
    options: IngestOptions,
    appender: Arc<Appender>,
    rules: RulesHandle,
    metrics: Metrics,
    clock: Arc<dyn Clock>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), IngestError> {
    options.check()?;
    let connections = Connections {
        limit: Arc::new(Semaphore::new(options.connections_max)),
        stage: watch::Sender::new(Stage::Running),
        timeouts: Timeouts {
            idle: ms(options.idle_timeout_ms),
            head: ms(options.header_timeout_ms),
            body: ms(options.body_timeout_ms),
            write: ms(options.write_timeout_ms),
        },
        metrics: metrics.clone(),
    };
    let (connections_max, stop_deadline) = (options.connections_max, ms(options.stop_deadline_ms));
    let service = Arc::new(Service::new(options, appender, rules, metrics, clock));

    let mut shutdown = pin!(shutdown);
    let mut failing = false;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    failing = false;
                    connections.begin(stream, &service);
                }
                Err(error) => pause_after(&error, &mut failing).await,
            },
            () = &mut shutdown => break,
        }
    }
    // Whoever is through the handshake may have sent a request already.
    poll_fn(|cx| {
        while let Poll::Ready(Ok((stream, _))) = listener.poll_accept(cx) {
            connections.begin(stream, &service);
        }
        Poll::Ready(())
    })
    .await;
    drop(listener);
    service.announce_stop();
    connections.stop(connections_max, stop_deadline).await;
    Ok(())
}

/// A connection that was reset before it was accepted is the client's affair; anything else is a lack of ours, told once
/// until it is over.
async fn pause_after(error: &io::Error, failing: &mut bool) {
    if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        return;
    }
    if !std::mem::replace(failing, true) {
        tracing::warn!(%error, "cannot accept connections: look at the limit of open files (ulimit -n)");
    }
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

#[derive(Debug)]
struct Connections {
    /// One permit a connection, so that taking all of them means that all are closed.
    limit: Arc<Semaphore>,
    stage: watch::Sender<Stage>,
    timeouts: Timeouts,
    metrics: Metrics,
}

impl Connections {
    fn begin(&self, stream: TcpStream, service: &Arc<Service>) {
        let Ok(permit) = Arc::clone(&self.limit).try_acquire_owned() else {
            self.metrics.connection_refused();
            return;
        };
        // Answers are small and complete: waiting to fill a packet would only delay them. A failure shows on first use.
        let _ = stream.set_nodelay(true);
        self.metrics.connection_opened();
        let open = Open { metrics: self.metrics.clone(), _permit: permit };
        tokio::spawn(run(stream, Arc::clone(service), self.timeouts, self.stage.subscribe(), open));
    }

    /// Waits until every connection is closed. A busy one closes after the answer that says so; one that stays silent
    /// is closed after a grace, so that a request on its way to it is still answered.
    async fn stop(&self, connections_max: usize, deadline: Duration) {
        let all = u32::try_from(connections_max).unwrap_or(u32::MAX);
        let until = Instant::now() + deadline;
        for (stage, wait_until) in
            [(Stage::Stopping, until.min(Instant::now() + SILENT_GRACE)), (Stage::Closing, until)]
        {
            self.stage.send_replace(stage);
            if tokio::time::timeout_at(wait_until, self.limit.acquire_many(all)).await.is_ok() {
                return;
            }
        }
        // What is abandoned ends the next time it is looked at; nothing in it waits any more.
        self.stage.send_replace(Stage::Abandoned);
        let _ = self.limit.acquire_many(all).await;
    }
}

/// Counts a connection as open until it is dropped, also by a panic.
#[derive(Debug)]
struct Open {
    metrics: Metrics,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.metrics.connection_closed();
    }
}

/// Carries one connection to its end.
async fn run(
    stream: TcpStream,
    service: Arc<Service>,
    timeouts: Timeouts,
    mut stage: watch::Receiver<Stage>,
    open: Open,
) {
    let state = Arc::new(ConnectionState::default());
    let io = TokioIo::new(Timed::new(stream, Arc::clone(&state), timeouts));
    let handler = service_fn(|request| {
        let (service, state) = (Arc::clone(&service), Arc::clone(&state));
        async move { Ok::<_, Infallible>(service.handle(request, &state).await) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            // A client that has sent its request and closed its side still gets the answer.
            .half_close(true)
            // Head, silence and body have deadlines of their own, in `Timed`.
            .header_read_timeout(None)
            .serve_connection(io, handler)
    );
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => Some(ended),
        _ = stage.wait_for(|stage| *stage >= Stage::Closing) => None,
    };
    if let Some(ended) = ended {
        return count(&open.metrics, ended);
    }
    if state.is_unused() {
        // hyper would still wait for a first request.
        return;
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        biased;
        ended = connection.as_mut() => count(&open.metrics, ended),
        _ = stage.wait_for(|stage| *stage == Stage::Abandoned) => {
            open.metrics.connection_error(ConnectionError::Stopped);
        }
    }
}

fn count(metrics: &Metrics, result: hyper::Result<()>) {
    let Err(error) = result else { return };
    let timed_out = std::error::Error::source(&error)
        .and_then(|source| source.downcast_ref::<io::Error>())
        .is_some_and(|source| source.kind() == io::ErrorKind::TimedOut);
    metrics.connection_error(if timed_out || error.is_timeout() {
        ConnectionError::Timeout
    } else if error.is_parse() {
        ConnectionError::Malformed
    } else {
        ConnectionError::Broken
    });
}
