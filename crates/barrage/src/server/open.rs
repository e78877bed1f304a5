//! What is open between start and stop, for each role.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use barrage_event::Partition;
use barrage_ingest::{Appender, Clock, LogClock, Rules, RulesTopic, Spool, SpoolMetrics, SystemClock, new_incarnation};
use barrage_log::{EmbeddedLog, EventLog, Group, KafkaLog, KafkaMetrics, KafkaOptions, KnownLog};
use barrage_query::api::{Around, Trim};
use barrage_query::{AllHere, Directory, Local, OwnerTable, Owners, OwnersParts, PeerMarks, Shape, Sorts};
use barrage_worker::{IsOwner, Phase, SourceMarks, Stores, Worker, WorkerOptions};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Role;
use super::clock_watch::ClockWatch;
use super::listeners::Addresses;
use super::ownership::{self, Ownership};
use super::shared_rules::{self, Follower};
use super::spools::{Spools, Teller};
use crate::config::Config;
use crate::notifications::{self, Notifications};

/// Remembers the shape of the log in Kafka, so that callbacks are taken by a process that starts while it is down.
const KNOWN_FILE: &str = "kafka-log.json";
/// How long such a start waits for the cluster before it goes on without.
const OPEN_WAIT_KNOWN_MS: u32 = 2_000;
/// How this process calls itself where it has all partitions.
const LOCAL: &str = "local";

/// The log of this process.
enum Log {
    Embedded(Arc<EmbeddedLog>),
    Kafka(Arc<KafkaLog>),
}

/// What takes callbacks.
pub(super) struct Intake {
    pub(super) appender: Arc<Appender>,
    pub(super) metrics: barrage_ingest::Metrics,
}

/// Everything that is open.
pub(super) struct Parts {
    pub(super) config: Config,
    pub(super) registry: Arc<Registry>,
    pub(super) api_key: String,
    pub(super) query_metrics: barrage_query::Metrics,
    pub(super) intake: Option<Intake>,
    /// The rules of a process that applies them or stamps them.
    pub(super) rules: Option<Arc<Rules>>,
    pub(super) local: Option<Local>,
    pub(super) directory: Arc<dyn Directory>,
    /// The owners of all partitions, where there are several processes.
    pub(super) table: Option<Arc<OwnerTable>>,
    pub(super) shape: Shape,
    pub(super) process: String,
    log: Log,
    worker: Option<Worker>,
    shared: Shared,
}

/// What a process has only where the log is shared.
#[derive(Default)]
struct Shared {
    group: Arc<Mutex<Option<Group>>>,
    ownership: Option<Arc<Ownership>>,
    spool: Option<Arc<Spool>>,
    spools: Arc<Spools>,
    teller: Mutex<Option<Teller>>,
    follower: Option<Follower>,
    clock_watch: Option<ClockWatch>,
    threads: Vec<JoinHandle<()>>,
}

impl Parts {
    pub(super) fn open(role: Role, config: Config, addresses: &Addresses) -> anyhow::Result<Self> {
        let data_dir = &config.data_dir;
        std::fs::create_dir_all(data_dir)
            .with_context(|| format!("the data directory {} cannot be made", data_dir.display()))?;
        match config.kafka.clone() {
            None => Self::open_embedded(config),
            Some(options) => Self::open_kafka(role, config, &options, addresses),
        }
    }

    fn open_embedded(config: Config) -> anyhow::Result<Self> {
        let data_dir = &config.data_dir;
        let mut registry = new_registry();
        let log_metrics = barrage_log::Metrics::register(&mut registry);
        let log = Arc::new(EmbeddedLog::open(&data_dir.join("log"), &config.log, log_metrics)?);
        // The log's lock is held: no other process makes a key here.
        let api_key = crate::api_key::of_server(std::env::var(crate::api_key::VARIABLE).ok(), data_dir)?;
        let as_log: Arc<dyn EventLog> = Arc::clone(&log) as Arc<dyn EventLog>;
        let statistics = crate::statistics::statistics();
        let options = worker_options(&config, Box::new(notifications::File::open(data_dir, log.uuid())?))?;
        let worker = Worker::start(&options, Arc::clone(&as_log), statistics, &mut registry)?;
        let stores = worker.stores();
        let metrics = barrage_ingest::Metrics::register(&mut registry);
        let query_metrics = barrage_query::Metrics::register(&mut registry);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let shape = Shape::of(as_log.as_ref());
        let appender = Arc::new(Appender::new(as_log, incarnation(&*clock)?));
        let held = |partition| held_rules(&stores, partition);
        let rules = Rules::start(data_dir, Arc::clone(&appender), config.rules.as_ref(), &held, metrics.clone(), clock)
            .context("the rules cannot be brought up to date")?;
        Ok(Self {
            local: Some(Local::with_snapshots(stores, worker.snapshots(), config.query.scans_in_flight_max)),
            directory: Arc::new(AllHere::new(LOCAL)),
            table: None,
            shape,
            process: LOCAL.to_owned(),
            registry: Arc::new(registry),
            api_key,
            query_metrics,
            intake: Some(Intake { appender, metrics }),
            rules: Some(Arc::new(rules)),
            log: Log::Embedded(log),
            worker: Some(worker),
            shared: Shared::default(),
            config,
        })
    }

    fn open_kafka(role: Role, config: Config, options: &KafkaOptions, addresses: &Addresses) -> anyhow::Result<Self> {
        let data_dir = config.data_dir.clone();
        let key = std::env::var(crate::api_key::VARIABLE).ok();
        if role != Role::Run && key.is_none() {
            bail!("set {} to the same key for all processes: they ask each other with it", crate::api_key::VARIABLE);
        }
        let api_key = crate::api_key::of_server(key, &data_dir)?;
        let mut registry = new_registry();
        let (log, reached) = open_log(role, options, &data_dir, KafkaMetrics::register(&mut registry))?;
        let log = Arc::new(log);
        let as_log: Arc<dyn EventLog> = Arc::clone(&log) as Arc<dyn EventLog>;
        let shape = Shape::of(as_log.as_ref());
        let query_metrics = barrage_query::Metrics::register(&mut registry);
        // A projector has neither callbacks nor rules of its own, and would tell of version 0 for ever.
        let ingest_metrics = match role {
            Role::Project => barrage_ingest::Metrics::register(&mut Registry::default()),
            Role::Run | Role::Ingest | Role::Query => barrage_ingest::Metrics::register(&mut registry),
        };
        let clock: Arc<dyn Clock> = Arc::new(LogClock::new(Arc::clone(&as_log)));
        let mut shared = Shared::default();

        let grpc = addresses.grpc.map(|addr| advertised(&config, addr));
        let process = process_name(role, grpc.as_deref(), incarnation(&*clock)?);
        let mut table = None;
        let mut owners_topic = None;
        if role.projects() || role.queries() {
            let owns = role.projects().then(|| process.clone());
            let (opened, topic) = ownership::open(options, owns, &shared.spools)?;
            (table, owners_topic) = (Some(opened), Some(topic));
        }

        // Rules go straight into the log, under an incarnation of their own.
        let mut rules = None;
        if role.ingests() || role.queries() {
            let (tell, changed) = mpsc::channel();
            let topic = if reached { Some(shared_rules::open(options, tell.clone())?) } else { None };
            let proposer = incarnation(&*clock)?;
            let topic = Arc::new(RulesTopic::new(&data_dir, proposer, topic)?);
            if role.ingests() {
                shared.clock_watch = Some(ClockWatch::start(Arc::clone(&log), Arc::clone(&topic))?);
            }
            let appender = Arc::new(Appender::new(Arc::clone(&as_log), proposer));
            // Only ingest applies what is configured: a query process may have another file, or none.
            let configured = config.rules.as_ref().filter(|_| role.ingests());
            let (metrics, own_clock) = (ingest_metrics.clone(), Arc::clone(&clock));
            let started = Rules::start_shared(Arc::clone(&topic), appender, configured, metrics, own_clock)
                .context("the rules cannot be brought up to date")?;
            let started = Arc::new(started);
            let follower = Follower::start(options.clone(), Arc::clone(&started), topic, (tell, changed), reached);
            shared.follower = Some(follower.context("the rules cannot be followed")?);
            rules = Some(started);
        }

        let mut intake = None;
        if role.ingests() {
            let metrics = SpoolMetrics::register(&mut registry);
            let spool = Spool::open(&data_dir.join("spool"), config.spool.clone(), Arc::clone(&as_log), metrics)?;
            let spool = Arc::new(spool);
            let appender = Arc::new(Appender::spooled(Arc::clone(&spool), incarnation(&*clock)?));
            let teller = Teller::start(&shared.spools, &spool, &data_dir, options, owners_topic.clone())?;
            shared.teller = Mutex::new(Some(teller));
            shared.spool = Some(spool);
            intake = Some(Intake { appender, metrics: ingest_metrics });
        }

        let mut worker = None;
        let mut local = None;
        if role.projects() {
            let statistics = crate::statistics::statistics();
            let mut options = worker_options(&config, Box::new(notifications::Topic::open(options, as_log.as_ref())?))?;
            options.marks = table.clone().map(|table| others_marks(table, &api_key, &config));
            let is_owner = group_knows(&shared.group);
            options.is_owner = Some(Arc::clone(&is_owner));
            let started = Worker::start_without_partitions(&options, Arc::clone(&as_log), statistics, &mut registry)?;
            let scans = config.query.scans_in_flight_max;
            local = Some(Local::with_snapshots(started.stores(), started.snapshots(), scans));
            if let (Some(table), Some(topic), Some(address)) = (&table, owners_topic, grpc) {
                let given = (started.assignments(), is_owner);
                let ownership = Arc::new(Ownership::new(given, Arc::clone(table), topic, process.clone(), address));
                shared.threads.push(ownership.keep_telling().context("a thread could not be started")?);
                let group = log.join(Arc::clone(&ownership) as Arc<dyn barrage_log::Owner>)?;
                *shared.group.lock().unwrap_or_else(PoisonError::into_inner) = Some(group);
                shared.ownership = Some(ownership);
            }
            worker = Some(started);
        } else if let Some(topic) = owners_topic {
            // Kept open as long as the process runs.
            shared.threads.push(keep(topic)?);
        }
        let directory: Arc<dyn Directory> = match &table {
            Some(table) => Arc::clone(table) as Arc<dyn Directory>,
            None => Arc::new(OwnerTable::new(None)),
        };
        Ok(Self {
            config,
            registry: Arc::new(registry),
            api_key,
            query_metrics,
            intake,
            rules,
            local,
            directory,
            table,
            shape,
            process,
            log: Log::Kafka(log),
            worker,
            shared,
        })
    }

    /// The log, as everybody sees it.
    pub(super) fn log(&self) -> Arc<dyn EventLog> {
        match &self.log {
            Log::Embedded(log) => Arc::clone(log) as Arc<dyn EventLog>,
            Log::Kafka(log) => Arc::clone(log) as Arc<dyn EventLog>,
        }
    }

    /// The log in Kafka.
    pub(super) fn kafka(&self) -> Option<&Arc<KafkaLog>> {
        match &self.log {
            Log::Embedded(_) => None,
            Log::Kafka(log) => Some(log),
        }
    }

    pub(super) fn spool(&self) -> Option<&Arc<Spool>> {
        self.shared.spool.as_ref()
    }

    /// What only some processes have.
    pub(super) fn around(&self) -> Around {
        let snapshots = self.worker.as_ref().and_then(Worker::snapshots);
        let trim: Trim = match (&self.log, snapshots) {
            (Log::Kafka(_), _) => Arc::new(|| Err("the log is in Kafka, whose topics say what is kept".to_owned())),
            (Log::Embedded(_), None) => Arc::new(|| Err("there is no place for snapshots (snapshot.url)".to_owned())),
            (Log::Embedded(_), Some(snapshots)) => {
                Arc::new(move || snapshots.trim().map_err(|error| error.to_string()))
            }
        };
        let spools = match &self.log {
            Log::Embedded(_) => None,
            Log::Kafka(_) => {
                let spools = Arc::clone(&self.shared.spools);
                let shown: barrage_query::api::Spools = Arc::new(move || spools.shown());
                Some(shown)
            }
        };
        Around { trim: Some(trim), spools }
    }

    /// All partitions, wherever they are.
    pub(super) fn owners(&self) -> Owners {
        let Some(_) = &self.table else {
            let local = self.local.clone();
            return match local {
                Some(local) => Owners::all_here(local, &self.process, self.query_metrics.clone()),
                None => self.remote_owners(),
            };
        };
        self.remote_owners()
    }

    fn remote_owners(&self) -> Owners {
        let parts = OwnersParts {
            local: self.local.clone(),
            directory: Arc::clone(&self.directory),
            shape: self.shape,
            sorts: Sorts::of(&crate::statistics::statistics()),
            api_key: self.api_key.clone(),
            metrics: self.query_metrics.clone(),
        };
        Owners::new(parts, &self.config.query)
    }

    /// Gives the partitions back, and puts what the log has not acknowledged into the spool.
    pub(super) fn leave(&self) {
        if let Some(spool) = &self.shared.spool {
            spool.close();
        }
        if let Some(mut teller) = self.shared.teller.lock().unwrap_or_else(PoisonError::into_inner).take() {
            teller.stop();
        }
        let group = self.shared.group.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(group) = group {
            group.leave();
        }
        if let Some(ownership) = &self.shared.ownership {
            ownership.stop();
        }
    }

    /// The last commits, then the log.
    pub(super) fn close(mut self) -> anyhow::Result<()> {
        if let Some(follower) = &mut self.shared.follower {
            follower.stop();
        }
        if let Some(watch) = self.shared.clock_watch.take() {
            watch.stop();
        }
        let stopped = self.worker.take().map_or(Ok(()), Worker::stop);
        match &self.log {
            Log::Embedded(log) => log.close(),
            Log::Kafka(log) => log.close(),
        }
        stopped?;
        Ok(())
    }
}

fn new_registry() -> Registry {
    let mut registry = Registry::default();
    // 1, with the version as a label: which version runs where.
    let info = Family::<Vec<(String, String)>, Gauge>::default();
    info.get_or_create(&vec![("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]).set(1);
    registry.register("barrage_build_info", "1, with the version as a label", info);
    registry
}

fn incarnation(clock: &dyn Clock) -> anyhow::Result<u64> {
    new_incarnation(clock).map_err(|error| anyhow!("the system has no randomness to give: {error}"))
}

/// A thread that holds the topic until the process ends.
fn keep(topic: Arc<barrage_log::ControlTopic>) -> anyhow::Result<JoinHandle<()>> {
    let hold = move || {
        loop {
            std::thread::park();
            // Spurious wakes are of no interest; the topic stays open.
            let _ = &topic;
        }
    };
    std::thread::Builder::new().name("owners".to_owned()).spawn(hold).context("a thread could not be started")
}

/// HOST:PORT at which other processes reach this one.
fn advertised(config: &Config, bound: SocketAddr) -> String {
    config.listen.grpc_advertise.clone().unwrap_or_else(|| bound.to_string())
}

/// How a process calls itself: where it is asked, or what it is; never the same twice.
fn process_name(role: Role, grpc: Option<&str>, incarnation: u64) -> String {
    let tail = incarnation & 0xff_ffff;
    format!("{}-{tail:06x}", grpc.unwrap_or_else(|| role.name()))
}

/// Opens the log in Kafka. Only a process that takes callbacks, and knows the log from an earlier start, goes on without
/// the cluster; whether it is reached.
fn open_log(
    role: Role,
    options: &KafkaOptions,
    data_dir: &Path,
    metrics: KafkaMetrics,
) -> anyhow::Result<(KafkaLog, bool)> {
    let path = data_dir.join(KNOWN_FILE);
    let known = match std::fs::read(&path) {
        Ok(bytes) => Some(
            serde_json::from_slice::<KnownLog>(&bytes)
                .with_context(|| format!("{} cannot be read; remove it if the log is reached", path.display()))?,
        ),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("{} cannot be read", path.display())),
    };
    let Some(known) = known.filter(|_| role == Role::Ingest) else {
        let log = KafkaLog::open(options, metrics)?;
        remember(&path, &log.known())?;
        return Ok((log, true));
    };
    let hasty = KafkaOptions { open_wait_ms: options.open_wait_ms.min(OPEN_WAIT_KNOWN_MS), ..options.clone() };
    match KafkaLog::open(&hasty, metrics.clone()) {
        Ok(log) if log.known().is_same(&known) => {
            remember(&path, &log.known())?;
            Ok((log, true))
        }
        Ok(log) => bail!(
            "this is another log than the one that {} was used with ({:?} instead of {known:?}): use another data \
             directory, or remove that file when nothing waits in the spool",
            data_dir.display(),
            log.known()
        ),
        Err(error @ barrage_log::OpenError::Kafka { .. }) => {
            tracing::error!(%error, "Kafka is not reached: callbacks are taken and go to the spool until it is");
            Ok((KafkaLog::open_known(options, metrics, &known)?, false))
        }
        Err(error) => Err(error.into()),
    }
}

fn remember(path: &Path, known: &KnownLog) -> anyhow::Result<()> {
    let text = serde_json::to_vec(known).context("the log's shape cannot be written down")?;
    let new = path.with_extension("new");
    std::fs::write(&new, text)
        .and_then(|()| std::fs::rename(&new, path))
        .with_context(|| format!("{} cannot be written", path.display()))
}

fn worker_options(config: &Config, board: Box<dyn notifications::Board>) -> anyhow::Result<WorkerOptions> {
    let mut options = WorkerOptions::new(config.data_dir.clone());
    let section = &config.worker;
    if section.threads > 0 {
        options.threads = section.threads;
    }
    options.commit_interval = Duration::from_millis(section.commit_interval_ms);
    options.overlay_bytes = section.overlay_bytes;
    options.state = section.state_options();
    options.publisher = Some(Arc::new(Notifications::start(board)?));
    options.snapshots = config.snapshot.options().context("snapshots cannot be kept")?;
    Ok(options)
}

/// Asks other processes what their rooms have seen.
fn others_marks(table: Arc<OwnerTable>, api_key: &str, config: &Config) -> Arc<dyn SourceMarks> {
    Arc::new(PeerMarks::new(table, api_key, &config.query))
}

/// Asks the group, as long as this process is a member of it.
fn group_knows(group: &Arc<Mutex<Option<Group>>>) -> IsOwner {
    // The group holds the worker, and the worker this.
    let group = Arc::downgrade(group);
    Arc::new(move |partition| {
        let Some(group) = group.upgrade() else { return false };
        let group = group.lock().unwrap_or_else(PoisonError::into_inner);
        group.as_ref().is_some_and(|group| group.is_owner_now(partition))
    })
}

/// The version of the rules that a partition's store has, if it can be told.
fn held_rules(stores: &Stores, partition: Partition) -> Option<u32> {
    let status = stores.status().into_iter().find(|status| status.partition == partition)?;
    (status.phase == Phase::Live).then_some(status.rules_version)
}
