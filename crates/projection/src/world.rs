//! One partition of each topic, fed with callbacks: what the accounts' partition derives goes on to the rooms'.

use barrage_event::rules::{Compiled, RuleSet};
use barrage_event::{EnvelopeView, Source, Stamp, Topic, callback};
use serde_json::{Map, Value as Json};

use crate::memory::Harness;
use crate::reads::ReadContext;
use crate::statistic::Statistic;

/// Statistics and their two partitions. Panics where something does not apply or read: it is for tests.
pub struct World {
    /// The partition of rooms.
    pub rooms: Harness,
    /// The partition of accounts.
    pub users: Harness,
    /// Records that were applied.
    pub records: u64,
    /// Of those, what was derived from others.
    pub derived: u64,
    /// Notifications that were to be sent.
    pub intents: u64,
    statistics: Vec<Box<dyn Statistic>>,
    compiled: Compiled,
    stamp: Stamp,
    offset: u64,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("records", &self.records).finish_non_exhaustive()
    }
}

#[expect(clippy::missing_panics_doc, reason = "it is for tests")]
impl World {
    /// Empty partitions under these rules.
    #[must_use]
    pub fn new(statistics: Vec<Box<dyn Statistic>>, app: u32, rules: &RuleSet) -> Self {
        let partition = |topic| {
            let all = statistics.iter().flat_map(|statistic| statistic.projections());
            let own = all.filter(|projection| projection.topic() == topic).collect();
            Harness::of(own, rules.clone()).expect("ids of their own")
        };
        Self {
            rooms: partition(Topic::Room),
            users: partition(Topic::User),
            records: 0,
            derived: 0,
            intents: 0,
            statistics,
            compiled: Compiled::new(rules, 1).expect("fit rules"),
            stamp: Stamp { id: 0, app, received_at_ms: 0, incarnation: 1, rules_version: 1, verdict: None },
            offset: 0,
        }
    }

    /// The records of a callback that is received at `at_ms`; none when it cannot be read.
    pub fn records_of(&mut self, at_ms: i64, command: &str, platform: &str, body: &str) -> Vec<(Topic, Vec<u8>)> {
        let Ok(callback) = callback::decode(command, platform, body.as_bytes(), &self.compiled) else {
            return Vec::new();
        };
        self.stamp.id += 1;
        self.stamp.received_at_ms = at_ms;
        let record = |route: &barrage_event::Route<'_>| {
            let mut bytes = Vec::new();
            callback.encode(&self.stamp, route, false, &mut bytes);
            (route.topic, bytes)
        };
        callback.routes().iter().map(record).collect()
    }

    /// A callback that is received at `at_ms`.
    pub fn callback(&mut self, at_ms: i64, command: &str, platform: &str, body: &str) {
        for (topic, bytes) in self.records_of(at_ms, command, platform, body) {
            self.record(topic, &bytes);
        }
    }

    /// One record of a topic, and what follows from it.
    pub fn record(&mut self, topic: Topic, bytes: &[u8]) {
        let view = EnvelopeView::decode(bytes).expect("our own record");
        self.records += 1;
        let partition = match topic {
            Topic::Room => &mut self.rooms,
            Topic::User => &mut self.users,
        };
        partition.apply(&view).expect("applies");
        self.intents += partition.effects.intents.len() as u64;
        self.offset += 1;
        let derived = std::mem::take(&mut partition.effects.derived);
        for (derived, index) in derived.iter().zip(0..) {
            self.derived += 1;
            let source = Source { log_uuid: 1, partition: 0, offset: self.offset, index };
            self.record(Topic::Room, &derived.encode(source));
        }
    }

    /// Commits both partitions.
    pub fn commit(&mut self) {
        self.rooms.commit(usize::MAX);
        self.users.commit(usize::MAX);
    }

    /// What is answered about a room.
    #[must_use]
    pub fn room(&self, room: &str, at_ms: i64) -> Map<String, Json> {
        self.ask(&self.rooms, at_ms, |statistic, cx, out| {
            statistic.room(cx, room, out).expect("reads");
        })
    }

    /// What is answered about an account.
    #[must_use]
    pub fn user(&self, account: &str, at_ms: i64) -> Map<String, Json> {
        self.ask(&self.users, at_ms, |statistic, cx, out| {
            statistic.user(cx, account, out).expect("reads");
        })
    }

    /// The first viewers of a room in an order; `None` when no statistic knows that.
    #[must_use]
    pub fn viewers(&self, room: &str, sort: &str, at_ms: i64, limit: usize) -> Option<Vec<Map<String, Json>>> {
        let statistic = self.statistics.iter().find(|statistic| statistic.viewer_sorts().contains(&sort))?;
        let cx = self.context(&self.rooms, at_ms);
        let page = statistic.viewers(&cx, room, sort, limit, None).expect("reads");
        page.map(|page| page.viewers)
    }

    /// Every order of viewers that there is.
    #[must_use]
    pub fn viewer_sorts(&self) -> Vec<&'static str> {
        self.statistics.iter().flat_map(|statistic| statistic.viewer_sorts()).copied().collect()
    }

    fn context<'w>(&self, partition: &'w Harness, at_ms: i64) -> ReadContext<'w> {
        ReadContext { reader: &partition.store, app: self.stamp.app, at_ms, rules: &partition.rules }
    }

    fn ask(
        &self,
        partition: &Harness,
        at_ms: i64,
        mut one: impl FnMut(&dyn Statistic, &ReadContext<'_>, &mut Map<String, Json>),
    ) -> Map<String, Json> {
        let mut out = Map::new();
        let cx = self.context(partition, at_ms);
        for statistic in &self.statistics {
            one(statistic.as_ref(), &cx, &mut out);
        }
        out
    }
}
