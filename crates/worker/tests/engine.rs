//! The partition's state machine on a real log and a real store.

mod common;

use barrage_event::{EnvelopeView, Event, Topic, append_sequence, proto as wire};
use barrage_log::EventLog;
use barrage_projection::{ApplyError, Context, Projection, ReadContext, Statistic, TableDef};
use barrage_worker::Stop;
use common::{
    Ingest, Kind, Other, ROOM, START_MS, append, finish, message, open_engine, open_log, run, statistics, step,
};
use proptest::prelude::*;
use prost::Message as _;

/// A message's way through the log: callbacks with their times of receipt, in the order in which they arrive.
fn history() -> impl Strategy<Value = Vec<(Kind, u8, u8, u32, i64)>> {
    let one = (0_u8..3, 0_u8..5, 0_u32..40, 0_i64..400_000, any::<bool>(), 0_u8..4);
    prop::collection::vec(one, 1..80).prop_map(|messages| {
        let mut all = Vec::new();
        for (room, user, number, at, delivered, copies) in messages {
            for copy in 0..=i64::from(copies % 2) {
                // A duplicate comes within minutes.
                all.push((Kind::Before, room, user, number, at + copy * 90_000));
                if delivered {
                    all.push((Kind::After, room, user, number, at + 50 + copy * 90_000));
                }
            }
        }
        all.sort_by_key(|entry| entry.4);
        all
    })
}

fn records(history: &[(Kind, u8, u8, u32, i64)], ingest: &mut Ingest) -> Vec<Vec<u8>> {
    history
        .iter()
        .map(|&(kind, room, user, number, at)| {
            let envelope = message(kind, &format!("room_{room}"), &format!("user_{user}"), number, START_MS + at);
            ingest.stamp(ROOM, envelope)
        })
        .collect()
}

/// All answers about the rooms of a history.
fn answers(dir: &std::path::Path, log: &dyn EventLog) -> Vec<String> {
    let engine = open_engine(dir, log, statistics());
    let rules = barrage_event::rules::RuleSet::default();
    engine
        .store()
        .read(|snapshot| {
            (0..3)
                .map(|room| {
                    let cx = ReadContext {
                        reader: snapshot,
                        app: 1_400_000_000,
                        at_ms: START_MS + 86_400_000,
                        rules: &rules,
                    };
                    let mut out = serde_json_map();
                    statistics()[0].room(&cx, &format!("room_{room}"), &mut out).expect("reads");
                    format!("{out:?}")
                })
                .collect()
        })
        .expect("reads")
}

fn serde_json_map() -> serde_json::Map<String, serde_json::Value> {
    serde_json::Map::new()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_batch_boundaries_and_restarts_give_the_same_store(
        history in history(),
        cuts in prop::collection::vec((1_usize..30, 0_u8..3), 1..12),
    ) {
        let dir = tempfile::tempdir().expect("a directory");
        let log = open_log(&dir.path().join("log"));
        append(log.as_ref(), ROOM, &records(&history, &mut Ingest::new(1)));
        let whole = run(&dir.path().join("whole"), log.as_ref(), statistics());

        let cut_dir = dir.path().join("cut");
        let mut engine = open_engine(&cut_dir, log.as_ref(), statistics());
        for (records, then) in cuts {
            step(&mut engine, log.as_ref(), records);
            match then {
                // A crash: what was not committed is gone.
                0 => {
                    drop(engine);
                    engine = open_engine(&cut_dir, log.as_ref(), statistics());
                }
                1 => engine.commit(0).expect("commits"),
                _ => {
                    engine.commit(usize::MAX).expect("commits");
                    drop(engine);
                    engine = open_engine(&cut_dir, log.as_ref(), statistics());
                }
            }
        }
        let cut = finish(&mut engine, log.as_ref());
        prop_assert_eq!(&cut, &whole);
        prop_assert_eq!(cut.store_hash_value(), whole.store_hash_value());
        prop_assert_eq!(cut.applied + cut.duplicates + cut.resent + cut.dead_lettered, log.end(ROOM).0);
    }

    #[test]
    fn duplicates_and_reordering_inside_the_window_change_no_total(
        history in history(),
        swaps in prop::collection::vec(0_usize..160, 0..60),
    ) {
        let dir = tempfile::tempdir().expect("a directory");
        // Without the second copies and in order.
        let mut seen = std::collections::BTreeSet::new();
        let plain: Vec<_> = history.iter().copied().filter(|&(kind, room, user, number, _)| {
            seen.insert((kind == Kind::Before, room, user, number))
        }).collect();
        // With every copy, and neighbours swapped: a swap moves the arrival, not the time of receipt.
        let mut shuffled = history.clone();
        for at in swaps {
            if at + 1 < shuffled.len() {
                shuffled.swap(at, at + 1);
            }
        }
        let mut results = Vec::new();
        for (name, history) in [("plain", &plain), ("shuffled", &shuffled)] {
            let log = open_log(&dir.path().join(format!("log-{name}")));
            append(log.as_ref(), ROOM, &records(history, &mut Ingest::new(1)));
            let state = dir.path().join(name);
            run(&state, log.as_ref(), statistics());
            results.push(answers(&state, log.as_ref()));
        }
        // Minutes may differ, because which copy counts first may; totals may not.
        prop_assert_eq!(&results[0], &results[1]);
    }
}

/// Refuses, or panics over, messages of certain users; counts nothing.
#[derive(Debug)]
struct Picky;

impl Projection for Picky {
    fn name(&self) -> &'static str {
        "picky"
    }

    fn topic(&self) -> Topic {
        Topic::Room
    }

    fn tables(&self) -> Vec<TableDef> {
        Vec::new()
    }

    fn apply(&self, _: &mut Context<'_>, record: &EnvelopeView<'_>) -> Result<(), ApplyError> {
        match &record.event {
            Event::AfterSend(m) if m.from_account == "refused" => Err(ApplyError::Reject("not this one".to_owned())),
            Event::AfterSend(m) => {
                assert!(m.from_account != "panics", "over this one");
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl Statistic for Picky {
    fn name(&self) -> &'static str {
        "picky"
    }

    fn state_version(&self) -> u32 {
        1
    }

    fn projections(&self) -> Vec<Box<dyn Projection>> {
        vec![Box::new(Picky)]
    }
}

#[test]
fn a_poisoned_record_becomes_a_dead_letter_and_stops_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open_log(&dir.path().join("log"));
    let mut ingest = Ingest::new(1);
    let mut all = Vec::new();
    for number in 0..60 {
        let user = match number % 20 {
            5 => "refused",
            11 => "panics",
            _ => "fine",
        };
        all.push(ingest.stamp(ROOM, message(Kind::After, "room", user, number, START_MS + i64::from(number))));
        if number == 30 {
            all.push(b"\xff\xff no envelope at all".to_vec());
            all.push(Vec::new());
        }
    }
    append(log.as_ref(), ROOM, &all);

    let both = || -> Vec<Box<dyn Statistic>> { vec![statistics().remove(0), Box::new(Picky)] };
    let meta = run(&dir.path().join("both"), log.as_ref(), both());
    // An empty record is a valid, empty protobuf message: applied, and it says nothing.
    let garbage = u64::from(EnvelopeView::decode(b"").is_err()) + 1;
    assert_eq!(meta.dead_lettered, 6 + garbage);
    assert_eq!(meta.applied + meta.dead_lettered, log.end(ROOM).0);

    let engine = open_engine(&dir.path().join("both"), log.as_ref(), both());
    let mut letters = Vec::new();
    engine
        .store()
        .read(|snapshot| {
            use barrage_projection::Reader as _;
            snapshot.scan_rows(&[6], None, &mut |_, value| {
                letters.push(barrage_state::proto::DeadLetter::decode(value).expect("ours"));
                Ok(std::ops::ControlFlow::Continue(()))
            })
        })
        .expect("reads")
        .expect("reads");
    assert_eq!(letters.iter().filter(|l| l.projection == "picky" && l.reason == "not this one").count(), 3);
    assert_eq!(letters.iter().filter(|l| l.projection == "picky" && l.reason.contains("over this one")).count(), 3);
    assert!(letters.iter().any(|l| l.projection == "envelope"), "{letters:?}");

    // The other projection counted every message, the refused ones too.
    let mut out = serde_json_map();
    let rules = barrage_event::rules::RuleSet::default();
    engine
        .store()
        .read(|reader| {
            let cx = ReadContext { reader, app: 1_400_000_000, at_ms: START_MS, rules: &rules };
            statistics()[0].room(&cx, "room", &mut out)
        })
        .expect("reads")
        .expect("reads");
    assert_eq!(out["messages"]["delivered"], 60);
}

#[test]
fn what_ingest_appended_twice_counts_once_and_a_gap_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open_log(&dir.path().join("log"));
    let mut ingest = Ingest::new(7);
    // Without MsgId, Random and time: nothing but the sequence tells the second delivery.
    let bare = |text: &str| wire::Envelope { command: text.to_owned(), ..wire::Envelope::default() };
    let records: Vec<Vec<u8>> = ["a", "b", "c", "d"].iter().map(|c| ingest.stamp(ROOM, bare(c))).collect();
    let mut other = Ingest::new(8);
    let second = other.stamp(ROOM, bare("other"));
    let order = [&records[0], &records[1], &second, &records[0], &records[1], &records[3], &records[2]];
    append(log.as_ref(), ROOM, &order.map(Clone::clone));
    let meta = run(&dir.path().join("state"), log.as_ref(), statistics());
    assert_eq!((meta.applied, meta.resent, meta.sequence_gaps), (4, 3, 1));
}

#[test]
fn numbers_at_the_end_of_their_range_stop_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open_log(&dir.path().join("log"));
    let records: Vec<Vec<u8>> = [(1, u64::MAX - 1), (2, u64::MAX), (1, u64::MAX), (3, 5), (3, u64::MAX)]
        .iter()
        .map(|&(incarnation, sequence)| {
            let command = format!("{incarnation}-{sequence}");
            let mut bytes = wire::Envelope { command, incarnation, ..wire::Envelope::default() }.encode_to_vec();
            append_sequence(&mut bytes, sequence);
            bytes
        })
        .collect();
    append(log.as_ref(), ROOM, &records);
    let meta = run(&dir.path().join("state"), log.as_ref(), statistics());
    assert_eq!((meta.applied, meta.resent, meta.sequence_gaps), (5, 0, u64::MAX));
}

#[test]
fn business_keys_count_once_and_other_content_under_the_same_key_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open_log(&dir.path().join("log"));
    let mut ingest = Ingest::new(1);
    let mut gift = |key: &str, value: u64, at: i64| {
        let event = wire::GiftBilled {
            idempotency_key: key.to_owned(),
            group_id: "room".to_owned(),
            from_account: "giver".to_owned(),
            count: 1,
            value,
            ..wire::GiftBilled::default()
        };
        ingest.stamp(
            ROOM,
            wire::Envelope {
                sdk_app_id: 1,
                command: "Barrage.GiftBilled".to_owned(),
                received_at: START_MS + at,
                occurred_at: START_MS,
                has_event_time: true,
                route_key: "room".to_owned(),
                event: Some(wire::envelope::Event::GiftBilled(event)),
                ..wire::Envelope::default()
            },
        )
    };
    // The second one a day later: billing retries for days.
    let records = [gift("k1", 100, 0), gift("k1", 100, 86_400_000), gift("k1", 200, 5), gift("k2", 100, 5)];
    append(log.as_ref(), ROOM, &records);
    let meta = run(&dir.path().join("state"), log.as_ref(), statistics());
    assert_eq!((meta.applied, meta.duplicates, meta.dead_lettered), (2, 1, 1));
}

#[test]
fn rules_follow_log_order_and_an_older_version_changes_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open_log(&dir.path().join("log"));
    let mut ingest = Ingest::new(1);
    let mut apply = |version: u32, toml: &str| {
        let event = wire::RulesApplied {
            version,
            rules_toml: toml.to_owned(),
            applied_by: "test".to_owned(),
            applied_at_ms: START_MS,
        };
        ingest.stamp(
            ROOM,
            wire::Envelope {
                command: "Barrage.RulesApplied".to_owned(),
                event: Some(wire::envelope::Event::RulesApplied(event)),
                ..wire::Envelope::default()
            },
        )
    };
    let records = [
        apply(2, "[windows]\njoin_ms = 5000\n"),
        apply(1, "[windows]\njoin_ms = 9000\n"),
        apply(2, "[windows]\njoin_ms = 9000\n"),
        apply(3, "no rules at all"),
    ];
    append(log.as_ref(), ROOM, &records);
    let meta = run(&dir.path().join("state"), log.as_ref(), statistics());
    assert_eq!((meta.rules_version, meta.dead_lettered, meta.newer_records), (2, 1, 1));
}

#[test]
fn a_log_that_is_not_the_one_the_state_saw_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().expect("a directory");
    let state = dir.path().join("state");
    let mut ingest = Ingest::new(1);
    let records: Vec<Vec<u8>> =
        (0..10).map(|n| ingest.stamp(ROOM, message(Kind::After, "room", "user", n, START_MS))).collect();
    let log = open_log(&dir.path().join("log"));
    append(log.as_ref(), ROOM, &records);
    run(&state, log.as_ref(), statistics());

    // Another log altogether.
    let other = open_log(&dir.path().join("other"));
    append(other.as_ref(), ROOM, &records);
    let error = common::try_open_engine(&state, other.as_ref(), statistics()).expect_err("another log");
    assert!(matches!(error, Stop::OtherLog { .. }), "{error}");
    assert!(error.to_string().contains("--data-dir"), "{error}");

    // The same log, shorter than what the state saw; and with other records at that place.
    for records in [&records[..4], &records[4..]] {
        let inner = open_log(&dir.path().join(format!("short-{}", records.len())));
        let fake = Other { uuid: log.uuid(), ..Other::new(inner) };
        append(&fake, ROOM, records);
        if records.len() == 6 {
            append(&fake, ROOM, &records[..4]);
        }
        let error = common::try_open_engine(&state, &fake, statistics()).expect_err("a changed log");
        assert!(matches!(error, Stop::LogChanged { .. }), "{error}");
        assert!(error.to_string().contains("truncated or made anew"), "{error}");
    }
}

#[test]
fn apps_that_were_seen_are_state_and_bounded() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open_log(&dir.path().join("log"));
    let mut ingest = Ingest::new(1);
    let of = |app: u32, n: u32| wire::Envelope {
        sdk_app_id: app,
        ..message(Kind::Before, "room_1", "user_1", n, START_MS + i64::from(n))
    };
    let records: Vec<Vec<u8>> = [7, 0, 5, 7].iter().zip(1..).map(|(&app, n)| ingest.stamp(ROOM, of(app, n))).collect();
    append(log.as_ref(), ROOM, &records);
    let few = run(&dir.path().join("state"), log.as_ref(), statistics());
    assert_eq!(few.apps, [5, 7]);
    // A flood of invented ones: the first that came are kept, wherever commits fall.
    let flood: Vec<Vec<u8>> = (0..2_000_u32).map(|n| ingest.stamp(ROOM, of(1_000_000 - n, 10 + n))).collect();
    append(log.as_ref(), ROOM, &flood);
    let gone_on = run(&dir.path().join("state"), log.as_ref(), statistics());
    let whole = run(&dir.path().join("whole"), log.as_ref(), statistics());
    assert_eq!((gone_on.apps.len(), &gone_on.apps), (barrage_worker::APPS_MAX, &whole.apps));
    assert!(whole.apps.is_sorted() && whole.apps.starts_with(&[5, 7]) && whole.apps.contains(&1_000_000));
    assert_eq!(gone_on.store_hash_value(), whole.store_hash_value());
}
