//! Simulated evenings: the truth lies inside the bounds.

mod common;

use barrage_event::rules::RuleSet;
use barrage_projection::world::World;
use barrage_simulator::{Config, Evening, LineKind};

/// Plays an evening; its truth is known at the end.
fn play(config: Config) -> (World, barrage_simulator::Expected) {
    let mut world = common::world(&RuleSet::default());
    let mut evening = Evening::new(config).expect("a fit configuration");
    for line in evening.by_ref() {
        // What comes after the end only reports what had happened before it.
        if let LineKind::Callback { query, body } = &line.kind {
            let named = |name: &str| query.iter().find(|(n, _)| *n == name).map_or("", |(_, value)| value.as_str());
            world.callback(line.at_ms, named("CallbackCommand"), named("OptPlatform"), body);
        }
    }
    world.commit();
    let expected = evening.expected();
    (world, expected)
}

fn median(mut numbers: Vec<u64>) -> u64 {
    numbers.sort_unstable();
    numbers.get(numbers.len() / 2).copied().unwrap_or(0)
}

#[test]
fn the_truth_of_ten_evenings_lies_inside_the_bounds() {
    let mut wrong = Vec::new();
    for seed in 1..=10 {
        let (world, truth) = play(Config { seed, ..Config::default() });
        let at_ms = truth.end_ms;
        let mut widths = Vec::new();
        let mut exact = 0;
        for (account, user) in &truth.users {
            let ours = world.user(account, at_ms).remove("online").unwrap_or_default();
            let number = |name: &str| ours[name].as_u64().unwrap_or(0);
            let (lower, upper) = (number("lower_ms"), number("upper_ms"));
            let online = u64::try_from(user.online_ms).expect("not negative");
            widths.push(upper - lower);
            exact += u64::from(number("ms") == online);
            if !(lower..=upper).contains(&online) {
                wrong.push(format!("{seed}: {account}: {online} is not in {lower}..={upper}"));
            }
        }
        for (name, room) in &truth.rooms {
            let ours = world.room(name, at_ms).remove("online").unwrap_or_default();
            let number = |name: &str| ours[name].as_u64().unwrap_or(0);
            if number("distinct") != room.distinct_joiners {
                wrong.push(format!("{seed}: {name}: distinct {}, not {}", number("distinct"), room.distinct_joiners));
            }
            if !(room.peak_online..=room.peak_online_upper).contains(&number("peak")) {
                let bounds = room.peak_online..=room.peak_online_upper;
                wrong.push(format!("{seed}: {name}: peak {} is not in {bounds:?}", number("peak")));
            }
            for viewer in common::viewers(&world.rooms, name, "watch", at_ms, 100_000) {
                let account = viewer["account"].as_str().unwrap_or_default();
                let (watch, was) = (&viewer["watch"], room.viewers.get(account).copied().unwrap_or_default());
                let number = |name: &str| watch[name].as_i64().unwrap_or(0);
                if number("upper_ms") < was.watch_ms || number("lower_ms") > was.watch_ms {
                    wrong.push(format!("{seed}: {name}: {account}: watched {watch}, not {}", was.watch_ms));
                }
            }
            let bounds = room.final_online..=room.final_online_upper;
            if !bounds.contains(&number("now")) {
                wrong.push(format!("{seed}: {name}: online {} is not in {bounds:?}", number("now")));
            }
        }
        let width = median(widths);
        println!(
            "seed {seed}: {} accounts, {exact} exact, median width {width} ms, {} records, {} derived, {} intents",
            truth.users.len(),
            world.records,
            world.derived,
            world.intents
        );
        if width > 60_000 {
            wrong.push(format!("{seed}: bounds are {width} ms wide"));
        }
    }
    assert!(wrong.is_empty(), "{} differences: {:#?}", wrong.len(), &wrong[..wrong.len().min(30)]);
}
