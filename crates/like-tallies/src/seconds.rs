//! Caps on likes, per message and per second.
//!
//! A second counts the smaller of the likes offered in it and its cap, whatever the order they came in: every message
//! adds what that minimum grows by. Where two versions of the rules meet in one second, the larger cap holds.

use barrage_event::EnvelopeView;
use barrage_event::rules::{LikeRules, RuleSet};
use barrage_projection::Context;

/// Open seconds of one viewer in one room at most; above it the oldest are forgotten. Beyond what a window of ten
/// minutes holds, so that it only bounds the row where a rule makes the window long.
pub const SECONDS_MAX: usize = 1_024;

/// A second in a row: second, likes offered, cap.
const WIDTH: usize = 3;

/// The second since the epoch that a like message counts in.
///
/// It is that of the event time, because the network may deliver the likes of a minute at once. A message that was
/// received later than the lateness window after its event time counts in the second of its receipt. Both follow from
/// the record and the rules stamped in it, so the room and the account take the same second.
#[must_use]
pub fn like_second(record: &EnvelopeView<'_>, stamped: &RuleSet) -> u32 {
    let lateness_ms = i64::try_from(stamped.windows.lateness_ms).unwrap_or(i64::MAX);
    let late = record.received_at_ms.saturating_sub(record.occurred_at_ms) > lateness_ms;
    second_of(if late { record.received_at_ms } else { record.occurred_at_ms })
}

/// Second since the epoch, 0 for times before it.
pub(crate) fn second_of(time_ms: i64) -> u32 {
    u32::try_from(time_ms.max(0) / 1_000).unwrap_or(u32::MAX)
}

/// Seconds below this are not open any more.
pub(crate) fn open_from(cx: &Context<'_>) -> u32 {
    let lateness_ms = i64::try_from(cx.rules.windows.lateness_ms).unwrap_or(i64::MAX);
    second_of(cx.stream_time_ms.saturating_sub(lateness_ms))
}

/// What became of the likes that one message names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// They count.
    pub(crate) count: u64,
    /// Above the cap of a message. What is left of those named is above the cap of the second.
    pub(crate) over_message: u64,
    /// The second was not open any more: the message was capped by itself.
    pub(crate) too_late: bool,
}

/// Counts a message that names `stated` likes in `second`, and closes seconds below `open_from`.
pub(crate) fn count(
    seconds: &mut Vec<u32>,
    (second, open_from): (u32, u32),
    stated: u64,
    rules: &LikeRules,
) -> Counted {
    forget(seconds, open_from);
    let offered = stated.min(rules.per_message_max);
    let over_message = stated - offered;
    let cap = u32::try_from(rules.per_second_max).unwrap_or(u32::MAX);
    let more = u32::try_from(offered).unwrap_or(u32::MAX);
    let too_late = second < open_from;
    let count = if too_late {
        u64::from(more.min(cap))
    } else {
        let at = place(seconds, second);
        let (sum, highest) = (seconds[at + 1], seconds[at + 2]);
        seconds[at + 1] = sum.saturating_add(more);
        // A cap that grows within a second lets likes through that the smaller one held back before.
        seconds[at + 2] = highest.max(cap);
        u64::from(seconds[at + 1].min(seconds[at + 2]) - sum.min(highest))
    };
    Counted { count, over_message, too_late }
}

/// Where the second stands, made when it is new.
fn place(seconds: &mut Vec<u32>, second: u32) -> usize {
    let rows = seconds.len() / WIDTH;
    // The newest is nearly always the one, or the one before.
    let before = (0..rows).rev().find(|&row| seconds[row * WIDTH] <= second);
    let at = match before {
        Some(row) if seconds[row * WIDTH] == second => return row * WIDTH,
        Some(row) => (row + 1) * WIDTH,
        None => 0,
    };
    seconds.splice(at..at, [second, 0, 0]);
    if rows < SECONDS_MAX {
        return at;
    }
    // The oldest goes; the new one stays even where it is the oldest, so that it can be counted.
    if at == 0 {
        seconds.drain(WIDTH..2 * WIDTH);
        return 0;
    }
    seconds.drain(..WIDTH);
    at - WIDTH
}

/// Closes seconds below `open_from`.
pub(crate) fn forget(seconds: &mut Vec<u32>, open_from: u32) {
    let closed = seconds.chunks_exact(WIDTH).take_while(|row| row[0] < open_from).count();
    if closed > 0 {
        seconds.drain(..closed * WIDTH);
    }
}
