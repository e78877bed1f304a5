//! Reads on demand, beside the group: the check of a store's last record, rebuilds, and a look into the log.
//!
//! One consumer for all of it, without joining the group, on a thread that lives while it is needed. A partition has one
//! place at a time; readers of one partition take turns, each for as long as one piece of records takes, so that two of
//! them at different places disturb but never starve each other.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use barrage_event::{Offset, Partition};
use rdkafka::TopicPartitionList;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};

use crate::error::ReadError;
use crate::event_log::Record;
use crate::kafka::feed::Taken;
use crate::kafka::intake::{Intake, raw};
use crate::kafka::shared::{Shared, locked, read_error};
use crate::kafka::{Asking, BURST, aside};

/// A partition that nobody reads for so long is let go.
const IDLE: Duration = Duration::from_secs(20);

/// A place that a reader wants, and when anybody last wanted one.
#[derive(Debug, Default, Clone, Copy)]
struct Place {
    wanted: Option<u64>,
    used: Option<Instant>,
}

#[derive(Debug)]
struct Desk {
    places: Vec<Place>,
    running: bool,
}

/// The state behind a [`Side`].
struct Core {
    shared: Arc<Shared>,
    intake: Intake,
    desk: Mutex<Desk>,
    arrived: Condvar,
    asked: AtomicBool,
    /// A reader has waited in vain.
    deaf: AtomicBool,
}

/// Reads on demand.
pub(crate) struct Side {
    core: Arc<Core>,
    /// One reader of a partition at a time.
    turns: Box<[Mutex<()>]>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Side").field("desk", &locked(&self.core.desk)).finish_non_exhaustive()
    }
}

impl Side {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        let total = shared.shape.total();
        let desk = Desk { places: vec![Place::default(); total], running: false };
        Self {
            core: Arc::new(Core {
                shared: Arc::clone(shared),
                intake: Intake::new(shared.shape, shared.names.clone(), shared.options.feed_bytes_max),
                desk: Mutex::new(desk),
                arrived: Condvar::new(),
                asked: AtomicBool::new(false),
                deaf: AtomicBool::new(false),
            }),
            turns: (0..total).map(|_| Mutex::new(())).collect(),
            thread: Mutex::default(),
        }
    }

    /// Visits records from an offset that lies before the partition's end, waiting for the first of them.
    pub(crate) fn read(
        &self,
        partition: Partition,
        dense: usize,
        from: Offset,
        bytes_max: usize,
        visit: &mut dyn FnMut(Record<'_>) -> ControlFlow<()>,
    ) -> Result<Offset, ReadError> {
        let Some(turn) = self.turns.get(dense) else { return Ok(from) };
        let _turn = locked(turn);
        let shared = &self.core.shared;
        let mut bytes_left = bytes_max.max(1);
        let mut next = from.0;
        let deadline = Instant::now() + Duration::from_millis(shared.options.read_wait_ms.into());
        loop {
            match self.core.intake.take(dense, next) {
                Taken::Records(mut chunk) => {
                    let flow = chunk.visit(&mut bytes_left, visit);
                    next = chunk.position();
                    self.core.intake.give_back(dense, chunk);
                    if flow.is_break() || bytes_left == 0 || next >= shared.end(dense) {
                        return Ok(Offset(next));
                    }
                    continue;
                }
                // Damage is reported when nothing was visited, so that what comes before it is not lost.
                Taken::Broken(_) if next > from.0 => return Ok(Offset(next)),
                Taken::Broken(broken) => return Err(read_error(partition, next, broken)),
                // Some records are better than more records later.
                Taken::Empty | Taken::Elsewhere if next > from.0 => return Ok(Offset(next)),
                Taken::Empty => {}
                Taken::Elsewhere => self.ask(dense, next),
            }
            if !self.await_arrival(dense, next, deadline) {
                return Ok(Offset(next));
            }
        }
    }

    fn ask(&self, dense: usize, from: u64) {
        let mut desk = locked(&self.core.desk);
        if let Some(place) = desk.places.get_mut(dense) {
            *place = Place { wanted: Some(from), used: Some(Instant::now()) };
        }
        self.core.asked.store(true, Ordering::Release);
        if !desk.running {
            desk.running = true;
            let core = Arc::clone(&self.core);
            let spawned = std::thread::Builder::new().name("kafka-side".to_owned()).spawn(move || core.run());
            match spawned {
                Ok(thread) => *locked(&self.thread) = Some(thread),
                Err(error) => {
                    desk.running = false;
                    tracing::error!(%error, "no thread to read from Kafka with");
                }
            }
        }
    }

    /// Waits until something is there at an offset. False when it is better to give up for now.
    fn await_arrival(&self, dense: usize, from: u64, deadline: Instant) -> bool {
        let core = &self.core;
        let mut desk = locked(&core.desk);
        loop {
            let there =
                core.intake.with(dense, |feed| feed.position() == from && (feed.next() > from || feed.is_broken()));
            if there == Some(true) {
                return true;
            }
            if let Some(place) = desk.places.get_mut(dense) {
                place.used = Some(Instant::now());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let hopeless = core.shared.closed.load(Ordering::Acquire) || core.shared.is_unreachable();
            // In all the time that a reader has, nothing came of what is there.
            if left.is_zero() && !hopeless {
                core.deaf.store(true, Ordering::Release);
            }
            if left.is_zero() || hopeless || core.shared.changed(dense).is_some() || !desk.running {
                return false;
            }
            // In slices, because a cluster that stops answering is noticed elsewhere.
            let slice = left.min(Duration::from_millis(100));
            desk = core.arrived.wait_timeout(desk, slice).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Ends the thread.
    pub(crate) fn close(&self) {
        self.core.arrived.notify_all();
        if let Some(thread) = locked(&self.thread).take() {
            let _ = thread.join();
        }
    }
}

impl Core {
    fn run(self: Arc<Self>) {
        loop {
            let context = Asking(Arc::clone(&self.shared));
            let config = self.shared.options.consumer("side");
            let made = BaseConsumer::from_config_and_context(&config, context);
            match &made {
                Ok(consumer) => self.fetch(consumer),
                Err(error) => tracing::error!(%error, "no consumer to read from Kafka with"),
            }
            let made = made.map(aside);
            self.intake.close_all();
            let mut desk = locked(&self.desk);
            // Somebody may have come while this one was closing.
            let again = made.is_ok()
                && !self.shared.closed.load(Ordering::Acquire)
                && desk.places.iter().any(|place| place.wanted.is_some());
            if !again {
                desk.running = false;
                self.arrived.notify_all();
                return;
            }
            self.asked.store(true, Ordering::Release);
        }
    }

    fn fetch(&self, consumer: &BaseConsumer<Asking>) {
        let mut last = Instant::now();
        while !self.shared.closed.load(Ordering::Acquire) {
            if self.asked.swap(false, Ordering::AcqRel) {
                self.go_there(consumer);
            }
            let mut arrived = 0;
            let mut wait = Duration::from_millis(if self.intake.any_paused() { 2 } else { 10 });
            while let Some(polled) = consumer.poll(wait) {
                wait = Duration::ZERO;
                match polled {
                    Ok(message) => arrived += usize::from(self.intake.accept(&self.shared, &message).is_some()),
                    Err(error) => self.trouble(consumer, &error),
                }
                if arrived >= BURST || self.asked.load(Ordering::Acquire) {
                    break;
                }
            }
            if arrived > 0 {
                self.shared.metrics.side_records.inc_by(arrived as u64);
                drop(locked(&self.desk));
                self.arrived.notify_all();
            }
            self.intake.balance(consumer);
            self.begin_again(consumer);
            if self.deaf.swap(false, Ordering::AcqRel) {
                tracing::warn!("records that are read on demand do not come: a new client fetches them");
                self.shared.metrics.standstills.inc();
                return;
            }
            if last.elapsed() > Duration::from_secs(1) {
                last = Instant::now();
                if self.let_go(consumer) {
                    return;
                }
            }
        }
    }

    /// Goes to the places that readers want.
    fn go_there(&self, consumer: &BaseConsumer<Asking>) {
        let wanted: Vec<(usize, u64)> = {
            let mut desk = locked(&self.desk);
            let places = (0..).zip(&mut desk.places);
            places.filter_map(|(dense, place)| Some((dense, place.wanted.take()?))).collect()
        };
        for (dense, from) in wanted {
            if self.intake.with(dense, |_| ()).is_some() {
                self.off(consumer, dense);
            }
            self.on(consumer, dense, from);
        }
    }

    /// Fetches again from where it should go on, after records came out of turn.
    fn begin_again(&self, consumer: &BaseConsumer<Asking>) {
        for dense in self.intake.collect(|dense, feed| feed.restart.then_some(dense)) {
            if let Some(position) = self.intake.with(dense, |feed| feed.next()) {
                self.intake.unpause(consumer, &[dense]);
                self.tell(dense, position, |list| consumer.incremental_unassign(list));
                self.tell(dense, position, |list| consumer.incremental_assign(list));
                self.intake.with(dense, |feed| feed.restart = false);
            }
        }
    }

    fn on(&self, consumer: &BaseConsumer<Asking>, dense: usize, from: u64) {
        self.intake.open(dense, from);
        self.tell(dense, from, |list| consumer.incremental_assign(list));
    }

    fn off(&self, consumer: &BaseConsumer<Asking>, dense: usize) {
        self.intake.unpause(consumer, &[dense]);
        self.intake.close(dense);
        self.tell(dense, 0, |list| consumer.incremental_unassign(list));
    }

    fn tell(&self, dense: usize, offset: u64, call: impl FnOnce(&TopicPartitionList) -> KafkaResult<()>) {
        let mut list = TopicPartitionList::new();
        self.intake.enter(&mut list, dense, raw(offset));
        if let Err(error) = call(&list) {
            tracing::error!(%error, dense, "a partition cannot be read on demand; it is tried again");
            self.intake.close(dense);
        }
    }

    /// Lets go what nobody reads any more; true when nothing is left.
    fn let_go(&self, consumer: &BaseConsumer<Asking>) -> bool {
        let idle = |place: &Place| place.wanted.is_none() && place.used.is_none_or(|used| used.elapsed() > IDLE);
        let held = self.intake.collect(|dense, _| Some(dense));
        for dense in &held {
            if locked(&self.desk).places.get(*dense).is_none_or(idle) {
                self.off(consumer, *dense);
            }
        }
        locked(&self.desk).places.iter().all(idle)
    }

    fn trouble(&self, consumer: &BaseConsumer<Asking>, error: &KafkaError) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) {
            self.intake.diagnose(&self.shared, consumer);
            self.arrived.notify_all();
        } else {
            tracing::debug!(%error, "reading on demand");
        }
    }
}
