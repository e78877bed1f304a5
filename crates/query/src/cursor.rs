//! Paging cursors: opaque to clients, and safe in a URL as they stand.
//!
//! A cursor is the hexadecimal form of a kind (one byte), the sort or name it belongs to, a zero byte, and what the
//! handler keeps. A cursor of another kind or sort is refused, because going on with it would skip or repeat items.

use std::fmt::Write as _;

use crate::TIME_MS_MAX;
use crate::error::ApiError;
use crate::question::Slice;

/// What a cursor pages through. The bytes are never changed or used again for something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Viewers of a room.
    Viewers = 2,
    /// Slices of time of a room.
    Minutes = 3,
    /// Rankings of rooms. 1 were those that did not say what their scores were counted in.
    Rooms = 4,
}

/// Longest cursor that is read, in characters: a long room or account fits.
const CURSOR_CHARS_MAX: usize = 32 << 10;

pub(crate) fn encode(kind: Kind, of: &str, kept: &[u8]) -> String {
    let mut text = String::with_capacity(2 * (of.len() + kept.len() + 2));
    for byte in [kind as u8].iter().chain(of.as_bytes()).chain(&[0]).chain(kept) {
        write!(text, "{byte:02x}").expect("writing to a String does not fail");
    }
    text
}

/// What the handler kept in the cursor.
pub(crate) fn decode(kind: Kind, of: &str, text: &str) -> Result<Vec<u8>, ApiError> {
    bytes(text)
        .and_then(|bytes| {
            let rest = bytes.strip_prefix(&[kind as u8])?.strip_prefix(of.as_bytes())?.strip_prefix(&[0])?;
            Some(rest.to_vec())
        })
        .ok_or_else(wrong)
}

/// The cursor that goes on in a list of viewers: by what they did in all, or in a span of time.
pub(crate) fn of_viewers(sort: &str, span: Option<(i64, i64)>, next: &str) -> String {
    encode(Kind::Viewers, &viewers_of(sort, span), next.as_bytes())
}

/// Where such a cursor goes on.
pub(crate) fn to_viewers(sort: &str, span: Option<(i64, i64)>, text: &str) -> Result<String, ApiError> {
    String::from_utf8(decode(Kind::Viewers, &viewers_of(sort, span), text)?).map_err(|_| wrong())
}

fn viewers_of(sort: &str, span: Option<(i64, i64)>) -> String {
    span.map_or_else(|| sort.to_owned(), |(from_ms, to_ms)| format!("{sort} {from_ms} {to_ms}"))
}

/// The cursor that goes on behind a slice of time.
pub(crate) fn of_slice((start, width): Slice) -> String {
    encode(Kind::Minutes, "", &[start.to_be_bytes(), width.to_be_bytes()].concat())
}

/// The slice that a cursor goes on behind.
pub(crate) fn to_slice(text: &str) -> Result<Slice, ApiError> {
    let kept = decode(Kind::Minutes, "", text)?;
    let (start, rest) = kept.split_first_chunk().ok_or_else(wrong)?;
    let width = rest.try_into().map_err(|_| wrong())?;
    let slice = (i64::from_be_bytes(*start), i64::from_be_bytes(width));
    if (0..=TIME_MS_MAX).contains(&slice.0) && slice.1 >= 0 { Ok(slice) } else { Err(wrong()) }
}

/// The error for a cursor that is none of ours.
pub(crate) fn wrong() -> ApiError {
    ApiError::parameter(
        "after",
        "is no cursor of this list",
        "pass `next` of the page before, with the same parameters",
    )
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    if text.len() > CURSOR_CHARS_MAX || !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
    text.as_bytes().chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_round_trip_and_need_no_escaping() {
        for kept in [&b""[..], b"\x00\xff", "@TGS#房间".as_bytes()] {
            let text = encode(Kind::Rooms, "messages", kept);
            assert!(text.bytes().all(|b| b.is_ascii_alphanumeric()));
            assert_eq!(decode(Kind::Rooms, "messages", &text).as_deref(), Ok(kept));
        }
    }

    #[test]
    fn cursors_of_slices_round_trip_and_forged_ones_are_refused() {
        assert_eq!(to_slice(&of_slice((1_556_614_620_000, 60_000))), Ok((1_556_614_620_000, 60_000)));
        for forged in
            [of_slice((-1, 0)), of_slice((0, -1)), of_slice((i64::MAX, 1)), encode(Kind::Minutes, "", b"short")]
        {
            assert!(to_slice(&forged).is_err(), "{forged}");
        }
    }

    #[test]
    fn cursors_of_viewers_are_those_of_their_sort_and_span() {
        let all = [("likes", None), ("likes", Some((0, 5))), ("likes", Some((1, 5))), ("gift_value", Some((0, 5)))];
        for (n, (sort, span)) in all.into_iter().enumerate() {
            let text = of_viewers(sort, span, "7 ann");
            for (m, (sort, span)) in all.into_iter().enumerate() {
                let read = to_viewers(sort, span, &text);
                assert_eq!(read.ok().as_deref(), (n == m).then_some("7 ann"), "{n} read as {m}");
            }
        }
    }

    #[test]
    fn cursors_of_other_lists_and_nonsense_are_refused() {
        let text = encode(Kind::Rooms, "messages", b"x");
        assert!(decode(Kind::Viewers, "messages", &text).is_err());
        assert!(decode(Kind::Rooms, "message", &text).is_err());
        assert!(decode(Kind::Rooms, "likes", &text).is_err());
        for nonsense in ["", "0", "zz", "01", "é0", "+1+2", &"0".repeat(CURSOR_CHARS_MAX + 2)] {
            assert!(decode(Kind::Rooms, "messages", nonsense).is_err(), "{nonsense:.10}");
        }
    }
}
