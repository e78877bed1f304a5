//! Recorded rooms: every figure of the expected files that these statistics have, with no difference.

mod common;

use barrage_event::rules::RuleSet;
use barrage_recordings::Recording;
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

fn plays_without_a_difference(name: &str) {
    let Some(recording) = Recording::find(name, "presence") else { return };
    let expected: Json = serde_json::from_str(&recording.expected()).expect("JSON");
    let mut world = common::world(&RuleSet::default());
    let started = std::time::Instant::now();
    for line in recording.lines() {
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
