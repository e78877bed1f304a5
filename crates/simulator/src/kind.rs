//! What a message is, and counts by it.

use crate::expected::ByType;

/// The type of a message: what its first element is or, for a custom element, what its data says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Face,
    Image,
    Sound,
    Video,
    File,
    Location,
    Relay,
    Gift,
    Like,
    Membership,
    Notice,
    Custom,
}

/// Every kind with its name in expected files, in order of the discriminant.
const NAMES: [&str; KINDS] = [
    "text",
    "face",
    "image",
    "sound",
    "video",
    "file",
    "location",
    "relay",
    "gift",
    "like",
    "membership",
    "notice",
    "custom",
];

const KINDS: usize = 13;

impl Kind {
    /// Place in the platform's queue when a room has more than it delivers: less is first.
    pub(crate) fn priority(self) -> u8 {
        match self {
            Self::Gift | Self::Membership => 0,
            Self::Notice => 2,
            Self::Like => 3,
            Self::Text
            | Self::Face
            | Self::Image
            | Self::Sound
            | Self::Video
            | Self::File
            | Self::Location
            | Self::Relay
            | Self::Custom => 1,
        }
    }
}

/// A count by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts([u32; KINDS]);

impl Counts {
    pub(crate) fn add(&mut self, kind: Kind) {
        self.0[kind as usize] += 1;
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.iter().copied().map(u64::from).sum()
    }

    /// The counts that are not zero, by name.
    pub(crate) fn by_type(&self) -> ByType {
        NAMES
            .iter()
            .zip(self.0)
            .filter(|&(_, count)| count > 0)
            .map(|(name, count)| ((*name).to_owned(), count.into()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_in_the_order_of_the_kinds() {
        for (kind, name) in
            [(Kind::Text, "text"), (Kind::Relay, "relay"), (Kind::Gift, "gift"), (Kind::Custom, "custom")]
        {
            let mut counts = Counts::default();
            counts.add(kind);
            assert_eq!(counts.by_type(), ByType::from([(name.to_owned(), 1)]));
        }
    }
}
