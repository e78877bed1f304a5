//! What a live display shows, and how a player is stopped.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::answer::Outcome;

/// Most different refusals that are told apart; the rest is counted as one. A server that invents codes must not fill
/// memory.
const REFUSALS_MAX: usize = 256;

/// Counters of a running replay, shared with whoever shows them.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    sent: AtomicU64,
    ok: AtomicU64,
    not_allowed: AtomicU64,
    failed: AtomicU64,
    recording_ms: AtomicI64,
    refused: Mutex<BTreeMap<(u16, String), Refused>>,
}

/// Lines that were refused with one status and code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// HTTP status.
    pub status: u16,
    /// The answer's code: `ErrorCode`, or `error.code`; empty when there is none.
    pub code: String,
    /// How many.
    pub count: u64,
    /// What the server said of the first.
    pub example: String,
}

/// A look at the counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Lines sent.
    pub sent: u64,
    /// Lines answered OK.
    pub ok: u64,
    /// Of those, before-callbacks that were answered with a code other than 0: the rules did not allow the message.
    pub not_allowed: u64,
    /// Lines answered and refused, by status and code.
    pub refused: Vec<Refused>,
    /// Lines without an answer: the connection failed, or the answer took too long.
    pub failed: u64,
    /// Lines on their way.
    pub in_flight: u64,
    /// Time of the line sent last, as sent, ms since the epoch; nothing before the first.
    pub recording_ms: Option<i64>,
    /// Time since the start.
    pub elapsed: Duration,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            sent: AtomicU64::new(0),
            ok: AtomicU64::new(0),
            not_allowed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            recording_ms: AtomicI64::new(i64::MIN),
            refused: Mutex::default(),
        }
    }
}

impl Progress {
    /// Counters at zero; time runs from here.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn line_sent(&self, at_ms: i64) {
        self.sent.fetch_add(1, Relaxed);
        self.recording_ms.store(at_ms, Relaxed);
    }

    pub(crate) fn settled(&self, outcome: &Outcome) {
        match outcome {
            Outcome::Ok { code, .. } => {
                self.not_allowed.fetch_add(u64::from(*code != 0), Relaxed);
                self.ok.fetch_add(1, Relaxed);
            }
            Outcome::Refused { status, code, explanation } => {
                let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
                let mut key = (*status, code.clone());
                if !refused.contains_key(&key) && refused.len() >= REFUSALS_MAX {
                    key = (0, "other".to_owned());
                }
                let entry = refused.entry(key).or_insert_with_key(|(status, code)| Refused {
                    status: *status,
                    code: code.clone(),
                    count: 0,
                    example: explanation.clone(),
                });
                entry.count += 1;
            }
            Outcome::Unknown { .. } | Outcome::Unsent { .. } => {
                self.failed.fetch_add(1, Relaxed);
            }
        }
    }

    /// The counters as they are now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let refused: Vec<Refused> =
            self.refused.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let (ok, failed) = (self.ok.load(Relaxed), self.failed.load(Relaxed));
        let sent = self.sent.load(Relaxed);
        let settled = ok + failed + refused.iter().map(|refused| refused.count).sum::<u64>();
        let recording_ms = self.recording_ms.load(Relaxed);
        Snapshot {
            sent,
            ok,
            not_allowed: self.not_allowed.load(Relaxed),
            refused,
            failed,
            in_flight: sent.saturating_sub(settled),
            recording_ms: (recording_ms != i64::MIN).then_some(recording_ms),
            elapsed: self.started.elapsed(),
        }
    }
}

impl Snapshot {
    /// Lines that were answered and refused.
    #[must_use]
    pub fn refused_total(&self) -> u64 {
        self.refused.iter().map(|refused| refused.count).sum()
    }

    /// Lines that were answered.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.ok + self.refused_total()
    }

    /// Answers per second since an earlier look.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a rate for people; counts below 2^53 are exact anyway")]
    pub fn rate_since(&self, earlier: &Self) -> f64 {
        let seconds = self.elapsed.saturating_sub(earlier.elapsed).as_secs_f64();
        let answers = self.answered().saturating_sub(earlier.answered()) as f64;
        if seconds > 0.0 { answers / seconds } else { 0.0 }
    }
}

/// Stops a replay: no further line is sent, and answers on their way are waited for.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<(AtomicBool, Notify)>);

impl Stop {
    /// A stop that nobody has called for.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Calls for it.
    pub fn stop(&self) {
        self.0.0.store(true, Relaxed);
        self.0.1.notify_waiters();
    }

    /// Whether somebody called for it.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.0.load(Relaxed)
    }

    /// Waits until somebody calls for it.
    pub async fn stopped(&self) {
        let mut waiting = std::pin::pin!(self.0.1.notified());
        // Registered before the look at the flag, so that a call in between wakes it.
        waiting.as_mut().enable();
        if !self.is_stopped() {
            waiting.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_add_up() {
        let progress = Progress::new();
        assert_eq!(progress.snapshot().recording_ms, None);
        let refused = |code: &str, explanation: &str| Outcome::Refused {
            status: 400,
            code: code.to_owned(),
            explanation: explanation.to_owned(),
        };
        for outcome in [
            Outcome::Ok { status: 200, code: 0 },
            Outcome::Ok { status: 200, code: 1 },
            refused("a", "first"),
            refused("a", "second"),
            refused("b", "other"),
            Outcome::Unknown { why: String::new() },
            Outcome::Unsent { why: String::new() },
        ] {
            progress.line_sent(9);
            progress.settled(&outcome);
        }
        progress.line_sent(11);
        let seen = progress.snapshot();
        assert_eq!((seen.sent, seen.ok, seen.not_allowed, seen.failed, seen.in_flight), (8, 2, 1, 2, 1));
        assert_eq!((seen.refused_total(), seen.answered(), seen.recording_ms), (3, 5, Some(11)));
        assert_eq!((seen.refused[0].count, seen.refused[0].example.as_str()), (2, "first"));
    }

    #[test]
    fn a_server_that_invents_codes_fills_no_memory() {
        let progress = Progress::new();
        for code in 0..10_000 {
            progress.line_sent(0);
            let explanation = String::new();
            progress.settled(&Outcome::Refused { status: 400, code: code.to_string(), explanation });
        }
        let seen = progress.snapshot();
        assert_eq!((seen.refused_total(), seen.refused.len()), (10_000, REFUSALS_MAX + 1));
    }
}
