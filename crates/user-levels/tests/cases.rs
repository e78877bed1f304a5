//! The odd cases, one by one.

mod common;

use barrage_event::rules::{GiftSource, RuleSet};
use barrage_projection::{ReadContext, ReaderExt as _, Statistic as _};
use barrage_user_levels::tables::Accounts;
use barrage_user_levels::{DAYS_KEPT, UserLevels};
use prost::Message as _;
use serde_json::{Value as Json, json};

use common::{
    APP, Act, DAY_MS, HOUR_MS, MINUTE_MS, MONDAY_MS, When, apply, level, level_of, new, record, rules_record, told,
};

const TUESDAY_MS: i64 = MONDAY_MS + DAY_MS;

/// A point for each minute online and each message, and nothing is capped.
fn plain() -> RuleSet {
    let mut rules = RuleSet::default();
    rules.levels.daily_max.online_minute = 0;
    rules.levels.daily_max.message = 0;
    rules.levels.daily_max.like = 0;
    rules
}

/// Minutes online that count when a day counts so many at most.
fn minutes_of_at_most(reader: &dyn barrage_projection::Reader, cap: u64, at: i64) -> u64 {
    let mut rules = plain();
    rules.levels.daily_max.online_minute = cap;
    level(reader, &rules, "ann", at)["parts"]["online"]["points"].as_u64().expect("points")
}

#[test]
fn an_answer_names_every_part_and_what_is_missing() {
    let mut harness = new(plain());
    let acts = [
        (Act::Login, 0),
        (Act::Text, 1_000),
        (Act::Like { count: 25, refused: false }, 2_000),
        (Act::Like { count: 99, refused: true }, 4_000),
        (Act::Gift { value: 130 }, 6_000),
        (Act::Membership { months: 1 }, 8_000),
        (Act::Logout, 7 * MINUTE_MS + 30_000),
    ];
    for (number, (act, at)) in (0..).zip(acts) {
        apply(&mut harness, &record("ann", act, MONDAY_MS + at, number));
    }
    // 7 minutes, 3 messages (the gift's and the membership's are messages too), 25 likes at 0.1, 130 cents at 0.1.
    let expected = json!({
        "level": 4, "score": 7 + 3 + 2 + 13 + 500, "next_at": 1_000, "missing": 475, "too_late": 0,
        "parts": {
            "online": { "ms": 450_000, "counted_ms": 450_000, "points": 7 },
            "messages": { "delivered": 3, "counted": 3, "points": 3 },
            "likes": { "count": 25, "counted": 25, "points": 2 },
            "gifts": { "value": 130, "counted": 130, "points": 13 },
            "membership": { "months": 1, "counted": 1, "points": 500 },
        },
    });
    assert_eq!(level_of(&mut harness, "ann", MONDAY_MS + HOUR_MS), expected);
    let nobody = level_of(&mut harness, "nobody", MONDAY_MS);
    assert_eq!((&nobody["level"], &nobody["score"], &nobody["next_at"]), (&json!(0), &json!(0), &json!(10)));
    let mut rules = plain();
    rules.levels.thresholds = vec![5, 10];
    let highest = level(&harness.store, &rules, "ann", MONDAY_MS + HOUR_MS);
    assert_eq!((&highest["level"], &highest["next_at"], &highest["missing"]), (&json!(2), &Json::Null, &Json::Null));
    rules.levels.thresholds.clear();
    assert_eq!(level(&harness.store, &rules, "ann", MONDAY_MS + HOUR_MS)["level"], 0);
}

#[test]
fn a_session_over_midnight_counts_on_both_days_what_lies_in_them() {
    // 22:30 to 03:00: 90 minutes on Monday and 180 on Tuesday; looked at once, or also in between.
    for between in [None, Some(TUESDAY_MS - 1), Some(TUESDAY_MS), Some(TUESDAY_MS + HOUR_MS)] {
        let mut harness = new(plain());
        apply(&mut harness, &record("ann", Act::Login, TUESDAY_MS - 90 * MINUTE_MS, 1));
        if let Some(at) = between {
            apply(&mut harness, &record("ann", Act::Text, at, 2));
        }
        for closed in [false, true] {
            if closed {
                apply(&mut harness, &record("ann", Act::Logout, TUESDAY_MS + 180 * MINUTE_MS, 3));
            }
            harness.commit(usize::MAX);
            let at = TUESDAY_MS + 180 * MINUTE_MS;
            for (cap, minutes) in [(0, 270), (180, 270), (120, 210), (90, 180), (60, 120)] {
                assert_eq!(minutes_of_at_most(&harness.store, cap, at), minutes, "{between:?}, {closed}, {cap} a day");
            }
        }
    }
}

#[test]
fn a_session_over_several_days_fills_each_of_them() {
    let mut rules = plain();
    rules.duration.session_timeout_ms = 7 * 86_400_000;
    let mut harness = new(rules.clone());
    apply(&mut harness, &record("ann", Act::Login, MONDAY_MS + 23 * HOUR_MS, 1));
    let at = MONDAY_MS + 3 * DAY_MS + HOUR_MS;
    apply(&mut harness, &record("ann", Act::Logout, at, 2));
    harness.commit(usize::MAX);
    for (cap, minutes) in [(0, 60 + 2 * 1_440 + 60), (100, 320), (60, 240), (30, 120)] {
        rules.levels.daily_max.online_minute = cap;
        assert_eq!(level(&harness.store, &rules, "ann", at)["parts"]["online"]["points"], minutes, "{cap} a day");
    }
}

#[test]
fn a_session_that_falls_silent_counts_on_the_days_before_it_did() {
    let mut rules = plain();
    rules.duration.session_timeout_ms = 2 * HOUR_MS.unsigned_abs();
    // From 23:00 to 01:00, where it is given up; the next one begins at ten.
    let mut harness = new(rules.clone());
    let evening = TUESDAY_MS - HOUR_MS;
    apply(&mut harness, &record("ann", Act::Login, evening, 1));
    let morning = TUESDAY_MS + 10 * HOUR_MS;
    let minutes = |harness: &barrage_projection::memory::Harness, cap: u64, at: i64| {
        let mut rules = rules.clone();
        rules.levels.daily_max.online_minute = cap;
        level(&harness.store, &rules, "ann", at)["parts"]["online"]["points"].as_u64().expect("points")
    };
    harness.commit(usize::MAX);
    assert_eq!([0, 90, 60, 30].map(|cap| minutes(&harness, cap, morning)), [120, 120, 120, 60]);
    apply(&mut harness, &record("ann", Act::Login, morning, 2));
    harness.commit(usize::MAX);
    assert_eq!([0, 90, 60, 30].map(|cap| minutes(&harness, cap, morning)), [120, 120, 120, 60]);

    // A bill that comes in the silence is no sign of life; a message at 03:00 is, and the session was open all the time.
    let mut harness = new(rules.clone());
    for (number, (act, at)) in
        (1..).zip([(Act::Login, -2), (Act::GiftBilled { value: 1 }, 1), (Act::Text, 3), (Act::Logout, 4)])
    {
        apply(&mut harness, &record("ann", act, TUESDAY_MS + at * HOUR_MS, number));
    }
    harness.commit(usize::MAX);
    let found = [0, 300, 240, 120, 60].map(|cap| minutes(&harness, cap, TUESDAY_MS + 5 * HOUR_MS));
    assert_eq!(found, [360, 360, 360, 240, 120]);
}

#[test]
fn a_late_end_is_taken_back_from_the_newest_days() {
    let mut harness = new(plain());
    apply(&mut harness, &record("ann", Act::Login, TUESDAY_MS - 60 * MINUTE_MS, 1));
    apply(&mut harness, &record("ann", Act::Text, TUESDAY_MS + 4 * MINUTE_MS, 2));
    // The end was ten to midnight, and is told five minutes past.
    let late = When { occurred: TUESDAY_MS - 10 * MINUTE_MS, received: TUESDAY_MS + 5 * MINUTE_MS, version: 1 };
    apply(&mut harness, &record("ann", Act::Logout, late, 3));
    harness.commit(usize::MAX);
    let total = level(&harness.store, &plain(), "ann", TUESDAY_MS + HOUR_MS);
    let online = level_of(&mut harness, "ann", TUESDAY_MS + HOUR_MS)["parts"]["online"].clone();
    assert_eq!(total["parts"]["online"], online);
    // Whatever online duration makes of it, every minute of it is Monday's.
    let minutes = online["ms"].as_u64().expect("ms") / 60_000;
    assert_eq!(minutes_of_at_most(&harness.store, 60, TUESDAY_MS + HOUR_MS), minutes.min(60));
}

#[test]
fn caps_follow_the_rules_for_a_week_and_stay_as_they_were_for_older_days() {
    let mut rules = plain();
    rules.levels.daily_max.message = 3;
    let mut harness = new(rules.clone());
    let mut number = 0;
    for day in 0..3 {
        for n in 0..5 {
            number += 1;
            apply(&mut harness, &record("ann", Act::Text, MONDAY_MS + day * DAY_MS + n * HOUR_MS, number));
        }
    }
    let points = |harness: &mut barrage_projection::memory::Harness, at: i64| {
        let part = level_of(harness, "ann", at)["parts"]["messages"].clone();
        (part["delivered"].as_u64().expect("all"), part["counted"].as_u64().expect("points"))
    };
    let wednesday = MONDAY_MS + 2 * DAY_MS + 5 * HOUR_MS;
    assert_eq!(points(&mut harness, wednesday), (15, 9));
    harness.rules.levels.daily_max.message = 4;
    assert_eq!(points(&mut harness, wednesday), (15, 12), "the new cap counts for days that are there");
    // On the next Monday the first one is folded, by the cap in force then.
    let next = MONDAY_MS + i64::from(DAYS_KEPT) * DAY_MS;
    apply(&mut harness, &record("ann", Act::Text, next, 100));
    harness.rules.levels.daily_max.message = 0;
    assert_eq!(points(&mut harness, next), (16, 4 + 5 + 5 + 1));
    harness.rules.levels.daily_max.message = 1;
    assert_eq!(points(&mut harness, next), (16, 4 + 1 + 1 + 1));
}

#[test]
fn every_level_on_the_way_is_told_once_and_in_order() {
    let mut harness = new(plain());
    assert_eq!(told(&apply(&mut harness, &record("ann", Act::Gift { value: 80 }, MONDAY_MS, 1))), []);
    // 1 point for the message and 50 for the value: 10 and 50 are passed at once.
    let intents = apply(&mut harness, &record("ann", Act::Gift { value: 420 }, MONDAY_MS + 1_000, 2));
    assert_eq!(told(&intents), [("ann".to_owned(), 1), ("ann".to_owned(), 2)]);
    assert_eq!((intents[1].at_ms, &intents[1].fields["score"]), (MONDAY_MS + 1_000, &json!(52)));
    assert_eq!(told(&apply(&mut harness, &record("ann", Act::Text, MONDAY_MS + 2_000, 3))), []);
    // A level that is lost with other rules and reached again with the first ones is not news.
    for (version, thresholds) in [(2, vec![1_000_000]), (3, vec![10, 50, 150])] {
        harness.rules.levels.thresholds = thresholds;
        let at = MONDAY_MS + i64::from(version) * 10_000;
        apply(&mut harness, &rules_record(version));
        let when = When { occurred: at + 1, received: at + 1, version };
        assert_eq!(told(&apply(&mut harness, &record("ann", Act::Text, when, u64::from(version) * 10))), []);
    }
    let when = When { occurred: MONDAY_MS + 60_000, received: MONDAY_MS + 60_000, version: 3 };
    let intents = apply(&mut harness, &record("ann", Act::Gift { value: 2_000 }, when, 99));
    assert_eq!(told(&intents), [("ann".to_owned(), 3)]);
}

#[test]
fn a_change_of_rules_tells_nobody_and_what_is_reached_after_it_is_told() {
    let mut harness = new(plain());
    apply(&mut harness, &record("ann", Act::Login, MONDAY_MS, 1));
    for (account, value) in [("bob", 30), ("cid", 30)] {
        apply(&mut harness, &record(account, Act::Gift { value }, MONDAY_MS, value));
    }
    // After 8 minutes everything is worth ten times as much: ann has 80 points then, bob and cid have 40.
    let change = MONDAY_MS + 8 * MINUTE_MS;
    for weight in [
        &mut harness.rules.levels.weights.online_minute,
        &mut harness.rules.levels.weights.message,
        &mut harness.rules.levels.weights.gift_value,
    ] {
        *weight *= 10;
    }
    // The time of the change is that of the log.
    assert_eq!(told(&apply(&mut harness, &record("dan", Act::Login, change, 5))), []);
    assert_eq!(told(&apply(&mut harness, &rules_record(2))), []);
    // Level 1 (10 points) they all had at the change. bob's message makes 50 points of 40, cid's gift 250.
    let when = |at: i64| When { occurred: change + at, received: change + at, version: 2 };
    assert_eq!(told(&apply(&mut harness, &record("bob", Act::Text, when(1_000), 2))), [("bob".to_owned(), 2)]);
    let intents = apply(&mut harness, &record("cid", Act::Gift { value: 200 }, when(2_000), 3));
    assert_eq!(told(&intents), [("cid".to_owned(), 2), ("cid".to_owned(), 3)]);
    // ann was online all the time. Level 2 (50 points) she had at the change; level 3 (150) she reached after it.
    let intents = apply(&mut harness, &record("ann", Act::Text, when(6 * MINUTE_MS), 4));
    assert_eq!(told(&intents), [("ann".to_owned(), 3)]);
    assert_eq!(level_of(&mut harness, "ann", change + 6 * MINUTE_MS)["score"], 150);
}

#[test]
fn a_change_of_rules_that_levels_do_not_follow_from_hides_nothing() {
    // Ten minutes online are level 1, and the rules change before an event tells of it.
    type Change = fn(&mut RuleSet);
    let changes: [(&str, Change, bool); 6] = [
        ("nothing", |_| (), true),
        ("a mute", |rules| rules.before.mute.rooms.push("some room".to_owned()), true),
        ("weights of heat", |rules| rules.heat.message += 1, true),
        ("a time-out of online duration", |rules| rules.duration.session_timeout_ms += 1, false),
        ("a weight", |rules| rules.levels.weights.like += 1, false),
        ("a threshold", |rules| rules.levels.thresholds[3] += 1, false),
    ];
    for (name, change, heard) in changes {
        let mut harness = new(plain());
        apply(&mut harness, &rules_record(1));
        apply(&mut harness, &record("ann", Act::Login, MONDAY_MS, 1));
        let at = |minutes: i64, version: u32| {
            let at = MONDAY_MS + minutes * MINUTE_MS;
            When { occurred: at, received: at, version }
        };
        apply(&mut harness, &record("bob", Act::Text, at(12, 1), 2));
        change(&mut harness.rules);
        apply(&mut harness, &rules_record(2));
        // And one more that changes nothing, so that the last version is not the one that counts.
        apply(&mut harness, &rules_record(3));
        let intents = apply(&mut harness, &record("ann", Act::Text, at(15, 3), 3));
        let expected: &[(String, u64)] = if heard { &[("ann".to_owned(), 1)] } else { &[] };
        assert_eq!(told(&intents), expected, "{name}");
    }
}

#[test]
fn a_join_that_shows_a_silent_session_to_last_counts_everywhere() {
    let mut rules = plain();
    rules.duration.session_timeout_ms = 2 * HOUR_MS.unsigned_abs();
    let mut harness = new(rules);
    // From 22:00 to midnight; the bill at one is no sign of life; the join at three is, and the session lasted.
    for (number, (act, hour)) in (1..).zip([(Act::Login, -2), (Act::GiftBilled { value: 1 }, 1)]) {
        apply(&mut harness, &record("ann", act, TUESDAY_MS + hour * HOUR_MS, number));
    }
    let three = TUESDAY_MS + 3 * HOUR_MS;
    assert_eq!(level_of(&mut harness, "ann", three)["score"], 120);
    let intents = apply(&mut harness, &record("ann", Act::Join, three, 3));
    assert_eq!(told(&intents), [("ann".to_owned(), 3)]);
    assert_eq!(level_of(&mut harness, "ann", three)["score"], 300);
    let cx = ReadContext { reader: &harness.store, app: APP, at_ms: three, rules: &harness.rules };
    let counts = UserLevels.levels(&cx).expect("reads");
    assert_eq!(counts.into_iter().filter(|(_, accounts)| *accounts > 0).collect::<Vec<_>>(), [(3, 1)]);
    // Whoever only joined has no level.
    apply(&mut harness, &record("bob", Act::Join, three, 4));
    harness.commit(usize::MAX);
    assert!(harness.store.get::<Accounts>(&(APP, "bob")).expect("reads").is_none());
}

#[test]
fn a_level_that_time_brought_is_told_at_the_next_event() {
    for (act, at) in [(Act::Text, 9), (Act::Logout, 10), (Act::Like { count: 1, refused: true }, 10)] {
        let mut harness = new(plain());
        apply(&mut harness, &record("ann", Act::Login, MONDAY_MS, 1));
        assert_eq!(level_of(&mut harness, "ann", MONDAY_MS + 9 * MINUTE_MS)["level"], 0);
        assert_eq!(level_of(&mut harness, "ann", MONDAY_MS + 10 * MINUTE_MS)["level"], 1, "as soon as it is so");
        let intents = apply(&mut harness, &record("ann", act, MONDAY_MS + at * MINUTE_MS, 2));
        assert_eq!(told(&intents), [("ann".to_owned(), 1)], "{act:?}");
    }
}

#[test]
fn rules_that_tell_nothing_tell_nothing_later_either() {
    let mut rules = plain();
    rules.notify.levels = false;
    let mut harness = new(rules);
    assert_eq!(told(&apply(&mut harness, &record("ann", Act::Gift { value: 600 }, MONDAY_MS, 1))), []);
    harness.rules.notify.levels = true;
    assert_eq!(told(&apply(&mut harness, &record("ann", Act::Text, MONDAY_MS + 1_000, 2))), []);
    let intents = apply(&mut harness, &record("ann", Act::Gift { value: 1_000 }, MONDAY_MS + 2_000, 3));
    assert_eq!(told(&intents), [("ann".to_owned(), 3)]);
}

#[test]
fn gifts_and_memberships_come_from_the_source_that_the_rules_name() {
    for (source, value, months) in [(GiftSource::Messages, 40, 2), (GiftSource::Billing, 300, 5)] {
        let mut rules = plain();
        rules.gifts.source = source;
        let mut harness = new(rules);
        let acts = [
            Act::Gift { value: 40 },
            Act::GiftBilled { value: 300 },
            Act::Membership { months: 2 },
            Act::MembershipOpened { months: 5 },
        ];
        for (number, act) in (1..).zip(acts) {
            let at = MONDAY_MS + 1_000 * i64::try_from(number).expect("few");
            apply(&mut harness, &record("ann", act, at, number));
        }
        let parts = level_of(&mut harness, "ann", MONDAY_MS + HOUR_MS)["parts"].clone();
        assert_eq!((&parts["gifts"]["value"], &parts["membership"]["months"]), (&json!(value), &json!(months)));
        assert_eq!(parts["messages"]["delivered"], 2);
    }
}

#[test]
fn what_comes_when_its_day_is_folded_counts_for_the_oldest_that_is_not() {
    let mut rules = plain();
    rules.levels.daily_max.message = 2;
    let mut harness = new(rules);
    for day in 0..=i64::from(DAYS_KEPT) {
        apply(&mut harness, &record("ann", Act::Text, MONDAY_MS + day * DAY_MS, day.unsigned_abs()));
    }
    let received = MONDAY_MS + i64::from(DAYS_KEPT) * DAY_MS + HOUR_MS;
    for (number, score) in [(100, 9), (101, 9), (102, 9)] {
        let late = When { occurred: MONDAY_MS + HOUR_MS, received, version: 1 };
        apply(&mut harness, &record("ann", Act::Text, late, number));
        let answer = level_of(&mut harness, "ann", received);
        assert_eq!((&answer["score"], &answer["too_late"]), (&json!(score), &json!(number - 99)), "{answer}");
    }
}

#[test]
fn nothing_from_outside_stops_it_or_makes_a_row_grow() {
    let mut harness = new(RuleSet::default());
    let mut number = 0;
    for occurred in [i64::MIN, -1, 0, 1, MONDAY_MS, i64::MAX] {
        for received in [0, MONDAY_MS, MONDAY_MS + 400 * DAY_MS] {
            for act in [
                Act::Login,
                Act::Text,
                Act::Like { count: u64::MAX, refused: false },
                Act::Gift { value: u64::MAX },
                Act::GiftBilled { value: u64::MAX },
                Act::MembershipOpened { months: u32::MAX },
                Act::Logout,
            ] {
                for account in ["", "ann"] {
                    number += 1;
                    apply(&mut harness, &record(account, act, When { occurred, received, version: 1 }, number));
                }
            }
        }
    }
    let mut rules = RuleSet::default();
    rules.levels.weights.gift_value = 1_000_000_000;
    harness.commit(usize::MAX);
    for at in [0, MONDAY_MS, 253_402_300_799_999] {
        let answer = level(&harness.store, &rules, "ann", at);
        assert_eq!(answer["level"], 10, "{answer}");
    }
    assert!(harness.store.get::<Accounts>(&(APP, "")).expect("reads").is_none(), "nobody has no level");

    let mut harness = new(RuleSet::default());
    for day in 0..400 {
        let at = MONDAY_MS + day * DAY_MS;
        for (n, act) in [
            Act::Login,
            Act::Text,
            Act::Like { count: 100, refused: false },
            Act::Gift { value: 1_000_000 },
            Act::Membership { months: 12 },
            Act::Logout,
        ]
        .into_iter()
        .enumerate()
        {
            number += 1;
            apply(&mut harness, &record("ann", act, at + i64::try_from(n).expect("few") * HOUR_MS, number));
        }
    }
    harness.commit(usize::MAX);
    let row = harness.store.get::<Accounts>(&(APP, "ann")).expect("reads").expect("it is there");
    assert!(row.days.len() <= 1 + DAYS_KEPT as usize && row.encoded_len() < 300, "{} bytes", row.encoded_len());
}

#[test]
fn the_distribution_counts_every_account_at_the_level_that_it_is_told() {
    let mut harness = new(plain());
    for n in 0..60_u64 {
        let account = format!("user_{n}");
        let mut number = n << 20;
        for act in [Act::Login, Act::Gift { value: n * n }] {
            number += 1;
            apply(&mut harness, &record(&account, act, MONDAY_MS + i64::try_from(n).expect("few"), number));
        }
        if n % 3 == 0 {
            apply(&mut harness, &record(&account, Act::Logout, MONDAY_MS + 5 * MINUTE_MS, number + 1));
        }
    }
    harness.commit(usize::MAX);
    for minutes in [0, 5, 9, 10, 40, 50, 200] {
        let at_ms = MONDAY_MS + 5 * MINUTE_MS + minutes * MINUTE_MS;
        let cx = ReadContext { reader: &harness.store, app: APP, at_ms, rules: &harness.rules };
        let counts = UserLevels.levels(&cx).expect("reads");
        assert_eq!(counts.len(), 11);
        let mut expected = std::collections::BTreeMap::from_iter((0..=10).map(|level| (level, 0)));
        for n in 0..60 {
            let answer = level(&harness.store, &harness.rules, &format!("user_{n}"), at_ms);
            let level = u32::try_from(answer["level"].as_u64().expect("a level")).expect("small");
            *expected.entry(level).or_default() += 1_u64;
        }
        assert_eq!(counts, expected, "after {minutes} minutes");
        let other = ReadContext { reader: &harness.store, app: 7, at_ms, rules: &harness.rules };
        assert_eq!(UserLevels.levels(&other).expect("reads").values().sum::<u64>(), 0);
    }
}
