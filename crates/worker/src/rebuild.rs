//! A rebuild: a second store from the log's start, beside the live one.

use std::sync::Arc;

use barrage_event::Offset;
use barrage_log::EventLog;
use barrage_state::StoreDir;

use crate::engine::{Engine, Stop};
use crate::runner::read;
use crate::shared::Shared;

/// The second store.
pub(crate) struct Rebuild {
    pub(crate) engine: Engine,
    pub(crate) dir: StoreDir,
}

impl Rebuild {
    /// Goes on towards the live store's offset; whether it is there.
    pub(crate) fn step(&mut self, log: &dyn EventLog, end: Offset, overlay_bytes: usize) -> Result<bool, Stop> {
        let engine = &mut self.engine;
        let read = read(engine, log, Some(end))?;
        let there = engine.next_offset() >= end;
        if read.commit || engine.is_full(overlay_bytes) || there {
            engine.commit(overlay_bytes)?;
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
