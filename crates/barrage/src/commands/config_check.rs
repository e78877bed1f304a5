//! `barrage config check`.

use crate::cli::ConfigArgs;
use crate::config;
use crate::exit::{Exit, Failure};

/// Checks the configuration as `barrage run` would take it.
pub(crate) fn check(args: &ConfigArgs, environment: impl Iterator<Item = (String, String)>) -> Result<Exit, Failure> {
    let loaded = config::load(args, environment).map_err(Failure::configuration)?;
    for warning in &loaded.warnings {
        super::line(&format!("warning: {warning}"))?;
    }
    let from = loaded.file.map_or_else(|| "the defaults".to_owned(), |file| file.display().to_string());
    let rules = match &loaded.config.rules {
        Some(_) => "with rules",
        None => "without rules: those in force stay",
    };
    super::line(&format!("ok: {from}, {rules}"))?;
    Ok(Exit::Done)
}
