//! Records of one account, and what is answered about it.

#![allow(dead_code, reason = "not every test uses all of it")]

use barrage_event::proto as wire;
use barrage_event::rules::RuleSet;
use barrage_online_duration::{AccountOnlineDuration, Online, online, tables::Accounts};
use barrage_projection::ReaderExt as _;
use barrage_projection::memory::Harness;
use prost::Message as _;

pub(crate) const APP: u32 = 1_400_000_000;
/// 2026-01-01T00:00:00Z.
pub(crate) const START_MS: i64 = 1_767_225_600_000;
pub(crate) const PLATFORMS: [&str; 3] = ["ios", "web", "android"];
/// A sign of life that names no platform.
pub(crate) const ANY: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Logout,
    Closed,
    TimedOut,
    Login,
    Sign,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// ms after the start.
    pub(crate) at: usize,
    pub(crate) kind: Kind,
    pub(crate) platform: usize,
    pub(crate) kicked: Vec<usize>,
}

/// The record of it; it arrives `late_ms` after it happened, in whatever order the test applies it.
pub(crate) fn record(event: &Event, late_ms: i64) -> Vec<u8> {
    let (action, reason) = match event.kind {
        Kind::Login => (1, "Register"),
        Kind::Logout => (2, "Unregister"),
        Kind::Closed => (3, "LinkClose"),
        Kind::TimedOut => (3, "TimeOut"),
        Kind::Sign => (4, "SetCustomStatus"),
    };
    let change = wire::StateChange {
        action,
        account: "user".to_owned(),
        reason: reason.to_owned(),
        kicked_platforms: event.kicked.iter().map(|&p| PLATFORMS[p].to_owned()).collect(),
        custom_status: String::new(),
    };
    let at_ms = START_MS + event.at as i64;
    wire::Envelope {
        id: vec![7; 16],
        sdk_app_id: APP,
        occurred_at: at_ms,
        received_at: at_ms + late_ms,
        platform: PLATFORMS.get(event.platform).map_or(String::new(), |p| (*p).to_owned()),
        route_key: "user".to_owned(),
        event: Some(wire::envelope::Event::StateChange(change)),
        ..wire::Envelope::default()
    }
    .encode_to_vec()
}

pub(crate) fn harness(rules: RuleSet) -> Harness {
    Harness::new(AccountOnlineDuration, rules).expect("own ids")
}

/// What is committed of the account, at `at_ms`.
pub(crate) fn ask(harness: &Harness, at_ms: i64) -> Online {
    let row = harness.store.get::<Accounts>(&(APP, "user")).expect("reads").unwrap_or_default();
    online(&row, at_ms, &harness.rules.duration)
}
