//! Which thread has which partition, and who may touch it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use barrage_event::Partition;
use barrage_state::{Meta, Store};

use crate::shared::Shared;

/// Where a partition is in this process. One that has a home goes to the same thread again, because only that thread
/// knows whether its store is still open.
pub(crate) struct Home {
    pub(crate) thread: usize,
    pub(crate) state: State,
}

/// What becomes of a partition.
pub(crate) enum State {
    /// It is this process's.
    Assigned(Arc<Shared>),
    /// It was taken away, and its thread has not said yet what became of the store.
    Leaving,
    /// It was taken away and its store is still open.
    Parked {
        /// The store, so that reads are answered from the moment it comes back.
        open: Box<OpenStore>,
        /// Another process is known to have it.
        elsewhere: bool,
    },
}

/// An open store in which everything that was applied is committed.
pub(crate) struct OpenStore {
    pub(crate) store: Arc<Store>,
    pub(crate) committed: Meta,
}

/// All homes, shared by those who assign and the threads. Never held while a store is opened, committed or closed.
#[derive(Default)]
pub(crate) struct Homes(Mutex<BTreeMap<Partition, Home>>);

impl Homes {
    pub(crate) fn lock(&self) -> MutexGuard<'_, BTreeMap<Partition, Home>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Said by its thread: the store of a partition that was taken away stays open; or it has none.
    pub(crate) fn left(&self, partition: Partition, open: Option<OpenStore>) {
        let mut homes = self.lock();
        // Given back meanwhile: the thread has that before it.
        let Some(home) = homes.get_mut(&partition).filter(|home| matches!(home.state, State::Leaving)) else { return };
        match open {
            Some(open) => home.state = State::Parked { open: Box::new(open), elsewhere: false },
            None => drop(homes.remove(&partition)),
        }
    }

    /// Asked by its thread: whether the store may be closed. If so, [`Homes::left`] has to follow.
    pub(crate) fn may_close(&self, partition: Partition, waited_enough: bool) -> bool {
        let mut homes = self.lock();
        let Some(home) = homes.get_mut(&partition) else { return false };
        let may = matches!(home.state, State::Parked { elsewhere, .. } if elsewhere || waited_enough);
        if may {
            home.state = State::Leaving;
        }
        may
    }
}

/// The thread with the fewest partitions.
pub(crate) fn least_loaded(homes: &BTreeMap<Partition, Home>, threads: usize) -> usize {
    (0..threads).min_by_key(|&thread| homes.values().filter(|home| home.thread == thread).count()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use barrage_state::{StateEnv, StateOptions};

    use super::*;

    fn spread(homes: &BTreeMap<Partition, Home>, threads: usize) -> Vec<usize> {
        (0..threads).map(|thread| homes.values().filter(|home| home.thread == thread).count()).collect()
    }

    #[test]
    fn partitions_spread_evenly_however_they_come_and_go() {
        let mut homes = BTreeMap::new();
        let add = |homes: &mut BTreeMap<Partition, Home>, index| {
            let thread = least_loaded(homes, 3);
            homes.insert(Partition::room(index), Home { thread, state: State::Leaving });
        };
        (0..7).for_each(|index| add(&mut homes, index));
        assert_eq!(spread(&homes, 3), [3, 2, 2]);
        // All of one thread go; the next ones make up for it.
        homes.retain(|_, home| home.thread != 1);
        (7..10).for_each(|index| add(&mut homes, index));
        assert_eq!(spread(&homes, 3), [3, 3, 2]);
        add(&mut homes, 10);
        assert_eq!(spread(&homes, 3), [3, 3, 3]);
    }

    #[test]
    fn a_partition_that_was_given_back_is_not_closed() {
        let (homes, partition) = (Homes::default(), Partition::room(0));
        homes.lock().insert(partition, Home { thread: 0, state: State::Leaving });
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(&StateEnv::new(StateOptions::default()), dir.path()).expect("opens");
        homes.left(partition, Some(OpenStore { store: Arc::new(store), committed: Meta::default() }));
        assert!(!homes.may_close(partition, false), "it may come back");
        let shared = Arc::new(Shared::new(partition, 1));
        homes.lock().insert(partition, Home { thread: 0, state: State::Assigned(shared) });
        assert!(!homes.may_close(partition, true), "it has come back");
        homes.left(partition, None);
        assert!(homes.lock().contains_key(&partition), "what the thread says late changes nothing");
    }
}
