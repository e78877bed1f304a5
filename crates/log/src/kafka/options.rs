//! What an operator may set on the log in Kafka, and the clients' configurations made of it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

use crate::RECORD_BYTES_MAX;
use crate::error::OpenError;

/// What a batch of one largest record takes beside its bytes: headers of batch and record, rounded up generously.
pub(crate) const RECORD_SLACK: usize = 64 << 10;

/// What `max.message.bytes` of the data topics must be at least.
pub(crate) const MESSAGE_BYTES_MAX: usize = RECORD_BYTES_MAX + RECORD_SLACK;

/// A password: shown as `***` wherever options are printed.
#[derive(Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How clients prove who they are and whom they talk to. The keys are librdkafka's, which its documentation explains.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaSecurity {
    /// `security.protocol`: `plaintext`, `ssl`, `sasl_plaintext` or `sasl_ssl`. Default: `plaintext`.
    pub protocol: Option<String>,
    /// Certificate authorities that brokers are checked against, a PEM file (`ssl.ca.location`). Default: the system's.
    pub ca: Option<PathBuf>,
    /// Certificate of this client, a PEM file (`ssl.certificate.location`), where brokers ask for one.
    pub certificate: Option<PathBuf>,
    /// Private key of that certificate, a PEM file (`ssl.key.location`).
    pub key: Option<PathBuf>,
    /// Password of the private key (`ssl.key.password`).
    pub key_password: Option<Secret>,
    /// `sasl.mechanism`: `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    pub sasl_mechanism: Option<String>,
    /// User name (`sasl.username`).
    pub sasl_username: Option<String>,
    /// Password (`sasl.password`).
    pub sasl_password: Option<Secret>,
}

/// Options of the log in Kafka.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaOptions {
    /// Where to find the cluster: `HOST:PORT`, several separated by commas. Default `127.0.0.1:9092`. A few suffice; the
    /// others are learnt from them.
    pub brokers: String,
    /// What the names of all topics begin with. Default `barrage.`, so that they are `barrage.room`, `barrage.user`,
    /// `barrage.rules` and `barrage.owners`. Two installations in one cluster need two prefixes and two groups.
    pub topic_prefix: String,
    /// Partitions of the room topic, 1 to 1,024. Default 16. Fixed when the topics are made: keys are placed by it.
    pub room_partitions: u16,
    /// Partitions of the user topic, as above. Default 16.
    pub user_partitions: u16,
    /// Copies of each record in topics that are made by us, 0 to 100. Default 0: what the cluster is set to.
    pub replication_factor: u16,
    /// `lz4`, `zstd`, `gzip`, `snappy` or `none`. Default `lz4`: callbacks are JSON and shrink to a fraction, at little cost.
    pub compression: String,
    /// How long a record waits for others that go into the same batch, in ms, 0 to 1,000. Default 2. Every append waits
    /// this long; without it every record is a request of its own.
    pub linger_ms: u16,
    /// Name of this client in the cluster's logs and quotas. Default `barrage`.
    pub client_id: String,
    /// Consumer group of the processes that share the partitions out among themselves. Default `barrage.project`.
    pub group_id: String,
    /// How long a member of the group may be silent before its partitions are given away, in ms, 1,000 to 600,000.
    /// Default 10,000. A process that died is replaced after this; the cluster has limits of its own.
    pub session_timeout_ms: u32,
    /// Most bytes that were appended and are not yet acknowledged, 65,536 to 4 GiB. Default 67,108,864 (64 MiB). Above
    /// it appends are refused with [`crate::AppendError::Full`]. They are kept until acknowledged, to be sent again.
    pub pending_bytes_max: usize,
    /// Memory for records that were fetched and not yet read, in bytes **per partition**, 65,536 to 1 GiB. Default
    /// 8,388,608 (8 MiB). Above it fetching pauses until half is read.
    pub feed_bytes_max: usize,
    /// Most bytes that one fetch brings per partition, 65,536 to 64 MiB. Default 1,048,576 (1 MiB). librdkafka holds up
    /// to twice this per partition beside the feed.
    pub fetch_bytes_max: usize,
    /// How long a read waits for records that are known to exist, in ms, 1 to 600,000. Default 5,000. They are fetched
    /// on demand when a store is opened or rebuilt; a read that got none in this time visits nothing.
    pub read_wait_ms: u32,
    /// How long opening waits for the cluster, in ms, 1 to 600,000. Default 30,000.
    pub open_wait_ms: u32,
    /// How long closing waits for acknowledgements, in ms, 0 to 600,000. Default 10,000.
    pub close_wait_ms: u32,
    /// How often the ends of all partitions are asked for, in ms, 10 to 60,000. Default 1,000. It is how a process that
    /// does not read a partition learns how far it is, and how soon a lost or recreated topic is noticed.
    pub watch_ends_ms: u32,
    /// How often partition counts and topic settings are checked, in ms, 10 to 3,600,000. Default 10,000.
    pub watch_topics_ms: u32,
    /// TLS and authentication.
    pub security: KafkaSecurity,
    /// Any further settings of librdkafka, for all clients; they win over ours, except for those that no record would be
    /// safe without, which are refused.
    pub extra: BTreeMap<String, String>,
}

impl Default for KafkaOptions {
    fn default() -> Self {
        Self {
            brokers: "127.0.0.1:9092".to_owned(),
            topic_prefix: "barrage.".to_owned(),
            room_partitions: 16,
            user_partitions: 16,
            replication_factor: 0,
            compression: "lz4".to_owned(),
            linger_ms: 2,
            client_id: "barrage".to_owned(),
            group_id: "barrage.project".to_owned(),
            session_timeout_ms: 10_000,
            pending_bytes_max: 64 << 20,
            feed_bytes_max: 8 << 20,
            fetch_bytes_max: 1 << 20,
            read_wait_ms: 5_000,
            open_wait_ms: 30_000,
            close_wait_ms: 10_000,
            watch_ends_ms: 1_000,
            watch_topics_ms: 10_000,
            security: KafkaSecurity::default(),
            extra: BTreeMap::new(),
        }
    }
}

/// Settings on which the guarantees of the log rest.
const OURS: [&str; 19] = [
    "acks",
    "auto.offset.reset",
    "bootstrap.servers",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.gapless.guarantee",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.protocol",
    "isolation.level",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "message.timeout.ms",
    "delivery.timeout.ms",
    "metadata.broker.list",
    "partition.assignment.strategy",
    "request.required.acks",
    "transactional.id",
];

impl KafkaOptions {
    /// Checks every value against its range.
    ///
    /// # Errors
    /// [`OpenError::Option`] naming the first option that is out of range, [`OpenError::Kafka`] for texts.
    pub fn check(&self) -> Result<(), OpenError> {
        let range = |option: &'static str, value: u64, min: u64, max: u64| {
            if (min..=max).contains(&value) {
                Ok(())
            } else {
                Err(OpenError::Option { option, value, reason: format!("it must be {min} to {max}") })
            }
        };
        let bytes = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        range("room_partitions", self.room_partitions.into(), 1, 1_024)?;
        range("user_partitions", self.user_partitions.into(), 1, 1_024)?;
        range("replication_factor", self.replication_factor.into(), 0, 100)?;
        range("linger_ms", self.linger_ms.into(), 0, 1_000)?;
        range("session_timeout_ms", self.session_timeout_ms.into(), 1_000, 600_000)?;
        range("pending_bytes_max", bytes(self.pending_bytes_max), 64 << 10, 4 << 30)?;
        range("feed_bytes_max", bytes(self.feed_bytes_max), 64 << 10, 1 << 30)?;
        range("fetch_bytes_max", bytes(self.fetch_bytes_max), 64 << 10, 64 << 20)?;
        range("read_wait_ms", self.read_wait_ms.into(), 1, 600_000)?;
        range("open_wait_ms", self.open_wait_ms.into(), 1, 600_000)?;
        range("close_wait_ms", self.close_wait_ms.into(), 0, 600_000)?;
        range("watch_ends_ms", self.watch_ends_ms.into(), 10, 60_000)?;
        range("watch_topics_ms", self.watch_topics_ms.into(), 10, 3_600_000)?;
        if self.brokers.trim().is_empty() {
            return Err(self.refuse("read the option `brokers`", "it is empty: write HOST:PORT,HOST:PORT"));
        }
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if !self.topic_prefix.chars().all(legal) || self.topic_prefix.len() > 200 {
            let reason = "a topic's name has letters, digits, dots, hyphens and underscores, and is short";
            return Err(self.refuse("read the option `topic_prefix`", reason));
        }
        if let Some(key) = self.extra.keys().find(|key| OURS.contains(&key.as_str())) {
            let reason =
                "the log would not be safe with another value, or has an option of its own for it: leave it out";
            return Err(self.refuse(&format!("set `{key}` in `extra`"), reason));
        }
        Ok(())
    }

    pub(crate) fn refuse(&self, action: &str, reason: impl fmt::Display) -> OpenError {
        OpenError::Kafka { action: action.to_owned(), brokers: self.brokers.clone(), reason: reason.to_string() }
    }

    /// Full name of one of our topics.
    #[must_use]
    pub fn topic(&self, name: &str) -> String {
        format!("{}{name}", self.topic_prefix)
    }

    pub(crate) fn open_wait(&self) -> Duration {
        Duration::from_millis(self.open_wait_ms.into())
    }

    /// What all clients share.
    pub(crate) fn client(&self, role: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", format!("{}-{role}", self.client_id))
            // Answers are small and somebody waits for them.
            .set("socket.nagle.disable", "true")
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "2000")
            .set_log_level(RDKafkaLogLevel::Notice);
        let security = &self.security;
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let secret = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.0.clone());
        for (key, value) in [
            ("security.protocol", security.protocol.clone()),
            ("ssl.ca.location", path(&security.ca)),
            ("ssl.certificate.location", path(&security.certificate)),
            ("ssl.key.location", path(&security.key)),
            ("ssl.key.password", secret(&security.key_password)),
            ("sasl.mechanism", security.sasl_mechanism.clone()),
            ("sasl.username", security.sasl_username.clone()),
            ("sasl.password", secret(&security.sasl_password)),
        ] {
            if let Some(value) = value {
                config.set(key, value);
            }
        }
        config
    }

    fn with_extra(&self, mut config: ClientConfig) -> ClientConfig {
        for (key, value) in &self.extra {
            config.set(key, value);
        }
        config
    }

    /// A client that only asks: metadata, ends, settings.
    pub(crate) fn asking(&self, role: &str) -> ClientConfig {
        self.with_extra(self.client(role))
    }

    /// A producer that loses nothing and keeps the order of every partition.
    pub(crate) fn producer(&self, role: &str) -> ClientConfig {
        let mut config = self.client(role);
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", self.linger_ms.to_string())
            .set("compression.type", &self.compression)
            .set("message.max.bytes", MESSAGE_BYTES_MAX.to_string())
            // Our own limit on what is pending comes first.
            .set("queue.buffering.max.messages", "10000000")
            .set("queue.buffering.max.kbytes", (self.pending_bytes_max / 512 + 65_536).min(2_097_151).to_string());
        self.with_extra(config)
    }

    /// The producer of the data topics: it never gives up on a record and never leaves one out.
    pub(crate) fn data_producer(&self, role: &str) -> ClientConfig {
        let mut config = self.producer(role);
        config.set("message.timeout.ms", "0").set("enable.gapless.guarantee", "true");
        config
    }

    /// A consumer that is told every offset and guesses none. librdkafka wants a group's name even where none is joined.
    pub(crate) fn consumer(&self, role: &str) -> ClientConfig {
        let mut config = self.client(role);
        config
            .set("group.id", &self.group_id)
            .set("group.protocol", "classic")
            .set("partition.assignment.strategy", "range")
            .set("session.timeout.ms", self.session_timeout_ms.to_string())
            .set("heartbeat.interval.ms", (self.session_timeout_ms / 4).min(3_000).to_string())
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "false")
            .set("isolation.level", "read_uncommitted")
            .set("fetch.message.max.bytes", self.fetch_bytes_max.to_string())
            .set("queued.max.messages.kbytes", (self.fetch_bytes_max / 1_024).max(64).to_string())
            .set("fetch.error.backoff.ms", "100")
            // An answer comes as soon as there is anything; this is how long the broker may hold one that has nothing.
            .set("fetch.wait.max.ms", "200")
            .set("fetch.queue.backoff.ms", "10")
            .set("topic.metadata.refresh.interval.ms", "10000")
            // While a partition's leader is being looked for, as at the start of every read on demand.
            .set("topic.metadata.refresh.fast.interval.ms", "20")
            .set("receive.message.max.bytes", (128 << 20).to_string());
        self.with_extra(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_one_that_librdkafka_knows() {
        let mut options = KafkaOptions::default();
        options.security.sasl_password = Some(Secret("hidden".to_owned()));
        options.check().unwrap();
        for config in [options.asking("t"), options.data_producer("t"), options.consumer("t")] {
            config.create_native_config().unwrap();
        }
        assert!(!format!("{options:?}").contains("hidden"));
    }

    #[test]
    fn what_the_log_rests_on_cannot_be_overridden() {
        let mut options = KafkaOptions::default();
        options.extra.insert("acks".to_owned(), "1".to_owned());
        assert!(options.check().unwrap_err().to_string().contains("acks"));
        options.extra.clear();
        options.extra.insert("socket.timeout.ms".to_owned(), "5000".to_owned());
        options.check().unwrap();
        assert_eq!(options.consumer("t").get("socket.timeout.ms"), Some("5000"));
    }

    #[test]
    fn values_out_of_range_are_named() {
        let options = KafkaOptions { room_partitions: 0, ..KafkaOptions::default() };
        assert!(options.check().unwrap_err().to_string().contains("room_partitions"));
        let options = KafkaOptions { topic_prefix: "a b".to_owned(), ..KafkaOptions::default() };
        assert!(options.check().unwrap_err().to_string().contains("topic_prefix"));
    }
}
