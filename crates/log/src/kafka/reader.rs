//! A look into the log in Kafka for `barrage log`: in no group, and nothing is made or written.

use std::fmt;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use barrage_event::{Offset, Partition, Topic};
use rdkafka::TopicPartitionList;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::Message;

use crate::embedded::shape::Shape;
use crate::error::OpenError;
use crate::event_log::Record;
use crate::kafka::intake::raw;
use crate::kafka::shared::Names;
use crate::kafka::{KafkaOptions, Remembering, explained};

/// How long one question may take.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// Pause before a cluster that does not answer is asked again.
const AGAIN: Duration = Duration::from_millis(200);

/// Reads the topics of a log and changes nothing: topics that are not there are not made. Many may look at once, beside
/// everything that runs.
pub struct KafkaReader {
    options: KafkaOptions,
    names: Names,
    shape: Shape,
    consumer: BaseConsumer<Remembering>,
}

impl fmt::Debug for KafkaReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaReader").field("names", &self.names).field("shape", &self.shape).finish_non_exhaustive()
    }
}

impl KafkaReader {
    /// Connects and looks how many partitions the topics have.
    ///
    /// # Errors
    /// [`OpenError::Option`] for an option out of range, [`OpenError::Kafka`] when the cluster does not answer within
    /// `open_wait_ms` or has no such topics.
    pub fn open(options: &KafkaOptions) -> Result<Self, OpenError> {
        options.check()?;
        let mut config = options.consumer("look");
        // It begins where there is something; where that is was asked for before.
        config.set("enable.partition.eof", "true");
        let consumer = BaseConsumer::from_config_and_context(&config, Remembering::default());
        let consumer = consumer.map_err(|error| options.refuse("make a client", error))?;
        let names = Names::new(options);
        let mut counts = [0; Topic::ALL.len()];
        for (count, topic) in counts.iter_mut().zip(Topic::ALL) {
            *count = Self::count(options, &consumer, names.of(topic))?;
        }
        let [room, user] = counts;
        Ok(Self { options: options.clone(), names, shape: Shape { room, user }, consumer })
    }

    fn count(options: &KafkaOptions, consumer: &BaseConsumer<Remembering>, topic: &str) -> Result<u16, OpenError> {
        let deadline = Instant::now() + options.open_wait();
        loop {
            let reason = match consumer.fetch_metadata(Some(topic), ANSWER_WAIT) {
                Ok(metadata) => {
                    let found = metadata.topics().iter().find(|found| found.name() == topic);
                    let count = found.map_or(0, |found| u16::try_from(found.partitions().len()).unwrap_or(0));
                    if count > 0 {
                        return Ok(count);
                    }
                    let error = found.and_then(|found| found.error()).map(RDKafkaErrorCode::from);
                    let unknown = [RDKafkaErrorCode::UnknownTopicOrPartition, RDKafkaErrorCode::UnknownTopic];
                    if error.is_none_or(|error| unknown.contains(&error)) {
                        return Err(options.refuse(
                            &format!("find the topic {topic}"),
                            "there is none; is kafka.topic_prefix right?",
                        ));
                    }
                    error.map_or_else(String::new, |error| error.to_string())
                }
                Err(error) => explained(consumer, error),
            };
            if Instant::now() >= deadline {
                return Err(options.refuse("reach Kafka", reason));
            }
            std::thread::sleep(AGAIN);
        }
    }

    /// Number of partitions of a topic.
    #[must_use]
    pub fn partitions(&self, topic: Topic) -> u16 {
        self.shape.of(topic)
    }

    fn place(&self, partition: Partition) -> Result<(&str, i32), OpenError> {
        if partition.index >= self.shape.of(partition.topic) {
            let count = self.shape.of(partition.topic);
            return Err(self.options.refuse(&format!("read {partition}"), format!("its topic has {count} partitions")));
        }
        Ok((self.names.of(partition.topic), i32::from(partition.index)))
    }

    /// The first offset of a partition that is still there, and one past its last.
    ///
    /// # Errors
    /// [`OpenError::Kafka`] when the cluster does not say, or the topic has no such partition.
    pub fn bounds(&self, partition: Partition) -> Result<(Offset, Offset), OpenError> {
        let (topic, index) = self.place(partition)?;
        let bounds = self.consumer.fetch_watermarks(topic, index, ANSWER_WAIT);
        let (start, end) =
            bounds.map_err(|error| self.options.refuse(&format!("ask where {partition} ends"), error))?;
        let offset = |raw: i64| Offset(u64::try_from(raw).unwrap_or(0));
        Ok((offset(start), offset(end)))
    }

    /// Visits the records that a partition holds now, from an offset on or from its first, until `visit` breaks.
    ///
    /// # Errors
    /// [`OpenError::Kafka`] when records that are there do not come within `read_wait_ms`.
    pub fn read(
        &self,
        partition: Partition,
        from: Offset,
        visit: &mut dyn FnMut(Record<'_>) -> ControlFlow<()>,
    ) -> Result<(), OpenError> {
        let (topic, index) = self.place(partition)?;
        let (start, end) = self.bounds(partition)?;
        let mut next = from.max(start);
        if next >= end {
            return Ok(());
        }
        let refuse = |error: String| self.options.refuse(&format!("read {partition}"), error);
        let mut list = TopicPartitionList::new();
        let entered = list.add_partition_offset(topic, index, raw(next.0));
        entered.and_then(|()| self.consumer.assign(&list)).map_err(|error| refuse(error.to_string()))?;
        let read = self.visit(&mut next, end, visit);
        let released = self.consumer.unassign();
        read.map_err(refuse)?;
        released.map_err(|error| refuse(error.to_string()))
    }

    fn visit(
        &self,
        next: &mut Offset,
        end: Offset,
        visit: &mut dyn FnMut(Record<'_>) -> ControlFlow<()>,
    ) -> Result<(), String> {
        let wait = Duration::from_millis(self.options.read_wait_ms.into());
        let mut deadline = Instant::now() + wait;
        while *next < end {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let waited = wait.as_millis();
                return Err(format!("the records from offset {next} on did not come within {waited} ms"));
            }
            let message = match self.consumer.poll(left) {
                None => continue,
                // The end of the partition: nothing more comes now.
                Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => return Ok(()),
                Some(Err(error)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) => {
                    return Err(format!("there is no offset {next} any more"));
                }
                // It mends itself, or the time is over.
                Some(Err(error)) => {
                    tracing::debug!(%error, "reading");
                    continue;
                }
                Some(Ok(message)) => message,
            };
            let offset = Offset(u64::try_from(message.offset()).unwrap_or(0));
            if offset < *next {
                continue;
            }
            deadline = Instant::now() + wait;
            *next = offset.next();
            let timestamp_ms = message.timestamp().to_millis().unwrap_or(0);
            let bytes = message.payload().unwrap_or_default();
            if visit(Record { offset, timestamp_ms, bytes }).is_break() {
                return Ok(());
            }
        }
        Ok(())
    }
}
