//! kill -9 at random points of a load: what was answered OK is in the log, and the numbers are those of a run without.

mod common;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use barrage_event::{EnvelopeView, Partition, Topic};
use barrage_log::LogReader;
use barrage_projection::Reader as _;
use barrage_replay::{Line, Options, Progress, Recording, Stop, Target, read_ledger, replay};
use barrage_state::{PartitionDir, Store};
use common::scene::body;
use common::{Dice, Server, all_reads, hashes, run};
use serde_json::Value as Json;

/// Seed of the evening and of the moments of death; printed, so that a failure can be had again.
const SEED: u64 = 7;

fn target(server: &Server) -> Target {
    Target::new(&server.callback)
        .and_then(|t| t.with_query(&server.query))
        .and_then(|t| t.with_key(&server.key()))
        .expect("our own addresses")
}

/// Sends lines until they are over or the server dies; returns those that were answered OK, those that were not, and
/// how many of these were sent and waited for their answer.
fn send(
    server: &Server,
    lines: Vec<Line>,
    kill_after: Option<u64>,
    dir: &Path,
    dead: &mut bool,
) -> (Vec<Line>, Vec<Line>, u64) {
    let ledger_file = dir.join("ledger.jsonl");
    let ledger = barrage_replay::Ledger::create(&ledger_file).expect("a ledger");
    let (target, progress, stop) = (target(server), Progress::new(), Stop::new());
    let options = Options { check_stream_time: false, answer_within: Duration::from_secs(60), ..Options::default() };
    let pid = server.pid();
    let killer = Arc::clone(&progress);
    let killed = Arc::new(AtomicBool::new(false));
    let kills = Arc::clone(&killed);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
    runtime.block_on(async {
        let stopper = stop.clone();
        let watch = tokio::spawn(async move {
            let Some(after) = kill_after else { return };
            // The moment is a number of answers, not a time: the same on a fast and a slow machine.
            while killer.snapshot().answered() < after {
                tokio::task::yield_now().await;
            }
            kills.store(true, Ordering::SeqCst);
            let _ = std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).status();
            stopper.stop();
        });
        let sent = lines.iter().cloned().map(Ok);
        // Lines that fail with the server are what this is about.
        let _ = replay(sent, &target, &options, progress, &stop, Some(ledger)).await;
        // The last answer may have been the one that it waited for: it is stopped, or has killed to the end.
        watch.abort();
        let _ = watch.await;
        *dead = killed.load(Ordering::SeqCst);
    });
    let mut ok = vec![false; lines.len()];
    let mut unknown = 0;
    for entry in read_ledger(&ledger_file).expect("our own ledger") {
        if let Some(slot) = usize::try_from(entry.line).ok().and_then(|line| ok.get_mut(line)) {
            *slot = entry.is_ok();
            unknown += u64::from(entry.outcome == "unknown");
        }
    }
    let (mut answered, mut open) = (Vec::new(), Vec::new());
    for (line, ok) in lines.into_iter().zip(ok) {
        if ok { answered.push(line) } else { open.push(line) }
    }
    (answered, open, unknown)
}

/// How often each body lies in the log.
fn bodies(log: &Path) -> BTreeMap<Vec<u8>, u64> {
    let mut counts = BTreeMap::new();
    LogReader::open(log)
        .expect("a log")
        .read_all(&mut |_, record| {
            let view = EnvelopeView::decode(record.bytes).expect("what ingest wrote");
            if !view.body.is_empty() {
                *counts.entry(view.body.to_vec()).or_insert(0) += 1;
            }
            ControlFlow::Continue(())
        })
        .expect("an undamaged log");
    counts
}

#[test]
fn crash_after_crash_loses_nothing_and_counts_nothing_twice() {
    let rounds: u64 = std::env::var("TORTURE").ok().and_then(|t| t.parse().ok()).unwrap_or(20);
    println!("{rounds} kills, seed {SEED}");
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_owned();
    let (recording, truth) = (path("evening.jsonl"), path("truth.json"));
    let seed = SEED.to_string();
    let (code, output) =
        run(["simulate", "--seed", &seed, "--preset", "default", "--out", &recording, "--expected", &truth]);
    assert_eq!(code, 0, "{output}");
    let truth: Json = serde_json::from_str(&std::fs::read_to_string(&truth).expect("written")).expect("JSON");
    let mut rest: Vec<Line> =
        Recording::open(&recording).expect("ours").collect::<Result<_, _>>().expect("our own recording");
    let total = rest.len();

    let data = dir.path().join("data");
    let mut dice = Dice(SEED);
    let mut answered = Vec::new();
    let (mut kills, mut in_flight) = (0, 0);
    while !rest.is_empty() {
        let server = Server::start(&data);
        // Somewhere in this round's share of what is left, so that the lines last for every kill.
        let kill_after = (kills < rounds).then(|| {
            let share = u64::try_from(rest.len()).expect("small") / (rounds - kills + 1);
            1 + dice.below(share.max(2))
        });
        let mut dead = false;
        let (ok, open, unknown) = send(&server, rest, kill_after, dir.path(), &mut dead);
        in_flight += unknown;
        answered.extend(ok);
        rest = open;
        if dead {
            kills += 1;
            server.kill();
        } else if rest.is_empty() {
            server.stop();
        } else {
            panic!("{} lines were refused by a living server", rest.len());
        }
    }
    println!("{kills} kills over {total} lines, {in_flight} requests in flight at them");
    assert_eq!(kills, rounds, "the evening was over before the last kill");
    assert!(in_flight >= kills, "{in_flight} requests were in flight at {kills} kills");

    // Everything that was answered OK is in the log.
    let in_log = bodies(&data.join("log"));
    let mut wanted: BTreeMap<&[u8], u64> = BTreeMap::new();
    for line in &answered {
        *wanted.entry(body(line)).or_insert(0) += 1;
    }
    let missing = wanted.iter().filter(|(body, n)| in_log.get(**body).is_none_or(|found| found < n)).count();
    assert_eq!(missing, 0, "of {} answered lines", answered.len());

    // The state that lived through it is the state of a clean replay of the same log.
    let lived = Server::start(&data);
    let status = lived.drained();
    let reads = all_reads(&lived.query, &truth);
    lived.stop();
    let clean = dir.path().join("clean");
    copy(&data.join("log"), &clean.join("log"));
    // The journal of the rules too: without it, a start would append them anew.
    copy(&data, &clean);
    copy(&data.join("rules"), &clean.join("rules"));
    let replayed = Server::start(&clean);
    let replayed_hashes = hashes(&replayed.drained());
    replayed.stop();
    if replayed_hashes != hashes(&status) {
        panic!("the state differs from that of a clean replay:\n{}", differing_rows(&data, &clean));
    }

    // And the answers are those of a run that nothing happened to.
    let quiet = Server::start(&dir.path().join("quiet"));
    quiet.replay(recording.as_ref());
    quiet.drained();
    let expected = all_reads(&quiet.query, &truth);
    let differing: Vec<_> =
        expected.iter().filter(|(path, answer)| reads.get(*path) != Some(*answer)).map(|(path, _)| path).collect();
    assert!(
        differing.is_empty(),
        "{} answers differ, the first: {:?}",
        differing.len(),
        first(&differing, &expected, &reads)
    );
    quiet.stop();
}

fn first<'a>(
    differing: &[&'a String],
    expected: &'a BTreeMap<String, Json>,
    found: &'a BTreeMap<String, Json>,
) -> Option<(&'a String, &'a Json, Option<&'a Json>)> {
    differing.first().map(|path| (*path, &expected[*path], found.get(*path)))
}

/// The first rows that two stores do not have in common, for the message of a failure.
fn differing_rows(lived: &Path, clean: &Path) -> String {
    let rows = |data: &Path, partition: Partition| -> BTreeMap<Vec<u8>, Vec<u8>> {
        let dir = PartitionDir::new(&data.join("state"), partition).current().expect("readable").expect("a store");
        let mut rows = BTreeMap::new();
        Store::open_read_only(&dir.path)
            .expect("closed by its server")
            .read(|snapshot| {
                snapshot.scan_rows(&[], None, &mut |row, value| {
                    rows.insert(row.to_vec(), value.to_vec());
                    Ok(ControlFlow::Continue(()))
                })
            })
            .expect("readable")
            .expect("readable");
        rows
    };
    let mut text = String::new();
    for partition in Topic::ALL.into_iter().flat_map(|topic| (0..4).map(move |index| Partition { topic, index })) {
        let (lived, clean) = (rows(lived, partition), rows(clean, partition));
        let keys: std::collections::BTreeSet<_> = lived.keys().chain(clean.keys()).collect();
        for key in keys.into_iter().filter(|key| lived.get(*key) != clean.get(*key)).take(5) {
            text +=
                &format!("{partition} row {key:02x?}: lived {:02x?}, clean {:02x?}\n", lived.get(key), clean.get(key));
        }
    }
    text
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("readable");
        if entry.file_type().expect("readable").is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
        }
    }
}
