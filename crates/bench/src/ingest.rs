//! Callbacks over HTTP: the share of bare hyper that durable ingest reaches, and its latency at half load.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use barrage_replay::load::{ClosedLoop, LoadReport, OpenLoop, closed_loop, open_loop};
use tokio::runtime::Runtime;

use crate::clock::now_ms;
use crate::disk::fdatasync_times;
use crate::percentiles::{ms, percentile};
use crate::report::{Aim, Report};
use crate::server::{Kind, Server};
use crate::traffic::{Crowd, Traffic, requests};

/// Rounds of A B C A B C. Shares are taken round by round, because the machine may have other things to do, too.
const ROUNDS: usize = 4;

/// Most callbacks per second that requests are prepared for. A server that is faster ends its round early.
const RATE_MAX: usize = 60_000;

/// What is measured beside what.
const SIDES: [(Kind, &str); 3] =
    [(Kind::BareHyper, "bare hyper"), (Kind::Ingest, "ingest alone"), (Kind::Whole, "with projections")];

/// Sums of one side's rounds.
#[derive(Debug, Default)]
pub(crate) struct Side {
    pub(crate) rates: Vec<f64>,
    pub(crate) p50_ms: Vec<f64>,
    pub(crate) p99_ms: Vec<f64>,
    pub(crate) requests: u64,
    pub(crate) server: Duration,
    pub(crate) generator: Duration,
    pub(crate) threads: Vec<(String, Duration)>,
}

impl Side {
    pub(crate) fn add(&mut self, load: &LoadReport, threads: Vec<(String, Duration)>) {
        self.rates.push(load.rate());
        self.p50_ms.push(load.latency_us.value_at_quantile(0.5) as f64 / 1e3);
        self.p99_ms.push(load.latency_us.value_at_quantile(0.99) as f64 / 1e3);
        self.requests += load.sent;
        self.server += threads.iter().map(|(_, spent)| *spent).sum::<Duration>();
        self.generator += load.cpu;
        for (name, spent) in threads {
            match self.threads.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += spent,
                None => self.threads.push((name, spent)),
            }
        }
    }

    /// Processor time a request of server and generator together, µs: what limits a closed loop on few cores.
    pub(crate) fn cost(&self) -> f64 {
        self.per_request(self.server + self.generator)
    }

    pub(crate) fn per_request(&self, spent: Duration) -> f64 {
        spent.as_secs_f64() * 1e6 / self.requests.max(1) as f64
    }
}

pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = values.get(middle).copied().unwrap_or(f64::NAN);
    if values.len().is_multiple_of(2) {
        (upper + values.get(middle.wrapping_sub(1)).copied().unwrap_or(upper)) / 2.0
    } else {
        upper
    }
}

/// Loads servers with callbacks that never come twice.
pub(crate) struct Generator {
    runtime: Runtime,
    traffic: Traffic,
}

impl Generator {
    /// `stream` distinguishes the callbacks of this generator from those of others in the same log.
    pub(crate) fn new(crowd: Crowd, stream: u32) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        Ok(Self { runtime, traffic: Traffic::new(crowd, stream) })
    }

    /// As fast as answers come.
    pub(crate) fn closed(&mut self, address: &str, connections: usize, duration: Duration) -> Result<LoadReport> {
        let count = (RATE_MAX as f64 * duration.as_secs_f64()) as usize;
        let requests = requests(&mut self.traffic, count, now_ms());
        let load = ClosedLoop { connections, requests: Some(count as u64), duration: Some(duration) };
        checked(self.runtime.block_on(closed_loop(address, requests, load))?)
    }

    /// At a fixed rate.
    pub(crate) fn open(
        &mut self,
        address: &str,
        connections: usize,
        rate: f64,
        duration: Duration,
    ) -> Result<LoadReport> {
        let count = (rate * duration.as_secs_f64()) as usize + 1;
        let requests = requests(&mut self.traffic, count, now_ms());
        checked(self.runtime.block_on(open_loop(address, requests, OpenLoop { rate, duration, connections }))?)
    }
}

/// A load in which anything went wrong says nothing.
fn checked(load: LoadReport) -> Result<LoadReport> {
    if load.refused + load.failed == 0 {
        return Ok(load);
    }
    let why = load.first_problem.as_deref().unwrap_or_default();
    bail!("of {} requests {} were refused and {} failed: {why}", load.sent, load.refused, load.failed)
}

/// Reports ingest.
pub(crate) fn run(report: &mut Report, dir: &Path) -> Result<()> {
    report.section("ingest", "closed loop, alternately on bare hyper, on ingest alone, and with projections on");
    let duration = Duration::from_millis(if report.quick() { 500 } else { 2_500 });
    let mut generator = Generator::new(Crowd::EVENING, 5)?;
    let mut servers = Vec::new();
    for (kind, name) in SIDES {
        let server = Server::start(kind, &dir.join(name.replace(' ', "-")))?;
        server.wait_ready()?;
        // The first requests open connections, make threads and fill caches.
        generator.closed(&server.callback, 64, Duration::from_millis(500))?;
        servers.push(server);
    }
    for connections in [64, 512] {
        let mut sides: [Side; 3] = Default::default();
        for _ in 0..ROUNDS {
            for (server, side) in servers.iter().zip(&mut sides) {
                let before = server.times();
                let load = generator.closed(&server.callback, connections, duration)?;
                side.add(&load, server.times().since(&before));
                if let Some(lag) = server.lag() {
                    report.note(&format!("{connections} connections: {lag} records wait for their commit at the end"));
                }
            }
        }
        show(report, connections, &sides);
    }
    latency(report, dir, &mut generator, &servers)?;
    servers.into_iter().try_for_each(Server::stop)
}

fn show(report: &mut Report, connections: usize, sides: &[Side; 3]) {
    for ((_, server), side) in SIDES.iter().zip(sides) {
        let name = |what: &str| format!("{connections} connections, {server}{what}");
        report.figure(name(""), mean(&side.rates), "requests/s");
        report.figure(name(", p50"), mean(&side.p50_ms), "ms");
        report.figure(name(", p99"), mean(&side.p99_ms), "ms");
        report.figure(name(", server"), side.per_request(side.server), "µs/req");
        report.figure(name(", generator"), side.per_request(side.generator), "µs/req");
        for (thread, spent) in &side.threads {
            let each = side.per_request(*spent);
            if each >= 0.1 {
                report.note(&format!("of that, thread {thread}: {each:.1} µs/req"));
            }
        }
    }
    for ((_, server), side) in SIDES.iter().zip(sides).skip(1) {
        let name = |what: &str| format!("{connections} connections, {server}, of bare hyper{what}");
        let share = 100.0 * median(side.rates.iter().zip(&sides[0].rates).map(|(own, bare)| own / bare).collect());
        match aim(server) {
            Some(aim) if connections == 512 => report.aimed(name(""), share, "%", aim),
            _ => report.figure(name(""), share, "%"),
        }
        report.figure(name(", by processor time"), 100.0 * sides[0].cost() / side.cost(), "%");
    }
}

fn aim(server: &str) -> Option<Aim> {
    match server {
        "ingest alone" => Some(Aim::AtLeast(60.0)),
        "with projections" => Some(Aim::AtLeast(45.0)),
        _ => None,
    }
}

/// Latency at half of the rate that the closed loop reached with projections, beside bare `fdatasync` just before and
/// after. Bare hyper and ingest alone at the same rate tell what the machine and what the projections add.
fn latency(report: &mut Report, dir: &Path, generator: &mut Generator, servers: &[Server]) -> Result<()> {
    report.section("latency", "open loop at half of the rate with projections on at 512 connections");
    let most = report.value("ingest", "512 connections, with projections").context("ingest was measured")?;
    let quick = report.quick();
    let (disk_time, load_time) = if quick { (500, 1_500) } else { (1_500, 8_000) };
    let disk_time = Duration::from_millis(disk_time);
    let mut disk = fdatasync_times(dir, 4 << 10, disk_time)?;
    let mut p99_ms = f64::NAN;
    for ((_, name), server) in SIDES.iter().zip(servers) {
        let load = generator.open(&server.callback, 512, most / 2.0, Duration::from_millis(load_time))?;
        let quantile = |share: f64| load.latency_us.value_at_quantile(share) as f64 / 1e3;
        report.figure(format!("{name}, rate"), load.rate(), "requests/s");
        for (label, share) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
            report.figure(format!("{name}, {label}"), quantile(share), "ms");
        }
        // The last one is with projections.
        p99_ms = quantile(0.99);
    }
    disk.extend(fdatasync_times(dir, 4 << 10, disk_time)?);
    let disk_p99_ms = ms(percentile(&mut disk, 0.99));
    report.figure("fdatasync 4 KiB p50", ms(percentile(&mut disk, 0.5)), "ms");
    report.figure("fdatasync 4 KiB p99", disk_p99_ms, "ms");
    report.aimed("p99 with projections to that of bare fdatasync", p99_ms / disk_p99_ms, "times", Aim::AtMost(3.0));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_lie_in_the_middle() {
        for (values, expected) in
            [(vec![3.0], 3.0), (vec![4.0, 1.0], 2.5), (vec![9.0, 1.0, 2.0], 2.0), (vec![4.0, 1.0, 2.0, 9.0], 3.0)]
        {
            assert_eq!(median(values.clone()), expected, "{values:?}");
        }
        assert!(median(Vec::new()).is_nan());
    }
}
