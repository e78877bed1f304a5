//! The spools of all ingests, for `/v1/status`: each tells its own through `barrage.owners`, since a process that answers
//! reads knows no ingest and none of them knows another.
//!
//! A spool is the disk that it lies on, so it has a name that stays with its directory. While Kafka is away nothing can
//! be told, and what stands there is as old as it says.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use barrage_ingest::{Clock as _, Spool, SpoolStatus, SystemClock};
use barrage_log::{ControlRecord, ControlTopic, KafkaOptions};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

/// What the keys of spools begin with; those of partitions are `room/0`.
const KEY: &str = "spool/";
/// Holds the spool's name, in the data directory.
const NAME_FILE: &str = "spool-name";
/// How often the own spool is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Looks after which a spool in use is told again, and one that is empty.
const LOOKS_BUSY: u32 = 5;
const LOOKS_IDLE: u32 = 30;
/// An empty spool that was not heard of for so long is gone, ms.
const EMPTY_SHOWN_MS: i64 = 120_000;
/// Spools that are known at most, ever: a deployment has a handful, and names are small.
const KNOWN_MAX: usize = 10_000;

/// What is told of a spool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    host: String,
    records: u64,
    bytes: u64,
    partitions: usize,
    since_ms: u64,
    failed: bool,
}

impl Told {
    fn new(host: &str, status: SpoolStatus) -> Self {
        let SpoolStatus { partitions, records, bytes, since_ms, failed } = status;
        Self { host: host.to_owned(), records, bytes, partitions, since_ms, failed }
    }

    fn is_empty(&self) -> bool {
        self.records == 0 && !self.failed
    }

    fn shown(&self, name: &str, at_ms: i64) -> Json {
        json!({
            "name": name,
            "host": self.host,
            "told_at": at_ms,
            "records": self.records,
            "bytes": self.bytes,
            "partitions": self.partitions,
            "waiting_ms": self.since_ms,
            "failed": self.failed,
        })
    }
}

/// The spools that this process knows of.
#[derive(Debug, Default)]
pub(super) struct Spools {
    /// By name: what was told last, and when by the cluster's clock.
    told: Mutex<BTreeMap<String, (i64, Told)>>,
    own: Mutex<Option<(String, Own)>>,
}

/// The spool of this process.
#[derive(Debug)]
struct Own {
    host: String,
    spool: Arc<Spool>,
}

impl Spools {
    /// Takes a row of `barrage.owners`; false when it is none of a spool.
    pub(super) fn feed(&self, record: &ControlRecord) -> bool {
        let name = std::str::from_utf8(&record.key).ok().and_then(|key| key.strip_prefix(KEY));
        let Some(name) = name else { return false };
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match record.value.as_deref().map(serde_json::from_slice::<Told>) {
            None => drop(told.remove(name)),
            Some(Ok(row)) if told.len() < KNOWN_MAX || told.contains_key(name) => {
                told.insert(name.to_owned(), (record.timestamp_ms, row));
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => tracing::debug!(%error, name, "what is told of a spool cannot be read"),
        }
        true
    }

    /// As `/v1/status` shows them: the own one as it is now.
    pub(super) fn shown(&self) -> Json {
        self.shown_at(SystemClock.now_ms())
    }

    fn shown_at(&self, now_ms: i64) -> Json {
        let mut all = self.told.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((name, own)) = &*self.own.lock().unwrap_or_else(PoisonError::into_inner) {
            all.insert(name.clone(), (now_ms, Told::new(&own.host, own.spool.status())));
        }
        let recent = |(at, told): &(i64, Told)| !told.is_empty() || now_ms.saturating_sub(*at) <= EMPTY_SHOWN_MS;
        all.retain(|_, row| recent(row));
        all.iter().map(|(name, (at, told))| told.shown(name, *at)).collect()
    }
}

/// The name of the spool in this data directory, made with it.
fn name_of(data_dir: &Path) -> anyhow::Result<String> {
    let path = data_dir.join(NAME_FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().chars().take(64).collect()),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("{} cannot be read", path.display())),
    }
    let random = getrandom::u64().map_err(|error| anyhow::anyhow!("the system has no randomness to give: {error}"))?;
    let name = format!("{random:016x}");
    std::fs::write(&path, &name).with_context(|| format!("{} cannot be written", path.display()))?;
    Ok(name)
}

/// The machine's name, for people.
fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned()).unwrap_or_default()
}

/// The thread that tells of this process's spool.
pub(super) struct Teller {
    gate: Arc<(AtomicBool, Mutex<()>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Teller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Teller").finish_non_exhaustive()
    }
}

impl Teller {
    /// Tells of the spool in `data_dir` until it is stopped, through `topic`, or one that it opens as soon as the cluster
    /// is reached.
    pub(super) fn start(
        spools: &Spools,
        spool: &Arc<Spool>,
        data_dir: &Path,
        options: &KafkaOptions,
        topic: Option<Arc<ControlTopic>>,
    ) -> anyhow::Result<Self> {
        let (name, host) = (name_of(data_dir)?, host());
        let own = Own { host: host.clone(), spool: Arc::clone(spool) };
        *spools.own.lock().unwrap_or_else(PoisonError::into_inner) = Some((name.clone(), own));
        let gate = Arc::new((AtomicBool::new(false), Mutex::default(), Condvar::new()));
        let telling = Telling { name, host, spool: Arc::clone(spool), options: options.clone(), topic, last: None };
        let stop = Arc::clone(&gate);
        let thread = std::thread::Builder::new().name("spool-told".to_owned()).spawn(move || telling.run(&stop));
        Ok(Self { gate, thread: Some(thread.context("a thread could not be started")?) })
    }

    /// Tells how the spool is left, and ends.
    pub(super) fn stop(&mut self) {
        self.gate.0.store(true, Ordering::Release);
        self.gate.2.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of it has been printed.
            drop(thread.join());
        }
    }
}

struct Telling {
    name: String,
    host: String,
    spool: Arc<Spool>,
    options: KafkaOptions,
    topic: Option<Arc<ControlTopic>>,
    /// What was told last, and how many looks ago.
    last: Option<(Told, u32)>,
}

impl Telling {
    fn run(mut self, (stopping, gate, told): &(AtomicBool, Mutex<()>, Condvar)) {
        loop {
            let ending = stopping.load(Ordering::Acquire);
            self.look(ending);
            if ending {
                return;
            }
            let held = gate.lock().unwrap_or_else(PoisonError::into_inner);
            if !stopping.load(Ordering::Acquire) {
                drop(told.wait_timeout(held, LOOK));
            }
        }
    }

    fn look(&mut self, ending: bool) {
        let now = Told::new(&self.host, self.spool.status());
        let due = match &mut self.last {
            None => true,
            Some((last, looks)) => {
                *looks += 1;
                let often = if now.is_empty() { LOOKS_IDLE } else { LOOKS_BUSY };
                last.is_empty() != now.is_empty() || last.failed != now.failed || *looks >= often
            }
        };
        if !(due || ending) {
            return;
        }
        if self.topic.is_none() && !ending {
            // It is there as soon as the cluster is; until then it is tried again at every look.
            let hasty = KafkaOptions { open_wait_ms: self.options.open_wait_ms.min(2_000), ..self.options.clone() };
            match ControlTopic::open(&hasty, super::ownership::TOPIC, |_| ()) {
                Ok(topic) => self.topic = Some(Arc::new(topic)),
                Err(error) => tracing::debug!(%error, "the spool's state cannot be told yet"),
            }
        }
        let Some(topic) = &self.topic else { return };
        let Ok(value) = serde_json::to_vec(&now) else { return };
        // The acknowledgement is not waited for: it is told again soon.
        drop(topic.put_later(format!("{KEY}{}", self.name).as_bytes(), Some(&value)));
        self.last = Some((now, 0));
    }
}

#[cfg(test)]
mod tests {
    use barrage_event::Offset;

    use super::*;

    fn row(key: &str, value: Option<&Told>, timestamp_ms: i64) -> ControlRecord {
        let value = value.map(|told| serde_json::to_vec(told).expect("encodes"));
        ControlRecord { key: key.as_bytes().to_vec(), value, offset: Offset(0), timestamp_ms }
    }

    #[test]
    fn spools_are_shown_while_they_hold_something_or_are_heard_of() {
        let spools = Spools::default();
        let empty = Told::new("a", SpoolStatus::default());
        let full = Told::new("b", SpoolStatus { partitions: 2, records: 3, bytes: 4, since_ms: 5, failed: false });
        let broken = Told::new("c", SpoolStatus { failed: true, ..SpoolStatus::default() });
        assert!(!spools.feed(&row("room/0", None, 0)), "a partition's");
        for (key, told) in [("spool/1", &empty), ("spool/2", &full), ("spool/3", &broken)] {
            assert!(spools.feed(&row(key, Some(told), 1_000)));
        }
        assert!(spools.feed(&ControlRecord { value: Some(b"{".to_vec()), ..row("spool/4", None, 0) }));
        let names = |now| {
            let shown = spools.shown_at(now);
            let all = shown.as_array().expect("a list").iter();
            all.map(|spool| spool["name"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(1_000), ["1", "2", "3"]);
        assert_eq!(names(1_000 + EMPTY_SHOWN_MS + 1), ["2", "3"], "what holds something is not forgotten");
        assert_eq!(
            spools.shown_at(1_000)[1],
            json!({
                "name": "2", "host": "b", "told_at": 1_000, "records": 3, "bytes": 4, "partitions": 2,
                "waiting_ms": 5, "failed": false
            })
        );
        assert!(spools.feed(&row("spool/2", None, 2_000)));
        assert_eq!(names(2_000), ["1", "3"], "removed");
    }

    #[test]
    fn a_spool_keeps_its_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let name = name_of(dir.path()).expect("made");
        assert_eq!((name.len(), name_of(dir.path()).expect("read")), (16, name));
    }
}
