//! Load on a real server over real sockets.

#![allow(clippy::unwrap_used, reason = "helpers of tests, which the test allowance does not cover")]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod server;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use barrage_replay::load::{ClosedLoop, LoadError, OpenLoop, closed_loop, open_loop};
use barrage_replay::{Line, LineKind, Target};
use bytes::Bytes;
use server::{Reply, Server};

fn requests(target: &Target, count: usize) -> Arc<[Bytes]> {
    (0..count)
        .map(|number| {
            let body = Bytes::from(format!("{{\"n\":{number}}}"));
            let kind = LineKind::Callback { query: "SdkAppid=1".to_owned(), body };
            target.prepare(&Line { at_ms: 5, kind }, true, 0).unwrap()
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_loop_sends_each_request_in_its_turn() {
    let server = Server::start(|seen| {
        let status = if seen.body.ends_with(b":3}") { 503 } else { 200 };
        Box::pin(async move { Reply::Answer(status, "x".repeat(5_000)) })
    })
    .await;
    let target = Target::new(&server.url).unwrap().with_key("k").unwrap();
    let load = ClosedLoop { connections: 8, requests: Some(1_000), duration: None };
    let report = closed_loop(target.address(), requests(&target, 10), load).await.unwrap();
    assert_eq!((report.sent, report.ok, report.refused, report.failed), (1_000, 900, 100, 0));
    assert_eq!(report.latency_us.len(), 1_000);
    assert_eq!(report.first_problem.as_deref(), Some("an answer with status 503"));
    assert!(report.rate() > 0.0 && report.cpu > Duration::ZERO && report.cpu_per_request() < Duration::from_secs(1));
    let mut bodies: BTreeMap<Bytes, usize> = BTreeMap::new();
    for seen in server.seen() {
        assert_eq!((seen.received_at, seen.authorization.as_deref()), (Some(5), Some("Bearer k")));
        *bodies.entry(seen.body).or_default() += 1;
    }
    assert!(bodies.len() == 10 && bodies.values().all(|&count| count == 100), "{bodies:?}");
}

#[tokio::test]
async fn a_connection_that_breaks_is_counted_and_replaced() {
    let number = AtomicUsize::new(0);
    let server = Server::start(move |_| {
        let hangs = number.fetch_add(1, SeqCst) % 10 == 9;
        Box::pin(async move { if hangs { Reply::Hang } else { Reply::im_ok() } })
    })
    .await;
    let target = Target::new(&server.url).unwrap();
    let load = ClosedLoop { connections: 2, requests: Some(200), duration: None };
    let report = closed_loop(target.address(), requests(&target, 1), load).await.unwrap();
    assert_eq!((report.sent, report.ok, report.failed), (200, 180, 20));
}

#[tokio::test]
async fn a_closed_loop_ends_when_its_time_is_over() {
    let server = Server::fine().await;
    let target = Target::new(&server.url).unwrap();
    let load = ClosedLoop { connections: 2, requests: None, duration: Some(Duration::from_millis(100)) };
    let report = closed_loop(target.address(), requests(&target, 1), load).await.unwrap();
    assert!(report.ok > 0 && report.ok == report.sent && report.elapsed >= Duration::from_millis(100), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_loop_counts_the_waiting_of_requests_that_were_due_in_a_stall() {
    // The first answer takes 300 ms. With one connection some 30 requests become due meanwhile, and each of them waited.
    let stalled = AtomicBool::new(false);
    let server = Server::start(move |_| {
        let stall = !stalled.swap(true, SeqCst);
        Box::pin(async move {
            if stall {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            Reply::im_ok()
        })
    })
    .await;
    let target = Target::new(&server.url).unwrap();
    let load = OpenLoop { rate: 100.0, duration: Duration::from_millis(500), connections: 1 };
    let report = open_loop(target.address(), requests(&target, 3), load).await.unwrap();
    assert_eq!((report.sent, report.ok, report.failed), (50, 50, 0));
    let waited = report.latency_us.count_between(100_000, u64::MAX);
    assert!(waited >= 15, "{waited} of 50 waited for 100 ms or more");
}

#[tokio::test]
async fn a_load_needs_requests_connections_an_end_and_a_server() {
    let server = Server::fine().await;
    let target = Target::new(&server.url).unwrap();
    let one = requests(&target, 1);
    let closed = ClosedLoop { connections: 1, requests: Some(1), duration: None };
    let open = OpenLoop { rate: 1.0, duration: Duration::from_millis(1), connections: 1 };
    let address = target.address();
    let none: Arc<[Bytes]> = Arc::new([]);
    let nothing = |result: Result<_, LoadError>| match result {
        Err(LoadError::Nothing(what)) => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(nothing(closed_loop(address, Arc::clone(&none), closed).await), "requests");
    assert_eq!(nothing(open_loop(address, none, open).await), "requests");
    let load = ClosedLoop { connections: 0, ..closed };
    assert_eq!(nothing(closed_loop(address, Arc::clone(&one), load).await), "connections");
    let load = ClosedLoop { requests: None, ..closed };
    assert_eq!(nothing(closed_loop(address, Arc::clone(&one), load).await), "an end");
    let load = OpenLoop { rate: f64::NAN, ..open };
    assert_eq!(nothing(open_loop(address, Arc::clone(&one), load).await), "a rate");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed_port = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = closed_loop(&closed_port, one, closed).await.unwrap_err();
    assert!(matches!(error, LoadError::Connect { .. }), "{error}");
}
