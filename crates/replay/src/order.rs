//! Which line may be sent while others have no answer yet.

use std::collections::VecDeque;

/// Lines that were sent and what is not answered of them, in order of sending.
///
/// Lines come in order of time, so the first unanswered one is the oldest.
#[derive(Debug, Default)]
pub(crate) struct Unanswered {
    /// (`at_ms`, answered) of the lines from `first` on.
    lines: VecDeque<(i64, bool)>,
    /// Number of the line at the front.
    first: u64,
    open: usize,
}

impl Unanswered {
    /// Notes that the next line is sent.
    pub(crate) fn sent(&mut self, at_ms: i64) {
        self.lines.push_back((at_ms, false));
        self.open += 1;
    }

    /// Notes the answer to a line. Lines are numbered from 0 in order of sending.
    pub(crate) fn answered(&mut self, number: u64) {
        let at = usize::try_from(number - self.first).expect("a line in flight is in the queue");
        let line = &mut self.lines[at];
        debug_assert!(!line.1, "a line is answered once");
        line.1 = true;
        self.open -= 1;
        while let Some((_, true)) = self.lines.front() {
            self.lines.pop_front();
            self.first += 1;
        }
    }

    /// How many lines are unanswered.
    pub(crate) fn len(&self) -> usize {
        self.open
    }

    /// Whether a line of this time may be sent: nothing unanswered is more than `order_ms` older.
    pub(crate) fn allows(&self, at_ms: i64, order_ms: i64) -> bool {
        self.lines.front().is_none_or(|&(oldest_ms, _)| oldest_ms >= at_ms.saturating_sub(order_ms))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a model that keeps every line.
        #[test]
        fn a_line_waits_for_exactly_the_unanswered_lines_that_are_older(
            steps in prop::collection::vec((0_i64..700, any::<prop::sample::Index>(), any::<bool>()), 1..200)
        ) {
            let mut unanswered = Unanswered::default();
            let mut model: Vec<(u64, i64)> = Vec::new();
            let (mut now, mut next) = (0, 0);
            for (forward, which, answer) in steps {
                now += forward;
                let allowed = model.iter().all(|&(_, at)| at >= now - 1_000);
                prop_assert_eq!(unanswered.allows(now, 1_000), allowed);
                if answer && !model.is_empty() {
                    let (number, _) = model.remove(which.index(model.len()));
                    unanswered.answered(number);
                } else {
                    unanswered.sent(now);
                    model.push((next, now));
                    next += 1;
                }
                prop_assert_eq!(unanswered.len(), model.len());
            }
        }
    }
}
