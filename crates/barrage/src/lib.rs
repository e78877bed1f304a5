//! The `barrage` program: command line, configuration and wiring. No number is computed and no byte is persisted here
//! but the API key; everything else is a library's.
//!
//! Only this crate reads the environment, and only in [`main`] and through the command line's declarations.
//!
//! | module | holds |
//! | --- | --- |
//! | [`cli`] | the command line, which `--help` prints |
//! | [`config`] | file, environment and flags made into options, with the place of every mistake |
//! | `commands` | one module a command |
//! | `statistics` | the list of statistics: the one place where the program knows of each |
//! | `server` | `run`, and the roles that share a log in Kafka |
//! | `api_key`, `rules_control` | what the query service needs from the process around it |
//! | `client`, `live` | asking a running server, and the live table |

mod api_key;
pub mod cli;
mod client;
mod commands;
pub mod config;
mod exit;
mod live;
mod logging;
mod notifications;
mod rules_control;
mod server;
pub mod statistics;
mod text;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command, ConfigCommand};
use crate::exit::{Exit, Failure};
use crate::server::Role;

/// Of everything in the process that is linked with this crate, `RocksDB` and librdkafka included.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs the program with the process's arguments and environment.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if !matches!(cli.command, Command::Run(_) | Command::Ingest(_) | Command::Project(_) | Command::Query(_)) {
        // Servers start their own, as configured; other commands only warn.
        logging::start(&config::DiagnosticsOptions { filter: "warn".to_owned(), ..Default::default() });
    }
    match dispatch(cli.command) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            if !failure.is_broken_pipe() {
                say_error(&failure);
            }
            failure.exit.into()
        }
    }
}

fn dispatch(command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Run(args) => server::run(Role::Run, &args, environment()),
        Command::Ingest(args) => server::run(Role::Ingest, &args, environment()),
        Command::Project(args) => server::run(Role::Project, &args, environment()),
        Command::Query(args) => server::run(Role::Query, &args, environment()),
        Command::Replay(args) => commands::play::replay(&args),
        Command::Simulate(args) => commands::play::simulate(&args),
        Command::Rules(command) => commands::rules::rules(command),
        Command::Rebuild(args) => commands::rebuild::rebuild(&args),
        Command::Snapshot(command) => commands::snapshot::snapshot(command, environment()),
        Command::DeadLetters(args) => commands::dead_letters::dead_letters(&args),
        Command::Log(args) => commands::log::log(&args, environment()),
        Command::Config(ConfigCommand::Check { config }) => commands::config_check::check(&config, environment()),
        Command::Completions { shell } => commands::completions::completions(shell),
    }
}

/// Every variable that is text; others cannot be ours.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

#[expect(clippy::print_stderr, reason = "the last word of a command is for its user, not for a log")]
fn say_error(failure: &Failure) {
    eprintln!("error: {failure}");
}
