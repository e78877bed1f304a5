//! What is decided under the spool's lock: which way a record goes, and what a takeover takes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use barrage_event::Partition;
use barrage_log::{Ack, AppendBatch, AppendError, EventLog};

use super::SpoolStatus;
use super::disk::Disk;
use super::durable::{Durable, Handover};
use super::metrics::SpoolMetrics;
use super::options::SpoolOptions;

/// Buffers kept for the next appends, and the largest that is kept, bytes.
const SPARE_MAX: usize = 64;
const SPARE_BYTES_MAX: usize = 64 << 10;

/// What the log was given and has not acknowledged, as far as is known.
struct Flight {
    records: AppendBatch,
    ack: Ack,
    begun: Instant,
    handover: Arc<Handover>,
}

/// One piece that was handed to the log and is not acknowledged.
#[derive(Debug)]
pub(super) struct Handed {
    /// One past its last record.
    pub(super) end: u64,
    pub(super) bytes: usize,
    pub(super) ack: Ack,
    pub(super) at: Instant,
}

/// A partition with records in the spool.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Next record of the spool to hand to the log.
    pub(super) sent: u64,
    /// What lies before was acknowledged by the log.
    pub(super) acked: u64,
    pub(super) handed: VecDeque<Handed>,
    /// Everything was handed over: new records go straight to the log, behind it.
    pub(super) leaving: bool,
    /// Nothing is handed over before, because that failed.
    pub(super) not_before: Option<Instant>,
    /// The last attempt failed, and that was told.
    pub(super) failing: bool,
}

impl Lane {
    /// Whether more may be handed over. A partition of which the log acknowledges nothing is given nothing more: it would
    /// only pile up there, at the cost of the others, and what came straight behind it would wait for a takeover again.
    pub(super) fn may_go(&self, now: Instant, takeover: Duration) -> bool {
        let stuck = self.handed.front().is_some_and(|oldest| now.saturating_duration_since(oldest.at) >= takeover);
        !stuck && self.not_before.is_none_or(|at| now >= at)
    }

    /// Bytes that the log holds and has not acknowledged.
    pub(super) fn handed_bytes(&self) -> usize {
        self.handed.iter().map(|handed| handed.bytes).sum()
    }
}

/// The state behind the lock.
pub(super) struct State {
    pub(super) disk: Disk,
    /// The partitions that have records in the spool; empty when all is well.
    pub(super) lanes: BTreeMap<Partition, Lane>,
    flights: VecDeque<Flight>,
    spare: Vec<AppendBatch>,
    pub(super) since: Option<Instant>,
    closing: bool,
}

impl State {
    pub(super) fn new(disk: Disk, log: &dyn EventLog) -> Self {
        let mut lanes = BTreeMap::new();
        for partition in log.all_partitions() {
            let start = disk.start(partition);
            if disk.next(partition) > start {
                lanes.insert(partition, Lane { sent: start, acked: start, ..Lane::default() });
            }
        }
        let since = (!lanes.is_empty()).then(Instant::now);
        Self { disk, lanes, flights: VecDeque::new(), spare: Vec::new(), since, closing: false }
    }

    /// Whether records of the partition go to the spool.
    fn is_spooled(&self, partition: Partition) -> bool {
        self.lanes.get(&partition).is_some_and(|lane| !lane.leaving)
    }

    pub(super) fn append(
        &mut self,
        batch: &mut AppendBatch,
        log: &dyn EventLog,
        options: &SpoolOptions,
        metrics: &SpoolMetrics,
    ) -> Result<Durable, AppendError> {
        self.forget_acknowledged();
        if !batch.iter().any(|(partition, _)| self.is_spooled(partition)) {
            match self.give_to_log(batch, log) {
                Err(AppendError::Full { .. } | AppendError::Failed { .. } | AppendError::Closed) => {
                    self.take_over(partitions_of(batch), options, metrics);
                }
                given => return given,
            }
        }
        self.take_over_before(batch, options, metrics)?;
        let (mut direct, mut spooled) = (AppendBatch::new(), AppendBatch::new());
        for (partition, record) in batch.iter() {
            let side = if self.is_spooled(partition) { &mut spooled } else { &mut direct };
            side.push(partition, |buf| buf.extend_from_slice(record));
        }
        if spooled.is_empty() {
            // The disk could not take over: the log's own refusal stands.
            return self.give_to_log(batch, log);
        }
        let ack = self.append_spooled(&mut spooled, metrics)?;
        batch.clear();
        if direct.is_empty() {
            return Ok(Durable::spooled(ack));
        }
        // From here on sequences are used up: a refusal must not give them back to the caller.
        let given = self.give_to_log(&mut direct, log).or_else(|_| {
            self.take_over(partitions_of(&direct), options, metrics);
            self.append_spooled(&mut direct, metrics).map(Durable::spooled)
        });
        Ok(match given {
            Ok(given) => given.and_spooled(ack),
            Err(error) => Durable::failed(error),
        })
    }

    /// Nothing goes to the spool before what the log was given of the same partitions and has not acknowledged: a later
    /// process would drain the spool alone, and what came behind would count as seen already.
    fn take_over_before(
        &mut self,
        batch: &AppendBatch,
        options: &SpoolOptions,
        metrics: &SpoolMetrics,
    ) -> Result<(), AppendError> {
        if self.flights.is_empty() {
            return Ok(());
        }
        let spooled: BTreeSet<Partition> = partitions_of(batch).into_iter().filter(|&p| self.is_spooled(p)).collect();
        let in_flight = |state: &Self| {
            let concerned = |flight: &Flight| flight.records.iter().any(|(partition, _)| spooled.contains(&partition));
            state.flights.iter().any(concerned)
        };
        if in_flight(self) {
            self.take_over(spooled.clone(), options, metrics);
        }
        if in_flight(self) {
            let reason = self.disk.failed().unwrap_or("the spool could not take over what came before");
            return Err(AppendError::Failed { reason: reason.into() });
        }
        Ok(())
    }

    fn give_to_log(&mut self, batch: &mut AppendBatch, log: &dyn EventLog) -> Result<Durable, AppendError> {
        let mut records = self.spare.pop().unwrap_or_default();
        records.extend(batch);
        match log.append(batch) {
            Ok(ack) => {
                let handover = Arc::new(Handover::default());
                let durable = Durable::in_flight(ack.watch(), Arc::clone(&handover));
                self.flights.push_back(Flight { records, ack, begun: Instant::now(), handover });
                Ok(durable)
            }
            Err(error) => {
                self.keep(records);
                Err(error)
            }
        }
    }

    fn append_spooled(&mut self, batch: &mut AppendBatch, metrics: &SpoolMetrics) -> Result<Ack, AppendError> {
        let (records, bytes) = (batch.len() as u64, batch.bytes() as u64);
        let ack = self.disk.append(batch)?;
        metrics.records.inc_by(records);
        metrics.bytes.inc_by(bytes);
        Ok(ack)
    }

    fn keep(&mut self, mut records: AppendBatch) {
        if self.spare.len() < SPARE_MAX && records.bytes() <= SPARE_BYTES_MAX {
            records.clear();
            self.spare.push(records);
        }
    }

    /// Drops what the log has acknowledged, oldest first.
    fn forget_acknowledged(&mut self) {
        while let Some(Ok(_)) = self.flights.front().and_then(|flight| flight.ack.try_get()) {
            if let Some(flight) = self.flights.pop_front() {
                self.keep(flight.records);
            }
        }
    }

    /// Takes over what the log should have acknowledged by now. Looks at everything that is in flight.
    pub(super) fn take_over_late(&mut self, now: Instant, options: &SpoolOptions, metrics: &SpoolMetrics) {
        let mut late = BTreeSet::new();
        let deadline = if self.closing { Duration::ZERO } else { options.takeover() };
        let mut kept = VecDeque::with_capacity(self.flights.len());
        for flight in std::mem::take(&mut self.flights) {
            match flight.ack.try_get() {
                Some(Ok(_)) => self.keep(flight.records),
                result => {
                    if result.is_some() || now.saturating_duration_since(flight.begun) >= deadline {
                        late.extend(flight.records.iter().map(|(partition, _)| partition));
                    }
                    kept.push_back(flight);
                }
            }
        }
        self.flights = kept;
        if !late.is_empty() {
            self.take_over(late, options, metrics);
        }
    }

    /// From now on records of these partitions go to the spool, behind all that the log has not acknowledged.
    fn take_over(&mut self, mut partitions: BTreeSet<Partition>, options: &SpoolOptions, metrics: &SpoolMetrics) {
        if self.disk.failed().is_some() {
            return;
        }
        // A flight is spooled as a whole, so the partitions that it also concerns come along.
        loop {
            let before = partitions.len();
            for flight in &self.flights {
                if flight.records.iter().any(|(partition, _)| partitions.contains(&partition)) {
                    partitions.extend(flight.records.iter().map(|(partition, _)| partition));
                }
            }
            if partitions.len() == before {
                break;
            }
        }
        if self.lanes.is_empty() {
            self.since = Some(Instant::now());
            metrics.takeovers.inc();
            tracing::warn!(
                partitions = partitions.len(),
                waiting = self.flights.len(),
                after_ms = options.takeover_ms,
                "the log does not acknowledge in time: callbacks go to the spool and are answered OK; the numbers lag \
                 until the log is back"
            );
        }
        for &partition in &partitions {
            let next = self.disk.next(partition);
            let lane =
                self.lanes.entry(partition).or_insert_with(|| Lane { sent: next, acked: next, ..Lane::default() });
            lane.leaving = false;
        }
        let mut kept = VecDeque::new();
        let mut refused = false;
        for mut flight in std::mem::take(&mut self.flights) {
            let concerned = flight.records.iter().any(|(partition, _)| partitions.contains(&partition));
            if refused || !concerned {
                kept.push_back(flight);
                continue;
            }
            match self.append_spooled(&mut flight.records, metrics) {
                Ok(ack) => {
                    flight.handover.take_over(ack);
                    self.keep(flight.records);
                }
                // What could not be written is left to the log; those who wait for it may be refused in the end.
                Err(_) => {
                    refused = true;
                    kept.push_back(flight);
                }
            }
        }
        self.flights = kept;
    }

    /// What is in flight is taken over at once.
    pub(super) fn close(&mut self) {
        self.closing = true;
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing
    }

    pub(super) fn in_flight(&self) -> usize {
        self.flights.len()
    }

    pub(super) fn status(&self, now: Instant) -> SpoolStatus {
        let records =
            self.lanes.iter().map(|(&partition, lane)| self.disk.next(partition).saturating_sub(lane.acked)).sum();
        let since = self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        SpoolStatus {
            partitions: self.lanes.values().filter(|lane| !lane.leaving).count(),
            records,
            bytes: if self.lanes.is_empty() { 0 } else { self.disk.bytes() },
            since_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            failed: self.disk.failed().is_some(),
        }
    }
}

fn partitions_of(batch: &AppendBatch) -> BTreeSet<Partition> {
    batch.iter().map(|(partition, _)| partition).collect()
}
