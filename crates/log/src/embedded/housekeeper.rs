//! A thread beside the writer that reserves the next segment and seals the last one, so that no group waits for it.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::embedded::recover::seal;
use crate::embedded::segment::{self, Segment};

#[derive(Debug)]
enum Job {
    Prepare { number: u64, bytes: u64 },
    Seal { segment: Arc<Segment>, next: Box<[u64]>, group: u64, newest_ms: i64 },
}

/// Handle of the thread; dropping it waits until the thread has done what it was given.
#[derive(Debug)]
pub(crate) struct Housekeeper {
    dir: PathBuf,
    jobs: Option<SyncSender<Job>>,
    prepared: Receiver<(u64, io::Result<File>)>,
    /// A segment was asked for and not yet fetched.
    under_way: bool,
    /// The next segment is needed as it is, or not at all.
    hurry: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Housekeeper {
    pub(crate) fn start(dir: PathBuf, uuid: u128, zero_ahead: bool) -> io::Result<Self> {
        // The writer asks for one segment and seals one per segment written: the channels never fill.
        let (jobs, queue) = sync_channel(8);
        let (ready, prepared) = sync_channel(2);
        let hurry = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new().name("log-housekeeper".to_owned()).spawn({
            let (dir, hurry) = (dir.clone(), Arc::clone(&hurry));
            move || {
                for job in queue {
                    match job {
                        Job::Prepare { number, bytes } => {
                            let file = segment::prepare(&dir, number, bytes).and_then(|file| {
                                if zero_ahead {
                                    segment::write_zeros(&file, bytes, &hurry)?;
                                }
                                Ok(file)
                            });
                            // Nobody fetches it any more when the log is being closed.
                            let _ = ready.send((number, file));
                        }
                        Job::Seal { segment, next, group, newest_ms } => {
                            if let Err(error) = seal(&segment, uuid, &next, group, newest_ms) {
                                tracing::warn!(
                                    file = %segment.path.display(), %error,
                                    "cannot write the segment's index; the next start will be slower"
                                );
                            }
                        }
                    }
                }
            }
        })?;
        Ok(Self { dir, jobs: Some(jobs), prepared, under_way: false, hurry, thread: Some(thread) })
    }

    fn send(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // A thread that is gone does not matter: the writer prepares for itself, and an index is made at opening.
            let _ = jobs.send(job);
        }
    }

    /// Asks for the next segment.
    pub(crate) fn prepare(&mut self, number: u64, bytes: u64) {
        self.under_way = true;
        self.hurry.store(false, Ordering::Relaxed);
        self.send(Job::Prepare { number, bytes });
    }

    /// The next segment; waits for it, or makes it when it was not asked for or could not be made earlier.
    pub(crate) fn prepared(&mut self, number: u64, bytes: u64) -> io::Result<File> {
        self.hurry.store(true, Ordering::Relaxed);
        if std::mem::take(&mut self.under_way)
            && let Ok((ready, Ok(file))) = self.prepared.recv()
            && ready == number
        {
            return Ok(file);
        }
        segment::prepare(&self.dir, number, bytes)
    }

    /// Cuts a full segment to its length and writes its index.
    pub(crate) fn seal(&self, segment: &Arc<Segment>, next: &[u64], group: u64, newest_ms: i64) {
        self.send(Job::Seal { segment: Arc::clone(segment), next: next.into(), group, newest_ms });
    }
}

impl Drop for Housekeeper {
    fn drop(&mut self) {
        self.hurry.store(true, Ordering::Relaxed);
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
