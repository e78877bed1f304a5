//! Which `SdkAppid`s there are, so that `app=` may be left out when there is exactly one.

use barrage_worker::Stores;

/// Knows the `SdkAppid`s: the configured ones, else those that were seen.
#[derive(Debug)]
pub(crate) struct Apps {
    configured: Vec<u32>,
    stores: Stores,
}

impl Apps {
    pub(crate) fn new(mut configured: Vec<u32>, stores: Stores) -> Self {
        configured.sort_unstable();
        configured.dedup();
        Self { configured, stores }
    }

    /// In order.
    pub(crate) fn known(&self) -> Vec<u32> {
        if self.configured.is_empty() { self.stores.apps() } else { self.configured.clone() }
    }
}
