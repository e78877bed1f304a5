//! One line of a recording: what is sent, and when.

use std::fmt::Write as _;

/// One thing that the outside world sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// When it is sent, ms since the epoch. Lines of an evening never go back in this time.
    pub at_ms: i64,
    /// What is sent.
    pub kind: LineKind,
}

/// What a line sends, and to which of the service's doors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LineKind {
    /// A callback of the IM service.
    Callback {
        /// Parameters of the URL in the platform's order, not yet percent-encoded.
        query: Vec<(&'static str, String)>,
        /// The body, JSON text.
        body: String,
    },
    /// A business event of the app's own server, JSON text of an object with `type` and `id`.
    Event {
        /// The event, JSON text.
        json: String,
    },
    /// A command of a person to the query service.
    Request {
        /// HTTP method.
        method: &'static str,
        /// Path and query.
        path: String,
        /// The body, JSON text; none for requests without one.
        body: Option<String>,
    },
}

impl Line {
    /// The line in the form of a recording, without a line feed: `{"at_ms", "query", "body"}`, `{"at_ms", "event"}` or
    /// `{"at_ms", "request": {"method", "path", "body"}}`.
    #[must_use]
    pub fn to_json_line(&self) -> String {
        let mut out = String::with_capacity(1_024);
        self.append_json_line(&mut out);
        out
    }

    /// As [`Line::to_json_line`], appended to a buffer that is used again.
    pub fn append_json_line(&self, out: &mut String) {
        write!(out, "{{\"at_ms\":{}", self.at_ms).expect("writing to a String cannot fail");
        match &self.kind {
            LineKind::Callback { query, body } => {
                out.push_str(",\"query\":{");
                for (position, (name, value)) in query.iter().enumerate() {
                    if position > 0 {
                        out.push(',');
                    }
                    append_json_string(out, name);
                    out.push(':');
                    append_json_string(out, value);
                }
                out.push_str("},\"body\":");
                out.push_str(body);
            }
            LineKind::Event { json } => {
                out.push_str(",\"event\":");
                out.push_str(json);
            }
            LineKind::Request { method, path, body } => {
                out.push_str(",\"request\":{\"method\":");
                append_json_string(out, method);
                out.push_str(",\"path\":");
                append_json_string(out, path);
                if let Some(body) = body {
                    out.push_str(",\"body\":");
                    out.push_str(body);
                }
                out.push('}');
            }
        }
        out.push('}');
    }
}

/// Appends `text` as a JSON string: quotes, backslashes and control characters escaped, all else as it is.
pub(crate) fn append_json_string(out: &mut String, text: &str) {
    out.push('"');
    let mut plain_from = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.push_str(&text[plain_from..at]);
        plain_from = at + 1;
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            control => write!(out, "\\u{control:04x}").expect("writing to a String cannot fail"),
        }
    }
    out.push_str(&text[plain_from..]);
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_line_is_one_json_object() {
        let cases = [
            (
                LineKind::Callback {
                    query: vec![("SdkAppid", "1".to_owned()), ("X", "a\"b".to_owned())],
                    body: "{\"a\":1}".to_owned(),
                },
                r#"{"at_ms":7,"query":{"SdkAppid":"1","X":"a\"b"},"body":{"a":1}}"#,
            ),
            (LineKind::Event { json: "{\"id\":\"e\"}".to_owned() }, r#"{"at_ms":7,"event":{"id":"e"}}"#),
            (
                LineKind::Request { method: "POST", path: "/v1/x".to_owned(), body: Some("{}".to_owned()) },
                r#"{"at_ms":7,"request":{"method":"POST","path":"/v1/x","body":{}}}"#,
            ),
            (
                LineKind::Request { method: "GET", path: "/v1/x".to_owned(), body: None },
                r#"{"at_ms":7,"request":{"method":"GET","path":"/v1/x"}}"#,
            ),
        ];
        for (kind, expected) in cases {
            assert_eq!(Line { at_ms: 7, kind }.to_json_line(), expected);
        }
    }

    #[test]
    fn escaped_text_reads_back_as_it_was() {
        for text in ["", "plain", "q\"b\\s/", "\u{0}\u{1f}\n\r\t", "大家好 🎉", "a\"", "\"a"] {
            let mut out = String::new();
            append_json_string(&mut out, text);
            assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text, "{out}");
        }
    }
}
