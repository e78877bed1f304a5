//! What the spool tells.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// Metrics of the spool. Cheap to clone; clones count together.
#[derive(Debug, Clone, Default)]
pub struct SpoolMetrics {
    pub(crate) takeovers: Counter,
    pub(crate) records: Counter,
    pub(crate) bytes: Counter,
    pub(crate) drained: Counter,
    pub(crate) refused: Counter,
    pub(crate) partitions: Gauge,
    pub(crate) waiting_records: Gauge,
    pub(crate) waiting_bytes: Gauge,
    pub(crate) bytes_max: Gauge,
    pub(crate) since: Gauge,
    pub(crate) failed: Gauge,
    pub(crate) expired: Gauge,
}

impl SpoolMetrics {
    /// Registers the metrics of the one spool of a process.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let own = Self::default();
        let registry = registry.sub_registry_with_prefix("barrage_spool");
        registry.register("takeovers", "Times that the log did not acknowledge in time", own.takeovers.clone());
        registry.register("records", "Records written to the spool", own.records.clone());
        registry.register("bytes", "Bytes of records written to the spool", own.bytes.clone());
        registry.register("drained_records", "Spooled records that the log has acknowledged", own.drained.clone());
        registry.register("refused", "Appends refused because the spool's disk took no more", own.refused.clone());
        registry.register("partitions", "Partitions whose records go to the spool now", own.partitions.clone());
        registry.register(
            "waiting_records",
            "Spooled records that the log has not acknowledged yet",
            own.waiting_records.clone(),
        );
        registry.register_with_unit(
            "waiting",
            "The spool's size on the disk while records wait in it",
            Unit::Bytes,
            own.waiting_bytes.clone(),
        );
        // The unit is in the middle of this name, so it is not registered as one.
        registry.register("bytes_max", "Most bytes that may wait in the spool", own.bytes_max.clone());
        registry.register_with_unit(
            "active",
            "How long records have been waiting in the spool without a break, 0 when none do",
            Unit::Seconds,
            own.since.clone(),
        );
        registry.register("failed", "1 while the spool's disk takes nothing", own.failed.clone());
        registry.register(
            "expired_records",
            "Records that were found too old to be sent, moved aside",
            own.expired.clone(),
        );
        own
    }
}
