//! The rules of processes that share a log: watched in `barrage.rules`, taken over within milliseconds.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use barrage_ingest::{Rules, RulesTopic};
use barrage_log::{ControlTopic, KafkaOptions};

/// Name of the control topic, without the prefix.
const TOPIC: &str = "rules";
/// How often it is looked at without being told, and a cluster that was not reached is tried again.
const LOOK: Duration = Duration::from_secs(2);

/// Tells that the topic changed.
pub(super) type Changed = mpsc::Receiver<()>;

/// Opens the topic; every change of it is told.
pub(super) fn open(options: &KafkaOptions, tell: mpsc::Sender<()>) -> Result<ControlTopic, barrage_log::OpenError> {
    ControlTopic::open(options, TOPIC, move |row| {
        if RulesTopic::concerns(&row.key) {
            // Nobody listens any more when the process stops.
            let _ = tell.send(());
        }
    })
}

/// The thread that follows the topic.
#[derive(Debug)]
pub(super) struct Follower {
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    /// Follows the topic; one that was not reached at the start is opened as soon as it can be.
    pub(super) fn start(
        options: KafkaOptions,
        rules: Arc<Rules>,
        topic: Arc<RulesTopic>,
        (tell, changed): (mpsc::Sender<()>, Changed),
        mut reached: bool,
    ) -> std::io::Result<Self> {
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopping);
        let thread = std::thread::Builder::new().name("rules".to_owned()).spawn(move || {
            let mut failing = false;
            while !stop.load(Ordering::Acquire) {
                if !reached {
                    match open(&options, tell.clone()) {
                        Ok(opened) => {
                            topic.attach(opened);
                            reached = true;
                            tracing::info!("the rules are followed again");
                        }
                        Err(error) => tracing::debug!(%error, "the topic of the rules is not reached yet"),
                    }
                }
                // What came together is looked at once.
                if let Ok(()) = changed.recv_timeout(LOOK) {
                    while changed.try_recv().is_ok() {}
                }
                if !reached || stop.load(Ordering::Acquire) {
                    continue;
                }
                match rules.refresh() {
                    Ok(()) => failing = false,
                    Err(error) if !std::mem::replace(&mut failing, true) => {
                        tracing::error!(%error, "the rules cannot be followed: those in force stay so");
                    }
                    Err(_) => {}
                }
            }
        })?;
        Ok(Self { stopping, thread: Some(thread) })
    }

    pub(super) fn stop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // It ends within its next look; what it does until then harms nobody.
            drop(thread);
        }
    }
}
