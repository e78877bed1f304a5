//! `barrage dead-letters`.

use serde_json::Value as Json;

use crate::cli::DeadLettersArgs;
use crate::client::{Client, runtime};
use crate::exit::{Exit, Failure};
use crate::text::{clipped, harmless, time};

/// Lists the events that a statistic could not apply.
pub(crate) fn dead_letters(args: &DeadLettersArgs) -> Result<Exit, Failure> {
    let mut path = format!("/v1/dead-letters?limit={}", args.limit);
    if let Some(partition) = args.partition {
        path.push_str(&format!("&partition={partition}"));
    }
    let answer = runtime()?.block_on(Client::of(&args.server)?.get(&path))?;
    let rows = answer["dead_letters"].as_array().map(Vec::as_slice).unwrap_or_default();
    for row in rows {
        if args.json {
            super::line(&row.to_string())?;
        } else {
            super::line(&shown(row))?;
        }
    }
    if rows.is_empty() && !args.json {
        super::line("there are no dead letters")?;
    }
    Ok(Exit::Done)
}

fn shown(row: &Json) -> String {
    let text = |field: &str| row[field].as_str().unwrap_or_default();
    let at = row["log_time"].as_i64().map(time).unwrap_or_default();
    format!(
        "{}@{}  {at}  {}  {}: {}",
        harmless(text("partition")),
        row["offset"],
        clipped(text("command"), 60),
        clipped(text("projection"), 60),
        harmless(text("reason"))
    )
}
