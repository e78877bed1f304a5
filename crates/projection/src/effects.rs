//! What an event causes beside changed rows: derived events for rooms, and intents for whoever listens.

use barrage_event::Derived;
use serde_json::{Map, Value as Json};

/// Something that others want to hear of, once: a message of `barrage.notifications`.
#[derive(Debug, Clone, PartialEq)]
pub struct Intent {
    /// What happened: `level_reached`, `online_moved`.
    pub kind: &'static str,
    /// `SdkAppid`.
    pub app: u32,
    /// With kind and app it makes the id, by which a listener drops what it has heard already. It must follow from the
    /// event alone: `alice/5`, never a counter of what was sent.
    pub key: String,
    /// When it happened, ms.
    pub at_ms: i64,
    /// Everything else that a listener is told.
    pub fields: Map<String, Json>,
}

impl Intent {
    /// The id: the same for the same intent, whoever computes it and however often.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}/{}", self.kind, self.app, self.key)
    }
}

/// What the events of one record cause, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Effects {
    /// For rooms.
    pub derived: Vec<Derived>,
    /// For `barrage.notifications`.
    pub intents: Vec<Intent>,
}

impl Effects {
    /// Whether nothing is caused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.derived.is_empty() && self.intents.is_empty()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.derived.clear();
        self.intents.clear();
    }
}
