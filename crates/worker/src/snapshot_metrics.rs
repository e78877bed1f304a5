//! Metrics of snapshots.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use barrage_event::Partition;
use barrage_snapshot::Saved;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::metrics::PartitionLabels;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ActionLabels {
    action: &'static str,
}

#[derive(Debug, Clone)]
pub(crate) struct SnapshotMetrics {
    /// Seconds since the epoch; its age is what to alarm on.
    pub(crate) last: Family<PartitionLabels, Gauge<f64, AtomicU64>>,
    sent: Counter,
    reused: Counter,
    seconds: Histogram,
    restored: Counter,
    failures: Family<ActionLabels, Counter>,
}

impl SnapshotMetrics {
    pub(crate) fn register(r: &mut Registry) -> Self {
        let buckets = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0];
        let m = Self {
            last: Family::default(),
            sent: Counter::default(),
            reused: Counter::default(),
            seconds: Histogram::new(buckets),
            restored: Counter::default(),
            failures: Family::default(),
        };
        for action in ["look", "take", "expire", "restore", "trim"] {
            let _ = m.failures.get_or_create(&ActionLabels { action });
        }
        let this = m.clone();
        r.register_with_unit("barrage_snapshot_last_timestamp", "When the newest one was made", Unit::Seconds, m.last);
        r.register_with_unit("barrage_snapshot_sent", "Sent to the object store", Unit::Bytes, m.sent);
        r.register_with_unit("barrage_snapshot_reused", "There already and not sent again", Unit::Bytes, m.reused);
        r.register_with_unit("barrage_snapshot_duration", "Time to take one", Unit::Seconds, m.seconds);
        r.register("barrage_snapshot_restores", "Partitions that were begun from a snapshot", m.restored);
        r.register("barrage_snapshot_failures", "What failed; partitions go on without", m.failures);
        this
    }

    pub(crate) fn taken(&self, partition: Partition, created_at_ms: i64) {
        #[allow(clippy::cast_precision_loss, reason = "a gauge of seconds: microseconds do not matter")]
        self.last.get_or_create(&partition.into()).set(created_at_ms as f64 / 1_000.0);
    }

    pub(crate) fn saved(&self, partition: Partition, saved: &Saved, time: Duration) {
        self.taken(partition, saved.manifest.created_at_ms);
        self.sent.inc_by(saved.bytes_sent);
        self.reused.inc_by(saved.bytes_reused);
        self.seconds.observe(time.as_secs_f64());
    }

    pub(crate) fn restored(&self) {
        self.restored.inc();
    }

    pub(crate) fn failed(&self, action: &'static str) {
        self.failures.get_or_create(&ActionLabels { action }).inc();
    }
}
