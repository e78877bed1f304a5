//! The projection, on `barrage.room`. Applied behind like tallies, whose tables tell what counts of likes and gifts.

use barrage_event::rules::HeatRules;
use barrage_event::{EnvelopeView, Event, MessageKind, Topic};
use barrage_like_tallies::combos::{Keeping, combo_hash, counted};
use barrage_like_tallies::tables::{Combos, Rooms as Tallies};
use barrage_like_tallies::{Gift, Happening, What, like_second};
use barrage_projection::{ApplyError, Context, Projection, StoreError, TableDef};

use crate::epochs::Way;
use crate::generation;
use crate::points::{self, Who};
use crate::proto::{ComboHeat, Generation, Recent as RecentRow, Room};
use crate::tables::{ComboHeats, Generations, Recent, Rooms, Viewers};
use crate::wide::{halves, wide};

/// Heat of rooms.
#[derive(Debug, Clone, Copy, Default)]
pub struct RoomHeats;

impl Projection for RoomHeats {
    fn name(&self) -> &'static str {
        "room-heat.rooms"
    }

    fn topic(&self) -> Topic {
        Topic::Room
    }

    fn tables(&self) -> Vec<TableDef> {
        vec![
            TableDef::of::<Tallies>(),
            TableDef::buckets::<Combos>(),
            TableDef::of::<Generations>(),
            TableDef::of::<Rooms>(),
            TableDef::of::<Recent>(),
            TableDef::of::<Viewers>(),
            TableDef::buckets::<ComboHeats>(),
        ]
    }

    fn apply(&self, cx: &mut Context<'_>, record: &EnvelopeView<'_>) -> Result<(), ApplyError> {
        match &record.event {
            Event::BeforeSend(m) if m.kind == MessageKind::Like => {
                if record.verdict.is_some_and(|verdict| verdict.outcome.refuses()) {
                    return Ok(());
                }
            }
            Event::AfterSend(_)
            | Event::MembersJoined(_)
            | Event::GiftBilled(_)
            | Event::MembershipOpened(_)
            | Event::GroupDestroyed(_) => {}
            Event::RulesApplied(rules) => return Ok(generation::rules_applied(cx, rules.applied_at_ms)?),
            _ => return Ok(()),
        }
        let Some(group_id) = record.event.group_id() else { return Ok(()) };
        let generation = generation::current(cx)?;
        let key = (record.app, group_id);
        // Taken out while the event is applied, because other tables are changed through the same context.
        let mut room = std::mem::take(cx.table::<Rooms>()?.entry(&key)?);
        let before_ms = room.newest_ms;
        let result = (|| {
            if room.generation == 0 {
                room.begin(&generation);
            } else if room.generation != generation.number {
                let generations = cx.table::<Generations>()?.get(&())?.cloned().unwrap_or_default();
                room.carry_over(&generations);
            }
            room.fresh_ms = cx.rules.heat.fresh_ms;
            Update { cx, room: &mut room, generation, record, group_id }.apply()?;
            room.forget_fresh(&generation);
            keep_recent(cx, key, before_ms, room.newest_ms)
        })();
        *cx.table::<Rooms>()?.entry(&key)? = room;
        Ok(result?)
    }
}

struct Update<'u, 'c, 'e> {
    cx: &'u mut Context<'c>,
    room: &'u mut Room,
    generation: Generation,
    record: &'u EnvelopeView<'e>,
    group_id: &'e str,
}

impl<'c> Update<'_, 'c, '_> {
    fn weights(&self) -> &'c HeatRules {
        &self.cx.rules.heat
    }

    fn apply(&mut self) -> Result<(), StoreError> {
        let weights = self.weights();
        let at_ms = self.record.occurred_at_ms;
        match &self.record.event {
            Event::GroupDestroyed(_) => {
                self.room.destroyed_ms = self.room.destroyed_ms.max(at_ms);
                return Ok(());
            }
            Event::MembersJoined(members) => {
                self.see(at_ms);
                for account in members.members.iter().filter(|account| !account.is_empty()) {
                    self.change(Way::Add, account, at_ms, weights.join.into())?;
                }
                return Ok(());
            }
            Event::AfterSend(message) => {
                self.see(at_ms);
                self.change(Way::Add, message.from_account, at_ms, weights.message.into())?;
                if !matches!(message.kind, MessageKind::Gift | MessageKind::Membership) {
                    return Ok(());
                }
            }
            _ => {}
        }
        self.count_tallies()
    }

    /// What like tallies have counted of this event: what their totals have and were not counted here yet.
    fn count_tallies(&mut self) -> Result<(), StoreError> {
        let Some(happening) = Happening::of(self.record, self.cx.stamped) else { return Ok(()) };
        let weights = self.weights();
        let totals = self.cx.table::<Tallies>()?.get(&(self.record.app, self.group_id))?.copied().unwrap_or_default();
        let at_ms = self.record.occurred_at_ms;
        let account = happening.account;
        match happening.what {
            What::Likes { .. } => {
                // All likes of a second are worth the same, so it does not matter which of them the cap lets through.
                let at_ms = i64::from(like_second(self.record, self.cx.stamped)) * 1_000;
                self.see(at_ms);
                let likes = totals.likes.map_or(0, |likes| likes.count);
                let more = likes.saturating_sub(std::mem::replace(&mut self.room.seen_likes, likes));
                self.change(Way::Add, account, at_ms, worth(more, weights.like))
            }
            What::Gift { gift, .. } => {
                self.see(at_ms);
                let value = totals.gifts.map_or(0, |gifts| gifts.value);
                let more = value.saturating_sub(std::mem::replace(&mut self.room.seen_gift_value, value));
                match gift.filter(|gift| !gift.combo_id.is_empty()) {
                    Some(gift) => self.combo(&happening, &gift, more),
                    None => self.change(Way::Add, account, at_ms, worth(more, weights.gift_value)),
                }
            }
            What::Membership { .. } => {
                self.see(at_ms);
                let count = totals.memberships.map_or(0, |memberships| memberships.count);
                let more = count.saturating_sub(std::mem::replace(&mut self.room.seen_memberships, count));
                self.change(Way::Add, account, at_ms, worth(more, weights.membership))
            }
        }
    }

    /// A combo counts at the time of its first message. When an earlier one comes after a later one, what was counted
    /// moves, so that the order of arrival does not matter. It is told in points, because weights may have changed.
    fn combo(&mut self, happening: &Happening<'_>, gift: &Gift<'_>, more: u64) -> Result<(), StoreError> {
        let weight = self.weights().gift_value;
        let account = happening.account;
        let keeping = Keeping::at(self.cx);
        let hash = combo_hash(self.record.app, happening, gift);
        self.cx.buckets::<ComboHeats>()?.expire_below(keeping.floor());
        let Some(combo) = self.cx.buckets::<Combos>()?.get(hash).copied() else {
            return self.change(Way::Add, account, self.record.occurred_at_ms, worth(more, weight));
        };
        let mut own = ComboHeat {
            first_ms: combo.first_ms,
            value: counted(&combo).1,
            generation: self.generation.number,
            ..ComboHeat::default()
        };
        let known = self.cx.buckets::<ComboHeats>()?.get(hash).copied();
        // A combo that begins later than the one before is another one.
        let known = known.filter(|known| own.first_ms <= known.first_ms);
        let mut add = worth(own.value.saturating_sub(known.map_or(0, |known| known.value)), weight);
        // What was added before the half-life changed is part of what was carried over: it stays.
        let before = known.filter(|known| known.generation == own.generation);
        let added = before.map_or(0, |before| wide(before.points_low, before.points_high));
        (own.points_low, own.points_high) = halves(added.saturating_add(add));
        if let Some(before) = before.filter(|before| own.first_ms < before.first_ms) {
            self.change(Way::Take, account, before.first_ms, added)?;
            add = add.saturating_add(added);
        }
        self.change(Way::Add, account, own.first_ms, add)?;
        self.cx.buckets::<ComboHeats>()?.insert(keeping.bucket(combo.last_ms), hash, own);
        Ok(())
    }

    /// Something happened in the room.
    fn see(&mut self, at_ms: i64) {
        let first = self.room.newest_ms == 0;
        self.room.first_ms = if first { at_ms } else { self.room.first_ms.min(at_ms) };
        self.room.newest_ms = self.room.newest_ms.max(at_ms);
        self.room.reach(self.generation.epoch(points::counted_ms(self.cx, at_ms)));
    }

    fn change(&mut self, way: Way, account: &str, at_ms: i64, points: u128) -> Result<(), StoreError> {
        let who = Who { app: self.record.app, room: self.group_id, account };
        points::change(self.cx, self.room, &self.generation, who, (way, at_ms, points))
    }
}

fn worth(amount: u64, weight: u64) -> u128 {
    u128::from(amount) * u128::from(weight)
}

/// Hours are counted down from here, so that the last one comes first: the year 2106 in seconds, never reached.
const HOURS: u32 = u32::MAX;
const HOUR_MS: i64 = 3_600_000;

/// Key of a room's row among the recent ones; `None` before anything has happened in it.
fn recent_key((app, room): (u32, &str), newest_ms: i64) -> Option<(u32, u32, &str)> {
    let hour = u32::try_from(newest_ms.max(0) / HOUR_MS).unwrap_or(u32::MAX);
    (newest_ms > 0).then_some((HOURS - hour, app, room))
}

/// Rewrites a room's row among the recent ones when its hour is another one now.
fn keep_recent(cx: &mut Context<'_>, key: (u32, &str), before_ms: i64, after_ms: i64) -> Result<(), StoreError> {
    let (before, after) = (recent_key(key, before_ms), recent_key(key, after_ms));
    if before == after {
        return Ok(());
    }
    if let Some(before) = before {
        // The room's row tells that it is there. Asking for what is seldom in memory would cost more than the rest.
        cx.table::<Recent>()?.remove_known(&before, &RecentRow::default())?;
    }
    if let Some(after) = after {
        cx.table::<Recent>()?.entry_known_new(&after)?;
    }
    Ok(())
}
