//! `barrage snapshot`: looks at the copies of the numbers in the object store, and has a running server take one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use barrage_event::Partition;
use barrage_snapshot::{Listed, Manifest, SnapshotError, SnapshotStore};
use barrage_state::{StateEnv, StateOptions};
use bytes::Bytes;
use serde_json::{Value as Json, json};

use crate::cli::{ConfigArgs, PlaceArgs, SnapshotCommand, WhichPartitions};
use crate::client::{Client, runtime};
use crate::config;
use crate::exit::{Exit, Failure};
use crate::text::{number, time};

/// Time between two looks at the progress.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Memory for reading a snapshot back, bytes.
const MEMORY: usize = 64 << 20;

type Variables<'v> = &'v mut dyn Iterator<Item = (String, String)>;

/// Lists, takes or verifies.
pub(crate) fn snapshot(
    command: SnapshotCommand,
    mut environment: impl Iterator<Item = (String, String)>,
) -> Result<Exit, Failure> {
    match command {
        SnapshotCommand::List { place, partition, json } => {
            list(&open(&place, &mut environment)?, partition, json)?;
            Ok(Exit::Done)
        }
        SnapshotCommand::Take { which, server } => {
            let client = Client::of(&server)?;
            runtime()?.block_on(take(&client, &which))?;
            Ok(Exit::Done)
        }
        SnapshotCommand::Verify { place, partition, all, temp_dir } => {
            let store = open(&place, &mut environment)?;
            let dir = temp_dir.unwrap_or_else(std::env::temp_dir);
            let good = verify(&store, partition, all, &dir)?;
            Ok(if good { Exit::Done } else { Exit::Incomplete })
        }
    }
}

fn open(place: &PlaceArgs, environment: Variables<'_>) -> Result<SnapshotStore, Failure> {
    let url = match &place.url {
        Some(url) => url.clone(),
        None => {
            let args = ConfigArgs { config: place.config.clone(), ..ConfigArgs::default() };
            let config = config::load(&args, environment).map_err(Failure::configuration)?.config;
            let none = || anyhow!("no place for snapshots is configured: name one with --url, or set snapshot.url");
            config.snapshot.url.ok_or_else(none).map_err(Failure::configuration)?
        }
    };
    // A place is made when a server opens it; one that is looked at must be there.
    if !url.contains("://") && !Path::new(&url).is_dir() {
        return Err(anyhow!("there is no folder {url}: has a server with this snapshot.url taken a snapshot?").into());
    }
    SnapshotStore::open(&url, std::env::vars()).map_err(Failure::configuration)
}

/// Every snapshot, by log and partition, the newest first.
fn found(store: &SnapshotStore, only: Option<Partition>) -> Result<Vec<(u128, Partition, Vec<Listed>)>, SnapshotError> {
    let mut found = Vec::new();
    let mut logs = store.logs()?;
    logs.sort_unstable();
    for log in logs {
        for partition in store.partitions(log)? {
            if only.is_none_or(|only| only == partition) {
                found.push((log, partition, store.list(log, partition)?));
            }
        }
    }
    Ok(found)
}

fn list(store: &SnapshotStore, only: Option<Partition>, as_json: bool) -> anyhow::Result<()> {
    let mut log_before = None;
    for (log, partition, listed) in found(store, only)? {
        if !as_json && log_before.replace(log) != Some(log) {
            super::line(&format!("log {log:032x}"))?;
        }
        for listed in listed {
            let line = match store.read(log, partition, &listed.name) {
                Ok(manifest) if as_json => json_of(log, partition, &listed, &manifest).to_string(),
                Ok(manifest) => text_of(partition, &listed, &manifest),
                Err(error @ SnapshotError::Unusable { .. }) if as_json => {
                    let name = &listed.name;
                    json!({ "partition": partition.to_string(), "name": name, "error": error.to_string() }).to_string()
                }
                Err(error @ SnapshotError::Unusable { .. }) => format!("  {partition}  {error}"),
                // Removed since it was listed.
                Err(error) if error.is_missing() => continue,
                Err(error) => return Err(error.into()),
            };
            super::line(&line)?;
        }
    }
    if log_before.is_none() && !as_json {
        super::line(&format!("no snapshots in {}", store.url()))?;
    }
    Ok(())
}

fn text_of(partition: Partition, listed: &Listed, manifest: &Manifest) -> String {
    format!(
        "  {partition}  next offset {}  {}  {} bytes  {}  {}",
        number(manifest.next_offset),
        time(manifest.created_at_ms),
        number(manifest.bytes()),
        manifest.state_hash,
        listed.name,
    )
}

fn json_of(log: u128, partition: Partition, listed: &Listed, manifest: &Manifest) -> Json {
    json!({
        "log": format!("{log:032x}"),
        "partition": partition.to_string(),
        "name": listed.name,
        "next_offset": manifest.next_offset,
        "created_at": manifest.created_at_ms,
        "bytes": manifest.bytes(),
        "state_hash": manifest.state_hash,
        "store_hash": manifest.store_hash,
    })
}

/// Names of the newest snapshots of the partitions, as the server knows them.
type Before = BTreeMap<String, Option<String>>;

fn newest(progress: &Json) -> Before {
    let rows = progress["partitions"].as_array().into_iter().flatten();
    rows.filter_map(|row| {
        let name = row["snapshot"]["last"]["name"].as_str().map(str::to_owned);
        Some((row["partition"].as_str()?.to_owned(), name))
    })
    .collect()
}

async fn take(client: &Client, which: &WhichPartitions) -> anyhow::Result<()> {
    let before = newest(&client.get("/v1/snapshots").await?);
    let what = which.partition.map_or_else(|| "all".to_owned(), |partition| partition.to_string());
    let started = client.post(&format!("/v1/snapshots?partition={what}"), "", Bytes::new()).await?;
    for partition in started["started"].as_array().into_iter().flatten().filter_map(Json::as_str) {
        let last = complete(client, partition, before.get(partition).and_then(Option::as_deref)).await?;
        super::line(&format!(
            "{partition}: up to offset {}, {} bytes, {}",
            number(last["next_offset"].as_u64().unwrap_or(0)),
            number(last["bytes"].as_u64().unwrap_or(0)),
            last["name"].as_str().unwrap_or_default(),
        ))?;
    }
    Ok(())
}

/// Waits until the snapshot after `before` is there.
async fn complete(client: &Client, partition: &str, before: Option<&str>) -> anyhow::Result<Json> {
    loop {
        let progress = client.get("/v1/snapshots").await?;
        let rows = progress["partitions"].as_array();
        let row = rows.and_then(|rows| rows.iter().find(|row| row["partition"] == partition));
        let row = row.ok_or_else(|| anyhow!("the server no longer has partition {partition}"))?;
        if let Some(error) = row["error"].as_str() {
            bail!("{partition} went away while its snapshot was taken: {error}; try again");
        }
        let snapshot = &row["snapshot"];
        if snapshot["taking"] != true {
            if let Some(error) = snapshot["error"].as_str() {
                bail!("no snapshot of {partition} was taken: {error}");
            }
            let last = &snapshot["last"];
            if last["name"].as_str().is_none_or(|name| Some(name) == before) {
                bail!("{partition} went to another process while its snapshot was taken; try again");
            }
            return Ok(last.clone());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Whether all are what they say.
fn verify(store: &SnapshotStore, only: Option<Partition>, all: bool, dir: &Path) -> anyhow::Result<bool> {
    let scratch = Scratch::make(dir)?;
    let env = StateEnv::new(StateOptions { memory_bytes: MEMORY, ..StateOptions::default() });
    let (mut good, mut any) = (true, false);
    for (log, partition, listed) in found(store, only)? {
        for listed in listed.iter().take(if all { usize::MAX } else { 1 }) {
            any = true;
            match store.verify(&env, log, partition, &listed.name, &scratch.0.join("store")) {
                Ok(manifest) => {
                    let (next, hash) = (number(manifest.next_offset), &manifest.state_hash);
                    super::line(&format!("{partition}  next offset {next}  {hash}  ok  {}", listed.name))?;
                }
                Err(error @ (SnapshotError::Unusable { .. } | SnapshotError::State(_))) => {
                    good = false;
                    super::line(&format!("{partition}  NOT GOOD  {}: {error}", listed.name))?;
                }
                Err(error) if error.is_missing() => {}
                Err(error) => return Err(error).with_context(|| format!("{} of {partition}", listed.name)),
            }
        }
    }
    if !any {
        bail!("there is no snapshot to verify in {}", store.url());
    }
    Ok(good)
}

/// A directory that goes with the command.
struct Scratch(PathBuf);

impl Scratch {
    fn make(dir: &Path) -> anyhow::Result<Self> {
        let random = getrandom::u64().map_err(|error| anyhow!("the system has no randomness to give: {error}"))?;
        let path = dir.join(format!("barrage-verify-{random:016x}"));
        std::fs::create_dir(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is in nobody's way.
        drop(std::fs::remove_dir_all(&self.0));
    }
}
