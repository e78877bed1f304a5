//! Answers to questions from the stores of this process: the only module of the crate that reads them.

mod fields;
mod top;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use barrage_event::{Partition, Position};
use barrage_projection::ReadContext;
use barrage_worker::{PartitionStatus, RebuildError, Snapshot, Snapshots, Stores, TakeError, Unavailable};
use tokio::sync::Semaphore;

use self::fields::{
    dead_letters, levels, ranked_rooms, ranking, room_fields, room_score, rooms_before, slices, user_fields, viewers,
};
use self::top::Top;
use crate::error::{ApiError, Code};
use crate::question::{Ask, Failure, Fields, Found, Question, Seen};

/// The partitions of this process, answering; cheap to clone.
#[derive(Clone)]
pub struct Local(Arc<Inner>);

struct Inner {
    stores: Stores,
    snapshots: Option<Snapshots>,
    scans: Semaphore,
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Local").field(&self.0.stores).finish()
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
        let scans = Semaphore::new(usize::try_from(scans_in_flight_max).unwrap_or(Semaphore::MAX_PERMITS));
        Self(Arc::new(Inner { stores, snapshots, scans }))
    }

    /// The stores.
    #[must_use]
    pub fn stores(&self) -> &Stores {
        &self.0.stores
    }

    /// Answers a question. Point reads take microseconds and are done where they are.
    pub(crate) async fn answer(&self, question: &Question) -> Result<Found, Failure> {
        if let Ask::WaitFor { offset, timeout_ms } = question.ask {
            let position = Position { partition: question.partition, offset };
            self.0.stores.wait_for(position, Duration::from_millis(timeout_ms)).await?;
            return Ok(Found::Done);
        }
        if question.ask.walks() {
            let question = question.clone();
            return self.scan(move |local| local.answer_now(&question)).await?;
        }
        self.answer_now(question)
    }

    /// Does work that walks over many rows where it stops nobody else.
    pub(crate) async fn scan<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        // The semaphore is never closed; waiting is bounded by the requests at work.
        let _place = self.0.scans.acquire().await.map_err(ApiError::unavailable)?;
        let local = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&local)).await;
        done.map_err(|error| ApiError::failed(format!("a read did not finish: {error}")).into())
    }

    /// Answers a question that waits for nothing. Blocks for as long as its reads take.
    pub(crate) fn answer_now(&self, question: &Question) -> Result<Found, Failure> {
        let Question { partition, .. } = *question;
        let statistics = self.0.stores.statistics();
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
                let (places, seen) = self.read(question, |view| ranking(statistics, &view.context(*app), sort, top))?;
                Ok(Found::Places(places, seen))
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
                let (rows, seen) = self.read(question, |view| dead_letters(view.snapshot, *from, *limit))?;
                Ok(Found::Rows(rows, seen))
            }
            Ask::Status => Ok(Found::Status(Box::new(self.status(partition)?))),
            Ask::Rebuild => {
                self.0.stores.rebuild(partition).map_err(|error| not_rebuilt(partition, error))?;
                Ok(Found::Done)
            }
            Ask::Snapshot => {
                let snapshots = self.0.snapshots.as_ref().ok_or_else(|| no_place(partition))?;
                snapshots.begin(partition).map_err(not_taken)?;
                Ok(Found::Done)
            }
            Ask::Apps => {
                let (apps, _) = self.read(question, |view| Ok(view.snapshot.meta().apps.clone()))?;
                Ok(Found::Apps(apps))
            }
            Ask::SeenOf { end, source } => {
                let read =
                    |snapshot: &Snapshot<'_>| (snapshot.next_offset() >= *end).then(|| snapshot.source_mark(*source));
                let seen = self.0.stores.read(partition, read)?;
                let not_yet = || Failure::from(Unavailable::TimedOut(Position { partition, offset: *end }));
                Ok(Found::HighWater(seen.ok_or_else(not_yet)?))
            }
            Ask::WaitFor { .. } => Err(Failure::not_an_answer()),
        }
    }

    /// The state of one partition.
    fn status(&self, partition: Partition) -> Result<PartitionStatus, Failure> {
        let status = self.0.stores.status().into_iter().find(|status| status.partition == partition);
        status.ok_or_else(|| Failure::not_mine(partition))
    }

    /// Reads the last committed state of a partition.
    fn read<T>(
        &self,
        question: &Question,
        work: impl FnOnce(&View<'_>) -> Result<T, ApiError>,
    ) -> Result<(T, Seen), Failure> {
        let Question { partition, at_ms, .. } = *question;
        let read = self.0.stores.read(partition, |snapshot| {
            let view = View { snapshot, at_ms: snapshot.elapsed_at(at_ms) };
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
    snapshot: &'s Snapshot<'s>,
    at_ms: i64,
}

impl View<'_> {
    fn context(&self, app: u32) -> ReadContext<'_> {
        ReadContext { reader: self.snapshot, app, at_ms: self.at_ms, rules: self.snapshot.rules() }
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
