//! One thread: the partitions that it has, in turn, and what it is told meanwhile.

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use barrage_event::Partition;
use barrage_log::Follow;

use crate::common::Common;
use crate::runner::{Runner, Step, Waiting};
use crate::shared::Shared;

/// Longest time a thread waits for the log before it looks around.
const WAIT_MAX: Duration = Duration::from_millis(200);
/// Pause between two looks at the log while changes wait for their commit. Reads see commits only, and those come ten
/// times later, so looking at every group of records as it arrives would only take the processor from the requests.
const PACE: Duration = Duration::from_millis(10);
/// How much requests are preferred when the processor is scarce: a callback has two seconds, a commit has not.
const NICENESS: i32 = 5;

/// What a thread is told. Dropping a command unread is telling its sender that it is done with.
pub(crate) enum Command {
    /// A partition is this process's.
    Open {
        shared: Arc<Shared>,
        /// Told the offset when the store is open.
        follow: Option<Arc<dyn Follow>>,
        /// Let go of when the store is open or has failed to.
        opened: Option<mpsc::Sender<()>>,
    },
    /// A partition was taken away.
    Park {
        partition: Partition,
        /// Let go of when it is committed.
        done: mpsc::Sender<()>,
    },
    /// No more of this.
    Stop {
        /// Whether what is applied is committed first.
        commit: bool,
    },
}

pub(crate) struct PartitionThread {
    common: Arc<Common>,
    commands: mpsc::Receiver<Command>,
    runners: BTreeMap<Partition, Runner>,
}

impl PartitionThread {
    pub(crate) fn new(common: Arc<Common>, commands: mpsc::Receiver<Command>) -> Self {
        Self { common, commands, runners: BTreeMap::new() }
    }

    /// Runs until it is told to stop; then what could not be closed.
    pub(crate) fn run(mut self) -> Result<(), String> {
        // Of this thread alone, on Linux. A system that refuses has no less right numbers.
        let _ = rustix::process::nice(NICENESS);
        let log = Arc::clone(&self.common.log);
        let commit = loop {
            // Before the commands: one that comes later ends the wait below.
            let seen = log.wait(u64::MAX, Duration::ZERO);
            if let Some(commit) = self.obey() {
                break commit;
            }
            let mut busy = false;
            for runner in self.runners.values_mut() {
                busy |= runner.step() == Step::Busy;
            }
            self.close_parked();
            if !busy {
                match self.commit_due() {
                    Some(due) => std::thread::sleep(due.saturating_duration_since(Instant::now()).min(PACE)),
                    None if self.runners.values().any(Runner::is_sending) => drop(log.wait(seen, PACE)),
                    None => drop(log.wait(seen, WAIT_MAX)),
                }
            }
        };
        let mut failed = Vec::new();
        {
            // Whoever still holds the assignments finds nothing parked here, and keeps no store open.
            let mut homes = self.common.homes.lock();
            homes.retain(|partition, _| !self.runners.contains_key(partition));
        }
        for runner in self.runners.into_values() {
            if let Err(error) = runner.close(commit) {
                failed.push(error.to_string());
            }
        }
        if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
    }

    fn commit_due(&self) -> Option<Instant> {
        self.runners.values().filter_map(Runner::commit_due).min()
    }

    /// Does what it is told; whether to commit before the end when that is to stop.
    fn obey(&mut self) -> Option<bool> {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Open { shared, follow, opened }) => {
                    self.open(&shared, Waiting { follow, opened });
                }
                Ok(Command::Park { partition, done }) => {
                    self.park(partition);
                    drop(done);
                }
                Ok(Command::Stop { commit }) => return Some(commit),
                Err(mpsc::TryRecvError::Empty) => return None,
                Err(mpsc::TryRecvError::Disconnected) => return Some(false),
            }
        }
    }

    fn open(&mut self, shared: &Arc<Shared>, waiting: Waiting) {
        if shared.is_revoked() {
            // The order to park it comes next; opening would be work for nothing.
            return;
        }
        let partition = shared.partition;
        match self.runners.entry(partition) {
            std::collections::btree_map::Entry::Occupied(entry) => {
                entry.into_mut().resume(Arc::clone(shared), waiting);
            }
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(Runner::new(Arc::clone(&self.common), Arc::clone(shared))).open(waiting);
            }
        }
    }

    fn park(&mut self, partition: Partition) {
        let open = self.runners.get_mut(&partition).and_then(Runner::park);
        if open.is_none() {
            self.runners.remove(&partition);
        }
        self.common.homes.left(partition, open);
    }

    fn close_parked(&mut self) {
        let common = &self.common;
        let closing: Vec<Partition> = self
            .runners
            .iter()
            .filter(|(_, runner)| runner.is_unread())
            .filter_map(|(&partition, runner)| Some((partition, runner.parked_since()?)))
            .filter(|(partition, since)| common.homes.may_close(*partition, since.elapsed() >= common.park))
            .map(|(partition, _)| partition)
            .collect();
        for partition in closing {
            if let Some(runner) = self.runners.remove(&partition) {
                tracing::info!(%partition, "the store of a partition that went elsewhere is closed");
                if let Err(error) = runner.close(true) {
                    tracing::warn!(%partition, %error, "its last rows were not flushed; the log has them");
                }
            }
            common.homes.left(partition, None);
        }
    }
}
