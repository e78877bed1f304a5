//! One partition's state machine: records in, changed rows out, one commit at a time.
//!
//! The engine has no thread and no clock: the same records give the same bytes, wherever commits fall.

use std::fmt;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use barrage_event::{EnvelopeView, Event, Offset, Partition, Source, identity};
use barrage_log::{EventLog, ReadError, Record};
use barrage_projection::{ApplyError, Context, Effects, Place, Projection, StateHash, Statistic, StoreError, Tables};
use barrage_state::proto::{DeadLetter, HighWater, RulesRow, SourceMark, StatisticVersion};
use barrage_state::runtime::{self, DeadLetters, FIRST_STATISTIC_TABLE, FORMAT, Intents, NOT_HASHED, Outbox};
use barrage_state::{Changes, Meta, StateEnv, StateError, Store, StoreDir};

use crate::checking::LastSeen;
use crate::duplicates::{BusinessKey, DuplicateWindow};
use crate::outbox::{Key, Outgoing, rows};
use crate::rules_in_force::RulesInForce;

/// Dead letters kept in the state; later ones are only counted, so that a flood of them stays bounded.
pub const DEAD_LETTERS_MAX: u64 = 10_000;
/// `SdkAppid`s that a partition's state remembers; those that come later are counted all the same, and only have to be
/// named when they are asked for.
pub const APPS_MAX: usize = 1_024;
/// Bytes of a dead letter's reason that are kept.
const REASON_BYTES_MAX: usize = 500;
/// An incarnation is forgotten this long after its last record, by the log's timestamps.
const INCARNATION_KEEP_MS: i64 = 30 * 86_400_000;
/// Stream time is never beyond the log's own timestamp plus this.
const AHEAD_OF_LOG_MS: i64 = 60_000;

/// Why a partition stops. Nothing is skipped and nothing waits silently.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// The store failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The store failed while an event was applied.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log failed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store was made from another log.
    #[error(
        "the state of {partition} was made from log {state}, this is log {log}: point --data-dir at the log it belongs to, or remove the directory {dir} to make the state anew from this log"
    )]
    OtherLog {
        /// The partition.
        partition: Partition,
        /// Uuid the store names.
        state: String,
        /// Uuid of the log.
        log: String,
        /// The store's directory.
        dir: String,
    },
    /// The log no longer holds the record that the store saw last.
    #[error(
        "the log of {partition} {problem}: it was truncated or made anew. If that is meant, remove the directory {dir} to make the state anew from this log; else put the log back"
    )]
    LogChanged {
        /// The partition.
        partition: Partition,
        /// What was found.
        problem: String,
        /// The store's directory.
        dir: String,
    },
    /// Two statistics claim one table: a defect of the program.
    #[error("{0}")]
    Tables(String),
    /// Something panicked, or ended without a word.
    #[error(
        "a defect of the program: {0}. Restart this process; if it stops there again, a version without the defect has to read on. The log has everything"
    )]
    Defect(String),
}

/// Records between commits at most, so that little is read again after a crash.
const COMMIT_RECORDS: u64 = 100_000;
/// Shortest time between commits of a partition that is behind its log.
const BEHIND: Duration = Duration::from_secs(1);
/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// Applied, or counted as duplicate or dead letter: go on with the next one.
    Next,
    /// A projection refused it: the engine is back at its last commit; read again from [`Engine::next_offset`].
    Rewound,
    /// As `Next`, and a commit is wanted now.
    Commit,
}

/// A projection that refused a record, told again to the second try.
#[derive(Debug)]
struct Refusal {
    offset: u64,
    projection: usize,
    reason: String,
}

/// The state machine of one partition.
pub struct Engine {
    partition: Partition,
    store: Arc<Store>,
    tables: Tables,
    statistics: Arc<Vec<Box<dyn Statistic>>>,
    projections: Vec<Box<dyn Projection>>,
    window: DuplicateWindow,
    rules: RulesInForce,
    effects: Effects,
    outgoing: Outgoing,
    committed: Meta,
    meta: Meta,
    changes: Changes,
    /// Id of the last record; goes into `meta` at the commit.
    last_id: Option<[u8; 16]>,
    refusals: Vec<Refusal>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("partition", &self.partition)
            .field("next_offset", &self.meta.next_offset)
            .finish_non_exhaustive()
    }
}

/// What an opened store is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fitness {
    /// It is new or of this version.
    Fits,
    /// It was made by another version of the state's format: it has to be made anew from the log.
    Outdated,
}

impl Engine {
    /// Opens the store in `dir` for this partition of `log`. One with state goes on only when the log still holds
    /// what it has seen: [`Engine::last_seen`].
    ///
    /// # Errors
    /// [`Stop`] when the store cannot be opened, or is not this log's.
    pub fn open(
        env: &StateEnv,
        dir: &StoreDir,
        partition: Partition,
        log: &dyn EventLog,
        statistics: &Arc<Vec<Box<dyn Statistic>>>,
    ) -> Result<(Self, Fitness), Stop> {
        let store = Arc::new(Store::open(env, &dir.path)?);
        let versions = versions(statistics);
        let log_uuid = log.lineage(partition.topic).to_be_bytes().to_vec();
        let (meta, fitness) = match store.meta()? {
            None => (Meta { log_uuid, format: FORMAT, statistics: versions, ..Meta::default() }, Fitness::Fits),
            Some(meta) => {
                if meta.log_uuid != log_uuid {
                    return Err(Stop::OtherLog {
                        partition,
                        state: hex(&meta.log_uuid),
                        log: hex(&log_uuid),
                        dir: dir.path.display().to_string(),
                    });
                }
                let fits = meta.format == FORMAT && meta.statistics == versions;
                (meta, if fits { Fitness::Fits } else { Fitness::Outdated })
            }
        };
        let projections: Vec<Box<dyn Projection>> = statistics
            .iter()
            .flat_map(|s| s.projections())
            .filter(|projection| projection.topic() == partition.topic)
            .collect();
        let mut defs = runtime::tables();
        defs.extend(projections.iter().flat_map(|p| p.tables()));
        let tables = Tables::new(&defs).map_err(|clash| Stop::Tables(clash.to_string()))?;
        let mut engine = Self {
            partition,
            store,
            tables,
            statistics: Arc::clone(statistics),
            projections,
            window: DuplicateWindow::default(),
            rules: RulesInForce::default(),
            effects: Effects::default(),
            outgoing: Outgoing::new(log.lineage(partition.topic), partition),
            committed: meta.clone(),
            meta,
            changes: Changes::default(),
            last_id: None,
            refusals: Vec::new(),
        };
        if fitness == Fitness::Fits {
            engine.reload()?;
            engine.read_rankings()?;
        }
        Ok((engine, fitness))
    }

    /// Forgets what was not committed.
    fn reload(&mut self) -> Result<(), Stop> {
        self.meta.clone_from(&self.committed);
        let backing: &Store = &self.store;
        self.tables.discard(backing)?;
        self.window.load(backing)?;
        self.rules = RulesInForce::load(&mut self.tables, backing)?;
        self.effects.clear();
        Ok(self.outgoing.again(&mut self.tables, backing)?)
    }

    /// Rankings are in no row: they are read again from those of the rooms that were active last.
    fn read_rankings(&self) -> Result<(), Stop> {
        self.store.keep_rankings(|snapshot, ranker| {
            for statistic in self.statistics.iter() {
                statistic.read_rankings(snapshot, &mut |table, app, room, stands| {
                    ranker.room_stands(table, app, room, stands);
                    if ranker.is_full() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                })?;
            }
            Ok(())
        })
    }

    /// The record before the next one, which has to be in the log for this store to go on; `None` when it has seen none.
    #[must_use]
    pub fn last_seen(&self) -> Option<LastSeen> {
        let last = self.committed.next_offset.checked_sub(1)?;
        Some(LastSeen {
            partition: self.partition,
            offset: Offset(last),
            id: self.committed.last_record_id.clone(),
            dir: self.store.dir().to_owned(),
        })
    }

    /// The partition.
    #[must_use]
    pub fn partition(&self) -> Partition {
        self.partition
    }

    /// Offset of the next record to apply.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        Offset(self.meta.next_offset)
    }

    /// The last committed meta row.
    #[must_use]
    pub fn committed(&self) -> &Meta {
        &self.committed
    }

    /// The store, for reads.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The statistics that are applied.
    #[must_use]
    pub fn statistics(&self) -> &Arc<Vec<Box<dyn Statistic>>> {
        &self.statistics
    }

    /// Records applied since the last commit.
    #[must_use]
    pub fn uncommitted(&self) -> u64 {
        self.meta.next_offset - self.committed.next_offset
    }

    /// Memory of changes that wait for the commit, bytes, estimated.
    #[must_use]
    pub fn dirty_bytes(&self) -> usize {
        self.tables.dirty_bytes()
    }

    /// Memory in use beside the store's, bytes, estimated.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.tables.bytes() + self.window.bytes()
    }

    /// Applies the next record.
    ///
    /// # Errors
    /// [`Stop`] when the store fails or the record is not the next one.
    pub fn apply(&mut self, record: &Record<'_>) -> Result<Applied, Stop> {
        if record.offset.0 != self.meta.next_offset {
            return Err(Stop::LogChanged {
                partition: self.partition,
                problem: format!("gave offset {} where {} comes next", record.offset, self.meta.next_offset),
                dir: self.store.dir().display().to_string(),
            });
        }
        self.meta.log_time = self.meta.log_time.max(record.timestamp_ms);
        let applied = match EnvelopeView::decode(record.bytes) {
            Ok(envelope) => self.apply_envelope(record, &envelope)?,
            Err(error) => {
                self.dead_letter(record, 0, "envelope", &error.to_string(), "")?;
                self.meta.dead_lettered += 1;
                Applied::Next
            }
        };
        if applied != Applied::Rewound {
            self.meta.next_offset += 1;
            self.last_id = EnvelopeView::id_of(record.bytes);
        }
        Ok(applied)
    }

    fn apply_envelope(&mut self, record: &Record<'_>, envelope: &EnvelopeView<'_>) -> Result<Applied, Stop> {
        if !self.advance_sequence(envelope, record.timestamp_ms) || !self.advance_source(envelope) {
            self.meta.resent += 1;
            return Ok(Applied::Next);
        }
        let received = envelope.received_at_ms.min(record.timestamp_ms.saturating_add(AHEAD_OF_LOG_MS));
        self.meta.stream_time = self.meta.stream_time.max(received);
        let backing: &Store = &self.store;
        let log_time = self.meta.log_time;
        let windows = &self.rules.current().windows;
        self.window.expire(log_time, windows, &mut self.tables, backing)?;
        if let Some(key) = identity::business_key(envelope) {
            match self.window.business_key(key, log_time, &mut self.tables, backing)? {
                BusinessKey::New => {}
                BusinessKey::Same => {
                    self.meta.duplicates += 1;
                    return Ok(Applied::Next);
                }
                BusinessKey::OtherContent => {
                    let reason = "the idempotency key was used before for other content";
                    self.dead_letter(record, 0, "business_keys", reason, envelope.command)?;
                    self.meta.dead_lettered += 1;
                    return Ok(Applied::Next);
                }
            }
        } else if let Some(id) = identity::identity(envelope) {
            let received = envelope.received_at_ms;
            if self.window.seen(id, received, log_time, windows, &mut self.tables, backing)? {
                self.meta.duplicates += 1;
                return Ok(Applied::Next);
            }
        }
        if envelope.newer {
            self.meta.newer_records += 1;
        }
        if let Event::RulesApplied(rules) = &envelope.event
            && !self.apply_rules(record, rules.version, rules.rules_toml, rules.applied_by)?
        {
            self.meta.dead_lettered += 1;
            return Ok(Applied::Next);
        }
        self.project(record, envelope)
    }

    /// Whether the record is above its incarnation's high-water, which moves up to it.
    fn advance_sequence(&mut self, envelope: &EnvelopeView<'_>, timestamp_ms: i64) -> bool {
        if envelope.sequence == 0 {
            return true;
        }
        let marks = &mut self.meta.high_waters;
        // The newest incarnation is the last one and nearly always the one that is looked for.
        if let Some(mark) = marks.iter_mut().rev().find(|mark| mark.incarnation == envelope.incarnation) {
            if envelope.sequence <= mark.sequence {
                return false;
            }
            let gap = envelope.sequence - mark.sequence - 1;
            // Whatever an ingest numbered, this is only a figure.
            self.meta.sequence_gaps = self.meta.sequence_gaps.saturating_add(gap);
            mark.sequence = envelope.sequence;
            mark.last_log_time = mark.last_log_time.max(timestamp_ms);
            return true;
        }
        let log_time = self.meta.log_time;
        marks.retain(|mark| mark.last_log_time.saturating_add(INCARNATION_KEEP_MS) >= log_time);
        self.meta.sequence_gaps = self.meta.sequence_gaps.saturating_add(envelope.sequence - 1);
        marks.push(HighWater {
            incarnation: envelope.incarnation,
            sequence: envelope.sequence,
            last_log_time: timestamp_ms,
        });
        true
    }

    /// Whether a derived event is above what came from its source before, which moves up to it.
    fn advance_source(&mut self, envelope: &EnvelopeView<'_>) -> bool {
        let Some(Source { log_uuid, partition, offset, index }) = envelope.source else { return true };
        let (uuid, partition) = (log_uuid.to_be_bytes(), u32::from(partition));
        let marks = &mut self.meta.source_marks;
        let place = marks.binary_search_by(|mark| (mark.log_uuid.as_slice(), mark.partition).cmp(&(&uuid, partition)));
        match place {
            Ok(place) => {
                let mark = &mut marks[place];
                if (offset, index) <= (mark.offset, mark.index) {
                    return false;
                }
                (mark.offset, mark.index) = (offset, index);
            }
            Err(place) => marks.insert(place, SourceMark { log_uuid: uuid.to_vec(), partition, offset, index }),
        }
        true
    }

    /// Takes over a version of the rules; `false` when this version of Barrage cannot read it.
    fn apply_rules(&mut self, record: &Record<'_>, version: u32, toml: &str, by: &str) -> Result<bool, Stop> {
        if version <= self.meta.rules_version {
            return Ok(true);
        }
        match RulesInForce::parse(toml) {
            Ok(rules) => {
                let backing: &Store = &self.store;
                let row = RulesRow { version, rules_toml: toml.to_owned(), applied_by: by.to_owned() };
                self.rules.replace(rules, row, &mut self.tables, backing)?;
                self.meta.rules_version = version;
                self.window.rules_changed();
                Ok(true)
            }
            Err(problem) => {
                self.meta.newer_records += 1;
                self.dead_letter(record, 0, "rules", &problem, "Barrage.RulesApplied")?;
                Ok(false)
            }
        }
    }

    /// Remembers the application; 0 is Barrage itself.
    fn see_app(&mut self, app: u32) {
        let apps = &mut self.meta.apps;
        if app != 0
            && let Err(place) = apps.binary_search(&app)
            && apps.len() < APPS_MAX
        {
            apps.insert(place, app);
        }
    }

    fn project(&mut self, record: &Record<'_>, envelope: &EnvelopeView<'_>) -> Result<Applied, Stop> {
        let refused = self.refusals.iter().any(|r| r.offset == record.offset.0);
        self.effects.clear();
        for (place, projection) in self.projections.iter().enumerate() {
            if refused && self.refusals.iter().any(|r| r.offset == record.offset.0 && r.projection == place) {
                continue;
            }
            let backing: &Store = &self.store;
            let at = Place {
                partition: self.partition,
                offset: record.offset,
                stream_time_ms: self.meta.stream_time,
                log_time_ms: self.meta.log_time,
            };
            let rules = self.rules.of(envelope.rules_version);
            let mut cx = Context::new(&mut self.tables, backing, &mut self.effects, at, rules);
            // A projection that panics has a defect in it; the partition goes on without this event in it.
            let result = catch_unwind(AssertUnwindSafe(|| projection.apply(&mut cx, envelope)));
            let reason = match result {
                Ok(Ok(())) => continue,
                Ok(Err(ApplyError::Store(error))) => return Err(error.into()),
                Ok(Err(ApplyError::Reject(reason))) => reason,
                Err(panic) => format!("panicked: {}", panic_text(panic.as_ref())),
            };
            self.refusals.push(Refusal { offset: record.offset.0, projection: place, reason });
            self.reload()?;
            return Ok(Applied::Rewound);
        }
        self.see_app(envelope.app);
        if !self.effects.is_empty() {
            let backing: &Store = &self.store;
            self.outgoing.put(record.offset, &mut self.effects, &mut self.tables, backing)?;
        }
        if !refused {
            self.meta.applied += 1;
            return Ok(Applied::Next);
        }
        let refusals: Vec<Refusal> = std::mem::take(&mut self.refusals);
        let (here, later): (Vec<_>, Vec<_>) = refusals.into_iter().partition(|r| r.offset == record.offset.0);
        self.refusals = later;
        for refusal in here {
            let name = self.projections[refusal.projection].name();
            let place = u8::try_from(refusal.projection + 1).unwrap_or(u8::MAX);
            self.dead_letter(record, place, name, &refusal.reason, envelope.command)?;
        }
        self.meta.dead_lettered += 1;
        // The next refusal would otherwise read all this again.
        Ok(Applied::Commit)
    }

    fn dead_letter(
        &mut self,
        record: &Record<'_>,
        place: u8,
        projection: &str,
        reason: &str,
        command: &str,
    ) -> Result<(), Stop> {
        if self.meta.dead_letter_rows >= DEAD_LETTERS_MAX {
            self.meta.dead_letters_not_kept += 1;
            return Ok(());
        }
        self.meta.dead_letter_rows += 1;
        let row = DeadLetter {
            projection: projection.to_owned(),
            reason: cut(reason, REASON_BYTES_MAX).to_owned(),
            command: cut(command, REASON_BYTES_MAX).to_owned(),
            record_id: EnvelopeView::id_of(record.bytes).map(|id| id.to_vec()).unwrap_or_default(),
            log_time: record.timestamp_ms,
        };
        let backing: &Store = &self.store;
        self.tables.table::<DeadLetters>(backing)?.set(&(record.offset.0, place), row)?;
        Ok(())
    }

    /// Derived events and intents below this place are not kept: they were sent by the store that this one will replace.
    pub(crate) fn set_outgoing_floor(&mut self, floor: Key) {
        self.outgoing.set_floor(floor);
    }

    /// Place below which nothing of the committed state waits to be sent.
    pub(crate) fn first_unsent(&self) -> Result<Key, Stop> {
        let next = (self.committed.next_offset, 0);
        let (derived, intents) = self.store.read(|s| (rows::<Outbox>(s, (0, 0), 1), rows::<Intents>(s, (0, 0), 1)))?;
        let derived = derived?.first().map_or(next, |(key, _)| *key);
        Ok(intents?.first().map_or(next, |(key, _)| *key).min(derived))
    }

    /// Takes out what lies below this place: it was sent by the store that this one replaces.
    pub(crate) fn forget_outgoing_below(&mut self, floor: Key) -> Result<(), Stop> {
        loop {
            let rows = self.store.read(|s| (rows::<Outbox>(s, (0, 0), 1_000), rows::<Intents>(s, (0, 0), 1_000)))?;
            let derived: Vec<Key> = rows.0?.into_iter().map(|(key, _)| key).filter(|key| *key < floor).collect();
            let intents: Vec<Key> = rows.1?.into_iter().map(|(key, _)| key).filter(|key| *key < floor).collect();
            if derived.is_empty() && intents.is_empty() {
                return Ok(());
            }
            self.sent(&derived)?;
            self.told(&intents)?;
            self.commit(0)?;
        }
    }

    /// These derived events are in the log.
    pub(crate) fn sent(&mut self, keys: &[Key]) -> Result<(), Stop> {
        let backing: &Store = &self.store;
        Ok(self.outgoing.sent(keys, &mut self.tables, backing)?)
    }

    /// These intents are published.
    pub(crate) fn told(&mut self, keys: &[Key]) -> Result<(), Stop> {
        let backing: &Store = &self.store;
        Ok(self.outgoing.told(keys, &mut self.tables, backing)?)
    }

    /// Derived events and intents that are not acknowledged yet.
    pub(crate) fn outgoing(&self) -> u64 {
        self.outgoing.waiting()
    }

    /// Whether the next commit puts rows into the outbox, and whether it takes some out.
    pub(crate) fn outgoing_touched(&self) -> (bool, bool) {
        (self.outgoing.is_made(), self.outgoing.is_touched())
    }

    /// Whether so much waits for its commit that it must not become more.
    #[must_use]
    pub fn is_full(&self, overlay_bytes: usize) -> bool {
        self.uncommitted() >= COMMIT_RECORDS || self.dirty_bytes() > overlay_bytes / 2
    }

    /// Whether changes that have `waited` are committed now. While the partition is behind its log its numbers are old
    /// whatever is committed, and fewer commits write a row fewer times: then a second at least goes by.
    #[must_use]
    pub fn wants_commit(&self, waited: Duration, interval: Duration, behind: bool, overlay_bytes: usize) -> bool {
        waited >= if behind { interval.max(BEHIND) } else { interval } || self.is_full(overlay_bytes)
    }

    /// Whether there is something to commit.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.uncommitted() > 0 || self.outgoing.is_touched()
    }

    /// Writes all changes and the next offset in one batch; nothing is written when nothing was applied.
    ///
    /// # Errors
    /// [`Stop`] when the store fails.
    pub fn commit(&mut self, memory_bytes: usize) -> Result<(), Stop> {
        let moved = self.meta.next_offset != self.committed.next_offset;
        if !moved && !self.outgoing.is_touched() {
            return Ok(());
        }
        let mut state: StateHash = self.meta.state_hash_value();
        let mut own: StateHash = self.meta.runtime_hash_value();
        self.tables.commit(&|id| id >= FIRST_STATISTIC_TABLE, &mut self.changes, &mut state);
        self.tables.commit(&|id| id < NOT_HASHED.start, &mut self.changes, &mut own);
        self.tables.commit(&|id| NOT_HASHED.contains(&id), &mut self.changes, &mut StateHash::default());
        self.meta.set_hashes(state, own);
        if moved {
            self.meta.last_record_id.clear();
            self.meta.last_record_id.extend_from_slice(self.last_id.as_ref().map_or(&[], |id| id.as_slice()));
        }
        self.store.commit(&mut self.changes, &self.meta)?;
        self.outgoing.committed();
        self.committed.clone_from(&self.meta);
        self.tables.evict(memory_bytes);
        Ok(())
    }
}

/// The state versions of statistics, as a store remembers them.
#[must_use]
pub fn versions(statistics: &[Box<dyn Statistic>]) -> Vec<StatisticVersion> {
    statistics.iter().map(|s| StatisticVersion { name: s.name().to_owned(), version: s.state_version() }).collect()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}
