//! Rankings: the first rooms of a partition in order, kept in memory.
//!
//! What a room is ranked by changes with nearly every event in it. An order on disk would be rewritten as often, and a
//! page of it read row by row; here a commit moves the rooms that changed in one walk over their lists, and a page is a
//! slice. Where a room stands follows from its row alone, so nothing of this is stored: a store that is opened makes it
//! anew from the rows of the rooms that were active last.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashTable;
use smallvec::SmallVec;

use crate::codec::memory_hash;
use crate::entity::Entity;
use crate::key::KeyCodec as _;

/// Entries of all lists of a partition at most, of about 100 bytes each. Beyond it the last ones of the longest list go.
pub const ENTRIES_MAX: usize = 100_000;

/// Entries of a chunk, which is what a commit copies where one of them changes: half as many to twice as many.
const CHUNK: usize = 256;

/// Where a row stands in one list of its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stand {
    /// Which of the table's rankings.
    pub list: u8,
    /// Scores of different generations cannot be compared.
    pub generation: u32,
    /// More is higher.
    pub score: u64,
}

/// Where a row stands in all lists.
pub type Stands = SmallVec<[Stand; 2]>;

/// Names a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListId {
    /// Id of the table whose rows are ranked.
    pub table: u8,
    /// `SdkAppid`.
    pub app: u32,
    /// [`Stand::list`].
    pub list: u8,
    /// [`Stand::generation`].
    pub generation: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    score: u64,
    room: Arc<str>,
}

impl Entry {
    /// Highest score first, then by name.
    fn place(&self) -> (Reverse<u64>, &str) {
        (Reverse(self.score), &self.room)
    }
}

/// An entry that comes or goes.
#[derive(Debug)]
struct Change {
    entry: Entry,
    comes: bool,
}

/// Rooms by score, the highest first, then by name.
#[derive(Debug, Clone, Default)]
pub struct RankList {
    /// In order; none is empty.
    chunks: Vec<Arc<[Entry]>>,
    len: usize,
}

impl RankList {
    /// How many rooms it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The rooms behind a place, or all, with their scores.
    pub fn behind<'l>(&'l self, place: Option<(u64, &str)>) -> impl Iterator<Item = (u64, &'l str)> + use<'l> {
        let (chunk, at) = place.map_or((0, 0), |(score, room)| self.seek(score, room, true));
        let first = self.chunks.get(chunk).map_or(&[][..], |chunk| &chunk[at..]);
        let rest = self.chunks.iter().skip(chunk + 1).flat_map(|chunk| chunk.iter());
        first.iter().chain(rest).map(|entry| (entry.score, &*entry.room))
    }

    /// Whether a room stands at a place.
    #[must_use]
    pub fn has(&self, score: u64, room: &str) -> bool {
        let (chunk, at) = self.seek(score, room, false);
        let entry = self.chunks.get(chunk).and_then(|chunk| chunk.get(at));
        entry.is_some_and(|entry| entry.place() == (Reverse(score), room))
    }

    /// How many rooms stand before a place.
    #[must_use]
    pub fn before(&self, score: u64, room: &str) -> usize {
        let (chunk, at) = self.seek(score, room, false);
        self.chunks[..chunk].iter().map(|chunk| chunk.len()).sum::<usize>() + at
    }

    /// The first entry that is not before a place, or, with `behind`, not at it either: its chunk and its place there.
    fn seek(&self, score: u64, room: &str, behind: bool) -> (usize, usize) {
        let passed = |entry: &Entry| {
            let order = entry.place().cmp(&(Reverse(score), room));
            order.is_lt() || behind && order.is_eq()
        };
        let chunk = self.chunks.partition_point(|chunk| chunk.last().is_some_and(passed));
        (chunk, self.chunks.get(chunk).map_or(0, |chunk| chunk.partition_point(passed)))
    }

    /// Takes changes over that are in order. Chunks without one stay as they are.
    fn apply(&mut self, changes: &[Change]) {
        let old = std::mem::take(&mut self.chunks);
        self.chunks.reserve(old.len() + 1);
        let mut rest = changes;
        for (at, chunk) in old.iter().enumerate() {
            let end = old
                .get(at + 1)
                .map_or(rest.len(), |next| rest.partition_point(|change| change.entry.place() < next[0].place()));
            let (here, later) = rest.split_at(end);
            rest = later;
            if here.is_empty() {
                self.chunks.push(Arc::clone(chunk));
            } else {
                self.put(merged(chunk, here));
            }
        }
        if old.is_empty() {
            self.put(merged(&[], rest));
        }
        self.len = self.chunks.iter().map(|chunk| chunk.len()).sum();
    }

    /// Appends entries as chunks of a fit size.
    fn put(&mut self, mut entries: Vec<Entry>) {
        if let Some(last) = self.chunks.pop_if(|last| last.len() + entries.len() <= CHUNK) {
            entries.splice(..0, last.iter().cloned());
        }
        let pieces = if entries.len() <= 2 * CHUNK { 1 } else { entries.len() / CHUNK };
        let size = entries.len().div_ceil(pieces).max(1);
        self.chunks.extend(entries.chunks(size).map(Arc::from));
    }

    /// Takes the last entries out: a chunk of them.
    fn cut(&mut self) -> Arc<[Entry]> {
        let last = self.chunks.pop().unwrap_or_default();
        self.len -= last.len();
        last
    }
}

/// A chunk with changes, both in order.
fn merged(chunk: &[Entry], changes: &[Change]) -> Vec<Entry> {
    let mut entries = Vec::with_capacity(chunk.len() + changes.len());
    let mut chunk = chunk.iter().peekable();
    for change in changes {
        while let Some(entry) = chunk.next_if(|entry| entry.place() < change.entry.place()) {
            entries.push(entry.clone());
        }
        if change.comes {
            entries.push(change.entry.clone());
        } else {
            chunk.next_if(|entry| **entry == change.entry);
        }
    }
    entries.extend(chunk.cloned());
    entries
}

/// The lists of a partition as of one commit.
#[derive(Debug, Clone, Default)]
pub struct Rankings {
    lists: BTreeMap<ListId, RankList>,
}

impl Rankings {
    /// A list; `None` when nothing stands in it.
    #[must_use]
    pub fn list(&self, id: ListId) -> Option<&RankList> {
        self.lists.get(&id)
    }

    /// All lists, by what names them.
    pub fn lists(&self) -> impl Iterator<Item = (ListId, &RankList)> {
        self.lists.iter().map(|(id, list)| (*id, list))
    }
}

/// A room that stands somewhere.
struct Known {
    table: u8,
    app: u32,
    room: Arc<str>,
    stands: Stands,
}

impl Known {
    fn is(&self, table: u8, app: u32, room: &str) -> bool {
        self.table == table && self.app == app && *self.room == *room
    }
}

fn hash(app: u32, room: &str) -> u64 {
    memory_hash(room.as_bytes()) ^ u64::from(app)
}

/// Keeps the rankings of a partition up, commit by commit.
#[derive(Default)]
pub struct Ranker {
    rooms: HashTable<Known>,
    changes: BTreeMap<ListId, Vec<Change>>,
    published: Arc<Rankings>,
}

impl std::fmt::Debug for Ranker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ranker").field("rooms", &self.rooms.len()).finish_non_exhaustive()
    }
}

impl Ranker {
    /// Whether it knows as many rooms as it keeps, so that more of them only push out others.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.rooms.len() >= ENTRIES_MAX
    }

    /// A row of a ranked table stands here now, and nowhere else. `row` is a room's.
    pub fn row_stands(&mut self, table: u8, row: &[u8], stands: Stands) {
        if let Some((app, room)) = room_of(row) {
            self.room_stands(table, app, room, stands);
        }
    }

    /// A room stands here now, and nowhere else.
    pub fn room_stands(&mut self, table: u8, app: u32, room: &str, stands: Stands) {
        let hash_of = |known: &Known| hash(known.app, &known.room);
        let mut known = match self.rooms.entry(hash(app, room), |known| known.is(table, app, room), hash_of) {
            hashbrown::hash_table::Entry::Occupied(known) => known,
            hashbrown::hash_table::Entry::Vacant(_) if stands.is_empty() => return,
            hashbrown::hash_table::Entry::Vacant(place) => {
                place.insert(Known { table, app, room: room.into(), stands: Stands::new() })
            }
        };
        let room = Arc::clone(&known.get().room);
        let before = std::mem::take(&mut known.get_mut().stands);
        for (from, to, comes) in [(&before, &stands, false), (&stands, &before, true)] {
            for &stand in from.iter().filter(|stand| !to.contains(stand)) {
                let id = ListId { table, app, list: stand.list, generation: stand.generation };
                let entry = Entry { score: stand.score, room: Arc::clone(&room) };
                self.changes.entry(id).or_default().push(Change { entry, comes });
            }
        }
        if stands.is_empty() {
            known.remove();
        } else {
            known.get_mut().stands = stands;
        }
    }

    /// The rankings with everything that was told so far.
    pub fn publish(&mut self) -> Arc<Rankings> {
        if !self.changes.is_empty() {
            let rankings = Arc::make_mut(&mut self.published);
            for (id, mut changes) in std::mem::take(&mut self.changes) {
                changes.sort_unstable_by(|a, b| a.entry.place().cmp(&b.entry.place()));
                let list = rankings.lists.entry(id).or_default();
                list.apply(&changes);
                if list.is_empty() {
                    rankings.lists.remove(&id);
                }
            }
            self.shorten();
        }
        Arc::clone(&self.published)
    }

    /// Keeps all lists together in bounds.
    fn shorten(&mut self) {
        let rankings = Arc::make_mut(&mut self.published);
        let mut entries: usize = rankings.lists.values().map(RankList::len).sum();
        while entries > ENTRIES_MAX
            && let Some((id, list)) = rankings.lists.iter_mut().max_by_key(|(_, list)| list.len())
        {
            let cut = list.cut();
            entries -= cut.len();
            for entry in cut.iter() {
                let known = |known: &Known| known.is(id.table, id.app, &entry.room);
                if let Ok(mut known) = self.rooms.find_entry(hash(id.app, &entry.room), known) {
                    let stands = &mut known.get_mut().stands;
                    stands.retain(|stand| (stand.list, stand.generation) != (id.list, id.generation));
                    if stands.is_empty() {
                        known.remove();
                    }
                }
            }
        }
    }
}

/// App and name of a room's row.
fn room_of(row: &[u8]) -> Option<(u32, &str)> {
    let (&first, key) = row.split_first()?;
    if first == Entity::Room.id() { <(u32, &str)>::decode(key).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const TABLE: u8 = 65;

    /// List, generation, score.
    type Told = (u8, u32, u64);

    /// What was told last of each room, sorted at every question.
    #[derive(Debug, Default)]
    struct Model(BTreeMap<(u32, String), Vec<Told>>);

    impl Model {
        fn list(&self, app: u32, list: u8, generation: u32) -> Vec<(u64, &str)> {
            let stands = self.0.iter().filter(|((of, _), _)| *of == app);
            let mut entries: Vec<(Reverse<u64>, &str)> = stands
                .flat_map(|((_, room), stands)| stands.iter().map(move |stand| (stand, room.as_str())))
                .filter(|(stand, _)| (stand.0, stand.1) == (list, generation))
                .map(|(stand, room)| (Reverse(stand.2), room))
                .collect();
            entries.sort();
            entries.into_iter().map(|(Reverse(score), room)| (score, room)).collect()
        }
    }

    fn stands() -> impl Strategy<Value = Vec<Told>> {
        let score = prop_oneof![3 => 0_u64..40, 1 => any::<u64>()];
        prop_oneof![
            1 => Just(Vec::new()),
            6 => (1_u32..3, score, prop::option::of(0_u64..40)).prop_map(|(generation, first, second)| {
                let second = second.map(|second| (1, generation, second));
                std::iter::once((0, generation, first)).chain(second).collect()
            }),
        ]
    }

    proptest! {
        #[test]
        fn lists_are_those_of_sorting_everything(
            commits in prop::collection::vec(
                prop::collection::btree_map((1_u32..3, 0_u32..1_200), stands(), 0..700), 1..8,
            ),
            places in prop::collection::vec((0_u64..41, 0_u32..1_200), 8),
        ) {
            let (mut ranker, mut model) = (Ranker::default(), Model::default());
            for commit in commits {
                for ((app, room), stands) in commit {
                    let room = format!("room_{room}");
                    let told = stands.iter().map(|&(list, generation, score)| Stand { list, generation, score });
                    ranker.room_stands(TABLE, app, &room, told.collect());
                    model.0.insert((app, room), stands);
                }
                let rankings = ranker.publish();
                for (app, list, generation) in [(1, 0, 1), (1, 1, 2), (2, 0, 2), (3, 0, 1)] {
                    let wanted = model.list(app, list, generation);
                    let empty = RankList::default();
                    let found = rankings.list(ListId { table: TABLE, app, list, generation }).unwrap_or(&empty);
                    prop_assert_eq!(found.len(), wanted.len());
                    prop_assert!(found.chunks.iter().all(|chunk| (1..=2 * CHUNK).contains(&chunk.len())));
                    prop_assert_eq!(&found.behind(None).collect::<Vec<_>>(), &wanted);
                    prop_assert!(wanted.iter().all(|(score, room)| found.has(*score, room)));
                    for (score, room) in &places {
                        let room = format!("room_{room}");
                        let place = (Reverse(*score), room.as_str());
                        let at = wanted.partition_point(|&(score, room)| (Reverse(score), room) < place);
                        prop_assert_eq!(found.before(*score, &room), at);
                        prop_assert_eq!(found.has(*score, &room), wanted.get(at) == Some(&(*score, room.as_str())));
                        let behind = wanted.partition_point(|&(score, room)| (Reverse(score), room) <= place);
                        prop_assert!(found.behind(Some((*score, &room))).eq(wanted[behind..].iter().copied()));
                    }
                }
            }
        }
    }

    #[test]
    fn a_published_ranking_stays_as_it_is() {
        let mut ranker = Ranker::default();
        let stands = |score| Stands::from_slice(&[Stand { list: 0, generation: 1, score }]);
        ranker.room_stands(TABLE, 1, "a", stands(5));
        let before = ranker.publish();
        ranker.room_stands(TABLE, 1, "a", stands(6));
        ranker.room_stands(TABLE, 1, "b", stands(6));
        let after = ranker.publish();
        let id = ListId { table: TABLE, app: 1, list: 0, generation: 1 };
        let rooms = |rankings: &Rankings| -> Vec<(u64, String)> {
            let list = rankings.list(id).expect("a list");
            list.behind(None).map(|(score, room)| (score, room.to_owned())).collect()
        };
        assert_eq!(rooms(&before), [(5, "a".to_owned())]);
        assert_eq!(rooms(&after), [(6, "a".to_owned()), (6, "b".to_owned())]);
    }

    #[test]
    fn lists_keep_their_first_entries_when_there_are_too_many() {
        let mut ranker = Ranker::default();
        let rooms = u64::try_from(ENTRIES_MAX).expect("few") + 5_000;
        let stands = |score| Stands::from_slice(&[Stand { list: 0, generation: 1, score }]);
        for score in 0..rooms {
            ranker.room_stands(TABLE, 1, &format!("room_{score}"), stands(score));
        }
        let rankings = ranker.publish();
        let list = rankings.list(ListId { table: TABLE, app: 1, list: 0, generation: 1 }).expect("a list");
        assert!((ENTRIES_MAX - 2 * CHUNK..=ENTRIES_MAX).contains(&list.len()), "{}", list.len());
        assert!(list.behind(None).map(|(score, _)| score).eq((0..rooms).rev().take(list.len())));
        assert_eq!(ranker.rooms.len(), list.len(), "what stands nowhere is not remembered");
        // One that was cut off comes back where it stands then.
        ranker.room_stands(TABLE, 1, "room_0", stands(rooms));
        let rankings = ranker.publish();
        let list = rankings.list(ListId { table: TABLE, app: 1, list: 0, generation: 1 }).expect("a list");
        assert_eq!(list.behind(None).next(), Some((rooms, "room_0")));
        let names: BTreeSet<&str> = list.behind(None).map(|(_, room)| room).collect();
        assert_eq!(names.len(), list.len(), "nobody stands twice");
    }
}
