//! Where intents go: the seam between the partition loop and `barrage.notifications`.

use std::sync::{Arc, OnceLock};

use barrage_event::Partition;

/// Takes the notifications of all partitions, each partition's in order.
///
/// Its own record of how far each partition has come outlives the partition's state: a state that is made anew from the
/// log says nothing a second time.
pub trait Publisher: Send + Sync {
    /// The place (offset and index of the source) below which everything of this partition has been published; `None`
    /// while that is not known, and nothing is published then.
    fn published(&self, partition: Partition) -> Option<(u64, u32)>;

    /// Begins to publish messages, each with its place, its id and its JSON text. Never waits. When it has succeeded,
    /// [`Self::published`] is behind the last of them.
    fn publish(&self, partition: Partition, messages: Vec<((u64, u32), String, String)>) -> Publication;
}

/// A publication under way. Whoever publishes sets the result once.
#[derive(Debug, Clone, Default)]
pub struct Publication(Arc<OnceLock<Result<(), String>>>);

impl Publication {
    /// One that is over.
    #[must_use]
    pub fn done(result: Result<(), String>) -> Self {
        let publication = Self::default();
        publication.set(result);
        publication
    }

    /// Sets the result; the first one counts.
    pub fn set(&self, result: Result<(), String>) {
        let _ = self.0.set(result);
    }

    /// The result, if it is there: an error is what a person reads in the log, and the messages are tried again.
    #[must_use]
    pub fn try_get(&self) -> Option<Result<(), String>> {
        self.0.get().cloned()
    }
}
