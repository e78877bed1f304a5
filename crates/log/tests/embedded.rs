//! The embedded log's own behaviour: durability, failure, limits, locks, metrics.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod common;

use std::ops::ControlFlow;
use std::time::Duration;

use barrage_event::{Offset, Partition, Position};
use barrage_log::conformance::{append, read_all};
use barrage_log::{
    AppendBatch, AppendError, EmbeddedLog, EmbeddedOptions, EventLog, Health, LogReader, Metrics, OpenError, Positions,
    ReadError,
};
use common::{ROOM, USER, append_groups, assert_holds, open, options, segments};
use prometheus_client::registry::Registry;

#[test]
fn nothing_is_visible_before_it_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), &options()).unwrap();
    let seen = log.wait(0, Duration::ZERO);
    log.faults().hold_sync();
    let ack = append(&log, &[(ROOM, b"written")]);
    log.faults().wait_until_held();
    assert_eq!(ack.try_get(), None);
    assert_eq!(log.end(ROOM), Offset(0));
    assert_eq!(read_all(&log, ROOM, Offset(0), 100), Vec::<Vec<u8>>::new());
    assert_eq!(log.wait(seen, Duration::from_millis(1)), seen);
    log.faults().release();
    assert_eq!(*ack.wait().unwrap(), [Position { partition: ROOM, offset: Offset(0) }]);
    assert_eq!(read_all(&log, ROOM, Offset(0), 100), [b"written"]);
    assert_ne!(log.wait(seen, Duration::ZERO), seen);
}

#[test]
fn a_failed_write_or_sync_fails_everything_that_waits_and_all_that_follows() {
    for fail in [barrage_log::embedded::Faults::fail_sync, barrage_log::embedded::Faults::fail_write] {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path(), &options()).unwrap();
        append(&log, &[(ROOM, b"durable")]).wait().unwrap();
        log.faults().hold_sync();
        let held = append(&log, &[(ROOM, b"held")]);
        log.faults().wait_until_held();
        let waiting: Vec<_> = (0..10).map(|_| append(&log, &[(ROOM, b"waiting")])).collect();
        let seen = log.wait(0, Duration::ZERO);
        fail(log.faults());
        log.faults().release();
        // The failure meets the group that is held when it is a sync, the next one when it is a write.
        drop(held.wait());
        for ack in waiting {
            let error = ack.wait().unwrap_err();
            assert!(
                matches!(&error, AppendError::Failed { reason } if reason.contains("000000000000.segment")),
                "{error}"
            );
        }
        assert_ne!(log.wait(seen, Duration::from_secs(60)), seen, "who waits for records is told");
        let mut batch = AppendBatch::new();
        batch.push(ROOM, |buffer| buffer.extend_from_slice(b"late"));
        assert!(matches!(log.append(&mut batch), Err(AppendError::Failed { .. })));
        assert_eq!(batch.len(), 1);
        assert!(matches!(log.health(), Health::Failed { reason } if reason.contains("a fault on demand")));
        let durable = read_all(&log, ROOM, Offset(0), 100);
        assert_eq!(durable[0], b"durable", "what is durable can still be read");
        drop(log);

        // Opened again, the log holds what was acknowledged and goes on behind it.
        let log = open(dir.path(), &options()).unwrap();
        let records = read_all(&log, ROOM, Offset(0), 100);
        assert_eq!(records[..durable.len()], durable);
        let position = Position { partition: ROOM, offset: Offset(records.len() as u64) };
        assert_eq!(*append(&log, &[(ROOM, b"on")]).wait().unwrap(), [position]);
    }
}

#[test]
fn appends_are_refused_when_too_much_waits_and_taken_again_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), &EmbeddedOptions { pending_bytes_max: 8_192, ..options() }).unwrap();
    log.faults().hold_sync();
    let mut acks = vec![append(&log, &[(ROOM, &[0; 100])])];
    log.faults().wait_until_held();
    let mut batch = AppendBatch::new();
    let refused = loop {
        batch.push(ROOM, |buffer| buffer.resize(1_000, 1));
        match log.append(&mut batch) {
            Ok(ack) => acks.push(ack),
            Err(error) => break error,
        }
        assert!(acks.len() < 20, "the limit is 8 KiB");
    };
    // One frame of 160 bytes is being written, seven of 1,056 wait; one more would pass the limit.
    assert_eq!(refused, AppendError::Full { pending_bytes: 160 + 7 * 1_056, pending_bytes_max: 8_192 });
    assert_eq!((acks.len(), batch.len()), (8, 1), "the refused batch is kept");
    log.faults().release();
    for ack in acks {
        ack.wait().unwrap();
    }
    let position = Position { partition: ROOM, offset: Offset(8) };
    assert_eq!(log.append(&mut batch).unwrap().wait().unwrap(), Positions::from_iter([position]));
    batch.push(ROOM, |buffer| buffer.resize(9_000, 1));
    assert!(matches!(log.append(&mut batch), Err(AppendError::BatchTooLarge { .. })), "it would never fit");
}

#[test]
fn closing_makes_durable_what_was_taken_and_takes_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), &options()).unwrap();
    let acks: Vec<_> = (0..500_u16).map(|n| append(&log, &[(ROOM, &n.to_be_bytes())])).collect();
    log.close();
    for ack in acks {
        assert!(ack.try_get().expect("closing waits for all").is_ok());
    }
    assert_eq!(log.health(), Health::Closed);
    let mut batch = AppendBatch::new();
    batch.push(ROOM, |buffer| buffer.push(1));
    assert_eq!(log.append(&mut batch).unwrap_err(), AppendError::Closed);
    assert_eq!(read_all(&log, ROOM, Offset(0), 64).len(), 500);
    log.close();
    let again = open(dir.path(), &options()).expect("closing releases the directory");
    assert_eq!(again.end(ROOM), Offset(500));
}

#[test]
fn a_log_is_open_once() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), &options()).unwrap();
    let error = open(dir.path(), &options()).unwrap_err();
    assert!(matches!(&error, OpenError::Locked { dir: named } if named == dir.path()), "{error}");
    drop(log);
    open(dir.path(), &options()).unwrap();
}

#[test]
fn other_partition_counts_are_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path(), &options()).unwrap();
    let error = open(dir.path(), &EmbeddedOptions { user_partitions: 8, ..options() }).unwrap_err().to_string();
    for part in ["2 room and 2 user", "asks for 2 and 8", "set the configuration back", dir.path().to_str().unwrap()] {
        assert!(error.contains(part), "{error}");
    }
    let error = open(dir.path(), &EmbeddedOptions { room_partitions: 0, ..options() }).unwrap_err().to_string();
    assert!(error.contains("room_partitions") && error.contains("1 to 1024"), "{error}");
}

#[test]
fn what_gathers_during_a_sync_becomes_durable_with_the_next_one_and_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut registry = Registry::default();
    let log = EmbeddedLog::open(dir.path(), &options(), Metrics::register(&mut registry)).unwrap();
    append_groups(&log, &[vec![vec![1; 100]; 50]]);
    let mut batch = AppendBatch::new();
    log.faults().hold_sync();
    let held = append(&log, &[(ROOM, &[0; 10])]);
    log.faults().wait_until_held();
    let scrape = || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    };
    assert!(scrape().contains("\nbarrage_log_pending_bytes 72\n"), "{}", scrape());
    log.faults().release();
    held.wait().unwrap();
    batch.push(Partition::user(1), |buffer| buffer.push(1));
    log.append(&mut batch).unwrap().wait().unwrap();
    log.close();

    let text = scrape();
    // Groups: one frame, then the 49 that gathered, then two of one. The 50 are more than a segment holds.
    for line in [
        "barrage_log_group_frames_count 4",
        "barrage_log_group_frames_sum 52.0",
        "barrage_log_append_frames_total 52",
        "barrage_log_append_records_total 102",
        "barrage_log_append_refused_total 0",
        "barrage_log_pending_bytes 0",
        "barrage_log_segments 1",
        "barrage_log_failed 0",
        "barrage_log_fsync_duration_seconds_count 4",
        "barrage_log_write_duration_seconds_count 4",
        "barrage_log_group_bytes_count 4",
        "barrage_log_tail_reads_total 0",
        "barrage_log_chunk_hits_total 0",
        "barrage_log_chunk_loads_total 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(text.lines().any(|line| line.starts_with("barrage_log_append_bytes_total ")), "{text}");
    let documented = include_str!("../src/metrics.rs");
    for name in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()) {
        assert!(documented.contains(&format!("//! | `{name}")), "{name} is not in the list of metrics");
    }
}

#[test]
fn partitions_that_catch_up_share_what_is_read_from_files() {
    let dir = tempfile::tempdir().unwrap();
    let records: Vec<Vec<u8>> = (0..200_u8).map(|n| vec![n; 100]).collect();
    append_groups(&open(dir.path(), &options()).unwrap(), std::slice::from_ref(&records));
    let mut registry = Registry::default();
    let log = EmbeddedLog::open(dir.path(), &options(), Metrics::register(&mut registry)).unwrap();
    let loads = || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("barrage_log_chunk_loads_total "));
        line.unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(read_all(&log, ROOM, Offset(0), usize::MAX), records);
    let first = loads();
    assert!(first > 50, "pieces of 512 bytes hold two of these frames: {first}");
    assert_eq!(read_all(&log, USER, Offset(0), usize::MAX), records);
    assert_eq!(loads(), first, "the second partition read nothing again");
}

#[test]
fn a_reader_of_files_goes_anywhere_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let records: Vec<Vec<u8>> = (0..400_u16).map(|n| n.to_be_bytes().repeat(40)).collect();
    let log = open(dir.path(), &options()).unwrap();
    append_groups(&log, &records.chunks(9).map(<[Vec<u8>]>::to_vec).collect::<Vec<_>>());
    assert_holds(&log, &records);
    assert!(segments(dir.path()).len() > 3);
    let reader = LogReader::open(dir.path()).unwrap();
    assert_eq!(reader.uuid(), log.uuid());
    for from in (0..=401).step_by(3) {
        let mut seen = Vec::new();
        let mut expected = from as u64;
        let ending = reader.read(USER, Offset(expected), &mut |record| {
            assert_eq!(record.offset, Offset(expected));
            expected += 1;
            seen.push(record.bytes.to_vec());
            ControlFlow::Continue(())
        });
        assert_eq!(ending.unwrap(), barrage_log::embedded::Ending::End);
        assert_eq!(seen, records.get(from..).unwrap_or_default(), "from {from}");
    }
    let unknown = reader.read(Partition::room(2), Offset(0), &mut |_| ControlFlow::Continue(()));
    assert!(matches!(unknown, Err(ReadError::UnknownPartition { .. })));
    let nothing = LogReader::open(&dir.path().join("nowhere")).unwrap_err().to_string();
    assert!(nothing.contains("there is no log here"), "{nothing}");
}

#[test]
fn a_reader_beside_a_running_log_sees_a_prefix_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), &options()).unwrap();
    let reader = LogReader::open(dir.path()).unwrap();
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for n in 0..3_000_u32 {
                let ack = append(&log, &[(ROOM, &n.to_be_bytes().repeat(20)), (USER, &[])]);
                if n % 10 == 0 {
                    ack.wait().unwrap();
                }
            }
        });
        let mut seen_most = 0;
        while !writing.is_finished() {
            let durable = log.end(ROOM).0;
            let mut seen = 0_u64;
            let ending = reader.read_all(&mut |partition, record| {
                if partition == ROOM {
                    assert_eq!(record.offset, Offset(seen));
                    assert_eq!(record.bytes[..4], u32::try_from(seen).unwrap().to_be_bytes());
                    seen += 1;
                }
                ControlFlow::Continue(())
            });
            ending.unwrap();
            assert!(seen >= durable, "{durable} were durable before, {seen} were seen");
            seen_most = seen;
        }
        writing.join().unwrap();
        assert!(seen_most > 0, "it ran beside the writer");
    });
    assert!(segments(dir.path()).len() > 10, "the writer went through many segments meanwhile");
}

#[test]
fn a_clock_that_was_wrong_is_told_also_by_the_next_opening() {
    const HOUR: i64 = 3_600_000;
    let dir = tempfile::tempdir().unwrap();
    let ahead = |registry: &Registry| {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("barrage_log_clock_ahead_seconds "));
        line.unwrap().parse::<f64>().unwrap()
    };
    let write = |log: &EmbeddedLog| append(log, &[(ROOM, b"at some time")]).wait().unwrap();
    let hour = 3_590.0..3_610.0;
    let mut registry = Registry::default();
    let log = EmbeddedLog::open(dir.path(), &options(), Metrics::register(&mut registry)).unwrap();
    write(&log);
    assert_eq!(ahead(&registry), 0.0);
    log.faults().shift_clock(HOUR);
    write(&log);
    assert!(hour.contains(&ahead(&registry)), "{}", ahead(&registry));
    log.faults().shift_clock(0);
    write(&log);
    assert!(hour.contains(&-ahead(&registry)), "{}", ahead(&registry));
    // The last record's time is right; that of the newest is not reached for long, also when nothing is written meanwhile
    // and when it is in a segment before the last.
    drop(log);
    for round in 0..4 {
        let mut registry = Registry::default();
        let log = EmbeddedLog::open(dir.path(), &options(), Metrics::register(&mut registry)).unwrap();
        assert!(hour.contains(&-ahead(&registry)), "{round}: {}", ahead(&registry));
        if round == 1 {
            let before = segments(dir.path()).len();
            // One is prepared ahead.
            while segments(dir.path()).len() <= before + 1 {
                write(&log);
            }
        }
        drop(log);
    }
}
