//! What the thread of a partition and its readers share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use barrage_event::rules::RuleSet;
use barrage_event::{Offset, Partition};
use barrage_log::EventLog;
use barrage_projection::{ReaderExt as _, StoreError};
use barrage_state::runtime::Rules;
use barrage_state::{Meta, Store};
use tokio::sync::watch;

use crate::status::{PartitionStatus, Phase, Unavailable};

/// The partitions that are this process's now.
#[derive(Default)]
pub(crate) struct Assigned(RwLock<BTreeMap<Partition, Arc<Shared>>>);

impl Assigned {
    pub(crate) fn get(&self, partition: Partition) -> Option<Arc<Shared>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&partition).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Shared>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(crate) fn partitions(&self) -> Vec<Partition> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(crate) fn insert(&self, shared: Arc<Shared>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(shared.partition, shared);
    }

    /// Takes a partition out, unless it was given back meanwhile.
    pub(crate) fn remove(&self, shared: &Arc<Shared>) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if all.get(&shared.partition).is_some_and(|held| Arc::ptr_eq(held, shared)) {
            all.remove(&shared.partition);
        }
    }
}

/// How far a partition is, for those who wait for it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Reached {
    /// Next record to commit.
    pub(crate) next: u64,
    /// Reads were let in.
    pub(crate) readable: bool,
    /// It comes no further here: taken away, stopped or closed.
    pub(crate) ended: bool,
}

/// A store that is open and not read yet, because the owner before may have been further.
struct Behind {
    store: Arc<Store>,
    /// Question for the log's ends whose answer counts.
    question: u64,
    /// Where the log ended when it was answered.
    end: Option<u64>,
}

/// One assignment of a partition to this process. A partition that goes and comes back gets another one.
pub(crate) struct Shared {
    pub(crate) partition: Partition,
    pub(crate) generation: u64,
    store: RwLock<Option<Arc<Store>>>,
    behind: Mutex<Option<Behind>>,
    status: Mutex<PartitionStatus>,
    pub(crate) reached: watch::Sender<Reached>,
    revoked: AtomicBool,
    pub(crate) commit_wanted: AtomicBool,
    pub(crate) rebuild_wanted: AtomicBool,
    apps: Mutex<Arc<[u32]>>,
    rules: Mutex<(u32, Arc<RuleSet>)>,
}

impl Shared {
    pub(crate) fn new(partition: Partition, generation: u64) -> Self {
        Self {
            partition,
            generation,
            store: RwLock::new(None),
            behind: Mutex::default(),
            status: Mutex::new(PartitionStatus {
                partition,
                generation,
                phase: Phase::Starting,
                offset: Offset(0),
                end: Offset(0),
                state_hash: 0,
                store_hash: 0,
                stream_time_ms: 0,
                rules_version: 0,
                applied: 0,
                duplicates: 0,
                dead_letters: 0,
                needs_rebuild: false,
                outgoing: 0,
                rebuild: None,
                snapshot: None,
            }),
            reached: watch::Sender::default(),
            revoked: AtomicBool::new(false),
            commit_wanted: AtomicBool::new(false),
            rebuild_wanted: AtomicBool::new(false),
            apps: Mutex::default(),
            rules: Mutex::new((0, Arc::new(RuleSet::default()))),
        }
    }

    pub(crate) fn with_status<R>(&self, f: impl FnOnce(&mut PartitionStatus) -> R) -> R {
        f(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Acquire)
    }

    /// Lets reads in, unless the partition was taken away meanwhile.
    pub(crate) fn open(&self, store: &Arc<Store>, committed: &Meta) {
        self.publish(committed);
        self.let_reads_in(Arc::clone(store));
    }

    /// Lets reads in as soon as everything is applied that was in the log when it was asked `question`: until then an
    /// answer would be older than those of the owner before.
    pub(crate) fn open_behind(&self, store: &Arc<Store>, committed: &Meta, log: &dyn EventLog, question: u64) {
        self.publish(committed);
        *self.behind() = Some(Behind { store: Arc::clone(store), question, end: None });
        self.look_whether_caught_up(log, committed.next_offset);
    }

    fn behind(&self) -> MutexGuard<'_, Option<Behind>> {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is a store, read or not.
    pub(crate) fn is_open(&self) -> bool {
        self.behind().is_some() || self.with_status(|status| status.phase == Phase::Live)
    }

    /// Lets reads in when it is time, after a commit up to `committed`. Gives up to where that is still to go.
    pub(crate) fn look_whether_caught_up(&self, log: &dyn EventLog, committed: u64) -> Option<u64> {
        let mut behind = self.behind();
        let waiting = behind.as_mut()?;
        if waiting.end.is_none() && log.ends_answered(self.partition) >= waiting.question {
            waiting.end = Some(log.end(self.partition).0);
        }
        let end = waiting.end?;
        if committed < end {
            return Some(end);
        }
        let Behind { store, .. } = behind.take()?;
        drop(behind);
        self.let_reads_in(store);
        None
    }

    /// Another store is in the place of the open one.
    pub(crate) fn replace(&self, store: &Arc<Store>, committed: &Meta) {
        if let Some(behind) = self.behind().as_mut() {
            behind.store = Arc::clone(store);
        } else {
            self.let_reads_in(Arc::clone(store));
        }
        self.publish(committed);
    }

    fn let_reads_in(&self, store: Arc<Store>) {
        let mut slot = self.store.write().unwrap_or_else(PoisonError::into_inner);
        if !self.is_revoked() {
            *slot = Some(store);
            drop(slot);
            self.with_status(|status| status.phase = Phase::Live);
            self.reached.send_modify(|reached| reached.readable = true);
        }
    }

    /// No read begins after this, and one that has begun and not taken its snapshot yet fails.
    pub(crate) fn revoke(&self) {
        {
            let mut slot = self.store.write().unwrap_or_else(PoisonError::into_inner);
            self.revoked.store(true, Ordering::Release);
            *slot = None;
        }
        *self.behind() = None;
        self.reached.send_modify(|reached| reached.ended = true);
    }

    /// The partition goes no further in this assignment.
    pub(crate) fn stop(&self, error: String) {
        self.with_status(|status| status.phase = Phase::Stopped { error });
        *self.store.write().unwrap_or_else(PoisonError::into_inner) = None;
        *self.behind() = None;
        self.reached.send_modify(|reached| reached.ended = true);
    }

    pub(crate) fn publish(&self, meta: &Meta) {
        self.with_status(|status| {
            status.offset = Offset(meta.next_offset);
            status.state_hash = meta.state_hash_value().0;
            status.store_hash = meta.store_hash_value().0;
            status.stream_time_ms = meta.stream_time;
            status.rules_version = meta.rules_version;
            status.applied = meta.applied;
            status.duplicates = meta.duplicates + meta.resent;
            status.dead_letters = meta.dead_lettered;
            status.needs_rebuild = meta.newer_records > 0;
        });
        {
            let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
            if **apps != *meta.apps {
                *apps = meta.apps.as_slice().into();
            }
        }
        self.reached.send_modify(|reached| reached.next = meta.next_offset);
    }

    /// The `SdkAppid`s that were seen, in order.
    pub(crate) fn apps(&self) -> Arc<[u32]> {
        Arc::clone(&self.apps.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn store(&self) -> Result<Arc<Store>, Unavailable> {
        let store = self.store.read().unwrap_or_else(PoisonError::into_inner).clone();
        store.ok_or_else(|| {
            if self.is_revoked() {
                return Unavailable::NotMine(self.partition);
            }
            self.with_status(|status| match &status.phase {
                Phase::Stopped { error } => Unavailable::Stopped { partition: self.partition, error: error.clone() },
                Phase::Starting | Phase::Live => Unavailable::Starting(self.partition),
            })
        })
    }

    /// The rules in force in a snapshot, parsed once a version.
    pub(crate) fn rules(&self, snapshot: &barrage_state::Snapshot<'_>) -> Result<Arc<RuleSet>, StoreError> {
        let version = snapshot.meta().rules_version;
        let mut cached = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.0 != version
            && let Some(row) = snapshot.get::<Rules>(&(0,))?
        {
            let rules = RuleSet::from_toml(&row.rules_toml)
                .map_err(|e| StoreError::Damaged { table: "runtime.rules", problem: e.to_string() })?;
            *cached = (version, Arc::new(rules));
        }
        Ok(Arc::clone(&cached.1))
    }
}
