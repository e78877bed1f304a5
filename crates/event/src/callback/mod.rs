//! A callback's JSON body, read into a typed event and written as records of the log.
//!
//! The body is the truth and what is read here only a cache of it, so nearly nothing is an error: a field of the wrong
//! type reads as absent, a known command whose fields do not fit is kept with its body and no event, and so is an
//! unknown command. Only what cannot be kept at all is refused.
//!
//! The event is encoded once, while the body is read; [`Callback::encode`] copies it into each record.

mod error;
mod group;
mod head;
mod json;
mod message;
mod repair;
mod state;
mod stream;
mod typed;

use std::borrow::Cow;

pub use error::{CallbackError, UntypedReason};

use crate::command;
use crate::envelope::{PARSER_VERSION, field};
use crate::event::{Event, number};
use crate::platform;
use crate::position::Topic;
use crate::routes::{self, Route, Routes};
use crate::rules::{Compiled, Verdict};
use crate::time;
use crate::wire::{Field, Reader, Value, Writer};
use head::Head;

/// Deepest nesting of a body. The vendor's have 6 levels; parsers that recurse would need stack for more.
pub const DEPTH_MAX: usize = 100;

/// Longest command, bytes. The vendor's have up to 60.
pub const COMMAND_BYTES_MAX: usize = 256;

/// Longest `GroupId` or account, bytes, that a record is keyed by. The vendor's have up to 48 and 32. One that is
/// longer leaves the callback untyped.
pub const KEY_BYTES_MAX: usize = 1_024;

/// Largest typed event, bytes, so that event and body together fit a record of 2 MiB. A larger one is left out.
pub const EVENT_BYTES_MAX: usize = 960 * 1024;

/// What ingest adds to a callback; the same in all its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// Incarnation and number of the callback in it.
    pub id: u128,
    /// `SdkAppid`.
    pub app: u32,
    /// Time of receipt, ms since the epoch.
    pub received_at_ms: i64,
    /// The run of the ingest process.
    pub incarnation: u64,
    /// Version of the rules that the callback was decoded with.
    pub rules_version: u32,
    /// What a before-callback is answered.
    pub verdict: Option<Verdict>,
}

/// A callback, or something of our own that is appended in the same form: read, and ready to be written.
#[derive(Debug, Clone)]
pub struct Callback<'a> {
    command: Cow<'a, str>,
    platform: Cow<'static, str>,
    body: &'a [u8],
    event_time_ms: Option<i64>,
    /// Field number of the event in the envelope; 0 when there is none.
    number: u32,
    /// The event, encoded.
    event: Vec<u8>,
    /// What a record without a room is keyed by.
    fallback: Cow<'a, str>,
    untyped: Option<UntypedReason>,
}

/// Reads a callback.
///
/// `command` and `platform` are the query's `CallbackCommand` and `OptPlatform`, empty when absent. Without a command
/// in the query the body's counts; a live-streaming callback, which has none at all, is told by its `event_type`.
///
/// # Errors
/// A [`CallbackError`] when the body is no JSON object, or contradicts the query.
pub fn decode<'a>(
    command: &str,
    platform: &str,
    body: &'a [u8],
    rules: &Compiled,
) -> Result<Callback<'a>, CallbackError> {
    let text = head::check(body)?;
    let platform = platform::normalise(platform);
    if command.is_empty() {
        let head = Head::read(text)?;
        let command = head.own_command().ok_or(CallbackError::MissingCommand)?;
        return decode_as(&command, platform, text, rules);
    }
    decode_as(command, platform, text, rules)
}

fn decode_as<'a>(
    command: &str,
    platform: Cow<'static, str>,
    text: &'a str,
    rules: &Compiled,
) -> Result<Callback<'a>, CallbackError> {
    if command.len() > COMMAND_BYTES_MAX {
        return Err(CallbackError::CommandTooLong { bytes: command.len() });
    }
    let mut callback = Callback {
        command: command::known(command).map_or_else(|| Cow::Owned(command.to_owned()), Cow::Borrowed),
        platform,
        body: text.as_bytes(),
        event_time_ms: None,
        number: 0,
        event: Vec::new(),
        fallback: Cow::Borrowed(""),
        untyped: None,
    };
    let mut read = typed::read(&mut callback, text, rules)?;
    if let Err(UntypedReason::Fields(_)) = &read
        && let Some(repaired) = repair::repair(text)
    {
        read = typed::read(&mut callback, &repaired, rules)?;
    }
    match read {
        Ok(()) if callback.event.len() <= EVENT_BYTES_MAX => {
            // The rare events that name no room are keyed by whatever else their body names.
            if let number::QUOTA_ALARM | number::REQUEST_OVER_LIMIT | number::BEFORE_CREATE_GROUP = callback.number {
                callback.fallback = Head::read(text)?.key();
            }
        }
        Ok(()) => callback.untype(text, UntypedReason::TooLarge)?,
        Err(reason) => callback.untype(text, reason)?,
    }
    Ok(callback)
}

impl<'a> Callback<'a> {
    /// Something of our own, for [`business`](crate::business).
    pub(crate) const fn own(
        command: &'static str,
        body: &'a [u8],
        event_time_ms: Option<i64>,
        number: u32,
        event: Vec<u8>,
    ) -> Self {
        Callback {
            command: Cow::Borrowed(command),
            platform: Cow::Borrowed(""),
            body,
            event_time_ms,
            number,
            event,
            fallback: Cow::Borrowed(""),
            untyped: None,
        }
    }

    /// Keeps the body only, with what can be told without the event.
    fn untype(&mut self, text: &'a str, reason: UntypedReason) -> Result<(), CallbackError> {
        let head = Head::read(text)?;
        head.check_command(&self.command)?;
        self.number = 0;
        self.event = Vec::new();
        self.event_time_ms = head.event_time_ms();
        self.fallback = head.key();
        self.untyped = Some(reason);
        Ok(())
    }

    /// `CallbackCommand`; `Live.*` and `Barrage.*` for what has none of its own.
    #[must_use]
    pub fn command(&self) -> &str {
        &self.command
    }

    /// The command as a constant when this version knows it: fit to be the label of a metric.
    #[must_use]
    pub fn known_command(&self) -> Option<&'static str> {
        command::known(&self.command)
    }

    /// Platform of the client in lower case; empty when not told.
    #[must_use]
    pub fn platform(&self) -> &str {
        &self.platform
    }

    /// The body, byte for byte; empty for rules.
    #[must_use]
    pub const fn body(&self) -> &'a [u8] {
        self.body
    }

    /// The typed event; [`Event::None`] when there is none.
    #[must_use]
    pub fn event(&self) -> Event<'_> {
        let field = Field { number: self.number, value: Value::Bytes(&self.event) };
        // Our own encoding always reads; number 0 reads as no event.
        Event::decode(field).ok().flatten().unwrap_or_default()
    }

    /// The event time that the callback states, ms, not clamped; `None` when it states none.
    #[must_use]
    pub const fn event_time_ms(&self) -> Option<i64> {
        self.event_time_ms
    }

    /// Why there is no typed event; `None` when there is one.
    #[must_use]
    pub const fn untyped_reason(&self) -> Option<&UntypedReason> {
        self.untyped.as_ref()
    }

    /// Whether the answer decides something.
    #[must_use]
    pub fn is_before(&self) -> bool {
        command::is_before(&self.command)
    }

    /// Whom it concerns; the record of the first route carries the body, see [`Routes`].
    #[must_use]
    pub fn routes(&self) -> Routes<'_> {
        routes::routes(&self.event(), &self.fallback)
    }

    /// Appends the record for one route, all but its sequence, which [`append_sequence`](crate::append_sequence)
    /// writes when the place in the partition is known.
    ///
    /// The first of [`Callback::routes`] is the original and is to carry the body, the others are copies without it.
    /// A copy for an account lists of the members only that account.
    pub fn encode(&self, stamp: &Stamp, route: &Route<'_>, with_body: bool, out: &mut Vec<u8>) {
        let clamped = time::clamp(self.event_time_ms, stamp.received_at_ms);
        let body = if with_body { self.body } else { &[] };
        out.reserve(128 + self.event.len() + body.len() + route.key.len());
        let mut w = Writer::new(out);
        w.bytes(field::ID, &stamp.id.to_be_bytes());
        w.uint64(field::SDK_APP_ID, u64::from(stamp.app));
        w.string(field::COMMAND, &self.command);
        w.int64(field::OCCURRED_AT, clamped.occurred_at_ms);
        w.int64(field::RECEIVED_AT, stamp.received_at_ms);
        w.fixed64(field::INCARNATION, stamp.incarnation);
        w.string(field::PLATFORM, &self.platform);
        if let Some(verdict) = &stamp.verdict {
            w.message(field::VERDICT, |w| {
                w.int64(1, i64::from(verdict.outcome.to_wire()));
                w.uint64(2, u64::from(verdict.code));
                w.string(3, &verdict.rule);
            });
        }
        w.uint64(field::RULES_VERSION, u64::from(stamp.rules_version));
        w.uint64(field::PARSER_VERSION, u64::from(PARSER_VERSION));
        w.opt_sint64(field::ORIGINAL_EVENT_TIME, clamped.original);
        w.bool(field::HAS_EVENT_TIME, self.event_time_ms.is_some());
        w.string(field::ROUTE_KEY, route.key);
        w.bytes(field::BODY, body);
        match (route.topic, members_field(self.number)) {
            (Topic::User, Some(members)) => {
                w.message(self.number, |w| narrow(&self.event, members, route.key, w));
            }
            _ if self.number != 0 => w.item(self.number, &self.event),
            _ => {}
        }
    }
}

/// Where an event lists the members that it concerns.
const fn members_field(event: u32) -> Option<u32> {
    match event {
        number::MEMBERS_JOINED | number::MEMBERS_LEFT => Some(number::MEMBERS_IN_MEMBERSHIP),
        number::MEMBER_STATE => Some(number::MEMBERS_IN_STATE),
        _ => None,
    }
}

/// Copies an event with one member in place of its list.
fn narrow(event: &[u8], members: u32, account: &str, w: &mut Writer<'_>) {
    let mut reader = Reader::new(event);
    // Our own encoding writes the members last, so a copy takes no longer for a list of thousands.
    while let Ok(Some(field)) = reader.next_field() {
        if field.number == members {
            break;
        }
        w.field(field);
    }
    w.item(members, account.as_bytes());
}
