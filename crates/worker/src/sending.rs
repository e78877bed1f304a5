//! Sends what a partition's outbox holds: derived events into the log, intents to the publisher.
//!
//! It is a part of the partition's loop and never waits: it begins an append, looks for its acknowledgement in later steps
//! and takes the rows out then. One append of a partition is on its way at a time, so what one source sends stays in
//! order, whatever fails in between.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use barrage_event::routes::partition_of;
use barrage_event::{Offset, Partition, Topic};
use barrage_log::{Ack, AppendBatch, AppendError};
use barrage_state::proto::{IntentRow, OutboxRow};
use barrage_state::runtime::{Intents, Outbox};

use crate::common::Common;
use crate::engine::{Engine, Stop};
use crate::outbox::{Key, behind, rows};
use crate::publisher::{Publication, Publisher};
use crate::status::Unavailable;
use crate::stores::Stores;

/// How long a publisher that has failed is left alone.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// Rows that are sent together.
const ROWS_MAX: usize = 500;

/// What one partition has on its way.
pub(crate) struct Sender {
    batch: AppendBatch,
    derived: Lane<Ack>,
    intents: Lane<Publication>,
    /// What partitions of rooms had seen of this one when this process first had something for them. A store that was
    /// made anew, restored from a snapshot or left behind by an earlier assignment makes events again that were sent
    /// before; those are not sent a second time.
    seen: BTreeMap<u16, Seen>,
    /// The question where the rooms' partitions end, put to the log before anything else.
    ends: Option<u64>,
    /// What is next waits until it is known whether its room has seen it.
    later: bool,
    /// Publishing failed and is tried again then.
    retry_at: Option<Instant>,
}

/// What a partition of rooms has seen of this one.
enum Seen {
    /// It is known when all below `end` is applied there: whatever was sent before is in the log by then.
    Asked { end: Offset },
    /// The high-water of this source there.
    Known(Option<Key>),
}

/// What becomes of a row of the outbox.
enum Road {
    /// It is not known yet; the ones behind it wait, too.
    Later,
    /// The room has seen it.
    Nowhere,
    Out,
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
            self.next = self.next.max(behind(last));
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
            seen: BTreeMap::new(),
            ends: None,
            later: false,
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
        self.later || self.derived.in_flight.is_some() || self.intents.in_flight.is_some() || self.retry_at.is_some()
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
        if !self.derived.look {
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
        self.later = false;
        let (mut keys, mut seen) = (Vec::new(), Vec::new());
        for (key, OutboxRow { app, room, record }) in rows {
            let partition = Partition { topic: Topic::Room, index: partition_of(app, &room, rooms) };
            match self.road(partition, key, engine.partition().index, common) {
                Road::Later => {
                    (self.derived.look, self.later) = (true, true);
                    break;
                }
                Road::Nowhere => seen.push(key),
                Road::Out => {
                    self.batch.push(partition, |buffer| buffer.extend_from_slice(&record));
                    keys.push(key);
                }
            }
        }
        if let Some(&last) = seen.last() {
            engine.sent(&seen)?;
            self.derived.next = self.derived.next.max(behind(last));
        }
        if keys.is_empty() {
            return Ok(());
        }
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

    /// Where a row of the outbox goes.
    fn road(&mut self, room: Partition, key: Key, own: u16, common: &Common) -> Road {
        let log = &common.log;
        let ends = *self.ends.get_or_insert_with(|| log.ask_ends());
        let seen = match self.seen.entry(room.index) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(_) if log.ends_answered() < ends => return Road::Later,
            Entry::Vacant(entry) => entry.insert(Seen::Asked { end: log.end(room) }),
        };
        if let Seen::Asked { end } = *seen {
            match common.marks.mark(room, end, (log.lineage(Topic::User), own)) {
                Mark::Unknown => return Road::Later,
                Mark::Known(mark) => *seen = Seen::Known(mark),
            }
        }
        match *seen {
            Seen::Known(Some(mark)) if key <= mark => Road::Nowhere,
            _ => Road::Out,
        }
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
    /// this uuid, when it has applied all records below `end`. Never waits. A room that cannot be asked for long has seen
    /// nothing as far as anybody knows: it drops what comes a second time.
    fn mark(&self, room: Partition, end: Offset, source: (u128, u16)) -> Mark;
}

/// Asks the stores of this process, and another about the rooms of other processes.
pub(crate) struct LocalMarks {
    pub(crate) stores: Stores,
    pub(crate) others: Option<Arc<dyn SourceMarks>>,
}

impl SourceMarks for LocalMarks {
    fn mark(&self, room: Partition, end: Offset, source: (u128, u16)) -> Mark {
        let read = self.stores.read(room, |snapshot| {
            if snapshot.next_offset() < end { Mark::Unknown } else { Mark::Known(snapshot.source_mark(source)) }
        });
        match (read, &self.others) {
            (Ok(mark), _) => mark,
            (Err(Unavailable::NotMine(_)), Some(others)) => others.mark(room, end, source),
            (Err(Unavailable::Starting(_) | Unavailable::TimedOut(_)), _) => Mark::Unknown,
            (Err(Unavailable::NotMine(_) | Unavailable::Stopped { .. } | Unavailable::Store(_)), _) => {
                Mark::Known(None)
            }
        }
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
