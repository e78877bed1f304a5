//! One module a command.

pub(crate) mod completions;
pub(crate) mod config_check;
pub(crate) mod dead_letters;
pub(crate) mod log;
mod log_records;
pub(crate) mod play;
pub(crate) mod rebuild;
pub(crate) mod rules;
pub(crate) mod snapshot;

use std::io::Write as _;

/// Prints a line. An error is the reader's going away, which ends the command.
pub(crate) fn line(text: &str) -> std::io::Result<()> {
    writeln!(std::io::stdout().lock(), "{text}")
}
