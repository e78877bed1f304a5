//! `barrage completions`.

use clap::CommandFactory as _;

use crate::cli::Cli;
use crate::exit::{Exit, Failure};

/// Prints what a shell needs to complete the command line.
pub(crate) fn completions(shell: clap_complete::Shell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "barrage", &mut script);
    super::line(String::from_utf8_lossy(&script).trim_end())?;
    Ok(Exit::Done)
}
