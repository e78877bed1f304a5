//! Drives the outbox: hands records to librdkafka, takes its reports, and puts a new producer in the place of a failed
//! one.
//!
//! A record is handed over where it is appended, under the outbox's lock: librdkafka only copies it into its own queue.
//! One thread takes the reports of both lanes. Their callbacks carry lane and number of the producer, so that one that
//! was replaced changes nothing any more, however long it takes to go away.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use barrage_event::{Offset, Position};
use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, ProducerContext};

use crate::ack::{Ack, Positions};
use crate::batch::AppendBatch;
use crate::error::{AppendError, OpenError};
use crate::kafka::outbox::{self, Batch, Lane, Outbox, Tag};
use crate::kafka::shared::{Seldom, Shared, locked};
use crate::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, RECORD_BYTES_MAX};

/// How long the thread waits for reports before it looks at its other duties.
const TICK: Duration = Duration::from_millis(10);

/// Most log lines about refusals are the same; each kind speaks seldom.
#[derive(Debug, Default)]
struct Speech {
    refused: Seldom,
    failed: Seldom,
}

/// Everything under the outbox's lock.
struct Sending {
    outbox: Outbox,
    main: Option<Arc<LaneProducer>>,
    probe: Option<Arc<LaneProducer>>,
    /// librdkafka's own queue was full: something may go that no report will remind us of.
    full: bool,
    speech: Speech,
}

impl fmt::Debug for Sending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sending").field("outbox", &self.outbox).finish_non_exhaustive()
    }
}

type LaneProducer = BaseProducer<Reports>;

/// Takes the reports of one producer.
struct Reports {
    core: Arc<Core>,
    lane: Lane,
    generation: u64,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::client_log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
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
        match report {
            Ok(message) => match u64::try_from(message.offset()) {
                Ok(offset) => self.core.delivered(*tag, offset),
                // Kafka had it twice and does not tell where. An append is answered with true offsets only.
                Err(_) => {
                    self.core.failed(tag.lane, tag.generation, "a record is durable at an offset that is not known")
                }
            },
            Err((error, _)) => self.core.undelivered(*tag, error),
        }
    }
}

/// The state behind a [`Sender`].
#[derive(Debug)]
struct Core {
    shared: Arc<Shared>,
    sending: Mutex<Sending>,
    /// Signals that nothing is unacknowledged any more.
    drained: Condvar,
    /// Acknowledgements came that nobody was told of yet.
    news: AtomicBool,
    stop: AtomicBool,
}

/// Appends to the data topics.
#[derive(Debug)]
pub(crate) struct Sender {
    core: Arc<Core>,
    thread: Mutex<Option<JoinHandle<()>>>,
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
    fn create(self: &Arc<Self>, lane: Lane, generation: u64) -> Result<LaneProducer, KafkaError> {
        let role = match lane {
            Lane::Main => "append",
            Lane::Probe => "probe",
        };
        let context = Reports { core: Arc::clone(self), lane, generation };
        BaseProducer::from_config_and_context(&self.shared.options.data_producer(role), context)
    }

    /// Hands over what may go of one partition.
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
                Err(KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)) => {
                    sending.full = true;
                    return;
                }
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

    fn pump_all(&self, sending: &mut Sending, now: Instant) {
        (0..self.shared.shape.total()).for_each(|dense| self.pump(sending, dense, now));
    }

    fn delivered(&self, tag: Tag, offset: u64) {
        let Some(partition) = self.shared.shape.partition(tag.dense) else { return };
        let now = Instant::now();
        let (outcome, empty) = {
            let mut sending = locked(&self.sending);
            let outcome = sending.outbox.delivered(tag, Position { partition, offset: Offset(offset) }, now);
            if outcome.more {
                self.pump(&mut sending, tag.dense, now);
            }
            let pending = sending.outbox.bytes();
            self.shared.metrics.pending_bytes.set(i64::try_from(pending).unwrap_or(i64::MAX));
            (outcome, pending == 0)
        };
        if let Some(bytes) = outcome.bytes {
            self.shared.raise_end(tag.dense, offset + 1);
            self.shared.metrics.append_records.inc();
            self.shared.metrics.append_bytes.inc_by(bytes as u64);
        }
        if let Some(done) = outcome.done {
            self.shared.metrics.ack_duration.observe(now.duration_since(done.appended).as_secs_f64());
            // Before the append is answered, so that the generation moves with the first of many.
            if !self.news.swap(true, Ordering::AcqRel) {
                self.shared.advance();
            }
            done.complete();
        }
        if empty {
            self.drained.notify_all();
        }
    }

    fn undelivered(&self, tag: Tag, error: &KafkaError) {
        let mut sending = locked(&self.sending);
        self.trouble(&mut sending, tag, error, Instant::now());
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

    fn failed(&self, lane: Lane, generation: u64, reason: &str) {
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
        discard(old);
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
                self.pump_all(&mut sending, now);
            }
            Ok(_) => {}
            Err(error) => self.replace_later(&mut sending, lane, generation, &error.to_string(), now),
        }
    }

    fn run(self: Arc<Self>) {
        while !self.stop.load(Ordering::Acquire) {
            let (main, probe) = {
                let sending = locked(&self.sending);
                (sending.main.clone(), sending.probe.clone())
            };
            match &main {
                Some(main) => main.poll(TICK),
                None => std::thread::sleep(TICK),
            }
            if let Some(probe) = &probe {
                probe.poll(Duration::ZERO);
            }
            drop((main, probe));
            // Many acknowledgements come together: the first wakes who waits, the others at the latest here.
            if self.news.swap(false, Ordering::AcqRel) {
                self.shared.advance();
            }
            self.renew(Lane::Main);
            self.renew(Lane::Probe);
            let mut sending = locked(&self.sending);
            if sending.probe.is_some() && sending.outbox.blocked().is_empty() {
                sending.outbox.retire(Lane::Probe);
                discard(sending.probe.take());
                self.count_blocked(&sending, None);
            }
            if sending.probe.is_some() || std::mem::take(&mut sending.full) {
                let now = Instant::now();
                self.pump_all(&mut sending, now);
            }
        }
    }
}

/// Lets a producer go on a thread of its own: librdkafka waits for its own threads, and nobody should wait with it.
fn discard(producer: Option<Arc<LaneProducer>>) {
    let Some(producer) = producer else { return };
    let name = "kafka-discard".to_owned();
    if let Err(error) = std::thread::Builder::new().name(name).spawn(move || drop(producer)) {
        tracing::warn!(%error, "no thread to end a producer in; it ends here");
    }
}

impl Sender {
    pub(crate) fn start(shared: &Arc<Shared>) -> Result<Self, OpenError> {
        let core = Arc::new(Core {
            shared: Arc::clone(shared),
            sending: Mutex::new(Sending {
                outbox: Outbox::new(shared.shape.total()),
                main: None,
                probe: None,
                full: false,
                speech: Speech::default(),
            }),
            drained: Condvar::new(),
            news: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let generation = locked(&core.sending).outbox.retire(Lane::Main);
        let main = core.create(Lane::Main, generation);
        let main = main.map_err(|error| shared.options.refuse("make a producer", error))?;
        {
            let mut sending = locked(&core.sending);
            sending.main = Some(Arc::new(main));
            sending.outbox.opened(Lane::Main);
        }
        let run = Arc::clone(&core);
        let thread = std::thread::Builder::new().name("kafka-append".to_owned()).spawn(move || run.run());
        let thread = thread.map_err(|error| shared.options.refuse("start the thread of the producer", error))?;
        Ok(Self { core, thread: Mutex::new(Some(thread)) })
    }

    /// What a topic takes for sure, in bytes of one record.
    pub(crate) fn set_safe_bytes(&self, dense: usize, bytes: usize) {
        locked(&self.core.sending).outbox.set_safe_bytes(dense, bytes);
    }

    pub(crate) fn append(&self, batch: &mut AppendBatch) -> Result<Ack, AppendError> {
        let shared = &self.core.shared;
        self.check(batch)?;
        if shared.closed.load(Ordering::Acquire) {
            return Err(AppendError::Closed);
        }
        if batch.is_empty() {
            return Ok(Ack::ready(Ok(Positions::new())));
        }
        // Copied before the lock: others append meanwhile.
        let now = Instant::now();
        let (kept, ack) = Batch::new(batch.buffer().into(), batch.len(), now);
        let mut sending = locked(&self.core.sending);
        if sending.outbox.closing {
            return Err(AppendError::Closed);
        }
        let pending_bytes = sending.outbox.bytes();
        let pending_bytes_max = shared.options.pending_bytes_max;
        // One batch is taken however small the limit is: it could never be appended otherwise.
        if pending_bytes > 0 && pending_bytes + batch.bytes() > pending_bytes_max {
            shared.metrics.append_refused.inc();
            return Err(AppendError::Full { pending_bytes, pending_bytes_max });
        }
        let mut start = 0;
        for (index, (partition, record)) in batch.iter().enumerate() {
            if let Some(dense) = shared.shape.dense(partition) {
                sending.outbox.push(dense, &kept, start, start + record.len(), index);
                self.core.pump(&mut sending, dense, now);
            }
            start += record.len();
        }
        shared.metrics.pending_bytes.set(i64::try_from(sending.outbox.bytes()).unwrap_or(i64::MAX));
        drop(sending);
        batch.clear();
        Ok(ack)
    }

    fn check(&self, batch: &AppendBatch) -> Result<(), AppendError> {
        let shape = self.core.shared.shape;
        for (partition, bytes) in batch.iter() {
            if shape.dense(partition).is_none() {
                return Err(AppendError::UnknownPartition { partition, partitions: shape.of(partition.topic) });
            }
            if bytes.len() > RECORD_BYTES_MAX {
                return Err(AppendError::RecordTooLarge { partition, bytes: bytes.len(), bytes_max: RECORD_BYTES_MAX });
            }
        }
        if batch.bytes() > BATCH_BYTES_MAX || batch.len() > BATCH_RECORDS_MAX {
            return Err(AppendError::BatchTooLarge {
                records: batch.len(),
                bytes: batch.bytes(),
                records_max: BATCH_RECORDS_MAX,
                bytes_max: BATCH_BYTES_MAX,
            });
        }
        Ok(())
    }

    /// Takes nothing more, waits for what is unacknowledged, and gives up the rest.
    pub(crate) fn close(&self, wait: Duration) {
        let core = &self.core;
        let mut sending = locked(&core.sending);
        sending.outbox.closing = true;
        let more = |sending: &mut Sending| !sending.outbox.is_empty();
        let waited = core.drained.wait_timeout_while(sending, wait, more);
        let mut sending = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        let left = sending.outbox.abandon();
        let producers = [sending.main.take(), sending.probe.take()];
        drop(sending);
        if !left.is_empty() {
            let appends = left.len();
            tracing::error!(
                appends,
                "closed before Kafka acknowledged these appends; whoever waits for them is told so"
            );
        }
        outbox::close(left);
        core.stop.store(true, Ordering::Release);
        if let Some(thread) = locked(&self.thread).take() {
            let _ = thread.join();
        }
        // What it still has is forgotten: nobody is told that it is durable.
        for producer in producers {
            discard(producer);
        }
    }
}

#[cfg(any(test, feature = "test-util"))]
impl Sender {
    /// Treats the main producer as failed, as after a fatal error.
    pub(crate) fn fail(&self, reason: &str) {
        use rdkafka::producer::Producer as _;
        let main = locked(&self.core.sending).main.clone();
        if let Some(main) = main {
            self.core.failed(Lane::Main, main.context().generation, reason);
        }
    }
}
