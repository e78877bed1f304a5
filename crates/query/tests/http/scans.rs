//! Reads that walk over many rows, and what does not wait for them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use barrage_projection::{Projection, ReadContext, Statistic, StoreError, ViewersPage};
use barrage_query::QueryOptions;
use serde_json::{Value as Json, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::harness::{PATIENCE, Service, statistics};
use crate::{APP, busy};

/// Walks that are at work.
static AT_WORK: AtomicUsize = AtomicUsize::new(0);

/// A walk over rows that has no end.
struct Endless;

impl Statistic for Endless {
    fn name(&self) -> &'static str {
        "endless"
    }

    fn state_version(&self) -> u32 {
        1
    }

    fn projections(&self) -> Vec<Box<dyn Projection>> {
        Vec::new()
    }

    fn viewer_sorts(&self) -> &'static [&'static str] {
        &["endless"]
    }

    fn viewers(
        &self,
        cx: &ReadContext<'_>,
        _: &str,
        _: &str,
        _: usize,
        _: Option<&str>,
    ) -> Result<Option<ViewersPage>, StoreError> {
        AT_WORK.fetch_add(1, Ordering::SeqCst);
        loop {
            if let Err(error) = cx.reader.get_row(&[]) {
                AT_WORK.fetch_sub(1, Ordering::SeqCst);
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn with_endless() -> Vec<Box<dyn Statistic>> {
    let mut all = statistics();
    all.push(Box::new(Endless));
    all
}

async fn at_work(count: usize) {
    let reached = async {
        while AT_WORK.load(Ordering::SeqCst) != count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.expect("so many walks are at work");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn walks_hold_up_others_of_their_kind_for_a_while_and_nobody_else() {
    let options = QueryOptions { at_least_wait_ms: 2_000, ..QueryOptions::default() };
    let service = Service::start_of(vec![APP], options, with_endless).await;
    let positions = busy(&service, &[("a", 3), ("b", 5)], "ann").await;
    service.get(&format!("/v1/status?at_least={positions}")).await.ok();
    let mut walks = Vec::new();
    for _ in 0..4 {
        let mut walk = TcpStream::connect(service.address()).await.expect("connected");
        let request = b"GET /v1/rooms/a/viewers?sort=endless HTTP/1.1\r\nhost: x\r\n\r\n";
        walk.write_all(request).await.expect("sent");
        walks.push(walk);
    }
    at_work(4).await;

    // Every place is taken, and none is needed to read a room, its place, or a ranking that is in memory.
    let room = service.get("/v1/rooms/a").await.ok();
    assert_eq!(room["heat"]["rank"], 2, "{room}");
    for path in ["/v1/rooms?sort=heat", "/v1/recommendations"] {
        let page = service.get(path).await.ok();
        let rooms: Vec<&Json> = page["rooms"].as_array().expect("rooms").iter().map(|room| &room["room"]).collect();
        assert_eq!(rooms, ["b", "a"], "{path}");
    }
    service.get("/v1/users/ann").await.ok();
    for path in ["/v1/levels", "/v1/rooms?sort=messages", "/v1/rooms/a/viewers"] {
        let start = Instant::now();
        let refused = service.get(path).await;
        assert_eq!((refused.status, &refused.json["error"]["code"]), (503, &json!("overloaded")), "{path}");
        assert_eq!(refused.header("retry-after"), Some("1"), "{path}");
        assert!(start.elapsed() >= Duration::from_millis(900), "it was worth a wait");
    }

    // Nobody waits for them any more: they end, and only then are their places free.
    drop(walks);
    at_work(0).await;
    let levels = service.get("/v1/levels").await.ok();
    assert_eq!(levels["accounts"], 1);
}
