//! The ranking that is kept equals a full computation, whatever happened and however often the half-life changed.

#![allow(clippy::cast_precision_loss, reason = "the model computes in floats")]

mod common;

use std::cell::Cell;

use barrage_event::rules::RuleSet;
use barrage_projection::memory::MemoryStore;
use barrage_projection::{RankQuery, Rankings, Reader, Statistic as _, StoreError, VisitRowUntil};
use barrage_room_heat::RoomHeat;
use proptest::prelude::*;

use common::{What, check_rankings, context, happen, heat_in, new, ranked, rooms_name};

#[derive(Debug, Clone)]
enum Step {
    Texts { room: u16, messages: u64 },
    HalfLife(u64),
    Wait(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (0_u16..40, prop_oneof![3 => 1_u64..4, 1 => 1_u64..60])
            .prop_map(|(room, messages)| Step::Texts { room, messages }),
        1 => prop::sample::select(vec![60_000_u64, 600_000, 900_000, 3_600_000]).prop_map(Step::HalfLife),
        2 => prop_oneof![3 => 0_i64..200_000, 1 => 0_i64..20_000_000].prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..120)
}

/// Value of every room in logarithms, decayed step by step.
#[derive(Debug)]
struct Model {
    now: i64,
    half_life: f64,
    /// (log2 of the value, and when it was that) by room.
    rooms: std::collections::BTreeMap<u16, (f64, i64)>,
}

impl Model {
    fn value(&self, room: u16) -> f64 {
        self.rooms.get(&room).map_or(f64::NEG_INFINITY, |(log, at)| log - (self.now - at) as f64 / self.half_life)
    }

    fn settle(&mut self) {
        let values: Vec<_> = self.rooms.keys().map(|&room| (room, self.value(room))).collect();
        self.rooms.extend(values.into_iter().map(|(room, value)| (room, (value, self.now))));
    }

    fn add(&mut self, room: u16, points: f64) {
        let (old, new) = (self.value(room), points.log2());
        let (high, low) = (old.max(new), old.min(new));
        self.rooms.insert(room, (high + (1.0 + (low - high).exp2()).log2(), self.now));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_best_rooms_are_those_of_a_full_computation(
        steps in steps(),
        keep in 1_usize..12,
        later in prop_oneof![0_i64..100_000, Just(2_000_000_000)],
        // Without one, a room that nothing happens in is not carried over for as long as it is not read.
        rules_record: bool,
    ) {
        let mut rules = RuleSet::default();
        rules.heat.half_life_ms = 600_000;
        // Nothing is capped and nothing is fresh for long, so both lists have one order.
        (rules.heat.account_max, rules.heat.fresh_ms) = (1_000_000_000, 60_000);
        let mut harness = new(rules);
        let mut model = Model { now: 0, half_life: 600_000.0, rooms: Default::default() };
        for step in &steps {
            match step {
                Step::Texts { room, messages } => {
                    for n in 0..*messages {
                        happen(&mut harness, *room, u16::try_from(n % 7).expect("few"), model.now, &What::Text);
                    }
                    model.add(*room, (*messages * 1_000) as f64);
                }
                Step::HalfLife(half_life_ms) => {
                    harness.rules.heat.half_life_ms = *half_life_ms;
                    if rules_record {
                        happen(&mut harness, 0, 0, model.now, &What::Rules);
                    } else {
                        happen(&mut harness, 99, 0, model.now, &What::Text);
                        model.settle();
                        model.half_life = *half_life_ms as f64;
                        model.add(99, 1_000.0);
                    }
                    model.settle();
                    model.half_life = *half_life_ms as f64;
                }
                // Nothing happens meanwhile: stream time stands still.
                Step::Wait(ms) => model.now += ms,
            }
        }
        harness.commit(usize::MAX);
        check_rankings(&harness);
        let at = model.now + later;
        model.now = at;

        let all = RankQuery::all("heat");
        let full = ranked(&harness.store, all, at);
        prop_assert_eq!(full.len(), model.rooms.len());
        let number = |room: &str| room.rsplit('_').next().and_then(|n| n.parse::<u16>().ok()).expect("a number");
        for pair in full.windows(2) {
            let (a, b) = (model.value(number(&pair[0].room)), model.value(number(&pair[1].room)));
            prop_assert!(a >= b - 1e-5, "{} with 2^{a} before {} with 2^{b}", pair[0].room, pair[1].room);
        }
        // What is shown is what is ranked by, at any time.
        let shown: Vec<u64> = full.iter().map(|r| heat_in(&harness.store, number(&r.room), at, &harness.rules).0).collect();
        prop_assert!(shown.is_sorted_by(|a, b| a >= b), "{shown:?}");
        for (room, shown) in full.iter().zip(&shown) {
            let wanted = model.value(number(&room.room)).exp2();
            prop_assert!((*shown as f64 - wanted).abs() <= 0.6 + wanted * 1e-5, "{} shows {shown} for {wanted}", room.room);
        }
        // Page after page, each asked for later than the one before.
        let mut pages: Vec<barrage_projection::RankedRoom> = Vec::new();
        loop {
            let after = pages.last().map(|last| (last.score, last.room.clone()));
            let after = after.as_ref().map(|(score, room)| (*score, room.as_str()));
            let later = i64::try_from(pages.len()).expect("few") * 10_000;
            let page = ranked(&harness.store, RankQuery { keep, after, ..RankQuery::all("heat") }, at + later);
            if page.is_empty() {
                break;
            }
            pages.extend(page);
        }
        prop_assert_eq!(&pages, &full);
        let recommended = ranked(&harness.store, RankQuery::all("recommended"), at);
        // A room's rank is its place in the whole ranking.
        for (sort, ranking) in [("heat", &full), ("recommended", &recommended)] {
            let cx = context(&harness.store, at, &harness.rules);
            for (place, room) in (0_u64..).zip(ranking) {
                let score = RoomHeat.room_score(&cx, sort, &room.room).expect("reads");
                prop_assert_eq!(score, Some(room.score), "{}", &room.room);
                let before = RoomHeat.rooms_before(&cx, sort, (room.score, &room.room)).expect("reads");
                prop_assert_eq!(before, place, "{} by {}", &room.room, sort);
            }
            prop_assert_eq!(RoomHeat.room_score(&cx, sort, "nobody").expect("reads"), None);
            prop_assert_eq!(RoomHeat.rooms_before(&cx, sort, (u64::MAX, "")).expect("reads"), 0);
            prop_assert_eq!(RoomHeat.rooms_before(&cx, sort, (0, "")).expect("reads"), ranking.len() as u64);
        }
        for keep in [1, keep] {
            let best = ranked(&harness.store, RankQuery { keep, ..RankQuery::all("recommended") }, at);
            prop_assert_eq!(&best[..], &recommended[..best.len()]);
            prop_assert_eq!(best.len(), keep.min(recommended.len()));
        }
    }
}

/// A store whose lists are cut off before their first entry.
struct CutOff<'s>(&'s MemoryStore, Rankings);

impl Reader for CutOff<'_> {
    fn get_row(&self, row: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.get_row(row)
    }

    fn scan_rows(&self, prefix: &[u8], from: Option<&[u8]>, visit: &mut VisitRowUntil<'_>) -> Result<(), StoreError> {
        self.0.scan_rows(prefix, from, visit)
    }

    fn rankings(&self) -> &Rankings {
        &self.1
    }
}

#[test]
fn a_room_that_stands_in_no_list_is_not_ranked() {
    let mut rules = RuleSet::default();
    rules.heat.half_life_ms = 600_000;
    let mut harness = new(rules);
    happen(&mut harness, 1, 1, 0, &What::Text);
    // And one whose list is that of the half-life before.
    harness.rules.heat.half_life_ms = 60_000;
    happen(&mut harness, 2, 1, 1_000, &What::Text);
    harness.commit(usize::MAX);
    let cut_off = CutOff(&harness.store, Rankings::default());
    for room in [1, 2] {
        for sort in ["heat", "recommended"] {
            let ranked = |reader: &dyn Reader| {
                let cx = context(reader, 2_000, &harness.rules);
                RoomHeat.room_score(&cx, sort, &rooms_name(room)).expect("reads").is_some()
            };
            assert!(ranked(&harness.store), "room {room} by {sort}");
            assert!(!ranked(&cut_off), "room {room} by {sort}");
        }
        // It is worth what it was.
        assert!(heat_in(&harness.store, room, 2_000, &harness.rules).0 > 0);
    }
}

/// Counts the rows that are read.
struct Counting<'s> {
    store: &'s MemoryStore,
    got: Cell<u64>,
    walked: Cell<u64>,
}

impl Reader for Counting<'_> {
    fn get_row(&self, row: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.got.set(self.got.get() + 1);
        self.store.get_row(row)
    }

    fn scan_rows(&self, prefix: &[u8], from: Option<&[u8]>, visit: &mut VisitRowUntil<'_>) -> Result<(), StoreError> {
        self.store.scan_rows(prefix, from, &mut |row, value| {
            self.walked.set(self.walked.get() + 1);
            visit(row, value)
        })
    }

    fn rankings(&self) -> &Rankings {
        self.store.rankings()
    }
}

#[test]
fn a_page_of_ten_thousand_rooms_computes_a_page_and_not_ten_thousand() {
    let mut harness = new(RuleSet::default());
    for room in 0..10_000_u16 {
        let at = i64::from(room) * 700;
        for user in 0..1 + u16::try_from(u64::from(room) * 7_919 % 13).expect("few") {
            happen(&mut harness, room, user, at, &What::Text);
        }
    }
    harness.commit(usize::MAX);
    let mut after: Option<(u64, String)> = None;
    for page in 0..20 {
        let counting = Counting { store: &harness.store, got: Cell::new(0), walked: Cell::new(0) };
        let query = RankQuery {
            keep: 51,
            after: after.as_ref().map(|(score, room)| (*score, room.as_str())),
            ..RankQuery::all("heat")
        };
        let found = ranked(&counting, query, 10_000_000);
        assert_eq!(found.len(), 51);
        let (got, walked) = (counting.got.get(), counting.walked.get());
        assert!(got <= 1 && walked == 0, "page {page}: {got} rows read, {walked} walked over");
        after = found.last().map(|last| (last.score, last.room.clone()));
    }
    let rules = RuleSet::default();
    for room in [0, 3_000, 9_999_u16] {
        let counting = Counting { store: &harness.store, got: Cell::new(0), walked: Cell::new(0) };
        let cx = context(&counting, 10_000_000, &rules);
        let name = rooms_name(room);
        let score = RoomHeat.room_score(&cx, "heat", &name).expect("reads").expect("it is ranked");
        RoomHeat.rooms_before(&cx, "heat", (score, &name)).expect("reads");
        assert!(counting.got.get() < 5, "{name}: {} rows read", counting.got.get());
    }
    let query = RankQuery { keep: 0, ..RankQuery::all("heat") };
    RoomHeat
        .rank_rooms(&context(&harness.store, 0, &rules), query, &mut |room| {
            panic!("nothing was asked for, but {room:?}")
        })
        .expect("reads");
    assert_eq!(rooms_name(1), "room_00001");
}
