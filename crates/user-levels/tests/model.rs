//! Levels against a model that keeps every event and computes everything anew whenever it is asked.
//!
//! The model shares no code with the projection: it knows sessions and amounts with their times, and cuts both into days
//! itself. What the other statistics make of strange histories is their own tests' affair, so sessions here are whole
//! and likes stay below their caps.

mod common;

use std::collections::BTreeMap;

use barrage_event::rules::{LevelRules, RuleSet};
use barrage_projection::memory::{Harness, hash_of};
use barrage_projection::{ReadContext, Statistic as _};
use barrage_user_levels::UserLevels;
use proptest::prelude::*;

use common::{APP, Act, DAY_MS, HOUR_MS, MONDAY_MS, When, apply, level, new, record, rules_record, told};

const ACCOUNTS: [&str; 3] = ["ann", "bob", "cid"];
/// Longest session, so that the longest time-out of the rules never ends one.
const SESSION_MAX_MS: i64 = 3 * DAY_MS;

#[derive(Debug, Clone, Copy)]
enum Step {
    Act { account: usize, what: u8, amount: u64 },
    Rules(usize),
}

fn steps() -> impl Strategy<Value = Vec<(i64, Step)>> {
    let gap = prop_oneof![
        6 => 1_000_i64..5 * 60_000,
        3 => 60_000_i64..8 * HOUR_MS,
        1 => HOUR_MS..30 * HOUR_MS,
    ];
    let act = (0..ACCOUNTS.len(), 0_u8..8, 1_u64..90);
    let step = prop_oneof![
        12 => act.prop_map(|(account, what, amount)| Step::Act { account, what, amount }),
        1 => (0_usize..5).prop_map(Step::Rules),
    ];
    prop::collection::vec((gap, step), 1..150)
}

/// Rules to change between.
fn rules(number: usize) -> RuleSet {
    let mut rules = RuleSet::default();
    rules.duration.session_timeout_ms = 7 * 86_400_000;
    let levels = &mut rules.levels;
    match number {
        0 => {}
        1 => {
            (levels.daily_max.online_minute, levels.daily_max.message, levels.daily_max.like) = (30, 2, 60);
            (levels.daily_max.gift_value, levels.daily_max.membership_month) = (50, 1);
        }
        2 => {
            (levels.weights.online_minute, levels.weights.message, levels.weights.like) = (37, 5_500, 1_234);
            (levels.weights.gift_value, levels.weights.membership_month) = (0, 1);
        }
        3 => levels.thresholds = vec![1, 2, 3, 700, 5_000],
        _ => rules.notify.levels = false,
    }
    rules
}

/// What happened, in order.
#[derive(Debug, Clone)]
enum Event {
    Rules(usize),
    Account { name: &'static str, act: Act },
}

/// Makes histories of steps: sessions that begin, end and are not too long.
fn events(steps: &[(i64, Step)]) -> Vec<(i64, Event)> {
    let mut events = Vec::new();
    let mut since: [Option<i64>; ACCOUNTS.len()] = [None; ACCOUNTS.len()];
    let mut now = MONDAY_MS + 20 * HOUR_MS;
    for (gap, step) in steps {
        now += gap;
        for (name, since) in ACCOUNTS.iter().zip(&mut since) {
            if since.is_some_and(|since| now - since > SESSION_MAX_MS) {
                *since = None;
                events.push((now - 1, Event::Account { name, act: Act::Logout }));
            }
        }
        events.push((
            now,
            match *step {
                Step::Rules(number) => Event::Rules(number),
                Step::Act { account, what, amount } => {
                    let act = match what {
                        0..=2 => {
                            let open = since[account].is_some();
                            since[account] = if open { None } else { Some(now) };
                            if open { Act::Logout } else { Act::Login }
                        }
                        3 => Act::Like { count: amount, refused: false },
                        4 => Act::Like { count: amount, refused: true },
                        5 => Act::Gift { value: amount * 10 },
                        6 if amount < 10 => Act::Membership { months: 1 + u32::try_from(amount % 3).expect("small") },
                        _ => Act::Text,
                    };
                    Event::Account { name: ACCOUNTS[account], act }
                }
            },
        ));
    }
    events
}

/// One account, as a list of what it did.
#[derive(Debug, Clone, Default)]
struct Person {
    /// (from, to): without an end while it goes on.
    sessions: Vec<(i64, Option<i64>)>,
    /// (when, metric, how much); metrics are messages, likes, value, months.
    amounts: Vec<(i64, usize, u64)>,
    folded: [u64; 5],
    folded_below: i64,
    told: usize,
    version: u32,
}

fn cap(amounts: [u64; 5], rules: &LevelRules) -> [u64; 5] {
    let max = &rules.daily_max;
    let caps = [max.online_minute * 60_000, max.message, max.like, max.gift_value, max.membership_month];
    std::array::from_fn(|i| if caps[i] == 0 { amounts[i] } else { amounts[i].min(caps[i]) })
}

impl Person {
    /// What lies in a day, up to a time.
    fn on(&self, day: i64, at: i64) -> [u64; 5] {
        let (start, end) = (day * DAY_MS, (day + 1) * DAY_MS);
        let mut found = [0; 5];
        for (from, to) in &self.sessions {
            let inside = to.unwrap_or(at).min(at).min(end) - (*from).max(start);
            found[0] += inside.max(0).unsigned_abs();
        }
        for (_, metric, amount) in self.amounts.iter().filter(|(when, ..)| (start..end).contains(when)) {
            found[*metric] += amount;
        }
        found
    }

    fn fold(&mut self, stream: i64, rules: &LevelRules) {
        let below = stream / DAY_MS - 6;
        for day in self.folded_below.max(MONDAY_MS / DAY_MS)..below {
            let capped = cap(self.on(day, i64::MAX / 2), rules);
            self.folded.iter_mut().zip(capped).for_each(|(sum, more)| *sum += more);
        }
        self.folded_below = self.folded_below.max(below);
    }

    /// Points for each metric at a time.
    fn points(&self, at: i64, rules: &LevelRules) -> [u64; 5] {
        let mut counted = self.folded;
        for day in self.folded_below.max(MONDAY_MS / DAY_MS)..=at / DAY_MS {
            let capped = cap(self.on(day, at), rules);
            counted.iter_mut().zip(capped).for_each(|(sum, more)| *sum += more);
        }
        let w = &rules.weights;
        [
            counted[0] * w.online_minute / 60_000_000,
            counted[1] * w.message / 1_000,
            counted[2] * w.like / 1_000,
            counted[3] * w.gift_value / 1_000,
            counted[4] * w.membership_month / 1_000,
        ]
    }

    fn level(&self, at: i64, rules: &LevelRules) -> usize {
        let score: u64 = self.points(at, rules).iter().sum();
        rules.thresholds.iter().filter(|threshold| **threshold <= score).count()
    }

    fn act(&mut self, at: i64, act: Act) {
        match act {
            Act::Login => self.sessions.push((at, None)),
            Act::Logout => self.sessions.last_mut().expect("one is open").1 = Some(at),
            Act::Like { count, refused: false } => self.amounts.push((at, 2, count)),
            Act::Like { refused: true, .. } => {}
            Act::Text => self.amounts.push((at, 1, 1)),
            Act::Gift { value } => self.amounts.extend([(at, 1, 1), (at, 3, value)]),
            Act::Membership { months } => self.amounts.extend([(at, 1, 1), (at, 4, months.into())]),
            Act::GiftBilled { .. } | Act::MembershipOpened { .. } => unreachable!("not from this source"),
            Act::Join => unreachable!("adds nothing"),
        }
    }
}

#[derive(Debug, Default)]
struct Model {
    people: BTreeMap<&'static str, Person>,
    version: u32,
    /// The last version that changed what levels follow from, and since when it counts.
    changed: u32,
    since: i64,
    told: Vec<(String, u64)>,
}

impl Model {
    fn event(&mut self, at: i64, name: &'static str, act: Act, rules: &RuleSet) {
        let (version, changed, since) = (self.version, self.changed, self.since);
        let person = self.people.entry(name).or_default();
        person.fold(at, &rules.levels);
        if person.version < changed {
            person.told = person.told.max(person.level(since, &rules.levels));
        }
        person.version = version;
        person.act(at, act);
        let reached = person.level(at, &rules.levels);
        if rules.notify.levels {
            self.told.extend((person.told + 1..=reached).map(|level| (name.to_owned(), level as u64)));
        }
        person.told = person.told.max(reached);
    }
}

/// Applies a history, with a commit, and perhaps a restart, behind the records that `cuts` names.
fn run(events: &[(i64, Event)], cuts: &[(usize, bool)], model: &mut Model) -> (Harness, Vec<(String, u64)>) {
    let mut harness = new(rules(0));
    let mut heard = Vec::new();
    model.version = 1;
    // Levels follow from other rules than these from the first record of rules on.
    let mut noted = None;
    let mut stream = 0;
    for (number, (at, event)) in events.iter().enumerate() {
        match event {
            Event::Rules(to) => {
                model.version += 1;
                harness.rules = rules(*to);
                if noted.as_ref() != Some(&harness.rules.levels) {
                    noted = Some(harness.rules.levels.clone());
                    (model.changed, model.since) = (model.version, stream);
                }
                heard.extend(told(&apply(&mut harness, &rules_record(model.version))));
            }
            Event::Account { name, act } => {
                let when = When { occurred: *at, received: *at, version: model.version };
                stream = *at;
                let bytes = record(name, *act, when, u64::try_from(number).expect("few"));
                heard.extend(told(&apply(&mut harness, &bytes)));
                model.event(*at, name, *act, &harness.rules);
            }
        }
        for (_, restart) in cuts.iter().filter(|(at, _)| *at == number) {
            harness.commit(if *restart { 0 } else { 2_000 });
            if *restart {
                harness.restart().expect("reads back");
            }
        }
    }
    harness.commit(usize::MAX);
    (harness, heard)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn scores_levels_and_news_are_those_of_the_model(
        steps in steps(),
        later in prop_oneof![Just(0), 0_i64..HOUR_MS, 0_i64..3 * DAY_MS],
        asked in 0_usize..5,
    ) {
        let events = events(&steps);
        let mut model = Model::default();
        let (harness, heard) = run(&events, &[], &mut model);
        prop_assert_eq!(&heard, &model.told);

        // Asked by the rules in force, and by others, as if they had just come.
        let at = events.last().expect("one").0 + later;
        for rules in [harness.rules.clone(), rules(asked)] {
            let mut distribution = BTreeMap::from_iter((0..=rules.levels.thresholds.len()).map(|level| (level, 0)));
            for (name, person) in &model.people {
                let answer = level(&harness.store, &rules, name, at);
                let points = person.points(at, &rules.levels);
                let parts = ["online", "messages", "likes", "gifts", "membership"];
                let found = parts.map(|part| answer["parts"][part]["points"].as_u64().expect("points"));
                prop_assert_eq!(found, points, "{} at {}: {}", name, at, answer);
                let score: u64 = points.iter().sum();
                prop_assert_eq!(answer["score"].as_u64(), Some(score));
                let reached = person.level(at, &rules.levels);
                prop_assert_eq!(answer["level"].as_u64(), Some(reached as u64));
                let next = rules.levels.thresholds.get(reached);
                prop_assert_eq!(answer["next_at"].as_u64(), next.copied());
                prop_assert_eq!(answer["missing"].as_u64(), next.map(|next| next - score));
                let online: i64 =
                    person.sessions.iter().map(|(from, to)| to.unwrap_or(at).min(at) - from).sum();
                prop_assert_eq!(answer["parts"]["online"]["ms"].as_i64(), Some(online));
                *distribution.entry(reached).or_default() += 1_u64;
            }
            let cx = ReadContext { reader: &harness.store, app: APP, at_ms: at, rules: &rules };
            let counts = UserLevels.levels(&cx).expect("reads");
            prop_assert_eq!(counts.into_iter().map(|(l, n)| (l as usize, n)).collect::<BTreeMap<_, _>>(), distribution);
        }
    }

    #[test]
    fn any_batch_boundaries_and_restarts_give_the_same_bytes_and_news(
        steps in steps(),
        cuts in prop::collection::vec((0_usize..150, any::<bool>()), 0..20),
    ) {
        let events = events(&steps);
        let (whole, told_once) = run(&events, &[], &mut Model::default());
        let (cut, told_in_pieces) = run(&events, &cuts, &mut Model::default());
        prop_assert_eq!(&whole.store, &cut.store);
        prop_assert_eq!(whole.hash, cut.hash);
        prop_assert_eq!(whole.hash, hash_of(&whole.store));
        prop_assert_eq!(told_once, told_in_pieces);
    }
}
