//! Chooses the type of a callback by its command.

use serde::Deserialize;

use super::Callback;
use super::error::{CallbackError, UntypedReason};
use super::head::check_command;
use super::json::Text;
use super::{KEY_BYTES_MAX, group, message, state, stream};
use crate::command as c;
use crate::event::number as n;
use crate::rules::Compiled;
use crate::time::stated_ms;
use crate::wire::Writer;

/// The body of one typed command.
pub(super) trait Body<'a>: Deserialize<'a> {
    /// `CallbackCommand` in the body; empty when absent.
    fn command(&self) -> &str;

    /// Event time as stated: ms or seconds.
    fn event_time(&self) -> Option<i64>;

    /// Writes the event.
    fn write(&self, context: &Context<'_>, w: &mut Writer<'_>) -> Result<(), UntypedReason>;
}

/// What the body alone does not tell.
pub(super) struct Context<'c> {
    pub(super) command: &'c str,
    pub(super) rules: &'c Compiled,
}

/// Declares a body: its fields by their names in JSON, all optional, and with them the two that every body has.
macro_rules! body {
    ($(#[$meta:meta])* struct $name:ident<'a> { $($field:ident: $type:ty = $json:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Default, serde::Deserialize)]
        #[serde(default, bound(deserialize = "'de: 'a"))]
        pub(super) struct $name<'a> {
            #[serde(rename = "CallbackCommand")]
            command: crate::callback::json::Text<'a>,
            #[serde(rename = "EventTime")]
            event_time: crate::callback::json::Number,
            $(#[serde(rename = $json)] $field: $type,)*
        }
    };
}
pub(super) use body;

/// The two methods that are alike for nearly every body.
macro_rules! common {
    () => {
        fn command(&self) -> &str {
            &self.command
        }

        fn event_time(&self) -> Option<i64> {
            self.event_time.get()
        }
    };
}
pub(super) use common;

/// A field that becomes a key: it must be there, and not be longer than a key may be.
pub(super) fn key<'t>(text: &'t Text<'_>, name: &'static str) -> Result<&'t str, UntypedReason> {
    if (1..=KEY_BYTES_MAX).contains(&text.len()) { Ok(text) } else { Err(UntypedReason::Field(name)) }
}

/// Reads the event of the callback's command into it; the inner error says why there is none.
pub(super) fn read(
    callback: &mut Callback<'_>,
    text: &str,
    rules: &Compiled,
) -> Result<Result<(), UntypedReason>, CallbackError> {
    let command = match &callback.command {
        std::borrow::Cow::Borrowed(known) => *known,
        std::borrow::Cow::Owned(_) => return Ok(Err(UntypedReason::UnknownCommand)),
    };
    let context = Context { command, rules };
    match command {
        c::AFTER_SEND => event::<message::Send<'_>>(callback, n::AFTER_SEND, text, &context),
        c::BEFORE_SEND => event::<message::Send<'_>>(callback, n::BEFORE_SEND, text, &context),
        c::SEND_EXCEPTION => event::<message::Send<'_>>(callback, n::SEND_EXCEPTION, text, &context),
        c::STATE_CHANGE => event::<state::StateChange<'_>>(callback, n::STATE_CHANGE, text, &context),
        c::AFTER_NEW_MEMBER_JOIN => event::<group::Join<'_>>(callback, n::MEMBERS_JOINED, text, &context),
        c::AFTER_MEMBER_EXIT => event::<group::Exit<'_>>(callback, n::MEMBERS_LEFT, text, &context),
        c::MEMBER_STATE_CHANGE => event::<group::MemberState<'_>>(callback, n::MEMBER_STATE, text, &context),
        c::BEFORE_APPLY_JOIN => event::<group::BeforeJoin<'_>>(callback, n::BEFORE_JOIN, text, &context),
        c::AFTER_CREATE_GROUP => event::<group::Created<'_>>(callback, n::GROUP_CREATED, text, &context),
        c::BEFORE_CREATE_GROUP => event::<group::BeforeCreate<'_>>(callback, n::BEFORE_CREATE_GROUP, text, &context),
        c::AFTER_RECALL => event::<group::Recall<'_>>(callback, n::MESSAGES_RECALLED, text, &context),
        c::AFTER_GROUP_DESTROYED => event::<group::Destroyed<'_>>(callback, n::GROUP_DESTROYED, text, &context),
        c::AFTER_GROUP_INFO_CHANGED => event::<group::InfoChanged<'_>>(callback, n::GROUP_INFO_CHANGED, text, &context),
        c::AFTER_GROUP_ATTR_CHANGED => {
            event::<group::AttributesChanged<'_>>(callback, n::GROUP_ATTRIBUTES_CHANGED, text, &context)
        }
        c::QUOTA_ALARM => event::<state::QuotaAlarm<'_>>(callback, n::QUOTA_ALARM, text, &context),
        c::REQUEST_OVER_LIMIT => event::<state::OverLimit<'_>>(callback, n::REQUEST_OVER_LIMIT, text, &context),
        c::STREAM_PUSH | c::STREAM_INTERRUPT => {
            event::<stream::StreamChange<'_>>(callback, n::STREAM_CHANGE, text, &context)
        }
        _ => Ok(Err(UntypedReason::NotTyped)),
    }
}

fn event<'t, B: Body<'t>>(
    callback: &mut Callback<'_>,
    number: u32,
    text: &'t str,
    context: &Context<'_>,
) -> Result<Result<(), UntypedReason>, CallbackError> {
    let body: B = match serde_json::from_str(text) {
        Ok(body) => body,
        // Whether it is JSON at all is told by reading its head, which asks nothing of the other fields.
        Err(error) => return Ok(Err(UntypedReason::Fields(error.to_string()))),
    };
    check_command(context.command, body.command())?;
    callback.event_time_ms = stated_ms(body.event_time());
    callback.number = number;
    // An event is a little shorter than its JSON.
    callback.event = Vec::with_capacity(text.len());
    Ok(body.write(context, &mut Writer::new(&mut callback.event)))
}
