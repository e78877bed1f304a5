//! What an operator may set on ingest, section `[ingest]` of the configuration file.

use std::fmt;
use std::time::Duration;

/// A token or key. Never shown: its debug form is `***`.
#[derive(Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Options of the callback endpoint. Times are in ms, sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IngestOptions {
    /// The callback token of IM's console. Unset by default: then nothing is signed and only the allow-list and the
    /// network protect the endpoint.
    pub token: Option<Secret>,
    /// The token before the last change. Accepted beside `token`, since IM takes minutes to use a new one. Unset by
    /// default; remove it when the change is through.
    pub previous_token: Option<Secret>,
    /// The key of the live-streaming callback template. With it, callbacks about streams must carry a `sign` of it in
    /// their body, and need none of `token` in their URL. Unset by default: then they are callbacks like any other.
    pub stream_key: Option<Secret>,
    /// The stream key before the last change, as `previous_token`. Unset by default.
    pub previous_stream_key: Option<Secret>,
    /// `SdkAppid`s whose callbacks are accepted. Empty by default, which accepts all.
    pub apps: Vec<u32>,
    /// Keys for `POST /v1/events` and for `Barrage-Received-At`, each at least 16 bytes long. Several, so that one can
    /// be replaced without an outage. Empty by default: then business events are refused.
    pub api_keys: Vec<Secret>,
    /// How far `RequestTime` may be from the clock, either way. Default 60,000, as IM documents it.
    pub signature_skew_ms: u64,
    /// Largest body. Default 1,048,576 (1 MiB): a message has at most 12 KB, lists of members have no stated bound.
    /// At most 1 MiB, since a record of the log holds the body and the typed event and may have 2 MiB.
    pub body_bytes_max: usize,
    /// Most items of one `POST /v1/events`. Default 1,000.
    pub events_max: usize,
    /// Most connections at a time. Default 4,096. Above it a new connection is closed at once: each costs up to 32 KiB.
    pub connections_max: usize,
    /// Most requests between their head and their answer. Default 2,048. Above it callers get 503 at once: a longer
    /// queue would only answer after IM's own 2 s.
    pub requests_in_flight_max: usize,
    /// Most bytes of bodies of requests in flight. Default 67,108,864 (64 MiB), for the same reason, and because a
    /// body costs about three times its size until it is appended.
    pub bytes_in_flight_max: usize,
    /// Time from the first byte of a request to the end of its head. Default 10,000. Then the connection is closed.
    pub header_timeout_ms: u64,
    /// Time from the end of the head to the end of the body. Default 5,000. Then 408, and the connection is closed.
    pub body_timeout_ms: u64,
    /// Time a connection may be silent between requests. Default 300,000. IM keeps connections open, and one that is
    /// closed just as IM uses it again costs a callback, so this is long.
    pub idle_timeout_ms: u64,
    /// Time a client may take to accept an answer. Default 10,000. Then the connection is closed.
    pub write_timeout_ms: u64,
    /// Time an event has to become durable. Default 1,500: IM waits 2,000 in all.
    pub append_budget_ms: u64,
    /// Time that requests in flight have to finish after the stop signal. Default 30,000.
    pub stop_deadline_ms: u64,
}

impl Default for IngestOptions {
    fn default() -> Self {
        Self {
            token: None,
            previous_token: None,
            stream_key: None,
            previous_stream_key: None,
            apps: Vec::new(),
            api_keys: Vec::new(),
            signature_skew_ms: 60_000,
            body_bytes_max: BODY_BYTES_MAX,
            events_max: 1_000,
            connections_max: 4_096,
            requests_in_flight_max: 2_048,
            bytes_in_flight_max: 64 << 20,
            header_timeout_ms: 10_000,
            body_timeout_ms: 5_000,
            idle_timeout_ms: 300_000,
            write_timeout_ms: 10_000,
            append_budget_ms: 1_500,
            stop_deadline_ms: 30_000,
        }
    }
}

/// Upper bound of [`IngestOptions::body_bytes_max`].
const BODY_BYTES_MAX: usize = 1 << 20;

/// Longest time that can be set, ms: a day. Longer ones are typing errors.
const TIME_MS_MAX: u64 = 24 * 60 * 60 * 1_000;

/// Shortest API key, in bytes: shorter ones can be guessed.
const API_KEY_BYTES_MIN: usize = 16;

/// An option whose value cannot work.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("ingest.{option}: {reason}")]
pub struct OptionError {
    /// Name of the option.
    pub option: &'static str,
    /// What is wrong and what would be right.
    pub reason: String,
}

impl IngestOptions {
    /// Checks every value against its range.
    ///
    /// # Errors
    /// [`OptionError`] naming the first option that is out of range.
    pub fn check(&self) -> Result<(), OptionError> {
        let count = |option, value: usize, max: usize| {
            let right = (1..=max).contains(&value);
            right.then_some(()).ok_or_else(|| out_of_range(option, &value, &1, &max))
        };
        let time = |option, value: u64| {
            let right = (1..=TIME_MS_MAX).contains(&value);
            right.then_some(()).ok_or_else(|| out_of_range(option, &value, &1, &TIME_MS_MAX))
        };
        count("body_bytes_max", self.body_bytes_max, BODY_BYTES_MAX)?;
        count("events_max", self.events_max, 10_000)?;
        count("connections_max", self.connections_max, 1_000_000)?;
        count("requests_in_flight_max", self.requests_in_flight_max, 1_000_000)?;
        count("bytes_in_flight_max", self.bytes_in_flight_max, 1 << 40)?;
        if self.bytes_in_flight_max < self.body_bytes_max {
            let reason = format!(
                "{} is less than body_bytes_max: no body of that size could ever be accepted",
                self.bytes_in_flight_max
            );
            return Err(OptionError { option: "bytes_in_flight_max", reason });
        }
        time("signature_skew_ms", self.signature_skew_ms)?;
        time("header_timeout_ms", self.header_timeout_ms)?;
        time("body_timeout_ms", self.body_timeout_ms)?;
        time("idle_timeout_ms", self.idle_timeout_ms)?;
        time("write_timeout_ms", self.write_timeout_ms)?;
        time("append_budget_ms", self.append_budget_ms)?;
        time("stop_deadline_ms", self.stop_deadline_ms)?;
        self.check_secrets()
    }

    fn check_secrets(&self) -> Result<(), OptionError> {
        let wrong = |option, reason: &str| Err(OptionError { option, reason: reason.to_owned() });
        if self.token.as_ref().is_some_and(|token| token.expose().is_empty()) {
            return wrong("token", "it is empty: leave it out to accept unsigned callbacks");
        }
        if self.previous_token.as_ref().is_some_and(|token| token.expose().is_empty()) {
            return wrong("previous_token", "it is empty: leave it out when no change of the token is under way");
        }
        if self.previous_token.is_some() && self.token.is_none() {
            return wrong("previous_token", "there is no token: a previous one alone would never be replaced");
        }
        if self.stream_key.as_ref().is_some_and(|key| key.expose().is_empty()) {
            return wrong("stream_key", "it is empty: leave it out where stream callbacks are not signed");
        }
        if self.previous_stream_key.is_some() && self.stream_key.is_none() {
            return wrong(
                "previous_stream_key",
                "there is no stream_key: a previous one alone would never be replaced",
            );
        }
        if self.previous_stream_key.as_ref().is_some_and(|key| key.expose().is_empty()) {
            return wrong("previous_stream_key", "it is empty: leave it out when no change of the key is under way");
        }
        if self.api_keys.iter().any(|key| key.expose().len() < API_KEY_BYTES_MIN) {
            return wrong("api_keys", "a key is shorter than 16 bytes and could be guessed");
        }
        if self.api_keys.iter().any(|key| !key.expose().bytes().all(|byte| byte.is_ascii_graphic())) {
            return wrong(
                "api_keys",
                "a key has a space or a character that a header cannot carry: use letters and digits",
            );
        }
        Ok(())
    }

    /// Whether callbacks must be signed.
    #[must_use]
    pub const fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Whether only some apps' callbacks are accepted.
    #[must_use]
    pub const fn has_allow_list(&self) -> bool {
        !self.apps.is_empty()
    }
}

fn out_of_range(
    option: &'static str,
    value: &dyn fmt::Display,
    min: &dyn fmt::Display,
    max: &dyn fmt::Display,
) -> OptionError {
    OptionError { option, reason: format!("{value} is out of range, it must be {min} to {max}") }
}

pub(crate) const fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_in_range_and_secrets_are_never_shown() {
        assert_eq!(IngestOptions::default().check(), Ok(()));
        let options = IngestOptions { token: Some(Secret::new("hush")), ..IngestOptions::default() };
        assert!(!format!("{options:?}").contains("hush"));
    }

    #[test]
    fn a_value_out_of_range_is_named() {
        type Change = fn(&mut IngestOptions);
        let table: [(&str, Change); 14] = [
            ("body_bytes_max", |o| o.body_bytes_max = 0),
            ("body_bytes_max", |o| o.body_bytes_max = (1 << 20) + 1),
            ("events_max", |o| o.events_max = 0),
            ("connections_max", |o| o.connections_max = 0),
            ("bytes_in_flight_max", |o| o.bytes_in_flight_max = 1_000),
            ("append_budget_ms", |o| o.append_budget_ms = 0),
            ("stop_deadline_ms", |o| o.stop_deadline_ms = u64::MAX),
            ("token", |o| o.token = Some(Secret::new(""))),
            ("previous_token", |o| o.previous_token = Some(Secret::new("old"))),
            ("previous_token", |o| {
                o.token = Some(Secret::new("new"));
                o.previous_token = Some(Secret::new(""));
            }),
            ("stream_key", |o| o.stream_key = Some(Secret::new(""))),
            ("previous_stream_key", |o| o.previous_stream_key = Some(Secret::new("old"))),
            ("api_keys", |o| o.api_keys = vec![Secret::new("short")]),
            ("api_keys", |o| o.api_keys = vec![Secret::new("with space in the middle")]),
        ];
        for (option, change) in table {
            let mut options = IngestOptions::default();
            change(&mut options);
            assert_eq!(options.check().map_err(|error| error.option), Err(option));
        }
    }
}
