//! Trimming behind a snapshot: whole segments go, nothing else does, and a crash at any point leaves a log that opens.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod common;

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use barrage_event::{Offset, Partition};
use barrage_log::conformance::append;
use barrage_log::{EmbeddedLog, EventLog, LogReader, OpenError, ReadError, SnapshotBase, TrimError};
use common::{ROOM, USER, open, options, segment, segments};

fn text(partition: Partition, offset: u64) -> Vec<u8> {
    format!("{partition}@{offset} {}", "x".repeat(300)).into_bytes()
}

/// Several segments of records that tell where they are.
fn fill(log: &EmbeddedLog, appends: u64) {
    for _ in 0..appends {
        let (room, user) = (text(ROOM, log.end(ROOM).0), text(USER, log.end(USER).0));
        append(log, &[(ROOM, &room), (USER, &user)]).wait().unwrap();
    }
}

fn base(log: &EmbeddedLog, room: u64, user: u64) -> SnapshotBase {
    let next = log.all_partitions().into_iter().map(|partition| {
        let next = if partition == ROOM {
            room
        } else if partition == USER {
            user
        } else {
            0
        };
        (partition, Offset(next))
    });
    SnapshotBase { log_uuid: log.uuid(), next: next.collect(), verified: true }
}

/// Everything from the start to the end is there, and nothing before.
fn assert_whole(log: &EmbeddedLog) {
    for partition in [ROOM, USER] {
        let (start, end) = (log.start(partition), log.end(partition));
        let mut expected = start.0;
        log.read(partition, start, usize::MAX, &mut |record| {
            assert_eq!((record.offset.0, record.bytes), (expected, &text(partition, expected)[..]));
            expected += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(expected, end.0);
        if let Some(before) = start.0.checked_sub(1) {
            let error = log.read(partition, Offset(before), 1, &mut |_| ControlFlow::Break(())).unwrap_err();
            assert!(matches!(error, ReadError::Trimmed { .. }), "{error}");
        }
    }
    let mut seen = 0;
    let reader = LogReader::open(log.dir()).unwrap();
    reader
        .read(ROOM, Offset(0), &mut |record| {
            assert_eq!(record.offset.0, log.start(ROOM).0 + seen);
            seen += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(log.start(ROOM).0 + seen, log.end(ROOM).0, "`barrage log` sees the same");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[test]
fn whole_segments_behind_the_snapshot_go_and_the_rest_stays() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), &options()).unwrap();
    fill(&log, 200);
    let before = segments(dir.path());
    assert!(before.len() > 5, "{before:?}");
    assert_eq!(log.trim(&base(&log, 0, 200)).unwrap().len(), 4, "a partition that is not covered keeps everything");
    assert_eq!(segments(dir.path()), before);
    let starts = log.trim(&base(&log, 120, 90)).unwrap();
    let (room, user) = (log.start(ROOM).0, log.start(USER).0);
    assert!(room > 0 && room <= 90 && room == user, "{starts:?}");
    assert!(segments(dir.path())[0] > 0);
    assert_whole(&log);
    // Again is nothing new; less than what is gone is refused.
    assert_eq!(log.trim(&base(&log, 120, 90)).unwrap(), starts);
    assert!(matches!(log.trim(&base(&log, 0, 0)), Err(TrimError::OutOfRange { .. })));
    fill(&log, 100);
    log.close();
    assert_eq!(log.trim(&base(&log, 300, 300)), Err(TrimError::Closed));
    drop(log);
    let log = open(dir.path(), &options()).unwrap();
    assert_eq!((log.start(ROOM).0, log.end(ROOM).0), (room, 300));
    assert_whole(&log);
    // Everything is covered: the segment that takes the next records stays.
    log.trim(&base(&log, 300, 300)).unwrap();
    assert_whole(&log);
    fill(&log, 50);
    drop(log);
    let log = open(dir.path(), &options()).unwrap();
    assert_eq!(log.end(USER), Offset(350));
    assert_whole(&log);
}

#[test]
fn a_crash_at_any_point_of_a_trim_leaves_a_log_that_opens() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = open(&path, &options()).unwrap();
    fill(&log, 150);
    drop(log);
    let before = dir.path().join("before");
    copy(&path, &before);
    let log = open(&path, &options()).unwrap();
    log.trim(&base(&log, 100, 100)).unwrap();
    let start = log.start(ROOM);
    drop(log);
    let first = segments(&path)[0];
    assert!(first > 2);
    // Removed are the first `gone` segments, with or without the next one's index, after the decision was written.
    for gone in 0..=first {
        let crashed = dir.path().join(format!("crashed-{gone}"));
        copy(&before, &crashed);
        fs::copy(path.join("trim.json"), crashed.join("trim.json")).unwrap();
        for number in 0..gone {
            fs::remove_file(segment(&crashed, number)).unwrap();
            fs::remove_file(segment(&crashed, number).with_extension("index")).unwrap();
        }
        drop(fs::remove_file(segment(&crashed, gone).with_extension("index")));
        let log = open(&crashed, &options()).unwrap();
        assert_eq!((log.start(ROOM), segments(&crashed)[0]), (start, first));
        assert_whole(&log);
    }
    // Before the decision was in place nothing is given up.
    fs::write(before.join("trim.tmp"), "{").unwrap();
    let log = open(&before, &options()).unwrap();
    assert_eq!(log.start(ROOM), Offset(0));
    assert_whole(&log);
    drop(log);
    // A segment that was not given up is missed; so is a decision that cannot be read.
    fs::remove_file(segment(&path, first)).unwrap();
    assert!(matches!(open(&path, &options()), Err(OpenError::MissingSegment { .. })));
    fs::write(path.join("trim.json"), "{").unwrap();
    assert!(matches!(open(&path, &options()), Err(OpenError::Meta { .. })));
}

#[test]
fn readers_beside_a_trim_see_records_or_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), &options()).unwrap();
    fill(&log, 300);
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut trimmed = 0;
            while trimmed < 100 {
                let mut expected = None;
                let read = log.read(ROOM, Offset(0), usize::MAX, &mut |record| {
                    assert_eq!(expected.replace(record.offset.0 + 1).unwrap_or(record.offset.0), record.offset.0);
                    assert_eq!(record.bytes, text(ROOM, record.offset.0));
                    ControlFlow::Continue(())
                });
                match read {
                    Ok(_) => {}
                    Err(ReadError::Trimmed { .. }) => trimmed += 1,
                    Err(error) => panic!("{error}"),
                }
            }
        });
        for next in 1..=300 {
            log.trim(&base(&log, next, next)).unwrap();
        }
        reading.join().unwrap();
    });
}
