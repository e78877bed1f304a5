//! The thread that writes: takes whatever has been appended, writes it with one `write` and one `fdatasync`, and tells
//! everybody. While it does, the next group gathers; nobody ever waits for a timer.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use crate::ack::{Completer, Positions};
use crate::clock::now_ms;
use crate::embedded::chunk::ChunkBuilder;
use crate::embedded::format::{SegmentHeader, Stamp, built_length, seal_frame, u32_at};
use crate::embedded::housekeeper::Housekeeper;
use crate::embedded::log_time::{LogTime, News};
use crate::embedded::recover::{Recovered, write_index};
use crate::embedded::segment::{self, Index, Segment, header_bytes};
use crate::embedded::shared::Shared;
use crate::metrics::Metrics;

/// Buffers larger than this are given back to the system after a burst.
const SPARE_BYTES_MAX: usize = 8 << 20;

/// The writing thread's own state.
#[derive(Debug)]
pub(crate) struct Writer {
    shared: Arc<Shared>,
    dir: PathBuf,
    segment_bytes: u32,
    piece_bytes: u32,
    segment: Arc<Segment>,
    file: File,
    /// Where the next group goes.
    position: u32,
    /// Where the segment ends.
    capacity: u32,
    group: u64,
    /// The latest time of a group in this segment.
    newest_ms: i64,
    time: LogTime,
    builder: ChunkBuilder,
    housekeeper: Housekeeper,
    /// The next segment has been asked for.
    asked: bool,
}

/// A step of writing that did not succeed.
type Failure = String;

impl Writer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        dir: PathBuf,
        options: &crate::EmbeddedOptions,
        recovered: Recovered,
    ) -> io::Result<Self> {
        let segment = recovered.segments.last().cloned().expect("a log has a segment");
        let position = segment.index.read().unwrap_or_else(PoisonError::into_inner).end;
        let segment_bytes = u32::try_from(options.segment_bytes).expect("checked against its range");
        let mut time = LogTime::new(recovered.newest_ms, now_ms(), Instant::now());
        tell(&mut time, &shared.metrics, now_ms());
        Ok(Self {
            housekeeper: Housekeeper::start(dir.clone(), shared.meta.uuid, options.zero_ahead)?,
            builder: ChunkBuilder::new(shared.meta.shape, &recovered.next),
            shared,
            dir,
            segment_bytes,
            piece_bytes: options.chunk_bytes,
            segment,
            file: recovered.file,
            position,
            capacity: segment_bytes.max(position),
            group: recovered.group,
            newest_ms: recovered.last_newest_ms,
            time,
            asked: false,
        })
    }

    /// Writes until the log is closed or fails.
    pub(crate) fn run(mut self) {
        // Whatever ends this thread, nobody may wait for it any more.
        let _guard = FailOnPanic(Arc::clone(&self.shared));
        let mut spare = Vec::new();
        while let Some((buffer, frames, completer)) = self.take(spare) {
            match self.write(buffer, frames) {
                Ok(reusable) => spare = reusable,
                Err(reason) => {
                    self.shared.fail(reason);
                    let reason = self.shared.failure.get().cloned().unwrap_or_default();
                    completer.complete(Err(crate::AppendError::Failed { reason }));
                    return;
                }
            }
            self.shared.pending().in_flight_bytes = 0;
            completer.complete(Ok(Positions::new()));
        }
        let (uuid, next) = (self.shared.meta.uuid, self.builder.next());
        if let Err(error) = write_index(&self.segment, uuid, next, self.group, self.newest_ms) {
            tracing::warn!(
                file = %self.segment.path.display(), %error,
                "cannot note how far the last segment was written; the next start cannot tell damage at its end from a \
                 write that was not finished"
            );
        }
    }

    /// Waits for something to write. None when the log is closed and all is written.
    fn take(&self, spare: Vec<u8>) -> Option<(Vec<u8>, usize, Completer)> {
        let mut pending = self.shared.pending();
        self.shared.metrics.pending_bytes.set(i64::try_from(pending.buffer.len()).unwrap_or(i64::MAX));
        while pending.buffer.is_empty() {
            if pending.closing {
                return None;
            }
            pending.writer_idle = true;
            pending = self.shared.wake.wait(pending).unwrap_or_else(PoisonError::into_inner);
        }
        pending.writer_idle = false;
        let buffer = std::mem::replace(&mut pending.buffer, spare);
        if pending.buffer.capacity() == 0 {
            // The next group is likely to be as long: growing step by step would copy it, under everybody's lock.
            pending.buffer = Vec::with_capacity(buffer.len() + buffer.len() / 4);
        }
        pending.in_flight_bytes = buffer.len();
        Some((buffer, std::mem::take(&mut pending.frames), std::mem::take(&mut pending.completer)))
    }

    /// Writes whole frames; more than one group only where a segment ends. Returns a buffer to use again.
    fn write(&mut self, mut buffer: Vec<u8>, frames: usize) -> Result<Vec<u8>, Failure> {
        let mut at = 0;
        let mut spare = None;
        while at < buffer.len() {
            let fit = self.fitting(buffer.get(at..).unwrap_or_default())?;
            let rows = self.stamp(buffer.get_mut(at..at + fit).unwrap_or_default())?;
            let group = buffer.get(at..at + fit).unwrap_or_default();
            self.make_durable(group)?;
            let records = self.builder.records();
            // The buffer itself becomes the readers' chunk unless that would waste memory.
            let whole = fit == buffer.len() && fit >= buffer.capacity() / 2;
            let bytes = if whole { std::mem::take(&mut buffer) } else { group.to_vec() };
            let chunk = self.builder.finish(bytes);
            spare = self.publish(chunk, fit, records, rows).or(spare);
            at += fit;
        }
        self.shared.metrics.append_frames.inc_by(frames as u64);
        self.shared.metrics.group_frames.observe(u32::try_from(frames).map_or(f64::MAX, f64::from));
        if buffer.capacity() == 0 {
            buffer = spare.unwrap_or_default();
        }
        buffer.clear();
        Ok(if buffer.capacity() > SPARE_BYTES_MAX { Vec::new() } else { buffer })
    }

    /// How many bytes of whole frames fit into the segment; begins the next one when none does.
    fn fitting(&mut self, frames: &[u8]) -> Result<usize, Failure> {
        let room = |writer: &Self| (writer.capacity - writer.position) as usize;
        let fits = |room: usize| {
            let mut fit = 0;
            while let Some(rest) = frames.get(fit..).filter(|rest| !rest.is_empty()) {
                let length = built_length(rest);
                if fit + length > room {
                    break;
                }
                fit += length;
            }
            fit
        };
        let mut fit = fits(room(self));
        if fit == 0 && self.position > header_bytes(self.shared.meta.shape) {
            self.roll()?;
            fit = fits(room(self));
        }
        if fit == 0 {
            // A frame that is larger than a segment gets a segment of its own size.
            fit = built_length(frames);
            let grown = u32::try_from(fit).ok().and_then(|fit| self.position.checked_add(fit));
            self.capacity = grown.ok_or("a frame is too large for a segment")?;
            segment::reserve(&self.file, self.capacity.into()).map_err(self.failure("reserve space in"))?;
        }
        Ok(fit)
    }

    /// Completes the frames of a group; returns the index rows that begin in it.
    fn stamp(&mut self, group: &mut [u8]) -> Result<Vec<(u32, Vec<u64>)>, Failure> {
        self.group += 1;
        let timestamp_ms = self.now_ms();
        tell(&mut self.time, &self.shared.metrics, timestamp_ms);
        self.newest_ms = self.newest_ms.max(timestamp_ms);
        let stamp = Stamp { seed: self.segment.seed, group_start: self.position, group: self.group, timestamp_ms };
        let mut rows = Vec::new();
        let mut last = self.segment.index.read().unwrap_or_else(PoisonError::into_inner).last();
        let mut at = 0;
        while at < group.len() {
            let length = built_length(group.get(at..).unwrap_or_default());
            let Some(frame) = group.get_mut(at..at + length) else { return Err("a frame is cut short".to_owned()) };
            let position = u32::try_from(at).map(|at| self.position + at).map_err(|_| "a group is too large")?;
            if position - last >= self.piece_bytes {
                rows.push((position, self.builder.next().to_vec()));
                last = position;
            }
            seal_frame(frame, position, &stamp);
            let records = u32_at(frame, 16);
            self.builder.frame(frame, at, records, timestamp_ms)?;
            at += length;
        }
        Ok(rows)
    }

    #[cfg(any(test, feature = "test-util"))]
    fn now_ms(&self) -> i64 {
        now_ms().saturating_add(self.shared.faults.clock_shift_ms())
    }

    #[cfg(not(any(test, feature = "test-util")))]
    #[expect(clippy::unused_self, reason = "a fault on demand is of a log")]
    fn now_ms(&self) -> i64 {
        now_ms()
    }

    /// One write, one `fdatasync`. A failed one is never tried again: the system may have dropped what it could not
    /// write and would report success the second time.
    fn make_durable(&self, group: &[u8]) -> Result<(), Failure> {
        let begun = Instant::now();
        #[cfg(any(test, feature = "test-util"))]
        self.shared.faults.before_write().map_err(self.failure("write"))?;
        self.file.write_all_at(group, self.position.into()).map_err(self.failure("write"))?;
        let written = Instant::now();
        #[cfg(any(test, feature = "test-util"))]
        self.shared.faults.before_sync().map_err(self.failure("sync"))?;
        rustix::fs::fdatasync(&self.file).map_err(|error| self.failure("sync")(error.into()))?;
        self.shared.metrics.write_duration.observe((written - begun).as_secs_f64());
        self.shared.metrics.fsync_duration.observe(written.elapsed().as_secs_f64());
        Ok(())
    }

    /// Lets readers see a durable group: first the bytes, then the ends, then those who wait.
    fn publish(
        &mut self,
        chunk: crate::embedded::chunk::Chunk,
        bytes: usize,
        records: usize,
        rows: Vec<(u32, Vec<u64>)>,
    ) -> Option<Vec<u8>> {
        self.position += u32::try_from(bytes).expect("a group fits into its segment");
        {
            let mut index = self.segment.index.write().unwrap_or_else(PoisonError::into_inner);
            for (position, next) in rows {
                index.begin(position, &next);
            }
            index.end = self.position;
        }
        let spare = self.shared.tail.push(Arc::new(chunk));
        for (end, &next) in self.shared.ends.iter().zip(self.builder.next()) {
            end.store(next, Ordering::Release);
        }
        self.shared.advance();
        let metrics = &self.shared.metrics;
        metrics.append_bytes.inc_by(bytes as u64);
        metrics.append_records.inc_by(records as u64);
        metrics.group_bytes.observe(u32::try_from(bytes).map_or(f64::MAX, f64::from));
        if !self.asked && self.position > self.capacity / 4 {
            self.asked = true;
            self.housekeeper.prepare(self.segment.number + 1, self.segment_bytes.into());
        }
        spare
    }

    /// Seals the segment and begins the next one. Its header becomes durable with its first group.
    fn roll(&mut self) -> Result<(), Failure> {
        let number = self.segment.number + 1;
        let file = self.housekeeper.prepared(number, self.segment_bytes.into());
        let file = file.map_err(|error| {
            format!("cannot reserve space for {}: {error}", segment::path(&self.dir, number).display())
        })?;
        let next = self.builder.next();
        self.housekeeper.seal(&self.segment, next, self.group, std::mem::take(&mut self.newest_ms));
        let meta = self.shared.meta;
        let header = SegmentHeader {
            uuid: meta.uuid,
            number,
            group: self.group,
            shape: meta.shape,
            created_ms: now_ms(),
            base: next.into(),
        };
        let first = header_bytes(meta.shape);
        let segment = Arc::new(Segment::new(&self.dir, meta.uuid, number, next, Index::new(first, next)));
        self.segment = Arc::clone(&segment);
        self.file = file;
        self.position = first;
        self.capacity = self.segment_bytes.max(first);
        self.asked = false;
        self.file.write_all_at(&header.encode(), 0).map_err(self.failure("write"))?;
        let mut segments = self.shared.segments.write().unwrap_or_else(PoisonError::into_inner);
        segments.push(segment);
        self.shared.metrics.segments.set(i64::try_from(segments.len()).unwrap_or(i64::MAX));
        Ok(())
    }

    fn failure(&self, action: &'static str) -> impl FnOnce(io::Error) -> Failure + use<> {
        let (path, position) = (self.segment.path.clone(), self.position);
        move |error| format!("cannot {action} {} at byte {position}: {error}", path.display())
    }
}

/// Looks at the clock, and says what a person must know of it.
fn tell(time: &mut LogTime, metrics: &Metrics, now_ms: i64) {
    let news = time.observe(now_ms, Instant::now());
    #[expect(clippy::cast_precision_loss, reason = "a gauge for people; 2^53 ms are beyond any clock")]
    metrics.clock_ahead.set(time.ahead_ms() as f64 / 1_000.0);
    match news {
        News::None => {}
        News::Forward(ms) => tracing::error!(
            ms,
            "this machine's clock went forward by more than time went by: it was set, or the machine slept. If it is wrong              now, stop, set it right and start: everything is late until the time of the newest record is reached"
        ),
        News::Back(ms) => tracing::error!(
            ms,
            "this machine's clock went back: until the time of the newest record is reached again, events are late and nothing              expires"
        ),
        News::Behind(ms) => tracing::error!(
            ms,
            "records in the log are ahead of this machine's clock: it is wrong now, or was when they came. Until their time is              reached, events are late and nothing expires"
        ),
        News::Reached => tracing::info!("this machine's clock has reached the newest record's time"),
    }
}

/// Fails the log when the writing thread panics.
#[derive(Debug)]
struct FailOnPanic(Arc<Shared>);

impl Drop for FailOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail("the writing thread stopped on a programming error; see its message above".to_owned());
        }
    }
}
