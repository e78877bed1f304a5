//! Message counts against a naive model.
//!
//! The model knows messages and what callbacks of them came in which order; it counts them one by one at the end. It
//! shares no code with the projection or with the event model; only the harness that turns its callbacks into records
//! does.

use std::collections::BTreeMap;

use barrage_event::{EnvelopeView, proto as wire};
use barrage_message_counts::{MessageCounts, RoomMessageCounts, SenderMessageCounts};
use barrage_projection::memory::{Harness, hash_of};
use barrage_projection::{ReadContext, Statistic as _};
use proptest::prelude::*;
use prost::Message as _;
use serde_json::{Map, Value as Json};

const APP: u32 = 1_400_000_000;
const JOIN_MS: i64 = 10_000;
const LATE_MS: i64 = 600_000;
/// 2026-01-01T00:00:00Z.
const START_MS: i64 = 1_767_225_600_000;
const TYPES: [(&str, i32); 4] = [("text", 1), ("gift", 9), ("like", 10), ("custom", 13)];

#[derive(Debug, Clone, Copy, PartialEq)]
enum What {
    Before { refused: bool },
    After,
    Exception,
}

/// One callback of one message, as it arrives.
#[derive(Debug, Clone)]
struct Callback {
    message: usize,
    what: What,
    occurred_ms: i64,
    received_ms: i64,
}

/// A message: at most one before-callback and one of after and exception.
#[derive(Debug, Clone)]
struct Message {
    room: u8,
    user: u8,
    kind: usize,
    /// Whether it has a `MsgId`; exceptions never carry one.
    with_id: bool,
    callbacks: Vec<(What, i64)>,
}

fn messages() -> impl Strategy<Value = Vec<Message>> {
    let before = prop::option::of((any::<bool>().prop_map(|r| What::Before { refused: r }), Just(0_i64)));
    // Mostly within the window, sometimes seconds or many minutes away, also before the before-callback.
    let gap = prop_oneof![8 => 30_i64..300, 2 => -5_000_i64..12_000, 1 => -900_000_i64..900_000];
    let second = prop::option::of((prop_oneof![4 => Just(What::After), 1 => Just(What::Exception)], gap));
    let message = (0_u8..3, 0_u8..4, 0..TYPES.len(), any::<bool>(), before, second, 0_i64..6 * 86_400_000).prop_map(
        |(room, user, kind, with_id, before, second, at)| {
            let callbacks = before.into_iter().chain(second).map(|(what, gap)| (what, START_MS + at + gap)).collect();
            Message { room, user, kind, with_id, callbacks }
        },
    );
    // Clustered: most messages lie within some minutes, so that windows matter.
    prop::collection::vec((message, prop_oneof![3 => Just(1_i64), 1 => Just(1_000)]), 1..60).prop_map(|list| {
        list.into_iter()
            .map(|(mut message, squeeze)| {
                for (_, at) in &mut message.callbacks {
                    if squeeze == 1 {
                        *at = START_MS + (*at - START_MS).rem_euclid(1_200_000);
                    }
                }
                message
            })
            .collect()
    })
}

/// A time after the start, or a length: minutes or days.
fn some_ms() -> impl Strategy<Value = i64> {
    prop_oneof![0_i64..1_500_000, 0_i64..7 * 86_400_000]
}

/// The callbacks in order of arrival.
fn arrivals(messages: &[Message]) -> Vec<Callback> {
    let mut all: Vec<Callback> = messages
        .iter()
        .enumerate()
        .flat_map(|(message, m)| {
            m.callbacks.iter().map(move |&(what, received_ms)| Callback {
                message,
                what,
                occurred_ms: received_ms - 20,
                received_ms,
            })
        })
        .collect();
    all.sort_by_key(|c| (c.received_ms, c.message));
    all
}

fn record(callback: &Callback, message: &Message, random: u32) -> Vec<u8> {
    let exception = callback.what == What::Exception;
    let body = wire::Message {
        group_id: format!("room_{}", message.room),
        from_account: format!("user_{}", message.user),
        random: Some(random),
        msg_id: if message.with_id && !exception { format!("144-{random}") } else { String::new() },
        kind: TYPES[message.kind].1,
        ..wire::Message::default()
    };
    let (event, verdict) = match callback.what {
        What::Before { refused } => {
            let outcome = if refused { 2 } else { 1 };
            (wire::envelope::Event::BeforeSend(body), Some(wire::Verdict { outcome, ..wire::Verdict::default() }))
        }
        What::After => (wire::envelope::Event::AfterSend(body), None),
        What::Exception => (wire::envelope::Event::SendException(body), None),
    };
    wire::Envelope {
        id: vec![7; 16],
        sdk_app_id: APP,
        occurred_at: callback.occurred_ms,
        received_at: callback.received_ms,
        verdict,
        event: Some(event),
        ..wire::Envelope::default()
    }
    .encode_to_vec()
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Counts {
    attempted: u64,
    delivered: u64,
    rejected: u64,
    failed: u64,
    throttled: u64,
    unattempted: u64,
    by_type: BTreeMap<&'static str, u64>,
}

impl Counts {
    fn of(json: &Json) -> Self {
        let number = |name: &str| json[name].as_u64().expect("a number");
        let by_type = TYPES.iter().filter_map(|(t, _)| Some((*t, json["by_type"].get(t)?.as_u64()?))).collect();
        Self {
            attempted: number("attempted"),
            delivered: number("delivered"),
            rejected: number("rejected"),
            failed: number("failed"),
            throttled: number("throttled"),
            unattempted: number("unattempted"),
            by_type,
        }
    }

    fn add(&mut self, other: &Self) {
        self.attempted += other.attempted;
        self.delivered += other.delivered;
        self.rejected += other.rejected;
        self.failed += other.failed;
        self.throttled += other.throttled;
        self.unattempted += other.unattempted;
        for (name, count) in &other.by_type {
            *self.by_type.entry(name).or_insert(0) += count;
        }
    }
}

#[derive(Debug, Default)]
struct Model {
    rooms: BTreeMap<u8, Counts>,
    minutes: BTreeMap<(u8, i64), Counts>,
    senders: BTreeMap<u8, u64>,
    room_senders: BTreeMap<(u8, u8), u64>,
}

/// What must be answered at `at_ms`.
fn model(messages: &[Message], arrivals: &[Callback], at_ms: i64) -> Model {
    let mut model = Model::default();
    for (index, message) in messages.iter().enumerate() {
        // Whether the second callback still found the first: by the minute of its receipt, against the newest time of
        // receipt seen when it came.
        let own: Vec<(usize, &Callback)> = arrivals.iter().enumerate().filter(|(_, c)| c.message == index).collect();
        let joined = own.len() == 2 && {
            let stream = arrivals[..=own[1].0].iter().map(|c| c.received_ms).max().unwrap_or(0);
            own[0].1.received_ms / 60_000 >= (stream - LATE_MS) / 60_000
        };
        let find = |wanted: fn(&What) -> bool| own.iter().map(|(_, c)| *c).find(|c| wanted(&c.what));
        let before = find(|w| matches!(w, What::Before { .. }));
        let after = find(|w| *w == What::After);
        let exception = find(|w| *w == What::Exception);
        let refused = before.is_some_and(|b| b.what == What::Before { refused: true });
        let mut count = |callback: &Callback, one: Counts| {
            model.rooms.entry(message.room).or_default().add(&one);
            let minute = callback.occurred_ms / 60_000 * 60_000;
            model.minutes.entry((message.room, minute)).or_default().add(&one);
        };
        if let Some(b) = before {
            count(b, Counts { attempted: 1, ..Counts::default() });
            if refused && !(joined && after.is_some()) {
                count(b, Counts { rejected: 1, ..Counts::default() });
            }
            let over = (b.received_ms / 1_000 + 1) * 1_000 + JOIN_MS <= at_ms;
            if !refused && !joined && over {
                count(b, Counts { throttled: 1, ..Counts::default() });
            }
        }
        if let Some(a) = after {
            let by_type = BTreeMap::from([(TYPES[message.kind].0, 1)]);
            let unattempted = u64::from(!joined);
            count(a, Counts { delivered: 1, unattempted, by_type, ..Counts::default() });
            *model.senders.entry(message.user).or_default() += 1;
            *model.room_senders.entry((message.room, message.user)).or_default() += 1;
        }
        if let Some(x) = exception
            && !(joined && refused)
        {
            count(x, Counts { failed: 1, ..Counts::default() });
        }
    }
    model
}

fn read<R>(harness_store: &dyn barrage_projection::Reader, at_ms: i64, f: impl FnOnce(&ReadContext<'_>) -> R) -> R {
    let rules = barrage_event::rules::RuleSet::default();
    f(&ReadContext { reader: harness_store, app: APP, at_ms, rules: &rules })
}

/// Applies all, with a commit (and a restart) after the records that `cuts` names.
fn run(projection: impl barrage_projection::Projection, records: &[Vec<u8>], cuts: &[(usize, bool)]) -> Harness {
    let mut harness = Harness::new(projection, barrage_event::rules::RuleSet::default()).expect("own ids");
    for (index, bytes) in records.iter().enumerate() {
        let view = EnvelopeView::decode(bytes).expect("our own record");
        harness.apply(&view).expect("applies");
        for (_, restart) in cuts.iter().filter(|(at, _)| *at == index) {
            harness.commit(if *restart { 0 } else { 10_000 });
            if *restart {
                harness.restart().expect("reads back");
            }
        }
    }
    harness.commit(usize::MAX);
    harness
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn totals_minutes_and_senders_are_those_of_the_model(
        messages in messages(),
        later_ms in prop_oneof![0_i64..15_000, Just(86_400_000)],
    ) {
        let arrivals = arrivals(&messages);
        let records: Vec<Vec<u8>> = arrivals
            .iter()
            .map(|c| record(c, &messages[c.message], u32::try_from(c.message).expect("small")))
            .collect();
        let rooms = run(RoomMessageCounts, &records, &[]);
        let senders = run(SenderMessageCounts, &records, &[]);
        let at_ms = rooms.stream_time_ms() + later_ms;
        let expected = model(&messages, &arrivals, at_ms);

        for (room, counts) in &expected.rooms {
            let name = format!("room_{room}");
            let mut out = Map::new();
            prop_assert!(read(&rooms.store, at_ms, |cx| MessageCounts.room(cx, &name, &mut out)).expect("reads"));
            prop_assert_eq!(&Counts::of(&out["messages"]), counts, "{} at {}", name, at_ms);
            let senders = expected.room_senders.keys().filter(|(r, _)| r == room).count();
            prop_assert_eq!(out["messages"]["senders"].as_u64(), Some(senders as u64));

            // Every slice is the sum of the model's minutes in it, whatever its width.
            let page = read(&rooms.store, at_ms, |cx| MessageCounts.minutes(cx, &name, (0, i64::MAX), usize::MAX));
            let mut left: BTreeMap<i64, Counts> = expected
                .minutes
                .iter()
                .filter(|((r, _), _)| r == room)
                .map(|((_, minute), counts)| (*minute, counts.clone()))
                .collect();
            for ((start, width), fields) in page.expect("reads").slices {
                let mut sum = Counts::default();
                left.retain(|minute, counts| {
                    let inside = (start..start + width).contains(minute);
                    if inside {
                        sum.add(counts);
                    }
                    !inside
                });
                prop_assert_eq!(Counts::of(&fields["messages"]), sum, "{} from {} for {}", name, start, width);
            }
            left.retain(|_, counts| *counts != Counts::default());
            prop_assert!(left.is_empty(), "no slice covers {:?}", left);

            let page = read(&rooms.store, at_ms, |cx| MessageCounts.viewers(cx, &name, "messages", 100, None));
            let viewers: BTreeMap<String, u64> = page
                .expect("reads")
                .expect("no token")
                .viewers
                .iter()
                .map(|v| (v["account"].as_str().expect("text").to_owned(), v["messages"]["delivered"].as_u64().expect("n")))
                .collect();
            let wanted: BTreeMap<String, u64> = expected
                .room_senders
                .iter()
                .filter(|((r, _), _)| r == room)
                .map(|((_, user), count)| (format!("user_{user}"), *count))
                .collect();
            prop_assert_eq!(viewers, wanted);
        }
        for user in 0..4_u8 {
            let mut out = Map::new();
            let known = read(&senders.store, at_ms, |cx| MessageCounts.user(cx, &format!("user_{user}"), &mut out));
            let count = expected.senders.get(&user).copied();
            prop_assert_eq!(known.expect("reads").then(|| out["messages"]["delivered"].as_u64().expect("n")), count);
        }
    }

    #[test]
    fn a_page_of_minutes_is_what_the_whole_time_has_of_it(
        messages in messages(),
        asks in prop::collection::vec((some_ms(), some_ms(), 1_usize..8), 1..12),
    ) {
        let arrivals = arrivals(&messages);
        let records: Vec<Vec<u8>> =
            arrivals.iter().map(|c| record(c, &messages[c.message], u32::try_from(c.message).expect("small"))).collect();
        let rooms = run(RoomMessageCounts, &records, &[]);
        let at_ms = rooms.stream_time_ms();
        let page = |span, limit| {
            let page = read(&rooms.store, at_ms, |cx| MessageCounts.minutes(cx, "room_1", span, limit));
            page.expect("reads").slices
        };
        let whole = page((0, i64::MAX), usize::MAX);
        for (from, length, limit) in asks {
            let (from_ms, to_ms) = (START_MS + from, START_MS + from + length);
            let overlaps = |&(start, width): &(i64, i64)| start < to_ms && start + width > from_ms;
            let wanted: Vec<_> = whole.iter().filter(|(slice, _)| overlaps(slice)).take(limit).collect();
            let found = page((from_ms, to_ms), limit);
            prop_assert_eq!(found.iter().collect::<Vec<_>>(), wanted, "{} to {}, {}", from, from + length, limit);
        }
    }

    #[test]
    fn any_batch_boundaries_and_restarts_give_the_same_bytes(
        messages in messages(),
        cuts in prop::collection::vec((0_usize..120, any::<bool>()), 0..20),
    ) {
        let arrivals = arrivals(&messages);
        let records: Vec<Vec<u8>> = arrivals
            .iter()
            .map(|c| record(c, &messages[c.message], u32::try_from(c.message).expect("small")))
            .collect();
        let whole = run(RoomMessageCounts, &records, &[]);
        let cut = run(RoomMessageCounts, &records, &cuts);
        prop_assert_eq!(&whole.store, &cut.store);
        prop_assert_eq!(whole.hash, cut.hash);
        prop_assert_eq!(whole.hash, hash_of(&whole.store));
    }
}

#[test]
fn pages_of_viewers_follow_each_other_without_gap_or_repeat() {
    let mut harness = Harness::new(RoomMessageCounts, barrage_event::rules::RuleSet::default()).expect("own ids");
    for user in 0..23_u8 {
        for n in 0..=(user % 5) {
            let message = Message { room: 1, user, kind: 0, with_id: true, callbacks: Vec::new() };
            let at = START_MS + i64::from(n);
            let callback = Callback { message: 0, what: What::After, occurred_ms: at, received_ms: at };
            let bytes = record(&callback, &message, u32::from(user) * 100 + u32::from(n));
            harness.apply(&EnvelopeView::decode(&bytes).expect("ours")).expect("applies");
        }
    }
    harness.commit(usize::MAX);
    let page = |limit, after: Option<&str>| {
        read(&harness.store, START_MS, |cx| MessageCounts.viewers(cx, "room_1", "messages", limit, after))
            .expect("reads")
            .expect("our own token")
    };
    let whole = page(100, None);
    assert_eq!((whole.viewers.len(), whole.next), (23, None));
    let mut paged = Vec::new();
    let mut token = None;
    loop {
        let next = page(4, token.as_deref());
        paged.extend(next.viewers);
        token = next.next;
        if token.is_none() {
            break;
        }
    }
    assert_eq!(paged, whole.viewers);
    let scores: Vec<u64> = paged.iter().map(|v| v["messages"]["delivered"].as_u64().expect("n")).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    for token in ["", "x", "1", "-1.user", "99999999999999999999.user"] {
        let refused = read(&harness.store, START_MS, |cx| {
            MessageCounts.viewers(cx, "room_1", "messages", 4, Some(token)).expect("reads").is_none()
        });
        assert!(refused, "{token:?}");
    }
}

/// The example of docs/statistics/message-counts.md, whose times are counted from `START_MS`.
#[test]
fn the_example_of_the_page_is_right() {
    let (ann, bob) = (0, 1);
    let (text, gift, like) = (0, 1, 2);
    let said = |(random, user, kind): (u32, u8, usize), what, at_ms: i64| {
        let message = Message { room: 1, user, kind, with_id: true, callbacks: Vec::new() };
        let at = START_MS + at_ms;
        record(&Callback { message: 0, what, occurred_ms: at, received_ms: at }, &message, random)
    };
    let (allowed, refused) = (What::Before { refused: false }, What::Before { refused: true });
    let mut records = vec![
        said((1, ann, text), allowed, 100),
        said((1, ann, text), What::After, 150),
        said((2, bob, like), allowed, 200),
        said((3, bob, text), refused, 300),
        said((4, ann, text), What::After, 400),
        said((5, bob, gift), allowed, 2_000),
        said((5, bob, gift), What::Exception, 2_050),
    ];
    let answer = |records: &[Vec<u8>], at_ms: i64| {
        let rooms = run(RoomMessageCounts, records, &[]);
        let mut out = Map::new();
        let known = read(&rooms.store, START_MS + at_ms, |cx| MessageCounts.room(cx, "room_1", &mut out));
        assert!(known.expect("reads"));
        out["messages"].clone()
    };
    let on_the_page = serde_json::json!({
        "attempted": 4, "delivered": 2, "rejected": 1, "failed": 1, "throttled": 0, "unattempted": 1, "senders": 1,
        "by_type": {"text": 2},
        "attempted_by_type": {"gift": 1, "like": 1, "text": 2}, "rejected_by_type": {"text": 1},
        "failed_by_type": {"gift": 1}, "throttled_by_type": {}, "unattempted_by_type": {"text": 1},
    });
    assert_eq!(answer(&records, 5_000), on_the_page);
    assert_eq!(answer(&records, 10_999)["throttled"], 0);
    assert_eq!(answer(&records, 11_000)["throttled"], 1);

    for (after_ms, throttled, unattempted) in [(420_000, 0_u64, 1_u64), (900_000, 1, 2)] {
        records.push(said((2, bob, like), What::After, after_ms));
        let found = answer(&records, after_ms);
        records.pop();
        assert_eq!(found["delivered"], 3, "{found}");
        assert_eq!(found["throttled"], throttled, "{found}");
        assert_eq!(found["unattempted"], unattempted, "{found}");
        assert_eq!(found["senders"], 2, "{found}");
    }
}
