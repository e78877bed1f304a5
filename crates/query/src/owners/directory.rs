//! Who owns which partition, as this process knows it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use barrage_event::Partition;
use tokio::sync::watch;

use super::record::OwnerRecord;

/// A process's claim to a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// How the process calls itself; answers show it.
    pub process: Arc<str>,
    /// HOST:PORT of its gRPC.
    pub address: Arc<str>,
    /// Greater for every change of owner.
    pub generation: u64,
}

/// Who owns a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// This process.
    Here(Claim),
    /// Another one.
    There(Claim),
    /// No process that is known.
    Nobody,
}

impl Owner {
    /// The owner's claim.
    #[must_use]
    pub fn claim(&self) -> Option<&Claim> {
        match self {
            Self::Here(claim) | Self::There(claim) => Some(claim),
            Self::Nobody => None,
        }
    }
}

/// Who owns which partition. Asked for every question, so it answers from memory.
pub trait Directory: fmt::Debug + Send + Sync + 'static {
    /// The owner of a partition.
    fn owner(&self, partition: Partition) -> Owner;

    /// Changes whenever an owner may have changed.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// Every partition is this process's, always: one process on the embedded log.
#[derive(Debug)]
pub struct AllHere {
    claim: Claim,
    changes: watch::Sender<u64>,
}

impl AllHere {
    /// All partitions are of the process that calls itself so.
    #[must_use]
    pub fn new(process: &str) -> Self {
        let claim = Claim { process: process.into(), address: "".into(), generation: 1 };
        Self { claim, changes: watch::Sender::new(0) }
    }
}

impl Directory for AllHere {
    fn owner(&self, _: Partition) -> Owner {
        Owner::Here(self.claim.clone())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// What the records of `barrage.owners` say; whoever reads them puts them in.
///
/// A process puts its own records in when it takes or gives back a partition, without waiting to read them: putting one
/// in twice changes nothing.
#[derive(Debug)]
pub struct OwnerTable {
    process: Option<String>,
    /// At most one entry a partition, of which the log has a fixed number.
    owners: RwLock<HashMap<Partition, (OwnerRecord, Owner)>>,
    changes: watch::Sender<u64>,
}

impl OwnerTable {
    /// An empty table, of the process that calls itself so; `None` for one that owns nothing.
    #[must_use]
    pub fn new(process: Option<String>) -> Self {
        Self { process, owners: RwLock::default(), changes: watch::Sender::new(0) }
    }

    /// Puts a record in; whether it changed anything. One that an earlier one outweighs is left out, so the order of
    /// calls does not matter.
    pub fn apply(&self, partition: Partition, record: OwnerRecord) -> bool {
        let mut owners = self.owners.write().unwrap_or_else(PoisonError::into_inner);
        let merged = match owners.get(&partition) {
            Some((known, _)) if record <= *known => return false,
            Some((known, _)) => known.clone().merge(record),
            None => record,
        };
        let owner = self.owner_of(&merged);
        owners.insert(partition, (merged, owner));
        drop(owners);
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
        true
    }

    /// The record that counts for a partition.
    #[must_use]
    pub fn record(&self, partition: Partition) -> Option<OwnerRecord> {
        let owners = self.owners.read().unwrap_or_else(PoisonError::into_inner);
        owners.get(&partition).map(|(record, _)| record.clone())
    }

    fn owner_of(&self, record: &OwnerRecord) -> Owner {
        if record.released {
            return Owner::Nobody;
        }
        let claim = Claim {
            process: record.process_id.as_str().into(),
            address: record.address.as_str().into(),
            generation: record.generation,
        };
        if self.process.as_ref() == Some(&record.process_id) { Owner::Here(claim) } else { Owner::There(claim) }
    }
}

impl Directory for OwnerTable {
    fn owner(&self, partition: Partition) -> Owner {
        let owners = self.owners.read().unwrap_or_else(PoisonError::into_inner);
        owners.get(&partition).map_or(Owner::Nobody, |(_, owner)| owner.clone())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(process: &str, generation: u64, released: bool) -> OwnerRecord {
        OwnerRecord {
            generation,
            released,
            since_ms: 0,
            process_id: process.to_owned(),
            address: format!("{process}:8082"),
        }
    }

    fn shown(owner: &Owner) -> String {
        match owner {
            Owner::Here(claim) => format!("here {}", claim.generation),
            Owner::There(claim) => format!("{} {}", claim.address, claim.generation),
            Owner::Nobody => "nobody".to_owned(),
        }
    }

    #[test]
    fn the_table_follows_the_highest_generation_and_tells_of_changes_only() {
        let table = OwnerTable::new(Some("me".to_owned()));
        let mut changes = table.changes();
        let partition = Partition::room(0);
        assert_eq!(shown(&table.owner(partition)), "nobody");
        for (record, changed, owner) in [
            (record("them", 2, false), true, "them:8082 2"),
            (record("them", 2, false), false, "them:8082 2"),
            (record("me", 1, false), false, "them:8082 2"),
            (record("them", 2, true), true, "nobody"),
            (record("them", 2, false), false, "nobody"),
            (record("me", 3, false), true, "here 3"),
            (record("them", 2, true), false, "here 3"),
        ] {
            assert_eq!(table.apply(partition, record.clone()), changed, "{record:?}");
            assert_eq!(shown(&table.owner(partition)), owner, "{record:?}");
            assert_eq!(changes.has_changed().ok(), Some(changed), "{record:?}");
            changes.mark_unchanged();
        }
        assert_eq!(shown(&table.owner(Partition::user(0))), "nobody");
    }
}
