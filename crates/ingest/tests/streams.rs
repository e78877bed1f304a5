//! Live-streaming callbacks over HTTP: they sign themselves, and nothing else gets by for it.
#![allow(clippy::unwrap_used, reason = "helpers of tests: a failure is a failed test")]
#![allow(dead_code, reason = "each test file uses a part of what is common")]

mod common;

use barrage_ingest::{IngestOptions, Secret};
use common::{APP, KEY, NOW_MS, REQUEST_TIME, SIGN, Server, TOKEN, options, post, views};

const STREAM_KEY: &str = "example-callback-key";
/// The MD5 of that key and 1703732078.
const STREAM_SIGN: &str = "c457e7c26f51a407464bd3989a01ca29";
const UNTIL_S: i64 = 1_703_732_078;

fn push(sign: &str) -> String {
    format!(
        r#"{{"event_type":1,"stream_id":"room","app":"push.example.com","sequence":"1","event_time":1669872112,"t":{UNTIL_S}{sign}}}"#
    )
}

#[tokio::test]
async fn a_stream_callback_is_taken_for_its_own_signature_and_nothing_else_is() {
    let right = format!(r#","sign":"{STREAM_SIGN}""#);
    let wrong = format!(r#","sign":"{}""#, STREAM_SIGN.replace('c', "d"));
    let unsigned = format!("/callback?SdkAppid={APP}");
    let signed = format!("{unsigned}&Sign={SIGN}&RequestTime={REQUEST_TIME}");
    let key = format!("Authorization: Bearer {KEY}\r\n");
    let state = r#"{"CallbackCommand":"State.StateChange","Info":{"Action":"Login","To_Account":"u"}}"#;
    // A stream's fields in a callback of IM do not make it one of a stream.
    let both = state.replacen('{', &push(&right).replace('}', ","), 1);
    let named = format!("{unsigned}&CallbackCommand=Live.StreamPush");
    let expired = push(&right).replace(&UNTIL_S.to_string(), "1669871000");
    let stream = (Some(TOKEN), Some(STREAM_KEY));
    type Keys = (Option<&'static str>, Option<&'static str>);
    let table: [(&str, Keys, &str, &str, String, u16); 15] = [
        ("as CSS sends it", stream, &unsigned, "", push(&right), 200),
        ("the same without a token", (None, Some(STREAM_KEY)), &unsigned, "", push(&right), 200),
        ("a wrong one", stream, &unsigned, "", push(&wrong), 401),
        ("a wrong one without a token", (None, Some(STREAM_KEY)), &unsigned, "", push(&wrong), 401),
        ("none", stream, &unsigned, "", push(""), 401),
        ("none, though the URL is signed", stream, &signed, "", push(""), 401),
        ("both", stream, &signed, "", push(&right), 200),
        ("one of another time", stream, &unsigned, "", expired, 401),
        ("none, from who holds a key", stream, &unsigned, &key, push(""), 200),
        ("a callback of IM without a signature", stream, &unsigned, "", state.to_owned(), 401),
        ("one that borrows a stream's", stream, &unsigned, "", both, 401),
        ("one that says that it is of a stream", stream, &named, "", push(&right), 401),
        ("a callback of IM with a signature", stream, &signed, "", state.to_owned(), 200),
        ("no key is set: as any other", (Some(TOKEN), None), &unsigned, "", push(&right), 401),
        ("no key is set, signed as any other", (Some(TOKEN), None), &signed, "", push(""), 200),
    ];
    for (what, (token, stream_key), target, headers, body, status) in table {
        let mut server = Server::start(IngestOptions {
            token: token.map(Secret::new),
            stream_key: stream_key.map(Secret::new),
            ..options()
        })
        .await;
        let reply = server.send(&post(target, headers, body.as_bytes())).await;
        assert_eq!(reply.status, status, "{what}: {}", reply.body);
        assert_eq!(server.records().is_empty(), status != 200, "{what}");
        server.check_conservation();
        server.stop().await;
    }
}

#[tokio::test]
async fn a_stream_callback_that_comes_too_late_is_refused_with_its_reason() {
    let mut server = Server::start(IngestOptions { stream_key: Some(Secret::new(STREAM_KEY)), ..options() }).await;
    let request =
        post(&format!("/callback?SdkAppid={APP}"), "", push(&format!(r#","sign":"{STREAM_SIGN}""#)).as_bytes());
    for (now_ms, status) in [(NOW_MS, 200), (UNTIL_S * 1_000 + 60_000, 200), (UNTIL_S * 1_000 + 60_001, 401)] {
        server.clock.set(now_ms);
        assert_eq!(server.send(&request).await.status, status, "{now_ms}");
    }
    let records = server.records();
    assert!(views(&records).iter().all(|view| view.command == "Live.StreamPush"), "{records:?}");
    assert_eq!(server.metric("barrage_ingest_rejected_total{reason=\"signature_old\"}"), 1.0);
    server.stop().await;
}
