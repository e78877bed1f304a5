//! Logs that are there before the measuring begins, filled through the log itself.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use barrage_event::routes::partition_of;
use barrage_event::rules::Compiled;
use barrage_event::{Callback, Partition, Stamp, callback};
use barrage_ingest::{Appender, Durable};
use barrage_log::{
    AppendBatch, AppendError, EmbeddedLog, EmbeddedOptions, EventLog, KafkaLog, KafkaMetrics, KafkaOptions, Metrics,
};
use prometheus_client::registry::Registry;

use crate::clock::now_ms;
use crate::traffic::{APP, Crowd, Kind, Traffic};

/// Incarnation of all prepared records.
const INCARNATION: u64 = 1 << 40;

/// Span of the records' times, ms: more than the ten minutes in which duplicates are looked for, so that the window is
/// as full as in a server that has run for long.
const SPAN_MS: i64 = 12 * 60_000;

/// What a prepared log holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Prepared {
    pub(crate) records: u64,
    /// Bytes of the log with its own, from the log's metrics.
    pub(crate) bytes: u64,
}

/// The options that logs are prepared and opened with.
pub(crate) fn log_options(partitions: u16) -> EmbeddedOptions {
    EmbeddedOptions { room_partitions: partitions, user_partitions: partitions, ..EmbeddedOptions::default() }
}

/// Appends callbacks as ingest does, one atomic append each, without waiting for each.
pub(crate) struct Filler {
    log: Arc<dyn EventLog>,
    appender: Appender,
    rules: Compiled,
    body: Vec<u8>,
    last: Option<Durable>,
    registry: Registry,
    records: u64,
    span_ms: i64,
    begun_ms: i64,
}

impl Filler {
    fn new(dir: &Path, partitions: u16, span_ms: i64) -> Result<Self> {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let log = Arc::new(EmbeddedLog::open(&dir.join("log"), &log_options(partitions), metrics)?);
        Ok(Self::over(log, registry, span_ms))
    }

    /// Fills a log whose metrics are in `registry`.
    fn over(log: Arc<dyn EventLog>, registry: Registry, span_ms: i64) -> Self {
        Self {
            appender: Appender::new(Arc::clone(&log), INCARNATION),
            log,
            rules: Compiled::shipped(),
            body: Vec::with_capacity(1_024),
            last: None,
            registry,
            records: 0,
            // The end of the span is now: nothing lies ahead of the log's own time.
            begun_ms: now_ms() - span_ms,
            span_ms,
        }
    }

    pub(crate) fn records(&self) -> u64 {
        self.records
    }

    /// Appends one callback at a place of the span, 0 to 1; `write` makes its body.
    pub(crate) fn push(&mut self, place: f64, write: impl FnOnce(i64, &mut Vec<u8>) -> Kind) -> Result<()> {
        let at_ms = self.time(place);
        let kind = write(at_ms, &mut self.body);
        let callback = callback::decode(kind.command, kind.platform, &self.body, &self.rules)?;
        let stamp = stamp(&self.appender, &self.rules, &callback, at_ms);
        loop {
            match self.appender.append_event(&callback, &stamp) {
                Ok(appended) => {
                    self.records += appended.records as u64;
                    self.last = Some(appended.ack);
                    return Ok(());
                }
                Err(AppendError::Full { .. }) => wait(&mut self.last)?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Adds the records of one callback to a batch, without its body; only the first one unless `all`.
    fn add(
        &mut self,
        batch: &mut AppendBatch,
        place: f64,
        all: bool,
        write: impl FnOnce(i64, &mut Vec<u8>) -> Kind,
    ) -> Result<()> {
        let at_ms = self.time(place);
        let kind = write(at_ms, &mut self.body);
        let callback = callback::decode(kind.command, kind.platform, &self.body, &self.rules)?;
        let stamp = stamp(&self.appender, &self.rules, &callback, at_ms);
        for route in callback.routes().iter().take(if all { usize::MAX } else { 1 }) {
            let index = partition_of(APP, route.key, self.appender.partitions(route.topic));
            let partition = Partition { topic: route.topic, index };
            batch.push(partition, |buffer| callback.encode(&stamp, route, false, buffer));
        }
        Ok(())
    }

    fn append(&mut self, batch: &AppendBatch) -> Result<()> {
        loop {
            match self.appender.append(batch) {
                Ok(ack) => {
                    self.records += batch.len() as u64;
                    self.last = Some(ack);
                    return Ok(());
                }
                Err(AppendError::Full { .. }) => wait(&mut self.last)?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn time(&self, place: f64) -> i64 {
        self.begun_ms + (place * self.span_ms as f64) as i64
    }

    /// Waits until everything is durable.
    pub(crate) fn finish(mut self) -> Result<Prepared> {
        wait(&mut self.last)?;
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        let bytes = text.lines().find_map(|line| line.strip_prefix("barrage_log_append_bytes_total ")?.parse().ok());
        drop(self.appender);
        drop(self.log);
        Ok(Prepared { records: self.records, bytes: bytes.context("the log counts its bytes")? })
    }
}

fn stamp(appender: &Appender, rules: &Compiled, callback: &Callback<'_>, received_at_ms: i64) -> Stamp {
    Stamp {
        id: appender.next_id(),
        app: APP,
        received_at_ms,
        incarnation: INCARNATION,
        rules_version: 0,
        verdict: rules.verdict(callback),
    }
}

/// Waits for the last append, and with it for all before.
fn wait(last: &mut Option<Durable>) -> Result<()> {
    if let Some(ack) = last.take() {
        ack.wait()?;
    }
    Ok(())
}

/// Fills the log of `dir` with at least `records` records of mixed traffic.
pub(crate) fn mixed(dir: &Path, partitions: u16, crowd: Crowd, records: u64) -> Result<Prepared> {
    fill(Filler::new(dir, partitions, SPAN_MS)?, crowd, records)
}

/// The same with a log in Kafka, whose topics are made when they are missing.
pub(crate) fn mixed_in_kafka(options: &KafkaOptions, crowd: Crowd, records: u64) -> Result<Prepared> {
    let mut registry = Registry::default();
    let log = Arc::new(KafkaLog::open(options, KafkaMetrics::register(&mut registry))?);
    fill(Filler::over(log, registry, SPAN_MS), crowd, records)
}

fn fill(mut filler: Filler, crowd: Crowd, records: u64) -> Result<Prepared> {
    let mut traffic = Traffic::new(crowd, 7);
    while filler.records() < records {
        let place = filler.records() as f64 / records as f64;
        filler.push(place, |at_ms, body| traffic.next(at_ms, body))?;
    }
    filler.finish()
}

/// Fills the log of `dir` with one delivered message of every account.
pub(crate) fn everybody(dir: &Path, partitions: u16, crowd: Crowd) -> Result<Prepared> {
    let mut filler = Filler::new(dir, partitions, SPAN_MS)?;
    let mut traffic = Traffic::new(crowd, 8);
    for pair in 0..crowd.pairs {
        let place = pair as f64 / crowd.pairs as f64;
        filler.push(place, |at_ms, body| traffic.delivered(pair, at_ms, body))?;
    }
    filler.finish()
}

/// What lies in a log whose first part only makes rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cold {
    pub(crate) records: u64,
    /// Records of the first part in each partition of the two topics, which have one each.
    pub(crate) rooms_before: u64,
    pub(crate) users_before: u64,
}

/// Fills the log of `dir`, which has one partition of each topic, with one delivered message of every pair, and then
/// with `more` records of mixed traffic.
///
/// The first part is not measured, so it is as small as it may be: without bodies, and for each account one copy. It
/// lies so far back that no message of it still waits for its other callback.
pub(crate) fn cold(dir: &Path, crowd: Crowd, more: u64) -> Result<Cold> {
    /// Callbacks in one append.
    const TOGETHER: u64 = 256;
    let mut filler = Filler::new(dir, 1, 2 * SPAN_MS)?;
    let mut traffic = Traffic::new(crowd, 8);
    let mut batch = AppendBatch::new();
    for pair in 0..crowd.pairs {
        let place = 0.4 * pair as f64 / crowd.pairs as f64;
        let both = pair < crowd.users;
        filler.add(&mut batch, place, both, |at_ms, body| traffic.delivered(pair, at_ms, body))?;
        if (pair + 1).is_multiple_of(TOGETHER) || pair + 1 == crowd.pairs {
            filler.append(&batch)?;
            batch.clear();
        }
    }
    let before = filler.records();
    while filler.records() < before + more {
        let place = 0.9 + 0.1 * (filler.records() - before) as f64 / more as f64;
        filler.push(place, |at_ms, body| traffic.next(at_ms, body))?;
    }
    let records = filler.finish()?.records;
    Ok(Cold { records, rooms_before: crowd.pairs, users_before: crowd.users })
}

/// Fills the log of `dir`, which has one partition of each topic, with records of mixed traffic without bodies: as many as
/// fit a small disk.
///
/// 100,000 of them take an hour, longer than what is waited for and looked for in minutes: that is as much from the first
/// place on that is measured.
pub(crate) fn long(dir: &Path, crowd: Crowd, records: u64) -> Result<Prepared> {
    const TOGETHER: usize = 500;
    const HOUR_MS: i64 = 3_600_000;
    let mut filler = Filler::new(dir, 1, HOUR_MS * i64::try_from(records / 100_000 + 1).unwrap_or(1))?;
    let mut traffic = Traffic::new(crowd, 11);
    let mut batch = AppendBatch::new();
    while filler.records() < records {
        let place = (filler.records() + batch.len() as u64) as f64 / records as f64;
        filler.add(&mut batch, place.min(1.0), true, |at_ms, body| traffic.next(at_ms, body))?;
        if batch.len() >= TOGETHER {
            filler.append(&batch)?;
            batch.clear();
        }
    }
    filler.finish()
}
