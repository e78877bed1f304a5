//! Three brokers of which one dies.

use std::time::Duration;

use crate::common::scene::{Scene, Setting};

/// Topics have three copies and `min.insync.replicas=2`: the loss of one broker loses nothing and stops nothing.
#[test]
fn one_of_three_brokers_dies_under_load_and_comes_back() {
    let mut scene = Scene::start(&Setting { seed: 8, nodes: 3, ..Setting::default() });
    // A broker's start costs seconds of both cores: each in turn only where there is time.
    let nodes = if std::env::var_os("TORTURE").is_some() { 3 } else { 1 };
    let share = scene.total / 4;
    for node in 1..=nodes {
        let sent = scene.send_through(share, share as u64 / 4, |_, broker| {
            broker.kill(node);
            // As long as it takes the others to notice, and to elect leaders.
            std::thread::sleep(Duration::from_secs(4));
            broker.restart(node);
        });
        println!("node {node}: {} in flight, {} refused {:?}", sent.in_flight, sent.open, sent.refusals);
    }
    scene.end();
}
