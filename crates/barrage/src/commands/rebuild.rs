//! `barrage rebuild`: starts rebuilds in a running server and shows how far they are.

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::{anyhow, bail};
use bytes::Bytes;
use serde_json::Value as Json;

use crate::cli::RebuildArgs;
use crate::client::{Client, runtime};
use crate::exit::{Exit, Failure};
use crate::text::number;

/// Clears the line from the cursor on.
const CLEAR: &str = "\u{1b}[K";
/// Time between two looks at the progress.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often in a row a rebuild that has to be begun again may be refused: a partition that moves is nobody's for seconds.
const REFUSED_MAX: u32 = 60;

/// Rebuilds one partition, or all, one after the other: a rebuild reads the whole log, and two at once would only
/// share the disk.
pub(crate) fn rebuild(args: &RebuildArgs) -> Result<Exit, Failure> {
    let client = Client::of(&args.server)?;
    let matching = runtime()?.block_on(async {
        let partitions = match args.what.partition {
            Some(partition) => vec![partition.to_string()],
            None => partitions(&client.get("/v1/rebuild").await?),
        };
        let mut matching = true;
        for partition in partitions {
            matching &= one(&client, &partition).await?;
        }
        anyhow::Ok(matching)
    })?;
    Ok(if matching { Exit::Done } else { Exit::Incomplete })
}

fn partitions(progress: &Json) -> Vec<String> {
    let rows = progress["partitions"].as_array().into_iter().flatten();
    rows.filter_map(|row| row["partition"].as_str().map(str::to_owned)).collect()
}

/// Whether the rebuilt numbers are those that were live. A rebuild ends where its partition goes to another process: it is
/// begun again there.
async fn one(client: &Client, partition: &str) -> anyhow::Result<bool> {
    start(client, partition).await?;
    let live = std::io::stdout().is_terminal();
    let mut refused = 0;
    loop {
        let progress = client.get("/v1/rebuild").await?;
        let rows = progress["partitions"].as_array();
        let row = rows
            .and_then(|rows| rows.iter().find(|row| row["partition"] == partition))
            .ok_or_else(|| anyhow!("the server no longer has partition {partition}"))?;
        let rebuild = &row["rebuild"];
        if let Some(error) = rebuild["error"].as_str() {
            bail!("the rebuild of {partition} was given up: {error}");
        }
        let (offset, end) = (rebuild["offset"].as_u64().unwrap_or(0), rebuild["end"].as_u64().unwrap_or(0));
        let how_far = format!("{partition}: {} of {} records", number(offset), number(end));
        if rebuild["done"] == true {
            let (said, matching) = match rebuild["hashes_match"].as_bool() {
                Some(true) => ("the same numbers as before", true),
                Some(false) => ("other numbers than before: they are in force now", false),
                None => ("done", true),
            };
            let clear = if live { format!("\r{CLEAR}") } else { String::new() };
            super::line(&format!("{clear}{partition}: {} records, {said}", number(offset)))?;
            return Ok(matching);
        }
        // With an error it is on its way: its next owner is not known yet.
        if rebuild.is_null() && row["error"].is_null() {
            match start(client, partition).await {
                Ok(()) => {
                    refused = 0;
                    super::line(&format!("{partition}: it went to another process; begun again there"))?;
                }
                Err(error) if refused >= REFUSED_MAX => return Err(error),
                Err(_) => refused += 1,
            }
        } else if live {
            show(&format!("\r{CLEAR}{how_far}"))?;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn start(client: &Client, partition: &str) -> anyhow::Result<()> {
    client.post(&format!("/v1/rebuild?partition={partition}"), "", Bytes::new()).await.map(drop)
}

fn show(text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
