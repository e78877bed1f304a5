//! Why a callback is refused, and why one is kept without a typed event.

use super::{COMMAND_BYTES_MAX, DEPTH_MAX, EVENT_BYTES_MAX};

/// Why a body cannot be taken in. Nothing of it is kept; the sender gets this as its answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallbackError {
    /// There is no body.
    #[error("the body is empty; a callback is one JSON object")]
    Empty,
    /// The body is not UTF-8.
    #[error("the body is not UTF-8: byte {valid_up_to} begins no character; send JSON in UTF-8")]
    InvalidUtf8 {
        /// How many bytes are right.
        valid_up_to: usize,
    },
    /// The body is not JSON; a truncated body is one such case.
    #[error("the body is not JSON: {0}")]
    NotJson(String),
    /// The body is JSON, but no object.
    #[error("the body is JSON but no object; a callback is one JSON object")]
    NotAnObject,
    /// The body is nested too deeply.
    #[error("the body is nested deeper than {DEPTH_MAX} levels")]
    TooDeep,
    /// The command in the query is not the one in the body.
    #[error(
        "CallbackCommand is `{query}` in the query and `{body}` in the body; IM sends the same in both, so one of them \
         was changed on its way"
    )]
    CommandMismatch {
        /// The query's.
        query: String,
        /// The body's.
        body: String,
    },
    /// There is no command, neither in the query nor in the body.
    #[error("CallbackCommand is missing in the query and in the body")]
    MissingCommand,
    /// The command is longer than any can be.
    #[error("CallbackCommand has {bytes} bytes, more than {COMMAND_BYTES_MAX}")]
    CommandTooLong {
        /// Its length.
        bytes: usize,
    },
}

impl CallbackError {
    /// A constant name, fit to be the label of a metric.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::InvalidUtf8 { .. } => "invalid_utf8",
            Self::NotJson(_) => "not_json",
            Self::NotAnObject => "not_an_object",
            Self::TooDeep => "too_deep",
            Self::CommandMismatch { .. } => "command_mismatch",
            Self::MissingCommand => "missing_command",
            Self::CommandTooLong { .. } => "command_too_long",
        }
    }
}

/// Why a callback is kept with its body only.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UntypedReason {
    /// This version does not know the command.
    #[error("the command is not known")]
    UnknownCommand,
    /// The command is known, but a live room needs nothing of it.
    #[error("the command is kept with its body only")]
    NotTyped,
    /// A field that the event needs is absent, empty, too long or of another type.
    #[error("`{0}` is missing, or not what it should be")]
    Field(&'static str),
    /// The fields cannot be read; a field that stands there twice is one such case.
    #[error("the fields cannot be read: {0}")]
    Fields(String),
    /// The typed event would not fit a record together with its body.
    #[error("the event is larger than {EVENT_BYTES_MAX} bytes")]
    TooLarge,
}

impl UntypedReason {
    /// A constant name, fit to be the label of a metric.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::UnknownCommand => "unknown_command",
            Self::NotTyped => "not_typed",
            Self::Field(_) => "field",
            Self::Fields(_) => "fields",
            Self::TooLarge => "too_large",
        }
    }

    /// Whether the vendor sent something that this version should have understood: worth a look.
    #[must_use]
    pub const fn is_surprising(&self) -> bool {
        matches!(self, Self::Field(_) | Self::Fields(_) | Self::TooLarge)
    }
}
