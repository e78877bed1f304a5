//! The real program as a child process, and a plain client for what it answers.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod cluster;
pub(crate) mod proxy;
pub(crate) mod reads;
pub(crate) mod scene;
mod truth;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value as Json;

#[allow(unused_imports, reason = "each test file uses a part of it")]
pub(crate) use truth::differences_at;

/// Longest wait for anything; far above what is ever needed, so that a slow machine fails no test.
const PATIENCE: Duration = Duration::from_secs(180);
const BARRAGE: &str = env!("CARGO_BIN_EXE_barrage");

/// The configuration of servers that play simulated evenings.
pub(crate) const EVENING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/evening.toml");

/// A small generator of its own (xorshift): what happens, to whom, and when. Not 0.
#[derive(Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// A number below `n`, which is above 0.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    /// A place in a list of this length, which is not empty.
    pub(crate) fn place(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("below a usize")
    }
}

/// A running `barrage run`.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) dir: PathBuf,
    pub(crate) callback: String,
    pub(crate) query: String,
    pub(crate) admin: String,
}

impl Server {
    /// Starts it on free ports with `dir` as its data directory, and waits until it listens.
    pub(crate) fn start(dir: &Path) -> Self {
        Self::start_with(dir, &["--config", EVENING])
    }

    pub(crate) fn start_with(dir: &Path, arguments: &[&str]) -> Self {
        std::fs::create_dir_all(dir).expect("a data directory");
        let ready = dir.join("ready.json");
        match std::fs::remove_file(&ready) {
            Ok(()) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}"),
        }
        let log = File::options().create(true).append(true).open(dir.join("server.log")).expect("a log file");
        let mut child = Command::new(BARRAGE)
            .args(["run", "--callback-listen", "127.0.0.1:0", "--query-listen", "127.0.0.1:0"])
            .args(["--admin-listen", "127.0.0.1:0", "--data-dir"])
            .arg(dir)
            .arg("--ready-file")
            .arg(&ready)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        let text = wait_until("the server listens", || {
            if let Some(status) = child.try_wait().expect("a child") {
                let log = std::fs::read_to_string(dir.join("server.log")).unwrap_or_default();
                panic!("the server ended with {status}: {log}");
            }
            std::fs::read_to_string(&ready).ok()
        });
        let ready: Json = serde_json::from_str(&text).expect("JSON");
        let url = |name: &str| ready[name].as_str().expect("a URL").to_owned();
        Self { child, dir: dir.to_owned(), callback: url("callback"), query: url("query"), admin: url("admin") }
    }

    pub(crate) fn key(&self) -> String {
        std::fs::read_to_string(self.dir.join("api-key")).expect("the key of the first start").trim().to_owned()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// kill -9; or only takes the dead child away.
    pub(crate) fn kill(mut self) {
        let _ = self.child.kill();
        self.child.wait().expect("a child");
    }

    /// SIGTERM, and the end of its own accord.
    pub(crate) fn stop(mut self) {
        let done = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().expect("kill runs");
        assert!(done.success());
        let status = wait_until("the server stops", || self.child.try_wait().expect("a child"));
        assert!(status.success(), "{status}");
    }

    /// Waits until everything in the log is applied and committed, and what follows from it is there, too; returns the
    /// status.
    pub(crate) fn drained(&self) -> Json {
        drained_at(&self.query)
    }

    /// Runs a command of the program, with this server's addresses.
    pub(crate) fn command(&self, arguments: &[&str]) -> (i32, String) {
        run(arguments.iter().copied().chain(["--data-dir", self.dir.to_str().expect("UTF-8")]))
    }

    /// Sends a recording with the program's own command.
    pub(crate) fn replay(&self, file: &Path) {
        let (code, output) = run([
            "replay",
            file.to_str().expect("UTF-8"),
            "--to",
            &self.callback,
            "--query",
            &self.query,
            "--data-dir",
            self.dir.to_str().expect("UTF-8"),
            "--quiet",
        ]);
        assert_eq!(code, 0, "{output}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A failed test leaves no process behind; after `kill` and `stop` there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the program to its end: exit code and both outputs.
pub(crate) fn run<'a>(arguments: impl IntoIterator<Item = &'a str>) -> (i32, String) {
    run_with(arguments, &[])
}

/// The same with variables of the environment.
pub(crate) fn run_with<'a>(
    arguments: impl IntoIterator<Item = &'a str>,
    environment: &[(&str, &str)],
) -> (i32, String) {
    let output = Command::new(BARRAGE)
        .args(arguments)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("the program runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
}

/// Asks again until there is an answer.
pub(crate) fn wait_until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    wait_until_told(what, || ask().ok_or(""))
}

/// Asks again until there is an answer; what was said last instead of one is shown when there never is.
pub(crate) fn wait_until_told<T, E: Display>(what: &str, mut ask: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(instead) => assert!(Instant::now() < deadline, "waited too long until {what} {instead}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// One request on a connection of its own.
pub(crate) fn get(url: &str, path: &str) -> (u16, Json) {
    let (status, body) = get_text(url, path);
    (status, serde_json::from_str(&body).unwrap_or_else(|e| panic!("{path}: {e}: {body}")))
}

/// The same of a query service, asked again while it says that a partition is on the move.
pub(crate) fn read_at(query: &str, path: &str) -> (u16, Json) {
    wait_until_told(path, || {
        let (status, answer) = get(query, path);
        if status == 503 { Err(answer) } else { Ok((status, answer)) }
    })
}

pub(crate) fn get_text(url: &str, path: &str) -> (u16, String) {
    ask(url, &format!("GET {path}"), &[], "")
}

/// Posts a body.
pub(crate) fn post(url: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
    ask(url, &format!("POST {path}"), headers, body)
}

fn ask(url: &str, line: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
    let host = url.strip_prefix("http://").expect("a URL");
    let mut stream = TcpStream::connect(host).expect("connects");
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    write!(
        stream,
        "{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    )
    .expect("sends");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    let body =
        if head.to_ascii_lowercase().contains("transfer-encoding: chunked") { dechunk(body) } else { body.to_owned() };
    (status, body)
}

fn dechunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).expect("a chunk size");
        if size == 0 {
            break;
        }
        whole.push_str(&rest[..size]);
        body = &rest[size + 2..];
    }
    whole
}

/// A path segment.
pub(crate) fn escape(text: &str) -> String {
    text.bytes()
        .map(|b| if b.is_ascii_alphanumeric() || b == b'_' { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

/// The state hashes of all partitions, and the store hashes.
pub(crate) fn hashes(status: &Json) -> BTreeMap<String, (String, String)> {
    status["partitions"]
        .as_array()
        .expect("partitions")
        .iter()
        .map(|p| {
            let text = |name: &str| p[name].as_str().unwrap_or_else(|| panic!("{name} in {p}")).to_owned();
            (format!("{}/{}", p["topic"], p["partition"]), (text("state_hash"), text("store_hash")))
        })
        .collect()
}

/// The same of a query service at this URL.
pub(crate) fn drained_at(query: &str) -> Json {
    let quiet = || {
        let status = get(query, "/v1/status").1;
        let partitions = status["partitions"].as_array().expect("partitions");
        assert!(!partitions.is_empty());
        let quiet = |p: &Json| !p["offset"].is_null() && p["offset"] == p["end"] && p["outgoing"] == 0;
        partitions.iter().all(quiet).then_some(status)
    };
    let offsets = |status: &Json| -> Vec<Json> {
        status["partitions"].as_array().expect("partitions").iter().map(|p| p["offset"].clone()).collect()
    };
    wait_until("all records are applied", || {
        // Twice the same: what one partition has just sent is not missed in another one that was asked before.
        let (first, second) = (quiet()?, quiet()?);
        (offsets(&first) == offsets(&second)).then_some(second)
    })
}

/// Differences between what is answered and what an expected file says, in every figure.
pub(crate) fn differences(server: &Server, expected: &Json, by_world: bool) -> Vec<String> {
    differences_at(&server.query, expected, by_world)
}

/// What rooms are ranked by.
const SORTS: [&str; 5] = ["messages", "online", "likes", "gift_value", "heat"];
/// What viewers of a room are ranked by.
const VIEWER_SORTS: [&str; 5] = ["messages", "recent", "watch", "likes", "gift_value"];
/// Those of them that answer for a span of time.
const VIEWER_WINDOW_SORTS: [&str; 2] = ["likes", "gift_value"];

/// Every read about every room and user of the evening, without what differs from run to run.
pub(crate) fn all_reads(query: &str, truth: &Json) -> BTreeMap<String, Json> {
    reads_of(query, truth, 1)
}

/// The same of one user in `every`.
pub(crate) fn reads_of(query: &str, truth: &Json, every: usize) -> BTreeMap<String, Json> {
    let (first, at) = (truth["first_ms"].as_i64().expect("a time"), asked_at(truth));
    // The hours of its first half, and of the second.
    let middle = i64::midpoint(first, at);
    let mut reads = totals_of(query, truth, every);
    for room in truth["rooms"].as_object().expect("rooms").keys() {
        let room = escape(room);
        for sort in VIEWER_SORTS {
            read_into(&mut reads, query, format!("/v1/rooms/{room}/viewers?sort={sort}&limit=1000&at={at}"));
        }
        for (from, to) in [(0, middle), (middle, at)] {
            for sort in VIEWER_WINDOW_SORTS {
                let path = format!("/v1/rooms/{room}/viewers?sort={sort}&from={from}&to={to}&limit=1000&at={at}");
                read_into(&mut reads, query, path);
            }
        }
    }
    reads
}

/// The reads without the lists of viewers.
pub(crate) fn totals_of(query: &str, truth: &Json, every: usize) -> BTreeMap<String, Json> {
    let at = asked_at(truth);
    let mut reads = BTreeMap::new();
    for sort in SORTS {
        read_into(&mut reads, query, format!("/v1/rooms?sort={sort}&limit=1000&at={at}"));
    }
    read_into(&mut reads, query, format!("/v1/recommendations?limit=1000&at={at}"));
    read_into(&mut reads, query, format!("/v1/levels?at={at}"));
    for room in truth["rooms"].as_object().expect("rooms").keys() {
        let room = escape(room);
        read_into(&mut reads, query, format!("/v1/rooms/{room}?at={at}"));
        read_into(&mut reads, query, format!("/v1/rooms/{room}/minutes?from=0&to={at}&limit=1000&at={at}"));
    }
    for user in truth["users"].as_object().expect("users").keys().step_by(every) {
        read_into(&mut reads, query, format!("/v1/users/{}?at={at}", escape(user)));
    }
    reads
}

/// The time that reads are asked for: when everything that waits for its window is over.
fn asked_at(truth: &Json) -> i64 {
    truth["last_ms"].as_i64().expect("a time") + 3_600_000
}

fn read_into(reads: &mut BTreeMap<String, Json>, query: &str, path: String) {
    let (status, mut answer) = read_at(query, &path);
    if let Some(fields) = answer.as_object_mut() {
        fields.remove("as_of");
    }
    reads.insert(path, serde_json::json!([status, answer]));
}
