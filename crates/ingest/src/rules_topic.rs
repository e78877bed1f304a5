//! The versions of the rules in `barrage.rules`, for processes that share a log.
//!
//! | key | value |
//! | --- | --- |
//! | `rules/VERSION/PROPOSER` | a version that is being brought into every partition |
//! | `rules/VERSION/active` | the same, now that every partition has it |
//!
//! Two processes may propose the same version number. The topic has one order, so everybody agrees on which proposal
//! came first; the other is not valid, and whoever made it is told. Keys differ, so compaction keeps both and their order.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use barrage_log::{ControlRecord, ControlTopic};

use crate::journal::{Files, Journal, JournalError, RulesVersion, Status, Store};

/// What the keys of rules begin with.
const PREFIX: &str = "rules/";
/// The last part of the key of a version that every partition has.
const ACTIVE: &str = "active";
/// How long a write may take until it is read back.
const READ_BACK: Duration = Duration::from_secs(10);

/// The topic, when it is reached, and a copy on this machine's disk for when it is not.
#[derive(Debug)]
pub struct RulesTopic {
    topic: Mutex<Option<Arc<ControlTopic>>>,
    copy: Files,
    /// Distinguishes this process's proposals.
    proposer: String,
}

/// One version, as the rows tell.
#[derive(Debug, Default)]
struct Version {
    active: Option<Journal>,
    /// Offset and content of the first proposal.
    first: Option<(u64, Journal)>,
}

impl RulesTopic {
    /// The rules of a log; `topic` may follow later. `proposer` must be of this run of this process alone.
    ///
    /// # Errors
    /// [`JournalError::Io`] when the copy's directory cannot be made.
    pub fn new(data_dir: &Path, proposer: u64, topic: Option<ControlTopic>) -> Result<Self, JournalError> {
        let copy = Files::new(data_dir)?;
        Ok(Self { topic: Mutex::new(topic.map(Arc::new)), copy, proposer: format!("{proposer:016x}") })
    }

    /// The topic is reached now.
    pub fn attach(&self, topic: ControlTopic) {
        *self.topic.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(topic));
    }

    /// Whether a row of the topic is about rules; others are, among other things, for the comparison of clocks.
    #[must_use]
    pub fn concerns(key: &[u8]) -> bool {
        key.starts_with(PREFIX.as_bytes())
    }

    /// The topic, once it is reached.
    #[must_use]
    pub fn topic(&self) -> Option<Arc<ControlTopic>> {
        self.topic.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first proposal and the end of every version.
    fn versions(topic: &ControlTopic) -> Result<BTreeMap<u32, Version>, JournalError> {
        let mut versions: BTreeMap<u32, Version> = BTreeMap::new();
        for (key, row) in topic.rows() {
            let Some((version, last)) = parse_key(&key) else { continue };
            let Some(journal) = parse_row(&key, &row)? else { continue };
            let entry = versions.entry(version).or_default();
            if last == ACTIVE {
                entry.active = Some(journal);
            } else if entry.first.as_ref().is_none_or(|(offset, _)| row.offset.0 < *offset) {
                entry.first = Some((row.offset.0, journal));
            }
        }
        Ok(versions)
    }

    fn put(topic: &ControlTopic, key: &str, journal: &Journal) -> Result<(), JournalError> {
        let value = serde_json::to_vec(journal).map_err(|error| JournalError::Unreachable(error.to_string()))?;
        let unreachable = |reason: String| JournalError::Unreachable(reason);
        let offset = topic.put(key.as_bytes(), Some(&value)).map_err(|error| unreachable(error.to_string()))?;
        if topic.await_offset(offset, READ_BACK) {
            return Ok(());
        }
        Err(unreachable("what was written could not be read back in time".to_owned()))
    }
}

/// Version and last part of a key of rules; `None` for the other keys of the topic.
fn parse_key(key: &[u8]) -> Option<(u32, &str)> {
    let (version, last) = std::str::from_utf8(key).ok()?.strip_prefix(PREFIX)?.split_once('/')?;
    Some((version.parse().ok()?, last))
}

fn key(version: u32, last: &str) -> String {
    format!("{PREFIX}{version:010}/{last}")
}

fn parse_row(key: &[u8], row: &ControlRecord) -> Result<Option<Journal>, JournalError> {
    let Some(value) = &row.value else { return Ok(None) };
    serde_json::from_slice(value).map(Some).map_err(|error| JournalError::Unreadable {
        path: String::from_utf8_lossy(key).as_ref().into(),
        reason: error.to_string(),
    })
}

impl Store for Arc<RulesTopic> {
    fn read_journal(&self) -> Result<Option<Journal>, JournalError> {
        let Some(topic) = self.topic() else { return self.copy.read_journal() };
        let Some((_, newest)) = RulesTopic::versions(&topic)?.pop_last() else { return Ok(None) };
        match (newest.active, newest.first) {
            (Some(active), _) => {
                if self.copy.read_journal().ok().flatten().as_ref() != Some(&active) {
                    self.copy.write_journal(&active)?;
                }
                Ok(Some(active))
            }
            (None, first) => Ok(first.map(|(_, journal)| journal)),
        }
    }

    fn write_journal(&self, journal: &Journal) -> Result<(), JournalError> {
        let Some(topic) = self.topic() else {
            return Err(JournalError::Unreachable("the topic of the rules was not reached yet".to_owned()));
        };
        let version = journal.rules.version;
        if journal.status == Status::Active {
            return RulesTopic::put(&topic, &key(version, ACTIVE), journal);
        }
        RulesTopic::put(&topic, &key(version, &self.proposer), journal)?;
        let versions = RulesTopic::versions(&topic)?;
        let entry = versions.get(&version);
        let mine = entry.and_then(|entry| entry.first.as_ref()).is_some_and(|(_, first)| first == journal);
        let over = entry
            .is_some_and(|entry| entry.active.as_ref().is_some_and(|active| active.rules.toml != journal.rules.toml));
        if mine && !over { Ok(()) } else { Err(JournalError::Overtaken { version }) }
    }

    fn write_history(&self, _: &RulesVersion) -> Result<(), JournalError> {
        // The rows of the topic are the history.
        Ok(())
    }

    fn read_history(&self) -> Result<Vec<RulesVersion>, JournalError> {
        let Some(topic) = self.topic() else { return self.copy.read_history() };
        let versions = RulesTopic::versions(&topic)?;
        Ok(versions.into_values().filter_map(|version| version.active.map(|journal| journal.rules)).collect())
    }

    fn is_reachable(&self) -> bool {
        self.topic().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_back_and_other_keys_are_passed_over() {
        assert_eq!(parse_key(key(7, "active").as_bytes()), Some((7, "active")));
        assert_eq!(parse_key(key(u32::MAX, "00ff").as_bytes()), Some((u32::MAX, "00ff")));
        for other in [&b"log"[..], b"rules/x/active", b"rules/1", b"\xff\xfe", b""] {
            assert_eq!(parse_key(other), None, "{other:?}");
        }
        assert!(RulesTopic::concerns(key(7, "active").as_bytes()) && !RulesTopic::concerns(b"log"));
    }
}
