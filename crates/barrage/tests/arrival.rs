//! An evening whose callbacks arrive in another order gives the same answers, of every statistic: inside the lateness window
//! no order is promised by anybody.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use barrage::statistics::statistics;
use barrage_event::identity::identity;
use barrage_event::rules::RuleSet;
use barrage_event::{EnvelopeView, Topic};
use barrage_projection::world::World;
use barrage_simulator::{Config, Evening, Expected, LineKind};
use serde_json::Value as Json;

type Record = (Topic, Vec<u8>);

/// A sequence of numbers that is the same on every machine.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn evening(seed: u64) -> (u32, Vec<Record>, Expected) {
    let config = Config { seed, ..Config::small() };
    let app = config.app;
    let mut world = World::new(statistics(), app, &RuleSet::default());
    let mut evening = Evening::new(config).expect("a fit configuration");
    let mut records = Vec::new();
    let mut seen = HashSet::new();
    for line in evening.by_ref() {
        if let LineKind::Callback { query, body } = &line.kind {
            let named = |name: &str| query.iter().find(|(n, _)| *n == name).map_or("", |(_, value)| value.as_str());
            for record in world.records_of(line.at_ms, named("CallbackCommand"), named("OptPlatform"), body) {
                // What is called back twice is dropped before it comes to a statistic.
                let identity = identity(&EnvelopeView::decode(&record.1).expect("our own record"));
                if identity.is_none_or(|identity| seen.insert((record.0, identity))) {
                    records.push(record);
                }
            }
        }
    }
    let expected = evening.expected();
    (app, records, expected)
}

/// An hour later: every window is over.
const LATER_MS: i64 = 3_600_000;

fn answers(app: u32, records: &[&Record], truth: &Expected) -> BTreeMap<String, Json> {
    let mut world = World::new(statistics(), app, &RuleSet::default());
    for (topic, bytes) in records {
        world.record(*topic, bytes);
    }
    // What waits for something that did not come is decided when the next record comes.
    let at_ms = truth.end_ms + LATER_MS;
    let last =
        r#"{"CallbackCommand":"Group.CallbackAfterSendMsg","GroupId":"other","From_Account":"other","MsgId":"last"}"#;
    world.callback(at_ms, "Group.CallbackAfterSendMsg", "", last);
    world.commit();
    let mut answers = BTreeMap::new();
    for room in truth.rooms.keys() {
        answers.insert(format!("room {room}"), Json::Object(world.room(room, at_ms)));
        // An hour later hardly anything of it is left.
        let heat = world.room(room, truth.end_ms).remove("heat").unwrap_or_default();
        answers.insert(format!("heat of {room}"), heat);
        for sort in world.viewer_sorts() {
            let viewers = world.viewers(room, sort, at_ms, 1_000).expect("a page");
            answers.insert(format!("viewers of {room} by {sort}"), viewers.into_iter().map(Json::Object).collect());
        }
    }
    for account in truth.users.keys() {
        answers.insert(format!("user {account}"), Json::Object(world.user(account, at_ms)));
    }
    answers
}

/// Notes every figure that differs.
fn differ(place: &str, expected: &Json, found: &Json, wrong: &mut Vec<String>) {
    match (expected, found) {
        (Json::Object(a), Json::Object(b)) => {
            for name in a.keys().chain(b.keys()).collect::<BTreeSet<_>>() {
                let value = |of: &serde_json::Map<String, Json>| of.get(name).cloned().unwrap_or_default();
                differ(&format!("{place}/{name}"), &value(a), &value(b), wrong);
            }
        }
        (Json::Array(a), Json::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                differ(&format!("{place}/{index}"), a, b, wrong);
            }
        }
        _ if expected != found => wrong.push(format!("{place}: {expected}, but {found}")),
        _ => {}
    }
}

#[test]
fn the_order_of_arrival_changes_no_answer() {
    let mut wrong = Vec::new();
    for seed in 1..=40 {
        let (app, records, truth) = evening(seed);
        let in_order = answers(app, &records.iter().collect::<Vec<_>>(), &truth);
        let mut dice = Dice(seed);
        // Each record late by up to so many others: from a few to minutes of the evening.
        for reach in [8, 64, 512, 3000] {
            let mut late: Vec<(u64, &Record)> =
                (0..).zip(&records).map(|(at, record): (u64, _)| (at + dice.below(reach), record)).collect();
            late.sort_by_key(|(at, _)| *at);
            let late: Vec<&Record> = late.into_iter().map(|(_, record)| record).collect();
            let other = answers(app, &late, &truth);
            for (what, expected) in &in_order {
                let found = &other[what];
                differ(&format!("seed {seed}, late by {reach}: {what}"), expected, found, &mut wrong);
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} answers differ, the first:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(40)].join("\n")
    );
}
