//! How many partitions a log has, and the dense numbering of all of them that the in-memory tables use.

use barrage_event::{Partition, Topic};

/// Partition counts of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) room: u16,
    pub(crate) user: u16,
}

impl Shape {
    /// Number of partitions of both topics.
    pub(crate) fn total(self) -> usize {
        usize::from(self.room) + usize::from(self.user)
    }

    pub(crate) fn of(self, topic: Topic) -> u16 {
        match topic {
            Topic::Room => self.room,
            Topic::User => self.user,
        }
    }

    /// Place of a partition in tables: rooms first, then users.
    pub(crate) fn dense(self, partition: Partition) -> Option<usize> {
        let index = usize::from(partition.index);
        match partition.topic {
            Topic::Room => (partition.index < self.room).then_some(index),
            Topic::User => (partition.index < self.user).then(|| usize::from(self.room) + index),
        }
    }

    /// The partition at a place of the tables.
    pub(crate) fn partition(self, dense: usize) -> Option<Partition> {
        let dense = u32::try_from(dense).ok()?;
        let room = u32::from(self.room);
        if dense < room {
            return Some(Partition::room(u16::try_from(dense).ok()?));
        }
        let index = u16::try_from(dense - room).ok()?;
        (index < self.user).then_some(Partition::user(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dense_numbers_are_a_bijection() {
        let shape = Shape { room: 3, user: 2 };
        let partitions: Vec<_> = (0..shape.total()).map(|dense| shape.partition(dense).unwrap()).collect();
        assert_eq!(
            partitions,
            [Partition::room(0), Partition::room(1), Partition::room(2), Partition::user(0), Partition::user(1)]
        );
        for (dense, partition) in partitions.into_iter().enumerate() {
            assert_eq!(shape.dense(partition), Some(dense));
        }
        assert_eq!(shape.partition(5), None);
        assert_eq!(shape.dense(Partition::room(3)), None);
        assert_eq!(shape.dense(Partition::user(2)), None);
    }
}
