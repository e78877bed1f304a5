//! What appenders, the writer and readers of one embedded log share.

use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use barrage_event::{Offset, Partition, Position};

use crate::ack::{Ack, Completer, Positions};
use crate::batch::AppendBatch;
use crate::embedded::chunk::{self, Chunk, Cursor};
use crate::embedded::chunk_cache::ChunkCache;
use crate::embedded::format::FrameBuilder;
use crate::embedded::meta::Meta;
use crate::embedded::segment::{Piece, Segment};
use crate::embedded::tail::Tail;
use crate::embedded::trim::{Start, remove_before};
use crate::error::{AppendError, Corruption, ReadError};
use crate::event_log::Record;
use crate::metrics::Metrics;
use crate::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, RECORD_BYTES_MAX};

/// Pieces differ by a frame in length; with this room to spare a buffer serves the next one too.
const SLACK: usize = 64 << 10;

/// What was appended and not yet taken by the writer.
#[derive(Debug)]
pub(crate) struct Pending {
    /// Frames without checksums, in order.
    pub(crate) buffer: Vec<u8>,
    pub(crate) frames: usize,
    /// Next offset of every partition.
    next: Box<[u64]>,
    pub(crate) completer: Completer,
    /// Bytes that the writer is writing.
    pub(crate) in_flight_bytes: usize,
    /// The writer sleeps and must be woken.
    pub(crate) writer_idle: bool,
    pub(crate) closing: bool,
}

/// State behind an [`crate::EmbeddedLog`].
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) meta: Meta,
    pub(crate) pending_bytes_max: usize,
    pending: Mutex<Pending>,
    pub(crate) wake: Condvar,
    /// Set once, under the lock of `pending`; read without it.
    pub(crate) failure: OnceLock<Arc<str>>,
    /// One past the last durable offset of every partition.
    pub(crate) ends: Box<[AtomicU64]>,
    /// First offset of every partition that is still there.
    pub(crate) starts: Box<[AtomicU64]>,
    generation: AtomicU64,
    gate: Mutex<()>,
    changed: Condvar,
    pub(crate) segments: RwLock<Vec<Arc<Segment>>>,
    pub(crate) tail: Tail,
    cache: ChunkCache,
    pub(crate) metrics: Metrics,
    #[cfg(any(test, feature = "test-util"))]
    pub(crate) faults: crate::embedded::Faults,
}

/// Bytes of files that a read walks over at most, for each that it may visit.
const WALKED_PER_BYTE: usize = 4;

impl Shared {
    pub(crate) fn new(
        meta: Meta,
        options: &crate::EmbeddedOptions,
        segments: Vec<Arc<Segment>>,
        next: Box<[u64]>,
        metrics: Metrics,
    ) -> Self {
        metrics.segments.set(i64::try_from(segments.len()).unwrap_or(i64::MAX));
        Self {
            meta,
            pending_bytes_max: options.pending_bytes_max,
            ends: next.iter().map(|&end| AtomicU64::new(end)).collect(),
            starts: segments.first().map_or(&next, |first| &first.base).iter().map(|&s| AtomicU64::new(s)).collect(),
            pending: Mutex::new(Pending {
                buffer: Vec::new(),
                frames: 0,
                next,
                completer: Completer::new(),
                in_flight_bytes: 0,
                writer_idle: false,
                closing: false,
            }),
            wake: Condvar::new(),
            failure: OnceLock::new(),
            generation: AtomicU64::new(1),
            gate: Mutex::default(),
            changed: Condvar::new(),
            segments: RwLock::new(segments),
            tail: Tail::new(options.tail_bytes_max),
            cache: ChunkCache::new(options.chunk_cache_bytes_max),
            metrics,
            #[cfg(any(test, feature = "test-util"))]
            faults: crate::embedded::Faults::default(),
        }
    }

    pub(crate) fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self) -> Option<AppendError> {
        self.failure.get().map(|reason| AppendError::Failed { reason: Arc::clone(reason) })
    }

    /// Makes the log take nothing more. The first reason stays.
    pub(crate) fn fail(&self, reason: String) {
        let reason: Arc<str> = reason.into();
        let completer = {
            let mut pending = self.pending();
            if self.failure.set(Arc::clone(&reason)).is_err() {
                return;
            }
            pending.buffer = Vec::new();
            pending.frames = 0;
            pending.in_flight_bytes = 0;
            std::mem::take(&mut pending.completer)
        };
        tracing::error!(%reason, "the log has failed; it takes nothing more until it is opened again");
        self.metrics.failed.set(1);
        self.metrics.pending_bytes.set(0);
        self.advance();
        completer.complete(Err(AppendError::Failed { reason }));
    }

    /// Tells everybody who waits that something has changed.
    pub(crate) fn advance(&self) {
        {
            let _gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
            self.generation.fetch_add(1, Ordering::Release);
        }
        self.changed.notify_all();
    }

    pub(crate) fn wait(&self, seen: u64, timeout: Duration) -> u64 {
        let now = self.generation.load(Ordering::Acquire);
        if now != seen || timeout.is_zero() {
            return now;
        }
        let gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |(): &mut ()| self.generation.load(Ordering::Acquire) == seen;
        drop(self.changed.wait_timeout_while(gate, timeout, same));
        self.generation.load(Ordering::Acquire)
    }

    pub(crate) fn append(&self, batch: &mut AppendBatch) -> Result<Ack, AppendError> {
        let size = FrameBuilder::size(batch.len(), batch.bytes());
        self.check(batch, size)?;
        let mut pending = self.pending();
        if let Some(failed) = self.failed() {
            return Err(failed);
        }
        if pending.closing {
            return Err(AppendError::Closed);
        }
        if batch.is_empty() {
            return Ok(Ack::ready(Ok(Positions::new())));
        }
        let waiting = pending.buffer.len() + pending.in_flight_bytes;
        if waiting + size > self.pending_bytes_max {
            self.metrics.append_refused.inc();
            return Err(AppendError::Full { pending_bytes: waiting, pending_bytes_max: self.pending_bytes_max });
        }
        let Pending { buffer, next, .. } = &mut *pending;
        let mut frame = FrameBuilder::new(buffer);
        let mut positions = Positions::new();
        for (partition, bytes) in batch.iter() {
            let next = self.meta.shape.dense(partition).and_then(|dense| next.get_mut(dense));
            let next = next.expect("the partition was checked above");
            frame.record(partition, *next, bytes);
            positions.push(Position { partition, offset: Offset(*next) });
            *next += 1;
        }
        frame.finish();
        pending.frames += 1;
        self.metrics.pending_bytes.set(i64::try_from(waiting + size).unwrap_or(i64::MAX));
        let ack = pending.completer.ack(positions);
        let idle = std::mem::take(&mut pending.writer_idle);
        drop(pending);
        if idle {
            self.wake.notify_one();
        }
        batch.clear();
        Ok(ack)
    }

    fn check(&self, batch: &AppendBatch, size: usize) -> Result<(), AppendError> {
        for (partition, bytes) in batch.iter() {
            if self.meta.shape.dense(partition).is_none() {
                let partitions = self.meta.shape.of(partition.topic);
                return Err(AppendError::UnknownPartition { partition, partitions });
            }
            if bytes.len() > RECORD_BYTES_MAX {
                return Err(AppendError::RecordTooLarge { partition, bytes: bytes.len(), bytes_max: RECORD_BYTES_MAX });
            }
        }
        // A batch that never fits into what may wait is too large, not early.
        let bytes_max = BATCH_BYTES_MAX.min(self.pending_bytes_max);
        if batch.bytes() > bytes_max || batch.len() > BATCH_RECORDS_MAX || size > self.pending_bytes_max {
            return Err(AppendError::BatchTooLarge {
                records: batch.len(),
                bytes: batch.bytes(),
                records_max: BATCH_RECORDS_MAX,
                bytes_max,
            });
        }
        Ok(())
    }

    pub(crate) fn read(
        &self,
        partition: Partition,
        from: Offset,
        bytes_max: usize,
        visit: &mut dyn FnMut(Record<'_>) -> ControlFlow<()>,
    ) -> Result<Offset, ReadError> {
        let dense = self.meta.shape.dense(partition).ok_or(ReadError::UnknownPartition { partition })?;
        self.check_start(partition, dense, from.0)?;
        let end = self.ends.get(dense).map_or(0, |end| end.load(Ordering::Acquire));
        let mut cursor = Cursor { from: from.0, end, bytes_left: bytes_max };
        let mut taken = Vec::new();
        // Partitions that catch up side by side share the pieces as long as they are near each other. One with short
        // records would run ahead of those with long ones, and each would read all files for itself.
        let mut walk_left = bytes_max.saturating_mul(WALKED_PER_BYTE).max(1);
        while cursor.from < cursor.end && walk_left > 0 {
            let stop = if self.tail.take(dense, cursor.from, &mut taken) {
                self.metrics.tail_reads.inc();
                taken.drain(..).try_for_each(|chunk| chunk.visit(dense, &mut cursor, visit))
            } else {
                let found = self.find(dense, cursor.from);
                let loaded = found.and_then(|(segment, piece)| Ok((self.load(&segment, &piece)?, segment, piece)));
                let (chunk, segment, piece) = match loaded {
                    Ok(loaded) => loaded,
                    Err(error) => {
                        // It may have been given up since the start was looked at.
                        self.check_start(partition, dense, cursor.from)?;
                        return Err(error);
                    }
                };
                let before = cursor.from;
                let stop = chunk.visit(dense, &mut cursor, visit);
                walk_left = walk_left.saturating_sub((piece.end - piece.start) as usize);
                if cursor.from == before {
                    let reason = format!("{partition}@{before} is not where the segment's index says");
                    return Err(Corruption::new(&segment.path, piece.start.into(), reason).into());
                }
                stop
            };
            if stop.is_break() {
                break;
            }
        }
        Ok(Offset(cursor.from))
    }

    fn check_start(&self, partition: Partition, dense: usize, from: u64) -> Result<(), ReadError> {
        let start = self.starts.get(dense).map_or(0, |start| start.load(Ordering::Acquire));
        if from < start {
            return Err(ReadError::Trimmed { partition, from: Offset(from), start: Offset(start) });
        }
        Ok(())
    }

    /// Gives up all segments before the first that holds something at or after `next`. The caller sees to it that
    /// nobody else does at the same time and that the directory is this process's.
    pub(crate) fn trim(&self, dir: &std::path::Path, next: &[u64]) -> std::io::Result<()> {
        let kept = {
            let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
            let kept = segments.iter().rev().find(|segment| {
                // One without a durable group may still vanish in a crash.
                let begun = segment.index.read().unwrap_or_else(PoisonError::into_inner).end
                    > crate::embedded::segment::header_bytes(self.meta.shape);
                begun && segment.base.iter().zip(next).all(|(base, next)| base <= next)
            });
            kept.map(Arc::clone)
        };
        let Some(kept) = kept else { return Ok(()) };
        let header = std::fs::File::open(&kept.path)
            .and_then(|file| crate::embedded::recover::read_header(&file, &self.meta, kept.number))?
            .map_err(std::io::Error::other)?;
        Start { segment: kept.number, group: header.group, base: kept.base.clone() }.write(dir, &self.meta)?;
        for (start, &base) in self.starts.iter().zip(&kept.base) {
            start.store(base, Ordering::Release);
        }
        {
            let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
            segments.retain(|segment| segment.number >= kept.number);
            self.metrics.segments.set(i64::try_from(segments.len()).unwrap_or(i64::MAX));
        }
        let removed = remove_before(dir, kept.number)?;
        if removed > 0 {
            tracing::info!(segments = removed, first = kept.number, "the log was trimmed behind a snapshot");
        }
        Ok(())
    }

    /// The piece of a file that holds the record.
    fn find(&self, dense: usize, offset: u64) -> Result<(Arc<Segment>, Piece), ReadError> {
        let segment = {
            let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
            let after = segments.partition_point(|s| s.base.get(dense).is_some_and(|&base| base <= offset));
            let segment = after.checked_sub(1).and_then(|place| segments.get(place));
            segment.map(Arc::clone)
        };
        let missing = || Corruption::new(std::path::Path::new("log"), 0, "a durable record is in no segment");
        let segment = segment.ok_or_else(missing)?;
        let missing = || Corruption::new(&segment.path, 0, "a durable record is in no piece of the segment");
        let piece = segment.find(dense, offset).ok_or_else(missing)?;
        Ok((segment, piece))
    }

    fn load(&self, segment: &Segment, piece: &Piece) -> Result<Arc<Chunk>, ReadError> {
        let key = (segment.number, piece.start, piece.end);
        let (chunk, hit) = self.cache.get(key, |mut bytes| {
            let file = std::fs::File::open(&segment.path).map_err(ReadError::io("open", &segment.path))?;
            let length = (piece.end - piece.start) as usize;
            if bytes.capacity() < length {
                bytes = vec![0; length.next_multiple_of(SLACK)];
            }
            bytes.resize(length, 0);
            file.read_exact_at(&mut bytes, piece.start.into()).map_err(ReadError::io("read", &segment.path))?;
            chunk::check(bytes, piece.start, segment.seed, self.meta.shape, &piece.first)
                .map_err(|(position, reason)| Corruption::new(&segment.path, position, reason).into())
        })?;
        if hit { &self.metrics.chunk_hits } else { &self.metrics.chunk_loads }.inc();
        Ok(chunk)
    }
}
