//! One budget for the rows in memory of all partitions of a process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What rows in memory may take, bytes, over all partitions together.
///
/// A partition that needs little leaves the rest to the others: as long as all of them fit, nobody gives anything up, and
/// then everybody the same part of what it has.
#[derive(Debug, Clone)]
pub struct OverlayBudget {
    bytes: usize,
    used: Arc<AtomicUsize>,
}

impl OverlayBudget {
    /// A budget of so many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self { bytes, used: Arc::default() }
    }

    /// The whole of it, bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// One partition's part, which has nothing yet and gives everything back when it is dropped.
    #[must_use]
    pub fn part(&self) -> BudgetPart {
        BudgetPart { budget: self.clone(), own: 0 }
    }
}

/// What one partition has of an [`OverlayBudget`].
#[derive(Debug)]
pub struct BudgetPart {
    budget: OverlayBudget,
    own: usize,
}

impl BudgetPart {
    /// The partition has so much in memory now; returns to how much it has to shrink.
    pub fn settle(&mut self, own: usize) -> usize {
        let used = &self.budget.used;
        used.fetch_add(own, Ordering::Relaxed);
        // What was added before is taken away, so the sum never falls below 0.
        let all = used.fetch_sub(self.own, Ordering::Relaxed) - self.own;
        self.own = own;
        if all <= self.budget.bytes {
            return usize::MAX;
        }
        // 128-bit so that the product cannot overflow; the result is below `own`.
        usize::try_from(own as u128 * self.budget.bytes as u128 / all as u128).unwrap_or(usize::MAX)
    }
}

impl Drop for BudgetPart {
    fn drop(&mut self) {
        self.settle(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_does_not_need_another_may_have() {
        let budget = OverlayBudget::new(100);
        let (mut first, mut second) = (budget.part(), budget.part());
        assert_eq!(first.settle(90), usize::MAX);
        assert_eq!(second.settle(10), usize::MAX, "it all fits");
        assert_eq!(second.settle(60), 40, "two fifths of what there is");
        assert_eq!(first.settle(90), 60, "and three");
        assert_eq!((first.settle(60), second.settle(40)), (60 * 100 / 120, usize::MAX));
        drop(first);
        assert_eq!(second.settle(100), usize::MAX, "the other one is gone");
        assert_eq!(second.settle(1 << 40), 100);
    }
}
