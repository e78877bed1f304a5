//! Answers to questions from the stores of this process: the only module of the crate that reads them.

mod fields;
mod reader;
mod top;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use barrage_event::{Partition, Position};
use barrage_projection::ReadContext;
use barrage_worker::{PartitionStatus, RebuildError, Snapshot, Snapshots, Stores, TakeError, Unavailable};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::fields::{
    dead_letters, levels, ranked_rooms, ranking, room_fields, room_score, rooms_before, slices, user_fields, viewers,
};
use self::reader::Attended;
use self::top::Top;
use crate::error::{ApiError, Code};
use crate::options::{SCAN_WAIT, SCANS_WAITING_MAX};
use crate::question::{Ask, Failure, Fields, Found, Question, Seen};

/// The partitions of this process, answering; cheap to clone.
#[derive(Clone)]
pub struct Local {
    inner: Arc<Inner>,
    /// Set when nobody waits any more for what is read through this.
    given_up: Option<Arc<AtomicBool>>,
}

struct Inner {
    stores: Stores,
    snapshots: Option<Snapshots>,
    scans: Arc<Semaphore>,
    /// Places of those that wait for a scan's.
    waiting: Semaphore,
}

/// What an answer takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cost {
    /// Microseconds: it is made where it is asked for.
    Little,
    /// As much as many of those, but no more than a page: it is made beside, and waits for nobody.
    Page,
    /// As long as there are rows.
    Walk,
}

/// Tells a read that its caller is gone.
struct Waits(Arc<AtomicBool>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Local").field(&self.inner.stores).finish()
    }
}

impl Local {
    /// Answers from these stores. At most `scans_in_flight_max` reads that walk over many rows are at work at once,
    /// whoever asked.
    #[must_use]
    pub fn new(stores: Stores, scans_in_flight_max: u32) -> Self {
        Self::with_snapshots(stores, None, scans_in_flight_max)
    }

    /// The same of a process that takes snapshots, which are taken on demand too.
    #[must_use]
    pub fn with_snapshots(stores: Stores, snapshots: Option<Snapshots>, scans_in_flight_max: u32) -> Self {
        let scans = usize::try_from(scans_in_flight_max).unwrap_or(Semaphore::MAX_PERMITS);
        let (scans, waiting) = (Arc::new(Semaphore::new(scans)), Semaphore::new(SCANS_WAITING_MAX));
        Self { inner: Arc::new(Inner { stores, snapshots, scans, waiting }), given_up: None }
    }

    /// The stores.
    #[must_use]
    pub fn stores(&self) -> &Stores {
        &self.inner.stores
    }

    /// Answers a question.
    pub(crate) async fn answer(&self, question: &Question) -> Result<Found, Failure> {
        if let Ask::WaitFor { offset, timeout_ms } = question.ask {
            let position = Position { partition: question.partition, offset };
            self.inner.stores.wait_for(position, Duration::from_millis(timeout_ms)).await?;
            return Ok(Found::Done);
        }
        if self.cost(&question.ask) == Cost::Little {
            return self.answer_now(question);
        }
        let owned = question.clone();
        self.work(&question.ask, move |local| local.answer_now(&owned)).await?
    }

    fn cost(&self, ask: &Ask) -> Cost {
        let in_memory = |sort: &str| self.inner.stores.statistics().iter().any(|s| s.ranks_in_memory(sort));
        match ask {
            Ask::RoomScore { sort, .. } | Ask::RoomsBefore { sort, .. } if in_memory(sort) => Cost::Little,
            Ask::RankRooms { sort, .. } | Ask::RankedRooms { sort, .. } if in_memory(sort) => Cost::Page,
            Ask::Minutes { .. }
            | Ask::Viewers { .. }
            | Ask::RankRooms { .. }
            | Ask::RankedRooms { .. }
            | Ask::RoomScore { .. }
            | Ask::RoomsBefore { .. }
            | Ask::Levels { .. }
            | Ask::DeadLetters { .. } => Cost::Walk,
            Ask::Room { .. }
            | Ask::User { .. }
            | Ask::Status
            | Ask::Rebuild
            | Ask::Snapshot
            | Ask::WaitFor { .. }
            | Ask::Apps
            | Ask::SeenOf { .. } => Cost::Little,
        }
    }

    /// Does the work that answers such questions where it stops nobody else. What walks over many rows is ended early
    /// when nobody waits for it any more.
    pub(crate) async fn work<T: Send + 'static>(
        &self,
        ask: &Ask,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let place = match self.cost(ask) {
            Cost::Little => return Ok(work(self)),
            Cost::Page => None,
            Cost::Walk => Some(self.place().await?),
        };
        let waits = Waits(Arc::default());
        let local = Self { inner: Arc::clone(&self.inner), given_up: Some(Arc::clone(&waits.0)) };
        let done = tokio::task::spawn_blocking(move || {
            // It is held by the work and not by who waits for it: a client that goes away frees no core.
            let _place = place;
            work(&local)
        });
        done.await.map_err(|error| ApiError::failed(format!("a read did not finish: {error}")).into())
    }

    /// A place among the scans. It is waited for as long as an answer is still of use, and by so many at most that others
    /// find places among the requests.
    async fn place(&self) -> Result<OwnedSemaphorePermit, Failure> {
        let refused = || {
            let message = "too many reads that walk over many rows are at work";
            ApiError::new(Code::Overloaded, message, "try again; query.scans_in_flight_max limits them")
        };
        let _turn = self.inner.waiting.try_acquire().map_err(|_| refused())?;
        let place = Arc::clone(&self.inner.scans).acquire_owned();
        let place = tokio::time::timeout(SCAN_WAIT, place).await.map_err(|_| refused())?;
        // The semaphore is never closed.
        place.map_err(|error| ApiError::unavailable(error).into())
    }

    /// Answers a question that waits for nothing. Blocks for as long as its reads take.
    pub(crate) fn answer_now(&self, question: &Question) -> Result<Found, Failure> {
        let Question { partition, .. } = *question;
        let statistics = self.inner.stores.statistics();
        match &question.ask {
            Ask::Room { app, room } => {
                let (fields, seen) = self.read(question, |view| room_fields(statistics, &view.context(*app), room))?;
                Ok(Found::Fields(Fields::Made(fields), seen))
            }
            Ask::User { app, account } => {
                let (fields, seen) =
                    self.read(question, |view| user_fields(statistics, &view.context(*app), account))?;
                Ok(Found::Fields(Fields::Made(fields), seen))
            }
            Ask::Minutes { app, room, from_ms, to_ms, limit, after } => {
                let span = (*from_ms, *to_ms);
                let (fields, seen) =
                    self.read(question, |view| slices(statistics, &view.context(*app), room, span, (*limit, *after)))?;
                Ok(Found::Fields(Fields::Made(fields), seen))
            }
            Ask::Viewers { app, room, sort, limit, after, span } => {
                let page = (sort.as_str(), *limit, after.as_deref());
                let (fields, seen) =
                    self.read(question, |view| viewers(statistics, &view.context(*app), room, page, *span))?;
                Ok(Found::Fields(Fields::Made(fields), seen))
            }
            Ask::RankRooms { app, sort, keep, after, before } => {
                let top = Top::new(*keep, after.as_ref(), before.as_ref());
                let ((places, generation), seen) =
                    self.read(question, |view| ranking(statistics, &view.context(*app), sort, top))?;
                Ok(Found::Places(places, generation, seen))
            }
            Ask::RankedRooms { app, sort, rooms } => {
                let (rooms, seen) =
                    self.read(question, |view| ranked_rooms(statistics, &view.context(*app), sort, rooms))?;
                Ok(Found::Rooms(rooms, seen))
            }
            Ask::RoomScore { app, sort, room } => {
                let (score, seen) =
                    self.read(question, |view| room_score(statistics, &view.context(*app), sort, room))?;
                Ok(Found::Number(score, seen))
            }
            Ask::RoomsBefore { app, sort, place } => {
                let (before, seen) =
                    self.read(question, |view| rooms_before(statistics, &view.context(*app), sort, place))?;
                Ok(Found::Number(Some(before), seen))
            }
            Ask::Levels { app } => {
                let (counts, seen) = self.read(question, |view| levels(statistics, &view.context(*app)))?;
                Ok(Found::Levels(counts, seen))
            }
            Ask::DeadLetters { from, limit } => {
                let (rows, seen) = self.read(question, |view| dead_letters(view.reader.snapshot, *from, *limit))?;
                Ok(Found::Rows(rows, seen))
            }
            Ask::Status => Ok(Found::Status(Box::new(self.status(partition)?))),
            Ask::Rebuild => {
                self.inner.stores.rebuild(partition).map_err(|error| not_rebuilt(partition, error))?;
                Ok(Found::Done)
            }
            Ask::Snapshot => {
                let snapshots = self.inner.snapshots.as_ref().ok_or_else(|| no_place(partition))?;
                snapshots.begin(partition).map_err(not_taken)?;
                Ok(Found::Done)
            }
            Ask::Apps => {
                let (apps, _) = self.read(question, |view| Ok(view.reader.snapshot.meta().apps.clone()))?;
                Ok(Found::Apps(apps))
            }
            Ask::SeenOf { end, source } => {
                let read =
                    |snapshot: &Snapshot<'_>| (snapshot.next_offset() >= *end).then(|| snapshot.source_mark(*source));
                let seen = self.inner.stores.read(partition, read)?;
                let not_yet = || Failure::from(Unavailable::TimedOut(Position { partition, offset: *end }));
                Ok(Found::HighWater(seen.ok_or_else(not_yet)?))
            }
            Ask::WaitFor { .. } => Err(Failure::not_an_answer()),
        }
    }

    /// The state of one partition.
    fn status(&self, partition: Partition) -> Result<PartitionStatus, Failure> {
        let status = self.inner.stores.status().into_iter().find(|status| status.partition == partition);
        status.ok_or_else(|| Failure::not_mine(partition))
    }

    /// Reads the last committed state of a partition.
    fn read<T>(
        &self,
        question: &Question,
        work: impl FnOnce(&View<'_>) -> Result<T, ApiError>,
    ) -> Result<(T, Seen), Failure> {
        let Question { partition, at_ms, .. } = *question;
        let read = self.inner.stores.read(partition, |snapshot| {
            let reader = Attended { snapshot, given_up: self.given_up.as_deref() };
            let view = View { reader, at_ms: snapshot.elapsed_at(at_ms) };
            let seen = Seen {
                partition,
                next_offset: snapshot.next_offset(),
                stream_time_ms: snapshot.stream_time_ms(),
                rules_version: snapshot.rules_version(),
                at_ms: view.at_ms,
            };
            Ok((work(&view)?, seen))
        });
        read.map_err(Failure::from)?.map_err(|error: ApiError| error.into())
    }
}

/// One partition's committed snapshot and the time that is asked for.
struct View<'s> {
    reader: Attended<'s>,
    at_ms: i64,
}

impl View<'_> {
    fn context(&self, app: u32) -> ReadContext<'_> {
        ReadContext { reader: &self.reader, app, at_ms: self.at_ms, rules: self.reader.snapshot.rules() }
    }
}

fn no_place(partition: Partition) -> ApiError {
    let message = format!("no snapshot of {partition} is taken: its process has no place for snapshots");
    ApiError::new(Code::Conflict, message, "set snapshot.url, for every process that runs partitions")
}

fn not_taken(error: TakeError) -> Failure {
    match error {
        TakeError::Unavailable(why) => why.into(),
        TakeError::Snapshot(_) | TakeError::Stopped => ApiError::unavailable(error).into(),
    }
}

fn not_rebuilt(partition: Partition, error: RebuildError) -> Failure {
    let message = format!("partition {partition} is not rebuilt: {error}");
    let conflict = ApiError::new(Code::Conflict, message, "GET /v1/rebuild shows what is at work");
    match error {
        // Where it is asked again elsewhere, the kind matters; the words are the same.
        RebuildError::Unavailable(why) => Failure { kind: Failure::from(why).kind, error: conflict },
        RebuildError::UnderWay(_) | RebuildError::LogTrimmed { .. } => conflict.into(),
    }
}
