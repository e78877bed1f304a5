//! Logs and records for the tests of the partition loop.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod telling;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use barrage_event::{Offset, Partition, Topic, append_sequence, proto as wire};
use barrage_log::{
    Ack, AppendBatch, AppendError, EmbeddedLog, EmbeddedOptions, EventLog, Health, Metrics, ReadError, Record,
    SnapshotBase, TrimError,
};
use barrage_message_counts::MessageCounts;
use barrage_projection::Statistic;
use barrage_state::{Meta, PartitionDir, StateEnv, StateOptions};
use barrage_worker::{Applied, Engine};
use prometheus_client::registry::Registry;
use prost::Message as _;

/// 2026-01-01T00:00:00Z.
pub(crate) const START_MS: i64 = 1_767_225_600_000;
pub(crate) const ROOM: Partition = Partition::room(0);

pub(crate) fn open_log(dir: &Path) -> Arc<EmbeddedLog> {
    let metrics = Metrics::register(&mut Registry::default());
    Arc::new(EmbeddedLog::open(dir, &EmbeddedOptions::default(), metrics).expect("a log in an empty directory"))
}

pub(crate) fn statistics() -> Vec<Box<dyn Statistic>> {
    vec![Box::new(MessageCounts)]
}

/// Counts what a run of an ingest process counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ingest {
    pub(crate) incarnation: u64,
    sequences: BTreeMap<Partition, u64>,
    number: u64,
}

impl Ingest {
    pub(crate) fn new(incarnation: u64) -> Self {
        Self { incarnation, ..Self::default() }
    }

    /// Encodes an envelope as the next one of `partition`.
    pub(crate) fn stamp(&mut self, partition: Partition, mut envelope: wire::Envelope) -> Vec<u8> {
        self.number += 1;
        let sequence = self.sequences.entry(partition).or_insert(0);
        *sequence += 1;
        envelope.id = [self.incarnation.to_be_bytes(), self.number.to_be_bytes()].concat();
        envelope.incarnation = self.incarnation;
        let mut bytes = envelope.encode_to_vec();
        append_sequence(&mut bytes, *sequence);
        bytes
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Before,
    After,
}

/// A text message's callback; `number` is its `Random` and `MsgId`.
pub(crate) fn message(kind: Kind, room: &str, user: &str, number: u32, received_ms: i64) -> wire::Envelope {
    let body = wire::Message {
        group_id: room.to_owned(),
        from_account: user.to_owned(),
        random: Some(number),
        msg_id: format!("144-{number}"),
        kind: 1,
        ..wire::Message::default()
    };
    let (command, event) = match kind {
        Kind::Before => ("Group.CallbackBeforeSendMsg", wire::envelope::Event::BeforeSend(body)),
        Kind::After => ("Group.CallbackAfterSendMsg", wire::envelope::Event::AfterSend(body)),
    };
    wire::Envelope {
        sdk_app_id: 1_400_000_000,
        command: command.to_owned(),
        occurred_at: received_ms,
        received_at: received_ms,
        has_event_time: true,
        route_key: room.to_owned(),
        event: Some(event),
        ..wire::Envelope::default()
    }
}

pub(crate) fn append(log: &dyn EventLog, partition: Partition, records: &[Vec<u8>]) {
    for chunk in records.chunks(500) {
        let mut batch = AppendBatch::new();
        for record in chunk {
            batch.push(partition, |buffer| buffer.extend_from_slice(record));
        }
        log.append(&mut batch).expect("room in the log").wait().expect("a working disk");
    }
}

/// An engine on its own directory.
pub(crate) fn open_engine(dir: &Path, log: &dyn EventLog, statistics: Vec<Box<dyn Statistic>>) -> Engine {
    try_open_engine(dir, log, statistics).expect("opens")
}

pub(crate) fn try_open_engine(
    dir: &Path,
    log: &dyn EventLog,
    statistics: Vec<Box<dyn Statistic>>,
) -> Result<Engine, barrage_worker::Stop> {
    let partition_dir = PartitionDir::new(dir, ROOM);
    let store = match partition_dir.current().expect("readable") {
        Some(store) => store,
        None => {
            let store = partition_dir.next().expect("writable");
            partition_dir.set_current(&store).expect("writable");
            store
        }
    };
    let env = StateEnv::new(StateOptions { memory_bytes: 16 << 20, ..StateOptions::default() });
    let (engine, _) = Engine::open(&env, &store, ROOM, log, &Arc::new(statistics))?;
    if let Some(last) = engine.last_seen() {
        assert!(last.look(log)?, "this log always answers");
    }
    Ok(engine)
}

/// Applies at most `records_max` records; a rewind goes on from the last commit as the worker does.
pub(crate) fn step(engine: &mut Engine, log: &dyn EventLog, records_max: usize) -> usize {
    let mut applied = 0;
    let mut commit = false;
    log.read(engine.partition(), engine.next_offset(), usize::MAX, &mut |record| {
        match engine.apply(&record).expect("applies") {
            Applied::Next => applied += 1,
            Applied::Commit => {
                applied += 1;
                commit = true;
                return ControlFlow::Break(());
            }
            Applied::Rewound => return ControlFlow::Break(()),
        }
        if applied < records_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })
    .expect("readable");
    if commit {
        engine.commit(0).expect("commits");
    }
    applied
}

/// Applies everything and commits; returns how far it is.
pub(crate) fn run(dir: &Path, log: &dyn EventLog, statistics: Vec<Box<dyn Statistic>>) -> Meta {
    let mut engine = open_engine(dir, log, statistics);
    finish(&mut engine, log)
}

pub(crate) fn finish(engine: &mut Engine, log: &dyn EventLog) -> Meta {
    while engine.next_offset() < log.end(engine.partition()) {
        step(engine, log, usize::MAX);
    }
    engine.commit(usize::MAX).expect("commits");
    engine.committed().clone()
}

/// Offset of the last record.
pub(crate) fn last(log: &dyn EventLog, partition: Partition) -> Offset {
    Offset(log.end(partition).0 - 1)
}

/// A log under another name, as a topic that was made anew is, and one that does not answer as a partition without a leader
/// does not.
pub(crate) struct Other {
    pub(crate) inner: Arc<EmbeddedLog>,
    pub(crate) uuid: u128,
    /// Of these nothing is read; whoever tries waits.
    pub(crate) silent: Mutex<Vec<Partition>>,
    /// Nobody knows where those end.
    pub(crate) ends_unknown: AtomicBool,
}

impl Other {
    pub(crate) fn new(inner: Arc<EmbeddedLog>) -> Self {
        let uuid = inner.uuid();
        Self { inner, uuid, silent: Mutex::default(), ends_unknown: AtomicBool::new(false) }
    }

    fn is_silent(&self, partition: Partition) -> bool {
        self.silent.lock().expect("no panics").contains(&partition)
    }
}

impl EventLog for Other {
    fn uuid(&self) -> u128 {
        self.uuid
    }
    fn partitions(&self, topic: Topic) -> u16 {
        self.inner.partitions(topic)
    }
    fn append(&self, batch: &mut AppendBatch) -> Result<Ack, AppendError> {
        self.inner.append(batch)
    }
    fn read(
        &self,
        partition: Partition,
        from: Offset,
        bytes_max: usize,
        visit: &mut dyn FnMut(Record<'_>) -> ControlFlow<()>,
    ) -> Result<Offset, ReadError> {
        if self.is_silent(partition) {
            std::thread::sleep(Duration::from_millis(300));
            return Ok(from);
        }
        self.inner.read(partition, from, bytes_max, visit)
    }
    fn start(&self, partition: Partition) -> Offset {
        self.inner.start(partition)
    }
    fn end(&self, partition: Partition) -> Offset {
        if self.is_end_known(partition) { self.inner.end(partition) } else { Offset(0) }
    }
    fn is_end_known(&self, partition: Partition) -> bool {
        !self.ends_unknown.load(Ordering::Acquire) || !self.is_silent(partition)
    }
    fn wait(&self, seen: u64, timeout: Duration) -> u64 {
        self.inner.wait(seen, timeout)
    }
    fn wake(&self) {
        self.inner.wake();
    }
    fn health(&self) -> Health {
        self.inner.health()
    }
    fn trim(&self, base: &SnapshotBase) -> Result<Vec<(Partition, Offset)>, TrimError> {
        self.inner.trim(base)
    }
}
