//! Three brokers of which one dies, or stands still until others have taken its place.

use barrage_kafka_fixture::Broker;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::common::scene::{Scene, Setting};
use crate::common::wait_until;

/// Partitions under a prefix that a node leads, as the other nodes say.
fn led_by(node: usize, broker: &Broker, prefix: &str) -> usize {
    let all = broker.brokers();
    let others: Vec<&str> = all.split(',').zip(1..).filter(|(_, n)| *n != node).map(|(address, _)| address).collect();
    // A new client each time: one that knows all nodes may ask the very one.
    let client: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", others.join(",")).create().expect("a client");
    let metadata = client.fetch_metadata(None, std::time::Duration::from_secs(30)).expect("the others answer");
    let topics = metadata.topics().iter().filter(|topic| topic.name().starts_with(prefix));
    let leaders = topics.flat_map(|topic| topic.partitions()).map(|partition| partition.leader());
    leaders.filter(|leader| usize::try_from(*leader) == Ok(node)).count()
}

/// Topics have three copies and `min.insync.replicas=2`: the loss of one broker loses nothing and stops nothing.
#[test]
fn one_of_three_brokers_dies_under_load_and_comes_back() {
    let mut scene = Scene::start(&Setting { seed: 8, nodes: 3, ..Setting::default() });
    // A broker's start costs seconds of both cores: each in turn only where there is time.
    let nodes = if std::env::var_os("TORTURE").is_some() { 3 } else { 1 };
    let share = scene.total / 4;
    for node in 1..=nodes {
        let sent = scene.send_through(share, share as u64 / 4, |cluster, broker| {
            broker.kill(node);
            wait_until("others lead what it led", || (led_by(node, broker, &cluster.prefix) == 0).then_some(()));
            broker.restart(node);
        });
        println!("node {node}: {} in flight, {} refused {:?}", sent.in_flight, sent.open, sent.refusals);
        assert!(sent.in_flight > 0, "no request was in flight");
    }
    scene.end();
}

/// A leader that stands still past its session has been replaced when it goes on, and does not know: what it takes then,
/// or had taken and not shared, must not count.
#[test]
fn a_broker_that_was_replaced_while_it_stood_still_wakes_up_under_load() {
    let mut scene = Scene::start(&Setting { seed: 13, nodes: 3, ..Setting::default() });
    let rounds = if std::env::var_os("TORTURE").is_some() { 3 } else { 1 };
    let share = scene.total / 4;
    for node in 1..=rounds {
        let sent = scene.send_through(share, share as u64 / 4, |cluster, broker| {
            let led = || led_by(node, broker, &cluster.prefix);
            let before = led();
            assert!(before > 0, "node {node} leads nothing, so nobody will miss it");
            broker.halt(node);
            wait_until("others lead what it led", || (led() == 0).then_some(()));
            broker.resume(node);
            println!("node {node} led {before} partitions, and was replaced while it stood still");
        });
        println!("node {node}: {} in flight, {} refused {:?}", sent.in_flight, sent.open, sent.refusals);
        assert!(sent.in_flight > 0, "no request was in flight");
    }
    scene.end();
}
