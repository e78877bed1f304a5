//! Several processes in one: two that own partitions of one log and answer over gRPC, and servers of reads that ask
//! them, all on real sockets. Each has a worker of its own over the whole log; the directory says what it owns.

use std::sync::{Arc, Mutex, PoisonError};

use barrage_event::{Partition, Position};
use barrage_log::EventLog;
use barrage_query::api::{ApiParts, Around};
use barrage_query::{
    Api, Local, Metrics, OwnerOptions, OwnerRecord, OwnerService, OwnerTable, Owners, OwnersParts, QueryOptions, Shape,
    Sorts, serve, serve_owner,
};
use barrage_worker::{Worker, WorkerOptions};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::harness::{Answer, Control, KEY, PATIENCE, Service, exchange};

/// A process that owns partitions.
pub(crate) struct Process {
    pub(crate) name: &'static str,
    pub(crate) address: String,
    pub(crate) table: Arc<OwnerTable>,
    local: Local,
    worker: Mutex<Option<Worker>>,
    stop: watch::Sender<bool>,
    served: Mutex<Option<JoinHandle<()>>>,
    _dir: tempfile::TempDir,
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take() {
            worker.stop().expect("the worker stops");
        }
    }
}

impl Process {
    async fn start(name: &'static str, service: &Service, options: OwnerOptions) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut registry = Registry::default();
        let log: Arc<dyn EventLog> = Arc::clone(&service.log) as Arc<dyn EventLog>;
        let statistics = crate::harness::statistics();
        let worker = Worker::start(&WorkerOptions::new(dir.path().to_owned()), log, statistics, &mut registry);
        let worker = worker.expect("the worker starts");
        let table = Arc::new(OwnerTable::new(Some(name.to_owned())));
        let local = Local::new(worker.stores(), 4);
        let metrics = Metrics::register(&mut registry);
        let directory = Arc::clone(&table) as _;
        let service = OwnerService::new(local.clone(), directory, KEY.to_owned(), options, metrics);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let (stop, mut stopping) = watch::channel(false);
        let served = tokio::spawn(async move {
            let stopped = async move { drop(stopping.wait_for(|stop| *stop).await) };
            serve_owner(listener, service, stopped).await.expect("served");
        });
        let (worker, served) = (Mutex::new(Some(worker)), Mutex::new(Some(served)));
        Self { name, address, table, local, worker, stop, served, _dir: dir }
    }

    /// Answers no more; returns when its port is closed.
    pub(crate) async fn stop(&self) {
        self.stop.send_replace(true);
        let served = self.served.lock().unwrap_or_else(PoisonError::into_inner).take();
        served.expect("it was not stopped before").await.expect("it ends");
    }
}

/// A server of reads that asks owners.
pub(crate) struct Reads {
    pub(crate) table: Arc<OwnerTable>,
    address: String,
}

impl Reads {
    async fn start(
        service: &Service,
        process: Option<&Process>,
        key: &str,
        apps: Vec<u32>,
        options: QueryOptions,
    ) -> Self {
        let table = process.map_or_else(|| Arc::new(OwnerTable::new(None)), |process| Arc::clone(&process.table));
        let metrics = Metrics::register(&mut Registry::default());
        let parts = OwnersParts {
            local: process.map(|process| process.local.clone()),
            directory: Arc::clone(&table) as _,
            shape: Shape::of(service.log.as_ref()),
            sorts: Sorts::of(&crate::harness::statistics()),
            api_key: key.to_owned(),
            metrics: metrics.clone(),
        };
        let api = Api::new(ApiParts {
            owners: Arc::new(Owners::new(parts, &options)),
            rules: Arc::new(Control(Arc::clone(&service.rules_in_force))),
            apps,
            api_key: KEY.to_owned(),
            options,
            metrics,
            around: Around::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        tokio::spawn(serve(listener, api.router(), api.limits(), std::future::pending()));
        Self { table, address }
    }

    /// Where it answers.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[]).await
    }

    pub(crate) async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        exchange(&self.address, method, path, headers, "").await
    }
}

pub(crate) struct Cluster {
    /// All of it in one process: what the others are compared with.
    pub(crate) single: Service,
    pub(crate) a: Process,
    pub(crate) b: Process,
    /// Owns nothing.
    pub(crate) query: Reads,
    /// Reads of process `a`, which owns half.
    pub(crate) half: Reads,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        Self::start_with(QueryOptions::default(), OwnerOptions::default()).await
    }

    /// `a` owns the first partition of each topic and `b` the second.
    pub(crate) async fn start_with(options: QueryOptions, owner_options: OwnerOptions) -> Self {
        let single = Service::start().await;
        let a = Process::start("a", &single, owner_options.clone()).await;
        let b = Process::start("b", &single, owner_options).await;
        let query = Reads::start(&single, None, KEY, vec![crate::APP], options.clone()).await;
        let half = Reads::start(&single, Some(&a), KEY, vec![crate::APP], options).await;
        let cluster = Self { single, a, b, query, half };
        for (index, process) in [(0, &cluster.a), (1, &cluster.b)] {
            cluster.give(Partition::room(index), process, 1);
            cluster.give(Partition::user(index), process, 1);
        }
        cluster
    }

    /// Returns when every worker has what lies at these positions and before.
    pub(crate) async fn caught_up(&self, positions: &str) {
        self.single.get(&format!("/v1/status?at_least={positions}")).await.ok();
        for process in [&self.a, &self.b] {
            for position in positions.split(',') {
                let position: Position = position.parse().expect("a position");
                process.local.stores().wait_for(position, PATIENCE).await.expect("it gets there");
            }
        }
    }

    /// Another server of reads, with this key, that knows these apps.
    pub(crate) async fn reads(&self, key: &str, apps: Vec<u32>) -> Reads {
        let reads = Reads::start(&self.single, None, key, apps, QueryOptions::default()).await;
        for partition in self.single.log.all_partitions() {
            reads.table.apply(partition, self.query.table.record(partition).expect("it is owned"));
        }
        reads
    }

    /// Tells everybody that a process owns a partition.
    pub(crate) fn give(&self, partition: Partition, process: &Process, generation: u64) {
        self.tell(partition, &record(process.name, &process.address, generation));
    }

    pub(crate) fn tell(&self, partition: Partition, record: &OwnerRecord) {
        for table in [&self.a.table, &self.b.table, &self.query.table] {
            table.apply(partition, record.clone());
        }
    }

    /// Tells everybody that the owner gave a partition back.
    pub(crate) fn release(&self, partition: Partition) {
        let record = self.query.table.record(partition).expect("it is owned");
        self.tell(partition, &OwnerRecord { released: true, ..record });
    }
}

pub(crate) fn record(process: &str, address: &str, generation: u64) -> OwnerRecord {
    OwnerRecord {
        generation,
        released: false,
        since_ms: 0,
        process_id: process.to_owned(),
        address: address.to_owned(),
    }
}
