//! How a recording is sent.

use std::time::Duration;

/// Pace of sending.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Speed {
    /// This many times the recording's own time; above 0.
    Times(f64),
    /// As fast as the rules of order allow.
    Max,
}

/// Where the times of a recording are moved to. The move is by whole seconds, so that times in seconds and in
/// milliseconds move alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shift {
    /// They stay as they are.
    None,
    /// The first line is sent now.
    ToNow,
    /// The first line is sent at this time, ms since the epoch.
    To(i64),
}

/// How a recording is sent.
#[derive(Debug, Clone)]
pub struct Options {
    /// Pace. Default: as fast as allowed.
    pub speed: Speed,
    /// Keep-alive connections, at least 1. Default 64.
    pub connections: usize,
    /// Moves the recording's times. Default: they stay.
    pub shift: Shift,
    /// No line is sent before every line that is more than this older has its answer, ms of the recording.
    /// Default 1,000: a server sees the recording's order but for that.
    pub order_ms: i64,
    /// At a jump of the recording's time that is longer than this, all answers are waited for, ms. Default 60,000.
    pub jump_ms: i64,
    /// How long an answer may take. Default 30 s. After it the line's fate is unknown.
    pub answer_within: Duration,
    /// For how long a line is sent again when the connection fails before an answer, as IM does after a time-out.
    /// Default: not at all, the line counts as failed.
    pub retry_for: Option<Duration>,
    /// Refuses a server whose stream time is past the recording's start: it would count old lines as late ones.
    /// Default true. Without a query service in the target there is nothing to ask.
    pub check_stream_time: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            speed: Speed::Max,
            connections: 64,
            shift: Shift::None,
            order_ms: 1_000,
            jump_ms: 60_000,
            answer_within: Duration::from_secs(30),
            retry_for: None,
            check_stream_time: true,
        }
    }
}
