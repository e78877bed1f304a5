//! A real listener on a real log in a temporary directory, a client that sends any bytes, and a log with faults.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests: a failure is a failed test")]

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use barrage_event::{EnvelopeView, Offset, Partition, Topic};
use barrage_ingest::{Appender, Clock, IngestError, IngestOptions, Metrics, RulesHandle, Secret, serve_with_clock};
use barrage_log::{
    Ack, AppendBatch, AppendError, Completer, EmbeddedLog, EmbeddedOptions, EventLog, Health, Positions, ReadError,
    Record, SnapshotBase, TrimError,
};
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) const TOKEN: &str = "xxxxyyyy";
pub(crate) const KEY: &str = "key-of-the-tests-0001";
/// The time of the documented signature vector.
pub(crate) const NOW_MS: i64 = 1_669_872_112_000;
pub(crate) const SIGN: &str = "17773bc39a671d7b9aa835458704d2a6db81360a5940292b587d6d760d484061";
pub(crate) const REQUEST_TIME: &str = "1669872112";
pub(crate) const APP: u32 = 1_400_000_000;

/// Longest that a test waits for anything: a hang is a failure, not a matter of speed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A clock that stands where it was set.
#[derive(Debug)]
pub(crate) struct FixedClock(pub(crate) AtomicI64);

impl FixedClock {
    pub(crate) fn new(now_ms: i64) -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(now_ms)))
    }

    pub(crate) fn set(&self, now_ms: i64) {
        self.0.store(now_ms, Ordering::SeqCst);
    }
}

impl Clock for FixedClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// What the tests start from: small limits, every other time as long as it takes.
pub(crate) fn options() -> IngestOptions {
    IngestOptions { api_keys: vec![Secret::new(KEY)], stop_deadline_ms: 60_000, ..IngestOptions::default() }
}

pub(crate) fn open_log(dir: &Path) -> Arc<dyn EventLog> {
    let options = EmbeddedOptions { segment_bytes: 4 << 20, ..EmbeddedOptions::default() };
    Arc::new(EmbeddedLog::open(&dir.join("log"), &options, barrage_log::Metrics::default()).unwrap())
}

/// A running server.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) appender: Arc<Appender>,
    pub(crate) rules: RulesHandle,
    pub(crate) clock: Arc<FixedClock>,
    registry: Registry,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), IngestError>>,
    _dir: Option<tempfile::TempDir>,
}

impl Server {
    /// On an embedded log of its own.
    pub(crate) async fn start(options: IngestOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = open_log(dir.path());
        let mut server = Self::on(log, options).await;
        server._dir = Some(dir);
        server
    }

    pub(crate) async fn on(log: Arc<dyn EventLog>, options: IngestOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let appender = Arc::new(Appender::new(Arc::clone(&log), 7));
        let rules = RulesHandle::default();
        let clock = FixedClock::new(NOW_MS);
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(serve_with_clock(
            listener,
            options,
            Arc::clone(&appender),
            rules.clone(),
            metrics,
            Arc::clone(&clock) as Arc<dyn Clock>,
            async {
                let _ = stopped.await;
            },
        ));
        Self { addr, log, appender, rules, clock, registry, stop: Some(stop), task, _dir: None }
    }

    pub(crate) async fn connect(&self) -> Client {
        Client::new(TcpStream::connect(self.addr).await.unwrap())
    }

    /// One request on a connection of its own.
    pub(crate) async fn send(&self, request: &[u8]) -> Reply {
        let mut client = self.connect().await;
        client.write(request).await;
        client.reply().await.expect("an answer")
    }

    /// Every record of the log, in the order of partitions.
    pub(crate) fn records(&self) -> Vec<(Partition, Vec<u8>)> {
        let mut records = Vec::new();
        for partition in self.log.all_partitions() {
            let mut from = Offset(0);
            while from < self.log.end(partition) {
                let visit = &mut |record: Record<'_>| {
                    records.push((partition, record.bytes.to_vec()));
                    ControlFlow::Continue(())
                };
                from = self.log.read(partition, from, 1 << 20, visit).unwrap();
            }
        }
        records
    }

    /// The value of every line of the metrics, by name and labels.
    pub(crate) fn metrics(&self) -> BTreeMap<String, f64> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| line.rsplit_once(' ')).map(|(k, v)| (k.to_owned(), v.parse().unwrap())).collect()
    }

    pub(crate) fn metric(&self, name: &str) -> f64 {
        *self.metrics().get(name).unwrap_or_else(|| panic!("no metric {name}"))
    }

    /// Sum of a metric over its labels.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        let labelled = format!("{name}{{");
        self.metrics().iter().filter(|(key, _)| key.starts_with(&labelled)).map(|(_, value)| value).sum()
    }

    /// The conservation laws, exactly.
    pub(crate) fn check_conservation(&self) {
        for flow in ["barrage_ingest_", "barrage_ingest_events_"] {
            let received = self.metric(&format!("{flow}received_total"));
            let appended = self.metric(&format!("{flow}appended_total"));
            let rejected = self.sum(&format!("{flow}rejected_total"));
            assert_eq!(received, appended + rejected, "{flow}");
        }
        assert_eq!(self.metric("barrage_ingest_in_flight_requests"), 0.0);
        assert_eq!(self.metric("barrage_ingest_in_flight_bytes"), 0.0);
    }

    pub(crate) fn begin_stop(&mut self) {
        let _ = self.stop.take().expect("stopped once").send(());
    }

    /// Stops, and waits until the server has returned.
    pub(crate) async fn stop(&mut self) {
        if self.stop.is_some() {
            self.begin_stop();
        }
        tokio::time::timeout(PATIENCE, &mut self.task).await.expect("the server hangs").unwrap().unwrap();
    }
}

/// The envelopes of records, for tests that look into them.
pub(crate) fn views(records: &[(Partition, Vec<u8>)]) -> Vec<EnvelopeView<'_>> {
    records.iter().map(|(_, bytes)| EnvelopeView::decode(bytes).unwrap()).collect()
}

/// A connection that sends whatever it is told.
pub(crate) struct Client {
    read: OwnedReadHalf,
    pub(crate) write: OwnedWriteHalf,
    /// What was read beyond the last answer.
    rest: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }
}

impl Client {
    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        let (read, write) = stream.into_split();
        Self { read, write, rest: Vec::new() }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.write.write_all(bytes).await.unwrap();
    }

    /// The next answer; `None` when the connection is closed before one.
    pub(crate) async fn reply(&mut self) -> Option<Reply> {
        tokio::time::timeout(PATIENCE, self.next_reply()).await.expect("no answer")
    }

    async fn next_reply(&mut self) -> Option<Reply> {
        loop {
            if let Some(head) = self.rest.windows(4).position(|window| window == b"\r\n\r\n") {
                let text = std::str::from_utf8(&self.rest[..head]).unwrap();
                let mut lines = text.split("\r\n");
                let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
                let headers: BTreeMap<_, _> = lines
                    .filter_map(|line| line.split_once(": "))
                    .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
                    .collect();
                let length = headers.get("content-length").map_or(0, |text| text.parse().unwrap());
                let body = head + 4..head + 4 + length;
                if let Some(bytes) = self.rest.get(body.clone()) {
                    let body = String::from_utf8(bytes.to_vec()).unwrap();
                    self.rest.drain(..head + 4 + length);
                    return Some(Reply { status, headers, body });
                }
            }
            let mut buf = [0; 4 << 10];
            match self.read.read(&mut buf).await {
                Ok(0) => return None,
                Ok(read) => self.rest.extend_from_slice(&buf[..read]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// A callback as IM sends it, signed for [`NOW_MS`] with [`TOKEN`].
pub(crate) fn callback(body: &str) -> Vec<u8> {
    let after = body.split_once("\"CallbackCommand\":\"").expect("a body with a command").1;
    let command = after.split_once('"').expect("a whole string").0;
    post(&format!("/callback?{}", query(command)), "", body.as_bytes())
}

pub(crate) fn query(command: &str) -> String {
    format!(
        "SdkAppid={APP}&CallbackCommand={command}&contenttype=json&OptPlatform=iOS&Sign={SIGN}&RequestTime={REQUEST_TIME}"
    )
}

/// A request; `headers` are whole lines.
pub(crate) fn post(target: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut request =
        format!("POST {target} HTTP/1.1\r\nHost: t\r\n{headers}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
    request.extend_from_slice(body);
    request
}

pub(crate) fn after_send(room: &str, user: &str, text: &str) -> String {
    format!(
        "{{\"CallbackCommand\":\"Group.CallbackAfterSendMsg\",\"GroupId\":\"{room}\",\"Type\":\"AVChatRoom\",\
         \"From_Account\":\"{user}\",\"Operator_Account\":\"{user}\",\"Random\":7,\"MsgId\":\"1-2-3\",\"MsgSeq\":1,\
         \"MsgTime\":1669872112,\"MsgBody\":[{{\"MsgType\":\"TIMTextElem\",\"MsgContent\":{{\"Text\":\"{text}\"}}}}],\
         \"EventTime\":{NOW_MS}}}"
    )
}

pub(crate) fn before_send(room: &str, user: &str, text: &str) -> String {
    after_send(room, user, text).replace("AfterSendMsg", "BeforeSendMsg")
}

/// What a [`FaultyLog`] does with an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Takes it and acknowledges when told to.
    Slow,
    Full,
    /// Takes so many and acknowledges them at once, then is [`Fault::Failed`].
    FailsAfter(usize),
    /// Takes it and fails it.
    FailsLater,
    Failed,
}

/// A log in memory that has faults on demand.
pub(crate) struct FaultyLog {
    state: Mutex<FaultyState>,
    taken: tokio::sync::watch::Sender<usize>,
}

struct FaultyState {
    fault: Fault,
    records: Vec<(Partition, Vec<u8>)>,
    waiting: Vec<(Completer, Positions)>,
}

impl FaultyLog {
    pub(crate) fn new(fault: Fault) -> Arc<Self> {
        let state = FaultyState { fault, records: Vec::new(), waiting: Vec::new() };
        Arc::new(Self { state: Mutex::new(state), taken: tokio::sync::watch::Sender::new(0) })
    }

    pub(crate) fn set(&self, fault: Fault) {
        self.state.lock().unwrap().fault = fault;
    }

    pub(crate) fn taken_records(&self) -> Vec<(Partition, Vec<u8>)> {
        self.state.lock().unwrap().records.clone()
    }

    /// Waits until so many appends were taken, since the log was made.
    pub(crate) async fn wait_taken(&self, appends: usize) {
        let mut taken = self.taken.subscribe();
        tokio::time::timeout(PATIENCE, taken.wait_for(|taken| *taken >= appends)).await.expect("too few").unwrap();
    }

    /// Makes everything durable that was taken.
    pub(crate) fn acknowledge(&self) {
        let waiting = std::mem::take(&mut self.state.lock().unwrap().waiting);
        for (completer, positions) in waiting {
            completer.complete(Ok(positions));
        }
    }
}

fn failed() -> AppendError {
    AppendError::Failed { reason: "no disk".into() }
}

impl EventLog for FaultyLog {
    fn uuid(&self) -> u128 {
        42
    }

    fn partitions(&self, topic: Topic) -> u16 {
        match topic {
            Topic::Room => 2,
            Topic::User => 3,
        }
    }

    fn append(&self, batch: &mut AppendBatch) -> Result<Ack, AppendError> {
        let mut state = self.state.lock().unwrap();
        match state.fault {
            Fault::Full => return Err(AppendError::Full { pending_bytes: 2, pending_bytes_max: 1 }),
            Fault::Failed => return Err(failed()),
            Fault::FailsAfter(0) => {
                state.fault = Fault::Failed;
                return Err(failed());
            }
            Fault::FailsAfter(left) => state.fault = Fault::FailsAfter(left - 1),
            Fault::Slow | Fault::FailsLater => {}
        }
        let mut positions = Positions::new();
        for (partition, bytes) in batch.iter() {
            let offset = Offset(state.records.iter().filter(|(own, _)| *own == partition).count() as u64);
            positions.push(barrage_event::Position { partition, offset });
            state.records.push((partition, bytes.to_vec()));
        }
        batch.clear();
        self.taken.send_modify(|taken| *taken += 1);
        if state.fault == Fault::FailsLater {
            return Ok(Ack::ready(Err(failed())));
        }
        if matches!(state.fault, Fault::FailsAfter(_)) {
            return Ok(Ack::ready(Ok(positions)));
        }
        let completer = Completer::new();
        let ack = completer.ack_later();
        state.waiting.push((completer, positions));
        Ok(ack)
    }

    fn read(
        &self,
        partition: Partition,
        from: Offset,
        _bytes_max: usize,
        visit: &mut dyn FnMut(Record<'_>) -> ControlFlow<()>,
    ) -> Result<Offset, ReadError> {
        let state = self.state.lock().unwrap();
        let own = state.records.iter().filter(|(own, _)| *own == partition);
        let mut next = from;
        for (_, bytes) in own.skip(usize::try_from(from.0).unwrap()) {
            let flow = visit(Record { offset: next, timestamp_ms: NOW_MS, bytes });
            next = next.next();
            if flow.is_break() {
                break;
            }
        }
        Ok(next)
    }

    fn start(&self, _partition: Partition) -> Offset {
        Offset(0)
    }

    fn end(&self, partition: Partition) -> Offset {
        let state = self.state.lock().unwrap();
        Offset(state.records.iter().filter(|(own, _)| *own == partition).count() as u64)
    }

    fn wait(&self, seen: u64, _timeout: Duration) -> u64 {
        seen
    }

    fn health(&self) -> Health {
        match self.state.lock().unwrap().fault {
            Fault::Failed | Fault::FailsLater => Health::Failed { reason: "no disk".into() },
            Fault::Slow | Fault::Full | Fault::FailsAfter(_) => Health::Ready,
        }
    }

    fn trim(&self, _base: &SnapshotBase) -> Result<Vec<(Partition, Offset)>, TrimError> {
        Err(TrimError::NoSnapshot)
    }
}
