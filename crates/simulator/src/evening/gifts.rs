//! Gifts and memberships: messages in the room, and the bills of the app's server.

use super::Evening;
use super::chat::Draft;
use crate::agenda::{Combo, Happening};
use crate::body::{Object, array, custom_element};
use crate::kind::Kind;
use crate::people::PersonId;

/// Gifts on sale: id, price in minor units, share.
const GIFTS: [(&str, u32, u32); 8] = [
    ("rose", 1, 400),
    ("beer", 5, 200),
    ("coffee", 20, 150),
    ("heart", 52, 100),
    ("烟花", 199, 60),
    ("car", 500, 50),
    ("rocket", 2_000, 30),
    ("castle", 10_000, 10),
];

/// Value of a combo from which on people come to see it, minor units.
const WAVE_VALUE: u32 = 4_000;
/// How long a wave of arrivals lasts, ms.
const WAVE_MS: i64 = 10_000;
/// Share of a room's visits that one wave brings, per mille.
const WAVE_SHARE: u64 = 30;

impl Evening {
    pub(super) fn draw_gift(&mut self) -> usize {
        self.random.weighted(&GIFTS.map(|(_, _, share)| share))
    }

    /// The next message of a combo, or its end.
    pub(super) fn gift(&mut self, mut combo: Box<Combo>) {
        if self.room_of(combo.person, combo.stay).is_none() {
            // Whoever left or died pays for what was sent.
            if combo.count > 0 {
                self.plan_in(1_200, Happening::Bill(combo));
            }
            return;
        }
        combo.left -= 1;
        combo.count += combo.step;
        let (gift_id, price, _) = GIFTS[combo.gift];
        let value = price * combo.count;
        let mut data = Object::new()
            .text("type", "gift")
            .text("gift_id", gift_id)
            .number("count", combo.count)
            .number("value", value)
            .text("order_id", &order_id(combo.number));
        if combo.marked {
            data = data.text("combo_id", &combo_id(combo.number));
        }
        let elements = array([custom_element(&data.end(), "gift")]);
        let draft = Draft {
            from: combo.person,
            by_server: combo.by_server,
            kind: Kind::Gift,
            elements,
            likes: 0,
            combo: Some((combo.number, combo.count, value)),
        };
        self.attempt(combo.room, draft);
        if combo.left > 0 {
            let after_ms = self.random.between(300, 1_500);
            self.plan_in(after_ms, Happening::Gift(combo));
        } else {
            let after_ms = self.random.between(1_200, 3_000);
            self.plan_in(after_ms, Happening::Bill(combo));
        }
    }

    /// The app's server bills a combo, once. More than a second after its last message, so that the throttle has
    /// decided on all of them.
    pub(super) fn bill(&mut self, combo: &Combo) {
        let now_ms = self.now_ms;
        let (gift_id, price, _) = GIFTS[combo.gift];
        let value = price * combo.count;
        let burst_ms = self.random.between(2_000, 5_000);
        let room = self.room(combo.room);
        room.combos.remove(&combo.number);
        if value >= WAVE_VALUE {
            room.wave_until_ms = now_ms + WAVE_MS;
            room.wave = room.visits * crate::rooms::ONE_EVENT * WAVE_SHARE / 1_000 / 10;
            room.burst_until_ms = room.burst_until_ms.max(now_ms + burst_ms);
        }
        if !self.config.billing_feed {
            return;
        }
        let app = self.config.app;
        let room = self.room(combo.room);
        room.truth.billed.count += u64::from(combo.count);
        room.truth.billed.value += u64::from(value);
        let group_id = room.group_id.clone();
        let sender = self.person(combo.person);
        sender.truth.gift_count += u64::from(combo.count);
        sender.truth.gift_value += u64::from(value);
        sender.seen(combo.room).gift_value += u64::from(value);
        let mut event = Object::new()
            .text("type", "gift_billed")
            .text("id", &format!("bill-{:08}", combo.number))
            .number("app", app)
            .text("room", &group_id)
            .text("account", &sender.account)
            .text("gift_id", gift_id)
            .number("count", combo.count)
            .number("value", value);
        if combo.marked {
            event = event.text("combo_id", &combo_id(combo.number));
        }
        let event = event.text("order_id", &order_id(combo.number)).number("at_ms", now_ms);
        self.report("gift_billed", event, combo.room);
    }

    /// Someone buys a membership: the app's server reports it and tells the room.
    pub(super) fn membership(&mut self, person: PersonId, stay: u64) {
        const TIERS: [(&str, u32); 4] = [("prime", 0), ("1", 499), ("2", 999), ("3", 2_499)];
        let Some(id) = self.room_of(person, stay) else { return };
        let (tier, price) = self.random.pick(&TIERS);
        let months = u32::try_from(self.random.between(1, 24)).expect("small");
        let account = self.person(person).account.clone();
        let data = Object::new()
            .text("type", "membership")
            .text("tier", tier)
            .number("months", months)
            .text("text", &format!("{account} 开通了会员"))
            .end();
        let elements = array([custom_element(&data, "membership")]);
        let (by_server, kind) = (true, Kind::Membership);
        self.attempt(id, Draft { from: person, by_server, kind, elements, likes: 0, combo: None });
        self.room(id).truth.memberships += 1;
        self.person(person).truth.memberships += 1;
        if !self.config.billing_feed {
            return;
        }
        self.orders += 1;
        let event = Object::new()
            .text("type", "membership_opened")
            .text("id", &format!("membership-{:08}", self.orders))
            .number("app", self.config.app)
            .text("account", &account)
            .text("room", &self.rooms[id.0 as usize].group_id)
            .text("tier", tier)
            .number("months", months)
            .number("value", price * months)
            .number("at_ms", self.now_ms);
        self.report("membership_opened", event, id);
    }
}

fn combo_id(number: u64) -> String {
    format!("c-{number:06}")
}

fn order_id(number: u64) -> String {
    format!("ord-{number:08}")
}
