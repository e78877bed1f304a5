//! What opening refuses, and what is noticed when topics change under a running log.

use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::common::{Admin, batch, everything, open, options, until, with_bytes_max};
use barrage_event::{Offset, Partition, Topic};
use barrage_kafka_fixture::Broker;
use barrage_log::{ControlTopic, EventLog, KafkaLog, KafkaMetrics, KafkaOptions, OpenError, ReadError};

const ROOM: Partition = Partition::room(0);

fn refused(options: &KafkaOptions) -> OpenError {
    KafkaLog::open(options, KafkaMetrics::default()).expect_err("it must not open")
}

#[test]
fn other_partition_counts_are_refused() {
    let options = options(Broker::shared());
    drop(open(&options));
    let error = refused(&KafkaOptions { room_partitions: 3, ..options.clone() });
    assert!(matches!(error, OpenError::OtherTopics { found_room: 2, expected_room: 3, .. }), "{error}");
    // The topic has grown, and somebody told the configuration: keys would be placed anew all the same.
    Admin::new(Broker::shared()).grow(&options.topic("room"), 3);
    let error = refused(&KafkaOptions { room_partitions: 3, ..options });
    assert!(matches!(error, OpenError::OtherTopics { found_room: 3, expected_room: 2, .. }), "{error}");
}

#[test]
fn the_same_topics_are_the_same_log_and_others_are_not() {
    let first = options(Broker::shared());
    let second = options(Broker::shared());
    let uuids = [open(&first).uuid(), open(&first).uuid(), open(&second).uuid()];
    assert_eq!(uuids[0], uuids[1]);
    assert_ne!(uuids[0], uuids[2]);
}

#[test]
fn a_topic_that_was_made_anew_is_another_one_and_the_other_topic_is_not() {
    let broker = Broker::shared();
    let options = options(broker);
    let (admin, user, topic) = (Admin::new(broker), Partition::user(1), options.topic("user"));
    let put = |log: &KafkaLog, partition: Partition, bytes: &[u8]| {
        log.append(&mut batch(partition, bytes)).unwrap().wait().unwrap();
    };
    let log = open(&options);
    let (uuid, known) = (log.uuid(), log.known());
    put(&log, ROOM, b"room");
    put(&log, user, b"user");
    drop(log);
    let mut lineages = vec![uuid];
    for (what, by_hand, records) in [
        ("made at a start", false, 0),
        ("made by hand, and empty", true, 0),
        ("made by hand, with a record at the same place", true, 1),
        ("made by hand, and longer", true, 5),
    ] {
        let log = open(&options);
        assert_eq!(
            (log.uuid(), log.lineage(Topic::Room), log.lineage(Topic::User)),
            (uuid, uuid, lineages[0]),
            "{what}"
        );
        admin.delete(&topic);
        until(&log, "it is gone", || log.problem().is_some_and(|problem| problem.contains("is gone")));
        drop(log);
        if by_hand {
            admin.create(&topic, 2, &with_bytes_max("3000000"));
        }
        if records > 0 {
            // One that does not look: what a running process appends meanwhile.
            let log = KafkaLog::open_known(&options, KafkaMetrics::default(), &known).unwrap();
            (0..records).for_each(|n| put(&log, user, format!("{what} {n}").as_bytes()));
        }
        let log = open(&options);
        assert_eq!((log.uuid(), log.lineage(Topic::Room)), (uuid, uuid), "{what}");
        assert!(!lineages.contains(&log.lineage(Topic::User)), "{what}");
        assert!(log.known().is_same(&known) && log.known() != known, "{what}");
        lineages.insert(0, log.lineage(Topic::User));
        put(&log, user, what.as_bytes());
    }
}

#[test]
fn settings_that_lose_records_are_refused() {
    let admin = Admin::new(Broker::shared());
    for (setting, value) in [
        ("message.timestamp.type", "CreateTime"),
        ("max.message.bytes", "1000000"),
        ("cleanup.policy", "compact"),
        ("unclean.leader.election.enable", "true"),
    ] {
        let options = options(Broker::shared());
        let mut settings = with_bytes_max("3000000");
        settings.retain(|(name, _)| *name != setting);
        settings.push((setting, value));
        admin.create(&options.topic("room"), 2, &settings);
        let error = refused(&options);
        let text = error.to_string();
        assert!(matches!(error, OpenError::TopicSetting { setting: named, .. } if named == setting), "{text}");
        assert!(text.contains("kafka-configs.sh"), "it says what to do: {text}");
    }
}

#[test]
fn a_cluster_that_is_not_there_is_told() {
    let options = KafkaOptions { brokers: "127.0.0.1:1".to_owned(), open_wait_ms: 300, ..KafkaOptions::default() };
    let error = refused(&options);
    assert!(matches!(&error, OpenError::Kafka { brokers, .. } if brokers == "127.0.0.1:1"), "{error}");
}

#[test]
fn a_topic_that_grows_is_told_and_records_stay_where_they_belong() {
    let broker = Broker::shared();
    let options = options(broker);
    let log = open(&options);
    Admin::new(broker).grow(&options.topic("user"), 5);
    until(&log, "it is noticed", || log.problem().is_some_and(|problem| problem.contains("has 5 partitions now")));
    assert_eq!(log.partitions(Topic::User), 2);
    log.append(&mut batch(Partition::user(1), b"still")).unwrap().wait().unwrap();
    assert_eq!(everything(&log, Partition::user(1)), [b"still"]);
}

#[test]
fn a_topic_that_is_made_anew_under_a_reader_is_an_error() {
    let broker = Broker::shared();
    let options = options(broker);
    let log = open(&options);
    for _ in 0..10 {
        log.append(&mut batch(ROOM, b"old")).unwrap().wait().unwrap();
    }
    assert_eq!(everything(&log, ROOM).len(), 10);
    let admin = Admin::new(broker);
    let topic = options.topic("room");
    admin.delete(&topic);
    until(&log, "its end is noticed", || log.problem().is_some_and(|problem| problem.contains("is gone")));
    admin.create(&topic, 2, &with_bytes_max("3000000"));
    let read = || log.read(ROOM, Offset(5), 1, &mut |_| ControlFlow::Continue(()));
    until(&log, "reading fails", || read().is_err());
    let error = read().unwrap_err();
    assert!(matches!(error, ReadError::Changed { seen: Offset(10), end: Offset(0), .. }), "{error}");
}

#[test]
fn who_is_told_of_a_row_finds_it_in_the_table() {
    let options = options(Broker::shared());
    let table: Arc<OnceLock<ControlTopic>> = Arc::default();
    let (told, heard) = std::sync::mpsc::channel();
    let own = Arc::clone(&table);
    let topic = ControlTopic::open(&options, "rules", move |record| {
        // Nothing was written before it was open.
        let found = own.get().and_then(|table| table.get(&record.key)).map(|row| row.offset);
        told.send((record.offset, found)).unwrap();
    });
    let topic = table.get_or_init(|| topic.unwrap());
    for n in 0..50_u8 {
        drop(topic.put_later(b"key", Some(&[n])));
    }
    for n in 0..50 {
        let (offset, found) = heard.recv_timeout(crate::common::PATIENCE).unwrap();
        assert_eq!((offset, found), (Offset(n), Some(Offset(n))));
    }
}

#[test]
fn a_control_topic_is_a_table_that_everybody_sees() {
    let options = options(Broker::shared());
    let (told, heard) = std::sync::mpsc::channel();
    let watching = ControlTopic::open(&options, "owners", move |record| told.send(record.clone()).unwrap()).unwrap();
    assert!(watching.rows().is_empty());
    let writing = ControlTopic::open(&options, "owners", |_| ()).unwrap();
    let later: Vec<_> = (0..50_u8).map(|n| writing.put_later(&[n % 5], Some(&[n]))).collect();
    let offsets: Vec<Offset> = later.into_iter().map(|ack| ack.wait().unwrap()).collect();
    assert_eq!(offsets, (0..50).map(Offset).collect::<Vec<_>>());
    let removed = writing.put(&[3], None).unwrap();
    assert!(watching.await_offset(removed, crate::common::PATIENCE));
    let expected: Vec<(Vec<u8>, Option<Vec<u8>>)> = [(0, 45), (1, 46), (2, 47), (4, 49)]
        .into_iter()
        .map(|(key, value): (u8, u8)| (vec![key], Some(vec![value])))
        .collect();
    let rows = |table: &ControlTopic| table.rows().into_iter().map(|(key, row)| (key, row.value)).collect::<Vec<_>>();
    assert_eq!(rows(&watching), expected);
    let heard: Vec<_> = (0..51).map(|_| heard.recv_timeout(crate::common::PATIENCE).unwrap()).collect();
    assert!((0..).zip(&heard).all(|(n, record)| record.offset == Offset(n) && record.timestamp_ms > 0));
    assert_eq!(heard[50].value, None);
    // Who comes later reads all of it before it is open.
    let third = ControlTopic::open(&options, "owners", |_| ()).unwrap();
    assert_eq!(rows(&third), expected);
    assert_eq!(third.get(&[3]), None);
    assert!(!third.await_offset(Offset(51), Duration::ZERO));
}

#[test]
fn a_client_that_hears_nothing_of_a_table_any_more_is_replaced() {
    let options = options(Broker::shared());
    let (told, heard) = std::sync::mpsc::channel();
    let table =
        ControlTopic::open(&options, "owners", move |record| told.send(record.offset).expect("listened to")).unwrap();
    table.halt();
    // Those that were fetched ahead may still come.
    let last = (0..50_u8).map(|n| table.put(&[n], Some(&[n])).unwrap()).last().unwrap();
    assert!(table.await_offset(last, crate::common::PATIENCE), "all comes after all");
    let offsets: Vec<Offset> = heard.try_iter().collect();
    assert_eq!(offsets, (0..50).map(Offset).collect::<Vec<_>>(), "once each, in order");
}
