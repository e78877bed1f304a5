//! Snapshots in a folder, and the same on a server that speaks S3.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use barrage_event::Partition;
use barrage_snapshot::{SnapshotError, SnapshotStore};
use barrage_state::Store;
use common::{LOG, Log, Maker, PARTITION, S3, env, of_this_version, wanted};

fn folder(dir: &Path) -> SnapshotStore {
    SnapshotStore::open(dir.join("snapshots").to_str().expect("UTF-8"), []).expect("a folder")
}

/// What the folder holds of a kind.
fn objects(dir: &Path, kind: &str) -> Vec<PathBuf> {
    let dir = dir.join(format!("snapshots/{LOG:032x}/room-0/{kind}"));
    let mut all: Vec<PathBuf> =
        fs::read_dir(dir).map(|entries| entries.map(|e| e.expect("readable").path()).collect()).unwrap_or_default();
    all.sort();
    all
}

fn restored(store: &SnapshotStore, dir: &Path, until: u64) -> Result<Option<u64>, SnapshotError> {
    restored_from(store, dir, &Log::until(until))
}

fn restored_from(store: &SnapshotStore, dir: &Path, log: &Log) -> Result<Option<u64>, SnapshotError> {
    let to = dir.join("restored");
    let restored = store.restore(&env(), &wanted(log), &to, &AtomicBool::new(false))?;
    if let Some(manifest) = &restored {
        let meta = Store::open_read_only(&to)?.check()?;
        assert_eq!(
            (meta.next_offset, meta.state_hash_value().to_string()),
            (manifest.next_offset, manifest.state_hash.clone())
        );
    } else {
        assert!(!to.exists(), "nothing is left of what did not suit");
    }
    Ok(restored.map(|manifest| manifest.next_offset))
}

/// Takes, lists, restores, verifies and expires.
fn goes_round(store: &SnapshotStore, dir: &Path) {
    let mut maker = Maker::new(&dir.join("state"));
    assert_eq!(restored(store, dir, 1_000).expect("asked"), None, "there is none yet");
    assert_eq!(store.latest(&Log::until(u64::MAX), PARTITION).expect("asked"), None);
    maker.commit(40_000);
    let first = store.save(PARTITION, &maker.checkpoint()).expect("taken");
    assert!(first.bytes_sent > 100_000 && first.bytes_reused == 0, "{first:?}");
    assert_eq!(first.bytes_sent, first.manifest.bytes());
    maker.commit(100);
    let second = store.save(PARTITION, &maker.checkpoint()).expect("taken");
    assert!(second.bytes_reused > second.bytes_sent, "what did not change is not sent again: {second:?}");
    assert_eq!(second.bytes_sent + second.bytes_reused, second.manifest.bytes());
    let names: Vec<String> = store.list(LOG, PARTITION).expect("listed").into_iter().map(|l| l.name).collect();
    assert_eq!(names, [second.name.clone(), first.name.clone()], "the newest first");
    assert_eq!(store.latest(&Log::until(u64::MAX), PARTITION).expect("asked"), Some(second.manifest));
    assert_eq!(restored(store, dir, u64::MAX).expect("restored"), Some(40_100));
    assert_eq!(restored(store, dir, 40_000).expect("restored"), Some(40_000), "not beyond the log's end");
    for name in &names {
        store.verify(&env(), LOG, PARTITION, name, &dir.join("scratch")).expect("as it was made");
    }
    assert!(!dir.join("scratch").exists());
    assert_eq!(store.list(LOG, Partition::room(1)).expect("listed"), [], "another partition's");
    assert_eq!(store.list(LOG ^ 1, PARTITION).expect("listed"), [], "another log's");
    let expired = store.expire(&Log::until(u64::MAX), PARTITION, 1, Duration::from_secs(86_400)).expect("expired");
    assert_eq!((expired.snapshots, expired.files), (1, 0), "what it alone had is still young");
    assert_eq!(restored(store, dir, u64::MAX).expect("restored"), Some(40_100));
}

#[test]
fn a_folder_keeps_snapshots() {
    let dir = tempfile::tempdir().expect("a directory");
    goes_round(&folder(dir.path()), dir.path());
}

#[test]
fn a_server_that_speaks_s3_keeps_snapshots() {
    let server = S3::start();
    let dir = tempfile::tempdir().expect("a directory");
    let store = SnapshotStore::open("s3://barrage/some/prefix", server.settings()).expect("a bucket");
    goes_round(&store, dir.path());
    // A file of several parts.
    let mut maker = Maker::new(&dir.path().join("large"));
    maker.commit_large(40);
    let saved = store.save(PARTITION, &maker.checkpoint()).expect("taken");
    assert!(saved.manifest.files.iter().any(|file| file.bytes > 20 << 20), "{saved:?}");
    store.verify(&env(), LOG, PARTITION, &saved.name, &dir.path().join("scratch")).expect("as it was made");
    drop(server);
    let gone = store.list(LOG, PARTITION).expect_err("the server has gone");
    assert!(gone.to_string().contains("could not list"), "{gone}");
}

#[test]
fn a_server_that_does_not_know_us_is_told_apart() {
    let server = S3::start();
    let dir = tempfile::tempdir().expect("a directory");
    let mut maker = Maker::new(&dir.path().join("state"));
    maker.commit(10);
    let checkpoint = maker.checkpoint();
    for (key, secret) in [("key", "another one"), ("somebody", "secret")] {
        let store =
            SnapshotStore::open("s3://barrage/some/prefix", server.settings_with(key, secret)).expect("a bucket");
        for error in
            [store.save(PARTITION, &checkpoint).expect_err("refused"), store.list(LOG, PARTITION).expect_err("refused")]
        {
            let text = error.to_string();
            assert!(text.contains("refuses AWS_ACCESS_KEY_ID or its secret"), "{text}");
            assert!(!text.contains("another one"), "{text}");
        }
    }
    let store = SnapshotStore::open("s3://barrage/some/prefix", server.settings()).expect("a bucket");
    assert_eq!(store.list(LOG, PARTITION).expect("listed"), [], "nothing came through");
}

#[test]
fn a_damaged_or_foreign_snapshot_is_passed_over_for_the_one_before() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut maker = Maker::new(&dir.path().join("state"));
    maker.commit(20_000);
    let checkpoint = maker.checkpoint();
    folder(dir.path()).save(PARTITION, &checkpoint).expect("taken");
    let good = objects(dir.path(), "files");
    maker.commit(20_000);
    let newest = folder(dir.path()).save(PARTITION, &maker.checkpoint()).expect("taken");
    let own: Vec<PathBuf> = objects(dir.path(), "files").into_iter().filter(|f| !good.contains(f)).collect();
    assert!(!own.is_empty());
    let manifest = objects(dir.path(), "manifests").pop().expect("the newest");
    let text = fs::read_to_string(&manifest).expect("readable");
    let store = folder(dir.path());
    let falls_back = |what: &str| {
        assert_eq!(restored(&store, dir.path(), u64::MAX).expect(what), Some(20_000), "{what}");
        let error = store.verify(&env(), LOG, PARTITION, &newest.name, &dir.path().join("scratch"));
        error.expect_err(what).to_string()
    };
    for file in &own {
        let bytes = fs::read(file).expect("readable");
        let mut other = bytes.clone();
        let middle = other.len() / 2;
        other[middle] ^= 1;
        fs::write(file, &other).expect("writable");
        assert!(falls_back("a bit").contains("other content"));
        fs::write(file, &bytes[..middle]).expect("writable");
        assert!(falls_back("a cut").contains("bytes, not"));
        fs::remove_file(file).expect("there");
        assert!(falls_back("a hole").contains("is missing"));
        fs::write(file, &bytes).expect("writable");
    }
    for (what, other) in [
        ("half a manifest", text[..text.len() / 2].to_owned()),
        ("another log's", text.replace(&format!("{LOG:032x}"), &format!("{:032x}", LOG ^ 1))),
        ("another partition's", text.replace("room/0", "room/1")),
        ("another offset", text.replace("40000", "40001")),
        ("another hash", text.replace(&newest.manifest.state_hash, &"0".repeat(32))),
        ("a path", text.replace("\"CURRENT\"", "\"../CURRENT\"")),
    ] {
        assert_ne!(other, text, "{what}");
        fs::write(&manifest, other).expect("writable");
        assert!(falls_back(what).contains(&newest.name), "{what}");
    }
    // Another version of a statistic does not suit, but is no damage.
    fs::write(&manifest, text.replace("\"version\": 7", "\"version\": 8")).expect("writable");
    assert_eq!(restored(&store, dir.path(), u64::MAX).expect("asked"), Some(20_000));
    fs::write(&manifest, text).expect("writable");
    assert_eq!(restored(&store, dir.path(), u64::MAX).expect("asked"), Some(40_000));
}

/// Snapshots of a log that was put back from an older copy and went on another way from offset 500 on.
struct Forked {
    _dir: tempfile::TempDir,
    dir: PathBuf,
    store: SnapshotStore,
}

impl Forked {
    /// At 400, and at 900 and 1,000 of what was lost.
    fn new() -> Self {
        let temporary = tempfile::tempdir().expect("a directory");
        let dir = temporary.path().to_owned();
        let this = Self { store: folder(&dir), _dir: temporary, dir };
        let mut lost = Maker::new(&this.dir.join("lost"));
        for rows in [400, 500, 100] {
            lost.commit(rows);
            this.store.save(PARTITION, &lost.checkpoint()).expect("taken");
        }
        this
    }

    /// Of what came instead.
    fn instead(&self, offset: u64) {
        let mut maker = Maker::of_history(&self.dir.join(format!("instead-{offset}")), 1);
        maker.commit(offset);
        self.store.save(PARTITION, &maker.checkpoint()).expect("taken");
    }

    fn offsets(&self) -> Vec<u64> {
        self.store.list(LOG, PARTITION).expect("listed").iter().map(|listed| listed.next_offset).collect()
    }

    fn base(&self, log: &Log) -> Result<u64, SnapshotError> {
        let base = self.store.base(&env(), log, of_this_version(), &self.dir.join("scratch"))?;
        Ok(base.next.iter().find(|(partition, _)| *partition == PARTITION).expect("covered").1.0)
    }

    fn expire(&self, log: &Log, keep: usize) -> Vec<u64> {
        self.store.expire(log, PARTITION, keep, SnapshotStore::UNNAMED_KEPT).expect("expired");
        self.offsets()
    }
}

fn forked(end: u64) -> Log {
    Log { start: 0, end, fork: 500 }
}

#[test]
fn what_is_not_of_the_log_as_it_is_now_is_passed_over_and_counts_as_none() {
    // (end of the log, snapshots of what came instead, which is restored)
    for (end, instead, newest) in [
        (500, [].as_slice(), 400),
        (600, &[550], 550),
        (900, &[550], 550),
        (950, &[550], 550),
        (1_000, &[550, 950], 950),
        (2_000, &[550, 950], 950),
        (2_000, &[550, 1_500], 1_500),
    ] {
        let forked_from = Forked::new();
        instead.iter().for_each(|&offset| forked_from.instead(offset));
        let log = forked(end);
        let restored = restored_from(&forked_from.store, &forked_from.dir, &log).expect("asked");
        assert_eq!(restored, Some(newest), "{end} {instead:?}");
        let latest = forked_from.store.latest(&log, PARTITION).expect("asked");
        assert_eq!(latest.map(|manifest| manifest.next_offset), Some(newest), "{end} {instead:?}");
    }
}

#[test]
fn one_taken_by_hand_outlives_newer_ones_of_another_history() {
    let snapshots = Forked::new();
    snapshots.instead(600);
    assert_eq!(snapshots.expire(&forked(600), 1), [1_000, 900, 600], "newer ones are left alone");
    assert_eq!(snapshots.expire(&forked(2_000), 1), [1_000, 900, 600], "also when the log has such offsets again");
    snapshots.instead(1_500);
    assert_eq!(snapshots.expire(&forked(2_000), 2), [1_500, 1_000, 900, 600]);
    snapshots.instead(1_600);
    assert_eq!(snapshots.expire(&forked(2_000), 2), [1_600, 1_500], "there are enough beyond them");
}

#[test]
fn a_log_is_trimmed_behind_its_own_snapshots_only() {
    let snapshots = Forked::new();
    // Before the history forked they were the log's own; one of them stays marked as the base.
    assert_eq!(snapshots.base(&Log::until(1_000)).expect("proven"), 400);
    assert_eq!(snapshots.base(&Log::until(1_000)).expect("proven"), 900);
    let log = Log { start: 400, ..forked(2_000) };
    snapshots.instead(1_500);
    assert_eq!(snapshots.expire(&log, 1), [1_500, 900], "what is marked stays");
    assert_eq!(snapshots.base(&log).expect("proven"), 1_500);
    let log = Log { start: 1_200, ..log };
    snapshots.instead(1_700);
    assert_eq!(snapshots.expire(&log, 1), [1_700, 1_500], "the base of this log, for one");
    assert_eq!(
        snapshots.base(&Log { start: 1_700, fork: u64::MAX, ..log }).expect("the record that tells is gone"),
        1_700
    );
    let lost = Log { start: 1_000, fork: u64::MAX, end: 2_000 };
    let error = snapshots.base(&lost).expect_err("all of them are another log's");
    assert!(matches!(error, SnapshotError::None(PARTITION)), "{error}");
    assert_eq!(restored_from(&snapshots.store, &snapshots.dir, &lost).expect("asked"), None);
}

#[test]
fn a_manifest_without_the_last_record_is_judged_by_its_store() {
    let snapshots = Forked::new();
    for manifest in objects(&snapshots.dir, "manifests") {
        let text = fs::read_to_string(&manifest).expect("readable");
        let without: Vec<&str> = text.lines().filter(|line| !line.contains("last_record_id")).collect();
        assert_eq!(without.len() + 1, text.lines().count());
        fs::write(&manifest, without.join("\n")).expect("writable");
    }
    let log = forked(2_000);
    assert_eq!(restored_from(&snapshots.store, &snapshots.dir, &log).expect("asked"), Some(400));
    assert_eq!(restored(&snapshots.store, &snapshots.dir, 2_000).expect("asked"), Some(1_000));
    assert_eq!(snapshots.base(&log).expect("proven"), 400);
    let error = snapshots.base(&log).expect_err("the next one is another log's");
    assert!(error.to_string().contains("it saw record"), "{error}");
}

#[test]
fn rows_that_are_not_what_the_hashes_say_are_found_by_verifying() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut maker = Maker::new(&dir.path().join("state"));
    maker.commit(1_000);
    maker.lie();
    let store = folder(dir.path());
    let saved = store.save(PARTITION, &maker.checkpoint()).expect("taken");
    let error = store.verify(&env(), LOG, PARTITION, &saved.name, &dir.path().join("scratch")).expect_err("a lie");
    assert!(error.to_string().contains("state hash"), "{error}");
}

#[test]
fn what_no_snapshot_names_goes_when_it_is_old() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = folder(dir.path());
    let mut maker = Maker::new(&dir.path().join("state"));
    for _ in 0..5 {
        maker.commit(1_000);
        store.save(PARTITION, &maker.checkpoint()).expect("taken");
    }
    let stray = objects(dir.path(), "files")[0].with_file_name("0123-4");
    fs::write(&stray, "left by an upload that ended").expect("writable");
    let all = objects(dir.path(), "files").len();
    // Everything is dated back but the newest manifest, which tells what the time is.
    let old = std::time::SystemTime::now() - Duration::from_secs(100_000);
    for file in objects(dir.path(), "files") {
        fs::File::options().write(true).open(file).and_then(|f| f.set_modified(old)).expect("dated back");
    }
    let young = SnapshotStore::UNNAMED_KEPT * 2;
    assert_eq!(
        store.expire(&Log::until(u64::MAX), PARTITION, 10, young).expect("expired"),
        barrage_snapshot::Expired::default()
    );
    let expired = store.expire(&Log::until(u64::MAX), PARTITION, 2, SnapshotStore::UNNAMED_KEPT).expect("expired");
    assert_eq!(expired.snapshots, 3);
    assert!(expired.files > 1 && !stray.exists(), "{expired:?}");
    assert_eq!(objects(dir.path(), "files").len(), all - expired.files);
    for listed in store.list(LOG, PARTITION).expect("listed") {
        store.verify(&env(), LOG, PARTITION, &listed.name, &dir.path().join("scratch")).expect("whole");
    }
}

#[test]
fn shared_files_that_were_cut_or_are_gone_are_sent_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = folder(dir.path());
    let mut maker = Maker::new(&dir.path().join("state"));
    maker.commit(20_000);
    store.save(PARTITION, &maker.checkpoint()).expect("taken");
    for (n, file) in objects(dir.path(), "files").iter().enumerate() {
        if n % 2 == 0 {
            fs::remove_file(file).expect("there");
        } else {
            fs::write(file, b"").expect("writable");
        }
    }
    maker.commit(1_000);
    let saved = store.save(PARTITION, &maker.checkpoint()).expect("taken");
    assert_eq!(saved.bytes_reused, 0);
    store.verify(&env(), LOG, PARTITION, &saved.name, &dir.path().join("scratch")).expect("whole");
    maker.commit(1_000);
    let saved = store.save(PARTITION, &maker.checkpoint()).expect("taken");
    assert!(saved.bytes_reused > 0, "what is whole is not sent again");
}

#[test]
fn a_restore_that_nobody_wants_ends() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = folder(dir.path());
    let mut maker = Maker::new(&dir.path().join("state"));
    maker.commit(1_000);
    store.save(PARTITION, &maker.checkpoint()).expect("taken");
    let to = dir.path().join("restored");
    let error =
        store.restore(&env(), &wanted(&Log::until(u64::MAX)), &to, &AtomicBool::new(true)).expect_err("cancelled");
    assert!(matches!(error, SnapshotError::Cancelled) && !to.exists(), "{error}");
}
