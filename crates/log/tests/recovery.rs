//! What a crash or a bad disk leaves behind: a torn tail is cut, damage is refused and left alone.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod common;

use std::fs;
use std::io::Write as _;
use std::path::Path;

use barrage_event::Offset;
use barrage_log::conformance::{append, read_all};
use barrage_log::{Corruption, EventLog, OpenError, ReadError};
use common::{ROOM, USER, append_groups, assert_holds, copy, crash, frames, open, options, scratch, segment, segments};
use proptest::prelude::*;

/// Puts `bytes` in place of segment 0 of a copy of the log, opens it, and checks that it holds `expected` and goes on.
fn assert_recovers(source: &Path, bytes: &[u8], expected: &[Vec<u8>], what: &str) {
    let copied = scratch();
    copy(source, copied.path());
    fs::write(segment(copied.path(), 0), bytes).unwrap();
    let mut expected = expected.to_vec();
    {
        let log = open(copied.path(), &options()).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_holds(&log, &expected);
        let offset = Offset(expected.len() as u64);
        let positions = append(&log, &[(ROOM, b"more"), (USER, b"more")]).wait().unwrap();
        assert!(positions.iter().all(|position| position.offset == offset), "{what}: {positions:?}");
        expected.push(b"more".to_vec());
        assert_holds(&log, &expected);
    }
    assert_holds(&open(copied.path(), &options()).unwrap(), &expected);
}

/// As above, where the log must refuse and leave the files as they are.
fn assert_refused(source: &Path, bytes: &[u8], position: usize, what: &str) {
    let copied = scratch();
    copy(source, copied.path());
    let path = segment(copied.path(), 0);
    fs::write(&path, bytes).unwrap();
    match open(copied.path(), &options()) {
        Err(OpenError::Corrupt(damage)) => {
            assert_eq!((damage.path.as_path(), damage.position), (path.as_path(), position as u64), "{what}: {damage}");
        }
        other => panic!("{what}: {other:?}"),
    }
    assert!(fs::read(&path).unwrap() == bytes, "{what}: a refused log is not changed");
}

/// A log of three groups in one segment, the last one of several frames; its segment's bytes up to its end.
fn small_log(dir: &Path) -> (Vec<u8>, Vec<Vec<u8>>) {
    let groups: Vec<Vec<Vec<u8>>> = vec![
        vec![b"one".to_vec()],
        vec![b"two".to_vec(), b"three, which is longer".to_vec()],
        vec![b"four".to_vec()],
        vec![b"five".to_vec(), vec![6; 40], b"seven".to_vec()],
    ];
    let log = open(dir, &options()).unwrap();
    append_groups(&log, &groups);
    crash(log);
    let mut bytes = fs::read(segment(dir, 0)).unwrap();
    bytes.truncate(frames(&bytes).last().unwrap().bytes.end);
    (bytes, groups.concat())
}

#[test]
fn a_last_group_cut_or_changed_at_any_byte_loses_nothing_before_it() {
    let dir = scratch();
    let (bytes, records) = small_log(dir.path());
    let frames = frames(&bytes);
    let last_group = frames.last().unwrap().group;
    let tail = frames.iter().find(|frame| frame.group == last_group).unwrap().bytes.start;
    let kept = |at: usize| &records[..frames.iter().take_while(|frame| frame.bytes.end <= at).count()];
    assert!(frames.iter().filter(|frame| frame.group == last_group).count() > 1, "the group can be torn inside");
    for at in tail..bytes.len() {
        assert_recovers(dir.path(), &bytes[..at], kept(at), &format!("cut at {at}"));

        let mut changed = bytes.clone();
        changed[at] ^= 0x41;
        assert_recovers(dir.path(), &changed, kept(at), &format!("changed at {at}"));

        // Pages of one write may reach the disk in any order.
        let mut holed = bytes.clone();
        holed.resize(options().segment_bytes.try_into().unwrap(), 0);
        let hole = at / 24 * 24..bytes.len().min(at / 24 * 24 + 24);
        if at % 24 == 0 && hole.start >= tail && holed[hole.clone()].iter().any(|&byte| byte != 0) {
            holed[hole.clone()].fill(0);
            assert_recovers(dir.path(), &holed, kept(hole.start), &format!("a hole at {hole:?}"));
        }
    }
}

#[test]
fn a_change_at_any_byte_before_the_last_group_is_refused() {
    let dir = scratch();
    let (bytes, _) = small_log(dir.path());
    let frames = frames(&bytes);
    let last_group = frames.last().unwrap().group;
    let tail = frames.iter().find(|frame| frame.group == last_group).unwrap().bytes.start;
    for at in 0..tail {
        let frame = frames.iter().find(|frame| frame.bytes.contains(&at));
        let position = frame.map_or(0, |frame| frame.bytes.start);
        let mut changed = bytes.clone();
        changed[at] ^= 0x41;
        assert_refused(dir.path(), &changed, position, &format!("changed at {at}"));
    }
    let mut zeroed = bytes.clone();
    let second = frames[1].bytes.clone();
    zeroed[second.clone()].fill(0);
    assert_refused(dir.path(), &zeroed, second.start, "a frame of zeros is no end when frames follow");
}

#[test]
fn damage_to_the_last_group_of_a_log_that_was_closed_is_refused() {
    let dir = scratch();
    let (bytes, records) = small_log(dir.path());
    // Opened and closed, it has the note of how far it was written.
    drop(open(dir.path(), &options()).unwrap());
    let frames = frames(&bytes);
    let last = frames.last().unwrap().bytes.clone();
    for at in last.clone() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x41;
        assert_refused(dir.path(), &changed, last.start, &format!("changed at {at}"));
        assert_refused(dir.path(), &bytes[..at], last.start, &format!("cut at {at}"));
    }
    assert_recovers(dir.path(), &bytes, &records, "without damage");
}

#[test]
fn what_somebody_sends_is_never_taken_for_a_frame_of_the_log() {
    let dir = scratch();
    let (bytes, mut records) = small_log(dir.path());
    {
        // Records that hold the log's own frames and what looks like frames, at every alignment.
        let log = open(dir.path(), &options()).unwrap();
        let mut group = Vec::new();
        for shift in 0..8 {
            group.push([vec![0; shift], bytes.clone(), b"\xf7BLF".repeat(200)].concat());
        }
        append_groups(&log, std::slice::from_ref(&group));
        crash(log);
        records.extend(group);
    }
    let mut torn = fs::read(segment(dir.path(), 0)).unwrap();
    let (first, others) = segments(dir.path()).split_first().map(|(first, others)| (*first, others.to_vec())).unwrap();
    assert!(first == 0 && !others.is_empty(), "what gathered fills the segment");
    others.into_iter().for_each(|number| fs::remove_file(segment(dir.path(), number)).unwrap());
    fs::remove_file(segment(dir.path(), 0).with_extension("index")).unwrap();
    let frames = frames(&torn);
    let last = frames.iter().rposition(|frame| frame.group != frames.last().unwrap().group).unwrap() + 1;
    torn[frames[last].bytes.start] ^= 1;
    assert_recovers(dir.path(), &torn, &records[..last], "frames inside of records of a torn group");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn whatever_was_durable_before_a_torn_write_is_there(
        groups in prop::collection::vec(
            prop::collection::vec(prop::collection::vec(any::<u8>(), 0..120), 1..5), 1..8),
        last in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..6),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>(), any::<u8>()), 1..6),
    ) {
        let dir = scratch();
        let log = open(dir.path(), &options()).unwrap();
        append_groups(&log, &groups);
        let path = segment(dir.path(), 0);
        let durable = frames(&fs::read(&path).unwrap()).len();
        append_groups(&log, std::slice::from_ref(&last));
        crash(log);
        prop_assume!(segments(dir.path()) == [0]);

        // The last call wrote one group of one frame and, where there were more, another one of the rest. Of the
        // last group any sectors may be missing.
        let mut bytes = fs::read(&path).unwrap();
        let frames = frames(&bytes);
        let torn = frames.len() - (last.len() - 1).max(1);
        prop_assert!(torn >= durable);
        let tail = frames[torn].bytes.start..frames.last().unwrap().bytes.end;
        let mut first_damage = usize::MAX;
        for (at, whole_sector, value) in damage {
            let at = tail.start + at.index(tail.len());
            let range = if whole_sector { at & !15..(at | 15) + 1 } else { at..at + 1 };
            for byte in &mut bytes[range.start.max(tail.start)..range.end.min(tail.end)] {
                *byte = value;
            }
            first_damage = first_damage.min(range.start.max(tail.start));
        }
        let records = [groups.concat(), last].concat();
        let copied = scratch();
        copy(dir.path(), copied.path());
        fs::write(segment(copied.path(), 0), &bytes).unwrap();
        let log = open(copied.path(), &options()).unwrap();
        // Damage may have written the bytes that were there; whole frames are kept as far as they reach.
        let kept = usize::try_from(log.end(ROOM).0).unwrap();
        let certain = frames.iter().take_while(|frame| frame.bytes.end <= first_damage).count();
        prop_assert!(kept >= certain && kept >= torn, "{kept} records are left, {certain} are intact");
        assert_holds(&log, &records[..kept]);
        append(&log, &[(ROOM, b"more"), (USER, b"more")]).wait().unwrap();
        drop(log);
        let log = open(copied.path(), &options()).unwrap();
        assert_holds(&log, &[&records[..kept], &[b"more".to_vec()]].concat());
    }
}

/// A log of several segments, closed; all its records.
fn long_log(dir: &Path) -> Vec<Vec<u8>> {
    let log = open(dir, &options()).unwrap();
    let records: Vec<Vec<u8>> = (0..300_u16).map(|n| vec![n.to_be_bytes()[1]; 100]).collect();
    append_groups(&log, &records.chunks(7).map(<[Vec<u8>]>::to_vec).collect::<Vec<_>>());
    assert_holds(&log, &records);
    drop(log);
    assert!(segments(dir).len() >= 5, "{:?}", segments(dir));
    records
}

#[test]
fn a_missing_segment_is_named() {
    let dir = scratch();
    long_log(dir.path());
    for number in [0, 2] {
        let copied = scratch();
        copy(dir.path(), copied.path());
        fs::remove_file(segment(copied.path(), number)).unwrap();
        match open(copied.path(), &options()) {
            Err(OpenError::MissingSegment { path }) => assert_eq!(path, segment(copied.path(), number)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_index_that_is_missing_or_wrong_is_made_again() {
    let dir = scratch();
    let records = long_log(dir.path());
    let index = |number| segment(dir.path(), number).with_extension("index");
    let good: Vec<Vec<u8>> = (0..3).map(|number| fs::read(index(number)).unwrap()).collect();
    fs::remove_file(index(0)).unwrap();
    let mut changed = good[1].clone();
    changed[70] ^= 1;
    fs::write(index(1), changed).unwrap();
    fs::copy(index(3), index(2)).unwrap();
    assert_holds(&open(dir.path(), &options()).unwrap(), &records);
    for (number, good) in (0..).zip(good) {
        assert_eq!(fs::read(index(number)).unwrap(), good, "the index of segment {number} is the same again");
    }
}

#[test]
fn damage_in_a_sealed_segment_stops_readers_there_and_nobody_else() {
    let dir = scratch();
    let records = long_log(dir.path());
    let path = segment(dir.path(), 1);
    let mut bytes = fs::read(&path).unwrap();
    let frame = frames(&bytes)[8].bytes.clone();
    bytes[frame.start + 60] ^= 1;
    fs::write(&path, &bytes).unwrap();

    // With its index the segment is not read at opening.
    let log = open(dir.path(), &options()).unwrap();
    let mut next = Offset(0);
    let damage = loop {
        match log.read(ROOM, next, 1, &mut |_| std::ops::ControlFlow::Continue(())) {
            Ok(after) => next = after,
            Err(ReadError::Corrupt(damage)) => break damage,
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!((&damage.path, damage.position), (&path, frame.start as u64));
    assert!(damage.to_string().contains("000000000001.segment at byte"), "{damage}");
    let behind = Offset(200);
    assert_eq!(read_all(&log, ROOM, behind, 1_000), records[200..], "other segments are read as before");
    drop(log);

    fs::remove_file(path.with_extension("index")).unwrap();
    match open(dir.path(), &options()) {
        Err(OpenError::Corrupt(again)) => {
            assert_eq!((again.path, again.position), (damage.path, damage.position));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_sealed_segment_that_was_cut_is_refused() {
    let dir = scratch();
    long_log(dir.path());
    let path = segment(dir.path(), 2);
    let length = fs::metadata(&path).unwrap().len();
    let last = frames(&fs::read(&path).unwrap()).last().unwrap().bytes.start as u64;
    for (cut, index) in [(length - 1, true), (length - 1, false), (last, true), (last, false)] {
        let copied = scratch();
        copy(dir.path(), copied.path());
        let path = segment(copied.path(), 2);
        fs::File::options().write(true).open(&path).unwrap().set_len(cut).unwrap();
        if !index {
            fs::remove_file(path.with_extension("index")).unwrap();
        }
        match open(copied.path(), &options()) {
            Err(OpenError::Corrupt(Corruption { path: named, .. })) => assert_eq!(named, path),
            other => panic!("cut to {cut}, index {index}: {other:?}"),
        }
    }
}

#[test]
fn a_segment_of_another_log_is_refused() {
    let (dir, other) = (scratch(), scratch());
    long_log(dir.path());
    long_log(other.path());
    fs::copy(segment(other.path(), 1), segment(dir.path(), 1)).unwrap();
    let error = open(dir.path(), &options()).unwrap_err().to_string();
    assert!(error.contains("000000000001.segment") && error.contains("belongs to log"), "{error}");
}

#[test]
fn a_next_segment_that_was_never_begun_is_no_damage() {
    let dir = scratch();
    let records = long_log(dir.path());
    let numbers = segments(dir.path());
    let blank = segment(dir.path(), numbers.last().unwrap() + 1);
    for content in [&[][..], &[0; 4_096], b"BARRLOG1\x01\x02\x03 a header that was torn", &[0xEE; 3_000]] {
        // A next segment may have been prepared already; this one takes its place.
        fs::write(&blank, content).unwrap();
        assert_holds(&open(dir.path(), &options()).unwrap(), &records);
    }
}

#[test]
fn a_damaged_header_of_a_segment_in_use_is_refused() {
    let dir = scratch();
    long_log(dir.path());
    for number in segments(dir.path()) {
        let bytes = fs::read(segment(dir.path(), number)).unwrap();
        let groups = frames(&bytes).iter().map(|frame| frame.group).collect::<std::collections::BTreeSet<_>>().len();
        if groups < 2 {
            continue;
        }
        let copied = scratch();
        copy(dir.path(), copied.path());
        let path = segment(copied.path(), number);
        let mut file = fs::File::options().write(true).open(&path).unwrap();
        file.write_all(b"X").unwrap();
        match open(copied.path(), &options()) {
            Err(OpenError::Corrupt(damage)) => assert_eq!((damage.path, damage.position), (path, 0)),
            other => panic!("segment {number}: {other:?}"),
        }
    }
}

#[test]
fn a_crash_while_the_log_was_made_leaves_a_log_or_none() {
    // Before the meta file: nothing was there, so the log is made anew.
    let dir = scratch();
    fs::write(dir.path().join("first.new"), b"half").unwrap();
    fs::write(dir.path().join("log.tmp"), b"{").unwrap();
    let uuid = open(dir.path(), &options()).unwrap().uuid();

    // Behind it: the first segment only lacks its name.
    fs::rename(segment(dir.path(), 0), dir.path().join("first.new")).unwrap();
    let log = open(dir.path(), &options()).unwrap();
    assert_eq!(log.uuid(), uuid);
    append_groups(&log, &[vec![b"one".to_vec()]]);
    assert_holds(&log, &[b"one".to_vec()]);
    drop(log);

    // Records without a meta file, and a meta file without records, are no crash.
    fs::rename(dir.path().join("log.json"), dir.path().join("elsewhere")).unwrap();
    let error = open(dir.path(), &options()).unwrap_err();
    assert!(matches!(&error, OpenError::Meta { reason, .. } if reason.contains("put the file back")), "{error}");
    fs::rename(dir.path().join("elsewhere"), dir.path().join("log.json")).unwrap();
    fs::remove_file(segment(dir.path(), 0)).unwrap();
    let error = open(dir.path(), &options()).unwrap_err();
    assert!(matches!(&error, OpenError::MissingSegment { path } if *path == segment(dir.path(), 0)), "{error}");
}

#[test]
fn a_meta_file_that_says_nonsense_is_refused_with_its_name() {
    let dir = scratch();
    open(dir.path(), &options()).unwrap();
    let path = dir.path().join("log.json");
    let good = fs::read_to_string(&path).unwrap();
    for (bad, expected) in [
        (String::new(), "not a log's description"),
        ("{}".to_owned(), "missing field `format`"),
        ("[".repeat(100_000), "not a log's description"),
        (good.replace("\"format\": 1", "\"format\": 2"), "use the version that made it"),
        (good.replace("\"uuid\": \"", "\"uuid\": \"x"), "`uuid`"),
        (good.replace("\"room_partitions\": 2", "\"room_partitions\": 0"), "without partitions"),
        (good.replace("\"room_partitions\": 2", "\"room_partitions\": -1"), "not a log's description"),
        (good.replace("\"user_partitions\": 2", "\"user_partitions\": 2, \"colour\": 1"), "colour"),
    ] {
        assert_ne!(bad, good);
        fs::write(&path, &bad).unwrap();
        let error = open(dir.path(), &options()).unwrap_err().to_string();
        assert!(error.contains("log.json") && error.contains(expected), "{bad:.60}: {error}");
    }
}
