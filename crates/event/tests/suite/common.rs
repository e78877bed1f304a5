//! Shared by the tests: decode a callback, write its records, read them with prost.

use barrage_event::callback::{self, Callback};
use barrage_event::proto::Envelope;
use barrage_event::proto::envelope::Event;
use barrage_event::rules::Compiled;
use barrage_event::{Route, Stamp, Topic, append_sequence};
use prost::Message as _;

/// 2026-03-01 12:00:00 UTC.
pub(crate) const NOW_MS: i64 = 1_772_366_400_000;

pub(crate) fn stamp() -> Stamp {
    Stamp {
        id: 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10,
        app: 1_400_000_001,
        received_at_ms: NOW_MS,
        incarnation: 0xfeed_0000_0000_0001,
        rules_version: 3,
        verdict: None,
    }
}

/// Decodes with the shipped rules; the command comes from the body alone.
pub(crate) fn decode(body: &str) -> Callback<'_> {
    callback::decode("", "", body.as_bytes(), &Compiled::shipped()).unwrap_or_else(|error| panic!("{error}: {body}"))
}

/// The record of one route.
pub(crate) fn record(callback: &Callback<'_>, stamp: &Stamp, route: &Route<'_>, with_body: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    callback.encode(stamp, route, with_body, &mut bytes);
    append_sequence(&mut bytes, 41);
    bytes
}

/// The records of all routes, in their order, the first with the body.
pub(crate) fn records(callback: &Callback<'_>, stamp: &Stamp) -> Vec<Vec<u8>> {
    callback.routes().iter().enumerate().map(|(i, route)| record(callback, stamp, route, i == 0)).collect()
}

/// The record of the first route, read by prost.
pub(crate) fn envelope(body: &str) -> Envelope {
    let bytes = records(&decode(body), &stamp()).remove(0);
    Envelope::decode(bytes.as_slice()).expect("prost reads what we write")
}

/// The typed event of the first record, read by prost.
pub(crate) fn event(body: &str) -> Event {
    envelope(body).event.unwrap_or_else(|| panic!("no typed event: {:?}, {body}", decode(body).untyped_reason()))
}

/// Topics and keys of a callback.
pub(crate) fn route_list(callback: &Callback<'_>) -> Vec<(Topic, String)> {
    callback.routes().iter().map(|route| (route.topic, route.key.to_owned())).collect()
}
