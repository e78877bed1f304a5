//! Simulated evenings through real HTTP, against what was true in the simulated world.

mod common;

use common::{Server, differences, run};

fn evening_is_counted_right(seed: &str, preset: &str) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_owned();
    let (recording, truth) = (path("evening.jsonl.gz"), path("truth.json"));
    let arguments = ["simulate", "--seed", seed, "--preset", preset, "--out", &recording, "--expected", &truth];
    let (code, output) = run(arguments);
    assert_eq!(code, 0, "{output}");
    let truth = serde_json::from_str(&std::fs::read_to_string(&truth).expect("written")).expect("JSON");
    let server = Server::start(&dir.path().join("data"));
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
