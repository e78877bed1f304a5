//! Recorded and simulated rooms, without HTTP: what a level is made of is what the other statistics answer and what was
//! counted independently, and whoever has a level heard of it once.

mod common;

use std::collections::{BTreeMap, HashSet};

use barrage_event::callback::{self, Callback};
use barrage_event::identity::{business_key, identity};
use barrage_event::rules::{Compiled, GiftSource, RuleSet};
use barrage_event::{EnvelopeView, Identity, Stamp, Topic, business};
use barrage_like_tallies::{AccountTallies, LikeTallies};
use barrage_message_counts::{MessageCounts, SenderMessageCounts};
use barrage_online_duration::{AccountOnlineDuration, OnlineDuration};
use barrage_projection::memory::Harness;
use barrage_projection::{ReadContext, Statistic};
use barrage_recordings::Recording;
use barrage_simulator::{Config, Evening, Expected};
use barrage_user_levels::{AccountLevels, UserLevels};
use serde_json::{Map, Value as Json, json};

use common::{APP, told};

/// One partition of accounts.
struct World {
    rules: Compiled,
    accounts: Harness,
    seen: HashSet<Identity>,
    /// The levels that were told, in order, by account.
    news: BTreeMap<String, Vec<u64>>,
}

impl World {
    fn new(rules: &RuleSet) -> Self {
        let accounts = Harness::of(
            vec![
                Box::new(SenderMessageCounts),
                Box::new(AccountOnlineDuration),
                Box::new(AccountTallies),
                Box::new(AccountLevels),
            ],
            rules.clone(),
        );
        Self {
            rules: Compiled::new(rules, 1).expect("valid"),
            accounts: accounts.expect("own ids"),
            seen: HashSet::new(),
            news: BTreeMap::new(),
        }
    }

    /// Plays one line of a recording.
    fn line(&mut self, line: &str) {
        #[derive(serde::Deserialize)]
        struct Line<'l> {
            at_ms: i64,
            #[serde(borrow)]
            query: Option<BTreeMap<String, std::borrow::Cow<'l, str>>>,
            #[serde(borrow)]
            body: Option<&'l serde_json::value::RawValue>,
            #[serde(borrow)]
            event: Option<&'l serde_json::value::RawValue>,
        }
        let Line { at_ms, query, body, event } = serde_json::from_str(line).expect("a line");
        let mut records = Vec::new();
        if let Some(body) = body {
            let query = query.unwrap_or_default();
            let text = |name: &str| query.get(name).map_or("", |value| value);
            let (command, platform) = (text("CallbackCommand"), text("OptPlatform"));
            if let Ok(callback) = callback::decode(command, platform, body.get().as_bytes(), &self.rules) {
                self.encode(&callback, at_ms, &mut records);
            }
        } else if let Some(event) = event {
            self.encode(&business::parse(event.get()).expect("a business event").callback, at_ms, &mut records);
        }
        for record in records {
            self.apply(&record);
        }
    }

    fn encode(&self, callback: &Callback<'_>, received_at_ms: i64, records: &mut Vec<Vec<u8>>) {
        let verdict = self.rules.verdict(callback);
        let stamp = Stamp { id: 7, app: APP, received_at_ms, incarnation: 1, rules_version: 1, verdict };
        for route in callback.routes().iter().filter(|route| route.topic == Topic::User) {
            let mut record = Vec::new();
            callback.encode(&stamp, route, false, &mut record);
            records.push(record);
        }
    }

    fn apply(&mut self, record: &[u8]) {
        let record = EnvelopeView::decode(record).expect("our own record");
        // As the runtime does it before any projection.
        let id = business_key(&record).map(|(id, _)| id).or_else(|| identity(&record));
        if id.is_some_and(|id| !self.seen.insert(id)) {
            return;
        }
        self.accounts.apply(&record).expect("applies");
        for (account, level) in told(&self.accounts.effects.intents) {
            self.news.entry(account).or_default().push(level);
        }
    }

    fn user(&self, statistic: &dyn Statistic, account: &str, at_ms: i64) -> Map<String, Json> {
        let mut out = Map::new();
        let cx = ReadContext { reader: &self.accounts.store, app: APP, at_ms, rules: &self.accounts.rules };
        statistic.user(&cx, account, &mut out).expect("reads");
        out
    }

    /// What is not as it should be at the end. `news` is whether nobody was online at the end, so that everything that
    /// was reached must have been told.
    fn differences(&mut self, expected: &Expected, all_told: bool) -> Vec<String> {
        self.accounts.commit(usize::MAX);
        let at = expected.last_ms.max(expected.end_ms);
        let mut found = Vec::new();
        for (name, user) in &expected.users {
            let level = self.user(&UserLevels, name, at)["level"].clone();
            let mut others = self.user(&MessageCounts, name, at);
            others.extend(self.user(&OnlineDuration, name, at));
            others.extend(self.user(&LikeTallies, name, at));
            let parts = &level["parts"];
            let zero = json!(0);
            for (part, amount, other, field) in [
                ("online", "ms", "online", "ms"),
                ("messages", "delivered", "messages", "delivered"),
                ("likes", "count", "likes", "count"),
                ("gifts", "value", "gifts", "value"),
                ("membership", "months", "memberships", "months"),
            ] {
                let wanted = others.get(other).map_or(&zero, |fields| &fields[field]);
                if parts[part][amount] != *wanted {
                    found.push(format!("{name}: {part} is {}, and {other} say {wanted}", parts[part][amount]));
                }
            }
            if parts["messages"]["delivered"] != user.messages {
                found.push(format!("{name}: {} messages, expected {}", parts["messages"]["delivered"], user.messages));
            }
            let news = self.news.get(name).cloned().unwrap_or_default();
            let wanted: Vec<u64> = (1..=news.len() as u64).collect();
            let reached = level["level"].as_u64().expect("a level");
            if news != wanted || news.len() as u64 > reached || all_told && news.len() as u64 != reached {
                found.push(format!("{name}: has level {reached} and was told {news:?}"));
            }
            if all_told && parts["online"]["ms"] != user.online_ms {
                found.push(format!("{name}: {} ms online, expected {}", parts["online"]["ms"], user.online_ms));
            }
            // A simulated world stands still at its end, and there the truth lies within the bounds of the others' answer,
            // which is the one above but for what came later.
            let end = if expected.end_ms > 0 { expected.end_ms } else { at };
            let online = self.user(&OnlineDuration, name, end).remove("online").unwrap_or_default();
            let bound = |name: &str| online[name].as_i64().unwrap_or(0);
            if !(bound("lower_ms")..=bound("upper_ms")).contains(&user.online_ms) {
                found.push(format!("{name}: {} ms online, not within {online}", user.online_ms));
            }
            // A simulated world without bills does not say what its gifts were worth.
            let billed = all_told || self.accounts.rules.gifts.source == GiftSource::Billing;
            if billed && parts["gifts"]["value"] != user.gift_value {
                found.push(format!("{name}: gifts of {}, expected {}", parts["gifts"]["value"], user.gift_value));
            }
        }
        found
    }
}

fn plays_without_a_difference(name: &str) {
    let Some(recording) = Recording::find(name, "levels") else { return };
    let expected = Expected::from_json(recording.expected().as_bytes()).expect("expected totals");
    let mut world = World::new(&RuleSet::default());
    for line in recording.lines() {
        world.line(&line);
    }
    let found = world.differences(&expected, true);
    assert!(found.is_empty(), "{} differences, the first: {:#?}", found.len(), &found[..found.len().min(10)]);
    assert!(world.news.len() > 100, "{} accounts heard of a level", world.news.len());
}

#[test]
fn the_recorded_rooms_have_no_difference() {
    plays_without_a_difference("developer");
}

#[test]
fn the_recorded_burst_has_no_difference() {
    plays_without_a_difference("burst");
}

#[test]
fn the_recorded_rejoins_have_no_difference() {
    plays_without_a_difference("rejoin");
}

#[test]
fn simulated_evenings_have_no_difference_with_bills_and_without() {
    let mut heard = 0;
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
            let found = world.differences(&expected, false);
            assert!(
                found.is_empty(),
                "seed {seed}, {} differences, the first: {:#?}",
                found.len(),
                &found[..found.len().min(10)]
            );
            heard += world.news.values().map(Vec::len).sum::<usize>();
        }
    }
    assert!(heard > 100, "nothing happened: {heard} levels");
}
