//! What every body is asked, typed or not: is it JSON, which command is it, when did it happen, whom does it name.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::error::CallbackError;
use super::json::{List, Number, Object, Text};
use super::{DEPTH_MAX, KEY_BYTES_MAX};
use crate::command;
use crate::time::stated_ms;

/// The body as text, when it can be a JSON object.
pub(super) fn check(body: &[u8]) -> Result<&str, CallbackError> {
    let text =
        std::str::from_utf8(body).map_err(|error| CallbackError::InvalidUtf8 { valid_up_to: error.valid_up_to() })?;
    let first = text.bytes().find(|b| !b" \t\r\n".contains(b)).ok_or(CallbackError::Empty)?;
    if too_deep(body) {
        return Err(CallbackError::TooDeep);
    }
    if first != b'{' {
        return Err(match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) => CallbackError::NotAnObject,
            Err(error) => CallbackError::NotJson(error.to_string()),
        });
    }
    Ok(text)
}

/// Whether brackets outside of strings nest deeper than [`DEPTH_MAX`].
fn too_deep(body: &[u8]) -> bool {
    // Most bodies have few brackets at all, and counting them is one pass without branches, in bytes so that many are
    // compared at once. `[` and `{` differ in one bit.
    let brackets = |part: &[u8]| part.iter().fold(0_u8, |n, b| n.wrapping_add(u8::from(*b & 0xdf == b'[')));
    if body.chunks(128).map(|part| usize::from(brackets(part))).sum::<usize>() <= DEPTH_MAX {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for &byte in body {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return true;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// What an untyped callback is asked. Fields are taken as pieces of text, so that no value can be an error.
#[derive(Debug, Default)]
pub(super) struct Head<'a> {
    command: Text<'a>,
    event_time: Number,
    stream_event: Number,
    stream_time: Number,
    /// The first of a body with several events.
    first: Option<Box<Head<'a>>>,
    /// What it may be keyed by, best first.
    keys: [Text<'a>; KEYS.len()],
}

/// Whom a body may name, in the order in which a record without a room of its own is keyed by them.
const KEYS: [&str; 9] = [
    "GroupId",
    "RoomId",
    "stream_id",
    "To_Account",
    "From_Account",
    "Report_Account",
    "Owner_Account",
    "Requestor_Account",
    "Operator_Account",
];

impl<'a> Head<'a> {
    pub(super) fn read(text: &'a str) -> Result<Self, CallbackError> {
        serde_json::from_str(text).map_err(|error| CallbackError::NotJson(error.to_string()))
    }

    /// The body's command, or what stands for it.
    pub(super) fn own_command(&self) -> Option<Cow<'a, str>> {
        if !self.command.is_empty() {
            return Some(self.command.0.clone());
        }
        if let Some(event_type) = self.stream_event.get::<i64>() {
            return Some(Cow::Borrowed(match event_type {
                0 => command::STREAM_INTERRUPT,
                1 => command::STREAM_PUSH,
                _ => command::STREAM_OTHER,
            }));
        }
        self.first.as_ref().and_then(|first| first.own_command())
    }

    /// Compares the query's command with the body's, when the body states one.
    pub(super) fn check_command(&self, query: &str) -> Result<(), CallbackError> {
        check_command(query, &self.command)
    }

    /// Event time, ms.
    pub(super) fn event_time_ms(&self) -> Option<i64> {
        stated_ms(self.event_time.get())
            .or_else(|| stated_ms(self.stream_time.get()))
            .or_else(|| self.first.as_ref().and_then(|first| first.event_time_ms()))
    }

    /// What the record is keyed by; empty when the body names nobody.
    pub(super) fn key(self) -> Cow<'a, str> {
        let mut keys = self.keys.into_iter().map(|text| text.0);
        keys.find(|key| (1..=KEY_BYTES_MAX).contains(&key.len())).unwrap_or_default()
    }
}

pub(super) fn check_command(query: &str, body: &str) -> Result<(), CallbackError> {
    if body.is_empty() || body == query {
        return Ok(());
    }
    // What came from outside goes into the answer and the log only so far.
    let shorten = |text: &str| text.chars().take(100).collect();
    Err(CallbackError::CommandMismatch { query: shorten(query), body: shorten(body) })
}

impl<'de: 'a, 'a> Deserialize<'de> for Head<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeadVisitor)
    }
}

struct HeadVisitor;

impl<'de> Visitor<'de> for HeadVisitor {
    type Value = Head<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    // A field that stands there twice counts as it stands there last, as in most parsers.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut head = Head::default();
        while let Some(key) = map.next_key::<&RawValue>()? {
            let value: &RawValue = map.next_value()?;
            match &*piece::<Text<'_>>(key.get()) {
                "CallbackCommand" => head.command = piece(value.get()),
                "EventTime" => head.event_time = piece(value.get()),
                "event_type" => head.stream_event = piece(value.get()),
                "event_time" => head.stream_time = piece(value.get()),
                "Events" => head.first = first_event(value.get()),
                name => {
                    if let Some(at) = KEYS.iter().position(|key| *key == name) {
                        head.keys[at] = piece(value.get());
                    }
                }
            }
        }
        Ok(head)
    }
}

/// A piece of valid JSON that may still not be readable, and is absent then.
fn piece<'a, T: Deserialize<'a> + Default>(raw: &'a str) -> T {
    serde_json::from_str(raw).unwrap_or_default()
}

/// The head of the first of several events.
fn first_event(raw: &str) -> Option<Box<Head<'_>>> {
    let events: List<Object<Inner<'_>>> = serde_json::from_str(raw).ok()?;
    let Inner { command, event_time } = events.0.into_iter().next()?.0;
    Some(Box::new(Head { command, event_time, ..Head::default() }))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct Inner<'a> {
    #[serde(rename = "CallbackCommand")]
    command: Text<'a>,
    #[serde(rename = "EventTime")]
    event_time: Number,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nesting_is_counted_outside_of_strings() {
        let nested = |n: usize| format!("{}1{}", "[".repeat(n), "]".repeat(n));
        let quoted = format!("{{\"a\":\"{}\\\\\\\"{}\"}}", "[".repeat(500), "{".repeat(500));
        let after = format!("{{\"a\":\"\\\\\",\"b\":{}}}", nested(DEPTH_MAX));
        let flat = format!("[{}1]", "[1],".repeat(500));
        for (body, expected) in [
            (nested(DEPTH_MAX), false),
            (nested(DEPTH_MAX + 1), true),
            ("[".repeat(1 << 20), true),
            (quoted, false),
            // A string that ends in an escaped backslash is over.
            (after, true),
            (flat, false),
            (String::new(), false),
        ] {
            assert_eq!(too_deep(body.as_bytes()), expected, "{:.40}", body);
        }
    }
}
