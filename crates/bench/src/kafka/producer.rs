//! The ceiling of ingest on Kafka: a bare rdkafka producer that sends the same records, and nothing else.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use barrage_event::routes::partition_of;
use barrage_event::rules::Compiled;
use barrage_event::{Stamp, Topic, append_sequence, callback};
use barrage_log::KafkaOptions;
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};

use crate::clock::{Spent, Stopwatch};
use crate::traffic::{APP, Traffic};

/// One record: whose callback it is of, where it goes, and where its bytes end.
#[derive(Debug, Clone, Copy)]
struct Record {
    callback: usize,
    topic: Topic,
    partition: u16,
    end: usize,
}

/// The records that ingest makes of callbacks, in one piece of memory.
#[derive(Debug)]
pub(super) struct Records {
    bytes: Vec<u8>,
    records: Vec<Record>,
    callbacks: usize,
}

impl Records {
    /// Makes them as ingest does: a record a route, numbered in its partition.
    pub(super) fn new(traffic: &mut Traffic, callbacks: usize, at_ms: i64, options: &KafkaOptions) -> Result<Self> {
        let rules = Compiled::shipped();
        let incarnation = u64::try_from(at_ms).unwrap_or(0) << 22;
        let mut sequences = [0, 0];
        let (mut bytes, mut records, mut body) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..callbacks {
            let kind = traffic.next(at_ms, &mut body);
            let callback = callback::decode(kind.command, kind.platform, &body, &rules)?;
            let stamp = Stamp {
                id: u128::from(incarnation) << 64 | number as u128,
                app: APP,
                received_at_ms: at_ms,
                incarnation,
                rules_version: 1,
                verdict: rules.verdict(&callback),
            };
            for (place, route) in callback.routes().iter().enumerate() {
                let (count, sequence) = match route.topic {
                    Topic::Room => (options.room_partitions, &mut sequences[0]),
                    Topic::User => (options.user_partitions, &mut sequences[1]),
                };
                *sequence += 1;
                callback.encode(&stamp, route, place == 0, &mut bytes);
                append_sequence(&mut bytes, *sequence / u64::from(count) + 1);
                let partition = partition_of(APP, route.key, count);
                records.push(Record { callback: number, topic: route.topic, partition, end: bytes.len() });
            }
        }
        Ok(Self { bytes, records, callbacks })
    }

    /// Records of one callback.
    pub(super) fn per_callback(&self) -> f64 {
        self.records.len() as f64 / self.callbacks as f64
    }

    /// Bytes of one record.
    pub(super) fn record_bytes(&self) -> f64 {
        self.bytes.len() as f64 / self.records.len() as f64
    }
}

/// Counts what is acknowledged.
struct Acknowledged {
    /// Records of each callback that are not.
    left: Vec<AtomicU64>,
    callbacks: AtomicU64,
    records: AtomicU64,
    failed: Mutex<Option<String>>,
}

impl ClientContext for Acknowledged {}

impl ProducerContext for Acknowledged {
    type DeliveryOpaque = usize;

    fn delivery(&self, report: &DeliveryResult<'_>, callback: usize) {
        if let Err((error, _)) = report {
            *self.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error.to_string());
        }
        self.records.fetch_add(1, Ordering::AcqRel);
        if self.left.get(callback).is_some_and(|left| left.fetch_sub(1, Ordering::AcqRel) == 1) {
            self.callbacks.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// What a run took.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Produced {
    /// Callbacks whose records are all acknowledged.
    pub(super) callbacks: u64,
    pub(super) spent: Spent,
}

impl Produced {
    pub(super) fn rate(&self) -> f64 {
        self.callbacks as f64 / self.spent.wall.as_secs_f64()
    }
}

/// Sends for `duration` at most, with the records of `in_flight` callbacks unacknowledged at a time, and waits for all.
pub(super) fn produce(
    options: &KafkaOptions,
    records: &Records,
    in_flight: u64,
    duration: Duration,
) -> Result<Produced> {
    let left = (0..records.callbacks).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
    for record in &records.records {
        left[record.callback].fetch_add(1, Ordering::Relaxed);
    }
    let context =
        Acknowledged { left, callbacks: AtomicU64::new(0), records: AtomicU64::new(0), failed: Mutex::default() };
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &options.brokers)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", options.linger_ms.to_string())
        .set("compression.type", &options.compression)
        .set("socket.nagle.disable", "true")
        .set("queue.buffering.max.messages", "10000000")
        .set("queue.buffering.max.kbytes", "1000000");
    let producer: BaseProducer<Acknowledged> = BaseProducer::from_config_and_context(&config, context)?;
    let topics = Topic::ALL.map(|topic| options.topic(topic.short()));
    let acknowledged = || producer.context().callbacks.load(Ordering::Acquire);
    // Connected and told where the partitions are, as ingest is when it is measured.
    for topic in &topics {
        producer.client().fetch_metadata(Some(topic), Duration::from_secs(10)).context("ask the broker")?;
    }
    let watch = Stopwatch::start();
    let begun = Instant::now();
    let (mut sent, mut start) = (0, 0);
    for record in &records.records {
        let first_of_callback = record.callback as u64 == sent;
        if first_of_callback {
            if begun.elapsed() >= duration {
                break;
            }
            while sent - acknowledged() >= in_flight {
                wait(&producer);
            }
            sent += 1;
            if sent.is_multiple_of(256) {
                producer.poll(Duration::ZERO);
            }
        }
        let topic = if record.topic == Topic::Room { &topics[0] } else { &topics[1] };
        let message = BaseRecord::<(), [u8], usize>::with_opaque_to(topic, record.callback)
            .partition(record.partition.into())
            .payload(&records.bytes[start..record.end]);
        producer.send(message).map_err(|(error, _)| error)?;
        start = record.end;
    }
    while acknowledged() < sent {
        wait(&producer);
    }
    let spent = watch.spent();
    if let Some(error) = producer.context().failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
        anyhow::bail!("a record of the bare producer failed: {error}");
    }
    Ok(Produced { callbacks: sent, spent })
}

/// Takes what was acknowledged, and waits a little when nothing was. Given a time, rdkafka would turn in circles for the
/// last millisecond of it, which is no ceiling of anything.
fn wait(producer: &BaseProducer<Acknowledged>) {
    let before = producer.context().records.load(Ordering::Acquire);
    producer.poll(Duration::ZERO);
    if producer.context().records.load(Ordering::Acquire) == before {
        std::thread::sleep(Duration::from_micros(200));
    }
}
