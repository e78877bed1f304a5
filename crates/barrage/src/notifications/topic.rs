//! Notifications in Kafka: the topic `barrage.notifications`, and the compacted topic `barrage.published` that says how far
//! each partition has come.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use barrage_event::Partition;
use barrage_log::{Announcements, ControlTopic, KafkaOptions};

use super::{Board, Message, Place, Places};

/// How long a row that was written is waited for.
const READ_WAIT: Duration = Duration::from_secs(10);

/// Both topics.
pub(crate) struct Topic {
    messages: Announcements,
    places: Arc<ControlTopic>,
}

impl Topic {
    pub(crate) fn open(options: &KafkaOptions) -> anyhow::Result<Self> {
        Ok(Self {
            messages: Announcements::open(options, "notifications")?,
            places: Arc::new(ControlTopic::open(options, "published", |_| ())?),
        })
    }
}

impl Board for Topic {
    fn places(&self) -> Places {
        let places = Arc::clone(&self.places);
        Arc::new(move |partition| {
            let row = places.get(partition.to_string().as_bytes());
            let place = row.and_then(|row| serde_json::from_slice(row.value.as_deref()?).ok());
            place.unwrap_or_default()
        })
    }

    fn put(&mut self, partition: Partition, messages: &[Message], place: Place) -> anyhow::Result<()> {
        self.messages.send(messages.iter().map(|message| (message.id.as_str(), message.text.as_str())))?;
        let place = serde_json::to_vec(&place).context("a place cannot be written down")?;
        let offset = self.places.put(partition.to_string().as_bytes(), Some(&place))?;
        // What was published is known to be so before anybody is told.
        ensure!(self.places.await_offset(offset, READ_WAIT), "the topic of places cannot be read");
        Ok(())
    }
}
