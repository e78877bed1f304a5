//! A compacted topic used as a table: read to its end when it is opened, then followed.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use barrage_event::{Offset, Partition, Position};
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{ClientContext, TopicPartitionList};

use crate::ack::{Ack, Completer, Positions};
use crate::error::{AppendError, OpenError};
use crate::kafka::shared::locked;
use crate::kafka::topics::{Admin, Kind};
use crate::kafka::{KafkaOptions, Quiet, aside};

/// How long a write is tried before it has failed.
const PUT_WAIT: Duration = Duration::from_secs(30);
/// How often the producer is asked for its reports.
const REPORTS_EVERY: Duration = Duration::from_millis(10);

/// One row of a control topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlRecord {
    /// The key.
    pub key: Vec<u8>,
    /// The value; `None` when the key was removed.
    pub value: Option<Vec<u8>>,
    /// Its offset in the topic. It grows with every change; compaction leaves gaps.
    pub offset: Offset,
    /// The cluster's clock when it was written, in ms since the Unix epoch.
    pub timestamp_ms: i64,
}

/// Why a row was not written.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum ControlError {
    /// Kafka did not acknowledge it. Whether it was written is unknown; writing it again is harmless.
    #[error("topic {topic} did not take the change: {reason}")]
    Failed {
        /// The topic.
        topic: String,
        /// Kafka's answer.
        reason: Arc<str>,
    },
    /// The topic was closed before the acknowledgement.
    #[error("topic {topic} is closed")]
    Closed {
        /// The topic.
        topic: String,
    },
}

/// Tells when a row is durable: a future, or [`ControlAck::wait`] for threads. May be dropped; the write goes on.
#[derive(Debug)]
#[must_use = "a change counts only when it is acknowledged"]
pub struct ControlAck {
    ack: Ack,
    topic: String,
}

impl ControlAck {
    fn result(topic: &str, result: Result<Positions, AppendError>) -> Result<Offset, ControlError> {
        match result {
            Ok(positions) => Ok(positions.first().map_or(Offset(0), |position| position.offset)),
            Err(AppendError::Failed { reason }) => Err(ControlError::Failed { topic: topic.to_owned(), reason }),
            Err(_) => Err(ControlError::Closed { topic: topic.to_owned() }),
        }
    }

    /// Blocks the calling thread until the row is durable or has failed. Gives its offset.
    ///
    /// # Errors
    /// Why it is not durable.
    pub fn wait(self) -> Result<Offset, ControlError> {
        Self::result(&self.topic, self.ack.wait())
    }
}

impl Future for ControlAck {
    type Output = Result<Offset, ControlError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let result = Pin::new(&mut self.ack).poll(context);
        result.map(|result| Self::result(&self.topic, result))
    }
}

/// Takes the reports of the producer.
pub(super) struct Reports;

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::client_log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "control topic");
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Completer>;

    fn delivery(&self, report: &DeliveryResult<'_>, completer: Box<Completer>) {
        completer.complete(match report {
            Ok(message) => Ok(position(message.offset())),
            Err((error, _)) => Err(AppendError::Failed { reason: error.to_string().into() }),
        });
    }
}

/// An acknowledgement carries positions of the data topics; of a control topic only the offset means something.
fn position(offset: i64) -> Positions {
    let offset = Offset(u64::try_from(offset).unwrap_or(0));
    [Position { partition: Partition::room(0), offset }].into_iter().collect()
}

struct Core {
    topic: String,
    options: KafkaOptions,
    producer: Mutex<Option<Arc<BaseProducer<Reports>>>>,
    rows: Mutex<BTreeMap<Vec<u8>, ControlRecord>>,
    /// Next offset to read, and whether the end was reached.
    reading: Mutex<(u64, bool)>,
    read: Condvar,
    stop: AtomicBool,
}

/// A compacted topic of one partition, as a table that this process reads as a whole and writes to.
///
/// Rows are few and small: all of them are kept in memory. The last write of a key wins, also among processes.
pub struct ControlTopic {
    core: Arc<Core>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl fmt::Debug for ControlTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlTopic").field("topic", &self.core.topic).finish_non_exhaustive()
    }
}

impl ControlTopic {
    /// Opens the control topic `name` (without the prefix), makes it when it is missing, and reads all of it. From then
    /// on every change, by whichever process, is applied to the table within milliseconds.
    ///
    /// `changed` is told every row, when the table has it, those of the first reading too, in order, on a thread of the topic's own: it must
    /// return soon. A row may be told twice.
    ///
    /// # Errors
    /// [`OpenError::Kafka`] when the cluster is not reached in time, or the topic has several partitions.
    pub fn open(
        options: &KafkaOptions,
        name: &str,
        changed: impl FnMut(&ControlRecord) + Send + 'static,
    ) -> Result<Self, OpenError> {
        options.check()?;
        let topic = options.topic(name);
        let (partitions, _) = Admin::connect(options)?.ensure(&topic, 1, Kind::Control)?;
        if partitions != 1 {
            let reason =
                format!("it has {partitions} partitions; a table needs its changes in one order: make it anew");
            return Err(options.refuse(&format!("use topic {topic}"), reason));
        }
        Self::read(options, name, changed)
    }

    /// Opens a topic that is known to be there.
    pub(crate) fn read(
        options: &KafkaOptions,
        name: &str,
        changed: impl FnMut(&ControlRecord) + Send + 'static,
    ) -> Result<Self, OpenError> {
        let topic = options.topic(name);
        let role = format!("control-{name}");
        let mut config = options.consumer(&role);
        // A table may be read from its start at any time: what was seen before changes nothing.
        config.set("auto.offset.reset", "earliest").set("enable.partition.eof", "true").set("fetch.wait.max.ms", "100");
        let consumer = BaseConsumer::from_config_and_context(&config, Quiet);
        let consumer = consumer.map_err(|error| options.refuse("make a consumer", error))?;
        let mut list = TopicPartitionList::new();
        let assigned = list.add_partition_offset(&topic, 0, rdkafka::Offset::Beginning);
        let assigned = assigned.and_then(|()| consumer.assign(&list));
        assigned.map_err(|error| options.refuse(&format!("read topic {topic}"), error))?;
        let core = Arc::new(Core {
            topic,
            options: options.clone(),
            producer: Mutex::default(),
            rows: Mutex::default(),
            reading: Mutex::default(),
            read: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let run = Arc::clone(&core);
        let thread = std::thread::Builder::new().name("kafka-control".to_owned());
        let thread = thread.spawn(move || {
            run.follow(&consumer, changed);
            aside(consumer);
        });
        let thread = thread.map_err(|error| options.refuse("start the thread of a control topic", error))?;
        let control = Self { core, threads: Mutex::new(vec![thread]) };
        control.await_end()?;
        Ok(control)
    }

    fn await_end(&self) -> Result<(), OpenError> {
        let core = &self.core;
        let waited = core.read.wait_timeout_while(locked(&core.reading), core.options.open_wait(), |(_, end)| !*end);
        if waited.unwrap_or_else(PoisonError::into_inner).1.timed_out() {
            let action = format!("read topic {} to its end", core.topic);
            return Err(core.options.refuse(&action, "it took too long"));
        }
        Ok(())
    }

    /// All rows, by key.
    #[must_use]
    pub fn rows(&self) -> BTreeMap<Vec<u8>, ControlRecord> {
        locked(&self.core.rows).clone()
    }

    /// The row of a key, if it has one.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<ControlRecord> {
        locked(&self.core.rows).get(key).cloned()
    }

    /// Waits until this table holds what was written at an offset, and everything before. False when it does not within
    /// the time.
    #[must_use]
    pub fn await_offset(&self, offset: Offset, timeout: Duration) -> bool {
        let behind = |reading: &mut (u64, bool)| reading.0 <= offset.0;
        let waited = self.core.read.wait_timeout_while(locked(&self.core.reading), timeout, behind);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Writes a row, or removes it with `None`, and blocks until that is durable. Gives its offset. This table shows it
    /// some milliseconds later: [`ControlTopic::await_offset`].
    ///
    /// # Errors
    /// [`ControlError::Failed`] when Kafka did not acknowledge it within 30 s.
    pub fn put(&self, key: &[u8], value: Option<&[u8]>) -> Result<Offset, ControlError> {
        self.put_later(key, value).wait()
    }

    /// Writes a row as [`ControlTopic::put`] does, and returns at once. The order of calls is the order in the topic.
    pub fn put_later(&self, key: &[u8], value: Option<&[u8]>) -> ControlAck {
        let core = &self.core;
        let completer = Completer::new();
        let ack = ControlAck { ack: completer.ack_later(), topic: core.topic.clone() };
        let failed = |completer: Completer, error: &dyn fmt::Display| {
            completer.complete(Err(AppendError::Failed { reason: error.to_string().into() }));
        };
        let producer = match self.producer() {
            Ok(producer) => producer,
            Err(error) => {
                failed(completer, &error);
                return ack;
            }
        };
        let record =
            BaseRecord::<[u8], [u8], _>::with_opaque_to(&core.topic, Box::new(completer)).partition(0).key(key);
        let record = match value {
            Some(value) => record.payload(value),
            None => record,
        };
        if let Err((error, record)) = producer.send(record) {
            failed(*record.delivery_opaque, &error);
        }
        ack
    }

    /// The producer, made when it is first needed, and made anew after it has failed for good.
    fn producer(&self) -> Result<Arc<BaseProducer<Reports>>, KafkaError> {
        let core = &self.core;
        let mut slot = locked(&core.producer);
        if let Some(producer) = slot.as_ref()
            && producer.client().fatal_error().is_none()
        {
            return Ok(Arc::clone(producer));
        }
        let mut config = core.options.producer("control");
        config.set("linger.ms", "0").set("message.timeout.ms", PUT_WAIT.as_millis().to_string());
        let producer = Arc::new(BaseProducer::from_config_and_context(&config, Reports)?);
        *slot = Some(Arc::clone(&producer));
        let mut threads = locked(&self.threads);
        if threads.len() < 2 {
            let run = Arc::clone(core);
            let spawned = std::thread::Builder::new().name("kafka-control-put".to_owned()).spawn(move || run.report());
            match spawned {
                Ok(thread) => threads.push(thread),
                Err(error) => return Err(KafkaError::ClientCreation(error.to_string())),
            }
        }
        Ok(producer)
    }
}

impl Drop for ControlTopic {
    fn drop(&mut self) {
        self.core.stop.store(true, Ordering::Release);
        for thread in locked(&self.threads).drain(..) {
            let _ = thread.join();
        }
        if let Some(producer) = locked(&self.core.producer).take() {
            // What was put and not waited for still goes out, within reason.
            let _ = producer.flush(Duration::from_secs(5));
            aside(producer);
        }
    }
}

impl Core {
    /// Takes the producer's reports.
    fn report(&self) {
        while !self.stop.load(Ordering::Acquire) {
            let producer = locked(&self.producer).clone();
            if let Some(producer) = producer {
                // Given a time, rdkafka would turn in circles for the last millisecond of it.
                producer.poll(Duration::ZERO);
            }
            std::thread::sleep(REPORTS_EVERY);
        }
    }

    fn follow(&self, consumer: &BaseConsumer<Quiet>, mut changed: impl FnMut(&ControlRecord)) {
        let begun = Instant::now();
        while !self.stop.load(Ordering::Acquire) {
            match consumer.poll(Duration::from_millis(50)) {
                Some(Ok(message)) => {
                    let Some(record) = row(&message) else { continue };
                    // First the table: whoever is told looks there.
                    {
                        let mut rows = locked(&self.rows);
                        if record.value.is_some() {
                            rows.insert(record.key.clone(), record.clone());
                        } else {
                            rows.remove(&record.key);
                        }
                    }
                    changed(&record);
                    locked(&self.reading).0 = record.offset.0 + 1;
                    self.read.notify_all();
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    let mut reading = locked(&self.reading);
                    if !reading.1 {
                        reading.1 = true;
                        let ms = begun.elapsed().as_millis();
                        tracing::debug!(topic = %self.topic, ms, "read the control topic to its end");
                    }
                    self.read.notify_all();
                }
                Some(Err(error)) => tracing::debug!(%error, topic = %self.topic, "control topic"),
                None => {}
            }
        }
    }
}

/// A row out of a record; one without a key is not ours.
fn row(message: &BorrowedMessage<'_>) -> Option<ControlRecord> {
    Some(ControlRecord {
        key: message.key()?.to_vec(),
        value: message.payload().map(<[u8]>::to_vec),
        offset: Offset(u64::try_from(message.offset()).ok()?),
        timestamp_ms: message.timestamp().to_millis().unwrap_or(0),
    })
}
