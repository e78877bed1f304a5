//! What a log in Kafka was made with, and whether its topics are still those: kept in the control topic `rules`.
//!
//! Kafka knows every topic by an id of its own, but librdkafka's safe interface does not tell it. So the row holds, of each
//! topic, the first record that somebody saw. A topic that has another one there, or none, was made anew; so was one that
//! had to be made though there is a row. It is counted, and the count is part of the topic's lineage: whatever processes
//! notice it come to the same one.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use barrage_event::{Offset, Partition, Topic};

use crate::embedded::shape::Shape;
use crate::error::OpenError;
use crate::kafka::shared::Names;
use crate::kafka::{ControlTopic, KafkaOptions, KafkaReader, LOG_KEY};

/// A partition that seems to end before its first record is asked again: a leader that was just elected may not know yet.
const ASKED: u32 = 4;
/// Between two of these.
const AGAIN: Duration = Duration::from_secs(1);
/// Partitions that are looked into for a first record.
const LOOKED_INTO: u16 = 64;

/// Identity of the log: the same cluster, topics and counts give the same one.
pub(super) fn identity(cluster: &str, names: &Names, shape: Shape) -> u128 {
    let text =
        format!("{cluster}\0{}\0{}\0{}\0{}", names.of(Topic::Room), shape.room, names.of(Topic::User), shape.user);
    // Zero would mean none.
    xxhash_rust::xxh3::xxh3_128(text.as_bytes()).max(1)
}

/// Identities of what the topics hold, in the order of [`Topic::ALL`].
pub(super) type Lineages = [u128; Topic::ALL.len()];

pub(super) const fn place(topic: Topic) -> usize {
    match topic {
        Topic::Room => 0,
        Topic::User => 1,
    }
}

/// What is written under [`LOG_KEY`].
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Made {
    cluster: String,
    room_partitions: u16,
    user_partitions: u16,
    #[serde(default)]
    room: Life,
    #[serde(default)]
    user: Life,
}

/// One topic's.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Life {
    /// How often it was made anew.
    #[serde(default)]
    made_anew: u32,
    /// `None` until there was a record when a process started.
    #[serde(default)]
    first: Option<First>,
}

/// The first record that was there.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct First {
    partition: u16,
    offset: u64,
    /// Hash of its bytes, 32 hex digits.
    xxh3_128: String,
}

/// What may be asked of the partitions.
pub(super) trait Look {
    /// Where a partition begins and ends.
    fn bounds(&self, partition: Partition) -> Result<(Offset, Offset), OpenError>;

    /// The hash of the first record at or behind an offset, and its own offset.
    fn first(&self, partition: Partition, from: Offset) -> Result<Option<(Offset, u128)>, OpenError>;
}

impl Look for KafkaReader {
    fn bounds(&self, partition: Partition) -> Result<(Offset, Offset), OpenError> {
        KafkaReader::bounds(self, partition)
    }

    fn first(&self, partition: Partition, from: Offset) -> Result<Option<(Offset, u128)>, OpenError> {
        let mut found = None;
        self.read(partition, from, &mut |record| {
            found = Some((record.offset, xxhash_rust::xxh3::xxh3_128(record.bytes)));
            ControlFlow::Break(())
        })?;
        Ok(found)
    }
}

impl Made {
    fn new(cluster: &str, shape: Shape) -> Self {
        let (room, user) = (Life::default(), Life::default());
        Self { cluster: cluster.to_owned(), room_partitions: shape.room, user_partitions: shape.user, room, user }
    }

    fn life(&mut self, topic: Topic) -> &mut Life {
        match topic {
            Topic::Room => &mut self.room,
            Topic::User => &mut self.user,
        }
    }

    pub(super) fn lineages(&self, names: &Names, uuid: u128) -> Lineages {
        let lineage = |topic: Topic, life: &Life| match life.made_anew {
            // What it always was.
            0 => uuid,
            times => {
                let text = format!("{uuid:032x}\0{}\0made anew\0{times}", names.of(topic));
                xxhash_rust::xxh3::xxh3_128(text.as_bytes()).max(1)
            }
        };
        [lineage(Topic::Room, &self.room), lineage(Topic::User, &self.user)]
    }

    fn check(&self, shape: Shape) -> Result<(), OpenError> {
        if (self.room_partitions, self.user_partitions) == (shape.room, shape.user) {
            return Ok(());
        }
        Err(OpenError::OtherTopics {
            found_room: shape.room,
            found_user: shape.user,
            expected_by: "and was made with",
            expected_room: self.room_partitions,
            expected_user: self.user_partitions,
            remedy: "a topic was changed or made anew. Bring the old one back, or use another topic prefix for a new log",
        })
    }

    /// Brings a row up to date with the topics as they are; `made_now` are those that had to be made.
    fn look(&mut self, look: &dyn Look, names: &Names, made_now: [bool; 2], pause: Duration) -> Result<(), OpenError> {
        for (topic, partitions) in Topic::ALL.into_iter().zip([self.room_partitions, self.user_partitions]) {
            let life = self.life(topic);
            let made_now = made_now.get(place(topic)).copied().unwrap_or_default();
            let mut anew = made_now;
            if !anew && let Some(first) = &life.first {
                match first.is_there(look, topic, pause)? {
                    Some(there) => anew = !there,
                    // Given up by retention; the next one is remembered.
                    None => life.first = None,
                }
            }
            if anew {
                *life = Life { made_anew: life.made_anew.saturating_add(1), first: None };
                tracing::error!(
                    topic = names.of(topic),
                    times = life.made_anew,
                    "the topic was made anew: state and snapshots of its old records are another log's from now on. See \
                     docs/operations.md, A topic was recreated"
                );
            }
            if life.first.is_none() && !made_now {
                life.first = First::of(look, topic, partitions)?;
            }
        }
        Ok(())
    }
}

impl First {
    fn of(look: &dyn Look, topic: Topic, partitions: u16) -> Result<Option<Self>, OpenError> {
        for index in 0..partitions.min(LOOKED_INTO) {
            let partition = Partition { topic, index };
            if let Some((offset, hash)) = look.first(partition, Offset(0))? {
                return Ok(Some(Self { partition: index, offset: offset.0, xxh3_128: format!("{hash:032x}") }));
            }
        }
        Ok(None)
    }

    /// Whether the topic still has it; `None` when that cannot be told, because the topic begins behind it.
    fn is_there(&self, look: &dyn Look, topic: Topic, pause: Duration) -> Result<Option<bool>, OpenError> {
        let partition = Partition { topic, index: self.partition };
        for asked in 1..=ASKED {
            let (start, end) = look.bounds(partition)?;
            if start.0 > self.offset {
                return Ok(None);
            }
            if end.0 > self.offset {
                let found = look.first(partition, Offset(self.offset))?;
                return Ok(found.map(|(offset, hash)| {
                    // Retention may have come between.
                    offset.0 == self.offset && format!("{hash:032x}") == self.xxh3_128
                }));
            }
            if asked < ASKED {
                std::thread::sleep(pause);
            }
        }
        Ok(Some(false))
    }
}

/// A topic that was made a moment ago may not be known to every broker yet.
fn reader(options: &KafkaOptions) -> Result<KafkaReader, OpenError> {
    let deadline = Instant::now() + options.open_wait();
    loop {
        match KafkaReader::open(options) {
            Err(OpenError::Kafka { .. }) if Instant::now() < deadline => std::thread::sleep(AGAIN / 5),
            opened => return opened,
        }
    }
}

/// Compares the topics with what the log was made with, and writes down what nobody has.
pub(super) fn compare(
    options: &KafkaOptions,
    cluster: &str,
    names: &Names,
    (shape, made_now): (Shape, [bool; 2]),
) -> Result<Made, OpenError> {
    let rules = ControlTopic::read(options, "rules", |_| ())?;
    let written = rules.get(LOG_KEY.as_bytes()).and_then(|record| record.value);
    let unreadable = |error| options.refuse("read the log's shape from the control topic", error);
    let written: Option<Made> = written.map(|text| serde_json::from_slice(&text)).transpose().map_err(unreadable)?;
    // Two that make the log at the same time write the same: what the topics have, not what either wants.
    let mut made = written.clone().unwrap_or_else(|| Made::new(cluster, shape));
    made.check(shape)?;
    if written.is_some() {
        made.look(&reader(options)?, names, made_now, AGAIN)?;
    }
    if written.as_ref() != Some(&made) {
        let text = serde_json::to_vec(&made).map_err(|error| options.refuse("write down the log's shape", error))?;
        let put = rules.put(LOG_KEY.as_bytes(), Some(&text));
        put.map_err(|error| options.refuse("write down the log's shape", error))?;
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Where partitions begin, and the bytes they hold from there.
    #[derive(Debug, Default, Clone)]
    struct Topics(BTreeMap<Partition, (u64, Vec<u8>)>);

    impl Look for Topics {
        fn bounds(&self, partition: Partition) -> Result<(Offset, Offset), OpenError> {
            let (start, records) = self.0.get(&partition).cloned().unwrap_or_default();
            Ok((Offset(start), Offset(start + records.len() as u64)))
        }

        fn first(&self, partition: Partition, from: Offset) -> Result<Option<(Offset, u128)>, OpenError> {
            let (start, records) = self.0.get(&partition).cloned().unwrap_or_default();
            let skip = usize::try_from(from.0.saturating_sub(start)).expect("small");
            let offset = from.max(Offset(start));
            Ok(records.get(skip).map(|byte| (offset, xxhash_rust::xxh3::xxh3_128(&[*byte]))))
        }
    }

    fn topics(room: (u64, &[u8]), user: (u64, &[u8])) -> Topics {
        let entry = |partition: Partition, (start, bytes): (u64, &[u8])| (partition, (start, bytes.to_vec()));
        Topics([entry(Partition::room(1), room), entry(Partition::user(0), user)].into())
    }

    const SHAPE: Shape = Shape { room: 2, user: 2 };

    fn look(made: &Made, topics: &Topics, made_now: [bool; 2]) -> Made {
        let mut made = made.clone();
        let names = Names::new(&KafkaOptions::default());
        made.look(topics, &names, made_now, Duration::ZERO).expect("answered");
        // Asked again, nothing changes: every process comes to the same.
        let mut again = made.clone();
        again.look(topics, &names, [false; 2], Duration::ZERO).expect("answered");
        assert_eq!(again, made);
        made
    }

    fn times(made: &Made) -> (u32, u32) {
        (made.room.made_anew, made.user.made_anew)
    }

    #[test]
    fn a_topic_with_another_first_record_is_another_one() {
        let seen = look(&Made::new("c", SHAPE), &topics((0, b"abc"), (5, b"xyz")), [false; 2]);
        assert_eq!(times(&seen), (0, 0));
        for (what, now, made_now, anew) in [
            ("more records", topics((0, b"abcd"), (5, b"xyzz")), [false; 2], (0, 0)),
            ("retention", topics((2, b"cd"), (7, b"z")), [false; 2], (0, 0)),
            ("all given up by retention", topics((3, b""), (9, b"")), [false; 2], (0, 0)),
            ("users anew and empty", topics((0, b"abc"), (0, b"")), [false; 2], (0, 1)),
            ("users anew and short", topics((0, b"abc"), (0, b"xyz")), [false; 2], (0, 1)),
            ("users anew and grown beyond", topics((0, b"abc"), (0, b"xyzxyzxyz")), [false; 2], (0, 1)),
            ("rooms anew", topics((0, b"bbc"), (5, b"xyz")), [false; 2], (1, 0)),
            ("both made by this process", topics((0, b""), (0, b"")), [true; 2], (1, 1)),
        ] {
            assert_eq!(times(&look(&seen, &now, made_now)), anew, "{what}");
        }
        let again = look(
            &look(&seen, &topics((0, b"abc"), (0, b"1")), [false; 2]),
            &topics((0, b"abc"), (0, b"2")),
            [false; 2],
        );
        assert_eq!(times(&again), (0, 2));
    }

    #[test]
    fn a_topic_that_had_no_record_yet_is_another_one_only_for_who_makes_it() {
        let empty = look(&Made::new("c", SHAPE), &Topics::default(), [false; 2]);
        assert_eq!(times(&look(&empty, &topics((0, b"a"), (0, b"b")), [false; 2])), (0, 0));
        assert_eq!(times(&look(&empty, &Topics::default(), [false, true])), (0, 1));
    }

    #[test]
    fn lineages_are_what_they_were_until_a_topic_is_made_anew() {
        let names = Names::new(&KafkaOptions::default());
        // As it was written before topics were counted.
        let old: Made =
            serde_json::from_str(r#"{"cluster":"c","room_partitions":2,"user_partitions":2}"#).expect("reads");
        assert_eq!(old, Made::new("c", SHAPE));
        assert_eq!(old.lineages(&names, 7), [7, 7]);
        let mut known = std::collections::HashSet::from([7]);
        for (room, user) in [(0, 1), (0, 2), (1, 0), (2, 0)] {
            let mut made = old.clone();
            (made.room.made_anew, made.user.made_anew) = (room, user);
            let [room_lineage, user_lineage] = made.lineages(&names, 7);
            assert!(if room == 0 { room_lineage == 7 } else { known.insert(room_lineage) });
            assert!(if user == 0 { user_lineage == 7 } else { known.insert(user_lineage) });
        }
    }
}
