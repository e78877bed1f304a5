//! The topics: made where they are missing, and checked, because a wrong setting loses records months later.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use barrage_event::Topic;
use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::embedded::shape::Shape;
use crate::error::OpenError;
use crate::kafka::options::MESSAGE_BYTES_MAX;
use crate::kafka::shared::Names;
use crate::kafka::{KafkaOptions, Quiet, Remembering, explained};

/// How often something is tried again while the cluster is starting.
const AGAIN: Duration = Duration::from_millis(200);

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for an answer of the admin client, which gives it as a future.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        thread::park();
    }
}

/// What a topic that we make is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Every record is kept for ever.
    Data,
    /// The last record of every key is kept.
    Control,
    /// For others to read: every record is kept for a week.
    Output,
}

/// A client for questions and for making topics.
pub(crate) struct Admin {
    options: KafkaOptions,
    client: AdminClient<Quiet>,
    /// Asks for metadata and offsets; it is in no group.
    pub(crate) asker: BaseConsumer<Remembering>,
}

impl Admin {
    pub(crate) fn connect(options: &KafkaOptions) -> Result<Self, OpenError> {
        let config = options.asking("admin");
        let client = AdminClient::from_config_and_context(&config, Quiet);
        let asker = BaseConsumer::from_config_and_context(&options.asking("ask"), Remembering::default());
        Ok(Self {
            options: options.clone(),
            client: client.map_err(|error| options.refuse("make a client", error))?,
            asker: asker.map_err(|error| options.refuse("make a client", error))?,
        })
    }

    fn admin_options() -> AdminOptions {
        AdminOptions::new()
            .request_timeout(Some(Duration::from_secs(10)))
            .operation_timeout(Some(Duration::from_secs(10)))
    }

    /// Tries until it succeeds or the time to open is over.
    fn patiently<T>(&self, action: &str, mut f: impl FnMut() -> Result<T, String>) -> Result<T, OpenError> {
        let deadline = Instant::now() + self.options.open_wait();
        loop {
            match f() {
                Ok(value) => return Ok(value),
                Err(reason) if Instant::now() >= deadline => return Err(self.options.refuse(action, reason)),
                Err(reason) => {
                    tracing::debug!(action, reason, "Kafka is asked again");
                    thread::sleep(AGAIN);
                }
            }
        }
    }

    /// The cluster's id, and how many brokers it has.
    pub(crate) fn cluster(&self) -> Result<(String, usize), OpenError> {
        self.patiently("reach Kafka", || {
            // Metadata first: its error says why, and the id comes with it.
            let timeout = Duration::from_secs(5);
            let metadata = self.asker.fetch_metadata(Some("__barrage_no_topic"), timeout);
            let metadata = metadata.map_err(|error| explained(&self.asker, error))?;
            let id = self.asker.client().fetch_cluster_id(timeout);
            let id = id.ok_or_else(|| "the cluster does not tell its id".to_owned())?;
            Ok((id, metadata.brokers().len()))
        })
    }

    /// How many partitions a topic has and the fewest copies any of them has; `None` when there is no such topic.
    pub(crate) fn partitions(&self, topic: &str) -> Result<Option<(usize, usize)>, String> {
        let metadata = self.asker.fetch_metadata(Some(topic), Duration::from_secs(5));
        let metadata = metadata.map_err(|error| error.to_string())?;
        let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok(None) };
        if let Some(error) = found.error() {
            let code = RDKafkaErrorCode::from(error);
            return match code {
                RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => Ok(None),
                _ => Err(code.to_string()),
            };
        }
        if found.partitions().is_empty() || found.partitions().iter().any(|partition| partition.leader() < 0) {
            return Err("partitions have no leader yet".to_owned());
        }
        let copies = found.partitions().iter().map(|partition| partition.replicas().len()).min().unwrap_or(0);
        Ok(Some((found.partitions().len(), copies)))
    }

    /// Makes a topic when it is missing, and waits until it can be used. Gives its partitions and copies, and whether it
    /// was made here.
    pub(crate) fn ensure(&self, topic: &str, partitions: u16, kind: Kind) -> Result<(usize, usize, bool), OpenError> {
        let mut made = None;
        self.patiently(&format!("make topic {topic}"), || {
            if let Some((partitions, copies)) = self.partitions(topic)? {
                return Ok((partitions, copies, made == Some(true)));
            }
            if made.is_none() {
                made = Some(self.create(topic, partitions, kind)?);
            }
            Err("it is not there yet".to_owned())
        })
    }

    /// False when somebody else was faster.
    fn create(&self, topic: &str, partitions: u16, kind: Kind) -> Result<bool, String> {
        let copies = match self.options.replication_factor {
            0 => -1,
            copies => i32::from(copies),
        };
        let bytes_max = MESSAGE_BYTES_MAX.to_string();
        let mut new = NewTopic::new(topic, partitions.into(), TopicReplication::Fixed(copies))
            .set("message.timestamp.type", "LogAppendTime")
            .set("max.message.bytes", &bytes_max)
            .set("unclean.leader.election.enable", "false");
        new = match kind {
            Kind::Data => new.set("cleanup.policy", "delete").set("retention.ms", "-1").set("retention.bytes", "-1"),
            Kind::Output => new.set("cleanup.policy", "delete").set("retention.ms", "604800000"),
            Kind::Control => new.set("cleanup.policy", "compact").set("delete.retention.ms", "604800000"),
        };
        let made = block_on(self.client.create_topics([&new], &Self::admin_options()));
        match made.map_err(|error| error.to_string())?.into_iter().next() {
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(false),
            Some(Err((_, code))) => Err(code.to_string()),
            Some(Ok(_)) | None => {
                tracing::info!(topic, partitions, "made the topic");
                Ok(true)
            }
        }
    }

    /// A topic's settings.
    pub(crate) fn settings(&self, topic: &str) -> Result<ConfigResource, String> {
        let specifier = [ResourceSpecifier::Topic(topic)];
        let found = block_on(self.client.describe_configs(&specifier, &Self::admin_options()));
        match found.map_err(|error: KafkaError| error.to_string())?.into_iter().next() {
            Some(Ok(resource)) => Ok(resource),
            Some(Err(code)) => Err(code.to_string()),
            None => Err("Kafka told nothing".to_owned()),
        }
    }

    /// The largest batch that a topic takes, in bytes.
    pub(crate) fn bytes_max(&self, topic: &str) -> Result<usize, String> {
        let settings = self.settings(topic)?;
        let value = setting(&settings, "max.message.bytes").and_then(|value| value.parse().ok());
        value.ok_or_else(|| "max.message.bytes is not told".to_owned())
    }

    /// Makes and checks the data topics. Gives their partition counts, and which of them were made here.
    pub(crate) fn data_topics(&self, names: &Names, brokers: usize) -> Result<(Shape, [bool; 2]), OpenError> {
        let (mut counts, mut made_now) = ([0_u16; 2], [false; 2]);
        let asked = [self.options.room_partitions, self.options.user_partitions];
        for (((topic, asked), count), made) in Topic::ALL.into_iter().zip(asked).zip(&mut counts).zip(&mut made_now) {
            let name = names.of(topic);
            let (found, copies);
            (found, copies, *made) = self.ensure(name, asked, Kind::Data)?;
            *count = u16::try_from(found).unwrap_or(u16::MAX);
            let settings = self.patiently(&format!("read the settings of topic {name}"), || self.settings(name))?;
            check(name, &settings)?;
            warn(name, &settings, copies, brokers);
        }
        let [room, user] = counts;
        if counts != asked {
            return Err(OpenError::OtherTopics {
                found_room: room,
                found_user: user,
                expected_by: "the configuration asks for",
                expected_room: self.options.room_partitions,
                expected_user: self.options.user_partitions,
                remedy: "set the configuration to what the topics have, or use another topic prefix for a new log",
            });
        }
        Ok((Shape { room, user }, made_now))
    }
}

fn setting<'a>(settings: &'a ConfigResource, name: &str) -> Option<&'a str> {
    settings.get(name)?.value.as_deref()
}

/// Settings under which the log does not work or loses records.
fn check(topic: &str, settings: &ConfigResource) -> Result<(), OpenError> {
    let wrong = |name: &'static str, value: &str, reason: String| {
        Err(OpenError::TopicSetting { topic: topic.to_owned(), setting: name, value: value.to_owned(), reason })
    };
    let change = |name: &str, value: &str| {
        format!("set it with kafka-configs.sh --alter --topic {topic} --add-config {name}={value}")
    };
    if let Some(value) = setting(settings, "message.timestamp.type")
        && value != "LogAppendTime"
    {
        let reason = "timestamps must be the log's own, because expiry goes by them";
        let name = "message.timestamp.type";
        return wrong(name, value, format!("{reason}: {}", change(name, "LogAppendTime")));
    }
    if let Some(value) = setting(settings, "max.message.bytes")
        && value.parse::<usize>().is_ok_and(|bytes| bytes < MESSAGE_BYTES_MAX)
    {
        let reason = format!("records have up to {} bytes", crate::RECORD_BYTES_MAX);
        let name = "max.message.bytes";
        return wrong(name, value, format!("{reason}: {}", change(name, &MESSAGE_BYTES_MAX.to_string())));
    }
    if let Some(value) = setting(settings, "cleanup.policy")
        && value.contains("compact")
    {
        let reason = "compaction removes records that the statistics are made of";
        return wrong("cleanup.policy", value, format!("{reason}: {}", change("cleanup.policy", "delete")));
    }
    if let Some(value) = setting(settings, "unclean.leader.election.enable")
        && value == "true"
    {
        let reason = "a replica that missed acknowledged records may become the leader, and they are gone";
        let name = "unclean.leader.election.enable";
        return wrong(name, value, format!("{reason}: {}", change(name, "false")));
    }
    Ok(())
}

/// Settings that may lose the truth one day.
fn warn(topic: &str, settings: &ConfigResource, copies: usize, brokers: usize) {
    for name in ["retention.ms", "retention.bytes"] {
        if let Some(value) = setting(settings, name)
            && value != "-1"
        {
            tracing::warn!(
                topic,
                setting = name,
                value,
                "records are deleted when they are old: what they count can then be rebuilt from a snapshot only. Set it \
                 to -1 unless snapshots are kept"
            );
        }
    }
    if copies == 1 && brokers >= 2 {
        tracing::error!(
            topic,
            brokers,
            "every record has one copy although there are several brokers: losing one disk loses records. Raise the \
             replication factor with kafka-reassign-partitions.sh"
        );
    } else if copies == 1 {
        tracing::warn!(topic, "every record has one copy, because there is one broker: losing its disk loses the log");
    }
    let in_sync = setting(settings, "min.insync.replicas").and_then(|value| value.parse::<usize>().ok());
    if copies >= 3 && in_sync == Some(1) {
        tracing::warn!(
            topic,
            copies,
            "min.insync.replicas=1: a record is acknowledged with one copy, and lost with it. Set it to 2"
        );
    }
}

impl Admin {
    /// Serves the asking client's log lines and errors; true while there are more.
    pub(crate) fn asker_poll(&self) -> bool {
        self.asker.poll(Duration::ZERO).is_some()
    }
}
