//! The network between two processes is cut.
//!
//! A TCP proxy stands between them: between one ingest and the broker, one projector and the broker (each has a door of
//! its own, at which Kafka tells clients to come to the proxy), and between the queries and the other projector.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use barrage_kafka_fixture::Broker;

use crate::common::cluster::{Own, SESSION_MS};
use crate::common::proxy::Proxy;
use crate::common::reads::Reads;
use crate::common::scene::{Scene, Setting};
use crate::common::wait_until;

/// Longer than a query looks for an owner.
const WHILE: Duration = Duration::from_millis(3_000);
/// Longer than the session of a member of the group.
const SILENCE: Duration = Duration::from_millis(SESSION_MS + 2_000);

#[test]
fn wherever_the_network_is_cut_reads_are_right_or_unavailable() {
    let [ingest_broker, project_broker, query_project] = [(); 3].map(|()| Proxy::start());
    let doors = Mutex::new(Vec::new());
    let mut scene = Scene::start_with(
        &Setting { seed: 9, ..Setting::default() },
        |nodes| {
            let (broker, ports) = Broker::start_via(nodes, &[ingest_broker.port(), project_broker.port()]);
            for (proxy, port) in [&ingest_broker, &project_broker].into_iter().zip(&ports) {
                proxy.lead_to(&format!("127.0.0.1:{port}"));
            }
            *doors.lock().expect("no panic") = ports;
            broker
        },
        |_, role, number| match (role, number) {
            ("ingest", 0) => Own { brokers: Some(ingest_broker.address.clone()), ..Own::default() },
            ("project", 0) => Own { brokers: Some(project_broker.address.clone()), ..Own::default() },
            ("project", 1) => Own::default().with("BARRAGE_LISTEN_GRPC_ADVERTISE", &query_project.address),
            _ => Own::default(),
        },
    );
    query_project.lead_to(scene.cluster.projectors[1].grpc.as_deref().expect("a projector is asked"));
    let (query, rooms) = (scene.cluster.query().to_owned(), scene.rooms());
    let share = scene.total / 6;
    scene.send(share);
    scene.cluster.drained();

    let stop = AtomicBool::new(false);
    let reads = std::thread::scope(|scope| {
        let reader = scope.spawn(|| Reads::default().all_until(&query, &rooms, &stop));
        let spools = |cluster: &crate::common::cluster::Cluster| {
            wait_until("the spool takes over", || {
                (cluster.ingests[0].metric("barrage_spool_waiting_records") > 0.0).then_some(())
            });
        };
        let sent = scene.send_through(share, share as u64 / 4, |cluster, _| {
            ingest_broker.stall();
            spools(cluster);
            ingest_broker.heal();
        });
        println!("ingest and broker, stalled: {} refused {:?}", sent.open, sent.refusals);
        let sent = scene.send_through(share, share as u64 / 4, |cluster, _| {
            ingest_broker.cut();
            spools(cluster);
            ingest_broker.heal();
        });
        println!("ingest and broker, cut: {} refused {:?}", sent.open, sent.refusals);
        for what in [Proxy::stall, Proxy::cut] {
            let sent = scene.send_through(share, share as u64 / 4, |_, _| {
                what(&project_broker);
                std::thread::sleep(SILENCE);
                project_broker.heal();
            });
            println!("projector and broker, past its session: {} refused {:?}", sent.open, sent.refusals);
        }
        stop.store(true, Ordering::Release);
        reader.join().expect("right or unavailable")
    });
    println!("meanwhile {} answers and {} times unavailable", reads.answered, reads.unavailable);
    assert!(reads.answered > 0);
    scene.cluster.drained();

    // Nothing moves: who owns a partition owns it, and cannot be asked.
    for what in [Proxy::stall, Proxy::cut] {
        let mut reads = Reads::default();
        what(&query_project);
        let begun = std::time::Instant::now();
        while begun.elapsed() < WHILE || reads.unavailable == 0 {
            for room in &rooms {
                reads.room(&query, room);
            }
        }
        query_project.heal();
        println!("query and projector: {} answers and {} times unavailable", reads.answered, reads.unavailable);
        for room in &rooms {
            wait_until("it is answered again", || reads.room(&query, room).then_some(()));
        }
    }
    scene.end();
}
