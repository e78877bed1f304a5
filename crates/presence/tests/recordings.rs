//! Recorded rooms: every figure of the expected files that these statistics have, with no difference.
//!
//! The recordings' terms forbid to ship them; the folder is named by `BARRAGE_RECORDINGS`, else it is the one beside the
//! repository.

mod common;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;

use barrage_event::rules::RuleSet;

use flate2::read::GzDecoder;
use serde_json::Value as Json;
use serde_json::value::RawValue;

#[derive(serde::Deserialize)]
struct Line<'l> {
    at_ms: i64,
    query: Query<'l>,
    #[serde(borrow)]
    body: &'l RawValue,
}

#[derive(serde::Deserialize)]
struct Query<'q> {
    #[serde(rename = "CallbackCommand", borrow)]
    command: std::borrow::Cow<'q, str>,
    #[serde(rename = "OptPlatform", default, borrow)]
    platform: std::borrow::Cow<'q, str>,
}

fn folder() -> Option<PathBuf> {
    let named = std::env::var_os("BARRAGE_RECORDINGS").map(PathBuf::from);
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/callbacks");
    Some(named.unwrap_or_else(beside)).filter(|folder| folder.is_dir())
}

/// Says that something was not tested: in the output of the test, and in the file that `scripts/test.sh` shows at the end.
fn skipped(what: &str) {
    println!("SKIPPED: {what}");
    if let Some(file) = std::env::var_os("BARRAGE_SKIPPED") {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(file).expect("a file");
        file.write_all(format!("SKIPPED: {what}\n").as_bytes()).expect("written");
    }
}

fn plays_without_a_difference(name: &str) {
    let Some(folder) = folder() else {
        skipped(&format!("presence of {name}: BARRAGE_RECORDINGS names no folder of recordings"));
        return;
    };
    let mut text = String::new();
    let expected = File::open(folder.join(format!("{name}.expected.json.gz"))).expect("the expected file");
    GzDecoder::new(expected).read_to_string(&mut text).expect("reads");
    let expected: Json = serde_json::from_str(&text).expect("JSON");
    let lines = File::open(folder.join(format!("{name}.jsonl.gz"))).expect("the recording");
    let mut world = common::world(&RuleSet::default());
    let started = std::time::Instant::now();
    for line in BufReader::new(GzDecoder::new(lines)).lines() {
        let line = line.expect("reads");
        let line: Line<'_> = serde_json::from_str(&line).expect("a line");
        world.callback(line.at_ms, &line.query.command, &line.query.platform, line.body.get());
        if world.records.is_multiple_of(5_000) {
            world.commit();
        }
    }
    world.commit();
    let at_ms = expected["last_ms"].as_i64().expect("a time");
    let mut found = Vec::new();
    let mut compare = |what: String, ours: &Json, theirs: &Json| {
        if ours != theirs {
            found.push(format!("{what}: {ours}, expected {theirs}"));
        }
    };
    for (room, truth) in expected["rooms"].as_object().expect("rooms") {
        let ours = world.room(room, at_ms).remove("online").unwrap_or_default();
        compare(format!("{room} peak"), &ours["peak"], &truth["peak_online"]);
        compare(format!("{room} now"), &ours["now"], &truth["final_online"]);
        compare(format!("{room} distinct"), &ours["distinct"], &truth["distinct_joiners"]);
        compare(format!("{room} too late"), &ours["too_late"], &Json::from(0));
    }
    for (account, truth) in expected["users"].as_object().expect("users") {
        let ours = world.user(account, at_ms).remove("online").unwrap_or_default();
        compare(format!("{account} online"), &ours["ms"], &truth["online_ms"]);
        compare(format!("{account} lower"), &ours["lower_ms"], &truth["online_ms"]);
        compare(format!("{account} upper"), &ours["upper_ms"], &truth["online_ms"]);
    }
    println!(
        "{name}: {} records, {} derived, {} intents in {:?}",
        world.records,
        world.derived,
        world.intents,
        started.elapsed()
    );
    assert!(found.is_empty(), "{} differences, the first: {:#?}", found.len(), &found[..found.len().min(10)]);
}

#[test]
fn the_recorded_rooms_have_no_difference() {
    plays_without_a_difference("developer");
}

#[test]
fn the_recorded_burst_has_no_difference() {
    plays_without_a_difference("burst");
}

#[test]
fn the_recorded_rejoins_have_no_difference() {
    plays_without_a_difference("rejoin");
}
