//! The spool's disk is full, and a record that Kafka does not take.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use barrage_event::Partition;
use barrage_event::routes::partition_of;
use barrage_kafka_fixture::{Broker, prefix};
use barrage_recordings::skipped;

use crate::common::cluster::{Cluster, Own, Process};
use crate::common::scene::{Scene, Setting, alone, replays_cleanly};
use crate::common::{get, post, wait_until, wait_until_told};
use crate::topics::Administrator;

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
    let mut scene = Scene::start_with(&setting, Broker::start, |dir, role, number| {
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

const APP: u32 = 1_400_000_000;
/// What the topic takes of one batch while it is set wrong, and what is too large for that.
const LIMIT: usize = 64 << 10;
const LARGE: usize = 100 << 10;

/// So many characters that no codec makes shorter: what a topic refuses is what was compressed.
fn noise(length: usize) -> String {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    // Digits, letters and signs, none of which JSON escapes.
    let next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'0' + (state % 43) as u8)
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Sends messages, and remembers how many each room has.
#[derive(Default)]
struct Messages {
    sent: BTreeMap<String, u64>,
    number: u64,
}

impl Messages {
    /// One message, delivered, as large as that; it is to be answered OK.
    fn send(&mut self, ingest: &Process, room: &str, padding: usize) {
        let command = "Group.CallbackAfterSendMsg";
        let number = self.number;
        self.number += 1;
        *self.sent.entry(room.to_owned()).or_insert(0) += 1;
        let body = format!(
            r#"{{"CallbackCommand":"{command}","GroupId":"{room}","Type":"AVChatRoom","From_Account":"user_{}","Random":{number},"MsgSeq":{},"MsgTime":1767268800,"MsgId":"m-{number}","MsgBody":[{{"MsgType":"TIMTextElem","MsgContent":{{"Text":"hello"}}}}],"CloudCustomData":"{}","EventTime":1767268800501}}"#,
            number % 7,
            number + 1,
            noise(padding),
        );
        let path = format!("/callback?SdkAppid={APP}&CallbackCommand={command}&contenttype=json");
        let (status, reply) = post(ingest.callback.as_deref().expect("an ingest"), &path, &[], &body);
        assert!(status == 200 && reply.contains("\"ErrorCode\":0"), "{room}: {status} {reply}");
    }

    /// Waits until these rooms show every message that was sent to them.
    fn shown<'r>(&self, cluster: &Cluster, rooms: impl IntoIterator<Item = &'r String>) {
        for room in rooms {
            let sent = self.sent.get(room).copied().unwrap_or(0);
            wait_until_told("every message is counted", || {
                let (status, answer) = get(cluster.query(), &format!("/v1/rooms/{room}"));
                let delivered = answer["messages"]["delivered"].as_u64();
                assert!(delivered.is_none_or(|delivered| delivered <= sent), "{room} has {sent} messages: {answer}");
                if status == 200 && delivered == Some(sent) { Ok(()) } else { Err(answer) }
            });
        }
    }
}

/// A topic that was set to take less than a callback is: that callback and all behind it in its partition wait, answered
/// OK, told of, and skipped by nobody. The numbers of the others go on, also after an outage in which all of them got into
/// the spool.
#[test]
fn a_record_that_kafka_does_not_take_holds_up_its_own_partition_and_nothing_is_skipped() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(1);
    let own = |_: &str, _: usize| {
        // What is stuck is soon more than what may be under way.
        Own::default().with("BARRAGE_SPOOL_DRAIN_BYTES_MAX", 64 << 10).with("BARRAGE_KAFKA_WATCH_TOPICS_MS", 1_000)
    };
    let cluster = Cluster::start_with(dir.path(), &broker.brokers(), &prefix(), (1, 1, 1), &own);
    let ingest = &cluster.ingests[0];
    // One room in each partition.
    let mut rooms: BTreeMap<u16, String> = BTreeMap::new();
    for number in 0..100 {
        let room = format!("room_{number}");
        rooms.entry(partition_of(APP, &room, 4)).or_insert(room);
    }
    assert_eq!(rooms.len(), 4);
    let stuck = Partition::room(*rooms.keys().next().expect("four"));
    let stuck_room = rooms[&stuck.index].clone();
    let others: Vec<String> = rooms.values().filter(|room| **room != stuck_room).cloned().collect();
    let mut messages = Messages::default();
    let everywhere = |messages: &mut Messages, times: usize| {
        (0..times).for_each(|_| rooms.values().for_each(|room| messages.send(ingest, room, 0)));
    };
    everywhere(&mut messages, 3);
    messages.shown(&cluster, rooms.values());

    let admin = Administrator::new(&broker);
    let topic = format!("{}room", cluster.prefix);
    admin.limit(&topic, LIMIT);
    messages.send(ingest, &stuck_room, LARGE);
    let before = messages.sent[&stuck_room] - 1;
    everywhere(&mut messages, 40);
    for _ in 0..80 {
        messages.send(ingest, &stuck_room, 2 << 10);
    }
    messages.shown(&cluster, &others);
    wait_until("it is told", || ingest.log().contains(&format!("Kafka refuses a record for {stuck}")).then_some(()));
    assert_eq!(ingest.metric("barrage_log_blocked_partitions"), 1.0);
    wait_until("it waits in the spool", || (ingest.metric("barrage_spool_waiting_records") > 100.0).then_some(()));
    assert_eq!(ingest.metric("barrage_spool_failed"), 0.0);

    broker.halt(1);
    everywhere(&mut messages, 10);
    wait_until("all partitions are in the spool", || (ingest.metric("barrage_spool_partitions") >= 4.0).then_some(()));
    broker.resume(1);
    messages.shown(&cluster, &others);
    everywhere(&mut messages, 5);
    messages.shown(&cluster, &others);
    let (_, answer) = get(cluster.query(), &format!("/v1/rooms/{stuck_room}"));
    assert_eq!(answer["messages"]["delivered"], before, "nothing gets past what is refused: {answer}");
    println!(
        "{} messages of {stuck_room} wait: {} records in the spool",
        messages.sent[&stuck_room] - before,
        ingest.metric("barrage_spool_waiting_records")
    );

    admin.limit(&topic, 3 << 20);
    let status = cluster.drained();
    messages.shown(&cluster, rooms.values());
    assert_eq!(ingest.metric("barrage_log_blocked_partitions"), 0.0);
    replays_cleanly(dir.path(), &broker.brokers(), cluster, &status);
}
