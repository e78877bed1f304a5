//! Plays lines: in order, in their own time, over many connections.
//!
//! One task decides what is sent and notes what was answered; each connection is a task that sends what it is given.
//! The rules of order (`order`) are therefore kept in one place and without locks.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::answer::Outcome;
use crate::connection::{Connection, Exchange};
use crate::ledger::{Ledger, LedgerEntry, LedgerError};
use crate::line::{Line, LineKind};
use crate::options::{Options, Shift, Speed};
use crate::order::Unanswered;
use crate::progress::{Progress, Snapshot, Stop};
use crate::recording::RecordingError;
use crate::shift::shift;
use crate::status::{StatusError, stream_time};
use crate::target::Target;

/// How long the first connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// First and longest pause before a line is sent again.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// Longest latency that is measured, µs: ten minutes.
const LATENCY_US_MAX: u64 = 600_000_000;

/// Why nothing was played, or why playing ended early.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The recording is not one, or is damaged. What came before was sent.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// There are no lines.
    #[error("there is nothing to send")]
    Nothing,
    /// No connection to the server.
    #[error("no connection to {address}: {why}")]
    Connect {
        /// Host and port.
        address: String,
        /// What went wrong.
        why: String,
    },
    /// The server's time cannot be told.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// The server has seen later times than the recording's.
    #[error(
        "the server's stream time {stream_time_ms} is past the first line's time {first_ms}: it would count old lines \
         as late ones. Send to a server with a fresh data directory, or move the recording's times with --shift"
    )]
    StreamTime {
        /// The server's stream time, ms.
        stream_time_ms: i64,
        /// Time of the first line as it would be sent, ms.
        first_ms: i64,
    },
    /// The ledger cannot be written.
    #[error("the ledger cannot be written: {0}")]
    Ledger(#[from] LedgerError),
}

/// What became of a replay.
#[derive(Debug, Clone)]
pub struct Summary {
    /// The counters at the end.
    pub counts: Snapshot,
    /// Time of the first line as sent, ms since the epoch.
    pub first_ms: i64,
    /// Time of the last line as sent, ms since the epoch.
    pub last_ms: i64,
    /// By how much the recording's times were moved, s.
    pub shifted_s: i64,
    /// Whether it was stopped before the recording's end.
    pub stopped: bool,
    /// Time from sending to the answer, µs, of answered lines.
    pub latency_us: Histogram<u64>,
    /// What went wrong with the first line that failed, if any did.
    pub first_failure: Option<String>,
}

impl Summary {
    /// 0 when every line that was sent was answered OK, otherwise 1. A replay that could not run is an error instead.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        u8::from(self.counts.ok != self.counts.sent)
    }
}

/// A line on its way to a connection.
#[derive(Debug)]
struct Job {
    number: u64,
    line: Line,
}

/// What a connection did with a job.
struct Done {
    worker: usize,
    number: u64,
    at_ms: i64,
    what: &'static str,
    outcome: Outcome,
    attempts: u32,
    latency: Duration,
}

/// Sends lines to a server by the rules of [`Options`] and waits for their answers.
///
/// `lines` must be in order of `at_ms`. Progress is counted while it runs; `stop` ends it after the answers on their
/// way.
///
/// # Errors
/// When nothing can be sent, the recording cannot be read on, or the ledger cannot be written. Lines that were sent
/// before have their answers in `progress` and in the ledger.
pub async fn replay(
    lines: impl IntoIterator<Item = Result<Line, RecordingError>>,
    target: &Target,
    options: &Options,
    progress: Arc<Progress>,
    stop: &Stop,
    ledger: Option<Ledger>,
) -> Result<Summary, ReplayError> {
    let mut lines = lines.into_iter().peekable();
    let first_ms = match lines.peek() {
        Some(Ok(line)) => line.at_ms,
        Some(Err(_)) => {
            return Err(lines.next().and_then(Result::err).map_or(ReplayError::Nothing, ReplayError::Recording));
        }
        None => return Err(ReplayError::Nothing),
    };
    let shifted_s = match options.shift {
        Shift::None => 0,
        Shift::ToNow => (now_ms() - first_ms).div_euclid(1_000),
        Shift::To(at_ms) => at_ms.saturating_sub(first_ms).div_euclid(1_000),
    };
    let first_ms = first_ms.saturating_add(shifted_s.saturating_mul(1_000));
    check_server(target, options, first_ms).await?;

    let mut player = Player::start(target, options, progress, ledger, first_ms);
    let played = player.play(&mut lines, options, shifted_s, stop).await;
    // Even after an error: what was sent has an answer that the ledger must tell.
    let drained = player.drain().await;
    played?;
    drained?;
    Ok(Summary {
        counts: player.progress.snapshot(),
        first_ms,
        last_ms: player.last_ms,
        shifted_s,
        stopped: stop.is_stopped(),
        latency_us: player.latency_us,
        first_failure: player.first_failure,
    })
}

async fn check_server(target: &Target, options: &Options, first_ms: i64) -> Result<(), ReplayError> {
    let address = target.address();
    let connect = |why: String| ReplayError::Connect { address: address.to_owned(), why };
    match timeout(CONNECT_WITHIN, TcpStream::connect(address)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return Err(connect(error.to_string())),
        Err(_) => return Err(connect(format!("nothing within {} s", CONNECT_WITHIN.as_secs()))),
    }
    if !options.check_stream_time {
        return Ok(());
    }
    match stream_time(target).await? {
        Some(stream_time_ms) if stream_time_ms > first_ms => Err(ReplayError::StreamTime { stream_time_ms, first_ms }),
        _ => Ok(()),
    }
}

/// The task that decides what is sent.
struct Player {
    jobs: Vec<mpsc::Sender<Job>>,
    idle: Vec<usize>,
    done: mpsc::Receiver<Done>,
    unanswered: Unanswered,
    next_number: u64,
    progress: Arc<Progress>,
    ledger: Option<Ledger>,
    latency_us: Histogram<u64>,
    first_failure: Option<String>,
    started: Instant,
    first_ms: i64,
    last_ms: i64,
}

impl Player {
    fn start(
        target: &Target,
        options: &Options,
        progress: Arc<Progress>,
        ledger: Option<Ledger>,
        first_ms: i64,
    ) -> Self {
        let connections = options.connections.max(1);
        let (settle, done) = mpsc::channel(connections);
        let mut jobs = Vec::with_capacity(connections);
        for worker in 0..connections {
            // One place: a connection is given a line only while it is idle.
            let (send, receive) = mpsc::channel(1);
            jobs.push(send);
            let sender = Sender { target: target.clone(), options: options.clone(), callbacks: None, query: None };
            tokio::spawn(sender.run(worker, receive, settle.clone()));
        }
        Self {
            idle: (0..connections).rev().collect(),
            jobs,
            done,
            unanswered: Unanswered::default(),
            next_number: 0,
            progress,
            ledger,
            latency_us: Histogram::new_with_max(LATENCY_US_MAX, 3)
                .expect("3 digits up to ten minutes is a valid range"),
            first_failure: None,
            started: Instant::now(),
            first_ms,
            last_ms: first_ms,
        }
    }

    async fn play(
        &mut self,
        lines: &mut dyn Iterator<Item = Result<Line, RecordingError>>,
        options: &Options,
        shifted_s: i64,
        stop: &Stop,
    ) -> Result<(), ReplayError> {
        for line in lines {
            let mut line = line?;
            if shifted_s != 0 {
                shift(&mut line, shifted_s);
            }
            if !self.wait_for_turn(&line, options, stop).await? {
                return Ok(());
            }
            self.send(line);
        }
        Ok(())
    }

    /// Waits until the line may be sent. `false` when playing is to stop.
    async fn wait_for_turn(&mut self, line: &Line, options: &Options, stop: &Stop) -> Result<bool, ReplayError> {
        let jump = line.at_ms.saturating_sub(self.last_ms) > options.jump_ms;
        let due = self.due(line.at_ms, options.speed);
        loop {
            while let Ok(done) = self.done.try_recv() {
                self.settle(&done)?;
            }
            if let Some(ledger) = &mut self.ledger {
                ledger.flush()?;
            }
            if stop.is_stopped() {
                return Ok(false);
            }
            let may = !self.idle.is_empty()
                && self.unanswered.allows(line.at_ms, options.order_ms)
                && !(jump && self.unanswered.len() > 0);
            let early = due.filter(|&due| due > Instant::now());
            if may && early.is_none() {
                return Ok(true);
            }
            tokio::select! {
                Some(done) = self.done.recv() => self.settle(&done)?,
                () = sleep_until(early.unwrap_or(self.started)), if may => {}
                () = stop.stopped() => {}
            }
        }
    }

    /// When a line of this time is due, by the pace.
    fn due(&self, at_ms: i64, speed: Speed) -> Option<Instant> {
        let Speed::Times(times) = speed else { return None };
        let since_ms = u64::try_from(at_ms.saturating_sub(self.first_ms)).unwrap_or(0);
        let wait = Duration::from_millis(since_ms).as_secs_f64() / times;
        Some(self.started + Duration::try_from_secs_f64(wait).unwrap_or(Duration::MAX / 4))
    }

    fn send(&mut self, line: Line) {
        let worker = self.idle.pop().expect("a turn needs an idle connection");
        self.unanswered.sent(line.at_ms);
        self.progress.line_sent(line.at_ms);
        self.last_ms = line.at_ms;
        let job = Job { number: self.next_number, line };
        self.next_number += 1;
        // An idle connection's task waits for this; it ends only after the player.
        self.jobs[worker].try_send(job).expect("an idle connection takes a line");
    }

    fn settle(&mut self, done: &Done) -> Result<(), ReplayError> {
        self.idle.push(done.worker);
        self.unanswered.answered(done.number);
        self.progress.settled(&done.outcome);
        match &done.outcome {
            Outcome::Ok { .. } | Outcome::Refused { .. } => {
                let us = u64::try_from(done.latency.as_micros()).unwrap_or(u64::MAX);
                self.latency_us.saturating_record(us);
            }
            Outcome::Unknown { why } | Outcome::Unsent { why } => {
                self.first_failure.get_or_insert_with(|| why.clone());
            }
        }
        if let Some(ledger) = &mut self.ledger {
            let entry = LedgerEntry::new(done.number, done.what, done.at_ms, &done.outcome, done.attempts);
            ledger.write(&entry)?;
        }
        Ok(())
    }

    /// Waits for all answers.
    async fn drain(&mut self) -> Result<(), ReplayError> {
        let mut result = Ok(());
        while self.unanswered.len() > 0 {
            let Some(done) = self.done.recv().await else { break };
            let settled = self.settle(&done);
            result = result.and(settled);
        }
        if let Some(ledger) = &mut self.ledger {
            let flushed = ledger.flush().map_err(ReplayError::from);
            result = result.and(flushed);
        }
        result
    }
}

/// The task of one connection (of two, when there are commands for the query service).
struct Sender {
    target: Target,
    options: Options,
    callbacks: Option<Connection>,
    query: Option<Connection>,
}

impl Sender {
    async fn run(mut self, worker: usize, mut jobs: mpsc::Receiver<Job>, done: mpsc::Sender<Done>) {
        while let Some(job) = jobs.recv().await {
            let started = Instant::now();
            let (outcome, attempts) = self.send(&job.line).await;
            let latency = started.elapsed();
            let (number, at_ms, what) = (job.number, job.line.at_ms, job.line.kind.name());
            let report = Done { worker, number, at_ms, what, outcome, attempts, latency };
            if done.send(report).await.is_err() {
                return;
            }
        }
    }

    /// Sends a line, again if that is wanted, until it has an outcome.
    async fn send(&mut self, line: &Line) -> (Outcome, u32) {
        let give_up = self.options.retry_for.map(|longest| Instant::now() + longest);
        let mut pause = RETRY_PAUSE.0;
        let mut attempts = 0;
        let mut sent = false;
        loop {
            attempts += 1;
            let why = match self.attempt(line).await {
                Ok(Exchange::Answered { status, body }) => {
                    return (Outcome::of_answer(&line.kind, status, &body), attempts);
                }
                Ok(Exchange::Unsent(why)) => why,
                Ok(Exchange::Lost(why)) => {
                    sent = true;
                    why
                }
                Err(why) => return (Outcome::Unsent { why }, attempts),
            };
            if give_up.is_none_or(|give_up| Instant::now() + pause > give_up) {
                let outcome = if sent { Outcome::Unknown { why } } else { Outcome::Unsent { why } };
                return (outcome, attempts);
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_PAUSE.1);
        }
    }

    async fn attempt(&mut self, line: &Line) -> Result<Exchange, String> {
        let now_s = now_ms() / 1_000;
        let (door, request) = self.target.request(line, now_s).map_err(|error| error.to_string())?;
        let connection = match line.kind {
            LineKind::Callback { .. } | LineKind::Event { .. } => &mut self.callbacks,
            LineKind::Request { .. } => &mut self.query,
        };
        let connection = connection.get_or_insert_with(|| Connection::new(door.address.clone()));
        Ok(connection.exchange(request, self.options.answer_within).await)
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
