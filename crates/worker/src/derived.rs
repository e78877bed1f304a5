//! The way of derived events from the outbox to their rooms.
//!
//! One append of a partition is on its way at a time, so what one source sends to one partition of rooms stays in order,
//! whatever fails in between. Order matters only there: rows of rooms that nothing can be sent to yet are passed over, and
//! the others are not kept waiting.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::{Duration, Instant};

use barrage_event::routes::partition_of;
use barrage_event::{Offset, Partition, Topic};
use barrage_log::{Ack, AppendBatch, AppendError};
use barrage_state::proto::OutboxRow;
use barrage_state::runtime::Outbox;

use crate::common::Common;
use crate::engine::{Engine, Stop};
use crate::fault;
use crate::outbox::{Key, behind, rows};
use crate::sending::{Mark, ROWS_MAX};

/// How long a log that has refused a record is left alone.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The derived events of one partition.
pub(crate) struct DerivedLane {
    batch: AppendBatch,
    /// There may be committed rows at or behind `next`.
    look: bool,
    /// Rows before it are on their way or gone, but for those that were passed over.
    next: Key,
    /// Partitions of rooms whose rows were passed over or have come back: none from this place on is on its way.
    passed: BTreeMap<u16, Key>,
    in_flight: Option<(Vec<(Key, u16)>, Ack)>,
    /// What partitions of rooms had seen of this one when this process first had something for them. A store that was
    /// made anew, restored from a snapshot or left behind by an earlier assignment makes events again that were sent
    /// before; those are not sent a second time.
    seen: BTreeMap<u16, Seen>,
    /// The question where the rooms' partitions end, put to the log before anything else.
    ends: Option<u64>,
    /// The log has refused a record and is tried again then.
    retry_at: Option<Instant>,
}

/// What a partition of rooms has seen of this one.
enum Seen {
    /// It is known when all below `end` is applied there: whatever was sent before is in the log by then.
    Asked { end: Offset },
    /// The high-water of this source there.
    Known(Option<Key>),
}

/// A row of the outbox, and the partition of its room.
type Row = (Key, u16, OutboxRow);

impl Default for DerivedLane {
    fn default() -> Self {
        Self {
            batch: AppendBatch::new(),
            look: true,
            next: (0, 0),
            passed: BTreeMap::new(),
            in_flight: None,
            seen: BTreeMap::new(),
            ends: None,
            retry_at: None,
        }
    }
}

impl DerivedLane {
    /// There is a commit that may hold rows to send.
    pub(crate) fn committed(&mut self) {
        self.look = true;
    }

    /// Whether something is waited for that the log does not tell of.
    pub(crate) fn is_waiting(&self) -> bool {
        self.in_flight.is_some() || !self.passed.is_empty()
    }

    /// Goes on as far as it can without waiting.
    pub(crate) fn step(&mut self, engine: &mut Engine, common: &Common) -> Result<(), Stop> {
        self.look_for_answer(engine, common)?;
        if self.in_flight.is_some() || self.retry_at.is_some_and(|at| Instant::now() < at) {
            return Ok(());
        }
        self.retry_at = None;
        if engine.outgoing() == 0 {
            // Spares most partitions the look at an empty table after every commit.
            self.look = false;
            self.passed.clear();
            return Ok(());
        }
        if !self.is_wanted() || !(common.is_owner)(engine.partition()) {
            return Ok(());
        }
        let own = engine.partition().index;
        let waiting: Vec<u16> = self.passed.keys().copied().collect();
        let ready: Vec<u16> = waiting.into_iter().filter(|&room| self.seen_by(room, own, common).is_some()).collect();
        let rows = if !ready.is_empty() {
            self.catch_up(&ready, engine, common)?
        } else if self.look {
            self.go_on(engine, common)?
        } else {
            Vec::new()
        };
        self.send(rows, engine, common)
    }

    fn is_wanted(&self) -> bool {
        self.look || !self.passed.is_empty()
    }

    fn look_for_answer(&mut self, engine: &mut Engine, common: &Common) -> Result<(), Stop> {
        let Some((sent, ack)) = self.in_flight.take() else { return Ok(()) };
        match ack.try_get() {
            None => self.in_flight = Some((sent, ack)),
            Some(Ok(_)) => {
                fault::place("derived.acknowledged");
                common.metrics.derived_sent.inc_by(sent.len() as u64);
                let keys: Vec<Key> = sent.into_iter().map(|(key, _)| key).collect();
                engine.sent(&keys)?;
                fault::place("derived.taken");
            }
            // The log says itself what is wrong with it; the rows stay, for this process or the next one.
            Some(Err(_)) => self.again(sent),
        }
        Ok(())
    }

    /// Rows that did not get away.
    fn again(&mut self, sent: Vec<(Key, u16)>) {
        for (key, room) in sent {
            let first = self.passed.entry(room).or_insert(key);
            *first = key.min(*first);
        }
    }

    /// The next rows, without those of rooms that have to wait.
    fn go_on(&mut self, engine: &Engine, common: &Common) -> Result<Vec<Row>, Stop> {
        let found = read(self.next, engine, common)?;
        self.look = found.len() == ROWS_MAX;
        if let Some(&(last, ..)) = found.last() {
            self.next = behind(last);
        }
        let own = engine.partition().index;
        let mut rows = Vec::with_capacity(found.len());
        for (key, room, row) in found {
            if self.passed.contains_key(&room) {
                continue;
            }
            if self.seen_by(room, own, common).is_none() {
                self.passed.insert(room, key);
                continue;
            }
            rows.push((key, room, row));
        }
        Ok(rows)
    }

    /// Rows of these rooms that were passed over. None of a later place goes before them.
    fn catch_up(&mut self, ready: &[u16], engine: &Engine, common: &Common) -> Result<Vec<Row>, Stop> {
        let Some(from) = ready.iter().filter_map(|room| self.passed.get(room)).min().copied() else {
            return Ok(Vec::new());
        };
        let mut rows = read(from, engine, common)?;
        let read_to = match rows.last() {
            Some(&(last, ..)) if rows.len() == ROWS_MAX => self.next.min(behind(last)),
            _ => self.next,
        };
        let passed = &self.passed;
        rows.retain(|(key, room, _)| {
            *key < read_to && ready.contains(room) && passed.get(room).is_some_and(|first| key >= first)
        });
        for room in ready {
            match self.passed.get_mut(room) {
                // All the others are those that `go_on` comes to.
                Some(_) if read_to == self.next => drop(self.passed.remove(room)),
                Some(first) => *first = read_to.max(*first),
                None => {}
            }
        }
        Ok(rows)
    }

    /// Sends rows whose rooms' marks are known.
    fn send(&mut self, rows: Vec<Row>, engine: &mut Engine, common: &Common) -> Result<(), Stop> {
        self.batch.clear();
        let (mut sent, mut known) = (Vec::new(), Vec::new());
        for (key, room, row) in rows {
            match self.seen.get(&room) {
                Some(Seen::Known(Some(mark))) if key <= *mark => known.push(key),
                _ => {
                    let partition = Partition { topic: Topic::Room, index: room };
                    self.batch.push(partition, |buffer| buffer.extend_from_slice(&row.record));
                    sent.push((key, room));
                }
            }
        }
        engine.sent(&known)?;
        if sent.is_empty() {
            return Ok(());
        }
        fault::place("derived.append");
        match common.log.append(&mut self.batch) {
            Ok(ack) => {
                fault::place("derived.appended");
                self.in_flight = Some((sent, ack));
            }
            Err(AppendError::Full { .. } | AppendError::Failed { .. } | AppendError::Closed) => self.again(sent),
            Err(error) => {
                let partition = engine.partition();
                tracing::error!(%partition, %error, "derived events cannot be appended; they stay in the outbox");
                self.again(sent);
                self.retry_at = Some(Instant::now() + RETRY_AFTER);
            }
        }
        Ok(())
    }

    /// What a partition of rooms has seen of this one; `None` while that is not known.
    fn seen_by(&mut self, room: u16, own: u16, common: &Common) -> Option<Option<Key>> {
        let log = &common.log;
        let partition = Partition { topic: Topic::Room, index: room };
        let ends = *self.ends.get_or_insert_with(|| log.ask_ends());
        let seen = match self.seen.entry(room) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(_) if log.ends_answered(partition) < ends => return None,
            Entry::Vacant(entry) => entry.insert(Seen::Asked { end: log.end(partition) }),
        };
        match *seen {
            Seen::Known(mark) => Some(mark),
            Seen::Asked { end } => match common.marks.mark(partition, end, (log.lineage(Topic::User), own)) {
                Mark::Unknown => None,
                Mark::Known(mark) => {
                    *seen = Seen::Known(mark);
                    Some(mark)
                }
            },
        }
    }
}

/// The first committed rows at or behind a place.
fn read(from: Key, engine: &Engine, common: &Common) -> Result<Vec<Row>, Stop> {
    let rooms = common.log.partitions(Topic::Room);
    let found = engine.store().read(|snapshot| rows::<Outbox>(snapshot, from, ROWS_MAX))??;
    Ok(found.into_iter().map(|(key, row)| (key, partition_of(row.app, &row.room, rooms), row)).collect())
}
