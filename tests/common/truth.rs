//! Answers against an expected file: what an independent program counted, or what was true in a simulated world.

use serde_json::Value as Json;

use super::{escape, read_at};

/// Gathers differences.
#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    fn same(&mut self, what: &str, found: &Json, wanted: &Json) {
        // A file does not say what never occurred; an answer has every field.
        let none = |v: &Json| v.as_u64() == Some(0) || v.as_object().is_some_and(serde_json::Map::is_empty);
        if found != wanted && !(none(found) && (wanted.is_null() || none(wanted))) {
            self.0.push(format!("{what}: answered {found}, expected {wanted}"));
        }
    }

    fn within(&mut self, what: &str, found: &Json, (from, to): (u64, u64)) {
        if !found.as_u64().is_some_and(|number| (from..=to).contains(&number)) {
            self.0.push(format!("{what}: answered {found}, expected {from} to {to}"));
        }
    }
}

fn number(value: &Json) -> u64 {
    value.as_u64().unwrap_or_default()
}

/// Differences between what a query service at this URL answers and what an expected file says, in every figure; with
/// `by_world` in those, too, that only a simulated world knows.
pub(crate) fn differences_at(query: &str, expected: &Json, by_world: bool) -> Vec<String> {
    let mut differences = Differences::default();
    // A recording ends with its last callback; a simulated world stood still before its last lines came.
    let end = expected["end_ms"].as_i64().filter(|&end| end > 0);
    let at = end.or_else(|| expected["last_ms"].as_i64()).expect("a time");
    for (room, wanted) in expected["rooms"].as_object().expect("rooms") {
        // What waits for its window is over an hour later; who is there is asked for at the end itself.
        let (status, later) = read_at(query, &format!("/v1/rooms/{}", escape(room)));
        if status != 200 {
            let silent = wanted["messages"] == 0 && wanted["attempts_by_type"].as_object().is_none_or(|a| a.is_empty());
            if !silent {
                differences.same(&format!("{room}: status"), &Json::from(status), &Json::from(200));
            }
            continue;
        }
        messages(&mut differences, room, &later["messages"], wanted, by_world);
        let answer = read_at(query, &format!("/v1/rooms/{}?at={at}", escape(room))).1;
        presence(&mut differences, room, &answer["online"], wanted);
        gifts_and_likes(&mut differences, room, &answer, wanted, by_world);
        if by_world {
            top_lists(&mut differences, query, (room, at), wanted);
            watch_time(&mut differences, query, (room, at), wanted);
        }
    }
    let mut widths = Vec::new();
    for (user, wanted) in expected["users"].as_object().expect("users") {
        let (status, answer) = read_at(query, &format!("/v1/users/{}?at={at}", escape(user)));
        if status != 200 {
            // Someone whose every message was refused, say.
            let silent = number(&wanted["messages"]) == 0 && number(&wanted["online_ms"]) == 0;
            if !silent {
                differences.same(&format!("{user}: status"), &Json::from(status), &Json::from(200));
            }
            continue;
        }
        differences.same(&format!("{user}: delivered"), &answer["messages"]["delivered"], &wanted["messages"]);
        widths.push(online(&mut differences, user, &answer["online"], wanted, by_world));
        let likes = if by_world { &wanted["likes_attempted"] } else { &wanted["likes"] };
        differences.same(&format!("{user}: likes"), &answer["likes"]["count"], likes);
        differences.same(&format!("{user}: gift value"), &answer["gifts"]["value"], &wanted["gift_value"]);
        if by_world {
            differences.same(&format!("{user}: by type"), &answer["messages"]["by_type"], &wanted["messages_by_type"]);
            differences.same(&format!("{user}: gifts"), &answer["gifts"]["count"], &wanted["gift_count"]);
        }
    }
    // Of those that are not exact.
    widths.retain(|&width| width > 0);
    widths.sort_unstable();
    let median = widths.get(widths.len() / 2).copied().unwrap_or_default();
    // The longest delay with which a native client's lost connection is told.
    if median > 400_000 {
        differences.0.push(format!("half of the bounds of online time are wider than {median} ms"));
    }
    differences.0
}

fn messages(differences: &mut Differences, room: &str, found: &Json, wanted: &Json, by_world: bool) {
    let mut same =
        |what: &str, found: &Json, wanted: &Json| differences.same(&format!("{room}: {what}"), found, wanted);
    let attempted: u64 = wanted["attempts_by_type"].as_object().expect("a map").values().filter_map(Json::as_u64).sum();
    same("attempted", &found["attempted"], &Json::from(attempted));
    same("attempted by type", &found["attempted_by_type"], &wanted["attempts_by_type"]);
    same("delivered", &found["delivered"], &wanted["messages"]);
    same("delivered by type", &found["by_type"], &wanted["messages_by_type"]);
    same("throttled", &found["throttled"], &wanted["dropped"]);
    same("senders", &found["senders"], &wanted["distinct_senders"]);
    if by_world {
        same("throttled by type", &found["throttled_by_type"], &wanted["dropped_by_type"]);
        same("failed", &found["failed"], &wanted["failed"]);
        same("unattempted", &found["unattempted"], &wanted["unattempted"]);
    }
}

/// Who is in a room. A client that dies counts until the platform has noticed, so a simulated world has two numbers.
fn presence(differences: &mut Differences, room: &str, found: &Json, wanted: &Json) {
    let range = |name: &str| {
        let low = number(&wanted[name]);
        (low, number(&wanted[format!("{name}_upper")]).max(low))
    };
    differences.same(&format!("{room}: distinct"), &found["distinct"], &wanted["distinct_joiners"]);
    differences.within(&format!("{room}: peak"), &found["peak"], range("peak_online"));
    differences.within(&format!("{room}: now"), &found["now"], range("final_online"));
}

fn gifts_and_likes(differences: &mut Differences, room: &str, answer: &Json, wanted: &Json, by_world: bool) {
    let mut same =
        |what: &str, found: &Json, wanted: &Json| differences.same(&format!("{room}: {what}"), found, wanted);
    for name in ["messages", "count", "value"] {
        same(&format!("gifts {name}"), &answer["gifts"][name], &wanted["gifts"][name]);
    }
    same("likes", &answer["likes"]["count"], &wanted["likes_attempted"]);
    if by_world {
        same("memberships", &answer["memberships"]["count"], &wanted["memberships"]);
    }
}

/// All viewers of a room by a sort, page after page.
fn viewers(query: &str, (room, at): (&str, i64), sort: &str) -> Vec<Json> {
    let mut all = Vec::new();
    let first = format!("/v1/rooms/{}/viewers?sort={sort}&limit=1000&at={at}", escape(room));
    let mut path = first.clone();
    loop {
        let (status, page) = read_at(query, &path);
        assert_eq!(status, 200, "{path}: {page}");
        all.extend(page["viewers"].as_array().expect("viewers").iter().cloned());
        let Some(next) = page["next"].as_str() else { return all };
        path = format!("{first}&after={next}");
    }
}

/// Who did most in a room: everybody who did it at all, in order.
fn top_lists(differences: &mut Differences, query: &str, (room, at): (&str, i64), wanted: &Json) {
    let lists = [
        ("messages", "/messages/delivered", "messages"),
        ("likes", "/likes/count", "likes_attempted"),
        ("gift_value", "/gifts/value", "gift_value"),
    ];
    for (sort, field, did) in lists {
        let found = viewers(query, (room, at), sort);
        let found: Vec<(&str, u64)> = found
            .iter()
            .map(|viewer| (viewer["account"].as_str().unwrap_or_default(), viewer.pointer(field).map_or(0, number)))
            .collect();
        let all = wanted["viewers"].as_object().expect("viewers").iter();
        let mut wanted: Vec<(&str, u64)> =
            all.map(|(account, viewer)| (account.as_str(), number(&viewer[did]))).filter(|(_, did)| *did > 0).collect();
        wanted.sort_by(|(a, left), (b, right)| right.cmp(left).then(a.cmp(b)));
        if found != wanted {
            let first = found.iter().zip(&wanted).position(|(found, wanted)| found != wanted);
            let at = first.unwrap_or_else(|| found.len().min(wanted.len()));
            differences.0.push(format!(
                "{room}: {} by {sort}, expected {}; place {at} is {:?}, expected {:?}",
                found.len(),
                wanted.len(),
                found.get(at),
                wanted.get(at)
            ));
        }
    }
}

/// How long everybody was in a room.
fn watch_time(differences: &mut Differences, query: &str, (room, at): (&str, i64), wanted: &Json) {
    let found = viewers(query, (room, at), "watch");
    let joined = |viewer: &&Json| viewer["joined"] == true;
    let all = wanted["viewers"].as_object().expect("viewers");
    differences.same(
        &format!("{room}: viewers by watch time"),
        &Json::from(found.len()),
        &Json::from(all.values().filter(joined).count()),
    );
    for viewer in &found {
        let account = viewer["account"].as_str().unwrap_or_default();
        let what = format!("{room}: watch time of {account}");
        let Some(wanted) = all.get(account).filter(joined) else {
            differences.0.push(format!("{what}: it was never there"));
            continue;
        };
        let watch = &viewer["watch"];
        let bounds = (number(&watch["lower_ms"]), number(&watch["upper_ms"]));
        differences.within(&format!("{what} in its bounds"), &watch["ms"], bounds);
        let truth = number(&wanted["watch_ms"]);
        if !(bounds.0..=bounds.1).contains(&truth) {
            differences.0.push(format!("{what}: answered {watch}, in truth {truth}"));
        }
    }
}

/// Online time of an account; the width of its bounds.
fn online(differences: &mut Differences, user: &str, found: &Json, wanted: &Json, by_world: bool) -> u64 {
    let (ms, lower, upper) = (number(&found["ms"]), number(&found["lower_ms"]), number(&found["upper_ms"]));
    if by_world {
        let truth = number(&wanted["online_ms"]);
        differences.within(&format!("{user}: true online time"), &Json::from(truth), (lower, upper));
    } else {
        differences.same(&format!("{user}: online time"), &found["ms"], &wanted["online_ms"]);
    }
    differences.within(&format!("{user}: online time in its bounds"), &Json::from(ms), (lower, upper));
    upper.saturating_sub(lower)
}
