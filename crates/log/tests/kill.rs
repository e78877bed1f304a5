//! kill -9 of a real process that appends and trims: what it was told to be durable and did not give up is there, batches
//! are whole, order holds.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use barrage_event::{Offset, Partition, Position};
use barrage_log::{AppendBatch, EmbeddedLog, EmbeddedOptions, EventLog, Metrics, SnapshotBase};

const DIR: &str = "BARRAGE_LOG_KILL_DIR";
const ROUND: &str = "BARRAGE_LOG_KILL_ROUND";
const ROUNDS: u32 = 12;
const THREADS: u32 = 4;

fn options() -> EmbeddedOptions {
    EmbeddedOptions { segment_bytes: 256 << 10, chunk_bytes: 16 << 10, ..EmbeddedOptions::default() }
}

fn open(dir: &Path) -> EmbeddedLog {
    EmbeddedLog::open(dir, &options(), Metrics::default()).expect("the log opens after every kill")
}

/// Where the copies of an append go.
fn partitions(id: u64) -> [Partition; 2] {
    [Partition::room((id % 4) as u16), Partition::user((id / 4 % 4) as u16)]
}

/// A record tells its identity in all of its bytes, so that a torn or mixed one shows.
fn record(id: u64, buffer: &mut Vec<u8>) {
    for _ in 0..=id.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 57 {
        buffer.extend_from_slice(&id.to_be_bytes());
    }
}

/// Gives up the older half again and again, as if there were a snapshot of it.
fn trim_until_killed(log: &EmbeddedLog) -> ! {
    let mut seen = 0;
    loop {
        seen = log.wait(seen, std::time::Duration::from_secs(60));
        let half = |partition| (partition, Offset(log.end(partition).0.midpoint(log.start(partition).0)));
        let next = log.all_partitions().into_iter().map(half).collect();
        log.trim(&SnapshotBase { log_uuid: log.uuid(), next, verified: true }).expect("the log is trimmed");
    }
}

/// The process that is killed: appends from several threads, several appends in flight in each, and prints what was
/// acknowledged.
fn append_until_killed(dir: &Path, round: u32) -> ! {
    let log = open(dir);
    let out = Mutex::new(std::io::stdout());
    std::thread::scope(|scope| {
        scope.spawn(|| trim_until_killed(&log));
        for thread in 0..THREADS {
            let (log, out) = (&log, &out);
            scope.spawn(move || {
                let mut batch = AppendBatch::new();
                for first in (0..u64::MAX).step_by(8) {
                    let acks: Vec<_> = (first..first + 8)
                        .map(|n| {
                            let id = u64::from(round) << 48 | u64::from(thread) << 40 | n;
                            for partition in partitions(id) {
                                batch.push(partition, |buffer| record(id, buffer));
                            }
                            (id, log.append(&mut batch).expect("the log takes it"))
                        })
                        .collect();
                    for (id, ack) in acks {
                        let positions = ack.wait().expect("the disk works");
                        let mut out = out.lock().unwrap();
                        for position in positions.iter() {
                            writeln!(out, "\nacknowledged {id} {position}").expect("the parent reads");
                        }
                        out.flush().expect("the parent reads");
                    }
                }
            });
        }
    });
    unreachable!("it is killed before numbers end")
}

#[test]
fn kill_9_loses_nothing_that_was_acknowledged() {
    if let (Ok(dir), Ok(round)) = (std::env::var(DIR), std::env::var(ROUND)) {
        append_until_killed(Path::new(&dir), round.parse().unwrap());
    }
    let dir = tempfile::tempdir().unwrap();
    // Identity and partition of every acknowledged record, with its offset.
    let mut acknowledged: HashMap<(u64, Partition), u64> = HashMap::new();
    let mut state = 1_u32;
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill_9_loses_nothing_that_was_acknowledged", "--nocapture", "--test-threads=1"])
            .env(DIR, dir.path())
            .env(ROUND, round.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let lines_max = (state >> 21) as usize + 1;
        let mut lines = BufReader::new(child.stdout.take().unwrap()).split(b'\n').map(Result::unwrap);
        let mut enter = |line: Vec<u8>| {
            let line = String::from_utf8(line).unwrap();
            let Some((id, position)) = line.strip_prefix("acknowledged ").and_then(|rest| rest.split_once(' ')) else {
                return false;
            };
            let position: Position = position.parse().unwrap();
            acknowledged.insert((id.parse().unwrap(), position.partition), position.offset.0);
            true
        };
        let before = lines.by_ref().filter_map(|line| enter(line).then_some(())).take(lines_max).count();
        assert_eq!(before, lines_max, "the process appends until it is killed");
        child.kill().unwrap();
        child.wait().unwrap();
        // What it had printed before is still in the pipe; only the last line may be torn.
        let mut rest: Vec<Vec<u8>> = lines.collect();
        rest.pop();
        rest.into_iter().for_each(|line| {
            enter(line);
        });
        check(dir.path(), &acknowledged);
    }
    let log = open(dir.path());
    assert!(log.all_partitions().into_iter().all(|p| log.start(p).0 > 0), "it was trimmed");
    assert!(acknowledged.len() > 1_000, "{} records were acknowledged in all rounds", acknowledged.len());
}

fn check(dir: &Path, acknowledged: &HashMap<(u64, Partition), u64>) {
    let log = open(dir);
    let mut found: HashMap<(u64, Partition), u64> = HashMap::new();
    let mut order: HashMap<(u64, Partition), u64> = HashMap::new();
    for partition in log.all_partitions() {
        let start = log.start(partition);
        let mut expected = start;
        let next = log.read(partition, start, usize::MAX, &mut |read| {
            assert_eq!(read.offset, expected);
            expected = expected.next();
            let id = u64::from_be_bytes(*read.bytes.first_chunk().unwrap());
            let mut whole = Vec::new();
            record(id, &mut whole);
            assert_eq!(read.bytes, whole, "{partition}@{} is whole", read.offset);
            assert_eq!(found.insert((id, partition), read.offset.0), None, "{partition}@{} is there once", read.offset);
            let last = order.insert((id >> 40, partition), id);
            assert!(last.is_none_or(|last| last < id), "appends of one thread keep their order");
            ControlFlow::Continue(())
        });
        assert_eq!(next.unwrap(), log.end(partition));
    }
    for (record, offset) in acknowledged {
        if *offset >= log.start(record.1).0 {
            assert_eq!(found.get(record), Some(offset), "{record:?} was acknowledged");
        }
    }
    for (id, _) in found.keys() {
        for partition in partitions(*id) {
            assert!(found.contains_key(&(*id, partition)), "both copies of {id} are there or none");
        }
    }
}
