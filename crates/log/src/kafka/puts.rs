//! The producer of topics that are written to seldom: control topics and announcements.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use barrage_event::{Offset, Partition, Position};
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};
use rdkafka::{ClientContext, producer::PurgeConfig};

use crate::ack::{Completer, Positions};
use crate::error::AppendError;
use crate::kafka::shared::locked;
use crate::kafka::{KafkaOptions, aside};

/// How long a message is tried before it has failed.
pub(super) const PUT_WAIT: Duration = Duration::from_secs(30);
/// How often the producer is asked for its reports.
const REPORTS_EVERY: Duration = Duration::from_millis(10);

pub(super) type Putter = BaseProducer<Reports>;

/// Takes the reports of a producer.
#[derive(Default)]
pub(super) struct Reports {
    /// A message got no answer in all its time. A producer can lose its brokers for good; another one begins anew.
    timed_out: AtomicBool,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::client_log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "producer");
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Completer>;

    fn delivery(&self, report: &DeliveryResult<'_>, completer: Box<Completer>) {
        completer.complete(match report {
            Ok(message) => Ok(position(message.offset())),
            Err((error, _)) => {
                if error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageTimedOut) {
                    self.timed_out.store(true, Ordering::Release);
                }
                Err(AppendError::Failed { reason: error.to_string().into() })
            }
        });
    }
}

/// An acknowledgement carries positions of the data topics; of these topics only the offset means something.
fn position(offset: i64) -> Positions {
    let offset = Offset(u64::try_from(offset).unwrap_or(0));
    [Position { partition: Partition::room(0), offset }].into_iter().collect()
}

/// Takes what a producer has to report, then pauses: given a time of its own, rdkafka would turn in circles for the last
/// millisecond of it.
pub(super) fn take_reports(producer: &Putter) {
    producer.poll(Duration::ZERO);
    std::thread::sleep(REPORTS_EVERY);
}

/// A producer, made when it is first needed, and made anew after one that is of no use any more.
pub(super) struct Puts {
    config: ClientConfig,
    producer: Mutex<Option<Arc<Putter>>>,
}

impl Puts {
    /// `role` is a part of the client's name, `linger_ms` how long it waits for more to send at once.
    pub(super) fn new(options: &KafkaOptions, role: &str, linger_ms: u32) -> Self {
        let mut config = options.producer(role);
        config.set("linger.ms", linger_ms.to_string()).set("message.timeout.ms", PUT_WAIT.as_millis().to_string());
        Self { config, producer: Mutex::default() }
    }

    pub(super) fn get(&self) -> Result<Arc<Putter>, KafkaError> {
        let mut slot = locked(&self.producer);
        if let Some(producer) = slot.as_ref() {
            if producer.client().fatal_error().is_none() && !producer.context().timed_out.load(Ordering::Acquire) {
                return Ok(Arc::clone(producer));
            }
            tracing::warn!("a producer of Kafka that gets no answers is replaced");
        }
        let producer = Arc::new(Putter::from_config_and_context(&self.config, Reports::default())?);
        if let Some(old) = slot.replace(Arc::clone(&producer)) {
            aside(old);
        }
        Ok(producer)
    }

    /// The producer that there is.
    pub(super) fn current(&self) -> Option<Arc<Putter>> {
        locked(&self.producer).clone()
    }

    /// Ends it. What was put and not waited for still goes out, when that takes no longer than `wait`.
    pub(super) fn close(&self, wait: Duration) {
        if let Some(producer) = locked(&self.producer).take() {
            if wait.is_zero() || producer.flush(wait).is_err() {
                producer.purge(PurgeConfig::default().queue().inflight());
            }
            aside(producer);
        }
    }
}
