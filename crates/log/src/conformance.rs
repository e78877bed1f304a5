//! What every implementation of [`EventLog`] must do, as functions that the implementations' tests call.
//!
//! [`crate::conformance_tests`] makes a `#[test]` of each. Every function gets an opener of one new log with at least
//! two partitions of each topic; calling it again, after dropping what it gave before, opens the same log again.
//! A function panics when the implementation does something else than the trait says.

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use barrage_event::{Offset, Partition, Position, Topic};

use crate::{
    Ack, AppendBatch, AppendError, BATCH_BYTES_MAX, EventLog, Health, RECORD_BYTES_MAX, ReadError, Record,
    SnapshotBase, TrimError,
};

/// Opens the log under test.
pub type Opener<'a> = &'a dyn Fn() -> Arc<dyn EventLog>;

/// How long anything may take before it counts as stuck. Far beyond what any check needs.
const PATIENCE: Duration = Duration::from_secs(60);

const ROOM: Partition = Partition::room(0);
const USER: Partition = Partition::user(1);

/// Makes a `#[test]` of every function of [`crate::conformance`]. `$fresh` is an expression that gives, for a new and
/// empty log each time, a closure `Fn() -> Arc<dyn EventLog>` which opens that log.
#[macro_export]
macro_rules! conformance_tests {
    ($fresh:expr) => {
        $crate::conformance_tests! { $fresh;
            a_new_log_is_empty_and_ready
            acknowledged_records_are_read_back
            positions_follow_the_order_of_pushes
            the_order_of_calls_is_the_order_in_the_log
            many_threads_lose_nothing
            a_batch_is_emptied_by_success_and_kept_by_an_error
            an_unknown_partition_is_refused_as_a_whole
            limits_are_exact
            an_empty_batch_is_acknowledged
            acks_are_futures_and_may_be_dropped
            reading_stops_where_it_is_told
            any_budgets_read_the_same_records
            waiting_ends_when_something_became_durable
            a_log_opened_again_is_the_same
            trimming_needs_proof
        }
    };
    ($fresh:expr; $($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                let open = $fresh;
                $crate::conformance::$name(&open);
            }
        )*
    };
}

/// Blocks on a future with nothing but a thread's parking.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        thread::park();
    }
}

/// Appends records as one batch.
///
/// # Panics
/// When the log refuses them.
pub fn append(log: &dyn EventLog, records: &[(Partition, &[u8])]) -> Ack {
    let mut batch = AppendBatch::new();
    for (partition, bytes) in records {
        batch.push(*partition, |buffer| buffer.extend_from_slice(bytes));
    }
    log.append(&mut batch).expect("the log takes the batch")
}

/// Waits until the partition's end is `end`.
///
/// # Panics
/// When that does not happen within a minute.
pub fn settle(log: &dyn EventLog, partition: Partition, end: Offset) {
    let begun = Instant::now();
    loop {
        let seen = log.wait(0, Duration::ZERO);
        let now = log.end(partition);
        if now >= end {
            assert_eq!(now, end, "{partition} ends later than was appended");
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{partition} ends at {now}, {end} was appended");
        log.wait(seen, Duration::from_millis(100));
    }
}

/// All records of a partition from an offset on, in reads of `bytes_max`.
///
/// # Panics
/// When reading fails, offsets are not dense, or a read makes no progress.
pub fn read_all(log: &dyn EventLog, partition: Partition, from: Offset, bytes_max: usize) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    let mut next = from;
    while next < log.end(partition) {
        let before = next;
        let mut expected = next;
        next = log
            .read(partition, next, bytes_max, &mut |record: Record<'_>| {
                assert_eq!(record.offset, expected, "offsets of {partition} are dense");
                expected = expected.next();
                records.push(record.bytes.to_vec());
                ControlFlow::Continue(())
            })
            .expect("the log can be read");
        assert_eq!(next, expected, "the offset to go on from follows the last record visited");
        assert!(next > before, "a read makes progress where there are records");
    }
    records
}

fn position(partition: Partition, offset: u64) -> Position {
    Position { partition, offset: Offset(offset) }
}

/// Nothing is in a new log, and it takes appends.
///
/// # Panics
/// When the log does otherwise.
pub fn a_new_log_is_empty_and_ready(open: Opener<'_>) {
    let log = open();
    assert_eq!(log.health(), Health::Ready);
    assert_ne!(log.uuid(), 0, "a log has an identity");
    let mut expected = Vec::new();
    for topic in Topic::ALL {
        assert!(log.partitions(topic) >= 2, "the checks need two partitions of each topic");
        expected.extend((0..log.partitions(topic)).map(|index| Partition { topic, index }));
    }
    assert_eq!(log.all_partitions(), expected);
    for partition in expected {
        assert_eq!((log.start(partition), log.end(partition)), (Offset(0), Offset(0)), "{partition}");
        let read = log.read(partition, Offset(0), 1, &mut |_| panic!("nothing was appended"));
        assert_eq!(read.expect("an empty partition can be read"), Offset(0));
    }
}

/// What was acknowledged is there, with a timestamp, in both topics, whatever its bytes.
///
/// # Panics
/// When the log does otherwise.
pub fn acknowledged_records_are_read_back(open: Opener<'_>) {
    let log = open();
    let long = vec![0xA5; 70_000];
    let records: [&[u8]; 5] = [b"first", b"", &[0; 64], &long, b"last"];
    let clock = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |t| t.as_millis());
    let before = i64::try_from(clock()).unwrap_or(i64::MAX);
    for record in records {
        append(&*log, &[(ROOM, record), (USER, record)]).wait().expect("the append becomes durable");
    }
    for partition in [ROOM, USER] {
        settle(&*log, partition, Offset(5));
        assert_eq!(read_all(&*log, partition, Offset(0), usize::MAX), records, "{partition}");
        assert_eq!(read_all(&*log, partition, Offset(3), usize::MAX), records[3..], "{partition}");
        let stamped = log.read(partition, Offset(0), usize::MAX, &mut |record| {
            // An hour of tolerance: the log may be another machine, whose clock is not this one.
            assert!((record.timestamp_ms - before).abs() < 3_600_000, "{}", record.timestamp_ms);
            ControlFlow::Continue(())
        });
        assert_eq!(stamped.expect("the log can be read"), Offset(5));
    }
}

/// An acknowledgement tells where each record of the batch lies.
///
/// # Panics
/// When the log does otherwise.
pub fn positions_follow_the_order_of_pushes(open: Opener<'_>) {
    let log = open();
    let first = append(&*log, &[(USER, b"a"), (ROOM, b"b"), (USER, b"c")]).wait().expect("durable");
    assert_eq!(*first, [position(USER, 0), position(ROOM, 0), position(USER, 1)]);
    let many: Vec<(Partition, &[u8])> = vec![(ROOM, b"x"); 100];
    let second = append(&*log, &many).wait().expect("durable");
    assert_eq!(*second, (1..=100).map(|offset| position(ROOM, offset)).collect::<Vec<_>>());
    let third = append(&*log, &[(Partition::room(1), b"d")]).wait().expect("durable");
    assert_eq!(*third, [position(Partition::room(1), 0)]);
}

/// Calls that follow one another keep their order, though nobody waits in between.
///
/// # Panics
/// When the log does otherwise.
pub fn the_order_of_calls_is_the_order_in_the_log(open: Opener<'_>) {
    let log = open();
    let acks: Vec<Ack> =
        (0..2_000_u32).map(|n| append(&*log, &[(ROOM, &n.to_be_bytes()), (USER, &n.to_be_bytes())])).collect();
    for (n, ack) in (0..).zip(acks) {
        assert_eq!(*ack.wait().expect("durable"), [position(ROOM, n), position(USER, n)]);
    }
    let expected: Vec<Vec<u8>> = (0..2_000_u32).map(|n| n.to_be_bytes().to_vec()).collect();
    for partition in [ROOM, USER] {
        settle(&*log, partition, Offset(2_000));
        assert_eq!(read_all(&*log, partition, Offset(0), 512), expected);
    }
}

/// Appends of many threads are all there once, each thread's in its order, where their acknowledgements say.
///
/// # Panics
/// When the log does otherwise.
pub fn many_threads_lose_nothing(open: Opener<'_>) {
    const THREADS: u32 = 8;
    const EACH: u32 = 200;
    let log = open();
    let told: Mutex<Vec<(Position, u32)>> = Mutex::default();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (log, told) = (&log, &told);
            scope.spawn(move || {
                for n in 0..EACH {
                    let value = thread * EACH + n;
                    let positions = append(&**log, &[(ROOM, &value.to_be_bytes())]).wait().expect("durable");
                    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                    told.extend(positions.iter().map(|&position| (position, value)));
                }
            });
        }
    });
    settle(&*log, ROOM, Offset(u64::from(THREADS * EACH)));
    let mut told = told.into_inner().unwrap_or_else(PoisonError::into_inner);
    told.sort_unstable_by_key(|(position, _)| *position);
    let expected: Vec<Vec<u8>> = told.iter().map(|(_, value)| value.to_be_bytes().to_vec()).collect();
    assert_eq!(read_all(&*log, ROOM, Offset(0), 4_096), expected);
    for thread in 0..THREADS {
        let own = told.iter().map(|(_, value)| *value).filter(|value| value / EACH == thread);
        assert!(own.eq(thread * EACH..(thread + 1) * EACH), "thread {thread}'s records are in its order");
    }
}

/// A batch can be used again after success, and tried again after an error.
///
/// # Panics
/// When the log does otherwise.
pub fn a_batch_is_emptied_by_success_and_kept_by_an_error(open: Opener<'_>) {
    let log = open();
    let mut batch = AppendBatch::new();
    batch.push(ROOM, |buffer| buffer.extend_from_slice(b"kept"));
    let ack = log.append(&mut batch).expect("the log takes it");
    assert!(batch.is_empty() && batch.bytes() == 0);
    ack.wait().expect("durable");
    batch.push(ROOM, |buffer| buffer.extend_from_slice(b"again"));
    batch.push(Partition::user(u16::MAX), |buffer| buffer.extend_from_slice(b"nowhere"));
    log.append(&mut batch).expect_err("there is no such partition");
    let records: Vec<_> = batch.iter().collect();
    assert_eq!(records, [(ROOM, &b"again"[..]), (Partition::user(u16::MAX), &b"nowhere"[..])]);
}

/// A batch with one impossible record appends none of the others.
///
/// # Panics
/// When the log does otherwise.
pub fn an_unknown_partition_is_refused_as_a_whole(open: Opener<'_>) {
    let log = open();
    for topic in Topic::ALL {
        let unknown = Partition { topic, index: log.partitions(topic) };
        let mut batch = AppendBatch::new();
        batch.push(ROOM, |buffer| buffer.push(1));
        batch.push(unknown, |buffer| buffer.push(2));
        let refused = log.append(&mut batch).expect_err("there is no such partition");
        assert_eq!(refused, AppendError::UnknownPartition { partition: unknown, partitions: unknown.index });
        let read = log.read(unknown, Offset(0), 1, &mut |_| ControlFlow::Continue(()));
        assert!(matches!(read, Err(ReadError::UnknownPartition { partition }) if partition == unknown));
        assert_eq!((log.start(unknown), log.end(unknown)), (Offset(0), Offset(0)));
    }
    let next = append(&*log, &[(ROOM, b"next")]).wait().expect("durable");
    assert_eq!(*next, [position(ROOM, 0)], "nothing of the refused batches was appended");
}

/// The largest record and batch are taken, one byte more is not.
///
/// # Panics
/// When the log does otherwise.
pub fn limits_are_exact(open: Opener<'_>) {
    let log = open();
    let record = vec![7; RECORD_BYTES_MAX];
    let full: Vec<(Partition, &[u8])> = vec![(ROOM, &record); BATCH_BYTES_MAX / RECORD_BYTES_MAX];
    append(&*log, &full).wait().expect("durable");
    settle(&*log, ROOM, Offset(full.len() as u64));
    let mut batch = AppendBatch::new();
    batch.push(USER, |buffer| buffer.resize(RECORD_BYTES_MAX + 1, 7));
    let (bytes, bytes_max) = (RECORD_BYTES_MAX + 1, RECORD_BYTES_MAX);
    let refused = log.append(&mut batch).expect_err("the record is too large");
    assert_eq!(refused, AppendError::RecordTooLarge { partition: USER, bytes, bytes_max });
    batch.clear();
    for (partition, bytes) in full.iter().copied().chain([(USER, &b"x"[..])]) {
        batch.push(partition, |buffer| buffer.extend_from_slice(bytes));
    }
    let refused = log.append(&mut batch).expect_err("the batch is too large");
    assert!(matches!(refused, AppendError::BatchTooLarge { bytes, .. } if bytes == BATCH_BYTES_MAX + 1), "{refused}");
    let read = read_all(&*log, ROOM, Offset(0), 1);
    assert!(read.len() == full.len() && read.iter().all(|read| *read == record));
    assert_eq!(log.end(USER), Offset(0));
}

/// Nothing to append is not an error.
///
/// # Panics
/// When the log does otherwise.
pub fn an_empty_batch_is_acknowledged(open: Opener<'_>) {
    let log = open();
    let positions = log.append(&mut AppendBatch::new()).expect("the log takes it").wait().expect("nothing can fail");
    assert!(positions.is_empty());
}

/// An acknowledgement works in a task, in a thread, and for nobody.
///
/// # Panics
/// When the log does otherwise.
pub fn acks_are_futures_and_may_be_dropped(open: Opener<'_>) {
    let log = open();
    drop(append(&*log, &[(ROOM, b"nobody")]));
    let polled = block_on(append(&*log, &[(ROOM, b"task")])).expect("durable");
    assert_eq!(*polled, [position(ROOM, 1)]);
    let moved = append(&*log, &[(ROOM, b"thread")]);
    let waited = thread::scope(|scope| scope.spawn(|| moved.wait()).join().expect("it does not panic"));
    assert_eq!(*waited.expect("durable"), [position(ROOM, 2)]);
    let late = append(&*log, &[(ROOM, b"late")]);
    settle(&*log, ROOM, Offset(4));
    assert_eq!(*block_on(late).expect("durable"), [position(ROOM, 3)], "a result waits for who comes late");
}

/// A reader gets at least one record, stops at its budget or when it says so, and past the end gets nothing.
///
/// # Panics
/// When the log does otherwise.
pub fn reading_stops_where_it_is_told(open: Opener<'_>) {
    let log = open();
    for _ in 0..10 {
        append(&*log, &[(ROOM, &[1; 100]), (USER, &[2; 100])]).wait().expect("durable");
    }
    settle(&*log, ROOM, Offset(10));
    let read = |from: u64, bytes_max: usize, stop_after: usize| {
        let mut visited = 0;
        let next = log.read(ROOM, Offset(from), bytes_max, &mut |record| {
            assert_eq!(record.bytes, [1; 100], "only records of the partition are visited");
            visited += 1;
            if visited == stop_after { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        (next.expect("the log can be read").0, visited)
    };
    // (from, bytes_max, break after) -> (next, visited)
    for ((from, bytes_max, stop_after), expected) in [
        ((0, usize::MAX, 0), (10, 10)),
        ((0, 0, 0), (1, 1)),
        ((0, 1, 0), (1, 1)),
        ((0, 100, 0), (1, 1)),
        ((0, 101, 0), (2, 2)),
        ((4, 300, 0), (7, 3)),
        ((0, usize::MAX, 1), (1, 1)),
        ((3, usize::MAX, 4), (7, 4)),
        ((9, usize::MAX, 0), (10, 1)),
        ((10, usize::MAX, 0), (10, 0)),
        ((11, usize::MAX, 0), (11, 0)),
        ((u64::MAX, usize::MAX, 0), (u64::MAX, 0)),
    ] {
        assert_eq!(read(from, bytes_max, stop_after), expected, "from {from}, {bytes_max} bytes, break {stop_after}");
    }
}

/// However a partition is cut into reads, the records are the same.
///
/// # Panics
/// When the log does otherwise.
pub fn any_budgets_read_the_same_records(open: Opener<'_>) {
    let log = open();
    let mut expected: [Vec<Vec<u8>>; 2] = Default::default();
    let mut last = None;
    // A fixed linear congruential sequence: sizes vary, runs do not.
    let mut state = 12_345_u32;
    for _ in 0..3_000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let record = vec![state.to_be_bytes()[1]; (state >> 22) as usize];
        let side = usize::from(state & 0x8000 != 0);
        last = Some(append(&*log, &[(if side == 0 { ROOM } else { USER }, &record)]));
        expected[side].push(record);
    }
    last.expect("records were appended").wait().expect("durable");
    for (partition, expected) in [ROOM, USER].into_iter().zip(&expected) {
        settle(&*log, partition, Offset(expected.len() as u64));
        for bytes_max in [1, 1_000, 33_333, usize::MAX] {
            assert!(read_all(&*log, partition, Offset(0), bytes_max) == *expected, "{partition}, {bytes_max} bytes");
        }
        let middle = expected.len() / 2;
        assert!(read_all(&*log, partition, Offset(middle as u64), 500) == expected[middle..], "{partition}");
    }
}

/// The generation moves when records become durable, and a wait for it ends then or when its time is over.
///
/// # Panics
/// When the log does otherwise.
pub fn waiting_ends_when_something_became_durable(open: Opener<'_>) {
    let log = open();
    let seen = log.wait(0, Duration::ZERO);
    assert_eq!(log.wait(seen, Duration::from_millis(1)), seen, "nothing has happened");
    append(&*log, &[(ROOM, b"one")]).wait().expect("durable");
    let begun = Instant::now();
    let after = log.wait(seen, PATIENCE);
    assert_ne!(after, seen, "a wait with an old generation ends");
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let mut seen = log.wait(0, Duration::ZERO);
            while log.end(ROOM) < Offset(2) && begun.elapsed() < PATIENCE {
                seen = log.wait(seen, PATIENCE);
            }
            log.end(ROOM)
        });
        append(&*log, &[(ROOM, b"two")]).wait().expect("durable");
        assert_eq!(waiting.join().expect("it does not panic"), Offset(2));
    });
    assert!(begun.elapsed() < PATIENCE, "nobody slept through it");
}

/// Identity, partitions and records outlive the process; offsets go on where they ended.
///
/// # Panics
/// When the log does otherwise.
pub fn a_log_opened_again_is_the_same(open: Opener<'_>) {
    let mut expected: Vec<Vec<u8>> = Vec::new();
    let mut identity = None;
    for round in 0..4_u8 {
        let log = open();
        assert_eq!(*identity.get_or_insert_with(|| log.uuid()), log.uuid());
        settle(&*log, ROOM, Offset(expected.len() as u64));
        assert_eq!(read_all(&*log, ROOM, Offset(0), 64), expected, "round {round}");
        let mut acks = Vec::new();
        for n in 0..50_u8 {
            let record = vec![round, n];
            acks.push(append(&*log, &[(ROOM, &record), (USER, &record)]));
            expected.push(record);
        }
        let first = u64::from(round) * 50;
        for (offset, ack) in (first..).zip(acks) {
            assert_eq!(*ack.wait().expect("durable"), [position(ROOM, offset), position(USER, offset)]);
        }
    }
    let log = open();
    settle(&*log, USER, Offset(200));
    assert_eq!(read_all(&*log, USER, Offset(0), usize::MAX), expected);
}

/// A base that does not prove that nothing is lost trims nothing.
///
/// # Panics
/// When the log does otherwise.
pub fn trimming_needs_proof(open: Opener<'_>) {
    let log = open();
    append(&*log, &[(ROOM, b"a"), (USER, b"b")]).wait().expect("durable");
    settle(&*log, ROOM, Offset(1));
    let next: Vec<_> = log.all_partitions().into_iter().map(|partition| (partition, log.end(partition))).collect();
    let base = SnapshotBase { log_uuid: log.uuid(), next, verified: true };
    let other = SnapshotBase { log_uuid: log.uuid() ^ 1, ..base.clone() };
    assert_eq!(log.trim(&other), Err(TrimError::OtherLog { log: log.uuid(), snapshot: log.uuid() ^ 1 }));
    assert_eq!(log.trim(&SnapshotBase { verified: false, ..base.clone() }), Err(TrimError::NotVerified));
    let mut short = base.clone();
    short.next.retain(|(partition, _)| *partition != USER);
    assert_eq!(log.trim(&short), Err(TrimError::NotCovered { partition: USER }));
    let mut beyond = base;
    beyond.next.iter_mut().filter(|(partition, _)| *partition == ROOM).for_each(|(_, next)| *next = Offset(2));
    let (start, end) = (Offset(0), Offset(1));
    assert_eq!(log.trim(&beyond), Err(TrimError::OutOfRange { partition: ROOM, next: Offset(2), start, end }));
    assert_eq!(log.start(ROOM), Offset(0));
    assert_eq!(read_all(&*log, ROOM, Offset(0), 1), [b"a"]);
}
