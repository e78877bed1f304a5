//! What accounts tell their rooms: going, reconnecting, starting anew, in every order in which it can come.

mod common;

use std::collections::BTreeMap;

use barrage_event::derived::Derived;
use barrage_event::rules::RuleSet;
use barrage_event::{EnvelopeView, Topic};
use barrage_presence::tables;
use barrage_projection::ReaderExt as _;
use barrage_projection::memory::Harness;
use barrage_projection::world::World;
use common::{APP, START_MS, envelope, joined, left, member_state, message, state_change, user_rooms, viewers};
use proptest::prelude::*;
use prost::Message as _;

const WHO: &str = "ann";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Login(&'static str),
    Logout(&'static str),
    Lost(&'static str),
    Join(&'static str),
    JoinFromWeb(&'static str),
    Exit(&'static str),
    Interrupted(&'static str),
    Recovered(&'static str),
    Message(&'static str),
}
use What::{Exit, Interrupted, Join, JoinFromWeb, Login, Logout, Lost, Message, Recovered};

/// The records of what happened, for the account and for the room where it concerns one.
fn records(at: i64, what: What) -> Vec<(Topic, Vec<u8>)> {
    let at_ms = START_MS + at;
    let (platform, event) = match what {
        Login(p) => (p, state_change(WHO, 1, "Register")),
        Logout(p) => (p, state_change(WHO, 2, "Unregister")),
        Lost(p) => (p, state_change(WHO, 3, "LinkClose")),
        Join(room) => ("ios", joined(room, WHO)),
        JoinFromWeb(room) => ("web", joined(room, WHO)),
        Exit(room) => ("ios", left(room, WHO)),
        Interrupted(room) => ("", member_state(room, WHO, false, 3)),
        Recovered(room) => ("", member_state(room, WHO, true, 4)),
        Message(room) => ("ios", message(room, WHO)),
    };
    let bytes = envelope(at_ms, at_ms, platform, event);
    match what {
        Login(_) | Logout(_) | Lost(_) => vec![(Topic::User, bytes)],
        _ => vec![(Topic::Room, bytes.clone()), (Topic::User, bytes)],
    }
}

fn play(rules: &RuleSet, events: &[(i64, What)]) -> World {
    let mut world = common::world(rules);
    for &(at, what) in events {
        for (topic, bytes) in records(at, what) {
            world.record(topic, &bytes);
        }
    }
    world.commit();
    world
}

/// What happened, with ms after the start.
type Happened = Vec<(i64, What)>;

/// A move, in ms after the start.
type Moved = (i64, Moves);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moves {
    /// It may have gone up to so long before.
    Gone(u64),
    Back,
    /// It seems to have begun anew.
    MaybeBack,
    /// By a connection whose predecessor may have been lost up to so long before.
    Replaced(u64),
}

/// What a room knows after a derived event: all moves.
type Told = (&'static str, Vec<Moved>);

fn derived(rules: &RuleSet, events: &[(i64, What)]) -> Vec<Told> {
    let mut world = common::world(rules);
    let mut all: Vec<Derived> = Vec::new();
    for &(at, what) in events {
        for (topic, bytes) in records(at, what) {
            if topic == Topic::User {
                let view = EnvelopeView::decode(&bytes).expect("ours");
                world.users.apply(&view).expect("applies");
                all.append(&mut world.users.effects.derived);
            }
        }
    }
    let mut known: BTreeMap<&str, Vec<Moved>> = BTreeMap::new();
    let told = |d: Derived| {
        assert_eq!(d.account, WHO);
        let room = ["a", "b", "c"].into_iter().find(|room| *room == d.group_id).expect("one of ours");
        let known = known.entry(room).or_default();
        known.retain(|(at, ..)| START_MS + at < d.from_ms);
        known.extend(d.moves.iter().map(|one| {
            let moves = match (one.back, one.maybe, one.uncertain_ms) {
                (false, false, ms) => Moves::Gone(ms),
                (true, false, 0) => Moves::Back,
                (true, true, 0) => Moves::MaybeBack,
                (true, false, ms) => Moves::Replaced(ms),
                (_, true, _) => panic!("{one:?}"),
            };
            (one.at_ms - START_MS, moves)
        }));
        (room, known.clone())
    };
    all.into_iter().map(told).collect()
}

fn now(world: &World, room: &str, at: i64) -> u64 {
    world.room(room, START_MS + at).get("online").and_then(|online| online["now"].as_u64()).unwrap_or(0)
}

/// A table of (name, what happens in rooms a and b, what they are told).
fn tells(cases: Vec<(&str, Happened, Vec<Told>)>) {
    let open = [(0, Login("ios")), (1_000, Join("a")), (2_000, Join("b"))];
    for (name, more, expected) in cases {
        let events: Vec<_> = open.iter().copied().chain(more).collect();
        assert_eq!(derived(&RuleSet::default(), &events), expected, "{name}");
    }
}

const fn gone(at: i64, uncertain_ms: u64) -> Moved {
    (at, Moves::Gone(uncertain_ms))
}

const fn back(at: i64) -> Moved {
    (at, Moves::Back)
}

const fn maybe_back(at: i64) -> Moved {
    (at, Moves::MaybeBack)
}

const fn replaced(at: i64, uncertain_ms: u64) -> Moved {
    (at, Moves::Replaced(uncertain_ms))
}

#[test]
fn rooms_hear_of_going() {
    tells(vec![
        (
            "a logout is exact",
            vec![(5_000, Logout("ios"))],
            vec![("a", vec![gone(5_000, 0)]), ("b", vec![gone(5_000, 0)])],
        ),
        (
            "a lost connection is as uncertain as the last sign of life is old",
            vec![(62_000, Lost("ios"))],
            vec![("a", vec![gone(62_000, 60_000)]), ("b", vec![gone(62_000, 60_000)])],
        ),
        (
            "a sign of life that is told late makes that more certain",
            vec![(4_000, Exit("b")), (62_000, Lost("ios")), (52_000, Message("a"))],
            // A message was sent up to a second before it was delivered.
            vec![("a", vec![gone(62_000, 58_000)]), ("a", vec![gone(62_000, 11_000)])],
        ),
        ("another device stays", vec![(3_000, Login("web")), (5_000, Logout("ios"))], vec![]),
        (
            "what it left is not told",
            vec![(4_000, Exit("a")), (5_000, Logout("ios"))],
            vec![("b", vec![gone(5_000, 0)])],
        ),
        (
            "an exit that is told late takes back what the room was told",
            vec![(4_000, Exit("a")), (8_000, Logout("ios")), (6_000, Exit("b"))],
            vec![("b", vec![gone(8_000, 0)]), ("b", vec![])],
        ),
    ]);
}

#[test]
fn rooms_hear_of_reconnecting() {
    tells(vec![
        (
            "a reconnection within the grace",
            vec![(4_000, Exit("b")), (10_000, Lost("ios")), (100_000, Login("ios"))],
            vec![("a", vec![gone(10_000, 6_000)]), ("a", vec![gone(10_000, 6_000), back(100_000)])],
        ),
        (
            "after the grace it is none",
            vec![(4_000, Exit("b")), (10_000, Lost("ios")), (130_001, Login("ios"))],
            vec![("a", vec![gone(10_000, 6_000)])],
        ),
        (
            "nor after a logout",
            vec![(4_000, Exit("b")), (10_000, Logout("ios")), (20_000, Login("ios"))],
            vec![("a", vec![gone(10_000, 0)])],
        ),
        (
            "unless it was pushed out by that login",
            vec![(4_000, Exit("b")), (10_000, Logout("ios")), (10_020, Login("ios"))],
            vec![("a", vec![gone(10_000, 0)]), ("a", vec![])],
        ),
        (
            "nor when it left a room meanwhile",
            vec![(10_000, Lost("ios")), (61_000, Exit("b")), (70_000, Login("ios"))],
            vec![("a", vec![gone(10_000, 8_000)]), ("b", vec![gone(10_000, 8_000)])],
        ),
        (
            "nor when that exit is told before the loss",
            vec![(61_000, Exit("b")), (10_000, Lost("ios")), (70_000, Login("ios"))],
            vec![("a", vec![gone(10_000, 8_000)]), ("b", vec![gone(10_000, 8_000)])],
        ),
        (
            "nor when it joins at once: then it was not back after all",
            vec![(4_000, Exit("b")), (10_000, Lost("ios")), (70_000, Login("ios")), (71_000, Join("b"))],
            vec![
                ("a", vec![gone(10_000, 6_000)]),
                ("a", vec![gone(10_000, 6_000), back(70_000)]),
                ("a", vec![gone(10_000, 6_000), maybe_back(70_000)]),
            ],
        ),
        (
            "a join that is told after the going",
            vec![(10_000, Lost("ios")), (5_000, Join("c"))],
            vec![
                ("a", vec![gone(10_000, 8_000)]),
                ("b", vec![gone(10_000, 8_000)]),
                ("a", vec![gone(10_000, 5_000)]),
                ("b", vec![gone(10_000, 5_000)]),
                ("c", vec![gone(10_000, 5_000)]),
            ],
        ),
        (
            "a going that was none: another device had connected before",
            vec![(4_000, Exit("b")), (10_000, Lost("ios")), (9_000, Login("web"))],
            vec![("a", vec![gone(10_000, 6_000)]), ("a", vec![])],
        ),
        (
            "a member state soon after is no join",
            vec![(10_000, Lost("ios")), (20_000, Login("ios")), (20_010, Recovered("b")), (20_020, Login("web"))],
            vec![
                ("a", vec![gone(10_000, 8_000)]),
                ("b", vec![gone(10_000, 8_000)]),
                ("a", vec![gone(10_000, 8_000), back(20_000)]),
                ("b", vec![gone(10_000, 8_000), back(20_000)]),
            ],
        ),
        (
            "what the platform told to have left is not told again, nor that it is back",
            vec![(4_000, Exit("b")), (5_000, Interrupted("a")), (10_000, Lost("ios")), (20_000, Login("ios"))],
            vec![],
        ),
    ]);
}

#[test]
fn rooms_hear_of_connections_that_were_replaced() {
    tells(vec![
        (
            "a join after the next login says nothing of the one before",
            vec![
                (4_000, Exit("b")),
                (10_000, Lost("ios")),
                (70_000, Login("ios")),
                (79_000, Login("ios")),
                (79_500, Join("a")),
            ],
            vec![
                ("a", vec![gone(10_000, 6_000)]),
                ("a", vec![gone(10_000, 6_000), back(70_000)]),
                ("a", vec![gone(10_000, 6_000), back(70_000), replaced(79_000, 9_000)]),
                ("a", vec![gone(10_000, 6_000), back(70_000), gone(79_000, 9_000), maybe_back(79_000)]),
            ],
        ),
        (
            "of a connection that was replaced no loss was told: it may go to one more room",
            vec![(4_000, Exit("b")), (20_000, Login("ios")), (21_000, Join("b"))],
            // Of the signs of life of a minute with a login in it the first and the last are known.
            vec![("a", vec![replaced(20_000, 16_000)]), ("a", vec![replaced(20_000, 19_000)])],
        ),
        (
            "but who joins where it is has begun anew, unless it left",
            vec![(20_000, Login("ios")), (22_000, Join("b")), (21_000, Exit("a"))],
            vec![
                ("a", vec![replaced(20_000, 18_000)]),
                ("b", vec![replaced(20_000, 18_000)]),
                ("a", vec![gone(20_000, 19_000), maybe_back(20_000)]),
                ("b", vec![gone(20_000, 19_000), maybe_back(20_000)]),
                ("a", vec![replaced(20_000, 19_000)]),
                ("b", vec![replaced(20_000, 19_000)]),
            ],
        ),
    ]);
}

#[test]
fn a_viewer_without_state_changes_goes_by_its_exits_alone() {
    let world = play(&RuleSet::default(), &[(0, Join("a")), (5_000, Exit("a")), (6_000, Join("b"))]);
    assert_eq!((now(&world, "a", 7_000), now(&world, "b", 7_000)), (0, 1));
    assert_eq!(user_rooms(&world.users, WHO, START_MS + 7_000), serde_json::json!(["b"]));
}

#[test]
fn the_example_of_the_documentation() {
    let minute = 60_000;
    let mut world = common::world(&RuleSet::default());
    let told = |world: &mut World, topic: Topic, at: i64, received: i64, event| {
        world.record(topic, &envelope(START_MS + at, START_MS + received, "ios", event));
        world.commit();
    };
    told(&mut world, Topic::User, 0, 0, state_change(WHO, 1, "Register"));
    for topic in [Topic::Room, Topic::User] {
        told(&mut world, topic, 0, 0, joined("a", WHO));
        told(&mut world, topic, minute, minute, joined("a", "bob"));
    }
    let custom_status = state_change(WHO, 4, "SetCustomStatus");
    told(&mut world, Topic::User, 4 * minute, 4 * minute, custom_status);
    assert_eq!(now(&world, "a", 8 * minute - 1), 2);
    told(&mut world, Topic::User, 8 * minute, 8 * minute, state_change(WHO, 3, "LinkClose"));
    assert_eq!(now(&world, "a", 8 * minute), 1);
    let watch = |world: &World, who: &str, at: i64| {
        let all = viewers(&world.rooms, "a", "watch", START_MS + at, 9);
        all.into_iter().find(|v| v["account"] == *who).and_then(|mut v| v.remove("watch"))
    };
    let expected = serde_json::json!({"ms": 480_000, "lower_ms": 240_000, "upper_ms": 480_000});
    assert_eq!(watch(&world, WHO, 8 * minute), Some(expected));
    told(&mut world, Topic::Room, 6 * minute, 9 * minute, left("a", "bob"));
    assert_eq!(now(&world, "a", 9 * minute), 0);
    let expected = serde_json::json!({"ms": 300_000, "lower_ms": 300_000, "upper_ms": 300_000});
    assert_eq!(watch(&world, "bob", 9 * minute), Some(expected));
    told(&mut world, Topic::User, 9 * minute + 30_000, 9 * minute + 30_000, state_change(WHO, 1, "Register"));
    assert_eq!(now(&world, "a", 10 * minute), 1);
    let online = world.room("a", START_MS + 10 * minute);
    assert_eq!((&online["online"]["peak"], &online["online"]["peak_at"]), (&2.into(), &(START_MS + minute).into()));
}

#[test]
fn the_webs_second_room_leaves_the_first_when_the_rules_say_so() {
    let mut one_room = RuleSet::default();
    one_room.presence.web_one_room = true;
    let events = [(0, JoinFromWeb("a")), (5_000, JoinFromWeb("b")), (9_000, JoinFromWeb("c"))];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let events = order.map(|index| events[index]);
        let world = play(&one_room, &events);
        assert_eq!(["a", "b", "c"].map(|room| now(&world, room, 10_000)), [0, 0, 1], "{order:?}");
        assert_eq!(["a", "b", "c"].map(|room| now(&world, room, 6_000)), [0, 1, 0], "{order:?}");
        assert_eq!(user_rooms(&world.users, WHO, START_MS + 10_000), serde_json::json!(["c"]), "{order:?}");
        let world = play(&RuleSet::default(), &events);
        assert_eq!(["a", "b", "c"].map(|room| now(&world, room, 10_000)), [1, 1, 1], "{order:?}");
    }
    // Rooms joined from a phone stay.
    let world = play(&one_room, &[(0, Join("a")), (5_000, JoinFromWeb("b"))]);
    assert_eq!((now(&world, "a", 6_000), now(&world, "b", 6_000)), (1, 1));
}

/// Loses its connection and is back, so many times, every ten seconds from the tenth on.
fn flaps(times: i64) -> Vec<(i64, What)> {
    (1..=times).flat_map(|n| [(n * 10_000, Lost("ios")), (n * 10_000 + 5_000, Login("ios"))]).collect()
}

#[test]
fn a_room_that_hears_of_a_restless_viewer_at_once_counts_all_of_it() {
    // 45 losses and returns, and then a join before them comes late.
    let before = [(0, Login("ios"))].into_iter().chain(flaps(45));
    let mut events: Vec<_> = before.chain([(1_000, Join("a"))]).collect();
    for more in [vec![], vec![(500_000, Exit("a"))]] {
        let there = u64::from(more.is_empty());
        events.extend(more);
        let mut world = play(&RuleSet::default(), &events);
        for name in ["x", "y", "z"] {
            world.record(Topic::Room, &envelope(START_MS + 500_001, START_MS + 500_001, "ios", joined("a", name)));
        }
        world.commit();
        assert_eq!((now(&world, "a", 499_000), now(&world, "a", 501_000)), (1, 3 + there));
        let viewers = viewers(&world.rooms, "a", "watch", START_MS + 501_000, 9);
        let online = viewers.iter().filter(|v| v["online"] == true).count() as u64;
        assert_eq!(online, 3 + there);
        let ann = viewers.iter().find(|v| v["account"] == WHO).expect("she was there");
        // From 1 s to 500 s or 501 s, without 45 times 5 s.
        assert_eq!(ann["watch"]["ms"], 274_000 + 1_000 * there);
        assert_eq!(world.room("a", START_MS + 501_000)["online"]["too_late"], 0);
        let row = world.rooms.store.get::<tables::Members>(&(APP, "a", WHO)).expect("reads").expect("it is there");
        assert!(row.recent.len() <= 32, "{} moments", row.recent.len());
    }
}

#[test]
fn who_comes_and_goes_all_the_time_takes_no_more_room_than_others() {
    let rooms: Vec<String> = (0..64).map(|n| format!("room-{n}")).collect();
    // With joins and exits in between what followed from earlier ones may be told anew.
    for (moving, longest_max) in [(false, 1), (true, 40)] {
        let mut users = common::world(&RuleSet::default()).users;
        let (mut at, mut longest, mut largest) = (0, 0, 0);
        let mut told = |users: &mut Harness, event| {
            at += 200;
            let bytes = envelope(START_MS + at, START_MS + at, "ios", event);
            users.apply(&EnvelopeView::decode(&bytes).expect("ours")).expect("applies");
            longest = users.effects.derived.iter().map(|derived| derived.moves.len()).fold(longest, usize::max);
        };
        told(&mut users, state_change(WHO, 1, "Register"));
        for room in &rooms {
            told(&mut users, joined(room, WHO));
        }
        // Five times a second, for as long as anything can change.
        for n in 0..3_700 {
            let lost = n % 2 == 0;
            told(&mut users, state_change(WHO, if lost { 3 } else { 1 }, "LinkClose"));
            match n % 50 {
                17 if moving => told(&mut users, left(&rooms[n % 64], WHO)),
                34 if moving => rooms.iter().for_each(|room| told(&mut users, joined(room, WHO))),
                49 => told(&mut users, message(&rooms[0], WHO)),
                _ => {}
            }
            if n % 100 == 0 {
                users.commit(usize::MAX);
                let row = users.store.get::<tables::Accounts>(&(APP, WHO)).expect("reads").expect("it is there");
                largest = largest.max(row.encoded_len());
                assert!(row.rooms.iter().all(|room| room.told.len() <= 32 && room.entries.len() <= 32), "at {n}");
            }
        }
        println!("moving {moving}: a row of up to {largest} bytes, up to {longest} moves at once");
        assert!(largest < 64 * 1_024, "{largest} bytes");
        assert!(longest <= longest_max, "{longest} moves at once");
    }
}

#[test]
fn what_decided_about_a_return_counts_as_long_as_the_return_can_change() {
    // The app dies in b and is started anew in a: no return to b, however often the connection goes from then on.
    let started = [
        (0, Login("ios")),
        (1_000, Join("b")),
        (5_000, Lost("ios")),
        (6_000, Login("ios")),
        (7_000, Join("a")),
        (8_000, Message("a")),
    ];
    for times in [5, 10, 16, 17, 18, 20, 33, 47, 60] {
        let events: Vec<_> = started.into_iter().chain(flaps(times)).collect();
        let world = play(&RuleSet::default(), &events);
        let at = times * 10_000 + 5_000;
        assert_eq!((now(&world, "a", at), now(&world, "b", at)), (1, 0), "after {times} times");
        assert_eq!(user_rooms(&world.users, WHO, START_MS + at), serde_json::json!(["a"]), "after {times} times");
    }
}

#[test]
fn a_viewer_who_joins_soon_after_a_login_may_have_been_there_since_that() {
    // Lost, or replaced by the next login; then the room shows nothing until the join.
    let lost: Happened = vec![(0, Login("ios")), (0, Join("a")), (60_000, Lost("ios")), (70_000, Login("ios"))];
    let replaced: Happened = vec![(0, Login("ios")), (0, Join("a")), (60_000, Login("ios"))];
    for (start, back_ms) in [(lost, 70_000), (replaced, 60_000)] {
        let events: Happened = start.into_iter().chain([(back_ms + 9_000, Join("a")), (100_000, Exit("a"))]).collect();
        for order in permutations(events.len()) {
            let arrival: Vec<_> = order.iter().map(|&index| events[index]).collect();
            let world = play(&RuleSet::default(), &arrival);
            let watch = viewers(&world.rooms, "a", "watch", START_MS + 200_000, 1)[0]["watch"].clone();
            let watched = 60_000 + (100_000 - back_ms - 9_000);
            let found = (watch["ms"].as_i64(), watch["upper_ms"].as_i64());
            assert_eq!(found, (Some(watched), Some(watched + 9_000)), "{arrival:?}");
        }
    }
}

#[test]
fn a_viewer_whose_account_is_back_certainly_watches_when_the_room_shows_it() {
    let second = 1_000;
    // Joined, lost (up to 400 s before it was told) and back in the lobby or in the room: nobody knows.
    let start = [(0, Login("ios")), (0, Join("a")), (600 * second, Lost("ios")), (630 * second, Login("ios"))];
    let cases: [(&str, Happened, u64); 6] = [
        ("nothing shows it", vec![(2_400, Logout("ios"))], 200),
        ("an exit", vec![(2_400, Exit("a"))], 200 + 1_770),
        ("the platform saw it go", vec![(2_400, Interrupted("a"))], 200 + 1_720),
        ("it joins: from there on", vec![(1_000, Join("a")), (2_400, Logout("ios"))], 200 + 1_400),
        ("the platform sees it: from there on", vec![(1_000, Recovered("a")), (2_400, Logout("ios"))], 200 + 1_400),
        (
            "the second return is as doubtful as the first",
            vec![(1_000, Lost("ios")), (1_030, Login("ios")), (2_430, Exit("a"))],
            200 + 1_400,
        ),
    ];
    for (name, more, lower) in cases {
        let events: Vec<_> = start.into_iter().chain(more.into_iter().map(|(at, what)| (at * second, what))).collect();
        let world = play(&RuleSet::default(), &events);
        let watch = viewers(&world.rooms, "a", "watch", START_MS + 3_000 * second, 1)[0]["watch"].clone();
        assert_eq!((&watch["ms"], &watch["lower_ms"]), (&2_370_000.into(), &(lower * 1_000).into()), "{name}");
    }
    // Messages in the room are kept with an idle time-out alone.
    for (idle_ms, lower) in [(0, 200), (3_600_000, 200 + 1_770)] {
        let mut rules = RuleSet::default();
        rules.presence.idle_timeout_ms = idle_ms;
        let message = [(1_000 * second, Message("a")), (2_400 * second, Logout("ios"))];
        let world = play(&rules, &start.into_iter().chain(message).collect::<Vec<_>>());
        let watch = viewers(&world.rooms, "a", "watch", START_MS + 3_000 * second, 1)[0]["watch"].clone();
        assert_eq!((&watch["ms"], &watch["lower_ms"]), (&2_370_000.into(), &(lower * 1_000).into()), "{idle_ms}");
    }
}

/// Whether the account is in room `a` at the end: its connection and its joins and exits in order of time.
fn reference(events: &[(i64, What)]) -> bool {
    let mut sorted = events.to_vec();
    sorted.sort_by_key(|(at, _)| *at);
    let (mut connected, mut there, mut by_loss, mut lost_at) = (false, false, false, 0);
    for &(at, what) in &sorted {
        match what {
            Login(_) => {
                if !connected && by_loss && at - lost_at <= 120_000 {
                    there = true;
                }
                by_loss = false;
                connected = true;
            }
            Lost(_) => {
                if connected {
                    (by_loss, lost_at, there) = (there, at, false);
                }
                connected = false;
            }
            Join(_) => (there, by_loss) = (true, false),
            Exit(_) => (there, by_loss) = (false, false),
            Logout(_) | JoinFromWeb(_) | Interrupted(_) | Recovered(_) | Message(_) => {}
        }
    }
    there
}

fn histories() -> impl Strategy<Value = Vec<(i64, What)>> {
    let what = prop_oneof![Just(Login("ios")), Just(Lost("ios")), Just(Join("a")), Just(Exit("a"))];
    prop::collection::btree_map(0_i64..20, what, 1..7).prop_map(|events| {
        // Far enough from each other that no join belongs to a login. Nobody joins without a connection, nor loses one
        // that is not there.
        let mut connected = true;
        let events = events.into_iter().map(|(at, what)| ((at + 1) * 25_000, what)).filter(|(_, what)| {
            let fits = connected || matches!(what, Login(_));
            connected = matches!(what, Login(_)) || connected && !matches!(what, Lost(_));
            fits
        });
        std::iter::once((0, Login("ios"))).chain(events).collect()
    })
}

fn anything() -> impl Strategy<Value = What> {
    let platform = prop_oneof![3 => Just("ios"), 1 => Just("web")];
    let room = prop_oneof![2 => Just("a"), 1 => Just("b")];
    prop_oneof![
        3 => platform.clone().prop_map(Login),
        1 => platform.clone().prop_map(Logout),
        3 => platform.prop_map(Lost),
        3 => room.clone().prop_map(Join),
        1 => room.clone().prop_map(JoinFromWeb),
        2 => room.clone().prop_map(Exit),
        1 => room.clone().prop_map(Interrupted),
        1 => room.clone().prop_map(Recovered),
        2 => room.prop_map(Message),
    ]
}

/// All that is answered at the end, and in the middle.
fn answers(world: &World) -> Vec<serde_json::Value> {
    let at = |at: i64| {
        let rooms = ["a", "b"].into_iter().flat_map(move |room| {
            let viewers = ["recent", "watch"].map(|sort| viewers(&world.rooms, room, sort, START_MS + at, 9));
            [serde_json::json!(world.room(room, START_MS + at)), serde_json::json!(viewers)]
        });
        rooms.chain([serde_json::json!(world.user(WHO, START_MS + at))]).collect::<Vec<_>>()
    };
    [200_000, 500_000].into_iter().flat_map(at).collect()
}

fn permutations(count: usize) -> Vec<Vec<usize>> {
    (0..count).fold(vec![Vec::new()], |all, next| {
        let grown = all.iter().flat_map(|p| {
            (0..=p.len()).map(move |at| {
                let mut p = p.clone();
                p.insert(at, next);
                p
            })
        });
        grown.collect()
    })
}

/// All orders in which two lists can be merged that keep the order of each.
fn interleavings(a: usize, b: usize) -> Vec<Vec<bool>> {
    match (a, b) {
        (0, b) => vec![vec![false; b]],
        (a, 0) => vec![vec![true; a]],
        (a, b) => {
            let from_a = interleavings(a - 1, b).into_iter().map(|mut rest| {
                rest.push(true);
                rest
            });
            let from_b = interleavings(a, b - 1).into_iter().map(|mut rest| {
                rest.push(false);
                rest
            });
            from_a.chain(from_b).collect()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// What is called back comes in any order.
    #[test]
    fn short_histories_end_the_same_in_every_order_of_arrival(events in histories()) {
        let expected = reference(&events);
        for order in permutations(events.len()) {
            let arrival: Vec<_> = order.iter().map(|&index| events[index]).collect();
            let world = play(&RuleSet::default(), &arrival);
            prop_assert_eq!(now(&world, "a", 600_000), u64::from(expected), "{:?}", arrival);
            let rooms = user_rooms(&world.users, WHO, START_MS + 600_000);
            let told = rooms.as_array().is_some_and(|rooms| !rooms.is_empty());
            prop_assert_eq!(told, expected, "the account's own rooms {:?} of {:?}", rooms, arrival);
        }
    }

    /// Also where nobody can say what it should be: every answer is the same in every order.
    #[test]
    fn whatever_happens_the_order_of_arrival_changes_no_answer(
        events in prop::collection::vec((0_i64..24, anything()), 1..6),
        one_room in any::<bool>(),
    ) {
        let mut rules = RuleSet::default();
        rules.presence.web_one_room = one_room;
        // Some of it within the second of a login that pushes out, or the ten of a join that begins anew.
        let events: Vec<_> = events.into_iter().map(|(at, what)| (at / 3 * 45_000 + at % 3 * 700, what)).collect();
        let mut first = None;
        for order in permutations(events.len()) {
            let arrival: Vec<_> = order.iter().map(|&index| events[index]).collect();
            let answers = answers(&play(&rules, &arrival));
            let (first_arrival, first_answers) = first.get_or_insert_with(|| (arrival.clone(), answers.clone()));
            prop_assert_eq!(&answers, &*first_answers, "\n{:?}\n{:?}", arrival, first_arrival);
        }
    }

    /// Rules change while people come and go: the account and its rooms still agree on where it is.
    #[test]
    fn rooms_and_accounts_agree_across_a_change_of_rules(
        events in prop::collection::vec((0_i64..40, anything()), 1..40),
        changes in prop::collection::vec((0_usize..40, 0_usize..4), 1..4),
    ) {
        let events: Vec<_> = events.into_iter().map(|(at, what)| (at * 14_000, what)).collect();
        let mut world = common::world(&RuleSet::default());
        for (n, &(at, what)) in events.iter().enumerate() {
            for (_, to) in changes.iter().filter(|(when, _)| *when == n) {
                let mut rules = RuleSet::default();
                match to {
                    1 => rules.presence.back_grace_ms = 20_000,
                    2 => rules.presence.web_one_room = true,
                    3 => (rules.duration.session_timeout_ms, rules.duration.native_detection_ms) = (60_000, 1_000),
                    _ => {}
                }
                (world.rooms.rules, world.users.rules) = (rules.clone(), rules);
            }
            for (topic, bytes) in records(at, what) {
                world.record(topic, &bytes);
            }
        }
        world.commit();
        let rooms = user_rooms(&world.users, WHO, START_MS + 600_000);
        for room in ["a", "b"] {
            let listed = rooms.as_array().is_some_and(|rooms| rooms.contains(&room.into()));
            prop_assert_eq!(now(&world, room, 600_000), u64::from(listed), "{} of {:?} {:?}", room, events, changes);
        }
    }

    /// The room's own records and what the account's partition tells come from two places, one as late as it likes.
    #[test]
    fn every_interleaving_of_a_rooms_records_with_what_accounts_tell_is_the_same(events in histories()) {
        let expected = reference(&events);
        let (mut own, mut told) = (Vec::new(), Vec::new());
        let mut users = common::world(&RuleSet::default());
        for &(at, what) in &events {
            for (topic, bytes) in records(at, what) {
                if topic == Topic::Room {
                    own.push(bytes);
                } else {
                    let view = EnvelopeView::decode(&bytes).expect("ours");
                    users.users.apply(&view).expect("applies");
                    let source = barrage_event::Source { offset: u64::try_from(at).expect("not negative"), ..barrage_event::Source::default() };
                    told.extend(users.users.effects.derived.iter().map(|derived| derived.encode(source)));
                }
            }
        }
        for order in interleavings(own.len(), told.len()) {
            let mut world = common::world(&RuleSet::default());
            let (mut own, mut told) = (own.iter(), told.iter());
            for from_own in order {
                let bytes = if from_own { own.next() } else { told.next() };
                world.record(Topic::Room, bytes.expect("as many as there are"));
            }
            world.commit();
            prop_assert_eq!(now(&world, "a", 600_000), u64::from(expected), "{:?}", events);
        }
    }
}
