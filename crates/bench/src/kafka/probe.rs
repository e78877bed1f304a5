//! Callbacks that only one reader sends, so that it knows what each number must be.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use barrage_event::routes::partition_of;

use super::http::Connection;
use crate::clock::now_ms;
use crate::traffic::APP;

/// Longest time until a number is readable: more than anything that is measured.
const PATIENCE: Duration = Duration::from_secs(90);

/// A room and an account that nobody else uses.
#[derive(Debug)]
pub(super) struct Probe {
    room: String,
    account: String,
    sent: u64,
}

impl Probe {
    /// One for each partition: its room and its account lie in the partitions of that number.
    pub(super) fn in_every_partition(name: &str, partitions: u16) -> Vec<Self> {
        let find = |what: &str, index: u16| {
            let mut keys = (0..u32::MAX).map(|number| format!("{name}_{what}_{number}"));
            keys.find(|key| partition_of(APP, key, partitions) == index).unwrap_or_default()
        };
        (0..partitions).map(|index| Self { room: find("room", index), account: find("user", index), sent: 0 }).collect()
    }

    /// Sends one delivered message and waits for its answer.
    pub(super) fn send(&mut self, ingest: &mut Connection) -> Result<()> {
        self.sent += 1;
        let (room, account, number, now) = (&self.room, &self.account, self.sent, now_ms());
        let body = format!(
            "{{\"CallbackCommand\":\"Group.CallbackAfterSendMsg\",\"GroupId\":\"{room}\",\"Type\":\"AVChatRoom\",\
             \"From_Account\":\"{account}\",\"Operator_Account\":\"{account}\",\"Random\":{number},\
             \"MsgId\":\"{room}-{number}\",\"OnlineOnlyFlag\":0,\"MsgSeq\":{number},\"MsgTime\":{},\
             \"MsgBody\":[{{\"MsgType\":\"TIMTextElem\",\"MsgContent\":{{\"Text\":\"is it there yet?\"}}}}],\
             \"EventTime\":{now}}}",
            now / 1_000
        );
        let path = format!(
            "/callback?SdkAppid={APP}&CallbackCommand=Group.CallbackAfterSendMsg&contenttype=json&OptPlatform=Web"
        );
        let (status, answer) = ingest.post(&path, body.as_bytes())?;
        if status != 200 {
            bail!("a callback was answered {status}: {}", String::from_utf8_lossy(&answer));
        }
        Ok(())
    }

    /// Reads the room's number until it holds everything that was sent.
    pub(super) fn wait_room(&self, query: &mut Connection, pause: Duration) -> Result<()> {
        self.wait(query, &format!("/v1/rooms/{}?app={APP}", self.room), pause)
    }

    /// Reads the account's number until it holds everything that was sent.
    pub(super) fn wait_account(&self, query: &mut Connection, pause: Duration) -> Result<()> {
        self.wait(query, &format!("/v1/users/{}?app={APP}", self.account), pause)
    }

    fn wait(&self, query: &mut Connection, path: &str, pause: Duration) -> Result<()> {
        let begun = Instant::now();
        loop {
            // What is not answered, or not known yet, is asked again.
            let delivered = match query.get(path) {
                Ok((200, body)) => {
                    let answer: serde_json::Value = serde_json::from_slice(&body).context("an answer is JSON")?;
                    answer.pointer("/messages/delivered").and_then(serde_json::Value::as_u64).unwrap_or(0)
                }
                Ok(_) | Err(_) => 0,
            };
            if delivered >= self.sent {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                bail!("{path} has {delivered} of {} after {} s", self.sent, PATIENCE.as_secs());
            }
            std::thread::sleep(pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_lie_where_they_should() {
        for (index, probe) in (0..).zip(Probe::in_every_partition("test", 16)) {
            assert_eq!(partition_of(APP, &probe.room, 16), index);
            assert_eq!(partition_of(APP, &probe.account, 16), index);
        }
    }
}
