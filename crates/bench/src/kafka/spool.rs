//! A broker that stands still: callbacks go on into the spool, and how fast that is empty when the broker is back.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::process::Role;
use super::{Bench, us_each};
use crate::ingest::Generator;
use crate::report::Report;
use crate::traffic::Crowd;

const WAITING: &str = "barrage_spool_waiting_records";
const CONNECTIONS: usize = 512;

/// Reports the spool.
pub(super) fn run(report: &mut Report, bench: &Bench<'_>) -> Result<()> {
    report.section(
        "kafka spool",
        "closed loop of 512 connections while the broker stands still; then the broker is back",
    );
    let ingest = bench.start(Role::Ingest, "ingest", "spool.", &[])?;
    let mut generator = Generator::new(Crowd::EVENING, 15)?;
    generator.closed(&ingest.callback()?, CONNECTIONS, Duration::from_millis(500))?;
    // Frozen, not killed: a broker reads all that it did not flush before it is back, which is no figure of ours.
    bench.broker.halt(1);
    let duration = Duration::from_millis(if bench.quick { 1_500 } else { 5_000 });
    let before = ingest.time();
    let loaded = generator.closed(&ingest.callback()?, CONNECTIONS, duration);
    let meanwhile = ingest.time().saturating_sub(before);
    bench.broker.resume(1);
    let back = Instant::now();
    let (own, broker) = (ingest.time(), bench.broker_time());
    let load = loaded?;
    let waiting = ingest.metric(WAITING)?;
    ingest.wait_metric(WAITING, |now| now < waiting)?;
    let begins = back.elapsed();
    ingest.wait_metric(WAITING, |now| now == 0.0)?;
    let drained = back.elapsed();
    let (own, broker) = (ingest.time().saturating_sub(own), bench.broker_time().saturating_sub(broker));
    report.figure("callbacks meanwhile", load.rate(), "callb/s");
    report.figure("callbacks meanwhile, p99", load.latency_us.value_at_quantile(0.99) as f64 / 1e3, "ms");
    report.figure("a callback meanwhile, ingest", us_each(meanwhile, load.sent), "µs");
    report.figure("a callback meanwhile, generator", us_each(load.cpu, load.sent), "µs");
    report.figure("records that wait", waiting, "");
    report.figure("back to the first that is drained", begins.as_secs_f64(), "s");
    report.figure("back to empty", drained.as_secs_f64(), "s");
    report.figure("drained, from the broker's return on", waiting / drained.as_secs_f64(), "records/s");
    report.figure("drained, from the first on", waiting / (drained - begins).as_secs_f64().max(1e-3), "records/s");
    report.figure("a drained record, ingest", us_each(own, waiting as u64), "µs");
    report.figure("a drained record, broker", us_each(broker, waiting as u64), "µs");
    ingest.stop()
}
