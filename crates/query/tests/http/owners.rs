//! Reads that ask the owners of partitions in other processes.

use std::collections::BTreeMap;
use std::time::Duration;

use barrage_event::{Partition, Position};
use barrage_log::EventLog as _;
use barrage_query::{OwnerOptions, QueryOptions};
use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::cluster::{Cluster, record};
use crate::harness::{Answer, KEY, Service};
use crate::{APP, NOON, ROOM_PATH, message, schema, small_evening};

/// Long enough that a test which waits for it fails by patience only.
const FOREVER_MS: u64 = 60_000;

/// A room that lies in a partition of two.
fn room_in(partition: u16) -> String {
    let mut names = (0..).map(|n| format!("room {n}"));
    names.find(|name| barrage_event::routes::partition_of(APP, name, 2) == partition).expect("one is there")
}

fn path_of(room: &str) -> String {
    format!("/v1/rooms/{}", room.replace(' ', "%20"))
}

/// One message in each of these rooms; the positions of the last ones, for `at_least`.
async fn one_message_each(service: &Service, rooms: &[String]) -> String {
    let appends = rooms.iter().enumerate().map(|(n, room)| async move {
        let command = "Group.CallbackAfterSendMsg";
        let random = u32::try_from(n).expect("few");
        service.append(APP, command, &message(command, room, "ann", random, NOON), NOON).await
    });
    latest(&futures_util::future::join_all(appends).await)
}

/// The last position of each partition.
fn latest(positions: &[String]) -> String {
    let mut last: BTreeMap<Partition, Position> = BTreeMap::new();
    for position in positions.iter().flat_map(|all| all.split(',')) {
        let position: Position = position.parse().expect("a position");
        let held = last.entry(position.partition).or_insert(position);
        *held = position.max(*held);
    }
    last.values().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn assert_same(one: &Answer, other: &Answer, path: &str) {
    assert_eq!((one.status, &one.body), (other.status, &other.body), "{path}");
    assert_eq!(one.header("etag"), other.header("etag"), "{path}");
}

fn assert_unavailable(answer: &Answer, part: &str) {
    assert_eq!((answer.status, &answer.json["error"]["code"]), (503, &json!("unavailable")), "{}", answer.body);
    let message = answer.json["error"]["message"].as_str().expect("a message");
    assert!(message.contains(part), "{message}");
    assert!(answer.json["error"]["hint"].as_str().is_some_and(|hint| hint.starts_with("try again")), "{}", answer.body);
    assert_eq!(answer.header("retry-after"), Some("1"));
}

#[tokio::test]
async fn every_read_gives_the_same_bytes_wherever_it_is_asked() {
    let cluster = Cluster::start().await;
    let evening = small_evening(&cluster.single).await;
    let rooms: Vec<String> = (0..23).map(|n| format!("room {n}")).collect();
    let more = one_message_each(&cluster.single, &rooms).await;
    let at_least = latest(&[evening, more]);
    cluster.caught_up(&at_least).await;

    let mut paths: Vec<String> = [
        "/v1/rooms",
        "/v1/rooms?limit=1",
        "/v1/rooms?limit=7",
        "/v1/rooms?limit=23",
        "/v1/rooms?limit=24",
        "/v1/rooms?sort=beauty",
        "/v1/rooms?sort=heat&limit=3",
        "/v1/recommendations",
        "/v1/recommendations?limit=5",
        "/v1/levels",
        "/v1/levels?app=7",
        "/v1/rooms?after=01",
        "/v1/rooms?app=7",
        "/v1/rooms/nobody",
        "/v1/users/ann",
        "/v1/users/bob",
        "/v1/users/nobody",
        "/v1/rooms/nobody/viewers",
        "/v1/rooms/nobody/minutes",
        "/v1/users/ann?app=7",
    ]
    .map(str::to_owned)
    .to_vec();
    for tail in ["", "/minutes", "/minutes?limit=1", "/minutes?from=2&to=1", "/viewers", "/viewers?limit=1"] {
        paths.push(format!("/v1/rooms/{ROOM_PATH}{tail}"));
        paths.extend(rooms.iter().map(|room| format!("{}{tail}", path_of(room))));
    }
    let mut pages = 0;
    while let Some(path) = paths.pop() {
        // The time asked for is given, because it is the one thing that differs between two requests.
        let asked = format!("{path}{}at={}", if path.contains('?') { '&' } else { '?' }, NOON + 3_600_000);
        let expected = cluster.single.get(&asked).await;
        assert_same(&expected, &cluster.query.get(&asked).await, &asked);
        assert_same(&expected, &cluster.half.get(&asked).await, &asked);
        if let Some(next) = expected.json["next"].as_str() {
            pages += 1;
            let (base, _) = path.split_once("&after=").unwrap_or((&path, ""));
            paths.push(format!("{base}{}after={next}", if base.contains('?') { '&' } else { '?' }));
        }
    }
    assert!(pages > 25, "cursors were followed: {pages}");
}

/// An answer about partitions, without what may differ: the owner, the time of the request, and how long the log was when a
/// rebuild ended.
fn comparable(mut answer: Json) -> Json {
    answer["as_of"]["at"] = Json::Null;
    for partition in answer["partitions"].as_array_mut().into_iter().flatten() {
        if partition.get("owner").is_some() {
            partition["owner"] = Json::Null;
        }
        if let Some(rebuild) = partition["rebuild"].as_object_mut() {
            rebuild.retain(|name, _| name != "offset" && name != "end");
        }
    }
    answer
}

#[tokio::test]
async fn answers_about_partitions_are_the_same_and_commands_reach_the_owner() {
    let cluster = Cluster::start().await;
    let positions = small_evening(&cluster.single).await;
    let key = format!("Bearer {KEY}");
    let headers = [("authorization", key.as_str())];
    // The process that owns a partition rebuilds it, and only that one.
    let started = cluster.query.ask("POST", "/v1/rebuild?partition=all", &headers).await;
    assert_eq!((started.status, started.json["started"].as_array().map(Vec::len)), (202, Some(4)), "{}", started.body);
    loop {
        let progress = cluster.query.get(&format!("/v1/rebuild?at_least={positions}")).await.ok();
        let rows = progress["partitions"].as_array().expect("rows");
        if rows.iter().all(|row| row["rebuild"]["done"] == true) {
            assert!(rows.iter().all(|row| row["rebuild"]["hashes_match"] == true), "{progress}");
            break;
        }
        tokio::task::yield_now().await;
    }
    assert!(cluster.single.get("/v1/rebuild").await.ok()["partitions"][0]["rebuild"].is_null());
    cluster.single.ask("POST", "/v1/rebuild?partition=all", &headers, "").await.ok();
    cluster.single.until("/v1/rebuild", |p| p["partitions"][3]["rebuild"]["done"] == true).await;
    cluster.single.until("/v1/rebuild", |p| p["partitions"][0]["rebuild"]["done"] == true).await;
    cluster.single.until("/v1/rebuild", |p| p["partitions"][1]["rebuild"]["done"] == true).await;
    cluster.single.until("/v1/rebuild", |p| p["partitions"][2]["rebuild"]["done"] == true).await;
    for path in
        ["/v1/status", "/v1/rules", "/v1/rules/history", "/v1/dead-letters", "/v1/dead-letters?partition=user/1"]
    {
        let path = format!("{path}{}at_least={positions}", if path.contains('?') { '&' } else { '?' });
        let expected = comparable(cluster.single.get(&path).await.ok());
        for server in [&cluster.query, &cluster.half] {
            assert_eq!(comparable(server.get(&path).await.ok()).to_string(), expected.to_string(), "{path}");
        }
    }
    let status = cluster.query.get("/v1/status").await.ok();
    let owners: Vec<&Json> = status["partitions"].as_array().expect("rows").iter().map(|p| &p["owner"]).collect();
    assert_eq!(owners, ["a", "b", "a", "b"]);
}

#[tokio::test]
async fn a_partition_whose_owner_is_gone_is_an_error_until_another_has_it() {
    let options = QueryOptions { owner_timeout_ms: 500, ..QueryOptions::default() };
    let cluster = Cluster::start_with(options, OwnerOptions::default()).await;
    let (in_a, in_b) = (path_of(&room_in(0)), path_of(&room_in(1)));
    let positions = one_message_each(&cluster.single, &[room_in(0), room_in(1)]).await;
    cluster.caught_up(&positions).await;

    cluster.b.stop().await;
    assert_unavailable(&cluster.query.get(&in_b).await, "cannot be reached");
    assert_unavailable(&cluster.query.get("/v1/rooms").await, "cannot be reached");
    cluster.query.get(&in_a).await.ok();
    let document = cluster.single.get("/openapi.json").await.ok();
    for (path, unavailable) in [("/v1/status", json!("unavailable")), ("/v1/rebuild", Json::Null)] {
        let answer = cluster.query.get(path).await.ok();
        let schema = &document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"];
        let problems = schema::problems(&document, schema, &answer, path);
        assert!(problems.is_empty(), "{problems:#?}\n{answer:#}");
        assert_eq!(answer["partitions"].as_array().map(Vec::len), Some(4));
        let row = &answer["partitions"][1];
        assert_eq!((&row["phase"], &row["state_hash"]), (&unavailable, &Json::Null), "{row}");
        assert!(row["error"].as_str().is_some_and(|error| error.contains("cannot be reached")), "{row}");
        assert!(answer["partitions"][0]["state_hash"].is_string());
        assert_eq!(answer["as_of"]["positions"].as_array().map(Vec::len), Some(2), "only those that answered");
    }
    let status = cluster.query.get("/v1/status").await.ok();
    assert_eq!((&status["partitions"][1]["owner"], &status["lag"]), (&json!("b"), &Json::Null));

    cluster.release(Partition::room(1));
    assert_unavailable(&cluster.query.get(&in_b).await, "owned by no process");
    assert_eq!(cluster.query.get("/v1/status").await.ok()["partitions"][1]["owner"], Json::Null);

    cluster.give(Partition::room(1), &cluster.a, 2);
    let path = format!("{in_b}?at={NOON}&at_least={positions}");
    assert_same(&cluster.single.get(&path).await, &cluster.query.get(&path).await, &path);
}

/// Asks while nobody can answer; what `then` does must bring the answer.
async fn answered_after(cluster: &Cluster, path: &str, then: impl AsyncFnOnce()) -> Answer {
    let mut asked = std::pin::pin!(cluster.query.get(path));
    // Asked at least once in vain before anything happens: the request is under way when it does.
    let early = tokio::time::timeout(Duration::from_millis(100), &mut asked).await;
    assert!(early.is_err(), "nobody can answer yet: {}", early.map(|answer| answer.body).unwrap_or_default());
    then().await;
    asked.await
}

#[tokio::test]
async fn a_partition_that_moves_is_followed() {
    let options = QueryOptions { owner_timeout_ms: FOREVER_MS, ..QueryOptions::default() };
    let cluster = Cluster::start_with(options, OwnerOptions::default()).await;
    let positions = one_message_each(&cluster.single, &[room_in(0), room_in(1)]).await;
    cluster.caught_up(&positions).await;
    let room = Partition::room(1);
    let path = format!("{}?at={NOON}", path_of(&room_in(1)));
    let expected = cluster.single.get(&path).await;

    // Nobody has it for a while.
    cluster.release(room);
    let answer = answered_after(&cluster, &path, async || cluster.give(room, &cluster.a, 2)).await;
    assert_same(&expected, &answer, "released and given");

    // A stale directory: the owner that it names has lost the partition already and says so.
    let to_b = record("b", &cluster.b.address, 3);
    cluster.a.table.apply(room, to_b.clone());
    cluster.b.table.apply(room, to_b.clone());
    let refreshed = async || assert!(cluster.query.table.apply(room, to_b));
    assert_same(&expected, &answered_after(&cluster, &path, refreshed).await, "a stale directory");

    // A zombie: it believes to own what everybody else knows to be another's, here its own next generation.
    let next = record("b", &cluster.b.address, 4);
    cluster.query.table.apply(room, next.clone());
    let learnt = async || assert!(cluster.b.table.apply(room, next));
    assert_same(&expected, &answered_after(&cluster, &path, learnt).await, "an owner behind its generation");

    // An owner that takes connections and never says a word; a ranking waits for it as well.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    cluster.tell(room, &record("silent", &silent.local_addr().expect("an address").to_string(), 5));
    let answer = answered_after(&cluster, "/v1/rooms", async || cluster.give(room, &cluster.b, 6)).await;
    assert_eq!(answer.ok()["rooms"].as_array().map(Vec::len), Some(2));

    // Waiting for a position follows too.
    let command = "Group.CallbackAfterSendMsg";
    let next = Position { partition: room, offset: cluster.single.log.end(room) };
    let waiting = format!("{}?at_least={next}", path_of(&room_in(1)));
    let answer = answered_after(&cluster, &waiting, async || {
        cluster.give(room, &cluster.a, 7);
        cluster.single.append(APP, command, &message(command, &room_in(1), "bob", 99, NOON), NOON).await;
    });
    assert_eq!(answer.await.ok()["messages"]["delivered"], 2);
}

#[tokio::test]
async fn an_owner_that_does_not_answer_costs_the_deadline_and_no_more() {
    let options = QueryOptions { owner_timeout_ms: 200, at_least_wait_ms: 200, ..QueryOptions::default() };
    let cluster = Cluster::start_with(options, OwnerOptions::default()).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = silent.local_addr().expect("an address").to_string();
    cluster.tell(Partition::room(1), &record("silent", &address, 2));
    assert_unavailable(&cluster.query.get(&path_of(&room_in(1))).await, "did not answer in time");
    let waited = cluster.query.get(&format!("{}?at_least=room/1@0", path_of(&room_in(1)))).await;
    assert_eq!((waited.status, &waited.json["error"]["code"]), (504, &json!("not_yet")), "{}", waited.body);
    let never = cluster.query.get("/v1/status?at_least=room/0@999999").await;
    assert_eq!((never.status, &never.json["error"]["code"]), (504, &json!("not_yet")));
    let message = never.json["error"]["message"].as_str().expect("a message");
    assert!(message.contains("has not reached offset 999999 yet"), "as the owner says: {message}");
    // The silent one is listed, and the others tell their state.
    let status = cluster.query.get("/v1/status").await.ok();
    assert_eq!(status["partitions"][1]["phase"], "unavailable");
    assert_eq!(status["partitions"][3]["phase"], "live");
}

#[tokio::test]
async fn the_one_app_is_found_in_whatever_partition_it_was_seen() {
    let cluster = Cluster::start().await;
    let reads = cluster.reads(KEY, Vec::new()).await;
    let answer = reads.get("/v1/users/ann").await;
    assert_eq!((answer.status, &answer.json["error"]["code"]), (400, &json!("app_needed")));
    let positions = one_message_each(&cluster.single, &[room_in(1)]).await;
    cluster.caught_up(&positions).await;
    let room = reads.get(&path_of(&room_in(1))).await.ok();
    assert_eq!(room["messages"]["delivered"], 1);
}

#[tokio::test]
async fn large_answers_travel_up_to_the_limit() {
    // Larger than gRPC's usual limit of 4 MiB: JSON writes each of these characters in six bytes.
    let rooms: Vec<String> = (0..1_000).map(|n| format!("{n} {}", "\u{1}".repeat(1_000))).collect();
    let cluster = Cluster::start().await;
    cluster.give(Partition::room(0), &cluster.b, 2);
    let positions = one_message_each(&cluster.single, &rooms).await;
    let path = format!("/v1/rooms?limit=1000&at={NOON}&at_least={positions}");
    let answer = cluster.query.get(&path).await;
    assert!(answer.body.len() > 4_000_000);
    assert_same(&cluster.single.get(&path).await, &answer, "a large page");

    let small = OwnerOptions { answer_bytes_max: 64 << 10, ..OwnerOptions::default() };
    let cluster = Cluster::start_with(QueryOptions::default(), small).await;
    let positions = one_message_each(&cluster.single, &rooms[..40]).await;
    let refused = cluster.query.get(&format!("/v1/rooms?at_least={positions}")).await;
    assert_eq!((refused.status, &refused.json["error"]["code"]), (500, &json!("failed")), "{}", refused.body);
    assert!(refused.json["error"]["hint"].as_str().is_some_and(|hint| hint.contains("limit=")), "{}", refused.body);
    let page = cluster.query.get("/v1/rooms?limit=5").await.ok();
    assert_eq!(page["rooms"].as_array().map(Vec::len), Some(5), "a smaller page is no problem");
}

#[tokio::test]
async fn an_owner_takes_as_many_waits_as_it_has_places_for() {
    let owner_options = OwnerOptions { waits_in_flight_max: 1, ..OwnerOptions::default() };
    let options = QueryOptions { at_least_wait_ms: FOREVER_MS, ..QueryOptions::default() };
    let cluster = Cluster::start_with(options, owner_options).await;
    let end = cluster.single.log.end(Partition::room(1));
    let path = format!("/v1/status?at_least={}", Position { partition: Partition::room(1), offset: end });
    let (one, other) = (Box::pin(cluster.query.get(&path)), Box::pin(cluster.half.get(&path)));
    // Neither has what it waits for, so the first that ends is the one for which there was no place.
    let (first, left) = futures_util::future::select(one, other).await.factor_first();
    assert_eq!(first.status, 504, "{}", first.body);
    assert!(first.body.contains("too many questions are at work"), "{}", first.body);
    one_message_each(&cluster.single, &[room_in(1)]).await;
    left.await.ok();
}

#[tokio::test]
async fn who_has_not_the_key_or_speaks_nonsense_is_refused() {
    let cluster = Cluster::start().await;
    let stranger = cluster.reads("another key", vec![APP]).await;
    let refused = stranger.get("/v1/users/ann").await;
    assert_eq!((refused.status, &refused.json["error"]["code"]), (500, &json!("failed")), "{}", refused.body);
    assert!(refused.json["error"]["hint"].as_str().is_some_and(|hint| hint.contains("BARRAGE_API_KEY")));
    for nonsense in [&b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..], &[0xff; 4_096], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0"] {
        let mut stream = TcpStream::connect(&cluster.b.address).await.expect("connected");
        stream.write_all(nonsense).await.expect("sent");
        stream.shutdown().await.expect("closed");
        let mut answer = Vec::new();
        // However it ends, it ends.
        drop(stream.read_to_end(&mut answer).await);
    }
    assert_eq!(cluster.query.get("/v1/status").await.ok()["partitions"][1]["phase"], "live");
}

#[tokio::test]
async fn an_owner_describes_its_service_to_whoever_asks() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_response::MessageResponse};
    let cluster = Cluster::start().await;
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", cluster.a.address));
    let channel = endpoint.expect("an address").connect_lazy();
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let requests = futures_util::stream::iter([list]);
    let answers = ServerReflectionClient::new(channel).server_reflection_info(requests).await.expect("answered");
    let answer = answers.into_inner().message().await.expect("a message").and_then(|answer| answer.message_response);
    let Some(MessageResponse::ListServicesResponse(list)) = answer else { panic!("{answer:?}") };
    assert!(list.service.iter().any(|service| service.name == "barrage.internal.v1.Owner"), "{list:?}");
}
