//! People come to rooms, stay, and leave.

use super::Evening;
use super::post::{Callback, Client, Repeats, Timing};
use crate::agenda::Happening;
use crate::body::Object;
use crate::people::{Person, PersonId, Stay};
use crate::rooms::{RoomId, Stage};

/// Share of fresh viewers among those who arrive, per mille, while there are any; the others were here before.
const FRESH: u32 = 750;
/// Share of viewers who watch a second room at the same time, per mille.
const SECOND_ROOM: u32 = 40;
/// Share of those who leave a room and go to another one, per mille.
const HOP: u32 = 300;
/// Most members in one heartbeat report.
const MEMBERS_PER_REPORT_MAX: usize = 20;

impl Evening {
    /// Someone logs in to go to this room.
    pub(super) fn arrive(&mut self, room: RoomId) {
        let fresh = self.viewers < self.config.viewers && (self.away.is_empty() || self.random.permille(FRESH));
        let person = if fresh {
            let viewer = Person::viewer(self.viewers, &mut self.random, self.config.muted_permille);
            self.people.push(viewer);
            self.viewers += 1;
            PersonId(self.viewers_from + self.viewers - 1)
        } else if self.away.is_empty() {
            return;
        } else {
            let at = self.random.index(self.away.len());
            self.away.swap_remove(at)
        };
        let platform = self.person(person).platform;
        self.connect(person, platform);
        let life = self.person(person).life;
        let after_ms = self.random.between(150, 1_500);
        self.may_be_back(person, after_ms);
        self.plan_in(after_ms, Happening::Apply { person, life, room });
        if self.random.permille(SECOND_ROOM) {
            let other = self.some_room();
            let after_ms = self.random.between(3_000, 20_000);
            self.plan_in(after_ms, Happening::Apply { person, life, room: other });
        }
    }

    /// A room by the rooms' sizes, on air or not.
    pub(super) fn some_room(&mut self) -> RoomId {
        let total = *self.cumulative.last().expect("there is at least one room");
        let draw = self.random.below(total);
        let number = self.cumulative.partition_point(|&sum| sum <= draw);
        RoomId(u32::try_from(number).expect("fewer rooms than a u32 holds"))
    }

    fn may_enter(&mut self, person: PersonId, life: u32, room: RoomId) -> bool {
        let on_air = self.room(room).stage == Stage::Live;
        let lasts = self.lasts();
        let someone = self.person(person);
        if !lasts || !someone.is_online() || someone.life != life || someone.is_in(room) {
            return false;
        }
        if !on_air && someone.stays.is_empty() {
            self.plan_in(1_000, Happening::Logout { person, life });
        }
        on_air
    }

    pub(super) fn apply(&mut self, person: PersonId, life: u32, id: RoomId) {
        if !self.may_enter(person, life, id) {
            return;
        }
        let account = self.person(person).account.clone();
        let platform = self.person(person).platform;
        let room = self.room(id);
        if !room.older {
            let body = Object::callback("Group.CallbackBeforeApplyJoinGroup")
                .text("GroupId", &room.group_id)
                .text("Type", room.group_type)
                .text("Requestor_Account", &account)
                .text("ApplyMsg", "");
            self.call_back(Callback {
                command: "Group.CallbackBeforeApplyJoinGroup",
                body,
                event_ms: self.now_ms,
                client: Client::Of(person, platform),
                room: Some(id),
                timing: Timing::Usual,
                repeats: Repeats::Never,
            });
        }
        let after_ms = self.random.between(15, 90);
        self.plan_in(after_ms, Happening::Join { person, life, room: id });
    }

    pub(super) fn join(&mut self, person: PersonId, life: u32, id: RoomId) {
        if !self.may_enter(person, life, id) {
            return;
        }
        self.step_in(person, id, true);
        let now_ms = self.now_ms;
        let someone = self.person(person);
        someone.last_sign_ms = now_ms;
        let account = someone.account.clone();
        let room = self.room(id);
        let member_state = room.member_state;
        let body = Object::callback("Group.CallbackAfterNewMemberJoin")
            .text("GroupId", &room.group_id)
            .text("Type", room.group_type)
            .text("JoinType", "Apply")
            .text("Operator_Account", &account)
            .members("NewMemberList", [account.as_str()]);
        self.room_callback(id, "Group.CallbackAfterNewMemberJoin", body, person);
        if member_state {
            self.member_state(id, true, "Join", &[person]);
        }
    }

    /// Someone is in a room from now on; the stay's end is planned.
    pub(super) fn step_in(&mut self, person: PersonId, id: RoomId, visible: bool) {
        self.stays += 1;
        let number = self.stays;
        let now_ms = self.now_ms;
        if let Some(at) = self.person(person).unshown.iter().position(|&room| room == id) {
            self.person(person).unshown.remove(at);
            self.leave_visibly(id);
        }
        let room = self.room(id);
        let position = room.members.len();
        room.members.push(person);
        room.truth.headcount.join(now_ms);
        if visible {
            room.truth.headcount_upper.join(now_ms);
        }
        let someone = self.person(person);
        someone.stays.push(Stay { number, room: id, position });
        let seen = someone.seen(id);
        seen.watch.enter(now_ms);
        let first = !std::mem::replace(&mut seen.joined, true);
        self.room(id).truth.distinct_joiners += u64::from(first);
        let stay_ms = 1_000 + self.random.exponential_ms(self.config.stay_ms);
        self.plan_in(stay_ms, Happening::Leave { person, stay: number });
    }

    /// Someone is no longer in a room. `visible` tells whether the platform knows.
    pub(super) fn step_out(&mut self, person: PersonId, id: RoomId, visible: bool) {
        let now_ms = self.now_ms;
        let someone = self.person(person);
        someone.seen(id).watch.leave(now_ms);
        let stays = &mut someone.stays;
        let at = stays.iter().position(|stay| stay.room == id).expect("whoever steps out was in");
        let position = stays.swap_remove(at).position;
        let room = self.room(id);
        room.members.swap_remove(position);
        room.truth.headcount.leave(now_ms);
        if visible {
            room.truth.headcount_upper.leave(now_ms);
        }
        if let Some(&moved) = room.members.get(position) {
            let stay = self.person(moved).stays.iter_mut().find(|stay| stay.room == id);
            stay.expect("a member has a stay").position = position;
        }
    }

    pub(super) fn leave(&mut self, person: PersonId, number: u64) {
        let Some(stay) = self.person(person).stay(number) else { return };
        if !self.lasts() {
            return;
        }
        let id = stay.room;
        let draw = u32::try_from(self.random.below(1_000)).expect("below 1,000");
        let died = self.config.died_permille;
        if draw < died && self.person(person).devices.len() == 1 {
            self.die(person);
            return;
        }
        let rejoins = draw >= died && draw - died < self.config.rejoin_permille;
        if rejoins && self.room(id).stage == Stage::Live {
            // A reload of the page: out and in again at once, and the exit is called back after the join.
            let late_ms = self.random.between(3_000, 8_000);
            self.exit_callback(id, "Quit", person, &[person], Timing::Late(late_ms));
            self.step_out(person, id, true);
            let life = self.person(person).life;
            let after_ms = self.random.between(400, 1_500);
            self.plan_in(after_ms, Happening::Join { person, life, room: id });
            return;
        }
        self.exit_callback(id, "Quit", person, &[person], Timing::Usual);
        if self.room(id).member_state {
            self.member_state(id, false, "Quit", &[person]);
        }
        self.step_out(person, id, true);
        self.go_on(person);
    }

    /// What someone does who has just left a room: nothing, another room, or log out.
    pub(super) fn go_on(&mut self, person: PersonId) {
        let someone = self.person(person);
        if !someone.is_online() || !someone.stays.is_empty() {
            return;
        }
        let life = someone.life;
        let after_ms = self.random.between(300, 4_000);
        let what = if self.random.permille(HOP) {
            Happening::Apply { person, life, room: self.some_room() }
        } else {
            Happening::Logout { person, life }
        };
        self.plan_in(after_ms, what);
    }

    pub(super) fn exit_callback(
        &mut self,
        id: RoomId,
        exit_type: &str,
        operator: PersonId,
        leavers: &[PersonId],
        timing: Timing,
    ) {
        let now_ms = self.now_ms;
        for &leaver in leavers {
            self.person(leaver).last_sign_ms = now_ms;
        }
        let account = |person: PersonId| self.people[person.0 as usize].account.as_str();
        let room = &self.rooms[id.0 as usize];
        let body = Object::callback("Group.CallbackAfterMemberExit")
            .text("GroupId", &room.group_id)
            .text("Type", room.group_type)
            .text("ExitType", exit_type)
            .text("Operator_Account", account(operator))
            .members("ExitMemberList", leavers.iter().map(|&leaver| account(leaver)));
        let platform = self.person(operator).platform;
        self.call_back(Callback {
            command: "Group.CallbackAfterMemberExit",
            body,
            event_ms: now_ms,
            client: Client::Of(operator, platform),
            room: Some(id),
            timing,
            repeats: Repeats::WithEventTime,
        });
    }

    /// Group.CallbackOnMemberStateChange. Older deployments do not tell the cause.
    pub(super) fn member_state(&mut self, id: RoomId, online: bool, cause: &str, members: &[PersonId]) {
        let room = &self.rooms[id.0 as usize];
        let mut body = Object::callback("Group.CallbackOnMemberStateChange")
            .text("GroupId", &room.group_id)
            .text("EventType", if online { "Online" } else { "Offline" });
        if !room.older {
            body = body.text("EventCause", cause);
        }
        let accounts = members.iter().map(|member| self.people[member.0 as usize].account.as_str());
        let body = body.members("MemberList", accounts);
        self.call_back(Callback {
            command: "Group.CallbackOnMemberStateChange",
            body,
            event_ms: self.now_ms,
            client: Client::None,
            room: Some(id),
            timing: Timing::Usual,
            repeats: Repeats::WithEventTime,
        });
    }

    /// Every 20 s the platform looks for members without a heartbeat for more than 30 s.
    pub(super) fn sweep(&mut self, id: RoomId) {
        let now_ms = self.now_ms;
        let missing = &mut self.room(id).missing;
        let gone: Vec<_> = missing.extract_if(.., |missing| now_ms - missing.since_ms > 30_000).collect();
        for report in gone.chunks(MEMBERS_PER_REPORT_MAX) {
            let members: Vec<_> = report.iter().map(|missing| missing.person).collect();
            self.member_state(id, false, "HeartbeatInterrupt", &members);
        }
        for missing in gone {
            self.make_loss_known(missing.person, missing.life, id);
        }
    }
}
