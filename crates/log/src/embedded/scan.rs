//! Reads segment files frame by frame: for recovery, for indices that are missing, and for `barrage log`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::embedded::format::{ALIGN, FRAME_HEADER, FrameHeader, Seed, records};
use crate::embedded::index_file::Summary;
use crate::embedded::segment::Index;
use crate::embedded::shape::Shape;

/// How much is read ahead.
const READ_BYTES: usize = 1 << 20;

/// A moving window over a file.
#[derive(Debug)]
pub(crate) struct Window<'a> {
    file: &'a File,
    /// Only the first `filled` bytes are the file's.
    bytes: Vec<u8>,
    filled: usize,
    /// Position of `bytes` in the file.
    start: u64,
}

impl<'a> Window<'a> {
    pub(crate) fn new(file: &'a File) -> Self {
        Self { file, bytes: Vec::new(), filled: 0, start: 0 }
    }

    /// The bytes from `position` on: `length` of them, or fewer at the end of the file.
    pub(crate) fn get(&mut self, position: u64, length: usize) -> io::Result<&[u8]> {
        let skip = position.checked_sub(self.start).and_then(|skip| usize::try_from(skip).ok());
        if skip.is_none_or(|skip| skip.saturating_add(length) > self.filled) {
            self.fill(position, length)?;
        }
        let skip = usize::try_from(position - self.start).unwrap_or(usize::MAX);
        let rest = self.bytes.get(skip..self.filled).unwrap_or_default();
        Ok(rest.get(..length).unwrap_or(rest))
    }

    fn fill(&mut self, position: u64, length: usize) -> io::Result<()> {
        let wanted = length.max(READ_BYTES);
        if self.bytes.len() < wanted {
            self.bytes = vec![0; wanted];
        }
        (self.start, self.filled) = (position, 0);
        while let Some(rest) = self.bytes.get_mut(self.filled..wanted).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, position + self.filled as u64) {
                Ok(0) => break,
                Ok(more) => self.filled += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// What a walk over the frames of a segment has seen so far.
#[derive(Debug)]
pub(crate) struct Walk {
    seed: Seed,
    shape: Shape,
    /// Position of the next frame.
    pub(crate) position: u32,
    /// Next offset of every partition.
    pub(crate) next: Box<[u64]>,
    /// Number of the last group.
    pub(crate) group: u64,
    /// Where the last group begins, if there is one in this segment.
    pub(crate) group_start: Option<u32>,
    /// The latest time of a group in this segment.
    pub(crate) newest_ms: i64,
    /// Takes the group of the next frame as it is.
    any_group: bool,
}

/// What stands at the walk's position.
#[derive(Debug)]
pub(crate) enum Step<'w> {
    /// A frame that fits; the walk stands behind it.
    Frame { header: FrameHeader, frame: &'w [u8] },
    /// The end of the file, or zeros at least as far as a frame's header reaches.
    Blank,
    /// Bytes that are no valid frame.
    Invalid(&'static str),
    /// A frame whose checksum is right and whose content does not follow from what is before it.
    Impossible(&'static str),
}

impl Walk {
    pub(crate) fn new(seed: Seed, shape: Shape, start: u32, base: &[u64], group: u64) -> Self {
        Self {
            seed,
            shape,
            position: start,
            next: base.into(),
            group,
            group_start: None,
            newest_ms: 0,
            any_group: false,
        }
    }

    /// A walk that begins at a frame in the middle of a segment.
    pub(crate) fn resume(seed: Seed, shape: Shape, start: u32, next: &[u64]) -> Self {
        Self { any_group: true, ..Self::new(seed, shape, start, next, 0) }
    }

    /// Looks at the walk's position and moves behind a valid frame.
    pub(crate) fn step<'w>(&mut self, window: &'w mut Window<'_>) -> io::Result<Step<'w>> {
        let position = u64::from(self.position);
        let bytes = window.get(position, FRAME_HEADER)?;
        if bytes.iter().all(|&byte| byte == 0) {
            return Ok(Step::Blank);
        }
        let header = match FrameHeader::decode(bytes, self.seed, self.position) {
            Ok(header) => header,
            Err(reason) => return Ok(Step::Invalid(reason)),
        };
        let frame = window.get(position, header.length)?;
        if let Err(reason) = header.check_body(frame) {
            return Ok(Step::Invalid(reason));
        }
        Ok(match self.enter(&header, frame) {
            Ok(()) => Step::Frame { header, frame },
            Err(reason) => Step::Impossible(reason),
        })
    }

    fn enter(&mut self, header: &FrameHeader, frame: &[u8]) -> Result<(), &'static str> {
        let begins = header.group_start == self.position;
        let follows = if begins {
            self.group.checked_add(1) == Some(header.group)
        } else {
            self.group == header.group && self.group_start == Some(header.group_start)
        };
        if !follows && !std::mem::take(&mut self.any_group) {
            return Err("the frame's group does not follow the one before it");
        }
        for record in records(frame, header.records, self.shape) {
            let record = record?;
            match self.next.get_mut(record.dense) {
                Some(next) if *next == record.offset => *next += 1,
                _ => return Err("a record's offset does not follow the one before it"),
            }
        }
        let length = u32::try_from(header.length).map_err(|_| "the frame is too large")?;
        self.position = self.position.checked_add(length).ok_or("the segment is too large")?;
        self.group = header.group;
        self.group_start = Some(header.group_start);
        self.newest_ms = self.newest_ms.max(header.timestamp_ms);
        Ok(())
    }
}

/// Where a walk over a segment ended, and why.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) summary: Summary,
    /// Where the last group begins, if there is one in this segment.
    pub(crate) group_start: Option<u32>,
    pub(crate) stop: Stop,
}

/// What stands behind the last valid frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Nothing, or zeros to the end of the file.
    Clean,
    /// Bytes that are no valid frame, and nothing that was written after they were durable.
    Torn {
        reason: &'static str,
        /// Bytes from the stop to the last one that is not zero.
        bytes: u64,
    },
    /// Bytes that were durable once and are no longer valid.
    Damaged(String),
}

/// Walks a whole segment from its first frame on; pieces of its index are at least `piece_bytes` long.
pub(crate) fn scan(file: &File, mut walk: Walk, piece_bytes: u32) -> io::Result<Scan> {
    let mut window = Window::new(file);
    let mut index = Index::new(walk.position, &walk.next);
    let reason = loop {
        if walk.position - index.last() >= piece_bytes {
            index.begin(walk.position, &walk.next);
        }
        match walk.step(&mut window)? {
            Step::Frame { .. } => {}
            Step::Blank => break "there are zeros where a frame should begin",
            Step::Invalid(reason) => break reason,
            Step::Impossible(reason) => {
                return Ok(finish(walk, index, Stop::Damaged(reason.to_owned())));
            }
        }
    };
    let rest = look_behind(&mut window, walk.seed, walk.position)?;
    let stop = match rest {
        Behind { last_byte: None, .. } => Stop::Clean,
        Behind { later: Some(later), .. } => Stop::Damaged(format!(
            "{reason}, yet a frame at byte {later} was written after everything before it was durable"
        )),
        Behind { last_byte: Some(last), .. } => Stop::Torn { reason, bytes: last + 1 - u64::from(walk.position) },
    };
    Ok(finish(walk, index, stop))
}

fn finish(walk: Walk, mut index: Index, stop: Stop) -> Scan {
    index.end = walk.position;
    let summary = Summary { index, next: walk.next, group: walk.group, newest_ms: walk.newest_ms };
    Scan { summary, group_start: walk.group_start, stop }
}

/// What lies behind a place where no valid frame begins.
#[derive(Debug, Default)]
pub(crate) struct Behind {
    /// Position of the last byte that is not zero.
    pub(crate) last_byte: Option<u64>,
    /// Position of a frame whose group begins behind the place.
    pub(crate) later: Option<u64>,
}

/// Looks at everything from `from` on. A frame's header alone is proof that its group was written: nothing else has
/// its checksum at its place.
pub(crate) fn look_behind(window: &mut Window<'_>, seed: Seed, from: u32) -> io::Result<Behind> {
    let mut behind = Behind::default();
    let mut position = u64::from(from).next_multiple_of(ALIGN as u64);
    loop {
        // Overlaps the next window by a header, so that none is missed at the border.
        let bytes = window.get(position, READ_BYTES)?;
        if bytes.is_empty() {
            return Ok(behind);
        }
        let last_round = bytes.len() < READ_BYTES;
        if is_blank(bytes) {
            if last_round {
                return Ok(behind);
            }
            position += READ_BYTES as u64;
            position = next_data(window.file, position)?;
            continue;
        }
        let round = if last_round { bytes.len() } else { bytes.len() - FRAME_HEADER };
        for at in (0..round).step_by(ALIGN) {
            let Some(rest) = bytes.get(at..) else { break };
            let word = rest.first_chunk::<ALIGN>();
            if word == Some(&[0; ALIGN]) {
                continue;
            }
            let lane = rest.get(..ALIGN).unwrap_or(rest);
            if let Some(last) = lane.iter().rposition(|&byte| byte != 0) {
                behind.last_byte = Some(position + (at + last) as u64);
            }
            let place = position + at as u64;
            let Ok(narrow) = u32::try_from(place) else { continue };
            if FrameHeader::decode(rest, seed, narrow).is_ok_and(|header| header.group_start > from) {
                behind.later = Some(place);
                return Ok(behind);
            }
        }
        if last_round {
            return Ok(behind);
        }
        position += round as u64;
    }
}

/// Whether there are only zeros; a comparison with itself one byte on is one call into an optimised library.
fn is_blank(bytes: &[u8]) -> bool {
    let shifted = bytes.get(1..).unwrap_or_default();
    bytes.first().is_none_or(|&first| first == 0) && bytes.get(..shifted.len()) == Some(shifted)
}

/// The next position that may hold something, from `position` on: reserved space that was never written is skipped
/// where the file system tells. Past the end of the file when nothing follows.
fn next_data(file: &File, position: u64) -> io::Result<u64> {
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(position)) {
        Ok(data) => Ok(data.max(position) / ALIGN as u64 * ALIGN as u64),
        Err(rustix::io::Errno::NXIO) => Ok(position.max(file.metadata()?.len()).next_multiple_of(ALIGN as u64)),
        Err(_) => Ok(position),
    }
}
