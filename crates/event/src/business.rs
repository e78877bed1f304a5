//! Events of the app's own servers (`POST /v1/events`) and of Barrage itself, in the same form as callbacks.

use serde::Deserialize;

use crate::callback::{Callback, KEY_BYTES_MAX};
use crate::command;
use crate::event::number;
use crate::time::stated_ms;
use crate::wire::Writer;

/// Limits of a business event. Its sender is told when it goes beyond them; what a client wrote into a message is cut
/// down to them.
pub mod limits {
    /// Length of the idempotency key, bytes.
    pub const ID_BYTES_MAX: usize = 128;
    /// Length of any other text, bytes.
    pub const TEXT_BYTES_MAX: usize = 256;
    /// Gifts in one event.
    pub const COUNT_MAX: u64 = 1_000_000_000;
    /// Value of one event, minor units.
    pub const VALUE_MAX: u64 = 1_000_000_000_000_000;
    /// Months of a membership.
    pub const MONTHS_MAX: u32 = 1_200;
}

/// Why an item is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusinessError {
    /// It is not JSON, or a field is missing, unknown or of another type.
    #[error("the event cannot be read: {0}")]
    Unreadable(String),
    /// A field is out of its range.
    #[error("`{field}` {problem}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

/// One accepted item.
#[derive(Debug, Clone)]
pub struct BusinessEvent<'a> {
    /// `SdkAppid`, when the item names one.
    pub app: Option<u32>,
    /// The idempotency key.
    pub id: String,
    /// The event, ready to be written.
    pub callback: Callback<'a>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Item {
    GiftBilled(Gift),
    MembershipOpened(Membership),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Gift {
    id: String,
    app: Option<u32>,
    room: String,
    account: String,
    gift_id: String,
    count: u64,
    value: u64,
    #[serde(default)]
    combo_id: String,
    #[serde(default)]
    order_id: String,
    at_ms: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Membership {
    id: String,
    app: Option<u32>,
    account: String,
    room: Option<String>,
    tier: String,
    months: u32,
    value: u64,
    at_ms: Option<i64>,
}

/// Reads one item of `POST /v1/events`; its text becomes the body.
///
/// A gift: `{"type": "gift_billed", "id", "app"?, "room", "account", "gift_id", "count", "value", "combo_id"?,
/// "order_id"?, "at_ms"?}`. A membership: `{"type": "membership_opened", "id", "app"?, "account", "room"?, "tier",
/// "months", "value", "at_ms"?}`. `id` is the idempotency key, `value` that of the whole event in minor units.
///
/// # Errors
/// A [`BusinessError`] that names the field.
pub fn parse(item: &str) -> Result<BusinessEvent<'_>, BusinessError> {
    let parsed: Item = serde_json::from_str(item).map_err(|error| BusinessError::Unreadable(error.to_string()))?;
    let mut event = Vec::with_capacity(item.len());
    let mut w = Writer::new(&mut event);
    let body = item.as_bytes();
    Ok(match parsed {
        Item::GiftBilled(gift) => {
            w.string(1, text("id", &gift.id, 1, limits::ID_BYTES_MAX)?);
            w.string(2, text("room", &gift.room, 1, limits::TEXT_BYTES_MAX)?);
            w.string(3, text("account", &gift.account, 1, limits::TEXT_BYTES_MAX)?);
            w.string(4, text("gift_id", &gift.gift_id, 1, limits::TEXT_BYTES_MAX)?);
            w.uint64(5, range("count", gift.count, 1, limits::COUNT_MAX)?);
            w.uint64(6, range("value", gift.value, 0, limits::VALUE_MAX)?);
            w.string(7, text("combo_id", &gift.combo_id, 0, limits::TEXT_BYTES_MAX)?);
            w.string(8, text("order_id", &gift.order_id, 0, limits::TEXT_BYTES_MAX)?);
            let at = time(gift.at_ms)?;
            let callback = Callback::own(command::GIFT_BILLED, body, at, number::GIFT_BILLED, event);
            BusinessEvent { app: gift.app, id: gift.id, callback }
        }
        Item::MembershipOpened(membership) => {
            w.string(1, text("id", &membership.id, 1, limits::ID_BYTES_MAX)?);
            w.string(2, text("account", &membership.account, 1, limits::TEXT_BYTES_MAX)?);
            if let Some(room) = &membership.room {
                w.string(3, text("room", room, 1, limits::TEXT_BYTES_MAX)?);
            }
            w.string(4, text("tier", &membership.tier, 1, limits::TEXT_BYTES_MAX)?);
            w.uint64(5, range("months", u64::from(membership.months), 1, u64::from(limits::MONTHS_MAX))?);
            w.uint64(6, range("value", membership.value, 0, limits::VALUE_MAX)?);
            let at = time(membership.at_ms)?;
            let callback = Callback::own(command::MEMBERSHIP_OPENED, body, at, number::MEMBERSHIP_OPENED, event);
            BusinessEvent { app: membership.app, id: membership.id, callback }
        }
    })
}

/// A version of the rules, as the event that makes it valid. It names nobody: it is appended to every partition of
/// both topics, each time with a route of an empty key.
#[must_use]
pub fn rules_applied(version: u32, rules_toml: &str, applied_by: &str, applied_at_ms: i64) -> Callback<'static> {
    let mut event = Vec::with_capacity(rules_toml.len() + applied_by.len() + 32);
    let mut w = Writer::new(&mut event);
    w.uint64(1, u64::from(version));
    w.string(2, rules_toml);
    w.string(3, applied_by);
    w.int64(4, applied_at_ms);
    Callback::own(command::RULES_APPLIED, &[], None, number::RULES_APPLIED, event)
}

const _: () = assert!(limits::TEXT_BYTES_MAX <= KEY_BYTES_MAX, "rooms and accounts become keys");

fn text<'t>(field: &'static str, text: &'t str, min: usize, max: usize) -> Result<&'t str, BusinessError> {
    if (min..=max).contains(&text.len()) {
        return Ok(text);
    }
    Err(BusinessError::Field { field, problem: format!("has {} bytes in place of {min} to {max}", text.len()) })
}

fn range(field: &'static str, number: u64, min: u64, max: u64) -> Result<u64, BusinessError> {
    if (min..=max).contains(&number) {
        return Ok(number);
    }
    Err(BusinessError::Field { field, problem: format!("is {number}, outside {min} to {max}") })
}

fn time(at_ms: Option<i64>) -> Result<Option<i64>, BusinessError> {
    match at_ms {
        Some(..=0) => Err(BusinessError::Field { field: "at_ms", problem: "is not after 1970".to_owned() }),
        other => Ok(stated_ms(other)),
    }
}
