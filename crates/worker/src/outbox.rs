//! What events cause beside changed rows, on its way out: derived events to rooms, intents to `barrage.notifications`.
//!
//! Both are rows of the store, written in the same batch as everything else, so that none is lost and none is made up.
//! They are taken out again when the log, or the publisher, has acknowledged them. A crash in between sends some a second
//! time: a room drops what is not above its source's high-water, a listener what has an id that it knows.

use std::ops::ControlFlow;

use barrage_event::{Offset, Partition, Source};
use barrage_projection::{Backing, Effects, Reader, ReaderExt as _, StoreError, Table, Tables};
use barrage_state::proto::{IntentRow, OutboxRow};
use barrage_state::runtime::{Intents, Outbox};
use serde_json::json;

/// Place of something that is sent: the record that caused it, and the number among what that record caused.
pub(crate) type Key = (u64, u32);

/// Writes what records cause into the tables of one partition.
#[derive(Debug)]
pub(crate) struct Outgoing {
    log_uuid: u128,
    partition: Partition,
    /// Nothing below is kept: a rebuild need not hold what the live store has sent long ago.
    floor: Key,
    /// What was taken out since the last commit.
    taken: Taken,
    /// Rows that wait to be sent.
    waiting: u64,
    /// Some of them are not committed yet.
    made: bool,
}

/// Changes of the outbox that follow from answers, not from records: when a partition goes back to its last commit they
/// hold all the same.
#[derive(Debug, Default)]
struct Taken {
    derived: Vec<Key>,
    intents: Vec<Key>,
}

impl Outgoing {
    pub(crate) fn new(log_uuid: u128, partition: Partition) -> Self {
        Self { log_uuid, partition, floor: (0, 0), taken: Taken::default(), waiting: 0, made: false }
    }

    /// Nothing below this place is kept from now on.
    pub(crate) fn set_floor(&mut self, floor: Key) {
        self.floor = floor;
    }

    /// Keeps what a record has caused.
    pub(crate) fn put(
        &mut self,
        offset: Offset,
        effects: &mut Effects,
        tables: &mut Tables,
        backing: &dyn Backing,
    ) -> Result<(), StoreError> {
        for (index, derived) in (0_u32..).zip(effects.derived.drain(..)) {
            if (offset.0, index) < self.floor {
                continue;
            }
            let source = Source { log_uuid: self.log_uuid, partition: self.partition.index, offset: offset.0, index };
            let record = derived.encode(source);
            let row = OutboxRow { app: derived.app, room: derived.group_id, record };
            *tables.table::<Outbox>(backing)?.entry_known_new(&(offset.0, index))? = row;
            self.waiting += 1;
            self.made = true;
        }
        for (index, intent) in (0_u32..).zip(effects.intents.drain(..)) {
            if (offset.0, index) < self.floor {
                continue;
            }
            let message = json!({
                "id": intent.id(),
                "kind": intent.kind,
                "app": intent.app,
                "at_ms": intent.at_ms,
                "source": format!("{}@{offset}", self.partition),
                "fields": intent.fields,
            });
            let row = IntentRow { key: intent.id(), message: message.to_string() };
            *tables.table::<Intents>(backing)?.entry_known_new(&(offset.0, index))? = row;
            self.waiting += 1;
            self.made = true;
        }
        Ok(())
    }

    /// Takes out derived events that are in the log.
    pub(crate) fn sent(&mut self, keys: &[Key], tables: &mut Tables, backing: &dyn Backing) -> Result<(), StoreError> {
        self.taken.derived.extend_from_slice(keys);
        self.waiting -= remove::<Outbox>(keys, tables, backing)?.min(self.waiting);
        Ok(())
    }

    /// Takes out intents that are published.
    pub(crate) fn told(&mut self, keys: &[Key], tables: &mut Tables, backing: &dyn Backing) -> Result<(), StoreError> {
        self.taken.intents.extend_from_slice(keys);
        self.waiting -= remove::<Intents>(keys, tables, backing)?.min(self.waiting);
        Ok(())
    }

    /// The tables are those of the last commit again: what was taken out since then is taken out of them, too.
    pub(crate) fn again(&mut self, tables: &mut Tables, backing: &dyn Backing) -> Result<(), StoreError> {
        self.waiting = 0;
        self.made = false;
        for table in [Outbox::ID, Intents::ID] {
            backing.scan(&[table], &mut |_, _| {
                self.waiting += 1;
                Ok(())
            })?;
        }
        let Taken { derived, intents } = std::mem::take(&mut self.taken);
        self.sent(&derived, tables, backing)?;
        self.told(&intents, tables, backing)
    }

    /// It is committed.
    pub(crate) fn committed(&mut self) {
        self.taken = Taken::default();
        self.made = false;
    }

    /// Whether rows were made since the last commit.
    pub(crate) fn is_made(&self) -> bool {
        self.made
    }

    /// Rows that wait to be sent, those that are not committed yet among them.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting
    }

    /// Whether there is something to commit beside applied records.
    pub(crate) fn is_touched(&self) -> bool {
        !self.taken.derived.is_empty() || !self.taken.intents.is_empty()
    }
}

/// The place behind this one.
pub(crate) fn behind((offset, index): Key) -> Key {
    (offset, index.saturating_add(1))
}

/// The first rows of a committed outbox, that of derived events or that of intents, at or behind `from`; at most `limit`.
pub(crate) fn rows<T>(reader: &impl Reader, from: Key, limit: usize) -> Result<Vec<(Key, T::Value)>, StoreError>
where
    T: for<'a> Table<Key<'a> = Key>,
{
    let mut rows = Vec::new();
    reader.scan_from::<T>(&(), Some(&from), |key, row| {
        rows.push((key, row));
        if rows.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(rows)
}

/// Takes rows out, and tells how many there were.
fn remove<T>(keys: &[Key], tables: &mut Tables, backing: &dyn Backing) -> Result<u64, StoreError>
where
    T: for<'a> Table<Key<'a> = Key>,
{
    let mut table = tables.table::<T>(backing)?;
    let mut removed = 0;
    for key in keys {
        removed += u64::from(table.remove(key)?.is_some());
    }
    Ok(removed)
}
