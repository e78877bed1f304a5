//! One line of a recording, ready to be sent.

use std::fmt;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// One line of a recording: what is sent, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// When it was sent, ms since the epoch.
    pub at_ms: i64,
    /// What is sent.
    pub kind: LineKind,
}

/// What a line sends, and to which door of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LineKind {
    /// A callback of the IM service: POST /callback.
    Callback {
        /// The URL's query, percent-encoded, without the question mark.
        query: String,
        /// The body, byte for byte as in the recording.
        body: Bytes,
    },
    /// A business event: POST /v1/events.
    Event {
        /// The event, byte for byte as in the recording.
        body: Bytes,
    },
    /// A command to the query service.
    Request {
        /// HTTP method.
        method: String,
        /// Path and query, percent-encoded.
        path: String,
        /// The body; empty when the line has none.
        body: Bytes,
    },
}

impl LineKind {
    /// `callback`, `event` or `request`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Callback { .. } => "callback",
            Self::Event { .. } => "event",
            Self::Request { .. } => "request",
        }
    }
}

/// Why a line cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// Not a JSON object, or fields of other types than the format has.
    #[error("it is not a line of a recording: {0}")]
    NotALine(#[from] serde_json::Error),
    /// None, or more than one, of the three kinds.
    #[error("it must hold either `query` and `body`, or `event`, or `request`; it holds {0}")]
    NotOneKind(&'static str),
}

/// The line as it stands in the file. Unknown fields are passed over: a recorder may add notes.
#[derive(Deserialize)]
struct Written<'a> {
    at_ms: i64,
    #[serde(default)]
    query: Option<Query>,
    #[serde(borrow, default)]
    body: Option<&'a RawValue>,
    #[serde(borrow, default)]
    event: Option<&'a RawValue>,
    #[serde(borrow, default)]
    request: Option<WrittenRequest<'a>>,
}

#[derive(Deserialize)]
struct WrittenRequest<'a> {
    method: String,
    path: String,
    #[serde(borrow, default)]
    body: Option<&'a RawValue>,
}

impl Line {
    /// Reads a line of a recording.
    ///
    /// # Errors
    /// [`LineError`] when the text is not such a line.
    pub fn parse(text: &[u8]) -> Result<Self, LineError> {
        let written: Written<'_> = serde_json::from_slice(text)?;
        let raw = |value: &RawValue| Bytes::copy_from_slice(value.get().as_bytes());
        let kind = match (written.query, written.body, written.event, written.request) {
            (Some(query), Some(body), None, None) => LineKind::Callback { query: query.0, body: raw(body) },
            (None, None, Some(event), None) => LineKind::Event { body: raw(event) },
            (None, None, None, Some(request)) => LineKind::Request {
                method: request.method,
                path: request.path,
                body: request.body.map(raw).unwrap_or_default(),
            },
            (None, None, None, None) => return Err(LineError::NotOneKind("none of them")),
            (Some(_), None, None, None) => return Err(LineError::NotOneKind("a `query` without a `body`")),
            (None, Some(_), None, None) => return Err(LineError::NotOneKind("a `body` without a `query`")),
            _ => return Err(LineError::NotOneKind("several of them")),
        };
        Ok(Self { at_ms: written.at_ms, kind })
    }
}

impl From<barrage_simulator::Line> for Line {
    fn from(line: barrage_simulator::Line) -> Self {
        let kind = match line.kind {
            barrage_simulator::LineKind::Callback { query, body } => {
                let mut encoded = form_urlencoded::Serializer::new(String::new());
                encoded.extend_pairs(query);
                LineKind::Callback { query: encoded.finish(), body: body.into() }
            }
            barrage_simulator::LineKind::Event { json } => LineKind::Event { body: json.into() },
            barrage_simulator::LineKind::Request { method, path, body } => {
                LineKind::Request { method: method.to_owned(), path, body: body.unwrap_or_default().into() }
            }
        };
        Self { at_ms: line.at_ms, kind }
    }
}

/// Parameters of a URL in the order of the file, percent-encoded. A map would sort them, and what is played should be
/// what was recorded.
struct Query(String);

impl<'de> Deserialize<'de> for Query {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Parameters;
        impl<'de> Visitor<'de> for Parameters {
            type Value = Query;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of texts")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Query, M::Error> {
                let mut encoded = form_urlencoded::Serializer::new(String::new());
                while let Some((name, value)) = map.next_entry::<String, Parameter>()? {
                    match value {
                        Parameter::Text(value) => encoded.append_pair(&name, &value),
                        Parameter::Number(value) => encoded.append_pair(&name, &value.to_string()),
                    };
                }
                Ok(Query(encoded.finish()))
            }
        }
        deserializer.deserialize_map(Parameters)
    }
}

/// A parameter's value. Recorders write an SdkAppid either way.
#[derive(Deserialize)]
#[serde(untagged)]
enum Parameter {
    Text(String),
    Number(serde_json::Number),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_line_is_read_and_its_body_kept_byte_for_byte() {
        let line = br#"{"at_ms":5,"note":1,"query":{"SdkAppid":14,"B":"a b&c=%","A":"\u4f60"},"body":{ "z" : 1.0e2,"a":"\u0041"}}"#;
        let line = Line::parse(line).unwrap();
        let kind = LineKind::Callback {
            query: "SdkAppid=14&B=a+b%26c%3D%25&A=%E4%BD%A0".to_owned(),
            body: Bytes::from_static(br#"{ "z" : 1.0e2,"a":"\u0041"}"#),
        };
        assert_eq!(line, Line { at_ms: 5, kind });

        let line = Line::parse(br#"{"event":{"id":"1"},"at_ms":-1}"#).unwrap();
        assert_eq!(line, Line { at_ms: -1, kind: LineKind::Event { body: Bytes::from_static(br#"{"id":"1"}"#) } });

        let line = Line::parse(br#"{"at_ms":1,"request":{"method":"POST","path":"/v1/x","body":[1]}}"#).unwrap();
        let kind =
            LineKind::Request { method: "POST".to_owned(), path: "/v1/x".to_owned(), body: Bytes::from_static(b"[1]") };
        assert_eq!(line, Line { at_ms: 1, kind });
    }

    #[test]
    fn what_is_not_a_line_says_why() {
        let cases = [
            ("", "EOF"),
            ("[]", "not a line"),
            ("{}", "missing field `at_ms`"),
            (r#"{"at_ms":"x"}"#, "expected i64"),
            (r#"{"at_ms":1}"#, "none of them"),
            (r#"{"at_ms":1,"query":{}}"#, "without a `body`"),
            (r#"{"at_ms":1,"body":{}}"#, "without a `query`"),
            (r#"{"at_ms":1,"query":{"a":[]},"body":{}}"#, "did not match"),
            (r#"{"at_ms":1,"event":{},"query":{},"body":{}}"#, "several of them"),
        ];
        for (text, expected) in cases {
            let error = Line::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_simulated_line_is_the_same_as_its_written_form() {
        let evening = barrage_simulator::Evening::new(barrage_simulator::Config::small()).unwrap();
        let mut lines = 0;
        for line in evening {
            let written = line.to_json_line();
            assert_eq!(Line::parse(written.as_bytes()).unwrap(), Line::from(line), "{written}");
            lines += 1;
        }
        assert!(lines > 1_000);
    }
}
