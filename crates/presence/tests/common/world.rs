//! One partition of each topic, fed with lines of a recording: what accounts' partition derives goes on to the rooms'.

use barrage_event::rules::{Compiled, RuleSet};
use barrage_event::{EnvelopeView, Source, Stamp, Topic, callback};
use barrage_online_duration::OnlineDuration;
use barrage_presence::Presence;
use barrage_projection::memory::Harness;
use barrage_projection::{Projection, ReadContext, Statistic};
use serde_json::{Map, Value as Json};

use super::APP;

pub(crate) struct World {
    pub(crate) rooms: Harness,
    pub(crate) users: Harness,
    compiled: Compiled,
    stamp: Stamp,
    offset: u64,
    pub(crate) records: u64,
    pub(crate) derived: u64,
    pub(crate) intents: u64,
}

fn projections(topic: Topic) -> Vec<Box<dyn Projection>> {
    let all = OnlineDuration.projections().into_iter().chain(Presence.projections());
    all.filter(|projection| projection.topic() == topic).collect()
}

impl World {
    pub(crate) fn new(rules: &RuleSet) -> Self {
        Self {
            rooms: Harness::of(projections(Topic::Room), rules.clone()).expect("own ids"),
            users: Harness::of(projections(Topic::User), rules.clone()).expect("own ids"),
            compiled: Compiled::new(rules, 1).expect("fit rules"),
            stamp: Stamp { id: 0, app: APP, received_at_ms: 0, incarnation: 1, rules_version: 1, verdict: None },
            offset: 0,
            records: 0,
            derived: 0,
            intents: 0,
        }
    }

    /// A callback that is received at `at_ms`.
    pub(crate) fn callback(&mut self, at_ms: i64, command: &str, platform: &str, body: &str) {
        let Ok(callback) = callback::decode(command, platform, body.as_bytes(), &self.compiled) else { return };
        self.stamp.id += 1;
        self.stamp.received_at_ms = at_ms;
        let mut bytes = Vec::new();
        for route in callback.routes().iter() {
            bytes.clear();
            callback.encode(&self.stamp, route, false, &mut bytes);
            self.record(route.topic, &bytes);
        }
    }

    /// One record of a topic, and what follows from it.
    pub(crate) fn record(&mut self, topic: Topic, bytes: &[u8]) {
        let view = EnvelopeView::decode(bytes).expect("our own record");
        self.records += 1;
        match topic {
            Topic::Room => {
                self.rooms.apply(&view).expect("applies");
                self.intents += self.rooms.effects.intents.len() as u64;
            }
            Topic::User => {
                self.users.apply(&view).expect("applies");
                self.offset += 1;
                let derived = std::mem::take(&mut self.users.effects.derived);
                for (derived, index) in derived.iter().zip(0..) {
                    self.derived += 1;
                    let source = Source { log_uuid: 1, partition: 0, offset: self.offset, index };
                    let bytes = derived.encode(source);
                    self.record(Topic::Room, &bytes);
                }
            }
        }
    }

    pub(crate) fn commit(&mut self) {
        self.rooms.commit(usize::MAX);
        self.users.commit(usize::MAX);
    }

    pub(crate) fn room(&self, room: &str, at_ms: i64) -> Map<String, Json> {
        ask(&self.rooms, at_ms, |statistic, cx, out| {
            statistic.room(cx, room, out).expect("reads");
        })
    }

    pub(crate) fn user(&self, account: &str, at_ms: i64) -> Map<String, Json> {
        ask(&self.users, at_ms, |statistic, cx, out| {
            statistic.user(cx, account, out).expect("reads");
        })
    }
}

fn ask(
    harness: &Harness,
    at_ms: i64,
    mut one: impl FnMut(&dyn Statistic, &ReadContext<'_>, &mut Map<String, Json>),
) -> Map<String, Json> {
    let mut out = Map::new();
    let cx = ReadContext { reader: &harness.store, app: APP, at_ms, rules: &harness.rules };
    one(&OnlineDuration, &cx, &mut out);
    one(&Presence, &cx, &mut out);
    out
}
