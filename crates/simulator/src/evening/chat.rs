//! Messages: who writes, what the platform's throttle lets through, and what fails.

use super::post::{Callback, Client, Repeats, Timing};
use super::{ADMINISTRATOR, Evening};
use crate::agenda::{Combo, Happening};
use crate::body::{self, Object, array, custom_element};
use crate::kind::Kind;
use crate::people::{Muted, PersonId, Platform};
use crate::rooms::{Attempt, ONE_EVENT, Process, Room, RoomId, Stage};
use crate::text;

/// Least time between two merged likes of one viewer, ms: clients merge the taps of at least that long.
const LIKE_MERGE_MS: i64 = 1_500;
/// Most taps in a merged like. With [`LIKE_MERGE_MS`] this stays below what any service caps per second.
const LIKE_COUNT_MAX: u64 = 40;

/// A message before it is sent.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) from: PersonId,
    /// Sent by the app's server in this account's name.
    pub(super) by_server: bool,
    pub(super) kind: Kind,
    /// `MsgBody`, JSON text.
    pub(super) elements: String,
    pub(super) likes: u32,
    pub(super) combo: Option<(u64, u32, u32)>,
}

impl Evening {
    /// Plans what a room's members do in the second that begins.
    pub(super) fn plan_activity(&mut self, id: RoomId) {
        let now_ms = self.now_ms;
        let per_second = |interval_ms: u64, factor: u64, members: u64| {
            members.saturating_mul(1_000 * ONE_EVENT).saturating_mul(factor) / interval_ms
        };
        let bursts = self.config.burst_interval_ms;
        if self.due(id, |room| &mut room.bursts, per_second(bursts, 1, 1)) > 0 {
            let burst_ms = self.random.between(4_000, 13_000);
            self.room(id).burst_until_ms = now_ms + burst_ms;
        }
        let burst_factor = u64::from(self.config.burst_factor);
        let room = self.room(id);
        let members = room.members.len() as u64;
        if members == 0 {
            return;
        }
        let factor = if now_ms < room.burst_until_ms { burst_factor } else { 1 };
        let live = room.stage == Stage::Live;
        let chat = per_second(self.config.chat_interval_ms, factor, members);
        for _ in 0..self.due(id, |room| &mut room.chat, chat) {
            let (person, stay) = self.some_member(id);
            let after_ms = self.random.between(0, 999);
            self.plan_in(after_ms, Happening::Chat { person, stay });
        }
        if !live {
            return;
        }
        let likes = per_second(self.config.like_interval_ms, factor.div_ceil(3), members);
        for _ in 0..self.due(id, |room| &mut room.likes, likes) {
            let (person, stay) = self.some_member(id);
            let after_ms = self.random.between(0, 999);
            self.plan_in(after_ms, Happening::Like { person, stay });
        }
        let memberships = per_second(self.config.membership_interval_ms, 1, members);
        for _ in 0..self.due(id, |room| &mut room.memberships, memberships) {
            let (person, stay) = self.some_member(id);
            let after_ms = self.random.between(0, 999);
            self.plan_in(after_ms, Happening::Membership { person, stay });
        }
        let gifts = per_second(self.config.gift_interval_ms, factor.min(3), members);
        for _ in 0..self.due(id, |room| &mut room.gifts, gifts) {
            let (person, stay) = self.some_member(id);
            let combo = self.new_combo(person, stay, id);
            let after_ms = self.random.between(0, 999);
            self.plan_in(after_ms, Happening::Gift(combo));
        }
    }

    fn due(&mut self, id: RoomId, process: fn(&mut Room) -> &mut Process, expected: u64) -> u32 {
        let mut running = *process(self.room(id));
        let events = running.due(&mut self.random, expected);
        *process(self.room(id)) = running;
        events
    }

    /// A member who does something: chatty ones more often.
    fn some_member(&mut self, id: RoomId) -> (PersonId, u64) {
        let mut person = ADMINISTRATOR;
        for _ in 0..6 {
            let at = self.random.index(self.rooms[id.0 as usize].members.len());
            person = self.rooms[id.0 as usize].members[at];
            if self.random.below(255) < self.person(person).chattiness.into() {
                break;
            }
        }
        let stay = self.person(person).stays.iter().find(|stay| stay.room == id);
        (person, stay.expect("a member has a stay").number)
    }

    /// The room of a stay that still lasts and in which one can write.
    pub(super) fn room_of(&mut self, person: PersonId, stay: u64) -> Option<RoomId> {
        let room = self.person(person).stay(stay)?.room;
        (self.lasts() && self.room(room).is_open()).then_some(room)
    }

    pub(super) fn chat(&mut self, person: PersonId, stay: u64) {
        let Some(room) = self.room_of(person, stay) else { return };
        let (kind, elements) = body::chat(&mut self.random);
        self.attempt(room, Draft { from: person, by_server: false, kind, elements, likes: 0, combo: None });
    }

    pub(super) fn like(&mut self, person: PersonId, stay: u64) {
        let Some(room) = self.room_of(person, stay) else { return };
        let now_ms = self.now_ms;
        if now_ms - self.person(person).last_like_ms < LIKE_MERGE_MS {
            return;
        }
        self.person(person).last_like_ms = now_ms;
        let taps = (1 + self.random.exponential(8)).min(LIKE_COUNT_MAX);
        let likes = u32::try_from(taps).expect("capped");
        let elements = array([custom_element(&format!("{{\"type\":\"like\",\"count\":{likes}}}"), "like")]);
        self.attempt(room, Draft { from: person, by_server: false, kind: Kind::Like, elements, likes, combo: None });
    }

    /// The app's server tells a room something.
    pub(super) fn announce(&mut self, room: RoomId) {
        let notice = text::notice(&mut self.random);
        let data = Object::new().text("type", "notice").text("text", &notice).end();
        let elements = array([custom_element(&data, "notice")]);
        let from = ADMINISTRATOR;
        self.attempt(room, Draft { from, by_server: true, kind: Kind::Notice, elements, likes: 0, combo: None });
    }

    /// A message reaches the platform.
    pub(super) fn attempt(&mut self, id: RoomId, draft: Draft) {
        let at_ms = self.now_ms;
        if self.room(id).second != at_ms / 1_000 {
            self.settle_second(id);
            self.room(id).second = at_ms / 1_000;
        }
        let asks = !(draft.by_server && self.random.permille(self.config.unattempted_permille));
        let attempt = self.write(id, draft, asks);
        let sender = self.person(attempt.from);
        if !attempt.by_server {
            sender.last_sign_ms = at_ms;
        }
        let muted = if attempt.by_server { Muted::No } else { sender.muted };
        if asks && muted != Muted::InApp {
            self.call_before(id, &attempt);
        }
        if muted != Muted::No {
            self.fail(id, &attempt, muted);
            return;
        }
        let room = self.room(id);
        room.attempts.push(attempt);
        if !room.ticking {
            room.ticking = true;
            self.agenda.plan((at_ms / 1_000 + 1) * 1_000, Happening::Second(id));
        }
    }

    fn write(&mut self, id: RoomId, draft: Draft, asks: bool) -> Attempt {
        let at_ms = self.now_ms;
        let random = self.random.u32();
        let older = self.room(id).older;
        let msg_id = if older {
            String::new()
        } else {
            format!("{}-{}-{random}", 144_115_200_000_000_000 + u64::from(draft.from.0), at_ms / 1_000)
        };
        let cloud = if self.random.permille(50) { "{\"badge\":\"vip3\"}" } else { "" };
        let mentions = if draft.kind == Kind::Text && self.random.permille(20) {
            let at = self.random.index(self.rooms[id.0 as usize].members.len());
            let mentioned = self.room(id).members[at];
            let all = i64::from(self.random.permille(20));
            let account = &self.person(mentioned).account;
            array([Object::new().number("GroupAtAllFlag", all).text("GroupAt_Account", account).end()])
        } else {
            String::new()
        };
        let Draft { from, by_server, kind, elements, likes, combo } = draft;
        let cloud = cloud.to_owned();
        Attempt { at_ms, from, by_server, asks, random, msg_id, kind, elements, cloud, mentions, likes, combo }
    }

    fn message(&self, command: &str, id: RoomId, attempt: &Attempt) -> Object {
        let room = &self.rooms[id.0 as usize];
        let sender = &self.people[attempt.from.0 as usize].account;
        let operator = if attempt.by_server { "administrator" } else { sender };
        Object::callback(command)
            .text("GroupId", &room.group_id)
            .text("Type", room.group_type)
            .text("From_Account", sender)
            .text("Operator_Account", operator)
            .number("Random", attempt.random)
    }

    /// The fields at the end of every message callback.
    fn content(&self, message: Object, id: RoomId, attempt: &Attempt) -> Object {
        let message = message.number("OnlineOnlyFlag", 0).json("MsgBody", &attempt.elements);
        if self.rooms[id.0 as usize].older { message } else { message.text("CloudCustomData", &attempt.cloud) }
    }

    fn client_of(&self, attempt: &Attempt) -> Client {
        if attempt.by_server {
            Client::Of(ADMINISTRATOR, Platform::Rest)
        } else {
            Client::Of(attempt.from, self.people[attempt.from.0 as usize].platform)
        }
    }

    fn call_before(&mut self, id: RoomId, attempt: &Attempt) {
        let truth = &mut self.room(id).truth;
        truth.attempted.add(attempt.kind);
        truth.likes_attempted += u64::from(attempt.likes);
        truth.attempt_minutes.entry(minute(attempt.at_ms)).or_default().add(attempt.kind);
        let sender = self.person(attempt.from);
        sender.seen(id).likes_attempted += u64::from(attempt.likes);
        sender.truth.attempted.add(attempt.kind);
        sender.truth.likes_attempted += u64::from(attempt.likes);

        let mut body = self.message("Group.CallbackBeforeSendMsg", id, attempt);
        if !attempt.msg_id.is_empty() {
            body = body.text("MsgId", &attempt.msg_id);
        }
        let body = self.content(body, id, attempt);
        let timing = if self.random.permille(self.config.reordered_permille) {
            Timing::Late(self.random.between(250, 1_500))
        } else {
            Timing::Usual
        };
        self.call_back(Callback {
            command: "Group.CallbackBeforeSendMsg",
            body,
            event_ms: attempt.at_ms,
            client: self.client_of(attempt),
            room: Some(id),
            timing,
            repeats: Repeats::Never,
        });
    }

    /// A muted account's message fails. The callback has no MsgId, as the platform documents it.
    fn fail(&mut self, id: RoomId, attempt: &Attempt, muted: Muted) {
        let truth = &mut self.room(id).truth;
        truth.failed.add(attempt.kind);
        truth.failed_attempted += u64::from(muted == Muted::InRooms);
        let body = self.message("Group.CallbackSendMsgException", id, attempt);
        let body = self
            .content(body, id, attempt)
            .number("ErrorCode", 10_017)
            .text("ErrorInfo", "sender is muted, message is not sent");
        let event_ms = attempt.at_ms + self.random.between(30, 120);
        self.call_back(Callback {
            command: "Group.CallbackSendMsgException",
            body,
            event_ms,
            client: self.client_of(attempt),
            room: Some(id),
            timing: Timing::Usual,
            repeats: Repeats::Always,
        });
    }

    /// The platform decides on a room's second: so many messages, those of a higher priority first, equal ones at
    /// random. The rest is dropped without a word.
    pub(super) fn settle_second(&mut self, id: RoomId) {
        let attempts = std::mem::take(&mut self.room(id).attempts);
        let most = usize::try_from(self.config.messages_per_second_max).unwrap_or(usize::MAX);
        let mut delivered = vec![true; attempts.len()];
        if attempts.len() > most {
            let mut order: Vec<usize> = (0..attempts.len()).collect();
            self.random.shuffle(&mut order);
            order.sort_by_key(|&at| attempts[at].kind.priority());
            for &at in &order[most..] {
                delivered[at] = false;
            }
        }
        for (attempt, delivered) in attempts.into_iter().zip(delivered) {
            if delivered {
                self.deliver(id, &attempt);
            } else if attempt.asks {
                self.room(id).truth.dropped.add(attempt.kind);
            }
        }
    }

    fn deliver(&mut self, id: RoomId, attempt: &Attempt) {
        let gap_ms = if self.random.permille(20) { (200, 600) } else { (30, 200) };
        let event_ms = attempt.at_ms + self.random.between(gap_ms.0, gap_ms.1);
        self.count_delivered(id, attempt, event_ms);
        let room = self.room(id);
        room.msg_seq += 1;
        let msg_seq = room.msg_seq;
        let mut body = self.message("Group.CallbackAfterSendMsg", id, attempt);
        if !attempt.msg_id.is_empty() {
            body = body.text("MsgId", &attempt.msg_id);
        }
        let msg_seq_number = i64::try_from(msg_seq).expect("fewer messages than an i64 counts");
        body = body.number("MsgSeq", msg_seq_number).number("MsgTime", attempt.at_ms / 1_000);
        body = self.content(body, id, attempt);
        if !attempt.mentions.is_empty() {
            body = body.json("GroupAtInfo", &attempt.mentions);
        }
        let timing = if self.random.permille(self.config.very_late_permille) {
            Timing::Late(self.random.between(10_000, 180_000))
        } else {
            Timing::Usual
        };
        self.call_back(Callback {
            command: "Group.CallbackAfterSendMsg",
            body,
            event_ms,
            client: self.client_of(attempt),
            room: Some(id),
            timing,
            repeats: Repeats::Always,
        });
        if self.random.permille(self.config.recall_permille) {
            let after_ms = self.random.between(2_000, 40_000);
            self.plan_in(after_ms, Happening::Recall { room: id, msg_seq, msg_id: attempt.msg_id.clone() });
        }
    }

    fn count_delivered(&mut self, id: RoomId, attempt: &Attempt, event_ms: i64) {
        let room = self.room(id);
        room.truth.delivered.add(attempt.kind);
        room.truth.minutes.entry(minute(event_ms)).or_default().add(attempt.kind);
        room.truth.likes += u64::from(attempt.likes);
        if !attempt.asks {
            room.truth.unattempted.add(attempt.kind);
        }
        if let Some((number, count, value)) = attempt.combo {
            // Messages of a combo tell its total so far: only what is new counts.
            let before = room.combos.insert(number, (count, value)).unwrap_or_default();
            let gifts = &mut room.truth.gifts_delivered;
            gifts.messages += 1;
            gifts.count += u64::from(count - before.0);
            gifts.value += u64::from(value - before.1);
        }
        let sender = self.person(attempt.from);
        sender.truth.delivered.add(attempt.kind);
        sender.truth.likes += u64::from(attempt.likes);
        let seen = sender.seen(id);
        seen.messages += 1;
        let first = !std::mem::replace(&mut seen.delivered, true);
        self.room(id).truth.distinct_senders += u64::from(first);
    }

    pub(super) fn recall(&mut self, id: RoomId, msg_seq: u64, msg_id: &str) {
        if !self.lasts() || !self.room(id).is_open() {
            return;
        }
        self.room(id).truth.recalled += 1;
        let sequence = i64::try_from(msg_seq).expect("fewer messages than an i64 counts");
        let mut recalled = Object::new().number("MsgSeq", sequence);
        if !msg_id.is_empty() {
            recalled = recalled.text("MsgId", msg_id);
        }
        let room = self.room(id);
        let body = Object::callback("Group.CallbackAfterRecallMsg")
            .text("GroupId", &room.group_id)
            .text("Type", room.group_type)
            .text("Operator_Account", "administrator")
            .json("MsgSeqList", &array([recalled.end()]));
        self.room_callback(id, "Group.CallbackAfterRecallMsg", body, ADMINISTRATOR);
    }

    /// The number of a new combo.
    pub(super) fn new_combo(&mut self, person: PersonId, stay: u64, room: RoomId) -> Box<Combo> {
        self.combos += 1;
        let gift = self.draw_gift();
        let left = if self.random.permille(400) { 1 } else { 2 + u32::try_from(self.random.below(9)).expect("small") };
        let step = if self.random.permille(100) { 10 } else { 1 };
        let marked = left > 1 || self.random.permille(500);
        let by_server = self.random.permille(600);
        let number = self.combos;
        Box::new(Combo { number, person, stay, room, gift, left, step, count: 0, marked, by_server })
    }
}

/// First ms of the minute of this time.
fn minute(at_ms: i64) -> i64 {
    at_ms - at_ms.rem_euclid(60_000)
}
