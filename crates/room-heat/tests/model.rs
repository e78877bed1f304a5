//! Room heat against a naive model in floating point.
//!
//! The model knows what happened as a set, without any order, and sums weight times 2^(time / half-life) at the end. It
//! shares no code with the projections.

#![allow(clippy::cast_precision_loss, reason = "the model computes in floats")]

mod common;

use std::collections::BTreeMap;

use barrage_event::EnvelopeView;
use barrage_event::rules::{HeatRules, RuleSet};
use barrage_projection::memory::{Harness, hash_of};
use proptest::prelude::*;

use common::{START_MS, What, check_rankings, heat_in, new, record};

/// All happenings and receipts lie within this, which is less than the lateness window.
const SPAN_MS: i64 = 540_000;
const LIKES_MAX: u64 = 100;

#[derive(Debug, Clone)]
struct Happening {
    room: u16,
    user: u16,
    at: i64,
    delay: i64,
    what: What,
}

fn what() -> impl Strategy<Value = What> {
    prop_oneof![
        5 => Just(What::Text),
        4 => prop_oneof![3 => 0_u64..60, 1 => Just(150)].prop_map(|count| What::Like { count }),
        1 => (1_u64..50).prop_map(|count| What::Refused { count }),
        4 => (prop::option::weighted(0.7, 0_u8..3), 0_u64..5_000).prop_map(|(combo, value)| What::Gift { combo, value }),
        2 => prop::collection::vec(0_u16..4, 1..4).prop_map(|users| What::Join { users }),
        1 => Just(What::Membership),
    ]
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    // Few seconds, so that likes meet in them, on both sides of the beginning of a half-life.
    let at = prop_oneof![2 => (0_i64..6, 0_i64..1_000).prop_map(|(s, ms)| 297_000 + s * 1_000 + ms), 1 => 0..SPAN_MS];
    let one = (0_u16..2, 0_u16..3, at, 0_i64..60_000, what()).prop_map(|(room, user, at, delay, what)| Happening {
        room,
        user,
        at,
        delay,
        what,
    });
    prop::collection::vec(one, 1..60)
}

fn rules() -> impl Strategy<Value = RuleSet> {
    let weights = (0_u64..3_000, 0_u64..300, 0_u64..100, 0_u64..5_000, 0_u64..50_000);
    let rest = (prop::sample::select(vec![60_000_u64, 300_000, 600_000, 3_600_000]), 1_000_u64..200_000);
    (weights, rest, prop::sample::select(vec![60_000_u64, 400_000, 1_800_000])).prop_map(
        |((message, like, gift_value, join, membership), (half_life_ms, account_max), fresh_ms)| RuleSet {
            heat: HeatRules { half_life_ms, message, like, gift_value, join, membership, account_max, fresh_ms },
            ..RuleSet::default()
        },
    )
}

/// What counts: room, account, time, points.
fn contributions(happenings: &[Happening], weights: &HeatRules) -> Vec<(u16, u16, i64, f64)> {
    let mut all = Vec::new();
    let mut seconds: BTreeMap<(u16, u16, i64), u64> = BTreeMap::new();
    let mut combos: BTreeMap<(u16, u16, u8), (i64, u64)> = BTreeMap::new();
    for h in happenings {
        let mut add = |user: u16, points: u64| all.push((h.room, user, h.at, points as f64));
        match &h.what {
            What::Text => add(h.user, weights.message),
            What::Like { count } => {
                *seconds.entry((h.room, h.user, h.at / 1_000)).or_default() += (*count).min(LIKES_MAX);
            }
            What::Gift { combo, value } => {
                add(h.user, weights.message);
                if let Some(combo) = combo {
                    let row = combos.entry((h.room, h.user, *combo)).or_insert((h.at, 0));
                    *row = (row.0.min(h.at), row.1.max(*value));
                } else {
                    add(h.user, value * weights.gift_value);
                }
            }
            What::Join { users } => users.iter().for_each(|&user| add(user, weights.join)),
            What::Membership => {
                add(h.user, weights.message);
                add(h.user, weights.membership);
            }
            What::Refused { .. } | What::Destroyed | What::Rules => {}
        }
    }
    for ((room, user, second), offered) in seconds {
        all.push((room, user, second * 1_000, (offered.min(LIKES_MAX) * weights.like) as f64));
    }
    for ((room, user, _), (first, value)) in combos {
        all.push((room, user, first, (value * weights.gift_value) as f64));
    }
    all
}

/// Score and recommendation of a room at a time.
fn model(happenings: &[Happening], room: u16, at: i64, weights: &HeatRules) -> (f64, f64) {
    let half_life = weights.half_life_ms as f64;
    let own: Vec<_> = contributions(happenings, weights).into_iter().filter(|(r, ..)| *r == room).collect();
    let first = happenings
        .iter()
        .filter(|h| h.room == room && !matches!(h.what, What::Refused { .. }))
        .map(|h| if matches!(h.what, What::Like { .. }) { h.at / 1_000 * 1_000 } else { h.at })
        .min()
        .unwrap_or_default() as f64;
    let decayed = |time: f64| ((time - at as f64) / half_life).exp2();
    let score = own.iter().map(|(_, _, t, points)| points * decayed(*t as f64)).sum();
    // Half-lives begin at the start, because that is a multiple of each.
    let mut epochs: BTreeMap<(u16, i64), f64> = BTreeMap::new();
    for (_, user, t, points) in own {
        let epoch = t / i64::try_from(weights.half_life_ms).expect("a week at most");
        *epochs.entry((user, epoch)).or_default() += points * (t as f64 / half_life - epoch as f64).exp2();
    }
    let fresh = weights.fresh_ms as f64;
    let recommended = epochs.iter().map(|((_, epoch), points)| {
        let begin = *epoch as f64 * half_life;
        let age = (begin - first).max(0.0);
        // Between what counts once and what counts twice, each of them capped.
        let (freshness, most) = ((1.0 - age / fresh).max(0.0), weights.account_max as f64);
        (points.min(most) * (1.0 - freshness) + (2.0 * points).min(most) * freshness) * decayed(begin)
    });
    (score, recommended.sum())
}

fn run(rules: &RuleSet, happenings: &[Happening], order: &[usize], cuts: &[(usize, bool)]) -> Harness {
    let mut harness = new(rules.clone());
    for (index, &number) in order.iter().enumerate() {
        let h = &happenings[number];
        let at = START_MS + h.at;
        let bytes = record(h.room, h.user, (at, at + h.delay), &h.what);
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

/// As near as integers of thousandths and seven digits can be.
fn near(found: u64, wanted: f64) -> bool {
    (found as f64 - wanted).abs() <= 0.6 + wanted * 1e-6
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn heat_is_that_of_the_model_in_any_order_and_the_state_is_the_same(
        happenings in happenings(),
        rules in rules(),
        keys in prop::collection::vec(any::<u32>(), 7),
        later in prop_oneof![0_i64..600_000, Just(36_000_000)],
    ) {
        let in_order: Vec<usize> = (0..happenings.len()).collect();
        let harness = run(&rules, &happenings, &in_order, &[]);
        let other = run(&rules, &happenings, &shuffled(happenings.len(), &keys), &[]);
        prop_assert_eq!(&harness.store.rows, &other.store.rows);
        check_rankings(&harness);
        let at = 3_600_000 + later;
        for room in 0..2 {
            let (score, recommended) = heat_in(&harness.store, room, at, &rules);
            let wanted = model(&happenings, room, at, &rules.heat);
            prop_assert!(near(score, wanted.0), "score {score} of room {room} for {}", wanted.0);
            prop_assert!(near(recommended, wanted.1), "recommended {recommended} of room {room} for {}", wanted.1);
        }
    }

    #[test]
    fn any_batch_boundaries_and_restarts_give_the_same_bytes(
        happenings in happenings(),
        rules in rules(),
        spread in prop::sample::select(vec![1_i64, 10, 400]),
        cuts in prop::collection::vec((0_usize..60, any::<bool>()), 0..20),
    ) {
        // Also over days, where accounts and combos are forgotten and old epochs go.
        let happenings: Vec<Happening> =
            happenings.into_iter().map(|h| Happening { at: h.at * spread, ..h }).collect();
        let order: Vec<usize> = (0..happenings.len()).collect();
        let (whole, cut) = (run(&rules, &happenings, &order, &[]), run(&rules, &happenings, &order, &cuts));
        prop_assert_eq!(&whole.store.rows, &cut.store.rows);
        prop_assert_eq!(whole.hash, cut.hash);
        prop_assert_eq!(whole.hash, hash_of(&whole.store));
        check_rankings(&whole);
    }
}
