//! One process of a role of `barrage`: started, asked, told to end, killed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use crate::clock::{ProcessTimes, process_time};
use crate::server::{get, host, running, wait_for};

/// The key that all processes of the bench share.
pub(super) const KEY: &str = "a-key-for-the-bench-0123456789";

/// How often a metric is asked for while it is waited for.
const ASK_EVERY: Duration = Duration::from_millis(40);

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Ingest,
    Project,
    Query,
}

impl Role {
    const fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Project => "project",
            Self::Query => "query",
        }
    }
}

/// What stands in the ready file.
#[derive(Debug, Deserialize)]
struct Ready {
    callback: Option<String>,
    query: Option<String>,
    grpc: Option<String>,
    admin: String,
}

/// A running process.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    ready: Ready,
}

impl Process {
    /// Starts it and returns when it listens.
    pub(super) fn start(
        barrage: &Path,
        role: Role,
        dir: &Path,
        brokers: &str,
        environment: &[(&str, String)],
    ) -> Result<Self> {
        let name = role.name();
        fs::create_dir_all(dir)?;
        let (ready, log) = (dir.join("ready.json"), dir.join("stderr.log"));
        // That of an earlier process is none of this one's.
        let _ = fs::remove_file(&ready);
        let mut command = Command::new(barrage);
        command.arg(name).arg("--data-dir").arg(dir).arg("--ready-file").arg(&ready).args(["--brokers", brokers]);
        for listen in ["--callback-listen", "--query-listen", "--grpc-listen", "--admin-listen"] {
            command.args([listen, "127.0.0.1:0"]);
        }
        command.env("BARRAGE_API_KEY", KEY).envs(environment.iter().map(|(name, value)| (*name, value.as_str())));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::options().create(true).append(true).open(&log)?);
        let mut child = command.spawn().with_context(|| format!("start barrage {name}"))?;
        running().push(child.id());
        let listens = wait_for(&format!("barrage {name} to listen"), || {
            if let Some(status) = child.try_wait()? {
                bail!("barrage {name} ended with {status}: {}", fs::read_to_string(&log).unwrap_or_default());
            }
            Ok(fs::read(&ready).ok().and_then(|text| serde_json::from_slice(&text).ok()))
        });
        match listens {
            Ok(ready) => Ok(Self { child, ready }),
            Err(error) => {
                // It may have ended already.
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    fn address(url: Option<&str>) -> Result<String> {
        url.map(host).context("the process has no such address")
    }

    /// Host and port that callbacks go to.
    pub(super) fn callback(&self) -> Result<String> {
        Self::address(self.ready.callback.as_deref())
    }

    /// Host and port of the reads.
    pub(super) fn query(&self) -> Result<String> {
        Self::address(self.ready.query.as_deref())
    }

    /// What the names of this process begin with in answers about owners.
    pub(super) fn owner(&self) -> Result<String> {
        Self::address(self.ready.grpc.as_deref())
    }

    /// Processor time of its threads that are there, by name.
    pub(super) fn threads(&self) -> ProcessTimes {
        ProcessTimes::of(self.child.id())
    }

    /// Processor time of all of it.
    pub(super) fn time(&self) -> Duration {
        process_time(self.child.id())
    }

    fn metrics(&self) -> Result<String> {
        Ok(get(&host(&self.ready.admin), "/metrics")?.1)
    }

    /// A metric, the sum over its labels; 0 when there is none.
    pub(super) fn metric(&self, name: &str) -> Result<f64> {
        let text = self.metrics()?;
        let lines = text.lines().filter(|l| l.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
        Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// Waits until a metric is as it should be.
    pub(super) fn wait_metric(&self, name: &str, wanted: impl Fn(f64) -> bool) -> Result<()> {
        wait_for(name, || {
            // Telling its metrics is work for it, too.
            std::thread::sleep(ASK_EVERY);
            Ok(wanted(self.metric(name)?).then_some(()))
        })
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a process id")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Ends it at once, as a crash would.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.child.kill().context("kill the process")?;
        self.child.wait()?;
        Ok(())
    }

    /// Tells it to end.
    pub(super) fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// Stops it in order, and waits until it is gone.
    pub(super) fn stop(mut self) -> Result<()> {
        self.terminate()?;
        let child = &mut self.child;
        let status = wait_for("a process to stop", || Ok(child.try_wait()?))?;
        if status.success() { Ok(()) } else { bail!("a process that was told to stop ended with {status}") }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let pid = self.child.id();
        running().retain(|&other| other != pid);
    }
}

/// Bytes of the files in a directory whose names end so.
pub(super) fn file_bytes(dir: &PathBuf, ending: &str) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let those = entries.filter(|entry| entry.file_name().to_string_lossy().ends_with(ending));
    those.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum()
}
