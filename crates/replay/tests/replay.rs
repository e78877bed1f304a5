//! Replays to a real server over real sockets.

#![allow(clippy::unwrap_used, reason = "helpers of tests, which the test allowance does not cover")]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod server;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use barrage_replay::{
    Ledger, Line, LineKind, Options, Progress, Recording, RecordingError, ReplayError, Shift, Speed, Stop, Summary,
    Target, read_ledger, replay,
};
use barrage_simulator::{Config, Evening};
use bytes::Bytes;
use server::{Reply, Seen, Server};

fn callback(at_ms: i64, number: usize) -> Line {
    let kind = LineKind::Callback {
        query: "SdkAppid=1&CallbackCommand=X".to_owned(),
        body: Bytes::from(format!("{{\"n\":{number}}}")),
    };
    Line { at_ms, kind }
}

fn callbacks(times: impl IntoIterator<Item = i64>) -> Vec<Line> {
    times.into_iter().enumerate().map(|(number, at_ms)| callback(at_ms, number)).collect()
}

fn target(server: &Server) -> Target {
    Target::new(&server.url).unwrap().with_key("secret").unwrap()
}

async fn play(lines: Vec<Line>, target: &Target, options: &Options) -> Result<Summary, ReplayError> {
    let lines: Vec<Result<Line, RecordingError>> = lines.into_iter().map(Ok).collect();
    replay(lines, target, options, Progress::new(), &Stop::new(), None).await
}

/// Requests in order of arrival: time, and the times of those that were unanswered then.
type Arrivals = Arc<Mutex<Vec<(i64, Vec<i64>)>>>;

/// A server that answers after a while, out of order, and tells of each request what was unanswered when it came.
async fn slow_server() -> (Server, Arrivals) {
    let arrivals = Arrivals::default();
    let open: Arc<Mutex<Vec<i64>>> = Arc::default();
    let counter = AtomicU64::new(0);
    let noted = Arc::clone(&arrivals);
    let server = Server::start(move |seen| {
        let at_ms = seen.received_at.unwrap();
        let mut unanswered = open.lock().unwrap();
        noted.lock().unwrap().push((at_ms, unanswered.clone()));
        unanswered.push(at_ms);
        drop(unanswered);
        let delay_ms = counter.fetch_add(1, SeqCst) * 7 % 5;
        let open = Arc::clone(&open);
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
            let mut unanswered = open.lock().unwrap();
            let at = unanswered.iter().position(|&open| open == at_ms).unwrap();
            unanswered.swap_remove(at);
            Reply::im_ok()
        })
    });
    (server.await, arrivals)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_line_is_sent_before_every_line_that_is_a_second_older_is_answered() {
    let (server, arrivals) = slow_server().await;
    let times = (0..400).map(|number| 1_000_000 + number * 97 + number % 3);
    let summary = play(callbacks(times), &target(&server), &Options::default()).await.unwrap();
    assert_eq!((summary.counts.ok, summary.exit_code()), (400, 0));
    let arrivals = arrivals.lock().unwrap();
    let mut together = 0;
    for (at_ms, unanswered) in arrivals.iter() {
        together = together.max(unanswered.len());
        let oldest = unanswered.iter().min().copied().unwrap_or(*at_ms);
        assert!(at_ms - oldest <= 1_000, "{at_ms} came while {oldest} was unanswered");
    }
    assert!(together > 1, "lines of one second go over several connections at once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_a_jump_all_answers_are_waited_for() {
    let (server, arrivals) = slow_server().await;
    let times = (0..20).flat_map(|group| (0..10).map(move |number| group * 100_000 + number));
    // Only the rule of jumps holds anything back.
    let options = Options { order_ms: i64::MAX, jump_ms: 60_000, ..Options::default() };
    play(callbacks(times), &target(&server), &options).await.unwrap();
    for (at_ms, unanswered) in arrivals.lock().unwrap().iter() {
        let before: Vec<_> = unanswered.iter().filter(|&open| at_ms - open > 60_000).collect();
        assert!(before.is_empty(), "{at_ms} came while {before:?} were unanswered");
    }
}

#[tokio::test]
async fn lines_come_through_the_right_doors_with_key_time_and_body() {
    let server = Server::start(|seen| {
        let answer = if seen.path.starts_with("/callback") { server::IM_OK } else { "{}" };
        Box::pin(async move { Reply::Answer(200, answer.to_owned()) })
    })
    .await;
    let query = Server::start(|seen| {
        let body = if seen.path == "/v1/status" { "{\"partitions\":[]}" } else { "{}" };
        Box::pin(async move { Reply::Answer(200, body.to_owned()) })
    })
    .await;
    let lines = vec![
        callback(1_000, 0),
        Line { at_ms: 1_001, kind: LineKind::Event { body: Bytes::from_static(b"{\"id\" : \"e\"}") } },
        Line {
            at_ms: 1_002,
            kind: LineKind::Request {
                method: "POST".to_owned(),
                path: "/v1/rooms/a%2Fb/lotteries".to_owned(),
                body: Bytes::from_static(b"{}"),
            },
        },
    ];
    let target = target(&server).with_query(&query.url).unwrap();
    let options = Options { connections: 1, ..Options::default() };
    let summary = play(lines, &target, &options).await.unwrap();
    assert_eq!((summary.counts.sent, summary.counts.ok), (3, 3));
    assert_eq!((summary.first_ms, summary.last_ms, summary.latency_us.len()), (1_000, 1_002, 3));
    let seen = |method: &str, path: &str, received_at: Option<i64>, body: &'static str| Seen {
        method: method.to_owned(),
        path: path.to_owned(),
        received_at,
        authorization: Some("Bearer secret".to_owned()),
        body: Bytes::from_static(body.as_bytes()),
    };
    let callback = seen("POST", "/callback?SdkAppid=1&CallbackCommand=X", Some(1_000), "{\"n\":0}");
    let event = seen("POST", "/v1/events", Some(1_001), "{\"id\" : \"e\"}");
    assert_eq!(server.seen(), [callback, event]);
    let status = seen("GET", "/v1/status", None, "");
    let command = seen("POST", "/v1/rooms/a%2Fb/lotteries", Some(1_002), "{}");
    assert_eq!(query.seen(), [status, command]);
}

#[tokio::test]
async fn a_server_that_is_past_the_recordings_start_is_refused() {
    let server = Server::fine().await;
    let cases: [(u16, &str, Shift, &str); 9] = [
        (200, r#"{"stream_time":5000}"#, Shift::None, ""),
        (200, r#"{"stream_time":5001}"#, Shift::None, "5001 is past the first line's time 5000"),
        (200, r#"{"stream_time":5001}"#, Shift::ToNow, ""),
        (200, r#"{"stream_time":5001}"#, Shift::To(6_500), ""),
        (200, r#"{"stream_time":5001}"#, Shift::To(4_000), "first line's time 4000"),
        (200, r#"{"stream_time":null}"#, Shift::None, ""),
        (200, r#"{"partitions":[]}"#, Shift::None, ""),
        (404, "{}", Shift::None, "answers GET /v1/status with 404"),
        (200, "hello", Shift::None, "and not with its status"),
    ];
    for (status, body, shift, expected) in cases {
        let query = Server::start(move |_| Box::pin(async move { Reply::Answer(status, body.to_owned()) })).await;
        let target = target(&server).with_query(&query.url).unwrap();
        let options = Options { shift, ..Options::default() };
        match play(callbacks([5_000]), &target, &options).await {
            Ok(_) => assert_eq!(expected, "", "{status} {body} {shift:?}"),
            Err(error) => {
                let message = error.to_string();
                assert!(!expected.is_empty() && message.contains(expected), "{status} {body} {shift:?}: {message}");
            }
        }
    }
}

#[tokio::test]
async fn shifted_lines_carry_their_new_times_outside_and_inside() {
    let server = Server::fine().await;
    let kind = LineKind::Callback {
        query: "SdkAppid=1".to_owned(),
        body: Bytes::from_static(br#"{"EventTime":"1700000000900","MsgTime":1700000000}"#),
    };
    let line = Line { at_ms: 1_700_000_001_234, kind };
    let options = Options { shift: Shift::To(1_800_000_001_999), ..Options::default() };
    let summary = play(vec![line], &target(&server), &options).await.unwrap();
    assert_eq!((summary.shifted_s, summary.first_ms), (100_000_000, 1_800_000_001_234));
    let seen = server.seen();
    assert_eq!(seen[0].received_at, Some(1_800_000_001_234));
    assert_eq!(seen[0].body, br#"{"EventTime":"1800000000900","MsgTime":1800000000}"#[..]);
}

/// A server whose answer depends on the number in the body.
async fn moody_server() -> Server {
    Server::start(|seen| {
        let number: usize = seen
            .body
            .iter()
            .filter(|byte| byte.is_ascii_digit())
            .fold(0, |number, digit| number * 10 + usize::from(digit - b'0'));
        let reply = match number % 4 {
            0 => Reply::im_ok(),
            1 => Reply::Answer(200, r#"{"ActionStatus":"OK","ErrorInfo":"muted","ErrorCode":1}"#.to_owned()),
            2 => Reply::Answer(401, r#"{"ActionStatus":"FAIL","ErrorInfo":"no","ErrorCode":401001}"#.to_owned()),
            _ => Reply::Hang,
        };
        Box::pin(async move { reply })
    })
    .await
}

#[tokio::test]
async fn the_ledger_tells_what_became_of_every_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ledger.jsonl");
    let server = moody_server().await;
    let lines: Vec<Result<Line, RecordingError>> =
        callbacks((0..40).map(|number| 1_000 + number * 10)).into_iter().map(Ok).collect();
    let ledger = Some(Ledger::create(&file).unwrap());
    let options = Options { connections: 8, ..Options::default() };
    let summary = replay(lines, &target(&server), &options, Progress::new(), &Stop::new(), ledger).await.unwrap();
    let counts = &summary.counts;
    assert_eq!(
        (counts.sent, counts.ok, counts.not_allowed, counts.refused_total(), counts.failed),
        (40, 20, 10, 10, 10)
    );
    assert_eq!((counts.refused[0].status, counts.refused[0].code.as_str()), (401, "401001"));
    assert_eq!((summary.exit_code(), counts.in_flight), (1, 0));
    assert!(summary.first_failure.is_some());

    let mut entries = read_ledger(&file).unwrap();
    entries.sort_by_key(|entry| entry.line);
    for (number, entry) in (0..).zip(&entries) {
        let expected = match number % 4 {
            0 => ("ok", Some(200), Some("0")),
            1 => ("ok", Some(200), Some("1")),
            2 => ("refused", Some(401), Some("401001")),
            _ => ("unknown", None, None),
        };
        let found = (entry.outcome.as_str(), entry.status, entry.code.as_deref());
        assert_eq!((entry.line, found, entry.attempts), (number, expected, 1));
        assert_eq!(entry.at_ms, 1_000 + i64::try_from(number).unwrap() * 10);
    }
    assert_eq!(entries.len(), 40);
}

#[tokio::test]
async fn with_retry_a_line_is_sent_again_until_it_is_answered() {
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&attempts);
    let server = Server::start(move |_| {
        let attempt = counted.fetch_add(1, SeqCst);
        Box::pin(async move { if attempt < 3 { Reply::Hang } else { Reply::im_ok() } })
    })
    .await;
    let options = Options { retry_for: Some(Duration::from_secs(60)), ..Options::default() };
    let summary = play(callbacks([1]), &target(&server), &options).await.unwrap();
    assert_eq!((summary.counts.ok, attempts.load(SeqCst)), (1, 4));
}

#[tokio::test]
async fn an_answer_that_takes_too_long_is_unknown_and_its_connection_is_not_used_again() {
    let server = Server::start(|seen| {
        let hangs = seen.body.ends_with(b":0}");
        Box::pin(async move {
            if hangs {
                std::future::pending::<()>().await;
            }
            Reply::im_ok()
        })
    })
    .await;
    let options = Options { connections: 1, answer_within: Duration::from_millis(50), ..Options::default() };
    let summary = play(callbacks([1, 2, 3]), &target(&server), &options).await.unwrap();
    assert_eq!((summary.counts.ok, summary.counts.failed), (2, 1));
}

#[tokio::test]
async fn without_a_server_nothing_is_sent() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = play(callbacks([1]), &Target::new(&url).unwrap(), &Options::default()).await.unwrap_err();
    assert!(matches!(error, ReplayError::Connect { .. }), "{error}");
    let server = Server::fine().await;
    let error = play(Vec::new(), &target(&server), &Options::default()).await.unwrap_err();
    assert!(matches!(error, ReplayError::Nothing), "{error}");
}

#[tokio::test]
async fn the_recordings_time_is_kept_when_it_is_asked_for() {
    let server = Server::fine().await;
    let options = Options { speed: Speed::Times(10.0), ..Options::default() };
    let summary = play(callbacks([5_000, 5_500, 7_000]), &target(&server), &options).await.unwrap();
    assert!(summary.counts.elapsed >= Duration::from_millis(200), "{:?}", summary.counts.elapsed);
}

#[tokio::test]
async fn a_stop_sends_nothing_more_and_waits_for_answers() {
    let stop = Stop::new();
    let stopper = stop.clone();
    let server = Server::start(move |seen| {
        if seen.body.ends_with(b":5}") {
            stopper.stop();
        }
        Box::pin(async { Reply::im_ok() })
    })
    .await;
    let lines = callbacks((0..1_000).map(|number| number * 600)).into_iter().map(Ok);
    let progress = Progress::new();
    let summary =
        replay(lines, &target(&server), &Options::default(), Arc::clone(&progress), &stop, None).await.unwrap();
    let counts = &summary.counts;
    assert!(summary.stopped && counts.sent < 20, "{counts:?}");
    assert_eq!((counts.ok, counts.in_flight, summary.exit_code()), (counts.sent, 0, 0));
    assert_eq!(progress.snapshot().ok, counts.ok);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_evening_arrives_whole_from_plain_and_packed_files() {
    let folder = tempfile::tempdir().unwrap();
    let text: String = Evening::new(Config::small()).unwrap().map(|line| line.to_json_line() + "\n").collect();
    let plain = folder.path().join("evening.jsonl");
    std::fs::write(&plain, &text).unwrap();
    let packed = folder.path().join("evening.jsonl.gz");
    let mut encoder =
        flate2::write::GzEncoder::new(std::fs::File::create(&packed).unwrap(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap();

    let mut expected: BTreeMap<Bytes, usize> = BTreeMap::new();
    for line in Evening::new(Config::small()).unwrap().map(Line::from) {
        let (LineKind::Callback { body, .. } | LineKind::Event { body } | LineKind::Request { body, .. }) = line.kind;
        *expected.entry(body).or_default() += 1;
    }
    for file in [plain, packed] {
        let server = Server::start(|seen| {
            let body = if seen.path == "/v1/events" { "{}" } else { server::IM_OK };
            Box::pin(async move { Reply::Answer(200, body.to_owned()) })
        })
        .await;
        let recording = Recording::open(&file).unwrap();
        let summary = replay(recording, &target(&server), &Options::default(), Progress::new(), &Stop::new(), None)
            .await
            .unwrap();
        assert_eq!(summary.exit_code(), 0, "{:?}", summary.counts);
        let mut found: BTreeMap<Bytes, usize> = BTreeMap::new();
        for seen in server.seen() {
            *found.entry(seen.body).or_default() += 1;
        }
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn a_damaged_recording_ends_the_replay_after_what_came_before() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("damaged");
    let line = r#"{"at_ms":1,"query":{"SdkAppid":"1"},"body":{}}"#;
    std::fs::write(&file, format!("{line}\n{line}\nnot a line\n{line}\n")).unwrap();
    let server = Server::fine().await;
    let progress = Progress::new();
    let recording = Recording::open(&file).unwrap();
    let error = replay(recording, &target(&server), &Options::default(), Arc::clone(&progress), &Stop::new(), None)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("damaged:3:"), "{error}");
    let counts = progress.snapshot();
    assert_eq!((counts.sent, counts.ok, server.seen().len()), (2, 2, 2));
}
