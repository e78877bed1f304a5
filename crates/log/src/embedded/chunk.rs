//! A run of whole frames in memory, with a directory by partition, shared by all readers.
//!
//! The directory is made once, when the frames are written or read from a file. A reader then touches only the
//! records of its own partition, and finds one by its offset without a search, because offsets are dense.

use std::ops::ControlFlow;

use barrage_event::Offset;

use crate::embedded::format::{self, FrameHeader, Seed};
use crate::embedded::shape::Shape;
use crate::event_log::Record;

/// Where a record lies in its chunk.
#[derive(Debug, Clone, Copy)]
struct Entry {
    timestamp_ms: i64,
    start: u32,
    length: u32,
}

/// Immutable frames and their directory.
#[derive(Debug)]
pub(crate) struct Chunk {
    bytes: Vec<u8>,
    /// First offset of every partition in here, or the next one where there is none.
    first: Box<[u64]>,
    /// For every partition where its entries begin, and one past the last.
    starts: Box<[u32]>,
    /// Entries of partition 0, then of partition 1, and so on.
    entries: Box<[Entry]>,
}

impl Chunk {
    /// First offset of the partition that this chunk holds or would hold.
    pub(crate) fn first(&self, dense: usize) -> u64 {
        self.first.get(dense).copied().unwrap_or(0)
    }

    /// One past the last offset of the partition in here.
    pub(crate) fn next(&self, dense: usize) -> u64 {
        self.first(dense) + self.of(dense).len() as u64
    }

    /// Memory that the chunk takes.
    pub(crate) fn memory(&self) -> usize {
        self.bytes.capacity()
            + size_of::<Self>()
            + size_of_val(&*self.first)
            + size_of_val(&*self.starts)
            + size_of_val(&*self.entries)
    }

    /// The buffer, for the next use.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn of(&self, dense: usize) -> &[Entry] {
        let at = |index: usize| self.starts.get(index).map_or(0, |&start| start as usize);
        self.entries.get(at(dense)..at(dense + 1)).unwrap_or_default()
    }

    /// Visits the records of a partition from the cursor on and moves the cursor.
    pub(crate) fn visit(
        &self,
        dense: usize,
        cursor: &mut Cursor,
        visit: &mut dyn FnMut(Record<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let first = self.first(dense);
        let Some(skip) = cursor.from.checked_sub(first) else { return ControlFlow::Continue(()) };
        let take = cursor.end.saturating_sub(first);
        let (skip, take) = (usize::try_from(skip).unwrap_or(usize::MAX), usize::try_from(take).unwrap_or(usize::MAX));
        for entry in self.of(dense).iter().take(take).skip(skip) {
            let start = entry.start as usize;
            let bytes = self.bytes.get(start..start + entry.length as usize).unwrap_or_default();
            let record = Record { offset: Offset(cursor.from), timestamp_ms: entry.timestamp_ms, bytes };
            cursor.from += 1;
            cursor.bytes_left = cursor.bytes_left.saturating_sub(bytes.len());
            visit(record)?;
            if cursor.bytes_left == 0 {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }
}

/// How far a read has come.
#[derive(Debug)]
pub(crate) struct Cursor {
    /// Next offset to visit.
    pub(crate) from: u64,
    /// One past the last offset that may be visited.
    pub(crate) end: u64,
    pub(crate) bytes_left: usize,
}

/// Makes directories; keeps its scratch memory from chunk to chunk.
#[derive(Debug)]
pub(crate) struct ChunkBuilder {
    shape: Shape,
    first: Vec<u64>,
    next: Vec<u64>,
    found: Vec<(u32, Entry)>,
}

impl ChunkBuilder {
    /// A builder for a chunk in which every partition begins at the offset given.
    pub(crate) fn new(shape: Shape, first: &[u64]) -> Self {
        Self { shape, first: first.to_vec(), next: first.to_vec(), found: Vec::new() }
    }

    /// The next offset of every partition after the frames so far.
    pub(crate) fn next(&self) -> &[u64] {
        &self.next
    }

    /// Records in the frames so far.
    pub(crate) fn records(&self) -> usize {
        self.found.len()
    }

    /// Enters the records of a frame that begins at `start` in the chunk and was checked or written by us.
    pub(crate) fn frame(
        &mut self,
        frame: &[u8],
        start: usize,
        records: u32,
        timestamp_ms: i64,
    ) -> Result<(), &'static str> {
        for record in format::records(frame, records, self.shape) {
            let record = record?;
            let Some(next) = self.next.get_mut(record.dense) else { return Err("a record has an unknown partition") };
            if record.offset != *next {
                return Err("a record's offset does not follow the one before it");
            }
            *next += 1;
            // Chunks and partitions are bounded far below 2^32.
            let entry = Entry {
                timestamp_ms,
                start: u32::try_from(start + record.start).map_err(|_| "a chunk is too large")?,
                length: u32::try_from(record.length).map_err(|_| "a record is too large")?,
            };
            self.found.push((u32::try_from(record.dense).map_err(|_| "a record has an unknown partition")?, entry));
        }
        Ok(())
    }

    /// The chunk of all frames entered, whose bytes these are. The builder goes on with the next chunk.
    pub(crate) fn finish(&mut self, bytes: Vec<u8>) -> Chunk {
        let total = self.shape.total();
        let mut starts = vec![0_u32; total + 1].into_boxed_slice();
        for (dense, start) in starts.iter_mut().enumerate().skip(1) {
            let before = |table: &[u64]| table.get(dense - 1).copied().unwrap_or(0);
            *start = u32::try_from(before(&self.next) - before(&self.first)).unwrap_or(u32::MAX);
        }
        let mut sum = 0;
        for start in &mut starts {
            sum += *start;
            *start = sum;
        }
        let mut free: Vec<u32> = starts.to_vec();
        let unused = Entry { timestamp_ms: 0, start: 0, length: 0 };
        let mut entries = vec![unused; self.found.len()].into_boxed_slice();
        for (dense, entry) in self.found.drain(..) {
            if let Some(at) = free.get_mut(dense as usize)
                && let Some(place) = entries.get_mut(*at as usize)
            {
                *place = entry;
                *at += 1;
            }
        }
        let first = std::mem::replace(&mut self.first, self.next.clone()).into_boxed_slice();
        Chunk { bytes, first, starts, entries }
    }
}

/// Checks the frames in `bytes`, which begin at `position` of their file, and makes the chunk. On damage gives the
/// position and the reason.
pub(crate) fn check(
    bytes: Vec<u8>,
    position: u32,
    seed: Seed,
    shape: Shape,
    first: &[u64],
) -> Result<Chunk, (u64, &'static str)> {
    let mut builder = ChunkBuilder::new(shape, first);
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        let place = position + u32::try_from(at).expect("a chunk lies in a segment, which is below 4 GiB");
        let frame = (|| {
            let header = FrameHeader::decode(rest, seed, place)?;
            let frame = rest.get(..header.length).ok_or("the frame is cut short")?;
            header.check_body(frame)?;
            builder.frame(frame, at, header.records, header.timestamp_ms)?;
            Ok(header.length)
        })();
        at += frame.map_err(|reason| (u64::from(place), reason))?;
    }
    Ok(builder.finish(bytes))
}
