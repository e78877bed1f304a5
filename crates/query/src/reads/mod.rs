//! The handlers of reads: they compose questions and merge what the partitions answer.

pub(crate) mod index;
pub(crate) mod levels;
pub(crate) mod live;
pub(crate) mod minutes;
pub(crate) mod room;
pub(crate) mod rooms;
pub(crate) mod status;
pub(crate) mod user;
pub(crate) mod viewers;

use axum::http::StatusCode;

use crate::answer::{Answer, AsOf};
use crate::api::{Call, Reply};
use crate::question::Seen;

/// An answer from what was read that a client may have already.
fn cacheable(call: &Call, seen: &[Seen], body: String) -> Reply {
    let as_of = AsOf::of(seen, call.at_ms);
    Reply::Answer(Answer { status: StatusCode::OK, body, as_of, at_given: call.at_given, cacheable: true })
}
