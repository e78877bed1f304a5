//! The projections: one on rooms, one on accounts.

use barrage_event::{EnvelopeView, Event, Message, Topic};
use barrage_projection::{ApplyError, Context, Projection, StoreError, TableDef, minute_of};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::proto::{Pending, Room, pending::State};
use crate::retention::{in_slice, roll_up};
use crate::tables::{Days, Hours, Minutes, PendingMessages, RoomSenders, Rooms, Senders};
use crate::tally::{add_delivered, tally};

/// Counts of rooms, minutes and senders in rooms, on `barrage.room`.
#[derive(Debug, Clone, Copy, Default)]
pub struct RoomMessageCounts;

/// Counts of senders over all rooms, on `barrage.user`.
#[derive(Debug, Clone, Copy, Default)]
pub struct SenderMessageCounts;

impl Projection for SenderMessageCounts {
    fn name(&self) -> &'static str {
        "message-counts.senders"
    }

    fn topic(&self) -> Topic {
        Topic::User
    }

    fn tables(&self) -> Vec<TableDef> {
        vec![TableDef::of::<Senders>()]
    }

    fn apply(&self, cx: &mut Context<'_>, record: &EnvelopeView<'_>) -> Result<(), ApplyError> {
        if let Event::AfterSend(message) = &record.event {
            let sender = cx.table::<Senders>()?.entry(&(record.app, message.from_account))?;
            add_delivered(sender, kind_number(message));
        }
        Ok(())
    }
}

impl Projection for RoomMessageCounts {
    fn name(&self) -> &'static str {
        "message-counts.rooms"
    }

    fn topic(&self) -> Topic {
        Topic::Room
    }

    fn tables(&self) -> Vec<TableDef> {
        vec![
            TableDef::of::<Rooms>(),
            TableDef::of::<Minutes>(),
            TableDef::of::<Hours>(),
            TableDef::of::<Days>(),
            TableDef::of::<RoomSenders>(),
            TableDef::buckets::<PendingMessages>(),
        ]
    }

    fn apply(&self, cx: &mut Context<'_>, record: &EnvelopeView<'_>) -> Result<(), ApplyError> {
        let late_ms = i64::try_from(cx.rules.windows.join_late_ms).unwrap_or(i64::MAX);
        let floor = minute_of(cx.stream_time_ms.saturating_sub(late_ms));
        cx.buckets::<PendingMessages>()?.expire_below(floor);
        let (Event::BeforeSend(message) | Event::AfterSend(message) | Event::SendException(message)) = &record.event
        else {
            return Ok(());
        };
        let key = (record.app, message.group_id);
        // Taken out while the event is applied, because the slices are changed through the same context.
        let mut room = std::mem::take(cx.table::<Rooms>()?.entry(&key)?);
        let event = RoomEvent {
            key,
            kind: kind_number(message),
            minute: minute_of(record.occurred_at_ms),
            second: u32::try_from(record.received_at_ms.max(0) / 1_000).unwrap_or(u32::MAX),
            join: JoinKey::new(record.app, message),
            message,
        };
        let result = roll_up(cx, &mut room, key).and_then(|()| match &record.event {
            Event::BeforeSend(_) => {
                let refused = record.verdict.is_some_and(|v| v.outcome.refuses());
                event.attempted(cx, &mut room, refused)
            }
            Event::AfterSend(_) => event.delivered(cx, &mut room),
            _ => event.failed(cx, &mut room),
        });
        room.forget_waiting(cx.rules.windows.join_ms, cx.stream_time_ms);
        *cx.table::<Rooms>()?.entry(&key)? = room;
        Ok(result?)
    }
}

fn kind_number(message: &Message<'_>) -> u32 {
    message.kind.to_wire().unsigned_abs()
}

/// Gathers a key on the stack, as nearly every key fits there, and hashes it at once.
struct Digest {
    short: [u8; 192],
    length: usize,
    long: Vec<u8>,
}

impl Default for Digest {
    fn default() -> Self {
        Self { short: [0; 192], length: 0, long: Vec::new() }
    }
}

impl Digest {
    fn bytes(&mut self, bytes: &[u8]) {
        if self.long.is_empty()
            && let Some(free) = self.short.get_mut(self.length..self.length + bytes.len())
        {
            free.copy_from_slice(bytes);
            self.length += bytes.len();
            return;
        }
        if self.long.is_empty() {
            self.long.extend_from_slice(&self.short[..self.length]);
        }
        self.long.extend_from_slice(bytes);
    }

    fn digest(&self) -> u128 {
        xxh3_128(if self.long.is_empty() { &self.short[..self.length] } else { &self.long })
    }
}

/// Where a message's pending row is looked for.
struct JoinKey {
    /// By `Random`, which every callback of a message carries; by `MsgId` where there is none.
    first: u128,
    /// By both, for a second message with the same `Random`; 0 when there is no `MsgId`.
    second: u128,
    /// Hash of the `MsgId`, 0 when there is none.
    msg_id: u64,
}

impl JoinKey {
    fn new(app: u32, message: &Message<'_>) -> Self {
        let msg_id = if message.msg_id.is_empty() { 0 } else { xxh3_64(message.msg_id.as_bytes()) | 1 };
        let mut hasher = Digest::default();
        hasher.bytes(&app.to_be_bytes());
        for text in [message.group_id, message.from_account] {
            hasher.bytes(&(text.len() as u64).to_be_bytes());
            hasher.bytes(text.as_bytes());
        }
        if let Some(random) = message.random {
            hasher.bytes(&[1]);
            hasher.bytes(&random.to_be_bytes());
        } else {
            hasher.bytes(&[2]);
            hasher.bytes(&msg_id.to_be_bytes());
        }
        let first = hasher.digest();
        let second = if msg_id == 0 {
            0
        } else {
            hasher.bytes(&msg_id.to_be_bytes());
            hasher.digest()
        };
        Self { first, second, msg_id }
    }

    fn fits(&self, row: &Pending) -> bool {
        self.msg_id == 0 || row.msg_id_hash == 0 || row.msg_id_hash == self.msg_id
    }
}

struct RoomEvent<'a, 'e> {
    key: (u32, &'a str),
    kind: u32,
    minute: u32,
    second: u32,
    join: JoinKey,
    message: &'e Message<'a>,
}

impl RoomEvent<'_, '_> {
    /// The row of this message's other callback, with the hash it lies under.
    fn pending(&self, cx: &mut Context<'_>) -> Result<Option<(u128, Pending)>, StoreError> {
        let rows = cx.buckets::<PendingMessages>()?;
        for hash in [self.join.first, self.join.second] {
            if hash != 0
                && let Some(row) = rows.get(hash)
                && self.join.fits(row)
            {
                return Ok(Some((hash, *row)));
            }
        }
        Ok(None)
    }

    fn remove_pending(cx: &mut Context<'_>, hash: u128) -> Result<(), StoreError> {
        cx.buckets::<PendingMessages>()?.remove(hash);
        Ok(())
    }

    fn keep_pending(&self, cx: &mut Context<'_>, state: State) -> Result<(), StoreError> {
        let row = Pending {
            state: state.into(),
            kind: self.kind,
            minute: self.minute,
            second: self.second,
            msg_id_hash: self.join.msg_id,
        };
        let bucket = self.second / 60;
        let mut rows = cx.buckets::<PendingMessages>()?;
        // Another message of the same sender has this Random: the one with a MsgId makes way.
        let taken = self.join.second != 0 && rows.get(self.join.first).is_some();
        rows.insert(bucket, if taken { self.join.second } else { self.join.first }, row);
        Ok(())
    }

    fn attempted(&self, cx: &mut Context<'_>, room: &mut Room, refused: bool) -> Result<(), StoreError> {
        let known = self.pending(cx)?;
        let open = !refused && known.is_none();
        let own = tally(&mut room.tallies, self.kind);
        own.attempted += 1;
        own.open += u64::from(open);
        own.rejected += u64::from(refused && known.is_none());
        in_slice(cx, room, self.key, self.minute, self.kind, |slice| {
            slice.attempted += 1;
            slice.open += u64::from(open);
            slice.rejected += u64::from(refused && known.is_none());
        })?;
        let Some((hash, other)) = known else {
            if open {
                room.wait(self.second, self.minute, self.kind);
            }
            return self.keep_pending(cx, if refused { State::Rejected } else { State::Open });
        };
        match other.state() {
            // It was attempted after all.
            State::Delivered => {
                let tally = tally(&mut room.tallies, other.kind);
                tally.unattempted = tally.unattempted.saturating_sub(1);
                in_slice(cx, room, self.key, other.minute, other.kind, |slice| {
                    slice.unattempted = slice.unattempted.saturating_sub(1);
                })?;
                Self::remove_pending(cx, hash)
            }
            // Told as failed before it was told as attempted. What we refused ourselves counts as that alone.
            State::Failed => {
                if refused {
                    let failed = tally(&mut room.tallies, other.kind);
                    failed.failed = failed.failed.saturating_sub(1);
                    in_slice(cx, room, self.key, other.minute, other.kind, |slice| {
                        slice.failed = slice.failed.saturating_sub(1);
                    })?;
                    self.attempted_again(cx, room, refused)?;
                }
                Self::remove_pending(cx, hash)
            }
            // The same message attempted again, not dropped as a duplicate: the first one keeps its place.
            State::Open | State::Rejected | State::Unspecified => self.attempted_again(cx, room, refused),
        }
    }

    /// A second before-callback of a message that is pending already, too far apart to be a duplicate.
    fn attempted_again(&self, cx: &mut Context<'_>, room: &mut Room, refused: bool) -> Result<(), StoreError> {
        let own = tally(&mut room.tallies, self.kind);
        own.rejected += u64::from(refused);
        own.open += u64::from(!refused);
        in_slice(cx, room, self.key, self.minute, self.kind, |slice| {
            slice.rejected += u64::from(refused);
            slice.open += u64::from(!refused);
        })
    }

    fn delivered(&self, cx: &mut Context<'_>, room: &mut Room) -> Result<(), StoreError> {
        let known = self.pending(cx)?;
        let unattempted = known.is_none();
        let own = tally(&mut room.tallies, self.kind);
        own.delivered += 1;
        own.unattempted += u64::from(unattempted);
        in_slice(cx, room, self.key, self.minute, self.kind, |slice| {
            slice.delivered += 1;
            slice.unattempted += u64::from(unattempted);
        })?;
        let account = self.message.from_account;
        let sender = cx.table::<RoomSenders>()?.entry(&(self.key.0, self.key.1, account))?;
        room.senders += u64::from(sender.delivered.is_empty());
        add_delivered(sender, self.kind);
        match known {
            None => self.keep_pending(cx, State::Delivered),
            Some((hash, other)) => self.resolve(cx, room, hash, &other, true),
        }
    }

    fn failed(&self, cx: &mut Context<'_>, room: &mut Room) -> Result<(), StoreError> {
        let known = self.pending(cx)?;
        let counts = match known.map(|(_, other)| other.state()) {
            // We refused it ourselves, and the platform tells the same; or it was delivered in the end.
            Some(State::Rejected | State::Delivered | State::Failed) => false,
            Some(State::Open | State::Unspecified) | None => true,
        };
        if counts {
            tally(&mut room.tallies, self.kind).failed += 1;
            in_slice(cx, room, self.key, self.minute, self.kind, |slice| slice.failed += 1)?;
        }
        match known {
            None => self.keep_pending(cx, State::Failed),
            Some((hash, other)) if counts => self.resolve(cx, room, hash, &other, false),
            Some(_) => Ok(()),
        }
    }

    /// The other callback of a pending message came: what was counted for want of it is taken back.
    fn resolve(
        &self,
        cx: &mut Context<'_>,
        room: &mut Room,
        hash: u128,
        other: &Pending,
        delivered: bool,
    ) -> Result<(), StoreError> {
        match other.state() {
            State::Open => {
                let tally = tally(&mut room.tallies, other.kind);
                tally.open = tally.open.saturating_sub(1);
                room.resolve(other.second, other.minute, other.kind);
                in_slice(cx, room, self.key, other.minute, other.kind, |slice| {
                    slice.open = slice.open.saturating_sub(1);
                })?;
            }
            // Our answer came too late and the platform delivered it.
            State::Rejected if delivered => {
                let tally = tally(&mut room.tallies, other.kind);
                tally.rejected = tally.rejected.saturating_sub(1);
                in_slice(cx, room, self.key, other.minute, other.kind, |slice| {
                    slice.rejected = slice.rejected.saturating_sub(1);
                })?;
            }
            // It failed for one and was delivered in the end.
            State::Failed if delivered => {
                let tally = tally(&mut room.tallies, other.kind);
                tally.failed = tally.failed.saturating_sub(1);
                in_slice(cx, room, self.key, other.minute, other.kind, |slice| {
                    slice.failed = slice.failed.saturating_sub(1);
                })?;
            }
            _ => return Ok(()),
        }
        Self::remove_pending(cx, hash)
    }
}
