//! From a consumer into feeds: order is checked, memory is bounded, and what librdkafka cannot say is found out.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use barrage_event::{Partition, Topic};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::{Message, Offset as KafkaOffset, TopicPartitionList};

use crate::embedded::shape::Shape;
use crate::kafka::feed::{Broken, Feed, Pushed, Taken};
use crate::kafka::shared::{Names, Shared, locked};

/// Feeds of all partitions that one consumer fetches.
#[derive(Debug)]
pub(crate) struct Intake {
    shape: Shape,
    names: Names,
    bytes_max: usize,
    feeds: Box<[Mutex<Option<Feed>>]>,
    /// A reader made room, so paused partitions may go on.
    room: AtomicBool,
}

impl Intake {
    pub(crate) fn new(shape: Shape, names: Names, bytes_max: usize) -> Self {
        let feeds = (0..shape.total()).map(|_| Mutex::new(None)).collect();
        Self { shape, names, bytes_max, feeds, room: AtomicBool::new(false) }
    }

    /// Our partition behind a topic's name and an index.
    pub(crate) fn dense(&self, topic: &str, index: i32) -> Option<usize> {
        let topic = self.names.topic(topic)?;
        self.shape.dense(Partition { topic, index: u16::try_from(index).ok()? })
    }

    /// Enters a partition into a list for librdkafka.
    pub(crate) fn enter(&self, list: &mut TopicPartitionList, dense: usize, offset: KafkaOffset) {
        if let Some(partition) = self.shape.partition(dense) {
            // Only an offset beyond i64 is refused, which Kafka never gave out.
            let _ = list.add_partition_offset(self.names.of(partition.topic), partition.index.into(), offset);
        }
    }

    /// Runs `f` on a partition's feed, if it has one.
    pub(crate) fn with<R>(&self, dense: usize, f: impl FnOnce(&mut Feed) -> R) -> Option<R> {
        locked(self.feeds.get(dense)?).as_mut().map(f)
    }

    pub(crate) fn open(&self, dense: usize, from: u64) {
        if let Some(slot) = self.feeds.get(dense) {
            *locked(slot) = Some(Feed::new(from));
        }
    }

    pub(crate) fn close(&self, dense: usize) {
        if let Some(slot) = self.feeds.get(dense) {
            *locked(slot) = None;
        }
    }

    pub(crate) fn close_all(&self) {
        (0..self.feeds.len()).for_each(|dense| self.close(dense));
    }

    /// What `f` says of every feed.
    pub(crate) fn collect<R>(&self, mut f: impl FnMut(usize, &mut Feed) -> Option<R>) -> Vec<R> {
        (0..self.feeds.len()).filter_map(|dense| self.with(dense, |feed| f(dense, feed)).flatten()).collect()
    }

    pub(crate) fn take(&self, dense: usize, from: u64) -> Taken {
        self.with(dense, |feed| feed.take(from)).unwrap_or(Taken::Elsewhere)
    }

    /// Takes back what a reader had, and lets the fetching go on when half is read.
    pub(crate) fn give_back(&self, dense: usize, chunk: crate::kafka::feed::Chunk) {
        let room = self.with(dense, |feed| {
            feed.give_back(chunk);
            feed.paused && feed.bytes() <= self.bytes_max / 2
        });
        if room == Some(true) {
            self.room.store(true, Ordering::Release);
        }
    }

    /// Puts a fetched record where it belongs. Gives its partition when it was kept.
    pub(crate) fn accept(&self, shared: &Shared, message: &BorrowedMessage<'_>) -> Option<usize> {
        let dense = self.dense(message.topic(), message.partition())?;
        let offset = u64::try_from(message.offset()).ok()?;
        let timestamp_ms = message.timestamp().to_millis().unwrap_or(0);
        let bytes = message.payload().unwrap_or_default();
        let pushed = self.with(dense, |feed| feed.push(offset, timestamp_ms, bytes));
        // It was seen, so it is there, whether anybody wants it or not.
        shared.raise_end(dense, offset + 1);
        shared.heard();
        match pushed {
            Some(Pushed::Kept) => return Some(dense),
            Some(Pushed::Jump) => {
                let partition = self.shape.partition(dense).map(|partition| partition.to_string());
                tracing::warn!(?partition, offset, "records came out of turn; they are fetched again in order");
            }
            Some(Pushed::Stale) | None => {}
        }
        shared.metrics.stale_records.inc();
        None
    }

    /// Pauses what is full and lets go on what has room.
    pub(crate) fn balance<C: ConsumerContext>(&self, consumer: &BaseConsumer<C>) {
        let full = self.collect(|dense, feed| {
            (!feed.paused && feed.bytes() > self.bytes_max).then(|| {
                feed.paused = true;
                dense
            })
        });
        self.tell(&full, |list| consumer.pause(list), "pause");
        if self.room.swap(false, Ordering::AcqRel) {
            let free = self.collect(|dense, feed| {
                (feed.paused && feed.bytes() <= self.bytes_max / 2).then(|| {
                    feed.paused = false;
                    dense
                })
            });
            self.tell(&free, |list| consumer.resume(list), "resume");
        }
    }

    fn tell(
        &self,
        partitions: &[usize],
        call: impl FnOnce(&TopicPartitionList) -> rdkafka::error::KafkaResult<()>,
        what: &str,
    ) {
        if partitions.is_empty() {
            return;
        }
        let mut list = TopicPartitionList::new();
        partitions.iter().for_each(|&dense| self.enter(&mut list, dense, KafkaOffset::Invalid));
        if let Err(error) = call(&list) {
            tracing::warn!(%error, what, "fetching could not be regulated");
        }
    }

    /// Lets paused ones among `partitions` go on, before they are assigned anew: librdkafka remembers a pause.
    pub(crate) fn unpause<C: ConsumerContext>(&self, consumer: &BaseConsumer<C>, partitions: &[usize]) {
        let paused = |dense: &usize| self.with(*dense, |feed| std::mem::take(&mut feed.paused)) == Some(true);
        let paused: Vec<usize> = partitions.iter().copied().filter(paused).collect();
        self.tell(&paused, |list| consumer.resume(list), "resume");
    }

    /// Partitions that have a feed.
    pub(crate) fn held(&self) -> Vec<usize> {
        self.collect(|dense, _| Some(dense))
    }

    /// Whether any partition is paused: then somebody makes room soon, and nobody should sleep long.
    pub(crate) fn any_paused(&self) -> bool {
        !self.collect(|_, feed| feed.paused.then_some(())).is_empty()
    }

    /// Bytes held by all feeds.
    pub(crate) fn bytes(&self) -> usize {
        self.collect(|_, feed| Some(feed.bytes())).into_iter().sum()
    }

    /// Every feed with the offset to fetch next, for an assignment.
    pub(crate) fn assignment(&self) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (dense, next) in self.collect(|dense, feed| {
            feed.restart = false;
            (!feed.is_broken()).then_some((dense, feed.next()))
        }) {
            self.enter(&mut list, dense, raw(next));
        }
        list
    }

    /// After an offset was refused librdkafka says that it was, not where: compares every feed with what Kafka has now.
    pub(crate) fn diagnose<C: ConsumerContext>(&self, shared: &Shared, consumer: &BaseConsumer<C>) {
        let partitions = self.held();
        let starts = bounds(shared, consumer, &partitions, KafkaOffset::Beginning, Duration::from_secs(5));
        let ends = bounds(shared, consumer, &partitions, KafkaOffset::End, Duration::from_secs(5));
        let (Ok(starts), Ok(ends)) = (starts, ends) else { return };
        for (dense, start) in starts {
            shared.raise_start(dense, start);
            self.with(dense, |feed| {
                if feed.next() < start {
                    feed.break_off(Broken::Trimmed { start });
                }
            });
        }
        for (dense, end) in ends {
            if let Some(next) = self.with(dense, |feed| feed.next())
                && next > end
            {
                let broken = Broken::Changed { seen: shared.end(dense).max(next), end };
                self.with(dense, |feed| feed.break_off(broken));
                shared.mark_changed(dense, broken);
            }
        }
        // Whatever was refused fetches nothing more until it is assigned again.
        self.collect(|_, feed| {
            feed.restart |= !feed.is_broken();
            None::<()>
        });
    }
}

/// An offset as librdkafka wants it.
pub(crate) fn raw(offset: u64) -> KafkaOffset {
    KafkaOffset::Offset(i64::try_from(offset).unwrap_or(i64::MAX))
}

/// First or last offsets of partitions, in one request per topic and broker. Partitions that cannot be asked for, because
/// their topic is gone or they have no leader, are left out; an error means that no topic could be asked.
pub(crate) fn bounds<C: ConsumerContext>(
    shared: &Shared,
    consumer: &BaseConsumer<C>,
    partitions: &[usize],
    which: KafkaOffset,
    timeout: Duration,
) -> Result<Vec<(usize, u64)>, KafkaError> {
    let mut known = Vec::new();
    let mut failed = None;
    let mut answered = false;
    for topic in Topic::ALL {
        let of_topic = |dense: &usize| shared.shape.partition(*dense).is_some_and(|p| p.topic == topic);
        let mut list = TopicPartitionList::new();
        partitions.iter().copied().filter(of_topic).for_each(|dense| shared.intake.enter(&mut list, dense, which));
        if list.count() == 0 {
            continue;
        }
        match consumer.offsets_for_times(list, timeout) {
            Ok(answer) => {
                answered = true;
                known.extend(answer.elements().into_iter().filter_map(|element| {
                    element.error().ok()?;
                    let KafkaOffset::Offset(offset) = element.offset() else { return None };
                    let dense = shared.intake.dense(element.topic(), element.partition())?;
                    Some((dense, u64::try_from(offset).ok()?))
                }));
            }
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) if !answered => Err(error),
        _ => Ok(known),
    }
}
