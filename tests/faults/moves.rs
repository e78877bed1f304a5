//! Numbers are made anew beside live traffic, and partitions begin on an empty disk.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::cluster::{KEY, Own};
use crate::common::reads::Reads;
use crate::common::run_with;
use crate::common::scene::{Scene, Setting};
use crate::common::wait_until;

#[test]
fn a_rebuild_beside_live_traffic_gives_the_numbers_that_were_live() {
    let mut scene = Scene::start(&Setting { seed: 10, ..Setting::default() });
    let half = scene.total / 2;
    scene.send(half);
    let (query, rooms) = (scene.cluster.query().to_owned(), scene.rooms());
    let stop = AtomicBool::new(false);
    let reads = std::thread::scope(|scope| {
        let reader = scope.spawn(|| Reads::default().all_until(&query, &rooms, &stop));
        let sent = scene.send_through(half / 2, half as u64 / 8, |cluster, _| {
            let (exit, output) =
                run_with(["rebuild", "--all", "--query", cluster.query()], &[("BARRAGE_API_KEY", KEY)]);
            println!("{output}");
            assert_eq!(exit, 0, "{output}");
            assert_eq!(output.matches("the same numbers as before").count(), 8, "{output}");
        });
        println!("{} refused {:?}", sent.open, sent.refusals);
        stop.store(true, Ordering::Release);
        reader.join().expect("right or unavailable")
    });
    println!("meanwhile {} answers and {} times unavailable", reads.answered, reads.unavailable);
    assert!(reads.answered > 0);
    scene.end();
}

#[test]
fn a_projector_whose_disk_is_lost_begins_from_the_snapshots() {
    // However short the log is: by default one of less than 100,000 records is read instead.
    let mut scene = Scene::start_with(
        &Setting { seed: 12, ..Setting::default() },
        barrage_kafka_fixture::Broker::start,
        |_, _, _| Own::default().with("BARRAGE_SNAPSHOT_RESTORE_LAG_RECORDS", 1),
    );
    let half = scene.total / 2;
    scene.send(half);
    scene.cluster.drained();
    wait_until("snapshots of all partitions are there", || {
        let logs: Vec<String> = scene.cluster.projectors.iter().map(crate::common::cluster::Process::log).collect();
        let taken = logs.iter().flat_map(|log| log.lines()).filter(|line| line.contains("snapshot taken"));
        // One of nothing is nothing to begin from.
        let taken = taken.filter(|line| !line.contains("next_offset=0 "));
        let partitions: BTreeSet<&str> =
            taken.filter_map(|line| line.split(' ').find_map(|field| field.strip_prefix("partition="))).collect();
        (partitions.len() == 8).then_some(())
    });
    let sent = scene.send_through(half / 2, half as u64 / 8, |cluster, _| {
        // Both: what either had, the other is given, and has it from the object store alone.
        for projector in &mut cluster.projectors {
            projector.kill();
            std::fs::remove_dir_all(projector.dir.join("state")).expect("its disk");
        }
        for projector in &mut cluster.projectors {
            projector.restart();
        }
    });
    println!("{} refused {:?}", sent.open, sent.refusals);
    scene.cluster.drained();
    let restores = |p: &crate::common::cluster::Process| p.metric("barrage_snapshot_restores_total");
    let restored: f64 = scene.cluster.projectors.iter().map(restores).sum();
    println!("{restored} partitions began from a snapshot");
    assert!(restored >= 8.0, "all of them, wherever they went: {restored}");
    let failures: f64 = scene.cluster.projectors.iter().map(|p| p.metric("barrage_snapshot_failures_total")).sum();
    assert_eq!(failures, 0.0);
    scene.end();
}
