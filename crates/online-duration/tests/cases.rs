//! The odd cases, one by one, with their numbers.

mod common;

use barrage_event::EnvelopeView;
use barrage_event::rules::RuleSet;
use common::{ANY, Event, Kind, START_MS, ask, harness, record};

const IOS: usize = 0;
const WEB: usize = 1;
const ANDROID: usize = 2;
const HOUR: usize = 3_600_000;

fn event(at: usize, kind: Kind, platform: usize) -> Event {
    Event { at, kind, platform, kicked: Vec::new() }
}

fn kicking(at: usize, platform: usize, kicked: &[usize]) -> Event {
    Event { at, kind: Kind::Login, platform, kicked: kicked.to_vec() }
}

/// Value, lower and upper bound, and whether it is online.
fn after(events: &[Event], asked: usize) -> (u64, u64, u64, bool) {
    let mut harness = harness(RuleSet::default());
    for event in events {
        harness.apply(&EnvelopeView::decode(&record(event, 0)).expect("ours")).expect("applies");
    }
    harness.commit(usize::MAX);
    let answer = ask(&harness, START_MS + asked as i64);
    (answer.ms, answer.lower_ms, answer.upper_ms, answer.now)
}

/// Name, what happened, the time asked for, and the answer.
type Case = (&'static str, Vec<Event>, usize, (u64, u64, u64, bool));

fn plain_cases() -> Vec<Case> {
    use Kind::{Closed, Login, Logout, Sign};
    let e = event;
    vec![
        ("a session", vec![e(0, Login, IOS), e(10_000, Logout, IOS)], HOUR, (10_000, 10_000, 10_000, false)),
        ("open up to the time asked", vec![e(0, Login, IOS)], HOUR, (3_600_000, 3_200_000, 3_600_000, true)),
        ("open on the Web", vec![e(0, Login, WEB)], HOUR, (3_600_000, 3_540_000, 3_600_000, true)),
        (
            "a lost connection: the platform may be 400 s late",
            vec![e(0, Login, IOS), e(HOUR, Closed, IOS)],
            2 * HOUR,
            (3_600_000, 3_200_000, 3_600_000, false),
        ),
        (
            "but not before the last sign of life",
            vec![e(0, Login, IOS), e(HOUR - 5_000, Sign, IOS), e(HOUR, Closed, IOS)],
            2 * HOUR,
            (3_600_000, 3_595_000, 3_600_000, false),
        ),
        (
            "the union of two devices",
            vec![e(0, Login, IOS), e(5_000, Login, WEB), e(10_000, Logout, IOS), e(12_000, Logout, WEB)],
            HOUR,
            (12_000, 12_000, 12_000, false),
        ),
        (
            "what is doubtful on one device is covered by another",
            vec![e(0, Login, WEB), e(1_000, Login, IOS), e(HOUR, Closed, IOS), e(HOUR + 1, Logout, WEB)],
            2 * HOUR,
            (3_600_001, 3_600_001, 3_600_001, false),
        ),
        (
            "a login pushes another platform out",
            vec![e(0, Login, IOS), kicking(10_000, WEB, &[IOS]), e(20_000, Logout, WEB)],
            HOUR,
            (20_000, 10_000, 20_000, false),
        ),
        (
            "a login pushes its own platform out, and goes on",
            vec![e(0, Login, IOS), kicking(10_000, IOS, &[IOS]), e(20_000, Logout, IOS)],
            HOUR,
            (20_000, 10_000, 20_000, false),
        ),
    ]
}

fn doubtful_cases() -> Vec<Case> {
    use Kind::{Closed, Login, Logout, Sign, TimedOut};
    let e = event;
    vec![
        (
            "two logins in a row are one session; the first connection may have been lost before the second",
            vec![e(0, Login, IOS), e(10_000, Login, IOS), e(20_000, Logout, IOS)],
            HOUR,
            (20_000, 10_000, 20_000, false),
        ),
        (
            "two logins, two logouts: perhaps two devices",
            vec![e(0, Login, IOS), kicking(1, IOS, &[]), e(20_000, Logout, IOS), e(50_000, Logout, IOS)],
            HOUR,
            (20_000, 19_999, 50_000, false),
        ),
        (
            "a heartbeat time-out after a new login is that of the former connection",
            vec![e(0, Login, IOS), e(60_000, Login, IOS), e(400_000, TimedOut, IOS), e(HOUR, Logout, IOS)],
            2 * HOUR,
            (3_600_000, 3_540_000, 3_600_000, false),
        ),
        (
            "so it says nothing of the new one, but leaves it doubtful",
            vec![e(0, Login, IOS), e(60_000, Login, IOS), e(400_000, TimedOut, IOS)],
            HOUR,
            (3_600_000, 0, 3_600_000, true),
        ),
        (
            "much later it is that of the new connection",
            vec![e(0, Login, IOS), e(60_000, Login, IOS), e(460_001, TimedOut, IOS)],
            HOUR,
            (460_001, 1, 460_001, false),
        ),
        (
            "a connection closed after a new login: either",
            vec![e(0, Login, IOS), e(60_000, Login, IOS), e(65_000, Closed, IOS)],
            HOUR,
            (65_000, 0, 65_000, false),
        ),
        (
            "until a sign of life shows which",
            vec![e(0, Login, IOS), e(60_000, Login, IOS), e(65_000, Closed, IOS), e(100_000, Sign, IOS)],
            100_000,
            (100_000, 40_000, 100_000, true),
        ),
        (
            "no logout at all: 12 h after the last sign of life",
            vec![e(0, Login, IOS), e(HOUR, Sign, ANY)],
            20 * HOUR,
            (13 * 3_600_000, 3_600_000, 13 * 3_600_000, false),
        ),
        (
            "provisional: a later logout restores it",
            vec![e(0, Login, IOS), e(HOUR, Sign, IOS), e(15 * HOUR, Logout, IOS)],
            20 * HOUR,
            (15 * 3_600_000, 15 * 3_600_000, 15 * 3_600_000, false),
        ),
        (
            "and a later login does not",
            vec![e(0, Login, IOS), e(HOUR, Sign, IOS), e(15 * HOUR, Login, IOS), e(16 * HOUR, Logout, IOS)],
            20 * HOUR,
            (14 * 3_600_000, 2 * 3_600_000, 14 * 3_600_000, false),
        ),
        (
            "the example of the documentation",
            vec![
                e(0, Login, IOS),
                e(540_000, Sign, IOS),
                e(720_000, Login, ANDROID),
                e(780_000, Logout, ANDROID),
                e(900_000, Closed, IOS),
            ],
            HOUR,
            (900_000, 600_000, 900_000, false),
        ),
        ("a logout without a login", vec![e(5, Logout, IOS)], HOUR, (0, 0, 0, false)),
        (
            "logout and login in one ms",
            vec![e(0, Login, IOS), e(9, Login, IOS), e(9, Logout, IOS)],
            20,
            (20, 9, 20, true),
        ),
    ]
}

#[test]
fn odd_cases_have_their_numbers() {
    for (name, events, asked, expected) in plain_cases().into_iter().chain(doubtful_cases()) {
        assert_eq!(after(&events, asked), expected, "{name}");
    }
}

#[test]
fn what_is_too_late_changes_no_total_but_still_ends_what_is_open() {
    let mut harness = harness(RuleSet::default());
    let mut tell = |event: Event, received: usize| {
        let late = received as i64 - event.at as i64;
        harness.apply(&EnvelopeView::decode(&record(&event, late)).expect("ours")).expect("applies");
        harness.commit(usize::MAX);
        let row: barrage_online_duration::proto::Account = barrage_projection::ReaderExt::get::<
            barrage_online_duration::tables::Accounts,
        >(&harness.store, &(common::APP, "user"))
        .expect("reads")
        .expect("there");
        (ask(&harness, START_MS + received as i64).ms, row.too_late)
    };
    let hour = |n: usize| n * HOUR;
    tell(event(0, Kind::Login, IOS), 0);
    tell(event(hour(1), Kind::Login, WEB), hour(1));
    // Everything of the first hour is folded by now.
    assert_eq!(tell(event(hour(2), Kind::Sign, WEB), hour(2)), (2 * 3_600_000, 0));
    // A logout of the phone from before the folded login: it counts from there, the Web goes on.
    assert_eq!(tell(event(1_000, Kind::Logout, IOS), hour(2) + 1), (2 * 3_600_000 + 1, 1));
    assert_eq!(tell(event(hour(3), Kind::Logout, WEB), hour(3)), (3 * 3_600_000, 1));
    tell(event(hour(4), Kind::Login, WEB), hour(4));
    assert_eq!(tell(event(hour(5), Kind::Logout, WEB), hour(5)), (4 * 3_600_000, 1));
    tell(event(hour(5), Kind::Login, IOS), hour(6));
    // Long after the phone's new session a word about an old one changes nothing.
    tell(event(hour(6), Kind::Login, WEB), hour(7));
    tell(event(hour(8), Kind::Logout, WEB), hour(8));
    assert_eq!(tell(event(2_000, Kind::Logout, IOS), hour(9)), (8 * 3_600_000, 2));
}
