//! Streams of changes over real connections.

use barrage_event::Partition;
use barrage_query::{OwnerOptions, QueryOptions};
use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::cluster::Cluster;
use crate::harness::{PATIENCE, Service};
use crate::{APP, NOON, ROOM, ROOM_PATH, message, small_evening};

fn often() -> QueryOptions {
    QueryOptions { live_interval_ms: 20, ..QueryOptions::default() }
}

/// An open stream.
struct Events {
    connection: TcpStream,
    status: u16,
    head: String,
    /// What was read and not taken yet: chunks, as they came.
    bytes: Vec<u8>,
    /// What was in the chunks and not taken yet.
    text: String,
    ended: bool,
}

/// An event, or a comment, which has no name.
#[derive(Debug)]
struct Event {
    name: String,
    data: Json,
}

impl Events {
    async fn open(address: &str, path: &str) -> Self {
        Self::over(TcpStream::connect(address).await.expect("connected"), path).await
    }

    async fn over(mut connection: TcpStream, path: &str) -> Self {
        connection.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.expect("sent");
        let mut events =
            Self { connection, status: 0, head: String::new(), bytes: Vec::new(), text: String::new(), ended: false };
        let end = loop {
            match events.bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                Some(at) => break at + 4,
                None => assert!(events.read().await > 0, "a head"),
            }
        };
        let head: Vec<u8> = events.bytes.drain(..end).collect();
        events.head = String::from_utf8(head).expect("a head").to_ascii_lowercase();
        events.status = events.head.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("a status");
        events
    }

    async fn read(&mut self) -> usize {
        let mut buffer = [0; 4_096];
        let read = tokio::time::timeout(PATIENCE, self.connection.read(&mut buffer)).await.expect("something comes");
        let read = read.expect("read");
        self.bytes.extend_from_slice(&buffer[..read]);
        read
    }

    /// Takes a whole chunk off, if there is one.
    fn chunk(&mut self) -> bool {
        let Some(line) = self.bytes.windows(2).position(|w| w == b"\r\n") else { return false };
        let size = std::str::from_utf8(&self.bytes[..line]).expect("a size");
        let size = usize::from_str_radix(size, 16).expect("a size");
        if self.bytes.len() < line + 4 + size {
            return false;
        }
        let chunk: Vec<u8> = self.bytes.drain(..line + 4 + size).collect();
        self.text.push_str(std::str::from_utf8(&chunk[line + 2..line + 2 + size]).expect("whole characters"));
        self.ended |= size == 0;
        true
    }

    /// The next event or comment; nothing when the stream ended as it should.
    async fn any(&mut self) -> Option<Event> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let mut read = Event { name: String::new(), data: Json::Null };
                for line in event.lines() {
                    match line.split_once(": ") {
                        Some(("event", name)) => read.name = name.to_owned(),
                        Some(("data", data)) => read.data = serde_json::from_str(data).expect("JSON"),
                        Some(("retry", ms)) => assert!(ms.parse::<u64>().is_ok(), "{line}"),
                        _ => assert_eq!(line, ":"),
                    }
                }
                self.text = rest.to_owned();
                return Some(read);
            }
            if self.ended {
                return None;
            }
            while !self.chunk() {
                if self.read().await == 0 {
                    panic!("the stream broke off");
                }
            }
        }
    }

    /// The next event.
    async fn next(&mut self) -> Event {
        loop {
            let event = self.any().await.expect("there are more");
            if !event.name.is_empty() {
                return event;
            }
        }
    }

    /// The first event that is as wanted; no two in a row tell the same.
    async fn until(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        let mut last = String::new();
        loop {
            let event = self.next().await;
            let mut told = event.data.clone();
            told["as_of"] = Json::Null;
            let told = format!("{} {told}", event.name);
            assert_ne!(told, last);
            last = told;
            if wanted(&event) {
                return event;
            }
        }
    }
}

fn live() -> String {
    format!("/v1/rooms/{ROOM_PATH}/live")
}

async fn deliver(service: &Service, random: u32) {
    let command = "Group.CallbackAfterSendMsg";
    service.append(APP, command, &message(command, ROOM, "eve", random, NOON), NOON).await;
}

/// The gauge of open streams.
async fn open_streams(service: &Service) -> u64 {
    let (_, text) = service.admin("/metrics").await;
    let line = text.lines().find_map(|line| line.strip_prefix("barrage_query_live_streams "));
    line.and_then(|n| n.parse().ok()).expect("the gauge")
}

async fn until_open_streams_are(service: &Service, wanted: u64) {
    let waited = async {
        while open_streams(service).await != wanted {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.expect("it comes about");
}

#[tokio::test]
async fn a_room_is_told_at_once_and_again_when_something_changed() {
    let service = Service::start_with(vec![APP], often()).await;
    let positions = small_evening(&service).await;
    let mut events = Events::open(service.address(), &format!("{}?at_least={positions}", live())).await;
    assert_eq!(events.status, 200, "{}", events.head);
    for header in ["content-type: text/event-stream", "cache-control: no-store"] {
        assert!(events.head.contains(header), "{}", events.head);
    }
    let first = events.next().await;
    assert_eq!((first.name.as_str(), &first.data["room"]), ("room", &json!(ROOM)));
    assert_eq!(first.data["messages"]["delivered"], 3);
    assert!(first.data["as_of"]["positions"][0].is_string(), "{}", first.data);
    for n in 0..3 {
        deliver(&service, 100 + n).await;
        let event = events.until(|event| event.data["messages"]["delivered"] == 4 + n).await;
        assert!(event.data["heat"]["score"].is_u64(), "{}", event.data);
    }
    drop(events);
    // Whoever goes away is noticed at the next event at the latest.
    deliver(&service, 200).await;
    until_open_streams_are(&service, 0).await;
}

#[tokio::test]
async fn what_is_no_stream_is_refused_as_other_reads_are() {
    let service = Service::start().await;
    let positions = small_evening(&service).await;
    service.get(&format!("/v1/status?at_least={positions}")).await.ok();
    for (path, status, code) in [
        ("/v1/rooms/nobody/live".to_owned(), 404, "unknown_room"),
        (format!("{}?at=5", live()), 400, "bad_parameter"),
        (format!("{}?limit=5", live()), 400, "bad_parameter"),
    ] {
        let answer = service.get(&path).await;
        assert_eq!((answer.status, &answer.json["error"]["code"]), (status, &json!(code)), "{path}");
    }
    assert_eq!(open_streams(&service).await, 0);
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused_until_one_ends() {
    let service = Service::start_with(vec![APP], QueryOptions { live_streams_max: 1, ..often() }).await;
    let positions = small_evening(&service).await;
    service.get(&format!("/v1/status?at_least={positions}")).await.ok();
    let mut events = Events::open(service.address(), &live()).await;
    events.next().await;
    let refused = service.get(&live()).await;
    assert_eq!((refused.status, &refused.json["error"]["code"]), (503, &json!("overloaded")), "{}", refused.body);
    assert!(refused.json["error"]["hint"].as_str().is_some_and(|hint| hint.contains("query.live_streams_max")));
    assert_eq!(refused.header("retry-after"), Some("1"));
    drop(events);
    deliver(&service, 100).await;
    until_open_streams_are(&service, 0).await;
    assert_eq!(Events::open(service.address(), &live()).await.status, 200);
}

#[tokio::test]
async fn a_reader_that_does_not_read_is_dropped_and_nothing_is_kept_for_it() {
    let service = Service::start_with(vec![APP], QueryOptions { write_timeout_ms: 100, ..often() }).await;
    let positions = small_evening(&service).await;
    service.get(&format!("/v1/status?at_least={positions}")).await.ok();
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4_096).expect("a small buffer");
    let stuck = socket.connect(service.address().parse().expect("an address")).await.expect("connected");
    let stuck = Events::over(stuck, &live()).await;
    let mut reading = Events::open(service.address(), &live()).await;
    // Everything changes all the time, and one of the two takes nothing of it.
    let mut told = 0;
    for n in 0.. {
        deliver(&service, 100 + n).await;
        reading.until(|event| event.data["messages"]["delivered"] == 4 + n).await;
        told += 1;
        if open_streams(&service).await < 2 {
            break;
        }
    }
    assert!(told > 1);
    // The other one goes on, and the one that was dropped finds its connection closed behind what was under way.
    deliver(&service, 5).await;
    reading.next().await;
    assert_eq!(open_streams(&service).await, 1);
    let mut connection = stuck.connection;
    let mut rest = Vec::new();
    drop(tokio::time::timeout(PATIENCE, connection.read_to_end(&mut rest)).await.expect("it is closed"));
    assert!(!rest.ends_with(b"0\r\n\r\n"), "cut off, not ended");
    assert!(rest.len() < 512 << 10, "{} bytes were kept", rest.len());
}

#[tokio::test]
async fn silence_is_broken_by_comments_and_streams_end_with_the_server() {
    let service = Service::start_with(vec![APP], often()).await;
    let positions = small_evening(&service).await;
    service.get(&format!("/v1/status?at_least={positions}")).await.ok();
    let mut events = Events::open(service.address(), &live()).await;
    events.next().await;
    while !events.any().await.expect("there is more").name.is_empty() {}
    let (stopped, last) = tokio::join!(service.stop(), events.any());
    let () = stopped;
    assert!(last.is_none(), "it ends as it should: {last:?}");
    assert_eq!(open_streams(&service).await, 0);
}

#[tokio::test]
async fn a_stream_follows_its_room_from_process_to_process() {
    let options = QueryOptions { owner_timeout_ms: 200, ..often() };
    let cluster = Cluster::start_with(options, OwnerOptions::default()).await;
    let positions = small_evening(&cluster.single).await;
    cluster.caught_up(&positions).await;
    let partition = Partition::room(barrage_event::routes::partition_of(APP, ROOM, 2));
    cluster.give(partition, &cluster.b, 2);
    let mut events = Events::open(cluster.query.address(), &live()).await;
    assert_eq!(events.next().await.data["messages"]["delivered"], 3);
    deliver(&cluster.single, 100).await;
    events.until(|event| event.data["messages"]["delivered"] == 4).await;
    cluster.release(partition);
    let told = events.until(|event| event.name == "unavailable").await;
    assert_eq!(told.data["error"]["code"], "unavailable");
    deliver(&cluster.single, 101).await;
    cluster.give(partition, &cluster.a, 3);
    let told = events.until(|event| event.data["messages"]["delivered"] == 5).await;
    assert_eq!(told.name, "room");
}
