//! Rules as events: distributed to every partition, resumed after a crash, kept over restarts.
#![allow(clippy::unwrap_used, reason = "helpers of tests: a failure is a failed test")]

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use barrage_event::rules::{RuleSet, limits};
use barrage_event::{EnvelopeView, Event, Partition};
use barrage_ingest::{Appender, DistributeError, Metrics, Rules, distribute};
use barrage_log::EventLog;
use common::{Fault, FaultyLog, FixedClock, NOW_MS, open_log};
use prometheus_client::registry::Registry;

const MUTED: &str = "[before.mute]\nusers = [\"troll\"]\n";
const WORDS: &str = "[[before.words]]\nwords = [\"spam\"]\n";

fn set(toml: &str) -> RuleSet {
    RuleSet::from_toml(toml).unwrap()
}

/// Starts on a log as a new process would, with an incarnation of its own.
fn start_on(
    dir: &Path,
    log: Arc<dyn EventLog>,
    configured: Option<&RuleSet>,
    held: &dyn Fn(Partition) -> Option<u32>,
) -> Result<Rules, DistributeError> {
    let metrics = Metrics::register(&mut Registry::default());
    let appender = Arc::new(Appender::new(log, 7));
    Rules::start(dir, appender, configured, held, metrics, FixedClock::new(NOW_MS))
}

fn start(dir: &Path, configured: Option<&RuleSet>) -> (Rules, Arc<dyn EventLog>) {
    let log = open_log(dir);
    (start_on(dir, Arc::clone(&log), configured, &|_| None).unwrap(), log)
}

/// Versions in the log, by partition; checks what must hold for every such record.
fn versions(records: &[(Partition, Vec<u8>)], partitions: &[Partition]) -> Vec<Vec<u32>> {
    let of = |partition: &Partition| {
        let own = records.iter().filter(|(of, _)| of == partition);
        let version = |(_, bytes): &(Partition, Vec<u8>)| {
            let view = EnvelopeView::decode(bytes).unwrap();
            let Event::RulesApplied(rules) = view.event else { panic!("{view:?}") };
            assert_eq!((view.received_at_ms, view.occurred_at_ms), (0, 0), "rules must not move stream time");
            assert_eq!((view.rules_version, rules.applied_at_ms), (rules.version, NOW_MS));
            RuleSet::from_toml(rules.rules_toml).unwrap().validate().unwrap();
            rules.version
        };
        own.map(version).collect()
    };
    partitions.iter().map(of).collect()
}

fn read(log: &dyn EventLog) -> Vec<Vec<u32>> {
    let mut records = Vec::new();
    for partition in log.all_partitions() {
        log.read(partition, log.start(partition), usize::MAX, &mut |record| {
            records.push((partition, record.bytes.to_vec()));
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    }
    versions(&records, &log.all_partitions())
}

fn taken(log: &FaultyLog) -> Vec<Vec<u32>> {
    versions(&log.taken_records(), &log.all_partitions())
}

#[test]
fn a_new_log_gets_the_shipped_rules_as_version_1_in_every_partition() {
    let dir = tempfile::tempdir().unwrap();
    let (rules, log) = start(dir.path(), None);
    assert_eq!(read(&*log), vec![vec![1]; 8]);
    let current = rules.current();
    assert_eq!((current.version, current.applied_by.as_str()), (1, "configuration"));
    assert_eq!(current.positions.len(), 8);
    assert!(current.positions.contains(&"user/3@0".to_owned()));
    assert_eq!(set(&current.toml), RuleSet::default());
    assert_eq!(rules.handle().current().version(), 1);
}

#[test]
fn configured_rules_are_applied_when_they_change_and_only_then() {
    let dir = tempfile::tempdir().unwrap();
    for (configured, expected) in [
        (Some(MUTED), vec![1]),
        (Some(MUTED), vec![1]),
        // Said otherwise, but the same.
        (Some("before = { mute = { users = ['troll'] } } # as before"), vec![1]),
        (Some(WORDS), vec![1, 2]),
        (None, vec![1, 2]),
        (Some(MUTED), vec![1, 2, 3]),
    ] {
        let configured = configured.map(set);
        let (rules, log) = start(dir.path(), configured.as_ref());
        assert_eq!(read(&*log), vec![expected.clone(); 8], "{configured:?}");
        assert_eq!(Some(&rules.current().version), expected.last());
        assert_eq!(Some(&rules.handle().current().version()), expected.last());
    }
}

#[test]
fn rules_that_a_command_applied_outlive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let configured = RuleSet::default();
    {
        let (rules, log) = start(dir.path(), Some(&configured));
        let handle = rules.handle();
        let applied = rules.apply(MUTED, "操作员").unwrap();
        assert_eq!((applied.version, applied.changed, applied.positions.len()), (2, true, 8));
        assert_eq!(handle.current().rules(), &set(MUTED), "the handle that ingest holds sees it");
        let again = rules.apply("[before]\nmute.users = [\"troll\"]", "somebody else").unwrap();
        assert_eq!((again.version, again.changed, again.positions), (2, false, applied.positions));
        assert_eq!(read(&*log), vec![vec![1, 2]; 8]);
    }
    let (rules, log) = start(dir.path(), Some(&configured));
    assert_eq!(read(&*log), vec![vec![1, 2]; 8]);
    assert_eq!(rules.handle().current().rules(), &set(MUTED));
    let history = rules.history().unwrap();
    let listed: Vec<_> = history.iter().map(|v| (v.version, v.applied_by.as_str(), v.applied_at_ms)).collect();
    assert_eq!(listed, [(1, "configuration", NOW_MS), (2, "操作员", NOW_MS)]);
    assert_eq!(history.last().unwrap().toml, rules.current().toml);
}

#[test]
fn a_distribution_that_a_crash_cut_short_is_finished_under_its_version() {
    // The log of this test has five partitions: the crash comes before any, in the middle, and before the last.
    for done in 0..5 {
        let dir = tempfile::tempdir().unwrap();
        let log = FaultyLog::new(Fault::FailsAfter(5 + done));
        let rules = start_on(dir.path(), log.clone(), None, &|_| None).unwrap();
        let error = rules.apply(MUTED, "me").unwrap_err();
        assert!(matches!(error, DistributeError::Append { version: 2, .. }), "{error}");
        assert_eq!(rules.handle().current().version(), 1, "not active before every partition has it");
        assert_eq!(rules.current().version, 1);
        drop(rules);

        log.set(Fault::FailsAfter(100));
        let before = taken(&log);
        let held = |partition: Partition| {
            let at = log.all_partitions().iter().position(|own| *own == partition)?;
            before[at].last().copied()
        };
        let rules = start_on(dir.path(), log.clone(), None, &held).unwrap();
        assert_eq!(taken(&log), vec![vec![1, 2]; 5], "{done}: only where it was missing");
        assert_eq!((rules.handle().current().version(), rules.current().version), (2, 2));
        assert_eq!(rules.handle().current().rules(), &set(MUTED));
        assert_eq!(rules.history().unwrap().len(), 2);
    }
}

#[test]
fn without_knowledge_of_the_stores_a_resumed_version_is_appended_again_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    let log = FaultyLog::new(Fault::FailsAfter(7));
    let rules = start_on(dir.path(), log.clone(), None, &|_| None).unwrap();
    rules.apply(MUTED, "me").unwrap_err();
    log.set(Fault::FailsAfter(100));
    // The same process tries again with other rules: what is pending comes first, and gets no other number.
    let applied = rules.apply(WORDS, "me").unwrap();
    assert_eq!((applied.version, applied.changed), (3, true));
    let expected = [vec![1, 2, 2, 3], vec![1, 2, 2, 3], vec![1, 2, 3], vec![1, 2, 3], vec![1, 2, 3]];
    assert_eq!(taken(&log), expected);
    assert_eq!(rules.handle().current().rules(), &set(WORDS));
}

#[test]
fn a_first_start_that_fails_is_repeated_under_version_1() {
    let dir = tempfile::tempdir().unwrap();
    let log = FaultyLog::new(Fault::FailsAfter(2));
    let error = start_on(dir.path(), log.clone(), Some(&set(MUTED)), &|_| None).unwrap_err();
    assert!(matches!(error, DistributeError::Append { version: 1, .. }), "{error}");
    log.set(Fault::FailsAfter(100));
    let rules = start_on(dir.path(), log.clone(), Some(&set(MUTED)), &|_| None).unwrap();
    assert_eq!(rules.current().version, 1);
    assert_eq!(taken(&log), [vec![1, 1], vec![1, 1], vec![1], vec![1], vec![1]]);
}

#[test]
fn another_log_and_stores_that_know_more_get_the_rules_anew() {
    let dir = tempfile::tempdir().unwrap();
    let log = FaultyLog::new(Fault::FailsAfter(100));
    start_on(dir.path(), log.clone(), Some(&set(MUTED)), &|_| None).unwrap();
    // The journal was put back from an old copy: the stores are at version 6.
    let held = |partition| (partition == Partition::user(1)).then_some(6);
    let rules = start_on(dir.path(), log.clone(), Some(&set(MUTED)), &held).unwrap();
    assert_eq!((rules.current().version, set(&rules.current().toml)), (7, set(MUTED)));
    assert_eq!(taken(&log), vec![vec![1, 7]; 5]);
    drop(rules);
    let (rules, log) = start(dir.path(), Some(&set(MUTED)));
    assert_eq!((rules.current().version, set(&rules.current().toml)), (8, set(MUTED)));
    assert_eq!(read(&*log), vec![vec![8]; 8]);
}

#[test]
fn rules_that_cannot_work_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (rules, log) = start(dir.path(), None);
    let long_name = "x".repeat(distribute::APPLIED_BY_BYTES_MAX + 1);
    // Short in the file, too long with every field named.
    let pairs = "{ room = 'r', user = 'u' }, ".repeat(35_000);
    let grows = format!("[before.mute]\nroom_users = [{pairs}]\n");
    assert!(grows.len() < limits::TOML_BYTES_MAX);
    for (toml, by, expected) in [
        ("[before", "me", "line 1"),
        ("[before.mute]\nusres = []", "me", "usres"),
        ("[before.mute]\ncode = 7", "me", "before.mute.code"),
        (MUTED, long_name.as_str(), "257 bytes"),
        (grows.as_str(), "me", "with every field named"),
    ] {
        let error = rules.apply(toml, by).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(distribute::validate(toml).is_err(), by == "me", "{expected}");
    }
    assert_eq!(read(&*log), vec![vec![1]; 8]);
    assert_eq!(rules.history().unwrap().len(), 1);
    drop((rules, log));

    fs::write(dir.path().join("rules.json"), "{").unwrap();
    let error = start_on(dir.path(), open_log(dir.path()), None, &|_| None).unwrap_err().to_string();
    assert!(error.contains("rules.json cannot be read"), "{error}");
}
