//! Connections: logins, second devices, logouts, and clients that die without a word.

use super::Evening;
use super::post::{Callback, Client, Repeats, Timing};
use crate::agenda::Happening;
use crate::body::{Object, array};
use crate::people::{Death, Device, PersonId, Platform, Session, Whereabouts};
use crate::rooms::{Missing, RoomId, Stage};

/// Share of second logins that push the first device out, per mille.
const KICKS: u32 = 200;
/// Share of dead clients that come back, per mille.
const RETURNS: u32 = 450;
/// Longest absence after which a client takes its place in a room again without a new join, ms.
const RESUME_MS_MAX: i64 = 60_000;
/// A dead client that has not come back by then does not, ms.
const GIVE_UP_MS: i64 = 100_000;
/// Longest absence after which a service may take a login for a reconnection, ms.
const RECONNECTS_MS_MAX: i64 = 120_000;
/// Who comes back and finds no room on air logs out after this, ms.
const LOGS_OUT_AFTER_MS: i64 = 1_000;
/// Who asks to join has joined by then, ms.
const JOINED_AFTER_MS: i64 = 100;

impl Evening {
    /// A login. Whoever was away begins a new life.
    pub(super) fn connect(&mut self, person: PersonId, platform: Platform) {
        let now_ms = self.now_ms;
        let second_device = self.config.second_device_permille;
        let someone = self.person(person);
        if !someone.is_online() {
            someone.life += 1;
            someone.whereabouts = Whereabouts::Online;
        }
        someone.devices.push(Device { platform, since_ms: now_ms });
        someone.last_sign_ms = now_ms;
        let life = someone.life;
        self.state_change(person, platform, "Login", "Register", now_ms, &[]);
        if person.0 >= self.viewers_from && self.random.permille(second_device) {
            let after_ms = 2_000 + self.random.exponential_ms(20_000);
            self.plan_in(after_ms, Happening::SecondDevice { person, life });
        }
    }

    pub(super) fn second_device(&mut self, person: PersonId, life: u32) {
        let now_ms = self.now_ms;
        let lasts = self.lasts();
        let someone = self.person(person);
        if !lasts || !someone.is_online() || someone.life != life || someone.devices.len() != 1 {
            return;
        }
        let first = someone.devices[0];
        if self.random.permille(KICKS) {
            // The same platform again: the first device is out. Only older clients then log out in addition.
            let kicked_ms = now_ms - 20;
            let someone = self.person(person);
            someone.truth.sessions.push(Session::told(first.since_ms, kicked_ms));
            someone.devices[0].since_ms = now_ms;
            someone.last_sign_ms = now_ms;
            if self.random.permille(300) {
                self.state_change(person, first.platform, "Logout", "Unregister", kicked_ms, &[]);
            }
            self.state_change(person, first.platform, "Login", "Register", now_ms, &[first.platform]);
            return;
        }
        let platform = first.platform.other();
        let someone = self.person(person);
        someone.devices.push(Device { platform, since_ms: now_ms });
        someone.last_sign_ms = now_ms;
        self.state_change(person, platform, "Login", "Register", now_ms, &[]);
        let after_ms = 2_000 + self.random.exponential_ms(60_000);
        self.plan_in(after_ms, Happening::DeviceGoes { person, life, platform });
    }

    pub(super) fn device_goes(&mut self, person: PersonId, life: u32, platform: Platform) {
        let now_ms = self.now_ms;
        let lasts = self.lasts();
        let someone = self.person(person);
        if !lasts || someone.life != life || someone.devices.len() < 2 {
            return;
        }
        let Some(at) = someone.devices.iter().position(|device| device.platform == platform) else { return };
        let device = someone.devices.remove(at);
        someone.truth.sessions.push(Session::told(device.since_ms, now_ms));
        self.end_of_connection(person, platform, now_ms);
    }

    pub(super) fn logout(&mut self, person: PersonId, life: u32) {
        let lasts = self.lasts();
        let someone = self.person(person);
        if lasts && someone.is_online() && someone.life == life && someone.stays.is_empty() {
            self.disconnect_all(person);
        }
    }

    /// Ends all of someone's connections in an orderly way.
    pub(super) fn disconnect_all(&mut self, person: PersonId) {
        let mut at_ms = self.now_ms;
        let someone = self.person(person);
        someone.whereabouts = Whereabouts::Away;
        someone.life += 1;
        let devices = std::mem::take(&mut someone.devices);
        self.show_gone(person);
        for device in devices {
            self.person(person).truth.sessions.push(Session::told(device.since_ms, at_ms));
            self.end_of_connection(person, device.platform, at_ms);
            at_ms += 37;
        }
        if person.0 >= self.viewers_from {
            self.away.push(person);
        }
    }

    /// A logout, or a client that is closed: the platform sees both at once.
    fn end_of_connection(&mut self, person: PersonId, platform: Platform, at_ms: i64) {
        if self.random.permille(800) {
            self.state_change(person, platform, "Logout", "Unregister", at_ms, &[]);
        } else {
            self.state_change(person, platform, "Disconnect", "LinkClose", at_ms, &[]);
        }
    }

    /// The client dies: nobody exits, and the platform notices at once, later, or after its longest delay.
    pub(super) fn die(&mut self, person: PersonId) {
        let now_ms = self.now_ms;
        let someone = self.person(person);
        let device = someone.devices.pop().expect("only someone with a device can lose it");
        someone.life += 1;
        let life = someone.life;
        let mut rooms = Vec::new();
        while let Some(&stay) = self.person(person).stays.first() {
            let id = stay.room;
            self.step_out(person, id, false);
            rooms.push((id, false));
            if self.room(id).member_state {
                self.room(id).missing.push(Missing { person, life, since_ms: now_ms });
            }
        }
        let death = Death { since_ms: now_ms, device, noticed: false, rooms };
        self.person(person).whereabouts = Whereabouts::Dead(Box::new(death));
        let longest_ms = device.platform.detection_ms_max();
        let notice_ms = match self.random.below(100) {
            0..=44 => self.random.between(1, 400),
            45..=74 => self.random.between(5_000, longest_ms / 3),
            _ => longest_ms,
        };
        self.plan_in(notice_ms, Happening::Notice { person, life });
        self.plan_in(notice_ms.max(GIVE_UP_MS) + 1, Happening::GiveUp { person, life });
        if self.random.permille(RETURNS) {
            let after_ms = self.random.between(3_000, 90_000);
            self.plan_in(after_ms, Happening::Return { person, life });
        }
    }

    pub(super) fn notice_loss(&mut self, person: PersonId, life: u32) {
        let now_ms = self.now_ms;
        let someone = self.person(person);
        let Whereabouts::Dead(death) = &mut someone.whereabouts else { return };
        if someone.life != life {
            return;
        }
        death.noticed = true;
        let (device, since_ms) = (death.device, death.since_ms);
        let rooms: Vec<RoomId> = death.rooms.iter().map(|&(room, _)| room).collect();
        let longest_ms = device.platform.detection_ms_max();
        let lower_ms = someone.last_sign_ms.max(now_ms - longest_ms).min(since_ms);
        let session = Session { open_ms: device.since_ms, close_ms: since_ms, lower_ms, upper_ms: now_ms };
        someone.truth.sessions.push(session);
        let timed_out = device.platform != Platform::Web && now_ms - since_ms >= longest_ms;
        let reason = if timed_out { "TimeOut" } else { "LinkClose" };
        self.state_change(person, device.platform, "Disconnect", reason, now_ms, &[]);
        for room in rooms {
            if !self.room(room).member_state {
                self.make_loss_known(person, life, room);
            }
        }
        self.show_gone(person);
    }

    /// That its connection went is told: with it, that it is in none of the rooms in which nothing had shown so.
    fn show_gone(&mut self, person: PersonId) {
        for room in std::mem::take(&mut self.person(person).unshown) {
            self.leave_visibly(room);
        }
    }

    /// From now on an observer can know that this dead client is not in the room.
    pub(super) fn make_loss_known(&mut self, person: PersonId, life: u32, room: RoomId) {
        let someone = self.person(person);
        if someone.life != life {
            return;
        }
        let Whereabouts::Dead(death) = &mut someone.whereabouts else { return };
        let known = death.rooms.iter_mut().find(|(dead_in, _)| *dead_in == room);
        if let Some((_, known)) = known
            && !std::mem::replace(known, true)
        {
            self.leave_visibly(room);
        }
    }

    /// Someone whose client had died a little ago is connected again: until it joins a room, at the latest then, it may as
    /// well be back in its former ones, for all that is called back.
    pub(super) fn may_be_back(&mut self, person: PersonId, joins_after_ms: i64) {
        let (since_ms, rooms) = std::mem::take(&mut self.person(person).former);
        if self.now_ms - since_ms > RECONNECTS_MS_MAX {
            return;
        }
        for id in rooms {
            let now_ms = self.now_ms;
            let room = self.room(id);
            if room.stage != Stage::Destroyed {
                room.truth.headcount_upper.join(now_ms);
                self.plan_in(joins_after_ms + JOINED_AFTER_MS, Happening::ShownAnew { room: id });
            }
        }
    }

    /// The platform's view of a room loses one; a disbanded room has nobody to lose.
    pub(super) fn leave_visibly(&mut self, id: RoomId) {
        let now_ms = self.now_ms;
        let room = self.room(id);
        if room.stage != Stage::Destroyed {
            room.truth.headcount_upper.leave(now_ms);
        }
    }

    /// A dead client is back. If the platform had not noticed yet, it never tells of the loss.
    pub(super) fn come_back(&mut self, person: PersonId, life: u32) {
        if !self.lasts() {
            return;
        }
        let Some(death) = self.resurrect(person, life) else { return };
        let now_ms = self.now_ms;
        if !death.noticed {
            let someone = self.person(person);
            let lower_ms = someone.last_sign_ms.min(death.since_ms);
            let open_ms = death.device.since_ms;
            someone.truth.sessions.push(Session { open_ms, close_ms: death.since_ms, lower_ms, upper_ms: now_ms });
        }
        self.connect(person, death.device.platform);
        let life = self.person(person).life;
        let goes_on = death.rooms.iter().any(|&(id, _)| self.room(id).stage == Stage::Live);
        let mut stays = false;
        for (id, known) in death.rooms {
            self.room(id).missing.retain(|missing| missing.person != person);
            let on_air = self.room(id).stage == Stage::Live;
            if on_air && now_ms - death.since_ms <= RESUME_MS_MAX {
                self.step_in(person, id, known);
                stays = true;
                if known && self.room(id).member_state {
                    self.member_state(id, true, "HeartbeatRecover", &[person]);
                }
                continue;
            }
            let mut shown_after_ms = LOGS_OUT_AFTER_MS;
            if on_air {
                stays = true;
                let after_ms = self.random.between(100, 900);
                shown_after_ms = after_ms + JOINED_AFTER_MS;
                self.plan_in(after_ms, Happening::Apply { person, life, room: id });
            }
            // Until it joins or is gone again, it may as well be in the room, for all that is called back.
            if self.room(id).stage != Stage::Destroyed {
                if known {
                    self.room(id).truth.headcount_upper.join(now_ms);
                }
                if goes_on && !on_air {
                    self.person(person).unshown.push(id);
                } else {
                    self.plan_in(shown_after_ms, Happening::ShownAnew { room: id });
                }
            }
        }
        if !stays {
            self.plan_in(LOGS_OUT_AFTER_MS, Happening::Logout { person, life });
        }
    }

    /// A dead client stays away; the person may come again later.
    pub(super) fn give_up(&mut self, person: PersonId, life: u32) {
        if !self.lasts() {
            return;
        }
        let Some(death) = self.resurrect(person, life) else { return };
        let former = death.rooms.iter().map(|&(room, _)| room).collect();
        self.person(person).former = (self.now_ms, former);
        for (room, known) in death.rooms {
            if !known {
                self.leave_visibly(room);
            }
        }
        if person.0 >= self.viewers_from {
            self.away.push(person);
        }
    }

    /// Takes the death from someone of this life, who is away then.
    fn resurrect(&mut self, person: PersonId, life: u32) -> Option<Death> {
        let someone = self.person(person);
        if someone.life != life || !matches!(someone.whereabouts, Whereabouts::Dead(_)) {
            return None;
        }
        someone.life += 1;
        match std::mem::replace(&mut someone.whereabouts, Whereabouts::Away) {
            Whereabouts::Dead(death) => Some(*death),
            Whereabouts::Away | Whereabouts::Online => None,
        }
    }

    fn state_change(
        &mut self,
        person: PersonId,
        platform: Platform,
        action: &str,
        reason: &str,
        event_ms: i64,
        kicked: &[Platform],
    ) {
        let info = Object::new()
            .text("Action", action)
            .text("To_Account", &self.person(person).account)
            .text("Reason", reason)
            .end();
        let mut body = Object::callback("State.StateChange").json("Info", &info);
        if !kicked.is_empty() {
            let devices = kicked.iter().map(|platform| Object::new().text("Platform", platform.name()).end());
            body = body.json("KickedDevice", &array(devices));
        }
        self.call_back(Callback {
            command: "State.StateChange",
            body,
            event_ms,
            client: Client::Of(person, platform),
            room: None,
            timing: Timing::Usual,
            repeats: Repeats::WithEventTime,
        });
    }
}
