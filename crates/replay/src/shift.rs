//! Moves the times inside a line by whole seconds, and leaves every other byte as it was.

use std::fmt;

use bytes::Bytes;
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::line::{Line, LineKind};

/// Fields that hold times, in whichever unit: a number, or a number in quotes.
const TIMES: [&str; 9] =
    ["EventTime", "MsgTime", "event_time", "t", "at_ms", "occurred_at", "opens_at", "closes_at", "LastReadTime"];
/// Field of bulk bodies that holds an array of such objects.
const EVENTS: &str = "Events";

/// Times below this are seconds, others milliseconds: in seconds it is the year 5138, in milliseconds 1973.
const SECONDS_BELOW: i64 = 100_000_000_000;

/// Moves a line by this many seconds.
pub(crate) fn shift(line: &mut Line, seconds: i64) {
    line.at_ms = line.at_ms.saturating_add(seconds.saturating_mul(1_000));
    let (LineKind::Callback { body, .. } | LineKind::Event { body } | LineKind::Request { body, .. }) = &mut line.kind;
    if let Some(moved) = object(body, seconds) {
        *body = Bytes::from(moved);
    }
}

/// A JSON object's text with its times moved; nothing when the text is not an object or holds no times.
fn object(text: &[u8], seconds: i64) -> Option<String> {
    let fields = fields(text)?;
    let mut changed = false;
    let mut out = String::with_capacity(text.len() + 16);
    out.push('{');
    for (position, (name, value)) in fields.iter().enumerate() {
        if position > 0 {
            out.push(',');
        }
        out.push_str(name.get());
        out.push(':');
        let plain = &name.get()[1..name.get().len() - 1];
        let moved = if TIMES.contains(&plain) {
            time(value.get(), seconds)
        } else if plain == EVENTS {
            events(value.get(), seconds)
        } else {
            None
        };
        changed |= moved.is_some();
        out.push_str(moved.as_deref().unwrap_or_else(|| value.get()));
    }
    out.push('}');
    changed.then_some(out)
}

fn events(text: &str, seconds: i64) -> Option<String> {
    let items: Vec<&RawValue> = serde_json::from_str(text).ok()?;
    let moved: Vec<String> = items
        .iter()
        .map(|item| object(item.get().as_bytes(), seconds).unwrap_or_else(|| item.get().to_owned()))
        .collect();
    Some(format!("[{}]", moved.join(",")))
}

/// A time, moved in the unit and the form that it has. What is not a time stays.
fn time(text: &str, seconds: i64) -> Option<String> {
    let (quote, digits) = match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        Some(digits) => ("\"", digits),
        None => ("", text),
    };
    let value: i64 = digits.parse().ok()?;
    if value <= 0 {
        return None;
    }
    let by = if value < SECONDS_BELOW { seconds } else { seconds.checked_mul(1_000)? };
    Some(format!("{quote}{}{quote}", value.checked_add(by)?))
}

/// The fields of a JSON object in their order, names and values as they are written.
fn fields(text: &[u8]) -> Option<Vec<(&RawValue, &RawValue)>> {
    struct Fields;
    impl<'de> Visitor<'de> for Fields {
        type Value = Vec<(&'de RawValue, &'de RawValue)>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("an object")
        }

        fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
            let mut fields = Vec::new();
            while let Some(field) = map.next_entry()? {
                fields.push(field);
            }
            Ok(fields)
        }
    }
    serde_json::Deserializer::from_slice(text).deserialize_map(Fields).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_move_in_their_own_unit_and_form_and_nothing_else_changes() {
        let cases = [
            (r#"{"EventTime":1700000000123,"x":1.0}"#, r#"{"EventTime":1700000010123,"x":1.0}"#),
            (r#"{"EventTime":"1700000000123"}"#, r#"{"EventTime":"1700000010123"}"#),
            (r#"{"MsgTime":1700000000, "b" : "\u0041"}"#, r#"{"MsgTime":1700000010,"b":"\u0041"}"#),
            (r#"{"event_time":1700000000,"t":1700000600}"#, r#"{"event_time":1700000010,"t":1700000610}"#),
            (r#"{"at_ms":1700000000001}"#, r#"{"at_ms":1700000010001}"#),
            (
                r#"{"Events":[{"EventTime":1700000000},{"a":1},7]}"#,
                r#"{"Events":[{"EventTime":1700000010},{"a":1},7]}"#,
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(object(text.as_bytes(), 10).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_holds_no_times_stays_as_it_is() {
        let texts = [
            "",
            "[]",
            "{",
            "7",
            r#"{"EventTime":null}"#,
            r#"{"EventTime":"soon"}"#,
            r#"{"EventTime":-5}"#,
            r#"{"EventTime":9223372036854775807}"#,
            r#"{"MsgId":"1-1700000000-2"}"#,
            r#"{"a":{"EventTime":1700000000}}"#,
        ];
        for text in texts {
            let mut line = Line { at_ms: 1, kind: LineKind::Event { body: Bytes::from(text) } };
            shift(&mut line, 10);
            assert_eq!(line, Line { at_ms: 10_001, kind: LineKind::Event { body: Bytes::from(text) } }, "{text}");
        }
    }
}
