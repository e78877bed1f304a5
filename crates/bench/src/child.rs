//! What this program is when it measures itself from outside: a server in a process of its own.
//!
//! It prints the address it listens on, with projections a second line when every record is applied, and ends with its
//! standard input, so that it never outlives who started it.

use std::convert::Infallible;
use std::io::Read as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use barrage_ingest::{Appender, IngestOptions, RulesHandle, SystemClock, new_incarnation};
use barrage_log::{EmbeddedLog, EmbeddedOptions, EventLog};
use barrage_worker::{Phase, Stores, Worker, WorkerOptions};
use bytes::Bytes;
use clap::Subcommand;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// The answer that Barrage gives to nearly every callback.
const OK: &[u8] = br#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0}"#;

/// Which server.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Child {
    /// Bare hyper.
    Hyper {
        /// Not used.
        dir: PathBuf,
    },
    /// Ingest and log.
    Ingest {
        /// Data directory.
        dir: PathBuf,
    },
    /// Ingest, log and workers, when `barrage` was not built.
    Whole {
        /// Data directory.
        dir: PathBuf,
    },
}

/// Serves until standard input ends.
pub(crate) fn run(child: &Child) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match child {
        Child::Hyper { .. } => runtime.block_on(bare_hyper()),
        Child::Ingest { dir } => runtime.block_on(serve(open(dir)?)),
        Child::Whole { dir } => {
            let log = open(dir)?;
            let options = WorkerOptions::new(dir.clone());
            let statistics = barrage::statistics::statistics();
            let worker = Worker::start(&options, Arc::clone(&log), statistics, &mut Registry::default())?;
            let stores = worker.stores();
            std::thread::spawn(move || report_caught_up(&stores));
            runtime.block_on(serve(log))?;
            worker.stop()?;
            Ok(())
        }
    }
}

fn open(dir: &Path) -> Result<Arc<dyn EventLog>> {
    Ok(Arc::new(EmbeddedLog::open(&dir.join("log"), &EmbeddedOptions::default(), barrage_log::Metrics::default())?))
}

fn report_caught_up(stores: &Stores) {
    let caught_up =
        || stores.status().iter().all(|s| s.phase == Phase::Live && s.offset >= stores.log().end(s.partition));
    while !caught_up() {
        std::thread::sleep(Duration::from_millis(1));
    }
    say("caught up");
}

fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    // When nobody reads, standard input is at its end as well.
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Ends with standard input.
fn shutdown() -> oneshot::Receiver<()> {
    let (ended, end) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = ended.send(());
    });
    end
}

async fn serve(log: Arc<dyn EventLog>) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    say(&listener.local_addr()?.to_string());
    let incarnation = new_incarnation(&SystemClock).ok().context("the system gives randomness")?;
    let appender = Arc::new(Appender::new(log, incarnation));
    let metrics = barrage_ingest::Metrics::register(&mut Registry::default());
    let end = shutdown();
    let stop = async move {
        let _ = end.await;
    };
    barrage_ingest::serve(listener, IngestOptions::default(), appender, RulesHandle::default(), metrics, stop).await?;
    Ok(())
}

async fn bare_hyper() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    say(&listener.local_addr()?.to_string());
    let accept = async {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let _ = stream.set_nodelay(true);
            tokio::spawn(async move {
                // A connection that breaks is the generator's to report.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)).await;
            });
        }
    };
    tokio::select! {
        () = accept => {}
        _ = shutdown() => {}
    }
    Ok(())
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    // Whatever came is read to its end, as Barrage does.
    let _ = request.into_body().collect().await;
    let mut response = Response::new(Full::new(Bytes::from_static(OK)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
