//! Stores to take snapshots of, and a server that speaks S3.

use std::fs;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use barrage_event::{Offset, Partition, Topic};
use barrage_log::{Ack, AppendBatch, AppendError, EventLog, Health, ReadError, Record, SnapshotBase, TrimError};
use barrage_projection::codec::row_hash;
use barrage_projection::{CommitSink as _, StateHash};
use barrage_snapshot::Wanted;
use barrage_state::proto::StatisticVersion;
use barrage_state::{Changes, Meta, StateEnv, StateOptions, Store};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

pub(crate) const LOG: u128 = 0xb0a7_0000_0000_0000_0000_0000_0000_0001;
pub(crate) const PARTITION: Partition = Partition::room(0);

pub(crate) fn env() -> StateEnv {
    StateEnv::new(StateOptions { memory_bytes: 16 << 20, ..StateOptions::default() })
}

fn statistics() -> &'static [StatisticVersion] {
    static STATISTICS: std::sync::OnceLock<Vec<StatisticVersion>> = std::sync::OnceLock::new();
    STATISTICS.get_or_init(|| vec![StatisticVersion { name: "counts".to_owned(), version: 7 }])
}

pub(crate) fn wanted(log: &Log) -> Wanted<'_> {
    Wanted { log, partition: PARTITION, format: 2, statistics: statistics(), above: 0 }
}

pub(crate) fn of_this_version() -> (u32, &'static [StatisticVersion]) {
    (2, statistics())
}

/// The id of the record at an offset, in one history of the log or another.
fn id(offset: u64, history: u64) -> [u8; 16] {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&offset.to_be_bytes());
    id[8..].copy_from_slice(&history.to_be_bytes());
    id
}

/// A log of one partition, of which only the ids of records are known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Log {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// From here on it holds the records of history 1, before that those of history 0.
    pub(crate) fork: u64,
}

impl Log {
    pub(crate) fn until(end: u64) -> Self {
        Self { start: 0, end, fork: u64::MAX }
    }
}

impl EventLog for Log {
    fn uuid(&self) -> u128 {
        LOG
    }

    fn partitions(&self, topic: Topic) -> u16 {
        u16::from(topic == PARTITION.topic)
    }

    fn append(&self, _: &mut AppendBatch) -> Result<Ack, AppendError> {
        Err(AppendError::Closed)
    }

    fn read(
        &self,
        partition: Partition,
        from: Offset,
        _: usize,
        visit: &mut dyn FnMut(Record<'_>) -> ControlFlow<()>,
    ) -> Result<Offset, ReadError> {
        if from.0 < self.start {
            return Err(ReadError::Trimmed { partition, from, start: Offset(self.start) });
        }
        let bytes = [[0x0a, 16].as_slice(), &id(from.0, u64::from(from.0 >= self.fork))].concat();
        let _ = visit(Record { offset: from, timestamp_ms: 0, bytes: &bytes });
        Ok(from.next())
    }

    fn start(&self, _: Partition) -> Offset {
        Offset(self.start)
    }

    fn end(&self, partition: Partition) -> Offset {
        Offset(if partition == PARTITION { self.end } else { 0 })
    }

    fn wait(&self, seen: u64, _: Duration) -> u64 {
        seen
    }

    fn health(&self) -> Health {
        Health::Ready
    }

    fn trim(&self, _: &SnapshotBase) -> Result<Vec<(Partition, Offset)>, TrimError> {
        Err(TrimError::NoSnapshot)
    }
}

/// A store that grows, with true hashes.
pub(crate) struct Maker {
    dir: PathBuf,
    store: Store,
    meta: Meta,
    checkpoints: u32,
    history: u64,
}

impl Maker {
    pub(crate) fn new(dir: &Path) -> Self {
        let store = Store::open(&env(), &dir.join("store")).expect("opens");
        let meta = Meta {
            log_uuid: LOG.to_be_bytes().to_vec(),
            format: 2,
            statistics: statistics().to_vec(),
            ..Meta::default()
        };
        Self { dir: dir.to_owned(), store, meta, checkpoints: 0, history: 0 }
    }

    /// As [`Maker::new`], of a log that went another way.
    pub(crate) fn of_history(dir: &Path, history: u64) -> Self {
        Self { history, ..Self::new(dir) }
    }

    fn add(&mut self, rows: u64, value: impl Fn(u64) -> Vec<u8>) {
        let mut changes = Changes::default();
        let (mut state, mut own) = (self.meta.state_hash_value(), self.meta.runtime_hash_value());
        for _ in 0..rows {
            let n = self.meta.next_offset;
            for (table, hash) in [(4_u8, &mut own), (20, &mut state)] {
                let mut row = vec![table];
                row.extend_from_slice(&n.to_be_bytes());
                let value = value(n);
                let whole = [row.as_slice(), value.as_slice()].concat();
                StateHash::change(hash, 0, row_hash(&whole, row.len()));
                changes.put(&row, &value);
            }
            self.meta.next_offset += 1;
        }
        self.meta.set_hashes(state, own);
        self.meta.last_record_id = id(self.meta.next_offset - 1, self.history).to_vec();
        self.store.commit(&mut changes, &self.meta).expect("commits");
    }

    pub(crate) fn commit(&mut self, rows: u64) {
        self.add(rows, |n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes().to_vec());
    }

    /// Rows of a mebibyte that do not compress.
    pub(crate) fn commit_large(&mut self, rows: u64) {
        self.add(rows, |n| {
            let mut state = n + 1;
            let words = (0..1 << 16).flat_map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                ((state >> 32) ^ state).to_be_bytes()
            });
            words.collect()
        });
    }

    /// Changes a row without its hash.
    pub(crate) fn lie(&mut self) {
        let mut changes = Changes::default();
        changes.put(&[20, 0, 0, 0, 0, 0, 0, 0, 3], b"other");
        self.store.commit(&mut changes, &self.meta).expect("commits");
    }

    pub(crate) fn checkpoint(&mut self) -> PathBuf {
        self.checkpoints += 1;
        let dir = self.dir.join(format!("checkpoint-{}", self.checkpoints));
        self.store.checkpoint(&dir).expect("written");
        dir
    }
}

/// A server that speaks S3 over TCP, with one bucket, in this process; it ends with the test.
///
/// Signatures are checked. It keeps its objects in a folder.
pub(crate) struct S3 {
    /// `None` when it has gone.
    runtime: Option<Runtime>,
    address: SocketAddr,
    _folder: TempDir,
}

impl Drop for S3 {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A task has no business here: a test may end within a runtime of its own.
            runtime.shutdown_background();
        }
    }
}

impl S3 {
    const KEY: &'static str = "key";
    const SECRET: &'static str = "secret";

    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        fs::create_dir(folder.path().join("barrage")).expect("a bucket is a folder");
        let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder.path()).expect("a folder"));
        service.set_auth(SimpleAuth::from_single(Self::KEY, Self::SECRET));
        let service = service.build();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("threads");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("bound");
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let served = http1::Builder::new().serve_connection(TokioIo::new(socket), service.clone());
                // A client that hangs up is no concern of the server's.
                tokio::spawn(async move { drop(served.await) });
            }
        });
        Self { runtime: Some(runtime), address, _folder: folder }
    }

    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        self.settings_with(Self::KEY, Self::SECRET)
    }

    pub(crate) fn settings_with(&self, key: &str, secret: &str) -> Vec<(String, String)> {
        let settings = [
            ("AWS_ENDPOINT", format!("http://{}", self.address)),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", key.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", secret.to_owned()),
            ("PATH", "not ours".to_owned()),
        ];
        settings.map(|(name, value)| (name.to_owned(), value)).to_vec()
    }
}
