//! Looks after the log from outside of any append or read: where partitions end, whether the topics are still what they
//! were, whether the cluster answers.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use barrage_event::Topic;
use rdkafka::Offset as KafkaOffset;

use crate::error::OpenError;
use crate::kafka::feed::Broken;
use crate::kafka::intake::bounds;
use crate::kafka::options::RECORD_SLACK;
use crate::kafka::sender::Sender;
use crate::kafka::shared::{Shared, locked};
use crate::kafka::topics::Admin;

/// How long a question may take before the cluster counts as unreachable.
const PATIENCE: Duration = Duration::from_secs(5);

/// Questions in a row without an answer, after which they are asked through a new client.
const ASK_ANEW: u32 = 3;

/// What the thread is told.
#[derive(Debug, Default)]
struct Told {
    stop: bool,
    /// Somebody waits for the ends.
    ask: bool,
}

#[derive(Debug, Default)]
struct Stop {
    flag: Mutex<Told>,
    told: Condvar,
}

/// The watching thread.
#[derive(Debug)]
pub(crate) struct Watcher {
    stop: Arc<Stop>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Watch {
    shared: Arc<Shared>,
    sender: Arc<Sender>,
    admin: Admin,
    /// Partitions that ended too early when they were last asked.
    short: Vec<bool>,
}

impl Watch {
    fn everything(&self) -> Vec<usize> {
        (0..self.shared.shape.total()).collect()
    }

    fn starts(&self) -> Result<(), String> {
        let starts = bounds(&self.shared, &self.admin.asker, &self.everything(), KafkaOffset::Beginning, PATIENCE);
        for (dense, start) in starts.map_err(|error| error.to_string())? {
            self.shared.raise_start(dense, start);
        }
        Ok(())
    }

    fn ends(&mut self) -> Result<(), String> {
        let question = self.shared.ends_asked.load(Ordering::Acquire);
        // What was known before the question: the answer must reach it.
        let known: Vec<u64> = (0..self.shared.shape.total()).map(|dense| self.shared.end(dense)).collect();
        let ends = bounds(&self.shared, &self.admin.asker, &self.everything(), KafkaOffset::End, PATIENCE);
        let mut news = false;
        for (dense, end) in ends.map_err(|error| error.to_string())? {
            let seen = known.get(dense).copied().unwrap_or(0);
            let Some(short) = self.short.get_mut(dense) else { continue };
            if end >= seen {
                *short = false;
                news |= self.shared.raise_end(dense, end);
            } else if std::mem::replace(short, true) {
                // Twice in a row: not a leader that was elected a moment ago.
                self.shared.mark_changed(dense, Broken::Changed { seen, end });
            }
            news |= self.shared.answered(dense, question);
        }
        if news {
            self.shared.advance();
        }
        Ok(())
    }

    /// Whether the topics are as the log was made.
    fn topics(&self) -> Result<(), String> {
        let mut problem = None;
        for topic in Topic::ALL {
            let (name, made) = (self.shared.names.of(topic), self.shared.shape.of(topic));
            match self.admin.partitions(name)? {
                None => {
                    problem = Some(format!("topic {name} is gone: what is appended waits. Bring it back"));
                }
                Some((found, _)) if found != usize::from(made) => {
                    problem = Some(format!(
                        "topic {name} has {found} partitions now, the log was made with {made}: keys are placed by that \
                         number, so the others stay empty. No process can be started again before the topic is as it was"
                    ));
                }
                Some(_) => {
                    let bytes_max = self.admin.bytes_max(name)?;
                    let of_topic =
                        |dense: &usize| self.shared.shape.partition(*dense).is_some_and(|p| p.topic == topic);
                    for dense in self.everything().into_iter().filter(of_topic) {
                        self.sender.set_safe_bytes(dense, bytes_max.saturating_sub(RECORD_SLACK));
                    }
                    if bytes_max < crate::kafka::options::MESSAGE_BYTES_MAX {
                        problem = Some(format!(
                            "topic {name} has max.message.bytes={bytes_max} now: larger records are refused and block \
                             their partition. Set it to {} or more",
                            crate::kafka::options::MESSAGE_BYTES_MAX
                        ));
                    }
                }
            }
        }
        self.shared.topics_problem(problem);
        Ok(())
    }
}

impl Watcher {
    /// Asks for everything again and again; with `first` it does not begin before the cluster has answered once. Partitions
    /// that nobody could be asked about then are known later.
    pub(crate) fn start(
        shared: &Arc<Shared>,
        sender: &Arc<Sender>,
        admin: Admin,
        first: bool,
    ) -> Result<Self, OpenError> {
        let short = vec![false; shared.shape.total()];
        let mut watch = Watch { shared: Arc::clone(shared), sender: Arc::clone(sender), admin, short };
        let refuse = |reason| shared.options.refuse("ask where the partitions end", reason);
        let deadline = Instant::now() + shared.options.open_wait();
        if first {
            watch.ask_first(deadline).map_err(refuse)?;
        }
        let stop: Arc<Stop> = Arc::default();
        let told = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("kafka-watch".to_owned()).spawn(move || watch.run(&told, first));
        let thread = thread.map_err(|error| shared.options.refuse("start the watching thread", error))?;
        Ok(Self { stop, thread: Mutex::new(Some(thread)) })
    }

    /// Asks for the ends now.
    pub(crate) fn ask(&self) {
        locked(&self.stop.flag).ask = true;
        self.stop.told.notify_all();
    }

    pub(crate) fn close(&self) {
        locked(&self.stop.flag).stop = true;
        self.stop.told.notify_all();
        if let Some(thread) = locked(&self.thread).take() {
            let _ = thread.join();
        }
    }
}

impl Watch {
    /// Everything once, of all partitions that have a leader; tried until the deadline.
    fn ask_first(&mut self, deadline: Instant) -> Result<(), String> {
        loop {
            match self.starts().and_then(|()| self.ends()).and_then(|()| self.topics()) {
                Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(200)),
                answered => return answered,
            }
        }
    }

    fn run(mut self, stop: &Stop, checked: bool) {
        let every = Duration::from_millis(self.shared.options.watch_ends_ms.into());
        let topics_every = Duration::from_millis(self.shared.options.watch_topics_ms.into());
        let mut unanswered = 0;
        let mut looked = checked.then(Instant::now);
        loop {
            {
                let flag = locked(&stop.flag);
                let waited = stop.told.wait_timeout_while(flag, every, |told| !told.stop && !told.ask);
                let mut told = waited.unwrap_or_else(PoisonError::into_inner).0;
                told.ask = false;
                if told.stop || self.shared.closed.load(Ordering::Acquire) {
                    return;
                }
            }
            // Log lines and errors of the client come out of this.
            while self.admin.asker_poll() {}
            match self.ends() {
                Ok(()) => {
                    unanswered = 0;
                    self.shared.reachable(Ok(()));
                }
                Err(reason) => {
                    self.shared.reachable(Err(&reason));
                    unanswered += 1;
                    if unanswered >= ASK_ANEW {
                        // A client that lived through a broker's standstill may never find the leaders again.
                        match Admin::connect(&self.shared.options) {
                            Ok(admin) => self.admin = admin,
                            Err(error) => tracing::debug!(%error, "no new client for questions"),
                        }
                        unanswered = 0;
                    }
                }
            }
            if looked.is_none_or(|looked| looked.elapsed() >= topics_every) {
                match self.starts().and_then(|()| self.topics()) {
                    Ok(()) => looked = Some(Instant::now()),
                    // Of a log that was opened without the cluster nothing else is to be expected.
                    Err(reason) if looked.is_some() => {
                        looked = Some(Instant::now());
                        unanswered += 1;
                        tracing::warn!(reason, "the topics could not be checked");
                    }
                    Err(_) => {}
                }
            }
        }
    }
}
