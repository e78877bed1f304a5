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

use barrage_event::Offset;
use rdkafka::TopicPartitionList;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::producer::BaseRecord;

use crate::ack::{Ack, Completer, Positions};
use crate::error::{AppendError, OpenError};
use crate::kafka::intake::raw;
use crate::kafka::puts::{Puts, Putter, take_reports};
use crate::kafka::shared::locked;
use crate::kafka::topics::{Admin, Kind};
use crate::kafka::{KafkaOptions, Quiet, aside};

/// While nothing comes, how often the cluster is asked whether there is something.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// A client that got nothing for so long, though there is something or it cannot tell, is replaced.
const DEAF: Duration = Duration::from_secs(4);

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

struct Core {
    topic: String,
    options: KafkaOptions,
    role: String,
    puts: Puts,
    rows: Mutex<BTreeMap<Vec<u8>, ControlRecord>>,
    /// Next offset to read, and whether the end was reached.
    reading: Mutex<(u64, bool)>,
    read: Condvar,
    stop: AtomicBool,
    #[cfg(any(test, feature = "test-util"))]
    halt: AtomicBool,
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
        let (partitions, ..) = Admin::connect(options)?.ensure(&topic, 1, Kind::Control)?;
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
        let core = Arc::new(Core {
            role: format!("control-{name}"),
            puts: Puts::new(options, "control", 0),
            options: options.clone(),
            rows: Mutex::default(),
            reading: Mutex::default(),
            read: Condvar::new(),
            stop: AtomicBool::new(false),
            #[cfg(any(test, feature = "test-util"))]
            halt: AtomicBool::new(false),
            topic,
        });
        let consumer = core.consumer().map_err(|error| options.refuse(&format!("read topic {}", core.topic), error))?;
        let run = Arc::clone(&core);
        let thread = std::thread::Builder::new().name("kafka-control".to_owned());
        let thread = thread.spawn(move || run.run(consumer, changed));
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

    /// The producer, and a thread that takes what it reports.
    fn producer(&self) -> Result<Arc<Putter>, KafkaError> {
        let producer = self.core.puts.get()?;
        let mut threads = locked(&self.threads);
        if threads.len() < 2 {
            let run = Arc::clone(&self.core);
            let spawned = std::thread::Builder::new().name("kafka-control-put".to_owned()).spawn(move || run.report());
            match spawned {
                Ok(thread) => threads.push(thread),
                Err(error) => return Err(KafkaError::ClientCreation(error.to_string())),
            }
        }
        Ok(producer)
    }

    /// Fault on demand: the client that reads gets nothing any more.
    #[cfg(any(test, feature = "test-util"))]
    pub fn halt(&self) {
        self.core.halt.store(true, Ordering::Release);
    }
}

impl Drop for ControlTopic {
    fn drop(&mut self) {
        self.core.stop.store(true, Ordering::Release);
        for thread in locked(&self.threads).drain(..) {
            let _ = thread.join();
        }
        self.core.puts.close(Duration::from_secs(5));
    }
}

impl Core {
    /// Takes the producer's reports.
    fn report(&self) {
        while !self.stop.load(Ordering::Acquire) {
            if let Some(producer) = self.puts.current() {
                take_reports(&producer);
            }
        }
    }

    /// A client that gets all rows from where this table is.
    fn consumer(&self) -> Result<BaseConsumer<Quiet>, KafkaError> {
        let mut config = self.options.consumer(&self.role);
        // A table may be read from its start at any time: what was seen before changes nothing.
        config.set("auto.offset.reset", "earliest").set("enable.partition.eof", "true").set("fetch.wait.max.ms", "100");
        let consumer = BaseConsumer::from_config_and_context(&config, Quiet)?;
        let next = locked(&self.reading).0;
        let from = if next == 0 { rdkafka::Offset::Beginning } else { raw(next) };
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, 0, from)?;
        consumer.assign(&list)?;
        Ok(consumer)
    }

    /// Follows the topic for as long as it is wanted. A client that hears nothing any more is replaced: after a broker was
    /// away, librdkafka may be left without one for good while everything looks healthy.
    fn run(&self, consumer: BaseConsumer<Quiet>, mut changed: impl FnMut(&ControlRecord)) {
        let mut consumer = Some(consumer);
        while let Some(used) = consumer.take() {
            self.follow(&used, &mut changed);
            aside(used);
            while consumer.is_none() && !self.stop.load(Ordering::Acquire) {
                match self.consumer() {
                    Ok(made) => consumer = Some(made),
                    Err(error) => {
                        tracing::error!(%error, topic = %self.topic, "no client to read the control topic with");
                        std::thread::sleep(ASK_EVERY);
                    }
                }
            }
        }
    }

    /// Applies what comes, until told to stop or until it seems that nothing comes any more.
    fn follow(&self, consumer: &BaseConsumer<Quiet>, changed: &mut impl FnMut(&ControlRecord)) {
        let begun = Instant::now();
        let (mut heard, mut asked) = (begun, begun);
        while !self.stop.load(Ordering::Acquire) {
            match consumer.poll(Duration::from_millis(50)) {
                Some(Ok(message)) => {
                    heard = Instant::now();
                    self.apply(&message, changed);
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    heard = Instant::now();
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
            #[cfg(any(test, feature = "test-util"))]
            if self.halt.swap(false, Ordering::AcqRel)
                && let Err(error) = consumer.assignment().and_then(|all| consumer.pause(&all))
            {
                tracing::error!(%error, "the fault on demand did not happen");
            }
            if heard.max(asked).elapsed() > ASK_EVERY {
                let end = consumer.fetch_watermarks(&self.topic, 0, ASK_EVERY).map(|(_, end)| end);
                asked = Instant::now();
                let next = locked(&self.reading).0;
                let missed = end.as_ref().is_ok_and(|&end| u64::try_from(end).is_ok_and(|end| end > next));
                if end.is_ok() && !missed {
                    heard = asked;
                } else if heard.elapsed() > DEAF {
                    if missed {
                        tracing::warn!(topic = %self.topic, "the control topic has rows that do not come: a new client reads it");
                    }
                    return;
                }
            }
        }
    }

    fn apply(&self, message: &BorrowedMessage<'_>, changed: &mut impl FnMut(&ControlRecord)) {
        if let Some(record) = row(message) {
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
        }
        locked(&self.reading).0 = u64::try_from(message.offset()).unwrap_or(0) + 1;
        self.read.notify_all();
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
