//! One partition's store: committed rows, read by the overlay and by queries, written at commits.

use std::cell::RefCell;
use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use barrage_projection::codec::row_hash;
use barrage_projection::{
    Backing, CommitSink, Entity, Ranker, Rankings, Reader, Stands, StateHash, StoreError, VisitRow, VisitRowUntil,
};
use prost::Message as _;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{DB, DBPinnableSlice, Direction, IteratorMode, ReadOptions, WriteBatch, WriteOptions};

use crate::StateError;
use crate::env::StateEnv;
use crate::runtime::{FIRST_STATISTIC_TABLE, META_ROW, Meta, NOT_HASHED};

/// An open store.
pub struct Store {
    db: DB,
    dir: PathBuf,
    wal: bool,
    /// Made once, not for every lookup.
    reads: ReadOptions,
    /// What reads see of its rankings; nothing while they are not kept.
    rankings: RwLock<Option<Ranked>>,
    ranker: Mutex<Ranker>,
}

/// A commit that is not through after as many looks at it has failed.
const READ_TRIES: u32 = 100_000;

/// The rankings of a commit.
#[derive(Clone)]
struct Ranked {
    /// [`Meta::next_offset`] of the commit.
    next_offset: u64,
    rankings: Arc<Rankings>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store in `dir`, making it when there is none.
    ///
    /// # Errors
    /// [`StateError::Rocks`] when it cannot be opened, for one because another process has it open.
    pub fn open(env: &StateEnv, dir: &Path) -> Result<Self, StateError> {
        std::fs::create_dir_all(dir).map_err(|source| StateError::File { path: dir.display().to_string(), source })?;
        let db = DB::open(&env.db_options(), dir)
            .map_err(|source| StateError::Rocks { dir: dir.display().to_string(), source })?;
        Ok(Self {
            db,
            dir: dir.to_owned(),
            wal: env.options().wal,
            reads: ReadOptions::default(),
            rankings: RwLock::default(),
            ranker: Mutex::default(),
        })
    }

    /// Opens the store in `dir` without changing it; another process may have it open.
    ///
    /// # Errors
    /// [`StateError::Rocks`] when there is none or it cannot be read.
    pub fn open_read_only(dir: &Path) -> Result<Self, StateError> {
        let db = DB::open_for_read_only(&rocksdb::Options::default(), dir, false)
            .map_err(|source| StateError::Rocks { dir: dir.display().to_string(), source })?;
        Ok(Self {
            db,
            dir: dir.to_owned(),
            wal: true,
            reads: ReadOptions::default(),
            rankings: RwLock::default(),
            ranker: Mutex::default(),
        })
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The committed [`Meta`]; `None` in a new store.
    ///
    /// # Errors
    /// [`StateError`] when it cannot be read.
    pub fn meta(&self) -> Result<Option<Meta>, StateError> {
        let bytes = self.db.get(META_ROW).map_err(|source| self.rocks(source))?;
        bytes.map(|bytes| self.decode_meta(&bytes)).transpose()
    }

    fn decode_meta(&self, bytes: &[u8]) -> Result<Meta, StateError> {
        Meta::decode(bytes).map_err(|e| StateError::Damaged {
            dir: self.dir.display().to_string(),
            problem: format!("its first row cannot be read: {e}"),
        })
    }

    fn rocks(&self, source: rocksdb::Error) -> StateError {
        StateError::Rocks { dir: self.dir.display().to_string(), source }
    }

    /// Writes the changes and the meta row in one batch: both or neither are there after a crash.
    ///
    /// # Errors
    /// [`StateError::Rocks`] when the write fails; the partition has to stop.
    pub fn commit(&self, changes: &mut Changes, meta: &Meta) -> Result<(), StateError> {
        changes.batch.put(META_ROW, meta.encode_to_vec());
        let mut options = WriteOptions::default();
        options.disable_wal(!self.wal);
        // Made before the rows are written, so that reads hardly ever come between the two.
        let ranked = self.ranked().map(|_| {
            let mut ranker = self.ranker.lock().unwrap_or_else(PoisonError::into_inner);
            for (table, row, stands) in changes.stands.drain(..) {
                ranker.row_stands(table, &row, stands);
            }
            Ranked { next_offset: meta.next_offset, rankings: ranker.publish() }
        });
        changes.stands.clear();
        let result = self.db.write_opt(std::mem::take(&mut changes.batch), &options);
        changes.rows = 0;
        result.map_err(|source| self.rocks(source))?;
        if ranked.is_some() {
            *self.rankings.write().unwrap_or_else(PoisonError::into_inner) = ranked;
        }
        Ok(())
    }

    fn ranked(&self) -> Option<Ranked> {
        self.rankings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps the rankings up from here on. `read` puts in what the committed rows say.
    ///
    /// # Errors
    /// What `read` returns, and [`StateError`] when the store cannot be read.
    pub fn keep_rankings<E: From<StateError>>(
        &self,
        read: impl FnOnce(&Snapshot<'_>, &mut Ranker) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut ranker = self.ranker.lock().unwrap_or_else(PoisonError::into_inner);
        let next_offset = self.read(|snapshot| read(snapshot, &mut ranker).map(|()| snapshot.meta().next_offset))?;
        let ranked = Ranked { next_offset: next_offset?, rankings: ranker.publish() };
        *self.rankings.write().unwrap_or_else(PoisonError::into_inner) = Some(ranked);
        Ok(())
    }

    /// Writes everything in memory to files.
    ///
    /// # Errors
    /// [`StateError::Rocks`] when that fails.
    pub fn flush(&self) -> Result<(), StateError> {
        self.db.flush().map_err(|source| self.rocks(source))
    }

    /// Calls `f` with one committed snapshot.
    ///
    /// # Errors
    /// [`StateError`] when the snapshot's meta row cannot be read.
    pub fn read<R>(&self, f: impl FnOnce(&Snapshot<'_>) -> R) -> Result<R, StateError> {
        for _ in 0..READ_TRIES {
            // First, so that they are never newer than the snapshot.
            let ranked = self.ranked();
            let snapshot = self.db.snapshot();
            let bytes = snapshot.get(META_ROW).map_err(|source| self.rocks(source))?;
            let meta = bytes.map(|bytes| self.decode_meta(&bytes)).transpose()?.unwrap_or_default();
            if ranked.as_ref().is_some_and(|ranked| ranked.next_offset != meta.next_offset) {
                // A commit has written its rows and is about to show its rankings.
                std::thread::yield_now();
                continue;
            }
            let rankings = ranked.map(|ranked| ranked.rankings).unwrap_or_default();
            return Ok(f(&Snapshot { snapshot, meta, rankings, last: RefCell::default() }));
        }
        Err(StateError::Damaged {
            dir: self.dir.display().to_string(),
            problem: "its rows are of another commit than its rankings: the last one failed".to_owned(),
        })
    }

    /// Makes a copy of the committed state in `dir`, which must not exist: table files are hard links where the file
    /// system has them, and stay as they are whatever becomes of this store. May run beside commits.
    ///
    /// # Errors
    /// [`StateError::Rocks`] when it cannot be written.
    pub fn checkpoint(&self, dir: &Path) -> Result<(), StateError> {
        Checkpoint::new(&self.db)
            .and_then(|checkpoint| checkpoint.create_checkpoint(dir))
            .map_err(|source| self.rocks(source))
    }

    /// Reads every row and compares the hashes that were kept up commit by commit with those of the rows that are there.
    /// Takes as long as reading the whole store does.
    ///
    /// # Errors
    /// [`StateError::Damaged`] when they differ or there is no state, and when the store cannot be read.
    pub fn check(&self) -> Result<Meta, StateError> {
        let damaged = |problem: String| StateError::Damaged { dir: self.dir.display().to_string(), problem };
        let (mut state, mut own) = (StateHash::default(), StateHash::default());
        self.read(|snapshot| {
            let mut whole = Vec::new();
            snapshot
                .scan_rows(&[], None, &mut |row, value| {
                    let outgoing = row.first().is_some_and(|table| NOT_HASHED.contains(table));
                    if row != META_ROW && !outgoing {
                        whole.clear();
                        whole.extend_from_slice(row);
                        whole.extend_from_slice(value);
                        let statistic = row.first().is_some_and(|&table| table >= FIRST_STATISTIC_TABLE);
                        let sum = if statistic { &mut state } else { &mut own };
                        sum.change(0, row_hash(&whole, row.len()));
                    }
                    Ok(ControlFlow::Continue(()))
                })
                .map_err(|error| damaged(error.to_string()))?;
            let meta = snapshot.meta();
            for (what, kept, counted) in
                [("state", meta.state_hash_value(), state), ("runtime", meta.runtime_hash_value(), own)]
            {
                if kept != counted {
                    return Err(damaged(format!("its rows have the {what} hash {counted}, it should be {kept}")));
                }
            }
            Ok(meta.clone())
        })?
    }

    /// Visits all rows inside the bounds of `options`.
    fn visit_rows(&self, options: ReadOptions, visit: &mut VisitRow<'_>) -> Result<(), StoreError> {
        walk(self.db.iterator_opt(IteratorMode::Start, options), &mut |row, value| {
            visit(row, value).map(|()| ControlFlow::Continue(()))
        })
    }

    /// Bytes of the store's files, about.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.db.property_int_value("rocksdb.total-sst-files-size").ok().flatten().unwrap_or(0)
    }
}

fn io(error: &rocksdb::Error) -> StoreError {
    StoreError::Io(error.to_string())
}

impl Backing for Store {
    fn get(&self, row: &[u8], found: &mut dyn FnMut(&[u8])) -> Result<(), StoreError> {
        let value: Option<DBPinnableSlice<'_>> = self.db.get_pinned_opt(row, &self.reads).map_err(|e| io(&e))?;
        if let Some(value) = value {
            found(&value);
        }
        Ok(())
    }

    fn scan(&self, prefix: &[u8], visit: &mut VisitRow<'_>) -> Result<(), StoreError> {
        self.visit_rows(scan_options(prefix), visit)
    }

    fn scan_range(&self, first: &[u8], last: &[u8], visit: &mut VisitRow<'_>) -> Result<(), StoreError> {
        let mut options = scan_options(&[]);
        // The bound itself is not visited; `last` is.
        options.set_iterate_range(first..[last, &[0]].concat().as_slice());
        self.visit_rows(options, visit)
    }
}

/// Keeps an iterator inside a prefix.
fn scan_options(prefix: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    if !prefix.is_empty() {
        options.set_iterate_range(rocksdb::PrefixRange(prefix));
    }
    options.set_total_order_seek(true);
    options
}

fn walk(
    rows: impl Iterator<Item = Result<(Box<[u8]>, Box<[u8]>), rocksdb::Error>>,
    visit: &mut VisitRowUntil<'_>,
) -> Result<(), StoreError> {
    for row in rows {
        let (row, value) = row.map_err(|e| io(&e))?;
        if visit(&row, &value)?.is_break() {
            break;
        }
    }
    Ok(())
}

/// The rows of a commit.
#[derive(Default)]
pub struct Changes {
    batch: WriteBatch,
    rows: usize,
    /// Where rows stand in rankings: table, row, places.
    stands: Vec<(u8, Box<[u8]>, Stands)>,
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl Changes {
    /// Rows written or deleted so far.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of the batch.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.batch.size_in_bytes()
    }
}

impl CommitSink for Changes {
    fn put(&mut self, row: &[u8], value: &[u8]) {
        self.batch.put(row, value);
        self.rows += 1;
    }

    fn delete(&mut self, row: &[u8]) {
        self.batch.delete(row);
        self.rows += 1;
    }

    fn stands(&mut self, table: u8, row: &[u8], stands: Stands) {
        self.stands.push((table, row.into(), stands));
    }
}

/// One committed state of a store, for reads.
pub struct Snapshot<'s> {
    snapshot: rocksdb::Snapshot<'s>,
    meta: Meta,
    rankings: Arc<Rankings>,
    /// The entity's row that was read last: each statistic asks for its part of it in turn.
    last: RefCell<Option<LastRow>>,
}

struct LastRow {
    row: Box<[u8]>,
    value: Option<Vec<u8>>,
}

impl fmt::Debug for Snapshot<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("meta", &self.meta).finish_non_exhaustive()
    }
}

impl Snapshot<'_> {
    /// How far the store had come.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.meta
    }
}

impl Reader for Snapshot<'_> {
    fn get_row(&self, row: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let shared = row.first().is_some_and(|&first| Entity::has(first));
        if shared
            && let Some(last) = &*self.last.borrow()
            && *last.row == *row
        {
            return Ok(last.value.clone());
        }
        let value = self.snapshot.get(row).map_err(|e| io(&e))?;
        if shared {
            self.last.replace(Some(LastRow { row: row.into(), value: value.clone() }));
        }
        Ok(value)
    }

    fn scan_rows(&self, prefix: &[u8], from: Option<&[u8]>, visit: &mut VisitRowUntil<'_>) -> Result<(), StoreError> {
        let start = from.filter(|from| *from > prefix).unwrap_or(prefix);
        let mode = IteratorMode::From(start, Direction::Forward);
        walk(self.snapshot.iterator_opt(mode, scan_options(prefix)), visit)
    }

    fn rankings(&self) -> &Rankings {
        &self.rankings
    }
}
