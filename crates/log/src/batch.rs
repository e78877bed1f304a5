//! The records of one append.

use barrage_event::Partition;

/// Records that are appended as one atomic unit, in one flat buffer that is reused from append to append.
#[derive(Debug, Default, Clone)]
pub struct AppendBatch {
    bytes: Vec<u8>,
    /// Partition and end of every record in `bytes`.
    records: Vec<(Partition, usize)>,
}

impl AppendBatch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a record; `write` appends its bytes to the buffer it is given and must leave what is already in it alone.
    ///
    /// # Panics
    /// When `write` shortens the buffer: records before this one would be lost.
    pub fn push(&mut self, partition: Partition, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        write(&mut self.bytes);
        assert!(self.bytes.len() >= start, "a record's writer must only append");
        self.records.push((partition, self.bytes.len()));
    }

    /// Removes all records and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.records.clear();
    }

    /// Adds every record of another batch.
    pub fn extend(&mut self, other: &Self) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&other.bytes);
        self.records.extend(other.records.iter().map(|&(partition, end)| (partition, start + end)));
    }

    /// Number of records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether the batch holds no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Bytes of all records.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes of all records, one after the other.
    pub(crate) fn buffer(&self) -> &[u8] {
        &self.bytes
    }

    /// The records in the order in which they were pushed.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Partition, &[u8])> {
        let mut start = 0;
        self.records.iter().map(move |&(partition, end)| {
            let record = self.bytes.get(start..end).unwrap_or_default();
            start = end;
            (partition, record)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_gives_back_its_records_in_order() {
        let mut batch = AppendBatch::new();
        batch.push(Partition::room(1), |buf| buf.extend_from_slice(b"one"));
        batch.push(Partition::user(0), |_| ());
        batch.push(Partition::user(2), |buf| buf.extend_from_slice(b"three"));
        let records: Vec<_> = batch.iter().collect();
        assert_eq!(
            records,
            [(Partition::room(1), &b"one"[..]), (Partition::user(0), &b""[..]), (Partition::user(2), &b"three"[..])]
        );
        assert_eq!((batch.len(), batch.bytes()), (3, 8));
        let mut both = batch.clone();
        both.extend(&batch);
        assert_eq!(both.iter().skip(3).collect::<Vec<_>>(), records);
        batch.clear();
        assert!(batch.is_empty() && batch.bytes() == 0 && batch.iter().next().is_none());
    }
}
