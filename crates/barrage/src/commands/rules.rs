//! `barrage rules`.

use std::path::Path;

use anyhow::Context as _;
use barrage_event::rules::{DEFAULT_TOML, RuleSet, limits};
use bytes::Bytes;
use serde_json::Value as Json;

use crate::cli::RulesCommand;
use crate::client::{Client, runtime};
use crate::exit::{Exit, Failure};
use crate::text::{clipped, time};

/// Shows, checks and changes the rules.
pub(crate) fn rules(command: RulesCommand) -> Result<Exit, Failure> {
    match command {
        RulesCommand::Show { default: true, .. } => super::line(DEFAULT_TOML.trim_end())?,
        RulesCommand::Show { server, default: false } => {
            let shown = runtime()?.block_on(Client::of(&server)?.get("/v1/rules"))?;
            let applied = shown["applied_at"].as_i64().map(time).unwrap_or_default();
            let by = clipped(shown["applied_by"].as_str().unwrap_or_default(), 256);
            super::line(&format!("# version {}, applied {applied} by {by}", shown["version"]))?;
            super::line(shown["toml"].as_str().unwrap_or_default().trim_end())?;
        }
        RulesCommand::Check { file } => {
            read(&file)?;
            super::line(&format!("ok: {}", file.display()))?;
        }
        RulesCommand::Apply { file, server } => {
            // Mistakes are told with the file's name and line before a server is asked.
            let text = read(&file)?;
            let by = std::env::var("USER").unwrap_or_else(|_| "barrage rules apply".to_owned());
            let by: String = form_urlencoded::byte_serialize(clipped(&by, 60).as_bytes()).collect();
            let path = format!("/v1/rules?by={by}");
            let applied =
                runtime()?.block_on(Client::of(&server)?.post(&path, "application/toml", Bytes::from(text)))?;
            let version = &applied["version"];
            super::line(&if applied["changed"] == Json::Bool(true) {
                format!("version {version} is in force in every partition")
            } else {
                format!("nothing changed: these are the rules of version {version}, which is in force")
            })?;
        }
        RulesCommand::History { server } => {
            let history = runtime()?.block_on(Client::of(&server)?.get("/v1/rules/history"))?;
            for version in history["versions"].as_array().into_iter().flatten() {
                let applied = version["applied_at"].as_i64().map(time).unwrap_or_default();
                let by = clipped(version["applied_by"].as_str().unwrap_or_default(), 60);
                super::line(&format!("{:>6}  {applied}  {by}", version["version"].to_string()))?;
            }
        }
    }
    Ok(Exit::Done)
}

/// The text of a file of rules, after it was checked.
fn read(file: &Path) -> Result<String, Failure> {
    let size = std::fs::metadata(file).with_context(|| format!("{} cannot be read", file.display()))?.len();
    if size > u64::try_from(limits::TOML_BYTES_MAX).unwrap_or(u64::MAX) {
        let error = anyhow::anyhow!("{} has {size} bytes, the limit is {}", file.display(), limits::TOML_BYTES_MAX);
        return Err(Failure::configuration(error));
    }
    let text = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let wrong = |problems: String| Failure::configuration(anyhow::anyhow!("{}: {problems}", file.display()));
    let rules = RuleSet::from_toml(&text).map_err(|error| wrong(error.to_string()))?;
    rules.validate().map_err(|mistakes| {
        let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        wrong(format!("the rules are not valid\n  {}", lines.join("\n  ")))
    })?;
    Ok(text)
}
