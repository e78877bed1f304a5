//! Barrage on Kafka as several real processes.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fs::File;
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use barrage_ingest::RECEIVED_AT_HEADER;
use serde_json::Value as Json;

use super::{BARRAGE, get, wait_until, wait_until_told};

/// The key that all processes share.
pub(crate) const KEY: &str = "a-key-for-tests-0123456789";
/// How long a member of the group may be silent, ms: short, so that takeovers are soon.
pub(crate) const SESSION_MS: u64 = 3_000;

/// What one process has otherwise than all.
#[derive(Debug, Clone, Default)]
pub(crate) struct Own {
    /// The brokers that it is told of.
    pub(crate) brokers: Option<String>,
    /// Variables of its environment, above those that all have.
    pub(crate) environment: Vec<(String, String)>,
}

impl Own {
    #[allow(clippy::needless_pass_by_value, reason = "numbers are written as they are")]
    pub(crate) fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.environment.push((name.to_owned(), value.to_string()));
        self
    }
}

/// One process of a role.
#[derive(Debug)]
pub(crate) struct Process {
    role: &'static str,
    child: Child,
    pub(crate) dir: PathBuf,
    pub(crate) environment: Vec<(String, String)>,
    brokers: String,
    /// Where other processes ask it, HOST:PORT.
    pub(crate) grpc: Option<String>,
    pub(crate) callback: Option<String>,
    pub(crate) query: Option<String>,
    pub(crate) admin: String,
}

impl Process {
    pub(crate) fn start(role: &'static str, dir: &Path, brokers: &str, environment: &[(String, String)]) -> Self {
        std::fs::create_dir_all(dir).expect("a data directory");
        let child = spawn(role, dir, brokers, environment);
        let mut process = Self {
            role,
            child,
            dir: dir.to_owned(),
            environment: environment.to_vec(),
            brokers: brokers.to_owned(),
            grpc: None,
            callback: None,
            query: None,
            admin: String::new(),
        };
        process.listen();
        process
    }

    fn listen(&mut self) {
        let ready = self.dir.join("ready.json");
        let text = wait_until("a process listens", || {
            if let Some(status) = self.child.try_wait().expect("a child") {
                let log = std::fs::read_to_string(self.dir.join("server.log")).unwrap_or_default();
                panic!("{} ended with {status}: {log}", self.role);
            }
            std::fs::read_to_string(&ready).ok()
        });
        let ready: Json = serde_json::from_str(&text).expect("JSON");
        let url = |name: &str| ready[name].as_str().map(str::to_owned);
        (self.callback, self.query) = (url("callback"), url("query"));
        self.grpc = url("grpc").map(|url| url.trim_start_matches("http://").to_owned());
        self.admin = url("admin").expect("metrics");
    }

    fn signal(&self, signal: &str) {
        let done = Command::new("kill").args([signal, &self.child.id().to_string()]).status().expect("kill runs");
        assert!(done.success(), "kill {signal}");
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().expect("a child");
    }

    /// SIGSTOP: it is silent, and knows nothing of it.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    /// SIGTERM, and the end of its own accord.
    pub(crate) fn stop(&mut self) {
        self.signal("-TERM");
        let status = wait_until("a process stops", || self.child.try_wait().expect("a child"));
        let log = || std::fs::read_to_string(self.dir.join("server.log")).unwrap_or_default();
        assert!(status.success(), "{} ended with {status}: {}", self.role, log());
    }

    /// Starts it again on the same directory, after its end.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(self.role, &self.dir, &self.brokers, &self.environment);
        self.listen();
    }

    /// Everything it has written to its log.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("server.log")).expect("the log of a process")
    }

    /// Whether it says that it is ready, and what it says.
    pub(crate) fn readiness(&self) -> (u16, String) {
        super::get_text(&self.admin, "/readyz")
    }

    /// Posts one callback, as IM does. No statistic reads its command, and it lies at the evening's start: no answer
    /// changes with it.
    pub(crate) fn quiet_callback(&self) -> (u16, String) {
        let path = "/callback?SdkAppid=1400000000&CallbackCommand=Profile.CallbackPortraitSet&contenttype=json";
        let body =
            r#"{"CallbackCommand":"Profile.CallbackPortraitSet","From_Account":"nobody","EventTime":1767268800501}"#;
        let key = format!("Bearer {KEY}");
        let headers = [("Authorization", key.as_str()), (RECEIVED_AT_HEADER, "1767268800502")];
        super::post(self.callback.as_deref().expect("an ingest"), path, &headers, body)
    }

    /// The value of a metric, the sum over its labels; 0 when it was never counted.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        self.metric_with(name, "")
    }

    /// The same of those lines that name this label.
    pub(crate) fn metric_with(&self, name: &str, label: &str) -> f64 {
        let (_, text) = super::get_text(&self.admin, "/metrics");
        text.lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])))
            .filter(|line| line.contains(label))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(role: &str, dir: &Path, brokers: &str, environment: &[(String, String)]) -> Child {
    let ready = dir.join("ready.json");
    match std::fs::remove_file(&ready) {
        Ok(()) => {}
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}"),
    }
    let log = File::options().create(true).append(true).open(dir.join("server.log")).expect("a log file");
    let any = "127.0.0.1:0";
    Command::new(BARRAGE)
        .args([role, "--callback-listen", any, "--query-listen", any, "--grpc-listen", any, "--admin-listen", any])
        .args(["--brokers", brokers, "--data-dir"])
        .arg(dir)
        .arg("--ready-file")
        .arg(&ready)
        .env("BARRAGE_API_KEY", KEY)
        .env("BARRAGE_CONFIG", super::EVENING)
        .envs(environment.iter().map(|(k, v)| (k.as_str(), v.as_str())))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("the program starts")
}

/// Ingests behind a balancer, projectors and queries over topics of their own.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) ingests: Vec<Process>,
    pub(crate) projectors: Vec<Process>,
    pub(crate) queries: Vec<Process>,
    pub(crate) balancer: Balancer,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) prefix: String,
}

impl Cluster {
    pub(crate) fn start(dir: &Path, brokers: &str, prefix: &str, counts: (usize, usize, usize)) -> Self {
        Self::start_with(dir, brokers, prefix, counts, &|_, _| Own::default())
    }

    /// The same with processes that differ: `own` is told the role and the number, from 0.
    pub(crate) fn start_with(
        dir: &Path,
        brokers: &str,
        prefix: &str,
        (ingests, projectors, queries): (usize, usize, usize),
        own: &(dyn Fn(&str, usize) -> Own + Sync),
    ) -> Self {
        let environment: Vec<(String, String)> = [
            ("BARRAGE_KAFKA_TOPIC_PREFIX", prefix.to_owned()),
            ("BARRAGE_KAFKA_GROUP_ID", format!("{prefix}project")),
            ("BARRAGE_KAFKA_SESSION_TIMEOUT_MS", SESSION_MS.to_string()),
            ("BARRAGE_KAFKA_ROOM_PARTITIONS", "4".to_owned()),
            ("BARRAGE_KAFKA_USER_PARTITIONS", "4".to_owned()),
            // A machine that is slow, or busy with other tests, refuses nothing for it.
            ("BARRAGE_INGEST_APPEND_BUDGET_MS", "30000".to_owned()),
            ("BARRAGE_SPOOL_SEGMENT_BYTES", (1 << 20).to_string()),
            ("BARRAGE_SNAPSHOT_URL", dir.join("snapshots").to_str().expect("UTF-8").to_owned()),
            ("BARRAGE_SNAPSHOT_EVERY_S", "2".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec();
        // At the same time, as a deployment does: whoever is first makes the topics and the first rules.
        let roles = [("ingest", ingests), ("project", projectors), ("query", queries)];
        let mut started = std::thread::scope(|scope| {
            let threads: Vec<_> = roles
                .iter()
                .flat_map(|&(role, count)| (0..count).map(move |number| (role, number)))
                .map(|(role, number)| {
                    let (dir, all) = (dir.join(format!("{role}-{number}")), &environment);
                    scope.spawn(move || {
                        let own = own(role, number);
                        let environment = [all.as_slice(), &own.environment].concat();
                        Process::start(role, &dir, own.brokers.as_deref().unwrap_or(brokers), &environment)
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("started")).collect::<Vec<_>>()
        });
        let queries = started.split_off(ingests + projectors);
        let projectors = started.split_off(ingests);
        let balancer = Balancer::start();
        let cluster = Self { ingests: started, projectors, queries, balancer, environment, prefix: prefix.to_owned() };
        cluster.balance();
        cluster
    }

    /// Tells the balancer where the ingests are now.
    pub(crate) fn balance(&self) {
        let all = self.ingests.iter().filter_map(|ingest| ingest.callback.as_deref());
        self.balancer.set(all.map(|url| url.trim_start_matches("http://").to_owned()).collect());
    }

    pub(crate) fn query(&self) -> &str {
        self.queries[0].query.as_deref().expect("a query process")
    }

    /// Waits until every partition has an owner and everything in the log, and in the spools, is committed.
    pub(crate) fn drained(&self) -> Json {
        wait_until("the spools are drained", || {
            self.ingests.iter().all(|ingest| ingest.metric("barrage_spool_waiting_records") == 0.0).then_some(())
        });
        // An owner that was asked a moment ago may not know of a record yet that is acknowledged by now: twice the same.
        let mut before = None;
        wait_until_told("all records are applied", || {
            let (code, status) = get(self.query(), "/v1/status");
            let Some(partitions) = status["partitions"].as_array().filter(|_| code == 200) else {
                return Err(status);
            };
            let done = |p: &Json| p["offset"].is_u64() && p["offset"] == p["end"] && p["outgoing"] == 0;
            if let Some(not_done) = partitions.iter().find(|p| !done(p)) {
                before = None;
                return Err(not_done.clone());
            }
            let positions: Vec<Json> = partitions.iter().map(|p| p["end"].clone()).collect();
            let same = before.as_ref() == Some(&positions);
            before = Some(positions);
            std::thread::sleep(std::time::Duration::from_millis(300));
            if same { Ok(status) } else { Err(status) }
        })
    }

    /// Ends all processes politely.
    pub(crate) fn stop(mut self) {
        for process in self.ingests.iter_mut().chain(&mut self.projectors).chain(&mut self.queries) {
            process.stop();
        }
    }
}

/// A TCP balancer: each connection goes to the next server in turn.
#[derive(Debug)]
pub(crate) struct Balancer {
    pub(crate) url: String,
    servers: Arc<Mutex<Vec<String>>>,
}

impl Balancer {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let servers: Arc<Mutex<Vec<String>>> = Arc::default();
        let (list, turn) = (Arc::clone(&servers), AtomicUsize::new(0));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let servers = list.lock().expect("no panic").clone();
                let first = turn.fetch_add(1, Ordering::Relaxed);
                // One that is down is passed over, as a health check would.
                let connect =
                    (0..servers.len()).find_map(|n| TcpStream::connect(&servers[(first + n) % servers.len()]).ok());
                let Some(server) = connect else { continue };
                join(client, server);
            }
        });
        Self { url, servers }
    }

    pub(crate) fn set(&self, servers: Vec<String>) {
        *self.servers.lock().expect("no panic") = servers;
    }
}

/// Copies both ways until either ends.
fn join(client: TcpStream, server: TcpStream) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let both = [(client.try_clone(), server.try_clone()), (Ok(server), Ok(client))];
    for (from, to) in both {
        let (Ok(mut from), Ok(mut to)) = (from, to) else { return };
        std::thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
        });
    }
}
