//! Who owns a partition, as processes tell each other, and which of several such records counts.

use prost::Message as _;

use crate::proto;

/// Longest address and longest process id, in bytes.
const TEXT_BYTES_MAX: usize = 255;

/// The value of a record of the control topic `barrage.owners`; the key is the partition.
///
/// A generation is greater for every change of owner and never used by two processes. A process that gives a partition
/// back writes its own record again with `released`; a null value says nothing, since it has no generation.
///
/// The order of records is the order in which they count, so that the greater of two is their merge, whatever order
/// they come in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerRecord {
    // The order of the fields is the order of their weight.
    /// Greater for every change of owner, from 1.
    pub generation: u64,
    /// Whether the process gave the partition back: nobody owns it until a greater generation.
    pub released: bool,
    /// Since when, in ms since the epoch.
    pub since_ms: i64,
    /// How the process calls itself; answers show it. 1 to 255 bytes.
    pub process_id: String,
    /// HOST:PORT of its gRPC, 1 to 255 bytes.
    pub address: String,
}

/// Bytes that are no record of an owner.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the record of barrage.owners cannot be read: {0}; is it of a newer version?")]
pub struct OwnerRecordError(String);

impl OwnerRecord {
    /// The record as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let record = proto::OwnerRecord {
            address: self.address.clone(),
            generation: self.generation,
            process_id: self.process_id.clone(),
            since_ms: self.since_ms,
            released: self.released,
        };
        record.encode_to_vec()
    }

    /// The record that bytes are.
    ///
    /// # Errors
    /// [`OwnerRecordError`] when they are none, or one that names no process, address or generation.
    pub fn decode(bytes: &[u8]) -> Result<Self, OwnerRecordError> {
        let record = proto::OwnerRecord::decode(bytes).map_err(|error| OwnerRecordError(error.to_string()))?;
        let proto::OwnerRecord { address, generation, process_id, since_ms, released } = record;
        for (name, text) in [("address", &address), ("process_id", &process_id)] {
            if text.is_empty() || text.len() > TEXT_BYTES_MAX {
                return Err(OwnerRecordError(format!("{name} is not 1 to {TEXT_BYTES_MAX} bytes long")));
            }
        }
        if generation == 0 {
            return Err(OwnerRecordError("the generation is 0".to_owned()));
        }
        Ok(Self { generation, released, since_ms, process_id, address })
    }

    /// Which of two records of a partition counts: the one of the higher generation; of the same generation, the one
    /// that gives it back.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        self.max(other)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn record()(
            generation in 1..6_u64, released: bool, since_ms in 0..3_i64, process in 0..3_u8, port in 1..3_u16,
        ) -> OwnerRecord {
            OwnerRecord {
                generation, released, since_ms, process_id: format!("p{process}"), address: format!("10.0.0.1:{port}"),
            }
        }
    }

    proptest! {
        #[test]
        fn records_round_trip(record in record()) {
            prop_assert_eq!(OwnerRecord::decode(&record.encode()), Ok(record));
        }

        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            drop(OwnerRecord::decode(&bytes));
        }

        /// Whatever order records come in, and however often, the same one counts.
        #[test]
        fn the_merge_depends_on_no_order(
            records in proptest::collection::vec(record(), 1..8), seed in any::<prop::sample::Index>(),
        ) {
            let merged = |records: &[OwnerRecord]| {
                records.iter().cloned().reduce(OwnerRecord::merge).expect("there is one")
            };
            let expected = merged(&records);
            let mut other: Vec<OwnerRecord> = records.iter().rev().cloned().collect();
            let by = seed.index(other.len());
            other.rotate_left(by);
            other.extend(records.iter().take(by).cloned());
            prop_assert_eq!(&merged(&other), &expected);
            let (left, right) = records.split_at(by);
            let halves: Vec<OwnerRecord> = [left, right].into_iter().filter(|h| !h.is_empty()).map(merged).collect();
            prop_assert_eq!(&merged(&halves), &expected);
        }

        #[test]
        fn the_highest_generation_counts_and_a_release_ends_it(
            records in proptest::collection::vec(record(), 1..8),
        ) {
            let counts = records.iter().cloned().reduce(OwnerRecord::merge).expect("there is one");
            let highest = records.iter().map(|r| r.generation).max().expect("there is one");
            prop_assert_eq!(counts.generation, highest);
            let released = records.iter().any(|r| r.generation == highest && r.released);
            prop_assert_eq!(counts.released, released);
        }
    }

    #[test]
    fn records_that_name_nobody_are_refused() {
        let good = OwnerRecord {
            generation: 1,
            released: false,
            since_ms: 0,
            process_id: "p".to_owned(),
            address: "h:1".to_owned(),
        };
        for bad in [
            OwnerRecord { generation: 0, ..good.clone() },
            OwnerRecord { process_id: String::new(), ..good.clone() },
            OwnerRecord { address: "x".repeat(256), ..good.clone() },
        ] {
            assert!(OwnerRecord::decode(&bad.encode()).is_err(), "{bad:?}");
        }
        assert!(OwnerRecord::decode(&[]).is_err());
    }
}
