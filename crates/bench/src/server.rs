//! The servers that are measured, each in a process of its own: started, asked, stopped, killed.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::clock::{ProcessTimes, memory};

/// Longest time that a server has to start, to catch up or to stop.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often a server that cannot tell by itself is asked.
const ASK_EVERY: Duration = Duration::from_millis(5);

/// Processes that are running, so that an interrupted run leaves none behind.
static RUNNING: Mutex<Vec<u32>> = Mutex::new(Vec::new());

pub(crate) fn running() -> std::sync::MutexGuard<'static, Vec<u32>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills every server that this process has started.
pub(crate) fn kill_all() {
    for pid in running().drain(..) {
        if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
            // It may have ended by itself.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// What is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Reads each body and answers what Barrage answers, on bare hyper.
    BareHyper,
    /// Ingest and log, without projections.
    Ingest,
    /// Everything.
    Whole,
}

/// Addresses in the ready file of `barrage run`.
#[derive(Debug, Deserialize)]
struct Ready {
    callback: String,
    query: String,
    admin: String,
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    /// Host and port that callbacks go to.
    pub(crate) callback: String,
    asked: Asked,
}

/// How a server tells how far it is.
#[derive(Debug)]
enum Asked {
    /// `barrage run`: over HTTP.
    Http { query: String, admin: String },
    /// A child of ours: a line when it listens, another one when it has caught up.
    Lines(BufReader<ChildStdout>),
}

/// Where `barrage` is, if it was built beside this program and can run a server.
pub(crate) fn barrage() -> Option<PathBuf> {
    let path = std::env::current_exe().ok()?.with_file_name("barrage");
    let help = Command::new(&path).args(["run", "--help"]).stdin(Stdio::null()).output().ok()?;
    String::from_utf8_lossy(&help.stdout).contains("--ready-file").then_some(path)
}

impl Server {
    /// Starts a server with this data directory, and returns when it accepts callbacks.
    pub(crate) fn start(kind: Kind, dir: &Path) -> Result<Self> {
        match (kind, barrage()) {
            (Kind::Whole, Some(barrage)) => Self::start_barrage(&barrage, dir),
            _ => Self::start_child(kind, dir),
        }
    }

    fn start_barrage(barrage: &Path, dir: &Path) -> Result<Self> {
        let ready_file = dir.with_extension("ready");
        // That of an earlier process is none of this one's.
        let _ = fs::remove_file(&ready_file);
        let mut command = Command::new(barrage);
        command.arg("run").arg("--data-dir").arg(dir).arg("--ready-file").arg(&ready_file);
        for listen in ["--callback-listen", "--query-listen", "--admin-listen"] {
            command.args([listen, "127.0.0.1:0"]);
        }
        command.args(["--log-filter", "error"]).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(fs::File::create(dir.with_extension("log"))?);
        let mut child = command.spawn().context("start barrage")?;
        running().push(child.id());
        let ready: Ready = wait_for("barrage run to listen", || {
            if let Some(status) = child.try_wait()? {
                let said = fs::read_to_string(dir.with_extension("log")).unwrap_or_default();
                bail!("barrage run ended with {status}: {said}");
            }
            Ok(fs::read(&ready_file).ok().and_then(|text| serde_json::from_slice(&text).ok()))
        })?;
        let asked = Asked::Http { query: host(&ready.query), admin: host(&ready.admin) };
        Ok(Self { child, callback: host(&ready.callback), asked })
    }

    fn start_child(kind: Kind, dir: &Path) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("child").arg(match kind {
            Kind::BareHyper => "hyper",
            Kind::Ingest => "ingest",
            Kind::Whole => "whole",
        });
        command.arg(dir).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("start a child of the bench")?;
        running().push(child.id());
        let stdout = child.stdout.take().context("the child's standard output is a pipe")?;
        let mut lines = BufReader::new(stdout);
        let callback = line(&mut lines)?;
        Ok(Self { child, callback, asked: Asked::Lines(lines) })
    }

    /// Host and port of reads; `None` of a server that has none.
    pub(crate) fn query(&self) -> Option<&str> {
        match &self.asked {
            Asked::Http { query, .. } => Some(query),
            Asked::Lines(_) => None,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn times(&self) -> ProcessTimes {
        ProcessTimes::of(self.pid())
    }

    pub(crate) fn memory(&self, field: &str) -> u64 {
        memory(self.pid(), field)
    }

    /// Waits until the server says that it is ready. A child of ours is when it listens.
    pub(crate) fn wait_ready(&self) -> Result<()> {
        let Asked::Http { admin, .. } = &self.asked else { return Ok(()) };
        wait_for("the server to be ready", || Ok(get(admin, "/readyz").ok().filter(|(status, _)| *status == 200)))?;
        Ok(())
    }

    /// Waits until every durable record is applied and committed. A child of ours tells only once.
    pub(crate) fn wait_caught_up(&mut self) -> Result<()> {
        match &mut self.asked {
            Asked::Lines(lines) => {
                let said = line(lines)?;
                if said == "caught up" { Ok(()) } else { bail!("the child said `{said}`") }
            }
            Asked::Http { query, .. } => {
                let query = query.clone();
                wait_for("the projections to catch up", || Ok(lag(&query).filter(|lag| *lag == 0)))?;
                Ok(())
            }
        }
    }

    /// Records that are durable and not committed yet, where the server can tell.
    pub(crate) fn lag(&self) -> Option<u64> {
        let Asked::Http { query, .. } = &self.asked else { return None };
        lag(query)
    }

    /// Ends it at once, as a crash would.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.kill().context("kill the server")?;
        self.child.wait()?;
        Ok(())
    }

    /// Stops it in order.
    pub(crate) fn stop(mut self) -> Result<()> {
        match &self.asked {
            // A child of ours ends with its standard input.
            Asked::Lines(_) => drop(self.child.stdin.take()),
            Asked::Http { .. } => {
                let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw);
                rustix::process::kill_process(pid.context("a process id")?, rustix::process::Signal::TERM)?;
            }
        }
        let child = &mut self.child;
        wait_for("the server to stop", || Ok(child.try_wait()?))?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let pid = self.child.id();
        running().retain(|&other| other != pid);
    }
}

fn line(lines: &mut BufReader<ChildStdout>) -> Result<String> {
    let mut line = String::new();
    if lines.read_line(&mut line)? == 0 {
        bail!("a child of the bench ended early; its message stands above");
    }
    Ok(line.trim_end().to_owned())
}

/// Asks again and again until there is an answer.
pub(crate) fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if begun.elapsed() > PATIENCE {
            bail!("waited {} s for {what}", PATIENCE.as_secs());
        }
        std::thread::sleep(ASK_EVERY);
    }
}

/// Host and port of a URL.
pub(crate) fn host(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default().to_owned()
}

/// Sum of the lags of all partitions in `/v1/status`.
fn lag(query: &str) -> Option<u64> {
    let (_, body) = get(query, "/v1/status").ok().filter(|(status, _)| *status == 200)?;
    let status: serde_json::Value = serde_json::from_str(&body).ok()?;
    status.get("partitions")?.as_array()?.iter().map(|p| p.get("lag")?.as_u64()).sum()
}

/// Status and body of a GET request, without keep-alive.
pub(crate) fn get(address: &str, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer has a head")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("the answer has a status")?;
    Ok((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_cut_out_of_urls() {
        for (url, expected) in [
            ("http://127.0.0.1:8080", "127.0.0.1:8080"),
            ("http://127.0.0.1:8080/", "127.0.0.1:8080"),
            ("127.0.0.1:8080", "127.0.0.1:8080"),
        ] {
            assert_eq!(host(url), expected);
        }
    }
}
