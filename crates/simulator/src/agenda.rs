//! What will happen in the world, in order of time.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::people::{PersonId, Platform};
use crate::rooms::RoomId;

/// One thing that will happen. What is planned for a person names the stay or the life it is planned for, and does not
/// happen in another one.
#[derive(Debug)]
pub(crate) enum Happening {
    /// The host of a room comes and prepares it.
    HostComes(RoomId),
    /// The host creates the room.
    Create(RoomId),
    /// The room goes on air.
    Open(RoomId),
    /// The show is over.
    End(RoomId),
    /// The room is disbanded.
    Destroy(RoomId),
    /// The host goes.
    HostLeaves(RoomId),
    /// The pusher's connection is back.
    StreamResumes(RoomId),
    /// A second of a room begins: the one before is settled and this one is planned.
    Second(RoomId),
    /// Someone asks to join.
    Apply { person: PersonId, life: u32, room: RoomId },
    /// Someone joins.
    Join { person: PersonId, life: u32, room: RoomId },
    /// Someone's stay ends.
    Leave { person: PersonId, stay: u64 },
    /// Someone writes.
    Chat { person: PersonId, stay: u64 },
    /// Someone's taps are merged and sent.
    Like { person: PersonId, stay: u64 },
    /// Someone buys a membership.
    Membership { person: PersonId, stay: u64 },
    /// The next gift of a combo.
    Gift(Box<Combo>),
    /// A combo is over and is billed.
    Bill(Box<Combo>),
    /// A message is recalled.
    Recall { room: RoomId, msg_seq: u64, msg_id: String },
    /// Someone logs in on another device.
    SecondDevice { person: PersonId, life: u32 },
    /// One of someone's devices goes.
    DeviceGoes { person: PersonId, life: u32, platform: Platform },
    /// Someone logs out.
    Logout { person: PersonId, life: u32 },
    /// The platform notices a lost connection.
    Notice { person: PersonId, life: u32 },
    /// Someone whose client died is back.
    Return { person: PersonId, life: u32 },
    /// Someone whose client died will not come back.
    GiveUp { person: PersonId, life: u32 },
    /// A client that had died joins again, as one that began anew: it was not there meanwhile.
    ShownAnew { room: RoomId },
    /// Something that concerns no room.
    Other,
    /// The evening ends.
    Stop,
}

/// Gifts that one viewer sends in a row.
#[derive(Debug)]
pub(crate) struct Combo {
    /// Number of the combo, from 1.
    pub(crate) number: u64,
    pub(crate) person: PersonId,
    pub(crate) stay: u64,
    pub(crate) room: RoomId,
    /// Index into the gifts on sale.
    pub(crate) gift: usize,
    /// Messages still to come.
    pub(crate) left: u32,
    /// Gifts that each message adds.
    pub(crate) step: u32,
    /// Gifts so far.
    pub(crate) count: u32,
    /// Whether the app marks combos, or this is a single gift without a combo's id.
    pub(crate) marked: bool,
    /// Whether the app's server sends the messages.
    pub(crate) by_server: bool,
}

/// Entries in order of time, equal times in order of planning.
#[derive(Debug)]
pub(crate) struct Schedule<T> {
    heap: BinaryHeap<Entry<T>>,
    planned: u64,
}

#[derive(Debug)]
struct Entry<T> {
    at_ms: i64,
    number: u64,
    what: T,
}

impl<T> Schedule<T> {
    pub(crate) fn new() -> Self {
        Self { heap: BinaryHeap::new(), planned: 0 }
    }

    pub(crate) fn plan(&mut self, at_ms: i64, what: T) {
        self.planned += 1;
        self.heap.push(Entry { at_ms, number: self.planned, what });
    }

    /// Time of the next entry.
    pub(crate) fn next_ms(&self) -> Option<i64> {
        self.heap.peek().map(|entry| entry.at_ms)
    }

    pub(crate) fn take(&mut self) -> Option<(i64, T)> {
        self.heap.pop().map(|entry| (entry.at_ms, entry.what))
    }
}

// The heap gives its greatest entry first, which has to be the earliest.
impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at_ms, other.number).cmp(&(self.at_ms, self.number))
    }
}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Entry<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_by_time_and_then_as_planned() {
        let mut schedule = Schedule::new();
        for (at_ms, what) in [(5, 'c'), (1, 'a'), (5, 'd'), (2, 'b'), (5, 'e')] {
            schedule.plan(at_ms, what);
        }
        assert_eq!(schedule.next_ms(), Some(1));
        let taken: String = std::iter::from_fn(|| schedule.take()).map(|(_, what)| what).collect();
        assert_eq!(taken, "abcde");
    }
}
