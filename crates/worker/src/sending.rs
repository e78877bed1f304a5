//! Sends what a partition's outbox holds: derived events into the log, intents to the publisher.
//!
//! It is a part of the partition's loop and never waits: it begins an append, looks for its acknowledgement in later steps
//! and takes the rows out then. One append of a partition is on its way at a time, so what one source sends stays in
//! order, whatever fails in between.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use barrage_event::routes::partition_of;
use barrage_event::{Offset, Partition, Topic};
use barrage_log::{Ack, AppendBatch, AppendError, EventLog};
use barrage_state::proto::{IntentRow, OutboxRow};
use barrage_state::runtime::{Intents, Outbox};

use crate::common::Common;
use crate::engine::{Engine, Stop};
use crate::outbox::{Key, behind, rows};
use crate::publisher::{Publication, Publisher};

/// How long a publisher that has failed is left alone.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// Rows that are sent together.
const ROWS_MAX: usize = 500;

/// What one partition has on its way.
pub(crate) struct Sender {
    batch: AppendBatch,
    derived: Lane<Ack>,
    intents: Lane<Publication>,
    /// How far the rooms have to be read until their high-waters say what this store has sent; taken once.
    ends: Option<BTreeMap<Partition, Offset>>,
    /// Publishing failed and is tried again then.
    retry_at: Option<Instant>,
}

/// One kind of what is sent.
struct Lane<A> {
    /// There may be committed rows at or behind `next`.
    look: bool,
    next: Key,
    in_flight: Option<(Vec<Key>, A)>,
}

impl<A> Default for Lane<A> {
    fn default() -> Self {
        Self { look: true, next: (0, 0), in_flight: None }
    }
}

impl<A> Lane<A> {
    fn on_its_way(&mut self, keys: Vec<Key>, answer: A) {
        if let Some(&last) = keys.last() {
            self.next = behind(last);
        }
        self.in_flight = Some((keys, answer));
    }

    /// It was not taken: the same rows again.
    fn again(&mut self, keys: &[Key]) {
        self.next = keys.first().copied().unwrap_or(self.next);
        self.look = true;
    }
}

impl Default for Sender {
    fn default() -> Self {
        Self {
            batch: AppendBatch::new(),
            derived: Lane::default(),
            intents: Lane::default(),
            ends: None,
            retry_at: None,
        }
    }
}

impl Sender {
    /// There is a commit that may hold rows to send.
    pub(crate) fn committed(&mut self) {
        self.derived.look = true;
        self.intents.look = true;
    }

    /// Whether an answer is waited for.
    pub(crate) fn is_waiting(&self) -> bool {
        self.derived.in_flight.is_some() || self.intents.in_flight.is_some() || self.retry_at.is_some()
    }

    /// Goes on as far as it can without waiting.
    pub(crate) fn step(&mut self, engine: &mut Engine, common: &Common) -> Result<(), Stop> {
        if engine.partition().topic == Topic::User {
            self.step_derived(engine, common)?;
        }
        self.step_intents(engine, common)
    }

    fn step_derived(&mut self, engine: &mut Engine, common: &Common) -> Result<(), Stop> {
        if let Some((keys, ack)) = self.derived.in_flight.take() {
            match ack.try_get() {
                None => {
                    self.derived.in_flight = Some((keys, ack));
                    return Ok(());
                }
                Some(Ok(_)) => {
                    common.metrics.derived_sent.inc_by(keys.len() as u64);
                    engine.sent(&keys)?;
                }
                // The log says itself what is wrong with it; the rows stay, for this process or the next one.
                Some(Err(_)) => self.derived.again(&keys),
            }
        }
        if !self.derived.look || (!engine.is_settled()? && !self.settle(engine, common)?) {
            return Ok(());
        }
        if engine.outgoing() == 0 {
            // Spares most partitions the look at an empty table after every commit.
            self.derived.look = false;
            return Ok(());
        }
        let rows = engine.store().read(|snapshot| rows::<Outbox>(snapshot, self.derived.next, ROWS_MAX))??;
        self.derived.look = rows.len() == ROWS_MAX;
        if rows.is_empty() {
            return Ok(());
        }
        let rooms = common.log.partitions(Topic::Room);
        self.batch.clear();
        for (_, OutboxRow { app, room, record }) in &rows {
            let partition = Partition { topic: Topic::Room, index: partition_of(*app, room, rooms) };
            self.batch.push(partition, |buffer| buffer.extend_from_slice(record));
        }
        let keys: Vec<Key> = rows.into_iter().map(|(key, _)| key).collect();
        match common.log.append(&mut self.batch) {
            Ok(ack) => self.derived.on_its_way(keys, ack),
            Err(AppendError::Full { .. } | AppendError::Failed { .. } | AppendError::Closed) => {
                self.derived.again(&keys);
            }
            Err(error) => {
                let partition = engine.partition();
                tracing::error!(%partition, %error, "derived events cannot be appended; they stay in the outbox");
                self.derived.again(&keys);
                self.derived.look = false;
            }
        }
        Ok(())
    }

    /// A store that was made from the log's start has everything in its outbox again. What the rooms have seen of it is
    /// taken out before anything is sent; that is known when they, and this partition itself, are read as far as the log
    /// went when this began.
    fn settle(&mut self, engine: &mut Engine, common: &Common) -> Result<bool, Stop> {
        let log: &dyn EventLog = common.log.as_ref();
        let own = engine.partition();
        let ends = self.ends.get_or_insert_with(|| {
            let concerned = |partition: &Partition| partition.topic == Topic::Room || *partition == own;
            log.all_partitions().into_iter().filter(concerned).map(|p| (p, log.end(p))).collect()
        });
        if ends.get(&own).is_some_and(|end| engine.committed().next_offset < end.0) {
            return Ok(false);
        }
        let mut marks = BTreeMap::new();
        for (&room, &end) in ends.iter().filter(|(partition, _)| **partition != own) {
            match common.marks.mark(room, end, (log.uuid(), own.index)) {
                Mark::Unknown => return Ok(false),
                Mark::Known(mark) => marks.insert(room.index, mark),
            };
        }
        let rooms = common.log.partitions(Topic::Room);
        let mut from = (0, 0);
        loop {
            let rows = engine.store().read(|snapshot| rows::<Outbox>(snapshot, from, ROWS_MAX))??;
            let Some(&(last, _)) = rows.last() else { break };
            from = behind(last);
            let seen = |(key, row): &(Key, OutboxRow)| {
                let mark = marks.get(&partition_of(row.app, &row.room, rooms)).copied().flatten();
                mark.is_some_and(|mark| *key <= mark)
            };
            let keys: Vec<Key> = rows.iter().filter(|row| seen(row)).map(|(key, _)| *key).collect();
            engine.sent(&keys)?;
        }
        engine.settle()?;
        self.ends = None;
        // The rows are gone with the next commit; the look after that finds what is to be sent.
        self.derived.look = false;
        Ok(false)
    }

    fn step_intents(&mut self, engine: &mut Engine, common: &Common) -> Result<(), Stop> {
        let partition = engine.partition();
        if let Some((keys, publication)) = self.intents.in_flight.take() {
            match publication.try_get() {
                None => {
                    self.intents.in_flight = Some((keys, publication));
                    return Ok(());
                }
                Some(Ok(())) => {
                    common.metrics.intents_published.inc_by(keys.len() as u64);
                    engine.told(&keys)?;
                }
                Some(Err(reason)) => {
                    tracing::warn!(%partition, reason, "notifications cannot be published; they are tried again");
                    self.intents.again(&keys);
                    self.retry_at = Some(Instant::now() + RETRY_AFTER);
                }
            }
        }
        if !self.intents.look || self.retry_at.is_some_and(|at| Instant::now() < at) {
            return Ok(());
        }
        self.retry_at = None;
        if engine.outgoing() == 0 {
            self.intents.look = false;
            return Ok(());
        }
        let Some(published) = common.publisher.published(partition) else { return Ok(()) };
        let rows = engine.store().read(|snapshot| rows::<Intents>(snapshot, self.intents.next, ROWS_MAX))??;
        self.intents.look = rows.len() == ROWS_MAX;
        // What was published before this store was made anew is not said again.
        let (old, new): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(key, _)| *key < published);
        let old: Vec<Key> = old.into_iter().map(|(key, _)| key).collect();
        engine.told(&old)?;
        if let Some(&last) = old.last() {
            self.intents.next = behind(last);
        }
        if new.is_empty() {
            return Ok(());
        }
        let keys = new.iter().map(|(key, _)| *key).collect();
        let messages = new.into_iter().map(|(key, IntentRow { key: id, message })| (key, id, message)).collect();
        let publication = common.publisher.publish(partition, messages);
        self.intents.on_its_way(keys, publication);
        Ok(())
    }
}

/// What a room has seen of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Not known yet: the room's partition is not read far enough, or its owner cannot be asked. Ask again later.
    Unknown,
    /// The highest (offset, index) that came from the source; `None` when nothing did.
    Known(Option<Key>),
}

/// Knows what rooms have seen of a source of derived events.
pub trait SourceMarks: Send + Sync {
    /// What the partition `room` has seen of the source, the partition of `barrage.user` with this number in the log with
    /// this uuid, when it has applied all records below `end`. Never waits.
    fn mark(&self, room: Partition, end: Offset, source: (u128, u16)) -> Mark;
}

/// Asks the stores of this process.
pub(crate) struct LocalMarks {
    pub(crate) assigned: Arc<crate::shared::Assigned>,
}

impl SourceMarks for LocalMarks {
    fn mark(&self, room: Partition, end: Offset, (log_uuid, partition): (u128, u16)) -> Mark {
        // A room of another process is not asked: what it has seen is sent again, and it drops it. That costs room in
        // the log, and only where a store is made from the log's start.
        let Some(shared) = self.assigned.get(room) else { return Mark::Known(None) };
        let Ok(store) = shared.store() else { return Mark::Unknown };
        let mark = store.read(|snapshot| {
            let meta = snapshot.meta();
            if meta.next_offset < end.0 {
                return Mark::Unknown;
            }
            let uuid = log_uuid.to_be_bytes();
            let mark = meta.source_marks.iter().find(|m| m.log_uuid == uuid && m.partition == u32::from(partition));
            Mark::Known(mark.map(|mark| (mark.offset, mark.index)))
        });
        mark.unwrap_or(Mark::Unknown)
    }
}

/// Publishes nowhere: for processes without a place for notifications.
pub(crate) struct Nowhere;

impl Publisher for Nowhere {
    fn published(&self, _: Partition) -> Option<Key> {
        Some((u64::MAX, u32::MAX))
    }

    fn publish(&self, _: Partition, _: Vec<(Key, String, String)>) -> Publication {
        Publication::done(Ok(()))
    }
}
