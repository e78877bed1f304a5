//! Opening: finds out what is in the segment files, cuts a torn tail, refuses damage.
//!
//! A write that was not finished when the machine or the process stopped was not acknowledged, so it may be cut.
//! Whatever else is not as it was written may have been acknowledged, so nothing is changed and the log does not open.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use crate::clock::now_ms;
use crate::embedded::EmbeddedOptions;
use crate::embedded::format::{Seed, SegmentHeader};
use crate::embedded::index_file::Summary;
use crate::embedded::meta::{self, Meta};
use crate::embedded::scan::{Scan, Stop, Walk, Window, look_behind, scan};
use crate::embedded::segment::{self, Index, Segment, header_bytes};
use crate::embedded::shape::Shape;
use crate::embedded::trim::{self, Start};
use crate::error::{Corruption, OpenError};

/// Name of the first segment while the log is being made.
const FIRST_SEGMENT_NEW: &str = "first.new";

/// What the log holds.
#[derive(Debug)]
pub(crate) struct Recovered {
    /// All segments in order; the last one takes the next records.
    pub(crate) segments: Vec<Arc<Segment>>,
    /// File of the last one.
    pub(crate) file: File,
    /// Next offset of every partition.
    pub(crate) next: Box<[u64]>,
    /// Number of the last group.
    pub(crate) group: u64,
    /// The latest time of a group in the last segment, 0 when there is none in it.
    pub(crate) last_newest_ms: i64,
    /// The latest time of any group.
    pub(crate) newest_ms: i64,
}

/// Reads `log.json`, or makes the log. The directory is locked by the caller.
pub(crate) fn identify(dir: &Path, options: &EmbeddedOptions) -> Result<Meta, OpenError> {
    let shape = Shape { room: options.room_partitions, user: options.user_partitions };
    let Some(meta) = Meta::read(dir)? else {
        return create(dir, shape, options.segment_bytes);
    };
    if meta.shape != shape {
        return Err(OpenError::OtherPartitions {
            dir: dir.to_owned(),
            found_room: meta.shape.room,
            found_user: meta.shape.user,
            asked_room: shape.room,
            asked_user: shape.user,
        });
    }
    Ok(meta)
}

/// Makes a log: its first segment under another name, then the meta file, then the right name. A crash in between
/// leaves what the next opening finishes or begins anew.
fn create(dir: &Path, shape: Shape, segment_bytes: u64) -> Result<Meta, OpenError> {
    if let Some(&number) = segment::list(dir).map_err(OpenError::io("list", dir))?.first() {
        let reason = format!(
            "missing, but there are records in {}: put the file back from a copy, or start a new log in another data \
             directory",
            segment::path(dir, number).display()
        );
        return Err(OpenError::Meta { path: Meta::path(dir), reason });
    }
    let mut random = [0; 16];
    getrandom::fill(&mut random)
        .map_err(|error| OpenError::io("make a uuid for", dir)(io::Error::other(error.to_string())))?;
    let meta = Meta { uuid: u128::from_le_bytes(random), shape };
    let header = SegmentHeader {
        uuid: meta.uuid,
        number: 0,
        group: 0,
        shape,
        created_ms: now_ms(),
        base: vec![0; shape.total()].into(),
    };
    let path = dir.join(FIRST_SEGMENT_NEW);
    let first = || -> io::Result<()> {
        let file = File::create(&path)?;
        segment::reserve(&file, segment_bytes)?;
        file.write_all_at(&header.encode(), 0)?;
        file.sync_all()?;
        meta::sync_dir(dir)
    };
    first().map_err(OpenError::io("write", &path))?;
    meta.write(dir)?;
    finish_creation(dir)?;
    Ok(meta)
}

fn finish_creation(dir: &Path) -> Result<(), OpenError> {
    let path = dir.join(FIRST_SEGMENT_NEW);
    fs::rename(&path, segment::path(dir, 0)).map_err(OpenError::io("rename", &path))?;
    meta::sync_dir(dir).map_err(OpenError::io("sync", dir))
}

/// Finds out what the log holds and makes its end ready for the next record.
pub(crate) fn recover(dir: &Path, meta: &Meta, options: &EmbeddedOptions) -> Result<Recovered, OpenError> {
    let begin = Start::read(dir, meta)?;
    // A trim that was not finished is finished now: what it gives up was decided durably.
    let removed = trim::remove_before(dir, begin.segment).map_err(OpenError::io("remove old segments of", dir))?;
    if removed > 0 {
        tracing::info!(segments = removed, "a trim of the log was finished");
    }
    let mut numbers = segment::list(dir).map_err(OpenError::io("list", dir))?;
    if begin.segment == 0 && numbers.is_empty() && dir.join(FIRST_SEGMENT_NEW).exists() {
        finish_creation(dir)?;
        numbers.push(0);
    }
    check_gaps(dir, begin.segment, &numbers)?;
    let headers = headers(dir, meta, begin.segment, &mut numbers)?;
    let Some((last, sealed)) = headers.split_last() else {
        return Err(OpenError::MissingSegment { path: segment::path(dir, begin.segment) });
    };
    let mut segments = Vec::with_capacity(headers.len());
    let mut before: Option<Summary> = None;
    let mut newest_ms = 0;
    for (header, after) in sealed.iter().zip(headers.iter().skip(1)) {
        follows(dir, before.as_ref(), &begin, header)?;
        let summary = sealed_summary(dir, meta, header, after, options.chunk_bytes)?;
        segments.push(Arc::new(Segment::new(dir, meta.uuid, header.number, &header.base, summary.index.clone())));
        newest_ms = newest_ms.max(summary.newest_ms);
        before = Some(summary);
    }
    follows(dir, before.as_ref(), &begin, last)?;
    let (file, summary) = open_last(dir, meta, last, options)?;
    segments.push(Arc::new(Segment::new(dir, meta.uuid, last.number, &last.base, summary.index)));
    let Summary { next, group, newest_ms: last_newest_ms, .. } = summary;
    Ok(Recovered { segments, file, next, group, last_newest_ms, newest_ms: newest_ms.max(last_newest_ms) })
}

/// Segments are numbered from the first one that is kept without gaps.
pub(crate) fn check_gaps(dir: &Path, first: u64, numbers: &[u64]) -> Result<(), OpenError> {
    for (expected, &number) in (first..).zip(numbers) {
        if number != expected {
            return Err(OpenError::MissingSegment { path: segment::path(dir, expected) });
        }
    }
    Ok(())
}

/// Reads the header of a segment file. The inner error is one of its content.
pub(crate) fn read_header(file: &File, meta: &Meta, number: u64) -> io::Result<Result<SegmentHeader, String>> {
    let mut window = Window::new(file);
    let bytes = window.get(0, SegmentHeader::bytes(meta.shape))?;
    Ok(SegmentHeader::decode(bytes, meta.uuid, number, meta.shape))
}

/// Reads all headers. A last segment that was prepared and never begun, or whose first write was torn, is removed.
fn headers(dir: &Path, meta: &Meta, begin: u64, numbers: &mut Vec<u64>) -> Result<Vec<SegmentHeader>, OpenError> {
    while let Some(&number) = numbers.last() {
        let path = segment::path(dir, number);
        let file = File::open(&path).map_err(OpenError::io("open", &path))?;
        let Err(reason) = read_header(&file, meta, number).map_err(OpenError::io("read", &path))? else { break };
        let first_frame = header_bytes(meta.shape);
        let front = Window::new(&file).get(0, 64).map_err(OpenError::io("read", &path))?.iter().any(|&byte| byte != 0);
        let behind = look_behind(&mut Window::new(&file), Seed::new(meta.uuid, number), first_frame);
        let behind = behind.map_err(OpenError::io("read", &path))?;
        // The first segment's header is durable before the log exists, or was when those before it were given up. Of any
        // other one it is written together with the first group.
        if number == begin || behind.later.is_some() {
            return Err(Corruption::new(&path, 0, reason).into());
        }
        if front || behind.last_byte.is_some() {
            tracing::warn!(
                file = %path.display(), position = 0, reason,
                "the last segment's first write was not finished; the file is removed. Nothing acknowledged can be in it"
            );
        }
        fs::remove_file(&path).map_err(OpenError::io("remove", &path))?;
        meta::sync_dir(dir).map_err(OpenError::io("sync", dir))?;
        numbers.pop();
    }
    numbers
        .iter()
        .map(|&number| {
            let path = segment::path(dir, number);
            let file = File::open(&path).map_err(OpenError::io("open", &path))?;
            let header = read_header(&file, meta, number).map_err(OpenError::io("read", &path))?;
            header.map_err(|reason| Corruption::new(&path, 0, reason).into())
        })
        .collect()
}

/// A segment begins where the one before it ends.
fn follows(dir: &Path, before: Option<&Summary>, begin: &Start, header: &SegmentHeader) -> Result<(), OpenError> {
    let fits = match before {
        Some(before) => before.next == header.base && before.group == header.group,
        None => begin.fits(header),
    };
    if fits {
        return Ok(());
    }
    let reason = "the segment does not begin where the one before it ends";
    Err(Corruption::new(&segment::path(dir, header.number), 0, reason).into())
}

/// What a sealed segment holds, from its index file, or from the segment when that cannot be used.
fn sealed_summary(
    dir: &Path,
    meta: &Meta,
    header: &SegmentHeader,
    after: &SegmentHeader,
    piece_bytes: u32,
) -> Result<Summary, OpenError> {
    let path = segment::path(dir, header.number);
    let file = File::open(&path).map_err(OpenError::io("open", &path))?;
    let length = file.metadata().map_err(OpenError::io("read", &path))?.len();
    let unusable = match Summary::read(&path, meta.uuid, header.number, meta.shape) {
        Ok(summary) if summary.next != after.base || summary.group != after.group => {
            "it does not end where the next segment begins".to_owned()
        }
        Ok(summary) if u64::from(summary.index.end) > length => {
            let reason = format!("the file has {length} bytes, its index says {}", summary.index.end);
            return Err(Corruption::new(&path, length, reason).into());
        }
        Ok(summary) => return Ok(summary),
        Err(reason) => reason,
    };
    tracing::info!(file = %path.display(), reason = unusable, "the segment's index cannot be used and is made again");
    let Scan { summary, stop, .. } =
        scan_segment(&file, meta, header, piece_bytes).map_err(OpenError::io("read", &path))?;
    let position = summary.index.end.into();
    match stop {
        Stop::Clean => {}
        Stop::Torn { reason, .. } => return Err(Corruption::new(&path, position, reason).into()),
        Stop::Damaged(reason) => return Err(Corruption::new(&path, position, reason).into()),
    }
    if summary.next != after.base || summary.group != after.group {
        return Err(Corruption::new(&path, position, "records are missing at the segment's end").into());
    }
    if let Err(error) = summary.write(&path, meta.uuid, header.number) {
        tracing::warn!(file = %path.display(), %error, "cannot write the segment's index; the next start will be slower");
    }
    Ok(summary)
}

fn scan_segment(file: &File, meta: &Meta, header: &SegmentHeader, piece_bytes: u32) -> io::Result<Scan> {
    let seed = Seed::new(meta.uuid, header.number);
    let walk = Walk::new(seed, meta.shape, header_bytes(meta.shape), &header.base, header.group);
    scan(file, walk, piece_bytes)
}

/// Reads the last segment, cuts what was not finished, and makes what is left durable.
fn open_last(
    dir: &Path,
    meta: &Meta,
    header: &SegmentHeader,
    options: &EmbeddedOptions,
) -> Result<(File, Summary), OpenError> {
    let path = segment::path(dir, header.number);
    let file = File::options().read(true).write(true).open(&path).map_err(OpenError::io("open", &path))?;
    let scan = scan_segment(&file, meta, header, options.chunk_bytes).map_err(OpenError::io("read", &path))?;
    let end = u64::from(scan.summary.index.end);
    // A log that was closed left an index of its last segment; one that crashed did not, since opening removes it. One
    // that comes back with a crash of the machine is older than what is there.
    let closed = Summary::read(&path, meta.uuid, header.number, meta.shape).ok();
    if let Some(closed_end) = closed.map(|closed| closed.index.end).filter(|&closed| u64::from(closed) > end) {
        let reason = format!("when the log was closed it was intact up to byte {closed_end}");
        return Err(Corruption::new(&path, end, reason).into());
    }
    match scan.stop {
        Stop::Clean => {}
        Stop::Damaged(reason) => return Err(Corruption::new(&path, end, reason).into()),
        Stop::Torn { reason, bytes } => {
            tracing::warn!(
                file = %path.display(), position = end, bytes, reason,
                "the last write was not finished and is cut off the log. Nothing acknowledged can be in it; how many \
                 records it held is unknown"
            );
            file.set_len(end).map_err(OpenError::io("cut", &path))?;
        }
    }
    match fs::remove_file(segment::index_path(&path)) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(OpenError::io("remove", &segment::index_path(&path))(error)),
    }
    let start = scan.group_start.filter(|&start| start != header_bytes(meta.shape)).map_or(0, u64::from);
    rewrite(&file, start, end).map_err(OpenError::io("write", &path))?;
    segment::reserve(&file, options.segment_bytes.max(end)).map_err(OpenError::io("reserve space in", &path))?;
    file.sync_all().map_err(OpenError::io("sync", &path))?;
    let mut summary = scan.summary;
    // What is written from now on is in pieces of its own, so that pieces that readers have do not change.
    summary.index.begin(summary.index.end, &summary.next);
    Ok((file, summary))
}

/// Writes the same bytes again. The last group may be in the page cache only: a process that was killed before its
/// `fdatasync` leaves it there, and one whose `fdatasync` failed leaves pages that the system believes to be clean.
/// All groups before it were durable before it was written.
fn rewrite(file: &File, start: u64, end: u64) -> io::Result<()> {
    let mut window = Window::new(file);
    let mut position = start;
    while position < end {
        let length = usize::try_from(end - position).unwrap_or(usize::MAX).min(1 << 20);
        let bytes = window.get(position, length)?;
        if bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        file.write_all_at(bytes, position)?;
        position += bytes.len() as u64;
    }
    Ok(())
}

/// Cuts a full segment to its length and writes its index.
pub(crate) fn seal(segment: &Segment, uuid: u128, next: &[u64], group: u64, newest_ms: i64) -> io::Result<()> {
    let end = segment.index.read().unwrap_or_else(PoisonError::into_inner).end;
    File::options().write(true).open(&segment.path)?.set_len(end.into())?;
    write_index(segment, uuid, next, group, newest_ms)
}

/// Writes the index of a segment: of a full one, or of the last one when the log is closed, where it tells the next
/// opening how far the segment must be intact.
pub(crate) fn write_index(segment: &Segment, uuid: u128, next: &[u64], group: u64, newest_ms: i64) -> io::Result<()> {
    let index: Index = segment.index.read().unwrap_or_else(PoisonError::into_inner).clone();
    Summary { index, next: next.into(), group, newest_ms }.write(&segment.path, uuid, segment.number)
}
