//! What an operator may set on the spool, section `[spool]` of the configuration file.

use std::time::Duration;

/// Options of the spool. Times are in ms, sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpoolOptions {
    /// How long the log may take to acknowledge before the spool takes over, 10 to 1,500. Default 500. What the spool
    /// then needs for its own disk must fit into `ingest.append_budget_ms`.
    pub takeover_ms: u64,
    /// Most bytes that wait on the disk, 1 MiB to 1 PiB. Default 68,719,476,736 (64 GiB): about 100 million records.
    /// When they are used up, or the disk is full before, callbacks are refused.
    pub bytes_max: u64,
    /// Size of a file of the spool, 1 MiB to 1 GiB. Default 67,108,864 (64 MiB). Two are reserved from the start, so
    /// that a disk that is full already shows before the spool is needed.
    pub segment_bytes: u64,
    /// Most bytes that were handed to the log and are not acknowledged while the spool drains, 64 KiB to 1 GiB; the
    /// partitions in the spool share them equally. Default 8,388,608 (8 MiB).
    pub drain_bytes_max: usize,
}

impl Default for SpoolOptions {
    fn default() -> Self {
        Self { takeover_ms: 500, bytes_max: 64 << 30, segment_bytes: 64 << 20, drain_bytes_max: 8 << 20 }
    }
}

impl SpoolOptions {
    /// Everything that is out of range: key and what is wrong.
    #[must_use]
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let drain_bytes_max = u64::try_from(self.drain_bytes_max).unwrap_or(u64::MAX);
        [
            ("takeover_ms", self.takeover_ms, 10, 1_500),
            ("bytes_max", self.bytes_max, 1 << 20, 1 << 50),
            ("segment_bytes", self.segment_bytes, 1 << 20, 1 << 30),
            ("drain_bytes_max", drain_bytes_max, 64 << 10, 1 << 30),
        ]
        .into_iter()
        .filter(|(_, value, min, max)| !(min..=max).contains(&value))
        .map(|(key, value, min, max)| (key, format!("it must be {min} to {max}, not {value}")))
        .collect()
    }

    pub(crate) fn takeover(&self) -> Duration {
        Duration::from_millis(self.takeover_ms)
    }
}
