//! Answers: fields, `as_of`, and the `ETag` that lets a client skip an answer it has.

use std::fmt::Write as _;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use barrage_event::{Offset, Partition};
use xxhash_rust::xxh3::xxh3_128;

use crate::question::Seen;

/// What an answer rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AsOf {
    /// Each partition read, with its next offset: everything below is in the answer.
    pub(crate) positions: Vec<(Partition, Offset)>,
    /// Stream time, in ms since the epoch: the largest of the partitions; `None` before the first event.
    pub(crate) event_time_ms: Option<i64>,
    /// Version of the rules in force: the largest of the partitions.
    pub(crate) rules_version: u32,
    /// The time at which what depends on elapsed time was computed, in ms since the epoch.
    pub(crate) at_ms: i64,
}

impl AsOf {
    fn text(&self, with_at: bool) -> String {
        let mut text = String::from("{");
        if with_at {
            write!(text, "\"at\":{},", self.at_ms).expect("writing to a String does not fail");
        }
        let event_time = self.event_time_ms.map_or_else(|| "null".to_owned(), |ms| ms.to_string());
        write!(text, "\"event_time\":{event_time},\"positions\":[").expect("writing to a String does not fail");
        for (i, (partition, offset)) in self.positions.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(text, "{comma}\"{partition}@{offset}\"").expect("writing to a String does not fail");
        }
        write!(text, "],\"rules_version\":{}}}", self.rules_version).expect("writing to a String does not fail");
        text
    }
}

/// Stream times as clients see them: none before the first event.
pub(crate) fn shown_time(stream_time_ms: i64) -> Option<i64> {
    (stream_time_ms > 0).then_some(stream_time_ms)
}

impl AsOf {
    /// Over every partition that was read.
    pub(crate) fn of(seen: &[Seen], asked_ms: i64) -> Self {
        Self {
            positions: seen.iter().map(|s| (s.partition, s.next_offset)).collect(),
            event_time_ms: seen.iter().filter_map(|s| shown_time(s.stream_time_ms)).max(),
            rules_version: seen.iter().map(|s| s.rules_version).max().unwrap_or(0),
            at_ms: seen.iter().map(|s| s.at_ms).min().unwrap_or(asked_ms),
        }
    }
}

/// An answer with its `as_of`.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// The text of one JSON object, to which `as_of` is added.
    pub(crate) body: String,
    pub(crate) as_of: AsOf,
    /// Whether the time was asked for: then it belongs to what the `ETag` covers.
    pub(crate) at_given: bool,
    /// Whether a client may have it already.
    pub(crate) cacheable: bool,
}

impl Answer {
    /// The whole response, or 304 without a body when the client has it.
    pub(crate) fn into_response(self, request: &HeaderMap) -> Response {
        if !self.cacheable {
            return json(self.status, with_as_of(self.body, &self.as_of), "no-store");
        }
        let mut body = self.body;
        // The tag is a hash of the answer itself and never of what it was made from, so equal tags are equal answers.
        // Only `as_of.at`, when it was not asked for, is left out: it is the time of the request. A 304 then says that
        // the answer for now is the one the client has.
        splice(&mut body, &self.as_of.text(self.at_given));
        let tag = format!("W/\"{:032x}\"", xxh3_128(body.as_bytes()));
        if request.get_all(header::IF_NONE_MATCH).iter().any(|value| names(value, &tag)) {
            let mut response = StatusCode::NOT_MODIFIED.into_response();
            tag_headers(response.headers_mut(), &tag);
            return response;
        }
        if !self.at_given {
            let end = body.rfind(AS_OF).map_or(0, |at| at + AS_OF.len());
            body.replace_range(end.., &format!("{}}}", self.as_of.text(true)));
        }
        let mut response = json(self.status, body, "no-cache");
        tag_headers(response.headers_mut(), &tag);
        response
    }
}

const AS_OF: &str = "\"as_of\":";

/// An object's text with `as_of` in it.
pub(crate) fn with_as_of(mut body: String, as_of: &AsOf) -> String {
    splice(&mut body, &as_of.text(true));
    body
}

/// Adds `as_of` as the last field of an object's text.
fn splice(body: &mut String, as_of: &str) {
    body.pop();
    let comma = if body.len() == 1 { "" } else { "," };
    write!(body, "{comma}{AS_OF}{as_of}}}").expect("writing to a String does not fail");
}

fn tag_headers(headers: &mut HeaderMap, tag: &str) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Ok(value) = HeaderValue::from_str(tag) {
        headers.insert(header::ETAG, value);
    }
}

/// Whether an `If-None-Match` names the tag, by weak comparison (RFC 9110, 8.8.3.2).
fn names(value: &HeaderValue, tag: &str) -> bool {
    let Ok(text) = value.to_str() else { return false };
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    text.split(',').any(|one| one.trim() == "*" || opaque(one) == opaque(tag))
}

pub(crate) fn json(status: StatusCode, body: String, cache: &'static str) -> Response {
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;

    fn as_of(at_ms: i64, offset: u64) -> AsOf {
        let positions = vec![(Partition::room(3), Offset(offset)), (Partition::user(0), Offset(1))];
        AsOf { positions, event_time_ms: Some(5), rules_version: 2, at_ms }
    }

    fn answer(n: u64, as_of: AsOf, at_given: bool) -> Answer {
        let fields = json!({ "room": "@TGS#\"as_of\":", "n": n });
        Answer { status: StatusCode::OK, body: fields.to_string(), as_of, at_given, cacheable: true }
    }

    fn tag_of(answer: Answer) -> HeaderValue {
        answer.into_response(&HeaderMap::new()).headers()[header::ETAG].clone()
    }

    fn answered(answer: Answer, tag: &HeaderValue) -> StatusCode {
        let headers = HeaderMap::from_iter([(header::IF_NONE_MATCH, tag.clone())]);
        answer.into_response(&headers).status()
    }

    #[tokio::test]
    async fn answers_carry_what_they_rest_on() {
        let response = answer(1, as_of(77, 12), false).into_response(&HeaderMap::new());
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.expect("a body");
        let body: Json = serde_json::from_slice(&body).expect("JSON");
        let expected = json!({
            "room": "@TGS#\"as_of\":", "n": 1,
            "as_of": { "positions": ["room/3@12", "user/0@1"], "event_time": 5, "rules_version": 2, "at": 77 }
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn the_same_answer_is_not_sent_again() {
        let tag = tag_of(answer(1, as_of(77, 12), false));
        assert_eq!(answered(answer(1, as_of(99, 12), false), &tag), StatusCode::NOT_MODIFIED);
        let tag = tag_of(answer(1, as_of(77, 12), true));
        assert_eq!(answered(answer(1, as_of(77, 12), true), &tag), StatusCode::NOT_MODIFIED);
    }

    #[test]
    fn another_answer_is_sent() {
        let tag = tag_of(answer(1, as_of(77, 12), false));
        assert_eq!(answered(answer(2, as_of(77, 12), false), &tag), StatusCode::OK, "another number");
        assert_eq!(answered(answer(1, as_of(77, 13), false), &tag), StatusCode::OK, "another position");
        let tag = tag_of(answer(1, as_of(77, 12), true));
        assert_eq!(answered(answer(1, as_of(78, 12), true), &tag), StatusCode::OK, "another time asked for");
    }

    #[test]
    fn tags_are_compared_weakly_and_in_lists() {
        let tag = "W/\"ab\"";
        for (value, expected) in [
            ("W/\"ab\"", true),
            ("\"ab\"", true),
            ("\"x\", W/\"ab\"", true),
            ("*", true),
            ("\"abc\"", false),
            ("", false),
        ] {
            assert_eq!(names(&HeaderValue::from_static(value), tag), expected, "{value}");
        }
    }
}
