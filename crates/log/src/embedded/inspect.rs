//! Looks into a log's files without opening it: for `barrage log`, while a server runs or when none does.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use barrage_event::{Offset, Partition, Topic};

use crate::embedded::format::{Seed, SegmentHeader, records};
use crate::embedded::index_file::Summary;
use crate::embedded::meta::Meta;
use crate::embedded::recover::{check_gaps, read_header};
use crate::embedded::scan::{Step, Walk, Window};
use crate::embedded::segment::{self, header_bytes};
use crate::embedded::trim::Start;
use crate::error::{Corruption, OpenError, ReadError};
use crate::event_log::Record;

/// Reads the files of an embedded log and never changes them. Takes no lock, so it works beside a running server; it
/// may then show records that are written and not yet durable.
#[derive(Debug)]
pub struct LogReader {
    dir: PathBuf,
    meta: Meta,
}

/// Why a [`LogReader`] stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// At the end of the log: nothing is written behind it.
    End,
    /// The visitor broke.
    Stopped,
    /// At bytes that are no valid record. When a server runs, it is writing there; when none does, a write was not
    /// finished, which the next start cuts off, or the file is damaged, at which the next start refuses.
    Invalid {
        /// The file.
        path: PathBuf,
        /// Where in it, in bytes.
        position: u64,
        /// What is wrong there.
        reason: String,
    },
}

impl LogReader {
    /// Looks at the log in `dir`.
    ///
    /// # Errors
    /// [`OpenError::Meta`] when there is no log in `dir`, or none that this version can read.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let missing = || OpenError::Meta { path: Meta::path(dir), reason: "there is no log here".to_owned() };
        let meta = Meta::read(dir)?.ok_or_else(missing)?;
        Ok(Self { dir: dir.to_owned(), meta })
    }

    /// Identity of the log.
    #[must_use]
    pub fn uuid(&self) -> u128 {
        self.meta.uuid
    }

    /// Number of partitions of a topic.
    #[must_use]
    pub fn partitions(&self, topic: Topic) -> u16 {
        self.meta.shape.of(topic)
    }

    /// Visits all records of all partitions in the order of the log.
    ///
    /// # Errors
    /// As [`LogReader::read`].
    pub fn read_all(
        &self,
        visit: &mut dyn FnMut(Partition, Record<'_>) -> ControlFlow<()>,
    ) -> Result<Ending, ReadError> {
        self.walk(self.first()?, None, visit)
    }

    /// Visits the records of one partition from `from` on.
    ///
    /// # Errors
    /// [`ReadError::UnknownPartition`]; [`ReadError::Corrupt`] when a segment does not follow from the one before it or
    /// is missing; [`ReadError::Io`].
    pub fn read(
        &self,
        partition: Partition,
        from: Offset,
        visit: &mut dyn FnMut(Record<'_>) -> ControlFlow<()>,
    ) -> Result<Ending, ReadError> {
        let dense = self.meta.shape.dense(partition).ok_or(ReadError::UnknownPartition { partition })?;
        self.walk(self.segment_of(dense, from.0)?, Some((dense, from.0)), &mut |of, record| {
            if of != partition || record.offset < from { ControlFlow::Continue(()) } else { visit(record) }
        })
    }

    /// The last segment that begins at or before the offset.
    fn segment_of(&self, dense: usize, offset: u64) -> Result<u64, ReadError> {
        let numbers = self.numbers()?;
        let first = numbers.first().copied().unwrap_or(0);
        let (mut low, mut high) = (first, numbers.last().map_or(0, |last| last + 1));
        while low < high {
            let middle = low + (high - low) / 2;
            let before = self.begun(middle)?.and_then(|(_, header)| header.base.get(dense).map(|&base| base <= offset));
            if before == Some(true) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low.saturating_sub(1).max(first))
    }

    fn numbers(&self) -> Result<Vec<u64>, ReadError> {
        let mut numbers = segment::list(&self.dir).map_err(ReadError::io("list", &self.dir))?;
        // What is given up may be being removed.
        let first = self.first()?;
        numbers.retain(|&number| number >= first);
        check_gaps(&self.dir, first, &numbers).map_err(|error| Corruption::new(&self.dir, 0, error.to_string()))?;
        Ok(numbers)
    }

    /// The first segment that was not given up.
    fn first(&self) -> Result<u64, ReadError> {
        let start = Start::read(&self.dir, &self.meta);
        start.map(|start| start.segment).map_err(|error| Corruption::new(&self.dir, 0, error.to_string()).into())
    }

    /// File and header of a segment; none when it is not there or was not begun.
    fn begun(&self, number: u64) -> Result<Option<(File, SegmentHeader)>, ReadError> {
        let path = segment::path(&self.dir, number);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(ReadError::io("open", &path)(error)),
        };
        match read_header(&file, &self.meta, number).map_err(ReadError::io("read", &path))? {
            Ok(header) => Ok(Some((file, header))),
            Err(_) if segment::path(&self.dir, number + 1).exists() || number == self.first()? => {
                Err(Corruption::new(&path, 0, "the segment's header is damaged").into())
            }
            Err(_) => Ok(None),
        }
    }

    /// Walks from the first frame of a segment on, or from the piece of it that holds the record asked for.
    fn walk(
        &self,
        first: u64,
        wanted: Option<(usize, u64)>,
        visit: &mut dyn FnMut(Partition, Record<'_>) -> ControlFlow<()>,
    ) -> Result<Ending, ReadError> {
        self.numbers()?;
        let Some((mut file, header)) = self.begun(first)? else { return Ok(Ending::End) };
        let mut path = segment::path(&self.dir, first);
        let mut walk = self.start(&path, &header, wanted);
        let mut number = first;
        loop {
            let mut ending = self.segment(&file, &path, &mut walk, visit)?;
            let next = if ending == Ending::Stopped { None } else { self.begun(number + 1)? };
            let Some((next_file, next_header)) = next else { return Ok(ending) };
            if !follows(&walk, &next_header) {
                // A running server may have filled the segment and begun the next one since the walk met its end.
                ending = self.segment(&file, &path, &mut walk, visit)?;
                if ending == Ending::Stopped {
                    return Ok(ending);
                }
            }
            if !follows(&walk, &next_header) {
                let damage = match ending {
                    Ending::Invalid { path, position, reason } => Corruption { path, position, reason },
                    _ => Corruption::new(&path, walk.position.into(), "records are missing at the segment's end"),
                };
                return Err(damage.into());
            }
            number += 1;
            (file, path) = (next_file, segment::path(&self.dir, number));
            walk = self.start(&path, &next_header, None);
        }
    }

    fn start(&self, path: &Path, header: &SegmentHeader, wanted: Option<(usize, u64)>) -> Walk {
        let seed = Seed::new(self.meta.uuid, header.number);
        let begin = Walk::new(seed, self.meta.shape, header_bytes(self.meta.shape), &header.base, header.group);
        let Some((dense, offset)) = wanted else { return begin };
        let summary = Summary::read(path, self.meta.uuid, header.number, self.meta.shape);
        let piece = summary.ok().and_then(|summary| summary.index.find(dense, offset));
        // In the middle of a group the walk takes the group from the first frame it meets.
        piece.map_or(begin, |piece| Walk::resume(seed, self.meta.shape, piece.start, &piece.first))
    }

    fn segment(
        &self,
        file: &File,
        path: &Path,
        walk: &mut Walk,
        visit: &mut dyn FnMut(Partition, Record<'_>) -> ControlFlow<()>,
    ) -> Result<Ending, ReadError> {
        let mut window = Window::new(file);
        loop {
            let position = walk.position.into();
            let invalid = |reason: &str| Ending::Invalid { path: path.to_owned(), position, reason: reason.to_owned() };
            match walk.step(&mut window).map_err(ReadError::io("read", path))? {
                Step::Blank => return Ok(Ending::End),
                Step::Invalid(reason) | Step::Impossible(reason) => return Ok(invalid(reason)),
                Step::Frame { header, frame } => {
                    for record in records(frame, header.records, self.meta.shape) {
                        let Ok(record) = record else { return Ok(invalid("a record is damaged")) };
                        let Some(partition) = self.meta.shape.partition(record.dense) else { continue };
                        let bytes = frame.get(record.start..record.start + record.length).unwrap_or_default();
                        let offset = Offset(record.offset);
                        let timestamp_ms = header.timestamp_ms;
                        if visit(partition, Record { offset, timestamp_ms, bytes }).is_break() {
                            return Ok(Ending::Stopped);
                        }
                    }
                }
            }
        }
    }
}

/// Whether a segment begins where the walk over the one before it stands.
fn follows(walk: &Walk, header: &SegmentHeader) -> bool {
    walk.next == header.base && walk.group == header.group
}
