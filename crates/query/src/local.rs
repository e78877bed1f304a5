//! Answers to questions from the stores of this process: the only module of the crate that reads them.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use barrage_event::{Offset, Partition, Position};
use barrage_projection::{ReadContext, Statistic, ViewersPage};
use barrage_worker::{PartitionStatus, RebuildError, Snapshot, Stores};
use serde_json::{Map, Value as Json, json};
use tokio::sync::Semaphore;

use crate::cursor::{self, Kind as CursorKind};
use crate::error::{ApiError, Code};
use crate::question::{Ask, Failure, Fields, Found, Place, Question, Ranked, Seen, Slice};

/// Finds the `SdkAppid`s that a partition knows, in order; some of them when there are many.
pub type FindApps = fn(&Snapshot<'_>) -> Vec<u32>;

/// Slices of a statistic that start before a time and reach beyond it: at most one of each width (minute, hour, day),
/// and one to spare.
const OVERLAPPING_MAX: usize = 4;

/// The partitions of this process, answering; cheap to clone.
#[derive(Clone)]
pub struct Local(Arc<Inner>);

struct Inner {
    stores: Stores,
    find_apps: FindApps,
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
    pub fn new(stores: Stores, find_apps: FindApps, scans_in_flight_max: u32) -> Self {
        let scans = Semaphore::new(usize::try_from(scans_in_flight_max).unwrap_or(Semaphore::MAX_PERMITS));
        Self(Arc::new(Inner { stores, find_apps, scans }))
    }

    /// The stores.
    #[must_use]
    pub fn stores(&self) -> &Stores {
        &self.0.stores
    }

    /// Answers a question. Point reads take microseconds and are done where they are.
    pub(crate) async fn answer(&self, question: Question) -> Result<Found, Failure> {
        if let Ask::WaitFor { offset, timeout_ms } = question.ask {
            let position = Position { partition: question.partition, offset };
            self.0.stores.wait_for(position, Duration::from_millis(timeout_ms)).await?;
            return Ok(Found::Done);
        }
        if question.ask.walks() {
            return self.scan(move |local| local.answer_now(&question)).await?;
        }
        self.answer_now(&question)
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
            Ask::Viewers { app, room, sort, limit, after } => {
                let page = (sort.as_str(), *limit, after.as_deref());
                let (fields, seen) =
                    self.read(question, |view| viewers(statistics, &view.context(*app), room, page))?;
                Ok(Found::Fields(Fields::Made(fields), seen))
            }
            Ask::RankRooms { app, sort, keep, after, before } => {
                let top = Top::new(*keep, after.as_ref(), before.as_ref());
                let (rooms, seen) = self.read(question, |view| ranking(statistics, &view.context(*app), sort, top))?;
                Ok(Found::Rooms(rooms, seen))
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
            Ask::Apps => {
                let (apps, _) = self.read(question, |view| Ok((self.0.find_apps)(view.snapshot)))?;
                Ok(Found::Apps(apps))
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

type Statistics = [Box<dyn Statistic>];

/// The fields that all statistics know of a room, or that there is none.
fn room_fields(statistics: &Statistics, cx: &ReadContext<'_>, room: &str) -> Result<Map<String, Json>, ApiError> {
    let mut fields = Map::new();
    let mut known = false;
    for statistic in statistics {
        known |= statistic.room(cx, room, &mut fields)?;
    }
    if !known {
        return Err(unknown_room(cx.app, room));
    }
    fields.insert("room".to_owned(), room.into());
    Ok(fields)
}

fn unknown_room(app: u32, room: &str) -> ApiError {
    let room: String = room.chars().take(200).collect();
    ApiError::new(
        Code::UnknownRoom,
        format!("nothing was ever seen of room {room} of SdkAppid {app}"),
        "GET /v1/rooms lists rooms; `#` in a room's name is written %23 in a URL",
    )
}

fn user_fields(statistics: &Statistics, cx: &ReadContext<'_>, account: &str) -> Result<Map<String, Json>, ApiError> {
    let mut fields = Map::new();
    let mut known = false;
    for statistic in statistics {
        known |= statistic.user(cx, account, &mut fields)?;
    }
    if !known {
        let account: String = account.chars().take(200).collect();
        let message = format!("nothing was ever seen of account {account} of SdkAppid {}", cx.app);
        let hint = "accounts are written as in From_Account, percent-encoded";
        return Err(ApiError::new(Code::UnknownUser, message, hint));
    }
    fields.insert("account".to_owned(), account.into());
    Ok(fields)
}

fn slices(
    statistics: &Statistics,
    cx: &ReadContext<'_>,
    room: &str,
    (from, to): (i64, i64),
    (limit, after): (usize, Option<Slice>),
) -> Result<Map<String, Json>, ApiError> {
    room_fields(statistics, cx, room)?;
    let start = after.map_or(from, |(start, _)| start.max(from));
    let mut merged: BTreeMap<Slice, Map<String, Json>> = BTreeMap::new();
    for statistic in statistics {
        let page = statistic.minutes(cx, room, (start, to), limit + 1 + OVERLAPPING_MAX)?;
        for (slice, fields) in page.slices {
            if after.is_none_or(|after| slice > after) {
                merged.entry(slice).or_default().extend(fields);
            }
        }
    }
    let more = merged.len() > limit;
    let mut last = None;
    let slices: Vec<Json> = merged
        .into_iter()
        .take(limit)
        .map(|((start, width), mut fields)| {
            last = Some((start, width));
            fields.insert("start".to_owned(), start.into());
            fields.insert("width_ms".to_owned(), width.into());
            Json::Object(fields)
        })
        .collect();
    let mut fields =
        Map::from_iter([("room".to_owned(), Json::from(room)), ("minutes".to_owned(), Json::Array(slices))]);
    if let (true, Some(last)) = (more, last) {
        fields.insert("next".to_owned(), cursor::of_slice(last).into());
    }
    Ok(fields)
}

fn viewers(
    statistics: &Statistics,
    cx: &ReadContext<'_>,
    room: &str,
    (sort, limit, after): (&str, usize, Option<&str>),
) -> Result<Map<String, Json>, ApiError> {
    room_fields(statistics, cx, room)?;
    let page = match statistics.iter().find(|s| s.viewer_sorts().contains(&sort)) {
        Some(statistic) => statistic.viewers(cx, room, sort, limit, after)?.ok_or_else(cursor::wrong)?,
        // No statistic ranks viewers at all.
        None if sort.is_empty() => ViewersPage::default(),
        None => return Err(unknown_sort(sort)),
    };
    let viewers = page.viewers.into_iter().map(Json::Object).collect();
    let mut fields = Map::from_iter([
        ("room".to_owned(), Json::from(room)),
        ("sort".to_owned(), sort.into()),
        ("viewers".to_owned(), Json::Array(viewers)),
    ]);
    if let Some(next) = page.next {
        fields.insert("next".to_owned(), cursor::encode(CursorKind::Viewers, sort, next.as_bytes()).into());
    }
    Ok(fields)
}

/// The process that was asked may be of another version than the one that read the request.
fn unknown_sort(sort: &str) -> ApiError {
    ApiError::parameter("sort", format!("`{sort}` is not known to the partition's owner"), "do both run one version?")
}

fn ranking(
    statistics: &Statistics,
    cx: &ReadContext<'_>,
    sort: &str,
    mut top: Top<'_>,
) -> Result<Vec<Ranked>, ApiError> {
    let mut known = sort.is_empty();
    for statistic in statistics.iter().filter(|s| s.room_sorts().contains(&sort)) {
        known = true;
        statistic.rank_rooms(cx, sort, &mut |ranked| top.offer((std::cmp::Reverse(ranked.score), ranked.room)))?;
    }
    if !known {
        return Err(unknown_sort(sort));
    }
    let places = top.places.into_sorted_vec();
    let ranked = places.into_iter().map(|place| {
        let fields = Fields::Made(room_fields(statistics, cx, &place.1)?);
        Ok(Ranked { place, fields })
    });
    ranked.collect()
}

fn dead_letters(snapshot: &Snapshot<'_>, from: Offset, limit: usize) -> Result<Vec<Fields>, ApiError> {
    let rows = snapshot.dead_letters(from, limit)?.into_iter().map(|letter| {
        let row = json!({
            "partition": snapshot.partition().to_string(),
            "offset": letter.offset.0,
            "projection": letter.projection,
            "reason": letter.reason,
            "command": letter.command,
            "id": hex(&letter.record_id),
            "log_time": letter.log_time_ms,
        });
        Fields::Made(if let Json::Object(row) = row { row } else { Map::new() })
    });
    Ok(rows.collect())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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

/// The best places seen so far, in memory for one page however many rooms there are.
pub(crate) struct Top<'a> {
    keep: usize,
    after: Option<&'a Place>,
    before: Option<&'a Place>,
    /// The worst is on top.
    places: BinaryHeap<Place>,
}

impl<'a> Top<'a> {
    fn new(keep: usize, after: Option<&'a Place>, before: Option<&'a Place>) -> Self {
        Self { keep, after, before, places: BinaryHeap::new() }
    }

    fn offer(&mut self, place: Place) {
        let outside = self.after.is_some_and(|after| place.cmp(after) != Ordering::Greater)
            || self.before.is_some_and(|before| place.cmp(before) != Ordering::Less);
        if outside {
            return;
        }
        if self.places.len() >= self.keep {
            if self.places.peek().is_none_or(|worst| place >= *worst) {
                return;
            }
            self.places.pop();
        }
        self.places.push(place);
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use super::*;

    #[test]
    fn the_best_of_a_range_are_kept_in_order() {
        let place = |score: u64, room: &str| (Reverse(score), room.to_owned());
        let all = [place(5, "a"), place(3, "b"), place(3, "c"), place(9, "d"), place(1, "e")];
        let ranked = |keep: usize, after: Option<&Place>, before: Option<&Place>| {
            let mut top = Top::new(keep, after, before);
            all.iter().for_each(|place| top.offer(place.clone()));
            top.places.into_sorted_vec().into_iter().map(|(_, room)| room).collect::<String>()
        };
        assert_eq!(ranked(9, None, None), "dabce");
        assert_eq!(ranked(2, None, None), "da");
        assert_eq!(ranked(2, Some(&all[0]), None), "bc");
        assert_eq!(ranked(9, None, Some(&all[2])), "dab");
        assert_eq!(ranked(0, None, None), "");
    }
}
