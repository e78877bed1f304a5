//! A room against timelines that are painted millisecond by millisecond.
//!
//! The model paints each member's presence on a strip; online, peak and watch time are counted off the strips. It shares
//! no code with the projection.

mod common;

use barrage_event::rules::RuleSet;
use barrage_presence::RoomPresence;
use barrage_projection::memory::{Harness, hash_of};
use common::{ROOM, START_MS, apply, destroyed, envelope, joined, left, member_state, message, moves};
use common::{room_online, viewers};
use proptest::prelude::*;

const ACCOUNTS: [&str; 3] = ["ann", "bob", "cy"];
const DELAY_MS: usize = 3_000;
const DETECTION_MS: usize = 5_000;
const IDLE_MS: usize = 7_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Left,
    Quit,
    Interrupted,
    Joined,
    Entered,
    Recovered,
    Message,
    Gone(usize),
    /// So long before the time from which on it counts.
    Destroyed(usize),
    Back,
    MaybeBack,
    Replaced(usize),
}

impl Kind {
    /// What comes first in one ms.
    fn rank(self) -> u8 {
        match self {
            Self::Left => 0,
            Self::Quit | Self::Interrupted => 1,
            Self::Joined => 2,
            Self::Entered | Self::Recovered => 3,
            Self::Message => 4,
            Self::Back => 5,
            Self::Gone(_) => 6,
            Self::Destroyed(_) => 7,
            Self::MaybeBack => 8,
            Self::Replaced(_) => 9,
        }
    }

    fn ends(self) -> bool {
        matches!(self, Self::Destroyed(_))
    }

    fn comes(self) -> bool {
        matches!(self, Self::Joined | Self::Entered | Self::Recovered)
    }
}

#[derive(Debug, Clone, Copy)]
struct Event {
    at: usize,
    account: usize,
    kind: Kind,
}

fn rules(idle: bool) -> RuleSet {
    let mut rules = RuleSet::default();
    rules.presence.member_state_delay_ms = DELAY_MS as u64;
    rules.duration.native_detection_ms = DETECTION_MS as u64;
    rules.presence.idle_timeout_ms = if idle { IDLE_MS as u64 } else { 0 };
    rules
}

/// `known`: what has arrived so far, this event among it: an account's moves are told as the list of them.
fn record(event: &Event, known: &[&Event], late_ms: i64) -> Vec<u8> {
    let account = ACCOUNTS[event.account];
    let what = match event.kind {
        Kind::Joined => joined(ROOM, account),
        Kind::Left => left(ROOM, account),
        Kind::Entered => member_state(ROOM, account, true, 1),
        Kind::Recovered => member_state(ROOM, account, true, 4),
        Kind::Quit => member_state(ROOM, account, false, 2),
        Kind::Interrupted => member_state(ROOM, account, false, 3),
        Kind::Gone(_) | Kind::Back | Kind::MaybeBack | Kind::Replaced(_) => {
            let mut own: Vec<&&Event> = known.iter().filter(|e| e.account == event.account).collect();
            own.sort_by_key(|e| (e.at, e.kind.rank()));
            let told = own.into_iter().filter_map(|e| {
                let (back, uncertain, maybe) = match e.kind {
                    Kind::Gone(uncertain) => (false, uncertain, false),
                    Kind::Back => (true, 0, false),
                    Kind::MaybeBack => (true, 0, true),
                    Kind::Replaced(uncertain) => (true, uncertain, false),
                    _ => return None,
                };
                let at_ms = START_MS + e.at as i64;
                Some(barrage_event::proto::AccountMove { at_ms, back, uncertain_ms: uncertain as u64, maybe })
            });
            moves(ROOM, account, 0, told.collect())
        }
        Kind::Destroyed(_) => destroyed(ROOM),
        Kind::Message => message(ROOM, account),
    };
    let at_ms = START_MS + event.at as i64;
    envelope(at_ms, at_ms + late_ms, "ios", what)
}

/// One member's milliseconds.
struct Strip {
    on: Vec<bool>,
    sure: Vec<bool>,
    maybe: Vec<bool>,
    /// What may have been before a late word was not taken for what may have been already.
    exact: bool,
    /// The last stay ended behind a disbanding that was told late: what is left out for that may be left out already.
    out: bool,
    was_member: bool,
    now: bool,
}

/// Paints a strip, event by event.
struct Painter {
    strip: Strip,
    idle: bool,
    since: Option<usize>,
    /// Last sign of life.
    sign: usize,
    /// It left with its account.
    by_gone: bool,
    ended: Option<usize>,
    /// It is there because its account was back, and nothing has shown that it is.
    unproven: bool,
    /// Since when it may be there though it is not, as far as is told; and whether that ended because the account went.
    maybe: Option<usize>,
    maybe_gone: bool,
    /// When the last stay began.
    last_since: usize,
}

impl Painter {
    fn silent_at(&self) -> usize {
        if self.idle { self.sign + IDLE_MS } else { usize::MAX }
    }

    /// It was there from `since` to `to`, as far as is told; certainly to its last sign, or to so long before.
    fn leave(&mut self, to: usize, proven: bool, uncertain: usize) {
        let Some(from) = self.since else { return };
        let sure = if proven { to.saturating_sub(uncertain).max(self.sign).max(from) } else { from };
        self.strip.on[from..to].fill(true);
        self.strip.sure[from..sure].fill(true);
    }

    fn falls_silent(&mut self) {
        let at = self.silent_at();
        self.leave(at, !self.unproven, usize::MAX);
        self.ended = Some(at);
    }

    fn step(&mut self, event: &Event) {
        let (x, kind) = (event.at, event.kind);
        self.last_since = self.since.unwrap_or(self.last_since);
        if self.since.is_some() && self.silent_at() < x && (kind.comes() || kind.ends()) {
            self.falls_silent();
            self.since = None;
        }
        let shows = match kind {
            Kind::Back | Kind::MaybeBack | Kind::Replaced(_) | Kind::Message => false,
            Kind::Gone(_) => self.since.is_none(),
            _ => true,
        };
        if shows {
            let was_maybe = self.maybe.take();
            if let Some(from) = was_maybe {
                self.strip.maybe[from..x].fill(true);
            }
            self.maybe_gone = matches!(kind, Kind::Gone(_)) && (self.maybe_gone || was_maybe.is_some());
        }
        match kind {
            kind if kind.comes() => self.comes(x, kind),
            Kind::Message if self.since.is_some() => (self.sign, self.unproven) = (x, false),
            Kind::Back if self.since.is_some() => self.sign = x,
            Kind::Back if self.by_gone => {
                (self.since, self.sign, self.by_gone, self.unproven) = (Some(x), x, false, true);
            }
            Kind::Back if self.maybe_gone => (self.maybe, self.maybe_gone) = (Some(x), false),
            Kind::MaybeBack if self.by_gone || self.maybe_gone => {
                (self.maybe, self.by_gone, self.maybe_gone) = (Some(x), false, false);
            }
            Kind::Replaced(uncertain) if self.since.is_some() => {
                self.leave(x, !self.unproven, uncertain);
                (self.since, self.sign, self.unproven) = (Some(x), x, true);
            }
            Kind::Message | Kind::Back | Kind::MaybeBack | Kind::Replaced(_) => {}
            kind => self.goes(x, kind),
        }
    }

    fn comes(&mut self, x: usize, kind: Kind) {
        if self.since.is_none() {
            if let (Kind::Recovered, Some(ended)) = (kind, self.ended) {
                let before = &mut self.strip.maybe[ended.max(x.saturating_sub(DELAY_MS))..x];
                self.strip.exact &= !before.contains(&true);
                before.fill(true);
            }
            self.since = Some(x);
            self.by_gone = false;
        } else if self.unproven {
            self.leave(x, false, 0);
            self.since = Some(x);
        }
        (self.sign, self.unproven) = (x, false);
    }

    fn goes(&mut self, x: usize, kind: Kind) {
        if self.since.is_some() {
            let uncertain = match kind {
                Kind::Interrupted => DELAY_MS,
                Kind::Gone(uncertain) => uncertain,
                Kind::Destroyed(late) => late + DETECTION_MS,
                _ => 0,
            };
            let proven = !self.unproven || matches!(kind, Kind::Left | Kind::Quit | Kind::Interrupted);
            self.leave(x, proven, uncertain);
            self.since = None;
            self.ended = Some(x);
            self.by_gone = matches!(kind, Kind::Gone(_));
        } else if !matches!(kind, Kind::Gone(_)) {
            self.by_gone = false;
        }
    }

    /// What is true at the time asked for. `ends`: the disbandings, if any.
    fn finish<'e>(mut self, ends: impl Iterator<Item = &'e Event>, asked: usize) -> Strip {
        if let Some(from) = self.maybe {
            self.strip.maybe[from..].fill(true);
        }
        for event in ends {
            let (None, Some(ended), Kind::Destroyed(late)) = (self.since, self.ended, event.kind) else { continue };
            if event.at - late < ended && ended < event.at {
                self.strip.sure[self.last_since.max(event.at - late)..ended].fill(false);
                self.strip.out = true;
            }
        }
        self.strip.now = self.since.is_some() && self.silent_at() > asked;
        if self.silent_at() < asked {
            self.falls_silent();
        } else {
            self.leave(asked, !self.unproven, DETECTION_MS);
        }
        self.strip
    }
}

fn paint(events: &[Event], account: usize, asked: usize, idle: bool) -> Strip {
    let mut own: Vec<&Event> = events
        .iter()
        .filter(|e| e.at <= asked && (e.account == account || e.kind.ends()))
        .filter(|e| idle || e.kind != Kind::Message)
        .collect();
    own.sort_by_key(|e| (e.at, e.kind.rank()));
    let strip = Strip {
        on: vec![false; asked],
        sure: vec![false; asked],
        maybe: vec![false; asked],
        exact: true,
        out: false,
        now: false,
        was_member: events.iter().any(|e| e.account == account && e.kind.comes()),
    };
    let mut painter = Painter {
        strip,
        idle,
        since: None,
        sign: 0,
        by_gone: false,
        ended: None,
        unproven: false,
        maybe: None,
        maybe_gone: false,
        last_since: 0,
    };
    for event in &own {
        painter.step(event);
    }
    painter.finish(own.into_iter().filter(|event| event.kind.ends()), asked)
}

fn run(events: &[Event], arrival: &[usize], idle: bool, late_ms: &[i64], cuts: &[(usize, bool)]) -> Harness {
    run_through(events, arrival, idle, late_ms, cuts, &[])
}

/// `changes`: other idle time-outs before the records of these numbers.
fn run_through(
    events: &[Event],
    arrival: &[usize],
    idle: bool,
    late_ms: &[i64],
    cuts: &[(usize, bool)],
    changes: &[(usize, u64)],
) -> Harness {
    let mut harness = Harness::new(RoomPresence, rules(idle)).expect("own ids");
    for (n, &index) in arrival.iter().enumerate() {
        if let Some((_, idle_ms)) = changes.iter().find(|(at, _)| *at == n) {
            harness.rules.presence.idle_timeout_ms = *idle_ms;
        }
        let late_ms = late_ms.get(index).copied().unwrap_or(0);
        let known: Vec<&Event> = arrival[..=n].iter().map(|&index| &events[index]).collect();
        apply(&mut harness, &record(&events[index], &known, late_ms));
        for (_, restart) in cuts.iter().filter(|(at, _)| *at == n) {
            harness.commit(if *restart { 0 } else { 1_000 });
            if *restart {
                harness.restart().expect("reads back");
            }
        }
    }
    harness.commit(usize::MAX);
    harness
}

fn check(events: &[Event], arrival: &[usize], strips: &[Strip], asked: usize, idle: bool) -> Result<(), TestCaseError> {
    let harness = run(events, arrival, idle, &[], &[]);
    let at_ms = START_MS + asked as i64;
    let online = room_online(&harness, ROOM, at_ms);
    let counts: Vec<usize> = (0..asked).map(|x| strips.iter().filter(|s| s.on[x]).count()).collect();
    let told = || format!("{events:?} arriving as {arrival:?}, idle {idle}, at {asked}");
    let distinct = strips.iter().filter(|s| s.was_member).count();
    if distinct == 0 && online.is_null() {
        return Ok(());
    }
    let now = strips.iter().filter(|s| s.now).count();
    prop_assert_eq!(online["now"].as_u64(), Some(now as u64), "{}", told());
    let peak = counts.iter().copied().max().unwrap_or(0);
    prop_assert_eq!(online["peak"].as_u64(), Some(peak as u64), "{}", told());
    let first = counts.iter().position(|&n| n == peak).filter(|_| peak > 0).map(|x| START_MS + x as i64);
    prop_assert_eq!(online["peak_at"].as_i64(), Some(first.unwrap_or(0)), "{}", told());
    prop_assert_eq!(online["too_late"].as_u64(), Some(0));
    prop_assert_eq!(online["distinct"].as_u64(), Some(distinct as u64), "{}", told());
    for sort in ["recent", "watch"] {
        let page = viewers(&harness, ROOM, sort, at_ms, 10);
        prop_assert_eq!(page.len(), distinct);
        for viewer in page {
            let account = ACCOUNTS.iter().position(|a| viewer["account"] == **a).expect("one of ours");
            let strip = &strips[account];
            let count = |which: &dyn Fn(usize) -> bool| (0..asked).filter(|&x| which(x)).count() as u64;
            let watch = &viewer["watch"];
            prop_assert_eq!(watch["ms"].as_u64(), Some(count(&|x| strip.on[x])), "{} {}", account, told());
            let lower = count(&|x| strip.sure[x]);
            let found = watch["lower_ms"].as_u64().expect("a number");
            prop_assert!(found == lower || strip.out && found < lower, "{} to {} {} {}", found, lower, account, told());
            let upper = count(&|x| strip.on[x] || strip.maybe[x]);
            let found = watch["upper_ms"].as_u64().expect("a number");
            prop_assert!(
                found == upper || !strip.exact && found > upper,
                "{} to {} {} {}",
                found,
                upper,
                account,
                told()
            );
            prop_assert_eq!(viewer["online"].as_bool(), Some(strip.now), "{} {}", account, told());
        }
    }
    Ok(())
}

fn event() -> impl Strategy<Value = Event> {
    let kind = prop_oneof![
        4 => Just(Kind::Joined), 2 => Just(Kind::Left), 1 => Just(Kind::Entered), 1 => Just(Kind::Recovered),
        1 => Just(Kind::Quit), 1 => Just(Kind::Interrupted), 2 => (0_usize..4_000).prop_map(Kind::Gone),
        2 => Just(Kind::Back), 1 => Just(Kind::Destroyed(0)), 2 => Just(Kind::Message),
        1 => Just(Kind::MaybeBack), 1 => (1_usize..4_000).prop_map(Kind::Replaced),
    ];
    let at = prop_oneof![3 => (0_usize..20).prop_map(|n| n * 1_000), 1 => 0_usize..20_000, 1 => 0_usize..45_000];
    (at, 0_usize..ACCOUNTS.len(), kind).prop_map(|(at, account, kind)| Event { at, account, kind })
}

/// With or without an idle time-out, and what happened. No two of the same thing at the same time, no two messages in
/// one minute (of those the last is kept), and one disbanding at most.
fn histories(most: usize) -> impl Strategy<Value = (bool, Vec<Event>)> {
    (any::<bool>(), prop::collection::vec(event(), 1..most)).prop_map(|(idle, mut events)| {
        let mut ends = 0;
        events.retain(|e| {
            ends += usize::from(e.kind.ends());
            !e.kind.ends() || ends == 1
        });
        let minute = |e: &Event| if e.kind == Kind::Message { e.at / 60_000 } else { e.at };
        for event in events.iter_mut().filter(|e| e.kind.ends()) {
            event.account = 0;
        }
        events.sort_by_key(|e| (e.kind.rank(), e.account, minute(e)));
        events.dedup_by_key(|e| (e.kind.rank(), e.account, minute(e)));
        (idle, events)
    })
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

/// A disbanding that is told late counts from behind all that is known of members by then.
fn disbanded_when_told(events: &[Event], arrival: &[usize], idle: bool) -> Vec<Event> {
    let mut moved = events.to_vec();
    if let Some(told) = arrival.iter().position(|&index| events[index].kind.ends()) {
        let before: Vec<&Event> = arrival[..told].iter().map(|&index| &events[index]).collect();
        let is_member = |account| before.iter().any(|e| e.account == account && e.kind.comes());
        let known = before.iter().filter(|e| (idle || e.kind != Kind::Message) && is_member(e.account));
        let known_to = known.map(|e| e.at + 1).max().unwrap_or(0);
        let end = &mut moved[arrival[told]];
        let late = known_to.saturating_sub(end.at);
        (end.at, end.kind) = (end.at + late, Kind::Destroyed(late));
    }
    moved
}

fn strips(events: &[Event], arrival: &[usize], asked: usize, idle: bool) -> Vec<Strip> {
    let events = disbanded_when_told(events, arrival, idle);
    (0..ACCOUNTS.len()).map(|account| paint(&events, account, asked, idle)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]

    #[test]
    fn short_histories_give_the_same_in_every_order_of_arrival((idle, events) in histories(6), later in 1_usize..20_000) {
        let asked = events.iter().map(|e| e.at).max().unwrap_or(0) + later;
        for arrival in permutations(events.len()) {
            check(&events, &arrival, &strips(&events, &arrival, asked, idle), asked, idle)?;
        }
    }

    #[test]
    fn long_histories_are_those_of_the_model(
        (idle, events) in histories(40),
        later in 1_usize..20_000,
        order in prop::collection::vec(any::<u32>(), 40),
    ) {
        let asked = events.iter().map(|e| e.at).max().unwrap_or(0) + later;
        let mut arrival: Vec<usize> = (0..events.len()).collect();
        arrival.sort_by_key(|&index| order[index % order.len()]);
        check(&events, &arrival, &strips(&events, &arrival, asked, idle), asked, idle)?;
    }

    #[test]
    fn an_idle_time_out_that_changes_leaves_the_count_that_of_the_members(
        (idle, events) in histories(40),
        order in prop::collection::vec(any::<u32>(), 40),
        late_ms in prop::collection::vec(prop_oneof![3 => 0_i64..50, 1 => 0_i64..2_000_000], 40),
        changes in prop::collection::vec((0_usize..40, prop_oneof![Just(0), 1_000_u64..20_000]), 1..5),
    ) {
        let mut arrival: Vec<usize> = (0..events.len()).collect();
        arrival.sort_by_key(|&index| order[index % order.len()]);
        let mut harness = run_through(&events, &arrival, idle, &late_ms, &[], &changes);
        for (later, idle_ms) in [(0, None), (10_000_000, None), (0, Some(5_000)), (10_000_000, Some(0))] {
            harness.rules.presence.idle_timeout_ms = idle_ms.unwrap_or(harness.rules.presence.idle_timeout_ms);
            let at_ms = harness.stream_time_ms() + later;
            let online = room_online(&harness, ROOM, at_ms);
            let there = viewers(&harness, ROOM, "watch", at_ms, 10).iter().filter(|v| v["online"] == true).count();
            if !online.is_null() {
                let told = || format!("{events:?} {arrival:?} {late_ms:?} {changes:?} {idle_ms:?}");
                prop_assert_eq!(online["now"].as_u64(), Some(there as u64), "{}", told());
            }
        }
    }

    #[test]
    fn counts_are_never_negative_and_bytes_do_not_depend_on_commits(
        (idle, events) in histories(40),
        order in prop::collection::vec(any::<u32>(), 40),
        late_ms in prop::collection::vec(prop_oneof![3 => 0_i64..50, 1 => 0_i64..2_000_000], 40),
        cuts in prop::collection::vec((0_usize..40, any::<bool>()), 0..10),
    ) {
        let mut arrival: Vec<usize> = (0..events.len()).collect();
        arrival.sort_by_key(|&index| order[index % order.len()]);
        let whole = run(&events, &arrival, idle, &late_ms, &[]);
        let cut = run(&events, &arrival, idle, &late_ms, &cuts);
        prop_assert_eq!(&whole.store, &cut.store);
        prop_assert_eq!(whole.hash, cut.hash);
        prop_assert_eq!(whole.hash, hash_of(&whole.store));
        // However late: who is online is who is online by the members' rows.
        for later in [0, 10_000_000] {
            let at_ms = whole.stream_time_ms() + later;
            let online = room_online(&whole, ROOM, at_ms);
            let there = viewers(&whole, ROOM, "watch", at_ms, 10).iter().filter(|v| v["online"] == true).count();
            if !online.is_null() {
                prop_assert_eq!(online["now"].as_u64(), Some(there as u64), "{:?} {:?} {:?}", events, arrival, late_ms);
            }
        }
    }
}
