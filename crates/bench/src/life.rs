//! The life of a server: how long a restart takes after a crash, what a record costs on disk, and memory.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use barrage_replay::load::{ClosedLoop, closed_loop};

use crate::clock::now_ms;
use crate::prepare;
use crate::report::{Aim, Report};
use crate::server::{Kind, Server};
use crate::traffic::{Crowd, Traffic, requests};

const MIB: f64 = (1_u64 << 20) as f64;

/// Partitions of a topic by default.
const PARTITIONS: u16 = 4;

/// Reports a restart after kill -9 in the middle of a load.
pub(crate) fn restart(report: &mut Report, dir: &Path) -> Result<()> {
    report.section("restart", "kill -9 under load, then from the process's start");
    let records = if report.quick() { 100_000 } else { 1_000_000 };
    let prepared = prepare::mixed(dir, PARTITIONS, Crowd::EVENING, records)?;
    report.figure("records in the log", prepared.records as f64, "");
    let mut server = Server::start(Kind::Whole, dir)?;
    server.wait_caught_up()?;
    crash(server)?;

    let begun = Instant::now();
    let mut server = Server::start(Kind::Whole, dir)?;
    let listens = begun.elapsed();
    server.wait_ready()?;
    let ready = begun.elapsed();
    server.wait_caught_up()?;
    let caught_up = begun.elapsed();
    report.figure("listens", listens.as_secs_f64(), "s");
    report.figure("ready", ready.as_secs_f64(), "s");
    report.aimed("ready and every record applied", caught_up.as_secs_f64(), "s", Aim::AtMost(4.0));
    server.stop()?;
    report.figure("log", prepared.bytes as f64 / prepared.records as f64, "bytes/record");
    let state = disk_bytes(&dir.join("state"));
    report.figure("state", state as f64 / prepared.records as f64, "bytes/record");
    Ok(())
}

/// Loads the server and kills it while requests are in flight.
fn crash(server: Server) -> Result<()> {
    let requests = requests(&mut Traffic::new(Crowd::EVENING, 9), 200_000, now_ms());
    let address = server.callback.clone();
    let load = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let load = ClosedLoop { connections: 64, requests: Some(200_000), duration: Some(Duration::from_secs(2)) };
        // Its last requests fail, as they should.
        let _ = runtime.block_on(closed_loop(&address, requests, load));
        anyhow::Ok(())
    });
    std::thread::sleep(Duration::from_millis(1_000));
    server.kill()?;
    load.join().map_err(|_| anyhow::anyhow!("the load panicked"))?
}

/// Reports memory with a million accounts that have spoken.
pub(crate) fn memory(report: &mut Report, dir: &Path) -> Result<()> {
    let users = if report.quick() { 100_000 } else { 1_000_000 };
    let crowd = Crowd::staying(users / 100, users, users);
    report.section("memory", "a server that has applied one message of every account");
    report.figure("accounts", users as f64, "");
    report.figure("rooms", crowd.rooms as f64, "");
    let prepared = prepare::everybody(dir, PARTITIONS, crowd)?;
    let begun = Instant::now();
    let mut server = Server::start(Kind::Whole, dir)?;
    server.wait_caught_up()?;
    report.figure("applied", prepared.records as f64 / begun.elapsed().as_secs_f64(), "records/s");
    // A server at work, not one that has just read everything: some more callbacks come.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let more = requests(&mut Traffic::new(crowd, 10), 20_000, now_ms());
    let load = ClosedLoop { connections: 64, requests: Some(20_000), duration: None };
    runtime.block_on(closed_loop(&server.callback, more, load))?;
    report.aimed("resident", server.memory("VmRSS") as f64 / MIB, "MiB", Aim::AtMost(600.0));
    report.figure("resident at most", server.memory("VmHWM") as f64 / MIB, "MiB");
    report.figure("resident, without files", server.memory("RssAnon") as f64 / MIB, "MiB");
    server.stop()?;
    report.figure("state", disk_bytes(&dir.join("state")) as f64 / users as f64, "bytes/account");
    Ok(())
}

/// Bytes that a directory takes on disk.
fn disk_bytes(dir: &Path) -> u64 {
    const BLOCK: u64 = 512;
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => disk_bytes(&entry.path()),
            Ok(meta) => meta.blocks() * BLOCK,
            Err(_) => 0,
        })
        .sum()
}
