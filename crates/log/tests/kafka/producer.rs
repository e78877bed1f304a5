//! Appending to a real broker that is killed, halted, or refuses a record.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::common::{
    Admin, batch, everything, first_appearances, noise, open, options, until, until_too_large, with_bytes_max,
};
use barrage_event::{Offset, Partition};
use barrage_kafka_fixture::Broker;
use barrage_log::{AppendError, EventLog, Follow, Health, KafkaLog, KafkaOptions, Owner};

const ROOM: Partition = Partition::room(0);
const OTHER: Partition = Partition::user(1);

/// Appends numbers to two partitions, each number to both, while `disturb` does something to the log. Then checks that
/// every number is in both, where its acknowledgement says, and that first appearances are in order.
fn append_while(log: &KafkaLog, disturb: impl FnOnce(&dyn Fn(usize))) {
    let acknowledged = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let acks = std::thread::scope(|scope| {
        let appending = scope.spawn(|| {
            let mut acks: Vec<(u32, _)> = Vec::new();
            let mut results = Vec::new();
            for number in 0_u32.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let mut pair = batch(ROOM, &number.to_be_bytes());
                pair.push(OTHER, |buffer| buffer.extend_from_slice(&number.to_be_bytes()));
                acks.push((number, log.append(&mut pair).unwrap()));
                // A few hundred are on the way at any time.
                while acks.len() > 300 {
                    let (number, ack) = acks.remove(0);
                    results.push((number, ack.wait().unwrap()));
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
            }
            results.extend(acks.into_iter().map(|(number, ack)| (number, ack.wait().unwrap())));
            results
        });
        let disturbed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            disturb(&|more| {
                let enough = acknowledged.load(Ordering::Relaxed) + more;
                until(log, "more is acknowledged", || acknowledged.load(Ordering::Relaxed) >= enough);
            });
        }));
        stop.store(true, Ordering::Relaxed);
        if disturbed.is_err() {
            // Else it would wait for ever for a broker that did not come back.
            log.close();
        }
        appending.join().unwrap()
    });
    for (place, partition) in [ROOM, OTHER].into_iter().enumerate() {
        let found = everything(log, partition);
        for (number, positions) in &acks {
            assert_eq!(positions[place].partition, partition);
            let offset = usize::try_from(positions[place].offset.0).unwrap();
            assert_eq!(found[offset], number.to_be_bytes(), "{number} is where its acknowledgement says");
        }
        let expected: Vec<Vec<u8>> =
            (0..acks.len()).map(|n| u32::try_from(n).unwrap().to_be_bytes().to_vec()).collect();
        assert!(first_appearances(found) == expected, "{partition}: first appearances are in order and complete");
    }
}

/// An owner whose stores are all open and empty.
#[derive(Default)]
struct FromZero {
    owned: AtomicUsize,
}

impl Owner for FromZero {
    fn assigned(&self, partitions: &[Partition], _: &Arc<dyn Follow>) -> Vec<(Partition, Offset)> {
        self.owned.fetch_add(partitions.len(), Ordering::Relaxed);
        partitions.iter().map(|partition| (*partition, Offset(0))).collect()
    }

    fn revoked(&self, partitions: &[Partition], _: bool) {
        self.owned.fetch_sub(partitions.len(), Ordering::Relaxed);
    }
}

/// One broker for everything that is done to a broker: each start takes seconds.
#[test]
fn a_broker_that_is_killed_or_halted_loses_nothing() {
    let broker = Broker::start(1);
    let log = open(&options(&broker));
    append_while(&log, |more| {
        more(1_000);
        broker.kill(1);
        broker.restart(1);
        more(1_000);
        broker.kill(1);
        until(&log, "the log says that Kafka is gone", || matches!(log.health(), Health::Impaired { .. }));
        broker.restart(1);
        more(1_000);
    });
    until(&log, "the log is well again", || log.health() == Health::Ready);

    // Halted: connections stay open and nothing answers.
    let end = log.end(ROOM);
    broker.halt(1);
    until(&log, "the log says that Kafka is gone", || matches!(log.health(), Health::Impaired { .. }));
    let late = log.append(&mut batch(ROOM, b"late")).unwrap();
    let read = log.read(ROOM, Offset(0), 1, &mut |_| std::ops::ControlFlow::Continue(()));
    assert!(read.unwrap() <= Offset(1), "reading is no error, whether something was still in memory or not");
    broker.resume(1);
    assert_eq!(late.wait().unwrap()[0].offset, end);
    until(&log, "the log is well again", || log.health() == Health::Ready);

    // Closing gives up in time and tells it.
    let options = KafkaOptions { close_wait_ms: 100, ..log.options().clone() };
    drop(log);
    let log = open(&options);
    broker.halt(1);
    let never = log.append(&mut batch(ROOM, b"never")).unwrap();
    log.close();
    assert_eq!(never.wait(), Err(AppendError::Closed));
    assert_eq!(log.append(&mut batch(ROOM, b"closed")).unwrap_err(), AppendError::Closed);
    assert_eq!(log.health(), Health::Closed);
    broker.resume(1);

    // Leaving a group that cannot be reached ends as well, and releases what was owned.
    let log = open(&options);
    let owner = Arc::new(FromZero::default());
    let group = log.join(Arc::clone(&owner) as Arc<dyn Owner>).unwrap();
    until(&log, "it owns all", || group.partitions().len() == 4);
    broker.kill(1);
    group.leave();
    assert_eq!((group.partitions().len(), owner.owned.load(Ordering::Relaxed)), (0, 0));
}

/// Three copies, two of which must have a record before it is acknowledged: any one broker may go.
#[test]
fn one_broker_of_three_may_die() {
    let broker = Broker::start(3);
    let log = open(&options(&broker));
    append_while(&log, |more| {
        more(1_000);
        broker.kill(1);
        more(1_000);
        broker.restart(1);
        broker.stop(2);
        more(1_000);
    });
}

#[test]
fn a_failed_producer_is_replaced_and_loses_nothing() {
    let log = open(&options(Broker::shared()));
    append_while(&log, |more| {
        for _ in 0..5 {
            more(500);
            log.fail_producer();
        }
        more(500);
    });
}

#[test]
fn too_much_pending_is_refused_and_taken_later() {
    let broker = Broker::shared();
    let log = open(&KafkaOptions { pending_bytes_max: 64 << 10, linger_ms: 1_000, ..options(broker) });
    let mut acks = Vec::new();
    let full = loop {
        match log.append(&mut batch(ROOM, &[1; 10_000])) {
            Ok(ack) => acks.push(ack),
            Err(error) => break error,
        }
    };
    assert!(matches!(full, AppendError::Full { pending_bytes_max: 65_536, .. }), "{full}");
    acks.into_iter().for_each(|ack| drop(ack.wait().unwrap()));
    log.append(&mut batch(ROOM, &[1; 10_000])).unwrap().wait().unwrap();
}

/// A topic that refuses a record: the record waits, those behind it wait, others do not, and all arrive in order.
fn refused_record(watch_topics_ms: u32, warm: bool) {
    let broker = Broker::shared();
    // Batches of one record, so that several requests are on the way at once: those behind the refused one are in the
    // broker's hands before its refusal is in ours.
    let extra = [("batch.size".to_owned(), "1000".to_owned()), ("linger.ms".to_owned(), "0".to_owned())].into();
    let options = KafkaOptions { watch_topics_ms, extra, ..options(broker) };
    let log = open(&options);
    let admin = Admin::new(broker);
    let topic = options.topic("room");
    let mut expected = Vec::new();
    if warm {
        log.append(&mut batch(ROOM, b"before")).unwrap().wait().unwrap();
        expected.push(b"before".to_vec());
    }
    admin.alter(&topic, &with_bytes_max("20000"));
    // The controller has taken it; the broker that the records go to follows.
    until_too_large(broker, &topic, 1, &noise(99, 60_000));
    if watch_topics_ms < 1_000 {
        until(&log, "the watcher has seen it", || log.problem().is_some_and(|p| p.contains("max.message.bytes=20000")));
    }
    let mut waiting = Vec::new();
    for number in 0..20 {
        let bytes = noise(number, if number == 0 { 60_000 } else { 900 });
        waiting.push(log.append(&mut batch(ROOM, &bytes)).unwrap());
        expected.push(bytes);
    }
    until(&log, "the refusal shows", || {
        // Others of the same topic and of the other one go on all the while.
        for partition in [Partition::room(1), OTHER] {
            log.append(&mut batch(partition, b"others")).unwrap().wait().unwrap();
        }
        log.problem().is_some()
    });
    // It stays so however often it is tried: nothing behind the refused record gets past it.
    for _ in 0..50 {
        log.append(&mut batch(Partition::room(1), b"others")).unwrap().wait().unwrap();
    }
    assert!(waiting.iter().all(|ack| ack.try_get().is_none()));
    assert_eq!(everything(&log, ROOM).len(), usize::from(warm), "nothing behind the refused record is in the log");
    admin.alter(&topic, &with_bytes_max("3000000"));
    for ack in waiting {
        ack.wait().unwrap();
    }
    assert!(first_appearances(everything(&log, ROOM)) == expected, "nothing was left out, and the order is kept");
    until(&log, "the log is well again", || watch_topics_ms > 1_000 || log.health() == Health::Ready);
}

#[test]
fn a_refused_record_blocks_its_partition_until_the_topic_is_put_right() {
    refused_record(100, true);
}

/// The producer has not heard of the new limit, so records behind the refused one are on the way with it.
#[test]
fn a_refused_record_is_not_overtaken_by_those_on_the_way() {
    refused_record(3_600_000, true);
}

/// The broker does not know the producer in this partition, so it would take any record from it.
#[test]
fn a_refused_first_record_is_not_overtaken() {
    refused_record(3_600_000, false);
}

#[test]
fn an_append_that_nobody_waits_for_is_flushed_by_closing() {
    let options = options(Broker::shared());
    let log = open(&options);
    for number in 0..1_000_u32 {
        drop(log.append(&mut batch(ROOM, &number.to_be_bytes())).unwrap());
    }
    drop(log);
    let log = open(&options);
    assert_eq!(log.end(ROOM), Offset(1_000));
}
