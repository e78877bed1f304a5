//! The odd cases, one by one.

use barrage_event::rules::{GiftSource, RuleSet};
use barrage_event::{EnvelopeView, proto as wire};
use barrage_like_tallies::tables::{Combos, Viewers};
use barrage_like_tallies::{AccountTallies, LikeTallies, RoomTallies, SECONDS_MAX};
use barrage_projection::memory::Harness;
use barrage_projection::{BucketTable as _, Projection, RankQuery, ReadContext, ReaderExt as _, Statistic as _};
use prost::Message as _;
use serde_json::{Map, Value as Json, json};

const APP: u32 = 1_400_000_000;
/// 2026-01-01T00:00:00Z.
const START_MS: i64 = 1_767_225_600_000;
const MINUTE_MS: i64 = 60_000;

fn record(occurred_at: i64, received_at: i64, event: wire::envelope::Event) -> Vec<u8> {
    wire::Envelope {
        id: vec![7; 16],
        sdk_app_id: APP,
        occurred_at: START_MS + occurred_at,
        received_at: START_MS + received_at,
        event: Some(event),
        ..wire::Envelope::default()
    }
    .encode_to_vec()
}

fn message(kind: i32, custom: wire::CustomFields) -> wire::Message {
    wire::Message {
        group_id: "room".to_owned(),
        from_account: "alice".to_owned(),
        kind,
        custom: Some(custom),
        ..wire::Message::default()
    }
}

fn likes(count: u64) -> wire::envelope::Event {
    wire::envelope::Event::BeforeSend(message(10, wire::CustomFields { count, ..wire::CustomFields::default() }))
}

fn gift(count: u64, value: u64, combo_id: &str) -> wire::envelope::Event {
    let combo_id = combo_id.to_owned();
    wire::envelope::Event::AfterSend(message(9, wire::CustomFields { count, value, combo_id, ..Default::default() }))
}

fn bill(count: u64, value: u64, combo_id: &str) -> wire::envelope::Event {
    wire::envelope::Event::GiftBilled(wire::GiftBilled {
        group_id: "room".to_owned(),
        from_account: "alice".to_owned(),
        count,
        value,
        combo_id: combo_id.to_owned(),
        ..wire::GiftBilled::default()
    })
}

fn new(projection: impl Projection) -> Harness {
    Harness::new(projection, RuleSet::default()).expect("own ids")
}

fn apply(harness: &mut Harness, occurred: i64, received: i64, event: wire::envelope::Event) {
    let bytes = record(occurred, received, event);
    harness.apply(&EnvelopeView::decode(&bytes).expect("our own record")).expect("applies");
}

fn read<R>(harness: &mut Harness, f: impl FnOnce(&ReadContext<'_>) -> R) -> R {
    harness.commit(usize::MAX);
    let rules = RuleSet::default();
    f(&ReadContext { reader: &harness.store, app: APP, at_ms: harness.stream_time_ms(), rules: &rules })
}

fn room(harness: &mut Harness) -> Map<String, Json> {
    let mut out = Map::new();
    read(harness, |cx| LikeTallies.room(cx, "room", &mut out)).expect("reads");
    out
}

#[test]
fn what_nothing_is_known_of_has_the_fields_and_is_unknown() {
    let mut rooms = new(RoomTallies);
    let mut out = Map::new();
    let known = read(&mut rooms, |cx| LikeTallies.room(cx, "nowhere", &mut out)).expect("reads");
    assert_eq!((known, &out["likes"]["count"], &out["gifts"]["value"]), (false, &json!(0), &json!(0)));
    let mut accounts = new(AccountTallies);
    let known = read(&mut accounts, |cx| LikeTallies.user(cx, "nobody", &mut out)).expect("reads");
    assert!(!known);
}

#[test]
fn a_like_counts_before_delivery_and_only_there() {
    let mut rooms = new(RoomTallies);
    apply(&mut rooms, 0, 5, likes(7));
    let custom = wire::CustomFields { count: 7, ..wire::CustomFields::default() };
    apply(&mut rooms, 50, 60, wire::envelope::Event::AfterSend(message(10, custom.clone())));
    apply(&mut rooms, 50, 60, wire::envelope::Event::SendException(message(10, custom)));
    // A like without a number is one.
    let bare = wire::Message { custom: None, ..message(10, wire::CustomFields::default()) };
    apply(&mut rooms, 2_000, 2_005, wire::envelope::Event::BeforeSend(bare));
    let out = room(&mut rooms);
    assert_eq!((&out["likes"]["count"], &out["likes"]["messages"]), (&json!(8), &json!(2)));
    assert_eq!(out["gifts"]["messages"], 0);
}

#[test]
fn a_like_that_comes_after_the_window_is_capped_by_itself_and_counted_as_too_late() {
    for (occurred, received, after, count, too_late) in [
        // The second is full already, whenever the second message comes inside the window.
        (0, 10, 10, 100, 0),
        (0, 10, 9 * MINUTE_MS, 100, 0),
        // Received in time and read late: the second is closed.
        (0, 10, 11 * MINUTE_MS, 180, 1),
        // Received too late after its event time: it counts in the second of its receipt, which is open.
        (0, 11 * MINUTE_MS, 11 * MINUTE_MS, 180, 0),
    ] {
        let mut rooms = new(RoomTallies);
        apply(&mut rooms, 0, 10, likes(100));
        apply(&mut rooms, after, after, likes(0));
        apply(&mut rooms, occurred, received, likes(80));
        let out = room(&mut rooms);
        let found = (out["likes"]["count"].clone(), out["likes"]["too_late"].clone());
        assert_eq!(found, (json!(count), json!(too_late)), "received {received}, read {after}");
        assert_eq!(out["likes"]["capped"], 180 - count);
    }
}

#[test]
fn a_viewers_row_is_bounded_however_long_it_likes_and_whatever_times_it_states() {
    let mut rules = RuleSet::default();
    rules.windows.lateness_ms = 86_400_000;
    let mut rooms = Harness::new(RoomTallies, rules).expect("own ids");
    // Forwards, then backwards, so that new seconds are the oldest too.
    let forwards = (0..3_000_i64).map(|n| n * 1_000);
    for at in forwards.chain((0..5_000).map(|n| 80_000_000 - n * 1_000)) {
        apply(&mut rooms, at, 80_000_000, likes(1));
    }
    assert_eq!(room(&mut rooms)["likes"]["count"], 8_000);
    let row = read(&mut rooms, |cx| cx.reader.get::<Viewers>(&(APP, "room", "alice")));
    let row = row.expect("reads").expect("a row");
    assert!(row.seconds.len() <= 3 * SECONDS_MAX, "{}", row.seconds.len());
    assert!(row.seconds.chunks_exact(3).map(|second| second[0]).is_sorted());
    for n in 0..2_000_i64 {
        let at = 80_000_000 + n * 3_600_000;
        apply(&mut rooms, at, at, likes(1));
    }
    let row = read(&mut rooms, |cx| cx.reader.get::<Viewers>(&(APP, "room", "alice")));
    let hours = row.expect("reads").expect("a row").hours.len();
    assert!(hours <= 49, "48 h and the hour under way, but {hours}");
}

#[test]
fn a_combo_is_one_gift_with_its_final_count_while_it_lasts() {
    let mut rooms = new(RoomTallies);
    for (at, count) in [(0, 1), (1_000, 3), (900, 2), (2_000, 10), (9 * MINUTE_MS, 12)] {
        apply(&mut rooms, at, at + 50, gift(count, count * 52, "c-1"));
    }
    let out = room(&mut rooms);
    assert_eq!(out["gifts"], json!({"messages": 5, "count": 12, "value": 624, "too_late": 0, "saturated": 0}));
    // It goes on while its messages follow each other.
    apply(&mut rooms, 18 * MINUTE_MS, 18 * MINUTE_MS, gift(13, 676, "c-1"));
    assert_eq!(room(&mut rooms)["gifts"]["count"], 13);
    // The same id more than ten minutes after its last message is another combo.
    apply(&mut rooms, 29 * MINUTE_MS, 29 * MINUTE_MS, gift(2, 104, "c-1"));
    assert_eq!(room(&mut rooms)["gifts"]["count"], 15);
    // Without an id each message says what it adds.
    for _ in 0..3 {
        apply(&mut rooms, 30 * MINUTE_MS, 30 * MINUTE_MS, gift(5, 10, ""));
    }
    assert_eq!(room(&mut rooms)["gifts"]["count"], 30);
}

#[test]
fn a_long_combo_is_one_gift_in_whatever_order_its_messages_come() {
    // A thousand roses in twelve minutes, or in fifty; all in order, or late by up to eight minutes.
    for minutes in [12, 50] {
        for late_ms in [0, 1_000, MINUTE_MS, 8 * MINUTE_MS] {
            for accounts in [false, true] {
                let mut harness = if accounts { new(AccountTallies) } else { new(RoomTallies) };
                let mut messages: Vec<(i64, i64, u64)> = (1..=1_000_u64)
                    .map(|count| {
                        let at = i64::try_from(count).expect("small") * minutes * MINUTE_MS / 1_000;
                        let late = i64::try_from(count * 7_919 % 1_000).expect("small") * late_ms / 1_000;
                        (at + late, at, count)
                    })
                    .collect();
                messages.sort_unstable();
                for (received, at, count) in messages {
                    apply(&mut harness, at, received, gift(count, count * 52, "roses"));
                }
                let mut out = Map::new();
                read(&mut harness, |cx| match accounts {
                    true => LikeTallies.user(cx, "alice", &mut out),
                    false => LikeTallies.room(cx, "room", &mut out),
                })
                .expect("reads");
                let gifts = json!({"messages": 1_000, "count": 1_000, "value": 52_000, "too_late": 0, "saturated": 0});
                assert_eq!(out["gifts"], gifts, "{minutes} min, late by {late_ms} ms");
            }
        }
    }
}

#[test]
fn what_may_count_twice_or_not_at_all_is_counted_as_too_late() {
    let message = |count: u64| gift(count, count, "c");
    let bill = |count: u64| bill(count, count, "c");
    let hour: Vec<_> = (0..=60).map(|n: i64| (n, n, message(1 + n.unsigned_abs()))).collect();
    let bills: Vec<_> = (0..=70).map(|n: i64| (n, n, bill(1))).collect();
    // Minute in which it happened, minute in which it was received; and the gifts in the end.
    for (name, records, count, too_late) in [
        ("another combo", vec![(0, 0, message(5)), (11, 11, message(3))], 8, 0),
        (
            "a gap that is closed when both sides of it are counted",
            vec![(0, 0, message(5)), (11, 11, message(7)), (6, 12, message(6))],
            12,
            1,
        ),
        ("a message of the combo before", vec![(0, 0, message(5)), (11, 11, message(3)), (0, 12, message(4))], 8, 1),
        ("a bill of the combo before", vec![(0, 0, bill(5)), (11, 11, bill(3)), (0, 12, bill(4))], 12, 1),
        ("an hour", hour.clone(), 61, 0),
        ("longer than a combo lasts", [hour, vec![(61, 61, message(62))]].concat(), 61 + 62, 1),
        ("bills for longer than a combo lasts", bills, 71, 0),
    ] {
        let mut rooms = new(RoomTallies);
        let mut rules = RuleSet::default();
        if matches!(records[0].2, wire::envelope::Event::GiftBilled(_)) {
            rules.gifts.source = GiftSource::Billing;
        }
        rooms.stamped = Some(rules);
        for (occurred, received, event) in records {
            apply(&mut rooms, occurred * MINUTE_MS, received * MINUTE_MS, event);
        }
        let out = room(&mut rooms);
        assert_eq!((&out["gifts"]["count"], &out["gifts"]["too_late"]), (&json!(count), &json!(too_late)), "{name}");
    }
}

#[test]
fn combos_that_are_too_many_are_forgotten_aloud() {
    for others in [Combos::ROWS_MAX - 1, Combos::ROWS_MAX] {
        let mut rooms = new(RoomTallies);
        apply(&mut rooms, 0, 0, gift(5, 5, "c"));
        for n in 0..others {
            apply(&mut rooms, MINUTE_MS, MINUTE_MS, gift(1, 1, &n.to_string()));
        }
        // The first combo goes on; one begins.
        apply(&mut rooms, 2 * MINUTE_MS, 2 * MINUTE_MS, gift(9, 9, "c"));
        apply(&mut rooms, 2 * MINUTE_MS, 2 * MINUTE_MS, gift(1, 1, "new"));
        let (twice, others) = (u64::from(others == Combos::ROWS_MAX), others as u64);
        let out = room(&mut rooms);
        let found = (&out["gifts"]["count"], &out["gifts"]["too_late"]);
        assert_eq!(found, (&json!(9 + others + 1 + 5 * twice), &json!(twice)), "{others}");
        // When all of that is over, nothing is suspected any more.
        apply(&mut rooms, 60 * MINUTE_MS, 60 * MINUTE_MS, gift(7, 7, "later"));
        assert_eq!(room(&mut rooms)["gifts"]["too_late"], twice);
    }
}

#[test]
fn an_hour_in_which_nothing_counted_is_none_in_whatever_order_it_came() {
    // A combo that turns out to have begun in the hour before, and a like that counts nothing in the hour that it leaves.
    let run = |order: [usize; 3]| {
        let mut rooms = new(RoomTallies);
        for number in order {
            let (ms, event) = match number {
                0 => (500, gift(2, 20, "c-1")),
                1 => (-500, gift(1, 10, "c-1")),
                _ => (900, likes(0)),
            };
            apply(&mut rooms, 60 * MINUTE_MS + ms, 61 * MINUTE_MS, event);
        }
        rooms.commit(usize::MAX);
        rooms.store
    };
    let expected = run([0, 1, 2]);
    for order in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        assert_eq!(run(order), expected, "{order:?}");
    }
}

#[test]
fn combos_that_come_an_hour_late_are_still_one_gift_each() {
    // Two ingests drain their spools: one is an hour ahead of the other.
    let mut rooms = new(RoomTallies);
    apply(&mut rooms, 60 * MINUTE_MS, 60 * MINUTE_MS, likes(1));
    for (n, count) in [(0, 1), (1, 2), (2, 3), (3, 4)] {
        apply(&mut rooms, n * 1_000, n * 1_000 + 50, gift(count, count, "c-9"));
        apply(&mut rooms, 60 * MINUTE_MS + n * 30_000, 60 * MINUTE_MS + n * 30_000, gift(1, 1, "other"));
    }
    let out = room(&mut rooms);
    assert_eq!((&out["gifts"]["count"], &out["gifts"]["too_late"]), (&json!(5), &json!(1)));
}

#[test]
fn gifts_come_from_one_source_and_a_change_in_mid_combo_counts_them_once() {
    let billing = || {
        let mut rules = RuleSet::default();
        rules.gifts.source = GiftSource::Billing;
        Some(rules)
    };
    // What each record is stamped with, and what it says; and the gifts in the end.
    for (name, records, count, value) in [
        ("messages alone", vec![(false, gift(3, 30, "c")), (false, bill(3, 30, "c"))], 3, 30),
        ("bills alone", vec![(true, gift(3, 30, "c")), (true, bill(3, 30, "c"))], 3, 30),
        ("every bill is money", vec![(true, bill(3, 30, "c")), (true, bill(2, 20, "c"))], 5, 50),
        (
            "message, change, bill",
            vec![(false, gift(3, 30, "c")), (true, gift(5, 50, "c")), (true, bill(5, 50, "c"))],
            5,
            50,
        ),
        ("bill, then a late message", vec![(true, bill(5, 50, "c")), (false, gift(3, 30, "c"))], 5, 50),
        ("back again", vec![(true, gift(2, 20, "c")), (false, gift(4, 40, "c")), (false, bill(4, 40, "c"))], 4, 40),
    ] {
        for accounts in [false, true] {
            let mut harness = if accounts { new(AccountTallies) } else { new(RoomTallies) };
            for (at, (billed, event)) in (0..).zip(&records) {
                harness.stamped = if *billed { billing() } else { None };
                apply(&mut harness, at * 1_000, at * 1_000 + 20, event.clone());
            }
            let mut out = Map::new();
            read(&mut harness, |cx| match accounts {
                true => LikeTallies.user(cx, "alice", &mut out),
                false => LikeTallies.room(cx, "room", &mut out),
            })
            .expect("reads");
            assert_eq!((&out["gifts"]["count"], &out["gifts"]["value"]), (&json!(count), &json!(value)), "{name}");
        }
    }
}

#[test]
fn sums_stop_at_their_limit_and_say_so() {
    let mut rooms = new(RoomTallies);
    for _ in 0..3 {
        apply(&mut rooms, 0, 0, gift(u64::MAX / 2, u64::MAX / 2, ""));
        apply(&mut rooms, 0, 0, likes(u64::MAX));
    }
    let out = room(&mut rooms);
    assert_eq!((&out["gifts"]["value"], &out["gifts"]["saturated"]), (&json!(u64::MAX), &json!(1)));
    assert_eq!((&out["likes"]["attempted"], &out["likes"]["saturated"]), (&json!(u64::MAX), &json!(2)));
    assert_eq!(out["likes"]["count"], 100);
}

#[test]
fn times_that_no_clock_shows_are_counted() {
    for at in [i64::MIN / 4, -1, i64::MAX / 4] {
        for projection in [0, 1] {
            let mut harness = if projection == 0 { new(RoomTallies) } else { new(AccountTallies) };
            apply(&mut harness, 0, 0, likes(3));
            for event in [likes(3), gift(1, 1, "c"), gift(2, 2, "c"), bill(1, 1, "")] {
                apply(&mut harness, at, at, event);
            }
            apply(&mut harness, 1, 1, likes(3));
            harness.commit(usize::MAX);
        }
    }
}

#[test]
fn rooms_are_ranked_by_likes_and_by_gift_value() {
    let mut rooms = new(RoomTallies);
    apply(&mut rooms, 0, 0, likes(7));
    apply(&mut rooms, 0, 0, gift(1, 990, ""));
    for (sort, score) in [("likes", 7), ("gift_value", 990)] {
        let mut found = Vec::new();
        let query = RankQuery { keep: 10, ..RankQuery::all(sort) };
        read(&mut rooms, |cx| LikeTallies.rank_rooms(cx, query, &mut |room| found.push((room.room, room.score))))
            .expect("reads");
        assert_eq!(found, [("room".to_owned(), score)]);
    }
    for token in ["", "x", "1", "-1.user", "99999999999999999999.user"] {
        let refused = read(&mut rooms, |cx| LikeTallies.viewers(cx, "room", "likes", 5, Some(token)));
        assert_eq!(refused.expect("reads"), None, "{token}");
    }
}

#[test]
fn a_window_is_cut_to_the_hours_that_are_kept_of_everybody() {
    const HOUR_MS: i64 = 3_600_000;
    let mut rooms = new(RoomTallies);
    let given = |account: &str, value: u64| {
        let custom = wire::CustomFields { count: 1, value, ..wire::CustomFields::default() };
        let gift = wire::Message { from_account: account.to_owned(), ..message(9, custom) };
        wire::envelope::Event::AfterSend(gift)
    };
    let windows = |rooms: &mut Harness| -> Vec<((i64, i64), Vec<String>)> {
        let spans = [(12, 13), (0, 13), (-9_999, 13), (12, 96), (60, 84)];
        let one = |(from, to): (i64, i64)| {
            let span = (START_MS + from * HOUR_MS, START_MS + to * HOUR_MS);
            let answer = read(rooms, |cx| LikeTallies.viewers_between(cx, "room", "gift_value", span, (10, None)));
            let answer = answer.expect("reads").expect("ours");
            let names = answer.page.viewers.iter().map(|viewer| viewer["account"].as_str().expect("text").to_owned());
            let hours = |ms: i64| (ms - START_MS) / HOUR_MS;
            ((hours(answer.span.0), hours(answer.span.1)), names.collect())
        };
        spans.map(one).to_vec()
    };
    let names = |names: &[&str]| -> Vec<String> { names.iter().map(|name| (*name).to_owned()).collect() };
    // At noon of the first day.
    apply(&mut rooms, 12 * HOUR_MS, 12 * HOUR_MS, given("ann", 1_000));
    apply(&mut rooms, 12 * HOUR_MS, 12 * HOUR_MS, given("bob", 10));
    let both = names(&["ann", "bob"]);
    assert_eq!(
        windows(&mut rooms),
        [
            ((12, 13), both.clone()),
            ((0, 13), both.clone()),
            ((-36, 13), both.clone()),
            ((12, 96), both.clone()),
            ((60, 84), names(&[])),
        ]
    );
    // Three days later one of them gives again, and the rules keep more from then on.
    apply(&mut rooms, 84 * HOUR_MS, 84 * HOUR_MS, given("ann", 1));
    rooms.rules.retention.minutes_ms = 96 * 3_600_000;
    apply(&mut rooms, 84 * HOUR_MS, 84 * HOUR_MS, given("ann", 1));
    assert_eq!(
        windows(&mut rooms),
        [
            ((13, 13), names(&[])),
            ((13, 13), names(&[])),
            ((13, 13), names(&[])),
            ((36, 96), names(&["ann"])),
            ((60, 84), names(&[])),
        ]
    );
}

#[test]
fn a_window_says_what_span_it_answers_for() {
    let mut rooms = new(RoomTallies);
    apply(&mut rooms, 0, 0, likes(7));
    let hour = 3_600_000;
    for (span, wanted, found) in [
        ((0, 1), (0, hour), 1),
        ((1, hour), (0, hour), 1),
        ((1, hour + 1), (0, 2 * hour), 1),
        ((hour, 2 * hour), (hour, 2 * hour), 0),
        ((5, 5), (0, 0), 0),
        ((5, 4), (0, 0), 0),
    ] {
        let span = (START_MS + span.0, START_MS + span.1);
        let answer = read(&mut rooms, |cx| LikeTallies.viewers_between(cx, "room", "likes", span, (10, None)));
        let answer = answer.expect("reads").expect("ours");
        assert_eq!(answer.span, (START_MS + wanted.0, START_MS + wanted.1), "{span:?}");
        assert_eq!(answer.page.viewers.len(), found, "{span:?}");
    }
    for span in [(i64::MIN, i64::MAX), (i64::MAX, i64::MIN), (i64::MIN, i64::MIN)] {
        read(&mut rooms, |cx| LikeTallies.viewers_between(cx, "room", "likes", span, (10, None))).expect("reads");
    }
}
