//! A service over a log and a worker of its own, and a client that reads whole answers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use barrage_event::rules::{Compiled, RuleSet};
use barrage_event::{Stamp, callback};
use barrage_ingest::{Appender, Rules, SystemClock};
use barrage_log::{EmbeddedLog, EmbeddedOptions, EventLog};
use barrage_projection::Statistic;
use barrage_query::api::{ApiParts, Around};
use barrage_query::{
    Admin, AdminOptions, Api, ApplyRulesError, Local, Metrics, Owners, QueryOptions, RulesApplied, RulesControl,
    RulesVersion, serve,
};
use barrage_worker::{Worker, WorkerOptions};
use prometheus_client::registry::Registry;
use serde_json::Value as Json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub(crate) const KEY: &str = "a-key-of-the-tests";
/// Far above what anything takes, so that a slow machine fails no test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Ingest's rules as the binary wires them.
#[derive(Debug)]
pub(crate) struct Control(pub(crate) Arc<Rules>);

fn shown(v: &barrage_ingest::RulesVersion) -> RulesVersion {
    RulesVersion {
        version: v.version,
        applied_at_ms: v.applied_at_ms,
        applied_by: v.applied_by.clone(),
        toml: v.toml.clone(),
    }
}

impl RulesControl for Control {
    fn version(&self) -> u32 {
        self.0.current().version
    }

    fn current(&self) -> Arc<RulesVersion> {
        Arc::new(shown(&self.0.current()))
    }

    fn history(&self) -> Result<Vec<RulesVersion>, String> {
        Ok(self.0.history().map_err(|e| e.to_string())?.iter().map(shown).collect())
    }

    fn apply(&self, toml: &str, by: &str) -> Result<RulesApplied, ApplyRulesError> {
        let applied = self.0.apply(toml, by).map_err(|e| ApplyRulesError::Invalid(e.to_string()))?;
        Ok(RulesApplied { version: applied.version, changed: applied.changed, positions: applied.positions })
    }
}

pub(crate) fn statistics() -> Vec<Box<dyn Statistic>> {
    vec![
        Box::new(barrage_message_counts::MessageCounts),
        Box::new(barrage_online_duration::OnlineDuration),
        Box::new(barrage_presence::Presence),
        Box::new(barrage_like_tallies::LikeTallies),
        Box::new(barrage_room_heat::RoomHeat),
        Box::new(barrage_user_levels::UserLevels),
    ]
}

pub(crate) struct Service {
    address: String,
    admin_address: String,
    pub(crate) log: Arc<EmbeddedLog>,
    appender: Arc<Appender>,
    rules: Compiled,
    pub(crate) rules_in_force: Arc<Rules>,
    worker: Mutex<Option<Worker>>,
    stop: watch::Sender<bool>,
    served: Mutex<Option<JoinHandle<()>>>,
    // Removed last.
    _dir: tempfile::TempDir,
}

impl Drop for Service {
    fn drop(&mut self) {
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(worker) = worker {
            worker.stop().expect("the worker stops");
        }
    }
}

impl Service {
    pub(crate) async fn start() -> Self {
        Self::start_for(vec![1_400_000_000]).await
    }

    /// A service that knows these apps.
    pub(crate) async fn start_for(apps: Vec<u32>) -> Self {
        Self::start_with(apps, QueryOptions { at_least_wait_ms: 2_000, ..QueryOptions::default() }).await
    }

    /// A service that knows these apps, with these options.
    pub(crate) async fn start_with(apps: Vec<u32>, options: QueryOptions) -> Self {
        Self::start_of(apps, options, statistics).await
    }

    /// The same with these statistics.
    pub(crate) async fn start_of(
        apps: Vec<u32>,
        query_options: QueryOptions,
        statistics: fn() -> Vec<Box<dyn Statistic>>,
    ) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut registry = Registry::default();
        let options = EmbeddedOptions {
            room_partitions: 2,
            user_partitions: 2,
            segment_bytes: 1 << 20,
            ..EmbeddedOptions::default()
        };
        let metrics = barrage_log::Metrics::register(&mut registry);
        let log = Arc::new(EmbeddedLog::open(&dir.path().join("log"), &options, metrics).expect("the log opens"));
        let as_log: Arc<dyn EventLog> = Arc::clone(&log) as Arc<dyn EventLog>;
        let worker =
            Worker::start(&WorkerOptions::new(dir.path().to_owned()), Arc::clone(&as_log), statistics(), &mut registry)
                .expect("the worker starts");
        let appender = Arc::new(Appender::new(as_log, 1));
        let ingest_metrics = barrage_ingest::Metrics::register(&mut registry);
        let clock = Arc::new(SystemClock);
        let rules = Rules::start(dir.path(), Arc::clone(&appender), None, &|_| None, ingest_metrics, clock);
        let rules_in_force = Arc::new(rules.expect("the rules are distributed"));
        let metrics = Metrics::register(&mut registry);
        let local = Local::new(worker.stores(), 4);
        let api = Api::new(ApiParts {
            owners: Arc::new(Owners::all_here(local, "test", metrics.clone())),
            rules: Arc::new(Control(Arc::clone(&rules_in_force))),
            apps,
            api_key: KEY.to_owned(),
            options: query_options,
            metrics,
            around: Around::default(),
        });
        let admin = Admin::new(Arc::new(registry), AdminOptions::default()).of_stores(&worker.stores());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let admin_listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let admin_address = admin_listener.local_addr().expect("an address").to_string();
        let (stop, mut stopping) = watch::channel(false);
        let stopped = async move { drop(stopping.wait_for(|stop| *stop).await) };
        let served = tokio::spawn(async move {
            serve(listener, api.router(), api.limits(), stopped).await.expect("served");
        });
        tokio::spawn(serve(admin_listener, admin.router(), Admin::limits(), std::future::pending()));
        Self {
            address,
            admin_address,
            log,
            appender,
            rules: Compiled::new(&RuleSet::default(), 1).expect("the shipped rules are valid"),
            rules_in_force,
            worker: Mutex::new(Some(worker)),
            stop,
            served: Mutex::new(Some(served)),
            _dir: dir,
        }
    }

    /// Where it answers.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Answers no more; returns when every answer that was under way has ended.
    pub(crate) async fn stop(&self) {
        self.stop.send_replace(true);
        let served = self.served.lock().unwrap_or_else(PoisonError::into_inner).take();
        served.expect("it was not stopped before").await.expect("it ends");
    }

    /// Appends a callback as ingest does and returns its positions, as `at_least` takes them.
    pub(crate) async fn append(&self, app: u32, command: &str, body: &str, received_at_ms: i64) -> String {
        let ack = {
            let event = callback::decode(command, "iOS", body.as_bytes(), &self.rules).expect("a callback");
            let stamp = Stamp {
                id: self.appender.next_id(),
                app,
                received_at_ms,
                incarnation: self.appender.incarnation(),
                rules_version: 1,
                verdict: None,
            };
            self.appender.append_event(&event, &stamp).expect("the log takes it").ack
        };
        let positions = ack.await.expect("durable");
        positions.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], "").await
    }

    pub(crate) async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        exchange(&self.address, method, path, headers, body).await
    }

    pub(crate) async fn admin(&self, path: &str) -> (u16, String) {
        let answer = exchange(&self.admin_address, "GET", path, &[], "").await;
        (answer.status, answer.body)
    }

    /// Asks until the answer is as wanted.
    pub(crate) async fn until(&self, path: &str, wanted: impl Fn(&Json) -> bool) -> Json {
        let asked = async {
            loop {
                let answer = self.get(path).await.ok();
                if wanted(&answer) {
                    return answer;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.expect("it comes about")
    }
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
    /// Null when the body is no JSON.
    pub(crate) json: Json,
}

impl Answer {
    pub(crate) fn ok(self) -> Json {
        assert!((200..300).contains(&self.status), "{} {}", self.status, self.body);
        self.json
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

pub(crate) async fn exchange(address: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut request = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
    let exchanged = async {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.expect("answered");
        bytes
    };
    let bytes = tokio::time::timeout(PATIENCE, exchanged).await.expect("answered in time");
    let text = String::from_utf8(bytes).expect("UTF-8");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    let mut lines = head.lines();
    let status = lines.next().and_then(|l| l.split(' ').nth(1)?.parse().ok()).expect("a status");
    let headers = lines
        .filter_map(|l| l.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    Answer { status, headers, body: body.to_owned(), json: serde_json::from_str(body).unwrap_or_default() }
}
