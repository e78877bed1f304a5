//! Projectors fed from Kafka: records that one core's worth of their own processor time applies.

use std::time::{Duration, Instant};

use anyhow::Result;
use barrage_event::Topic;

use super::Bench;
use super::process::{Role, file_bytes};
use crate::prepare;
use crate::report::{Aim, Report};
use crate::traffic::Crowd;

/// Every record is read by the time this counts it.
pub(super) const READ: &str = "barrage_worker_records_read_total";

/// Reports one projector that begins with nothing.
pub(super) fn run(report: &mut Report, bench: &Bench<'_>) -> Result<()> {
    report.section(
        "kafka project",
        "`barrage project` on an empty directory, until every record of full topics is applied",
    );
    let prefix = "project.";
    let options = bench.options(prefix);
    let count = if bench.quick { 150_000 } else { 1_000_000 };
    let begun = Instant::now();
    let prepared = prepare::mixed_in_kafka(&options, Crowd::HOT, count)?;
    let records = prepared.records;
    report.note(&format!(
        "{records} records of 200 rooms and 20,000 accounts, {} and {} partitions, appended in {:.1} s",
        options.room_partitions,
        options.user_partitions,
        begun.elapsed().as_secs_f64()
    ));
    let mut disk = 0;
    for topic in Topic::ALL {
        for index in 0..options.room_partitions.max(options.user_partitions) {
            let name = format!("{}-{index}", options.topic(topic.short()));
            disk += file_bytes(&bench.broker.data_dir(1).join(name), ".log");
        }
    }
    report.figure("record", prepared.bytes as f64 / records as f64, "bytes");
    report.figure("the same on the broker's disk", disk as f64 / records as f64, "bytes");

    let broker = bench.broker_time();
    let begun = Instant::now();
    let projector = bench.start(Role::Project, "projector", prefix, &[])?;
    let listens = begun.elapsed();
    projector.wait_metric(READ, |read| read >= records as f64)?;
    projector.wait_metric("barrage_worker_lag_records", |lag| lag == 0.0)?;
    let wall = begun.elapsed();
    let (threads, own) = (projector.threads(), projector.time());
    let broker = bench.broker_time().saturating_sub(broker);
    let rate = |spent: Duration| records as f64 / spent.as_secs_f64();
    let ns = |spent: Duration| spent.as_secs_f64() * 1e9 / records as f64;
    report.aimed("per core", rate(own), "records/s", Aim::AtLeast(250_000.0));
    if let Some(embedded) = report.value("worker", "hot, per core") {
        report.figure("per core, of the worker on the embedded log", 100.0 * rate(own) / embedded, "%");
    }
    report.figure("by the clock", rate(wall), "records/s");
    report.figure("until it listens", listens.as_secs_f64(), "s");
    report.figure("a record", ns(own), "ns");
    report.figure("a record, broker", ns(broker), "ns");
    for (thread, spent) in threads.since(&crate::clock::ProcessTimes::default()) {
        if ns(spent) >= 1.0 {
            report.note(&format!("of a record, thread {thread}: {:.0} ns", ns(spent)));
        }
    }
    let dropped = projector.metric("barrage_worker_records_duplicate_total")?;
    if dropped > 0.0 {
        report.note(&format!("{dropped} records were dropped as duplicates, so it did less than it should"));
    }
    projector.stop()
}
