//! When two records are the same callback sent twice.
//!
//! Two records of one partition with the same [`Identity`] are duplicates. It is made from what the vendor keeps the
//! same when it retries, not from what ingest adds (id, sequence, verdict, version of the rules; the time of receipt only
//! where the callback tells none of its own).

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::envelope::EnvelopeView;
use crate::event::{Event, Message, Strings};

/// Duplicates have the same identity: a 128-bit xxh3 digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity(pub u128);

/// What kind of identity it is; part of the digest, so that two kinds never meet. Persisted in the state's table of
/// duplicates: never change a value.
#[derive(Clone, Copy)]
enum Basis {
    MessageId = 1,
    MessageFields = 2,
    Membership = 3,
    Business = 4,
    StateChange = 5,
    Digest = 6,
}

/// What makes a record a duplicate of another in its partition; `None` when nothing does, and it is never dropped.
///
/// Messages are told by their `MsgId`, or else by `Random`, `MsgTime` and `MsgSeq` together (`MsgSeq` alone is no
/// key); membership by room, members and time; business events by kind and idempotency key; state changes by what
/// they say and their own time; everything else by all that it says and its own time. Where there is no event time,
/// only messages and business events have an identity: online, offline, online within seconds is the truth.
///
/// On `barrage.user` the account whose copy it is belongs to it.
#[must_use]
pub fn identity(envelope: &EnvelopeView<'_>) -> Option<Identity> {
    match &envelope.event {
        Event::BeforeSend(m) | Event::AfterSend(m) | Event::SendException(m) => message(envelope, m),
        Event::MembersJoined(e) | Event::MembersLeft(e) => {
            let mut key = Key::timed(Basis::Membership, envelope);
            key.text(e.group_id).members(e.members);
            key.finish()
        }
        Event::MemberState(e) => {
            let mut key = Key::timed(Basis::Membership, envelope);
            key.text(e.group_id).members(e.members);
            // Online and offline in the same millisecond are two events.
            key.number(u64::from(e.online)).number(e.cause as u64);
            key.finish()
        }
        Event::GiftBilled(e) => business(envelope, e.idempotency_key),
        Event::MembershipOpened(e) => business(envelope, e.idempotency_key),
        Event::StateChange(e) => {
            let mut key = Key::timed(Basis::StateChange, envelope);
            key.text(e.account).number(e.action as u64).text(e.reason).text(envelope.platform);
            key.finish()
        }
        // Appending a version twice is told by the version, a derived event sent twice by its source.
        Event::RulesApplied(_) | Event::AccountMoves(_) => None,
        _ => {
            let mut key = Key::timed(Basis::Digest, envelope);
            let content = if envelope.body.is_empty() { envelope.event_bytes } else { envelope.body };
            key.bytes(content);
            key.finish()
        }
    }
}

/// Identity of a business event with a digest of its content, so that the same key with other content is told;
/// `None` for every other record.
#[must_use]
pub fn business_key(envelope: &EnvelopeView<'_>) -> Option<(Identity, u128)> {
    let (Event::GiftBilled(_) | Event::MembershipOpened(_)) = envelope.event else { return None };
    let identity = identity(envelope)?;
    let mut content = Key::empty();
    content.bytes(envelope.event_bytes);
    content.number(u64::from(envelope.has_event_time));
    content.number(envelope.event_time_ms().unwrap_or_default().cast_unsigned());
    Some((identity, content.digest()))
}

fn message(envelope: &EnvelopeView<'_>, message: &Message<'_>) -> Option<Identity> {
    if !message.msg_id.is_empty() {
        let mut key = Key::new(Basis::MessageId, envelope);
        key.text(message.group_id).text(message.from_account).text(message.msg_id);
        return key.finish();
    }
    // Before delivery there is neither MsgTime nor MsgSeq. The callback's own time, which a retry keeps, tells two
    // messages apart there; without it the platform's own rule holds, that a sender's Random does not come again within
    // minutes.
    let random = message.random?;
    let mut key = Key::new(Basis::MessageFields, envelope);
    key.text(message.group_id).text(message.from_account).number(u64::from(random));
    key.optional(message.msg_time_s.map(i64::cast_unsigned)).optional(message.msg_seq);
    if message.msg_time_s.is_none() {
        key.optional(envelope.event_time_ms().map(i64::cast_unsigned));
    }
    key.finish()
}

fn business(envelope: &EnvelopeView<'_>, idempotency_key: &str) -> Option<Identity> {
    if idempotency_key.is_empty() {
        return None;
    }
    let mut key = Key::new(Basis::Business, envelope);
    key.text(idempotency_key);
    key.finish()
}

/// Hashes fields so that no two lists of them look the same: texts with their length, lists with their end.
///
/// What is short, as nearly every key is, is gathered on the stack and hashed at once; the digest is the same.
struct Key {
    short: [u8; 256],
    length: usize,
    long: Option<Box<Xxh3>>,
}

impl Key {
    const fn empty() -> Self {
        Self { short: [0; 256], length: 0, long: None }
    }

    /// App and command, and on `barrage.user` the account: the copies of a room carry its `GroupId` anyway.
    fn new(basis: Basis, envelope: &EnvelopeView<'_>) -> Self {
        let mut key = Self::empty();
        key.number(basis as u64).number(u64::from(envelope.app)).text(envelope.command).text(envelope.route_key);
        key
    }

    /// With the callback's own time, or else that of its receipt.
    fn timed(basis: Basis, envelope: &EnvelopeView<'_>) -> Self {
        let mut key = Self::new(basis, envelope);
        match envelope.event_time_ms() {
            Some(time) => key.number(time.cast_unsigned()),
            None => key.text("received").number(envelope.received_at_ms.cast_unsigned()),
        };
        key
    }

    fn number(&mut self, number: u64) -> &mut Self {
        self.raw(&number.to_le_bytes())
    }

    fn optional(&mut self, number: Option<u64>) -> &mut Self {
        self.number(u64::from(number.is_some())).number(number.unwrap_or_default())
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.number(bytes.len() as u64).raw(bytes)
    }

    fn members(&mut self, members: Strings<'_>) -> &mut Self {
        for member in members.iter() {
            self.text(member);
        }
        self.number(u64::MAX)
    }

    fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        if let Some(hasher) = &mut self.long {
            hasher.update(bytes);
            return self;
        }
        let end = self.length + bytes.len();
        if let Some(place) = self.short.get_mut(self.length..end) {
            place.copy_from_slice(bytes);
            self.length = end;
        } else {
            let mut hasher = Box::new(Xxh3::new());
            hasher.update(&self.short[..self.length]);
            hasher.update(bytes);
            self.long = Some(hasher);
        }
        self
    }

    fn digest(&self) -> u128 {
        match &self.long {
            Some(hasher) => hasher.digest128(),
            None => xxh3_128(&self.short[..self.length]),
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "every way to an identity ends here, and most may have none")]
    fn finish(&self) -> Option<Identity> {
        Some(Identity(self.digest()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop_assert_eq, proptest};

    proptest! {
        #[test]
        fn short_and_long_keys_are_hashed_alike(
            parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..6),
        ) {
            let mut key = Key::empty();
            for part in &parts {
                key.raw(part);
            }
            prop_assert_eq!(key.digest(), xxh3_128(&parts.concat()));
        }
    }
}
