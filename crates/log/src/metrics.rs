//! Every metric of this crate.
//!
//! | name | kind | counts |
//! | --- | --- | --- |
//! | `barrage_log_fsync_duration_seconds` | histogram | one `fdatasync` of a group |
//! | `barrage_log_write_duration_seconds` | histogram | one `write` of a group, into the page cache |
//! | `barrage_log_group_frames` | histogram | appends that became durable together |
//! | `barrage_log_group_bytes` | histogram | bytes written together |
//! | `barrage_log_append_bytes_total` | counter | bytes written, with the frames' own |
//! | `barrage_log_append_records_total` | counter | records that became durable |
//! | `barrage_log_append_frames_total` | counter | appends that became durable |
//! | `barrage_log_append_refused_total` | counter | appends refused because too much was waiting |
//! | `barrage_log_pending_bytes` | gauge | appended, not yet durable |
//! | `barrage_log_clock_ahead_seconds` | gauge | a step of our clock, less than 0 while it is behind the newest record |
//! | `barrage_log_segments` | gauge | segment files |
//! | `barrage_log_failed` | gauge | 1 when the log takes nothing more after an error |
//! | `barrage_log_tail_reads_total` | counter | reads served from the newest groups in memory |
//! | `barrage_log_chunk_hits_total` | counter | reads served from a piece of a file in memory |
//! | `barrage_log_chunk_loads_total` | counter | pieces read from files |

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// The metrics of one log. Cheap to clone; clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub(crate) fsync_duration: Histogram,
    pub(crate) write_duration: Histogram,
    pub(crate) group_frames: Histogram,
    pub(crate) group_bytes: Histogram,
    pub(crate) append_bytes: Counter,
    pub(crate) append_records: Counter,
    pub(crate) append_frames: Counter,
    pub(crate) append_refused: Counter,
    pub(crate) pending_bytes: Gauge,
    pub(crate) clock_ahead: Gauge<f64, AtomicU64>,
    pub(crate) segments: Gauge,
    pub(crate) failed: Gauge,
    pub(crate) tail_reads: Counter,
    pub(crate) chunk_hits: Counter,
    pub(crate) chunk_loads: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        // 100 µs to 1.6 s: a good SSD answers within one, a saturated disk within a second.
        let seconds = || Histogram::new(exponential_buckets(0.000_1, 2.0, 15));
        Self {
            fsync_duration: seconds(),
            write_duration: seconds(),
            group_frames: Histogram::new(exponential_buckets(1.0, 2.0, 14)),
            group_bytes: Histogram::new(exponential_buckets(1_024.0, 4.0, 9)),
            append_bytes: Counter::default(),
            append_records: Counter::default(),
            append_frames: Counter::default(),
            append_refused: Counter::default(),
            pending_bytes: Gauge::default(),
            clock_ahead: Gauge::default(),
            segments: Gauge::default(),
            failed: Gauge::default(),
            tail_reads: Counter::default(),
            chunk_hits: Counter::default(),
            chunk_loads: Counter::default(),
        }
    }
}

impl Metrics {
    /// Makes the metrics and enters them into `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let log = registry.sub_registry_with_prefix("barrage_log");
        log.register_with_unit(
            "fsync_duration",
            "Time one fdatasync of a group took",
            Unit::Seconds,
            metrics.fsync_duration.clone(),
        );
        log.register_with_unit(
            "write_duration",
            "Time one write of a group into the page cache took",
            Unit::Seconds,
            metrics.write_duration.clone(),
        );
        log.register("group_frames", "Appends that became durable together", metrics.group_frames.clone());
        log.register_with_unit("group", "Size of what was written together", Unit::Bytes, metrics.group_bytes.clone());
        log.register_with_unit("append", "Written, with the frames' own", Unit::Bytes, metrics.append_bytes.clone());
        log.register("append_records", "Records that became durable", metrics.append_records.clone());
        log.register("append_frames", "Appends that became durable", metrics.append_frames.clone());
        log.register("append_refused", "Appends refused because too much was waiting", metrics.append_refused.clone());
        log.register_with_unit("pending", "Appended, not yet durable", Unit::Bytes, metrics.pending_bytes.clone());
        log.register_with_unit(
            "clock_ahead",
            "Our clock minus the log's, 0 while they agree: that of the broker that acknowledged last; embedded, a step of ours, \
             or less than 0 while it is behind the newest record",
            Unit::Seconds,
            metrics.clock_ahead.clone(),
        );
        log.register("segments", "Segment files", metrics.segments.clone());
        log.register("failed", "1 when the log takes nothing more after an error", metrics.failed.clone());
        log.register("tail_reads", "Reads served from the newest groups in memory", metrics.tail_reads.clone());
        log.register("chunk_hits", "Reads served from a piece of a file in memory", metrics.chunk_hits.clone());
        log.register("chunk_loads", "Pieces read from files", metrics.chunk_loads.clone());
        metrics
    }
}
