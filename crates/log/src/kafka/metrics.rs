//! Every metric of the log in Kafka.
//!
//! | name | kind | counts |
//! | --- | --- | --- |
//! | `barrage_log_append_records_total` | counter | records that became durable |
//! | `barrage_log_append_bytes_total` | counter | bytes of them |
//! | `barrage_log_append_refused_total` | counter | appends refused because too much was waiting |
//! | `barrage_log_pending_bytes` | gauge | appended, not yet acknowledged |
//! | `barrage_log_ack_duration_seconds` | histogram | from append to acknowledgement |
//! | `barrage_log_producer_replaced_total` | counter | new producers that sent everything unacknowledged again |
//! | `barrage_log_delivery_errors_total` | counter | records that Kafka refused; each is sent again |
//! | `barrage_log_blocked_partitions` | gauge | partitions whose first record Kafka refuses |
//! | `barrage_log_feed_records_total` | counter | records fetched as a member of the group |
//! | `barrage_log_side_records_total` | counter | records fetched on demand |
//! | `barrage_log_stale_records_total` | counter | records fetched twice and dropped |
//! | `barrage_log_feed_bytes` | gauge | fetched, not yet read |
//! | `barrage_log_rebalances_total` | counter | assignments and revocations |
//! | `barrage_log_assigned_partitions` | gauge | partitions of this member of the group |
//! | `barrage_log_standstills_total` | counter | consumers that got nothing any more and were replaced |
//! | `barrage_log_unreachable` | gauge | 1 while the cluster does not answer |
//! | `barrage_log_problem` | gauge | 1 while the topics are not as they must be |
//! | `barrage_log_clock_ahead_seconds` | gauge | our clock minus the last acknowledging broker's, 0 while they agree |

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// The metrics of one log in Kafka. Cheap to clone; clones count together.
#[derive(Debug, Clone)]
pub struct KafkaMetrics {
    pub(crate) append_records: Counter,
    pub(crate) append_bytes: Counter,
    pub(crate) append_refused: Counter,
    pub(crate) pending_bytes: Gauge,
    pub(crate) ack_duration: Histogram,
    pub(crate) producer_replaced: Counter,
    pub(crate) delivery_errors: Counter,
    pub(crate) blocked_partitions: Gauge,
    pub(crate) feed_records: Counter,
    pub(crate) side_records: Counter,
    pub(crate) stale_records: Counter,
    pub(crate) feed_bytes: Gauge,
    pub(crate) rebalances: Counter,
    pub(crate) assigned_partitions: Gauge,
    pub(crate) standstills: Counter,
    pub(crate) unreachable: Gauge,
    pub(crate) problem: Gauge,
    pub(crate) clock_ahead: Gauge<f64, AtomicU64>,
}

impl Default for KafkaMetrics {
    fn default() -> Self {
        Self {
            append_records: Counter::default(),
            append_bytes: Counter::default(),
            append_refused: Counter::default(),
            pending_bytes: Gauge::default(),
            // 1 ms to 33 s: a healthy cluster answers within a few, one that changes its leaders within seconds.
            ack_duration: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
            producer_replaced: Counter::default(),
            delivery_errors: Counter::default(),
            blocked_partitions: Gauge::default(),
            feed_records: Counter::default(),
            side_records: Counter::default(),
            stale_records: Counter::default(),
            feed_bytes: Gauge::default(),
            rebalances: Counter::default(),
            assigned_partitions: Gauge::default(),
            standstills: Counter::default(),
            unreachable: Gauge::default(),
            problem: Gauge::default(),
            clock_ahead: Gauge::default(),
        }
    }
}

impl KafkaMetrics {
    /// Makes the metrics and enters them into `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let log = registry.sub_registry_with_prefix("barrage_log");
        log.register("append_records", "Records that became durable", metrics.append_records.clone());
        log.register_with_unit("append", "Became durable", Unit::Bytes, metrics.append_bytes.clone());
        log.register("append_refused", "Appends refused because too much was waiting", metrics.append_refused.clone());
        log.register_with_unit("pending", "Appended, not yet acknowledged", Unit::Bytes, metrics.pending_bytes.clone());
        log.register_with_unit(
            "ack_duration",
            "Time from append to acknowledgement",
            Unit::Seconds,
            metrics.ack_duration.clone(),
        );
        log.register(
            "producer_replaced",
            "New producers that sent everything unacknowledged again",
            metrics.producer_replaced.clone(),
        );
        log.register(
            "delivery_errors",
            "Records that Kafka refused; each is sent again",
            metrics.delivery_errors.clone(),
        );
        log.register(
            "blocked_partitions",
            "Partitions whose first record Kafka refuses",
            metrics.blocked_partitions.clone(),
        );
        log.register("feed_records", "Records fetched as a member of the group", metrics.feed_records.clone());
        log.register("side_records", "Records fetched on demand", metrics.side_records.clone());
        log.register("stale_records", "Records fetched twice and dropped", metrics.stale_records.clone());
        log.register_with_unit("feed", "Fetched, not yet read", Unit::Bytes, metrics.feed_bytes.clone());
        log.register("rebalances", "Assignments and revocations", metrics.rebalances.clone());
        log.register(
            "assigned_partitions",
            "Partitions of this member of the group",
            metrics.assigned_partitions.clone(),
        );
        log.register(
            "standstills",
            "Consumers that got nothing any more and were replaced",
            metrics.standstills.clone(),
        );
        log.register("unreachable", "1 while the cluster does not answer", metrics.unreachable.clone());
        log.register("problem", "1 while the topics are not as they must be", metrics.problem.clone());
        log.register_with_unit(
            "clock_ahead",
            "Our clock minus the log's, 0 while they agree: that of the broker that acknowledged last; embedded, a step of ours, \
             or less than 0 while it is behind the newest record",
            Unit::Seconds,
            metrics.clock_ahead.clone(),
        );
        metrics
    }
}
