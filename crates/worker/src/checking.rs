//! Whether the log still holds the record that a store saw last: asked beside the thread of its partition, because a log on
//! a network may take as long to answer as a partition has no leader.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use barrage_event::{EnvelopeView, Offset, Partition};
use barrage_log::EventLog;

use crate::engine::{Stop, hex};

/// Between two questions to a log that did not answer.
const PAUSE: Duration = Duration::from_millis(50);
/// How often it is said that the log does not answer.
const SAY_EVERY: Duration = Duration::from_secs(30);

/// The last record that a store saw.
#[derive(Debug, Clone)]
pub struct LastSeen {
    pub(crate) partition: Partition,
    pub(crate) offset: Offset,
    /// Its id; empty when it had none.
    pub(crate) id: Vec<u8>,
    /// The store's directory.
    pub(crate) dir: PathBuf,
}

impl LastSeen {
    /// Whether the log has it; `false` when the log does not tell now. Waits as long as one read of the log does.
    ///
    /// # Errors
    /// [`Stop::LogChanged`] when the log surely has another record there, or none, and [`Stop::Read`] when it cannot be
    /// read.
    pub fn look(&self, log: &dyn EventLog) -> Result<bool, Stop> {
        let Self { partition, offset, .. } = *self;
        if !log.is_end_known(partition) {
            return Ok(false);
        }
        let end = log.end(partition);
        if end <= offset {
            return Err(self.changed(format!("ends at offset {end}, but the state has seen offset {offset}")));
        }
        if log.start(partition) == offset.next() {
            // It was given up behind a snapshot of this very place.
            return Ok(true);
        }
        let mut found = None;
        // A log on a network gives nothing when it has waited long enough: that says nothing of what it holds.
        log.read(partition, offset, 1, &mut |record| {
            found = Some(EnvelopeView::id_of(record.bytes).map(|id| id.to_vec()).unwrap_or_default());
            ControlFlow::Break(())
        })?;
        match found {
            None => Ok(false),
            Some(found) if found == self.id => Ok(true),
            Some(found) => Err(self.changed(format!(
                "holds record {} at offset {offset}, but the state has seen {} there",
                hex(&found),
                hex(&self.id)
            ))),
        }
    }

    fn changed(&self, problem: String) -> Stop {
        Stop::LogChanged { partition: self.partition, problem, dir: self.dir.display().to_string() }
    }
}

/// A question under way. Dropped before it is answered, it is given up.
pub(crate) struct Checking {
    answer: mpsc::Receiver<Result<(), Stop>>,
    cancelled: Arc<AtomicBool>,
}

impl Drop for Checking {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

impl Checking {
    /// Asks until the log answers.
    pub(crate) fn start(log: &Arc<dyn EventLog>, last: LastSeen) -> std::io::Result<Self> {
        let cancelled = Arc::new(AtomicBool::new(false));
        let (said, answer) = mpsc::channel();
        let (log, stop) = (Arc::clone(log), Arc::clone(&cancelled));
        std::thread::Builder::new().name("check-log".to_owned()).spawn(move || {
            if let Some(found) = ask(log.as_ref(), &last, &stop) {
                // Nobody may want to know any more.
                let _ = said.send(found);
                log.wake();
            }
        })?;
        Ok(Self { answer, cancelled })
    }

    /// The answer, when it is there.
    pub(crate) fn poll(&self) -> Option<Result<(), Stop>> {
        match self.answer.try_recv() {
            Ok(answer) => Some(answer),
            Err(mpsc::TryRecvError::Empty) => None,
            Err(mpsc::TryRecvError::Disconnected) => {
                Some(Err(Stop::Defect("the thread that asks the log has ended without an answer".to_owned())))
            }
        }
    }
}

/// `None` when nobody wants to know any more.
fn ask(log: &dyn EventLog, last: &LastSeen, cancelled: &AtomicBool) -> Option<Result<(), Stop>> {
    let (begun, mut said) = (Instant::now(), Instant::now());
    while !cancelled.load(Ordering::Relaxed) {
        match last.look(log) {
            Ok(true) => return Some(Ok(())),
            Err(error) => return Some(Err(error)),
            Ok(false) => {}
        }
        if said.elapsed() >= SAY_EVERY {
            said = Instant::now();
            tracing::warn!(
                partition = %last.partition, offset = %last.offset, seconds = begun.elapsed().as_secs(),
                "the log does not say whether it still has the record that the state saw last; the partition starts when it does"
            );
        }
        std::thread::sleep(PAUSE);
    }
    None
}
