//! Rooms over hours: what is folded, what stays bounded, what is told; and pages of viewers.

mod common;

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use barrage_event::rules::RuleSet;
use barrage_presence::{Presence, RoomPresence, tables};
use barrage_projection::memory::Harness;
use barrage_projection::{RankQuery, ReaderExt as _, Statistic as _, Table};
use common::{APP, ROOM, START_MS, apply, destroyed, envelope, gone, joined, left, moves, read, room_online, viewers};
use serde_json::{Value as Json, json};

fn harness() -> Harness {
    Harness::new(RoomPresence, RuleSet::default()).expect("own ids")
}

fn at(harness: &mut Harness, at_ms: i64, event: barrage_event::proto::envelope::Event) {
    apply(harness, &envelope(START_MS + at_ms, START_MS + at_ms, "ios", event));
}

fn rows<T: Table>(harness: &Harness) -> usize {
    let mut rows = 0;
    let visit = |_: T::Key<'_>, _| {
        rows += 1;
        ControlFlow::Continue(())
    };
    harness.store.scan::<T>(&(), visit).expect("reads");
    rows
}

#[test]
fn hours_of_coming_and_going_keep_the_peak_and_few_rows() {
    let mut harness = harness();
    let mut there = BTreeSet::new();
    let (mut peak, mut peak_at) = (0, 0);
    // A repeatable shuffle: who comes or goes at each step.
    let mut state = 7_u64;
    let mut chunks_max = 0;
    for step in 0..40_000_i64 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let who = (state >> 33) % 3_000;
        let name = format!("v{who}");
        let now = step * 250;
        // More come in the first hour, more go in the second.
        let comes = (state >> 20) % 100 < if step < 14_000 { 60 } else { 45 };
        if comes {
            at(&mut harness, now, joined(ROOM, &name));
            there.insert(who);
        } else {
            at(&mut harness, now, left(ROOM, &name));
            there.remove(&who);
        }
        if there.len() > peak {
            (peak, peak_at) = (there.len(), START_MS + now);
        }
        if step % 500 == 0 {
            harness.commit(100_000);
            chunks_max = chunks_max.max(rows::<tables::Chunks>(&harness));
            let online = room_online(&harness, ROOM, START_MS + now);
            assert_eq!(online["now"], json!(there.len()), "at step {step}");
            assert_eq!((&online["peak"], &online["peak_at"]), (&json!(peak), &json!(peak_at)), "at step {step}");
        }
    }
    harness.commit(usize::MAX);
    assert!(chunks_max <= 33, "{chunks_max} rows of changes: the window of 10 min and two more");
    assert!(rows::<tables::Recent>(&harness) <= 32);
    let end_ms = START_MS + 40_000 * 250;
    let recent = viewers(&harness, ROOM, "recent", end_ms, 5_000);
    assert_eq!(recent.len(), 1_000);
    let came: Vec<i64> = recent.iter().map(|v| v["joined_at"].as_i64().expect("a time")).collect();
    assert!(came.is_sorted_by(|a, b| a >= b));
    let online = viewers(&harness, ROOM, "watch", end_ms, 5_000).iter().filter(|v| v["online"] == true).count();
    assert_eq!(online, there.len());
    let mut ranked = Vec::new();
    let query = RankQuery { keep: 10, ..RankQuery::all("online") };
    read(&harness, end_ms, |cx| Presence.rank_rooms(cx, query, &mut |room| ranked.push(room))).expect("reads");
    assert_eq!((ranked.len(), ranked[0].score), (1, there.len() as u64));
}

#[test]
fn what_comes_after_the_window_changes_who_is_there_but_no_folded_peak() {
    let mut harness = harness();
    for (n, name) in ["ann", "bob", "cy"].iter().enumerate() {
        at(&mut harness, n as i64, joined(ROOM, name));
    }
    // An hour later, one of them turns out to have left before the others came.
    at(&mut harness, 3_600_000, joined(ROOM, "dan"));
    apply(&mut harness, &envelope(START_MS + 1, START_MS + 3_600_001, "ios", left(ROOM, "ann")));
    // And one who left is told to have come before: nothing changes.
    at(&mut harness, 3_600_002, left(ROOM, "bob"));
    at(&mut harness, 9_000_000, left(ROOM, "bob"));
    apply(&mut harness, &envelope(START_MS + 500, START_MS + 9_000_001, "ios", joined(ROOM, "bob")));
    harness.commit(usize::MAX);
    let online = room_online(&harness, ROOM, START_MS + 9_000_002);
    let expected = json!({"now": 2, "peak": 3, "peak_at": START_MS + 2, "distinct": 4, "too_late": 2});
    assert_eq!(online, expected);
    let watch: Vec<Json> =
        viewers(&harness, ROOM, "watch", START_MS + 9_000_002, 9).iter().map(|v| v["watch"]["ms"].clone()).collect();
    assert_eq!(watch, [json!(9_000_000), json!(5_400_002), json!(3_600_001), json!(1)]);
}

#[test]
fn a_disbanded_room_is_empty_and_may_be_filled_anew() {
    let mut harness = harness();
    for n in 0..50 {
        at(&mut harness, n, joined(ROOM, &format!("v{n}")));
    }
    at(&mut harness, 1_000, destroyed(ROOM));
    // Words about the former room: they change nothing that the disbanding has not changed.
    at(&mut harness, 2_000, left(ROOM, "v1"));
    at(&mut harness, 2_100, moves(ROOM, "v2", 0, vec![gone(2_100)]));
    apply(&mut harness, &envelope(START_MS + 900, START_MS + 2_200, "ios", left(ROOM, "v3")));
    harness.commit(0);
    harness.restart().expect("reads back");
    assert_eq!(room_online(&harness, ROOM, START_MS + 999)["now"], 49);
    assert_eq!(room_online(&harness, ROOM, START_MS + 2_500)["now"], 0);
    at(&mut harness, 3_000, joined(ROOM, "v1"));
    at(&mut harness, 3_001, joined(ROOM, "new"));
    at(&mut harness, 3_600_000, left(ROOM, "new"));
    at(&mut harness, 3_600_001, left(ROOM, "v7"));
    harness.commit(usize::MAX);
    let online = room_online(&harness, ROOM, START_MS + 3_700_000);
    assert_eq!((&online["now"], &online["peak"], &online["distinct"]), (&json!(1), &json!(50), &json!(51)));
    let watched = |name: &str| {
        let all = viewers(&harness, ROOM, "watch", START_MS + 3_700_000, 99);
        all.iter().find(|v| v["account"] == *name).map(|v| (v["online"].clone(), v["watch"]["ms"].clone()))
    };
    assert_eq!(watched("v7"), Some((json!(false), json!(993))));
    assert_eq!(watched("v20"), Some((json!(false), json!(980))));
    assert_eq!(watched("v3"), Some((json!(false), json!(897))));
    assert_eq!(watched("v1"), Some((json!(true), json!(999 + 3_697_000))));
}

#[test]
fn a_count_that_moved_by_enough_is_told_once() {
    let mut harness = harness();
    let mut told = Vec::new();
    let mut tell = |harness: &mut Harness| {
        for intent in &harness.effects.intents {
            assert_eq!((intent.kind, intent.app), ("online_moved", APP));
            told.push((intent.key.clone(), intent.fields["before"].clone(), intent.fields["online"].clone()));
        }
    };
    for n in 0..25 {
        at(&mut harness, n * 100, joined(ROOM, &format!("v{n}")));
        tell(&mut harness);
    }
    for n in 0..12 {
        at(&mut harness, 10_000 + n * 100, left(ROOM, &format!("v{n}")));
        tell(&mut harness);
    }
    // 10 is the least that is told.
    let expected = [("room/9", 0, 10), ("room/19", 10, 20)];
    let expected: Vec<_> =
        expected.iter().map(|(key, before, now)| ((*key).to_owned(), json!(before), json!(now))).collect();
    assert_eq!(told, expected, "13 are there at the end, 7 fewer than were told");
    harness.rules.notify.online_percent = 0;
    for n in 25..80 {
        at(&mut harness, 20_000 + n * 100, joined(ROOM, &format!("v{n}")));
        assert!(harness.effects.intents.is_empty());
    }
}

#[test]
fn a_count_is_told_for_its_share_or_for_its_number() {
    // (per cent, number), how many joined one after the other, and the counts that are told; 10 is the least of a share.
    let cases: [((u64, u64), i64, &[u64]); 4] = [
        ((20, 0), 30, &[10, 20, 30]),
        ((0, 7), 30, &[7, 14, 21, 28]),
        ((20, 15), 120, &[10, 20, 30, 40, 50, 61, 74, 89, 104, 119]),
        ((0, 0), 30, &[]),
    ];
    for ((percent, number), joins, expected) in cases {
        let mut harness = harness();
        (harness.rules.notify.online_percent, harness.rules.notify.online_number) = (percent, number);
        let mut told = Vec::new();
        for n in 0..joins {
            at(&mut harness, n * 100, joined(ROOM, &format!("v{n}")));
            told.extend(harness.effects.intents.iter().filter_map(|intent| intent.fields["online"].as_u64()));
        }
        assert_eq!(told, expected, "{percent} per cent or {number}");
    }
}

#[test]
fn ends_that_an_idle_time_out_has_placed_do_not_outlive_it() {
    let minute = 60_000;
    let online = |harness: &Harness, at_ms: i64| {
        let there =
            viewers(harness, ROOM, "watch", START_MS + at_ms, 999).iter().filter(|v| v["online"] == true).count();
        (room_online(harness, ROOM, START_MS + at_ms)["now"].as_u64().expect("a number"), there as u64)
    };
    // From one time-out to another after some minutes, in minutes; how many of 100 silent viewers are there at 11 and 41,
    // and at 60, when one of them and somebody else have joined.
    let cases = [
        ((10, 0), 5, (100, 100, 101)),
        ((10, 0), 30, (0, 100, 101)),
        ((10, 30), 5, (100, 100, 101)),
        ((10, 10), 5, (0, 0, 2)),
        ((0, 10), 5, (100, 100, 101)),
    ];
    for ((from, to), after, expected) in cases {
        for touched in [false, true] {
            let mut harness = harness();
            let check = |harness: &mut Harness, minutes: i64, expected: u64| {
                let rules = if minutes < after { from } else { to };
                harness.rules.presence.idle_timeout_ms = rules * 60_000;
                harness.commit(0);
                harness.restart().expect("reads back");
                let at_ms = minutes * minute;
                assert_eq!(online(harness, at_ms), (expected, expected), "{from} to {to} after {after}, at {minutes}");
                if touched {
                    at(harness, at_ms, left(ROOM, "nobody"));
                    harness.commit(0);
                    assert_eq!(online(harness, at_ms), (expected, expected), "touched, {from} to {to}, at {minutes}");
                }
            };
            harness.rules.presence.idle_timeout_ms = from * 60_000;
            for n in 0..100 {
                at(&mut harness, n, joined(ROOM, &format!("v{n}")));
            }
            check(&mut harness, 4, 100);
            check(&mut harness, 11, expected.0);
            check(&mut harness, 41, expected.1);
            at(&mut harness, 60 * minute, joined(ROOM, "v7"));
            at(&mut harness, 60 * minute, joined(ROOM, "other"));
            check(&mut harness, 60, expected.2);
        }
    }
}

#[test]
fn pages_of_viewers_follow_each_other_without_gap_or_repeat() {
    let mut harness = harness();
    for n in 0..23_i64 {
        at(&mut harness, n / 3, joined(ROOM, &format!("v{n}")));
    }
    for n in 0..9_i64 {
        at(&mut harness, 100 + n, left(ROOM, &format!("v{n}")));
    }
    harness.commit(usize::MAX);
    for sort in ["recent", "watch"] {
        let page = |limit, after: Option<&str>| {
            read(&harness, START_MS + 1_000, |cx| Presence.viewers(cx, ROOM, sort, limit, after))
                .expect("reads")
                .expect("our own token")
        };
        let whole = page(100, None);
        assert_eq!((whole.viewers.len(), whole.next), (23, None));
        let (mut paged, mut token) = (Vec::new(), None);
        loop {
            let next = page(4, token.as_deref());
            paged.extend(next.viewers);
            token = next.next;
            if token.is_none() {
                break;
            }
        }
        assert_eq!(paged, whole.viewers, "{sort}");
        for token in ["", "x", "1", "-1.user", "99999999999999999999.user"] {
            let refused = read(&harness, START_MS, |cx| Presence.viewers(cx, ROOM, sort, 4, Some(token)));
            assert!(refused.expect("reads").is_none(), "{token:?}");
        }
    }
    assert!(harness.store.get::<tables::Rooms>(&(APP, "other")).expect("reads").is_none());
}
