//! Who is asked: this process where it owns the partition, else the process that does.
//!
//! A question is asked again when its partition moved: at once when the directory changes, else after a short pause, and
//! never beyond its deadline. What has no answer by then is an error that says so; no question is ever answered by a
//! process that is known not to own the partition.

mod directory;
mod gather;
mod marks;
mod peers;
mod record;
mod service;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use barrage_event::{Partition, Topic};
use barrage_log::EventLog;
use barrage_projection::Statistic;
use tokio::time::Instant;

pub use self::directory::{AllHere, Claim, Directory, Owner, OwnerTable};
pub(crate) use self::gather::Gather;
pub use self::marks::PeerMarks;
use self::peers::Peers;
pub use self::record::{OwnerRecord, OwnerRecordError};
pub use self::service::{OwnerService, serve_owner};
use crate::local::Local;
use crate::metrics::Metrics;
use crate::options::QueryOptions;
use crate::question::{Ask, Failure, Found, Kind, Question};

/// First pause before a question is asked again, when the directory does not change; each next one is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// Longest such pause.
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// What a wait for a position may take beyond its own time, so that the owner's answer comes before the call's end.
const WAIT_SPARE: Duration = Duration::from_millis(500);

/// How many partitions each topic has: fixed when the log was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Partitions of `barrage.room`, at least 1.
    pub room: u16,
    /// Partitions of `barrage.user`, at least 1.
    pub user: u16,
}

impl Shape {
    /// The shape of a log.
    #[must_use]
    pub fn of(log: &dyn EventLog) -> Self {
        Self { room: log.partitions(Topic::Room), user: log.partitions(Topic::User) }
    }

    pub(crate) fn partitions(self, topic: Topic) -> u16 {
        match topic {
            Topic::Room => self.room,
            Topic::User => self.user,
        }
    }

    /// Every partition of a topic, in order.
    pub(crate) fn all_of(self, topic: Topic) -> impl Iterator<Item = Partition> {
        (0..self.partitions(topic)).map(move |index| Partition { topic, index })
    }

    /// Every partition, in the order in which answers list them.
    pub(crate) fn all(self) -> Vec<Partition> {
        Topic::ALL.into_iter().flat_map(|topic| self.all_of(topic)).collect()
    }
}

/// What rooms and viewers can be ranked by: the values of `sort=`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sorts {
    /// Rooms; the first is the default.
    pub rooms: Vec<&'static str>,
    /// Viewers of a room; the first is the default.
    pub viewers: Vec<&'static str>,
    /// Those of them that answer for a span of time.
    pub viewer_windows: Vec<&'static str>,
}

impl Sorts {
    /// What these statistics can rank by.
    #[must_use]
    pub fn of(statistics: &[Box<dyn Statistic>]) -> Self {
        Self {
            rooms: statistics.iter().flat_map(|s| s.room_sorts()).copied().collect(),
            viewers: statistics.iter().flat_map(|s| s.viewer_sorts()).copied().collect(),
            viewer_windows: statistics.iter().flat_map(|s| s.viewer_window_sorts()).copied().collect(),
        }
    }
}

/// What [`Owners`] is made of.
pub struct OwnersParts {
    /// The partitions of this process; `None` for one that never owns any.
    pub local: Option<Local>,
    /// Who owns which partition.
    pub directory: Arc<dyn Directory>,
    /// Partitions of the log.
    pub shape: Shape,
    /// What can be ranked by.
    pub sorts: Sorts,
    /// The key that owners need.
    pub api_key: String,
    /// Metrics.
    pub metrics: Metrics,
}

impl fmt::Debug for OwnersParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key is no business of a log line.
        let Self { local, directory, shape, .. } = self;
        f.debug_struct("OwnersParts")
            .field("local", local)
            .field("directory", directory)
            .field("shape", shape)
            .finish_non_exhaustive()
    }
}

/// Every partition of the log, wherever it is.
#[derive(Debug)]
pub struct Owners {
    local: Option<Local>,
    directory: Arc<dyn Directory>,
    shape: Shape,
    sorts: Sorts,
    peers: Peers,
    timeout: Duration,
    metrics: Metrics,
}

impl Owners {
    /// Partitions that processes share out among them.
    #[must_use]
    pub fn new(parts: OwnersParts, options: &QueryOptions) -> Self {
        let OwnersParts { local, directory, shape, sorts, api_key, metrics } = parts;
        let peers = Peers::new(&api_key, options.answer_bytes_max());
        let timeout = Duration::from_millis(options.owner_timeout_ms);
        Self { local, directory, shape, sorts, peers, timeout, metrics }
    }

    /// All partitions are this process's, which calls itself so.
    #[must_use]
    pub fn all_here(local: Local, process: &str, metrics: Metrics) -> Self {
        let shape = Shape::of(local.stores().log().as_ref());
        let sorts = Sorts::of(local.stores().statistics());
        let directory = Arc::new(AllHere::new(process));
        let parts = OwnersParts { local: Some(local), directory, shape, sorts, api_key: String::new(), metrics };
        Self::new(parts, &QueryOptions::default())
    }

    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    pub(crate) fn sorts(&self) -> &Sorts {
        &self.sorts
    }

    pub(crate) fn owner(&self, partition: Partition) -> Owner {
        self.directory.owner(partition)
    }

    /// Asks the owner of a partition, and follows the partition when it moves meanwhile.
    pub(crate) async fn ask(&self, question: Question) -> Result<Found, Failure> {
        // Nearly always it is here, and then nothing is set up to wait for.
        if let (Owner::Here(_), Some(local), false) =
            (self.owner(question.partition), &self.local, matches!(question.ask, Ask::WaitFor { .. }))
        {
            match local.answer(&question).await {
                Err(failure) if failure.passes() => {}
                answered => return answered,
            }
        }
        let deadline = Instant::now() + self.time_of(&question.ask);
        self.ask_until(question, deadline).await
    }

    /// Asks whoever owns the partition now, once.
    pub(crate) async fn ask_once(&self, question: Question) -> Result<Found, Failure> {
        let deadline = Instant::now() + self.time_of(&question.ask);
        self.attempt(&self.owner(question.partition), &question, deadline).await
    }

    fn time_of(&self, ask: &Ask) -> Duration {
        match ask {
            Ask::WaitFor { timeout_ms, .. } => Duration::from_millis(*timeout_ms),
            _ => self.timeout,
        }
    }

    async fn ask_until(&self, mut question: Question, deadline: Instant) -> Result<Found, Failure> {
        let mut pause = PAUSE_MIN;
        let mut last: Option<Failure> = None;
        let is_wait = matches!(question.ask, Ask::WaitFor { .. });
        loop {
            let owner = self.owner(question.partition);
            if let Ask::WaitFor { timeout_ms, .. } = &mut question.ask {
                let left = deadline.saturating_duration_since(Instant::now());
                *timeout_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            }
            let attempt = Box::pin(self.attempt(&owner, &question, deadline));
            let failure = tokio::select! {
                answered = attempt => match answered {
                    Err(failure) if failure.passes() => failure,
                    // What kept it from an answer before says more than that the last try had little time.
                    Err(failure) if failure.kind == Kind::TimedOut && !is_wait => return Err(last.unwrap_or(failure)),
                    answered => return answered,
                },
                // Whoever does not answer while another becomes the owner is not waited for.
                () = self.moved(question.partition, &owner), if question.ask.is_read() => continue,
            };
            // A command that may have arrived is not sent again.
            if failure.kind == Kind::Unreachable && !question.ask.is_read() {
                return Err(failure);
            }
            let until = (Instant::now() + pause).min(deadline);
            match tokio::time::timeout_at(until, self.moved(question.partition, &owner)).await {
                Ok(()) => pause = PAUSE_MIN,
                Err(_) if until >= deadline => return Err(failure),
                Err(_) => pause = (pause * 2).min(PAUSE_MAX),
            }
            last = Some(failure);
        }
    }

    /// Ends when another process owns the partition than did.
    async fn moved(&self, partition: Partition, from: &Owner) {
        let mut changes = self.directory.changes();
        while self.owner(partition) == *from {
            if changes.changed().await.is_err() {
                // A directory that is gone changes no more.
                std::future::pending::<()>().await;
            }
        }
    }

    async fn attempt(&self, owner: &Owner, question: &Question, deadline: Instant) -> Result<Found, Failure> {
        let partition = question.partition;
        match (owner, &self.local) {
            (Owner::Here(_), Some(local)) => local.answer(question).await,
            (Owner::There(claim), _) => {
                let spare = if matches!(question.ask, Ask::WaitFor { .. }) { WAIT_SPARE } else { Duration::ZERO };
                let answered = self.peers.ask(claim, question, deadline + spare).await;
                self.metrics.asked(answered.as_ref().err().map(|failure| failure.kind));
                answered.map_err(|failure| match failure.kind {
                    Kind::NotMine => {
                        let message = format!("partition {partition} is moving: {} does not own it now", claim.process);
                        Failure::unavailable(Kind::NotMine, message)
                    }
                    _ => failure,
                })
            }
            (Owner::Nobody, _) | (Owner::Here(_), None) => {
                let message = format!("partition {partition} is owned by no process now");
                Err(Failure::unavailable(Kind::NotMine, message))
            }
        }
    }
}
