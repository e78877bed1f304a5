//! Whether a snapshot is of the log as it is now. A log that was put back from an older copy keeps its uuid: snapshots of
//! what came after the copy go on at offsets that the log has not, or has for other records.

use std::ops::ControlFlow;

use barrage_event::{EnvelopeView, Offset, Partition};
use barrage_log::{EventLog, ReadError};

use crate::bucket::SnapshotStore;
use crate::error::SnapshotError;
use crate::manifest::{Manifest, hex};

/// Why a snapshot is none of this log as it is now; `None` when it is one, as far as can be told.
///
/// # Errors
/// [`SnapshotError::Log`] and [`SnapshotError::Unread`] when the log does not give the record that tells.
pub(crate) fn stranger(
    log: &dyn EventLog,
    partition: Partition,
    manifest: &Manifest,
) -> Result<Option<String>, SnapshotError> {
    let (next, end) = (manifest.next_offset, log.end(partition).0);
    if next > end {
        return Ok(Some(format!("it goes on at offset {next} and the log ends at {end}")));
    }
    // The record before it may have been given up behind this very snapshot.
    if next <= log.start(partition).0 {
        return Ok(None);
    }
    let Some(seen) = &manifest.last_record_id else { return Ok(None) };
    let last = Offset(next - 1);
    let found = match id_at(log, partition, last) {
        // Given up meanwhile.
        Err(SnapshotError::Log(ReadError::Trimmed { .. })) => return Ok(None),
        found => found?,
    };
    Ok((found != *seen).then(|| format!("it saw record {seen} at offset {last}, where the log holds {found}")))
}

fn id_at(log: &dyn EventLog, partition: Partition, offset: Offset) -> Result<String, SnapshotError> {
    let mut found = None;
    log.read(partition, offset, 1, &mut |record| {
        found = Some(EnvelopeView::id_of(record.bytes).map(|id| hex(&id)).unwrap_or_default());
        ControlFlow::Break(())
    })?;
    // A log on a network gives nothing when it has waited long enough: that says nothing of what it holds.
    found.ok_or(SnapshotError::Unread { partition, offset })
}

impl SnapshotStore {
    /// The newest snapshot of a partition that is of the log as it is now and whose manifest can be read.
    ///
    /// # Errors
    /// [`SnapshotError::Store`] when the object store fails, [`SnapshotError::Log`] and [`SnapshotError::Unread`] when the
    /// log does.
    pub fn latest(&self, log: &dyn EventLog, partition: Partition) -> Result<Option<Manifest>, SnapshotError> {
        let log_uuid = log.lineage(partition.topic);
        for listed in self.list(log_uuid, partition)? {
            let manifest = match self.read(log_uuid, partition, &listed.name) {
                Ok(manifest) => manifest,
                Err(error @ SnapshotError::Unusable { .. }) => {
                    tracing::warn!(%partition, %error, "passed over");
                    continue;
                }
                Err(error) => return Err(error),
            };
            match stranger(log, partition, &manifest)? {
                None => return Ok(Some(manifest)),
                Some(problem) => say_stranger(partition, &listed.name, &problem),
            }
        }
        Ok(None)
    }
}

/// For a person: whichever of the two is wrong, Barrage leaves both alone.
pub(crate) fn say_stranger(partition: Partition, snapshot: &str, problem: &str) {
    tracing::warn!(
        %partition, snapshot, problem,
        "it is not of the log as it is now and is passed over: the log was put back from an older copy, or made anew"
    );
}
