//! Drives the outbox: hands records to librdkafka, takes its reports, and puts a new producer in the place of a failed
//! one.
//!
//! One thread does it all: it hands over what was appended and takes the reports of both lanes, many at a time, so that
//! neither whoever appends nor whoever is answered is held up by the other. Reports carry lane and number of the producer,
//! so that one that was replaced changes nothing any more, however long it takes to go away.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use barrage_event::{Offset, Position};
use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message, Timestamp};
use rdkafka::producer::{BaseProducer, BaseRecord, ProducerContext};

use crate::clock::now_ms;
use crate::kafka::aside;
use crate::kafka::outbox::{Lane, Outbox, Tag};
use crate::kafka::shared::{Seldom, Shared, locked};

/// How long the thread sleeps while anything is unacknowledged; half of it is part of an append's way out, and of the way
/// back of its acknowledgement.
const LOOK: Duration = Duration::from_millis(1);
/// How long it sleeps at most while nothing is unacknowledged: it has other duties, too.
const IDLE: Duration = Duration::from_millis(20);

/// Most log lines about refusals are the same; each kind speaks seldom.
#[derive(Debug, Default)]
pub(crate) struct Speech {
    refused: Seldom,
    failed: Seldom,
}

/// Everything under the outbox's lock.
pub(crate) struct Sending {
    pub(crate) outbox: Outbox,
    pub(crate) main: Option<Arc<LaneProducer>>,
    pub(crate) probe: Option<Arc<LaneProducer>>,
    pub(crate) speech: Speech,
}

impl fmt::Debug for Sending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sending").field("outbox", &self.outbox).finish_non_exhaustive()
    }
}

pub(crate) type LaneProducer = BaseProducer<Reports>;

/// Takes the reports of one producer.
pub(crate) struct Reports {
    core: Arc<Core>,
    lane: Lane,
    pub(crate) generation: u64,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::client_log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.core.reported.store(true, Ordering::Relaxed);
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::Fatal) => self.core.failed(self.lane, self.generation, reason),
            Some(RDKafkaErrorCode::AllBrokersDown) => self.core.shared.reachable(Err(reason)),
            _ => tracing::debug!(%error, reason, "producer"),
        }
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Tag>;

    fn delivery(&self, report: &DeliveryResult<'_>, tag: Box<Tag>) {
        let fate = match report {
            Ok(message) => match u64::try_from(message.offset()) {
                Ok(offset) => Fate::Durable { offset, log_ms: log_time(message.timestamp()) },
                // Kafka had it twice and does not tell where. An append is answered with true offsets only.
                Err(_) => Fate::Somewhere,
            },
            Err((error, _)) => Fate::Refused(error.clone()),
        };
        self.core.reported.store(true, Ordering::Relaxed);
        locked(&self.core.reports).push((*tag, fate));
    }
}

/// What became of a record.
#[derive(Debug)]
pub(crate) enum Fate {
    /// It is durable, since the broker's time if that is known.
    Durable {
        offset: u64,
        log_ms: Option<i64>,
    },
    /// It is durable, and nobody knows where.
    Somewhere,
    Refused(KafkaError),
}

/// The broker's own time of a record; one that its producer gave says nothing of the log's clock.
fn log_time(timestamp: Timestamp) -> Option<i64> {
    match timestamp {
        Timestamp::LogAppendTime(ms) => Some(ms),
        Timestamp::CreateTime(_) | Timestamp::NotAvailable => None,
    }
}

/// The state behind a [`Sender`].
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) shared: Arc<Shared>,
    pub(crate) sending: Mutex<Sending>,
    /// Signals that nothing is unacknowledged any more.
    pub(crate) drained: Condvar,
    /// Signals that something is, after nothing was.
    pub(crate) begun: Condvar,
    /// A producer had something to report when it was last asked.
    pub(crate) reported: AtomicBool,
    /// Reports that were taken from librdkafka and not yet looked at, in its order.
    pub(crate) reports: Mutex<Vec<(Tag, Fate)>>,
    pub(crate) stop: AtomicBool,
}

/// How often the clock of a partition's broker is looked at.
const CLOCK_EVERY: Duration = Duration::from_millis(100);

/// When the clocks of the partitions' brokers were last looked at.
struct Sampled {
    last: Vec<Option<Instant>>,
}

impl Sampled {
    fn is_due(&mut self, dense: usize, now: Instant) -> bool {
        let Some(last) = self.last.get_mut(dense) else { return false };
        let due = last.is_none_or(|last| now.duration_since(last) >= CLOCK_EVERY);
        if due {
            *last = Some(now);
        }
        due
    }
}

/// How long a producer may acknowledge nothing of a partition, and how often that is looked at.
const STALL: Duration = Duration::from_secs(5);
const STALL_LOOK: Duration = Duration::from_millis(500);

/// The oldest unacknowledged record of every partition, and since when it is that.
struct Stalls {
    looked: Instant,
    /// The producer that this says something of.
    generation: u64,
    oldest: Vec<Option<(u64, Instant)>>,
}

impl Stalls {
    fn forget(&mut self) {
        self.oldest.iter_mut().for_each(|seen| *seen = None);
    }
}

/// Errors that say something of a producer, not of a record.
fn is_producers(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::Fatal
            | RDKafkaErrorCode::PurgeQueue
            | RDKafkaErrorCode::PurgeInflight
            | RDKafkaErrorCode::GaplessGuarantee
            | RDKafkaErrorCode::Inconsistent
            | RDKafkaErrorCode::OutOfOrderSequenceNumber
            | RDKafkaErrorCode::DuplicateSequenceNumber
            | RDKafkaErrorCode::InvalidProducerEpoch
            | RDKafkaErrorCode::ProducerFenced
            | RDKafkaErrorCode::MessageTimedOut
    )
}

impl Core {
    pub(crate) fn create(self: &Arc<Self>, lane: Lane, generation: u64) -> Result<LaneProducer, KafkaError> {
        let role = match lane {
            Lane::Main => "append",
            Lane::Probe => "probe",
        };
        let context = Reports { core: Arc::clone(self), lane, generation };
        BaseProducer::from_config_and_context(&self.shared.options.data_producer(role), context)
    }

    /// Hands over what may go of one partition. librdkafka only copies it into its own queue.
    fn pump(&self, sending: &mut Sending, dense: usize, now: Instant) {
        let Some(partition) = self.shared.shape.partition(dense) else { return };
        let topic = self.shared.names.of(partition.topic);
        let mut failed = None;
        while let Some((tag, bytes)) = sending.outbox.next(dense, now) {
            let producer = match tag.lane {
                Lane::Main => &sending.main,
                Lane::Probe => &sending.probe,
            };
            let Some(producer) = producer else { return };
            let record = BaseRecord::<(), [u8], _>::with_opaque_to(topic, Box::new(tag));
            let record = record.partition(partition.index.into()).payload(bytes);
            match producer.send(record).map_err(|(error, _)| error) {
                Ok(()) => sending.outbox.sent(dense),
                // Reports make room, and the thread comes back to it.
                Err(KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)) => return,
                Err(error) => {
                    failed = Some((tag, error));
                    break;
                }
            }
        }
        if let Some((tag, error)) = failed {
            self.trouble(sending, tag, &error, now);
        }
    }

    /// Hands over what may go of every partition. The lock is free between two of them, for those who append.
    fn pump_all(&self) {
        for dense in 0..self.shared.shape.total() {
            let mut sending = locked(&self.sending);
            if sending.outbox.waits(dense) {
                self.pump(&mut sending, dense, Instant::now());
            }
        }
    }

    /// Looks at reports: what is durable is taken off the outbox, and who waited for it is told.
    fn look_at(&self, reports: &mut Vec<(Tag, Fate)>, clocks: &mut Sampled) {
        let now = Instant::now();
        let (mut done, mut records, mut bytes) = (Vec::new(), 0, 0);
        let pending = {
            let mut sending = locked(&self.sending);
            for (tag, fate) in reports.drain(..) {
                let Some(partition) = self.shared.shape.partition(tag.dense) else { continue };
                match fate {
                    Fate::Durable { offset, log_ms } => {
                        let position = Position { partition, offset: Offset(offset) };
                        let outcome = sending.outbox.delivered(tag, position, now);
                        let Some(length) = outcome.bytes else { continue };
                        records += 1;
                        bytes += length as u64;
                        self.shared.raise_end(tag.dense, offset + 1);
                        if let Some(finished) = outcome.done {
                            let took = now.duration_since(finished.appended);
                            let told = log_ms.filter(|_| clocks.is_due(tag.dense, now));
                            done.push((finished, took, told.map(|log_ms| (tag.dense, log_ms))));
                        }
                    }
                    Fate::Somewhere => {
                        let reason = "a record is durable at an offset that is not known";
                        self.replace_later(&mut sending, tag.lane, tag.generation, reason, now);
                    }
                    Fate::Refused(error) => self.trouble(&mut sending, tag, &error, now),
                }
            }
            sending.outbox.bytes()
        };
        self.shared.metrics.pending_bytes.set(i64::try_from(pending).unwrap_or(i64::MAX));
        if records > 0 {
            self.shared.heard();
            self.shared.metrics.append_records.inc_by(records);
            self.shared.metrics.append_bytes.inc_by(bytes);
            // Before anything is answered: who reads what was acknowledged finds it.
            self.shared.advance();
        }
        for (finished, took, told) in done {
            self.shared.metrics.ack_duration.observe(took.as_secs_f64());
            if let Some((dense, log_ms)) = told {
                self.shared.compare_clocks(Some(dense), log_ms, now_ms(), took);
            }
            finished.complete();
        }
        if pending == 0 {
            self.drained.notify_all();
        }
    }

    /// A record was not taken: by its own fault or its producer's.
    fn trouble(&self, sending: &mut Sending, tag: Tag, error: &KafkaError, now: Instant) {
        if error.rdkafka_error_code().is_none_or(is_producers) {
            self.replace_later(sending, tag.lane, tag.generation, &error.to_string(), now);
            return;
        }
        self.shared.metrics.delivery_errors.inc();
        let Some(wait) = sending.outbox.refused(tag, now) else { return };
        let Some(partition) = self.shared.shape.partition(tag.dense) else { return };
        let reason = format!(
            "Kafka refuses a record for {partition} ({error}): it and all behind it wait and are tried again; nothing is \
             left out. Set the topic {} right",
            self.shared.names.of(partition.topic)
        );
        if let Some(quiet) = sending.speech.refused.speak(now) {
            tracing::error!(%partition, %error, wait_ms = wait.as_millis(), quiet, "{reason}");
        }
        self.count_blocked(sending, Some(reason));
    }

    fn count_blocked(&self, sending: &Sending, reason: Option<String>) {
        let blocked = sending.outbox.blocked().len();
        self.shared.metrics.blocked_partitions.set(i64::try_from(blocked).unwrap_or(i64::MAX));
        if blocked == 0 {
            self.shared.blocked(None);
        } else if reason.is_some() {
            self.shared.blocked(reason);
        }
    }

    pub(crate) fn failed(&self, lane: Lane, generation: u64, reason: &str) {
        let mut sending = locked(&self.sending);
        self.replace_later(&mut sending, lane, generation, reason, Instant::now());
    }

    fn replace_later(&self, sending: &mut Sending, lane: Lane, generation: u64, reason: &str, now: Instant) {
        if let Some(wait) = sending.outbox.failed(lane, generation, now)
            && let Some(quiet) = sending.speech.failed.speak(now)
        {
            let wait_ms = wait.as_millis();
            tracing::error!(
                reason,
                wait_ms,
                quiet,
                "a producer failed; a new one sends everything unacknowledged again"
            );
        }
    }

    /// Puts a new producer in place where one is due, and lets the probe lane go when nothing is blocked.
    fn renew(self: &Arc<Self>, lane: Lane) {
        let now = Instant::now();
        let mut sending = locked(&self.sending);
        if sending.outbox.closing || !sending.outbox.wants_producer(lane, now) {
            return;
        }
        let generation = sending.outbox.retire(lane);
        let slot = match lane {
            Lane::Main => &mut sending.main,
            Lane::Probe => &mut sending.probe,
        };
        let old = slot.take();
        drop(sending);
        if old.is_some() {
            self.shared.metrics.producer_replaced.inc();
        }
        aside(old);
        let made = self.create(lane, generation);
        let mut sending = locked(&self.sending);
        match made {
            Ok(producer) if !sending.outbox.closing => {
                let slot = match lane {
                    Lane::Main => &mut sending.main,
                    Lane::Probe => &mut sending.probe,
                };
                *slot = Some(Arc::new(producer));
                sending.outbox.opened(lane);
            }
            Ok(_) => {}
            Err(error) => self.replace_later(&mut sending, lane, generation, &error.to_string(), now),
        }
    }

    /// Gives a producer up that acknowledges nothing of some partition any more. A broker that stood still and came back
    /// can leave librdkafka with a partition that has no leader, for good; a new producer asks anew. What both deliver
    /// counts once, so one that was only slow costs no more than the records it sends again.
    fn give_up_stalled(&self, sending: &mut Sending, stalls: &mut Stalls) {
        let now = Instant::now();
        if now.duration_since(stalls.looked) < STALL_LOOK {
            return;
        }
        stalls.looked = now;
        let generation = sending.outbox.main_generation();
        if !sending.outbox.is_open(Lane::Main) || stalls.generation != generation {
            // Each producer has its own time: it has to find brokers, leaders and a number for itself first.
            stalls.generation = generation;
            stalls.forget();
            return;
        }
        let mut stalled = false;
        for (seen, oldest) in stalls.oldest.iter_mut().zip(sending.outbox.oldest()) {
            match (&*seen, oldest) {
                (Some((record, since)), Some(oldest)) if *record == oldest => {
                    stalled |= now.duration_since(*since) >= STALL;
                }
                (_, oldest) => *seen = oldest.map(|oldest| (oldest, now)),
            }
        }
        if stalled {
            stalls.forget();
            self.replace_later(sending, Lane::Main, generation, "it acknowledged nothing for some seconds", now);
        }
    }

    pub(crate) fn run(self: Arc<Self>) {
        let mut stalls =
            Stalls { looked: Instant::now(), generation: 0, oldest: vec![None; self.shared.shape.total()] };
        let mut clocks = Sampled { last: vec![None; self.shared.shape.total()] };
        let mut reports = Vec::new();
        while !self.stop.load(Ordering::Acquire) {
            let (main, probe) = {
                let sending = locked(&self.sending);
                (sending.main.clone(), sending.probe.clone())
            };
            for producer in [&main, &probe].into_iter().flatten() {
                self.take_reports(producer);
            }
            drop((main, probe));
            std::mem::swap(&mut reports, &mut *locked(&self.reports));
            if !reports.is_empty() {
                self.look_at(&mut reports, &mut clocks);
            }
            self.renew(Lane::Main);
            self.renew(Lane::Probe);
            let mut sending = locked(&self.sending);
            self.give_up_stalled(&mut sending, &mut stalls);
            if sending.probe.is_some() && sending.outbox.blocked().is_empty() {
                sending.outbox.retire(Lane::Probe);
                aside(sending.probe.take());
                self.count_blocked(&sending, None);
            }
            drop(sending);
            self.pump_all();
            let sending = locked(&self.sending);
            if sending.outbox.is_empty() {
                drop(self.begun.wait_timeout(sending, IDLE));
            } else {
                drop(sending);
                std::thread::sleep(LOOK);
            }
        }
    }

    /// Takes what a producer has to report, without waiting for more: given a time, rdkafka asks again and again until
    /// all of it is over, without any pause for the last millisecond, which would cost a tenth of a core for ever.
    fn take_reports(&self, producer: &LaneProducer) {
        self.reported.store(true, Ordering::Relaxed);
        while self.reported.swap(false, Ordering::Relaxed) {
            producer.poll(Duration::ZERO);
        }
    }
}
