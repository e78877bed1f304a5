//! Everything that a request can be refused with: one closed list, with HTTP status, number, metric label and texts.
//!
//! `docs/replies.md` shows the same list with examples; a test compares the two.

use std::borrow::Cow;
use std::fmt;

use barrage_event::CallbackError;
use barrage_log::AppendError;
use hyper::StatusCode;

/// Why a request, or an item of one, was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// No such path.
    WrongPath,
    /// Not `POST`.
    WrongMethod,
    /// A parameter of the URL is not UTF-8.
    BadQuery,
    /// No `SdkAppid`.
    MissingApp,
    /// `SdkAppid` is no number of 32 bits.
    BadApp,
    /// `SdkAppid` is not on the allow-list.
    UnknownApp,
    /// `Sign` or `RequestTime` is missing.
    SignatureMissing,
    /// `Sign` does not fit.
    SignatureWrong,
    /// `RequestTime` is too far from the clock.
    SignatureOld,
    /// An API key is needed.
    KeyMissing,
    /// The API key is none of ours.
    KeyWrong,
    /// `Barrage-Received-At` is no time in ms.
    BadReceivedAt,
    /// The body is larger than the limit.
    TooLarge,
    /// The body did not arrive in time.
    BodyTimeout,
    /// The body ended early or its framing is broken.
    Truncated,
    /// The body is empty.
    Empty,
    /// The body is not UTF-8.
    InvalidUtf8,
    /// The body is not JSON.
    NotJson,
    /// The body is JSON, but not of the right kind.
    WrongShape,
    /// The body is nested too deep.
    TooDeep,
    /// Query and body name different commands.
    CommandMismatch,
    /// Neither query nor body names a command.
    MissingCommand,
    /// The command is longer than any command is.
    CommandTooLong,
    /// A request with more items than allowed.
    TooManyItems,
    /// An item whose fields do not fit.
    InvalidItem,
    /// A record of the event is larger than the log takes.
    RecordTooLarge,
    /// Too many requests are in flight.
    Overloaded,
    /// Too much waits to become durable.
    LogFull,
    /// The log takes nothing more.
    LogFailed,
    /// The event did not become durable inside the budget.
    NotDurableInTime,
    /// A fault of ours.
    Internal,
    /// The connection or the process went away before there was an answer. Never sent, only counted.
    Aborted,
}

/// What is said about a refusal.
#[derive(Debug, Clone, Copy)]
struct Row {
    reason: &'static str,
    status: StatusCode,
    number: u32,
    message: &'static str,
    hint: &'static str,
}

const fn row(reason: &'static str, status: StatusCode, number: u32, message: &'static str, hint: &'static str) -> Row {
    Row { reason, status, number, message, hint }
}

impl Refusal {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 32] = [
        Self::BadQuery,
        Self::MissingApp,
        Self::BadApp,
        Self::BadReceivedAt,
        Self::Truncated,
        Self::Empty,
        Self::InvalidUtf8,
        Self::NotJson,
        Self::WrongShape,
        Self::TooDeep,
        Self::CommandMismatch,
        Self::MissingCommand,
        Self::TooManyItems,
        Self::CommandTooLong,
        Self::SignatureMissing,
        Self::SignatureWrong,
        Self::SignatureOld,
        Self::KeyMissing,
        Self::KeyWrong,
        Self::UnknownApp,
        Self::WrongPath,
        Self::WrongMethod,
        Self::BodyTimeout,
        Self::TooLarge,
        Self::RecordTooLarge,
        Self::InvalidItem,
        Self::Internal,
        Self::Overloaded,
        Self::LogFull,
        Self::LogFailed,
        Self::NotDurableInTime,
        Self::Aborted,
    ];

    #[rustfmt::skip]
    const fn row(self) -> Row {
        match self {
            Self::BadQuery => row("bad_query", StatusCode::BAD_REQUEST, 400_001,
                "a parameter of the URL is not UTF-8", "percent-encode the UTF-8 bytes of the value"),
            Self::MissingApp => row("missing_app", StatusCode::BAD_REQUEST, 400_002,
                "the URL has no SdkAppid", "IM adds it by itself; other senders must append ?SdkAppid=NUMBER"),
            Self::BadApp => row("bad_app", StatusCode::BAD_REQUEST, 400_003,
                "SdkAppid is no number of 32 bits", "send the number that IM's console shows for the application"),
            Self::BadReceivedAt => row("bad_received_at", StatusCode::BAD_REQUEST, 400_004,
                "Barrage-Received-At is no time", "send milliseconds since 1970 as digits, or leave the header out"),
            Self::Truncated => row("truncated", StatusCode::BAD_REQUEST, 400_005,
                "the body ended before its declared length, or its chunks are broken", "send as many bytes as Content-Length says"),
            Self::Empty => row("empty_body", StatusCode::BAD_REQUEST, 400_006,
                "the body is empty", "send one JSON object"),
            Self::InvalidUtf8 => row("invalid_utf8", StatusCode::BAD_REQUEST, 400_007,
                "the body is not UTF-8", "encode the JSON as UTF-8"),
            Self::NotJson => row("not_json", StatusCode::BAD_REQUEST, 400_008,
                "the body is not JSON", "send the callback's JSON unchanged, neither compressed nor form-encoded"),
            Self::WrongShape => row("wrong_shape", StatusCode::BAD_REQUEST, 400_009,
                "the body is JSON of another kind", "send one object to /callback, an object or an array of objects to /v1/events"),
            Self::TooDeep => row("too_deep", StatusCode::BAD_REQUEST, 400_010,
                "the body is nested too deep", "no callback nests more than a few levels: look at what sends this"),
            Self::CommandMismatch => row("command_mismatch", StatusCode::BAD_REQUEST, 400_011,
                "CallbackCommand differs between URL and body", "forward IM's requests with the URL they came with"),
            Self::MissingCommand => row("missing_command", StatusCode::BAD_REQUEST, 400_012,
                "neither URL nor body has a CallbackCommand", "append ?CallbackCommand=NAME to the URL or name it in the body"),
            Self::TooManyItems => row("too_many_items", StatusCode::BAD_REQUEST, 400_013,
                "the array has too many items", "split it into several requests"),
            Self::CommandTooLong => row("command_too_long", StatusCode::BAD_REQUEST, 400_014,
                "CallbackCommand is too long", "no command of IM has more than 100 bytes: look at what sends this"),
            Self::InvalidItem => row("invalid_item", StatusCode::UNPROCESSABLE_ENTITY, 422_001,
                "the item's fields do not fit", "correct the item and send it again with the same id"),
            Self::SignatureMissing => row("signature_missing", StatusCode::UNAUTHORIZED, 401_001,
                "Sign or RequestTime is missing", "switch authentication on for the callback URL in IM's console"),
            Self::SignatureWrong => row("signature_wrong", StatusCode::UNAUTHORIZED, 401_002,
                "Sign does not fit token and RequestTime", "set ingest.token to the token of IM's console"),
            Self::SignatureOld => row("signature_old", StatusCode::UNAUTHORIZED, 401_003,
                "RequestTime is too far from this machine's clock", "check the clock of this machine; a repeated old request stays refused"),
            Self::KeyMissing => row("key_missing", StatusCode::UNAUTHORIZED, 401_004,
                "an API key is needed", "send the header Authorization: Bearer KEY"),
            Self::KeyWrong => row("key_wrong", StatusCode::UNAUTHORIZED, 401_005,
                "the API key is not known", "send one of ingest.api_keys as Authorization: Bearer KEY"),
            Self::UnknownApp => row("unknown_app", StatusCode::FORBIDDEN, 403_001,
                "SdkAppid is not on the allow-list", "add it to ingest.apps if it is yours"),
            Self::WrongPath => row("wrong_path", StatusCode::NOT_FOUND, 404_001,
                "there is nothing at this path", "callbacks go to /callback, business events to /v1/events"),
            Self::WrongMethod => row("wrong_method", StatusCode::METHOD_NOT_ALLOWED, 405_001,
                "the method is not POST", "send POST"),
            Self::BodyTimeout => row("body_timeout", StatusCode::REQUEST_TIMEOUT, 408_001,
                "the body did not arrive in time", "send the whole body at once; ingest.body_timeout_ms is the limit"),
            Self::TooLarge => row("body_too_large", StatusCode::PAYLOAD_TOO_LARGE, 413_001,
                "the body is too large", "ingest.body_bytes_max is the limit; split business events into several requests"),
            Self::RecordTooLarge => row("record_too_large", StatusCode::PAYLOAD_TOO_LARGE, 413_002,
                "the event is too large for a record of the log", "no callback of IM is this large: look at what sends this"),
            Self::Internal => row("internal", StatusCode::INTERNAL_SERVER_ERROR, 500_001,
                "a fault of Barrage", "look into its log, and report it"),
            Self::Overloaded => row("overloaded", StatusCode::SERVICE_UNAVAILABLE, 503_001,
                "too many requests are in flight", "send it again after the seconds of Retry-After"),
            Self::LogFull => row("log_full", StatusCode::SERVICE_UNAVAILABLE, 503_002,
                "too much waits to become durable", "send it again after the seconds of Retry-After; if it stays, the disk is too slow"),
            Self::LogFailed => row("log_failed", StatusCode::SERVICE_UNAVAILABLE, 503_003,
                "the log takes nothing more", "look into Barrage's log for the disk error, correct it and restart"),
            Self::NotDurableInTime => row("not_durable_in_time", StatusCode::SERVICE_UNAVAILABLE, 503_004,
                "the event did not become durable in time and may still be counted", "send it again: a duplicate counts once"),
            Self::Aborted => row("aborted", StatusCode::SERVICE_UNAVAILABLE, 503_005,
                "the connection was closed before there was an answer", "send it again: a duplicate counts once"),
        }
    }

    /// Its name: the `reason` of metrics and the `code` of `/v1/events`.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        self.row().reason
    }

    /// HTTP status of the answer.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        self.row().status
    }

    /// `ErrorCode` in IM's reply shape: the HTTP status and three digits of our own.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.row().number
    }

    /// What is wrong.
    #[must_use]
    pub const fn message(self) -> &'static str {
        self.row().message
    }

    /// What to do about it.
    #[must_use]
    pub const fn hint(self) -> &'static str {
        self.row().hint
    }

    /// Whether the same request may succeed a moment later.
    #[must_use]
    pub const fn retry(self) -> bool {
        matches!(self, Self::Overloaded | Self::LogFull | Self::LogFailed | Self::NotDurableInTime)
    }

    /// Its place in [`Refusal::ALL`], for tables.
    pub(crate) fn index(self) -> usize {
        Self::ALL.iter().position(|own| *own == self).unwrap_or_default()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl From<&AppendError> for Refusal {
    fn from(error: &AppendError) -> Self {
        match error {
            AppendError::Full { .. } => Self::LogFull,
            AppendError::RecordTooLarge { .. } | AppendError::BatchTooLarge { .. } => Self::RecordTooLarge,
            AppendError::UnknownPartition { .. } => Self::Internal,
            AppendError::Failed { .. } | AppendError::Closed => Self::LogFailed,
        }
    }
}

/// A refusal with what is special about this request, for the answer's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) refusal: Refusal,
    detail: Cow<'static, str>,
}

/// Longest detail that is shown, in characters: it may quote the request.
const DETAIL_CHARS_MAX: usize = 200;

impl Rejection {
    pub(crate) fn new(refusal: Refusal, detail: impl fmt::Display) -> Self {
        let mut detail = detail.to_string();
        if let Some((end, _)) = detail.char_indices().nth(DETAIL_CHARS_MAX) {
            detail.truncate(end);
            detail.push('…');
        }
        Self { refusal, detail: Cow::Owned(detail) }
    }

    /// What is wrong, with the detail.
    pub(crate) fn message(&self) -> Cow<'static, str> {
        if self.detail.is_empty() {
            Cow::Borrowed(self.refusal.message())
        } else {
            Cow::Owned(format!("{} ({})", self.refusal.message(), self.detail))
        }
    }
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, detail: Cow::Borrowed("") }
    }
}

impl From<AppendError> for Rejection {
    fn from(error: AppendError) -> Self {
        Self::new(Refusal::from(&error), error)
    }
}

impl From<CallbackError> for Rejection {
    fn from(error: CallbackError) -> Self {
        match error {
            CallbackError::Empty => Refusal::Empty.into(),
            CallbackError::InvalidUtf8 { valid_up_to } => {
                Self::new(Refusal::InvalidUtf8, format_args!("byte {valid_up_to} begins no character"))
            }
            CallbackError::NotJson(problem) => Self::new(Refusal::NotJson, problem),
            CallbackError::NotAnObject => Refusal::WrongShape.into(),
            CallbackError::TooDeep => Refusal::TooDeep.into(),
            CallbackError::CommandMismatch { query, body } => {
                // Each is cut by itself, so that both show.
                let cut = |text: &str| text.chars().take(64).collect::<String>();
                Self::new(Refusal::CommandMismatch, format_args!("`{}` and `{}`", cut(&query), cut(&body)))
            }
            CallbackError::MissingCommand => Refusal::MissingCommand.into(),
            CallbackError::CommandTooLong { bytes } => {
                Self::new(Refusal::CommandTooLong, format_args!("{bytes} bytes"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn numbers_begin_with_their_status_and_none_is_used_twice() {
        let mut numbers = HashSet::new();
        let mut reasons = HashSet::new();
        assert!(Refusal::ALL.is_sorted_by_key(|refusal| refusal.number()));
        for refusal in Refusal::ALL {
            assert_eq!(refusal.number() / 1_000, u32::from(refusal.status().as_u16()), "{refusal:?}");
            assert!(numbers.insert(refusal.number()), "{refusal:?}");
            assert!(reasons.insert(refusal.reason()), "{refusal:?}");
            assert_eq!(Refusal::ALL[refusal.index()], refusal);
        }
    }

    #[test]
    fn no_number_means_something_to_im() {
        for refusal in Refusal::ALL {
            let number = refusal.number();
            assert!(!(0..=2).contains(&number) && !(10_000..130_001).contains(&number), "{refusal:?}");
        }
    }

    #[test]
    fn a_long_detail_is_cut() {
        let message = Rejection::new(Refusal::NotJson, "播".repeat(1_000)).message().into_owned();
        assert!(message.chars().count() < 250 && message.ends_with("…)"), "{message}");
    }
}
