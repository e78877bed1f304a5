//! One event from JSON to records and back, in nanoseconds of processor time.

use std::hint::black_box;
use std::time::Duration;

use anyhow::Result;
use barrage_event::rules::Compiled;
use barrage_event::{EnvelopeView, Stamp, Topic, append_sequence, callback, identity, proto};
use prost::Message as _;

use crate::clock::{Stopwatch, now_ms};
use crate::report::Report;
use crate::traffic::{APP, Crowd, Kind, Traffic};

/// More than fits the first-level cache, as in a server.
const CALLBACKS: usize = 4_096;

/// Reports the codec.
pub(crate) fn run(report: &mut Report) -> Result<()> {
    report.section("decode", "one thread, processor time an event; about 450 bytes of JSON");
    let least = Duration::from_millis(if report.quick() { 100 } else { 500 });
    let rules = Compiled::shipped();
    let mut traffic = Traffic::new(Crowd::EVENING, 4);
    let now = now_ms();
    let callbacks: Vec<(Kind, Vec<u8>)> = (0..CALLBACKS)
        .map(|_| {
            let mut body = Vec::new();
            (traffic.next(now, &mut body), body)
        })
        .collect();
    let bytes: usize = callbacks.iter().map(|(_, body)| body.len()).sum();
    report.figure("body", bytes as f64 / CALLBACKS as f64, "bytes");

    let stamp = Stamp { id: 1, app: APP, received_at_ms: now, incarnation: 1, rules_version: 0, verdict: None };
    let decode = |(kind, body): &(Kind, Vec<u8>)| {
        let callback = callback::decode(kind.command, kind.platform, body, &rules);
        black_box(callback.is_ok_and(|callback| callback.untyped_reason().is_none()));
    };
    report.figure("JSON to typed event", nanoseconds(&callbacks, least, decode), "ns");

    let mut out = Vec::new();
    let encode = |(kind, body): &(Kind, Vec<u8>)| {
        let Ok(callback) = callback::decode(kind.command, kind.platform, body, &rules) else { return };
        black_box(rules.verdict(&callback));
        for (place, route) in callback.routes().iter().enumerate() {
            out.clear();
            callback.encode(&stamp, route, place == 0, &mut out);
            append_sequence(&mut out, 123_456);
            black_box(&out);
        }
    };
    report.figure("JSON to typed event, verdict and all records", nanoseconds(&callbacks, least, encode), "ns");

    let (rooms, users) = records(&callbacks, &rules, &stamp)?;
    for (label, records) in [("room", &rooms), ("user", &users)] {
        let bytes: usize = records.iter().map(Vec::len).sum();
        report.figure(format!("{label} record"), bytes as f64 / records.len() as f64, "bytes");
        let view = |record: &Vec<u8>| {
            black_box(EnvelopeView::decode(black_box(record)).is_ok());
        };
        report.figure(format!("{label} record to view"), nanoseconds(records, least, view), "ns");
        let with_identity = |record: &Vec<u8>| {
            black_box(EnvelopeView::decode(black_box(record)).map(|view| identity::identity(&view)).is_ok());
        };
        report.figure(format!("{label} record to view and identity"), nanoseconds(records, least, with_identity), "ns");
        let prost = |record: &Vec<u8>| {
            black_box(proto::Envelope::decode(black_box(record.as_slice())).is_ok());
        };
        report.figure(format!("{label} record with prost"), nanoseconds(records, least, prost), "ns");
    }
    Ok(())
}

/// Records of room and user partitions.
type Records = (Vec<Vec<u8>>, Vec<Vec<u8>>);

fn records(callbacks: &[(Kind, Vec<u8>)], rules: &Compiled, stamp: &Stamp) -> Result<Records> {
    let (mut rooms, mut users) = (Vec::new(), Vec::new());
    for (kind, body) in callbacks {
        let callback = callback::decode(kind.command, kind.platform, body, rules)?;
        let stamp = Stamp { verdict: rules.verdict(&callback), ..stamp.clone() };
        for (place, route) in callback.routes().iter().enumerate() {
            let mut record = Vec::new();
            callback.encode(&stamp, route, place == 0, &mut record);
            append_sequence(&mut record, 123_456);
            if route.topic == Topic::Room { rooms.push(record) } else { users.push(record) }
        }
    }
    Ok((rooms, users))
}

/// Processor time of `work` an item, over whole rounds that take at least `least` together; the best of three.
fn nanoseconds<T>(items: &[T], least: Duration, mut work: impl FnMut(&T)) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let watch = Stopwatch::start();
        let mut rounds = 0_u32;
        while rounds == 0 || watch.spent().thread < least / 3 {
            items.iter().for_each(&mut work);
            rounds += 1;
        }
        let each = watch.spent().thread.as_secs_f64() * 1e9 / f64::from(rounds) / items.len() as f64;
        best = best.min(each);
    }
    best
}
