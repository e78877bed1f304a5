//! The log in Kafka: two topics of a fixed number of partitions, one producer that loses nothing, readers that are told
//! every offset.
//!
//! * **Appending** never waits: a record goes to librdkafka at once and is kept here until it is acknowledged. After any
//!   error a new producer sends everything unacknowledged again, in order, so a record may be in the log twice but its
//!   first appearances are in the order of the appends. A record that Kafka refuses blocks its partition, loudly, and no
//!   other (`outbox.rs`, `producer.rs`).
//! * **Reading** is from the feeds of the consumer group while a worker keeps up, and from a consumer beside the group
//!   for everything else (`group.rs`, `side.rs`). Both check that offsets are dense.
//! * **Watching**: ends, partition counts and settings are asked for again and again, because they can change under a
//!   running process (`watcher.rs`).
//! * [`ControlTopic`] is a compacted topic used as a table.
//!
//! A batch is *not* atomic here: after a crash a part of an unacknowledged one may be in the log.

mod announcements;
mod clocks;
mod control;
mod feed;
mod group;
mod intake;
mod made;
mod metrics;
mod options;
mod outbox;
mod pending;
mod producer;
mod puts;
mod reader;
mod sender;
mod shared;
mod side;
mod standstill;
mod topics;
mod watcher;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use barrage_event::{Offset, Partition, Topic};
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

pub use announcements::Announcements;
pub use control::{ControlAck, ControlError, ControlRecord, ControlTopic};
pub use group::Group;
pub use metrics::KafkaMetrics;
pub use options::{KafkaOptions, KafkaSecurity, Secret};
pub use reader::KafkaReader;

use crate::ack::Ack;
use crate::batch::AppendBatch;
use crate::clock::now_ms;
use crate::embedded::shape::Shape;
use crate::error::{AppendError, OpenError, ReadError, TrimError};
use crate::event_log::{EventLog, Health, Record, SnapshotBase};
use crate::owner::Owner;
use feed::Taken;
use made::{Lineages, identity};
use sender::Sender;
use shared::{Names, Shared, read_error};
use side::Side;
use topics::{Admin, Kind};
use watcher::Watcher;

/// Most records that are taken from a consumer before its thread looks at its other duties.
const BURST: usize = 2_000;

/// Most events that are looked through for the cause of an error.
const EVENTS_MAX: usize = 50;

/// The key in `barrage.rules` under which stands what the log was made with.
pub const LOG_KEY: &str = "log";

/// The key that processes write to learn the log's time; its value means nothing.
const CLOCK_KEY: &str = "clock";

/// What librdkafka has to say, at the level it deserves here: most of it repeats what the log says better.
fn client_log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(target: "librdkafka", facility, "{message}");
        }
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
            tracing::info!(target: "librdkafka", facility, "{message}");
        }
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
            tracing::debug!(target: "librdkafka", facility, "{message}");
        }
    }
}

/// Lets a client go on a thread of its own: librdkafka waits for its own threads, and a consumer for brokers that may be
/// gone, and nobody should wait with them.
fn aside<T: Send + 'static>(client: T) {
    if let Err(error) = std::thread::Builder::new().name("kafka-aside".to_owned()).spawn(move || drop(client)) {
        tracing::warn!(%error, "no thread to end a client in; it ends here");
    }
}

/// A client whose errors come back as answers.
struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client_log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "Kafka client");
    }
}

impl ConsumerContext for Quiet {}

/// A client that remembers why it does not reach the cluster: the answers to its questions only say that it does not.
#[derive(Default)]
pub(crate) struct Remembering(std::sync::Mutex<Option<String>>);

/// An error of a client, and what it remembers of the cause.
pub(crate) fn explained(client: &BaseConsumer<Remembering>, error: impl std::fmt::Display) -> String {
    // Its log lines and errors come out of this; a client that is refused goes on making some.
    for _ in 0..EVENTS_MAX {
        if client.poll(Duration::from_millis(20)).is_none() {
            break;
        }
    }
    match &*shared::locked(&client.context().0) {
        Some(reason) => format!("{error}: {reason}"),
        None => error.to_string(),
    }
}

impl ClientContext for Remembering {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client_log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "Kafka client");
        // That all are down says nothing that the errors before did not.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            *shared::locked(&self.0) = Some(reason.to_owned());
        }
    }
}

impl ConsumerContext for Remembering {}

/// A client that notices when the cluster is gone.
struct Asking(Arc<Shared>);

impl ClientContext for Asking {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client_log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.0.reachable(Err(reason));
        }
        tracing::debug!(%error, reason, "Kafka client");
    }
}

impl ConsumerContext for Asking {}

/// The log in Kafka. Dropped, it closes: see [`KafkaLog::close`].
#[derive(Debug)]
pub struct KafkaLog {
    shared: Arc<Shared>,
    sender: Arc<Sender>,
    side: Side,
    watcher: Watcher,
}

/// What a process remembers of a log in Kafka, so that it can open it while the cluster is down.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct KnownLog {
    /// [`EventLog::uuid`] as 32 hex digits.
    uuid: String,
    room_partitions: u16,
    user_partitions: u16,
    /// [`EventLog::lineage`] of both topics; none where it is the uuid.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    lineages: Vec<String>,
}

impl KnownLog {
    /// Whether it is the same log, though topics of it may have been made anew.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let log = |known: &Self| (known.uuid.clone(), known.room_partitions, known.user_partitions);
        log(self) == log(other)
    }
}

impl KafkaLog {
    /// Connects, makes the topics that are missing, checks them, and compares their shape with what the log was made
    /// with, which stands in the control topic `rules` under [`LOG_KEY`].
    ///
    /// # Errors
    /// [`OpenError::Option`] for an option out of range, [`OpenError::Kafka`] when the cluster is not reached in time,
    /// [`OpenError::OtherTopics`] when partition counts differ, [`OpenError::TopicSetting`] for settings under which
    /// records would be lost or refused.
    pub fn open(options: &KafkaOptions, metrics: KafkaMetrics) -> Result<Self, OpenError> {
        options.check()?;
        let admin = Admin::connect(options)?;
        let (cluster, brokers) = admin.cluster()?;
        let names = Names::new(options);
        let (shape, made_now) = admin.data_topics(&names, brokers)?;
        admin.ensure(&options.topic("rules"), 1, Kind::Control)?;
        let made = made::compare(options, &cluster, &names, (shape, made_now))?;
        let uuid = identity(&cluster, &names, shape);
        Self::start(options, metrics, shape, (uuid, made.lineages(&names, uuid)), (admin, true))
    }

    /// What to remember of this log for [`KafkaLog::open_known`].
    #[must_use]
    pub fn known(&self) -> KnownLog {
        let shape = self.shared.shape;
        let hex = |id: u128| format!("{id:032x}");
        let (uuid, lineages) = (self.shared.uuid, self.shared.lineages);
        let lineages = if lineages == [uuid; 2] { Vec::new() } else { lineages.map(hex).to_vec() };
        KnownLog { uuid: hex(uuid), room_partitions: shape.room, user_partitions: shape.user, lineages }
    }

    /// Opens a log that was opened before without asking the cluster, which may be down: appends are kept until it is
    /// back. What [`KafkaLog::open`] checks is checked by the watcher then, and told in [`KafkaLog::problem`].
    ///
    /// # Errors
    /// [`OpenError::Option`] for an option out of range, [`OpenError::Kafka`] when a client cannot be made.
    pub fn open_known(options: &KafkaOptions, metrics: KafkaMetrics, known: &KnownLog) -> Result<Self, OpenError> {
        options.check()?;
        let admin = Admin::connect(options)?;
        let shape = Shape { room: known.room_partitions, user: known.user_partitions };
        let id = |text: &String| {
            u128::from_str_radix(text, 16).map_err(|error| options.refuse("read what is remembered of the log", error))
        };
        let uuid = id(&known.uuid)?;
        let lineages = match known.lineages.as_slice() {
            [room, user] => [id(room)?, id(user)?],
            _ => [uuid; 2],
        };
        Self::start(options, metrics, shape, (uuid, lineages), (admin, false))
    }

    fn start(
        options: &KafkaOptions,
        metrics: KafkaMetrics,
        shape: Shape,
        identities: (u128, Lineages),
        (admin, reached): (Admin, bool),
    ) -> Result<Self, OpenError> {
        let shared = Arc::new(Shared::new(options.clone(), shape, identities, metrics));
        let sender = Arc::new(Sender::start(&shared)?);
        let watcher = Watcher::start(&shared, &sender, admin, reached).inspect_err(|_| sender.close(Duration::ZERO))?;
        Ok(Self { side: Side::new(&shared), shared, sender, watcher })
    }

    /// Joins the consumer group as one of the processes that run the partitions, under `group_id` of the options. The
    /// owner is told what is its own from now on, until the group is left.
    ///
    /// # Errors
    /// [`OpenError::Kafka`] when the client cannot be made. An unreachable cluster is no error: the group is joined when
    /// it answers.
    pub fn join(&self, owner: Arc<dyn Owner>) -> Result<Group, OpenError> {
        Group::join(&self.shared, owner)
    }

    /// What is wrong with topics or partitions and must be put right by a person, if anything is. Records still go to
    /// the partitions that the log was made with.
    #[must_use]
    pub fn problem(&self) -> Option<Arc<str>> {
        self.shared.problem()
    }

    /// Compares this machine's clock with the log's by writing a row to a control topic, before anything is appended.
    ///
    /// # Errors
    /// [`ControlError`] when the row was not acknowledged or not read back; what is known of the clocks stays then.
    pub fn compare_clocks(&self, topic: &ControlTopic) -> Result<(), ControlError> {
        let begun = std::time::Instant::now();
        let offset = topic.put(CLOCK_KEY.as_bytes(), Some(b"{}"))?;
        let acked_ms = now_ms();
        let took = begun.elapsed();
        // Another process may have written since, and its row is the one that is kept: later than ours, and read by now.
        if topic.await_offset(offset, Duration::from_secs(10))
            && let Some(row) = topic.get(CLOCK_KEY.as_bytes()).filter(|row| row.offset == offset)
        {
            self.shared.compare_clocks(None, row.timestamp_ms, acked_ms, took);
        }
        Ok(())
    }

    /// The options it was opened with.
    #[must_use]
    pub fn options(&self) -> &KafkaOptions {
        &self.shared.options
    }

    /// Takes nothing more, waits up to `close_wait_ms` for acknowledgements, and tells whoever still waits
    /// [`AppendError::Closed`]. Leave the group before.
    pub fn close(&self) {
        if self.shared.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        self.sender.close(Duration::from_millis(self.shared.options.close_wait_ms.into()));
        self.watcher.close();
        self.side.close();
        self.shared.advance();
    }

    /// Treats the producer as failed, as after a fatal error of librdkafka.
    #[cfg(any(test, feature = "test-util"))]
    pub fn fail_producer(&self) {
        self.sender.fail("a fault on demand");
    }
}

impl Drop for KafkaLog {
    fn drop(&mut self) {
        self.close();
    }
}

impl EventLog for KafkaLog {
    fn uuid(&self) -> u128 {
        self.shared.uuid
    }

    fn lineage(&self, topic: Topic) -> u128 {
        self.shared.lineages.get(made::place(topic)).copied().unwrap_or(self.shared.uuid)
    }

    fn partitions(&self, topic: Topic) -> u16 {
        self.shared.shape.of(topic)
    }

    fn append(&self, batch: &mut AppendBatch) -> Result<Ack, AppendError> {
        self.sender.append(batch)
    }

    fn read(
        &self,
        partition: Partition,
        from: Offset,
        bytes_max: usize,
        visit: &mut dyn FnMut(Record<'_>) -> ControlFlow<()>,
    ) -> Result<Offset, ReadError> {
        let shared = &self.shared;
        let dense = shared.shape.dense(partition).ok_or(ReadError::UnknownPartition { partition })?;
        if let Some(broken) = shared.changed(dense) {
            return Err(read_error(partition, from.0, broken));
        }
        let start = shared.start(dense);
        if from.0 < start {
            return Err(ReadError::Trimmed { partition, from, start: Offset(start) });
        }
        // Past the end is nowhere: it must not move the feed.
        if from.0 > shared.end(dense) {
            return Ok(from);
        }
        match shared.intake.take(dense, from.0) {
            Taken::Records(mut chunk) => {
                let mut bytes_left = bytes_max.max(1);
                let mut next = from.0;
                loop {
                    let flow = chunk.visit(&mut bytes_left, visit);
                    next = next.max(chunk.position());
                    shared.intake.give_back(dense, chunk);
                    if flow.is_break() || bytes_left == 0 {
                        return Ok(Offset(next));
                    }
                    match shared.intake.take(dense, next) {
                        Taken::Records(more) => chunk = more,
                        _ => return Ok(Offset(next)),
                    }
                }
            }
            // Its records are on their way; whoever reads waits for the generation.
            Taken::Empty => Ok(from),
            Taken::Broken(broken) => Err(read_error(partition, from.0, broken)),
            Taken::Elsewhere if from.0 >= shared.end(dense) => Ok(from),
            Taken::Elsewhere => self.side.read(partition, dense, from, bytes_max, visit),
        }
    }

    fn start(&self, partition: Partition) -> Offset {
        Offset(self.shared.shape.dense(partition).map_or(0, |dense| self.shared.start(dense)))
    }

    fn end(&self, partition: Partition) -> Offset {
        Offset(self.shared.shape.dense(partition).map_or(0, |dense| self.shared.end(dense)))
    }

    fn wait(&self, seen: u64, timeout: Duration) -> u64 {
        self.shared.wait(seen, timeout)
    }

    fn wake(&self) {
        self.shared.advance();
    }

    fn health(&self) -> Health {
        self.shared.health()
    }

    fn ask_ends(&self) -> u64 {
        let question = self.shared.ends_asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.watcher.ask();
        question
    }

    fn ends_answered(&self, partition: Partition) -> u64 {
        self.shared.shape.dense(partition).map_or(0, |dense| self.shared.answered_question(dense))
    }

    fn is_end_known(&self, partition: Partition) -> bool {
        self.shared.shape.dense(partition).is_some_and(|dense| self.shared.answers(dense) > 0)
    }

    fn clock_ahead_ms(&self) -> i64 {
        self.shared.clock_ahead_ms()
    }

    fn trim(&self, base: &SnapshotBase) -> Result<Vec<(Partition, Offset)>, TrimError> {
        base.check(self)?;
        Err(TrimError::NoSnapshot)
    }
}
