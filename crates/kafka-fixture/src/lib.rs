//! Real Kafka brokers for tests: on free ports of 127.0.0.1, with their data in a directory that goes with them.
//!
//! This crate *is* `deploy/kafka/kafka.sh` as a value that a test owns, and signals to the processes it started. It is
//! *not* a Kafka client, and nothing but tests and the bench depends on it.
//!
//! A broker takes seconds and some 370 MiB to start, so tests that do nothing to it share one per test program:
//! [`Broker::shared`], with topics of their own under [`prefix`]. Tests that stop, kill or halt it start their own.

mod secured;

use std::fmt;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

pub use secured::Secured;

/// One or several nodes of a real Kafka. Dropped, all of them are killed and their data is removed; when the
/// program ends without that, a small guard process does it.
pub struct Broker {
    dir: tempfile::TempDir,
    ports: Vec<u16>,
    /// Ends the nodes when this process does not.
    guard: Child,
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("dir", &self.dir.path()).field("ports", &self.ports).finish()
    }
}

/// A topic prefix that no other test uses, as `t1f09ac33.`.
///
/// # Panics
/// When the system has no randomness.
#[must_use]
pub fn prefix() -> String {
    format!("t{:08x}.", getrandom::u32().expect("the system has randomness"))
}

/// The script that starts brokers.
fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/kafka/kafka.sh")
}

/// Ports that were free a moment ago; all are held at once, so that none comes twice.
///
/// They lie below those that systems give to outgoing connections: while a node is down, a client that tries to reach it
/// would else be given the node's own port one day, and be connected with itself.
fn free_ports(count: usize) -> Vec<u16> {
    let mut held: Vec<TcpListener> = Vec::new();
    while held.len() < count {
        let random = getrandom::u32().expect("the system has randomness");
        let port = 15_000 + u16::try_from(random % 15_000).expect("it is below 15,000");
        held.extend(TcpListener::bind(("127.0.0.1", port)));
    }
    held.iter().map(|listener| listener.local_addr().expect("a bound socket has an address").port()).collect()
}

impl Broker {
    /// Starts `nodes` of them and waits until all answer. With three or more, topics have three replicas and
    /// `min.insync.replicas=2`.
    ///
    /// # Panics
    /// When they do not start; the reason is printed.
    #[must_use]
    pub fn start(nodes: usize) -> Self {
        Self::start_via(nodes, &[]).0
    }

    /// The same where node 1 has further doors. Clients that come in by one of them are told to come to the port given
    /// here, where a proxy stands that leads to the door. Gives the doors' ports in the same order.
    ///
    /// # Panics
    /// When they do not start; the reason is printed.
    #[must_use]
    pub fn start_via(nodes: usize, proxies: &[u16]) -> (Self, Vec<u16>) {
        let dir = tempfile::Builder::new().prefix("barrage-kafka").tempdir().expect("a temporary directory");
        // Another program may take a port between the choice and the start: then once more with others.
        for attempt in 1.. {
            let mut ports = free_ports(2 * nodes + proxies.len());
            let doors = ports.split_off(2 * nodes);
            let list = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
            let via = doors.iter().zip(proxies).map(|(door, proxy)| format!("{door}:{proxy}")).collect::<Vec<_>>();
            let broker = dir.path().join(attempt.to_string());
            let count = nodes.to_string();
            if Self::run(&broker, &["start", "--nodes", &count, "--ports", &list, "--via", &via.join(",")]) {
                let ports = ports.into_iter().take(nodes).collect();
                let guard = Self::guard(dir.path(), &broker);
                return (Self { dir, ports, guard }, doors);
            }
            Self::run(&broker, &["stop"]);
            assert!(attempt < 3, "Kafka did not start; its reason is printed above");
            std::fs::remove_dir_all(&broker).expect("the directory of a broker that did not start can be removed");
        }
        unreachable!("the loop above ends")
    }

    /// One node on these ports, with more arguments for the script.
    fn start_on(ports: &[u16], more: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("barrage-kafka").tempdir().expect("a temporary directory");
        let broker = dir.path().join("1");
        let list = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
        let started = Self::run(&broker, &[&["start", "--nodes", "1", "--ports", &list], more].concat());
        if !started {
            Self::run(&broker, &["stop"]);
        }
        assert!(started, "Kafka did not start; its reason is printed above");
        let guard = Self::guard(dir.path(), &broker);
        Self { dir, ports: ports.iter().take(1).copied().collect(), guard }
    }

    /// One node for all tests of this program that do nothing to it but use topics of their own.
    ///
    /// # Panics
    /// When it does not start.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Broker> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(1))
    }

    /// Ends the nodes when this process is gone, however it went: statics are not dropped, and a test program may be
    /// killed. The guard waits for the end of a pipe that only this process holds open.
    fn guard(dir: &Path, home: &Path) -> Child {
        let wait = "read -r _; \"$0\" stop --dir \"$1\"; rm -rf \"$2\"";
        Command::new("bash")
            // What ends a test program by its process group, as Ctrl-C does, is not meant for the guard.
            .process_group(0)
            .args(["-c", wait])
            .args([script().as_os_str(), home.as_os_str(), dir.as_os_str()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("bash can be started")
    }

    /// Where clients connect, as `127.0.0.1:40001,127.0.0.1:40003`.
    #[must_use]
    pub fn brokers(&self) -> String {
        self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",")
    }

    /// Number of nodes; they are counted from 1.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.ports.len()
    }

    /// Stops a node as an operator would: it hands over what it leads, and ends.
    ///
    /// # Panics
    /// When it does not run.
    pub fn stop(&self, node: usize) {
        let pid = self.signal(node, Signal::TERM);
        Self::gone(pid);
    }

    /// Kills a node with signal 9 and waits until it is gone.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&self, node: usize) {
        let pid = self.signal(node, Signal::KILL);
        Self::gone(pid);
    }

    /// Halts a node (SIGSTOP): its connections stay open and nothing answers.
    ///
    /// # Panics
    /// When it does not run.
    pub fn halt(&self, node: usize) {
        self.signal(node, Signal::STOP);
    }

    /// Lets a halted node go on.
    ///
    /// # Panics
    /// When it does not run.
    pub fn resume(&self, node: usize) {
        self.signal(node, Signal::CONT);
    }

    /// Starts a node that was stopped or killed, with the data and the ports it had, and waits until it answers.
    ///
    /// # Panics
    /// When it does not start.
    pub fn restart(&self, node: usize) {
        assert!(Self::run(&self.home(), &["start", "--node", &node.to_string()]), "node {node} did not start again");
    }

    fn home(&self) -> PathBuf {
        // The attempt that succeeded is the only one that was left.
        let mut entries = std::fs::read_dir(self.dir.path()).expect("the directory is there");
        entries.next().expect("a broker was started in it").expect("it can be read").path()
    }

    fn run(dir: &Path, arguments: &[&str]) -> bool {
        let output = Command::new(script())
            .args(arguments)
            .arg("--dir")
            .arg(dir)
            .stdin(Stdio::null())
            .output()
            .expect("deploy/kafka/kafka.sh can be run");
        if !output.status.success() {
            eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        }
        output.status.success()
    }

    /// The operating system's number of a node's process, while it runs.
    #[must_use]
    pub fn process_id(&self, node: usize) -> Option<u32> {
        self.pid(node).and_then(|pid| pid.as_raw_nonzero().get().try_into().ok())
    }

    /// Where a node keeps its topics: a directory for each partition, named `TOPIC-INDEX`.
    #[must_use]
    pub fn data_dir(&self, node: usize) -> PathBuf {
        self.home().join(format!("node-{node}/data"))
    }

    fn pid(&self, node: usize) -> Option<Pid> {
        let text = std::fs::read_to_string(self.home().join(format!("node-{node}/pid"))).ok()?;
        Pid::from_raw(text.trim().parse().ok()?)
    }

    fn signal(&self, node: usize, signal: Signal) -> Pid {
        let pid = self.pid(node).unwrap_or_else(|| panic!("node {node} was started"));
        kill_process(pid, signal).unwrap_or_else(|error| panic!("node {node} runs: {error}"));
        pid
    }

    /// Waits for the end of a process that is not our child: the script started it and ended long ago.
    fn gone(pid: Pid) {
        // One that nobody has collected yet counts as gone, but not before its last thread is: until then it holds its
        // ports, though its first thread is dead already.
        let dead = |stat: String| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'));
        let process = format!("/proc/{}", pid.as_raw_nonzero());
        let alone = || std::fs::read_dir(format!("{process}/task")).map_or(true, |threads| threads.count() <= 1);
        let ended = || std::fs::read_to_string(format!("{process}/stat")).is_ok_and(dead) && alone();
        while test_kill_process(pid).is_ok() && !ended() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        for node in 1..=self.nodes() {
            if let Some(pid) = self.pid(node)
                && kill_process(pid, Signal::KILL).is_ok()
            {
                Self::gone(pid);
            }
        }
        // It has nothing left to end; without its pipe it sees that, and goes.
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}
