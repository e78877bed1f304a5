//! The spool in front of a log that stalls, refuses and forgets at will, checked against what a worker would count.
//!
//! The log is the embedded one behind a gate. A real broker can be stopped, but not at the very record that a test
//! wants, and not a thousand times in a few seconds.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use barrage_event::{Offset, Partition, Topic};
use barrage_ingest::{Durable, Spool, SpoolMetrics, SpoolOptions, SpoolStatus};
use barrage_log::{
    Ack, AppendBatch, AppendError, Completer, EmbeddedLog, EmbeddedOptions, EventLog, Health, Positions, ReadError,
    Record, SnapshotBase, TrimError,
};
use proptest::prelude::*;

/// What the gate does with appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    /// Lets them through.
    Open,
    /// Takes them and keeps them: nobody is told anything.
    Hold,
    /// Refuses them, as a log whose memory is full.
    Full,
    /// Lets them through, but tells nobody until it opens: the answer was lost.
    Silent,
    /// Keeps those of one partition, as a log that refuses a record of it; lets the others through.
    Stuck,
}

/// The partition that [`Gate::Stuck`] is about.
const STUCK: Partition = Partition::room(0);

/// What is held back, and what is in the log without anybody having been told.
type Kept = (Gate, VecDeque<(AppendBatch, Completer)>, Vec<(Completer, Positions)>);

struct Gated {
    log: Arc<EmbeddedLog>,
    gate: Mutex<Kept>,
}

impl Gated {
    fn new(log: Arc<EmbeddedLog>) -> Arc<Self> {
        Arc::new(Self { log, gate: Mutex::new((Gate::Open, VecDeque::new(), Vec::new())) })
    }

    fn set(&self, gate: Gate) {
        let mut state = self.gate.lock().expect("works in a test");
        state.0 = gate;
        if matches!(gate, Gate::Open | Gate::Silent | Gate::Stuck) {
            // In order, as a producer sends what it holds.
            for (mut batch, completer) in std::mem::take(&mut state.1) {
                let mut kept = AppendBatch::new();
                if gate == Gate::Stuck {
                    (kept, batch) = split(&batch);
                }
                let positions = self.log.append(&mut batch).expect("works in a test").wait().expect("works in a test");
                if kept.is_empty() {
                    state.2.push((completer, positions));
                } else {
                    state.1.push_back((kept, completer));
                }
            }
        }
        if matches!(gate, Gate::Open | Gate::Stuck) {
            for (completer, positions) in state.2.drain(..) {
                completer.complete(Ok(positions));
            }
        }
    }

    /// What a process that dies takes with it.
    fn forget(&self) {
        let mut state = self.gate.lock().expect("works in a test");
        state.1.clear();
        state.2.clear();
    }
}

/// What is stuck of a batch, and the rest.
fn split(batch: &AppendBatch) -> (AppendBatch, AppendBatch) {
    let (mut stuck, mut rest) = (AppendBatch::new(), AppendBatch::new());
    for (partition, record) in batch.iter() {
        let side = if partition == STUCK { &mut stuck } else { &mut rest };
        side.push(partition, |buf| buf.extend_from_slice(record));
    }
    (stuck, rest)
}

impl EventLog for Gated {
    fn uuid(&self) -> u128 {
        self.log.uuid()
    }
    fn partitions(&self, topic: Topic) -> u16 {
        self.log.partitions(topic)
    }
    fn append(&self, batch: &mut AppendBatch) -> Result<Ack, AppendError> {
        let mut state = self.gate.lock().expect("works in a test");
        match state.0 {
            Gate::Open => self.log.append(batch),
            Gate::Full => Err(AppendError::Full { pending_bytes: 1, pending_bytes_max: 1 }),
            Gate::Hold => {
                let completer = Completer::new();
                let ack = completer.ack_later();
                state.1.push_back((std::mem::take(batch), completer));
                Ok(ack)
            }
            Gate::Stuck => {
                let (stuck, mut rest) = split(batch);
                batch.clear();
                let ack = self.log.append(&mut rest)?;
                if stuck.is_empty() {
                    return Ok(ack);
                }
                ack.wait()?;
                let completer = Completer::new();
                let ack = completer.ack_later();
                state.1.push_back((stuck, completer));
                Ok(ack)
            }
            Gate::Silent => {
                let positions = self.log.append(batch)?.wait()?;
                let completer = Completer::new();
                let ack = completer.ack_later();
                state.2.push((completer, positions));
                Ok(ack)
            }
        }
    }
    fn read(
        &self,
        partition: Partition,
        from: Offset,
        bytes_max: usize,
        visit: &mut dyn FnMut(Record<'_>) -> ControlFlow<()>,
    ) -> Result<Offset, ReadError> {
        self.log.read(partition, from, bytes_max, visit)
    }
    fn start(&self, partition: Partition) -> Offset {
        self.log.start(partition)
    }
    fn end(&self, partition: Partition) -> Offset {
        self.log.end(partition)
    }
    fn wait(&self, seen: u64, timeout: Duration) -> u64 {
        self.log.wait(seen, timeout)
    }
    fn health(&self) -> Health {
        self.log.health()
    }
    fn trim(&self, base: &SnapshotBase) -> Result<Vec<(Partition, Offset)>, TrimError> {
        self.log.trim(base)
    }
}

const PATIENCE: Duration = Duration::from_secs(60);

fn embedded(dir: &Path) -> Arc<EmbeddedLog> {
    let options = EmbeddedOptions {
        room_partitions: 2,
        user_partitions: 2,
        segment_bytes: 1 << 20,
        ..EmbeddedOptions::default()
    };
    Arc::new(EmbeddedLog::open(&dir.join("log"), &options, barrage_log::Metrics::default()).expect("works in a test"))
}

fn options() -> SpoolOptions {
    SpoolOptions { takeover_ms: 10, segment_bytes: 1 << 20, ..SpoolOptions::default() }
}

fn open(dir: &Path, log: &Arc<Gated>) -> Spool {
    let log: Arc<dyn EventLog> = Arc::clone(log) as Arc<dyn EventLog>;
    Spool::open(&dir.join("spool"), options(), log, SpoolMetrics::default()).expect("works in a test")
}

fn partition(n: u8) -> Partition {
    if n < 2 { Partition::room(n.into()) } else { Partition::user(u16::from(n) - 2) }
}

/// Numbers records as the appender does, and remembers what was answered OK.
struct Caller {
    incarnation: u64,
    last: BTreeMap<Partition, u64>,
    /// (incarnation, partition, sequence) of records whose callers got OK.
    answered: Vec<(u64, Partition, u64)>,
}

static INCARNATION: AtomicU64 = AtomicU64::new(1);

impl Caller {
    fn new() -> Self {
        let incarnation = INCARNATION.fetch_add(1, Ordering::Relaxed);
        Self { incarnation, last: BTreeMap::new(), answered: Vec::new() }
    }

    fn begin(&mut self, spool: &Spool, partitions: &[u8]) -> Option<(Durable, Vec<(Partition, u64)>)> {
        let mut batch = AppendBatch::new();
        let mut records = Vec::new();
        for &n in partitions {
            let partition = partition(n);
            let last = self.last.entry(partition).or_default();
            *last += 1;
            records.push((partition, *last));
            batch.push(partition, |buf| {
                buf.extend_from_slice(&self.incarnation.to_le_bytes());
                buf.extend_from_slice(&last.to_le_bytes());
            });
        }
        match spool.append(&mut batch) {
            Ok(durable) => Some((durable, records)),
            Err(_) => {
                for (partition, _) in records {
                    *self.last.get_mut(&partition).expect("works in a test") -= 1;
                }
                None
            }
        }
    }

    fn end(&mut self, (durable, records): (Durable, Vec<(Partition, u64)>)) {
        if durable.wait().is_ok() {
            let incarnation = self.incarnation;
            self.answered.extend(records.into_iter().map(|(partition, n)| (incarnation, partition, n)));
        }
    }
}

/// What a worker counts of a partition: whatever is above the highest sequence of its incarnation.
fn counted(log: &dyn EventLog, partition: Partition) -> Vec<(u64, u64)> {
    let mut high: BTreeMap<u64, u64> = BTreeMap::new();
    let mut counted = Vec::new();
    log.read(partition, Offset(0), usize::MAX, &mut |record| {
        // Some are padded.
        let (incarnation, sequence) = record.bytes.get(..16).expect("ours").split_at(8);
        let incarnation = u64::from_le_bytes(incarnation.try_into().expect("works in a test"));
        let sequence = u64::from_le_bytes(sequence.try_into().expect("works in a test"));
        let last = high.entry(incarnation).or_default();
        if sequence > *last {
            *last = sequence;
            counted.push((incarnation, sequence));
        }
        ControlFlow::Continue(())
    })
    .expect("works in a test");
    counted
}

fn drained(spool: &Spool) {
    let begun = Instant::now();
    let waits = |status: SpoolStatus| status.records > 0 || status.partitions > 0 || status.bytes > 0;
    while waits(spool.status()) {
        assert!(begun.elapsed() < PATIENCE, "the spool does not drain: {:?}", spool.status());
        std::thread::yield_now();
    }
}

fn check(log: &dyn EventLog, answered: &[(u64, Partition, u64)]) {
    for n in 0..4 {
        let partition = partition(n);
        let counted = counted(log, partition);
        for (incarnation, _, sequence) in answered.iter().filter(|(_, p, _)| *p == partition) {
            assert!(
                counted.contains(&(*incarnation, *sequence)),
                "{partition}: {sequence} of {incarnation} was answered OK and is not counted"
            );
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// Appends one batch over these partitions.
    Append(Vec<u8>),
    Gate(Gate),
    /// Everything that was begun is answered.
    Settle,
    /// The process dies: what the log held is gone, what the spool has stays.
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => proptest::collection::vec(0_u8..4, 1..4).prop_map(Step::Append),
        2 => prop_oneof![
            Just(Gate::Open), Just(Gate::Hold), Just(Gate::Full), Just(Gate::Silent), Just(Gate::Stuck)
        ].prop_map(Step::Gate),
        2 => Just(Step::Settle),
        1 => Just(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_was_answered_is_counted_once_whatever_the_log_does(steps in proptest::collection::vec(step(), 1..60)) {
        let dir = tempfile::tempdir().expect("works in a test");
        let log = Gated::new(embedded(dir.path()));
        let mut spool = open(dir.path(), &log);
        let mut caller = Caller::new();
        let mut begun = Vec::new();
        let mut answered = Vec::new();
        for step in steps {
            match step {
                Step::Append(partitions) => begun.extend(caller.begin(&spool, &partitions)),
                Step::Gate(gate) => log.set(gate),
                Step::Settle => begun.drain(..).for_each(|one| caller.end(one)),
                Step::Crash => {
                    begun.drain(..).for_each(|one| caller.end(one));
                    answered.append(&mut caller.answered);
                    // No takeover any more: its thread ends with what it has.
                    log.forget();
                    drop(spool);
                    log.forget();
                    spool = open(dir.path(), &log);
                    caller = Caller::new();
                }
            }
        }
        begun.drain(..).for_each(|one| caller.end(one));
        answered.append(&mut caller.answered);
        log.set(Gate::Open);
        drained(&spool);
        // What comes later goes straight to the log and is counted, too.
        let one = caller.begin(&spool, &[0, 3]).expect("all is well");
        caller.end(one);
        answered.append(&mut caller.answered);
        check(log.log.as_ref(), &answered);
        // On a disk that is busy it, too, was taken over.
        drained(&spool);
    }
}

#[test]
fn a_stalled_log_costs_no_answer_and_new_records_queue_behind() {
    let dir = tempfile::tempdir().expect("works in a test");
    let log = Gated::new(embedded(dir.path()));
    let spool = open(dir.path(), &log);
    let mut caller = Caller::new();
    log.set(Gate::Hold);
    for _ in 0..500 {
        let one = caller.begin(&spool, &[0, 1, 2]).expect("the spool takes it");
        caller.end(one);
    }
    assert_eq!(caller.answered.len(), 1_500, "all were answered while the log held everything back");
    // How many partitions still write to the spool depends on whether it has handed over all it holds; that nothing is
    // acknowledged does not.
    assert_eq!(spool.status().records, 1_500);
    log.set(Gate::Open);
    drained(&spool);
    check(log.log.as_ref(), &caller.answered);
    for n in 0..3 {
        let counted = counted(log.log.as_ref(), partition(n));
        assert_eq!(counted.len(), 500, "each once, in spite of being delivered by the log and the spool");
    }
}

/// What a stuck partition leaves of the log's memory, and of the spool's window, is the others'.
#[test]
fn a_partition_that_the_log_does_not_take_keeps_no_other_one_in_the_spool() {
    let dir = tempfile::tempdir().expect("works in a test");
    let log = Gated::new(embedded(dir.path()));
    let as_log: Arc<dyn EventLog> = Arc::clone(&log) as Arc<dyn EventLog>;
    let window = 64 << 10;
    let narrow = SpoolOptions { drain_bytes_max: window, ..options() };
    let spool = Spool::open(&dir.path().join("spool"), narrow, as_log, SpoolMetrics::default());
    let spool = spool.expect("works in a test");
    log.set(Gate::Stuck);
    let mut sequence = 0_u64;
    let mut append = |partition: Partition| {
        sequence += 1;
        let mut batch = AppendBatch::new();
        batch.push(partition, |buf| {
            buf.extend_from_slice(&u64::MAX.to_le_bytes());
            buf.extend_from_slice(&sequence.to_le_bytes());
            buf.resize(buf.len() + (4 << 10), 7);
        });
        spool.append(&mut batch).expect("taken").wait().expect("durable");
    };
    let kept = || {
        let state = log.gate.lock().expect("works in a test");
        state.1.iter().map(|(batch, _)| batch.bytes()).sum::<usize>()
    };
    // Many times the window, in many small outages of this one partition.
    for _ in 0..12 {
        for _ in 0..10 {
            append(STUCK);
        }
        std::thread::sleep(Duration::from_millis(15));
    }
    assert!(kept() <= 2 * window, "the log was given {} bytes of a partition that it does not take", kept());

    let others = [Partition::room(1), Partition::user(0), Partition::user(1)];
    for round in 1..=2 {
        // An outage of all of them, in which they get into the spool as well.
        log.set(Gate::Hold);
        for _ in 0..20 {
            others.iter().for_each(|&partition| append(partition));
        }
        log.set(Gate::Stuck);
        let begun = Instant::now();
        while spool.status().records > 120 {
            assert!(begun.elapsed() < PATIENCE / 4, "they are not drained: {:?}", spool.status());
            std::thread::yield_now();
        }
        for partition in others {
            assert_eq!(counted(log.log.as_ref(), partition).len(), 20 * round, "{partition}");
        }
    }
    assert_eq!(log.end(STUCK), Offset(0));
    log.set(Gate::Open);
    drained(&spool);
    assert_eq!(counted(log.log.as_ref(), STUCK).len(), 120);
}

#[test]
fn what_is_spooled_survives_the_process_and_goes_on_under_its_sequences() {
    let dir = tempfile::tempdir().expect("works in a test");
    let log = Gated::new(embedded(dir.path()));
    let mut answered = Vec::new();
    log.set(Gate::Hold);
    for _ in 0..3 {
        let spool = open(dir.path(), &log);
        let mut caller = Caller::new();
        for _ in 0..50 {
            let one = caller.begin(&spool, &[1, 3]).expect("the spool takes it");
            caller.end(one);
        }
        answered.append(&mut caller.answered);
        log.forget();
    }
    log.set(Gate::Open);
    let spool = open(dir.path(), &log);
    drained(&spool);
    assert_eq!(answered.len(), 300);
    check(log.log.as_ref(), &answered);
}

#[test]
fn a_full_spool_refuses_and_gives_back_the_sequence() {
    let dir = tempfile::tempdir().expect("works in a test");
    let log = Gated::new(embedded(dir.path()));
    let as_log: Arc<dyn EventLog> = Arc::clone(&log) as Arc<dyn EventLog>;
    let small = SpoolOptions { bytes_max: 1 << 20, ..options() };
    let spool =
        Spool::open(&dir.path().join("spool"), small, as_log, SpoolMetrics::default()).expect("works in a test");
    log.set(Gate::Full);
    let big = |spool: &Spool| {
        let mut batch = AppendBatch::new();
        batch.push(Partition::room(0), |buf| buf.resize(buf.len() + (300 << 10), 7));
        spool.append(&mut batch).map(Durable::wait)
    };
    for _ in 0..3 {
        big(&spool).expect("there is room").expect("durable");
    }
    match big(&spool) {
        Err(AppendError::Failed { reason }) => assert!(reason.contains("spool.bytes_max"), "{reason}"),
        other => panic!("{other:?}"),
    }
    log.set(Gate::Open);
    drained(&spool);
    big(&spool).expect("there is room again").expect("durable");
    assert_eq!(log.end(Partition::room(0)), Offset(4));
}

#[test]
fn nothing_gets_into_a_full_spool_past_what_it_could_not_take_over() {
    let dir = tempfile::tempdir().expect("works in a test");
    let log = Gated::new(embedded(dir.path()));
    let as_log: Arc<dyn EventLog> = Arc::clone(&log) as Arc<dyn EventLog>;
    let small = SpoolOptions { bytes_max: 1 << 20, ..options() };
    let spool = Spool::open(&dir.path().join("spool"), small, Arc::clone(&as_log), SpoolMetrics::default());
    let spool = spool.expect("works in a test");
    log.set(Gate::Hold);
    let large = |sequence: u64| {
        let mut batch = AppendBatch::new();
        batch.push(Partition::room(0), |buf| {
            buf.extend_from_slice(&u64::MAX.to_le_bytes());
            buf.extend_from_slice(&sequence.to_le_bytes());
            buf.resize(buf.len() + (300 << 10), 7);
        });
        spool.append(&mut batch)
    };
    let begun: Vec<Durable> = (1..=5).map(|sequence| large(sequence).expect("the log holds it")).collect();
    let waited = Instant::now();
    while !spool.status().failed {
        assert!(waited.elapsed() < PATIENCE, "the spool is not full: {:?}", spool.status());
        std::thread::yield_now();
    }
    // There is room for this one, but not for those before it.
    let mut batch = AppendBatch::new();
    batch.push(Partition::room(0), |buf| buf.extend_from_slice(&[0xff; 8]));
    assert!(matches!(spool.append(&mut batch), Err(AppendError::Failed { .. })));
    log.set(Gate::Open);
    drained(&spool);
    begun.into_iter().for_each(|durable| drop(durable.wait().expect("the log has it")));
    while spool.status().failed {
        assert!(waited.elapsed() < PATIENCE, "the drained spool takes nothing: {:?}", spool.status());
        std::thread::yield_now();
    }
    log.set(Gate::Full);
    let mut batch = AppendBatch::new();
    batch.push(Partition::room(0), |buf| buf.extend_from_slice(&6_u64.to_le_bytes()));
    spool.append(&mut batch).expect("it is empty").wait().expect("durable");
}

#[test]
fn the_spool_of_another_log_is_not_sent() {
    let (one, two) = (tempfile::tempdir().expect("works in a test"), tempfile::tempdir().expect("works in a test"));
    let log = Gated::new(embedded(one.path()));
    drop(open(one.path(), &log));
    let other: Arc<dyn EventLog> = embedded(two.path());
    let error =
        Spool::open(&one.path().join("spool"), options(), other, SpoolMetrics::default()).expect_err("another log");
    assert!(error.to_string().contains("holds callbacks for log"), "{error}");
}

#[test]
fn closing_takes_over_what_the_log_has_not_acknowledged() {
    let dir = tempfile::tempdir().expect("works in a test");
    let log = Gated::new(embedded(dir.path()));
    let patient = SpoolOptions { takeover_ms: 1_500, ..options() };
    let as_log: Arc<dyn EventLog> = Arc::clone(&log) as Arc<dyn EventLog>;
    let spool =
        Spool::open(&dir.path().join("spool"), patient, as_log, SpoolMetrics::default()).expect("works in a test");
    log.set(Gate::Hold);
    let mut caller = Caller::new();
    let one = caller.begin(&spool, &[0, 2]).expect("taken");
    spool.close();
    caller.end(one);
    assert_eq!(caller.answered.len(), 2, "answered OK, because it is on the disk");
    log.forget();
    log.set(Gate::Open);
    let spool = open(dir.path(), &log);
    drained(&spool);
    check(log.log.as_ref(), &caller.answered);
}
