//! A statistic: its projections and its reads, tied together.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use serde_json::{Map, Value as Json};

use crate::projection::Projection;
use crate::ranking::Stands;
use crate::reads::{ReadContext, Reader};
use crate::table::StoreError;

/// One room of a ranking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RankedRoom {
    /// `GroupId`.
    pub room: String,
    /// What it is ranked by; more is higher.
    pub score: u64,
}

/// Which rooms of a partition are wanted.
#[derive(Debug, Clone, Copy)]
pub struct RankQuery<'q> {
    /// What they are ranked by: one of [`Statistic::room_sorts`].
    pub sort: &'q str,
    /// How many are wanted, best first.
    pub keep: usize,
    /// Only rooms behind this one, by score and then by name.
    pub after: Option<(u64, &'q str)>,
    /// Rooms with a lower score need not be visited: there are enough better ones elsewhere.
    pub score_min: u64,
}

impl<'q> RankQuery<'q> {
    /// All rooms.
    #[must_use]
    pub fn all(sort: &'q str) -> Self {
        Self { sort, keep: usize::MAX, after: None, score_min: 0 }
    }

    /// Whether the room stands behind the place that is asked from.
    #[must_use]
    pub fn wants(&self, room: &RankedRoom) -> bool {
        self.after.is_none_or(|(score, name)| room.score < score || room.score == score && room.room.as_str() > name)
    }
}

/// One page of a room's viewers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ViewersPage {
    /// The viewers, best first; each with `account` and the statistic's fields.
    pub viewers: Vec<Map<String, Json>>,
    /// Where the next page goes on; `None` at the end.
    pub next: Option<String>,
}

/// One page of a room's viewers by what they did in a span of time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ViewersWindow {
    /// The viewers.
    pub page: ViewersPage,
    /// The span that is answered for, [from, to) in ms: what was asked for, widened to whole slices, as far back as they
    /// are kept; empty where none is.
    pub span: (i64, i64),
}

/// Slices of time of one room: (start in ms, width in ms) to fields.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MinutesPage {
    /// The slices, in order of time.
    pub slices: BTreeMap<(i64, i64), Map<String, Json>>,
}

/// Is told of a ranked room: table, app, name, and where it stands.
pub type TellStands<'t> = dyn FnMut(u8, u32, &str, Stands) -> ControlFlow<()> + 't;

/// A statistic. The list of statistics is the one place where the program knows of it.
///
/// The reads have defaults that answer nothing: a statistic implements those that it has something to say to, and the
/// fields of all statistics are merged into one answer.
pub trait Statistic: Send + Sync + 'static {
    /// Name, as its crate's.
    fn name(&self) -> &'static str;

    /// Version of its state; another version in a store means that the store is rebuilt.
    fn state_version(&self) -> u32;

    /// Its projections, in the order in which they are applied.
    fn projections(&self) -> Vec<Box<dyn Projection>>;

    /// Adds this statistic's fields of a room; `false` when it knows no such room.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails.
    fn room(&self, _cx: &ReadContext<'_>, _room: &str, _out: &mut Map<String, Json>) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// Adds this statistic's fields of an account; `false` when it knows no such account.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails.
    fn user(&self, _cx: &ReadContext<'_>, _account: &str, _out: &mut Map<String, Json>) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// What rooms can be ranked by here: values of `sort=` of `/v1/rooms`.
    fn room_sorts(&self) -> &'static [&'static str] {
        &[]
    }

    /// Whether the order of this ranking is kept in memory, so that a page of it, a room's place and what it is ranked by
    /// take no walk over rows. Such a read does not queue behind those that walk.
    fn ranks_in_memory(&self, _sort: &str) -> bool {
        false
    }

    /// Which generation the scores of this ranking are of. Those of different ones cannot be compared, so no page goes on
    /// behind a score of another.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails.
    fn ranking_generation(&self, _cx: &ReadContext<'_>, _sort: &str) -> Result<u32, StoreError> {
        Ok(0)
    }

    /// Reads the rooms that stand in rankings from an opened store, those that were active last first, until `stands`
    /// has as many as it keeps: it is given table, app, name and where the room stands.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails.
    fn read_rankings(&self, _reader: &dyn Reader, _stands: &mut TellStands<'_>) -> Result<(), StoreError> {
        Ok(())
    }

    /// Visits rooms of the partition with their scores, in any order: at least the `keep` best of those that are wanted.
    /// Visiting more is allowed, so a statistic without an order of its own visits all.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails.
    fn rank_rooms(
        &self,
        _cx: &ReadContext<'_>,
        _query: RankQuery<'_>,
        _visit: &mut dyn FnMut(RankedRoom),
    ) -> Result<(), StoreError> {
        Ok(())
    }

    /// What a room is ranked by, as [`Self::rank_rooms`] tells it; `None` when it is not ranked. A statistic that finds
    /// a room without a visit to all of them says so here.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails.
    fn room_score(&self, cx: &ReadContext<'_>, sort: &str, room: &str) -> Result<Option<u64>, StoreError> {
        let mut found = None;
        self.rank_rooms(cx, RankQuery::all(sort), &mut |ranked| {
            if ranked.room == room {
                found = Some(ranked.score);
            }
        })?;
        Ok(found)
    }

    /// How many rooms of the partition stand before a place: with a higher score, or with the same one and a name that
    /// comes first. A statistic that counts without a visit to all of them does so here.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails.
    fn rooms_before(&self, cx: &ReadContext<'_>, sort: &str, (score, name): (u64, &str)) -> Result<u64, StoreError> {
        let mut before = 0;
        self.rank_rooms(cx, RankQuery::all(sort), &mut |ranked| {
            before += u64::from(ranked.score > score || ranked.score == score && ranked.room.as_str() < name);
        })?;
        Ok(before)
    }

    /// How many of the partition's accounts there are at each level; empty when this statistic knows of no levels.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails.
    fn levels(&self, _cx: &ReadContext<'_>) -> Result<BTreeMap<u32, u64>, StoreError> {
        Ok(BTreeMap::new())
    }

    /// What viewers can be ranked by here: values of `sort=` of `/v1/rooms/{room}/viewers`.
    fn viewer_sorts(&self) -> &'static [&'static str] {
        &[]
    }

    /// Those of them for which [`Self::viewers_between`] answers.
    fn viewer_window_sorts(&self) -> &'static [&'static str] {
        &[]
    }

    /// One page of a room's viewers; `after` is the `next` of the page before. `None` when `after` is not one of ours.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails.
    fn viewers(
        &self,
        _cx: &ReadContext<'_>,
        _room: &str,
        _sort: &str,
        _limit: usize,
        _after: Option<&str>,
    ) -> Result<Option<ViewersPage>, StoreError> {
        Ok(Some(ViewersPage::default()))
    }

    /// As [`Self::viewers`], by what they did in the slices of time that overlap [`from_ms`, `to_ms`) alone; only for
    /// sorts of this statistic. `None` when `after` is not one of ours.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails.
    fn viewers_between(
        &self,
        _cx: &ReadContext<'_>,
        _room: &str,
        _sort: &str,
        (from_ms, to_ms): (i64, i64),
        (_limit, _after): (usize, Option<&str>),
    ) -> Result<Option<ViewersWindow>, StoreError> {
        Ok(Some(ViewersWindow { span: (from_ms, to_ms), ..ViewersWindow::default() }))
    }

    /// Slices of time of a room that overlap [`from_ms`, `to_ms`), at most `limit` of them.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails.
    fn minutes(
        &self,
        _cx: &ReadContext<'_>,
        _room: &str,
        (_from_ms, _to_ms): (i64, i64),
        _limit: usize,
    ) -> Result<MinutesPage, StoreError> {
        Ok(MinutesPage::default())
    }
}
