//! The same on Kafka: real brokers, several real processes, and everything that happens to them.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use barrage_kafka_fixture::{Broker, prefix};
use barrage_recordings::{Recording, skipped};
use common::cluster::{Cluster, KEY, Own, SESSION_MS};
use common::scene::{Scene, Setting, alone, assert_same, evening};
use common::{Dice, Server, all_reads, differences_at, reads_of};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use serde_json::Value as Json;

fn play(cluster: &Cluster, file: &str) {
    let (code, output) = common::run_with(
        ["replay", file, "--to", &cluster.balancer.url, "--query", cluster.query(), "--quiet"],
        &[("BARRAGE_API_KEY", KEY)],
    );
    assert_eq!(code, 0, "{output}");
}

/// Notifications in the topic by id, and how often each is there.
fn notified_on_kafka(broker: &Broker, prefix: &str) -> BTreeMap<String, usize> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker.brokers()).set("group.id", format!("{prefix}listener"));
    let client: BaseConsumer = config.create().expect("a client");
    let (topic, patience) = (format!("{prefix}notifications"), Duration::from_secs(30));
    let metadata = client.fetch_metadata(Some(&topic), patience).expect("the topic is there");
    let mut left = 0;
    let mut all = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        let (low, high) = client.fetch_watermarks(&topic, partition.id(), patience).expect("it has bounds");
        left += high - low;
        all.add_partition_offset(&topic, partition.id(), Offset::Beginning).expect("an offset");
    }
    client.assign(&all).expect("assigned");
    let mut ids = BTreeMap::new();
    while left > 0 {
        let message = client.poll(patience).expect("the rest of the messages").expect("a message");
        let id = String::from_utf8(message.key().expect("the id is the key").to_vec()).expect("UTF-8");
        let text: serde_json::Value = serde_json::from_slice(message.payload().expect("a text")).expect("JSON");
        assert_eq!(text["id"], id.as_str());
        *ids.entry(id).or_insert(0) += 1;
        left -= 1;
    }
    ids
}

/// Levels among notified ids: what was notified of a room's count depends on which counts the room passed through.
fn levels<'a>(ids: impl IntoIterator<Item = &'a String>) -> BTreeSet<&'a str> {
    ids.into_iter().map(String::as_str).filter(|id| id.starts_with("level_reached/")).collect()
}

/// Whoever listens on Kafka is told what the file of one process says, where partitions move more than once, and nothing
/// more by a rebuild. Gives how many levels that are.
fn same_notifications(cluster: &Cluster, broker: &Broker, alone: &Path, seed: u64) -> usize {
    let told = notified_on_kafka(broker, &cluster.prefix);
    let file = std::fs::read_to_string(alone.join("notifications/notifications.jsonl")).expect("notifications");
    let line = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["id"].clone();
    let own: Vec<String> = file.lines().map(|text| line(text).as_str().expect("an id").to_owned()).collect();
    assert_eq!(levels(told.keys()), levels(&own), "seed {seed}");
    let (exit, output) =
        common::run_with(["rebuild", "--all", "--query", cluster.query()], &[("BARRAGE_API_KEY", KEY)]);
    assert_eq!(exit, 0, "{output}");
    cluster.drained();
    assert_eq!(notified_on_kafka(broker, &cluster.prefix), told, "seed {seed}: a rebuild tells nobody");
    levels(&own).len()
}

#[test]
fn ten_evenings_give_the_same_answers_in_one_process_and_in_seven() {
    let _alone = alone();
    let broker = Broker::start(1);
    let mut levels = 0;
    for seed in 1..=10 {
        let mut dir = tempfile::tempdir().expect("a directory");
        dir.disable_cleanup(std::env::var_os("BARRAGE_KEEP").is_some());
        let (recording, truth) = evening(dir.path(), seed, "small");
        let cluster = Cluster::start(dir.path(), &broker.brokers(), &prefix(), (2, 3, 2));
        play(&cluster, recording.to_str().expect("UTF-8"));
        cluster.drained();
        let alone = Server::start(&dir.path().join("alone"));
        alone.replay(&recording);
        alone.drained();
        let expected = all_reads(&alone.query, &truth);
        for query in &cluster.queries {
            let query = query.query.as_deref().expect("a query process");
            let found = differences_at(query, &truth, true);
            assert!(found.is_empty(), "seed {seed}: {} differences from the truth: {:#?}", found.len(), found.first());
            assert_same(&expected, &all_reads(query, &truth), &format!("seed {seed}"));
        }
        if seed <= 2 {
            levels += same_notifications(&cluster, &broker, &alone.dir, seed);
        }
        alone.stop();
        cluster.stop();
    }
    assert!(levels > 0, "nobody reached a level");
}

#[test]
fn recorded_rooms_are_counted_on_kafka_as_they_were() {
    if std::env::var_os("TORTURE").is_none() {
        skipped("recorded rooms on Kafka: they take minutes and are part of `make torture`");
        return;
    }
    let _alone = alone();
    let broker = Broker::start(1);
    for name in ["burst", "rejoin", "developer"] {
        let Some(recording) = Recording::find(name, "all, on Kafka,") else { return };
        let expected: Json = serde_json::from_str(&recording.expected()).expect("JSON");
        let file = recording.file();
        let dir = tempfile::tempdir().expect("a directory");
        // The shipped rules: gifts are counted from messages, as a recording has no bills. But minutes of a recording pass in a
        // second, so what the spool holds up for a moment on a busy machine is not to be too late. And patience, as the
        // cluster has.
        let shipped = dir.path().join("shipped.toml");
        let patience = "[ingest]\nappend_budget_ms = 30000\n";
        let windows = "[rules.windows]\nlateness_ms = 3600000\njoin_late_ms = 3600000\n";
        std::fs::write(&shipped, [patience, windows].concat()).expect("writable");
        let own = |_: &str, _| Own::default().with("BARRAGE_CONFIG", shipped.display());
        let cluster = Cluster::start_with(dir.path(), &broker.brokers(), &prefix(), (2, 3, 2), &own);
        play(&cluster, file.to_str().expect("UTF-8"));
        cluster.drained();
        let alone = Server::start_with(&dir.path().join("alone"), &["--config", shipped.to_str().expect("UTF-8")]);
        alone.replay(&file);
        alone.drained();
        // Of the answers about users, which are counted one by one below, every seventh is compared in full.
        let reads = reads_of(&alone.query, &expected, 7);
        for query in &cluster.queries {
            let query = query.query.as_deref().expect("a query process");
            let found = differences_at(query, &expected, false);
            assert!(found.is_empty(), "{name}: {} differences, the first: {:#?}", found.len(), found.first());
            assert_same(&reads, &reads_of(query, &expected, 7), name);
        }
        alone.stop();
        cluster.stop();
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
    let (ingest, projector) = (dice.place(cluster.ingests.len()), dice.place(cluster.projectors.len()));
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
            let query = dice.place(cluster.queries.len());
            cluster.queries[query].kill();
            cluster.queries[query].restart();
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
            // The load may have nothing left for this ingest: then this is what its spool takes.
            let (status, reply) = cluster.ingests[ingest].quiet_callback();
            assert_eq!(status, 200, "{reply}");
            // What was spooled may be in the producer's hands already; its partition counts as leaving the spool then.
            common::wait_until("the spool takes over", || {
                (cluster.ingests[ingest].metric("barrage_spool_waiting_records") > 0.0).then_some(())
            });
            cluster.ingests[ingest].kill();
            // It starts without the cluster, takes callbacks, and drains what its predecessor left.
            cluster.ingests[ingest].restart();
            broker.resume(1);
        }
    }
    cluster.balance();
}

#[test]
fn whatever_fails_nothing_answered_is_lost_and_nothing_counts_twice() {
    let rounds: usize = std::env::var("TORTURE").ok().and_then(|t| t.parse().ok()).unwrap_or(20);
    let seed: u64 = std::env::var("SEED").ok().and_then(|t| t.parse().ok()).unwrap_or(11);
    println!("{rounds} faults, seeds {seed} to {}", seed + rounds as u64 - 1);
    let mut scene = Scene::start(&Setting { preset: "default", counts: (2, 3, 2), ..Setting::default() });
    let share = scene.total.div_ceil(rounds + 1);
    let (mut again, mut flying) = (0, 0);
    for round in 0..rounds {
        let mut dice = Dice((seed + round as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        // Every kind comes, then chance decides.
        let fault = FAULTS.get(round).copied().unwrap_or_else(|| FAULTS[dice.place(FAULTS.len())]);
        again += scene.open.len();
        let sent = scene.open.len() + scene.left().min(share);
        let after = 1 + dice.below(sent as u64 / 2);
        let begun = std::time::Instant::now();
        let sent = scene.send_through(share, after, |cluster, broker| happen(fault, cluster, broker, &mut dice));
        let seconds = begun.elapsed().as_secs_f64();
        assert!(sent.in_flight > 0, "no request was in flight");
        flying += sent.in_flight;
        // Of many faults every fifth is judged by itself, too: each time all records so far are read and applied anew.
        let judged = rounds <= 20 || round % 5 == 4;
        if judged {
            scene.judge(20);
        }
        println!(
            "seed {}: {fault:?} after {after} answers, {} in flight, {} unanswered {:?}, {seconds:.1} s{}",
            seed + round as u64,
            sent.in_flight,
            sent.open,
            sent.refusals,
            if judged { format!(", judged after {:.1} s", begun.elapsed().as_secs_f64()) } else { String::new() }
        );
    }
    println!("{again} lines sent again; {flying} in flight at the faults");
    scene.end();
}
