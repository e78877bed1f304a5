//! A change of rules: from the command's answer until every ingest decides by it.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::Bench;
use super::http::Connection;
use super::process::{KEY, Role};
use crate::percentiles::{ms, percentile};
use crate::report::{Aim, Report};
use crate::traffic::APP;

const PREFIX: &str = "rules.";
/// Time between two looks at an ingest.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// Longest wait for one to follow.
const PATIENCE: Duration = Duration::from_secs(30);

/// Reports how soon rules are followed.
pub(super) fn run(report: &mut Report, bench: &Bench<'_>) -> Result<()> {
    report.section("kafka rules", "`barrage rules apply`, until each of two ingests decides by the new version");
    let ingests =
        [bench.start(Role::Ingest, "ingest-1", PREFIX, &[])?, bench.start(Role::Ingest, "ingest-2", PREFIX, &[])?];
    let query = bench.start(Role::Query, "query", PREFIX, &[])?;
    let url = format!("http://{}", query.query()?);
    let mut connections = Vec::new();
    for ingest in &ingests {
        connections.push(Connection::new(&ingest.callback()?));
    }
    let file = bench.dir.join("rules.toml");
    let (mut commands, mut followed, mut number) = (Vec::new(), Vec::new(), 0);
    for change in 0..if bench.quick { 4 } else { 20 } {
        let muted = change % 2 == 0;
        std::fs::write(&file, format!("[before.mute]\nrooms = [\"room_{}\"]\n", if muted { 1 } else { 2 }))?;
        let asked = Instant::now();
        let output = std::process::Command::new(&bench.barrage)
            .args(["rules", "apply", "--query", &url])
            .arg(&file)
            .env("BARRAGE_API_KEY", KEY)
            .stdin(Stdio::null())
            .output()
            .context("run barrage rules apply")?;
        if !output.status.success() {
            bail!("barrage rules apply: {}", String::from_utf8_lossy(&output.stderr));
        }
        commands.push(asked.elapsed());
        let answered = Instant::now();
        for ingest in &mut connections {
            while is_muted(ingest, number)? != muted {
                if answered.elapsed() > PATIENCE {
                    bail!("an ingest does not follow rules that were applied {PATIENCE:?} ago");
                }
                number += 1;
                std::thread::sleep(LOOK_EVERY);
            }
            number += 1;
            followed.push(answered.elapsed());
        }
    }
    report.figure("the command itself, p50", ms(percentile(&mut commands, 0.5)), "ms");
    report.figure("its answer to an ingest that follows, p50", ms(percentile(&mut followed, 0.5)), "ms");
    let most = ms(percentile(&mut followed, 1.0));
    report.aimed("its answer to an ingest that follows, at most", most, "ms", Aim::AtMost(1_000.0));
    for process in [query].into_iter().chain(ingests) {
        process.stop()?;
    }
    Ok(())
}

/// Whether an ingest lets nobody write in the first room.
fn is_muted(ingest: &mut Connection, number: u64) -> Result<bool> {
    let body = format!(
        "{{\"CallbackCommand\":\"Group.CallbackBeforeSendMsg\",\"GroupId\":\"room_1\",\"Type\":\"AVChatRoom\",\
         \"From_Account\":\"user_1\",\"Operator_Account\":\"user_1\",\"Random\":{number},\"MsgId\":\"rules-{number}\",\
         \"MsgBody\":[{{\"MsgType\":\"TIMTextElem\",\"MsgContent\":{{\"Text\":\"may I?\"}}}}]}}"
    );
    let path = format!(
        "/callback?SdkAppid={APP}&CallbackCommand=Group.CallbackBeforeSendMsg&contenttype=json&OptPlatform=Web"
    );
    let (status, answer) = ingest.post(&path, body.as_bytes())?;
    let answer: serde_json::Value = serde_json::from_slice(&answer).context("the reply is JSON")?;
    match (status, answer.get("ErrorCode").and_then(serde_json::Value::as_u64)) {
        (200, Some(code)) => Ok(code != 0),
        _ => bail!("a before-callback was answered {status}: {answer}"),
    }
}
