//! TLS and SASL on a real broker.

use std::sync::Arc;
use std::time::Duration;

use barrage_event::{Offset, Partition};
use barrage_kafka_fixture::Secured;
use barrage_log::kafka::{KafkaReader, KafkaSecurity, Secret};
use barrage_log::{ControlTopic, EventLog, KafkaLog, KafkaMetrics, KafkaOptions};

use crate::common::{batch, everything, open, options, until};

#[test]
fn a_broker_that_asks_for_tls_and_a_password_gets_both() {
    let secured = Secured::start();
    let right = KafkaOptions {
        brokers: secured.brokers(),
        security: KafkaSecurity {
            protocol: Some("sasl_ssl".to_owned()),
            ca: Some(secured.ca()),
            sasl_mechanism: Some("PLAIN".to_owned()),
            sasl_username: Some(Secured::USER.to_owned()),
            sasl_password: Some(Secret(Secured::PASSWORD.to_owned())),
            ..KafkaSecurity::default()
        },
        ..options(secured.broker())
    };
    let log = open(&right);
    let room = Partition::room(1);
    for number in 0..10_u32 {
        log.append(&mut batch(room, &number.to_be_bytes())).unwrap().wait().unwrap();
    }
    assert_eq!(log.end(room), Offset(10));
    let expected: Vec<Vec<u8>> = (0..10_u32).map(|number| number.to_be_bytes().to_vec()).collect();
    assert_eq!(everything(&log, room), expected);
    // Every kind of client, not only those of the log.
    let table = ControlTopic::open(&right, "owners", |_| ()).unwrap();
    let written = table.put(b"key", Some(b"value")).unwrap();
    assert!(table.await_offset(written, Duration::from_secs(60)));
    let reader = KafkaReader::open(&right).unwrap();
    assert_eq!(reader.bounds(room).unwrap(), (Offset(0), Offset(10)));
    let owner = Arc::new(Nobody);
    let group = log.join(owner).unwrap();
    until(&log, "the group gives all partitions", || group.partitions().len() == 4);
    group.leave();

    type Change = fn(&mut KafkaOptions);
    let wrong: [(&str, Change, &str); 4] = [
        ("a wrong password", |o| o.security.sasl_password = Some(Secret("the wrong one".to_owned())), "authentication"),
        ("an unknown user", |o| o.security.sasl_username = Some("somebody".to_owned()), "authentication"),
        ("another authority", |o| o.security.ca = None, "certificate verify failed"),
        // The broker only hangs up, and that is all that can be said.
        ("no TLS", |o| o.security = KafkaSecurity::default(), "transport failure"),
    ];
    for (what, change, said) in wrong {
        let mut options = KafkaOptions { open_wait_ms: 1_000, ..right.clone() };
        change(&mut options);
        for error in [
            KafkaLog::open(&options, KafkaMetrics::default()).unwrap_err().to_string(),
            KafkaReader::open(&options).unwrap_err().to_string(),
        ] {
            assert!(error.to_lowercase().contains(&said.to_lowercase()), "{what}: {error}");
            assert!(!error.contains("the wrong one"), "no password is shown: {error}");
        }
    }
}

/// A member of a group that does nothing.
#[derive(Debug)]
struct Nobody;

impl barrage_log::Owner for Nobody {
    fn assigned(&self, partitions: &[Partition], _: &Arc<dyn barrage_log::Follow>) -> Vec<(Partition, Offset)> {
        partitions.iter().map(|&partition| (partition, Offset(0))).collect()
    }

    fn revoked(&self, _: &[Partition], _: bool) {}
}
