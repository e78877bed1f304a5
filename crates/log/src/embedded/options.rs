//! What an operator may set on the embedded log.

use crate::error::OpenError;

/// Options of the embedded log. Every default suits one machine with an SSD.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EmbeddedOptions {
    /// Partitions of `barrage.room`, 1 to 1,024. Default 4. Fixed when the log is made: keys are placed by it. More
    /// partitions use more cores for projections and cost memory each.
    pub room_partitions: u16,
    /// Partitions of `barrage.user`, as above. Default 4.
    pub user_partitions: u16,
    /// Size of a segment file, in bytes, 4,096 to 1 GiB. Default 134,217,728 (128 MiB). Disk space is reserved one
    /// segment ahead, and after a crash the last segment is read as a whole.
    pub segment_bytes: u64,
    /// Whether the next segment is overwritten with zeros ahead of its use. Default false. It spares a group a commit
    /// of the file system's journal, which makes a lone append durable in about two thirds of the time; it also writes
    /// everything twice, which costs more than it brings when the disk or the processor is busy.
    pub zero_ahead: bool,
    /// Most bytes that were appended and are not yet durable. Default 67,108,864 (64 MiB). Above it appends are refused
    /// with [`crate::AppendError::Full`]: a longer queue would only answer after the callers' own timeouts.
    pub pending_bytes_max: usize,
    /// Memory for the newest records, in bytes, from which workers that keep up read. Default 16,777,216 (16 MiB): a second
    /// of a machine's full load. What is older comes from the system's page cache.
    pub tail_bytes_max: usize,
    /// Memory for pieces of files, in bytes, from which workers that catch up read; all partitions share it. Default
    /// 16,777,216 (16 MiB).
    pub chunk_cache_bytes_max: usize,
    /// Size of such a piece, in bytes, 64 to 16 MiB. Default 1,048,576 (1 MiB). It is what one read of the disk brings
    /// and one checksum run covers.
    pub chunk_bytes: u32,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self {
            room_partitions: 4,
            user_partitions: 4,
            segment_bytes: 128 << 20,
            zero_ahead: false,
            pending_bytes_max: 64 << 20,
            tail_bytes_max: 16 << 20,
            chunk_cache_bytes_max: 16 << 20,
            chunk_bytes: 1 << 20,
        }
    }
}

/// Most partitions of a topic. Each costs a store and a thread; the segment header holds an offset for each.
const PARTITIONS_MAX: u16 = 1_024;

impl EmbeddedOptions {
    /// Checks every value against its range.
    ///
    /// # Errors
    /// [`OpenError::Option`] naming the first option that is out of range.
    pub fn check(&self) -> Result<(), OpenError> {
        let range = |option: &'static str, value: u64, min: u64, max: u64| {
            if (min..=max).contains(&value) {
                Ok(())
            } else {
                Err(OpenError::Option { option, value, reason: format!("it must be {min} to {max}") })
            }
        };
        let bytes = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        range("room_partitions", self.room_partitions.into(), 1, PARTITIONS_MAX.into())?;
        range("user_partitions", self.user_partitions.into(), 1, PARTITIONS_MAX.into())?;
        range("segment_bytes", self.segment_bytes, 4_096, 1 << 30)?;
        range("pending_bytes_max", bytes(self.pending_bytes_max), 4_096, 1 << 30)?;
        range("tail_bytes_max", bytes(self.tail_bytes_max), 0, 1 << 40)?;
        range("chunk_cache_bytes_max", bytes(self.chunk_cache_bytes_max), 0, 1 << 40)?;
        range("chunk_bytes", self.chunk_bytes.into(), 64, 16 << 20)
    }
}
