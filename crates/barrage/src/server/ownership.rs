//! Who owns which partition, told to the other processes through `barrage.owners`.
//!
//! A process says what it owns when the group gives it a partition, and takes it back before it gives it up. The
//! highest generation counts, so it does not matter in which order the records of two processes arrive: a process that
//! was frozen, lost its partitions and wakes up again has the lower one. Generations are clocks that never run back
//! behind what was seen: a new owner's is above the last one's whatever its own clock shows.

use std::fmt;
use std::str::FromStr as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use barrage_event::{Offset, Partition};
use barrage_log::{ControlRecord, ControlTopic, Follow, KafkaOptions, Owner};
use barrage_query::{Directory as _, OwnerRecord, OwnerTable};
use barrage_worker::{Assignments, Stores};

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
    stores: Stores,
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
        (assignments, stores): (Assignments, Stores),
        table: Arc<OwnerTable>,
        topic: Arc<ControlTopic>,
        process: String,
        address: String,
    ) -> Self {
        let (stopping, told) = (AtomicBool::new(false), (Mutex::default(), Condvar::new()));
        Self { assignments, stores, table, topic, process, address, stopping, told }
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
        for partition in self.stores.partitions() {
            let Some(own) = self.table.record(partition).filter(|r| r.process_id == self.process && !r.released) else {
                continue;
            };
            let row = self.topic.get(partition.to_string().as_bytes()).and_then(|row| row.value);
            let written = row.and_then(|value| OwnerRecord::decode(&value).ok());
            if written.is_none_or(|written| written < own) {
                self.tell(partition, &own);
            }
        }
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
        for &partition in partitions {
            let record = self.record(generation, false);
            self.table.apply(partition, record.clone());
            self.tell(partition, &record);
        }
        ready
    }

    fn revoked(&self, partitions: &[Partition], lost: bool) {
        let mut released = Vec::new();
        for &partition in partitions {
            let Some(own) = self.table.record(partition).filter(|record| record.process_id == self.process) else {
                continue;
            };
            // First here: from now on this process answers that it has not got it.
            let record = OwnerRecord { released: true, ..own };
            self.table.apply(partition, record.clone());
            released.push((partition, record));
        }
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

/// What to say when no partition has an owner. One that moves has none for a moment, and the others are read meanwhile.
pub(super) fn missing(table: &OwnerTable, all: &[Partition]) -> Vec<String> {
    if all.iter().any(|&partition| table.owner(partition).claim().is_some()) {
        return Vec::new();
    }
    vec!["no partition has an owner: is a `barrage project` running?".to_owned()]
}
