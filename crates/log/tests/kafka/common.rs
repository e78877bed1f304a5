//! What the tests on a real broker share.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use barrage_event::{Offset, Partition};
use barrage_kafka_fixture::{Broker, prefix};
use barrage_log::{AppendBatch, EventLog, KafkaLog, KafkaMetrics, KafkaOptions};
use rdkafka::ClientConfig;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};

/// Far beyond what anything needs; a test that waits so long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Topics of their own on a broker, with everything that is watched watched closely.
pub(crate) fn options(broker: &Broker) -> KafkaOptions {
    let prefix = prefix();
    KafkaOptions {
        brokers: broker.brokers(),
        group_id: format!("{prefix}group"),
        topic_prefix: prefix,
        room_partitions: 2,
        user_partitions: 2,
        read_wait_ms: 30_000,
        watch_ends_ms: 100,
        watch_topics_ms: 100,
        session_timeout_ms: 2_000,
        ..KafkaOptions::default()
    }
}

pub(crate) fn open(options: &KafkaOptions) -> Arc<KafkaLog> {
    Arc::new(KafkaLog::open(options, KafkaMetrics::default()).unwrap())
}

/// Waits until something holds, looking again when the log says that something happened.
pub(crate) fn until(log: &KafkaLog, what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}; problem: {:?}", log.problem());
        let seen = log.wait(0, Duration::ZERO);
        log.wait(seen, Duration::from_millis(20));
    }
}

/// A batch of one record.
pub(crate) fn batch(partition: Partition, bytes: &[u8]) -> AppendBatch {
    let mut batch = AppendBatch::new();
    batch.push(partition, |buffer| buffer.extend_from_slice(bytes));
    batch
}

/// Everything in a partition, by offset.
pub(crate) fn everything(log: &KafkaLog, partition: Partition) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut next = Offset(0);
    let begun = Instant::now();
    while next < log.end(partition) {
        assert!(begun.elapsed() < PATIENCE, "{partition} can be read on from {next}");
        next = log
            .read(partition, next, usize::MAX, &mut |record| {
                assert_eq!(record.offset.0, found.len() as u64, "offsets are dense");
                found.push(record.bytes.to_vec());
                ControlFlow::Continue(())
            })
            .unwrap();
    }
    found
}

/// What is left when everything but the first appearance of each record is taken out.
pub(crate) fn first_appearances(records: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut seen = HashSet::new();
    records.into_iter().filter(|record| seen.insert(record.clone())).collect()
}

/// Bytes that do not compress, beginning with a number.
pub(crate) fn noise(number: u32, length: usize) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().to_vec();
    let mut state = u64::from(number) + 1;
    while bytes.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.push((state >> 56) as u8);
    }
    bytes
}

/// An administrator at work.
pub(crate) struct Admin {
    client: AdminClient<DefaultClientContext>,
    runtime: tokio::runtime::Runtime,
}

impl Admin {
    pub(crate) fn new(broker: &Broker) -> Self {
        let client = ClientConfig::new().set("bootstrap.servers", broker.brokers()).create().unwrap();
        Self { client, runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap() }
    }

    pub(crate) fn create(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        let new = settings.iter().fold(new, |new, (key, value)| new.set(key, value));
        let made = self.runtime.block_on(self.client.create_topics([&new], &AdminOptions::new())).unwrap();
        made[0].as_ref().unwrap();
    }

    pub(crate) fn delete(&self, topic: &str) {
        let gone = self.runtime.block_on(self.client.delete_topics(&[topic], &AdminOptions::new())).unwrap();
        gone[0].as_ref().unwrap();
    }

    pub(crate) fn grow(&self, topic: &str, partitions: usize) {
        let new = NewPartitions::new(topic, partitions);
        let made = self.runtime.block_on(self.client.create_partitions([&new], &AdminOptions::new())).unwrap();
        made[0].as_ref().unwrap();
    }

    /// Replaces all settings of a topic.
    pub(crate) fn alter(&self, topic: &str, settings: &[(&str, &str)]) {
        let alter = AlterConfig::new(ResourceSpecifier::Topic(topic));
        let alter = settings.iter().fold(alter, |alter, (key, value)| alter.set(key, value));
        let done = self.runtime.block_on(self.client.alter_configs([&alter], &AdminOptions::new())).unwrap();
        done[0].as_ref().unwrap();
    }
}

/// What became of the last record of a producer that is not ours.
#[derive(Default)]
struct LastDelivery(Mutex<Option<Result<(), KafkaError>>>);

impl ClientContext for LastDelivery {}

impl ProducerContext for LastDelivery {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        *self.0.lock().unwrap() = Some(result.as_ref().map(|_| ()).map_err(|(error, _)| error.clone()));
    }
}

/// Sends a record to a partition again and again, with a producer that is not ours, until the broker refuses its size.
pub(crate) fn until_too_large(broker: &Broker, topic: &str, partition: i32, bytes: &[u8]) {
    let producer: BaseProducer<LastDelivery> = ClientConfig::new()
        .set("bootstrap.servers", broker.brokers())
        .create_with_context(LastDelivery::default())
        .unwrap();
    let begun = Instant::now();
    loop {
        producer.send(BaseRecord::<(), [u8]>::to(topic).partition(partition).payload(bytes)).unwrap();
        producer.flush(PATIENCE).unwrap();
        let result = producer.context().0.lock().unwrap().take().unwrap();
        if result.as_ref().is_err_and(|e| e.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge)) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "it is taken all the while: {result:?}");
    }
}

/// The settings of a data topic, with another limit on the size of a batch.
pub(crate) fn with_bytes_max(bytes_max: &str) -> Vec<(&str, &str)> {
    vec![("message.timestamp.type", "LogAppendTime"), ("retention.ms", "-1"), ("max.message.bytes", bytes_max)]
}
