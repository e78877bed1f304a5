//! How what happened is called back: forms of EventTime, delays, duplicates.

use super::{Evening, Posted};
use crate::body::Object;
use crate::line::{Line, LineKind};
use crate::people::{PersonId, Platform};
use crate::rooms::RoomId;

/// The client that caused a callback, if the platform names one.
#[derive(Debug, Clone, Copy)]
pub(super) enum Client {
    /// The URL has neither `ClientIP` nor `OptPlatform`.
    None,
    /// This person, on this platform.
    Of(PersonId, Platform),
}

/// When a callback is sent.
#[derive(Debug, Clone, Copy)]
pub(super) enum Timing {
    /// Within milliseconds, now and then seconds late.
    Usual,
    /// This much after it happened, ms.
    Late(i64),
    /// At once; the body has no EventTime.
    NoEventTime,
}

/// A callback before it is written.
#[derive(Debug)]
pub(super) struct Callback {
    pub(super) command: &'static str,
    pub(super) body: Object,
    /// When it happened, ms.
    pub(super) event_ms: i64,
    pub(super) client: Client,
    pub(super) room: Option<RoomId>,
    pub(super) timing: Timing,
    /// Whether the platform may send it again: only what nobody waits for, and only where the receiver can tell the
    /// repetition from a second happening.
    pub(super) repeats: Repeats,
}

/// Whether a callback may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeats {
    /// Never: a before-callback, or something without an identity.
    Never,
    /// When the body has an EventTime, which is part of its identity.
    WithEventTime,
    /// Always: the body has an identity of its own.
    Always,
}

/// Longest time between a line and its repetition, ms.
const REPETITION_MS_MAX: i64 = 240_000;

impl Evening {
    /// Puts a callback on its way.
    pub(super) fn call_back(&mut self, callback: Callback) {
        let Callback { command, mut body, event_ms, client, room, timing, repeats } = callback;
        let absent = self.config.event_time_absent_permille;
        let (delay_ms, has_event_time) = match timing {
            Timing::NoEventTime => (0, false),
            Timing::Late(delay_ms) => (delay_ms, true),
            Timing::Usual if self.random.permille(absent) => (0, false),
            Timing::Usual if self.random.permille(self.config.late_permille) => {
                (self.random.between(1_000, 6_000), true)
            }
            Timing::Usual => (self.random.between(0, 15), true),
        };
        if has_event_time {
            body = if self.random.permille(self.config.event_time_text_permille) {
                body.text("EventTime", &event_ms.to_string())
            } else {
                body.number("EventTime", event_ms)
            };
        }
        let query = self.query(command, client);
        let kind = LineKind::Callback { query, body: body.end() };
        let may_repeat = match repeats {
            Repeats::Never => false,
            Repeats::WithEventTime => has_event_time,
            Repeats::Always => true,
        };
        self.send(event_ms + delay_ms, kind, command, room, may_repeat);
    }

    /// Puts a business event on its way.
    pub(super) fn report(&mut self, name: &'static str, event: Object, room: RoomId) {
        let at_ms = self.now_ms + self.random.between(2, 60);
        self.send(at_ms, LineKind::Event { json: event.end() }, name, Some(room), true);
    }

    /// Posts a line, and now and then again.
    pub(super) fn send(
        &mut self,
        at_ms: i64,
        kind: LineKind,
        name: &'static str,
        room: Option<RoomId>,
        may_repeat: bool,
    ) {
        if may_repeat && self.random.permille(self.config.duplicate_permille) {
            // Most repetitions follow a time-out of the receiver; some a long one.
            let first_ms = match self.random.below(100) {
                0..=69 => self.random.between(2_000, 8_000),
                70..=94 => self.random.between(8_000, 60_000),
                _ => self.random.between(60_000, REPETITION_MS_MAX),
            };
            self.repeat(at_ms + first_ms, kind.clone(), name, room);
            if self.random.permille(100) {
                let second_ms = self.random.between(first_ms, REPETITION_MS_MAX);
                self.repeat(at_ms + second_ms, kind.clone(), name, room);
            }
        }
        self.post.plan(at_ms, Posted { line: Line { at_ms, kind }, name });
    }

    fn repeat(&mut self, at_ms: i64, kind: LineKind, name: &'static str, room: Option<RoomId>) {
        if let Some(room) = room {
            self.room(room).truth.duplicates_sent += 1;
        }
        self.post.plan(at_ms, Posted { line: Line { at_ms, kind }, name });
    }

    /// The URL's parameters.
    pub(super) fn query(&self, command: &'static str, client: Client) -> Vec<(&'static str, String)> {
        let mut query = Vec::with_capacity(5);
        query.push(("SdkAppid", self.app.clone()));
        query.push(("CallbackCommand", command.to_owned()));
        query.push(("contenttype", "json".to_owned()));
        if let Client::Of(person, platform) = client {
            let in_state_change = command == "State.StateChange";
            let name = if in_state_change { platform.name_in_state_change() } else { platform.name() };
            query.push(("ClientIP", self.people[person.0 as usize].client_ip.clone()));
            query.push(("OptPlatform", name.to_owned()));
        }
        query
    }
}
