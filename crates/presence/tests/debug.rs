use barrage_simulator::{Config, Evening, LineKind};
#[test]
fn lines() {
    for (seed, who) in [(1, "viewer_000513"), (5, "viewer_001176"), (5,"viewer_001222")] {
    for line in Evening::new(Config { seed, ..Config::default() }).unwrap() {
        if let LineKind::Callback { query, body } = &line.kind {
            let named = |name: &str| query.iter().find(|(n, _)| *n == name).map_or("", |(_, value)| value.as_str());
            if body.contains(who) && !named("CallbackCommand").contains("Before") && !named("CallbackCommand").starts_with("C2C") { 
                let et = body.find("EventTime").map_or("", |i| &body[i..(i+26).min(body.len())]);
                println!("{} {} {} {et} {}", line.at_ms - 1767268800000, named("CallbackCommand"), named("OptPlatform"), &body[..body.len().min(420)].replace("CallbackCommand","").replace(named("CallbackCommand"),""));
            }
        }
    }
    }
}
