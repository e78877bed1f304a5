//! The bytes of answers, in the two shapes that callers expect.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};

use crate::refusal::{Refusal, Rejection};

/// Body of an answer.
pub(crate) type Body = Full<Bytes>;

/// What IM expects for everything that is fine. Source: cloud.tencent.com/document/product/269/1522.
const OK: &[u8] = br#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0}"#;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Seconds after which an overloaded server may be asked again.
const RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("1");

/// IM's shape.
#[derive(serde::Serialize)]
#[serde(rename_all = "PascalCase")]
struct ImReply<'a> {
    action_status: &'static str,
    error_info: &'a str,
    error_code: u32,
}

/// The shape of our own interfaces: the error inside an answer.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct ErrorBody {
    code: &'static str,
    message: String,
    hint: &'static str,
}

impl From<&Rejection> for ErrorBody {
    fn from(rejection: &Rejection) -> Self {
        let refusal = rejection.refusal;
        Self { code: refusal.reason(), message: rejection.message().into_owned(), hint: refusal.hint() }
    }
}

/// Event accepted, nothing to decide: the common answer, without allocation.
pub(crate) fn im_ok() -> Response<Body> {
    json(StatusCode::OK, Bytes::from_static(OK))
}

/// The decision on a before-callback. `ActionStatus` stays `OK`: the callback was handled, the message was not allowed.
pub(crate) fn im_verdict(code: u32, info: &str) -> Response<Body> {
    if code == 0 && info.is_empty() {
        return im_ok();
    }
    json(StatusCode::OK, encode(&ImReply { action_status: "OK", error_info: info, error_code: code }))
}

/// A refusal in IM's shape.
pub(crate) fn im_refusal(rejection: &Rejection) -> Response<Body> {
    let refusal = rejection.refusal;
    let info = format!("{}; {}", rejection.message(), refusal.hint());
    let body = encode(&ImReply { action_status: "FAIL", error_info: &info, error_code: refusal.number() });
    with_headers(json(refusal.status(), body), refusal)
}

/// A refusal of a whole request in the shape of our own interfaces.
pub(crate) fn refusal(rejection: &Rejection) -> Response<Body> {
    #[derive(serde::Serialize)]
    struct Reply {
        error: ErrorBody,
    }
    let body = encode(&Reply { error: rejection.into() });
    with_headers(json(rejection.refusal.status(), body), rejection.refusal)
}

/// An answer of our own interfaces.
pub(crate) fn answer(status: StatusCode, body: &impl serde::Serialize) -> Response<Body> {
    json(status, encode(body))
}

fn with_headers(mut response: Response<Body>, refusal: Refusal) -> Response<Body> {
    if refusal.retry() {
        response.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_S);
    }
    if refusal == Refusal::WrongMethod {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    }
    response
}

fn json(status: StatusCode, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

fn encode(value: &impl serde::Serialize) -> Bytes {
    serde_json::to_vec(value).expect("structs of texts and numbers always encode").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    async fn body(response: Response<Body>) -> String {
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn im_gets_the_three_fields_whatever_the_answer() {
        assert_eq!(body(im_verdict(0, "")).await, r#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0}"#);
        let rejected = im_verdict(10_101, "say \"please\"\n");
        assert_eq!(rejected.status(), 200);
        assert_eq!(body(rejected).await, r#"{"ActionStatus":"OK","ErrorInfo":"say \"please\"\n","ErrorCode":10101}"#);
        let refused = im_refusal(&Refusal::WrongMethod.into());
        assert_eq!((refused.status().as_u16(), &refused.headers()["allow"]), (405, &HeaderValue::from_static("POST")));
        assert_eq!(
            body(refused).await,
            r#"{"ActionStatus":"FAIL","ErrorInfo":"the method is not POST; send POST","ErrorCode":405001}"#
        );
    }
}
