//! From the answer of a callback to the first read that counts it, through three processes and Kafka.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::http::Connection;
use super::probe::Probe;
use super::process::Role;
use super::{Bench, us_each};
use crate::clock::Stopwatch;
use crate::ingest::Generator;
use crate::percentiles::{ms, percentile};
use crate::report::{Aim, Report};
use crate::traffic::Crowd;

/// Readers, each with a room of its own and one callback at a time.
const READERS: u16 = 4;
/// Time between two looks of one reader: it is in every figure, and more looks would be load themselves.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Callbacks a second where the ingest part did not run.
const RATE: f64 = 2_000.0;

/// Reports the time until numbers are readable.
pub(super) fn run(report: &mut Report, bench: &Bench<'_>) -> Result<()> {
    report
        .section("kafka readable", "from a callback's answer to a read on a query process that counts it, under load");
    // A quarter of what ingest alone can do leaves room for the two others.
    let rate = report.value("kafka ingest", "ingest").map_or(RATE, |most| most / 4.0);
    let prefix = "readable.";
    let ingest = bench.start(Role::Ingest, "ingest", prefix, &[])?;
    let projector = bench.start(Role::Project, "projector", prefix, &[])?;
    let query = bench.start(Role::Query, "query", prefix, &[])?;
    let (callback, reads) = (ingest.callback()?, query.query()?);
    // The first answer tells that every partition has an owner.
    let mut probes = Probe::in_every_partition("first", bench.options(prefix).room_partitions);
    for probe in &mut probes {
        probe.send(&mut Connection::new(&callback))?;
        probe.wait_room(&mut Connection::new(&reads), LOOK_EVERY)?;
        probe.wait_account(&mut Connection::new(&reads), LOOK_EVERY)?;
    }
    let mut generator = Generator::new(Crowd::EVENING, 13)?;
    generator.open(&callback, 128, rate, Duration::from_millis(if bench.quick { 300 } else { 2_000 }))?;

    let duration = Duration::from_millis(if bench.quick { 1_500 } else { 12_000 });
    let processes = [("ingest", &ingest), ("projector", &projector), ("query", &query)];
    let before: Vec<Duration> = processes.iter().map(|(_, process)| process.time()).collect();
    let (broker, watch) = (bench.broker_time(), Stopwatch::start());
    let over = AtomicBool::new(false);
    let probes = Probe::in_every_partition("reader", READERS);
    let (load, times) = std::thread::scope(|scope| {
        let readers: Vec<_> =
            probes.into_iter().map(|probe| scope.spawn(|| read(probe, &callback, &reads, &over))).collect();
        let load = generator.open(&callback, 128, rate, duration);
        over.store(true, Ordering::Release);
        let mut times = Vec::new();
        for reader in readers {
            times.extend(reader.join().map_err(|_| anyhow::anyhow!("a reader panicked"))??);
        }
        anyhow::Ok((load?, times))
    })?;
    let mut times = times;
    report.figure("load", load.rate(), "callb/s");
    report.figure("callbacks that were followed", times.len() as f64, "");
    report.figure("callback to answer, p50", load.latency_us.value_at_quantile(0.5) as f64 / 1e3, "ms");
    report.figure("callback to answer, p99", load.latency_us.value_at_quantile(0.99) as f64 / 1e3, "ms");
    report.figure("answer to readable, p50", ms(percentile(&mut times, 0.5)), "ms");
    report.aimed("answer to readable, p99", ms(percentile(&mut times, 0.99)), "ms", Aim::AtMost(500.0));
    report.figure("answer to readable, at most", ms(percentile(&mut times, 1.0)), "ms");
    for ((name, process), before) in processes.iter().zip(before) {
        report.figure(*name, us_each(process.time().saturating_sub(before), load.sent), "µs/callb");
    }
    report.figure("broker", us_each(bench.broker_time().saturating_sub(broker), load.sent), "µs/callb");
    report.figure("generator and readers", us_each(watch.spent().process, load.sent), "µs/callb");
    for process in [query, projector, ingest] {
        process.stop()?;
    }
    Ok(())
}

/// Sends, and reads until it is counted, again and again.
fn read(mut probe: Probe, callback: &str, query: &str, over: &AtomicBool) -> Result<Vec<Duration>> {
    let (mut ingest, mut query) = (Connection::new(callback), Connection::new(query));
    let mut times = Vec::new();
    while !over.load(Ordering::Acquire) {
        probe.send(&mut ingest)?;
        let answered = Instant::now();
        probe.wait_room(&mut query, LOOK_EVERY)?;
        times.push(answered.elapsed());
    }
    Ok(times)
}
