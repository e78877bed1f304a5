//! The log alone, beside the same records in a log on `RocksDB`: what decided for segment files of our own.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use barrage_event::routes::partition_of;
use barrage_event::rules::Compiled;
use barrage_event::{Partition, Stamp, callback};
use barrage_log::{AppendBatch, EmbeddedLog, EventLog, Metrics};
use rocksdb::{DB, Options, WriteBatch, WriteOptions};

use crate::clock::{Spent, Stopwatch, now_ms};
use crate::prepare::log_options;
use crate::report::Report;
use crate::traffic::{APP, Crowd, Traffic};

const PARTITIONS: u16 = 4;

/// Callbacks that become durable together: as many as wait at 64 and at 512 connections.
const GROUPS: [usize; 2] = [64, 512];

/// The records of one group.
type Group = Vec<(Partition, Vec<u8>)>;

/// Reports appends of one thread.
pub(crate) fn run(report: &mut Report, dir: &Path) -> Result<()> {
    report.section("append", "one thread, one durable append a group; the embedded log beside a log on RocksDB");
    let callbacks = if report.quick() { 20_000 } else { 100_000 };
    for size in GROUPS {
        let groups = groups(callbacks, size)?;
        let records: usize = groups.iter().map(Vec::len).sum();
        let own = own_log(&dir.join(format!("own-{size}")), &groups)?;
        let rocks = rocks_log(&dir.join(format!("rocks-{size}")), &groups)?;
        let rate = |spent: &Spent| records as f64 / spent.wall.as_secs_f64();
        let cost = |spent: &Spent| spent.process.as_secs_f64() * 1e6 / records as f64;
        report.figure(format!("embedded, groups of {size}"), rate(&own), "records/s");
        report.figure(format!("embedded, groups of {size}, processor time"), cost(&own), "µs/record");
        report.figure(format!("RocksDB, groups of {size}"), rate(&rocks), "records/s");
        report.figure(format!("RocksDB, groups of {size}, processor time"), cost(&rocks), "µs/record");
        report.figure(format!("embedded to RocksDB, groups of {size}, rate"), rate(&own) / rate(&rocks), "times");
        report.figure(
            format!("RocksDB to embedded, groups of {size}, processor time"),
            cost(&rocks) / cost(&own),
            "times",
        );
    }
    Ok(())
}

fn groups(callbacks: usize, size: usize) -> Result<Vec<Group>> {
    let rules = Compiled::shipped();
    let mut traffic = Traffic::new(Crowd::EVENING, 3);
    let mut body = Vec::new();
    let now = now_ms();
    let mut groups = Vec::with_capacity(callbacks.div_ceil(size));
    for first in (0..callbacks).step_by(size) {
        let mut group = Group::new();
        for number in first..(first + size).min(callbacks) {
            let kind = traffic.next(now, &mut body);
            let callback = callback::decode(kind.command, kind.platform, &body, &rules)?;
            let stamp = Stamp {
                id: number as u128,
                app: APP,
                received_at_ms: now,
                incarnation: 1,
                rules_version: 0,
                verdict: rules.verdict(&callback),
            };
            for (place, route) in callback.routes().iter().enumerate() {
                let partition = Partition { topic: route.topic, index: partition_of(APP, route.key, PARTITIONS) };
                let mut record = Vec::new();
                callback.encode(&stamp, route, place == 0, &mut record);
                group.push((partition, record));
            }
        }
        groups.push(group);
    }
    Ok(groups)
}

fn own_log(dir: &Path, groups: &[Group]) -> Result<Spent> {
    let log: Arc<dyn EventLog> = Arc::new(EmbeddedLog::open(dir, &log_options(PARTITIONS), Metrics::default())?);
    let mut batch = AppendBatch::new();
    let watch = Stopwatch::start();
    for group in groups {
        for (partition, record) in group {
            batch.push(*partition, |buffer| buffer.extend_from_slice(record));
        }
        log.append(&mut batch)?.wait()?;
    }
    Ok(watch.spent())
}

/// Offsets as keys under topic and partition, one synced batch a group. Memtables, compression and background threads
/// as the state stores have them.
fn rocks_log(dir: &Path, groups: &[Group]) -> Result<Spent> {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_write_buffer_size(16 << 20);
    options.set_max_background_jobs(2);
    options.set_compression_type(rocksdb::DBCompressionType::Lz4);
    options.set_allow_concurrent_memtable_write(false);
    let db = DB::open(&options, dir)?;
    let mut synced = WriteOptions::default();
    synced.set_sync(true);
    let mut next = [[0_u64; PARTITIONS as usize]; 2];
    let watch = Stopwatch::start();
    for group in groups {
        let mut batch = WriteBatch::default();
        for (partition, record) in group {
            let topic = u8::from(partition.topic == barrage_event::Topic::User);
            let offset = &mut next[usize::from(topic)][usize::from(partition.index)];
            let mut key = [0; 11];
            key[0] = topic;
            key[1..3].copy_from_slice(&partition.index.to_be_bytes());
            key[3..].copy_from_slice(&offset.to_be_bytes());
            *offset += 1;
            batch.put(key, record);
        }
        db.write_opt(batch, &synced)?;
    }
    let spent = watch.spent();
    drop(db);
    Ok(spent)
}
