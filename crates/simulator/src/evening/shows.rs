//! Rooms open, go on air, tell news and close.

use super::post::{Callback, Client, Repeats, Timing};
use super::{ADMINISTRATOR, Evening};
use crate::agenda::Happening;
use crate::body::{Object, array};
use crate::people::{PersonId, Platform};
use crate::rooms::{ONE_EVENT, RoomId, Stage};
use crate::text;

/// Share of a room's visits that come in the first part of the show, per mille, and that part of the show, per mille.
const RUSH: (u64, u64) = (450, 120);
/// Share of a room's visits that come steadily, per mille. The rest come for big gifts.
const STEADY: u64 = 350;

impl Evening {
    pub(super) fn host_comes(&mut self, room: RoomId) {
        let host = self.room(room).owner;
        self.connect(host, Platform::Ios);
        let own = self.random.between(400, 2_000);
        self.plan_in(own, Happening::Create(room));
    }

    pub(super) fn create(&mut self, id: RoomId) {
        let now_ms = self.now_ms;
        let room = self.room(id);
        room.stage = Stage::Live;
        let (host, group_type, name, group_id) =
            (room.owner, room.group_type, room.name.clone(), room.group_id.clone());
        let ends_ms = room.ends_ms;
        let account = self.person(host).account.clone();
        let body = Object::callback("Group.CallbackBeforeCreateGroup")
            .text("Operator_Account", &account)
            .text("Owner_Account", &account)
            .text("Type", group_type)
            .text("Name", &name)
            .number("CreateGroupNum", 1)
            .json("MemberList", "[]");
        self.call_back(Callback {
            command: "Group.CallbackBeforeCreateGroup",
            body,
            event_ms: now_ms,
            client: Client::Of(host, Platform::Ios),
            room: Some(id),
            timing: Timing::Usual,
            repeats: Repeats::Never,
        });
        let state = array([Object::new().text("Key", "room_state").text("Value", "pending").end()]);
        let body = Object::callback("Group.CallbackAfterCreateGroup")
            .text("GroupId", &group_id)
            .text("Operator_Account", &account)
            .text("Owner_Account", &account)
            .text("Type", group_type)
            .text("Name", &name)
            .json("MemberList", "[]")
            .json("UserDefinedDataList", &state);
        self.room_callback(id, "Group.CallbackAfterCreateGroup", body, host);
        self.plan_in(700, Happening::Open(id));
        if ends_ms < self.end_ms {
            self.agenda.plan(ends_ms.max(now_ms + 5_000), Happening::End(id));
        }
    }

    pub(super) fn open(&mut self, id: RoomId) {
        self.set_attribute(id, "live_state", "live");
        self.stream(id, true);
        let next_second = (self.now_ms / 1_000 + 1) * 1_000;
        self.room(id).ticking = true;
        self.agenda.plan(next_second, Happening::Second(id));
    }

    /// The show is over: the stream stops and people leave.
    pub(super) fn end(&mut self, id: RoomId) {
        if self.room(id).stage != Stage::Live {
            return;
        }
        self.room(id).stage = Stage::Over;
        self.stream(id, false);
        self.set_attribute(id, "live_state", "ended");
        for position in 0..self.room(id).members.len() {
            let person = self.room(id).members[position];
            let stay = self.person(person).stays.iter().find(|stay| stay.room == id).map(|stay| stay.number);
            let stay = stay.expect("a member has a stay");
            let after_ms = self.random.exponential_ms(8_000);
            self.plan_in(after_ms, Happening::Leave { person, stay });
        }
        if self.random.permille(750) {
            let after_ms = self.random.between(20_000, 40_000);
            self.plan_in(after_ms, Happening::Destroy(id));
        }
        let after_ms = self.random.between(2_000, 15_000);
        self.plan_in(after_ms, Happening::HostLeaves(id));
    }

    /// The room is disbanded: whoever is still there is out, and nobody is told.
    pub(super) fn destroy(&mut self, id: RoomId) {
        if !self.lasts() {
            return;
        }
        self.settle_second(id);
        let now_ms = self.now_ms;
        let room = self.room(id);
        room.stage = Stage::Destroyed;
        room.truth.headcount.clear(now_ms);
        room.truth.headcount_upper.clear(now_ms);
        room.missing.clear();
        let members = std::mem::take(&mut room.members);
        let (host, group_id, group_type, name) =
            (room.owner, room.group_id.clone(), room.group_type, room.name.clone());
        let account = self.person(host).account.clone();
        let body = Object::callback("Group.CallbackAfterGroupDestroyed")
            .text("GroupId", &group_id)
            .text("Type", group_type)
            .text("Owner_Account", &account)
            .text("Name", &name)
            .json("MemberList", "[]");
        self.room_callback(id, "Group.CallbackAfterGroupDestroyed", body, host);
        for person in members {
            let someone = self.person(person);
            someone.stays.retain(|stay| stay.room != id);
            someone.seen(id).watch.leave(now_ms);
            self.go_on(person);
        }
    }

    pub(super) fn host_leaves(&mut self, id: RoomId) {
        let host = self.room(id).owner;
        if self.lasts() {
            self.disconnect_all(host);
        }
    }

    pub(super) fn stream_resumes(&mut self, id: RoomId) {
        if self.lasts() && self.room(id).stage == Stage::Live {
            self.stream(id, true);
        }
    }

    /// A second of a room: settles the one before, and plans who comes, writes and gives in this one.
    pub(super) fn second(&mut self, id: RoomId) {
        self.settle_second(id);
        let now_ms = self.now_ms;
        if now_ms % 20_000 == i64::from(id.0 % 20) * 1_000 {
            self.sweep(id);
        }
        let lasts = self.lasts();
        if lasts && self.room(id).is_open() {
            self.plan_arrivals(id);
            self.plan_activity(id);
            self.plan_news(id);
        }
        let room = self.room(id);
        let more = lasts && room.is_open() && (room.stage == Stage::Live || !room.members.is_empty());
        room.ticking = more || !room.missing.is_empty() || !room.attempts.is_empty();
        if room.ticking {
            self.plan_in(1_000, Happening::Second(id));
        }
    }

    fn plan_arrivals(&mut self, id: RoomId) {
        let now_ms = self.now_ms;
        let room = self.room(id);
        if room.stage != Stage::Live {
            return;
        }
        let show_ms = u64::try_from(room.ends_ms - room.opens_ms).unwrap_or(1).max(1);
        let since_ms = u64::try_from(now_ms - room.opens_ms).unwrap_or(0);
        let rush_ms = (show_ms * RUSH.1 / 1_000).max(1);
        let per_second = |share: u64, over_ms: u64| room.visits * share * ONE_EVENT / over_ms.max(1_000);
        let mut expected =
            if since_ms < rush_ms { per_second(RUSH.0, rush_ms) } else { per_second(STEADY, show_ms - rush_ms) };
        if now_ms < room.wave_until_ms {
            expected += room.wave;
        }
        let mut arrivals = room.arrivals;
        let count = arrivals.due(&mut self.random, expected);
        self.room(id).arrivals = arrivals;
        for _ in 0..count {
            self.arrive(id);
        }
    }

    fn plan_news(&mut self, id: RoomId) {
        let mut news = self.room(id).news;
        let count = news.due(&mut self.random, ONE_EVENT / 15);
        self.room(id).news = news;
        for _ in 0..count {
            match self.random.below(100) {
                0..=54 => self.announce(id),
                55..=74 => {
                    let likes = self.room(id).truth.likes_attempted.to_string();
                    self.set_attribute(id, "like_total", &likes);
                }
                75..=89 => self.change_info(id),
                90..=94 => self.kick(id),
                _ => self.lose_stream(id),
            }
        }
    }

    fn change_info(&mut self, id: RoomId) {
        let room = self.room(id);
        let (group_id, group_type, host) = (room.group_id.clone(), room.group_type, room.owner);
        let account = self.person(host).account.clone();
        let body = Object::callback("Group.CallbackAfterGroupInfoChanged")
            .text("GroupId", &group_id)
            .text("Type", group_type)
            .text("Operator_Account", &account);
        let (field, value) = match self.random.below(4) {
            0 => ("Name", text::show_name(&mut self.random)),
            1 => ("Introduction", text::chat(&mut self.random)),
            2 => ("Notification", text::notice(&mut self.random)),
            _ => ("FaceUrl", "https://files.example.com/face/1.png".to_owned()),
        };
        self.room_callback(id, "Group.CallbackAfterGroupInfoChanged", body.text(field, &value), host);
    }

    fn set_attribute(&mut self, id: RoomId, key: &str, value: &str) {
        let room = self.room(id);
        let attributes = array([Object::new().text("key", key).text("value", value).end()]);
        let body = Object::callback("Group.CallbackAfterGroupAttrChanged")
            .text("GroupId", &room.group_id)
            .text("Type", room.group_type)
            .text("Operator_Account", "administrator")
            .text("OptionType", "modify")
            .json("GroupAttr", &attributes);
        self.room_callback(id, "Group.CallbackAfterGroupAttrChanged", body, ADMINISTRATOR);
    }

    /// The pusher's network breaks for some seconds.
    fn lose_stream(&mut self, id: RoomId) {
        if self.room(id).stage == Stage::Live && self.room(id).stream_sequence != 0 {
            self.stream(id, false);
            let after_ms = self.random.between(1_000, 9_000);
            self.plan_in(after_ms, Happening::StreamResumes(id));
        }
    }

    /// The host removes up to three members.
    fn kick(&mut self, id: RoomId) {
        let room = self.room(id);
        if room.members.len() < 10 {
            return;
        }
        let host = room.owner;
        let mut kicked: Vec<PersonId> = Vec::new();
        for _ in 0..self.random.between(1, 3) {
            let at = self.random.index(self.rooms[id.0 as usize].members.len());
            let person = self.room(id).members[at];
            if !kicked.contains(&person) {
                kicked.push(person);
            }
        }
        self.exit_callback(id, "Kicked", host, &kicked, Timing::Usual);
        for person in kicked {
            self.step_out(person, id, true);
            self.go_on(person);
        }
    }

    /// A callback about a room, caused by this person.
    pub(super) fn room_callback(&mut self, id: RoomId, command: &'static str, body: Object, by: PersonId) {
        let platform = self.person(by).platform;
        self.call_back(Callback {
            command,
            body,
            event_ms: self.now_ms,
            client: Client::Of(by, platform),
            room: Some(id),
            timing: Timing::Usual,
            repeats: Repeats::WithEventTime,
        });
    }
}
