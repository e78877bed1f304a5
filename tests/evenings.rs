//! Simulated evenings through real HTTP, against what was true in the simulated world.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use common::{EVENING, Server, differences, escape, hashes, read_at, run};
use serde_json::Value as Json;

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

/// Every number that rooms and accounts have both, summed over all of either; as a path of names.
fn sums(query: &str, kind: &str, names: &Json, at: i64) -> BTreeMap<String, u64> {
    fn add(sums: &mut BTreeMap<String, u64>, path: &str, value: &Json) {
        match value {
            Json::Object(fields) => fields.iter().for_each(|(name, value)| add(sums, &format!("{path}/{name}"), value)),
            // Of an account that never wrote nothing is told of messages.
            Json::Null => {}
            value => *sums.entry(path.to_owned()).or_default() += value.as_u64().expect("a number"),
        }
    }
    let mut sums = BTreeMap::new();
    for name in names.as_object().expect("names").keys() {
        let (status, answer) = read_at(query, &format!("/v1/{kind}/{}?at={at}", escape(name)));
        if status == 404 {
            continue;
        }
        for field in ["likes", "gifts", "memberships"] {
            add(&mut sums, field, &answer[field]);
        }
        for field in ["delivered", "by_type"] {
            add(&mut sums, field, &answer["messages"][field]);
        }
    }
    sums
}

#[test]
fn rooms_accounts_and_levels_agree_across_changes_of_the_rules_in_mid_stream() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_owned();
    let (recording, truth) = (path("evening.jsonl.gz"), path("truth.json"));
    let (code, output) = run(["simulate", "--seed", "5", "--out", &recording, "--expected", &truth]);
    assert_eq!(code, 0, "{output}");
    let truth: Json = serde_json::from_str(&std::fs::read_to_string(&truth).expect("written")).expect("JSON");
    // Caps and the source of gifts are those that a record is stamped with; weights and the half-life follow the log.
    let base = std::fs::read_to_string(EVENING).expect("the configuration").replace("[rules.", "[");
    let other = base.replace("billing\"", "messages\"")
        + "[likes]\nper_message_max = 6\nper_second_max = 4\n\n[heat]\nhalf_life_ms = 120_000\ngift_value = 500\n\n"
        + "[levels.weights]\nlike = 700\n\n[levels.daily_max]\nlike = 20\n";
    let files = [("other.toml", &other), ("base.toml", &base)].map(|(name, text)| {
        std::fs::write(dir.path().join(name), text).expect("written");
        path(name)
    });
    let server = Server::start(&dir.path().join("data"));
    let mut versions = 1;
    std::thread::scope(|threads| {
        let replay = threads.spawn(|| server.replay(recording.as_ref()));
        while !replay.is_finished() {
            let file = &files[(versions - 1) % 2];
            let (code, output) = server.command(&["rules", "apply", file, "--query", &server.query]);
            assert_eq!(code, 0, "{output}");
            versions += 1;
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    println!("{versions} versions of the rules");
    assert!(versions >= 4, "the evening was over before the rules had changed a few times");
    let status = server.drained();

    let at = truth["last_ms"].as_i64().expect("a time") + 3_600_000;
    let rooms = sums(&server.query, "rooms", &truth["rooms"], at);
    assert_eq!(rooms, sums(&server.query, "users", &truth["users"], at));
    for met in ["likes/count", "likes/capped_per_second", "gifts/value", "memberships/count", "by_type/gift"] {
        assert!(rooms[met] > 0, "no {met}: {rooms:?}");
    }
    for account in truth["users"].as_object().expect("users").keys() {
        let answer = read_at(&server.query, &format!("/v1/users/{}?at={at}", escape(account))).1;
        let parts = &answer["level"]["parts"];
        for (part, total) in [
            (&parts["messages"]["delivered"], &answer["messages"]["delivered"]),
            (&parts["likes"]["count"], &answer["likes"]["count"]),
            (&parts["gifts"]["value"], &answer["gifts"]["value"]),
            (&parts["membership"]["months"], &answer["memberships"]["months"]),
            (&parts["online"]["ms"], &answer["online"]["ms"]),
        ] {
            assert_eq!(part.as_u64(), Some(total.as_u64().unwrap_or_default()), "{account}: {answer}");
        }
    }
    // The same bytes from the log, of all statistics: it holds all that the changes did.
    let (code, output) = server.command(&["rebuild", "--all", "--query", &server.query]);
    assert_eq!(code, 0, "{output}");
    assert_eq!(hashes(&server.drained()), hashes(&status));
    server.stop();
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
