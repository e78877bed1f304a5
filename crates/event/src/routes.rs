//! Whom an event concerns, and in which partition that lies.
//!
//! [`routes`] is a pure function of the event: ingest appends one record per route under one id, so that no worker
//! has to re-key anything.

use std::collections::HashSet;
use std::ops::Deref;

use crate::event::{Event, MessageKind, Strings};
use crate::position::Topic;

/// One copy of an event: the topic, and what it is keyed by there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Route<'a> {
    /// The topic.
    pub topic: Topic,
    /// The `GroupId` on `barrage.room`, the account on `barrage.user`; empty when the event names nobody.
    pub key: &'a str,
}

impl<'a> Route<'a> {
    /// A route to a room.
    #[must_use]
    pub const fn room(group_id: &'a str) -> Self {
        Self { topic: Topic::Room, key: group_id }
    }

    /// A route to an account.
    #[must_use]
    pub const fn user(account: &'a str) -> Self {
        Self { topic: Topic::User, key: account }
    }
}

/// The routes of one event, no two alike; the first is that of the original, which carries the body, the others are
/// those of the copies. Up to two routes need no allocation.
#[derive(Debug, Clone)]
pub struct Routes<'a>(List<'a>);

#[derive(Debug, Clone)]
enum List<'a> {
    Few([Route<'a>; 2], usize),
    Many(Vec<Route<'a>>),
}

impl<'a> Routes<'a> {
    const fn none() -> Self {
        Self(List::Few([Route::room(""); 2], 0))
    }

    const fn one(route: Route<'a>) -> Self {
        Self(List::Few([route; 2], 1))
    }

    const fn two(first: Route<'a>, second: Route<'a>) -> Self {
        Self(List::Few([first, second], 2))
    }

    /// A room and each of its members; an account that is listed twice gets one copy.
    fn members(group_id: &'a str, members: Strings<'a>) -> Self {
        let mut accounts = members.iter().filter(|account| !account.is_empty());
        let room = Route::room(group_id);
        match (accounts.next(), accounts.next()) {
            (None, _) => Self::one(room),
            (Some(only), None) => Self::two(room, Route::user(only)),
            (Some(_), Some(_)) => {
                let mut seen = HashSet::new();
                let users = members.iter().filter(|account| !account.is_empty() && seen.insert(*account));
                Self(List::Many(std::iter::once(room).chain(users.map(Route::user)).collect()))
            }
        }
    }
}

impl<'a> Deref for Routes<'a> {
    type Target = [Route<'a>];

    fn deref(&self) -> &Self::Target {
        match &self.0 {
            List::Few(routes, length) => &routes[..*length],
            List::Many(routes) => routes,
        }
    }
}

/// Whom the event concerns.
///
/// A delivered message concerns its room and its sender; before delivery its room, and for likes its sender too,
/// because likes are counted from there; join, exit and member state the room and each member; a state change its
/// account; a request to create a group its owner; a billed gift its room and giver; a membership its account and
/// the room it was bought in; everything else its room. What names no room goes to `barrage.room` under `fallback`,
/// which may be empty: then it is spread by app alone, but not lost.
///
/// Rules have no route: they are appended to every partition.
#[must_use]
pub fn routes<'a>(event: &Event<'a>, fallback: &'a str) -> Routes<'a> {
    match event {
        Event::AfterSend(m) => room_and_user(m.group_id, m.from_account),
        Event::BeforeSend(m) if m.kind == MessageKind::Like => room_and_user(m.group_id, m.from_account),
        Event::MembersJoined(e) | Event::MembersLeft(e) => Routes::members(e.group_id, e.members),
        Event::MemberState(e) => Routes::members(e.group_id, e.members),
        Event::StateChange(e) => Routes::one(Route::user(e.account)),
        Event::BeforeCreateGroup(e) if !e.owner_account.is_empty() => Routes::one(Route::user(e.owner_account)),
        Event::GiftBilled(e) => room_and_user(e.group_id, e.from_account),
        Event::MembershipOpened(e) if e.group_id.is_empty() => Routes::one(Route::user(e.account)),
        Event::MembershipOpened(e) => room_and_user(e.group_id, e.account),
        Event::RulesApplied(_) => Routes::none(),
        other => Routes::one(Route::room(other.group_id().unwrap_or(fallback))),
    }
}

const fn room_and_user<'a>(group_id: &'a str, account: &'a str) -> Routes<'a> {
    if account.is_empty() {
        Routes::one(Route::room(group_id))
    } else {
        Routes::two(Route::room(group_id), Route::user(account))
    }
}

/// The record's key in the log, `{app}:{key}`: what other clients must use too, so that their records come to the
/// same partition.
#[must_use]
pub fn partition_key(app: u32, key: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(11 + key.len());
    bytes.extend_from_slice(app.to_string().as_bytes());
    bytes.push(b':');
    bytes.extend_from_slice(key.as_bytes());
    bytes
}

/// The partition of a key among `partitions` of them: murmur2 of [`partition_key`], as the Java client's default
/// partitioner does it.
///
/// # Panics
/// When `partitions` is 0: a log has at least one.
#[must_use]
pub fn partition_of(app: u32, key: &str, partitions: u16) -> u16 {
    assert!(partitions > 0, "a topic has at least one partition");
    // Most keys are short: ids of groups have at most 48 bytes, accounts 32.
    let mut digits = [0; 11];
    let prefix = decimal_and_colon(app, &mut digits);
    let mut short = [0; 128];
    let length = prefix.len() + key.len();
    let hash = if let Some(bytes) = short.get_mut(..length) {
        bytes[..prefix.len()].copy_from_slice(prefix);
        bytes[prefix.len()..].copy_from_slice(key.as_bytes());
        murmur2(bytes)
    } else {
        murmur2(&partition_key(app, key))
    };
    let positive = hash.cast_unsigned() & 0x7fff_ffff;
    u16::try_from(positive % u32::from(partitions)).expect("a remainder is less than its divisor")
}

fn decimal_and_colon(mut number: u32, buffer: &mut [u8; 11]) -> &[u8] {
    let mut at = buffer.len() - 1;
    buffer[at] = b':';
    loop {
        at -= 1;
        buffer[at] = b'0' + (number % 10).to_le_bytes()[0];
        number /= 10;
        if number == 0 {
            return &buffer[at..];
        }
    }
}

/// murmur2 with the seed that Kafka's Java client uses. Source: Austin Appleby's `MurmurHash2`.
fn murmur2(bytes: &[u8]) -> i32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    let (blocks, tail) = bytes.as_chunks::<4>();
    // A key is far shorter than 4 GiB; the length enters modulo 2^32.
    let length = u32::try_from(bytes.len() & 0xffff_ffff).expect("masked to 32 bits");
    let mut hash = SEED ^ length;
    for block in blocks {
        let mut k = u32::from_le_bytes(*block).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (i, &byte) in tail.iter().enumerate() {
            hash ^= u32::from(byte) << (8 * i);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    (hash ^ (hash >> 15)).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    #[test]
    fn the_partitioner_agrees_with_the_java_client() {
        // Vectors of Kafka's own test of this function.
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()), hash, "{key}");
        }
    }

    proptest! {
        #[test]
        fn short_and_long_keys_take_the_same_way(app: u32, key in ".{0,200}", partitions in 1..=u16::MAX) {
            let hash = murmur2(&partition_key(app, &key)).cast_unsigned() & 0x7fff_ffff;
            let partition = partition_of(app, &key, partitions);
            prop_assert_eq!(u32::from(partition), hash % u32::from(partitions));
        }

        #[test]
        fn the_key_is_the_app_a_colon_and_the_id(app in any::<u32>(), key in ".{0,40}") {
            prop_assert_eq!(partition_key(app, &key), format!("{app}:{key}").into_bytes());
            prop_assert!(partition_of(app, &key, 1) == 0);
        }
    }
}
