//! Simulated evenings through real HTTP, against what was true in the simulated world.

mod common;

use std::path::Path;

use common::{Server, differences, run};

fn evening_is_counted_right(seed: &str, preset: &str) {
    let dir = tempfile::tempdir().expect("a directory");
    evening_is_counted_right_by(seed, preset, dir.path(), Server::start);
}

fn evening_is_counted_right_by(seed: &str, preset: &str, dir: &Path, start: impl FnOnce(&Path) -> Server) {
    let path = |name: &str| dir.join(name).to_str().expect("UTF-8").to_owned();
    let (recording, truth) = (path("evening.jsonl.gz"), path("truth.json"));
    let arguments = ["simulate", "--seed", seed, "--preset", preset, "--out", &recording, "--expected", &truth];
    let (code, output) = run(arguments);
    assert_eq!(code, 0, "{output}");
    let truth = serde_json::from_str(&std::fs::read_to_string(&truth).expect("written")).expect("JSON");
    let server = start(&dir.join("data"));
    server.replay(recording.as_ref());
    server.drained();
    let found = differences(&server, &truth, true);
    assert!(
        found.is_empty(),
        "seed {seed}: {} differences, the first: {:#?}",
        found.len(),
        &found[..found.len().min(20)]
    );
    server.stop();
}

#[test]
fn ten_small_evenings_are_counted_as_they_were() {
    for seed in 1..=10 {
        evening_is_counted_right(&seed.to_string(), "small");
    }
}

#[test]
fn a_whole_evening_is_counted_as_it_was() {
    evening_is_counted_right("1", "default");
}

/// The windows are the shipped ones, so that most of the evening is folded when it is asked for.
#[test]
fn an_evening_longer_than_its_windows_is_counted_as_it_was() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("windows.toml");
    std::fs::write(&config, "[rules.gifts]\nsource = \"billing\"\n").expect("written");
    let config = config.to_str().expect("UTF-8");
    evening_is_counted_right_by("2", "default", dir.path(), |data| Server::start_with(data, &["--config", config]));
}
