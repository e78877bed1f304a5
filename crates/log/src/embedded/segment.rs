//! Segment files: their names, their directory entries, and what is known of each in memory.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use crate::embedded::format::Seed;
use crate::embedded::shape::Shape;

const EXTENSION: &str = "segment";
const INDEX_EXTENSION: &str = "index";

/// Path of a segment's file.
pub(crate) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:012}.{EXTENSION}"))
}

/// Path of a sealed segment's index.
pub(crate) fn index_path(segment: &Path) -> PathBuf {
    segment.with_extension(INDEX_EXTENSION)
}

/// Numbers of all segment files in a directory, in order. Other files are left alone.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let number = path
            .file_stem()
            .filter(|_| path.extension().is_some_and(|extension| extension == EXTENSION))
            .and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Makes an empty segment file with its space reserved, durable with its directory entry.
///
/// The space is allocated at once and the size is final, so that a group's `fdatasync` does not have to write the
/// file's size; what is not written yet reads as zeros.
pub(crate) fn prepare(dir: &Path, number: u64, bytes: u64) -> io::Result<File> {
    let path = path(dir, number);
    let file = File::options().create(true).truncate(true).read(true).write(true).open(path)?;
    reserve(&file, bytes)?;
    file.sync_all()?;
    crate::embedded::meta::sync_dir(dir)?;
    Ok(file)
}

/// Overwrites reserved space with zeros until `hurry` is set.
///
/// Reserved space is marked as unwritten, and a file system takes the mark away when a group is written into it: its
/// `fdatasync` has to commit the journal as well, which costs as much again as the data, and far more when other
/// programs write. Space that was written before has no such mark. Every step is synced, so that little of it stands
/// in the disk's queue before a group.
pub(crate) fn write_zeros(file: &File, bytes: u64, hurry: &AtomicBool) -> io::Result<()> {
    const STEP: u64 = 1 << 20;
    let zeros = vec![0; usize::try_from(STEP.min(bytes)).unwrap_or_default()];
    let mut position = 0;
    while position < bytes && !hurry.load(Ordering::Relaxed) {
        let step = usize::try_from((bytes - position).min(STEP)).unwrap_or_default();
        file.write_all_at(zeros.get(..step).unwrap_or_default(), position)?;
        rustix::fs::fdatasync(file)?;
        position += step as u64;
    }
    Ok(())
}

/// Reserves space up to `bytes`; on a file system that cannot, the file is merely extended with zeros.
pub(crate) fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
            if file.metadata()?.len() < bytes {
                file.set_len(bytes)?;
            }
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// Where the pieces of a segment begin, with the next offset of every partition at that place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Index {
    positions: Vec<u32>,
    /// A row of offsets for every position.
    offsets: Vec<u64>,
    partitions: usize,
    /// One past the last durable byte.
    pub(crate) end: u32,
}

/// A piece of a segment: whole frames from `start` to `end`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) start: u32,
    pub(crate) end: u32,
    /// First offset of every partition.
    pub(crate) first: Box<[u64]>,
}

impl Index {
    /// The index of a segment without frames.
    pub(crate) fn new(header_bytes: u32, base: &[u64]) -> Self {
        Self { positions: vec![header_bytes], offsets: base.to_vec(), partitions: base.len(), end: header_bytes }
    }

    /// Begins a piece at `position`, where the partitions go on at `next`. A piece without bytes is moved instead.
    pub(crate) fn begin(&mut self, position: u32, next: &[u64]) {
        if self.positions.last() == Some(&position) {
            self.offsets.truncate(self.offsets.len() - self.partitions);
        } else {
            self.positions.push(position);
        }
        self.offsets.extend_from_slice(next);
    }

    /// Where the last piece begins.
    pub(crate) fn last(&self) -> u32 {
        self.positions.last().copied().unwrap_or(0)
    }

    /// All positions.
    pub(crate) fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// The offsets at the position of that place in the list.
    pub(crate) fn row(&self, place: usize) -> &[u64] {
        self.offsets.get(place * self.partitions..(place + 1) * self.partitions).unwrap_or_default()
    }

    /// The piece that holds the record of the partition at `offset`, if this segment holds it.
    pub(crate) fn find(&self, dense: usize, offset: u64) -> Option<Piece> {
        // Rows never decrease in any column, so the list can be halved.
        let (mut low, mut high) = (0, self.positions.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.row(middle).get(dense).is_some_and(|&first| first <= offset) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let place = low.checked_sub(1)?;
        let start = *self.positions.get(place)?;
        let end = self.positions.get(place + 1).copied().unwrap_or(self.end);
        (start < end).then(|| Piece { start, end, first: self.row(place).into() })
    }
}

/// A segment that holds or will hold durable records.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) path: PathBuf,
    /// First offset of every partition.
    pub(crate) base: Box<[u64]>,
    pub(crate) seed: Seed,
    pub(crate) index: RwLock<Index>,
}

impl Segment {
    pub(crate) fn new(dir: &Path, uuid: u128, number: u64, base: &[u64], index: Index) -> Self {
        Self {
            number,
            path: path(dir, number),
            base: base.into(),
            seed: Seed::new(uuid, number),
            index: RwLock::new(index),
        }
    }

    pub(crate) fn find(&self, dense: usize, offset: u64) -> Option<Piece> {
        self.index.read().unwrap_or_else(PoisonError::into_inner).find(dense, offset)
    }
}

/// Size of a segment's header as a position.
pub(crate) fn header_bytes(shape: Shape) -> u32 {
    u32::try_from(crate::embedded::format::SegmentHeader::bytes(shape)).expect("at most 2,048 offsets of 8 bytes")
}
