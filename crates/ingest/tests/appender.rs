//! Sequences: dense per partition and in the order of the log, whatever the log refuses.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a failure is a failed test")]

mod common;

use std::sync::Arc;

use barrage_event::{Partition, Stamp, business};
use barrage_ingest::{Appender, SystemClock, new_incarnation};
use barrage_log::{AppendBatch, EventLog};
use common::{Fault, FaultyLog, views};
use proptest::prelude::{any, prop_assert_eq, proptest};

fn stamp(id: u128) -> Stamp {
    Stamp { id, app: 1, received_at_ms: 5, incarnation: 9, rules_version: 0, verdict: None }
}

/// Sequences in the log, by partition.
fn sequences(log: &FaultyLog) -> Vec<Vec<u64>> {
    let records = log.taken_records();
    let of = |partition: Partition| {
        let own: Vec<_> = records.iter().filter(|(of, _)| *of == partition).cloned().collect();
        views(&own).iter().map(|view| view.sequence).collect()
    };
    log.all_partitions().into_iter().map(of).collect()
}

proptest! {
    #[test]
    fn a_refused_append_leaves_no_gap(steps in proptest::collection::vec((any::<bool>(), proptest::collection::vec(0..5_usize, 1..6)), 0..40)) {
        let log = FaultyLog::new(Fault::Slow);
        let appender = Appender::new(log.clone(), 9);
        let partitions = log.all_partitions();
        let event = business::rules_applied(1, "", "", 0);
        let mut expected = vec![Vec::new(); partitions.len()];
        for (taken, places) in steps {
            log.set(if taken { Fault::Slow } else { Fault::Full });
            let mut encoded = AppendBatch::new();
            for place in &places {
                let route = barrage_event::Route { topic: partitions[*place].topic, key: "" };
                encoded.push(partitions[*place], |buf| event.encode(&stamp(appender.next_id()), &route, true, buf));
            }
            prop_assert_eq!(appender.append(&encoded).is_ok(), taken);
            if taken {
                for place in places {
                    let next = expected[place].len() as u64 + 1;
                    expected[place].push(next);
                }
            }
        }
        prop_assert_eq!(sequences(&log), expected);
    }
}

#[test]
fn threads_that_append_at_once_share_the_sequences() {
    let log = FaultyLog::new(Fault::Slow);
    let appender = Arc::new(Appender::new(log.clone(), 9));
    let items: Vec<_> = (0..200)
        .map(|n| {
            format!(
                "{{\"type\":\"gift_billed\",\"id\":\"{n}\",\"room\":\"room{}\",\"account\":\"user{n}\",\"gift_id\":\"g\",\
                 \"count\":1,\"value\":1}}",
                n % 7
            )
        })
        .collect();
    std::thread::scope(|scope| {
        for chunk in items.chunks(50) {
            let appender = Arc::clone(&appender);
            scope.spawn(move || {
                for item in chunk {
                    let event = business::parse(item).unwrap();
                    let appended = appender.append_event(&event.callback, &stamp(appender.next_id())).unwrap();
                    assert_eq!(appended.records, 2);
                }
            });
        }
    });
    for own in sequences(&log) {
        assert_eq!(own, (1..=own.len() as u64).collect::<Vec<_>>());
    }
    assert_eq!(log.taken_records().len(), 400);
}

#[test]
fn incarnations_grow_with_the_clock_and_differ_at_the_same_time() {
    let earlier = new_incarnation(&*common::FixedClock::new(1_000)).unwrap();
    let later = new_incarnation(&*common::FixedClock::new(1_001)).unwrap();
    assert_eq!((earlier >> 22, later >> 22), (1_000, 1_001));
    assert!(later > earlier && new_incarnation(&SystemClock).unwrap() > later);
    let same: std::collections::HashSet<_> =
        (0..8).map(|_| new_incarnation(&*common::FixedClock::new(1_000)).unwrap()).collect();
    assert!(same.len() > 1);
}
