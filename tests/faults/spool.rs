//! The spool's disk is full.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::common::cluster::{Own, Process};
use crate::common::scene::{Scene, Setting};
use crate::common::{skipped, wait_until};

/// A file system of its own, of a few MiB in memory; gone when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` where this user may not mount.
    fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).expect("a directory");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=6m", "tmpfs"]).arg(at).output();
        mounted.ok().filter(|done| done.status.success()).map(|_| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process of a failed test may still hold it open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Whether the ingest refuses callbacks and says so everywhere.
fn refuses_loudly(ingest: &Process, reason: &str) {
    let (status, reply) = ingest.quiet_callback();
    assert_eq!(status, 503, "{reply}");
    assert!(reply.contains(r#""ActionStatus":"FAIL""#) && reply.contains("\"ErrorCode\":503"), "{reply}");
    assert!(ingest.metric("barrage_spool_failed") > 0.0);
    assert!(ingest.log().contains("the spool takes nothing: make room on its disk"), "{}", ingest.log());
    assert!(ingest.log().contains(reason), "{}", ingest.log());
    let told = ingest.log().matches("the spool takes nothing").count();
    assert!(told < 10, "told {told} times");
    let (ready, text) = ingest.readiness();
    assert_eq!(ready, 503, "out of service, where others may take callbacks: {text}");
}

/// One ingest's spool is a file system of 6 MiB, which is really full; the other's is bounded by `spool.bytes_max`. Where
/// this user may not mount, both are bounded, and the test says so.
#[test]
fn a_full_spool_refuses_loudly_and_is_empty_again_when_the_broker_is_back() {
    let setting = Setting { padding: 8 << 10, ..Setting::default() };
    let mounted = std::sync::Mutex::new(None);
    let mut scene = Scene::start_with(&setting, barrage_kafka_fixture::Broker::start, |dir, role, number| {
        // What IM waits for; the others of the tests are more patient than IM.
        let own = Own::default().with("BARRAGE_INGEST_APPEND_BUDGET_MS", 1_500);
        if (role, number) == ("ingest", 0) {
            let disk = SmallDisk::mount(&dir.join("ingest-0/spool"));
            let is_mounted = disk.is_some();
            *mounted.lock().expect("no panic") = disk;
            if is_mounted {
                return own;
            }
            skipped("a disk that is really full; mounting is not allowed here");
        }
        own.with("BARRAGE_SPOOL_BYTES_MAX", 4 << 20)
    });
    let is_mounted = mounted.lock().expect("no panic").is_some();
    let third = scene.total / 3;
    let first = scene.send(third);
    println!("before: {} refused {:?}", first.open, first.refusals);

    scene.broker.kill(1);
    // A before-callback is answered whatever becomes of its record.
    scene.doubt_before = true;
    let mut sent = scene.send(third);
    let full = |process: &Process| {
        process.metric("barrage_spool_failed") > 0.0 && process.metric("barrage_spool_refused_total") > 0.0
    };
    for _ in 0..20 {
        if scene.cluster.ingests.iter().all(full) {
            break;
        }
        sent = scene.send(0);
    }
    println!("broker down: {} refused {:?}", sent.open, sent.refusals);
    assert!(sent.open > 0, "everything was taken: the test's disk is too large");
    for (number, ingest) in scene.cluster.ingests.iter().enumerate() {
        let spooled = ingest.metric("barrage_spool_records_total");
        let unrecorded = ingest.metric_with("barrage_ingest_rejected_total", "unrecorded");
        println!("ingest {number}: {spooled} records in the spool, {unrecorded} decisions without a record");
        assert!(spooled > 0.0);
        assert!(ingest.metric("barrage_spool_refused_total") > 0.0);
        refuses_loudly(ingest, if number == 0 && is_mounted { "No space left" } else { "spool.bytes_max is" });
    }

    // A process that dies now has nothing in memory, and its successor starts on the full disk.
    for ingest in &mut scene.cluster.ingests {
        ingest.kill();
        ingest.restart();
    }
    scene.cluster.balance();
    for ingest in &scene.cluster.ingests {
        let (status, reply) = ingest.quiet_callback();
        println!("after a restart on the full disk: {status} {reply}");
    }

    scene.broker.restart(1);
    scene.cluster.drained();
    for ingest in &scene.cluster.ingests {
        wait_until("callbacks are taken again", || (ingest.quiet_callback().0 == 200).then_some(()));
        wait_until("the spool takes again", || (ingest.metric("barrage_spool_failed") == 0.0).then_some(()));
        assert_eq!(ingest.readiness().0, 200, "{}", ingest.readiness().1);
    }

    // The room is there for the next outage, too.
    scene.doubt_before = false;
    let few = scene.total / 20;
    let next = scene.send_through(few, few as u64 / 4, |cluster, broker| {
        broker.halt(1);
        wait_until("a spool takes over", || {
            cluster.ingests.iter().any(|i| i.metric("barrage_spool_waiting_records") > 0.0).then_some(())
        });
        std::thread::sleep(Duration::from_millis(500));
        broker.resume(1);
    });
    println!("the next outage: {} refused {:?}", next.open, next.refusals);
    scene.end();
}
