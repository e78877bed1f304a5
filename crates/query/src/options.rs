//! What an operator may set on reads and on the admin endpoints. Every limit of the crate stands here.

use std::time::Duration;

use serde::Deserialize;

/// An option that is out of its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it must be {min} to {max}, not {value}")]
pub struct OptionError {
    /// The option, without its section.
    pub option: &'static str,
    /// What was set.
    pub value: u64,
    /// Smallest allowed.
    pub min: u64,
    /// Largest allowed.
    pub max: u64,
}

fn range(option: &'static str, value: u64, min: u64, max: u64) -> Result<(), OptionError> {
    if (min..=max).contains(&value) { Ok(()) } else { Err(OptionError { option, value, min, max }) }
}

/// Options of the reads.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueryOptions {
    /// Connections at once, 1 to 65,536. Default 1,024. A connection has one request in flight, so this bounds the
    /// requests that wait for a position too.
    pub connections_max: u32,
    /// Reads at work at once, 1 to 65,536. Default 256. Above it callers get 503 at once: a longer queue would only
    /// answer after their own timeouts.
    pub requests_in_flight_max: u32,
    /// Rankings, viewer lists and minutes at work at once, 1 to 1,024. Default 4. They walk over many rows; others of
    /// their kind wait for up to a second, then callers get 503, so that they never take every core from the partitions.
    /// Rankings by heat are in memory and take no place.
    pub scans_in_flight_max: u32,
    /// Longest wait for the positions of `at_least`, in ms, 1 to 60,000. Default 5,000.
    pub at_least_wait_ms: u64,
    /// Time for a request's header to arrive, in ms, 100 to 600,000. Default 10,000. Slower clients are cut off, since
    /// each holds a connection.
    pub header_timeout_ms: u64,
    /// Longest time in which a client takes no byte of its answer, in ms, 100 to 600,000. Default 10,000. Then its
    /// connection is closed, since it holds one of `connections_max`.
    pub write_timeout_ms: u64,
    /// Time in which the owner of a partition is found and answers, in ms, 50 to 60,000. Default 2,000. A partition
    /// that moves is followed as long; then callers get 503.
    pub owner_timeout_ms: u64,
    /// Largest answer of another process, in bytes, 65,536 to 1,073,741,824. Default 33,554,432 (32 MiB).
    pub answer_bytes_max: u32,
    /// Streams of changes (`/v1/rooms/{room}/live`) at once, 1 to 65,536. Default 256. Each holds a connection; above
    /// it callers get 503.
    pub live_streams_max: u32,
    /// How often a stream looks whether something changed, in ms, 20 to 60,000. Default 500: twice a second at most.
    pub live_interval_ms: u64,
}

impl Default for QueryOptions {
    fn default() -> Self {
        Self {
            connections_max: 1_024,
            requests_in_flight_max: 256,
            scans_in_flight_max: 4,
            at_least_wait_ms: 5_000,
            header_timeout_ms: 10_000,
            write_timeout_ms: 10_000,
            owner_timeout_ms: 2_000,
            answer_bytes_max: 32 << 20,
            live_streams_max: 256,
            live_interval_ms: 500,
        }
    }
}

impl QueryOptions {
    /// Checks every value against its range.
    ///
    /// # Errors
    /// The first option that is out of range.
    pub fn check(&self) -> Result<(), OptionError> {
        range("connections_max", self.connections_max.into(), 1, 65_536)?;
        range("requests_in_flight_max", self.requests_in_flight_max.into(), 1, 65_536)?;
        range("scans_in_flight_max", self.scans_in_flight_max.into(), 1, 1_024)?;
        range("at_least_wait_ms", self.at_least_wait_ms, 1, AT_LEAST_WAIT_MS_MAX)?;
        range("header_timeout_ms", self.header_timeout_ms, 100, 600_000)?;
        range("write_timeout_ms", self.write_timeout_ms, 100, 600_000)?;
        range("owner_timeout_ms", self.owner_timeout_ms, 50, 60_000)?;
        range("answer_bytes_max", self.answer_bytes_max.into(), ANSWER_BYTES_LEAST, ANSWER_BYTES_MOST)?;
        range("live_streams_max", self.live_streams_max.into(), 1, 65_536)?;
        range("live_interval_ms", self.live_interval_ms, 20, 60_000)
    }

    /// How often a stream of changes looks for one.
    pub(crate) fn live_interval(&self) -> Duration {
        Duration::from_millis(self.live_interval_ms)
    }

    /// Room for the largest answer and what is around it.
    pub(crate) fn answer_bytes_max(&self) -> usize {
        usize::try_from(self.answer_bytes_max).unwrap_or(usize::MAX).saturating_add(ANSWER_FRAME_BYTES)
    }

    pub(crate) fn at_least_wait(&self) -> Duration {
        Duration::from_millis(self.at_least_wait_ms)
    }
}

/// Options of the service that other processes ask about the partitions of this one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OwnerOptions {
    /// Connections at once, 1 to 65,536. Default 256: a process that asks needs one. Further ones wait.
    pub connections_max: u32,
    /// Questions at work at once, 1 to 65,536. Default 256. Above it callers are told to try again.
    pub requests_in_flight_max: u32,
    /// Waits for a position at once, 1 to 65,536. Default 1,024.
    pub waits_in_flight_max: u32,
    /// Largest answer, in bytes, 65,536 to 1,073,741,824. Default 33,554,432 (32 MiB), as much as callers take.
    pub answer_bytes_max: u32,
    /// Longest time in which a caller takes no byte of its answers, in ms, 100 to 600,000. Default 10,000.
    pub write_timeout_ms: u64,
}

impl Default for OwnerOptions {
    fn default() -> Self {
        Self {
            connections_max: 256,
            requests_in_flight_max: 256,
            waits_in_flight_max: 1_024,
            answer_bytes_max: 32 << 20,
            write_timeout_ms: 10_000,
        }
    }
}

impl OwnerOptions {
    /// Checks every value against its range.
    ///
    /// # Errors
    /// The first option that is out of range.
    pub fn check(&self) -> Result<(), OptionError> {
        range("connections_max", self.connections_max.into(), 1, 65_536)?;
        range("requests_in_flight_max", self.requests_in_flight_max.into(), 1, 65_536)?;
        range("waits_in_flight_max", self.waits_in_flight_max.into(), 1, 65_536)?;
        range("answer_bytes_max", self.answer_bytes_max.into(), ANSWER_BYTES_LEAST, ANSWER_BYTES_MOST)?;
        range("write_timeout_ms", self.write_timeout_ms, 100, 600_000)
    }

    pub(crate) fn answer_bytes_max(&self) -> usize {
        usize::try_from(self.answer_bytes_max).unwrap_or(usize::MAX)
    }

    pub(crate) fn write_timeout(&self) -> Duration {
        Duration::from_millis(self.write_timeout_ms)
    }
}

/// Options of the admin endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminOptions {
    /// Records that a partition may lag behind the log's end and still be ready, 0 to 10^12. Default 100,000: less than
    /// a second's work. Above it `/readyz` answers 503, so that a process that catches up gets no reads yet.
    pub ready_lag_records_max: u64,
}

impl Default for AdminOptions {
    fn default() -> Self {
        Self { ready_lag_records_max: 100_000 }
    }
}

impl AdminOptions {
    /// Checks every value against its range.
    ///
    /// # Errors
    /// The first option that is out of range.
    pub fn check(&self) -> Result<(), OptionError> {
        range("ready_lag_records_max", self.ready_lag_records_max, 0, 1_000_000_000_000)
    }
}

/// Items of a page when `limit=` is absent.
pub(crate) const LIMIT_DEFAULT: usize = 100;
/// Most items of a page.
pub(crate) const LIMIT_MAX: usize = 1_000;
/// Most positions in one `at_least=`: every partition of a large log once.
pub(crate) const POSITIONS_MAX: usize = 2_048;
/// Longest query string, in bytes.
pub(crate) const QUERY_BYTES_MAX: usize = 64 << 10;
/// Longest silence of a stream of changes: then a comment says that it is still there.
pub(crate) const LIVE_HEARTBEAT: Duration = Duration::from_secs(15);
/// How often a stream tells that heat has fallen, when nothing else changed.
pub(crate) const LIVE_DECAY_INTERVAL: Duration = Duration::from_secs(5);
/// How long a client of a stream waits before it connects again, in ms; the client is told so.
pub(crate) const LIVE_RETRY_MS: u64 = 2_000;
/// What the kernel may hold for a stream whose client does not read, in bytes. Without it, it is megabytes, and a slow
/// reader would be shown minutes that are long over.
pub(crate) const LIVE_SEND_BUFFER_BYTES: usize = 16 << 10;
/// Largest body of a command, in bytes: rules with many banned words.
pub(crate) const BODY_BYTES_MAX: usize = 4 << 20;
/// Time for the body of a command to arrive.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest room or account in a path, in bytes; longer ones cannot be in a record.
pub(crate) const KEY_BYTES_MAX: usize = 4 << 10;
/// Connections to the admin endpoints at once.
pub(crate) const ADMIN_CONNECTIONS_MAX: u32 = 64;
/// Time in which a client of the admin endpoints takes something of its answer.
pub(crate) const ADMIN_WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the positions of `at_least`, in ms, whoever waits.
pub(crate) const AT_LEAST_WAIT_MS_MAX: u64 = 60_000;
/// Longest wait for a place among the scans: below the time that an owner has for an answer, so that the caller learns
/// why there is none.
pub(crate) const SCAN_WAIT: Duration = Duration::from_secs(1);
/// Reads that wait for a place among the scans: half of the requests that are at work by default, so that they leave
/// places to those that wait for nothing.
pub(crate) const SCANS_WAITING_MAX: usize = 128;
/// Time for a room's place among all rooms, which other processes tell their part of; after that the answer goes without.
pub(crate) const RANK_WAIT: Duration = Duration::from_millis(500);
/// Positions of one `at_least` that are waited for at once.
pub(crate) const WAITS_AT_ONCE: usize = 32;
/// Range of the largest answer between processes, in bytes.
const ANSWER_BYTES_LEAST: u64 = 64 << 10;
const ANSWER_BYTES_MOST: u64 = 1 << 30;
/// What is around an answer, in bytes: the owner's limit is about the answer itself.
pub(crate) const ANSWER_FRAME_BYTES: usize = 4 << 10;
/// Largest question, in bytes: the rooms of a page, [`LIMIT_MAX`] names of at most 1,024 bytes.
pub(crate) const QUESTION_BYTES_MAX: usize = 2 << 20;
/// Largest header of a question, in bytes.
pub(crate) const HEADER_LIST_BYTES_MAX: u32 = 16 << 10;
/// Other processes that are kept connected to: far more than a deployment has.
pub(crate) const PEERS_MAX: usize = 256;
/// Time for a connection to another process.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often the other end of a connection between processes is asked whether it is there.
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Time it has to say so.
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest silence of a connection between processes, on which something is said at every interval.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Time that requests in flight get to finish when the server stops.
pub(crate) const STOP_WAIT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_in_range_and_values_out_of_range_are_named() {
        assert_eq!(QueryOptions::default().check(), Ok(()));
        assert_eq!(AdminOptions::default().check(), Ok(()));
        assert_eq!(OwnerOptions::default().check(), Ok(()));
        let wrong = OwnerOptions { waits_in_flight_max: 0, ..OwnerOptions::default() };
        assert_eq!(wrong.check().map_err(|e| e.option), Err("waits_in_flight_max"));
        let wrong = QueryOptions { owner_timeout_ms: 1, ..QueryOptions::default() };
        assert_eq!(wrong.check().map_err(|e| e.option), Err("owner_timeout_ms"));
        let wrong = QueryOptions { live_interval_ms: 19, ..QueryOptions::default() };
        assert_eq!(wrong.check().map_err(|e| e.option), Err("live_interval_ms"));
        let wrong = QueryOptions { at_least_wait_ms: 0, ..QueryOptions::default() };
        assert_eq!(wrong.check().map_err(|e| e.option), Err("at_least_wait_ms"));
        let wrong = QueryOptions { scans_in_flight_max: 1_025, ..QueryOptions::default() };
        assert_eq!(wrong.check().map_err(|e| e.option), Err("scans_in_flight_max"));
        let wrong = AdminOptions { ready_lag_records_max: u64::MAX };
        assert_eq!(wrong.check().map_err(|e| e.option), Err("ready_lag_records_max"));
    }
}
