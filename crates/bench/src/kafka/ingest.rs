//! Ingest on Kafka beside its two ceilings: bare hyper takes the same callbacks, a bare producer sends the same records.

use std::time::Duration;

use anyhow::Result;

use super::process::Role;
use super::producer::{Produced, Records, produce};
use super::{Bench, us_each};
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
    let warm_up = duration.min(Duration::from_millis(1_500));
    // The broker is compiled while it runs, so its first seconds are none that count.
    let warm = records(RATE_MAX)?;
    report.figure("records a callback", warm.per_callback(), "");
    report.figure("record", warm.record_bytes(), "bytes");
    produce(&options, &warm, UNBOUNDED, warm_up)?;
    drop(warm);
    generator.closed(&hyper.callback, CONNECTIONS, Duration::from_millis(500))?;
    generator.closed(&address, CONNECTIONS, warm_up)?;

    let (mut bare_hyper, mut own, mut broker) = (Side::default(), Side::default(), Duration::ZERO);
    let (mut same, mut unbounded) = (Bare::default(), Bare::default());
    for _ in 0..ROUNDS {
        let before = hyper.times();
        let load = generator.closed(&hyper.callback, CONNECTIONS, duration)?;
        bare_hyper.add(&load, hyper.times().since(&before));
        let (before, broker_before) = (ingest.threads(), bench.broker_time());
        let load = generator.closed(&address, CONNECTIONS, duration)?;
        own.add(&load, ingest.threads().since(&before));
        broker += bench.broker_time().saturating_sub(broker_before);
        for (bare, in_flight, rate) in
            [(&mut same, CONNECTIONS as u64, RATE_MAX), (&mut unbounded, UNBOUNDED, RATE_MAX_UNBOUNDED)]
        {
            let records = records(rate)?;
            let before = bench.broker_time();
            let produced = produce(&options, &records, in_flight, duration)?;
            bare.add(produced, bench.broker_time().saturating_sub(before));
        }
    }
    if ingest.metric("barrage_spool_takeovers_total")? > 0.0 {
        report.note(
            "the spool took over in between: Kafka was too slow for a moment, and part of it is the spool's rate",
        );
    }
    show(report, (&bare_hyper, &own, broker), (&same, &unbounded));
    ingest.stop()?;
    hyper.stop()
}

fn show(report: &mut Report, (hyper, own, broker): (&Side, &Side, Duration), (same, unbounded): (&Bare, &Bare)) {
    for (name, side) in [("bare hyper", hyper), ("ingest", own)] {
        report.figure(name, mean(&side.rates), "callb/s");
        report.figure(format!("{name}, p50"), mean(&side.p50_ms), "ms");
        report.figure(format!("{name}, p99"), mean(&side.p99_ms), "ms");
        report.figure(format!("{name}, server"), side.per_request(side.server), "µs/callb");
        report.figure(format!("{name}, generator"), side.per_request(side.generator), "µs/callb");
    }
    report.figure("ingest, broker", own.per_request(broker), "µs/callb");
    for (thread, spent) in &own.threads {
        let each = own.per_request(*spent);
        if each >= 0.1 {
            report.note(&format!("of the server, thread {thread}: {each:.1} µs/callb"));
        }
    }
    same.show(report, "bare producer, 512 callbacks in flight");
    unbounded.show(report, "bare producer, unbounded");
    let share = |bare: &[f64]| 100.0 * median(own.rates.iter().zip(bare).map(|(own, bare)| own / bare).collect());
    report.aimed("ingest, of bare hyper", share(&hyper.rates), "%", Aim::AtLeast(30.0));
    let cost = own.cost() + own.per_request(broker);
    report.figure("ingest, of bare hyper, by processor time", 100.0 * hyper.cost() / cost, "%");
    report.aimed("ingest, of the bare producer, 512 in flight", share(&same.rates), "%", Aim::AtLeast(50.0));
    report.figure("ingest, of the bare producer, unbounded", share(&unbounded.rates), "%");
    report.figure("ingest, of the bare producer, by processor time", 100.0 * same.cost() / cost, "%");
}
