//! Errors as clients see them: one shape, one place that gives each its HTTP status.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use barrage_projection::StoreError;
use serde_json::json;

/// What kind of error it is; its text form is the `code` of the answer and never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// A parameter is missing, unknown, twice there or not of its form.
    BadParameter,
    /// `app=` is needed, because there is not exactly one `SdkAppid`.
    AppNeeded,
    /// The body of a command cannot be read.
    BadBody,
    /// The rules are not valid.
    InvalidRules,
    /// No or a wrong API key.
    Unauthorized,
    /// There is no such path.
    UnknownRoute,
    /// No event of this room was ever seen.
    UnknownRoom,
    /// No event of this account was ever seen.
    UnknownUser,
    /// The path exists, but not with this method.
    MethodNotAllowed,
    /// Another command of the kind is at work.
    Conflict,
    /// The body of a command is too large.
    BodyTooLarge,
    /// The body of a command did not arrive in time.
    RequestTimeout,
    /// Too many requests are at work.
    Overloaded,
    /// The partition cannot be read now.
    Unavailable,
    /// The store or the log failed.
    Failed,
    /// The positions of `at_least` were not reached in time.
    NotYet,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 16] = [
        Self::BadParameter,
        Self::AppNeeded,
        Self::BadBody,
        Self::InvalidRules,
        Self::Unauthorized,
        Self::UnknownRoute,
        Self::UnknownRoom,
        Self::UnknownUser,
        Self::MethodNotAllowed,
        Self::Conflict,
        Self::BodyTooLarge,
        Self::RequestTimeout,
        Self::Overloaded,
        Self::Unavailable,
        Self::Failed,
        Self::NotYet,
    ];

    /// The `code` of the answer.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadParameter => "bad_parameter",
            Self::AppNeeded => "app_needed",
            Self::BadBody => "bad_body",
            Self::InvalidRules => "invalid_rules",
            Self::Unauthorized => "unauthorized",
            Self::UnknownRoute => "unknown_route",
            Self::UnknownRoom => "unknown_room",
            Self::UnknownUser => "unknown_user",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Conflict => "conflict",
            Self::BodyTooLarge => "body_too_large",
            Self::RequestTimeout => "request_timeout",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "unavailable",
            Self::Failed => "failed",
            Self::NotYet => "not_yet",
        }
    }

    /// The code that a text names.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == text)
    }

    /// The HTTP status.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::BadParameter | Self::AppNeeded | Self::BadBody => StatusCode::BAD_REQUEST,
            Self::InvalidRules => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::UnknownRoute | Self::UnknownRoom | Self::UnknownUser => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict => StatusCode::CONFLICT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Overloaded | Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Failed => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NotYet => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// Seconds after which trying again makes sense.
    const fn retry_after_s(self) -> Option<u16> {
        match self {
            Self::Overloaded | Self::Unavailable | Self::NotYet => Some(1),
            _ => None,
        }
    }
}

/// An error as clients see it: `{"error": {"code", "message", "hint"}}`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}; {hint}")]
pub struct ApiError {
    /// What kind.
    pub code: Code,
    /// What is wrong with this request.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

impl ApiError {
    /// The hint of everything that passes by itself.
    pub(crate) const TRY_AGAIN: &str = "try again; GET /v1/status tells the state of each partition";

    /// An error of a kind.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: hint.into() }
    }

    pub(crate) fn parameter(name: &str, message: impl std::fmt::Display, hint: impl Into<String>) -> Self {
        Self::new(Code::BadParameter, format!("parameter `{name}`: {message}"), hint)
    }

    pub(crate) fn unavailable(message: impl std::fmt::Display) -> Self {
        Self::new(Code::Unavailable, message.to_string(), Self::TRY_AGAIN)
    }

    pub(crate) fn failed(message: impl std::fmt::Display) -> Self {
        Self::new(Code::Failed, message.to_string(), "the server's log and GET /v1/status tell more")
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        // One that was given up has nobody to hear of it.
        if !matches!(error, StoreError::GivenUp) {
            tracing::error!(%error, "a read failed");
        }
        Self::failed(error)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = json!({ "error": { "code": self.code.as_str(), "message": self.message, "hint": self.hint } });
        let mut response = (self.code.status(), body.to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.code.retry_after_s() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.code == Code::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_differ_and_are_words_that_need_no_escaping() {
        let mut names: Vec<_> = Code::ALL.iter().map(|c| c.as_str()).collect();
        assert!(names.iter().all(|n| n.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Code::ALL.len());
    }

    #[test]
    fn every_error_is_a_client_or_server_error_with_a_json_body() {
        for code in Code::ALL {
            let response = ApiError::new(code, "m", "h").into_response();
            assert!(response.status().is_client_error() || response.status().is_server_error(), "{code:?}");
            assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
            let retry = matches!(code.status().as_u16(), 503 | 504);
            assert_eq!(response.headers().contains_key(header::RETRY_AFTER), retry, "{code:?}");
        }
    }
}
