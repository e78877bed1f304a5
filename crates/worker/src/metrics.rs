//! Metrics of the partition loop, as Prometheus names them. Labels are topic and partition.

use barrage_event::Partition;
use barrage_state::Meta;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::snapshot_metrics::SnapshotMetrics;

/// Labels of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct PartitionLabels {
    topic: &'static str,
    partition: u16,
}

impl From<Partition> for PartitionLabels {
    fn from(partition: Partition) -> Self {
        Self { topic: partition.topic.short(), partition: partition.index }
    }
}

type PerPartition<M> = Family<PartitionLabels, M>;

/// All metrics of the worker. Conservation: read = applied + duplicate + resent + `dead_lettered`.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub(crate) read: PerPartition<Counter>,
    pub(crate) applied: PerPartition<Counter>,
    pub(crate) duplicates: PerPartition<Counter>,
    pub(crate) resent: PerPartition<Counter>,
    pub(crate) dead_lettered: PerPartition<Counter>,
    pub(crate) sequence_gaps: PerPartition<Counter>,
    pub(crate) lag: PerPartition<Gauge>,
    pub(crate) stream_time: PerPartition<Gauge<f64, std::sync::atomic::AtomicU64>>,
    pub(crate) overlay_bytes: PerPartition<Gauge>,
    pub(crate) stopped: PerPartition<Gauge>,
    pub(crate) outgoing: PerPartition<Gauge>,
    pub(crate) commit_seconds: Histogram,
    pub(crate) commit_rows: Counter,
    pub(crate) derived_sent: Counter,
    pub(crate) intents_published: Counter,
    pub(crate) snapshots: SnapshotMetrics,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let buckets = [0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024];
        let metrics = Self {
            read: Family::default(),
            applied: Family::default(),
            duplicates: Family::default(),
            resent: Family::default(),
            dead_lettered: Family::default(),
            sequence_gaps: Family::default(),
            lag: Family::default(),
            stream_time: Family::default(),
            overlay_bytes: Family::default(),
            stopped: Family::default(),
            outgoing: Family::default(),
            commit_seconds: Histogram::new(buckets),
            commit_rows: Counter::default(),
            derived_sent: Counter::default(),
            intents_published: Counter::default(),
            snapshots: SnapshotMetrics::register(registry),
        };
        let r = registry;
        let m = metrics.clone();
        r.register("barrage_worker_records_read", "Records read from the log since start", m.read);
        r.register("barrage_worker_records_applied", "Records applied by every projection", m.applied);
        r.register("barrage_worker_records_duplicate", "Records dropped as duplicates of IM", m.duplicates);
        r.register("barrage_worker_records_resent", "Records that ingest appended twice", m.resent);
        r.register("barrage_worker_records_dead_lettered", "Records that could not be applied", m.dead_lettered);
        r.register("barrage_worker_sequence_gaps", "Sequences of ingest that are missing in the log", m.sequence_gaps);
        r.register("barrage_worker_lag_records", "Durable records not committed to the state yet", m.lag);
        r.register_with_unit(
            "barrage_worker_stream_time_timestamp",
            "Stream time of the committed state",
            Unit::Seconds,
            m.stream_time,
        );
        r.register_with_unit("barrage_worker_overlay", "Rows in memory", Unit::Bytes, m.overlay_bytes);
        r.register("barrage_worker_partition_stopped", "1 when the partition has stopped", m.stopped);
        r.register(
            "barrage_worker_outgoing_rows",
            "Derived events and notifications that are not acknowledged yet",
            m.outgoing,
        );
        r.register_with_unit("barrage_state_commit_duration", "Time of a commit", Unit::Seconds, m.commit_seconds);
        r.register("barrage_worker_derived_sent", "Derived events appended for rooms", m.derived_sent);
        r.register("barrage_worker_notifications_published", "Notifications published", m.intents_published);
        r.register("barrage_state_commits_records", "Records committed", m.commit_rows);
        metrics
    }

    /// Makes every label value appear with 0, so that the first failure is seen by a rate.
    pub(crate) fn start(&self, partition: Partition) {
        let labels = PartitionLabels::from(partition);
        for family in
            [&self.read, &self.applied, &self.duplicates, &self.resent, &self.dead_lettered, &self.sequence_gaps]
        {
            let _ = family.get_or_create(&labels);
        }
        self.lag.get_or_create(&labels).set(0);
        self.stopped.get_or_create(&labels).set(0);
        self.outgoing.get_or_create(&labels).set(0);
    }

    /// Takes away what a partition shows of the moment: another process shows it now. Counters stay, because one that
    /// goes away and comes back looks like a restart.
    pub(crate) fn forget(&self, labels: &PartitionLabels) {
        self.lag.remove(labels);
        self.stream_time.remove(labels);
        self.overlay_bytes.remove(labels);
        self.stopped.remove(labels);
        self.outgoing.remove(labels);
        self.snapshots.last.remove(labels);
    }

    /// Shows what a partition has on its way out.
    pub(crate) fn show_outgoing(&self, labels: &PartitionLabels, rows: u64) {
        self.outgoing.get_or_create(labels).set(i64::try_from(rows).unwrap_or(i64::MAX));
    }

    /// Counts what lies between two commits.
    pub(crate) fn count(&self, partition: Partition, before: &Meta, after: &Meta) {
        let labels = PartitionLabels::from(partition);
        let read = after.next_offset - before.next_offset;
        self.commit_rows.inc_by(read);
        self.read.get_or_create(&labels).inc_by(read);
        self.applied.get_or_create(&labels).inc_by(after.applied - before.applied);
        self.duplicates.get_or_create(&labels).inc_by(after.duplicates - before.duplicates);
        self.resent.get_or_create(&labels).inc_by(after.resent - before.resent);
        self.dead_lettered.get_or_create(&labels).inc_by(after.dead_lettered - before.dead_lettered);
        self.sequence_gaps.get_or_create(&labels).inc_by(after.sequence_gaps - before.sequence_gaps);
        if after.dead_lettered > before.dead_lettered {
            tracing::warn!(
                %partition,
                records = after.dead_lettered - before.dead_lettered,
                "records could not be applied; `barrage dead-letters` lists them"
            );
        }
    }

    /// Shows what an open partition is now.
    pub(crate) fn show(&self, labels: &PartitionLabels, committed: &Meta, overlay_bytes: usize) {
        #[allow(clippy::cast_precision_loss, reason = "a gauge of seconds: microseconds do not matter")]
        self.stream_time.get_or_create(labels).set(committed.stream_time as f64 / 1_000.0);
        self.overlay_bytes.get_or_create(labels).set(i64::try_from(overlay_bytes).unwrap_or(i64::MAX));
    }
}
