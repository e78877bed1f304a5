//! Online duration against worlds in which it is known who was connected when.
//!
//! Each platform has one device. It connects, loses its connection, connects again, is pushed out; the platform tells of
//! that as its documentation says. From what the world did, and the table of the documentation alone, four timelines are
//! painted: what was, what has to be answered, and both bounds. Nothing here knows how the statistic computes.

mod common;

use barrage_event::EnvelopeView;
use barrage_event::rules::RuleSet;
use common::{ANY, Event, Kind, PLATFORMS, START_MS, ask, harness, record};
use proptest::prelude::*;

/// Signs of life of two minutes are kept of an account whose login is told after them.
const LENGTH: usize = 118_000;
const NATIVE_MS: usize = 40_000;
const WEB_MS: usize = 6_000;
/// A report of a lost connection is settled by then.
const SETTLED_MS: usize = 1_000;
const PUSHED_OUT_MS: usize = 5_000;

/// How a connection ended.
#[derive(Debug, Clone, Copy)]
enum End {
    Logout,
    /// The app was killed: seen at once.
    Killed,
    /// The network went, and the platform tells so much later.
    Lost(usize),
    /// The network went, and so much later the client connects again; the platform tells nothing.
    Reconnects(usize),
    /// The next login pushes it out. It logs out itself at this time after the login (before, if negative), or not.
    PushedOut(Option<i64>),
}

/// A connection of one platform's device.
#[derive(Debug, Clone)]
struct Connection {
    platform: usize,
    login: usize,
    /// When it was gone.
    gone: usize,
    end: End,
    /// What the login was: on top of the connection before, and pushing that out.
    on_top: bool,
    pushes: Option<Option<i64>>,
    /// The next login of the platform.
    next: Option<usize>,
    /// When, and whether it names the platform.
    signs: Vec<(usize, bool)>,
}

/// How long before the login the device that it pushes out has logged out.
fn before(after: Option<i64>) -> usize {
    after.filter(|after| *after < 0).map_or(0, |after| usize::try_from(-after).expect("some seconds"))
}

fn detection_ms(platform: usize) -> usize {
    if PLATFORMS[platform] == "web" { WEB_MS } else { NATIVE_MS }
}

fn rules() -> RuleSet {
    let mut rules = RuleSet::default();
    rules.duration.native_detection_ms = NATIVE_MS as u64;
    rules.duration.web_detection_ms = WEB_MS as u64;
    rules
}

impl Connection {
    fn told_pushed_out(&self) -> Option<usize> {
        self.pushes.flatten().map(|after| usize::try_from(self.login as i64 + after).expect("after the start"))
    }

    /// What its platform tells of its end: when, and what.
    fn report(&self) -> Option<(usize, Kind)> {
        match self.end {
            End::Logout => Some((self.gone, Kind::Logout)),
            End::Killed => Some((self.gone, Kind::Closed)),
            End::Lost(late) if late >= detection_ms(self.platform) && PLATFORMS[self.platform] != "web" => {
                Some((self.gone + late, Kind::TimedOut))
            }
            End::Lost(late) => Some((self.gone + late, Kind::Closed)),
            End::Reconnects(_) | End::PushedOut(_) => None,
        }
    }

    /// Until when its session lasts as far as it is told at the time asked for, and how that ended.
    fn told_end(&self, asked: usize) -> (usize, Option<Kind>) {
        let report = self.report().filter(|(at, _)| *at <= asked);
        let replaced = self.next.filter(|&next| next <= asked && report.is_none_or(|(at, _)| next < at));
        // A device that is pushed out and logs out before the login has logged out.
        let out = match self.end {
            End::PushedOut(after) if before(after) > 0 => self.next.map(|next| next - before(after)),
            _ => None,
        };
        match (out.filter(|&at| at <= asked), report, replaced) {
            (Some(at), _, _) => (at, Some(Kind::Logout)),
            (_, Some((at, kind)), _) => (at, Some(kind)),
            (_, _, Some(next)) => (next, Some(Kind::Closed)),
            _ => (asked, None),
        }
    }

    /// Until when it may have lasted: one that was closed soon after a second login may have been the former one.
    fn may_end(&self, asked: usize) -> usize {
        let (end, kind) = self.told_end(asked);
        let reported = self.report().is_some_and(|(at, _)| at <= asked);
        let maybe = kind == Some(Kind::Closed) && reported && self.on_top && self.pushes.is_none();
        let maybe = maybe && end - self.login <= detection_ms(self.platform);
        if maybe { self.next.unwrap_or(asked).min(asked) } else { end }
    }

    fn events(&self) -> Vec<Event> {
        let one = |at, kind, platform| Event { at, kind, platform, kicked: Vec::new() };
        let mut events = vec![one(self.login, Kind::Login, self.platform)];
        if self.pushes.is_some() {
            events[0].kicked = vec![self.platform];
        }
        events.extend(self.told_pushed_out().map(|at| one(at, Kind::Logout, self.platform)));
        events.extend(self.report().map(|(at, kind)| one(at, kind, self.platform)));
        events
            .extend(self.signs.iter().map(|&(at, named)| one(at, Kind::Sign, if named { self.platform } else { ANY })));
        events
    }
}

/// What is painted of a world up to the time asked for.
#[derive(Default)]
struct Painted {
    truth: Vec<bool>,
    value: Vec<bool>,
    lower: Vec<bool>,
    upper: Vec<bool>,
    now: bool,
}

fn fill(strip: &mut [bool], from: usize, to: usize) {
    let to = to.min(strip.len());
    if from < to {
        strip[from..to].fill(true);
    }
}

impl Painted {
    fn of(connections: &[Connection], events: &[Event], asked: usize) -> Self {
        let strip = vec![false; asked];
        let mut painted =
            Self { truth: strip.clone(), value: strip.clone(), lower: strip.clone(), upper: strip, now: false };
        let signs = attributed(connections, &known_signs(events, asked), asked);
        for (index, connection) in connections.iter().enumerate().filter(|(_, c)| c.login <= asked) {
            let own: Vec<(usize, bool)> =
                signs.iter().filter(|(_, of, _)| *of == index).map(|&(at, _, certainly)| (at, certainly)).collect();
            painted.connection(connection, &own, asked);
        }
        painted
    }

    /// `signs`: when, and whether they are certainly of this connection.
    fn connection(&mut self, c: &Connection, signs: &[(usize, bool)], asked: usize) {
        fill(&mut self.truth, c.login, c.gone);
        let (end, kind) = c.told_end(asked);
        self.now |= kind.is_none();
        fill(&mut self.value, c.login, end);
        // Whose logout is told in this session is not known for certain: no report after it says more until a sign.
        let doubtful = c.told_pushed_out().filter(|&at| at >= c.login && at <= end);
        let last_sign = signs.iter().map(|(at, _)| *at).max();
        let told = end.saturating_sub(detection_ms(c.platform));
        let cleared = |at: usize| signs.iter().any(|&(sign, certainly)| certainly && sign >= at);
        let doubted = doubtful.is_some_and(|at| !cleared(at));
        let sure = last_sign.unwrap_or(0).max(if doubted { 0 } else { told });
        fill(&mut self.lower, c.login, if kind == Some(Kind::Logout) { end } else { sure.min(end) });
        fill(&mut self.upper, c.login, c.may_end(asked));
    }
}

/// Signs of life with the connection that they are taken to be of, and whether they certainly are. One that names no
/// platform is taken to be of the last login of those whose sessions lasted then; of none when that one may have ended.
fn attributed(connections: &[Connection], signs: &[(usize, usize)], asked: usize) -> Vec<(usize, usize, bool)> {
    let open = |at: usize| {
        let told = move |c: &Connection| {
            let (end, kind) = c.told_end(asked);
            c.login <= at && (at < end || kind.is_none())
        };
        connections.iter().enumerate().filter(move |(_, c)| told(c))
    };
    // Those that may have ended wrongly.
    let maybe = |at: usize| {
        let told = move |c: &Connection| {
            let (end, _) = c.told_end(asked);
            end < c.may_end(asked) && end <= at && c.next.is_none_or(|next| at < next)
        };
        connections.iter().filter(move |c| told(c))
    };
    let named = |&(at, platform): &(usize, usize)| {
        let of = open(at).find(|(_, c)| c.platform == platform);
        of.map(|(index, _)| (at, index, true))
    };
    let unnamed = |&(at, _): &(usize, usize)| {
        let (index, last) = open(at).max_by_key(|(_, c)| (c.login, PLATFORMS[c.platform]))?;
        let alone = open(at).count() + maybe(at).count() == 1;
        maybe(at).all(|c| c.login <= last.login).then_some((at, index, alone))
    };
    signs.iter().filter_map(|sign| if sign.1 == ANY { unnamed(sign) } else { named(sign) }).collect()
}

/// Signs of life that count at the time asked for: of each platform and minute the last, and the first where a state
/// change lies between them.
fn known_signs(events: &[Event], asked: usize) -> Vec<(usize, usize)> {
    let signs = || events.iter().filter(|event| event.kind == Kind::Sign);
    let counts = |sign: &&Event| {
        let same =
            || signs().filter(|e| e.platform == sign.platform && e.at / 60_000 == sign.at / 60_000).map(|e| e.at);
        let (first, last) = (same().min(), same().max());
        let between = |e: &Event| e.kind != Kind::Sign && e.at > sign.at && Some(e.at) <= last;
        Some(sign.at) == last || Some(sign.at) == first && (Some(asked) < last || events.iter().any(between))
    };
    signs().filter(|sign| sign.at <= asked).filter(counts).map(|sign| (sign.at, sign.platform)).collect()
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        2 => Just(End::Logout),
        1 => Just(End::Killed),
        2 => (1_usize..=NATIVE_MS).prop_map(End::Lost),
        1 => Just(End::Lost(usize::MAX)),
        2 => (1_usize..30_000).prop_map(End::Reconnects),
        1 => Just(End::PushedOut(None)),
        2 => (-3_000_i64..=3_000).prop_map(|after| End::PushedOut(Some(after))),
    ]
}

/// A gap, a length, an end, and signs of life as shares of the length, which name the platform or do not.
type Life = (usize, usize, End, Vec<(usize, bool)>);

fn life() -> impl Strategy<Value = Life> {
    (
        1_usize..20_000,
        PUSHED_OUT_MS + 1_000..40_000_usize,
        end(),
        prop::collection::vec((0_usize..1_000, prop::bool::weighted(0.7)), 0..4),
    )
}

/// The connections of one platform's device.
fn connections(platform: usize, lives: &[Life]) -> Vec<Connection> {
    let mut all: Vec<Connection> = Vec::new();
    let mut free_from = 0;
    for (gap, length, end, shares) in lives {
        let (login, on_top, pushes) = match all.last() {
            Some(Connection { gone, end: End::Reconnects(after), .. }) => (gone + after, true, None),
            Some(Connection { gone, end: End::PushedOut(after), .. }) => {
                (gone + before(*after), before(*after) == 0, Some(*after))
            }
            // Seconds after an end, so that it is settled and none of a device that is pushed out.
            _ => (free_from + PUSHED_OUT_MS + SETTLED_MS + gap, false, None),
        };
        let gone = login + length;
        // What is not told within the longest delay is told then.
        let end = match end {
            End::Lost(late) => End::Lost((*late).min(detection_ms(platform))),
            End::Reconnects(after) => End::Reconnects((*after).min(detection_ms(platform))),
            End::PushedOut(Some(0)) => End::PushedOut(None),
            End::Logout | End::Killed | End::PushedOut(_) => *end,
        };
        free_from = if let End::Lost(late) = end { gone + late } else { gone };
        if free_from + PUSHED_OUT_MS >= LENGTH {
            break;
        }
        if let Some(former) = all.last_mut() {
            former.next = Some(login);
        }
        // Not in the second in which a logout that is no longer its own may be told.
        let signs = shares.iter().map(|&(share, named)| (login + share * (length - 3_500) / 1_000, named)).collect();
        all.push(Connection { platform, login, gone, end, on_top, pushes, next: None, signs });
    }
    if let Some(last) = all.last_mut().filter(|last| matches!(last.end, End::Reconnects(_) | End::PushedOut(_))) {
        last.end = End::Logout;
    }
    all
}

fn worlds() -> impl Strategy<Value = Vec<Connection>> {
    let lives = || prop::collection::vec(life(), 0..5);
    [lives(), lives(), lives()].prop_map(|platforms| {
        platforms.iter().enumerate().flat_map(|(platform, lives)| connections(platform, lives)).collect()
    })
}

fn count(strip: &[bool]) -> u64 {
    strip.iter().filter(|&&on| on).count() as u64
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn a_world_is_told_as_it_was(
        connections in worlds(),
        asked in 1..LENGTH + 60_000,
        order in prop::collection::vec(any::<u32>(), 64),
    ) {
        let events: Vec<Event> = connections.iter().flat_map(Connection::events).collect();
        let mut arrival: Vec<usize> = (0..events.len()).collect();
        arrival.sort_by_key(|index| order[index % order.len()]);
        let mut harness = harness(rules());
        for &index in &arrival {
            harness.apply(&EnvelopeView::decode(&record(&events[index], 0)).expect("ours")).expect("applies");
        }
        harness.commit(usize::MAX);
        let answer = ask(&harness, START_MS + asked as i64);
        let painted = Painted::of(&connections, &events, asked);
        let (truth, lower, upper) = (count(&painted.truth), count(&painted.lower), count(&painted.upper));
        prop_assert_eq!(answer.ms, count(&painted.value), "value of {:?}", connections);
        prop_assert_eq!(answer.lower_ms, lower, "lower bound of {:?}", connections);
        prop_assert_eq!(answer.upper_ms, upper, "upper bound of {:?}", connections);
        prop_assert_eq!(answer.now, painted.now, "now of {:?}", connections);
        prop_assert!(lower <= truth && truth <= upper, "{lower} to {upper}, but {truth}: {:?}", connections);
    }
}
