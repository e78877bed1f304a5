//! The embedded log does what every log must do: with its defaults, and with sizes so small that everything happens.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::sync::Arc;

use barrage_log::{EmbeddedLog, EmbeddedOptions, EventLog, Metrics};

/// An opener of a log in a new directory, which lives as long as the opener.
fn fresh(options: EmbeddedOptions) -> impl Fn() -> Arc<dyn EventLog> {
    let dir = tempfile::tempdir().unwrap();
    move || Arc::new(EmbeddedLog::open(dir.path(), &options, Metrics::default()).unwrap())
}

mod defaults {
    use super::*;

    barrage_log::conformance_tests!(fresh(EmbeddedOptions::default()));
}

/// Segments of a few records, pieces of one, hardly any memory: nearly every read is served from files.
mod tiny {
    use super::*;

    fn options() -> EmbeddedOptions {
        EmbeddedOptions {
            room_partitions: 2,
            user_partitions: 3,
            segment_bytes: 4_096,
            tail_bytes_max: 2_000,
            chunk_cache_bytes_max: 3_000,
            chunk_bytes: 256,
            zero_ahead: true,
            ..EmbeddedOptions::default()
        }
    }

    barrage_log::conformance_tests!(fresh(options()));
}

/// No memory for anything but what is pending.
mod uncached {
    use super::*;

    fn options() -> EmbeddedOptions {
        EmbeddedOptions {
            segment_bytes: 64 << 10,
            tail_bytes_max: 0,
            chunk_cache_bytes_max: 0,
            chunk_bytes: 4 << 10,
            ..EmbeddedOptions::default()
        }
    }

    barrage_log::conformance_tests!(fresh(options()));
}
