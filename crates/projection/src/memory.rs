//! A store in memory and a harness that applies a `Vec` of records, for the tests of statistics.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use barrage_event::rules::RuleSet;
use barrage_event::{EnvelopeView, Offset, Partition};

use crate::effects::Effects;
use crate::overlay::{CommitSink, StateHash, TableClash, Tables};
use crate::projection::{ApplyError, Context, Place, Projection, Rules};
use crate::ranking::{Ranker, Rankings, Stands};
use crate::reads::{Reader, VisitRowUntil};
use crate::statistic::Statistic;
use crate::table::{Backing, StoreError, TableDef, VisitRow};

/// Committed rows.
#[derive(Debug, Default)]
pub struct MemoryStore {
    /// The rows.
    pub rows: BTreeMap<Vec<u8>, Vec<u8>>,
    ranker: Ranker,
    rankings: Arc<Rankings>,
}

/// Rankings follow from the rows.
impl PartialEq for MemoryStore {
    fn eq(&self, other: &Self) -> bool {
        self.rows == other.rows
    }
}

impl CommitSink for MemoryStore {
    fn put(&mut self, row: &[u8], value: &[u8]) {
        self.rows.insert(row.to_vec(), value.to_vec());
    }

    fn delete(&mut self, row: &[u8]) {
        self.rows.remove(row);
    }

    fn stands(&mut self, table: u8, row: &[u8], stands: Stands) {
        self.ranker.row_stands(table, row, stands);
    }
}

impl Backing for MemoryStore {
    fn get(&self, row: &[u8], found: &mut dyn FnMut(&[u8])) -> Result<(), StoreError> {
        if let Some(value) = self.rows.get(row) {
            found(value);
        }
        Ok(())
    }

    fn scan(&self, prefix: &[u8], visit: &mut VisitRow<'_>) -> Result<(), StoreError> {
        let rows = self.rows.range(prefix.to_vec()..).take_while(|(row, _)| row.starts_with(prefix));
        rows.into_iter().try_for_each(|(row, value)| visit(row, value))
    }

    fn scan_range(&self, first: &[u8], last: &[u8], visit: &mut VisitRow<'_>) -> Result<(), StoreError> {
        self.rows.range(first.to_vec()..=last.to_vec()).try_for_each(|(row, value)| visit(row, value))
    }
}

/// A store that counts how many rows it is asked for.
#[derive(Debug, Default)]
pub struct CountingStore {
    /// The store.
    pub store: MemoryStore,
    /// Rows that it was asked for.
    pub asked: Cell<usize>,
    /// Ranges that were walked over.
    pub walks: Cell<usize>,
}

impl Backing for CountingStore {
    fn get(&self, row: &[u8], found: &mut dyn FnMut(&[u8])) -> Result<(), StoreError> {
        self.asked.set(self.asked.get() + 1);
        Backing::get(&self.store, row, found)
    }

    fn scan(&self, prefix: &[u8], visit: &mut VisitRow<'_>) -> Result<(), StoreError> {
        self.store.scan(prefix, visit)
    }

    fn scan_range(&self, first: &[u8], last: &[u8], visit: &mut VisitRow<'_>) -> Result<(), StoreError> {
        self.walks.set(self.walks.get() + 1);
        self.store.scan_range(first, last, visit)
    }
}

impl Reader for MemoryStore {
    fn get_row(&self, row: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.rows.get(row).cloned())
    }

    fn scan_rows(&self, prefix: &[u8], from: Option<&[u8]>, visit: &mut VisitRowUntil<'_>) -> Result<(), StoreError> {
        let start = from.filter(|from| *from > prefix).unwrap_or(prefix).to_vec();
        for (row, value) in self.rows.range(start..).take_while(|(row, _)| row.starts_with(prefix)) {
            if visit(row, value)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn rankings(&self) -> &Rankings {
        &self.rankings
    }
}

/// One partition, driven by hand.
pub struct Harness {
    projections: Vec<Box<dyn Projection>>,
    tables: Tables,
    /// What is committed.
    pub store: MemoryStore,
    /// The rules in force, and those that records are stamped with.
    pub rules: RuleSet,
    /// The rules that records are stamped with, where they are others.
    pub stamped: Option<RuleSet>,
    /// What the last record caused.
    pub effects: Effects,
    /// Hash of the committed state.
    pub hash: StateHash,
    stream_time_ms: i64,
    offset: u64,
}

impl std::fmt::Debug for Harness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Harness").field("offset", &self.offset).finish_non_exhaustive()
    }
}

impl Harness {
    /// An empty partition.
    ///
    /// # Errors
    /// [`TableClash`] when two of the projection's tables have one id.
    pub fn new(projection: impl Projection, rules: RuleSet) -> Result<Self, TableClash> {
        Self::of(vec![Box::new(projection)], rules)
    }

    /// An empty partition of several projections, applied in their order.
    ///
    /// # Errors
    /// [`TableClash`] when two of the projections' tables have one id.
    pub fn of(projections: Vec<Box<dyn Projection>>, rules: RuleSet) -> Result<Self, TableClash> {
        let defs: Vec<TableDef> = projections.iter().flat_map(|projection| projection.tables()).collect();
        let tables = Tables::new(&defs)?;
        Ok(Self {
            projections,
            tables,
            store: MemoryStore::default(),
            rules,
            stamped: None,
            effects: Effects::default(),
            hash: StateHash::default(),
            stream_time_ms: 0,
            offset: 0,
        })
    }

    /// Applies one record.
    ///
    /// # Errors
    /// What the projection returns.
    pub fn apply(&mut self, record: &EnvelopeView<'_>) -> Result<(), ApplyError> {
        self.stream_time_ms = self.stream_time_ms.max(record.received_at_ms);
        self.effects.clear();
        let stamped = self.stamped.as_ref().unwrap_or(&self.rules);
        for projection in &self.projections {
            let place = Place {
                partition: Partition { topic: projection.topic(), index: 0 },
                offset: Offset(self.offset),
                stream_time_ms: self.stream_time_ms,
                log_time_ms: self.stream_time_ms,
            };
            let rules = Rules { current: &self.rules, stamped, version: record.rules_version };
            let mut cx = Context::new(&mut self.tables, &self.store, &mut self.effects, place, rules);
            projection.apply(&mut cx, record)?;
        }
        self.offset += 1;
        Ok(())
    }

    /// Commits what is applied and then keeps at most `memory_bytes` of clean rows in memory.
    pub fn commit(&mut self, memory_bytes: usize) {
        self.tables.commit(&|_| true, &mut self.store, &mut self.hash);
        self.store.rankings = self.store.ranker.publish();
        self.tables.evict(memory_bytes);
    }

    /// The rankings as a restart reads them for this statistic.
    ///
    /// # Errors
    /// [`StoreError`] when a committed row is damaged.
    pub fn rankings_read_again(&self, statistic: &dyn Statistic) -> Result<Arc<Rankings>, StoreError> {
        let mut ranker = Ranker::default();
        statistic.read_rankings(&self.store, &mut |table, app, room, stands| {
            ranker.room_stands(table, app, room, stands);
            ControlFlow::Continue(())
        })?;
        Ok(ranker.publish())
    }

    /// Forgets all memory, as a restart after a commit does.
    ///
    /// # Errors
    /// [`StoreError`] when a committed row is damaged.
    pub fn restart(&mut self) -> Result<(), StoreError> {
        self.tables.discard(&self.store)
    }

    /// Stream time, ms.
    pub fn stream_time_ms(&self) -> i64 {
        self.stream_time_ms
    }
}

/// The state hash of rows, computed from nothing but the rows: what the running one must equal.
#[must_use]
pub fn hash_of(store: &MemoryStore) -> StateHash {
    let mut hash = StateHash::default();
    for (row, value) in &store.rows {
        let whole: Vec<u8> = row.iter().chain(value).copied().collect();
        hash.change(0, crate::codec::row_hash(&whole, row.len()));
    }
    hash
}
