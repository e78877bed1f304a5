//! Measures Barrage against bare ceilings of the same run: bare hyper, bare `fdatasync`, a bare log.
//!
//! Absolute numbers are the machine's; what counts are the ratios of one run, beside the aims. The seed is fixed, all
//! traffic stays on the loopback, nothing is left behind, and no figure decides the exit code.

#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures for people: counts far below 2^53, shares and durations above zero"
)]

mod append;
mod child;
mod clock;
mod decode;
mod disk;
mod ingest;
mod kafka;
mod life;
mod machine;
mod percentiles;
mod prepare;
mod report;
mod server;
mod statistics;
mod traffic;
mod worker;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand, ValueEnum};

use report::{Report, Setting};

/// Measures Barrage; prints the machine, the commit, and each figure beside its aim.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    role: Option<Role>,
    /// Only these sections, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "SECTION")]
    only: Vec<Section>,
    /// Only these parts of the section `kafka`, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART")]
    kafka: Vec<kafka::Part>,
    /// A tenth of the work: to try whether it runs; the figures are rough.
    #[arg(long)]
    quick: bool,
    /// Writes all figures to this file as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where temporary files are made; should be the disk that counts [default: the system's].
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Serves, for the bench itself.
    #[command(hide = true, subcommand)]
    Child(child::Child),
}

/// What can be measured, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Section {
    /// Bare `fdatasync`.
    Disk,
    /// Appending to the log, and to a log on `RocksDB`.
    Log,
    /// JSON to records and back.
    Decode,
    /// The partition workers.
    Worker,
    /// What each statistic costs.
    Statistics,
    /// How the cost of a record goes as a log grows.
    Growth,
    /// Ranking 10,000 rooms.
    Ranking,
    /// Callbacks over HTTP, and their latency.
    Ingest,
    /// Restart after a crash, bytes on disk.
    Restart,
    /// Resident memory.
    Memory,
    /// Everything on a real Kafka: ingest, projectors, moves, outages.
    Kafka,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    if let Some(Role::Child(child)) = &cli.role {
        return child::run(child);
    }
    let parent = cli.dir.clone().unwrap_or_else(std::env::temp_dir);
    let temporary =
        tempfile::Builder::new().prefix("barrage-bench-").tempdir_in(&parent).context("make a directory")?;
    clean_up_when_interrupted(temporary.path().to_owned())?;
    let mut report = Report::new(Setting {
        machine: machine::machine(),
        file_system: machine::file_system(temporary.path()),
        commit: machine::commit(),
        seed: traffic::SEED,
        quick: cli.quick,
        server: server::barrage().map_or_else(
            || "ingest, log and worker in a child of this program; `barrage run` was not built beside it".to_owned(),
            |path| format!("{} run", path.display()),
        ),
    });
    let sections = if cli.only.is_empty() { Section::value_variants() } else { &cli.only };
    for section in sections {
        // Each in a directory of its own, removed before the next one begins.
        let dir = tempfile::tempdir_in(temporary.path())?;
        section.run(&mut report, dir.path(), &cli.kafka)?;
    }
    report.print();
    if let Some(path) = &cli.json {
        std::fs::write(path, report.json()?).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

impl Section {
    fn run(self, report: &mut Report, dir: &Path, parts: &[kafka::Part]) -> Result<()> {
        match self {
            Self::Disk => disk::run(report, dir),
            Self::Log => append::run(report, dir),
            Self::Decode => decode::run(report),
            Self::Worker => worker::run(report, dir),
            Self::Statistics => statistics::each(report, dir),
            Self::Growth => statistics::curve(report, dir),
            Self::Ranking => statistics::ranking(report, dir),
            Self::Ingest => ingest::run(report, dir),
            Self::Restart => life::restart(report, dir),
            Self::Memory => life::memory(report, dir),
            Self::Kafka => kafka::run(report, dir, parts),
        }
    }
}

/// An interrupted run leaves neither servers nor files behind.
fn clean_up_when_interrupted(temporary: PathBuf) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            server::kill_all();
            // What cannot be removed now is removed with the system's temporary files.
            let _ = std::fs::remove_dir_all(&temporary);
            std::process::exit(130);
        });
    });
    Ok(())
}
