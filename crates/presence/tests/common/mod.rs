//! Records of one room and its accounts, and what is answered about them.

#![allow(dead_code, reason = "not every test uses all of it")]

use barrage_event::proto as wire;
use barrage_event::proto::envelope::Event as Wire;
use barrage_event::rules::RuleSet;
use barrage_online_duration::OnlineDuration;
use barrage_presence::Presence;
use barrage_projection::memory::Harness;
use barrage_projection::world::World;
use barrage_projection::{ReadContext, Statistic as _};
use prost::Message as _;
use serde_json::{Map, Value as Json};

pub(crate) const APP: u32 = 1_400_000_000;
/// 2026-01-01T00:00:00Z.
pub(crate) const START_MS: i64 = 1_767_225_600_000;
pub(crate) const ROOM: &str = "room";

pub(crate) fn envelope(at_ms: i64, received_ms: i64, platform: &str, event: Wire) -> Vec<u8> {
    wire::Envelope {
        id: vec![7; 16],
        sdk_app_id: APP,
        occurred_at: at_ms,
        received_at: received_ms,
        platform: platform.to_owned(),
        event: Some(event),
        ..wire::Envelope::default()
    }
    .encode_to_vec()
}

pub(crate) fn joined(room: &str, account: &str) -> Wire {
    Wire::MembersJoined(wire::MembersJoined {
        group_id: room.to_owned(),
        members: vec![account.to_owned()],
        ..wire::MembersJoined::default()
    })
}

pub(crate) fn left(room: &str, account: &str) -> Wire {
    Wire::MembersLeft(wire::MembersLeft {
        group_id: room.to_owned(),
        members: vec![account.to_owned()],
        ..wire::MembersLeft::default()
    })
}

pub(crate) fn member_state(room: &str, account: &str, online: bool, cause: i32) -> Wire {
    let members = vec![account.to_owned()];
    Wire::MemberState(wire::MemberState { group_id: room.to_owned(), online, cause, members })
}

pub(crate) fn state_change(account: &str, action: i32, reason: &str) -> Wire {
    Wire::StateChange(wire::StateChange {
        action,
        account: account.to_owned(),
        reason: reason.to_owned(),
        ..wire::StateChange::default()
    })
}

pub(crate) fn destroyed(room: &str) -> Wire {
    Wire::GroupDestroyed(wire::GroupDestroyed { group_id: room.to_owned(), ..wire::GroupDestroyed::default() })
}

/// All goings and returns from a time on, in ms after the start.
pub(crate) fn moves(room: &str, account: &str, from: i64, moves: Vec<wire::AccountMove>) -> Wire {
    let (group_id, account) = (room.to_owned(), account.to_owned());
    Wire::AccountMoves(wire::AccountMoves { group_id, account, from_ms: START_MS + from, moves })
}

/// Its last device went, in ms after the start.
pub(crate) fn gone(at: i64) -> wire::AccountMove {
    wire::AccountMove { at_ms: START_MS + at, back: false, uncertain_ms: 0, maybe: false }
}

/// Both partitions, with what presence needs.
pub(crate) fn world(rules: &RuleSet) -> World {
    World::new(vec![Box::new(OnlineDuration), Box::new(Presence)], APP, rules)
}

pub(crate) fn message(room: &str, account: &str) -> Wire {
    Wire::AfterSend(wire::Message {
        group_id: room.to_owned(),
        from_account: account.to_owned(),
        ..wire::Message::default()
    })
}

pub(crate) fn apply(harness: &mut Harness, record: &[u8]) {
    harness.apply(&barrage_event::EnvelopeView::decode(record).expect("our own record")).expect("applies");
}

pub(crate) fn read<R>(harness: &Harness, at_ms: i64, f: impl FnOnce(&ReadContext<'_>) -> R) -> R {
    f(&ReadContext { reader: &harness.store, app: APP, at_ms, rules: &harness.rules })
}

/// `online` of a room; null when it is not known.
pub(crate) fn room_online(harness: &Harness, room: &str, at_ms: i64) -> Json {
    let mut out = Map::new();
    read(harness, at_ms, |cx| Presence.room(cx, room, &mut out)).expect("reads");
    out.remove("online").unwrap_or(Json::Null)
}

pub(crate) fn user_rooms(harness: &Harness, account: &str, at_ms: i64) -> Json {
    let mut out = Map::new();
    read(harness, at_ms, |cx| Presence.user(cx, account, &mut out)).expect("reads");
    out.remove("rooms").unwrap_or(Json::Null)
}

pub(crate) fn viewers(harness: &Harness, room: &str, sort: &str, at_ms: i64, limit: usize) -> Vec<Map<String, Json>> {
    read(harness, at_ms, |cx| Presence.viewers(cx, room, sort, limit, None)).expect("reads").expect("no token").viewers
}
