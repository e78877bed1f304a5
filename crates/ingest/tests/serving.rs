//! What the server does beyond single requests: connections, load, faults of the log, stopping.
#![allow(clippy::unwrap_used, reason = "helpers of tests: a failure is a failed test")]

mod common;

use std::time::Duration;

use barrage_event::rules::{Compiled, RuleSet};
use barrage_event::{Outcome, Topic};
use barrage_ingest::{IngestOptions, Secret};
use barrage_log::{EventLog, Health};
use common::{
    APP, Fault, FaultyLog, KEY, NOW_MS, Server, TOKEN, after_send, before_send, callback, options, post, query, views,
};

/// A rejection as IM sees it.
fn code(reply: &common::Reply) -> u64 {
    reply.json()["ErrorCode"].as_u64().unwrap()
}

fn reason(name: &str) -> String {
    format!("barrage_ingest_rejected_total{{reason=\"{name}\"}}")
}

fn verdict(outcome: &str) -> String {
    format!("barrage_ingest_verdicts_total{{outcome=\"{outcome}\"}}")
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let mut server = Server::start(options()).await;
    let mut client = server.connect().await;
    let mut all = Vec::new();
    for number in 0..50 {
        all.extend(callback(&after_send("room", &format!("user{number}"), "hi")));
        all.extend(post("/callback", "", b"{}"));
    }
    client.write(&all).await;
    for _ in 0..50 {
        assert_eq!(client.reply().await.unwrap().status, 200);
        assert_eq!(client.reply().await.unwrap().status, 400);
    }
    let records = server.records();
    let rooms: Vec<_> = records.iter().filter(|(partition, _)| partition.topic == Topic::Room).cloned().collect();
    let senders: Vec<_> = views(&rooms).iter().map(|view| view.sequence).collect();
    assert_eq!(senders, (1..=50).collect::<Vec<_>>());
    drop(client);
    server.stop().await;
    server.check_conservation();
}

#[tokio::test]
async fn a_client_that_closes_its_side_still_gets_its_answer() {
    use tokio::io::AsyncWriteExt;
    let log = FaultyLog::new(Fault::Slow);
    let mut server = Server::on(log.clone(), IngestOptions { append_budget_ms: 60_000, ..options() }).await;
    let mut client = server.connect().await;
    client.write(&callback(&after_send("room", "user", "hi"))).await;
    client.write.shutdown().await.unwrap();
    log.wait_taken(1).await;
    log.acknowledge();
    assert_eq!(client.reply().await.unwrap().status, 200);
    server.stop().await;
    server.check_conservation();
}

#[tokio::test]
async fn what_is_answered_carries_dense_sequences_and_one_id_a_callback() {
    let mut server = Server::start(options()).await;
    let clients = (0..8).map(|client| {
        let addr = server.addr;
        tokio::spawn(async move {
            let mut client_ = common::Client::new(tokio::net::TcpStream::connect(addr).await.unwrap());
            for number in 0..25 {
                let user = format!("user{client}-{number}");
                client_.write(&callback(&after_send(&format!("room{}", number % 5), &user, "hi"))).await;
                assert_eq!(client_.reply().await.unwrap().status, 200);
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    let records = server.records();
    assert_eq!(records.len(), 400);
    for partition in server.log.all_partitions() {
        let own: Vec<_> = records.iter().filter(|(of, _)| *of == partition).cloned().collect();
        let sequences: Vec<_> = views(&own).iter().map(|view| view.sequence).collect();
        assert_eq!(sequences, (1..=own.len() as u64).collect::<Vec<_>>(), "{partition}");
    }
    let ids: std::collections::HashSet<_> = views(&records).iter().map(|view| view.id).collect();
    assert_eq!(ids.len(), 200);
    assert!(ids.iter().all(|id| id >> 64 == 7));
    server.stop().await;
    server.check_conservation();
}

#[tokio::test]
async fn the_stated_time_of_receipt_is_recorded_and_clamps_event_times() {
    let mut server = Server::start(options()).await;
    let at = 1_500_000_000_123_i64;
    let headers = format!("Authorization: Bearer {KEY}\r\nBarrage-Received-At: {at}\r\n");
    let body = after_send("room", "user", "hi");
    let target = format!("/callback?SdkAppid={APP}&CallbackCommand=Group.CallbackAfterSendMsg");
    assert_eq!(server.send(&post(&target, &headers, body.as_bytes())).await.status, 200);
    let gift = format!(
        "{{\"type\":\"gift_billed\",\"id\":\"1\",\"app\":{APP},\"room\":\"room\",\"account\":\"user\",\"gift_id\":\"g\",\
         \"count\":1,\"value\":1}}"
    );
    assert_eq!(server.send(&post("/v1/events", &headers, gift.as_bytes())).await.status, 200);
    let records = server.records();
    assert_eq!(records.len(), 4);
    for view in views(&records) {
        assert_eq!(view.received_at_ms, at);
        let (occurred, original) = match view.command {
            // Years ahead of the stated receipt.
            "Group.CallbackAfterSendMsg" => (at + 60_000, Some(NOW_MS)),
            _ => (at, None),
        };
        assert_eq!((view.occurred_at_ms, view.original_event_time_ms), (occurred, original), "{}", view.command);
    }
    server.stop().await;
}

#[tokio::test]
async fn rules_decide_before_callbacks_and_the_verdict_is_recorded() {
    let rules = RuleSet::from_toml(
        "[before.mute]\nusers = [\"muted\"]\n\
         [[before.words]]\nwords = [\"加微信\"]\ncode = 10101\nmessage = \"word not \\\"allowed\\\"\"\n\
         [[before.words]]\nwords = [\"spam\"]\naction = \"drop\"\n",
    )
    .unwrap();
    let mut server = Server::start(options()).await;
    server.rules.activate(Compiled::new(&rules, 3).unwrap());
    let table = [
        ("user", "hello", 0, "", Outcome::Allowed),
        ("muted", "hello", 1, "", Outcome::Rejected),
        ("user", "请加微信", 10_101, "word not \"allowed\"", Outcome::Rejected),
        ("user", "SPAM!", 2, "", Outcome::Dropped),
    ];
    for (place, (user, text, code, info, outcome)) in table.into_iter().enumerate() {
        let reply = server.send(&callback(&before_send("room", user, text))).await;
        assert_eq!(reply.status, 200);
        let expected = serde_json::json!({"ActionStatus": "OK", "ErrorInfo": info, "ErrorCode": code});
        assert_eq!(reply.json(), expected, "{user} {text}");
        let records = server.records();
        let view = views(&records)[place];
        let verdict = view.verdict.unwrap();
        assert_eq!((verdict.outcome, u64::from(verdict.code), view.rules_version), (outcome, code, 3));
    }
    for (outcome, count) in [("allowed", 1.0), ("rejected", 2.0), ("dropped", 1.0), ("past_budget", 0.0)] {
        assert_eq!(server.metric(&verdict(outcome)), count, "{outcome}");
    }
    server.stop().await;
    server.check_conservation();
}

#[tokio::test]
async fn past_its_budget_an_after_callback_may_be_repeated_and_a_verdict_stands() {
    let log = FaultyLog::new(Fault::Slow);
    let mut server = Server::on(log.clone(), IngestOptions { append_budget_ms: 20, ..options() }).await;
    let rules = RuleSet::from_toml("[before.mute]\nusers = [\"muted\"]\n").unwrap();
    server.rules.activate(Compiled::new(&rules, 1).unwrap());

    let reply = server.send(&callback(&after_send("room", "user", "hi"))).await;
    assert_eq!((reply.status, code(&reply)), (503, 503_004));
    assert!(reply.headers.contains_key("retry-after"));
    let reply = server.send(&callback(&before_send("room", "user", "hi"))).await;
    assert_eq!((reply.status, code(&reply)), (200, 0));
    let reply = server.send(&callback(&before_send("room", "muted", "hi"))).await;
    assert_eq!((reply.status, code(&reply)), (200, 1), "the record that is on its way says rejected");

    assert_eq!(server.metric(&reason("not_durable_in_time")), 3.0);
    assert_eq!(server.metric(&verdict("past_budget")), 2.0);
    assert_eq!(server.metric("barrage_ingest_appended_total"), 0.0);
    server.stop().await;
    server.check_conservation();
}

#[tokio::test]
async fn a_log_that_takes_nothing_costs_no_message_and_uses_up_no_sequence() {
    for (fault, after, unready) in
        [(Fault::Full, 503_002, false), (Fault::Failed, 503_003, true), (Fault::FailsLater, 503_003, true)]
    {
        let log = FaultyLog::new(fault);
        let mut server = Server::on(log.clone(), options()).await;
        let reply = server.send(&callback(&after_send("room", "user", "hi"))).await;
        assert_eq!((reply.status, code(&reply)), (503, after), "{fault:?}");
        let reply = server.send(&callback(&before_send("room", "user", "hi"))).await;
        assert_eq!((reply.status, code(&reply)), (200, 0), "{fault:?}");
        let gift = format!(
            "{{\"type\":\"gift_billed\",\"id\":\"g\",\"app\":{APP},\"room\":\"room\",\"account\":\"user\",\
             \"gift_id\":\"g\",\"count\":1,\"value\":1}}"
        );
        let reply =
            server.send(&post("/v1/events", &format!("Authorization: Bearer {KEY}\r\n"), gift.as_bytes())).await;
        assert_eq!(reply.status, 503, "{fault:?}");
        assert_eq!(server.metric(&verdict("unrecorded")), 1.0, "{fault:?}");
        assert_eq!(server.appender.health() != Health::Ready, unready, "{fault:?}");
        server.check_conservation();

        if fault == Fault::Full {
            log.set(Fault::Slow);
            let mut client = server.connect().await;
            client.write(&callback(&after_send("room", "user", "hi"))).await;
            log.wait_taken(1).await;
            log.acknowledge();
            assert_eq!(client.reply().await.unwrap().status, 200);
            let taken = log.taken_records();
            assert!(!taken.is_empty() && views(&taken).iter().all(|view| view.sequence == 1));
        }
        server.stop().await;
    }
}

#[tokio::test]
async fn overload_is_shed_before_a_body_is_read_and_passes() {
    let log = FaultyLog::new(Fault::Slow);
    let limits = IngestOptions { requests_in_flight_max: 2, append_budget_ms: 60_000, ..options() };
    let mut server = Server::on(log.clone(), limits).await;
    let mut busy = Vec::new();
    for number in 0..2 {
        let mut client = server.connect().await;
        client.write(&callback(&after_send("room", "user", "hi"))).await;
        log.wait_taken(number + 1).await;
        busy.push(client);
    }
    assert_eq!(server.metric("barrage_ingest_in_flight_requests"), 2.0);
    // Only the head is sent: the answer comes without the body.
    let head = format!("POST /callback?{} HTTP/1.1\r\nHost: t\r\nContent-Length: 500\r\n\r\n", query("x"));
    let reply = server.send(head.as_bytes()).await;
    assert_eq!((reply.status, code(&reply)), (503, 503_001));
    assert_eq!(reply.headers["retry-after"], "1");
    log.acknowledge();
    for mut client in busy {
        assert_eq!(client.reply().await.unwrap().status, 200);
    }
    let mut client = server.connect().await;
    client.write(&callback(&after_send("room", "user", "hi"))).await;
    log.wait_taken(3).await;
    log.acknowledge();
    assert_eq!(client.reply().await.unwrap().status, 200);
    server.stop().await;
    server.check_conservation();
}

#[tokio::test]
async fn bodies_in_flight_are_bounded_whether_their_length_is_declared_or_not() {
    let limits = IngestOptions { body_bytes_max: 1_000, bytes_in_flight_max: 1_500, ..options() };
    let mut server = Server::start(limits).await;
    let mut busy = server.connect().await;
    let announce = |length| format!("POST /callback?{} HTTP/1.1\r\nHost: t\r\n{length}\r\n\r\n", query("x"));
    busy.write(announce("Content-Length: 1000\r\nExpect: 100-continue").as_bytes()).await;
    // The server asks for the body once it has made room for it.
    assert_eq!(busy.reply().await.unwrap().status, 100);
    assert_eq!(server.metric("barrage_ingest_in_flight_bytes"), 1_000.0);
    let reply = server.send(announce("Content-Length: 501").as_bytes()).await;
    assert_eq!(code(&reply), 503_001);
    let chunk = format!("{}1f5\r\n{}\r\n", announce("Transfer-Encoding: chunked"), "x".repeat(501));
    assert_eq!(code(&server.send(chunk.as_bytes()).await), 503_001);
    busy.write(&vec![b'x'; 1_000]).await;
    assert_eq!(code(&busy.reply().await.unwrap()), 400_008);
    drop(busy);
    server.stop().await;
    server.check_conservation();
}

#[tokio::test]
async fn a_connection_beyond_the_limit_is_closed_at_once_and_counted() {
    let mut server = Server::start(IngestOptions { connections_max: 2, ..options() }).await;
    let mut first = server.connect().await;
    let second = server.connect().await;
    first.write(&callback(&after_send("room", "user", "hi"))).await;
    assert_eq!(first.reply().await.unwrap().status, 200);
    let mut third = server.connect().await;
    assert_eq!(third.reply().await, None);
    assert_eq!(server.metric("barrage_ingest_connections_refused_total"), 1.0);
    assert_eq!(server.metric("barrage_ingest_connections"), 2.0);
    drop(second);
    // There is room again as soon as the server has seen that the other is gone.
    loop {
        let mut fourth = server.connect().await;
        fourth.write(&callback(&after_send("room", "user", "hi"))).await;
        match fourth.reply().await {
            Some(reply) => break assert_eq!(reply.status, 200),
            None => tokio::task::yield_now().await,
        }
    }
    drop(first);
    server.stop().await;
}

#[tokio::test]
async fn stopping_answers_what_was_accepted_and_nothing_more() {
    let log = FaultyLog::new(Fault::Slow);
    let mut server = Server::on(log.clone(), IngestOptions { append_budget_ms: 60_000, ..options() }).await;
    let mut silent = server.connect().await;
    silent.write(&post("/callback", "", b"{}")).await;
    assert_eq!(silent.reply().await.unwrap().status, 400);
    let mut busy = server.connect().await;
    busy.write(&callback(&after_send("room", "user", "hi"))).await;
    log.wait_taken(1).await;

    server.begin_stop();
    // The silent connection is closed while the busy one waits.
    assert_eq!(silent.reply().await, None);
    assert!(tokio::net::TcpStream::connect(server.addr).await.is_err(), "nobody listens any more");
    log.acknowledge();
    let reply = busy.reply().await.unwrap();
    assert_eq!((reply.status, reply.headers["connection"].as_str()), (200, "close"));
    assert_eq!(busy.reply().await, None);
    server.stop().await;
    server.check_conservation();
    assert_eq!(server.metric("barrage_ingest_connections"), 0.0);
}

#[tokio::test]
async fn a_connection_that_was_never_used_does_not_delay_a_stop() {
    let mut server = Server::start(IngestOptions { header_timeout_ms: 3_600_000, ..options() }).await;
    let mut unused = server.connect().await;
    // A second one proves that the first was accepted, too.
    assert_eq!(server.send(&callback(&after_send("room", "user", "hi"))).await.status, 200);
    server.stop().await;
    assert_eq!(unused.reply().await, None);
    assert_eq!(server.sum("barrage_ingest_connection_errors_total"), 0.0);
}

#[tokio::test]
async fn a_request_that_arrives_while_stopping_is_answered_and_told_to_leave() {
    let mut server = Server::start(options()).await;
    let mut client = server.connect().await;
    client.write(&callback(&after_send("room", "user", "hi"))).await;
    assert_eq!(client.reply().await.unwrap().headers.get("connection"), None);
    server.begin_stop();
    client.write(&callback(&after_send("room", "user", "hi"))).await;
    let reply = client.reply().await.unwrap();
    assert_eq!(reply.status, 200);
    // It may have been read just before the signal; the connection ends in either case.
    while client.reply().await.is_some() {}
    server.stop().await;
    server.check_conservation();
}

#[tokio::test]
async fn the_stop_deadline_holds_even_if_the_log_hangs() {
    let log = FaultyLog::new(Fault::Slow);
    let limits = IngestOptions { append_budget_ms: 3_600_000, stop_deadline_ms: 50, ..options() };
    let mut server = Server::on(log.clone(), limits).await;
    let mut busy = server.connect().await;
    busy.write(&callback(&after_send("room", "user", "hi"))).await;
    log.wait_taken(1).await;
    server.stop().await;
    assert_eq!(busy.reply().await, None);
    assert_eq!(server.metric("barrage_ingest_connection_errors_total{kind=\"stopped\"}"), 1.0);
    assert_eq!(server.metric(&reason("aborted")), 1.0);
    server.check_conservation();
}

#[tokio::test]
async fn clock_skew_is_measured_on_signed_callbacks() {
    let mut server = Server::start(IngestOptions { token: Some(Secret::new(TOKEN)), ..options() }).await;
    for (now_ms, skew_s) in [(NOW_MS + 500, 0.0), (NOW_MS + 21_999, 21.0), (NOW_MS - 30_000, -30.0)] {
        server.clock.set(now_ms);
        assert_eq!(server.send(&callback(&after_send("room", "user", "hi"))).await.status, 200);
        assert_eq!(server.metric("barrage_ingest_clock_skew_seconds"), skew_s);
    }
    server.clock.set(NOW_MS + 3_600_000);
    assert_eq!(server.send(&callback(&after_send("room", "user", "hi"))).await.status, 401);
    server.stop().await;
}

#[tokio::test]
async fn untyped_callbacks_are_counted_by_reason() {
    let mut server = Server::start(options()).await;
    for (body, reason) in [
        (r#"{"CallbackCommand":"Group.CallbackAfterTheNextThing"}"#, "unknown_command"),
        (r#"{"CallbackCommand":"C2C.CallbackAfterSendMsg"}"#, "not_typed"),
        (r#"{"CallbackCommand":"Group.CallbackAfterSendMsg"}"#, "field"),
    ] {
        assert_eq!(server.send(&callback(body)).await.status, 200, "{body}");
        assert_eq!(server.metric(&format!("barrage_ingest_untyped_total{{reason=\"{reason}\"}}")), 1.0, "{body}");
    }
    assert_eq!(server.metric("barrage_ingest_request_duration_seconds_count"), 3.0);
    server.stop().await;
    server.check_conservation();
}

#[tokio::test]
async fn options_out_of_range_are_refused_before_serving() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut registry = prometheus_client::registry::Registry::default();
    let metrics = barrage_ingest::Metrics::register(&mut registry);
    let log: std::sync::Arc<dyn EventLog> = FaultyLog::new(Fault::Slow);
    let appender = std::sync::Arc::new(barrage_ingest::Appender::new(log, 1));
    let wrong = IngestOptions { connections_max: 0, ..options() };
    let serving = barrage_ingest::serve(listener, wrong, appender, Default::default(), metrics, std::future::pending());
    let error = tokio::time::timeout(Duration::from_secs(60), serving).await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "ingest.connections_max: 0 is out of range, it must be 1 to 1000000");
}
