//! Which record may go when, step by step.

use barrage_event::{Offset, Partition};

use super::*;
use crate::ack::Ack;
use crate::error::AppendError;
use crate::kafka::pending::close;

fn outbox(partitions: usize, records: usize) -> (Outbox, Vec<Ack>) {
    let mut outbox = Outbox::new(partitions);
    outbox.retire(Lane::Main);
    outbox.opened(Lane::Main);
    let acks = (0..records).map(|n| append(&mut outbox, &[(0, n)])).collect();
    (outbox, acks)
}

fn append(outbox: &mut Outbox, records: &[(usize, usize)]) -> Ack {
    let bytes: Vec<u8> = records.iter().map(|(_, n)| u8::try_from(*n).unwrap()).collect();
    let (batch, ack) = Batch::new(bytes.into(), records.len(), Instant::now());
    for (index, (dense, _)) in records.iter().enumerate() {
        outbox.push(*dense, &batch, index, index + 1, index);
    }
    ack
}

/// Hands over all that may go.
fn pump(outbox: &mut Outbox, dense: usize, now: Instant) -> Vec<(Tag, u8)> {
    let mut handed = Vec::new();
    while let Some((tag, bytes)) = outbox.next(dense, now) {
        handed.push((tag, bytes[0]));
        outbox.sent(dense);
    }
    handed
}

fn at(dense: usize, offset: u64) -> Position {
    Position { partition: Partition::room(u16::try_from(dense).unwrap()), offset: Offset(offset) }
}

fn values(handed: &[(Tag, u8)]) -> Vec<u8> {
    handed.iter().map(|(_, value)| *value).collect()
}

#[test]
fn a_new_producer_sends_one_record_alone_and_then_all() {
    let now = Instant::now();
    let (mut outbox, acks) = outbox(1, 4);
    let first = pump(&mut outbox, 0, now);
    assert_eq!(values(&first), [0]);
    let outcome = outbox.delivered(first[0].0, at(0, 7), now);
    assert!(outcome.bytes.is_some());
    outcome.done.unwrap().complete();
    assert_eq!(acks[0].try_get().unwrap().unwrap()[..], [at(0, 7)]);
    assert_eq!(values(&pump(&mut outbox, 0, now)), [1, 2, 3]);
}

#[test]
fn a_batch_is_acknowledged_when_its_last_record_is_in_the_order_of_pushes() {
    let now = Instant::now();
    let (mut outbox, _) = outbox(2, 0);
    let ack = append(&mut outbox, &[(1, 0), (0, 1), (1, 2)]);
    let (one, zero) = (pump(&mut outbox, 1, now), pump(&mut outbox, 0, now));
    assert!(outbox.delivered(zero[0].0, at(0, 5), now).done.is_none());
    assert!(outbox.delivered(one[0].0, at(1, 8), now).done.is_none());
    let rest = pump(&mut outbox, 1, now);
    outbox.delivered(rest[0].0, at(1, 9), now).done.unwrap().complete();
    assert_eq!(ack.wait().unwrap()[..], [at(1, 8), at(0, 5), at(1, 9)]);
    assert!(outbox.is_empty() && outbox.bytes() == 0);
}

#[test]
fn a_failed_producer_is_replaced_after_a_while_and_everything_is_sent_again_in_order() {
    let now = Instant::now();
    let (mut outbox, _acks) = outbox(1, 4);
    let first = pump(&mut outbox, 0, now);
    outbox.delivered(first[0].0, at(0, 0), now);
    let old = pump(&mut outbox, 0, now);
    assert_eq!(outbox.failed(Lane::Main, old[0].0.generation, now), Some(BACKOFF_MIN));
    assert_eq!(outbox.failed(Lane::Main, old[0].0.generation, now), None, "said once");
    assert!(pump(&mut outbox, 0, now).is_empty() && !outbox.wants_producer(Lane::Main, now));
    // What it delivered before it is replaced still counts.
    assert!(outbox.delivered(old[0].0, at(0, 1), now).bytes.is_some());
    let later = now + BACKOFF_MIN;
    assert!(outbox.wants_producer(Lane::Main, later));
    outbox.retire(Lane::Main);
    outbox.opened(Lane::Main);
    assert!(outbox.delivered(old[1].0, at(0, 2), later).bytes.is_none(), "a report of the old one counts no more");
    let again = pump(&mut outbox, 0, later);
    assert_eq!(values(&again), [2], "alone, for the broker does not know the new one");
    outbox.delivered(again[0].0, at(0, 3), later);
    assert_eq!(values(&pump(&mut outbox, 0, later)), [3]);
}

#[test]
fn a_refused_record_blocks_its_partition_only() {
    let now = Instant::now();
    let (mut outbox, _) = outbox(2, 0);
    let _acks: Vec<Ack> =
        (0..3).flat_map(|n| [append(&mut outbox, &[(0, n)]), append(&mut outbox, &[(1, n)])]).collect();
    let (zero, one) = (pump(&mut outbox, 0, now), pump(&mut outbox, 1, now));
    assert_eq!(outbox.refused(zero[0].0, now), Some(BACKOFF_MIN));
    assert_eq!(outbox.blocked(), [0]);
    assert!(outbox.delivered(one[0].0, at(1, 0), now).bytes.is_some());
    let later = now + BACKOFF_MIN;
    outbox.retire(Lane::Main);
    outbox.opened(Lane::Main);
    assert_eq!(values(&pump(&mut outbox, 1, later)), [1]);
    assert!(pump(&mut outbox, 0, later).is_empty(), "the main lane has nothing of it");
    assert!(outbox.wants_producer(Lane::Probe, later) && !outbox.wants_producer(Lane::Probe, now));
    outbox.retire(Lane::Probe);
    outbox.opened(Lane::Probe);
    let probe = pump(&mut outbox, 0, later);
    assert_eq!((values(&probe), probe[0].0.lane), (vec![0], Lane::Probe));
    assert_eq!(outbox.refused(probe[0].0, later), Some(2 * BACKOFF_MIN));
    let much_later = later + 2 * BACKOFF_MIN;
    outbox.retire(Lane::Probe);
    outbox.opened(Lane::Probe);
    let probe = pump(&mut outbox, 0, much_later);
    outbox.delivered(probe[0].0, at(0, 0), much_later);
    assert!(outbox.blocked().is_empty());
    let back = pump(&mut outbox, 0, much_later);
    assert_eq!((values(&back), back[0].0.lane), (vec![1], Lane::Main), "alone at first, on the main lane");
}

#[test]
fn a_record_that_may_be_refused_goes_alone() {
    let now = Instant::now();
    let (mut outbox, _) = outbox(1, 0);
    let (batch, _ack) = Batch::new(vec![0; 30].into(), 4, now);
    for (index, (start, end)) in [(0, 5), (5, 6), (6, 26), (26, 30)].into_iter().enumerate() {
        outbox.push(0, &batch, start, end, index);
    }
    outbox.set_safe_bytes(0, 10);
    for offset in 0..2 {
        let handed = pump(&mut outbox, 0, now);
        assert_eq!(handed.len(), 1);
        outbox.delivered(handed[0].0, at(0, offset), now);
    }
    let large = pump(&mut outbox, 0, now);
    assert_eq!(large.len(), 1, "nothing behind the large one");
    outbox.delivered(large[0].0, at(0, 2), now);
    assert_eq!(pump(&mut outbox, 0, now).len(), 1);
}

#[test]
fn what_is_given_up_is_told() {
    let (mut outbox, acks) = outbox(1, 3);
    close(outbox.abandon());
    assert!(acks.into_iter().all(|ack| ack.wait() == Err(AppendError::Closed)));
    assert!(outbox.is_empty());
}
