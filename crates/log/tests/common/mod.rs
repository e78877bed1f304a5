//! What the tests of the embedded log share: a small log whose bytes are known.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]
#![allow(dead_code, reason = "every test program uses a part")]

use std::fs;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};

use barrage_event::{Offset, Partition};
use barrage_log::conformance::{append, read_all};
use barrage_log::{EmbeddedLog, EmbeddedOptions, EventLog, LogReader, Metrics, OpenError};

pub(crate) const ROOM: Partition = Partition::room(1);
pub(crate) const USER: Partition = Partition::user(0);

pub(crate) fn options() -> EmbeddedOptions {
    EmbeddedOptions {
        room_partitions: 2,
        user_partitions: 2,
        segment_bytes: 16 << 10,
        chunk_bytes: 512,
        ..EmbeddedOptions::default()
    }
}

pub(crate) fn open(dir: &Path, options: &EmbeddedOptions) -> Result<EmbeddedLog, OpenError> {
    EmbeddedLog::open(dir, options, Metrics::default())
}

/// A directory for a log; in memory where there is such a place, since these tests open thousands of logs.
pub(crate) fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

pub(crate) fn segment(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:012}.segment"))
}

/// Closes a log and leaves its files as a crash would: without the note of how far the last segment was written.
pub(crate) fn crash(log: EmbeddedLog) {
    let dir = log.dir().to_owned();
    drop(log);
    let last = *segments(&dir)
        .iter()
        .rev()
        .find(|&&number| !frames(&fs::read(segment(&dir, number)).unwrap()).is_empty())
        .unwrap();
    fs::remove_file(segment(&dir, last).with_extension("index")).unwrap();
}

/// Numbers of the segment files.
pub(crate) fn segments(dir: &Path) -> Vec<u64> {
    let mut numbers: Vec<u64> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "segment"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().parse().unwrap())
        .collect();
    numbers.sort_unstable();
    numbers
}

/// Appends groups to the log: each inner list becomes one group, each record of it a frame with a copy in both
/// topics. The first group has a frame more, which makes the writer stop until the rest has gathered.
pub(crate) fn append_groups(log: &EmbeddedLog, groups: &[Vec<Vec<u8>>]) {
    for group in groups {
        let (first, rest) = group.split_first().unwrap();
        log.faults().hold_sync();
        let mut acks = vec![append(log, &[(ROOM, first), (USER, first)])];
        log.faults().wait_until_held();
        acks.extend(rest.iter().map(|record| append(log, &[(ROOM, record), (USER, record)])));
        log.faults().release();
        for ack in acks {
            ack.wait().unwrap();
        }
    }
}

/// A frame as it lies in a segment file.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) bytes: Range<usize>,
    pub(crate) group: u64,
}

/// The frames of a segment's bytes, by the documented layout.
pub(crate) fn frames(bytes: &[u8]) -> Vec<Frame> {
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    if bytes.len() < 64 {
        return Vec::new();
    }
    let mut at = u32_at(52);
    let mut frames = Vec::new();
    while bytes.get(at..at + 4) == Some(&b"\xf7BLF"[..]) {
        let group = u64::from_le_bytes(bytes[at + 24..at + 32].try_into().unwrap());
        let end = at + u32_at(at + 12);
        frames.push(Frame { bytes: at..end, group });
        at = end;
    }
    frames
}

/// Copies the files of a log.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// Checks that both partitions hold exactly these records, by the log and by a look at its files.
pub(crate) fn assert_holds(log: &EmbeddedLog, expected: &[Vec<u8>]) {
    for partition in [ROOM, USER] {
        assert_eq!(log.end(partition), Offset(expected.len() as u64), "{partition}");
        assert_eq!(read_all(log, partition, Offset(0), 200), expected, "{partition}");
    }
    let mut seen = Vec::new();
    LogReader::open(log.dir())
        .unwrap()
        .read_all(&mut |partition, record| {
            if partition == ROOM {
                seen.push(record.bytes.to_vec());
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(seen, expected, "what `barrage log` shows");
}
