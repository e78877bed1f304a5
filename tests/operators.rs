//! What operators do, with the real program: snapshots, trimming the log, looking into it.

mod common;

use std::path::{Path, PathBuf};

use barrage_kafka_fixture::{Broker, prefix};
use common::cluster::{Cluster, KEY};
use common::{Server, escape, get, hashes, run, run_with, wait_until};
use serde_json::Value as Json;

/// Partitions of the embedded log.
const PARTITIONS: usize = 8;

/// A server with a place for snapshots and small segments.
struct Machine {
    _dir: tempfile::TempDir,
    data: PathBuf,
    place: PathBuf,
    config: PathBuf,
}

impl Machine {
    fn new(snapshot: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        let (data, place, config) = (at("data"), at("snapshots"), at("barrage.toml"));
        let url = place.display();
        let text = format!("[log]\nsegment_bytes = 65536\n[snapshot]\nurl = \"{url}\"\n{snapshot}\n");
        std::fs::write(&config, text).expect("written");
        Self { _dir: dir, data, place, config }
    }

    fn start(&self) -> Server {
        Server::start_with(&self.data, &["--config", self.config()])
    }

    fn config(&self) -> &str {
        self.config.to_str().expect("UTF-8")
    }

    /// Some thousand callbacks.
    fn evening(&self, seed: u32) -> PathBuf {
        let file = self.data.with_file_name(format!("evening-{seed}.jsonl"));
        let (seed, out) = (seed.to_string(), file.to_str().expect("UTF-8"));
        let (code, output) = run(["simulate", "--seed", &seed, "--preset", "small", "--out", out]);
        assert_eq!(code, 0, "{output}");
        file
    }

    /// Some thousand callbacks of a day of their own, since a server refuses those of the past.
    fn play(&self, server: &Server, day: u32) {
        let shift = (1_767_268_800_000 + i64::from(day) * 86_400_000).to_string();
        let file = self.evening(day);
        let file = file.to_str().expect("UTF-8");
        let (code, output) = server.command(&[
            "replay",
            file,
            "--to",
            &server.callback,
            "--query",
            &server.query,
            "--quiet",
            "--shift",
            &shift,
        ]);
        assert_eq!(code, 0, "{output}");
    }

    /// The first record of every partition, as long as the log has one of it.
    fn starts(&self) -> Vec<u64> {
        let data = self.data.to_str().expect("UTF-8");
        json_lines(&["log", "--data-dir", data, "--limit", "1", "--json"], &[])
            .iter()
            .map(|record| {
                let position = record["position"].as_str().expect("a position");
                position.rsplit('@').next().and_then(|offset| offset.parse().ok()).expect("an offset")
            })
            .collect()
    }

    fn list(&self) -> Vec<Json> {
        json_lines(&["snapshot", "list", "--config", self.config(), "--json"], &[])
    }

    fn verify(&self, more: &[&str]) -> (i32, String) {
        run(["snapshot", "verify", "--config", self.config()].iter().chain(more).copied())
    }
}

fn json_lines(arguments: &[&str], environment: &[(&str, &str)]) -> Vec<Json> {
    let (code, output) = run_with(arguments.iter().copied(), environment);
    assert_eq!(code, 0, "{arguments:?}: {output}");
    output.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// What is counted in all rooms and of their givers, days after the last evening. Not who was there: the second evening tells
/// of sessions of the first a day late, and beyond the lateness window the order of arrival counts.
fn counted(server: &Server) -> Vec<(String, Json)> {
    let at = 1_767_268_800_000_i64 + 10 * 86_400_000;
    let ask = |path: &str| {
        let (status, answer) = get(&server.query, path);
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    };
    let rooms = ask(&format!("/v1/rooms?sort=messages&limit=1000&at={at}"));
    let mut all = Vec::new();
    for room in rooms["rooms"].as_array().expect("rooms") {
        let name = room["room"].as_str().expect("a name");
        all.extend(
            ["messages", "gifts", "likes", "memberships"].map(|what| (format!("{name}: {what}"), room[what].clone())),
        );
        let givers = ask(&format!("/v1/rooms/{}/viewers?sort=gift_value&limit=1000&at={at}", escape(name)));
        all.push((format!("{name}: givers"), givers["viewers"].clone()));
    }
    assert!(!all.is_empty());
    all
}

fn take(server: &Server) -> (i32, String) {
    server.command(&["snapshot", "take", "--all", "--query", &server.query])
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("readable").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

#[test]
fn snapshots_are_taken_on_demand_listed_and_verified() {
    let machine = Machine::new("every_s = 86400");
    let server = machine.start();
    machine.play(&server, 1);
    let status = server.drained();
    let (code, output) = take(&server);
    assert_eq!((code, output.lines().count()), (0, PARTITIONS), "{output}");

    let listed = machine.list();
    for partition in status["partitions"].as_array().expect("partitions") {
        let name = format!("{}/{}", partition["topic"].as_str().expect("text"), partition["partition"]);
        // The first ones are those that were taken when the server had just started.
        let newest = listed.iter().find(|row| row["partition"] == name.as_str()).expect("there is one");
        assert_eq!(newest["next_offset"], partition["offset"], "{name}");
        assert_eq!(newest["state_hash"], partition["state_hash"], "{name}");
        assert_eq!(newest["store_hash"], partition["store_hash"], "{name}");
        assert!(newest["bytes"].as_u64() > Some(0) && newest["created_at"].as_i64() > Some(0), "{newest}");
    }
    let (code, text) = run(["snapshot", "list", "--url", machine.place.to_str().expect("UTF-8")]);
    assert!(code == 0 && text.starts_with("log ") && text.lines().count() == listed.len() + 1, "{text}");
    let of_one = json_lines(
        &["snapshot", "list", "--config", machine.config(), "--json", "--partition", "room/1"],
        &[("BARRAGE_DATA_DIR", "elsewhere")],
    );
    assert!(!of_one.is_empty() && of_one.iter().all(|row| row["partition"] == "room/1"), "{of_one:?}");

    let scratch = machine.data.with_file_name("scratch");
    std::fs::create_dir(&scratch).expect("made");
    let temp_dir = ["--temp-dir", scratch.to_str().expect("UTF-8")];
    let (code, output) = machine.verify(&temp_dir);
    assert_eq!((code, output.lines().filter(|l| l.contains("  ok  ")).count()), (0, PARTITIONS), "{output}");
    let (code, output) = machine.verify(&["--all", temp_dir[0], temp_dir[1]]);
    assert_eq!((code, output.lines().count()), (0, listed.len()), "{output}");

    // One bit of one file of one partition, and only that one is not good.
    let rows = files(&machine.place).into_iter().filter(|path| path.to_string_lossy().contains("/room-2/files/"));
    let damaged = rows.max_by_key(|path| std::fs::metadata(path).expect("there").len()).expect("a file");
    let mut bytes = std::fs::read(&damaged).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&damaged, bytes).expect("writable");
    let (code, output) = machine.verify(&["--all", temp_dir[0], temp_dir[1]]);
    let bad: Vec<&str> = output.lines().filter(|line| line.contains("NOT GOOD")).collect();
    assert!(code == 4 && !bad.is_empty(), "{output}");
    assert!(bad.iter().all(|line| line.starts_with("room/2") && line.contains("other content")), "{output}");
    let (code, output) = machine.verify(&["--partition", "room/1", temp_dir[0], temp_dir[1]]);
    assert_eq!((code, output.lines().count()), (0, 1), "{output}");
    assert_eq!(std::fs::read_dir(&scratch).expect("there").count(), 0, "nothing is left behind");
    server.stop();

    let none = machine.data.with_file_name("nowhere");
    let (code, output) = run(["snapshot", "list", "--url", none.to_str().expect("UTF-8")]);
    assert!(code == 1 && output.contains("there is no folder") && !none.exists(), "{output}");
    let (code, output) = run(["snapshot", "verify"]);
    assert!(code == 3 && output.contains("snapshot.url"), "{output}");
}

#[test]
fn without_a_place_nothing_is_taken_and_nothing_trimmed() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path());
    for (arguments, said) in
        [(&["snapshot", "take", "--all"][..], "snapshot.url"), (&["log", "trim"], "no place for snapshots")]
    {
        let (code, output) = server.command(&[arguments, &["--query", &server.query]].concat());
        assert!(code == 1 && output.contains(said), "{arguments:?}: {output}");
    }
    server.stop();
}

#[test]
fn the_log_is_trimmed_behind_verified_snapshots_only() {
    let machine = Machine::new("every_s = 86400");
    let server = machine.start();
    let trim = |server: &Server| server.command(&["log", "trim", "--query", &server.query]);
    machine.play(&server, 1);
    server.drained();
    assert_eq!(take(&server).0, 0);
    assert!(machine.starts().iter().all(|start| *start == 0));

    // A damaged snapshot proves nothing.
    let damaged: Vec<(PathBuf, Vec<u8>)> = files(&machine.place)
        .into_iter()
        .filter(|path| path.to_string_lossy().contains("/room-1/files/"))
        .map(|path| (path.clone(), std::fs::read(path).expect("readable")))
        .collect();
    for (path, bytes) in &damaged {
        std::fs::write(path, &bytes[..bytes.len() / 2]).expect("writable");
    }
    let (code, output) = trim(&server);
    assert!(code == 1 && output.contains("cannot be used"), "{output}");
    assert!(machine.starts().iter().all(|start| *start == 0), "nothing was given up");
    for (path, bytes) in &damaged {
        std::fs::write(path, bytes).expect("writable");
    }

    // The first trim stands behind the oldest snapshots, those of the server's start; the second behind those of now.
    let before = machine.list().len();
    for _ in 0..2 {
        let (code, output) = trim(&server);
        assert_eq!((code, output.lines().count()), (0, PARTITIONS + 1), "{output}");
    }
    let starts = machine.starts();
    assert!(starts.iter().all(|start| *start > 0), "{starts:?}");
    assert_eq!(machine.list().len(), before);
    machine.play(&server, 2);
    let lived = hashes(&server.drained());
    let rebuilt = server.command(&["rebuild", "--all", "--query", &server.query]);
    assert!(rebuilt.0 == 1 && rebuilt.1.contains("a rebuild would lose what lay before it"), "{rebuilt:?}");

    // Later snapshots do not push out the ones that the log was trimmed behind.
    for seed in 3..7 {
        machine.play(&server, seed);
        server.drained();
        assert_eq!(take(&server).0, 0);
    }
    let kept = machine.list();
    let (code, output) = machine.verify(&["--all"]);
    assert_eq!((code, output.lines().count()), (0, kept.len()), "{output}");
    assert!(kept.len() == PARTITIONS * 4, "three, and the one the log was trimmed behind: {}", kept.len());

    // Killed, restarted, and restarted without its numbers: they are the same.
    let now = hashes(&server.drained());
    assert_ne!(now, lived);
    server.kill();
    let server = machine.start();
    let status = server.drained();
    assert_eq!(hashes(&status), now, "after kill -9");
    server.stop();
    std::fs::remove_dir_all(machine.data.join("state")).expect("there");
    let server = machine.start();
    assert_eq!(hashes(&server.drained()), now, "from snapshots and what is left of the log");
    server.stop();
    // Even when only the base is left that the log was trimmed behind.
    std::fs::remove_dir_all(machine.data.join("state")).expect("there");
    let marks: Vec<PathBuf> =
        files(&machine.place).into_iter().filter(|path| path.to_string_lossy().contains("/verified/")).collect();
    assert_eq!(marks.len(), PARTITIONS, "{marks:?}");
    for manifest in files(&machine.place).into_iter().filter(|path| path.to_string_lossy().contains("/manifests/")) {
        if !marks.iter().any(|mark| mark.file_name() == manifest.file_name()) {
            std::fs::remove_file(manifest).expect("removed");
        }
    }
    let server = machine.start();
    assert_eq!(hashes(&server.drained()), now, "from the base and what is left of the log");
    server.stop();
}

#[test]
fn a_log_that_is_trimmed_in_time_keeps_its_numbers() {
    let machine = Machine::new("every_s = 1\ntrim_log_every_s = 1");
    let server = machine.start();
    for seed in 1..3 {
        machine.play(&server, seed);
        server.drained();
    }
    wait_until("the log begins later", || machine.starts().iter().any(|start| *start > 0).then_some(()));
    let lived = hashes(&server.drained());
    let told = counted(&server);
    server.stop();
    std::fs::remove_dir_all(machine.data.join("state")).expect("there");
    let server = machine.start();
    assert_eq!(hashes(&server.drained()), lived);
    assert_eq!(counted(&server), told);
    server.stop();
    let clean = tempfile::tempdir().expect("a directory");
    // With the same rules: those that are shipped.
    let quiet = Server::start_with(clean.path(), &[]);
    for seed in 1..3 {
        machine.play(&quiet, seed);
    }
    quiet.drained();
    // Callbacks came in another order, which the bytes of rows may tell and no answer does.
    assert_eq!(counted(&quiet), told, "as a log that was never trimmed");
    quiet.stop();
}

#[test]
fn on_kafka_the_same_commands_work_through_any_process() {
    let broker = Broker::start(1);
    let dir = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::start(dir.path(), &broker.brokers(), &prefix(), (1, 2, 1));
    let evening = dir.path().join("evening.jsonl");
    let evening = evening.to_str().expect("UTF-8");
    assert_eq!(run(["simulate", "--preset", "small", "--out", evening]).0, 0);
    let key = ("BARRAGE_API_KEY", KEY);
    let (code, output) =
        run_with(["replay", evening, "--to", &cluster.balancer.url, "--query", cluster.query(), "--quiet"], &[key]);
    assert_eq!(code, 0, "{output}");
    let status = cluster.drained();

    // Every owner takes its own.
    let (code, output) = run_with(["snapshot", "take", "--all", "--query", cluster.query()], &[key]);
    assert_eq!((code, output.lines().count()), (0, PARTITIONS), "{output}");
    let place = dir.path().join("snapshots");
    let place = place.to_str().expect("UTF-8");
    let listed = json_lines(&["snapshot", "list", "--url", place, "--json"], &[]);
    for partition in status["partitions"].as_array().expect("partitions") {
        let name = format!("{}/{}", partition["topic"].as_str().expect("text"), partition["partition"]);
        let newest = listed.iter().find(|row| row["partition"] == name.as_str()).expect("there is one");
        assert_eq!(newest["state_hash"], partition["state_hash"], "{name}");
    }
    // A partition's owner goes on taking them every 2 s; those that are gone meanwhile are passed over.
    let (code, output) = run(["snapshot", "verify", "--url", place]);
    assert!(code == 0 && output.contains("  ok  "), "{output}");
    let (code, output) = run_with(["log", "trim", "--query", cluster.query()], &[key]);
    assert!(code == 1 && output.contains("in Kafka"), "{output}");

    // The log, as it is on the embedded one.
    let topic_prefix = ("BARRAGE_KAFKA_TOPIC_PREFIX", cluster.prefix.as_str());
    let brokers = broker.brokers();
    let log = |more: &[&str]| {
        let all: Vec<&str> = ["log", "--brokers", &brokers].iter().chain(more).copied().collect();
        run_with(all, &[topic_prefix])
    };
    let (code, first) = log(&["--partition", "room/0", "--limit", "1", "--json"]);
    let first: Json = serde_json::from_str(&first).expect("one object");
    assert_eq!((code, &first["position"], &first["command"]), (0, &"room/0@0".into(), &"Barrage.RulesApplied".into()));
    let (code, all) = log(&["--limit", "1000000"]);
    let ends = status["partitions"].as_array().expect("partitions").iter().map(|p| p["end"].as_u64().expect("known"));
    assert_eq!((code, all.lines().count() as u64), (0, ends.sum::<u64>()));
    let (_, five) = log(&["--partition", "user/1", "--from", "3", "--limit", "5"]);
    let places: Vec<&str> = five.lines().filter_map(|line| line.split("  ").next()).collect();
    assert_eq!(places, ["user/1@3", "user/1@4", "user/1@5", "user/1@6", "user/1@7"]);
    let (_, bodies) = log(&["--partition", "room/0", "--from", "1", "--limit", "3", "--json", "--body"]);
    assert!(bodies.lines().any(|line| line.contains("\"CallbackCommand\"")), "{bodies}");
    // Followed until enough has come.
    let (code, followed) = log(&["--partition", "room/0", "--from", "0", "--follow", "--limit", "2"]);
    assert_eq!((code, followed.lines().count()), (0, 2), "{followed}");
    // What is not there is not made.
    let (code, output) = run_with(["log", "--brokers", &brokers], &[("BARRAGE_KAFKA_TOPIC_PREFIX", "typo.")]);
    assert!(code == 1 && output.contains("typo.room") && output.contains("there is none"), "{output}");
    let (code, output) = log(&["--partition", "room/9"]);
    assert!(code == 1 && output.contains("has 4 partitions"), "{output}");

    // The ingest told of its spool.
    let spool = wait_until("the spool is told", || {
        let status = get(cluster.query(), "/v1/status").1;
        status["spool"].as_array().expect("a list").first().cloned()
    });
    assert_eq!((&spool["records"], &spool["failed"]), (&Json::from(0), &Json::from(false)), "{spool}");
    assert!(spool["told_at"].as_i64() > Some(0) && spool["name"].as_str().is_some_and(|name| name.len() == 16));
    cluster.stop();
}
