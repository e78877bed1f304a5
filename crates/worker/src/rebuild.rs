//! A rebuild: a second store from the log's start, beside the live one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use barrage_event::Offset;
use barrage_log::EventLog;
use barrage_state::StoreDir;

use crate::budget::BudgetPart;
use crate::engine::{Engine, Stop};
use crate::runner::read;
use crate::shared::Shared;

/// Rebuilds of a process under way together, the others wait for their turn. Each takes memory for a second set of rows
/// from all partitions, and one that has more of it is done sooner.
const AT_ONCE: usize = 4;

/// Whose turn it is to rebuild.
#[derive(Default)]
pub(crate) struct Turns(Arc<AtomicUsize>);

/// A place among them, until it is dropped.
pub(crate) struct Turn(Arc<AtomicUsize>);

impl Turns {
    pub(crate) fn take(&self) -> Option<Turn> {
        let one_more = |taken: usize| (taken < AT_ONCE).then_some(taken + 1);
        let taken = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more);
        taken.is_ok().then(|| Turn(Arc::clone(&self.0)))
    }

    /// Rebuilds under way.
    pub(crate) fn taken(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The second store.
pub(crate) struct Rebuild {
    pub(crate) engine: Engine,
    pub(crate) dir: StoreDir,
    /// What its rows may take, of the same budget as all others.
    pub(crate) memory: BudgetPart,
    pub(crate) _turn: Turn,
}

impl Rebuild {
    /// Goes on towards the live store's offset; whether it is there.
    pub(crate) fn step(&mut self, log: &dyn EventLog, end: Offset, overlay_bytes: usize) -> Result<bool, Stop> {
        let engine = &mut self.engine;
        let read = read(engine, log, Some(end))?;
        let there = engine.next_offset() >= end;
        if read.commit || engine.is_full(overlay_bytes) || there {
            engine.commit(self.memory.settle(engine.bytes()))?;
            self.memory.settle(engine.bytes());
        }
        Ok(there)
    }
}

/// A rebuild that ends without a swap leaves the live store as it is.
pub(crate) fn say_given_up(shared: &Shared, why: &str) {
    shared.with_status(|status| {
        if let Some(rebuild) = &mut status.rebuild
            && !rebuild.done
        {
            rebuild.error = Some(why.to_owned());
        }
    });
}

/// Whether two stores that read the same log to the same place are the same.
pub(crate) fn same(live: &Engine, rebuilt: &Engine) -> bool {
    let (old, new) = (live.committed(), rebuilt.committed());
    old.state_hash == new.state_hash && old.store_hash_value() == new.store_hash_value()
}

/// Says how far it is.
pub(crate) fn say_progress(shared: &Arc<Shared>, offset: Offset, end: Offset) {
    shared.with_status(|status| {
        if let Some(progress) = &mut status.rebuild {
            progress.offset = offset;
            progress.end = end;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_rebuild_together_than_have_a_turn() {
        let turns = Turns::default();
        let mut taken: Vec<Turn> = std::iter::from_fn(|| turns.take()).collect();
        assert_eq!((taken.len(), turns.taken()), (AT_ONCE, AT_ONCE));
        drop(taken.pop());
        assert!(turns.take().is_some(), "one is done");
        drop(taken);
        assert_eq!(turns.taken(), 0);
    }
}
