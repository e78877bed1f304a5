//! The clock, injected so that tests decide what time it is.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use barrage_log::EventLog;

/// Tells the wall-clock time.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> i64;

    /// The same as this machine has it, where something better is known: whoever judges another's clock accepts either.
    fn own_ms(&self) -> i64 {
        self.now_ms()
    }
}

/// The machine's clock. It may step, as NTP corrects it.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        // A clock before 1970 is broken; 0 keeps the process alive and every event visibly wrong.
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// The machine's clock, put right by the log's where that is known to differ.
///
/// What counts is that all records of a log are stamped by one clock: the two callbacks of a message, and what IM sends
/// again, may come in at two machines, and are known to belong together by their times.
pub struct LogClock(Arc<dyn EventLog>);

impl LogClock {
    /// The clock of whoever appends to `log`.
    #[must_use]
    pub fn new(log: Arc<dyn EventLog>) -> Self {
        Self(log)
    }
}

impl fmt::Debug for LogClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogClock").field(&self.0.clock_ahead_ms()).finish()
    }
}

impl Clock for LogClock {
    fn now_ms(&self) -> i64 {
        SystemClock.now_ms().saturating_sub(self.0.clock_ahead_ms())
    }

    fn own_ms(&self) -> i64 {
        SystemClock.now_ms()
    }
}
