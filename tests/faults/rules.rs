//! Rules that are applied at one process are followed by all.

use std::time::Instant;

use barrage_kafka_fixture::{Broker, prefix};

use crate::common::cluster::{Cluster, KEY, Process};
use crate::common::scene::alone;
use crate::common::{post, run_with, wait_until};

const PATH: &str = "/callback?SdkAppid=1400000000&CallbackCommand=Group.CallbackBeforeSendMsg&contenttype=json";

/// Asks an ingest whether a message may be sent; the code of its answer.
fn verdict(ingest: &Process, number: u64) -> u64 {
    let body = format!(
        r#"{{"CallbackCommand":"Group.CallbackBeforeSendMsg","GroupId":"room_1","Type":"AVChatRoom","From_Account":"user_1","Operator_Account":"user_1","Random":{number},"MsgId":"m-{number}","MsgBody":[{{"MsgType":"TIMTextElem","MsgContent":{{"Text":"a Forbidden word"}}}}]}}"#
    );
    let (status, reply) = post(ingest.callback.as_deref().expect("an ingest"), PATH, &[], &body);
    assert_eq!(status, 200, "{reply}");
    let reply: serde_json::Value = serde_json::from_str(&reply).expect("JSON");
    reply["ErrorCode"].as_u64().expect("a code")
}

#[test]
fn a_word_that_is_banned_is_rejected_by_every_ingest() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(1);
    let cluster = Cluster::start(dir.path(), &broker.brokers(), &prefix(), (2, 1, 1));
    let mut number = 0;
    for (text, code) in [
        ("[[before.words]]\nwords = [\"forbidden\"]\nmatch = \"whole\"\naction = \"reject\"\ncode = 10101\n", 10_101),
        ("[before.mute]\nrooms = [\"room_1\"]\n", 1),
        ("[before.mute]\nrooms = [\"room_2\"]\n", 0),
    ] {
        let file = dir.path().join("rules.toml");
        std::fs::write(&file, text).expect("written");
        let asked = Instant::now();
        let (exit, output) = run_with(
            ["rules", "apply", file.to_str().expect("UTF-8"), "--query", cluster.query()],
            &[("BARRAGE_API_KEY", KEY)],
        );
        assert_eq!(exit, 0, "{output}");
        let applied = Instant::now();
        for (place, ingest) in cluster.ingests.iter().enumerate() {
            wait_until("an ingest follows", || {
                number += 1;
                (verdict(ingest, number) == code).then_some(())
            });
            println!(
                "code {code}: ingest {place} follows {} ms after the command, which took {} ms",
                applied.elapsed().as_millis(),
                (applied - asked).as_millis()
            );
        }
        let versions = || cluster.ingests.iter().map(|ingest| ingest.metric("barrage_ingest_rules_version"));
        assert_eq!(versions().fold(0.0, f64::max), versions().fold(f64::MAX, f64::min), "all stamp the same version");
    }
    cluster.stop();
}
