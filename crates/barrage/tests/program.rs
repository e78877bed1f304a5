//! The program as its users start it: exit codes, messages, start and stop.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

fn barrage(arguments: &[&str]) -> Output {
    program(arguments).output().expect("the program runs")
}

/// The program without whatever is set where the tests run.
fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_barrage"));
    let ours = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("BARRAGE_"));
    for (name, _) in ours {
        command.env_remove(name);
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// A child that does not outlive a failed test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail when it has ended, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server on free ports, and its first lines.
struct Server {
    running: Running,
    out: BufReader<std::process::ChildStdout>,
    callback: String,
    query: String,
    grpc: String,
}

impl Server {
    fn start(dir: &Path) -> Self {
        let ready = dir.join("ready.json");
        let child = program(&["run", "--callback-listen=127.0.0.1:0", "--query-listen=127.0.0.1:0"])
            .args(["--grpc-listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--log-filter=warn", "--data-dir"])
            .arg(dir.join("data"))
            .arg("--ready-file")
            .arg(&ready)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        let mut running = Running(child);
        let mut out = BufReader::new(running.0.stdout.take().expect("piped"));
        // The banner's last line comes before the ready file, so reading it is the wait.
        let mut line = String::new();
        while !line.contains("data  ") {
            line.clear();
            assert_ne!(out.read_line(&mut line).expect("read"), 0, "the server ended while starting");
        }
        let listens = loop {
            if let Ok(text) = std::fs::read_to_string(&ready) {
                break serde_json::from_str::<serde_json::Value>(&text).expect("the ready file appears as a whole");
            }
            assert_eq!(running.0.try_wait().expect("a child"), None, "the server ended while starting");
            std::thread::yield_now();
        };
        let url = |name: &str| listens[name].as_str().expect("a URL").to_owned();
        assert_eq!(listens["pid"], running.0.id());
        let (callback, query, grpc) = (url("callback"), url("query"), url("grpc"));
        Self { running, out, callback, query, grpc }
    }

    /// Stops it with a signal; its exit code and what it said last.
    fn stop(mut self, signal: &str) -> (Option<i32>, String) {
        let sent = Command::new("kill").args([signal, &self.running.0.id().to_string()]).status().expect("kill runs");
        assert!(sent.success());
        let status = self.running.0.wait().expect("it ends");
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).expect("read");
        (status.code(), rest)
    }
}

#[test]
fn a_configuration_is_checked_with_file_line_and_key() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("barrage.toml");
    let file = path.to_str().expect("UTF-8");
    let table: &[(&str, i32, &str)] = &[
        ("[log]\nroom_partitions = 8\n", 0, "ok: "),
        ("[log]\nroom_partition = 8\n", 3, ":2:1: log.room_partition: unknown field"),
        ("[log]\n\nroom_partitions = 0\n", 3, ":3:1: log.room_partitions: "),
        ("[rules.windows]\njoin_ms = 1\n", 3, ":2:1: rules.windows.join_ms: "),
        ("[ingest]\napi_keys = [\"short\"]\n", 3, ":2:1: ingest.api_keys: "),
        ("[listen]\nquery = \"0.0.0.0:8081\"\n", 3, ":2:1: listen.query: "),
        ("[listen]\nquery = \"0.0.0.0:8081\"\n[ingest]\ntoken = \"secret\"\n", 0, "ok: "),
        ("[listen]\ngrpc = \"0.0.0.0:8082\"\n", 3, ":2:1: listen.grpc: "),
        ("[listen]\ngrpc = \"127.0.0.1:8081\"\n", 3, ":2:1: listen.grpc: 127.0.0.1:8081 is listen.query already"),
        ("[grpc]\nwaits_in_flight_max = 0\n", 3, ":2:1: grpc.waits_in_flight_max: "),
        ("[diagnostics]\nfilter = \"barrage=loud\"\n", 3, ":2:1: diagnostics.filter: "),
        ("[log\n", 3, ":1:"),
    ];
    for (config, code, message) in table {
        std::fs::write(&path, config).expect("written");
        let (exit, out, err) = said(&barrage(&["config", "check", "--config", file]));
        assert_eq!(exit, Some(*code), "{config}\n{out}{err}");
        assert!(format!("{out}{err}").contains(message), "{config}\n{out}{err}");
        if *code != 0 {
            let (exit, _, run) = said(&barrage(&["run", "--config", file]));
            assert_eq!((exit, run), (Some(3), err), "run says what config check says: {config}");
        }
    }
}

#[test]
fn grpc_is_served_where_an_address_is_given() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path());
    let address = server.grpc.strip_prefix("http://").expect("a URL");
    let mut stream = std::net::TcpStream::connect(address).expect("connected");
    // HTTP/2: the preface and an empty SETTINGS frame; the server begins with its own.
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").expect("sent");
    let mut frame = [0; 9];
    stream.read_exact(&mut frame).expect("a frame");
    assert_eq!(frame[3], 4, "it is SETTINGS: {frame:?}");
    assert_eq!(server.stop("-TERM").0, Some(0), "an open connection does not keep it from stopping");
}

#[test]
fn rules_are_checked_without_a_server() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("rules.toml");
    let file = path.to_str().expect("UTF-8");
    let (exit, shipped, _) = said(&barrage(&["rules", "show", "--default"]));
    assert_eq!(exit, Some(0));
    for (rules, code, message) in [
        (shipped.as_str(), 0, "ok: "),
        ("[windows]\njoin_ms = 1\n", 3, "windows.join_ms"),
        ("[window]\n", 3, "window"),
        ("[custom]\nlike = 3\n", 3, "line 2"),
    ] {
        std::fs::write(&path, rules).expect("written");
        let (exit, out, err) = said(&barrage(&["rules", "check", file]));
        assert_eq!(exit, Some(code), "{rules:.40}\n{out}{err}");
        assert!(format!("{out}{err}").contains(message), "{rules:.40}\n{out}{err}");
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes_whether_packed_or_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_owned();
    let (plain, packed, truth) = (file("a.jsonl"), file("b.jsonl.gz"), file("expected.json"));
    for out in [&plain, &packed] {
        let arguments = ["simulate", "--preset", "small", "--seed", "7", "--out", out, "--expected", &truth];
        assert_eq!(barrage(&arguments).status.code(), Some(0));
    }
    let mut unpacked = String::new();
    let gzip = std::fs::File::open(&packed).expect("written");
    flate2::read::MultiGzDecoder::new(gzip).read_to_string(&mut unpacked).expect("gzip");
    assert_eq!(std::fs::read_to_string(&plain).expect("written"), unpacked);
    assert!(unpacked.lines().count() > 1_000);
    let to_stdout = barrage(&["simulate", "--preset", "small", "--seed", "7", "--out", "-"]);
    assert_eq!(text(&to_stdout.stdout), unpacked);
    let truth: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&truth).expect("written")).expect("JSON");
    assert!(truth["rooms"].as_object().is_some_and(|rooms| !rooms.is_empty()));
}

#[test]
fn a_server_takes_an_evening_shows_it_and_stops_when_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path());
    let data = dir.path().join("data");
    let data = data.to_str().expect("UTF-8");
    let (callback, query) = (server.callback.clone(), server.query.clone());

    let second = said(&barrage(
        &["run", "--data-dir", data, "--callback-listen=127.0.0.1:0"]
            .into_iter()
            .chain(["--query-listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"])
            .collect::<Vec<_>>(),
    ));
    assert_eq!(second.0, Some(1), "{second:?}");
    assert!(second.2.contains("open in another process"), "{second:?}");
    let port = callback.trim_start_matches("http://");
    let other = dir.path().join("other");
    let taken = said(&barrage(&["run", "--data-dir", other.to_str().expect("UTF-8"), "--callback-listen", port]));
    assert_eq!(taken.0, Some(1), "{taken:?}");
    assert!(taken.2.contains("callback cannot listen on"), "{taken:?}");

    let evening = dir.path().join("evening.jsonl");
    let evening = evening.to_str().expect("UTF-8");
    assert_eq!(barrage(&["simulate", "--preset", "small", "--out", evening]).status.code(), Some(0));
    let to = ["--to", &callback, "--query", &query, "--data-dir", data];
    let played = said(&barrage(&["replay", evening].into_iter().chain(to).collect::<Vec<_>>()));
    // Events that name no app are refused without an allow-list, and the exit code says that something was.
    assert!(matches!(played.0, Some(0 | 4)), "{played:?}");
    assert!(played.1.contains("delivered") && played.1.contains("answered OK"), "{played:?}");
    let again = said(&barrage(&["replay", evening].into_iter().chain(to).collect::<Vec<_>>()));
    assert_eq!(again.0, Some(1), "a recording of the past is refused: {again:?}");
    assert!(again.2.contains("--shift"), "{again:?}");

    let on_server = ["--query", &query, "--data-dir", data];
    let with = |arguments: &[&str]| said(&barrage(&arguments.iter().copied().chain(on_server).collect::<Vec<_>>()));
    let rebuilt = with(&["rebuild", "--all"]);
    assert_eq!((rebuilt.0, rebuilt.1.lines().count()), (Some(0), 8), "{rebuilt:?}");
    assert!(rebuilt.1.lines().all(|line| line.contains("the same numbers as before")), "{rebuilt:?}");
    assert_eq!(with(&["dead-letters"]).1, "there are no dead letters\n");
    let rules = with(&["rules", "history"]);
    assert!(rules.0 == Some(0) && rules.1.starts_with("     1  "), "{rules:?}");

    let log = said(&barrage(&["log", "--data-dir", data, "--partition", "room/0", "--limit", "1", "--json"]));
    let record: serde_json::Value = serde_json::from_str(&log.1).expect("one object");
    assert_eq!((&record["position"], &record["command"]), (&"room/0@0".into(), &"Barrage.RulesApplied".into()));

    let (code, rest) = server.stop("-TERM");
    assert_eq!(code, Some(0));
    assert!(rest.starts_with("stopped; the data is in ") && rest.contains(data), "{rest}");
    let server = Server::start(dir.path());
    let rooms = said(&barrage(&["rules", "show", "--query", &server.query]));
    assert_eq!(rooms.0, Some(0), "it starts again on the same data: {rooms:?}");
    assert_eq!(server.stop("-INT").0, Some(0));
}

#[test]
fn commands_without_a_server_say_so() {
    for arguments in [&["rules", "show"][..], &["dead-letters"], &["rules", "history"]] {
        // Port 9 is discard, which nobody runs.
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--query", "http://127.0.0.1:9"]).collect();
        let (exit, _, err) = said(&barrage(&arguments));
        assert_eq!(exit, Some(1), "{arguments:?}");
        assert!(err.contains("127.0.0.1:9") && err.contains("is `barrage run` up?"), "{err}");
    }
    assert_eq!(barrage(&["rebuild"]).status.code(), Some(2), "what to rebuild must be said");
}

#[test]
fn completions_are_printed_for_every_shell() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let (exit, out, _) = said(&barrage(&["completions", shell]));
        assert_eq!(exit, Some(0), "{shell}");
        assert!(out.contains("barrage") && out.contains("dead-letters"), "{shell}");
    }
}
