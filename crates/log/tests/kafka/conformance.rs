//! The log in Kafka does what every log must do, on a real broker.

use std::sync::Arc;

use barrage_kafka_fixture::{Broker, prefix};
use barrage_log::{EventLog, KafkaLog, KafkaMetrics, KafkaOptions};

/// An opener of a log in topics of its own.
fn fresh() -> impl Fn() -> Arc<dyn EventLog> {
    let options = KafkaOptions {
        brokers: Broker::shared().brokers(),
        topic_prefix: prefix(),
        room_partitions: 2,
        user_partitions: 3,
        read_wait_ms: 30_000,
        ..KafkaOptions::default()
    };
    move || Arc::new(KafkaLog::open(&options, KafkaMetrics::default()).unwrap())
}

barrage_log::conformance_tests!(fresh());
