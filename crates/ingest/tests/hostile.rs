//! Requests that went through a mill: whatever arrives, the server answers or closes, counts, and goes on.

mod common;

use barrage_ingest::{IngestOptions, Secret};
use common::{KEY, Server, TOKEN, after_send, before_send, callback, options, post};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use tokio::io::AsyncWriteExt;

/// How many requests are sent.
const REQUESTS: usize = 600;

/// One change of a request's bytes.
#[derive(Debug, Clone)]
enum Edit {
    Set(usize, u8),
    Remove(usize, usize),
    Insert(usize, Vec<u8>),
    Double(usize, usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    let place = any::<usize>;
    let bytes = prop_oneof![
        vec(any::<u8>(), 1..20),
        Just(b"\r\n\r\n".to_vec()),
        Just(b"{\"CallbackCommand\":[[[".to_vec()),
        Just(b"\\ud800".to_vec()),
        Just(b"99999999999999999999".to_vec()),
        Just(b"%00%ff&SdkAppid=".to_vec()),
    ];
    prop_oneof![
        (place(), any::<u8>()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        (place(), 1..40_usize).prop_map(|(at, length)| Edit::Remove(at, length)),
        (place(), bytes).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        (place(), 1..200_usize).prop_map(|(at, length)| Edit::Double(at, length)),
    ]
}

fn apply(mut request: Vec<u8>, edits: &[Edit]) -> Vec<u8> {
    for edit in edits {
        let at = |place: usize| place % (request.len() + 1);
        match edit {
            Edit::Set(place, byte) => {
                let at = at(*place);
                if let Some(slot) = request.get_mut(at) {
                    *slot = *byte;
                }
            }
            Edit::Remove(place, length) => {
                let at = at(*place);
                request.drain(at..(at + length).min(request.len()));
            }
            Edit::Insert(place, bytes) => {
                let at = at(*place);
                request.splice(at..at, bytes.iter().copied());
            }
            Edit::Double(place, length) => {
                let at = at(*place);
                let piece = request[at..(at + length).min(request.len())].to_vec();
                request.splice(at..at, piece);
            }
        }
    }
    request
}

fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let gift = "[{\"type\":\"gift_billed\",\"id\":\"1\",\"app\":7,\"room\":\"r\",\"account\":\"a\",\"gift_id\":\"g\",\"count\":1,\"value\":1}]";
    let key = format!("Authorization: Bearer {KEY}\r\nBarrage-Received-At: 1\r\n");
    let whole = prop_oneof![
        Just(callback(&after_send("room", "user", "hi"))),
        Just(callback(&before_send("room", "user", "hi"))),
        Just(post("/v1/events", &key, gift.as_bytes())),
    ];
    (whole, vec(edit(), 0..6)).prop_map(|(request, edits)| apply(request, &edits))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_arrives_panics_or_goes_uncounted() {
    let strict = IngestOptions { token: Some(Secret::new(TOKEN)), ..options() };
    let mut server = Server::start(strict).await;
    let mut runner = TestRunner::deterministic();
    let mut answered = 0;
    for _ in 0..REQUESTS {
        let request = hostile().new_tree(&mut runner).expect("a strategy without rejections").current();
        let mut client = server.connect().await;
        // The server may close before it has read everything.
        let _ = client.write.write_all(&request).await;
        let _ = client.write.shutdown().await;
        while let Some(reply) = client.reply().await {
            answered += 1;
            assert!(
                (200..=503).contains(&reply.status) && reply.status != 500,
                "{reply:?}\n{}",
                request.escape_ascii()
            );
        }
    }
    assert!(answered > REQUESTS / 2, "the mill grinds too fine: {answered}");
    assert_eq!(server.send(&callback(&after_send("room", "user", "hi"))).await.status, 200);
    server.stop().await;
    server.check_conservation();
    for flow in ["barrage_ingest_", "barrage_ingest_events_"] {
        assert!(server.metric(&format!("{flow}appended_total")) > 0.0, "{flow}: some must pass");
        // A panic would end a request without an answer.
        assert_eq!(server.metric(&format!("{flow}rejected_total{{reason=\"aborted\"}}")), 0.0, "{flow}");
    }
}
