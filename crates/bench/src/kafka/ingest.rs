//! Ingest on Kafka beside its two ceilings: bare hyper takes the same callbacks, a bare producer sends the same records.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::process::Role;
use super::producer::{Produced, Records, produce};
use super::{Bench, is_compiler, us_each};
use crate::clock::now_ms;
use crate::ingest::{Generator, Side, mean, median};
use crate::report::{Aim, Report};
use crate::server::{Kind, Server};
use crate::traffic::{Crowd, Traffic};

const ROUNDS: usize = 4;
const CONNECTIONS: usize = 512;

/// Callbacks that the producer has unacknowledged when nobody waits for an answer: as many as it likes.
const UNBOUNDED: u64 = 100_000;
/// Callbacks a second that records are prepared for. A producer that is faster ends its round early.
const RATE_MAX: usize = 60_000;
const RATE_MAX_UNBOUNDED: usize = 120_000;

/// Sums of a producer's rounds.
#[derive(Default)]
struct Bare {
    rates: Vec<f64>,
    sum: Produced,
    broker: Duration,
}

impl Bare {
    fn add(&mut self, produced: Produced, broker: Duration) {
        self.rates.push(produced.rate());
        self.sum.callbacks += produced.callbacks;
        self.sum.spent.process += produced.spent.process;
        self.broker += broker;
    }

    /// Processor time a callback of producer and broker together, µs.
    fn cost(&self) -> f64 {
        us_each(self.sum.spent.process + self.broker, self.sum.callbacks)
    }

    fn show(&self, report: &mut Report, name: &str) {
        report.figure(name, mean(&self.rates), "callb/s");
        report.figure(format!("{name}, producer"), us_each(self.sum.spent.process, self.sum.callbacks), "µs/callb");
        report.figure(format!("{name}, broker"), us_each(self.broker, self.sum.callbacks), "µs/callb");
    }
}

/// Reports ingest on Kafka.
pub(super) fn run(report: &mut Report, bench: &Bench<'_>) -> Result<()> {
    report.section(
        "kafka ingest",
        "closed loop of 512 connections on bare hyper and on `barrage ingest`, and a bare producer of the same records",
    );
    let duration = Duration::from_millis(if bench.quick { 500 } else { 2_500 });
    let options = bench.options("bare.");
    bench.make_topics("bare.")?;
    let mut traffic = Traffic::new(Crowd::EVENING, 11);
    let mut records = |rate: usize| {
        let callbacks = (rate as f64 * duration.as_secs_f64()) as usize;
        Records::new(&mut traffic, callbacks, now_ms(), &options)
    };
    let mut generator = Generator::new(Crowd::EVENING, 12)?;
    let hyper = Server::start(Kind::BareHyper, &bench.dir.join("hyper"))?;
    let ingest = bench.start(Role::Ingest, "ingest", "ingest.", &[])?;
    let address = ingest.callback()?;
    let warm = records(RATE_MAX)?;
    report.figure("records a callback", warm.per_callback(), "");
    report.figure("record", warm.record_bytes(), "bytes");
    generator.closed(&hyper.callback, CONNECTIONS, Duration::from_millis(500))?;
    warm_up(report, bench, duration, || {
        produce(&options, &warm, CONNECTIONS as u64, duration)?;
        generator.closed(&address, CONNECTIONS, duration)?;
        Ok(())
    })?;
    drop(warm);

    let (mut bare_hyper, mut own, mut broker) = (Side::default(), Side::default(), Side::default());
    let (mut same, mut unbounded) = (Bare::default(), Bare::default());
    for _ in 0..ROUNDS {
        let before = hyper.times();
        let load = generator.closed(&hyper.callback, CONNECTIONS, duration)?;
        bare_hyper.add(&load, hyper.times().since(&before));
        let (before, broker_before) = (ingest.threads(), bench.broker_threads());
        let load = generator.closed(&address, CONNECTIONS, duration)?;
        own.add(&load, ingest.threads().since(&before));
        let mut threads = bench.broker_threads().since(&broker_before);
        threads.retain(|(name, _)| !is_compiler(name));
        broker.add(&load, threads);
        for (bare, in_flight, rate) in
            [(&mut same, CONNECTIONS as u64, RATE_MAX), (&mut unbounded, UNBOUNDED, RATE_MAX_UNBOUNDED)]
        {
            let records = records(rate)?;
            let before = bench.broker_time();
            let produced = produce(&options, &records, in_flight, duration)?;
            bare.add(produced, bench.broker_time().saturating_sub(before));
        }
    }
    let takeovers = ingest.metric("barrage_spool_takeovers_total")?;
    if takeovers > 0.0 {
        let records = ingest.metric("barrage_spool_records_total")?;
        report.note(&format!(
            "Kafka did not acknowledge in time {takeovers} times, so {records} records went through the spool, part of \
             them in the warm-up"
        ));
    }
    show(report, (&bare_hyper, &own, &broker), (&same, &unbounded));
    ingest.stop()?;
    hyper.stop()
}

/// The broker is compiled while it runs, so its first seconds are none that count. Loads it until its compiler takes a
/// tenth of a core or less, within reason.
fn warm_up(
    report: &mut Report,
    bench: &Bench<'_>,
    duration: Duration,
    mut load: impl FnMut() -> Result<()>,
) -> Result<()> {
    const ROUNDS_MAX: u32 = 4;
    let mut share = f64::NAN;
    for _ in 0..ROUNDS_MAX {
        let (compiler, begun) = (bench.compiler_time(), Instant::now());
        load()?;
        let spent = bench.compiler_time().saturating_sub(compiler);
        share = spent.as_secs_f64() / begun.elapsed().as_secs_f64();
        if share <= 0.1 || duration < Duration::from_secs(1) {
            break;
        }
    }
    report.figure("broker's compiler after the warm-up", 100.0 * share, "% core");
    Ok(())
}

fn show(report: &mut Report, (hyper, own, broker): (&Side, &Side, &Side), (same, unbounded): (&Bare, &Bare)) {
    for (name, side) in [("bare hyper", hyper), ("ingest", own)] {
        report.figure(name, mean(&side.rates), "callb/s");
        report.figure(format!("{name}, p50"), mean(&side.p50_ms), "ms");
        report.figure(format!("{name}, p99"), mean(&side.p99_ms), "ms");
        report.figure(format!("{name}, server"), side.per_request(side.server), "µs/callb");
        report.figure(format!("{name}, generator"), side.per_request(side.generator), "µs/callb");
    }
    report.figure("ingest, broker", broker.per_request(broker.server), "µs/callb");
    for (name, side) in [("server", own), ("broker", broker)] {
        for (thread, spent) in &side.threads {
            let each = side.per_request(*spent);
            if each >= 0.3 {
                report.note(&format!("of the {name}, thread {thread}: {each:.1} µs/callb"));
            }
        }
    }
    same.show(report, "bare producer, 512 callbacks in flight");
    unbounded.show(report, "bare producer, unbounded");
    let share = |bare: &[f64]| 100.0 * median(own.rates.iter().zip(bare).map(|(own, bare)| own / bare).collect());
    report.aimed("ingest, of bare hyper", share(&hyper.rates), "%", Aim::AtLeast(30.0));
    let cost = own.cost() + broker.per_request(broker.server);
    report.figure("ingest, of bare hyper, by processor time", 100.0 * hyper.cost() / cost, "%");
    report.aimed("ingest, of the bare producer, 512 in flight", share(&same.rates), "%", Aim::AtLeast(50.0));
    // One processor does both for a callback, so no server on these cores comes nearer to the producer than this.
    let both: Vec<f64> =
        hyper.rates.iter().zip(&same.rates).map(|(http, kafka)| 1.0 / (1.0 / http + 1.0 / kafka)).collect();
    report.figure("ingest, of bare hyper and that producer in turn", share(&both), "%");
    report.figure("ingest, of the bare producer, unbounded", share(&unbounded.rates), "%");
    report.figure("ingest, of the bare producer, by processor time", 100.0 * same.cost() / cost, "%");
    report.figure("ingest, of both together, by processor time", 100.0 * (hyper.cost() + same.cost()) / cost, "%");
}
