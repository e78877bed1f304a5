//! The records of one partition between the thread that fetches and the one that reads: bounded, in order, dense.
//!
//! Pure: no Kafka client in here. Records lie in chunks, because one allocation a record would cost more than the copy.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

use barrage_event::Offset;

use crate::event_log::Record;

/// How many bytes a chunk takes before the next begins.
const CHUNK_BYTES: usize = 128 << 10;

/// A run of records with dense offsets.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    /// The feed it was taken from.
    feed: u64,
    first: u64,
    /// Index of the first record that was not read yet.
    read: usize,
    bytes: Vec<u8>,
    /// End in `bytes` and timestamp of every record.
    records: Vec<(usize, i64)>,
}

impl Chunk {
    fn next(&self) -> u64 {
        self.first + self.records.len() as u64
    }

    /// Visits unread records until the budget or the visitor ends it.
    pub(crate) fn visit(
        &mut self,
        bytes_left: &mut usize,
        visit: &mut dyn FnMut(Record<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        while let Some(&(end, timestamp_ms)) = self.records.get(self.read) {
            // At least one record is visited, and one more while anything of the budget is left.
            if *bytes_left == 0 {
                return ControlFlow::Break(());
            }
            let start = self.read.checked_sub(1).and_then(|before| self.records.get(before)).map_or(0, |&(end, _)| end);
            let bytes = self.bytes.get(start..end).unwrap_or_default();
            let offset = Offset(self.first + self.read as u64);
            self.read += 1;
            *bytes_left = bytes_left.saturating_sub(bytes.len());
            visit(Record { offset, timestamp_ms, bytes })?;
        }
        ControlFlow::Continue(())
    }

    /// Offset of the first unread record.
    pub(crate) fn position(&self) -> u64 {
        self.first + self.read as u64
    }

    fn cost(&self) -> usize {
        self.bytes.len() + self.records.len() * size_of::<(usize, i64)>()
    }
}

/// Why a feed ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The partition ended at `seen` and ends earlier now.
    Changed { seen: u64, end: u64 },
    /// The partition begins later than the position.
    Trimmed { start: u64 },
    /// Offsets are missing.
    Gap { expected: u64, found: u64 },
}

/// What became of a record that was fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It is kept.
    Kept,
    /// It was there already, or is not wanted any more.
    Stale,
    /// It is not the next one: fetching must begin again at the feed's end.
    Jump,
}

/// What a reader gets.
#[derive(Debug)]
pub(crate) enum Taken {
    /// Records from the offset on; to be given back.
    Records(Chunk),
    /// The feed is at the offset, and nothing more was fetched.
    Empty,
    /// The feed does not hold the offset.
    Elsewhere,
    /// Nothing more comes.
    Broken(Broken),
}

/// Records of one partition that were fetched and not read.
#[derive(Debug)]
pub(crate) struct Feed {
    /// Tells it from others of the same partition, before and after it.
    id: u64,
    /// Offset that the reader is to ask for next.
    position: u64,
    /// Offset that is to be fetched next.
    next: u64,
    chunks: VecDeque<Chunk>,
    bytes: usize,
    /// A reader has the first chunk.
    taken: bool,
    broken: Option<Broken>,
    /// Jumps in a row at the same offset, which a fresh start did not cure.
    jumps: u32,
    /// Fetching was told to pause.
    pub(crate) paused: bool,
    /// Fetching must begin again at `next`.
    pub(crate) restart: bool,
}

/// Numbers feeds.
static FEEDS: AtomicU64 = AtomicU64::new(0);

/// After so many fresh starts that lead to the same jump, offsets are really missing.
const JUMPS_MAX: u32 = 3;

impl Feed {
    pub(crate) fn new(from: u64) -> Self {
        Self {
            id: FEEDS.fetch_add(1, Ordering::Relaxed),
            position: from,
            next: from,
            chunks: VecDeque::new(),
            bytes: 0,
            taken: false,
            broken: None,
            jumps: 0,
            paused: false,
            restart: false,
        }
    }

    /// Offset that is to be fetched next.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Offset that is to be read next.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn push(&mut self, offset: u64, timestamp_ms: i64, bytes: &[u8]) -> Pushed {
        if self.broken.is_some() || offset < self.next {
            return Pushed::Stale;
        }
        if offset > self.next {
            // A record of an earlier assignment may still come; then fetching from the right place brings the right one.
            if self.restart {
                return Pushed::Stale;
            }
            self.jumps += 1;
            if self.jumps > JUMPS_MAX {
                self.broken = Some(Broken::Gap { expected: self.next, found: offset });
                return Pushed::Stale;
            }
            self.restart = true;
            return Pushed::Jump;
        }
        self.jumps = 0;
        self.next += 1;
        if offset < self.position {
            // The reader went ahead on another way.
            return Pushed::Stale;
        }
        let fits = |chunk: &Chunk| chunk.bytes.len() + bytes.len() <= CHUNK_BYTES && chunk.next() == offset;
        if !self.chunks.back().is_some_and(fits) {
            self.chunks.push_back(Chunk { feed: self.id, first: offset, ..Chunk::default() });
        }
        if let Some(chunk) = self.chunks.back_mut() {
            chunk.bytes.extend_from_slice(bytes);
            chunk.records.push((chunk.bytes.len(), timestamp_ms));
        }
        self.bytes += bytes.len() + size_of::<(usize, i64)>();
        Pushed::Kept
    }

    /// Takes the records at an offset out, so that they are visited without a lock.
    pub(crate) fn take(&mut self, from: u64) -> Taken {
        if self.taken || from < self.position {
            return Taken::Elsewhere;
        }
        // What lies before was read on another way, and what is not fetched yet is not kept when it comes.
        self.position = from;
        while let Some(chunk) = self.chunks.front_mut() {
            if chunk.next() <= from {
                self.bytes = self.bytes.saturating_sub(chunk.cost());
                self.chunks.pop_front();
                continue;
            }
            chunk.read = usize::try_from(from - chunk.first).unwrap_or(usize::MAX);
            let chunk = std::mem::take(chunk);
            self.chunks.pop_front();
            self.taken = true;
            return Taken::Records(chunk);
        }
        if let Some(broken) = self.broken {
            return Taken::Broken(broken);
        }
        if from == self.next { Taken::Empty } else { Taken::Elsewhere }
    }

    /// Takes back what [`Feed::take`] gave. A piece of an earlier feed of the partition changes nothing.
    pub(crate) fn give_back(&mut self, chunk: Chunk) {
        if chunk.feed != self.id {
            return;
        }
        self.taken = false;
        self.position = chunk.position();
        if chunk.read < chunk.records.len() {
            self.chunks.push_front(chunk);
        } else {
            self.bytes = self.bytes.saturating_sub(chunk.cost());
        }
    }

    /// Nothing more comes after what is held.
    pub(crate) fn break_off(&mut self, broken: Broken) {
        self.broken.get_or_insert(broken);
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.broken.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(feed: &mut Feed, from: u64, bytes_max: usize) -> Vec<u64> {
        let mut seen = Vec::new();
        if let Taken::Records(mut chunk) = feed.take(from) {
            let mut left = bytes_max.max(1);
            let _ = chunk.visit(&mut left, &mut |record| {
                assert_eq!(record.bytes, record.offset.0.to_be_bytes());
                seen.push(record.offset.0);
                ControlFlow::Continue(())
            });
            feed.give_back(chunk);
        }
        seen
    }

    fn filled(range: std::ops::Range<u64>) -> Feed {
        let mut feed = Feed::new(range.start);
        for offset in range {
            assert_eq!(feed.push(offset, 0, &offset.to_be_bytes()), Pushed::Kept);
        }
        feed
    }

    #[test]
    fn records_are_read_in_order_and_memory_is_given_back() {
        let mut feed = filled(5..1_005);
        assert_eq!(read(&mut feed, 5, 9), [5, 6]);
        assert_eq!(feed.position(), 7);
        assert_eq!(read(&mut feed, 7, usize::MAX), (7..1_005).collect::<Vec<_>>());
        assert!(matches!(feed.take(1_005), Taken::Empty));
        assert_eq!(feed.bytes(), 0);
    }

    #[test]
    fn an_offset_that_was_read_is_elsewhere_and_one_ahead_is_waited_for() {
        let mut feed = filled(0..10);
        assert_eq!(read(&mut feed, 4, 1), [4]);
        assert!(matches!(feed.take(4), Taken::Elsewhere));
        assert!(matches!(feed.take(12), Taken::Elsewhere));
        assert_eq!(feed.bytes(), 0, "what lies before is dropped");
        assert_eq!(feed.push(10, 0, &[]), Pushed::Stale, "the reader is past it");
        assert_eq!(feed.push(11, 0, &[]), Pushed::Stale);
        assert_eq!(feed.push(12, 0, &12_u64.to_be_bytes()), Pushed::Kept);
        assert_eq!(read(&mut feed, 12, 1), [12]);
    }

    #[test]
    fn one_reader_at_a_time() {
        let mut feed = filled(0..3);
        let Taken::Records(chunk) = feed.take(0) else { panic!("records are there") };
        assert!(matches!(feed.take(0), Taken::Elsewhere));
        feed.give_back(chunk);
        assert_eq!(read(&mut feed, 0, usize::MAX), [0, 1, 2]);
    }

    #[test]
    fn a_piece_of_an_earlier_feed_changes_nothing() {
        let Taken::Records(chunk) = filled(0..3).take(0) else { panic!("records are there") };
        let mut feed = filled(100..103);
        feed.give_back(chunk);
        assert_eq!(read(&mut feed, 100, usize::MAX), [100, 101, 102]);
    }

    #[test]
    fn a_jump_asks_for_a_fresh_start_and_is_a_gap_when_that_does_not_help() {
        let mut feed = filled(0..3);
        assert_eq!(feed.push(2, 0, &[]), Pushed::Stale, "a record that came already");
        for _ in 0..JUMPS_MAX {
            assert_eq!(feed.push(7, 0, &[]), Pushed::Jump);
            assert_eq!(feed.push(8, 0, &[]), Pushed::Stale, "once is enough until fetching began again");
            assert!(std::mem::take(&mut feed.restart));
        }
        assert_eq!(feed.push(7, 0, &[]), Pushed::Stale);
        assert_eq!(read(&mut feed, 0, usize::MAX), [0, 1, 2], "what came before is still read");
        assert!(matches!(feed.take(3), Taken::Broken(Broken::Gap { expected: 3, found: 7 })));
    }

    #[test]
    fn large_records_make_chunks_of_their_own() {
        let mut feed = Feed::new(0);
        let large = vec![1; CHUNK_BYTES + 1];
        for offset in 0..3 {
            feed.push(offset, 7, &large);
        }
        assert_eq!(feed.chunks.len(), 3);
        assert!(feed.bytes() > 3 * CHUNK_BYTES);
    }
}
