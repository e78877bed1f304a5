//! Where a record lies: topic, partition and offset, with the text form that answers and commands use.

use std::fmt;
use std::str::FromStr;

/// The two data topics of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// `barrage.room`, keyed by (`SdkAppid`, `GroupId`).
    Room,
    /// `barrage.user`, keyed by (`SdkAppid`, account).
    User,
}

impl Topic {
    /// Both topics, in the order in which answers list them.
    pub const ALL: [Self; 2] = [Self::Room, Self::User];

    /// Short name, as in positions and metric labels: `room` or `user`.
    #[must_use]
    pub const fn short(self) -> &'static str {
        match self {
            Self::Room => "room",
            Self::User => "user",
        }
    }

    /// Name of the topic in the log: `barrage.room` or `barrage.user`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Room => "barrage.room",
            Self::User => "barrage.user",
        }
    }
}

/// One partition of one topic; indices start at 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    /// The topic.
    pub topic: Topic,
    /// Index inside the topic, from 0.
    pub index: u16,
}

impl Partition {
    /// A partition of `barrage.room`.
    #[must_use]
    pub const fn room(index: u16) -> Self {
        Self { topic: Topic::Room, index }
    }

    /// A partition of `barrage.user`.
    #[must_use]
    pub const fn user(index: u16) -> Self {
        Self { topic: Topic::User, index }
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic.short(), self.index)
    }
}

/// Position of a record in its partition, as in Kafka: the first is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Offset(pub u64);

impl Offset {
    /// The offset after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A record's place in the log, written `room/3@1234`.
///
/// A write answers with the positions of its records; a read that is given one as `at_least` waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The partition.
    pub partition: Partition,
    /// The record's offset in it.
    pub offset: Offset,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.partition, self.offset)
    }
}

/// A text that is no position.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is no position: write TOPIC/PARTITION@OFFSET, as in room/3@1234")]
pub struct ParsePositionError(String);

impl FromStr for Partition {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParsePositionError(text.to_owned());
        let (topic, index) = text.split_once('/').ok_or_else(wrong)?;
        let topic = Topic::ALL.into_iter().find(|t| t.short() == topic).ok_or_else(wrong)?;
        Ok(Self { topic, index: index.parse().map_err(|_| wrong())? })
    }
}

impl FromStr for Position {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParsePositionError(text.to_owned());
        let (partition, offset) = text.split_once('@').ok_or_else(wrong)?;
        Ok(Self {
            partition: partition.parse().map_err(|_| wrong())?,
            offset: Offset(offset.parse().map_err(|_| wrong())?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_round_trip_and_refuse_nonsense() {
        for text in ["room/0@0", "user/15@18446744073709551615"] {
            assert_eq!(text.parse::<Position>().map(|p| p.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "room", "room/0", "room/@1", "room/0@", "rooms/0@1", "room/-1@1", "room/0@x", "room/65536@0"] {
            assert!(text.parse::<Position>().is_err(), "{text:?}");
        }
    }
}
