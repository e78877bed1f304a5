//! Notifications in Kafka: the topic `barrage.notifications`, and the compacted topic `barrage.published` that says how far
//! each partition has come.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use barrage_event::{Partition, Topic as LogTopic};
use barrage_log::{Announcements, ControlTopic, EventLog, KafkaOptions};

use super::{Board, Message, Place, Places};

/// How long a row that was written is waited for.
const READ_WAIT: Duration = Duration::from_secs(10);

/// Both topics.
pub(crate) struct Topic {
    messages: Announcements,
    places: Arc<ControlTopic>,
    keys: Keys,
}

/// The keys of places. A topic that was made anew begins anew: its offsets say nothing of what was told before.
#[derive(Debug, Clone, Copy)]
struct Keys {
    log: u128,
    room: u128,
    user: u128,
}

impl Keys {
    fn of(log: &dyn EventLog) -> Self {
        Self { log: log.uuid(), room: log.lineage(LogTopic::Room), user: log.lineage(LogTopic::User) }
    }

    fn key(self, partition: Partition) -> String {
        let lineage = match partition.topic {
            LogTopic::Room => self.room,
            LogTopic::User => self.user,
        };
        // The first one's are named by the partition alone.
        if lineage == self.log { partition.to_string() } else { format!("{partition}@{lineage:032x}") }
    }
}

impl Topic {
    pub(crate) fn open(options: &KafkaOptions, log: &dyn EventLog) -> anyhow::Result<Self> {
        Ok(Self {
            messages: Announcements::open(options, "notifications")?,
            places: Arc::new(ControlTopic::open(options, "published", |_| ())?),
            keys: Keys::of(log),
        })
    }
}

impl Board for Topic {
    fn places(&self) -> Places {
        let (places, keys) = (Arc::clone(&self.places), self.keys);
        Arc::new(move |partition| {
            let row = places.get(keys.key(partition).as_bytes());
            let place = row.and_then(|row| serde_json::from_slice(row.value.as_deref()?).ok());
            place.unwrap_or_default()
        })
    }

    fn put(&mut self, partition: Partition, messages: &[Message], place: Place) -> anyhow::Result<()> {
        self.messages.send(messages.iter().map(|message| (message.id.as_str(), message.text.as_str())))?;
        let place = serde_json::to_vec(&place).context("a place cannot be written down")?;
        let offset = self.places.put(self.keys.key(partition).as_bytes(), Some(&place))?;
        // What was published is known to be so before anybody is told.
        ensure!(self.places.await_offset(offset, READ_WAIT), "the topic of places cannot be read");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_a_topic_that_was_made_anew_are_others() {
        let (room, user) = (Partition::room(3), Partition::user(1));
        let keys = Keys { log: 7, room: 7, user: 7 };
        assert_eq!([keys.key(room), keys.key(user)], ["room/3", "user/1"]);
        let anew = Keys { user: 8, ..keys };
        assert_eq!(anew.key(room), "room/3");
        assert_eq!(anew.key(user), "user/1@00000000000000000000000000000008");
    }
}
