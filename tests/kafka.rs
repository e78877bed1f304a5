//! The same on Kafka: real brokers, several real processes, and everything that happens to them.

mod common;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use barrage_event::{EnvelopeView, Offset};
use barrage_kafka_fixture::{Broker, prefix};
use barrage_log::{EventLog as _, KafkaLog, KafkaMetrics, KafkaOptions};
use barrage_replay::{Line, LineKind, Options, Progress, Recording, Stop, Target, read_ledger, replay};
use common::cluster::{Cluster, KEY, SESSION_MS};
use common::{Server, all_reads, differences_at, hashes, run};
use serde_json::Value as Json;

/// One test at a time: each is a broker and seven processes, and three of them starve each other on two cores.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes an evening: its file and its truth.
fn evening(dir: &Path, seed: u64, preset: &str) -> (String, Json) {
    let path = |name: &str| dir.join(name).to_str().expect("UTF-8").to_owned();
    let (recording, truth) = (path(&format!("evening-{seed}.jsonl")), path(&format!("truth-{seed}.json")));
    let seed = seed.to_string();
    let (code, output) =
        run(["simulate", "--seed", &seed, "--preset", preset, "--out", &recording, "--expected", &truth]);
    assert_eq!(code, 0, "{output}");
    let truth = serde_json::from_str(&std::fs::read_to_string(&truth).expect("written")).expect("JSON");
    (recording, truth)
}

fn play(cluster: &Cluster, file: &str) {
    let (code, output) = common::run_with(
        ["replay", file, "--to", &cluster.balancer.url, "--query", cluster.query(), "--quiet"],
        &[("BARRAGE_API_KEY", KEY)],
    );
    assert_eq!(code, 0, "{output}");
}

#[test]
fn ten_evenings_give_the_same_answers_in_one_process_and_in_seven() {
    let _alone = alone();
    let broker = Broker::start(1);
    for seed in 1..=10 {
        let dir = tempfile::tempdir().expect("a directory");
        let (recording, truth) = evening(dir.path(), seed, "small");
        let cluster = Cluster::start(dir.path(), &broker.brokers(), &prefix(), (2, 3, 2));
        play(&cluster, &recording);
        cluster.drained();
        let alone = Server::start(&dir.path().join("alone"));
        alone.replay(recording.as_ref());
        alone.drained();
        let expected = all_reads(&alone.query, &truth);
        for query in &cluster.queries {
            let query = query.query.as_deref().expect("a query process");
            let found = differences_at(query, &truth, true);
            assert!(found.is_empty(), "seed {seed}: {} differences from the truth: {:#?}", found.len(), found.first());
            assert_same(&expected, &all_reads(query, &truth), &format!("seed {seed}"));
        }
        alone.stop();
        cluster.stop();
    }
}

#[test]
fn recorded_rooms_are_counted_on_kafka_as_they_were() {
    let Some(folder) = std::env::var_os("BARRAGE_RECORDINGS") else {
        println!("SKIPPED: BARRAGE_RECORDINGS names no folder of recorded rooms");
        return;
    };
    if std::env::var_os("TORTURE").is_none() {
        println!("SKIPPED: recorded rooms on Kafka take minutes and are part of `make torture`");
        return;
    }
    let _alone = alone();
    let broker = Broker::start(1);
    for name in ["burst", "rejoin", "developer"] {
        let dir = tempfile::tempdir().expect("a directory");
        let file = Path::new(&folder).join(name);
        let (recording, expected) = common::recording_in(&file);
        let cluster = Cluster::start(dir.path(), &broker.brokers(), &prefix(), (2, 3, 2));
        play(&cluster, recording.to_str().expect("UTF-8"));
        cluster.drained();
        let found = differences_at(cluster.query(), &expected, false);
        assert!(found.is_empty(), "{name}: {} differences, the first: {:#?}", found.len(), found.first());
        cluster.stop();
    }
}

fn assert_same(expected: &BTreeMap<String, Json>, found: &BTreeMap<String, Json>, what: &str) {
    let differing: Vec<_> = expected.iter().filter(|(path, answer)| found.get(*path) != Some(*answer)).collect();
    if let Some((path, answer)) = differing.first() {
        panic!("{what}: {} answers differ, the first: {path}: {answer}, but {:?}", differing.len(), found.get(*path));
    }
}

/// A small generator of its own: what happens, to whom, and when.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(n).expect("small")).expect("small")
    }
}

/// What happens in the middle of the load. Each fault is over when it returns; the load goes on meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    IngestKilled,
    ProjectorKilled,
    QueryKilled,
    ProjectorLeaves,
    /// Frozen past its session: it wakes up as a zombie.
    ProjectorFrozen,
    BrokerFrozen,
    BrokerKilled,
    /// An ingest dies while its spool holds what the broker does not take.
    IngestKilledWhileSpooling,
}

const FAULTS: [Fault; 8] = [
    Fault::IngestKilled,
    Fault::ProjectorKilled,
    Fault::QueryKilled,
    Fault::ProjectorLeaves,
    Fault::ProjectorFrozen,
    Fault::BrokerFrozen,
    Fault::BrokerKilled,
    Fault::IngestKilledWhileSpooling,
];

fn happen(fault: Fault, cluster: &mut Cluster, broker: &Broker, dice: &mut Dice) {
    // Longer than the log may take before the spool takes over.
    let outage = Duration::from_millis(1_500);
    let (ingest, projector) = (dice.below(cluster.ingests.len()), dice.below(cluster.projectors.len()));
    match fault {
        Fault::IngestKilled => {
            cluster.ingests[ingest].kill();
            cluster.ingests[ingest].restart();
        }
        Fault::ProjectorKilled => {
            cluster.projectors[projector].kill();
            cluster.projectors[projector].restart();
        }
        Fault::QueryKilled => {
            cluster.queries[0].kill();
            cluster.queries[0].restart();
        }
        Fault::ProjectorLeaves => {
            cluster.projectors[projector].stop();
            cluster.projectors[projector].restart();
        }
        Fault::ProjectorFrozen => {
            cluster.projectors[projector].freeze();
            std::thread::sleep(Duration::from_millis(SESSION_MS + 1_000));
            cluster.projectors[projector].thaw();
        }
        Fault::BrokerFrozen => {
            broker.halt(1);
            std::thread::sleep(outage);
            broker.resume(1);
        }
        Fault::BrokerKilled => {
            broker.kill(1);
            std::thread::sleep(outage);
            broker.restart(1);
        }
        Fault::IngestKilledWhileSpooling => {
            broker.halt(1);
            common::wait_until("the spool takes over", || {
                (cluster.ingests[ingest].metric("barrage_spool_partitions") > 0.0).then_some(())
            });
            cluster.ingests[ingest].kill();
            // It starts without the cluster, takes callbacks, and drains what its predecessor left.
            cluster.ingests[ingest].restart();
            broker.resume(1);
        }
    }
    cluster.balance();
}

fn body(line: &Line) -> &[u8] {
    match &line.kind {
        LineKind::Callback { body, .. } | LineKind::Event { body } | LineKind::Request { body, .. } => body,
    }
}

/// Sends lines while a fault happens after `after` answers; returns those answered OK and those that were not.
fn send_through(
    lines: Vec<Line>,
    cluster: &mut Cluster,
    after: u64,
    dir: &Path,
    fault: impl FnOnce(&mut Cluster) + Send,
) -> (Vec<Line>, Vec<Line>, u64) {
    let ledger_file = dir.join("ledger.jsonl");
    let ledger = barrage_replay::Ledger::create(&ledger_file).expect("a ledger");
    let target = Target::new(&cluster.balancer.url).and_then(|t| t.with_key(KEY)).expect("our own address");
    let options = Options { check_stream_time: false, answer_within: Duration::from_secs(60), ..Options::default() };
    let (progress, stop) = (Progress::new(), Stop::new());
    let in_flight = AtomicU64::new(0);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
    std::thread::scope(|scope| {
        let (seen, flying) = (Arc::clone(&progress), &in_flight);
        let fault = scope.spawn(move || {
            common::wait_until("the load has begun", || (seen.snapshot().answered() >= after).then_some(()));
            let now = seen.snapshot();
            flying.store(now.in_flight, Ordering::SeqCst);
            fault(cluster);
        });
        runtime.block_on(async {
            let sent = lines.iter().cloned().map(Ok);
            // What is not answered is what this is about.
            let _ = replay(sent, &target, &options, progress, &stop, Some(ledger)).await;
        });
        fault.join().expect("the fault is over");
    });
    let mut ok = vec![false; lines.len()];
    for entry in read_ledger(&ledger_file).expect("our own ledger") {
        if let Some(slot) = usize::try_from(entry.line).ok().and_then(|line| ok.get_mut(line)) {
            *slot = entry.is_ok();
        }
    }
    let (mut answered, mut open) = (Vec::new(), Vec::new());
    for (line, ok) in lines.into_iter().zip(ok) {
        if ok { answered.push(line) } else { open.push(line) }
    }
    (answered, open, in_flight.into_inner())
}

#[test]
fn whatever_fails_nothing_answered_is_lost_and_nothing_counts_twice() {
    let rounds: usize = std::env::var("TORTURE").ok().and_then(|t| t.parse().ok()).unwrap_or(20);
    let seed: u64 = std::env::var("SEED").ok().and_then(|t| t.parse().ok()).unwrap_or(11);
    let _alone = alone();
    println!("{rounds} faults, seeds {seed} to {}", seed + rounds as u64 - 1);
    let dir = tempfile::tempdir().expect("a directory");
    let (recording, truth) = evening(dir.path(), 7, "default");
    let lines: Vec<Line> =
        Recording::open(&recording).expect("ours").collect::<Result<_, _>>().expect("our own recording");
    let total = lines.len();
    let share = total.div_ceil(rounds + 1);

    let broker = Broker::start(1);
    let mut cluster = Cluster::start(dir.path(), &broker.brokers(), &prefix(), (2, 3, 2));
    let mut rest = lines.into_iter();
    let (mut answered, mut open) = (Vec::new(), Vec::new());
    let (mut again, mut flying) = (0, 0);
    for round in 0..rounds {
        let mut dice = Dice((seed + round as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        // Every kind comes, then chance decides.
        let fault = FAULTS.get(round).copied().unwrap_or_else(|| FAULTS[dice.below(FAULTS.len())]);
        let mut chunk: Vec<Line> = std::mem::take(&mut open);
        again += chunk.len();
        chunk.extend(rest.by_ref().take(share));
        let after = u64::try_from(dice.below(chunk.len() / 2) + 1).expect("small");
        let begun = std::time::Instant::now();
        let (ok, failed, in_flight) =
            send_through(chunk, &mut cluster, after, dir.path(), |cluster| happen(fault, cluster, &broker, &mut dice));
        println!(
            "seed {}: {fault:?} after {after} answers, {in_flight} in flight, {} unanswered, {:.1} s",
            seed + round as u64,
            failed.len(),
            begun.elapsed().as_secs_f64()
        );
        flying += in_flight;
        answered.extend(ok);
        open = failed;
    }
    let mut last: Vec<Line> = open;
    last.extend(rest);
    while !last.is_empty() {
        let (ok, failed, _) = send_through(last, &mut cluster, 1, dir.path(), |_| ());
        answered.extend(ok);
        assert!(failed.len() < total / 10, "{} lines are refused by living servers", failed.len());
        last = failed;
    }
    println!("{} lines answered, {again} of them sent again; {flying} in flight at the faults", answered.len());
    assert!(flying > 0, "no request was in flight at any fault");

    let status = cluster.drained();
    // Everything that was answered OK is in the log.
    let in_log = bodies(&broker, &cluster.prefix);
    let mut wanted: BTreeMap<&[u8], u64> = BTreeMap::new();
    for line in &answered {
        *wanted.entry(body(line)).or_insert(0) += 1;
    }
    let missing = wanted.iter().filter(|(body, n)| in_log.get(**body).is_none_or(|found| found < n)).count();
    assert_eq!(missing, 0, "of {} answered lines", answered.len());

    // The answers are those of one process that nothing happened to.
    let quiet = Server::start(&dir.path().join("quiet"));
    quiet.replay(recording.as_ref());
    quiet.drained();
    let expected = all_reads(&quiet.query, &truth);
    assert_same(&expected, &all_reads(cluster.query(), &truth), "after the faults");
    quiet.stop();

    // The state that lived through it is that of a clean replay of the same log.
    let (brokers, prefix) = (broker.brokers(), cluster.prefix.clone());
    cluster.stop();
    let clean = Cluster::start(&dir.path().join("clean"), &brokers, &prefix, (0, 1, 1));
    let replayed = hashes(&clean.drained());
    assert_eq!(replayed, hashes(&status), "the state differs from that of a clean replay");
    clean.stop();
}

/// How often each body lies in the log.
fn bodies(broker: &Broker, prefix: &str) -> BTreeMap<Vec<u8>, u64> {
    let options =
        KafkaOptions { brokers: broker.brokers(), topic_prefix: prefix.to_owned(), ..partitions_of_the_test() };
    let log = KafkaLog::open(&options, KafkaMetrics::default()).expect("the log of the test");
    let mut counts = BTreeMap::new();
    for partition in log.all_partitions() {
        let end = log.end(partition);
        let mut from = Offset(0);
        while from < end {
            from = log
                .read(partition, from, 1 << 20, &mut |record| {
                    let view = EnvelopeView::decode(record.bytes).expect("what ingest wrote");
                    if !view.body.is_empty() {
                        *counts.entry(view.body.to_vec()).or_insert(0) += 1;
                    }
                    ControlFlow::Continue(())
                })
                .expect("readable");
        }
    }
    counts
}

fn partitions_of_the_test() -> KafkaOptions {
    KafkaOptions { room_partitions: 4, user_partitions: 4, ..KafkaOptions::default() }
}
