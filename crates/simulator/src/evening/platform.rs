//! What the platform sends that concerns no chat: streams, alerts, push reports, friends, and the unknown.

use super::Evening;
use super::post::{Callback, Client, Repeats, Timing};
use crate::agenda::Happening;
use crate::body::{Object, array, text_element};
use crate::line::LineKind;
use crate::people::PersonId;
use crate::rooms::RoomId;
use crate::text;

/// How stream callbacks are counted: they name no command.
const STREAM: &str = "stream";

impl Evening {
    /// Live streaming's own callback: a push began or ended. Its URL names no command and its times are seconds.
    pub(super) fn stream(&mut self, id: RoomId, begins: bool) {
        if begins {
            self.streams += 1;
            self.room(id).stream_sequence = 2_210_464_508_206_000_000 + self.streams;
        }
        let event_s = self.now_ms / 1_000;
        let room = self.room(id);
        let sequence = room.stream_sequence.to_string();
        let (code, message) = match (begins, self.now_ms % 3) {
            (true, _) => (0, "ok"),
            (false, 0) => (12, "The push client's network failed"),
            (false, _) => (1, "The push client actively stopped the push"),
        };
        let group_id = &self.rooms[id.0 as usize].group_id;
        let mut body = Object::new()
            .text("app", "push.example.com")
            .number("appid", 1_250_000_000)
            .text("appname", "live")
            .text("channel_id", group_id)
            .text("stream_id", group_id)
            .number("errcode", code)
            .text("errmsg", message)
            .number("event_time", event_s)
            .number("event_type", i64::from(begins))
            .text("sequence", &sequence)
            .number("set_id", 2)
            .text("stream_param", "txSecret=x&txTime=y")
            .text("user_ip", "198.51.100.7")
            .number("t", event_s + 600);
        if !begins {
            self.room(id).stream_sequence = 0;
            body = body.text("push_duration", "60000");
        }
        let query = vec![("SdkAppid", self.app.clone())];
        let at_ms = self.now_ms + self.random.between(20, 400);
        self.send(at_ms, LineKind::Callback { query, body: body.end() }, STREAM, Some(id), true);
    }

    /// Something that concerns no room, and plans the next such thing.
    pub(super) fn other(&mut self) {
        if !self.lasts() {
            return;
        }
        let mean_ms = 60_000 / u64::from(self.config.other_callbacks_per_minute.max(1));
        let after_ms = self.random.exponential_ms(mean_ms);
        self.plan_in(after_ms, Happening::Other);
        if self.viewers < 2 {
            return;
        }
        match self.random.below(100) {
            0..=39 => self.private_message(),
            40..=54 => self.custom_status(),
            55..=64 => self.friends(),
            65..=74 => self.push_report(),
            75..=84 => self.alert(),
            _ => self.unknown_command(),
        }
    }

    fn some_viewer(&mut self) -> PersonId {
        let number = self.random.below(self.viewers.into());
        PersonId(self.viewers_from + u32::try_from(number).expect("below a u32"))
    }

    fn caused_by_viewer(&mut self, command: &'static str, body: Object, person: PersonId, repeats: Repeats) {
        let platform = self.person(person).platform;
        self.call_back(Callback {
            command,
            body,
            event_ms: self.now_ms,
            client: Client::Of(person, platform),
            room: None,
            timing: Timing::Usual,
            repeats,
        });
    }

    fn private_message(&mut self) {
        let (from, to) = (self.some_viewer(), self.some_viewer());
        let (sequence, random) = (self.random.between(1, 60_000), self.random.u32());
        let time_s = self.now_ms / 1_000;
        let elements = array([text_element(&text::chat(&mut self.random))]);
        let (sender, receiver) = (self.person(from).account.clone(), self.person(to).account.clone());
        let message = |command: &str| {
            Object::callback(command)
                .text("From_Account", &sender)
                .text("To_Account", &receiver)
                .number("MsgSeq", sequence)
                .number("MsgRandom", random)
                .number("MsgTime", time_s)
                .text("MsgKey", &format!("{sequence}_{random}_{time_s}"))
                .number("OnlineOnlyFlag", 0)
                .json("MsgBody", &elements)
                .text("CloudCustomData", "")
        };
        let before = message("C2C.CallbackBeforeSendMsg");
        self.caused_by_viewer("C2C.CallbackBeforeSendMsg", before, from, Repeats::Never);
        let after = message("C2C.CallbackAfterSendMsg")
            .number("SendMsgResult", 0)
            .text("ErrorInfo", "send msg succeed")
            .number("UnreadMsgNum", 1);
        self.caused_by_viewer("C2C.CallbackAfterSendMsg", after, from, Repeats::WithEventTime);
        if self.random.permille(300) {
            let read = Object::callback("C2C.CallbackAfterMsgReport")
                .text("Report_Account", &receiver)
                .text("Peer_Account", &sender)
                .number("LastReadTime", time_s)
                .number("UnreadMsgNum", 0);
            self.caused_by_viewer("C2C.CallbackAfterMsgReport", read, to, Repeats::WithEventTime);
        }
    }

    fn custom_status(&mut self) {
        let person = self.some_viewer();
        if !self.person(person).is_online() {
            return;
        }
        let info = Object::new()
            .text("Action", "CustomStatusChange")
            .text("To_Account", &self.person(person).account)
            .text("Reason", "SetCustomStatus")
            .text("CustomStatus", "watching 直播")
            .end();
        let body = Object::callback("State.StateChange").json("Info", &info);
        self.person(person).last_sign_ms = self.now_ms;
        self.caused_by_viewer("State.StateChange", body, person, Repeats::Never);
    }

    fn friends(&mut self) {
        let person = self.some_viewer();
        let other = self.some_viewer();
        let (account, friend) = (self.person(person).account.clone(), self.person(other).account.clone());
        let (command, body) = match self.random.below(3) {
            0 => {
                let pair = Object::new().text("From_Account", &account).text("To_Account", &friend).end();
                let command = "Sns.CallbackFriendAdd";
                (command, Object::callback(command).json("PairList", &array([pair])))
            }
            1 => {
                let command = "Follow.CallbackAfterFollowAdd";
                (command, Object::callback(command).text("From_Account", &account).text("To_Account", &friend))
            }
            _ => {
                let item = Object::new().text("Tag", "Tag_Profile_IM_Nick").text("Value", "新名字").end();
                let command = "Profile.CallbackPortraitSet";
                (command, Object::callback(command).text("From_Account", &account).json("ProfileItem", &array([item])))
            }
        };
        self.caused_by_viewer(command, body, person, Repeats::WithEventTime);
    }

    /// A report of many pushes at once: each event has its own command, and its times are seconds.
    fn push_report(&mut self) {
        let command = self.random.pick(&["Push.AllMemberPush", "Push.OfflinePush"]);
        let most = if self.random.permille(50) { 100 } else { 8 };
        let count = 1 + self.random.index(most);
        let mut events = Vec::with_capacity(count);
        for number in 0..count {
            let person = self.some_viewer();
            let event = Object::callback(command)
                .number("EventType", 1 + i64::from(number % 3 == 0))
                .text("TaskId", &format!("task_{}", self.now_ms))
                .text("To_Account", &self.person(person).account)
                .number("EventTime", self.now_ms / 1_000);
            events.push(event.end());
        }
        let body = Object::new().json("Events", &array(events));
        self.of_platform(command, body);
    }

    fn alert(&mut self) {
        let (command, body) = if self.random.permille(700) {
            let body = Object::callback("Alert.RequestOverLimit")
                .text("ServiceName", "group_open_http_svc")
                .text("Command", "send_group_msg")
                .number("Request", self.random.between(160, 260))
                .number("Limit", 200);
            ("Alert.RequestOverLimit", body)
        } else {
            let body = Object::callback("Group.CallbackOnDailyGroupQuotaAlarm")
                .number("QuotaUsed", self.random.between(7_000, 9_999))
                .number("Quota", 10_000);
            ("Group.CallbackOnDailyGroupQuotaAlarm", body)
        };
        self.of_platform(command, body);
    }

    /// Commands that no documentation names, some with fields that look like a message's.
    fn unknown_command(&mut self) {
        let person = self.some_viewer();
        let room = self.random.index(self.rooms.len());
        let (command, body) = match self.random.below(4) {
            0 => {
                let command = "Group.CallbackAfterMemberKicked";
                (command, Object::callback(command).text("GroupId", &self.rooms[room].group_id))
            }
            1 => {
                let command = "Future.CallbackNobodyKnows";
                (command, Object::callback(command).json("Something", "{\"new\":[1,2.5,null,true,\"✨\"]}"))
            }
            2 => {
                let command = "Group.CallbackAfterReactionAdded";
                let body = Object::callback(command).text("GroupId", &self.rooms[room].group_id);
                (command, body.text("From_Account", &self.people[person.0 as usize].account).number("MsgSeq", 1))
            }
            _ => {
                let command = "Live.CallbackAfterSeatChanged";
                (command, Object::callback(command).text("RoomId", &self.rooms[room].group_id))
            }
        };
        self.caused_by_viewer(command, body, person, Repeats::Never);
    }

    /// A callback that no client caused; its body has no EventTime of its own.
    fn of_platform(&mut self, command: &'static str, body: Object) {
        self.call_back(Callback {
            command,
            body,
            event_ms: self.now_ms,
            client: Client::None,
            room: None,
            timing: Timing::NoEventTime,
            repeats: Repeats::Never,
        });
    }
}
