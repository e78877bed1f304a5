//! The spool's directory: an embedded log of the same shape as the log that records are meant for.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use barrage_event::{Offset, Partition, Topic};
use barrage_log::{Ack, AppendBatch, AppendError, EmbeddedLog, EmbeddedOptions, EventLog, Health, OpenError};
use serde::{Deserialize, Serialize};

use super::metrics::SpoolMetrics;
use super::options::SpoolOptions;
use crate::clock::{Clock as _, SystemClock};

/// Workers forget an incarnation 30 days after its last record: what is older could count twice. A day to spare.
const SEND_WITHIN: Duration = Duration::from_secs(29 * 86_400);
/// How long a disk that failed is left alone.
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// Longer than it takes to make the files anew: nobody else tries meanwhile.
const ANEW_WITHIN: Duration = Duration::from_secs(3_600);
/// Names the log that the records are meant for.
const OWNER_FILE: &str = "log.json";

/// Why the spool cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The records in it are meant for another log.
    #[error(
        "the spool in {} holds callbacks for log {spool}, this is log {log}: point --brokers back at the log it belongs \
         to and let it drain, or move the directory away to give these callbacks up", path.display()
    )]
    OtherLog {
        /// The spool's directory.
        path: PathBuf,
        /// Uuid that it names.
        spool: String,
        /// Uuid of the log.
        log: String,
    },
    /// Its files cannot be opened.
    #[error("the spool in {} cannot be opened: {source}", path.display())]
    Open {
        /// The spool's directory.
        path: PathBuf,
        /// Why.
        source: OpenError,
    },
    /// The system gave no thread.
    #[error("the spool's thread could not be started: {0}")]
    Thread(io::Error),
}

#[derive(Serialize, Deserialize)]
struct OwnerFile {
    log_uuid: String,
}

/// The spool's files.
#[derive(Debug)]
pub(super) struct Disk {
    dir: PathBuf,
    options: EmbeddedOptions,
    bytes_max: u64,
    log: Arc<EmbeddedLog>,
    /// Offset of the next record of every partition, with those that are on their way to the disk.
    next: BTreeMap<Partition, u64>,
    /// Bytes of records since the directory was empty.
    bytes: u64,
    /// Why nothing is taken, and when to try again.
    failed: Option<(String, Instant)>,
    /// Why nothing more is taken until everything was drained: `bytes_max` is used up.
    full: Option<String>,
}

fn io_error<'p>(action: &'static str, path: &'p Path) -> impl FnOnce(io::Error) -> SpoolError + 'p {
    move |source| SpoolError::Io { action, path: path.to_owned(), source }
}

impl Disk {
    pub(super) fn open(
        dir: &Path,
        options: &SpoolOptions,
        log: &dyn EventLog,
        metrics: &SpoolMetrics,
    ) -> Result<Self, SpoolError> {
        fs::create_dir_all(dir).map_err(io_error("make the directory", dir))?;
        check_owner(dir, log.uuid())?;
        let embedded = EmbeddedOptions {
            room_partitions: log.partitions(Topic::Room),
            user_partitions: log.partitions(Topic::User),
            segment_bytes: options.segment_bytes,
            // A takeover hands over at once what the log was given and did not acknowledge.
            pending_bytes_max: 512 << 20,
            tail_bytes_max: 4 << 20,
            chunk_cache_bytes_max: 8 << 20,
            ..EmbeddedOptions::default()
        };
        let files = dir.join("records");
        let open = || {
            EmbeddedLog::open(&files, &embedded, barrage_log::Metrics::default())
                .map_err(|source| SpoolError::Open { path: files.clone(), source })
        };
        let mut opened = open()?;
        let expired = expired_records(&opened);
        if expired > 0 {
            opened.close();
            drop(opened);
            let aside = dir.join(format!("expired-{}", SystemClock.now_ms()));
            fs::rename(&files, &aside).map_err(io_error("move aside", &files))?;
            metrics.expired.set(i64::try_from(expired).unwrap_or(i64::MAX));
            tracing::error!(
                records = expired, moved_to = %aside.display(),
                "the spool holds callbacks of more than 29 days ago: sent now they could count twice, so they were moved \
                 aside; `barrage log` shows them"
            );
            opened = open()?;
        }
        let next = opened.all_partitions().into_iter().map(|p| (p, opened.end(p).0)).collect();
        let mut disk = Self {
            dir: files.clone(),
            options: embedded.clone(),
            bytes_max: options.bytes_max,
            log: Arc::new(opened),
            next,
            bytes: 0,
            failed: None,
            full: None,
        };
        disk.bytes = disk.size();
        Ok(disk)
    }

    /// The files as a log, to read from.
    pub(super) fn log(&self) -> &Arc<EmbeddedLog> {
        &self.log
    }

    /// Offset of the next record of a partition.
    pub(super) fn next(&self, partition: Partition) -> u64 {
        self.next.get(&partition).copied().unwrap_or(0)
    }

    /// First offset that is still there.
    pub(super) fn start(&self, partition: Partition) -> u64 {
        self.log.start(partition).0
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Why nothing is taken now.
    pub(super) fn failed(&self) -> Option<&str> {
        self.failed.as_ref().map(|(reason, _)| reason.as_str()).or(self.full.as_deref())
    }

    /// Whether any record was written since the directory was empty.
    pub(super) fn is_used(&self) -> bool {
        self.next.iter().any(|(&partition, &next)| next > self.start(partition))
    }

    /// Enqueues records as one unit. The batch is empty after success.
    pub(super) fn append(&mut self, batch: &mut AppendBatch) -> Result<Ack, AppendError> {
        if !self.try_again()
            && let Some(reason) = self.failed()
        {
            return Err(AppendError::Failed { reason: reason.into() });
        }
        let bytes = batch.bytes() as u64;
        if self.bytes.saturating_add(bytes) > self.bytes_max {
            let reason = format!("the spool holds {} bytes, spool.bytes_max is {}", self.bytes, self.bytes_max);
            // A smaller one may fit, but would get past this one.
            self.full = Some(reason.clone());
            return Err(AppendError::Failed { reason: reason.into() });
        }
        let counts: Vec<Partition> = batch.iter().map(|(partition, _)| partition).collect();
        match self.log.append(batch) {
            Ok(ack) => {
                for partition in counts {
                    *self.next.entry(partition).or_default() += 1;
                }
                self.bytes += bytes;
                Ok(ack)
            }
            Err(error) => {
                self.look();
                Err(error)
            }
        }
    }

    /// Notes a failure of the disk.
    pub(super) fn look(&mut self) {
        if self.failed.is_none()
            && let Health::Failed { reason } = self.log.health()
        {
            self.failed = Some((reason.to_string(), Instant::now() + TRY_AGAIN));
        }
    }

    /// Tries a failed disk again when that is due; whether it takes records again.
    pub(super) fn try_again(&mut self) -> bool {
        self.failed.as_ref().is_some_and(|(_, again)| Instant::now() >= *again) && self.reopen() && self.full.is_none()
    }

    /// Opens the files again: a full disk may have room now. What was durable is still there.
    fn reopen(&mut self) -> bool {
        self.log.close();
        // The last file has some room left whatever failed: without a look the next records would be lost again.
        let room = EmbeddedLog::check_room(&self.dir, &self.options).map_err(|error| error.to_string());
        let open = || EmbeddedLog::open(&self.dir, &self.options, barrage_log::Metrics::default());
        match room.and_then(|()| open().map_err(|error| error.to_string())) {
            Ok(log) => {
                self.install(log);
                true
            }
            Err(reason) => {
                self.failed = Some((reason, Instant::now() + TRY_AGAIN));
                false
            }
        }
    }

    /// Begins anew with an empty directory, when everything was acknowledged by the log and nothing is on its way here.
    /// This is also what makes room on a disk that was full. Nothing is taken until [`Disk::begun_anew`]: what is done in
    /// between waits for the disk many times over, and no append should wait with it.
    pub(super) fn begin_anew(&mut self) -> Option<Anew> {
        if self.failed.as_ref().is_some_and(|(_, again)| Instant::now() < *again) {
            return None;
        }
        self.failed = Some(("the spool's files are being made anew".to_owned(), Instant::now() + ANEW_WITHIN));
        Some(Anew { dir: self.dir.clone(), options: self.options.clone(), old: Arc::clone(&self.log) })
    }

    /// Takes the new files, or notes that there are none yet.
    pub(super) fn begun_anew(&mut self, made: Result<EmbeddedLog, String>) {
        match made {
            Ok(log) => {
                self.full = None;
                self.install(log);
            }
            Err(error) => {
                tracing::error!(dir = %self.dir.display(), error, "the spool cannot be made anew; it is tried again");
                self.failed = Some((error, Instant::now() + TRY_AGAIN));
            }
        }
    }

    fn install(&mut self, log: EmbeddedLog) {
        self.next = log.all_partitions().into_iter().map(|p| (p, log.end(p).0)).collect();
        self.log = Arc::new(log);
        self.failed = None;
        // What was counted may have been lost on its way to the disk.
        self.bytes = self.size();
    }

    pub(super) fn close(&self) {
        self.log.close();
    }

    fn size(&self) -> u64 {
        let Ok(entries) = fs::read_dir(&self.dir) else { return 0 };
        if !self.is_used() {
            return 0;
        }
        entries.filter_map(|entry| entry.ok()?.metadata().ok()).map(|meta| meta.len()).sum()
    }
}

/// The drained files, on their way out.
#[derive(Debug)]
pub(super) struct Anew {
    dir: PathBuf,
    options: EmbeddedOptions,
    old: Arc<EmbeddedLog>,
}

impl Anew {
    /// Removes them and makes new ones.
    pub(super) fn make(self) -> Result<EmbeddedLog, String> {
        self.old.close();
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            tracing::warn!(dir = %self.dir.display(), %error, "drained files of the spool could not be removed");
        }
        EmbeddedLog::open(&self.dir, &self.options, barrage_log::Metrics::default()).map_err(|error| error.to_string())
    }
}

fn check_owner(dir: &Path, uuid: u128) -> Result<(), SpoolError> {
    let path = dir.join(OWNER_FILE);
    let log = format!("{uuid:032x}");
    match fs::read(&path) {
        Ok(bytes) => {
            let owner: OwnerFile = serde_json::from_slice(&bytes)
                .map_err(|error| io_error("read", &path)(io::Error::new(io::ErrorKind::InvalidData, error)))?;
            if owner.log_uuid == log {
                return Ok(());
            }
            Err(SpoolError::OtherLog { path: dir.to_owned(), spool: owner.log_uuid, log })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = serde_json::to_vec(&OwnerFile { log_uuid: log }).unwrap_or_default();
            let new = path.with_extension("new");
            fs::write(&new, text).map_err(io_error("write", &new))?;
            fs::File::open(&new).and_then(|file| file.sync_all()).map_err(io_error("sync", &new))?;
            fs::rename(&new, &path).map_err(io_error("replace", &path))?;
            fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error("sync", dir))
        }
        Err(error) => Err(io_error("read", &path)(error)),
    }
}

/// How many records there are when the oldest of them is too old to be sent.
fn expired_records(log: &EmbeddedLog) -> u64 {
    let oldest_allowed =
        SystemClock.now_ms().saturating_sub(i64::try_from(SEND_WITHIN.as_millis()).unwrap_or(i64::MAX));
    let (mut records, mut expired) = (0, false);
    for partition in log.all_partitions() {
        let (start, end) = (log.start(partition), log.end(partition));
        records += end.0 - start.0;
        // An unreadable one is found, and told, when it is drained.
        drop(log.read(partition, start, 1, &mut |record| {
            expired |= record.timestamp_ms < oldest_allowed;
            ControlFlow::Break(())
        }));
    }
    if expired { records } else { 0 }
}

/// Reads records of one partition from `from` on, up to `bytes_max` bytes and not beyond `end`, into `batch`.
pub(super) fn read(
    log: &EmbeddedLog,
    partition: Partition,
    (from, end): (u64, u64),
    bytes_max: usize,
    batch: &mut AppendBatch,
) -> Result<u64, barrage_log::ReadError> {
    let next = log.read(partition, Offset(from), bytes_max, &mut |record| {
        batch.push(partition, |buf| buf.extend_from_slice(record.bytes));
        if record.offset.next().0 >= end { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(next.0)
}
