//! The service over real HTTP, a real log and a real worker, against events whose totals are known by hand.

mod cluster;
mod harness;
mod live;
mod owners;
mod scans;
mod schema;

use std::collections::BTreeSet;

use harness::{KEY, Service};
use serde_json::{Value as Json, json};

const APP: u32 = 1_400_000_000;
const ROOM: &str = "@TGS#房 间/1";
const ROOM_PATH: &str = "%40TGS%23%E6%88%BF%20%E9%97%B4%2F1";
/// 2026-01-01 12:00 UTC.
const NOON: i64 = 1_767_268_800_000;

/// Three messages are attempted and two delivered by `ann`, one is delivered by `bob` without an attempt.
async fn small_evening(service: &Service) -> String {
    let mut last = String::new();
    for (i, (command, account, random, at)) in [
        ("Group.CallbackBeforeSendMsg", "ann", 1, 0),
        ("Group.CallbackAfterSendMsg", "ann", 1, 50),
        ("Group.CallbackBeforeSendMsg", "ann", 2, 1_000),
        ("Group.CallbackBeforeSendMsg", "ann", 3, 61_000),
        ("Group.CallbackAfterSendMsg", "ann", 3, 61_050),
        ("Group.CallbackAfterSendMsg", "bob", 4, 62_000),
    ]
    .into_iter()
    .enumerate()
    {
        let body = message(command, ROOM, account, random, NOON + at);
        last = service.append(APP, command, &body, NOON + at).await;
        assert!(!last.is_empty(), "callback {i} has positions");
    }
    last
}

fn message(command: &str, room: &str, account: &str, random: u32, at_ms: i64) -> String {
    json!({
        "CallbackCommand": command, "GroupId": room, "Type": "AVChatRoom", "From_Account": account,
        "Operator_Account": account, "Random": random, "MsgId": format!("1-{}-{random}", at_ms / 60_000_000),
        "MsgSeq": random, "MsgTime": at_ms / 1_000, "EventTime": at_ms,
        "MsgBody": [{ "MsgType": "TIMTextElem", "MsgContent": { "Text": "hello" } }],
    })
    .to_string()
}

#[tokio::test]
async fn a_read_sees_the_write_it_asks_for_and_answers_what_happened() {
    let service = Service::start().await;
    let positions = small_evening(&service).await;

    let at = NOON + 3_600_000;
    let room = service.get(&format!("/v1/rooms/{ROOM_PATH}?at={at}&at_least={positions}")).await.ok();
    assert_eq!(room["room"], ROOM);
    for (field, expected) in
        [("attempted", 3), ("delivered", 3), ("throttled", 1), ("unattempted", 1), ("rejected", 0), ("failed", 0)]
    {
        assert_eq!(room["messages"][field], expected, "{field}: {room}");
    }
    assert_eq!(room["messages"]["by_type"], json!({ "text": 3 }));
    assert_eq!(room["as_of"]["at"], at);
    assert_eq!(room["as_of"]["event_time"], NOON + 62_000);

    let user = service.get(&format!("/v1/users/ann?at_least={positions}")).await.ok();
    assert_eq!((&user["account"], &user["messages"]["delivered"]), (&json!("ann"), &json!(2)));

    let viewers = service.get(&format!("/v1/rooms/{ROOM_PATH}/viewers?limit=1")).await.ok();
    assert_eq!(viewers["viewers"][0]["account"], "ann");
    let next = viewers["next"].as_str().expect("there is another viewer");
    let viewers = service.get(&format!("/v1/rooms/{ROOM_PATH}/viewers?limit=1&after={next}")).await.ok();
    assert_eq!((&viewers["viewers"][0]["account"], viewers.get("next")), (&json!("bob"), None));

    let minutes = service.get(&format!("/v1/rooms/{ROOM_PATH}/minutes?limit=1")).await.ok();
    assert_eq!(minutes["minutes"][0]["start"], NOON);
    assert_eq!(minutes["minutes"][0]["width_ms"], 60_000);
    let next = minutes["next"].as_str().expect("there is another minute");
    let minutes = service.get(&format!("/v1/rooms/{ROOM_PATH}/minutes?limit=1&after={next}")).await.ok();
    assert_eq!((&minutes["minutes"][0]["start"], minutes.get("next")), (&json!(NOON + 60_000), None));
    let none = service.get(&format!("/v1/rooms/{ROOM_PATH}/minutes?from={}", NOON + 3_600_000)).await.ok();
    assert_eq!(none["minutes"], json!([]));
}

#[tokio::test]
async fn viewers_of_a_span_of_time_are_those_of_its_hours() {
    let service = Service::start().await;
    let hour = 3_600_000;
    let mut positions = Vec::new();
    for (n, (account, at)) in [("ann", NOON), ("bob", NOON + hour), ("ann", NOON + 2 * hour)].into_iter().enumerate() {
        let command = "Group.CallbackBeforeSendMsg";
        let random = u32::try_from(n).expect("few");
        let mut body: Json = serde_json::from_str(&message(command, ROOM, account, random, at)).expect("JSON");
        let like = json!({"type": "like", "count": 3}).to_string();
        body["MsgBody"] = json!([{"MsgType": "TIMCustomElem", "MsgContent": {"Data": like, "Desc": "", "Ext": ""}}]);
        positions.push(service.append(APP, command, &body.to_string(), at).await);
    }
    let positions = positions.join(",");
    let path = format!("/v1/rooms/{ROOM_PATH}/viewers?at_least={positions}");
    let cases = [
        (String::new(), vec![("ann", 6), ("bob", 3)], (Json::Null, Json::Null)),
        // Without a beginning it is as far back as hours are kept: 48 before the newest record.
        (format!("&to={}", NOON + hour), vec![("ann", 3)], (json!(NOON - 46 * hour), json!(NOON + hour))),
        // Whole hours are answered.
        (
            format!("&from={}&to={}", NOON + 1, NOON + hour + 1),
            vec![("ann", 3), ("bob", 3)],
            (json!(NOON), json!(NOON + 2 * hour)),
        ),
    ];
    for (span, expected, (from, to)) in cases {
        let answer = service.get(&format!("{path}&sort=likes{span}")).await.ok();
        let found: Vec<(&str, u64)> = answer["viewers"]
            .as_array()
            .expect("viewers")
            .iter()
            .map(|v| (v["account"].as_str().expect("a name"), v["likes"]["count"].as_u64().expect("a number")))
            .collect();
        assert_eq!(found, expected, "{answer}");
        assert_eq!((&answer["from"], &answer["to"]), (&from, &to), "{answer}");
    }
    // A page goes on with the span and the sort that it began with.
    let first = service.get(&format!("{path}&sort=likes&limit=1")).await.ok();
    let next = first["next"].as_str().expect("a cursor");
    assert_eq!(service.get(&format!("{path}&sort=likes&after={next}")).await.ok()["viewers"][0]["account"], "bob");
    let (in_span, in_other) = (format!("sort=likes&from={NOON}&after={next}"), format!("sort=messages&after={next}"));
    for wrong in
        ["sort=likes&from=2&to=1", "sort=messages&from=1", "sort=likes&from=x", in_span.as_str(), in_other.as_str()]
    {
        let refused = service.get(&format!("{path}&{wrong}")).await;
        assert_eq!(refused.status, 400, "{wrong}");
    }
}

#[tokio::test]
async fn the_time_asked_for_decides_what_has_elapsed() {
    let service = Service::start().await;
    let command = "Group.CallbackBeforeSendMsg";
    let positions = service.append(APP, command, &message(command, ROOM, "ann", 1, NOON), NOON).await;
    for (at, throttled) in [(NOON + 1_000, 0), (NOON + 3_600_000, 1)] {
        let room = service.get(&format!("/v1/rooms/{ROOM_PATH}?at={at}&at_least={positions}")).await.ok();
        assert_eq!(room["messages"]["throttled"], throttled, "at {}", at - NOON);
    }
}

#[tokio::test]
async fn pages_of_rooms_hold_each_room_once_and_the_busiest_first() {
    let service = Service::start().await;
    let mut positions = Vec::new();
    for n in 0..23_u32 {
        for random in 0..=n % 5 {
            let command = "Group.CallbackAfterSendMsg";
            let body = message(command, &format!("room {n}"), "ann", 100 * n + random, NOON);
            positions.push(service.append(APP, command, &body, NOON).await);
        }
    }
    let positions = positions.join(",");
    let mut seen: Vec<(u64, String)> = Vec::new();
    let mut query = format!("/v1/rooms?limit=5&at_least={positions}");
    loop {
        let page = service.get(&query).await.ok();
        let rooms = page["rooms"].as_array().expect("rooms");
        assert!(rooms.len() <= 5);
        seen.extend(rooms.iter().map(|r| {
            (r["messages"]["delivered"].as_u64().expect("a number"), r["room"].as_str().expect("a name").to_owned())
        }));
        let Some(next) = page["next"].as_str() else { break };
        query = format!("/v1/rooms?limit=5&after={next}");
    }
    assert_eq!(seen.len(), 23);
    assert_eq!(seen.iter().map(|(_, room)| room).collect::<BTreeSet<_>>().len(), 23);
    assert!(seen.windows(2).all(|w| w[0].0 >= w[1].0), "{seen:?}");
}

/// So many delivered messages in each of these rooms, all of one account; the last positions.
async fn busy(service: &Service, rooms: &[(&str, u32)], account: &str) -> String {
    let mut positions = Vec::new();
    for (n, (room, messages)) in rooms.iter().enumerate() {
        for random in 0..*messages {
            let command = "Group.CallbackAfterSendMsg";
            let random = 1_000 * u32::try_from(n).expect("few") + random;
            let body = message(command, room, account, random, NOON);
            positions.push(service.append(APP, command, &body, NOON).await);
        }
    }
    positions.join(",")
}

#[tokio::test]
async fn a_rank_is_the_place_among_all_rooms() {
    let service = Service::start().await;
    let rooms = [("a", 3), ("b", 5), ("c", 3), ("d", 1), ("e", 9), ("f", 3)];
    let positions = busy(&service, &rooms, "ann").await;
    service.get(&format!("/v1/status?at_least={positions}")).await.ok();
    let ranked = ["e", "b", "a", "c", "f", "d"];
    for (path, by_heat) in
        [("/v1/rooms?sort=heat", true), ("/v1/rooms?sort=messages", false), ("/v1/recommendations?", false)]
    {
        for limit in [1, 2, 6, 100] {
            let mut query = format!("{path}&limit={limit}");
            let mut seen = Vec::new();
            loop {
                let page = service.get(&query).await.ok();
                for room in page["rooms"].as_array().expect("rooms") {
                    seen.push(room["room"].as_str().expect("a name").to_owned());
                    assert_eq!(room["rank"], seen.len(), "{query}: {room}");
                    assert_eq!(room["heat"]["rank"].as_u64(), by_heat.then_some(seen.len() as u64), "{query}");
                }
                let Some(next) = page["next"].as_str() else { break };
                query = format!("{path}&limit={limit}&after={next}");
            }
            assert_eq!(seen, ranked, "{path} by {limit}");
        }
    }
    for (place, room) in ranked.iter().enumerate() {
        let answer = service.get(&format!("/v1/rooms/{room}")).await.ok();
        assert_eq!((&answer["heat"]["rank"], answer.get("rank")), (&json!(place + 1), None), "{room}");
    }
    assert_eq!(service.get("/v1/recommendations").await.ok()["sort"], "recommended");
}

#[tokio::test]
async fn levels_count_the_accounts_of_all_partitions() {
    let service = Service::start().await;
    let mut positions = Vec::new();
    // 10 and 50 points are the first thresholds, and a message is one.
    for (account, messages) in [("ann", 9), ("bob", 10), ("cid", 49), ("dan", 50), ("eve", 55), ("fay", 1), ("gil", 10)]
    {
        positions.push(busy(&service, &[("room", messages)], account).await);
    }
    let at_least = positions.join(",");
    let levels = service.get(&format!("/v1/levels?at_least={at_least}")).await.ok();
    let counts: Vec<(u64, u64)> = levels["levels"]
        .as_array()
        .expect("levels")
        .iter()
        .map(|one| (one["level"].as_u64().expect("a level"), one["accounts"].as_u64().expect("a number")))
        .collect();
    assert_eq!(counts[..4], [(0, 2), (1, 3), (2, 2), (3, 0)]);
    assert_eq!((&levels["accounts"], counts.len()), (&json!(7), 11));
    assert_eq!(levels["as_of"]["positions"].as_array().map(Vec::len), Some(2));
    let user = service.get("/v1/users/cid").await.ok();
    assert_eq!(
        (&user["level"]["level"], &user["level"]["score"], &user["level"]["next_at"], &user["level"]["missing"]),
        (&json!(1), &json!(49), &json!(50), &json!(1))
    );
}

#[tokio::test]
async fn every_bad_request_gets_its_status_and_code() {
    let service = Service::start().await;
    let positions = small_evening(&service).await;
    service.get(&format!("/v1/status?at_least={positions}")).await.ok();
    let long = format!("/v1/users/{}", "x".repeat(5_000));
    let bad_path = format!("/v1/rooms/{ROOM_PATH}/minutes");
    let reversed = format!("{bad_path}?from=2&to=1");
    let table: &[(&str, &str, u16, &str)] = &[
        ("GET", "/nope", 404, "unknown_route"),
        ("GET", "/v1/rooms/", 404, "unknown_route"),
        ("GET", "/v1/rooms/@TGS%23nobody", 404, "unknown_room"),
        ("GET", "/v1/rooms/@TGS%23nobody/minutes", 404, "unknown_room"),
        ("GET", "/v1/rooms/@TGS%23nobody/viewers", 404, "unknown_room"),
        ("GET", "/v1/users/nobody", 404, "unknown_user"),
        ("GET", "/v1/users/%ff", 400, "bad_parameter"),
        ("GET", &long, 400, "bad_parameter"),
        ("GET", "/v1/rooms?limit=0", 400, "bad_parameter"),
        ("GET", "/v1/rooms?limit=1001", 400, "bad_parameter"),
        ("GET", "/v1/rooms?limit=ten", 400, "bad_parameter"),
        ("GET", "/v1/rooms?sort=beauty", 400, "bad_parameter"),
        ("GET", "/v1/rooms?after=zz", 400, "bad_parameter"),
        ("GET", "/v1/rooms?colour=red", 400, "bad_parameter"),
        ("GET", "/v1/recommendations?sort=heat", 400, "bad_parameter"),
        ("GET", "/v1/levels?limit=1", 400, "bad_parameter"),
        ("GET", "/v1/rooms?app=x", 400, "bad_parameter"),
        ("GET", "/v1/rooms?at=-5", 400, "bad_parameter"),
        ("GET", "/v1/rooms?at_least=here", 400, "bad_parameter"),
        ("GET", "/v1/rooms?at_least=room/99@0", 400, "bad_parameter"),
        ("GET", "/v1/rooms?at_least=room/0@999999", 504, "not_yet"),
        ("GET", &reversed, 400, "bad_parameter"),
        ("GET", "/v1/dead-letters?partition=room/99", 400, "bad_parameter"),
        ("GET", "/v1/dead-letters?partition=everything", 400, "bad_parameter"),
        ("POST", "/v1/rooms", 405, "method_not_allowed"),
        ("DELETE", "/v1/rules", 405, "method_not_allowed"),
        ("POST", "/v1/rules", 401, "unauthorized"),
        ("POST", "/v1/rebuild?partition=all", 401, "unauthorized"),
        ("POST", "/v1/snapshots?partition=all", 401, "unauthorized"),
        ("POST", "/v1/log/trim", 401, "unauthorized"),
    ];
    for (method, path, status, code) in table {
        let answer = service.ask(method, path, &[], "").await;
        let shown: String = path.chars().take(60).collect();
        assert_eq!((answer.status, answer.json["error"]["code"].as_str()), (*status, Some(*code)), "{method} {shown}");
        for field in ["message", "hint"] {
            assert!(answer.json["error"][field].as_str().is_some_and(|t| !t.is_empty()), "{method} {shown}: {field}");
        }
        assert_eq!(answer.header("retry-after").is_some(), *status >= 503, "{method} {shown}: Retry-After");
        assert_eq!(answer.header("allow").is_some(), *status == 405, "{method} {shown}: Allow");
    }
}

#[tokio::test]
async fn commands_need_the_key_and_say_what_is_wrong_with_their_body() {
    let service = Service::start().await;
    let wrong = [("authorization", "Bearer 0000000000000000")];
    assert_eq!(service.ask("POST", "/v1/rules", &wrong, "").await.status, 401);
    let key = format!("Bearer {KEY}");
    let headers = [("authorization", key.as_str()), ("content-type", "application/toml")];
    for (body, code, part) in [
        ("[windows]\njoin_ms = \"long\"\n", "invalid_rules", "join_ms"),
        ("[windows]\njoin_ms = 1\n", "invalid_rules", "windows.join_ms"),
        ("[nonsense]\n", "invalid_rules", "nonsense"),
    ] {
        let answer = service.ask("POST", "/v1/rules", &headers, body).await;
        assert_eq!(answer.json["error"]["code"], code, "{body}");
        assert!(answer.json["error"]["message"].as_str().is_some_and(|m| m.contains(part)), "{}", answer.json);
    }
    let applied = service.ask("POST", "/v1/rules?by=eve", &headers, "[windows]\njoin_ms = 5000\n").await.ok();
    assert_eq!((&applied["changed"], &applied["version"]), (&json!(true), &json!(2)));
    let again = service.ask("POST", "/v1/rules", &headers, "[windows]\njoin_ms = 5000\n").await.ok();
    assert_eq!((&again["changed"], &again["version"]), (&json!(false), &json!(2)));
    let rules = service.get("/v1/rules").await.ok();
    assert_eq!((&rules["applied_by"], &rules["rules"]["windows"]["join_ms"]), (&json!("eve"), &json!(5_000)));
    let as_shown = [("authorization", key.as_str()), ("content-type", "application/json")];
    let same = service.ask("POST", "/v1/rules", &as_shown, &rules["rules"].to_string()).await.ok();
    assert_eq!(same["changed"], false, "rules as they are shown are the same rules");
    let history = service.get("/v1/rules/history").await.ok();
    assert_eq!(history["versions"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn an_app_must_be_named_when_there_is_not_exactly_one() {
    let service = Service::start_for(vec![APP, 7]).await;
    let answer = service.get("/v1/rooms").await;
    assert_eq!((answer.status, &answer.json["error"]["code"]), (400, &json!("app_needed")));
    assert!(answer.json["error"]["message"].as_str().is_some_and(|m| m.contains("1400000000")));
    assert_eq!(service.get("/v1/rooms?app=7").await.ok()["rooms"], json!([]));
    let service = Service::start_for(Vec::new()).await;
    assert_eq!(service.get("/v1/users/ann").await.json["error"]["code"], "app_needed");
}

#[tokio::test]
async fn a_client_that_has_the_answer_is_told_so_until_it_changes() {
    let service = Service::start().await;
    let positions = small_evening(&service).await;
    for path in [
        "/v1/rooms".to_owned(),
        format!("/v1/rooms/{ROOM_PATH}"),
        format!("/v1/rooms/{ROOM_PATH}/minutes"),
        "/v1/users/ann".to_owned(),
    ] {
        let first = service.get(&format!("{path}?at_least={positions}")).await;
        let tag = first.header("etag").expect("a tag").to_owned();
        let again = service.ask("GET", &path, &[("if-none-match", &tag)], "").await;
        assert_eq!((again.status, again.body.as_str()), (304, ""), "{path}");
        assert_eq!(again.header("etag"), Some(tag.as_str()), "{path}");
    }
    let first = service.get(&format!("/v1/rooms/{ROOM_PATH}")).await;
    let tag = first.header("etag").expect("a tag").to_owned();
    let command = "Group.CallbackAfterSendMsg";
    let positions = service.append(APP, command, &message(command, ROOM, "cid", 9, NOON), NOON).await;
    let path = format!("/v1/rooms/{ROOM_PATH}?at_least={positions}");
    let changed = service.ask("GET", &path, &[("if-none-match", &tag)], "").await;
    assert_eq!((changed.status, &changed.json["messages"]["delivered"]), (200, &json!(4)));
}

/// A message of ann's that is one custom element.
fn custom(data: &str, random: u32) -> Json {
    let mut body: Json = serde_json::from_str(&message("", ROOM, "ann", random, NOON)).expect("JSON");
    body["MsgBody"] = json!([{ "MsgType": "TIMCustomElem", "MsgContent": { "Data": data } }]);
    body
}

#[tokio::test]
async fn answers_are_what_the_document_describes() {
    let service = Service::start().await;
    small_evening(&service).await;
    let mut positions = Vec::new();
    for (n, (command, fields)) in [
        ("State.StateChange", json!({ "EventTime": NOON, "Info": { "Action": "Login", "To_Account": "ann" } })),
        (
            "Group.CallbackAfterNewMemberJoin",
            json!({ "GroupId": ROOM, "Type": "AVChatRoom", "JoinType": "Apply", "Operator_Account": "ann", "EventTime": NOON,
                    "NewMemberList": [{ "Member_Account": "ann" }] }),
        ),
        ("Group.CallbackBeforeSendMsg", custom(r#"{"type":"like","count":3}"#, 77)),
        ("Group.CallbackAfterSendMsg", custom(r#"{"type":"gift","gift_id":"rose","count":2,"value":99}"#, 78)),
    ]
    .into_iter()
    .enumerate()
    {
        let mut body = fields;
        body["CallbackCommand"] = command.into();
        let at = NOON + 70_000 + i64::try_from(n).expect("few");
        positions.push(service.append(APP, command, &body.to_string(), at).await);
    }
    let positions = positions.join(",");
    let document = service.get("/openapi.json").await.ok();
    for (pattern, path) in [
        ("/", "/".to_owned()),
        ("/v1/rooms", format!("/v1/rooms?at_least={positions}")),
        ("/v1/rooms/{room}", format!("/v1/rooms/{ROOM_PATH}")),
        ("/v1/recommendations", "/v1/recommendations".to_owned()),
        ("/v1/levels", "/v1/levels".to_owned()),
        ("/v1/rooms/{room}/minutes", format!("/v1/rooms/{ROOM_PATH}/minutes")),
        ("/v1/rooms/{room}/viewers", format!("/v1/rooms/{ROOM_PATH}/viewers")),
        ("/v1/rooms/{room}/viewers", format!("/v1/rooms/{ROOM_PATH}/viewers?sort=recent")),
        ("/v1/rooms/{room}/viewers", format!("/v1/rooms/{ROOM_PATH}/viewers?sort=watch")),
        ("/v1/rooms/{room}/viewers", format!("/v1/rooms/{ROOM_PATH}/viewers?sort=likes")),
        ("/v1/rooms/{room}/viewers", format!("/v1/rooms/{ROOM_PATH}/viewers?sort=gift_value")),
        ("/v1/rooms/{room}/viewers", format!("/v1/rooms/{ROOM_PATH}/viewers?sort=likes&from={NOON}&to={}", NOON + 1)),
        ("/v1/users/{account}", "/v1/users/ann".to_owned()),
        ("/v1/status", "/v1/status".to_owned()),
        ("/v1/rules", "/v1/rules".to_owned()),
        ("/v1/rules/history", "/v1/rules/history".to_owned()),
        ("/v1/dead-letters", "/v1/dead-letters".to_owned()),
        ("/v1/rebuild", "/v1/rebuild".to_owned()),
        ("/v1/snapshots", "/v1/snapshots".to_owned()),
    ] {
        let answer = service.get(&path).await.ok();
        if path.contains("sort=") {
            assert_eq!(answer["viewers"][0]["account"], "ann", "{path}: {answer}");
        }
        let content = &document["paths"][pattern]["get"]["responses"]["200"]["content"]["application/json"]["schema"];
        let problems = schema::problems(&document, content, &answer, pattern);
        assert!(problems.is_empty(), "{problems:#?}\n{answer:#}");
    }
}

#[tokio::test]
async fn what_is_known_at_all_has_every_field() {
    let service = Service::start().await;
    let about = |room: &str, account: &str, random| -> Json {
        serde_json::from_str(&message("", room, account, random, NOON)).expect("JSON")
    };
    let mut like = about("liked", "dan", 1);
    let data = json!({"type": "like", "count": 3}).to_string();
    like["MsgBody"] = json!([{"MsgType": "TIMCustomElem", "MsgContent": {"Data": data, "Desc": "", "Ext": ""}}]);
    let login = json!({ "EventTime": NOON, "Info": { "Action": "Login", "To_Account": "gus" } });
    let join = json!({ "GroupId": "joined", "Type": "AVChatRoom", "JoinType": "Apply", "Operator_Account": "cid",
                       "EventTime": NOON, "NewMemberList": [{ "Member_Account": "cid" }] });
    let mut positions = Vec::new();
    for (command, mut body) in [
        ("State.StateChange", login),
        ("Group.CallbackAfterNewMemberJoin", join),
        ("Group.CallbackBeforeSendMsg", like),
        ("Group.CallbackAfterSendMsg", about("written", "eve", 2)),
    ] {
        body["CallbackCommand"] = command.into();
        positions.push(service.append(APP, command, &body.to_string(), NOON + 1).await);
    }
    service.get(&format!("/v1/status?at_least={}", positions.join(","))).await.ok();
    let document = service.get("/openapi.json").await.ok();
    for (pattern, names) in [
        ("/v1/rooms/{room}", &["joined", "liked", "written"][..]),
        ("/v1/users/{account}", &["gus", "cid", "dan", "eve"][..]),
    ] {
        let schema = &document["paths"][pattern]["get"]["responses"]["200"]["content"]["application/json"]["schema"];
        for name in names {
            let answer = service.get(&pattern.replace("{room}", name).replace("{account}", name)).await.ok();
            let problems = schema::problems(&document, schema, &answer, name);
            assert!(problems.is_empty(), "{problems:#?}\n{answer:#}");
        }
    }
    let joined = service.get("/v1/rooms/joined").await.ok();
    let (messages, online) = (&joined["messages"], &joined["online"]);
    assert_eq!(
        (&messages["delivered"], &messages["by_type"], &messages["senders"]),
        (&json!(0), &json!({}), &json!(0))
    );
    assert_eq!((&online["now"], &joined["likes"]["count"]), (&json!(1), &json!(0)));
    assert_eq!(service.get("/v1/rooms/written").await.ok()["online"]["distinct"], 0);
    let eve = service.get("/v1/users/eve").await.ok();
    assert_eq!((&eve["rooms"], &eve["online"]["ms"]), (&json!([]), &json!(0)));
    // A name of the other kind is none of this.
    for nobody in ["/v1/rooms/gus", "/v1/rooms/eve", "/v1/users/joined", "/v1/users/written"] {
        assert_eq!(service.get(nobody).await.status, 404, "{nobody}");
    }
}

#[tokio::test]
async fn a_cursor_is_good_as_long_as_scores_are_counted_as_they_were() {
    let service = Service::start().await;
    let positions = busy(&service, &[("a", 3), ("b", 5), ("c", 1), ("d", 4)], "ann").await;
    service.get(&format!("/v1/status?at_least={positions}")).await.ok();
    let paths = [("/v1/rooms?sort=heat", false), ("/v1/recommendations?", false), ("/v1/rooms?sort=messages", true)];
    let mut next = Vec::new();
    for (path, survives) in paths {
        let page = service.get(&format!("{path}&limit=1")).await.ok();
        next.push((format!("{path}&limit=1&after={}", page["next"].as_str().expect("a cursor")), survives));
    }
    let key = format!("Bearer {KEY}");
    let headers = [("authorization", key.as_str()), ("content-type", "application/toml")];
    for (rules, changes) in [("[windows]\njoin_ms = 5000\n", false), ("[heat]\nhalf_life_ms = 120000\n", true)] {
        let applied = service.ask("POST", "/v1/rules", &headers, rules).await.ok();
        let positions = applied["positions"].as_array().expect("positions").iter().filter_map(Json::as_str);
        let positions: Vec<&str> = positions.collect();
        service.get(&format!("/v1/status?at_least={}", positions.join(","))).await.ok();
        for (path, survives) in &next {
            let answer = service.get(path).await;
            if *survives || !changes {
                assert_eq!(answer.ok()["rooms"][0]["room"], "d", "{path}");
            } else {
                assert_eq!((answer.status, &answer.json["error"]["code"]), (400, &json!("bad_parameter")), "{path}");
                assert!(answer.body.contains("have changed since"), "{}", answer.body);
            }
        }
    }
}

#[tokio::test]
async fn status_tells_how_far_each_partition_is_and_a_rebuild_gives_the_same_state() {
    let service = Service::start().await;
    let positions = small_evening(&service).await;
    service.get(&format!("/v1/status?at_least={positions}")).await.ok();
    // The rules are a record of every partition, and part of what some of them hold.
    let status = service.until("/v1/status", |status| status["lag"] == 0).await;
    let partitions = status["partitions"].as_array().expect("partitions");
    assert_eq!(partitions.len(), 4);
    assert_eq!(status["stream_time"], NOON + 62_000);
    let key = format!("Bearer {KEY}");
    let headers = [("authorization", key.as_str())];
    let started = service.ask("POST", "/v1/rebuild?partition=all", &headers, "").await;
    assert_eq!((started.status, started.json["started"].as_array().map(Vec::len)), (202, Some(4)));
    let hashes = |answer: &Json| -> Vec<Json> {
        answer["partitions"].as_array().expect("partitions").iter().map(|p| p["state_hash"].clone()).collect()
    };
    let progress = service
        .until("/v1/rebuild", |progress| {
            progress["partitions"].as_array().is_some_and(|p| p.iter().all(|p| p["rebuild"]["done"] == true))
        })
        .await;
    assert!(progress["partitions"].as_array().expect("rows").iter().all(|p| p["rebuild"]["hashes_match"] == true));
    assert_eq!(hashes(&progress), hashes(&status));
}

#[tokio::test]
async fn the_admin_endpoints_tell_health_and_metrics() {
    let service = Service::start().await;
    service.get("/v1/status").await.ok();
    service.get("/nope").await;
    let (status, text) = service.admin("/metrics").await;
    assert_eq!(status, 200);
    assert!(text.contains("barrage_query_requests_total{route=\"/v1/status\",status=\"2xx\"} 1\n"), "{text}");
    assert!(text.contains("barrage_query_requests_total{route=\"other\",status=\"4xx\"} 1\n"), "{text}");
    assert!(text.contains("barrage_query_requests_total{route=\"/v1/rooms\",status=\"5xx\"} 0\n"), "{text}");
    assert!(text.contains("barrage_query_request_duration_seconds_bucket{"), "{text}");
    assert_eq!(service.admin("/livez").await, (200, "alive\n".to_owned()));
    assert_eq!(service.admin("/readyz").await, (200, "ready\n".to_owned()));
    assert_eq!(service.admin("/other").await.0, 404);
    service.log.close();
    let (status, text) = service.admin("/readyz").await;
    assert_eq!(status, 503);
    assert!(text.contains("the log is closed"), "{text}");
    assert_eq!(service.admin("/livez").await.0, 200, "a closed log is no reason to be killed");
}

#[tokio::test]
async fn a_client_that_does_not_take_its_answer_loses_its_place() {
    use tokio::io::AsyncWriteExt as _;
    // Larger than what the system keeps for a connection.
    let body = "x".repeat(64 << 20);
    let router = axum::Router::new()
        .route("/large", axum::routing::get(move || async move { body }))
        .route("/small", axum::routing::get(|| async { "{}" }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let second = std::time::Duration::from_secs(1);
    let limits =
        barrage_query::ServerLimits { connections_max: 1, header_timeout: 100 * second, write_timeout: second / 10 };
    tokio::spawn(barrage_query::serve(listener, router, limits, std::future::pending()));
    let mut stuck = tokio::net::TcpStream::connect(&address).await.expect("connected");
    stuck.write_all(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
    // There is one place, and the first client holds it until it is closed.
    assert_eq!(harness::exchange(&address, "GET", "/small", &[], "").await.body, "{}");
}
