//! Rooms, and records of what happens in them.

#![allow(dead_code, reason = "every test file uses some of it")]

use std::cmp::Reverse;

use barrage_event::rules::RuleSet;
use barrage_event::{EnvelopeView, proto as wire};
use barrage_like_tallies::RoomTallies;
use barrage_projection::memory::{Harness, MemoryStore};
use barrage_projection::{
    ListId, RankList, RankQuery, RankedRoom, Rankings, ReadContext, Reader, ReaderExt as _, Statistic as _, Table as _,
};
use barrage_room_heat::tables::Rooms;
use barrage_room_heat::{RoomHeat, RoomHeats};
use prost::Message as _;
use serde_json::{Map, Value as Json};

pub(crate) const APP: u32 = 1_400_000_000;
/// 2026-01-01T00:00:00Z, which is the beginning of a half-life of a minute, of ten, and of an hour.
pub(crate) const START_MS: i64 = 1_767_225_600_000;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum What {
    Text,
    Like {
        count: u64,
    },
    Refused {
        count: u64,
    },
    Gift {
        combo: Option<u8>,
        value: u64,
    },
    Join {
        users: Vec<u16>,
    },
    Membership,
    Destroyed,
    /// The rules as they are now become known: applied when it is said to occur.
    Rules,
}

pub(crate) fn rooms_name(room: u16) -> String {
    format!("room_{room:05}")
}

pub(crate) fn record(room: u16, user: u16, (occurred, received): (i64, i64), what: &What) -> Vec<u8> {
    let (group_id, account) = (rooms_name(room), format!("user_{user}"));
    let message = |kind: i32, custom: wire::CustomFields| wire::Message {
        group_id: group_id.clone(),
        from_account: account.clone(),
        kind,
        custom: Some(custom),
        ..wire::Message::default()
    };
    let mut verdict = None;
    let event = match what {
        What::Text => wire::envelope::Event::AfterSend(message(1, wire::CustomFields::default())),
        What::Like { count } | What::Refused { count } => {
            let outcome = if matches!(what, What::Refused { .. }) { 3 } else { 1 };
            verdict = Some(wire::Verdict { outcome, ..wire::Verdict::default() });
            let custom = wire::CustomFields { count: *count, ..wire::CustomFields::default() };
            wire::envelope::Event::BeforeSend(message(10, custom))
        }
        What::Gift { combo, value } => {
            let combo_id = combo.map(|combo| format!("c-{combo}")).unwrap_or_default();
            let custom = wire::CustomFields { count: 1, value: *value, combo_id, ..wire::CustomFields::default() };
            wire::envelope::Event::AfterSend(message(9, custom))
        }
        What::Join { users } => wire::envelope::Event::MembersJoined(wire::MembersJoined {
            group_id: group_id.clone(),
            members: users.iter().map(|user| format!("user_{user}")).collect(),
            ..wire::MembersJoined::default()
        }),
        What::Membership => wire::envelope::Event::AfterSend(message(11, wire::CustomFields::default())),
        What::Destroyed => wire::envelope::Event::GroupDestroyed(wire::GroupDestroyed {
            group_id: group_id.clone(),
            ..wire::GroupDestroyed::default()
        }),
        What::Rules => {
            let applied = wire::RulesApplied { applied_at_ms: occurred, ..wire::RulesApplied::default() };
            wire::envelope::Event::RulesApplied(applied)
        }
    };
    // Rules belong to no app, and have no time but the one that they name.
    let ours = matches!(what, What::Rules);
    wire::Envelope {
        id: vec![7; 16],
        sdk_app_id: if ours { 0 } else { APP },
        occurred_at: if ours { 0 } else { occurred },
        received_at: if ours { 0 } else { received },
        verdict,
        event: Some(event),
        ..wire::Envelope::default()
    }
    .encode_to_vec()
}

pub(crate) fn new(rules: RuleSet) -> Harness {
    Harness::of(vec![Box::new(RoomTallies), Box::new(RoomHeats)], rules).expect("own ids")
}

/// Something that happens at a time after [`START_MS`], received at once.
pub(crate) fn happen(harness: &mut Harness, room: u16, user: u16, at: i64, what: &What) {
    let at = START_MS + at;
    let bytes = record(room, user, (at, at), what);
    harness.apply(&EnvelopeView::decode(&bytes).expect("our own record")).expect("applies");
}

pub(crate) fn context<'r>(reader: &'r dyn Reader, at: i64, rules: &'r RuleSet) -> ReadContext<'r> {
    ReadContext { reader, app: APP, at_ms: START_MS + at, rules }
}

/// Score and recommendation of a room.
pub(crate) fn heat(harness: &mut Harness, room: u16, at: i64) -> (u64, u64) {
    harness.commit(usize::MAX);
    let rules = harness.rules.clone();
    heat_in(&harness.store, room, at, &rules)
}

pub(crate) fn heat_in(store: &MemoryStore, room: u16, at: i64, rules: &RuleSet) -> (u64, u64) {
    let mut out = Map::<String, Json>::new();
    RoomHeat.room(&context(store, at, rules), &rooms_name(room), &mut out).expect("reads");
    let number = |name: &str| out["heat"][name].as_u64().expect("a number");
    (number("score"), number("recommended"))
}

/// The best rooms as whoever asks picks them out of those that are visited.
pub(crate) fn ranked(reader: &dyn Reader, query: RankQuery<'_>, at: i64) -> Vec<RankedRoom> {
    let rules = RuleSet::default();
    let mut found = Vec::new();
    RoomHeat.rank_rooms(&context(reader, at, &rules), query, &mut |room| found.push(room)).expect("reads");
    found.retain(|room| query.wants(room));
    found.sort_by(|a, b| b.score.cmp(&a.score).then_with(|| a.room.cmp(&b.room)));
    found.truncate(query.keep);
    found
}

/// Every room stands where its row says and nowhere else, and so it does after a restart.
pub(crate) fn check_rankings(harness: &Harness) {
    let mut rows = Vec::new();
    harness
        .store
        .scan::<Rooms>(&(APP,), |(_, room), row| {
            let stands = Rooms::STANDS.expect("rooms are ranked")(&row);
            rows.extend(stands.iter().map(|s| (s.list, s.generation, Reverse(s.score), room.to_owned())));
            std::ops::ControlFlow::Continue(())
        })
        .expect("reads");
    rows.sort();
    let entries = |rankings: &Rankings| -> Vec<(u8, u32, Reverse<u64>, String)> {
        let list = |(id, list): (ListId, &RankList)| -> Vec<_> {
            assert_eq!((id.table, id.app), (Rooms::ID, APP));
            list.behind(None).map(|(score, room)| (id.list, id.generation, Reverse(score), room.to_owned())).collect()
        };
        rankings.lists().flat_map(list).collect()
    };
    assert_eq!(entries(harness.store.rankings()), rows);
    assert_eq!(entries(&harness.rankings_read_again(&RoomHeat).expect("reads")), rows);
}
