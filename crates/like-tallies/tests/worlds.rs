//! Recorded and simulated rooms, without HTTP: lines become records, records the state, and every figure of gifts and
//! likes equals what was counted independently or was true.

use std::collections::HashSet;
use std::rc::Rc;

use barrage_event::callback::{self, Callback};
use barrage_event::identity::{business_key, identity};
use barrage_event::rules::{Compiled, GiftSource, RuleSet};
use barrage_event::{EnvelopeView, Stamp, Topic, business};
use barrage_like_tallies::{AccountTallies, LikeTallies, RoomTallies};
use barrage_projection::memory::Harness;
use barrage_projection::{ReadContext, Statistic as _};
use barrage_recordings::Recording;
use barrage_simulator::{Config, Evening, Expected, ExpectedGifts};
use serde_json::{Map, Value as Json};

const APP: u32 = 1_400_000_000;

/// One partition of each topic.
struct World {
    rules: Rc<Compiled>,
    rooms: Harness,
    accounts: Harness,
    seen: HashSet<barrage_event::Identity>,
    records: u64,
}

impl World {
    fn new(rules: &RuleSet) -> Self {
        Self {
            rules: Rc::new(Compiled::new(rules, 1).expect("valid")),
            rooms: Harness::new(RoomTallies, rules.clone()).expect("own ids"),
            accounts: Harness::new(AccountTallies, rules.clone()).expect("own ids"),
            seen: HashSet::new(),
            records: 0,
        }
    }

    /// Plays one line of a recording.
    fn line(&mut self, line: &str) {
        #[derive(serde::Deserialize)]
        struct Line<'l> {
            at_ms: i64,
            #[serde(borrow)]
            body: Option<&'l serde_json::value::RawValue>,
            #[serde(borrow)]
            event: Option<&'l serde_json::value::RawValue>,
        }
        let Line { at_ms, body, event } = serde_json::from_str(line).expect("a line");
        if let Some(body) = body {
            let rules = Rc::clone(&self.rules);
            if let Ok(callback) = callback::decode("", "", body.get().as_bytes(), &rules) {
                self.play(&callback, at_ms);
            }
        } else if let Some(event) = event {
            self.play(&business::parse(event.get()).expect("a business event").callback, at_ms);
        }
    }

    fn play(&mut self, callback: &Callback<'_>, received_at_ms: i64) {
        let stamp = Stamp {
            id: 7,
            app: APP,
            received_at_ms,
            incarnation: 1,
            rules_version: 1,
            verdict: self.rules.verdict(callback),
        };
        let mut bytes = Vec::new();
        for route in callback.routes().iter() {
            bytes.clear();
            callback.encode(&stamp, route, false, &mut bytes);
            let record = EnvelopeView::decode(&bytes).expect("our own record");
            // As the runtime does it before any projection.
            let id = business_key(&record).map(|(id, _)| id).or_else(|| identity(&record));
            if id.is_some_and(|id| !self.seen.insert(id)) {
                continue;
            }
            let harness = if route.topic == Topic::Room { &mut self.rooms } else { &mut self.accounts };
            harness.apply(&record).expect("applies");
            self.records += 1;
        }
    }

    /// What is not as expected.
    fn differences(&mut self, expected: &Expected, likes: bool) -> Vec<String> {
        let mut differences = Vec::new();
        let mut same = |what: &str, name: &str, found: &Json, wanted: u64| {
            if found.as_u64() != Some(wanted) {
                differences.push(format!("{name}: {what}: answered {found}, expected {wanted}"));
            }
        };
        self.rooms.commit(usize::MAX);
        self.accounts.commit(usize::MAX);
        let rules = self.rules.rules();
        let at_ms = expected.last_ms;
        let rooms = ReadContext { reader: &self.rooms.store, app: APP, at_ms, rules };
        for (name, room) in &expected.rooms {
            let mut out = Map::new();
            LikeTallies.room(&rooms, name, &mut out).expect("reads");
            let ExpectedGifts { messages, count, value } = room.gifts;
            same("gift messages", name, &out["gifts"]["messages"], messages);
            same("gifts", name, &out["gifts"]["count"], count);
            same("gift value", name, &out["gifts"]["value"], value);
            if likes {
                same("likes", name, &out["likes"]["count"], room.likes_attempted);
            }
            if rules.gifts.source == GiftSource::Billing {
                same("memberships", name, &out["memberships"]["count"], room.memberships);
            }
            // Every viewer with gifts, and their sum.
            let page = LikeTallies.viewers(&rooms, name, "gift_value", usize::MAX - 1, None);
            let viewers = page.expect("reads").expect("no token").viewers;
            let sum: u64 = viewers.iter().filter_map(|viewer| viewer["gifts"]["value"].as_u64()).sum();
            same("gift value of all viewers", name, &Json::from(sum), value);
        }
        let accounts = ReadContext { reader: &self.accounts.store, app: APP, at_ms, rules };
        let by_messages = rules.gifts.source == GiftSource::Messages;
        let mut sum = 0;
        for (name, user) in &expected.users {
            let mut out = Map::new();
            LikeTallies.user(&accounts, name, &mut out).expect("reads");
            sum += out["gifts"]["value"].as_u64().expect("a number");
            // Without a feed of bills the truth of a simulated account is not told; that of a recorded one is.
            if !by_messages || !likes {
                same("gift value", name, &out["gifts"]["value"], user.gift_value);
            }
            if likes {
                same("likes", name, &out["likes"]["count"], user.likes_attempted);
            }
            if !by_messages {
                same("gifts", name, &out["gifts"]["count"], user.gift_count);
                same("memberships", name, &out["memberships"]["count"], user.memberships);
            }
        }
        let value = expected.rooms.values().map(|room| room.gifts.value).sum();
        same("gift value of all accounts", "all", &Json::from(sum), value);
        differences
    }
}

fn plays_without_a_difference(name: &str, value: u64) {
    let Some(recording) = Recording::find(name, "likes and gifts") else { return };
    let expected = Expected::from_json(recording.expected().as_bytes()).expect("expected totals");
    let mut world = World::new(&RuleSet::default());
    for line in recording.lines() {
        world.line(&line);
    }
    let found = world.differences(&expected, false);
    assert!(found.is_empty(), "{} differences, the first: {:#?}", found.len(), &found[..found.len().min(10)]);
    assert_eq!(expected.rooms.values().map(|room| room.gifts.value).sum::<u64>(), value, "another recording");
}

#[test]
fn the_recorded_rooms_have_no_difference() {
    plays_without_a_difference("developer", 236_147);
}

#[test]
fn the_recorded_burst_has_no_difference() {
    plays_without_a_difference("burst", 0);
}

#[test]
fn the_recorded_rejoins_have_no_difference() {
    plays_without_a_difference("rejoin", 37_929);
}

#[test]
fn simulated_evenings_have_no_difference_with_bills_and_without() {
    let (mut likes, mut gifts) = (0, 0);
    for seed in 1..=10 {
        for billing_feed in [true, false] {
            let mut evening = Evening::new(Config { seed, billing_feed, ..Config::small() }).expect("a valid evening");
            let mut rules = RuleSet::default();
            rules.gifts.source = if billing_feed { GiftSource::Billing } else { GiftSource::Messages };
            let mut world = World::new(&rules);
            for line in evening.by_ref() {
                world.line(&line.to_json_line());
            }
            let expected = evening.expected();
            let found = world.differences(&expected, true);
            assert!(
                found.is_empty(),
                "seed {seed}, {} differences, the first: {:#?}",
                found.len(),
                &found[..found.len().min(10)]
            );
            likes += expected.rooms.values().map(|room| room.likes_attempted).sum::<u64>();
            gifts += expected.rooms.values().map(|room| room.gifts.count).sum::<u64>();
        }
    }
    assert!(likes > 1_000 && gifts > 100, "nothing happened: {likes} likes, {gifts} gifts");
}
