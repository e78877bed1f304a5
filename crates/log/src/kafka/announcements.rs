//! A topic that this process only writes to, for whoever listens: `barrage.notifications`.

use std::fmt;
use std::time::{Duration, Instant};

use rdkafka::producer::BaseRecord;

use super::puts::{PUT_WAIT, Puts, take_reports};
use super::topics::{Admin, Kind};
use super::{ControlError, KafkaOptions};
use crate::ack::Completer;
use crate::error::OpenError;

/// A topic for messages with keys; the order of one key's messages is kept.
pub struct Announcements {
    topic: String,
    puts: Puts,
}

impl fmt::Debug for Announcements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Announcements").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl Announcements {
    /// Opens the topic `name` (without the prefix); makes it with as many partitions as rooms have when it is missing, kept
    /// for a week. What it has otherwise been set to is left alone: others read it.
    ///
    /// # Errors
    /// [`OpenError::Kafka`] when the cluster is not reached in time.
    pub fn open(options: &KafkaOptions, name: &str) -> Result<Self, OpenError> {
        options.check()?;
        let topic = options.topic(name);
        Admin::connect(options)?.ensure(&topic, options.room_partitions, Kind::Output)?;
        let puts = Puts::new(options, "announcements", 5);
        // What is wrong with the options is told at the start.
        puts.get().map_err(|error| options.refuse("make a producer", error))?;
        Ok(Self { topic, puts })
    }

    /// Writes messages and blocks until all are acknowledged.
    ///
    /// # Errors
    /// [`ControlError::Failed`] when one is not acknowledged within 30 s: any of them may have been written, and writing
    /// all again is right for listeners that know the ids they have heard.
    pub fn send<'m>(&self, messages: impl IntoIterator<Item = (&'m str, &'m str)>) -> Result<(), ControlError> {
        let failed = |reason: String| ControlError::Failed { topic: self.topic.clone(), reason: reason.into() };
        let producer = self.puts.get().map_err(|error| failed(error.to_string()))?;
        let mut acks = Vec::new();
        let begun = Instant::now();
        for (key, text) in messages {
            let completer = Completer::new();
            acks.push(completer.ack_later());
            let mut record = BaseRecord::with_opaque_to(&self.topic, Box::new(completer)).key(key).payload(text);
            // A full queue empties as its reports are taken.
            while let Err((error, back)) = producer.send(record) {
                if begun.elapsed() > PUT_WAIT {
                    return Err(failed(error.to_string()));
                }
                record = back;
                take_reports(&producer);
            }
        }
        for ack in acks {
            let result = loop {
                match ack.try_get() {
                    Some(result) => break result,
                    // The producer reports every message within its own time-out.
                    None if begun.elapsed() > PUT_WAIT * 2 => return Err(failed("no report came".to_owned())),
                    None => take_reports(&producer),
                };
            };
            result.map_err(|error| failed(error.to_string()))?;
        }
        Ok(())
    }
}

impl Drop for Announcements {
    fn drop(&mut self) {
        self.puts.close(Duration::ZERO);
    }
}
