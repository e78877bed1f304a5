//! The spool's thread: takes over what is late, hands the log what waits, and cleans up.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use barrage_event::Partition;
use barrage_log::{AppendBatch, AppendError, EmbeddedLog};

use super::Inner;
use super::disk;
use super::state::{Handed, State};

/// How often the thread looks while nothing waits, and while something does.
const LOOK_IDLE: Duration = Duration::from_millis(20);
const LOOK_BUSY: Duration = Duration::from_millis(3);
/// Pause of the drain after the log refused.
const PAUSE: Duration = Duration::from_millis(100);
/// Most bytes of one hand-over.
const SEND_BYTES: usize = 256 << 10;
/// How often an outage is told.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// How long a close waits for the disk.
const CLOSE_WAIT: Duration = Duration::from_secs(10);

/// One piece to hand over.
struct Send {
    partition: Partition,
    from: u64,
    end: u64,
    bytes_max: usize,
}

pub(super) fn run(inner: &Arc<Inner>) {
    let mut drain = Drain { told: Instant::now(), paused_until: Instant::now(), drained: 0, refusing: false };
    let mut closing_since = None;
    loop {
        let work = {
            let mut state = inner.state();
            let drained = state.lanes.is_empty();
            state.disk.work(drained)
        };
        if let Some(work) = work {
            let done = work.run();
            inner.state().disk.done(done);
        }
        let (sends, files) = {
            let mut state = inner.state();
            drain.look(inner, &mut state);
            if state.is_closing() {
                let since = *closing_since.get_or_insert_with(Instant::now);
                if state.in_flight() == 0 || since.elapsed() > CLOSE_WAIT {
                    // Writes and acknowledges what is on its way.
                    state.disk.close();
                    return;
                }
            }
            let sends = drain.sends(inner, &mut state);
            if sends.is_empty() {
                let wait = if state.lanes.is_empty() { LOOK_IDLE } else { LOOK_BUSY };
                drop(inner.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner));
                continue;
            }
            (sends, Arc::clone(state.disk.log()))
        };
        for send in sends {
            if !drain.send(inner, &files, &send) {
                break;
            }
        }
    }
}

struct Drain {
    told: Instant,
    paused_until: Instant,
    /// Records drained since the outage began.
    drained: u64,
    /// The disk took nothing when it was last looked at, and that was told.
    refusing: bool,
}

impl Drain {
    /// Everything that needs only a look: late flights, acknowledgements, partitions that are through.
    fn look(&mut self, inner: &Inner, state: &mut State) {
        let now = Instant::now();
        state.take_over_late(now, &inner.options, &inner.metrics);
        state.disk.look();
        self.take_acknowledgements(inner, state);
        let through: Vec<Partition> = state
            .lanes
            .iter()
            .filter(|(partition, lane)| lane.leaving && lane.acked == state.disk.next(**partition))
            .map(|(&partition, _)| partition)
            .collect();
        for partition in through {
            state.lanes.remove(&partition);
        }
        if state.lanes.is_empty() && state.since.is_some() {
            let seconds = state.since.take().map_or(0, |since| since.elapsed().as_secs());
            tracing::info!(records = self.drained, seconds, "the spool is drained: every callback in it is in the log");
            self.drained = 0;
        }
        self.tell_disk(state);
        self.tell(inner, state, now);
    }

    fn tell_disk(&mut self, state: &State) {
        match state.disk.failed() {
            Some(reason) if !std::mem::replace(&mut self.refusing, true) => tracing::error!(
                reason,
                "the spool takes nothing: make room on its disk, or raise spool.bytes_max; until then callbacks that the \
                 log does not take are refused"
            ),
            None if std::mem::replace(&mut self.refusing, false) => tracing::info!("the spool takes records again"),
            _ => {}
        }
    }

    fn take_acknowledgements(&mut self, inner: &Inner, state: &mut State) {
        for lane in state.lanes.values_mut() {
            while let Some(result) = lane.handed.front().and_then(|handed| handed.ack.try_get()) {
                match result {
                    Ok(_) => {
                        if let Some(Handed { end, .. }) = lane.handed.pop_front() {
                            inner.metrics.drained.inc_by(end - lane.acked);
                            self.drained += end - lane.acked;
                            lane.acked = end;
                        }
                    }
                    // The log gave up what it was handed: all of it is handed over again, and new records wait behind.
                    Err(_) => {
                        lane.handed.clear();
                        lane.sent = lane.acked;
                        lane.leaving = false;
                        lane.not_before = Some(Instant::now() + PAUSE);
                    }
                }
            }
        }
    }

    /// What to hand over next; partitions of which nothing is left go straight to the log from now on.
    ///
    /// Each partition has a share of its own of what may be unacknowledged. Those that the log does not take keep theirs and
    /// no more, so that the others are drained whatever becomes of them.
    fn sends(&self, inner: &Inner, state: &mut State) -> Vec<Send> {
        let now = Instant::now();
        if state.is_closing() || now < self.paused_until {
            return Vec::new();
        }
        let share = (inner.options.drain_bytes_max / state.lanes.len().max(1)).max(1);
        let bytes_max = SEND_BYTES.min(share);
        let files = Arc::clone(state.disk.log());
        let mut sends = Vec::new();
        let State { lanes, disk, .. } = state;
        for (&partition, lane) in lanes {
            if !lane.may_go(now, inner.options.takeover()) {
                continue;
            }
            if lane.sent >= disk.next(partition) {
                lane.leaving = true;
                continue;
            }
            // Only what is durable can be read.
            let end = barrage_log::EventLog::end(files.as_ref(), partition).0;
            let handed = lane.handed_bytes();
            if lane.sent < end && (handed == 0 || handed + bytes_max <= share) {
                sends.push(Send { partition, from: lane.sent, end, bytes_max });
            }
        }
        sends
    }

    /// Hands one piece to the log; false when it takes nothing more now, of no partition.
    fn send(&mut self, inner: &Inner, files: &EmbeddedLog, send: &Send) -> bool {
        let partition = send.partition;
        let mut batch = AppendBatch::new();
        let next = match disk::read(files, partition, (send.from, send.end), send.bytes_max, &mut batch) {
            Ok(next) => next,
            Err(error) => {
                if failed(inner, partition) {
                    tracing::error!(
                        %partition, %error,
                        "the spool cannot be read: callbacks in it wait until its files are whole again"
                    );
                }
                return true;
            }
        };
        let bytes = batch.bytes();
        match inner.log.append(&mut batch) {
            Ok(ack) => {
                let mut state = inner.state();
                if let Some(lane) = state.lanes.get_mut(&partition) {
                    lane.sent = next;
                    lane.failing = false;
                    lane.handed.push_back(Handed { end: next, bytes, ack, at: Instant::now() });
                }
                true
            }
            Err(AppendError::Full { .. }) => {
                self.paused_until = Instant::now() + PAUSE;
                false
            }
            Err(error) => {
                if failed(inner, partition) {
                    tracing::warn!(%partition, %error, "the log does not take what waits in the spool; it is tried again");
                }
                true
            }
        }
    }

    fn tell(&mut self, inner: &Inner, state: &State, now: Instant) {
        let status = state.status(now);
        let metrics = &inner.metrics;
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        metrics.partitions.set(gauge(status.partitions as u64));
        metrics.waiting_records.set(gauge(status.records));
        metrics.waiting_bytes.set(gauge(status.bytes));
        metrics.since.set(gauge(status.since_ms / 1_000));
        metrics.failed.set(i64::from(status.failed));
        if status.partitions == 0 || now.saturating_duration_since(self.told) < TELL_EVERY {
            return;
        }
        self.told = now;
        tracing::warn!(
            partitions = status.partitions,
            records = status.records,
            bytes = status.bytes,
            since_s = status.since_ms / 1_000,
            drained = self.drained,
            "callbacks wait in the spool until the log takes them"
        );
    }
}

/// Lets a partition wait that could not be handed over; whether that is news.
fn failed(inner: &Inner, partition: Partition) -> bool {
    let mut state = inner.state();
    let Some(lane) = state.lanes.get_mut(&partition) else { return false };
    lane.not_before = Some(Instant::now() + PAUSE);
    !std::mem::replace(&mut lane.failing, true)
}
