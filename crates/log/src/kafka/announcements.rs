//! A topic that this process only writes to, for whoever listens: `barrage.notifications`.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::control::Reports;
use super::topics::{Admin, Kind};
use super::{ControlError, KafkaOptions, aside};
use crate::ack::Completer;
use crate::error::OpenError;

/// How long a message is tried before it has failed.
const SEND_WAIT: Duration = Duration::from_secs(30);

/// A topic for messages with keys; the order of one key's messages is kept.
pub struct Announcements {
    topic: String,
    producer: Option<BaseProducer<Reports>>,
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
        let mut config = options.producer("announcements");
        config.set("linger.ms", "5").set("message.timeout.ms", SEND_WAIT.as_millis().to_string());
        let producer = BaseProducer::from_config_and_context(&config, Reports)
            .map_err(|error| options.refuse("make a producer", error))?;
        Ok(Self { topic, producer: Some(producer) })
    }

    /// Writes messages and blocks until all are acknowledged.
    ///
    /// # Errors
    /// [`ControlError::Failed`] when one is not acknowledged within 30 s: any of them may have been written, and writing
    /// all again is right for listeners that know the ids they have heard.
    pub fn send<'m>(&self, messages: impl IntoIterator<Item = (&'m str, &'m str)>) -> Result<(), ControlError> {
        let failed = |reason: String| ControlError::Failed { topic: self.topic.clone(), reason: reason.into() };
        let Some(producer) = &self.producer else { return Err(ControlError::Closed { topic: self.topic.clone() }) };
        let mut acks = Vec::new();
        let begun = Instant::now();
        for (key, text) in messages {
            let completer = Completer::new();
            acks.push(completer.ack_later());
            let mut record = BaseRecord::with_opaque_to(&self.topic, Box::new(completer)).key(key).payload(text);
            // A full queue empties as its reports are taken.
            while let Err((error, back)) = producer.send(record) {
                if begun.elapsed() > SEND_WAIT {
                    return Err(failed(error.to_string()));
                }
                record = back;
                producer.poll(Duration::from_millis(10));
            }
        }
        for ack in acks {
            let result = loop {
                match ack.try_get() {
                    Some(result) => break result,
                    // The producer reports every message within its own time-out.
                    None if begun.elapsed() > SEND_WAIT * 2 => return Err(failed("no report came".to_owned())),
                    None => producer.poll(Duration::from_millis(20)),
                };
            };
            result.map_err(|error| failed(error.to_string()))?;
        }
        Ok(())
    }
}

impl Drop for Announcements {
    fn drop(&mut self) {
        if let Some(producer) = self.producer.take() {
            producer.purge(rdkafka::producer::PurgeConfig::default().queue().inflight());
            aside(Arc::new(producer));
        }
    }
}
