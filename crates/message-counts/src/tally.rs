//! Arithmetic on counts.

use crate::proto::{KindCount, KindTally, Room, Sender, Waiting};

/// One more or one less of something, saturating: a counter of a corrupt row must not stop a partition.
pub(crate) fn tally(tallies: &mut Vec<KindTally>, kind: u32) -> &mut KindTally {
    let at = match tallies.binary_search_by_key(&kind, |t| t.kind) {
        Ok(at) => at,
        Err(at) => {
            tallies.insert(at, KindTally { kind, ..KindTally::default() });
            at
        }
    };
    &mut tallies[at]
}

pub(crate) fn add_delivered(sender: &mut Sender, kind: u32) {
    let counts = &mut sender.delivered;
    match counts.binary_search_by_key(&kind, |c| c.kind) {
        Ok(at) => counts[at].count = counts[at].count.saturating_add(1),
        Err(at) => counts.insert(at, KindCount { kind, count: 1 }),
    }
}

/// Adds `from` into `into`, kind by kind.
pub(crate) fn merge(into: &mut Vec<KindTally>, from: &[KindTally]) {
    for other in from {
        let own = tally(into, other.kind);
        own.attempted = own.attempted.saturating_add(other.attempted);
        own.delivered = own.delivered.saturating_add(other.delivered);
        own.rejected = own.rejected.saturating_add(other.rejected);
        own.failed = own.failed.saturating_add(other.failed);
        own.unattempted = own.unattempted.saturating_add(other.unattempted);
        own.open = own.open.saturating_add(other.open);
    }
}

/// Whether open messages of this second of `received_at` still wait at `at_ms`: until their whole second is over the
/// window. Half a second late on average, so that a room keeps a number a second in place of one a message.
pub(crate) fn still_waits(second: u32, window_ms: u64, at_ms: i64) -> bool {
    let over_ms = (u64::from(second) + 1).saturating_mul(1_000).saturating_add(window_ms);
    i64::try_from(over_ms).unwrap_or(i64::MAX) > at_ms
}

impl Room {
    /// One more open message.
    pub(crate) fn wait(&mut self, second: u32, minute: u32, kind: u32) {
        let key = (second, minute, kind);
        // New ones are nearly always the last.
        match self.waiting.binary_search_by_key(&key, |w| (w.second, w.minute, w.kind)) {
            Ok(at) => self.waiting[at].count += 1,
            Err(at) => self.waiting.insert(at, Waiting { second, minute, kind, count: 1 }),
        }
    }

    /// An open message was resolved; it may have been forgotten here before.
    pub(crate) fn resolve(&mut self, second: u32, minute: u32, kind: u32) {
        let key = (second, minute, kind);
        if let Ok(at) = self.waiting.binary_search_by_key(&key, |w| (w.second, w.minute, w.kind)) {
            self.waiting[at].count -= 1;
            if self.waiting[at].count == 0 {
                self.waiting.remove(at);
            }
        }
    }

    /// Forgets seconds that are over the window: what is open of them counts as throttled from now on.
    pub(crate) fn forget_waiting(&mut self, window_ms: u64, stream_time_ms: i64) {
        let over = self.waiting.iter().take_while(|w| !still_waits(w.second, window_ms, stream_time_ms)).count();
        self.waiting.drain(..over);
    }
}
