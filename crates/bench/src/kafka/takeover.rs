//! A projector dies or leaves: how long until every number is current again, whoever has it now.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::Bench;
use super::http::Connection;
use super::probe::Probe;
use super::process::{Process, Role};
use super::project::READ;
use crate::clock::{Spent, Stopwatch};
use crate::ingest::Generator;
use crate::prepare;
use crate::report::{Aim, Report};
use crate::traffic::Crowd;

const PREFIX: &str = "takeover.";
/// How long a member of the group may be silent, ms. Short, so that the rest of a takeover shows.
const SESSION_MS: u64 = 3_000;
/// Longest takeover from a process that leaves, s.
const POLITE_S: f64 = 2.0;
/// Callbacks a second meanwhile.
const RATE: f64 = 200.0;
/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(90);

/// What one took.
struct Takeover {
    wall: Duration,
    /// Processor time meanwhile: of the new owner, the broker, and what sends and asks.
    own: Duration,
    broker: Duration,
    generator: Duration,
}

impl Takeover {
    fn report(&self, report: &mut Report, name: &str, limit_s: f64) {
        report.aimed(name, self.wall.as_secs_f64(), "s", Aim::AtMost(limit_s));
        for (who, spent) in [("new owner", self.own), ("broker", self.broker), ("generator", self.generator)] {
            report.figure(format!("{name}, processor time, {who}"), spent.as_secs_f64(), "s");
        }
    }
}

/// The processes and probes of this part.
struct Stage<'a, 'b> {
    bench: &'a Bench<'b>,
    probes: Vec<Probe>,
    ingest: Connection,
    query: Connection,
}

/// Reports takeovers.
pub(super) fn run(report: &mut Report, bench: &Bench<'_>) -> Result<()> {
    report.section("kafka takeover", "from the signal until every partition is read elsewhere, with what came since");
    let count = if bench.quick { 60_000 } else { 400_000 };
    let prepared = prepare::mixed_in_kafka(&bench.options(PREFIX), Crowd::HOT, count)?;
    report.figure("records in the log", prepared.records as f64, "");
    report.figure("session timeout", SESSION_MS as f64 / 1e3, "s");
    let first = projector(bench, "first", true, true)?;
    let begun = Instant::now();
    first.wait_metric(READ, |read| read >= prepared.records as f64)?;
    let rate = prepared.records as f64 / begun.elapsed().as_secs_f64();
    report.figure("an empty projector applies", rate, "records/s");
    // It leaves a snapshot of every partition.
    first.stop()?;
    let ingest = bench.start(Role::Ingest, "ingest", PREFIX, &[])?;
    let query = bench.start(Role::Query, "query", PREFIX, &[])?;
    let mut stage = Stage {
        bench,
        probes: Probe::in_every_partition("probe", bench.options(PREFIX).room_partitions),
        ingest: Connection::new(&ingest.callback()?),
        query: Connection::new(&query.query()?),
    };
    let load = Load::start(ingest.callback()?)?;
    let limit = SESSION_MS as f64 / 1e3 + 3.0;

    let mut dies = projector(bench, "first", true, false)?;
    let takes = projector(bench, "second", true, false)?;
    stage.settle(&[&dies, &takes])?;
    let took = stage.takeover(&takes, || dies.kill())?;
    took.report(report, "kill -9, new owner empty, with snapshots", limit);

    let mut dies = takes;
    let takes = projector(bench, "third", false, false)?;
    stage.settle(&[&dies, &takes])?;
    let took = stage.takeover(&takes, || dies.kill())?;
    // What the dead one had is half of the log.
    let tail = prepared.records as f64 / 2.0 / rate;
    report.figure("kill -9, without snapshots, of that the tail at that rate", tail, "s");
    took.report(report, "kill -9, new owner empty, without snapshots", limit + tail);

    let leaves = takes;
    let takes = projector(bench, "fourth", true, false)?;
    stage.settle(&[&leaves, &takes])?;
    let took = stage.takeover(&takes, || leaves.terminate())?;
    took.report(report, "SIGTERM, new owner empty, with snapshots", POLITE_S);
    report.note(&format!("restored from snapshots: {}", takes.metric("barrage_snapshot_restores_total")?));
    drop(leaves);

    // One that was there a moment ago, and has most of what it needs.
    let leaves = takes;
    let takes = projector(bench, "second", true, false)?;
    stage.settle(&[&leaves, &takes])?;
    let took = stage.takeover(&takes, || leaves.terminate())?;
    took.report(report, "SIGTERM, new owner had them before", POLITE_S);
    drop(leaves);
    load.stop()?;
    for process in [query, takes, ingest] {
        process.stop()?;
    }
    Ok(())
}

fn projector(bench: &Bench<'_>, name: &str, snapshots: bool, at_stop: bool) -> Result<Process> {
    let mut environment = vec![("BARRAGE_KAFKA_SESSION_TIMEOUT_MS", SESSION_MS.to_string())];
    if snapshots {
        let url = bench.dir.join("takeover.snapshots").display().to_string();
        environment.extend([
            ("BARRAGE_SNAPSHOT_URL", url),
            ("BARRAGE_SNAPSHOT_AT_STOP", at_stop.to_string()),
            // By default a partition this short is read from the log, because that is faster.
            ("BARRAGE_SNAPSHOT_RESTORE_LAG_RECORDS", "1000".to_owned()),
        ]);
    }
    bench.start(Role::Project, name, PREFIX, &environment)
}

impl Stage<'_, '_> {
    /// Waits until the partitions are shared out among these processes and all numbers are current.
    fn settle(&mut self, processes: &[&Process]) -> Result<()> {
        let owners = processes.iter().map(|process| process.owner()).collect::<Result<Vec<_>>>()?;
        self.wait_owners(|seen| {
            let known = |name: &String| owners.iter().any(|owner| name.starts_with(owner.as_str()));
            seen.iter().all(known)
                && owners.iter().all(|owner| seen.iter().any(|name| name.starts_with(owner.as_str())))
        })?;
        self.current()
    }

    /// Everything that is sent now is read.
    fn current(&mut self) -> Result<()> {
        for probe in &mut self.probes {
            probe.send(&mut self.ingest)?;
        }
        for probe in &self.probes {
            probe.wait_room(&mut self.query, LOOK_EVERY)?;
            probe.wait_account(&mut self.query, LOOK_EVERY)?;
        }
        Ok(())
    }

    /// From the signal until every partition is this process's and answers with what came after the signal.
    fn takeover(&mut self, takes: &Process, signal: impl FnOnce() -> Result<()>) -> Result<Takeover> {
        let owner = takes.owner()?;
        let (own, broker, watch) = (takes.time(), self.bench.broker_time(), Stopwatch::start());
        signal()?;
        for probe in &mut self.probes {
            probe.send(&mut self.ingest)?;
        }
        self.wait_owners(|seen| seen.iter().all(|name| name.starts_with(&owner)))?;
        for probe in &self.probes {
            probe.wait_room(&mut self.query, LOOK_EVERY)?;
            probe.wait_account(&mut self.query, LOOK_EVERY)?;
        }
        let Spent { wall, process, .. } = watch.spent();
        let broker = self.bench.broker_time().saturating_sub(broker);
        Ok(Takeover { wall, own: takes.time().saturating_sub(own), broker, generator: process })
    }

    /// Waits until the owners of all partitions, each of which answers, are as wanted.
    fn wait_owners(&mut self, wanted: impl Fn(&[String]) -> bool) -> Result<()> {
        let options = self.bench.options(PREFIX);
        let count = usize::from(options.room_partitions + options.user_partitions);
        let begun = Instant::now();
        loop {
            let (_, body) = self.query.get("/v1/status")?;
            let status: serde_json::Value = serde_json::from_slice(&body).context("the status is JSON")?;
            let live = status["partitions"].as_array().into_iter().flatten().filter(|p| p["phase"] == "live");
            let owners: Vec<String> = live.filter_map(|p| Some(p["owner"].as_str()?.to_owned())).collect();
            if owners.len() == count && wanted(&owners) {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                bail!("after {} s {} of {count} partitions are live: {owners:?}", PATIENCE.as_secs(), owners.len());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// A light load until it is stopped.
struct Load {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Load {
    fn start(callback: String) -> Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let mut generator = Generator::new(Crowd::EVENING, 14)?;
        let seen = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            while !seen.load(Ordering::Acquire) {
                generator.open(&callback, 32, RATE, Duration::from_secs(1))?;
            }
            Ok(())
        });
        Ok(Self { over, thread })
    }

    fn stop(self) -> Result<()> {
        self.over.store(true, Ordering::Release);
        self.thread.join().map_err(|_| anyhow::anyhow!("the load panicked"))?
    }
}
