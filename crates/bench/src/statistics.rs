//! What each statistic costs a record, how that cost goes as a log grows, and ranking 10,000 rooms.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use barrage_log::EventLog;
use barrage_replay::load::{ClosedLoop, OpenLoop, closed_loop, open_loop};

use crate::clock::now_ms;
use crate::percentiles::{ms, percentile};
use crate::prepare;
use crate::report::{Aim, Report};
use crate::server::{Kind, Server};
use crate::traffic::{Crowd, Traffic, requests};
use crate::worker::{Engines, Pass, Setup, engines, open};

/// The same log with the first statistic, the first two, and so on: what the next one adds is what it costs, because it
/// may read the rows of those before it.
pub(crate) fn each(report: &mut Report, dir: &Path) -> Result<()> {
    let records = if report.quick() { 150_000 } else { 1_000_000 };
    report.section("statistics", "a hot log through the first statistics, one more each time; one thread");
    prepare::mixed(dir, 4, Crowd::HOT, records)?;
    let log = open(dir, 4)?;
    let names: Vec<&str> = barrage::statistics::statistics().iter().map(|statistic| statistic.name()).collect();
    let mut costs = Vec::new();
    for count in 0..=names.len() {
        let setup = Setup { statistics: count, ..Setup::HOT };
        // The quicker one of two: a neighbour of this machine only ever adds.
        let first = engines(dir, &format!("a{count}"), &log, setup)?.finish()?;
        let second = engines(dir, &format!("b{count}"), &log, setup)?.finish()?;
        costs.push(first.ns().min(second.ns()));
    }
    let whole = costs.last().copied().unwrap_or_default();
    report.figure("a record, without statistics", costs[0], "ns");
    for (name, pair) in names.iter().zip(costs.windows(2)) {
        report.figure(format!("{name} adds"), pair[1] - pair[0], "ns");
        report.figure(format!("{name}, share of all"), 100.0 * (pair[1] - pair[0]) / whole, "%");
    }
    report.figure("a record, with all", whole, "ns");
    report.aimed("all statistics, hot, per core", 1e9 / whole, "records/s", Aim::AtLeast(200_000.0));
    Ok(())
}

/// The place of a log that all others are compared with.
const EARLY: u64 = 100_000;
/// Records that are measured at a time, between two commits, and how often.
const WINDOW: u64 = 20_000;
const TURNS: u64 = 5;
/// So many before it is the other one's turn.
const SLICE: u64 = 2_000;
/// Applied before those that are measured, by turns as well: the old store was idle while the new one was made, so its rows
/// went from the processor's caches.
const WARM: u64 = 3 * SLICE;
/// The records of a turn.
const TURN: u64 = WARM + WINDOW;
/// Where a new store begins its turn.
const NEW_FROM: u64 = EARLY - WINDOW / 2 - WARM;

/// What records took in a store and in a new one beside it.
#[derive(Default)]
struct Beside {
    late: Pass,
    early: Pass,
}

impl Beside {
    /// One turn of the store, which is at `from`.
    fn turn(&mut self, dir: &Path, log: &Arc<dyn EventLog>, old: &mut Engines, from: u64) -> Result<()> {
        let name = format!("new-{from}");
        let mut new = engines(dir, &name, log, Setup::HOT)?;
        new.run_records(NEW_FROM)?;
        // The new stores all read the same part of the log, which would be in the processor's caches for them alone.
        old.look_at_records(from + TURN)?;
        new.look_at_records(NEW_FROM + TURN)?;
        for done in (SLICE..=TURN).step_by(SLICE as usize) {
            old.apply_records(from + done)?;
            new.apply_records(NEW_FROM + done)?;
            if done == WARM {
                old.forget_cost();
                new.forget_cost();
            }
        }
        self.late += old.run_records(from + TURN)?;
        self.early += new.run_records(NEW_FROM + TURN)?;
        drop(new);
        Ok(std::fs::remove_dir_all(dir.join(name))?)
    }

    fn times(&self) -> f64 {
        self.late.ns() / self.early.ns()
    }
}

/// A long log, without bodies: the cost of a record after so many. Of viewers who come and go, which is what a log's length
/// alone costs; and of accounts that stay, whose rows fill: as many as come and go, so that all are known well after 100,000
/// records; ten times as many, of whom that place sees five records each; and more than fit into the overlay.
///
/// Two readings a minute apart tell more of this machine's neighbours than of the log. So at every place a new store that
/// has applied 100,000 records goes on beside the old one, a few records in turn: whatever slows one down slows the other.
///
/// At the end the old store is opened again as by a new process and applies as many records as the new one has: that tells
/// what the length of the log costs from what a process costs whose memory has filled.
pub(crate) fn curve(report: &mut Report, dir: &Path) -> Result<()> {
    let places: &[u64] =
        if report.quick() { &[EARLY, 300_000] } else { &[EARLY, 300_000, 1_000_000, 3_000_000, 10_000_000] };
    report.section(
        "growth",
        "one log through all statistics; a record around the place named, to one of a new store beside",
    );
    let all = places.last().copied().unwrap_or_default();
    let crowds = [
        ("2,000 of ever new accounts", Crowd::PASSING),
        ("2,000 accounts", Crowd::REGULARS),
        ("20,000 accounts", Crowd::HOT),
        ("100,000 accounts", Crowd::EVENING),
    ];
    for (who, crowd) in crowds {
        let dir = dir.join(crowd.users.to_string());
        prepare::long(&dir, crowd, all + TURNS * (TURN + NEW_FROM + TURN))?;
        let log = open(&dir, 1)?;
        let mut old = engines(&dir, "old", &log, Setup::HOT)?;
        for &place in places {
            let mut both = Beside::default();
            for turn in 0..TURNS {
                let from = place - TURNS * TURN / 2 + turn * TURN;
                old.run_records(from)?;
                both.turn(&dir, &log, &mut old, from)?;
            }
            let name = format!("{who}, at {place} records");
            report.figure(&name, both.late.ns(), "ns");
            report.figure(format!("{name}, to a new store"), both.times(), "times");
        }
        let (mut both, mut from) = (Beside::default(), all + TURNS * TURN / 2);
        for _ in 0..TURNS {
            old = old.opened_again()?;
            from += NEW_FROM;
            old.run_records(from)?;
            both.turn(&dir, &log, &mut old, from)?;
            from += TURN;
        }
        report.figure(format!("{who}, after that in a new process, to a new store"), both.times(), "times");
        drop((old, log));
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(())
}

/// `GET /v1/rooms?sort=heat` over 10,000 rooms while callbacks come in.
pub(crate) fn ranking(report: &mut Report, dir: &Path) -> Result<()> {
    report.section("ranking", "the hottest 50 of 10,000 rooms, asked again and again while callbacks come in");
    let rooms = if report.quick() { 1_000 } else { 10_000 };
    let crowd = Crowd::staying(rooms, rooms * 5, rooms * 10);
    let mut server = Server::start(Kind::Whole, dir)?;
    server.wait_ready()?;
    let query = server.query().context("the whole server was built")?.to_owned();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut traffic = Traffic::new(crowd, 12);
    let count = rooms * 20;
    let load = ClosedLoop { connections: 64, requests: Some(count), duration: None };
    runtime.block_on(closed_loop(&server.callback, requests(&mut traffic, count as usize, now_ms()), load))?;
    server.wait_caught_up()?;
    for (name, load) in [("idle", None), ("with 1,000 callbacks/s", Some(1_000.0))] {
        let seconds = if report.quick() { 2 } else { 5 };
        let duration = Duration::from_secs(seconds);
        let more = requests(&mut traffic, 1_000 * seconds as usize + 1, now_ms());
        let callback = server.callback.clone();
        let task = load.map(|rate| {
            runtime.spawn(async move { open_loop(&callback, more, OpenLoop { rate, duration, connections: 16 }).await })
        });
        let (mut times, begun) = (Vec::new(), Instant::now());
        let mut connection = Connection::open(&query)?;
        while begun.elapsed() < duration {
            times.push(connection.get("/v1/rooms?sort=heat&limit=50")?);
        }
        if let Some(task) = task {
            runtime.block_on(task)??;
        }
        report.figure(format!("{name}, p50"), ms(percentile(&mut times, 0.5)), "ms");
        report.aimed(format!("{name}, p99"), ms(percentile(&mut times, 0.99)), "ms", Aim::AtMost(5.0));
    }
    server.stop()
}

/// One kept-alive connection.
struct Connection(TcpStream, Vec<u8>);

impl Connection {
    fn open(host: &str) -> Result<Self> {
        let stream = TcpStream::connect(host)?;
        stream.set_nodelay(true)?;
        Ok(Self(stream, vec![0; 1 << 20]))
    }

    /// Asks, reads the whole answer, and says how long that took.
    fn get(&mut self, path: &str) -> Result<Duration> {
        let begun = Instant::now();
        self.0.write_all(format!("GET {path} HTTP/1.1\r\nHost: b\r\n\r\n").as_bytes())?;
        let mut length = 0;
        loop {
            let read = self.0.read(&mut self.1[length..])?;
            if read == 0 {
                bail!("the connection was closed");
            }
            length += read;
            let text = String::from_utf8_lossy(&self.1[..length]);
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            if !head.starts_with("HTTP/1.1 200") {
                bail!("answered {head}\n{body}");
            }
            let head = head.to_ascii_lowercase();
            let declared = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            let whole = match declared {
                Some(bytes) => body.len() >= bytes,
                None => body.ends_with("0\r\n\r\n"),
            };
            if whole {
                return Ok(begun.elapsed());
            }
        }
    }
}
