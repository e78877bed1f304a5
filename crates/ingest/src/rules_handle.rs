//! The rules that are active at ingest, swapped as a whole.

use std::sync::{Arc, PoisonError, RwLock};

use barrage_event::rules::Compiled;

/// Handle on the active rules. Reading takes a reference count; a request keeps what it began with.
#[derive(Debug, Clone)]
pub struct RulesHandle(Arc<RwLock<Arc<Compiled>>>);

impl RulesHandle {
    /// A handle on these rules.
    #[must_use]
    pub fn new(rules: Compiled) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(rules))))
    }

    /// The active rules.
    #[must_use]
    pub fn current(&self) -> Arc<Compiled> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes other rules the active ones, unless those are of a later version already. Only for rules that every
    /// partition of the log has: see [`crate::Rules`].
    pub fn activate(&self, rules: Compiled) {
        let mut active = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if rules.version() >= active.version() {
            *active = Arc::new(rules);
        }
    }
}

impl Default for RulesHandle {
    /// The shipped rules, as version 0.
    fn default() -> Self {
        Self::new(Compiled::shipped())
    }
}
