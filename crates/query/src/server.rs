//! The accept loop: as many connections as allowed, each with a time limit for its headers, and a stop that lets
//! requests in flight finish.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::connection::{Link, Timed};
use crate::options::STOP_WAIT;

/// Limits of a server.
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// Connections at once; further ones wait in the kernel's queue.
    pub connections_max: u32,
    /// Time for a request's header to arrive; also how long an idle connection is kept.
    pub header_timeout: Duration,
    /// Longest time in which a client takes no byte of its answer; then the connection is closed.
    pub write_timeout: Duration,
}

/// Why a server ended.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The listener failed for good.
    #[error("accepting connections failed: {0}")]
    Accept(#[from] std::io::Error),
    /// The gRPC server ended.
    #[error("the gRPC server ended: {0}")]
    Service(String),
}

/// Largest header of a request, in bytes.
const HEADER_BYTES_MAX: usize = 64 << 10;

/// Serves until `shutdown` is ready; then takes no new connection, ends streams of changes, and gives requests in
/// flight 5 s to finish.
///
/// # Errors
/// [`ServerError::Accept`] when the listener fails; failures of one connection end that connection only.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: ServerLimits,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServerError> {
    let slots = Arc::new(Semaphore::new(usize::try_from(limits.connections_max).unwrap_or(Semaphore::MAX_PERMITS)));
    let (stop, stopping) = tokio::sync::watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        while connections.try_join_next().is_some() {}
        let slot = tokio::select! {
            () = &mut shutdown => break,
            // The semaphore is never closed.
            Ok(slot) = Arc::clone(&slots).acquire_owned() => slot,
        };
        let stream = tokio::select! {
            () = &mut shutdown => break,
            accepted = accept(&listener) => accepted?,
        };
        let link = Link::new(stopping.clone());
        // Silence is watched by the header's timeout.
        let stream = Timed::new(stream, None, limits.write_timeout, slot).with(link.clone());
        let router = TowerToHyperService::new(router.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(link.clone());
            router.call(request)
        });
        let mut stopping = stopping.clone();
        connections.spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.header_timeout)
                .max_buf_size(HEADER_BYTES_MAX)
                .serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            // A connection that breaks is the client's affair.
            tokio::select! {
                _ = &mut connection => {}
                () = async { drop(stopping.wait_for(|stop| *stop).await) } => {
                    connection.as_mut().graceful_shutdown();
                    drop(connection.await);
                }
            }
        });
    }
    drop(listener);
    stop.send_replace(true);
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_WAIT, all).await.is_err() {
        tracing::warn!("requests were still in flight when the server stopped");
    }
    Ok(())
}

/// The next connection; waits while the system is short of resources.
pub(crate) async fn accept(listener: &TcpListener) -> std::io::Result<TcpStream> {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                drop(stream.set_nodelay(true));
                return Ok(stream);
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) if is_short_of_resources(&error) => {
                tracing::warn!(%error, "no connection can be accepted");
                // Without the pause the loop would spin until a descriptor is free.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// EMFILE, ENFILE, ENOBUFS and ENOMEM: they pass when others close theirs.
fn is_short_of_resources(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(12 | 23 | 24 | 105))
}
