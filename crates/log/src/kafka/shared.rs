//! What the threads of one log in Kafka share: ends and starts, feeds, what is wrong, and who waits.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use barrage_event::{Offset, Partition, Topic};

use crate::clock::now_ms;
use crate::embedded::shape::Shape;
use crate::error::ReadError;
use crate::event_log::Health;
use crate::kafka::clocks::{ALARM_MS, Clocks, LogTime};
use crate::kafka::feed::Broken;
use crate::kafka::intake::Intake;
use crate::kafka::made::Lineages;
use crate::kafka::{KafkaMetrics, KafkaOptions};

/// How often the same trouble makes a log line.
const REPEAT: Duration = Duration::from_secs(5);

/// Full names of the data topics.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    room: String,
    user: String,
}

impl Names {
    pub(crate) fn new(options: &KafkaOptions) -> Self {
        Self { room: options.topic(Topic::Room.short()), user: options.topic(Topic::User.short()) }
    }

    pub(crate) fn of(&self, topic: Topic) -> &str {
        match topic {
            Topic::Room => &self.room,
            Topic::User => &self.user,
        }
    }

    pub(crate) fn topic(&self, name: &str) -> Option<Topic> {
        Topic::ALL.into_iter().find(|topic| self.of(*topic) == name)
    }
}

/// What is wrong, each with the words for a person.
#[derive(Debug, Default)]
struct Wrong {
    /// The cluster does not answer.
    unreachable: Option<Arc<str>>,
    /// The topics are not as they must be.
    topics: Option<Arc<str>>,
    /// A partition is not what it was.
    changed: Option<Arc<str>>,
    /// Kafka refuses records.
    blocked: Option<Arc<str>>,
}

/// State behind a [`crate::KafkaLog`].
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: KafkaOptions,
    pub(crate) shape: Shape,
    pub(crate) names: Names,
    pub(crate) uuid: u128,
    pub(crate) lineages: Lineages,
    pub(crate) metrics: KafkaMetrics,
    ends: Box<[AtomicU64]>,
    starts: Box<[AtomicU64]>,
    /// How often the watching client was told where a partition ends.
    answers: Box<[AtomicU64]>,
    /// Partitions that ended later than they do; nothing is read from them any more.
    changed: Mutex<Vec<Option<Broken>>>,
    any_changed: AtomicBool,
    /// Feeds of the group.
    pub(crate) intake: Intake,
    wrong: Mutex<Wrong>,
    /// Whether `wrong` says so, for a look without the lock.
    unreachable: AtomicBool,
    /// Questions for the ends: the last one asked, and the last one that was answered for each partition.
    pub(crate) ends_asked: AtomicU64,
    questions: Box<[AtomicU64]>,
    /// What the brokers' times tell of our clock; the last place is for what was told before any append.
    clocks: Mutex<(Clocks, Seldom)>,
    log_time: LogTime,
    pub(crate) closed: AtomicBool,
    generation: AtomicU64,
    waiting: AtomicUsize,
    gate: Mutex<()>,
    woken: Condvar,
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(
        options: KafkaOptions,
        shape: Shape,
        (uuid, lineages): (u128, Lineages),
        metrics: KafkaMetrics,
    ) -> Self {
        let zeros = || (0..shape.total()).map(|_| AtomicU64::new(0)).collect();
        let names = Names::new(&options);
        let begun = Instant::now();
        Self {
            intake: Intake::new(shape, names.clone(), options.feed_bytes_max),
            options,
            shape,
            names,
            uuid,
            lineages,
            metrics,
            ends: zeros(),
            starts: zeros(),
            answers: zeros(),
            changed: Mutex::new(vec![None; shape.total()]),
            any_changed: AtomicBool::new(false),
            wrong: Mutex::default(),
            unreachable: AtomicBool::new(false),
            ends_asked: AtomicU64::new(0),
            questions: zeros(),
            clocks: Mutex::new((Clocks::new(shape.total() + 1, begun), Seldom::default())),
            log_time: LogTime::new(begun),
            closed: AtomicBool::new(false),
            generation: AtomicU64::new(1),
            waiting: AtomicUsize::new(0),
            gate: Mutex::default(),
            woken: Condvar::new(),
        }
    }

    pub(crate) fn end(&self, dense: usize) -> u64 {
        self.ends.get(dense).map_or(0, |end| end.load(Ordering::Acquire))
    }

    /// Raises an end; it never sinks.
    pub(crate) fn raise_end(&self, dense: usize, end: u64) -> bool {
        self.ends.get(dense).is_some_and(|known| known.fetch_max(end, Ordering::AcqRel) < end)
    }

    pub(crate) fn start(&self, dense: usize) -> u64 {
        self.starts.get(dense).map_or(0, |start| start.load(Ordering::Acquire))
    }

    pub(crate) fn raise_start(&self, dense: usize, start: u64) {
        if let Some(known) = self.starts.get(dense) {
            known.fetch_max(start, Ordering::AcqRel);
        }
    }

    /// The watching client was told where a partition ends, after this question; its end is raised already. Gives whether
    /// the question is news.
    pub(crate) fn answered(&self, dense: usize, question: u64) -> bool {
        if let Some(answers) = self.answers.get(dense) {
            answers.fetch_add(1, Ordering::AcqRel);
        }
        self.questions.get(dense).is_some_and(|last| last.fetch_max(question, Ordering::AcqRel) < question)
    }

    /// The last question that was answered for a partition.
    pub(crate) fn answered_question(&self, dense: usize) -> u64 {
        self.questions.get(dense).map_or(0, |last| last.load(Ordering::Acquire))
    }

    pub(crate) fn answers(&self, dense: usize) -> u64 {
        self.answers.get(dense).map_or(0, |answers| answers.load(Ordering::Acquire))
    }

    /// Why nothing may be read from a partition any more, if so.
    pub(crate) fn changed(&self, dense: usize) -> Option<Broken> {
        if !self.any_changed.load(Ordering::Acquire) {
            return None;
        }
        locked(&self.changed).get(dense).copied().flatten()
    }

    /// A partition is not what it was: it is never read again by this process, and a person must look.
    pub(crate) fn mark_changed(&self, dense: usize, broken: Broken) {
        let Some(partition) = self.shape.partition(dense) else { return };
        {
            let mut changed = locked(&self.changed);
            let Some(slot) = changed.get_mut(dense) else { return };
            if slot.is_some() {
                return;
            }
            *slot = Some(broken);
        }
        self.any_changed.store(true, Ordering::Release);
        let reason = read_error(partition, 0, broken).to_string();
        tracing::error!(%partition, "{reason}");
        locked(&self.wrong).changed = Some(reason.into());
        self.metrics.problem.set(1);
        self.advance();
    }

    /// Compares our clock with the log's time of a record that was acknowledged at `acked_ms`, `took` after it was handed
    /// over; `None` for one that was no append.
    pub(crate) fn compare_clocks(&self, dense: Option<usize>, log_ms: i64, acked_ms: i64, took: Duration) {
        let now = Instant::now();
        let mut clocks = locked(&self.clocks);
        let seen_ms = clocks.0.observe(dense.unwrap_or_else(|| self.shape.total()), log_ms, acked_ms, took, now);
        let (before_ms, ahead_ms) = clocks.0.follow(&self.log_time, acked_ms, now);
        #[expect(clippy::cast_precision_loss, reason = "a gauge for people; 2^53 ms are beyond any clock")]
        self.metrics.clock_ahead.set(seen_ms as f64 / 1_000.0);
        if seen_ms.abs() > ALARM_MS {
            if clocks.1.speak(now).is_some() {
                tracing::error!(
                    ahead_ms = seen_ms,
                    followed = ahead_ms != 0,
                    "this machine's clock and the log's differ: check NTP here and on the brokers. Where all brokers say so, \
                     callbacks are stamped with the log's time"
                );
            }
        } else if before_ms != 0 && ahead_ms == 0 {
            tracing::info!("this machine's clock agrees with the log's again");
        }
    }

    /// By how much our clock is ahead of the log's, ms, where all brokers say so.
    pub(crate) fn clock_ahead_ms(&self) -> i64 {
        self.log_time.ahead_ms(now_ms(), Instant::now())
    }

    /// Says that the cluster answers, or why not.
    pub(crate) fn reachable(&self, outcome: Result<(), &str>) {
        let mut wrong = locked(&self.wrong);
        match outcome {
            Ok(()) => {
                if wrong.unreachable.take().is_some() {
                    tracing::info!(brokers = %self.options.brokers, "Kafka answers again");
                }
            }
            Err(reason) if wrong.unreachable.is_none() => {
                let brokers = &self.options.brokers;
                tracing::error!(%brokers, reason, "Kafka does not answer; appends wait and are sent when it does");
                let reason = format!("Kafka at {brokers} does not answer ({reason}): appends wait until it does");
                wrong.unreachable = Some(reason.into());
            }
            Err(_) => {}
        }
        self.unreachable.store(wrong.unreachable.is_some(), Ordering::Release);
        self.metrics.unreachable.set(wrong.unreachable.is_some().into());
    }

    pub(crate) fn is_unreachable(&self) -> bool {
        self.unreachable.load(Ordering::Acquire)
    }

    /// Something came from the cluster, so it is there.
    pub(crate) fn heard(&self) {
        if self.is_unreachable() {
            self.reachable(Ok(()));
        }
    }

    /// Says what is wrong with the topics, or that all is right again.
    pub(crate) fn topics_problem(&self, problem: Option<String>) {
        let mut wrong = locked(&self.wrong);
        match (&problem, &wrong.topics) {
            (Some(new), old) if old.as_deref() != Some(new) => tracing::error!("{new}"),
            (None, Some(_)) => tracing::info!("the topics are as they must be again"),
            _ => {}
        }
        wrong.topics = problem.map(Into::into);
        self.metrics.problem.set((wrong.topics.is_some() || wrong.changed.is_some()).into());
    }

    /// Says which partitions Kafka refuses records for.
    pub(crate) fn blocked(&self, blocked: Option<String>) {
        locked(&self.wrong).blocked = blocked.map(Into::into);
    }

    /// What a person must put right, worst first.
    pub(crate) fn problem(&self) -> Option<Arc<str>> {
        let wrong = locked(&self.wrong);
        [&wrong.changed, &wrong.topics, &wrong.blocked].into_iter().flatten().next().cloned()
    }

    pub(crate) fn health(&self) -> Health {
        if self.closed.load(Ordering::Acquire) {
            return Health::Closed;
        }
        let unreachable = locked(&self.wrong).unreachable.clone();
        match self.problem().or(unreachable) {
            Some(reason) => Health::Impaired { reason },
            None => Health::Ready,
        }
    }

    /// Tells everybody who waits that something has changed.
    pub(crate) fn advance(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            drop(locked(&self.gate));
            self.woken.notify_all();
        }
    }

    pub(crate) fn wait(&self, seen: u64, timeout: Duration) -> u64 {
        let now = self.generation.load(Ordering::SeqCst);
        if now != seen || timeout.is_zero() {
            return now;
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let gate = locked(&self.gate);
        let same = |(): &mut ()| self.generation.load(Ordering::SeqCst) == seen;
        drop(self.woken.wait_timeout_while(gate, timeout, same));
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        self.generation.load(Ordering::SeqCst)
    }
}

/// What a reader is told.
pub(crate) fn read_error(partition: Partition, from: u64, broken: Broken) -> ReadError {
    match broken {
        Broken::Changed { seen, end } => ReadError::Changed { partition, seen: Offset(seen), end: Offset(end) },
        Broken::Trimmed { start } => ReadError::Trimmed { partition, from: Offset(from), start: Offset(start) },
        Broken::Gap { expected, found } => {
            ReadError::Gap { partition, expected: Offset(expected), found: Offset(found) }
        }
    }
}

/// Lets the same trouble speak at most once every few seconds.
#[derive(Debug, Default)]
pub(crate) struct Seldom {
    last: Option<Instant>,
    /// Times that were kept quiet.
    quiet: u64,
}

impl Seldom {
    /// How many times were kept quiet since, when it is time for a line.
    pub(crate) fn speak(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.duration_since(last) < REPEAT) {
            self.quiet += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.quiet))
    }
}
