//! Recorded rooms through real HTTP: every figure that message counts have equals the independent count.

mod common;

use barrage_recordings::Recording;
use common::{Server, differences, get, hashes, wait_until};
use serde_json::Value as Json;

fn plays_without_a_difference(name: &str, callbacks: u64, throttled: u64) {
    let Some(recording) = Recording::find(name, "all") else { return };
    let dir = tempfile::tempdir().expect("a directory");
    // The shipped rules: gifts are counted from messages, as a recording has no bills.
    let server = Server::start_with(dir.path(), &[]);
    let expected: Json = serde_json::from_str(&recording.expected()).expect("JSON");
    server.replay(&recording.file());
    let status = server.drained();
    let counted: u64 = expected["callbacks"].as_object().expect("a map").values().filter_map(Json::as_u64).sum();
    assert_eq!(counted, callbacks, "the recording is another one");
    let found = differences(&server, &expected, false);
    assert!(found.is_empty(), "{} differences, the first: {:#?}", found.len(), &found[..found.len().min(10)]);

    let rooms = get(&server.query, "/v1/rooms?sort=messages&limit=1000").1;
    let sum: u64 =
        rooms["rooms"].as_array().expect("rooms").iter().filter_map(|r| r["messages"]["throttled"].as_u64()).sum();
    assert_eq!(sum, throttled);

    // Rebuilt from the log, the same bytes.
    let (code, output) = server.command(&["rebuild", "--all", "--query", &server.query]);
    assert_eq!(code, 0, "{output}");
    let rebuilt = wait_until("all is rebuilt", || Some(server.drained()));
    assert_eq!(hashes(&rebuilt), hashes(&status));
    server.stop();
}

#[test]
fn the_recorded_rooms_have_no_difference() {
    plays_without_a_difference("developer", 354_888, 0);
}

#[test]
fn the_recorded_burst_has_no_difference() {
    plays_without_a_difference("burst", 68_568, 1_804);
}

#[test]
fn the_recorded_rejoins_have_no_difference() {
    plays_without_a_difference("rejoin", 71_928, 0);
}
