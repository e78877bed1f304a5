//! Like tallies against a naive model.
//!
//! The model knows what happened as a set, without any order, and counts it at the end: seconds are summed and capped,
//! combos have their largest message or the sum of their bills. It shares no code with the projections or with the event
//! model; only the harness that turns happenings into records does.

use std::collections::{BTreeMap, BTreeSet};

use barrage_event::rules::{GiftSource, RuleSet};
use barrage_event::{EnvelopeView, proto as wire};
use barrage_like_tallies::{AccountTallies, LikeTallies, RoomTallies};
use barrage_projection::memory::{Harness, MemoryStore, hash_of};
use barrage_projection::{Projection, ReadContext, Statistic as _};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use prost::Message as _;
use serde_json::{Map, Value as Json};

const APP: u32 = 1_400_000_000;
/// Four minutes before an hour begins, so that windows of time are cut.
const START_MS: i64 = 1_767_222_000_000 - 240_000;
const HOUR_MS: i64 = 3_600_000;
/// All happenings and receipts lie within this, which is less than the lateness window and than a combo's.
const SPAN_MS: i64 = 540_000;

#[derive(Debug, Clone, PartialEq)]
enum What {
    Like { count: u64, refused: bool },
    GiftMessage { gift: u8, combo: Option<u8>, count: u64, value: u64 },
    Bill { gift: u8, combo: Option<u8>, count: u64, value: u64 },
    MembershipMessage { months: u32 },
    MembershipBill { months: u32, value: u64 },
    Text,
}

#[derive(Debug, Clone)]
struct Happening {
    room: u8,
    user: u8,
    at_ms: i64,
    delay_ms: i64,
    /// Which of the two versions of the rules ingest had.
    second_rules: bool,
    what: What,
}

/// Version 1: gifts from messages. Version 2: other caps, and gifts from bills.
fn rules(second: bool) -> RuleSet {
    let mut rules = RuleSet::default();
    if second {
        (rules.likes.per_message_max, rules.likes.per_second_max) = (30, 45);
        rules.gifts.source = GiftSource::Billing;
    }
    rules
}

fn what() -> impl Strategy<Value = What> {
    let count = || prop_oneof![4 => 0_u64..60, 1 => 90_u64..130, 1 => Just(1_000_000_000)];
    let gift = || (0_u8..2, prop::option::weighted(0.7, 0_u8..3), 0_u64..20, 0_u64..5_000);
    prop_oneof![
        6 => (count(), prop::bool::weighted(0.1)).prop_map(|(count, refused)| What::Like { count, refused }),
        4 => gift().prop_map(|(gift, combo, count, value)| What::GiftMessage { gift, combo, count, value }),
        3 => gift().prop_map(|(gift, combo, count, value)| What::Bill { gift, combo, count, value }),
        1 => (0_u32..13).prop_map(|months| What::MembershipMessage { months }),
        1 => (1_u32..13, 0_u64..9_999).prop_map(|(months, value)| What::MembershipBill { months, value }),
        1 => Just(What::Text),
    ]
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    // Few seconds, so that likes meet in them.
    let at = prop_oneof![3 => (0_i64..6, 0_i64..1_000).prop_map(|(s, ms)| 238_000 + s * 1_000 + ms), 1 => 0..SPAN_MS];
    let one = (0_u8..2, 0_u8..3, at, 0_i64..60_000, any::<bool>(), what()).prop_map(
        |(room, user, at, delay, second_rules, what)| {
            // A clock that runs ahead of ours: the event time is after the receipt.
            let delay_ms = if delay % 7 == 0 { -1_500 } else { delay };
            Happening { room, user, at_ms: START_MS + at, delay_ms, second_rules, what }
        },
    );
    prop::collection::vec(one, 1..80)
}

fn record(h: &Happening, number: usize) -> Vec<u8> {
    let (room, user) = (format!("room_{}", h.room), format!("user_{}", h.user));
    let message = |kind: i32, custom: wire::CustomFields| wire::Message {
        group_id: room.clone(),
        from_account: user.clone(),
        msg_id: format!("m-{number}"),
        kind,
        custom: Some(custom),
        ..wire::Message::default()
    };
    let combo_id = |combo: Option<u8>| combo.map(|c| format!("c-{c}")).unwrap_or_default();
    let mut verdict = None;
    let event = match &h.what {
        What::Like { count, refused } => {
            let outcome = if *refused { 2 } else { 1 };
            verdict = Some(wire::Verdict { outcome, ..wire::Verdict::default() });
            wire::envelope::Event::BeforeSend(message(
                10,
                wire::CustomFields { count: *count, ..wire::CustomFields::default() },
            ))
        }
        What::GiftMessage { gift, combo, count, value } => wire::envelope::Event::AfterSend(message(
            9,
            wire::CustomFields {
                count: *count,
                value: *value,
                gift_id: format!("g-{gift}"),
                combo_id: combo_id(*combo),
                ..wire::CustomFields::default()
            },
        )),
        What::Bill { gift, combo, count, value } => wire::envelope::Event::GiftBilled(wire::GiftBilled {
            idempotency_key: format!("b-{number}"),
            group_id: room.clone(),
            from_account: user.clone(),
            gift_id: format!("g-{gift}"),
            count: *count,
            value: *value,
            combo_id: combo_id(*combo),
            ..wire::GiftBilled::default()
        }),
        What::MembershipMessage { months } => wire::envelope::Event::AfterSend(message(
            11,
            wire::CustomFields { count: 1, months: *months, ..wire::CustomFields::default() },
        )),
        What::MembershipBill { months, value } => wire::envelope::Event::MembershipOpened(wire::MembershipOpened {
            idempotency_key: format!("b-{number}"),
            account: user.clone(),
            group_id: room.clone(),
            months: *months,
            value: *value,
            ..wire::MembershipOpened::default()
        }),
        What::Text => wire::envelope::Event::BeforeSend(message(1, wire::CustomFields::default())),
    };
    wire::Envelope {
        id: vec![7; 16],
        sdk_app_id: APP,
        occurred_at: h.at_ms,
        received_at: h.at_ms + h.delay_ms,
        rules_version: 1 + u32::from(h.second_rules),
        verdict,
        event: Some(event),
        ..wire::Envelope::default()
    }
    .encode_to_vec()
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Counts {
    like_messages: u64,
    named: u64,
    likes: u64,
    over_message: u64,
    rejected: u64,
    gift_messages: u64,
    gift_count: u64,
    gift_value: u64,
    memberships: u64,
    months: u64,
    membership_value: u64,
}

impl Counts {
    fn add(&mut self, o: &Self) {
        self.like_messages += o.like_messages;
        self.named += o.named;
        self.likes += o.likes;
        self.over_message += o.over_message;
        self.rejected += o.rejected;
        self.gift_messages += o.gift_messages;
        self.gift_count += o.gift_count;
        self.gift_value += o.gift_value;
        self.memberships += o.memberships;
        self.months += o.months;
        self.membership_value += o.membership_value;
    }

    /// From the fields of a room or account.
    fn of(out: &Map<String, Json>) -> Self {
        let number = |field: &str, name: &str| out[field][name].as_u64().expect("a number");
        let counts = Self {
            like_messages: number("likes", "messages"),
            named: number("likes", "count") + number("likes", "capped"),
            likes: number("likes", "count"),
            over_message: number("likes", "capped_per_message"),
            rejected: number("likes", "rejected"),
            gift_messages: number("gifts", "messages"),
            gift_count: number("gifts", "count"),
            gift_value: number("gifts", "value"),
            memberships: number("memberships", "count"),
            months: number("memberships", "months"),
            membership_value: number("memberships", "value"),
        };
        assert_eq!(number("likes", "attempted"), counts.named + counts.rejected);
        let capped = number("likes", "capped_per_message") + number("likes", "capped_per_second");
        assert_eq!(number("likes", "capped"), capped);
        for field in ["likes", "gifts", "memberships"] {
            assert_eq!(number(field, "saturated"), 0);
        }
        assert_eq!(number("likes", "too_late") + number("gifts", "too_late"), 0);
        counts
    }
}

/// By (room, user): totals, and by hour (likes, gifts, value).
#[derive(Debug, Default)]
struct Model {
    viewers: BTreeMap<(u8, u8), Counts>,
    hours: BTreeMap<(u8, u8, i64), (u64, u64, u64)>,
}

#[derive(Debug, Default)]
struct ComboModel {
    first_ms: Option<i64>,
    largest: (u64, u64),
    billed: (u64, u64),
}

fn model(happenings: &[Happening]) -> Model {
    let mut model = Model::default();
    let mut seconds: BTreeMap<(u8, u8, i64), (u64, u64)> = BTreeMap::new();
    let mut combos: BTreeMap<(u8, u8, u8, u8), ComboModel> = BTreeMap::new();
    for h in happenings {
        let rules = rules(h.second_rules);
        let billing = rules.gifts.source == GiftSource::Billing;
        let who = (h.room, h.user);
        let mut one = Counts::default();
        let mut single = None;
        match &h.what {
            What::Like { count, refused: true } => one.rejected = *count,
            What::Like { count, refused: false } => {
                let offered = (*count).min(rules.likes.per_message_max);
                (one.like_messages, one.named, one.over_message) = (1, *count, *count - offered);
                let second = seconds.entry((h.room, h.user, h.at_ms / 1_000)).or_default();
                second.0 += offered;
                second.1 = second.1.max(rules.likes.per_second_max);
            }
            What::GiftMessage { gift, combo, count, value } => {
                one.gift_messages = 1;
                match combo {
                    _ if billing => {}
                    None => single = Some((*count, *value)),
                    Some(combo) => {
                        let row = combos.entry((h.room, h.user, *gift, *combo)).or_default();
                        row.first_ms = Some(row.first_ms.map_or(h.at_ms, |first| first.min(h.at_ms)));
                        row.largest = (row.largest.0.max(*count), row.largest.1.max(*value));
                    }
                }
            }
            What::Bill { gift, combo, count, value } if billing => match combo {
                None => single = Some((*count, *value)),
                Some(combo) => {
                    let row = combos.entry((h.room, h.user, *gift, *combo)).or_default();
                    row.first_ms = Some(row.first_ms.map_or(h.at_ms, |first| first.min(h.at_ms)));
                    row.billed = (row.billed.0 + count, row.billed.1 + value);
                }
            },
            What::MembershipMessage { months } if !billing => {
                (one.memberships, one.months) = (1, u64::from(*months));
            }
            What::MembershipBill { months, value } if billing => {
                (one.memberships, one.months, one.membership_value) = (1, u64::from(*months), *value);
            }
            _ => {}
        }
        if let Some((count, value)) = single {
            (one.gift_count, one.gift_value) = (count, value);
            let hour = model.hours.entry((h.room, h.user, h.at_ms / HOUR_MS)).or_default();
            (hour.1, hour.2) = (hour.1 + count, hour.2 + value);
        }
        model.viewers.entry(who).or_default().add(&one);
    }
    for ((room, user, second), (offered, cap)) in seconds {
        let likes = offered.min(cap);
        model.viewers.entry((room, user)).or_default().likes += likes;
        model.hours.entry((room, user, second / 3_600)).or_default().0 += likes;
    }
    for ((room, user, ..), combo) in combos {
        let (count, value) = (combo.largest.0.max(combo.billed.0), combo.largest.1.max(combo.billed.1));
        let viewer = model.viewers.entry((room, user)).or_default();
        (viewer.gift_count, viewer.gift_value) = (viewer.gift_count + count, viewer.gift_value + value);
        let hour = model.hours.entry((room, user, combo.first_ms.expect("begun") / HOUR_MS)).or_default();
        (hour.1, hour.2) = (hour.1 + count, hour.2 + value);
    }
    model
}

fn read<R>(store: &MemoryStore, f: impl FnOnce(&ReadContext<'_>) -> R) -> R {
    let rules = RuleSet::default();
    f(&ReadContext { reader: store, app: APP, at_ms: START_MS + SPAN_MS, rules: &rules })
}

/// Applies in this order, with a commit (and a restart) after the records that `cuts` names.
fn run(projection: impl Projection, happenings: &[Happening], order: &[usize], cuts: &[(usize, bool)]) -> Harness {
    let mut harness = Harness::new(projection, RuleSet::default()).expect("own ids");
    for (index, &number) in order.iter().enumerate() {
        let happening = &happenings[number];
        harness.stamped = Some(rules(happening.second_rules));
        let bytes = record(happening, number);
        harness.apply(&EnvelopeView::decode(&bytes).expect("our own record")).expect("applies");
        for (_, restart) in cuts.iter().filter(|(at, _)| *at == index) {
            harness.commit(if *restart { 0 } else { 5_000 });
            if *restart {
                harness.restart().expect("reads back");
            }
        }
    }
    harness.commit(usize::MAX);
    harness
}

fn shuffled(length: usize, keys: &[u32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..length).collect();
    order.sort_by_key(|&n| (keys[n % keys.len()].wrapping_mul(u32::try_from(n + 1).expect("few")), n));
    order
}

/// Account to (score, gift count) of every page of a list, one page after the other.
fn listed(pages: impl Fn(Option<&str>) -> barrage_projection::ViewersPage, sort: &str) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    let mut token: Option<String> = None;
    loop {
        let page = pages(token.as_deref());
        for viewer in page.viewers {
            let score = match sort {
                "likes" => &viewer["likes"]["count"],
                _ => &viewer["gifts"]["value"],
            };
            all.push((viewer["account"].as_str().expect("text").to_owned(), score.as_u64().expect("a number")));
        }
        token = page.next;
        if token.is_none() {
            return all;
        }
    }
}

fn best_first(scores: impl Iterator<Item = (u8, u64)>) -> Vec<(String, u64)> {
    let mut all: Vec<(String, u64)> =
        scores.filter(|(_, score)| *score > 0).map(|(user, score)| (format!("user_{user}"), score)).collect();
    all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn rooms_viewers_and_accounts_are_those_of_the_model_in_any_order_and_the_state_is_the_same(
        happenings in happenings(),
        keys in prop::collection::vec(any::<u32>(), 7),
        other_keys in prop::collection::vec(any::<u32>(), 5),
    ) {
        let model = model(&happenings);
        let (order, other) = (shuffled(happenings.len(), &keys), shuffled(happenings.len(), &other_keys));
        let rooms = run(RoomTallies, &happenings, &order, &[]);
        // The accounts' partition sees the copies in an order of its own.
        let accounts = run(AccountTallies, &happenings, &other, &[]);
        prop_assert_eq!(&rooms.store, &run(RoomTallies, &happenings, &other, &[]).store);
        prop_assert_eq!(&accounts.store, &run(AccountTallies, &happenings, &order, &[]).store);

        let sum = |wanted: &dyn Fn(&(u8, u8)) -> bool| {
            let mut sum = Counts::default();
            model.viewers.iter().filter(|(who, _)| wanted(who)).for_each(|(_, counts)| sum.add(counts));
            sum
        };
        for room in 0..2_u8 {
            let name = format!("room_{room}");
            let mut out = Map::new();
            read(&rooms.store, |cx| LikeTallies.room(cx, &name, &mut out)).expect("reads");
            prop_assert_eq!(Counts::of(&out), sum(&|who| who.0 == room), "{}", name);

            for sort in ["likes", "gift_value"] {
                let found = listed(|after| {
                    read(&rooms.store, |cx| LikeTallies.viewers(cx, &name, sort, 2, after)).expect("reads").expect("ours")
                }, sort);
                let own = model.viewers.iter().filter(|((r, _), _)| *r == room);
                let scores = own.map(|((_, u), c)| (*u, if sort == "likes" { c.likes } else { c.gift_value }));
                prop_assert_eq!(found, best_first(scores), "{} by {}", name, sort);

                for hour in START_MS / HOUR_MS..=START_MS / HOUR_MS + 1 {
                    // Any span inside the hour is answered by the hour.
                    let span = (hour * HOUR_MS + 7, hour * HOUR_MS + 9);
                    let window = |after: Option<&str>| {
                        let answer = read(&rooms.store, |cx| {
                            LikeTallies.viewers_between(cx, &name, sort, span, (1, after))
                        });
                        let window = answer.expect("reads").expect("ours");
                        assert_eq!(window.span, (hour * HOUR_MS, (hour + 1) * HOUR_MS));
                        window.page
                    };
                    let own = model.hours.iter().filter(|((r, _, h), _)| (*r, *h) == (room, hour));
                    let scores = own.map(|((_, u, _), did)| (*u, if sort == "likes" { did.0 } else { did.2 }));
                    prop_assert_eq!(listed(window, sort), best_first(scores), "{} by {} in {}", name, sort, hour);
                }
            }
        }
        for user in 0..3_u8 {
            let mut out = Map::new();
            read(&accounts.store, |cx| LikeTallies.user(cx, &format!("user_{user}"), &mut out)).expect("reads");
            prop_assert_eq!(Counts::of(&out), sum(&|who| who.1 == user), "user_{}", user);
        }
    }

    #[test]
    fn any_batch_boundaries_and_restarts_give_the_same_bytes(
        happenings in happenings(),
        spread in prop::sample::select(vec![1_i64, 10, 400]),
        cuts in prop::collection::vec((0_usize..80, any::<bool>()), 0..20),
    ) {
        // Also over days, where seconds close, combos are forgotten and hours go.
        let happenings: Vec<Happening> = happenings
            .into_iter()
            .map(|h| Happening { at_ms: START_MS + (h.at_ms - START_MS) * spread, ..h })
            .collect();
        let order: Vec<usize> = (0..happenings.len()).collect();
        for (whole, cut) in [
            (run(RoomTallies, &happenings, &order, &[]), run(RoomTallies, &happenings, &order, &cuts)),
            (run(AccountTallies, &happenings, &order, &[]), run(AccountTallies, &happenings, &order, &cuts)),
        ] {
            prop_assert_eq!(&whole.store, &cut.store);
            prop_assert_eq!(whole.hash, cut.hash);
            prop_assert_eq!(whole.hash, hash_of(&whole.store));
        }
    }
}

#[test]
fn the_happenings_meet_caps_combos_and_hours() {
    // The property above is worth what its histories contain.
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut met = BTreeSet::new();
    for _ in 0..50 {
        let happenings = happenings().new_tree(&mut runner).expect("a tree").current();
        let model = model(&happenings);
        for counts in model.viewers.values() {
            if counts.over_message > 0 {
                met.insert("over message");
            }
            if counts.named > counts.likes + counts.over_message {
                met.insert("over second");
            }
        }
        if model.hours.keys().map(|(.., hour)| hour).collect::<BTreeSet<_>>().len() > 1 {
            met.insert("two hours");
        }
    }
    assert_eq!(met, BTreeSet::from(["over message", "over second", "two hours"]));
}
