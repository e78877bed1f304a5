//! What was appended and is not yet acknowledged: which record of which partition may be handed to which producer.
//!
//! Pure: no Kafka client and no clock in here. Records of a partition stand in one queue. The first `sent` of them are
//! with the producer of the partition's lane; a report takes them off the front, a new producer gets them all again.
//!
//! Two rules keep a record from overtaking a refused one before it, which would make its worker drop that for ever:
//!
//! * A broker refuses what does not follow the last sequence **it knows** of a producer. From a producer that it does not
//!   know in this partition it takes anything. So a new producer sends one record alone, and more when it arrived.
//! * A record that the topic may refuse for its size is sent alone as well.
//!
//! A partition whose record was refused goes to the *probe* lane, a second producer that sends one record a partition, so
//! that its failures do not disturb the others. With the first success it goes back to the *main* lane.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use barrage_event::Position;

use crate::ack::Completer;
use crate::kafka::pending::{Batch, Done};

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// A broker forgets an idle producer after a day by default; well before that, the first record goes alone again.
const FORGOTTEN: Duration = Duration::from_secs(3_600);

/// What a record counts beside its bytes, so that empty ones are bounded as well: its place in the queues.
const RECORD_COST: usize = 64;

/// Which producer a partition's records go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    Main,
    Probe,
}

/// What goes with a record through librdkafka and comes back with its report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) lane: Lane,
    /// Counts the producers of the lane; reports of an earlier one mean nothing any more.
    pub(crate) generation: u64,
    pub(crate) dense: usize,
    pub(crate) sequence: u64,
}

#[derive(Debug)]
struct Unacked {
    batch: Arc<Batch>,
    start: usize,
    end: usize,
    index: usize,
}

impl Unacked {
    fn bytes(&self) -> &[u8] {
        self.batch.bytes().get(self.start..self.end).unwrap_or_default()
    }
}

/// Records of one partition.
#[derive(Debug)]
struct Line {
    queue: VecDeque<Unacked>,
    /// Sequence of the first in the queue; counts every record of this process.
    first: u64,
    sent: usize,
    lane: Lane,
    /// The broker knows the lane's producer in this partition.
    warm: bool,
    /// The only one that is with the producer may be refused, so nothing goes behind it.
    alone: bool,
    last_ack: Option<Instant>,
    /// Refusals in a row, and when to try again.
    refusals: u32,
    not_before: Option<Instant>,
}

/// One producer at a time.
#[derive(Debug, Default)]
struct LaneState {
    generation: u64,
    /// There is a producer and it works.
    open: bool,
    failures: u32,
    /// When to replace it.
    replace_at: Option<Instant>,
}

/// What a report means for whoever drives the outbox.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) done: Option<Done>,
    /// Bytes that became durable.
    pub(crate) bytes: Option<usize>,
}

/// All unacknowledged records of a log.
#[derive(Debug)]
pub(crate) struct Outbox {
    lines: Box<[Line]>,
    main: LaneState,
    probe: LaneState,
    bytes: usize,
    /// A record larger than this may be refused, so it goes alone. By topic: the line decides.
    safe_bytes: Box<[usize]>,
    pub(crate) closing: bool,
}

fn backoff(times: u32) -> Duration {
    BACKOFF_MIN.saturating_mul(1 << times.saturating_sub(1).min(10)).min(BACKOFF_MAX)
}

impl Outbox {
    pub(crate) fn new(partitions: usize) -> Self {
        let line = || Line {
            queue: VecDeque::new(),
            first: 0,
            sent: 0,
            lane: Lane::Main,
            warm: false,
            alone: false,
            last_ack: None,
            refusals: 0,
            not_before: None,
        };
        Self {
            lines: (0..partitions).map(|_| line()).collect(),
            main: LaneState::default(),
            probe: LaneState::default(),
            bytes: 0,
            safe_bytes: vec![usize::MAX; partitions].into(),
            closing: false,
        }
    }

    /// Bytes that wait for their acknowledgement.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The oldest unacknowledged record of every partition that goes through the main producer.
    pub(crate) fn oldest(&self) -> impl Iterator<Item = Option<u64>> + '_ {
        let waits = |line: &Line| line.lane == Lane::Main && !line.queue.is_empty();
        self.lines.iter().map(move |line| waits(line).then_some(line.first))
    }

    pub(crate) fn main_generation(&self) -> u64 {
        self.main.generation
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lines.iter().all(|line| line.queue.is_empty())
    }

    /// Records larger than this may be refused in the partition.
    pub(crate) fn set_safe_bytes(&mut self, dense: usize, bytes: usize) {
        if let Some(slot) = self.safe_bytes.get_mut(dense) {
            *slot = bytes;
        }
    }

    fn state(&self, lane: Lane) -> &LaneState {
        match lane {
            Lane::Main => &self.main,
            Lane::Probe => &self.probe,
        }
    }

    fn lane(&mut self, lane: Lane) -> &mut LaneState {
        match lane {
            Lane::Main => &mut self.main,
            Lane::Probe => &mut self.probe,
        }
    }

    /// Puts a record at the end of its partition's queue.
    pub(crate) fn push(&mut self, dense: usize, batch: &Arc<Batch>, start: usize, end: usize, index: usize) {
        if let Some(line) = self.lines.get_mut(dense) {
            line.queue.push_back(Unacked { batch: Arc::clone(batch), start, end, index });
            self.bytes += end - start + RECORD_COST;
        }
    }

    /// Whether a partition has records that no producer has.
    pub(crate) fn waits(&self, dense: usize) -> bool {
        self.lines.get(dense).is_some_and(|line| line.queue.len() > line.sent)
    }

    /// The next record of a partition that may be handed to its lane's producer now. [`Outbox::sent`] says that it was.
    pub(crate) fn next(&mut self, dense: usize, now: Instant) -> Option<(Tag, &[u8])> {
        let safe_bytes = self.safe_bytes.get(dense).copied().unwrap_or(usize::MAX);
        let lane = self.lines.get(dense)?.lane;
        let state = self.lane(lane);
        let generation = state.generation;
        if !state.open {
            return None;
        }
        let line = self.lines.get_mut(dense)?;
        if line.not_before.is_some_and(|at| now < at) {
            return None;
        }
        if line.sent == 0 && line.last_ack.is_some_and(|last| now.duration_since(last) > FORGOTTEN) {
            line.warm = false;
        }
        let record = line.queue.get(line.sent)?;
        let alone = lane == Lane::Probe || !line.warm || record.end - record.start > safe_bytes;
        if line.sent > 0 && (line.alone || alone) {
            return None;
        }
        line.alone = alone;
        let tag = Tag { lane, generation, dense, sequence: line.first + line.sent as u64 };
        line.queue.get(line.sent).map(|record| (tag, record.bytes()))
    }

    /// The record that [`Outbox::next`] gave is with the producer.
    pub(crate) fn sent(&mut self, dense: usize) {
        if let Some(line) = self.lines.get_mut(dense) {
            line.sent += 1;
        }
    }

    /// Whether a report or an error belongs to a producer that still counts.
    pub(crate) fn current(&self, lane: Lane, generation: u64) -> bool {
        self.state(lane).generation == generation
    }

    /// A record is durable.
    pub(crate) fn delivered(&mut self, tag: Tag, position: Position, now: Instant) -> Outcome {
        let mut outcome = Outcome::default();
        if !self.current(tag.lane, tag.generation) {
            return outcome;
        }
        let Some(line) = self.lines.get_mut(tag.dense) else { return outcome };
        if line.lane != tag.lane || tag.sequence != line.first || line.sent == 0 {
            // Behind a record that failed; it is sent again after that one.
            return outcome;
        }
        let Some(record) = line.queue.pop_front() else { return outcome };
        line.first += 1;
        line.sent -= 1;
        line.warm = true;
        line.alone = false;
        line.last_ack = Some(now);
        if line.refusals > 0 || line.lane == Lane::Probe {
            line.refusals = 0;
            line.not_before = None;
            line.lane = Lane::Main;
            // It is another producer, which the broker may not know here.
            line.warm = tag.lane == Lane::Main;
        }
        self.lane(tag.lane).failures = 0;
        let bytes = record.end - record.start;
        self.bytes = self.bytes.saturating_sub(bytes + RECORD_COST);
        outcome.bytes = Some(bytes);
        outcome.done = record.batch.delivered(record.index, position);
        outcome
    }

    /// Kafka refuses a record. Its partition waits on the probe lane, and the producer that sent it is replaced. Gives
    /// how long the partition waits, when this says something new.
    pub(crate) fn refused(&mut self, tag: Tag, now: Instant) -> Option<Duration> {
        if !self.current(tag.lane, tag.generation) {
            return None;
        }
        let line = self.lines.get_mut(tag.dense)?;
        if line.lane != tag.lane || line.not_before.is_some_and(|at| now < at) {
            return None;
        }
        line.refusals += 1;
        let wait = backoff(line.refusals);
        line.not_before = Some(now + wait);
        line.lane = Lane::Probe;
        line.sent = 0;
        line.warm = false;
        line.alone = false;
        self.failed(tag.lane, tag.generation, now);
        Some(wait)
    }

    /// A producer has failed and is replaced after a while. Gives how long, when this says something new.
    pub(crate) fn failed(&mut self, lane: Lane, generation: u64, now: Instant) -> Option<Duration> {
        if !self.current(lane, generation) {
            return None;
        }
        let state = self.lane(lane);
        if state.replace_at.is_some() {
            return None;
        }
        state.failures += 1;
        let wait = backoff(state.failures);
        state.open = false;
        state.replace_at = Some(now + wait);
        Some(wait)
    }

    /// Whether a lane needs a new producer now.
    pub(crate) fn wants_producer(&self, lane: Lane, now: Instant) -> bool {
        match lane {
            Lane::Main => !self.main.open && self.main.replace_at.is_none_or(|at| now >= at),
            Lane::Probe => {
                let due = |line: &Line| line.lane == Lane::Probe && line.not_before.is_none_or(|at| now >= at);
                !self.probe.open && self.probe.replace_at.is_none_or(|at| now >= at) && self.lines.iter().any(due)
            }
        }
    }

    /// Number of the next producer of a lane; reports of the one before count no more, and all it had is sent again.
    pub(crate) fn retire(&mut self, lane: Lane) -> u64 {
        let state = self.lane(lane);
        state.generation += 1;
        state.open = false;
        let generation = state.generation;
        for line in self.lines.iter_mut().filter(|line| line.lane == lane) {
            line.sent = 0;
            line.warm = false;
            line.alone = false;
        }
        generation
    }

    /// Whether a lane has a producer that works.
    pub(crate) fn is_open(&self, lane: Lane) -> bool {
        self.state(lane).open
    }

    /// The lane has its new producer.
    pub(crate) fn opened(&mut self, lane: Lane) {
        let state = self.lane(lane);
        state.open = true;
        state.replace_at = None;
    }

    /// Partitions on the probe lane.
    pub(crate) fn blocked(&self) -> Vec<usize> {
        (0..).zip(&self.lines).filter(|(_, line)| line.lane == Lane::Probe).map(|(dense, _)| dense).collect()
    }

    /// Gives up what is left: whoever waits is told [`AppendError::Closed`].
    pub(crate) fn abandon(&mut self) -> Vec<Completer> {
        self.closing = true;
        self.bytes = 0;
        // Reports that still come are of no interest.
        self.main.generation += 1;
        self.probe.generation += 1;
        let records = self.lines.iter_mut().flat_map(|line| std::mem::take(&mut line.queue));
        records.filter_map(|record| record.batch.abandon()).collect()
    }
}

#[cfg(test)]
mod tests;
