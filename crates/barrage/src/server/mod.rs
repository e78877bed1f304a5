//! The servers: `run`, and the roles `ingest`, `project` and `query` that share a log in Kafka.
//!
//! All of them are the same program with other parts switched on. Order of starting: ports, log, key, stores, rules,
//! and only then requests; order of stopping: callbacks first, so that whatever was answered OK is in the log or the
//! spool, then partitions, then reads, then the log.

mod clock_watch;
mod listeners;
mod open;
mod ownership;
mod servers;
mod shared_rules;
mod spools;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use barrage_ingest::check_exposure;
use serde_json::json;
use tokio::sync::watch;

use self::listeners::{Addresses, Listeners};
use self::open::Parts;
use self::servers::Servers;
use crate::cli::RunArgs;
use crate::config::{self, Config, Loaded};
use crate::exit::{Exit, Failure};

/// Which parts a process has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// All of them.
    Run,
    /// Takes callbacks.
    Ingest,
    /// Runs partitions.
    Project,
    /// Answers reads.
    Query,
}

impl Role {
    pub(crate) const fn ingests(self) -> bool {
        matches!(self, Self::Run | Self::Ingest)
    }

    pub(crate) const fn projects(self) -> bool {
        matches!(self, Self::Run | Self::Project)
    }

    pub(crate) const fn queries(self) -> bool {
        matches!(self, Self::Run | Self::Query)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Ingest => "ingest",
            Self::Project => "project",
            Self::Query => "query",
        }
    }
}

/// Runs until it is told to stop.
pub(crate) fn run(
    role: Role,
    args: &RunArgs,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Exit, Failure> {
    let mut loaded = config::load(&args.config, environment).map_err(Failure::configuration)?;
    if role != Role::Run {
        loaded.config.kafka.get_or_insert_default();
    }
    crate::logging::start(&loaded.config.diagnostics);
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("requests")
        .build()
        .context("the runtime cannot be started")?;
    let result = runtime.block_on(serve(role, args, loaded));
    // Handlers that still read a closed store are not waited for.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result?;
    Ok(Exit::Done)
}

fn warn_of_exposure(config: &Config, addresses: &Addresses) {
    // Whether they may be bound at all was checked with the rest of the configuration.
    let (token, apps) = (config.ingest.has_token(), config.ingest.has_allow_list());
    if let Some(Ok(Some(warning))) = addresses.callback.map(|callback| check_exposure(callback, token, apps)) {
        tracing::warn!("{warning}");
    }
    let open = [
        ("reads", addresses.query),
        ("questions over gRPC, without TLS,", addresses.grpc),
        ("metrics", Some(addresses.admin)),
    ];
    for (name, addr) in open {
        let Some(addr) = addr else { continue };
        if !addr.ip().to_canonical().is_loopback() {
            tracing::warn!(
                "{name} on {addr} are open to everybody who reaches it: put a proxy or a firewall before it"
            );
        }
    }
}

async fn serve(role: Role, args: &RunArgs, loaded: Loaded) -> anyhow::Result<()> {
    let config = loaded.config;
    let mut signals = Signals::new()?;
    if let Some(path) = &args.ready_file {
        // One of an earlier start would tell of ports that are gone.
        forget(path).with_context(|| format!("the ready file {} cannot be removed", path.display()))?;
    }
    let listeners = Listeners::bind(role, &config).await?;
    let addresses = listeners.addresses()?;
    warn_of_exposure(&config, &addresses);
    // Opening reads files and asks the cluster, and may take seconds.
    let opening = tokio::task::spawn_blocking(move || Parts::open(role, config, &addresses));
    let parts = match tokio::select! {
        opened = opening => opened,
        () = signals.asked() => return Err(anyhow!("stopped while starting; nothing was accepted")),
    } {
        Ok(opened) => opened?,
        Err(error) => return Err(anyhow!("starting failed: {error}")),
    };
    let data_dir = parts.config.data_dir.clone();
    let data_dir = std::path::absolute(&data_dir).unwrap_or(data_dir);

    let stops = Stops { ingest: watch::Sender::new(false), reads: watch::Sender::new(false) };
    let mut servers = Servers::start(&parts, listeners, &stops);
    announce(role, args, &addresses, &data_dir)?;

    let failed = tokio::select! {
        () = signals.asked() => None,
        failure = servers.any_ends() => Some(failure),
    };
    tracing::info!("stopping: no new callbacks; requests in flight are answered");
    let stopping = stop(parts, servers, stops);
    tokio::select! {
        stopped = stopping => stopped?,
        () = signals.asked() => return Err(anyhow!("stopped a second time: the last commit was left out, the log has everything")),
    }
    if let Some(path) = &args.ready_file {
        // What is left is wrong but does no harm: the next start removes it first.
        drop(forget(path));
    }
    crate::commands::line(&format!("stopped; the data is in {}", data_dir.display()))?;
    failed.map_or(Ok(()), Err)
}

/// What tells the servers to stop.
struct Stops {
    ingest: watch::Sender<bool>,
    /// Reads, questions and metrics: they go on while callbacks end.
    reads: watch::Sender<bool>,
}

async fn stop(parts: Parts, servers: Servers, stops: Stops) -> anyhow::Result<()> {
    stops.ingest.send_replace(true);
    servers.callbacks_ended().await;
    // Partitions are given back while questions are still answered, so that callers learn where they went.
    let parts = tokio::task::spawn_blocking(move || {
        parts.leave();
        parts
    });
    let parts = parts.await.map_err(|error| anyhow!("stopping failed: {error}"))?;
    stops.reads.send_replace(true);
    servers.others_ended().await;
    let closed = tokio::task::spawn_blocking(move || parts.close());
    closed.await.map_err(|error| anyhow!("stopping failed: {error}"))?
}

/// SIGINT and SIGTERM.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Ends when one of them comes.
    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Removes a file that may not be there.
fn forget(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Tells people where to look, and programs through the ready file.
fn announce(role: Role, args: &RunArgs, addresses: &Addresses, data_dir: &Path) -> anyhow::Result<()> {
    let url = |addr: SocketAddr| {
        // A wildcard address is no place to go to.
        let ip = addr.ip();
        let host = if ip.is_unspecified() { "127.0.0.1".to_owned() } else { ip.to_string() };
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        format!("http://{host}:{}", addr.port())
    };
    let (callback, query) = (addresses.callback.map(url), addresses.query.map(url));
    let admin = url(addresses.admin);
    let mut lines = vec![match role {
        Role::Run => format!("barrage {}", env!("CARGO_PKG_VERSION")),
        role => format!("barrage {} {}", role.name(), env!("CARGO_PKG_VERSION")),
    }];
    lines.extend(callback.iter().map(|url| format!("callbacks  {url}/callback")));
    lines.extend(query.iter().map(|url| format!("numbers    {url}/v1/rooms")));
    lines.extend(query.iter().map(|url| format!("status     {url}/v1/status")));
    lines.extend(addresses.grpc.map(|addr| format!("questions  {addr} (gRPC)")));
    lines.push(format!("metrics    {admin}/metrics"));
    let key = match role {
        Role::Run => format!("  (API key in {})", crate::api_key::FILE),
        _ => String::new(),
    };
    lines.push(format!("data       {}{key}", data_dir.display()));
    crate::commands::line(&lines.join("\n  "))?;
    if let Some(path) = &args.ready_file {
        let ready = json!({
            "role": role.name(),
            "callback": callback,
            "query": query,
            "grpc": addresses.grpc.map(url),
            "admin": admin,
            "pid": std::process::id(),
            "data_dir": data_dir.display().to_string(),
        });
        let new = path.with_extension("new");
        std::fs::write(&new, format!("{ready}\n"))
            .and_then(|()| std::fs::rename(&new, path))
            .with_context(|| format!("the ready file {} cannot be written", path.display()))?;
    }
    tracing::info!(role = role.name(), callback, query, %admin, "ready");
    Ok(())
}
