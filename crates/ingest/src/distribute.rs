//! Applying rules: a version is appended to every partition of both topics, and only when all have it is it activated
//! at ingest.
//!
//! The journal is written before the first append, so a crash in between is repaired at the next start under the same
//! version: the record is appended again wherever it may be missing. A partition that gets it twice ignores the
//! second, because its version is not above the one it has.
//!
//! All functions block, on the disk and on the log: call them on a thread that may.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use barrage_event::rules::{Compiled, RuleError, RuleSet, RulesError, limits};
use barrage_event::{Partition, Position, Route, Stamp, Topic, business};
use barrage_log::{AppendBatch, AppendError};

use crate::appender::Appender;
use crate::clock::Clock;
use crate::journal::{Files, Journal, JournalError, RulesVersion, Status, Store};
use crate::metrics::Metrics;
use crate::rules_handle::RulesHandle;
use crate::rules_topic::RulesTopic;
use crate::spool::Durable;

/// Longest name of who applies rules, bytes.
pub const APPLIED_BY_BYTES_MAX: usize = 256;

/// How often a start looks again after somebody else was faster.
const OVERTAKEN_MAX: usize = 5;
/// After this long a version that is not everywhere was left behind by a process that died.
pub const UNFINISHED_AFTER_MS: i64 = 10_000;

/// Who applies the rules of the configuration file.
const CONFIGURATION: &str = "configuration";

/// Why rules were not applied.
#[derive(Debug, thiserror::Error)]
pub enum DistributeError {
    /// The text is no rule set.
    #[error("the rules cannot be read: {0}")]
    Unreadable(#[from] RulesError),
    /// Fields hold values that cannot work.
    #[error("the rules are not valid: {}", join(.0))]
    Invalid(Vec<RuleError>),
    /// With every field named, the rule set is longer than a record may be.
    #[error("the rules have {bytes} bytes with every field named, the limit is {}", limits::TOML_BYTES_MAX)]
    TooLong {
        /// Their length.
        bytes: usize,
    },
    /// The name of who applies them is too long.
    #[error("the name of who applies the rules has {bytes} bytes, the limit is {APPLIED_BY_BYTES_MAX}")]
    NameTooLong {
        /// Its length.
        bytes: usize,
    },
    /// The log did not take them. The version stays pending and is finished by the next attempt or start.
    #[error("version {version} of the rules is not in all partitions yet, and the one before stays active: {source}")]
    Append {
        /// The version.
        version: u32,
        /// What the log says.
        source: AppendError,
    },
    /// There are no more versions.
    #[error("the rules have had {} versions; no further one can be numbered", u32::MAX)]
    OutOfVersions,
    /// A file of the rules cannot be read or written.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

fn join(errors: &[RuleError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// What applying rules came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The version that is active now.
    pub version: u32,
    /// Where it stands in the log, one position a partition: a read that is given one as `at_least` sees its effect.
    pub positions: Vec<String>,
    /// Whether it is new: `false` when the same rules were active already.
    pub changed: bool,
}

/// The rules of one log: which are active, how to apply others, and which there were.
#[derive(Debug)]
pub struct Rules {
    store: Box<dyn Store>,
    appender: Arc<Appender>,
    handle: RulesHandle,
    metrics: Metrics,
    clock: Arc<dyn Clock>,
    /// One distribution at a time. Holds what is on disk.
    journal: Mutex<Journal>,
    active: RwLock<Arc<RulesVersion>>,
    /// What is configured, while the store that it is compared with was not reached yet.
    waiting: Mutex<Option<String>>,
}

/// Checks a rule set without applying it.
///
/// # Errors
/// [`DistributeError::Unreadable`], [`DistributeError::Invalid`] or [`DistributeError::TooLong`], as
/// [`Rules::apply`] would answer.
pub fn validate(toml: &str) -> Result<RuleSet, DistributeError> {
    let rules = RuleSet::from_toml(toml)?;
    canonical(&rules)?;
    Ok(rules)
}

/// The rule set with every field named: what a later version of Barrage ships as default must not change it.
fn canonical(rules: &RuleSet) -> Result<String, DistributeError> {
    rules.validate().map_err(DistributeError::Invalid)?;
    let toml = rules.to_toml();
    if toml.len() > limits::TOML_BYTES_MAX {
        return Err(DistributeError::TooLong { bytes: toml.len() });
    }
    Ok(toml)
}

impl Rules {
    /// Brings the rules of a log up to date: finishes a distribution that a crash cut short, and applies `configured`,
    /// the `[rules]` of the configuration file, when they are not those that the last start saw. On a new log they, or
    /// the shipped ones, become version 1.
    ///
    /// `held` tells the version that a partition's store has, if it is known: such a partition is passed over when it
    /// has the version already, and no version below one that is held is ever given.
    ///
    /// # Errors
    /// A [`DistributeError`]; the server must not serve then.
    pub fn start(
        data_dir: &Path,
        appender: Arc<Appender>,
        configured: Option<&RuleSet>,
        held: &dyn Fn(Partition) -> Option<u32>,
        metrics: Metrics,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, DistributeError> {
        Self::begin(Box::new(Files::new(data_dir)?), appender, configured, held, metrics, clock)
    }

    /// The same for processes that share a log: versions stand in `topic`, which all of them watch.
    ///
    /// `appender` must be one of its own that goes straight to the log: a version counts only when it is *in* the log, not
    /// in a spool. While the topic cannot be reached the version that was last seen is used, and nothing is applied.
    ///
    /// # Errors
    /// A [`DistributeError`]; the server must not serve then.
    pub fn start_shared(
        topic: Arc<RulesTopic>,
        appender: Arc<Appender>,
        configured: Option<&RuleSet>,
        metrics: Metrics,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, DistributeError> {
        // Two that make the log at the same time both draft version 1; one of them sees the other's on the second look.
        for _ in 0..OVERTAKEN_MAX {
            let begun = Self::begin(
                Box::new(Arc::clone(&topic)),
                Arc::clone(&appender),
                configured,
                &|_| None,
                metrics.clone(),
                Arc::clone(&clock),
            );
            match begun {
                Err(DistributeError::Journal(JournalError::Overtaken { .. })) => {}
                begun => return begun,
            }
        }
        Self::begin(Box::new(topic), appender, configured, &|_| None, metrics, clock)
    }

    fn begin(
        store: Box<dyn Store>,
        appender: Arc<Appender>,
        configured: Option<&RuleSet>,
        held: &dyn Fn(Partition) -> Option<u32>,
        metrics: Metrics,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, DistributeError> {
        let configured = configured.map(canonical).transpose()?;
        let log = appender.log();
        // Another one when a topic was made anew: it has none of the rules.
        let uuid = Topic::ALL.into_iter().fold(log.uuid(), |all, topic| all ^ log.lineage(topic));
        let found = store.read_journal()?;
        let held_max = appender.all_partitions().into_iter().filter_map(held).max().unwrap_or_default();
        let now_ms = clock.now_ms();
        let draft = |after: u32, toml: String, by: &str| {
            let version = after.max(held_max).checked_add(1).ok_or(DistributeError::OutOfVersions)?;
            Ok::<_, DistributeError>(RulesVersion {
                version,
                applied_at_ms: now_ms,
                applied_by: by.to_owned(),
                toml,
                positions: Vec::new(),
            })
        };
        let mut drafted = true;
        let journal = match found {
            // The log is another one, or its stores know a later version than the journal: all of it is to be said anew.
            Some(old) if old.log_uuid != format!("{uuid:032x}") || old.rules.version < held_max => {
                let rules = draft(old.rules.version, old.rules.toml, &old.rules.applied_by)?;
                Journal::new(uuid, old.configured, rules)
            }
            Some(journal) => {
                drafted = false;
                journal
            }
            None => {
                let toml = configured.clone().map_or_else(|| canonical(&RuleSet::default()), Ok)?;
                Journal::new(uuid, configured.clone(), draft(0, toml, CONFIGURATION)?)
            }
        };
        let rules = Self {
            store,
            appender,
            handle: RulesHandle::default(),
            metrics,
            clock,
            active: RwLock::new(Arc::new(journal.rules.clone())),
            journal: Mutex::new(journal),
            waiting: Mutex::default(),
        };
        let mut journal = rules.journal.lock().unwrap_or_else(PoisonError::into_inner);
        if journal.status == Status::Pending {
            if drafted {
                rules.store.write_journal(&journal)?;
            }
            rules.distribute(&mut journal, held)?;
        } else {
            rules.activate(&journal.rules)?;
        }
        if configured.is_some() && configured != journal.configured {
            if rules.store.is_reachable() {
                rules.apply_configured(&mut journal, configured)?;
            } else {
                rules.wait_to_apply(&journal, configured);
            }
        }
        drop(journal);
        Ok(rules)
    }

    /// A handle on the active rules, for ingest.
    #[must_use]
    pub fn handle(&self) -> RulesHandle {
        self.handle.clone()
    }

    /// The active version.
    #[must_use]
    pub fn current(&self) -> Arc<RulesVersion> {
        Arc::clone(&self.active.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Every version there was, oldest first.
    ///
    /// # Errors
    /// [`DistributeError::Journal`] when the files cannot be read.
    pub fn history(&self) -> Result<Vec<RulesVersion>, DistributeError> {
        Ok(self.store.read_history()?)
    }

    /// Applies a rule set, and returns when every partition has it and ingest uses it. Fields that the text does not
    /// name are as shipped. The rules that are active already stay what they are, under their version.
    ///
    /// # Errors
    /// A [`DistributeError`]; the rules that were active stay so. After [`DistributeError::Append`] the version may
    /// stand in some partitions; the next call finishes it before it begins its own.
    pub fn apply(&self, toml: &str, applied_by: &str) -> Result<Applied, DistributeError> {
        let rules = validate(toml)?;
        if applied_by.len() > APPLIED_BY_BYTES_MAX {
            return Err(DistributeError::NameTooLong { bytes: applied_by.len() });
        }
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        self.catch_up(&mut journal)?;
        if journal.status == Status::Pending {
            self.distribute(&mut journal, &|_| None)?;
        }
        self.apply_next(&mut journal, rules.to_toml(), applied_by)
    }

    /// Looks whether another process applied rules, and uses them. A version that was begun more than
    /// [`UNFINISHED_AFTER_MS`] ago and is not everywhere is finished: whoever began it is gone. What is configured and could
    /// not be applied at the start is applied now.
    ///
    /// # Errors
    /// A [`DistributeError`]; the rules that were active stay so.
    pub fn refresh(&self) -> Result<(), DistributeError> {
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        self.catch_up(&mut journal)?;
        let unfinished = journal.status == Status::Pending
            && self.clock.now_ms().saturating_sub(journal.rules.applied_at_ms) > UNFINISHED_AFTER_MS;
        if unfinished {
            self.distribute(&mut journal, &|_| None)?;
        }
        self.apply_waiting(&mut journal)
    }

    /// Takes over what the store has that this process does not know yet.
    fn catch_up(&self, journal: &mut Journal) -> Result<(), DistributeError> {
        let Some(latest) = self.store.read_journal()? else { return Ok(()) };
        if latest.rules.version < journal.rules.version || latest == *journal {
            return Ok(());
        }
        if latest.status == Status::Active && latest.rules.version != self.current_used() {
            self.activate(&latest.rules)?;
        }
        *journal = latest;
        Ok(())
    }

    /// The version that ingest uses; 0 before the first.
    fn current_used(&self) -> u32 {
        self.handle.current().version()
    }

    /// Keeps what is configured until the store is reached.
    fn wait_to_apply(&self, journal: &Journal, configured: Option<String>) {
        tracing::warn!(
            in_force = journal.rules.version,
            "the [rules] of the configuration file are other than those of the last start: they are applied when Kafka is \
             reached; until then the version that was last seen stays in force"
        );
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = configured;
    }

    /// As a start does that reaches the store.
    fn apply_waiting(&self, journal: &mut Journal) -> Result<(), DistributeError> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // A version that is on its way is somebody's, perhaps one that did the same.
        if waiting.is_none() || !self.store.is_reachable() || journal.status == Status::Pending {
            return Ok(());
        }
        if *waiting != journal.configured {
            match self.apply_configured(journal, waiting.clone()) {
                Ok(()) => {
                    let version = journal.rules.version;
                    tracing::info!(version, "the [rules] of the configuration file are applied");
                }
                // The next look shows what the others applied.
                Err(DistributeError::Journal(JournalError::Overtaken { .. })) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        *waiting = None;
        Ok(())
    }

    fn apply_configured(&self, journal: &mut Journal, configured: Option<String>) -> Result<(), DistributeError> {
        let toml = configured.clone().unwrap_or_default();
        let mut next = journal.clone();
        next.configured = configured;
        if next.rules.toml == toml {
            // Applied by a command before: only remembered.
            self.store.write_journal(&next)?;
            *journal = next;
            return Ok(());
        }
        *journal = next;
        self.apply_next(journal, toml, CONFIGURATION).map(|_| ())
    }

    fn apply_next(&self, journal: &mut Journal, toml: String, applied_by: &str) -> Result<Applied, DistributeError> {
        // Both are written by the same code, so equal rules are equal texts.
        let changed = toml != journal.rules.toml;
        if changed {
            let rules = RulesVersion {
                version: journal.rules.version.checked_add(1).ok_or(DistributeError::OutOfVersions)?,
                applied_at_ms: self.clock.now_ms(),
                applied_by: applied_by.to_owned(),
                toml,
                positions: Vec::new(),
            };
            let mut next = journal.clone();
            next.status = Status::Pending;
            next.rules = rules;
            // Until this is on disk nothing has happened.
            self.store.write_journal(&next)?;
            *journal = next;
            self.distribute(journal, &|_| None)?;
        }
        Ok(Applied { version: journal.rules.version, positions: journal.rules.positions.clone(), changed })
    }

    /// Brings the journal's version, which is on disk, into every partition that may lack it, and activates it.
    fn distribute(
        &self,
        journal: &mut Journal,
        held: &dyn Fn(Partition) -> Option<u32>,
    ) -> Result<(), DistributeError> {
        let version = journal.rules.version;
        let lacking = |partition: &Partition| held(*partition).is_none_or(|held| held < version);
        let partitions: Vec<_> = self.appender.all_partitions().into_iter().filter(lacking).collect();
        let failed = |source| DistributeError::Append { version, source };
        let acks = self.append(&journal.rules, &partitions).map_err(failed)?;
        let mut positions = Vec::with_capacity(acks.len());
        for ack in acks {
            positions.extend(ack.wait().map_err(failed)?.iter().map(Position::to_string));
        }
        let mut done = journal.clone();
        done.rules.positions = positions;
        done.status = Status::Active;
        self.store.write_history(&done.rules)?;
        self.store.write_journal(&done)?;
        *journal = done;
        self.activate(&journal.rules)
    }

    /// Appends a version to these partitions, each by itself: all of them together may be larger than one append of
    /// the log.
    fn append(&self, rules: &RulesVersion, partitions: &[Partition]) -> Result<Vec<Durable>, AppendError> {
        let event = business::rules_applied(rules.version, &rules.toml, &rules.applied_by, rules.applied_at_ms);
        let stamp = Stamp {
            id: self.appender.next_id(),
            app: 0,
            // Rules have no time of receipt: they must not move stream time past a recording that is replayed in its
            // own time.
            received_at_ms: 0,
            incarnation: self.appender.incarnation(),
            rules_version: rules.version,
            verdict: None,
        };
        let mut record = AppendBatch::new();
        let mut acks = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let route = match partition.topic {
                Topic::Room => Route::room(""),
                Topic::User => Route::user(""),
            };
            record.clear();
            record.push(*partition, |buf| event.encode(&stamp, &route, true, buf));
            acks.push(self.appender.append(&record)?);
        }
        Ok(acks)
    }

    /// Uses a version that every partition has.
    fn activate(&self, rules: &RulesVersion) -> Result<(), DistributeError> {
        let set = RuleSet::from_toml(&rules.toml)?;
        self.handle.activate(Compiled::new(&set, rules.version).map_err(DistributeError::Invalid)?);
        *self.active.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules.clone());
        self.metrics.rules_version(rules.version);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use barrage_log::{EmbeddedLog, EmbeddedOptions, EventLog};
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::clock::SystemClock;

    const FIRST: &str = "[before.mute]\nusers = [\"troll\"]\n";
    const SECOND: &str = "[before.mute]\nusers = [\"troll\", \"ogre\"]\n";
    const COMMAND: &str = "[before.mute]\nrooms = [\"cellar\"]\n";

    /// What several processes share, and whether it is reached.
    #[derive(Debug, Default)]
    struct Topic {
        journal: Mutex<Option<Journal>>,
        reached: AtomicBool,
        overtaken: AtomicBool,
    }

    impl Store for Arc<Topic> {
        fn read_journal(&self) -> Result<Option<Journal>, JournalError> {
            Ok(self.journal.lock().expect("no panic").clone())
        }

        fn write_journal(&self, journal: &Journal) -> Result<(), JournalError> {
            if !self.is_reachable() {
                return Err(JournalError::Unreachable("it is away".to_owned()));
            }
            if self.overtaken.swap(false, Ordering::Relaxed) {
                return Err(JournalError::Overtaken { version: journal.rules.version });
            }
            *self.journal.lock().expect("no panic") = Some(journal.clone());
            Ok(())
        }

        fn write_history(&self, _: &RulesVersion) -> Result<(), JournalError> {
            Ok(())
        }

        fn read_history(&self) -> Result<Vec<RulesVersion>, JournalError> {
            Ok(Vec::new())
        }

        fn is_reachable(&self) -> bool {
            self.reached.load(Ordering::Relaxed)
        }
    }

    /// One log, and processes that start on it.
    struct Place {
        topic: Arc<Topic>,
        log: Arc<dyn EventLog>,
        _dir: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("works in a test");
            let options = EmbeddedOptions { room_partitions: 1, user_partitions: 1, ..EmbeddedOptions::default() };
            let log = EmbeddedLog::open(dir.path(), &options, barrage_log::Metrics::default());
            Self { topic: Arc::default(), log: Arc::new(log.expect("works in a test")), _dir: dir }
        }

        fn reach(&self, reached: bool) {
            self.topic.reached.store(reached, Ordering::Relaxed);
        }

        fn start(&self, configured: &str) -> Rules {
            let configured = RuleSet::from_toml(configured).expect("rules");
            Rules::begin(
                Box::new(Arc::clone(&self.topic)),
                Arc::new(Appender::new(Arc::clone(&self.log), 7)),
                Some(&configured),
                &|_| None,
                Metrics::register(&mut Registry::default()),
                Arc::new(SystemClock),
            )
            .expect("it starts")
        }
    }

    /// Version in force, and the one that ingest uses.
    fn versions(rules: &Rules) -> (u32, u32) {
        (rules.current().version, rules.handle().current().version())
    }

    #[test]
    fn what_is_configured_is_applied_when_the_topic_is_reached_at_last() {
        let place = Place::new();
        place.reach(true);
        assert_eq!(versions(&place.start(FIRST)), (1, 1));

        place.reach(false);
        let (same, other) = (place.start(FIRST), place.start(SECOND));
        for rules in [&same, &other] {
            rules.refresh().expect("nothing to do");
            assert_eq!(versions(rules), (1, 1), "the version that was last seen stays in force");
        }
        place.reach(true);
        for _ in 0..2 {
            other.refresh().expect("applied");
            assert_eq!(versions(&other), (2, 2), "once");
        }
        assert_eq!(other.current().toml, RuleSet::from_toml(SECOND).expect("rules").to_toml());
        assert_eq!(other.current().applied_by, CONFIGURATION);

        // Its file did not change, so it takes nothing back.
        same.refresh().expect("followed");
        assert_eq!(versions(&same), (2, 2));
    }

    #[test]
    fn what_a_command_applied_meanwhile_is_not_taken_back_by_the_same_configuration() {
        let place = Place::new();
        place.reach(true);
        let running = place.start(FIRST);
        place.reach(false);
        let started = place.start(FIRST);
        place.reach(true);
        running.apply(COMMAND, "somebody").expect("applied");
        started.refresh().expect("followed");
        started.refresh().expect("nothing to do");
        assert_eq!(versions(&started), (2, 2));
        assert_eq!(started.current().applied_by, "somebody");
    }

    #[test]
    fn who_is_overtaken_looks_again() {
        let place = Place::new();
        place.reach(true);
        drop(place.start(FIRST));
        place.reach(false);
        let started = place.start(SECOND);
        place.reach(true);
        place.topic.overtaken.store(true, Ordering::Relaxed);
        started.refresh().expect("somebody else was faster, which is no error");
        assert_eq!(versions(&started), (1, 1));
        started.refresh().expect("applied");
        assert_eq!(versions(&started), (2, 2));
    }
}
