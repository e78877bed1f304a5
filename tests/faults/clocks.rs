//! Ingests whose clocks are wrong by an hour, beside one whose clock is right.
//!
//! A process is given another clock by a library that is preloaded into it (`clock.c`): the kernel has no wall clock of
//! its own for a namespace, and setting the machine's would concern the brokers, too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use barrage_kafka_fixture::{Broker, prefix};
use sha2::{Digest as _, Sha256};

use crate::common::cluster::{Cluster, KEY, Own, Process};
use crate::common::scene::{alone, replays_cleanly};
use crate::common::{get, post, run_with, wait_until};

const HOUR_S: i64 = 3_600;
/// What is added to the clock of each ingest, seconds.
const SHIFTS: [i64; 3] = [0, HOUR_S, -HOUR_S];
const TOKEN: &str = "a-token-of-the-console";
/// Messages of each part.
const MESSAGES: usize = 240;
const ROOMS: usize = 3;
const SENDERS: usize = 5;

fn shifting_library(dir: &Path) -> PathBuf {
    let (source, library) =
        (Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/faults/clock.c"), dir.join("clock.so"));
    let done = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status();
    assert!(done.expect("a C compiler, which the build needs as well").success());
    library
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_millis()).expect("before the year 9999")
}

/// The two callbacks of a message may come minutes apart, not an hour: on a machine that is busy with other tests more
/// than the usual ten seconds may lie between them.
fn patient_joins(dir: &Path, cluster: &Cluster) {
    let file = dir.join("rules.toml");
    std::fs::write(&file, "[windows]\njoin_ms = 300_000\n").expect("written");
    let arguments = ["rules", "apply", file.to_str().expect("UTF-8"), "--query", cluster.query()];
    let (exit, output) = run_with(arguments, &[("BARRAGE_API_KEY", KEY)]);
    assert_eq!(exit, 0, "{output}");
    for ingest in &cluster.ingests {
        wait_until("the rules are followed", || (ingest.metric("barrage_ingest_rules_version") >= 2.0).then_some(()));
    }
}

/// Posts one callback as IM does: signed, with the time of IM's clock, which is the right one.
fn callback(ingest: &Process, command: &str, body: &str, signed: bool) -> (u16, String) {
    let mut path = format!("/callback?SdkAppid=1400000000&CallbackCommand={command}&contenttype=json");
    if signed {
        let request_time = (now_ms() / 1_000).to_string();
        let sign = Sha256::digest(format!("{TOKEN}{request_time}"));
        let sign: String = sign.iter().map(|byte| format!("{byte:02x}")).collect();
        path.push_str(&format!("&Sign={sign}&RequestTime={request_time}"));
    }
    post(ingest.callback.as_deref().expect("an ingest"), &path, &[], body)
}

fn send(ingest: &Process, command: &str, body: &str, signed: bool) {
    let (status, reply) = callback(ingest, command, body, signed);
    assert!(
        status == 200 && reply.contains("\"ErrorCode\":0"),
        "{command} at {}: {status} {reply}",
        ingest.dir.display()
    );
}

/// Messages whose two callbacks come in at two ingests, every third again at the third ingest, as IM does after a
/// time-out. Ids of messages begin with `part`.
fn messages(cluster: &Cluster, part: &str, signed: bool) {
    std::thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                for number in (thread..MESSAGES).step_by(8) {
                    let (room, sender) = (number % ROOMS, number % SENDERS);
                    let at = now_ms();
                    let message = format!(
                        r#""GroupId":"room_{room}","Type":"AVChatRoom","From_Account":"user_{sender}","Operator_Account":"user_{sender}","Random":{number},"MsgId":"{part}-{number}","MsgBody":[{{"MsgType":"TIMTextElem","MsgContent":{{"Text":"hello"}}}}]"#,
                    );
                    let ingest = |n: usize| &cluster.ingests[n % SHIFTS.len()];
                    let (before, after) = ("Group.CallbackBeforeSendMsg", "Group.CallbackAfterSendMsg");
                    send(
                        ingest(number),
                        before,
                        &format!(r#"{{"CallbackCommand":"{before}",{message},"EventTime":{at}}}"#),
                        signed,
                    );
                    let delivered = format!(
                        r#"{{"CallbackCommand":"{after}",{message},"MsgSeq":{},"MsgTime":{},"EventTime":{at}}}"#,
                        number + 1,
                        at / 1_000
                    );
                    send(ingest(number + 1), after, &delivered, signed);
                    if number % 3 == 0 {
                        send(ingest(number + 2), after, &delivered, signed);
                    }
                }
            });
        }
    });
}

fn right_totals(cluster: &Cluster, parts: usize) {
    let mut found = BTreeMap::new();
    for room in 0..ROOMS {
        let (status, answer) = get(cluster.query(), &format!("/v1/rooms/room_{room}"));
        assert_eq!(status, 200, "{answer}");
        let messages = &answer["messages"];
        let count = |name: &str| messages[name].as_u64().unwrap_or(0);
        found.insert(room, ["attempted", "delivered", "throttled", "failed", "unattempted"].map(count));
    }
    let each = (parts * MESSAGES / ROOMS) as u64;
    let expected: BTreeMap<_, _> = (0..ROOMS).map(|room| (room, [each, each, 0, 0, 0])).collect();
    assert_eq!(found, expected, "attempted, delivered, throttled, failed, unattempted");
    for sender in 0..SENDERS {
        let (_, answer) = get(cluster.query(), &format!("/v1/users/user_{sender}"));
        assert_eq!(answer["messages"]["delivered"], parts * MESSAGES / SENDERS, "user_{sender}: {answer}");
    }
}

/// A clock that is wrong raises an alarm that says how far; callbacks are taken all the same, signed or not, and count
/// what they count.
#[test]
fn ingests_an_hour_ahead_and_behind_alarm_and_count_right() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("a directory");
    let library = shifting_library(dir.path());
    let broker = Broker::start(1);
    let own = |role: &str, number: usize| match role {
        "ingest" => Own::default().with("LD_PRELOAD", library.display()).with("CLOCK_SHIFT_S", SHIFTS[number]),
        _ => Own::default(),
    };
    let mut cluster = Cluster::start_with(dir.path(), &broker.brokers(), &prefix(), (3, 1, 1), &own);
    patient_joins(dir.path(), &cluster);
    messages(&cluster, "plain", false);
    cluster.drained();
    right_totals(&cluster, 1);
    for (ingest, shift) in cluster.ingests.iter().zip(SHIFTS) {
        alarms(ingest, "barrage_log_clock_ahead_seconds", "this machine's clock and the log's differ", shift);
    }

    // The same with signatures, whose times are to be within a minute.
    for ingest in &mut cluster.ingests {
        ingest.stop();
        ingest.environment.push(("BARRAGE_INGEST_TOKEN".to_owned(), TOKEN.to_owned()));
        ingest.restart();
    }
    messages(&cluster, "signed", true);
    let status = cluster.drained();
    right_totals(&cluster, 2);
    for (ingest, shift) in cluster.ingests.iter().zip(SHIFTS) {
        alarms(ingest, "barrage_log_clock_ahead_seconds", "this machine's clock and the log's differ", shift);
        alarms(ingest, "barrage_ingest_clock_skew_seconds", "this machine's clock and IM's RequestTime differ", shift);
        assert_eq!(ingest.metric("barrage_ingest_rejected_total"), 0.0);
    }
    replays_cleanly(dir.path(), &broker.brokers(), cluster, &status);
}

fn alarms(ingest: &Process, metric: &str, line: &str, shift: i64) {
    let (found, told) = (ingest.metric(metric), ingest.log().contains(line));
    println!("{metric} of an ingest whose clock is {shift} s off: {found}");
    assert!((found - shift as f64).abs() < 30.0, "{metric}: {found}");
    assert_eq!(told, shift != 0, "{line}: {}", ingest.log());
}

/// Clocks that are set while callbacks come, and set back: no callback is refused for it, not the first one, and none is
/// counted under a wrong time. An ingest that starts while Kafka is away cannot know; it finds out when Kafka is back.
#[test]
fn a_clock_that_is_set_at_run_time_alarms_and_loses_nothing() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("a directory");
    let (library, wrong) = (shifting_library(dir.path()), dir.path().join("wrong"));
    let broker = Broker::start(1);
    let own = |role: &str, number: usize| match role {
        "ingest" => Own::default()
            .with("LD_PRELOAD", library.display())
            .with("CLOCK_SHIFT_S", SHIFTS[number])
            .with("CLOCK_SHIFT_WHILE", wrong.display())
            .with("BARRAGE_INGEST_TOKEN", TOKEN),
        _ => Own::default(),
    };
    let mut cluster = Cluster::start_with(dir.path(), &broker.brokers(), &prefix(), (3, 1, 1), &own);
    patient_joins(dir.path(), &cluster);
    messages(&cluster, "right", true);
    for (part, is_wrong) in [("wrong", true), ("right-again", false)] {
        if is_wrong {
            std::fs::write(&wrong, "").expect("written");
        } else {
            std::fs::remove_file(&wrong).expect("removed");
        }
        // At once: nothing has come that could have told.
        messages(&cluster, part, true);
        for (ingest, shift) in cluster.ingests.iter().zip(SHIFTS) {
            let expected = if is_wrong { shift as f64 } else { 0.0 };
            wait_until("the clocks are compared", || {
                ((ingest.metric("barrage_log_clock_ahead_seconds") - expected).abs() < 30.0).then_some(())
            });
            let told =
                if is_wrong { "this machine's clock and the log's differ" } else { "agrees with the log's again" };
            if shift != 0 {
                wait_until("it is told", || ingest.log().contains(told).then_some(()));
            }
            assert_eq!(ingest.metric("barrage_ingest_rejected_total"), 0.0);
        }
    }
    cluster.drained();
    right_totals(&cluster, 3);

    // One that starts with a wrong clock, an empty spool, and without Kafka.
    std::fs::write(&wrong, "").expect("written");
    let ingest = &mut cluster.ingests[1];
    ingest.stop();
    broker.kill(1);
    ingest.restart();
    let join = |ingest: &Process| {
        let command = "Group.CallbackAfterNewMemberJoin";
        let body = format!(
            r#"{{"CallbackCommand":"{command}","GroupId":"other","Type":"AVChatRoom","NewMemberList":[{{"Member_Account":"somebody"}}],"EventTime":{}}}"#,
            now_ms()
        );
        callback(ingest, command, &body, true)
    };
    let (status, reply) = join(ingest);
    assert_ne!(status, 200, "a clock that nobody has compared: {reply}");
    broker.restart(1);
    wait_until("callbacks are taken", || (join(ingest).0 == 200).then_some(()));
    let status = cluster.drained();
    replays_cleanly(dir.path(), &broker.brokers(), cluster, &status);
}
