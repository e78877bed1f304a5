//! The odd cases, one by one, with their numbers.

mod common;

use barrage_event::EnvelopeView;
use barrage_event::rules::RuleSet;
use barrage_online_duration::Gap;
use barrage_online_duration::proto::{Account, EarlySign};
use barrage_online_duration::tables::{Accounts, EarlySigns};
use barrage_projection::ReaderExt as _;
use barrage_projection::memory::Harness;
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

fn told(events: &[Event]) -> Harness {
    let mut harness = harness(RuleSet::default());
    for event in events {
        harness.apply(&EnvelopeView::decode(&record(event, 0)).expect("ours")).expect("applies");
    }
    harness.commit(usize::MAX);
    harness
}

fn row(harness: &Harness) -> Account {
    harness.store.get::<Accounts>(&(common::APP, "user")).expect("reads").expect("there")
}

/// Value, lower and upper bound, and whether it is online.
fn after(events: &[Event], asked: usize) -> (u64, u64, u64, bool) {
    let harness = told(events);
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

/// An older client that is pushed out logs out, in whatever order.
fn pushed_out_cases() -> Vec<Case> {
    use Kind::{Closed, Login, Logout, Sign, TimedOut};
    let e = event;
    let minutes = |first: usize| (0..58).map(move |n| e(first + n * 60_000, Sign, IOS));
    let watching = |told: &[Event], end: Event| {
        let mut events = vec![e(0, Login, IOS), kicking(100_000, IOS, &[IOS])];
        events.extend_from_slice(told);
        events.extend(minutes(101_000));
        events.push(end);
        events
    };
    let logout = e(HOUR, Logout, IOS);
    let whole = (3_600_000, 3_500_000, 3_600_000, false);
    vec![
        (
            "the logout of a device that was pushed out",
            watching(&[e(100_020, Logout, IOS)], logout.clone()),
            2 * HOUR,
            whole,
        ),
        ("or its lost connection", watching(&[e(100_020, Closed, IOS)], logout.clone()), 2 * HOUR, whole),
        (
            "a lost connection seconds later is that of the new device",
            watching(&[e(102_020, Closed, IOS)], logout.clone()),
            2 * HOUR,
            (102_020, 1_000, 102_020, false),
        ),
        ("or the heartbeat that it misses", watching(&[e(400_000, TimedOut, IOS)], logout.clone()), 2 * HOUR, whole),
        (
            "before the login: a gap",
            watching(&[e(99_980, Logout, IOS)], logout),
            2 * HOUR,
            (3_599_980, 3_599_980, 3_599_980, false),
        ),
        (
            "the new session ends as any other",
            watching(&[e(100_020, Logout, IOS)], e(HOUR, Closed, IOS)),
            2 * HOUR,
            (3_600_000, 3_421_000, 3_600_000, false),
        ),
        (
            "it goes on, but is doubtful until its next sign of life",
            vec![e(0, Login, IOS), kicking(100_000, IOS, &[IOS]), e(100_020, Logout, IOS)],
            HOUR,
            (3_600_000, 0, 3_600_000, true),
        ),
        (
            "only one end is that of the device that was pushed out",
            vec![e(0, Login, IOS), kicking(100_000, IOS, &[IOS]), e(100_020, Logout, IOS), e(103_000, Logout, IOS)],
            HOUR,
            (103_000, 3_000, 103_000, false),
        ),
        (
            "and only soon after; the web's next",
            vec![e(0, Login, IOS), kicking(100_000, IOS, &[IOS]), e(105_001, Logout, IOS), e(200_000, Login, WEB)],
            200_000,
            (105_001, 5_001, 105_001, true),
        ),
        (
            "one that had logged out a moment before does not do it again",
            vec![e(0, Login, IOS), e(99_980, Logout, IOS), kicking(100_000, IOS, &[IOS]), e(103_000, Logout, IOS)],
            HOUR,
            (102_980, 102_980, 102_980, false),
        ),
        (
            "a sign of life after the only end: of an account that is not connected",
            vec![e(0, Login, IOS), e(10_000, Logout, IOS), e(30_000, Sign, IOS)],
            HOUR,
            (10_000, 10_000, 10_000, false),
        ),
    ]
}

/// A lost connection soon after a second login may have been the former one.
fn either_cases() -> Vec<Case> {
    use Kind::{Closed, Login, Logout, Sign};
    let e = event;
    vec![
        (
            "a connection closed after a new login: either",
            vec![e(0, Login, IOS), e(60_000, Login, IOS), e(65_000, Closed, IOS)],
            HOUR,
            (65_000, 0, 3_600_000, false),
        ),
        (
            "but for no longer than a silent session lasts, or until the next login",
            vec![e(0, Login, IOS), e(60_000, Login, IOS), e(65_000, Closed, IOS)],
            20 * HOUR,
            (65_000, 0, 12 * 3_600_000 + 65_000, false),
        ),
        (
            "what may have lasted on two platforms counts once",
            vec![
                e(0, Login, IOS),
                e(1, Login, ANDROID),
                e(60_000, Login, IOS),
                e(60_001, Login, ANDROID),
                e(65_000, Closed, IOS),
                e(65_001, Closed, ANDROID),
                e(100_000, Login, WEB),
                e(200_000, Logout, WEB),
            ],
            HOUR,
            (165_001, 100_000, 3_600_000, false),
        ),
        (
            "until a sign of life shows which",
            vec![e(0, Login, IOS), e(60_000, Login, IOS), e(65_000, Closed, IOS), e(100_000, Sign, IOS)],
            100_000,
            (100_000, 40_000, 100_000, true),
        ),
    ]
}

/// Signs of life of one minute.
fn minute_cases() -> Vec<Case> {
    use Kind::{Closed, Login, Logout, Sign};
    let e = event;
    let until_70 = vec![e(0, Login, IOS), e(30_000, Login, IOS), e(62_000, Closed, IOS), e(70_000, Sign, IOS)];
    let and = |more: &[Event]| [until_70.as_slice(), more].concat();
    vec![
        ("a sign of life", and(&[e(90_000, Login, IOS)]), 100_000, (100_000, 40_000, 100_000, true)),
        (
            "is not lost to a later one of its minute",
            and(&[e(90_000, Login, IOS), e(110_000, Sign, IOS)]),
            112_000,
            (112_000, 60_000, 112_000, true),
        ),
        (
            "nor for one who asks of a time before that",
            vec![e(0, Login, IOS), e(61_000, Sign, IOS), e(110_000, Sign, IOS)],
            62_000,
            (62_000, 61_000, 62_000, true),
        ),
        (
            "nor what it tells of the time before a lost connection",
            vec![
                e(0, Login, IOS),
                e(70_000, Sign, IOS),
                e(75_000, Closed, IOS),
                e(80_000, Login, IOS),
                e(90_000, Sign, IOS),
                e(95_000, Logout, IOS),
            ],
            HOUR,
            (90_000, 85_000, 90_000, false),
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
            "no logout at all: 12 h after the last sign of life",
            vec![e(0, Login, IOS), e(HOUR, Sign, ANY)],
            20 * HOUR,
            (13 * 3_600_000, 3_600_000, 13 * 3_600_000, false),
        ),
        (
            "who did what no platform is told of: since the last login somebody has been connected, not before",
            vec![
                e(0, Login, IOS),
                e(500_000, Login, ANDROID),
                e(650_000, Sign, ANY),
                // The iPhone died up to 400 s before.
                e(700_000, Closed, IOS),
                e(800_000, Logout, ANDROID),
            ],
            HOUR,
            (800_000, 600_000, 800_000, false),
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
    let cases = [plain_cases(), doubtful_cases(), pushed_out_cases(), either_cases(), minute_cases()];
    for (name, events, asked, expected) in cases.into_iter().flatten() {
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
        (ask(&harness, START_MS + received as i64).ms, row(&harness).too_late)
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

/// A pair that is told an hour late: it opens nothing that stays.
#[test]
fn a_late_login_and_its_logout_leave_no_session_behind() {
    let second = 1_000;
    let late = [event(1_800 * second, Kind::Login, IOS), event(2_400 * second, Kind::Logout, IOS)];
    for (name, order) in [("in order", [0, 1]), ("reversed", [1, 0])] {
        let mut harness = harness(RuleSet::default());
        let mut tell = |event: &Event, received: usize| {
            let late_ms = received as i64 - event.at as i64;
            harness.apply(&EnvelopeView::decode(&record(event, late_ms)).expect("ours")).expect("applies");
        };
        for (at, kind) in [(0, Kind::Login), (HOUR, Kind::Sign), (2 * HOUR, Kind::Sign)] {
            tell(&event(at, kind, WEB), at);
        }
        for index in order {
            tell(&late[index], 2 * HOUR);
        }
        tell(&event(7_500 * second, Kind::Logout, WEB), 7_500 * second);
        harness.commit(usize::MAX);
        let answer = ask(&harness, START_MS + 3 * HOUR as i64);
        let whole = 7_500_000;
        let expected = barrage_online_duration::Online { ms: whole, lower_ms: whole, upper_ms: whole, now: false };
        assert_eq!(answer, expected, "{name}");
    }
}

/// A login that is told late pushes out only what is not known to be newer than it.
#[test]
fn a_late_login_pushes_out_what_it_found() {
    let mut harness = harness(RuleSet::default());
    let mut tell = |event: &Event, received: usize| {
        let late_ms = received as i64 - event.at as i64;
        harness.apply(&EnvelopeView::decode(&record(event, late_ms)).expect("ours")).expect("applies");
    };
    let minute = 60_000;
    tell(&event(0, Kind::Login, IOS), 0);
    tell(&event(10 * minute, Kind::Login, ANDROID), 10 * minute);
    tell(&event(30 * minute, Kind::Logout, WEB), 30 * minute);
    tell(&event(HOUR, Kind::Sign, ANDROID), HOUR);
    // It pushed the phone out at minute 5; of the tablet a later login is known, of itself a later logout.
    let late = kicking(5 * minute, WEB, &[IOS, ANDROID]);
    tell(&late, HOUR);
    tell(&event(HOUR, Kind::Logout, ANDROID), HOUR);
    harness.commit(usize::MAX);
    let answer = ask(&harness, START_MS + 2 * HOUR as i64);
    assert_eq!((answer.ms, answer.now), (3_600_000, false));
}

/// The rooms have to hear that a connection was replaced, whether its login says so or not.
#[test]
fn a_login_that_pushes_its_own_platform_out_replaces_the_connection() {
    let gaps_of = |events: &[Event]| {
        let harness = told(events);
        let row = row(&harness);
        barrage_online_duration::gaps(&row, &RuleSet::default().duration).list
    };
    // The former connection may have been lost since the first login.
    let replaced = |at: usize| {
        let at_ms = START_MS + at as i64;
        Gap { gone_ms: at_ms, uncertain_ms: at as u64, logged_out: false, back_ms: Some(at_ms) }
    };
    let first = event(0, Kind::Login, IOS);
    for (name, events, expected) in [
        ("a second login", vec![first.clone(), event(60_000, Kind::Login, IOS)], vec![replaced(60_000)]),
        ("one with a kick", vec![first.clone(), kicking(60_000, IOS, &[IOS])], vec![replaced(60_000)]),
        (
            "the logout of the one that is out is no gap",
            vec![first.clone(), kicking(60_000, IOS, &[IOS]), event(60_020, Kind::Logout, IOS)],
            vec![replaced(60_000)],
        ),
        (
            "with another device there is none",
            vec![first, event(1, Kind::Login, WEB), kicking(60_000, IOS, &[IOS])],
            vec![],
        ),
    ] {
        assert_eq!(gaps_of(&events), expected, "{name}");
    }
}

#[test]
fn signs_of_life_before_any_state_change_wait_for_a_login_that_is_told_late() {
    let mut harness = harness(RuleSet::default());
    let tell = |harness: &mut Harness, event: &Event, received: usize| {
        let late_ms = received as i64 - event.at as i64;
        harness.apply(&EnvelopeView::decode(&record(event, late_ms)).expect("ours")).expect("applies");
        harness.commit(usize::MAX);
        let early = harness.store.get::<EarlySigns>(&(common::APP, "user")).expect("reads").unwrap_or_default();
        let minute = |sign: &EarlySign| usize::try_from((sign.at_ms - START_MS) / 60_000).expect("after the start");
        early.signs.iter().map(minute).collect::<Vec<_>>()
    };
    // A few at most, in their order, one of a minute, and none that is beyond what may come late.
    for (at, kept) in [
        (0, vec![0]),
        (2, vec![0, 2]),
        (1, vec![0, 1, 2]),
        (11, vec![1, 2, 11]),
        (30, vec![30]),
        (31, vec![30, 31]),
        (31, vec![30, 31]),
    ] {
        let received = at.max(2) * 60_000 + 1_000;
        assert_eq!(tell(&mut harness, &event(at * 60_000 + 500, Kind::Sign, IOS), received), kept, "minute {at}");
    }
    for at in 32..40 {
        tell(&mut harness, &event(at * 60_000, Kind::Sign, IOS), 40 * 60_000);
    }
    let kept = tell(&mut harness, &event(40 * 60_000, Kind::Sign, IOS), 40 * 60_000);
    assert_eq!(kept, [33, 34, 35, 36, 37, 38, 39, 40]);
    // The login of minute 35 is told in minute 41: until minute 40 the connection was there.
    assert_eq!(tell(&mut harness, &event(35 * 60_000, Kind::Login, IOS), 41 * 60_000), Vec::<usize>::new());
    tell(&mut harness, &event(42 * 60_000, Kind::Closed, IOS), 42 * 60_000);
    let answer = ask(&harness, START_MS + HOUR as i64);
    assert_eq!((answer.ms, answer.lower_ms), (420_000, 300_000));
    // From then on they have their place among what happened.
    assert_eq!(tell(&mut harness, &event(43 * 60_000, Kind::Sign, IOS), 43 * 60_000), Vec::<usize>::new());
}
