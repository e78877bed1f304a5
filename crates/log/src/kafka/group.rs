//! Membership in the consumer group: which partitions are this process's, and the records of those.
//!
//! One `BaseConsumer` on one thread, which never waits for a reader: records go into bounded feeds, and a partition whose
//! feed is full is paused. Offsets are ours: an assignment names each partition's next one, never the group's.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use barrage_event::{Offset, Partition, Topic};
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, TopicPartitionList};

use crate::error::OpenError;
use crate::kafka::BURST;
use crate::kafka::intake::raw;
use crate::kafka::shared::{Shared, locked};
use crate::kafka::standstill::{Fetched, Standstill, Waiting};
use crate::owner::{Follow, Owner};

/// How long leaving waits for the group to be told, once everything is released.
const LEAVE_WAIT: Duration = Duration::from_secs(5);

/// How often offsets are committed to the group, for people and their tools. Nothing is ever resumed from them.
const COMMIT_EVERY: Duration = Duration::from_secs(5);

/// How often it is looked whether records still come.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Why a consumer is done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    /// This member leaves.
    Stopped,
    /// It is of no use any more, and what it had may be another's.
    Failed,
    /// It gets nothing any more, though it is a member.
    StandsStill,
}

/// What is this member's.
#[derive(Debug, Default)]
struct Mine {
    /// Counts assignments and revocations; a store that was opened for an earlier one follows nothing.
    epoch: u64,
    partitions: BTreeSet<usize>,
}

struct Core {
    shared: Arc<Shared>,
    owner: Arc<dyn Owner>,
    mine: Mutex<Mine>,
    /// Stores that have opened: epoch, partition, next offset.
    followed: Mutex<Vec<(u64, usize, u64)>>,
    any_followed: AtomicBool,
    /// When the thread last served the group, in ms since `begun`.
    served_ms: AtomicU64,
    /// Until then ownership is doubtful, because this process stood still, in ms since `begun`.
    doubt_until_ms: AtomicU64,
    lost: AtomicBool,
    begun: Instant,
    stop: AtomicBool,
    standstill: Mutex<Standstill>,
    /// Whether the group has given this member its partitions, be it none, since it joined or was asked for them.
    given: AtomicBool,
    waiting: Mutex<Waiting>,
    /// A fault on demand: the consumer is to fetch nothing any more.
    #[cfg(any(test, feature = "test-util"))]
    halt: AtomicBool,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("mine", &locked(&self.mine)).finish_non_exhaustive()
    }
}

/// What a store calls when it has opened.
#[derive(Debug)]
struct Follower {
    core: Arc<Core>,
    epoch: u64,
}

impl Follow for Follower {
    fn follow(&self, partition: Partition, from: Offset) {
        if let Some(dense) = self.core.shared.shape.dense(partition) {
            locked(&self.core.followed).push((self.epoch, dense, from.0));
            self.core.any_followed.store(true, Ordering::Release);
        }
    }
}

struct Member {
    core: Arc<Core>,
    /// Another consumer is this process's member now: what this one is still told concerns nobody.
    retired: AtomicBool,
}

impl Member {
    fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }
}

impl ClientContext for Member {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::client_log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if self.is_retired() {
            return;
        }
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.core.shared.reachable(Err(reason));
        }
        tracing::debug!(%error, reason, "group");
    }
}

impl ConsumerContext for Member {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, error: RDKafkaRespErr, list: &mut TopicPartitionList) {
        if self.is_retired() {
            let _ = consumer.unassign();
            return;
        }
        if error == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.core.assigned(list);
            self.core.assign(consumer);
        } else {
            let revoking = error == RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS;
            // Whatever else it is, these partitions may be another's already.
            self.core.give_up(consumer, !revoking || consumer.assignment_lost());
            if let Err(error) = consumer.unassign() {
                tracing::error!(%error, "partitions could not be handed back");
            }
        }
        self.core.served();
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::debug!(%error, "offsets were not committed to the group; nothing depends on them");
        }
    }
}

impl Core {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Notes that the thread is alive. When it was not for a good part of the session, others may own its partitions: it
    /// takes some heartbeats to find out.
    fn served(&self) {
        let now = self.now_ms();
        let before = self.served_ms.swap(now, Ordering::AcqRel);
        let session = u64::from(self.shared.options.session_timeout_ms);
        if now.saturating_sub(before) > session / 2 {
            self.doubt_until_ms.store(now + session, Ordering::Release);
        }
    }

    /// Takes over what the group gives: feeds for partitions whose stores are open.
    fn assigned(self: &Arc<Self>, list: &TopicPartitionList) {
        let shared = &self.shared;
        let mut partitions = Vec::new();
        for element in list.elements() {
            match shared.intake.dense(element.topic(), element.partition()) {
                Some(dense) => partitions.extend(shared.shape.partition(dense)),
                None => {
                    let (topic, index) = (element.topic(), element.partition());
                    tracing::error!(topic, index, "the group gave a partition that the log was made without; ignored");
                }
            }
        }
        let epoch = {
            let mut mine = locked(&self.mine);
            mine.epoch += 1;
            mine.partitions = partitions.iter().filter_map(|p| shared.shape.dense(*p)).collect();
            mine.epoch
        };
        self.lost.store(false, Ordering::Release);
        self.given.store(true, Ordering::Release);
        locked(&self.waiting).over();
        shared.metrics.rebalances.inc();
        shared.metrics.assigned_partitions.set(i64::try_from(partitions.len()).unwrap_or(i64::MAX));
        let follow: Arc<dyn Follow> = Arc::new(Follower { core: Arc::clone(self), epoch });
        let ready = self.owner.assigned(&partitions, &follow);
        for (partition, from) in ready {
            if partitions.contains(&partition)
                && let Some(dense) = shared.shape.dense(partition)
            {
                shared.intake.open(dense, from.0);
            }
        }
        shared.advance();
    }

    /// Assigns every partition that has a feed, each from its next offset.
    fn assign(&self, consumer: &BaseConsumer<Member>) {
        self.shared.intake.unpause(consumer, &self.shared.intake.held());
        if let Err(error) = consumer.assign(&self.shared.intake.assignment()) {
            tracing::error!(%error, "partitions could not be assigned; the group is joined anew");
            self.lost.store(true, Ordering::Release);
        }
    }

    /// Stops everything that is this member's, before somebody else begins.
    fn give_up(&self, consumer: &BaseConsumer<Member>, lost: bool) {
        let partitions: Vec<Partition> = {
            let mine = locked(&self.mine);
            mine.partitions.iter().filter_map(|dense| self.shared.shape.partition(*dense)).collect()
        };
        if lost {
            self.lost.store(true, Ordering::Release);
        }
        self.given.store(false, Ordering::Release);
        if !partitions.is_empty() {
            self.owner.revoked(&partitions, lost);
            if !lost {
                self.commit(consumer);
            }
        }
        {
            let mut mine = locked(&self.mine);
            mine.epoch += 1;
            mine.partitions.clear();
        }
        self.shared.intake.unpause(consumer, &self.shared.intake.held());
        self.shared.intake.close_all();
        self.shared.metrics.rebalances.inc();
        self.shared.metrics.assigned_partitions.set(0);
        self.shared.advance();
    }

    /// Stores have opened: their partitions are fetched from now on, the others go on where they are.
    fn follow(&self, consumer: &BaseConsumer<Member>) {
        let followed = std::mem::take(&mut *locked(&self.followed));
        let mut any = false;
        for (epoch, dense, from) in followed {
            let mine = locked(&self.mine);
            if mine.epoch == epoch && mine.partitions.contains(&dense) {
                self.shared.intake.open(dense, from);
                any = true;
            }
        }
        if any {
            self.assign(consumer);
        }
    }

    /// Tells the group how far readers are.
    fn commit(&self, consumer: &BaseConsumer<Member>) {
        let mut list = TopicPartitionList::new();
        for (dense, position) in self.shared.intake.collect(|dense, feed| Some((dense, feed.position()))) {
            self.shared.intake.enter(&mut list, dense, raw(position));
        }
        if list.count() > 0
            && let Err(error) = consumer.commit(&list, CommitMode::Async)
        {
            tracing::debug!(%error, "offsets were not committed to the group; nothing depends on them");
        }
    }

    fn join(self: &Arc<Self>) -> Result<BaseConsumer<Member>, KafkaError> {
        let config = self.shared.options.consumer("project");
        let member = Member { core: Arc::clone(self), retired: AtomicBool::new(false) };
        let consumer = BaseConsumer::from_config_and_context(&config, member)?;
        let names = &self.shared.names;
        consumer.subscribe(&[names.of(Topic::Room), names.of(Topic::User)])?;
        Ok(consumer)
    }

    fn run(self: Arc<Self>, first: BaseConsumer<Member>, left: &SyncSender<Left>) {
        let mut next = Some(first);
        let mut wait = Duration::from_millis(100);
        while !self.stop.load(Ordering::Acquire) {
            let consumer = match next.take().map_or_else(|| self.join(), Ok) {
                Ok(consumer) => consumer,
                Err(error) => {
                    tracing::error!(%error, "the consumer group cannot be joined; it is tried again");
                    std::thread::sleep(wait);
                    wait = (wait * 2).min(Duration::from_secs(5));
                    continue;
                }
            };
            let over = self.consume(&consumer);
            // Politely or not, nothing is ours any more; dropping it leaves the group.
            self.give_up(&consumer, over == Over::Failed);
            let _ = consumer.unassign();
            consumer.unsubscribe();
            if self.stop.load(Ordering::Acquire) {
                let _ = left.try_send(Left::Released);
                drop(consumer);
            } else {
                retire(consumer);
                std::thread::sleep(wait);
            }
        }
    }

    /// Whether records that are there do not come, and the consumer is to blame.
    fn stands_still(&self) -> bool {
        let shared = &self.shared;
        let mut standstill = locked(&self.standstill);
        if shared.is_unreachable() {
            standstill.forget();
            return false;
        }
        let fetched = shared.intake.collect(|dense, feed| {
            let fetching = !feed.paused && !feed.is_broken() && shared.changed(dense).is_none();
            fetching.then(|| Fetched {
                dense,
                next: feed.next(),
                end: shared.end(dense),
                answers: shared.answers(dense),
            })
        });
        let Some(dense) = standstill.look(Instant::now(), &fetched) else { return false };
        let partition = shared.shape.partition(dense).map(|partition| partition.to_string());
        tracing::error!(
            ?partition,
            "Kafka has records that this member of the group does not get: it joins anew, with a new client"
        );
        shared.metrics.standstills.inc();
        true
    }

    /// Whether the group should have given this member its partitions long ago.
    fn waits_in_vain(&self) -> bool {
        let shared = &self.shared;
        let mut waiting = locked(&self.waiting);
        if self.given.load(Ordering::Acquire) || shared.is_unreachable() {
            waiting.forget();
            return false;
        }
        let answers = (0..shared.shape.total()).map(|dense| shared.answers(dense)).fold(0, u64::saturating_add);
        let in_vain = waiting.look(Instant::now(), answers);
        if in_vain {
            tracing::error!(
                "the group gives this member nothing, though Kafka answers: it joins anew, with a new client"
            );
            shared.metrics.standstills.inc();
        }
        in_vain
    }

    /// Serves the group until told to stop, or until this consumer is of no use any more.
    fn consume(&self, consumer: &BaseConsumer<Member>) -> Over {
        locked(&self.standstill).forget();
        locked(&self.waiting).forget();
        let mut looked = Instant::now();
        let mut committed = Instant::now();
        while !self.stop.load(Ordering::Acquire) {
            self.served();
            let mut arrived = 0;
            let mut wait = Duration::from_millis(if self.shared.intake.any_paused() { 2 } else { 20 });
            while let Some(polled) = consumer.poll(wait) {
                wait = Duration::ZERO;
                match polled {
                    Ok(message) => {
                        arrived += usize::from(self.shared.intake.accept(&self.shared, &message).is_some());
                    }
                    Err(KafkaError::MessageConsumptionFatal(code)) => {
                        tracing::error!(%code, "the member of the group failed; the group is joined anew");
                        return Over::Failed;
                    }
                    Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) => {
                        self.shared.intake.diagnose(&self.shared, consumer);
                        self.shared.advance();
                    }
                    Err(error) => tracing::debug!(%error, "group"),
                }
                if arrived >= BURST {
                    break;
                }
            }
            if arrived > 0 {
                self.shared.metrics.feed_records.inc_by(arrived as u64);
                self.shared.advance();
            }
            if self.any_followed.swap(false, Ordering::AcqRel) {
                self.follow(consumer);
            }
            if self.shared.intake.collect(|_, feed| feed.restart.then_some(())).is_empty() {
                self.shared.intake.balance(consumer);
            } else {
                self.assign(consumer);
            }
            let bytes = i64::try_from(self.shared.intake.bytes()).unwrap_or(i64::MAX);
            self.shared.metrics.feed_bytes.set(bytes);
            if committed.elapsed() > COMMIT_EVERY {
                committed = Instant::now();
                self.commit(consumer);
            }
            if consumer.assignment_lost() {
                self.lost.store(true, Ordering::Release);
            }
            #[cfg(any(test, feature = "test-util"))]
            if self.halt.swap(false, Ordering::AcqRel)
                && let Err(error) = consumer.assignment().and_then(|all| consumer.pause(&all))
            {
                tracing::error!(%error, "the fault on demand did not happen");
            }
            if looked.elapsed() > LOOK_EVERY {
                looked = Instant::now();
                if self.stands_still() || self.waits_in_vain() {
                    return Over::StandsStill;
                }
            }
        }
        Over::Stopped
    }
}

/// Lets go of a consumer that is of no use any more. That waits until the coordinator was told, for ever where the consumer has
/// lost the way to it; so it is done beside everything else.
fn retire(consumer: BaseConsumer<Member>) {
    consumer.context().retired.store(true, Ordering::Release);
    // Without a thread it is dropped here and now.
    let _ = std::thread::Builder::new().name("kafka-retired".to_owned()).spawn(move || drop(consumer));
}

/// This process as a member of the group. Dropped, it leaves, as [`Group::leave`] does.
#[derive(Debug)]
pub struct Group {
    core: Arc<Core>,
    thread: Mutex<Option<(JoinHandle<()>, Receiver<Left>)>>,
}

/// How far leaving is.
#[derive(Debug, PartialEq, Eq)]
enum Left {
    /// The owner has released everything.
    Released,
    /// The group knows.
    Told,
}

impl Group {
    pub(crate) fn join(shared: &Arc<Shared>, owner: Arc<dyn Owner>) -> Result<Self, OpenError> {
        let core = Arc::new(Core {
            shared: Arc::clone(shared),
            owner,
            mine: Mutex::default(),
            followed: Mutex::default(),
            any_followed: AtomicBool::new(false),
            served_ms: AtomicU64::new(0),
            doubt_until_ms: AtomicU64::new(0),
            lost: AtomicBool::new(false),
            begun: Instant::now(),
            stop: AtomicBool::new(false),
            standstill: Mutex::new(Standstill::new(shared.shape.total())),
            given: AtomicBool::new(false),
            waiting: Mutex::new(Waiting::new(Duration::from_millis(shared.options.session_timeout_ms.into()))),
            #[cfg(any(test, feature = "test-util"))]
            halt: AtomicBool::new(false),
        });
        let consumer = core.join().map_err(|error| shared.options.refuse("join the consumer group", error))?;
        let run = Arc::clone(&core);
        let (left, leaving) = std::sync::mpsc::sync_channel(2);
        let thread = std::thread::Builder::new().name("kafka-group".to_owned()).spawn(move || {
            run.run(consumer, &left);
            let _ = left.try_send(Left::Told);
        });
        let thread = thread.map_err(|error| shared.options.refuse("start the thread of the group", error))?;
        Ok(Self { core, thread: Mutex::new(Some((thread, leaving))) })
    }

    /// The partitions that are this process's now, in the order in which answers list them.
    #[must_use]
    pub fn partitions(&self) -> Vec<Partition> {
        let mine = locked(&self.core.mine);
        mine.partitions.iter().filter_map(|dense| self.core.shared.shape.partition(*dense)).collect()
    }

    /// Whether a partition is surely this process's: to be asked before anything leaves the process in its name.
    ///
    /// False as well while that is doubtful: for a session's length after the process stood still for half a session
    /// (halted, or starved), because others may have the partition by then and the news takes some heartbeats.
    #[must_use]
    pub fn is_owner_now(&self, partition: Partition) -> bool {
        let core = &self.core;
        let Some(dense) = core.shared.shape.dense(partition) else { return false };
        let now = core.now_ms();
        let silent = now.saturating_sub(core.served_ms.load(Ordering::Acquire));
        !core.lost.load(Ordering::Acquire)
            && silent <= u64::from(core.shared.options.session_timeout_ms) / 2
            && now >= core.doubt_until_ms.load(Ordering::Acquire)
            && locked(&core.mine).partitions.contains(&dense)
    }

    /// Whether the group took this member's partitions away without asking, and gave it none since.
    #[must_use]
    pub fn assignment_lost(&self) -> bool {
        self.core.lost.load(Ordering::Acquire)
    }

    /// Lets the consumer fetch nothing any more, as librdkafka does when it has lost a leader for good, and counts that as
    /// a standstill after this time.
    #[cfg(any(test, feature = "test-util"))]
    pub fn halt(&self, standstill: Duration) {
        locked(&self.core.standstill).set_limit(standstill);
        self.core.halt.store(true, Ordering::Release);
    }

    /// Leaves the group politely: the owner commits and releases, and the others take over at once. Returns when that is
    /// done; when the cluster cannot be told within 5 s, the others take over after the session. A second call does
    /// nothing.
    pub fn leave(&self) {
        self.core.stop.store(true, Ordering::Release);
        let Some((thread, left)) = locked(&self.thread).take() else { return };
        // Releasing takes as long as the owner's commits do. An error means that the thread is gone.
        if left.recv() == Ok(Left::Released) && left.recv_timeout(LEAVE_WAIT) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the group could not be told that this member leaves; it notices after the session");
            return;
        }
        let _ = thread.join();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.leave();
    }
}
