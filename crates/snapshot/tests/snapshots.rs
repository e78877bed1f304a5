//! Snapshots in a folder, and the same against a server that speaks S3 when one is installed.

mod common;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use barrage_event::Partition;
use barrage_snapshot::{SnapshotError, SnapshotStore};
use barrage_state::Store;
use common::{LOG, Maker, PARTITION, S3, env, wanted};

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
    let to = dir.join("restored");
    let restored = store.restore(&env(), &wanted(until), &to, &AtomicBool::new(false))?;
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
    assert_eq!(store.latest(LOG, PARTITION).expect("asked"), None);
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
    assert_eq!(store.latest(LOG, PARTITION).expect("asked"), Some(second.manifest));
    assert_eq!(restored(store, dir, u64::MAX).expect("restored"), Some(40_100));
    assert_eq!(restored(store, dir, 40_000).expect("restored"), Some(40_000), "not beyond the log's end");
    for name in &names {
        store.verify(&env(), LOG, PARTITION, name, &dir.join("scratch")).expect("as it was made");
    }
    assert!(!dir.join("scratch").exists());
    assert_eq!(store.list(LOG, Partition::room(1)).expect("listed"), [], "another partition's");
    assert_eq!(store.list(LOG ^ 1, PARTITION).expect("listed"), [], "another log's");
    let expired = store.expire(LOG, PARTITION, 1, Duration::from_secs(86_400)).expect("expired");
    assert_eq!((expired.snapshots, expired.files), (1, 0), "what it alone had is still young");
    assert_eq!(restored(store, dir, u64::MAX).expect("restored"), Some(40_100));
}

#[test]
fn a_folder_keeps_snapshots() {
    let dir = tempfile::tempdir().expect("a directory");
    goes_round(&folder(dir.path()), dir.path());
}

/// Says that something was not tested: in the output of the test, and in the file that `scripts/test.sh` shows at the end.
fn skipped(what: &str) {
    println!("SKIPPED: {what}");
    if let Some(file) = std::env::var_os("BARRAGE_SKIPPED") {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(file).expect("a file");
        file.write_all(format!("SKIPPED: {what}\n").as_bytes()).expect("written");
    }
}

#[test]
fn a_server_that_speaks_s3_keeps_snapshots() {
    let Some(server) = S3::start() else {
        skipped("snapshots in S3: there is no moto_server on the PATH (pip install 'moto[server]')");
        return;
    };
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
    assert_eq!(store.expire(LOG, PARTITION, 10, young).expect("expired"), barrage_snapshot::Expired::default());
    let expired = store.expire(LOG, PARTITION, 2, SnapshotStore::UNNAMED_KEPT).expect("expired");
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
    let error = store.restore(&env(), &wanted(u64::MAX), &to, &AtomicBool::new(true)).expect_err("cancelled");
    assert!(matches!(error, SnapshotError::Cancelled) && !to.exists(), "{error}");
}
