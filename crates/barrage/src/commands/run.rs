//! `barrage run`: everything in one process, on the embedded log.
//!
//! Order of starting: ports, log, key, stores, rules, and only then requests; order of stopping: callbacks first, so
//! that whatever was answered OK is in the log, then reads, then the stores' last commit, then the log.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use barrage_event::Partition;
use barrage_ingest::{Appender, Clock, IngestOptions, Rules, Secret, SystemClock, check_exposure, new_incarnation};
use barrage_log::{EmbeddedLog, EventLog};
use barrage_query::{Admin, AllHere, Api, Local, OwnerService, Owners};
use barrage_worker::{Phase, Stores, Worker, WorkerOptions};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::cli::RunArgs;
use crate::config::{self, Config, ListenOptions, Loaded};
use crate::exit::{Exit, Failure};
use crate::rules_control::IngestRules;

/// Runs until it is told to stop.
pub(crate) fn run(args: &RunArgs, environment: impl Iterator<Item = (String, String)>) -> Result<Exit, Failure> {
    let loaded = config::load(&args.config, environment).map_err(Failure::configuration)?;
    crate::logging::start(&loaded.config.diagnostics);
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    warn_of_exposure(&loaded.config);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("requests")
        .build()
        .context("the runtime cannot be started")?;
    let result = runtime.block_on(serve(args, loaded));
    // Handlers that still read a closed store are not waited for.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result?;
    Ok(Exit::Done)
}

fn warn_of_exposure(config: &Config) {
    // Whether they may be bound at all was checked with the rest of the configuration.
    let ListenOptions { callback, query, grpc, admin } = config.listen;
    if let Ok(Some(warning)) = check_exposure(callback, config.ingest.has_token(), config.ingest.has_allow_list()) {
        tracing::warn!("{warning}");
    }
    for (name, addr) in [("reads", Some(query)), ("questions over gRPC, without TLS,", grpc), ("metrics", Some(admin))]
    {
        let Some(addr) = addr else { continue };
        if !addr.ip().to_canonical().is_loopback() {
            tracing::warn!(
                "{name} on {addr} are open to everybody who reaches it: put a proxy or a firewall before it"
            );
        }
    }
}

/// The listeners, open but not served yet.
struct Listeners {
    callback: TcpListener,
    query: TcpListener,
    grpc: Option<TcpListener>,
    admin: TcpListener,
}

impl Listeners {
    async fn bind(listen: &ListenOptions) -> anyhow::Result<Self> {
        let bind = async |name: &str, addr: SocketAddr| {
            let hint = || format!("{name} cannot listen on {addr}; is another server running? (listen.{name})");
            TcpListener::bind(addr).await.with_context(hint)
        };
        Ok(Self {
            callback: bind("callback", listen.callback).await?,
            query: bind("query", listen.query).await?,
            grpc: match listen.grpc {
                Some(addr) => Some(bind("grpc", addr).await?),
                None => None,
            },
            admin: bind("admin", listen.admin).await?,
        })
    }

    /// The real addresses, with the ports that were free when 0 was asked for.
    fn addresses(&self) -> std::io::Result<ListenOptions> {
        Ok(ListenOptions {
            callback: self.callback.local_addr()?,
            query: self.query.local_addr()?,
            grpc: self.grpc.as_ref().map(TcpListener::local_addr).transpose()?,
            admin: self.admin.local_addr()?,
        })
    }
}

async fn serve(args: &RunArgs, loaded: Loaded) -> anyhow::Result<()> {
    let config = loaded.config;
    let mut signals = Signals::new()?;
    if let Some(path) = &args.ready_file {
        // One of an earlier start would tell of ports that are gone.
        forget(path).with_context(|| format!("the ready file {} cannot be removed", path.display()))?;
    }
    let listeners = Listeners::bind(&config.listen).await?;
    let addresses = listeners.addresses()?;
    // Opening reads files and may take seconds after a crash.
    let opening = tokio::task::spawn_blocking(move || Parts::open(config));
    let parts = match tokio::select! {
        opened = opening => opened,
        () = signals.asked() => return Err(anyhow!("stopped while starting; nothing was accepted")),
    } {
        Ok(opened) => opened?,
        Err(error) => return Err(anyhow!("starting failed: {error}")),
    };
    let data_dir = parts.config.data_dir.clone();
    let data_dir = std::path::absolute(&data_dir).unwrap_or(data_dir);

    let (stop_ingest, stop_reads) = (watch::Sender::new(false), watch::Sender::new(false));
    let mut servers = Servers::start(&parts, listeners, &stop_ingest, &stop_reads);
    announce(args, &addresses, &data_dir)?;

    let failed = tokio::select! {
        () = signals.asked() => None,
        failure = servers.any_ends() => Some(failure),
    };
    tracing::info!("stopping: no new callbacks; requests in flight are answered");
    let stopping = stop(parts, servers, (stop_ingest, stop_reads));
    tokio::select! {
        stopped = stopping => stopped?,
        () = signals.asked() => return Err(anyhow!("stopped a second time: the last commit was left out, the log has everything")),
    }
    if let Some(path) = &args.ready_file {
        // What is left is wrong but does no harm: the next start removes it first.
        drop(forget(path));
    }
    super::line(&format!("stopped; the data is in {}", data_dir.display()))?;
    failed.map_or(Ok(()), Err)
}

/// What is open between start and stop.
struct Parts {
    config: Config,
    log: Arc<EmbeddedLog>,
    worker: Worker,
    stores: Stores,
    appender: Arc<Appender>,
    rules: Arc<Rules>,
    ingest_metrics: barrage_ingest::Metrics,
    query_metrics: barrage_query::Metrics,
    registry: Arc<Registry>,
    api_key: String,
}

impl Parts {
    fn open(config: Config) -> anyhow::Result<Self> {
        let data_dir = &config.data_dir;
        std::fs::create_dir_all(data_dir)
            .with_context(|| format!("the data directory {} cannot be made", data_dir.display()))?;
        let mut registry = Registry::default();
        register_build_info(&mut registry);
        let log_metrics = barrage_log::Metrics::register(&mut registry);
        let log = Arc::new(EmbeddedLog::open(&data_dir.join("log"), &config.log, log_metrics)?);
        // The log's lock is held: no other process makes a key here.
        let api_key = crate::api_key::of_server(std::env::var(crate::api_key::VARIABLE).ok(), data_dir)?;
        let as_log: Arc<dyn EventLog> = Arc::clone(&log) as Arc<dyn EventLog>;
        let options = worker_options(&config);
        let worker = Worker::start(&options, Arc::clone(&as_log), crate::statistics::statistics(), &mut registry)?;
        let stores = worker.stores();
        let ingest_metrics = barrage_ingest::Metrics::register(&mut registry);
        let query_metrics = barrage_query::Metrics::register(&mut registry);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let incarnation =
            new_incarnation(&*clock).map_err(|error| anyhow!("the system has no randomness to give: {error}"))?;
        let appender = Arc::new(Appender::new(as_log, incarnation));
        let rules = Rules::start(
            data_dir,
            Arc::clone(&appender),
            config.rules.as_ref(),
            &|partition| held_rules(&stores, partition),
            ingest_metrics.clone(),
            clock,
        )
        .context("the rules cannot be brought up to date")?;
        let rules = Arc::new(rules);
        Ok(Self {
            config,
            log,
            worker,
            stores,
            appender,
            rules,
            ingest_metrics,
            query_metrics,
            registry: Arc::new(registry),
            api_key,
        })
    }
}

fn worker_options(config: &Config) -> WorkerOptions {
    let mut options = WorkerOptions::new(config.data_dir.clone());
    let section = &config.worker;
    if section.threads > 0 {
        options.threads = section.threads;
    }
    options.commit_interval = Duration::from_millis(section.commit_interval_ms);
    options.overlay_bytes = section.overlay_bytes;
    options.state = section.state_options();
    options
}

/// The version of the rules that a partition's store has, if it can be told.
fn held_rules(stores: &Stores, partition: Partition) -> Option<u32> {
    let status = stores.status().into_iter().find(|status| status.partition == partition)?;
    (status.phase == Phase::Live).then_some(status.rules_version)
}

/// `barrage_build_info{version}` is 1: which version runs where.
fn register_build_info(registry: &mut Registry) {
    let info = Family::<Vec<(String, String)>, Gauge>::default();
    info.get_or_create(&vec![("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]).set(1);
    registry.register("barrage_build_info", "1, with the version as a label", info);
}

/// The tasks that serve.
struct Servers {
    ingest: JoinHandle<anyhow::Result<()>>,
    query: JoinHandle<anyhow::Result<()>>,
    /// Ends with the reads where there is none.
    grpc: JoinHandle<anyhow::Result<()>>,
    admin: JoinHandle<anyhow::Result<()>>,
}

impl Servers {
    fn start(
        parts: &Parts,
        listeners: Listeners,
        stop_ingest: &watch::Sender<bool>,
        stop_reads: &watch::Sender<bool>,
    ) -> Self {
        let until = |stop: &watch::Sender<bool>| {
            let mut stop = stop.subscribe();
            async move { drop(stop.wait_for(|stop| *stop).await) }
        };
        let config = &parts.config;
        let mut options: IngestOptions = config.ingest.clone();
        options.api_keys.push(Secret::new(parts.api_key.clone()));
        let ingest = barrage_ingest::serve(
            listeners.callback,
            options,
            Arc::clone(&parts.appender),
            parts.rules.handle(),
            parts.ingest_metrics.clone(),
            until(stop_ingest),
        );
        let scans = config.query.scans_in_flight_max;
        let local = Local::new(parts.stores.clone(), scans);
        let service = OwnerService::new(
            local.clone(),
            Arc::new(AllHere::new("local")),
            parts.api_key.clone(),
            config.grpc.clone(),
            parts.query_metrics.clone(),
        );
        let (grpc, grpc_until) = (listeners.grpc, until(stop_reads));
        let grpc = async move {
            match grpc {
                Some(listener) => barrage_query::serve_owner(listener, service, grpc_until).await,
                None => {
                    grpc_until.await;
                    Ok(())
                }
            }
        };
        let api = Api::new(barrage_query::api::ApiParts {
            owners: Arc::new(Owners::all_here(local, "local", parts.query_metrics.clone())),
            rules: Arc::new(IngestRules(Arc::clone(&parts.rules))),
            apps: config.ingest.apps.clone(),
            api_key: parts.api_key.clone(),
            options: config.query.clone(),
            metrics: parts.query_metrics.clone(),
        });
        let query = barrage_query::serve(listeners.query, api.router(), api.limits(), until(stop_reads));
        let admin = Admin::new(Arc::clone(&parts.registry), config.admin.clone()).of_stores(&parts.stores);
        let admin = barrage_query::serve(listeners.admin, admin.router(), Admin::limits(), until(stop_reads));
        Self {
            ingest: tokio::spawn(async { ingest.await.context("callbacks are no longer taken") }),
            query: tokio::spawn(async { query.await.context("reads are no longer answered") }),
            grpc: tokio::spawn(async { grpc.await.context("questions over gRPC are no longer answered") }),
            admin: tokio::spawn(async { admin.await.context("metrics are no longer answered") }),
        }
    }

    /// Why one of them ended, which none should before it is told to.
    async fn any_ends(&mut self) -> anyhow::Error {
        let (name, ended) = tokio::select! {
            ended = &mut self.ingest => ("callbacks", ended),
            ended = &mut self.query => ("reads", ended),
            ended = &mut self.grpc => ("questions over gRPC", ended),
            ended = &mut self.admin => ("metrics", ended),
        };
        match ended {
            Ok(Ok(())) => anyhow!("the server of {name} ended by itself"),
            Ok(Err(error)) => error,
            Err(error) => anyhow!("the server of {name} ended: {error}"),
        }
    }
}

async fn stop(
    parts: Parts,
    servers: Servers,
    (stop_ingest, stop_reads): (watch::Sender<bool>, watch::Sender<bool>),
) -> anyhow::Result<()> {
    stop_ingest.send_replace(true);
    // A server that ended by itself was reported already; a handle is not asked twice.
    if !servers.ingest.is_finished() {
        drop(servers.ingest.await);
    }
    stop_reads.send_replace(true);
    for server in [servers.query, servers.grpc, servers.admin] {
        if !server.is_finished() {
            drop(server.await);
        }
    }
    let closed = tokio::task::spawn_blocking(move || {
        let stopped = parts.worker.stop();
        parts.log.close();
        stopped
    });
    closed.await.map_err(|error| anyhow!("stopping failed: {error}"))??;
    Ok(())
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
fn announce(args: &RunArgs, listen: &ListenOptions, data_dir: &Path) -> anyhow::Result<()> {
    let url = |addr: SocketAddr| {
        // A wildcard address is no place to go to.
        let ip = addr.ip();
        let host = if ip.is_unspecified() { "127.0.0.1".to_owned() } else { ip.to_string() };
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        format!("http://{host}:{}", addr.port())
    };
    let (callback, query, admin) = (url(listen.callback), url(listen.query), url(listen.admin));
    let grpc = listen.grpc.map(url);
    super::line(&format!(
        "barrage {}\n  callbacks  {callback}/callback\n  numbers    {query}/v1/rooms\n  status     {query}/v1/status\n  \
         metrics    {admin}/metrics\n  data       {}  (API key in {})",
        env!("CARGO_PKG_VERSION"),
        data_dir.display(),
        crate::api_key::FILE,
    ))?;
    if let Some(path) = &args.ready_file {
        let ready = json!({
            "callback": callback,
            "query": query,
            "grpc": grpc,
            "admin": admin,
            "pid": std::process::id(),
            "data_dir": data_dir.display().to_string(),
        });
        let new = path.with_extension("new");
        std::fs::write(&new, format!("{ready}\n"))
            .and_then(|()| std::fs::rename(&new, path))
            .with_context(|| format!("the ready file {} cannot be written", path.display()))?;
    }
    tracing::info!(%callback, %query, %admin, "ready");
    Ok(())
}
