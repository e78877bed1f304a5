//! Stores to take snapshots of, and a server that speaks S3.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use barrage_event::{Offset, Partition, Topic};
use barrage_log::{Ack, AppendBatch, AppendError, EventLog, Health, ReadError, Record, SnapshotBase, TrimError};
use barrage_projection::codec::row_hash;
use barrage_projection::{CommitSink as _, StateHash};
use barrage_snapshot::Wanted;
use barrage_state::proto::StatisticVersion;
use barrage_state::{Changes, Meta, StateEnv, StateOptions, Store};

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

/// A server that speaks S3, with one bucket; ends with the test.
pub(crate) struct S3 {
    server: Child,
    address: String,
}

impl Drop for S3 {
    fn drop(&mut self) {
        // Both fail when it has ended, which is what is wanted.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl S3 {
    /// `None` when none is installed.
    pub(crate) fn start() -> Option<Self> {
        let works = Command::new("moto_server").arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !works.is_ok_and(|status| status.success()) {
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let address = format!("127.0.0.1:{port}");
        // A child of the shell that finds it would outlive a kill; Python itself is what is started.
        let server = Command::new("python3")
            .args(["-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut this = Self { server, address };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !this.make_bucket() {
            assert!(Instant::now() < deadline, "the server answers");
            if this.server.try_wait().expect("a child").is_some() {
                return None;
            }
            std::thread::yield_now();
        }
        Some(this)
    }

    fn make_bucket(&self) -> bool {
        let request = format!(
            "PUT /barrage HTTP/1.1\r\nhost: {}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            self.address
        );
        let mut answer = String::new();
        let asked = TcpStream::connect(&self.address)
            .and_then(|mut stream| stream.write_all(request.as_bytes()).map(|()| stream))
            .and_then(|mut stream| stream.read_to_string(&mut answer));
        asked.is_ok() && answer.starts_with("HTTP/1.1 200")
    }

    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        let settings = [
            ("AWS_ENDPOINT", format!("http://{}", self.address)),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "key".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
            ("PATH", "not ours".to_owned()),
        ];
        settings.map(|(name, value)| (name.to_owned(), value)).to_vec()
    }
}
