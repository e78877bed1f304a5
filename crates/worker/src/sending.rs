//! Sends what a partition's outbox holds: derived events into the log, intents to the publisher.
//!
//! It is a part of the partition's loop and never waits: it begins to send, looks for the acknowledgement in later steps
//! and takes the rows out then. Nothing leaves the process while it is doubtful whether the partition is still its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use barrage_event::{Offset, Partition, Topic};
use barrage_state::proto::IntentRow;
use barrage_state::runtime::Intents;

use crate::common::Common;
use crate::derived::DerivedLane;
use crate::engine::{Engine, Stop};
use crate::fault;
use crate::outbox::{Key, behind, rows};
use crate::publisher::{Publication, Publisher};
use crate::status::Unavailable;
use crate::stores::Stores;

/// How long a publisher that has failed is left alone.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// Rows that are sent together.
pub(crate) const ROWS_MAX: usize = 500;

/// What one partition has on its way.
#[derive(Default)]
pub(crate) struct Sender {
    derived: DerivedLane,
    intents: IntentLane,
}

/// The notifications of one partition, in order.
struct IntentLane {
    /// There may be committed rows at or behind `next`.
    look: bool,
    next: Key,
    in_flight: Option<(Vec<Key>, Publication)>,
    /// Publishing failed and is tried again then.
    retry_at: Option<Instant>,
}

impl Default for IntentLane {
    fn default() -> Self {
        Self { look: true, next: (0, 0), in_flight: None, retry_at: None }
    }
}

impl Sender {
    /// There is a commit that may hold rows to send.
    pub(crate) fn committed(&mut self) {
        self.derived.committed();
        self.intents.look = true;
    }

    /// Whether an answer is waited for.
    pub(crate) fn is_waiting(&self) -> bool {
        self.derived.is_waiting() || self.intents.in_flight.is_some() || self.intents.retry_at.is_some()
    }

    /// Goes on as far as it can without waiting.
    pub(crate) fn step(&mut self, engine: &mut Engine, common: &Common) -> Result<(), Stop> {
        if engine.partition().topic == Topic::User {
            self.derived.step(engine, common)?;
        }
        self.intents.step(engine, common)
    }
}

impl IntentLane {
    fn step(&mut self, engine: &mut Engine, common: &Common) -> Result<(), Stop> {
        self.look_for_answer(engine, common)?;
        if self.in_flight.is_some() || !self.look || self.retry_at.is_some_and(|at| Instant::now() < at) {
            return Ok(());
        }
        self.retry_at = None;
        if engine.outgoing() == 0 {
            self.look = false;
            return Ok(());
        }
        let partition = engine.partition();
        if !(common.is_owner)(partition) {
            return Ok(());
        }
        let Some(published) = common.publisher.published(partition) else { return Ok(()) };
        let rows = engine.store().read(|snapshot| rows::<Intents>(snapshot, self.next, ROWS_MAX))??;
        self.look = rows.len() == ROWS_MAX;
        // What was published before this store was made anew is not said again.
        let (old, new): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(key, _)| *key < published);
        let old: Vec<Key> = old.into_iter().map(|(key, _)| key).collect();
        engine.told(&old)?;
        if let Some(&last) = old.last() {
            self.next = behind(last);
        }
        let keys: Vec<Key> = new.iter().map(|(key, _)| *key).collect();
        let Some(&last) = keys.last() else { return Ok(()) };
        let messages = new.into_iter().map(|(key, IntentRow { key: id, message })| (key, id, message)).collect();
        fault::place("intents.publish");
        let publication = common.publisher.publish(partition, messages);
        fault::place("intents.published");
        self.next = behind(last);
        self.in_flight = Some((keys, publication));
        Ok(())
    }

    fn look_for_answer(&mut self, engine: &mut Engine, common: &Common) -> Result<(), Stop> {
        let Some((keys, publication)) = self.in_flight.take() else { return Ok(()) };
        match publication.try_get() {
            None => self.in_flight = Some((keys, publication)),
            Some(Ok(())) => {
                fault::place("intents.acknowledged");
                common.metrics.intents_published.inc_by(keys.len() as u64);
                engine.told(&keys)?;
                fault::place("intents.taken");
            }
            Some(Err(reason)) => {
                let partition = engine.partition();
                tracing::warn!(%partition, reason, "notifications cannot be published; they are tried again");
                // The same rows again.
                self.next = keys.first().copied().unwrap_or(self.next);
                self.look = true;
                self.retry_at = Some(Instant::now() + RETRY_AFTER);
            }
        }
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
