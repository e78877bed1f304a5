//! Partitions come and go while the worker runs.
//!
//! Whoever knows which partitions are this process's says so here, from any thread. What that means for a store is
//! decided by the thread that has the partition: it opens it, parks it, or closes it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{SystemTime, UNIX_EPOCH};

use barrage_event::{Offset, Partition};
use barrage_log::{Follow, Owner};

use crate::common::Common;
use crate::homes::{Home, State, least_loaded};
use crate::shared::Shared;
use crate::thread::Command;

/// Gives partitions to a running [`crate::Worker`] and takes them away; cheap to clone.
///
/// A partition that is taken away answers no read any more, and its store is *parked*: committed and kept open, because
/// a rebalance often gives back what it took. It is closed when an assignment comes that leaves it out, or when it was
/// parked for [`crate::WorkerOptions::park`].
#[derive(Clone)]
pub struct Assignments {
    inner: Arc<Inner>,
}

struct Inner {
    common: Arc<Common>,
    threads: Vec<mpsc::Sender<Command>>,
    generation: AtomicU64,
}

impl fmt::Debug for Assignments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Assignments").field("partitions", &self.inner.common.assigned.partitions()).finish()
    }
}

impl Assignments {
    pub(crate) fn new(common: Arc<Common>, threads: Vec<mpsc::Sender<Command>>) -> Self {
        Self { inner: Arc::new(Inner { common, threads, generation: AtomicU64::new(0) }) }
    }

    /// A generation above all that were handed out here, also by processes of this machine that ran before: the time in
    /// ms, or one more than the last.
    #[must_use]
    pub fn next_generation(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let now = u64::try_from(now).unwrap_or(0);
        let next = |last: u64| now.max(last + 1);
        let before = self.inner.generation.fetch_update(Ordering::AcqRel, Ordering::Acquire, |last| Some(next(last)));
        before.map_or(now, next)
    }

    /// These partitions are this process's now, beside those that it has, under `generation`
    /// ([`Assignments::next_generation`], or what the caller counts by). Returns at once, with the next offset of each
    /// whose store was parked; the others are opened on the worker's threads and reported to `follow` when they are.
    ///
    /// A partition that is this process's already keeps its generation. One that cannot be opened says so in its status,
    /// and is opened anew when it is taken away and given again.
    pub fn assign(
        &self,
        partitions: &[Partition],
        generation: u64,
        follow: Option<&Arc<dyn Follow>>,
    ) -> Vec<(Partition, Offset)> {
        self.assign_and_tell(partitions, generation, follow, None)
    }

    /// As [`Assignments::assign`]; `opened` is let go of for each partition that is open or has failed to.
    pub(crate) fn assign_and_tell(
        &self,
        partitions: &[Partition],
        generation: u64,
        follow: Option<&Arc<dyn Follow>>,
        opened: Option<&mpsc::Sender<()>>,
    ) -> Vec<(Partition, Offset)> {
        let common = &self.inner.common;
        let mut ready = Vec::new();
        // A partition that comes back may have been another's meanwhile.
        let question = common.log.ask_ends();
        {
            let mut homes = common.homes.lock();
            for (partition, home) in homes.iter_mut() {
                if let State::Parked { elsewhere, .. } = &mut home.state {
                    *elsewhere = !partitions.contains(partition);
                }
            }
            for &partition in partitions {
                let least = least_loaded(&homes, self.inner.threads.len());
                let home = homes.entry(partition).or_insert(Home { thread: least, state: State::Leaving });
                let mut follow = follow.map(Arc::clone);
                let shared = Arc::new(Shared::new(partition, generation));
                match &home.state {
                    State::Assigned(shared) => {
                        if shared.is_open() {
                            ready.push((partition, shared.with_status(|status| status.offset)));
                        }
                        continue;
                    }
                    State::Leaving => {}
                    State::Parked { open, .. } => {
                        ready.push((partition, Offset(open.committed.next_offset)));
                        shared.open_behind(&open.store, &open.committed, common.log.as_ref(), question);
                        follow = None;
                    }
                }
                home.state = State::Assigned(Arc::clone(&shared));
                common.assigned.insert(Arc::clone(&shared));
                let open = Command::Open { shared: Arc::clone(&shared), follow, opened: opened.cloned() };
                if self.inner.send(home.thread, open).is_err() {
                    shared.stop("the worker has ended; restart this process".to_owned());
                }
            }
        }
        common.log.wake();
        ready
    }

    /// These partitions are taken away; those that this process has not are left out. Returns when each has committed
    /// what it applied and answers no more reads.
    ///
    /// With `lost` another process may have them already. The commit is made even then: it goes into this process's own
    /// store, which is a cache of the log, and nothing else leaves the process.
    pub fn revoke(&self, partitions: &[Partition], lost: bool) {
        let common = &self.inner.common;
        let (done, parked) = mpsc::channel();
        {
            let mut homes = common.homes.lock();
            for &partition in partitions {
                let Some(home) = homes.get_mut(&partition) else { continue };
                if let State::Assigned(shared) = &home.state {
                    tracing::info!(%partition, lost, generation = shared.generation, "the partition is taken away");
                    shared.revoke();
                    common.assigned.remove(shared);
                    home.state = State::Leaving;
                }
                if matches!(home.state, State::Leaving) {
                    // A thread that has ended has nothing to commit.
                    let _ = self.inner.send(home.thread, Command::Park { partition, done: done.clone() });
                }
            }
        }
        drop(done);
        common.log.wake();
        // Ends when every thread has let go of its ends, or died.
        while parked.recv().is_ok() {}
    }

    /// Tells every thread to end.
    pub(crate) fn stop(&self, commit: bool) {
        for thread in 0..self.inner.threads.len() {
            // One that has ended already needs no telling.
            let _ = self.inner.send(thread, Command::Stop { commit });
        }
        self.inner.common.log.wake();
    }
}

impl Inner {
    fn send(&self, thread: usize, command: Command) -> Result<(), ()> {
        self.threads.get(thread).ok_or(())?.send(command).map_err(drop)
    }
}

impl Owner for Assignments {
    fn assigned(&self, partitions: &[Partition], follow: &Arc<dyn Follow>) -> Vec<(Partition, Offset)> {
        self.assign(partitions, self.next_generation(), Some(follow))
    }

    fn revoked(&self, partitions: &[Partition], lost: bool) {
        self.revoke(partitions, lost);
    }
}
