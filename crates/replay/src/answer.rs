//! What became of a line.

use serde::Deserialize;

use crate::line::LineKind;

/// Longest text that is kept of a server's explanation, characters.
const EXPLANATION_MAX: usize = 200;

/// What became of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered OK.
    Ok {
        /// HTTP status.
        status: u16,
        /// `ErrorCode` of the answer to a callback: 0, or what a before-callback was answered. 0 for the other kinds.
        code: i64,
    },
    /// It was answered, and refused.
    Refused {
        /// HTTP status.
        status: u16,
        /// The answer's code: `ErrorCode`, or `error.code`; empty when there is none.
        code: String,
        /// What the server says.
        explanation: String,
    },
    /// It was sent, in part at least, and there was no answer: the server may have taken it or not.
    Unknown {
        /// What went wrong.
        why: String,
    },
    /// It was certainly not sent.
    Unsent {
        /// What went wrong.
        why: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ImReply {
    action_status: String,
    error_code: i64,
    #[serde(default)]
    error_info: String,
}

#[derive(Deserialize)]
struct OwnReply {
    #[serde(default)]
    error: Option<OwnError>,
    #[serde(default)]
    results: Vec<OwnResult>,
}

#[derive(Deserialize)]
struct OwnResult {
    #[serde(default)]
    error: Option<OwnError>,
}

#[derive(Deserialize)]
struct OwnError {
    code: String,
    #[serde(default)]
    message: String,
}

impl Outcome {
    /// Whether the line was answered OK.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        matches!(self, Self::Ok { .. })
    }

    /// Reads an answer to a line of this kind. Callbacks must be answered in IM's shape, with 200: IM counts all else
    /// as a failure (cloud.tencent.com/document/product/269/1522).
    pub(crate) fn of_answer(kind: &LineKind, status: u16, body: &[u8]) -> Self {
        let refused = |code: String, explanation: &str| {
            let explanation = explanation.chars().take(EXPLANATION_MAX).collect();
            Self::Refused { status, code, explanation }
        };
        if matches!(kind, LineKind::Callback { .. }) {
            return match serde_json::from_slice::<ImReply>(body) {
                Ok(reply) if status == 200 && reply.action_status == "OK" => {
                    Self::Ok { status, code: reply.error_code }
                }
                Ok(reply) => refused(reply.error_code.to_string(), &reply.error_info),
                Err(_) => refused(String::new(), "the answer is not in the shape that IM expects"),
            };
        }
        if (200..300).contains(&status) && status != 207 {
            return Self::Ok { status, code: 0 };
        }
        let reply = serde_json::from_slice::<OwnReply>(body).ok();
        let error = reply.and_then(|reply| {
            let of_items = || reply.results.into_iter().find_map(|result| result.error);
            reply.error.or_else(of_items)
        });
        match error {
            Some(error) => refused(error.code, &error.message),
            None => refused(String::new(), &String::from_utf8_lossy(body)),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn callbacks_are_ok_only_in_the_shape_that_im_expects() {
        let callback = LineKind::Callback { query: String::new(), body: Bytes::new() };
        let refused = |status, code: &str, explanation: &str| Outcome::Refused {
            status,
            code: code.to_owned(),
            explanation: explanation.to_owned(),
        };
        let shape = "the answer is not in the shape that IM expects";
        let cases = [
            (200, r#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0}"#, Outcome::Ok { status: 200, code: 0 }),
            (200, r#"{"ActionStatus":"OK","ErrorInfo":"no","ErrorCode":1}"#, Outcome::Ok { status: 200, code: 1 }),
            (401, r#"{"ActionStatus":"FAIL","ErrorInfo":"sign","ErrorCode":401001}"#, refused(401, "401001", "sign")),
            (200, r#"{"ActionStatus":"FAIL","ErrorCode":7}"#, refused(200, "7", "")),
            (202, r#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0}"#, refused(202, "0", "")),
            (200, "OK", refused(200, "", shape)),
            (502, "", refused(502, "", shape)),
        ];
        for (status, body, expected) in cases {
            assert_eq!(Outcome::of_answer(&callback, status, body.as_bytes()), expected, "{status} {body}");
        }
    }

    #[test]
    fn events_are_ok_when_every_item_was_accepted() {
        let event = LineKind::Event { body: Bytes::new() };
        let cases = [
            (200, r#"{"results":[{"status":"accepted"}]}"#, None),
            (201, "", None),
            (207, r#"{"results":[{"id":"a"},{"error":{"code":"bad","message":"m"}}]}"#, Some(("bad", "m"))),
            (422, r#"{"results":[{"error":{"code":"bad","message":"m"}}]}"#, Some(("bad", "m"))),
            (401, r#"{"error":{"code":"no_key","message":"give one","hint":""}}"#, Some(("no_key", "give one"))),
            (503, "busy", Some(("", "busy"))),
        ];
        for (status, body, expected) in cases {
            let outcome = Outcome::of_answer(&event, status, body.as_bytes());
            match (&outcome, expected) {
                (Outcome::Ok { .. }, None) => {}
                (Outcome::Refused { code, explanation, .. }, Some(expected)) => {
                    assert_eq!((code.as_str(), explanation.as_str()), expected, "{status} {body}");
                }
                _ => panic!("{status} {body}: {outcome:?}"),
            }
        }
    }
}
