//! Sends every request that `docs/replies.md` lists, byte by byte, and compares the answers with what the page says.
#![allow(clippy::unwrap_used, reason = "helpers of tests: a failure is a failed test")]

mod common;

use std::collections::BTreeSet;
use std::fs;

use barrage_ingest::{IngestOptions, Refusal, Secret};
use common::{
    APP, Client, KEY, NOW_MS, REQUEST_TIME, Reply, SIGN, Server, TOKEN, after_send, before_send, callback, options,
    post, query, views,
};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

/// One request of the tables.
struct Case {
    name: &'static str,
    /// What is written, piece by piece.
    request: Vec<u8>,
    /// The client closes its side after that.
    closes: bool,
}

fn case(name: &'static str, request: Vec<u8>) -> Case {
    Case { name, request, closes: false }
}

/// An endpoint with everything that can be checked switched on.
fn strict() -> IngestOptions {
    IngestOptions {
        token: Some(Secret::new(TOKEN)),
        previous_token: Some(Secret::new("the one before")),
        apps: vec![APP, 9],
        events_max: 3,
        // Short where a case waits for it, long everywhere else.
        body_timeout_ms: 300,
        header_timeout_ms: 300,
        ..options()
    }
}

fn state_change() -> String {
    format!(
        "{{\"CallbackCommand\":\"State.StateChange\",\"EventTime\":{NOW_MS},\"Info\":{{\"Action\":\"Login\",\
         \"To_Account\":\"user_0007\",\"Reason\":\"Register\"}}}}"
    )
}

fn signed(token: &str, request_time: i64) -> String {
    let sign = hex::encode(Sha256::digest(format!("{token}{request_time}")));
    format!("SdkAppid={APP}&CallbackCommand=State.StateChange&Sign={sign}&RequestTime={request_time}")
}

fn to(target: &str) -> Vec<u8> {
    post(target, "", state_change().as_bytes())
}

fn with_body(body: &[u8]) -> Vec<u8> {
    post(&format!("/callback?{}", query("State.StateChange")), "", body)
}

fn with_headers(headers: &str) -> Vec<u8> {
    post(&format!("/callback?{}", query("State.StateChange")), headers, state_change().as_bytes())
}

fn head(headers: &str) -> Vec<u8> {
    format!("POST /callback?{} HTTP/1.1\r\nHost: t\r\n{headers}\r\n", query("State.StateChange")).into_bytes()
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

fn chunked(pieces: &[&[u8]]) -> Vec<u8> {
    let mut request = head("Transfer-Encoding: chunked\r\n");
    request.extend(pieces.iter().flat_map(|piece| chunk(piece)));
    request
}

fn nested(levels: usize) -> String {
    // The body itself is one level.
    let value = format!("{}{}", "[".repeat(levels - 1), "]".repeat(levels - 1));
    state_change().replacen('{', &format!("{{\"Extra\":{value},"), 1)
}

fn many_members() -> String {
    let members: Vec<_> = (0..7_800).map(|n| format!("{{\"Member_Account\":\"{n}\"}}")).collect();
    format!(
        "{{\"CallbackCommand\":\"Group.CallbackAfterNewMemberJoin\",\"GroupId\":\"{}\",\"NewMemberList\":[{}]}}",
        "g".repeat(1_000),
        members.join(",")
    )
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn callback_cases() -> Vec<Case> {
    let good = state_change();
    let app = format!("SdkAppid={APP}");
    let mut table = vec![
        case("a callback as IM sends it", callback(&after_send("room", "user", "hi"))),
        case("a before-callback", callback(&before_send("room", "user", "hi"))),
        case("a command that nobody knows", {
            callback(r#"{"CallbackCommand":"Group.CallbackAfterTheNextThing","GroupId":"room"}"#)
        }),
        case("a known command without the fields it needs", {
            callback(r#"{"CallbackCommand":"Group.CallbackAfterSendMsg","GroupId":7}"#)
        }),
        case("a live-streaming callback, which names no command", {
            let body = br#"{"event_type":1,"stream_id":"room","app":"push.example.com","sequence":"1","event_time":1669872112}"#;
            post(&format!("/callback?{app}&Sign={SIGN}&RequestTime={REQUEST_TIME}"), "", body)
        }),
        case("no CallbackCommand in the URL, one in the body", {
            to(&format!("/callback?{app}&Sign={SIGN}&RequestTime={REQUEST_TIME}"))
        }),
        case("no CallbackCommand in the body, one in the URL", {
            with_body(br#"{"Info":{"Action":"Login","To_Account":"user_0007"}}"#)
        }),
        case("EventTime as text", callback(&good.replace(&NOW_MS.to_string(), "\"1669872112000\""))),
        case("no EventTime", callback(&good.replace("EventTime", "OtherTime"))),
        case("negative EventTime", callback(&good.replace(&NOW_MS.to_string(), "-5"))),
        case("EventTime far in the future", callback(&good.replace(&NOW_MS.to_string(), "99999999999999999999"))),
        case("negative and huge numbers in every field", {
            let body = after_send("room", "user", "hi").replace("\"Random\":7", "\"Random\":-7");
            callback(
                &body.replace("\"MsgSeq\":1", "\"MsgSeq\":1e400").replace(":1669872112,", ":-9223372036854775809,"),
            )
        }),
        case("100 levels of nesting", with_body(nested(100).as_bytes())),
        case("unknown fields and parameters", to(&format!("/callback?{}&Later=%ff", query("State.StateChange")))),
        case(
            "Sign in upper case",
            to(&format!("/callback?{}", query("State.StateChange").replace(SIGN, &SIGN.to_uppercase()))),
        ),
        case(
            "Sign made with the previous token",
            to(&format!("/callback?{}", signed("the one before", NOW_MS / 1_000))),
        ),
        case("RequestTime 60 s old", to(&format!("/callback?{}", signed(TOKEN, NOW_MS / 1_000 - 60)))),
        case("percent-encoded parameters", to(&format!("/callback?{}", query("State%2EState%43hange")))),
        case("the body in chunks", [chunked(&[&good.as_bytes()[..20], &good.as_bytes()[20..]]), chunk(b"")].concat()),
        case("no Sign, but an API key", {
            post(&format!("/callback?{app}&CallbackCommand=State.StateChange"), &key(KEY), good.as_bytes())
        }),
        case("Barrage-Received-At with an API key, and Sign of that time", {
            let target = format!("/callback?{}", signed(TOKEN, 1_500_000_000));
            post(&target, &format!("{}Barrage-Received-At: 1500000000123\r\n", key(KEY)), good.as_bytes())
        }),
        case("a body that is not JSON", with_body(b"hello")),
        case("a form in place of JSON", with_body(b"CallbackCommand=State.StateChange")),
        case("JSON that breaks off", with_body(&good.as_bytes()[..good.len() - 1])),
        case("more after the JSON", with_body(format!("{good}{good}").as_bytes())),
        case("a Content-Length that is too short", {
            let mut request = head(&format!("Content-Length: {}\r\n", good.len() - 1));
            request.extend_from_slice(good.as_bytes());
            request
        }),
        case("an empty body", with_body(b"")),
        case("neither body nor Content-Length", head("")),
        case("a JSON array", with_body(b"[]")),
        case("a JSON string", with_body(b"\"State.StateChange\"")),
        case("a body that is not UTF-8", with_body(b"{\"CallbackCommand\":\"\xff\"}")),
        case("101 levels of nesting", with_body(nested(101).as_bytes())),
        case("100,000 levels of nesting", with_body("[".repeat(100_000).as_bytes())),
        case("a Content-Length that is too long, then silence", {
            [head(&format!("Content-Length: {}\r\n", good.len() + 1)), good.clone().into_bytes()].concat()
        }),
        case("a head that announces a body, then silence", head("Content-Length: 10\r\n")),
        case("a Content-Length of 1 MiB and a byte", head("Content-Length: 1048577\r\n")),
        case("a Content-Length beyond any memory", head("Content-Length: 999999999999999\r\n")),
        case("chunks of 1 MiB and a byte", chunked(&[&vec![b' '; 1 << 20], b" "])),
        case("a chunk size that is no number", [chunked(&[b"{"]), b"xyz\r\n".to_vec()].concat()),
        case("a list of members whose copies are more than the log takes at once", callback(&many_members())),
        case("different commands in URL and body", {
            post(&format!("/callback?{}", query("Group.CallbackAfterSendMsg")), "", good.as_bytes())
        }),
        case("no command at all", {
            post(&format!("/callback?{app}&Sign={SIGN}&RequestTime={REQUEST_TIME}"), "", b"{\"GroupId\":\"room\"}")
        }),
        case("a command of 257 bytes", with_command(&"x".repeat(257))),
        case("no SdkAppid", to(&format!("/callback?{}", query("State.StateChange").replace(&app, "")))),
        case("no parameters", to("/callback")),
        case("an SdkAppid that is a word", to("/callback?SdkAppid=mine")),
        case("an SdkAppid beyond 32 bits", to("/callback?SdkAppid=4294967296")),
        case("a negative SdkAppid", to("/callback?SdkAppid=-1")),
        case(
            "an SdkAppid that is not on the allow-list",
            to(&format!("/callback?{}", query("x").replace(&app, "SdkAppid=7"))),
        ),
        case("a parameter that is not UTF-8", to(&format!("/callback?{app}&CallbackCommand=%ff%fe"))),
        case("no Sign", to(&format!("/callback?{app}&RequestTime={REQUEST_TIME}"))),
        case("no RequestTime", to(&format!("/callback?{app}&Sign={SIGN}"))),
        case("Sign made with another token", to(&format!("/callback?{}", signed("guess", NOW_MS / 1_000)))),
        case(
            "Sign of another RequestTime",
            to(&format!("/callback?{}", query("x").replace(REQUEST_TIME, "1669872113"))),
        ),
        case("Sign that is no hex", to(&format!("/callback?{app}&Sign=zz&RequestTime={REQUEST_TIME}"))),
        case("RequestTime 61 s old", to(&format!("/callback?{}", signed(TOKEN, NOW_MS / 1_000 - 61)))),
        case("RequestTime 61 s ahead", to(&format!("/callback?{}", signed(TOKEN, NOW_MS / 1_000 + 61)))),
        case("negative RequestTime", to(&format!("/callback?{}", signed(TOKEN, -1)))),
        case("Barrage-Received-At without an API key", with_headers("Barrage-Received-At: 1500000000123\r\n")),
        case("Barrage-Received-At with a wrong API key", {
            with_headers(&format!("{}Barrage-Received-At: 1500000000123\r\n", key("a-key-that-is-not-ours")))
        }),
        case("Barrage-Received-At that is no number", {
            with_headers(&format!("{}Barrage-Received-At: yesterday\r\n", key(KEY)))
        }),
        case("negative Barrage-Received-At", with_headers(&format!("{}Barrage-Received-At: -1\r\n", key(KEY)))),
        case("Barrage-Received-At after the year 9999", {
            with_headers(&format!("{}Barrage-Received-At: 253402300800000\r\n", key(KEY)))
        }),
        case("a wrong API key in place of Sign", {
            post(
                &format!("/callback?{app}&CallbackCommand=State.StateChange"),
                &key("a-key-that-is-not-ours"),
                good.as_bytes(),
            )
        }),
        case("GET", format!("GET /callback?{} HTTP/1.1\r\nHost: t\r\n\r\n", query("x")).into_bytes()),
        case("PUT", with_body(good.as_bytes()).into_iter().skip(4).collect::<Vec<_>>()),
        case("another path", to(&format!("/?{}", query("State.StateChange")))),
        case("a slash after the path", to(&format!("/callback/?{}", query("State.StateChange")))),
    ];
    let put = table.iter_mut().find(|case| case.name == "PUT").unwrap();
    put.request.splice(0..0, *b"PUT");
    for (name, request) in [
        ("a Content-Length that is too long, then the client closes", {
            [head(&format!("Content-Length: {}\r\n", good.len() + 1)), good.clone().into_bytes()].concat()
        }),
        ("chunks without an end, then the client closes", chunked(&[good.as_bytes()])),
    ] {
        table.push(Case { name, request, closes: true });
    }
    table
}

fn key(key: &str) -> String {
    format!("Authorization: Bearer {key}\r\n")
}

fn with_command(command: &str) -> Vec<u8> {
    post(&format!("/callback?{}", query(command)), "", b"{}")
}

fn gift(id: &str) -> String {
    format!(
        "{{\"type\":\"gift_billed\",\"id\":\"{id}\",\"app\":{APP},\"room\":\"room\",\"account\":\"user\",\
         \"gift_id\":\"rocket\",\"count\":1,\"value\":100}}"
    )
}

fn events(body: &str) -> Vec<u8> {
    post("/v1/events", &key(KEY), body.as_bytes())
}

fn event_cases() -> Vec<Case> {
    let good = gift("1");
    vec![
        case("one item", events(&good)),
        case("an array of items", events(&format!("[{good},{}]", gift("2")))),
        case("an item without app, with SdkAppid in the URL", {
            post(
                &format!("/v1/events?SdkAppid={APP}"),
                &key(KEY),
                good.replace(&format!("\"app\":{APP},"), "").as_bytes(),
            )
        }),
        case("an item without room, which needs none", {
            events(&format!(
                r#"{{"type":"membership_opened","id":"m1","app":{APP},"account":"user","tier":"1","months":1,"value":499}}"#
            ))
        }),
        case("items of which one is wrong", events(&format!("[{good},{{\"id\":\"2\"}}]"))),
        case("an item with a negative count", events(&good.replace("\"count\":1", "\"count\":-1"))),
        case("an item with a count beyond its range", events(&good.replace("\"count\":1", "\"count\":1000000001"))),
        case("an item with an unknown field", events(&good.replace("\"count\"", "\"cuont\""))),
        case("an item with a negative time", events(&good.replace("\"count\"", "\"at_ms\":-1,\"count\""))),
        case("an item of an app that is not on the allow-list", events(&good.replace(&APP.to_string(), "7"))),
        case("an item without app, and two on the allow-list", events(&good.replace(&format!("\"app\":{APP},"), ""))),
        case("an array of numbers", events("[1,2]")),
        case("an item with 100,000 levels of nesting", {
            events(&format!("{{\"id\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000)))
        }),
        case("no API key", post("/v1/events", "", good.as_bytes())),
        case("a wrong API key", post("/v1/events", &key("a-key-that-is-not-ours"), good.as_bytes())),
        case("an API key of another scheme", {
            post("/v1/events", &format!("Authorization: Basic {KEY}\r\n"), good.as_bytes())
        }),
        case("no JSON", events("hello")),
        case("an empty body", events("")),
        case("an empty array", events("[]")),
        case("a string", events("\"gift\"")),
        case("more items than allowed", events(&format!("[{good},{good},{good},{good}]"))),
        case("a body that is not UTF-8", post("/v1/events", &key(KEY), b"\"\xff\"")),
        case("a Content-Length of 1 MiB and a byte", {
            format!("POST /v1/events HTTP/1.1\r\nHost: t\r\n{}Content-Length: 1048577\r\n\r\n", key(KEY)).into_bytes()
        }),
        case("an SdkAppid that is a word", post("/v1/events?SdkAppid=mine", &key(KEY), good.as_bytes())),
        case("Barrage-Received-At that is no number", {
            post("/v1/events", &format!("{}Barrage-Received-At: now\r\n", key(KEY)), good.as_bytes())
        }),
        case("GET", format!("GET /v1/events HTTP/1.1\r\nHost: t\r\n{}\r\n", key(KEY)).into_bytes()),
    ]
}

fn http_cases() -> Vec<Case> {
    vec![
        case("a line that is no HTTP", b"hello\r\n\r\n".to_vec()),
        case("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        case("two different Content-Lengths", head("Content-Length: 1\r\nContent-Length: 2\r\n")),
        case("a Content-Length that is no number", head("Content-Length: many\r\n")),
        case("a Content-Length of 2^64 - 1", head("Content-Length: 18446744073709551615\r\n")),
        case("a head of more than 16 KiB", head(&format!("X-Long: {}\r\n", "x".repeat(20_000)))),
        case("more than 100 header lines", head(&"X-Many: x\r\n".repeat(101))),
        case("a head that never ends", b"POST /callback HTTP/1.1\r\nHost: t\r\nX-Slow: ".to_vec()),
        case("a connection that says nothing", Vec::new()),
    ]
}

/// The rows of the table under a heading, cell by cell.
fn rows(page: &str, heading: &str) -> Vec<Vec<String>> {
    let section = page.split("\n## ").find(|part| part.starts_with(heading));
    let section = section.unwrap_or_else(|| panic!("docs/replies.md has no section {heading}"));
    let lines = section.lines().filter(|line| line.starts_with('|')).skip(2);
    let cells = |line: &str| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect();
    lines.map(cells).collect()
}

fn page() -> String {
    fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/replies.md")).unwrap()
}

/// The table's cases with the documented status and outcome; every case is documented and every row is tested.
fn documented(heading: &str, cases: Vec<Case>) -> Vec<(Case, u16, String)> {
    let rows = rows(&page(), heading);
    let tested: BTreeSet<_> = cases.iter().map(|case| case.name.to_owned()).collect();
    let listed: BTreeSet<_> = rows.iter().map(|row| row[0].clone()).collect();
    assert_eq!(tested, listed, "{heading}");
    assert_eq!((rows.len(), cases.len()), (listed.len(), tested.len()), "{heading}: a name is used twice");
    let find = |name: &str| rows.iter().find(|row| row[0] == name).unwrap();
    let documented = |case: Case| {
        let row = find(case.name);
        let status = row[1].parse().unwrap_or_default();
        let outcome = row[2].trim_matches('`').to_owned();
        (case, status, outcome)
    };
    cases.into_iter().map(documented).collect()
}

async fn exchange(server: &Server, case: &Case) -> (Option<Reply>, Client) {
    let mut client = server.connect().await;
    client.write(&case.request).await;
    if case.closes {
        client.write.shutdown().await.unwrap();
    }
    (client.reply().await, client)
}

fn refusal(reason: &str) -> Refusal {
    *Refusal::ALL.iter().find(|refusal| refusal.reason() == reason).unwrap_or_else(|| panic!("no reason `{reason}`"))
}

fn check_texts(message: &str, expected: Refusal, name: &str) {
    let rest = message.strip_prefix(expected.message()).unwrap_or_else(|| panic!("{name}: {message}"));
    // What is special about the request follows in brackets.
    assert!(rest.is_empty() || rest.starts_with(" (") && rest.ends_with(')'), "{name}: {message}");
}

#[test]
fn the_page_lists_every_reason_as_it_is_sent() {
    let listed: Vec<_> = rows(&page(), "Every reason");
    let sent: Vec<_> = Refusal::ALL
        .iter()
        .map(|r| {
            let (status, number) = (r.status().as_u16().to_string(), r.number().to_string());
            vec![format!("`{}`", r.reason()), status, number, r.message().to_owned(), r.hint().to_owned()]
        })
        .collect();
    let right: Vec<_> = sent.iter().map(|row| format!("| {} |", row.join(" | "))).collect();
    assert_eq!(listed, sent, "the table should be:\n{}", right.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callbacks_are_answered_as_documented() {
    for (case, status, outcome) in documented("Callbacks", callback_cases()) {
        let mut server = Server::start(strict()).await;
        let (reply, client) = exchange(&server, &case).await;
        let name = case.name;
        let reply = reply.unwrap_or_else(|| panic!("{name}: no answer"));
        assert_eq!(reply.status, status, "{name}: {reply:?}");
        let records = server.records();
        assert_eq!(server.metric("barrage_ingest_received_total"), 1.0, "{name}");
        if outcome == "accepted" {
            assert_eq!(reply.body, r#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0}"#, "{name}");
            check_one_event(&records, name);
            assert_eq!(server.metric("barrage_ingest_appended_total"), 1.0, "{name}");
            assert_eq!(server.metric("barrage_ingest_appended_records_total"), records.len() as f64, "{name}");
        } else {
            let refusal = refusal(&outcome);
            let json = reply.json();
            assert_eq!(json["ActionStatus"], "FAIL", "{name}");
            assert_eq!(json["ErrorCode"], refusal.number(), "{name}: {reply:?}");
            let info = json["ErrorInfo"].as_str().unwrap().to_owned();
            let message =
                info.strip_suffix(&format!("; {}", refusal.hint())).unwrap_or_else(|| panic!("{name}: {info}"));
            check_texts(message, refusal, name);
            check_headers(&reply, refusal, name);
            assert_eq!(records, [], "{name}");
            let metric = format!("barrage_ingest_rejected_total{{reason=\"{outcome}\"}}");
            assert_eq!(server.metric(&metric), 1.0, "{name}");
        }
        drop(client);
        server.stop().await;
        server.check_conservation();
    }
}

fn check_headers(reply: &Reply, refusal: Refusal, name: &str) {
    assert_eq!(reply.headers.contains_key("retry-after"), refusal.retry(), "{name}");
    assert_eq!(reply.headers.contains_key("allow"), refusal == Refusal::WrongMethod, "{name}");
}

/// The records are those of one event: one id, the body once and verbatim.
fn check_one_event(records: &[(barrage_event::Partition, Vec<u8>)], name: &str) {
    let views = views(records);
    assert!(!views.is_empty(), "{name}");
    assert!(views.iter().all(|view| view.id == views[0].id && view.incarnation == 7), "{name}");
    assert_eq!(views.iter().filter(|view| !view.body.is_empty()).count(), 1, "{name}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn business_events_are_answered_as_documented() {
    for (case, status, outcome) in documented("Business events", event_cases()) {
        let mut server = Server::start(strict()).await;
        let (reply, client) = exchange(&server, &case).await;
        let name = case.name;
        let reply = reply.unwrap_or_else(|| panic!("{name}: no answer"));
        assert_eq!(reply.status, status, "{name}: {reply:?}");
        let json = reply.json();
        let records = server.records();
        let mut accepted = 0;
        if let Some(results) = json["results"].as_array() {
            for (result, expected) in results.iter().zip(outcome.split(", ")) {
                if expected == "accepted" {
                    accepted += 1;
                    assert_eq!(result["status"], "accepted", "{name}: {result}");
                    let positions = result["positions"].as_array().unwrap();
                    assert!(positions.iter().all(|p| p.as_str().unwrap().parse::<barrage_event::Position>().is_ok()));
                } else {
                    assert_eq!(result["status"], "rejected", "{name}: {result}");
                    check_error(&result["error"], expected, name);
                }
            }
            assert_eq!(results.len(), outcome.split(", ").count(), "{name}");
        } else {
            check_error(&json["error"], &outcome, name);
            check_headers(&reply, refusal(&outcome), name);
        }
        let ids: BTreeSet<_> = views(&records).iter().map(|view| view.id).collect();
        assert_eq!(ids.len(), accepted, "{name}");
        assert_eq!(server.metric("barrage_ingest_events_appended_total"), accepted as f64, "{name}");
        drop(client);
        server.stop().await;
        server.check_conservation();
    }
}

fn check_error(error: &serde_json::Value, reason: &str, name: &str) {
    let refusal = refusal(reason);
    assert_eq!(error["code"], reason, "{name}: {error}");
    assert_eq!(error["hint"], refusal.hint(), "{name}");
    check_texts(error["message"].as_str().unwrap(), refusal, name);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_http_is_answered_as_documented() {
    for (case, status, outcome) in documented("Not HTTP", http_cases()) {
        let mut server = Server::start(strict()).await;
        let (reply, mut client) = exchange(&server, &case).await;
        let name = case.name;
        match outcome.as_str() {
            "closed" => assert_eq!(reply, None, "{name}"),
            "no body" => {
                let reply = reply.unwrap_or_else(|| panic!("{name}: no answer"));
                assert_eq!((reply.status, reply.body.as_str()), (status, ""), "{name}");
                assert_eq!(client.reply().await, None, "{name}: the connection is closed");
            }
            other => panic!("{name}: {other}"),
        }
        assert_eq!(server.records(), [], "{name}");
        assert_eq!(server.metric("barrage_ingest_received_total"), 0.0, "{name}");
        drop(client);
        server.stop().await;
        let errors = if name == "a connection that says nothing" { 0.0 } else { 1.0 };
        assert_eq!(server.sum("barrage_ingest_connection_errors_total"), errors, "{name}");
    }
}

#[tokio::test]
async fn a_refusal_leaves_the_connection_usable() {
    let mut server = Server::start(strict()).await;
    let mut client = server.connect().await;
    for _ in 0..3 {
        client.write(&with_body(b"hello")).await;
        assert_eq!(client.reply().await.unwrap().status, 400);
        client.write(&to(&format!("/callback?{}", signed("guess", NOW_MS / 1_000)))).await;
        assert_eq!(client.reply().await.unwrap().status, 401);
        client.write(&callback(&state_change())).await;
        assert_eq!(client.reply().await.unwrap().status, 200);
    }
    assert_eq!(server.metric("barrage_ingest_connections_accepted_total"), 1.0);
    assert_eq!(server.records().len(), 3);
    drop(client);
    server.stop().await;
    server.check_conservation();
}
