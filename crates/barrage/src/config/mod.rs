//! The configuration: what may be set, and whether it makes sense.
//!
//! Each section is the `Options` struct of the component that it concerns; this module only puts them together.
//! `load` reads file, environment and flags, `locate` finds the line of a key.

mod check;
mod load;
mod locate;
mod problem;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use barrage_event::rules::RuleSet;
use barrage_ingest::{IngestOptions, SpoolOptions};
use barrage_log::{EmbeddedOptions, KafkaOptions};
use barrage_query::{AdminOptions, OwnerOptions, QueryOptions};
use barrage_snapshot::{SnapshotError, SnapshotStore};
use barrage_state::StateOptions;
use barrage_worker::SnapshotOptions;
use serde::Deserialize;

use crate::cli::LogFormat;

pub use load::{Loaded, Sources, load};
pub use problem::{Origin, Problem, Problems};

/// Everything that an operator may set.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Directory of the log, the numbers and the API key. Default `data`, in the working directory.
    pub data_dir: PathBuf,
    /// Addresses.
    pub listen: ListenOptions,
    /// The embedded log.
    pub log: EmbeddedOptions,
    /// The log in Kafka, which is used instead of the embedded one when this section is there. The roles `ingest`,
    /// `project` and `query` always use it.
    pub kafka: Option<KafkaOptions>,
    /// Callbacks and business events.
    pub ingest: IngestOptions,
    /// What takes over callbacks while Kafka does not acknowledge.
    pub spool: SpoolOptions,
    /// The partition workers.
    pub worker: WorkerSection,
    /// Copies of the numbers, from which a partition begins that comes to an empty disk.
    pub snapshot: SnapshotSection,
    /// Reads.
    pub query: QueryOptions,
    /// Questions of other processes about the partitions of this one.
    pub grpc: OwnerOptions,
    /// Metrics and health.
    pub admin: AdminOptions,
    /// Log lines.
    pub diagnostics: DiagnosticsOptions,
    /// Rules, applied as an event at start when they differ from those in force. Absent: those in force stay.
    pub rules: Option<RuleSet>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("data"),
            listen: ListenOptions::default(),
            log: EmbeddedOptions::default(),
            kafka: None,
            ingest: IngestOptions::default(),
            spool: SpoolOptions::default(),
            worker: WorkerSection::default(),
            snapshot: SnapshotSection::default(),
            query: QueryOptions::default(),
            grpc: OwnerOptions::default(),
            admin: AdminOptions::default(),
            diagnostics: DiagnosticsOptions::default(),
            rules: None,
        }
    }
}

/// Addresses of the servers. Port 0 takes a free one; the banner and the ready file say which.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenOptions {
    /// Callbacks and business events. Default 127.0.0.1:8080.
    pub callback: SocketAddr,
    /// Reads and commands. Default 127.0.0.1:8081.
    pub query: SocketAddr,
    /// Questions of other processes, over gRPC. Default none on the embedded log, where there is nobody who asks, and
    /// 127.0.0.1:8082 on Kafka.
    pub grpc: Option<SocketAddr>,
    /// HOST:PORT at which other processes reach `grpc`. Default: its address, which does only where that is no wildcard.
    pub grpc_advertise: Option<String>,
    /// Metrics and health. Default 127.0.0.1:8083.
    pub admin: SocketAddr,
}

impl Default for ListenOptions {
    fn default() -> Self {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self { callback: local(8080), query: local(8081), grpc: None, grpc_advertise: None, admin: local(8083) }
    }
}

/// What may be set of the partition workers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerSection {
    /// Threads that apply records, 0 to 64; 0 takes one a core. Default 0. More than there are partitions are of no use.
    pub threads: usize,
    /// Longest time between two commits, in ms, 1 to 10,000. Default 100. Reads see committed numbers only, so this is
    /// how old they may be.
    pub commit_interval_ms: u64,
    /// Memory for rows in use of all partitions together, in bytes, 1 MiB to 1 TiB. Default 167,772,160 (160 MiB). A row
    /// in it is touched without a read of the store.
    pub overlay_bytes: usize,
    /// Memory for the stores' block cache and write buffers of all partitions together, in bytes, 8 MiB to 1 TiB.
    /// Default 201,326,592 (192 MiB).
    pub cache_bytes: usize,
    /// Whether commits go through the stores' write-ahead log. Default true: it costs a few percent and spares a restart
    /// the reading of the log's tail.
    pub wal: bool,
    /// Background threads that write the stores' files, 1 to 64. Default 2.
    pub background_threads: u8,
}

impl Default for WorkerSection {
    fn default() -> Self {
        let state = StateOptions::default();
        Self {
            threads: 0,
            commit_interval_ms: 100,
            overlay_bytes: 160 << 20,
            cache_bytes: state.memory_bytes,
            wal: state.wal,
            background_threads: 2,
        }
    }
}

impl WorkerSection {
    /// The stores' part of it.
    pub(crate) fn state_options(&self) -> StateOptions {
        StateOptions {
            memory_bytes: self.cache_bytes,
            wal: self.wal,
            background_threads: self.background_threads.into(),
        }
    }

    /// Everything that is out of range: key and what is wrong.
    pub(crate) fn problems(&self) -> Vec<(&'static str, String)> {
        const MIB: u64 = 1 << 20;
        let bytes = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        let ranges = [
            ("threads", bytes(self.threads), 0, 64),
            ("commit_interval_ms", self.commit_interval_ms, 1, 10_000),
            ("overlay_bytes", bytes(self.overlay_bytes), MIB, 1 << 40),
            ("cache_bytes", bytes(self.cache_bytes), 8 * MIB, 1 << 40),
            ("background_threads", self.background_threads.into(), 1, 64),
        ];
        ranges
            .into_iter()
            .filter(|(_, value, min, max)| !(min..=max).contains(&value))
            .map(|(key, value, min, max)| (key, format!("it must be {min} to {max}, not {value}")))
            .collect()
    }
}

/// What may be set of snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SnapshotSection {
    /// Where they are kept: a folder, or `s3://BUCKET/PREFIX` with the usual `AWS_…` variables. Unset by default: none
    /// are taken, and a partition that comes to an empty disk reads its log from the start.
    pub url: Option<String>,
    /// Time between two snapshots of a partition, in s, 1 to 604,800. Default 600.
    pub every_s: u64,
    /// Snapshots of a partition that are kept, 1 to 1,000. Default 3.
    pub keep: usize,
    /// A store that is this many records behind the log is replaced by a snapshot, if there is a later one, 0 to 10^12.
    /// Default 1,000,000.
    pub restore_lag_records: u64,
    /// Whether one more is taken when the process stops. Default false: stopping would wait for the upload.
    pub at_stop: bool,
    /// Time between two trims of the embedded log behind verified snapshots, in s, 0 to 604,800; 0 never. Default 0:
    /// the log is the truth, and what is given up is gone for good.
    pub trim_log_every_s: u64,
}

impl Default for SnapshotSection {
    fn default() -> Self {
        Self { url: None, every_s: 600, keep: 3, restore_lag_records: 100_000, at_stop: false, trim_log_every_s: 0 }
    }
}

impl SnapshotSection {
    /// Everything that is out of range: key and what is wrong.
    pub(crate) fn problems(&self) -> Vec<(&'static str, String)> {
        let keep = u64::try_from(self.keep).unwrap_or(u64::MAX);
        [
            ("every_s", self.every_s, 1, 604_800),
            ("keep", keep, 1, 1_000),
            ("restore_lag_records", self.restore_lag_records, 0, 1_000_000_000_000),
            ("trim_log_every_s", self.trim_log_every_s, 0, 604_800),
        ]
        .into_iter()
        .filter(|(_, value, min, max)| !(min..=max).contains(&value))
        .map(|(key, value, min, max)| (key, format!("it must be {min} to {max}, not {value}")))
        .collect()
    }

    /// The workers' part of it.
    pub(crate) fn options(&self) -> Result<Option<SnapshotOptions>, SnapshotError> {
        let Some(url) = &self.url else { return Ok(None) };
        let store = SnapshotStore::open(url, std::env::vars())?;
        Ok(Some(SnapshotOptions {
            every: Duration::from_secs(self.every_s),
            keep: self.keep,
            restore_lag: self.restore_lag_records,
            at_stop: self.at_stop,
            trim_every: (self.trim_log_every_s > 0).then(|| Duration::from_secs(self.trim_log_every_s)),
            ..SnapshotOptions::new(Arc::new(store))
        }))
    }
}

/// Log lines on standard error.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiagnosticsOptions {
    /// `text` for people or `json`, one object a line. Default `text`.
    pub format: LogFormat,
    /// Which lines, as in `info` or `barrage_ingest=debug,info`. Default `info`.
    pub filter: String,
}

impl Default for DiagnosticsOptions {
    fn default() -> Self {
        Self { format: LogFormat::default(), filter: "info".to_owned() }
    }
}
