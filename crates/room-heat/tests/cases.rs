//! The odd cases, one by one.

mod common;

use barrage_event::rules::RuleSet;
use barrage_event::{EnvelopeView, proto as wire};
use barrage_projection::memory::Harness;
use barrage_projection::{RankQuery, ReaderExt as _};
use barrage_room_heat::proto::{Room, Viewer};
use barrage_room_heat::tables::{Generations, Rooms, Viewers};
use prost::Message as _;

use common::{APP, What, check_rankings, happen, heat, new, ranked, record, rooms_name};

const MINUTE_MS: i64 = 60_000;

fn order(harness: &mut Harness, sort: &str, at: i64) -> Vec<String> {
    harness.commit(usize::MAX);
    check_rankings(harness);
    let found = ranked(&harness.store, RankQuery { keep: 100, ..RankQuery::all(sort) }, at);
    found.into_iter().map(|room| room.room).collect()
}

#[test]
fn heat_halves_every_half_life_and_the_order_stays() {
    let mut harness = new(RuleSet::default());
    for user in 0..8 {
        happen(&mut harness, 1, user, 0, &What::Text);
    }
    happen(&mut harness, 2, 0, 7 * MINUTE_MS, &What::Text);
    assert_eq!(heat(&mut harness, 1, 0).0, 8_000);
    for (half_lives, score) in [(1, 4_000), (2, 2_000), (3, 1_000), (10, 8), (13, 1), (15, 0), (1_000_000, 0)] {
        assert_eq!(heat(&mut harness, 1, half_lives * 10 * MINUTE_MS).0, score, "after {half_lives}");
    }
    // A time before its newest half-life is taken as that one's beginning.
    assert_eq!(heat(&mut harness, 1, -365 * 24 * 60 * MINUTE_MS).0, 8_000);
    for at in [7 * MINUTE_MS, 60 * MINUTE_MS, 1_000_000 * MINUTE_MS] {
        assert_eq!(order(&mut harness, "heat", at), ["room_00001", "room_00002"]);
    }
}

#[test]
fn every_weight_counts_what_it_says() {
    for (what, score) in [
        (What::Text, 1_000),
        (What::Like { count: 7 }, 700),
        (What::Like { count: 5_000 }, 10_000),
        (What::Refused { count: 7 }, 0),
        (What::Gift { combo: None, value: 990 }, 50_500),
        (What::Join { users: vec![1, 2, 3] }, 6_000),
        (What::Membership, 21_000),
        (What::Destroyed, 0),
    ] {
        let mut harness = new(RuleSet::default());
        happen(&mut harness, 1, 1, 0, &what);
        assert_eq!(heat(&mut harness, 1, 0).0, score, "{what:?}");
    }
    // A like counts before delivery, its message when delivered.
    let mut harness = new(RuleSet::default());
    happen(&mut harness, 1, 1, 0, &What::Like { count: 3 });
    let like = wire::Message { group_id: rooms_name(1), kind: 10, ..wire::Message::default() };
    let delivered = wire::Envelope {
        id: vec![7; 16],
        sdk_app_id: APP,
        occurred_at: common::START_MS,
        received_at: common::START_MS,
        event: Some(wire::envelope::Event::AfterSend(like)),
        ..wire::Envelope::default()
    };
    let delivered = delivered.encode_to_vec();
    harness.apply(&EnvelopeView::decode(&delivered).expect("a record")).expect("applies");
    assert_eq!(heat(&mut harness, 1, 0).0, 1_300);
}

#[test]
fn a_change_of_weights_counts_from_its_place_in_the_log_on() {
    let mut harness = new(RuleSet::default());
    happen(&mut harness, 1, 1, 0, &What::Text);
    harness.rules.heat.message = 5_000;
    happen(&mut harness, 1, 1, 0, &What::Rules);
    assert_eq!(heat(&mut harness, 1, 0).0, 1_000, "what was counted stays");
    happen(&mut harness, 1, 1, 0, &What::Text);
    assert_eq!(heat(&mut harness, 1, 0).0, 6_000);
}

#[test]
fn a_late_message_of_a_combo_moves_what_the_combo_added_and_no_more() {
    // The weight changes between the messages of a combo of 100, then an earlier one comes: of this half-life, or of the
    // one before. What the combo is worth at the later one's time (a minute is a tenth of a half-life), beside what
    // others added.
    for (name, change, first, wanted) in [
        ("the weight is the same", (50, 600_000), 14, 4_665),
        ("it grows", (5_000, 600_000), 14, 4_665),
        ("it falls", (1, 600_000), 14, 4_665),
        ("it grows, in another half-life", (5_000, 600_000), 5, 2_500),
        ("it falls to nothing, in another half-life", (0, 600_000), 5, 2_500),
        ("another half-life is in force", (5_000, 1_200_000), 14, 5_000),
    ] {
        let mut harness = new(RuleSet::default());
        harness.rules.heat.message = 0;
        let combo = |value: u64| What::Gift { combo: Some(1), value };
        let at = 15 * MINUTE_MS;
        happen(&mut harness, 1, 1, at, &combo(100));
        happen(&mut harness, 1, 2, at, &What::Join { users: vec![2, 3, 4] });
        (harness.rules.heat.gift_value, harness.rules.heat.half_life_ms) = change;
        happen(&mut harness, 0, 0, at, &What::Rules);
        let earlier = record(1, 1, (common::START_MS + first * MINUTE_MS, common::START_MS + at), &combo(40));
        harness.apply(&EnvelopeView::decode(&earlier).expect("our own record")).expect("applies");
        let found = heat(&mut harness, 1, at).0;
        assert!(found.abs_diff(wanted + 6_000) <= 1, "{name}: {found} for {wanted} and 6000");
        // And one that grows adds by the weight in force.
        happen(&mut harness, 1, 1, at, &combo(102));
        let more = heat(&mut harness, 1, at).0 - found;
        let full = 2 * change.0;
        assert!(more <= full + 1 && more + 1 >= full / 2, "{name}: {more} of {full}");
    }
}

#[test]
fn a_change_of_the_half_life_carries_the_value_over() {
    let mut harness = new(RuleSet::default());
    for user in 0..8 {
        happen(&mut harness, 1, user, 0, &What::Text);
        happen(&mut harness, 2, user, 0, &What::Text);
    }
    // One half-life later it halves every 20 minutes.
    happen(&mut harness, 3, 1, 10 * MINUTE_MS, &What::Text);
    harness.rules.heat.half_life_ms = 1_200_000;
    happen(&mut harness, 1, 1, 0, &What::Rules);
    for (minutes, score) in [(10, 4_000), (30, 2_000), (50, 1_000)] {
        assert_eq!(heat(&mut harness, 1, minutes * MINUTE_MS).0, score, "after {minutes} min");
    }
    // Whether something happens in a room since or not.
    happen(&mut harness, 2, 1, 30 * MINUTE_MS, &What::Text);
    assert_eq!(heat(&mut harness, 2, 30 * MINUTE_MS).0, 3_000);
    assert_eq!(order(&mut harness, "heat", 30 * MINUTE_MS), ["room_00002", "room_00001", "room_00003"]);
    // And back: each room that is not touched is carried twice.
    harness.rules.heat.half_life_ms = 600_000;
    happen(&mut harness, 1, 1, 0, &What::Rules);
    assert_eq!(heat(&mut harness, 1, 40 * MINUTE_MS).0, 1_000);
    assert_eq!(heat(&mut harness, 2, 50 * MINUTE_MS).0, 750);
    assert_eq!(order(&mut harness, "heat", 30 * MINUTE_MS), ["room_00002", "room_00001", "room_00003"]);
}

#[test]
fn a_half_life_counts_from_when_it_was_applied_however_quiet_the_partition_is() {
    const HOUR_MS: i64 = 60 * MINUTE_MS;
    /// 8,000 thousandths after 18 half-lives of ten minutes.
    const FULL: u64 = 8_000 << 18;
    let near = |found: u64, wanted: u64, name: &str| {
        assert!(found.abs_diff(wanted) <= 1 + wanted / 10_000_000, "{name}: {found} for {wanted}");
    };
    // From ten minutes to an hour. When the rules are applied, when something happens next, and what a room that was
    // full at the start has at some times.
    for (name, applied, next, scores) in [
        ("live", HOUR_MS / 2, HOUR_MS, [(30 * MINUTE_MS, FULL >> 3), (90 * MINUTE_MS, FULL >> 4)]),
        ("live, hours later", 3 * HOUR_MS, 4 * HOUR_MS, [(3 * HOUR_MS, FULL >> 18), (5 * HOUR_MS, FULL >> 20)]),
        // A recording is replayed years later: the change is at its next event.
        ("replayed", 1 << 40, 10 * MINUTE_MS, [(10 * MINUTE_MS, FULL >> 1), (70 * MINUTE_MS, FULL >> 2)]),
        // The clock of the ingest that applied the rules is behind, or the record is one that tells no time.
        ("behind", -HOUR_MS, 10 * MINUTE_MS, [(0, FULL), (60 * MINUTE_MS, FULL >> 1)]),
    ] {
        let mut harness = new(RuleSet::default());
        happen(&mut harness, 1, 1, 0, &What::Gift { combo: None, value: (FULL - 1_000) / 50 });
        harness.rules.heat.half_life_ms = 3_600_000;
        happen(&mut harness, 0, 0, applied, &What::Rules);
        // When the next event comes is not known yet: a replayed change is at the time of whoever asks.
        for (at, score) in scores.into_iter().take(if name == "replayed" { 1 } else { 2 }) {
            near(heat(&mut harness, 1, at).0, score, name);
        }
        // Something happens elsewhere in the partition, and then in the room itself.
        happen(&mut harness, 2, 1, next, &What::Text);
        for (at, score) in scores {
            near(heat(&mut harness, 1, at).0, score, name);
        }
        happen(&mut harness, 1, 1, next, &What::Join { users: Vec::new() });
        for (at, score) in scores.into_iter().filter(|(at, _)| *at >= next) {
            near(heat(&mut harness, 1, at).0, score, name);
        }
        let row = harness.store.get::<Generations>(&()).expect("reads").expect("a row");
        assert!(row.generations.iter().all(|generation| generation.until_ms == 0), "{name}: {row:?}");
        check_rankings(&harness);
    }
}

#[test]
fn half_lives_that_follow_each_other_while_nothing_happens_count_one_after_the_other() {
    let mut harness = new(RuleSet::default());
    for user in 0..8 {
        happen(&mut harness, 1, user, 0, &What::Text);
    }
    for (applied, half_life) in [(10, 20), (30, 60), (90, 10)] {
        harness.rules.heat.half_life_ms = half_life * 60_000;
        happen(&mut harness, 0, 0, applied * MINUTE_MS, &What::Rules);
    }
    // One that is sent again, of a version before, changes nothing.
    happen(&mut harness, 0, 0, 0, &What::Rules);
    assert_eq!(heat(&mut harness, 1, 100 * MINUTE_MS).0, 500, "half of it at 10, 30, 90 and 100 min");
    happen(&mut harness, 1, 0, 100 * MINUTE_MS, &What::Text);
    assert_eq!(heat(&mut harness, 1, 100 * MINUTE_MS).0, 1_500);
    harness.commit(usize::MAX);
    let row = harness.store.get::<Generations>(&()).expect("reads").expect("a row");
    let since: Vec<i64> = row.generations.iter().map(|g| (g.since_ms - common::START_MS) / MINUTE_MS).collect();
    assert_eq!(since[1..], [10, 30, 90]);
}

#[test]
fn half_lives_that_change_all_the_time_stay_bounded() {
    let mut harness = new(RuleSet::default());
    happen(&mut harness, 1, 1, 0, &What::Text);
    for n in 0..200_u64 {
        harness.rules.heat.half_life_ms = 600_000 + n % 2;
        happen(&mut harness, 2, 1, 0, &What::Text);
    }
    harness.commit(usize::MAX);
    let row = harness.store.get::<Generations>(&()).expect("reads").expect("a row");
    assert_eq!((row.generations.len(), row.generations.last().map(|last| last.number)), (64, Some(200)));
    // A room that nothing happened in meanwhile begins anew.
    assert_eq!(heat(&mut harness, 1, 0).0, 0);
    assert_eq!(heat(&mut harness, 2, 0).0, 200_000);
    happen(&mut harness, 1, 1, 0, &What::Text);
    assert_eq!(heat(&mut harness, 1, 0).0, 1_000);
    check_rankings(&harness);
}

#[test]
fn one_giver_does_not_buy_the_top_of_the_recommendations() {
    let mut harness = new(RuleSet::default());
    // Long enough ago that no room is fresh.
    for room in 1..=2 {
        happen(&mut harness, room, 0, 0, &What::Text);
    }
    let at = 60 * MINUTE_MS;
    // One account gives ten thousand; sixty others write a message each.
    for n in 0..10 {
        happen(&mut harness, 1, 7, at + n, &What::Gift { combo: None, value: 100_000 });
    }
    for user in 0..60 {
        happen(&mut harness, 2, user, at, &What::Text);
    }
    assert_eq!(order(&mut harness, "heat", at), ["room_00001", "room_00002"]);
    assert_eq!(order(&mut harness, "recommended", at), ["room_00002", "room_00001"]);
    let (score, recommended) = heat(&mut harness, 1, at);
    assert!(score > 50_000_000 && recommended < 50_100, "{score} {recommended}");
    // In the next half-life the account may add as much again.
    happen(&mut harness, 1, 7, at + 10 * MINUTE_MS, &What::Gift { combo: None, value: 100_000 });
    let recommended = heat(&mut harness, 1, at + 10 * MINUTE_MS).1;
    assert!((75_000..75_100).contains(&recommended), "{recommended}");
}

/// What the store has of a viewer's half-lives.
fn viewer(harness: &mut Harness, room: u16, user: u16) -> Viewer {
    harness.commit(usize::MAX);
    let (room, account) = (rooms_name(room), format!("user_{user}"));
    harness.store.get::<Viewers>(&(APP, &room, &account)).expect("reads").unwrap_or_default()
}

#[test]
fn what_accounts_added_is_kept_until_nothing_comes_late() {
    let gift = What::Gift { combo: None, value: 100_000 };
    let mut harness = new(RuleSet::default());
    // Half-lives of 10 min, and 10 min of lateness: what was added in the first one counts until the 20th minute is over.
    happen(&mut harness, 1, 7, 0, &gift);
    let capped = heat(&mut harness, 1, 0).1;
    for (minute, epochs, more) in [(5, 1, 0), (15, 2, 0), (20, 2, 0), (21, 1, 1), (22, 2, 0), (31, 2, 0), (40, 2, 1)] {
        // Time passes in another room.
        happen(&mut harness, 2, 0, minute * MINUTE_MS, &What::Text);
        let bytes = record(1, 7, (common::START_MS, common::START_MS + minute * MINUTE_MS), &gift);
        let before = heat(&mut harness, 1, 0).1;
        harness.apply(&EnvelopeView::decode(&bytes).expect("our own record")).expect("applies");
        let after = heat(&mut harness, 1, 0).1;
        // What comes later adds up to the cap once more, and is known from then on for as long.
        assert!(
            (after - before).abs_diff(more * capped) <= more * capped / 10,
            "minute {minute}: {before}, then {after}"
        );
        let found = viewer(&mut harness, 1, 7);
        assert!(found.added.len() <= epochs, "minute {minute}: {found:?}");
    }
}

#[test]
fn half_lives_of_a_viewer_stay_bounded() {
    let mut harness = new(RuleSet::default());
    (harness.rules.heat.half_life_ms, harness.rules.windows.lateness_ms) = (60_000, 86_400_000);
    for minute in 0..200 {
        happen(&mut harness, 1, 7, minute * MINUTE_MS, &What::Text);
    }
    let epochs = viewer(&mut harness, 1, 7).added;
    assert_eq!(epochs.len(), 64);
    assert!(epochs.is_sorted_by_key(|added| added.epoch), "{epochs:?}");
    // Those of another half-life are void.
    harness.rules.heat.half_life_ms = 120_000;
    happen(&mut harness, 1, 7, 200 * MINUTE_MS, &What::Text);
    assert_eq!(viewer(&mut harness, 1, 7).added.len(), 1);
}

#[test]
fn one_account_holds_twice_the_cap_at_most_however_fresh_the_room_is() {
    for (first, cap, half_life) in [(0, 50_000, 600_000), (599_999, 50_000, 600_000), (0, 7_000, 60_000)] {
        let mut harness = new(RuleSet::default());
        (harness.rules.heat.account_max, harness.rules.heat.half_life_ms) = (cap, half_life);
        let step = i64::try_from(half_life).expect("small");
        let mut most = 0;
        // It gives a fortune at the beginning of every half-life, and again a moment later.
        for n in 0..40 {
            for at in [n * step, n * step + 1] {
                happen(&mut harness, 1, 7, at.max(first), &What::Gift { combo: None, value: 10_000_000 });
            }
            most = most.max(heat(&mut harness, 1, (n * step).max(first)).1);
        }
        assert!(most <= 2 * cap && most > 2 * cap - 10, "{most} with a cap of {cap}");
        // What it has in the first half-life is the cap, as in any room; who does little counts twice.
        let mut harness = new(harness.rules);
        happen(&mut harness, 1, 7, 0, &What::Gift { combo: None, value: 10_000_000 });
        assert_eq!(heat(&mut harness, 1, 0).1, cap);
        happen(&mut harness, 1, 8, 0, &What::Text);
        assert_eq!(heat(&mut harness, 1, 0).1, cap + 2_000);
        // The gift's message is no more than the gift.
        happen(&mut harness, 1, 7, 0, &What::Text);
        assert_eq!(heat(&mut harness, 1, 0).1, cap + 2_000);
    }
}

#[test]
fn a_fresh_room_is_recommended_before_an_older_one_of_the_same_heat() {
    let mut harness = new(RuleSet::default());
    happen(&mut harness, 1, 0, 0, &What::Text);
    let at = 60 * MINUTE_MS;
    for user in 0..10 {
        happen(&mut harness, 1, user, at, &What::Text);
        happen(&mut harness, 2, user, at, &What::Text);
    }
    assert_eq!(order(&mut harness, "heat", at), ["room_00001", "room_00002"]);
    assert_eq!(order(&mut harness, "recommended", at), ["room_00002", "room_00001"]);
    assert_eq!(heat(&mut harness, 2, at).1, 20_000, "twice at its beginning");
    // Half an hour later what happens in it counts once.
    for room in 3..=4 {
        happen(&mut harness, room, 0, at + 10 * MINUTE_MS * i64::from(room), &What::Text);
    }
    happen(&mut harness, 2, 0, at + 30 * MINUTE_MS, &What::Text);
    assert_eq!(heat(&mut harness, 2, at + 30 * MINUTE_MS).1, 20_000 / 8 + 1_000);
}

#[test]
fn a_disbanded_room_is_not_recommended_until_something_happens_in_it_again() {
    let mut harness = new(RuleSet::default());
    happen(&mut harness, 1, 0, 0, &What::Text);
    happen(&mut harness, 1, 0, 5_000, &What::Destroyed);
    assert!(order(&mut harness, "recommended", 5_000).is_empty());
    assert_eq!(order(&mut harness, "heat", 5_000), ["room_00001"]);
    // What comes late does not open it again.
    happen(&mut harness, 1, 0, 4_000, &What::Text);
    assert!(order(&mut harness, "recommended", 5_000).is_empty());
    happen(&mut harness, 1, 0, 6_000, &What::Text);
    assert_eq!(order(&mut harness, "recommended", 6_000), ["room_00001"]);
}

/// The row of room 1, as it is in the store.
fn committed_row(harness: &mut Harness) -> Room {
    harness.commit(usize::MAX);
    harness.store.get::<Rooms>(&(APP, &rooms_name(1))).expect("reads").expect("a row")
}

#[test]
fn what_is_more_than_63_half_lives_old_is_gone_and_a_row_stays_small() {
    let mut harness = new(RuleSet::default());
    // A room is fresh for half an hour, which counts until it is too old.
    for (halves, fresh) in [(0..64, 3), (64..500, 0)] {
        for n in halves {
            happen(&mut harness, 1, 0, n * 10 * MINUTE_MS, &What::Text);
        }
        let row = committed_row(&mut harness);
        assert_eq!((row.fresh.len(), row.too_late), (fresh, 0));
        assert!(row.encode_to_vec().len() < 200, "{}", row.encode_to_vec().len());
    }
    happen(&mut harness, 1, 0, 0, &What::Text);
    let row = committed_row(&mut harness);
    assert_eq!(row.too_late, 1);
    assert_eq!(heat(&mut harness, 1, 499 * 10 * MINUTE_MS).0, 2_000);
}

#[test]
fn events_of_63_half_lives_may_come_in_any_order() {
    let rows = [1_usize, 7, 63].map(|together| {
        let mut harness = new(RuleSet::default());
        let halves: Vec<i64> = (0..300).collect();
        // Some at a time, the last one first.
        for some in halves.chunks(together) {
            for &n in some.iter().rev() {
                let user = u16::try_from(n).expect("few");
                happen(
                    &mut harness,
                    1,
                    user,
                    n * 10 * MINUTE_MS + n * 1_000,
                    &What::Gift { combo: None, value: 7 * u64::from(user) },
                );
            }
        }
        committed_row(&mut harness)
    });
    assert_eq!(rows[0].too_late, 0);
    assert_eq!(rows[0], rows[1]);
    assert_eq!(rows[0], rows[2]);
}

#[test]
fn sums_stop_at_their_limit_and_say_so() {
    let mut rules = RuleSet::default();
    rules.heat.gift_value = 1_000_000_000;
    let mut harness = new(rules);
    for n in 0..20_u8 {
        happen(&mut harness, 1, 1, 0, &What::Gift { combo: None, value: u64::MAX / 16 });
        happen(&mut harness, 1, 1, 0, &What::Gift { combo: Some(n % 3), value: u64::MAX / 16 });
    }
    happen(&mut harness, 2, 1, 0, &What::Text);
    assert_eq!(heat(&mut harness, 1, 0).0, u64::MAX);
    assert_eq!(order(&mut harness, "heat", 0), ["room_00001", "room_00002"]);
}

#[test]
fn times_that_no_clock_shows_are_survived() {
    for at in [i64::MIN / 4, -1, 1, i64::MAX / 4] {
        for what in [
            What::Text,
            What::Like { count: 3 },
            What::Gift { combo: Some(1), value: 5 },
            What::Join { users: vec![1] },
            What::Membership,
            What::Destroyed,
        ] {
            let mut harness = new(RuleSet::default());
            happen(&mut harness, 1, 1, 0, &what);
            let bytes = record(1, 1, (at, at), &what);
            harness.apply(&EnvelopeView::decode(&bytes).expect("our own record")).expect("applies");
            harness.rules.heat.half_life_ms = 60_000;
            happen(&mut harness, 1, 1, 1, &What::Rules);
            happen(&mut harness, 1, 1, 1, &what);
            for asked in [i64::MIN / 2, 0, i64::MAX / 2] {
                heat(&mut harness, 1, asked);
                order(&mut harness, "heat", asked);
                order(&mut harness, "recommended", asked);
            }
        }
    }
}
