//! Who owns which partition, told to the other processes through `barrage.owners`.
//!
//! A process says what it owns when the group gives it a partition, and takes it back before it gives it up. The
//! highest generation counts, so it does not matter in which order the records of two processes arrive: a process that
//! was frozen, lost its partitions and wakes up again has the lower one. Generations are clocks that never run back
//! behind what was seen: a new owner's is above the last one's whatever its own clock shows. Where it had not seen that
//! one yet, and its clock is behind, it says so again, above it, as soon as it does see it.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use barrage_event::{Offset, Partition};
use barrage_log::{ControlRecord, ControlTopic, Follow, KafkaOptions, Owner};
use barrage_query::{Directory as _, OwnerRecord, OwnerTable};
use barrage_worker::{Assignments, IsOwner};

use super::spools::Spools;

/// Name of the control topic, without the prefix.
pub(super) const TOPIC: &str = "owners";
/// How often a process looks whether what it says of itself has arrived.
const REPEAT: Duration = Duration::from_secs(2);

/// The directory of all processes, as this one knows it: fed by the topic.
pub(super) fn open(
    options: &KafkaOptions,
    process: Option<String>,
    spools: &Arc<Spools>,
) -> anyhow::Result<(Arc<OwnerTable>, Arc<ControlTopic>)> {
    let table = Arc::new(OwnerTable::new(process));
    let (fed, spools) = (Arc::clone(&table), Arc::clone(spools));
    let topic = ControlTopic::open(options, TOPIC, move |record| {
        if !spools.feed(record) {
            feed(&fed, record);
        }
    });
    let topic = topic.context("who owns which partition cannot be learnt")?;
    Ok((table, Arc::new(topic)))
}

fn feed(table: &OwnerTable, record: &ControlRecord) {
    let Some(value) = &record.value else { return };
    let key = std::str::from_utf8(&record.key).ok().and_then(|key| Partition::from_str(key).ok());
    match (key, OwnerRecord::decode(value)) {
        (Some(partition), Ok(owner)) => drop(table.apply(partition, owner)),
        (None, _) => {
            tracing::warn!(key = %String::from_utf8_lossy(&record.key), "a row of the owners names no partition");
        }
        (_, Err(error)) => tracing::warn!(%error, "a row of the owners cannot be read"),
    }
}

/// The partitions of this process: gives them to the worker, and tells the others.
pub(super) struct Ownership {
    assignments: Assignments,
    /// What the group gave this process. Locked while it is told of, so that nothing is claimed after it was given back.
    mine: Mutex<BTreeSet<Partition>>,
    /// Asks the group what is surely this process's.
    is_owner: IsOwner,
    table: Arc<OwnerTable>,
    topic: Arc<ControlTopic>,
    process: String,
    address: String,
    stopping: AtomicBool,
    told: (Mutex<()>, Condvar),
}

impl fmt::Debug for Ownership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ownership")
            .field("process", &self.process)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Ownership {
    pub(super) fn new(
        (assignments, is_owner): (Assignments, IsOwner),
        table: Arc<OwnerTable>,
        topic: Arc<ControlTopic>,
        process: String,
        address: String,
    ) -> Self {
        let (stopping, told) = (AtomicBool::new(false), (Mutex::default(), Condvar::new()));
        Self { assignments, mine: Mutex::default(), is_owner, table, topic, process, address, stopping, told }
    }

    /// Says again what did not arrive: a cluster that is down takes nothing, and compaction may be behind.
    pub(super) fn keep_telling(self: &Arc<Self>) -> std::io::Result<JoinHandle<()>> {
        let own = Arc::clone(self);
        std::thread::Builder::new().name("owners".to_owned()).spawn(move || {
            while !own.stopping.load(Ordering::Acquire) {
                own.tell_again();
                let gate = own.told.0.lock().unwrap_or_else(PoisonError::into_inner);
                drop(own.told.1.wait_timeout(gate, REPEAT));
            }
        })
    }

    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.told.1.notify_all();
    }

    fn tell_again(&self) {
        let mine = self.mine().clone();
        for partition in mine {
            let Some(own) = self.claim(partition) else { continue };
            let row = self.topic.get(partition.to_string().as_bytes()).and_then(|row| row.value);
            let written = row.and_then(|value| OwnerRecord::decode(&value).ok());
            if written.is_none_or(|written| written < own) {
                self.tell(partition, &own);
            }
        }
    }

    fn mine(&self) -> MutexGuard<'_, BTreeSet<Partition>> {
        self.mine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this process says of a partition of its own: what it said before, or more when that does not count.
    fn claim(&self, partition: Partition) -> Option<OwnerRecord> {
        let mine = self.mine();
        let known = self.table.record(partition).filter(|_| mine.contains(&partition))?;
        let Some(generation) = outweighing(&known, &self.process) else { return Some(known) };
        if !(self.is_owner)(partition) {
            return None;
        }
        tracing::warn!(
            %partition, by = %known.process_id, released = known.released, generation,
            "what an earlier owner said outweighs what this process says of its partition: is that one's clock ahead? It is \
             said again, above it"
        );
        let record = self.record(generation, false);
        self.table.apply(partition, record.clone());
        Some(record)
    }

    /// The acknowledgement is not waited for: what is lost is said again.
    fn tell(&self, partition: Partition, record: &OwnerRecord) {
        drop(self.topic.put_later(partition.to_string().as_bytes(), Some(&record.encode())));
    }

    fn record(&self, generation: u64, released: bool) -> OwnerRecord {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        OwnerRecord {
            generation,
            released,
            since_ms: i64::try_from(since).unwrap_or(i64::MAX),
            process_id: self.process.clone(),
            address: self.address.clone(),
        }
    }
}

impl Owner for Ownership {
    fn assigned(&self, partitions: &[Partition], follow: &Arc<dyn Follow>) -> Vec<(Partition, Offset)> {
        let seen = partitions.iter().filter_map(|&p| self.table.record(p)).map(|record| record.generation).max();
        let generation = self.assignments.next_generation().max(seen.unwrap_or(0) + 1);
        let ready = self.assignments.assign(partitions, generation, Some(follow));
        tracing::info!(
            partitions = partitions.len(),
            open = ready.len(),
            generation,
            "partitions are this process's now"
        );
        let mut mine = self.mine();
        for &partition in partitions {
            mine.insert(partition);
            let record = self.record(generation, false);
            self.table.apply(partition, record.clone());
            self.tell(partition, &record);
        }
        drop(mine);
        ready
    }

    fn revoked(&self, partitions: &[Partition], lost: bool) {
        let mut released = Vec::new();
        let mut mine = self.mine();
        for &partition in partitions {
            mine.remove(&partition);
            let Some(own) = self.table.record(partition).filter(|record| record.process_id == self.process) else {
                continue;
            };
            // First here: from now on this process answers that it has not got it.
            let record = OwnerRecord { released: true, ..own };
            self.table.apply(partition, record.clone());
            released.push((partition, record));
        }
        drop(mine);
        self.assignments.revoke(partitions, lost);
        if lost {
            // Somebody else may own them already, and says so; nothing leaves this process any more.
            tracing::warn!(partitions = partitions.len(), "partitions were lost: this process was silent for too long");
            return;
        }
        for (partition, record) in released {
            self.tell(partition, &record);
        }
    }
}

/// The generation that a record needs to count beside the one that does; none when that is the process's own claim.
fn outweighing(known: &OwnerRecord, process: &str) -> Option<u64> {
    let own = known.process_id == process && !known.released;
    (!own).then(|| known.generation.saturating_add(1))
}

/// What to say when no partition has an owner. One that moves has none for a moment, and the others are read meanwhile.
pub(super) fn missing(table: &OwnerTable, all: &[Partition]) -> Vec<String> {
    if all.iter().any(|&partition| table.owner(partition).claim().is_some()) {
        return Vec::new();
    }
    vec!["no partition has an owner: is a `barrage project` running?".to_owned()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Partition = Partition::room(3);

    fn record(process: &str, generation: u64, released: bool) -> OwnerRecord {
        let (process_id, address) = (process.to_owned(), format!("{process}:8082"));
        OwnerRecord { generation, released, since_ms: 0, process_id, address }
    }

    #[test]
    fn an_owner_is_above_whatever_outweighs_it_and_says_nothing_new_where_it_counts() {
        let table = OwnerTable::new(Some("me".to_owned()));
        table.apply(ROOM, record("me", 7, false));
        for (later, expected) in [
            (record("me", 7, false), None),
            (record("them", 6, true), None),
            (record("them", 900, false), Some(901)),
            (record("them", 950, true), Some(951)),
            (record("me", 960, true), Some(961)),
            (record("them", 960, false), Some(961)),
            (record("me", 961, false), None),
        ] {
            let shown = format!("{later:?}");
            table.apply(ROOM, later);
            let known = table.record(ROOM).expect("one");
            assert_eq!(outweighing(&known, "me"), expected, "{shown}");
            if let Some(generation) = expected {
                let claimed = OwnerTable::new(Some("me".to_owned()));
                claimed.apply(ROOM, known);
                assert!(claimed.apply(ROOM, record("me", generation, false)), "it counts then");
                assert!(claimed.owner(ROOM).claim().is_some_and(|claim| &*claim.process == "me"));
            }
        }
    }
}
