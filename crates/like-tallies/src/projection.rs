//! The projections: one on rooms, one on accounts.

use barrage_event::{EnvelopeView, Topic};
use barrage_projection::{ApplyError, Context, Projection, StoreError, TableDef};
use xxhash_rust::xxh3::xxh3_64;

use crate::combos;
use crate::happening::{Happening, What};
use crate::proto::{Account, RoomSeconds, Totals};
use crate::seconds::{self, like_second, open_from};
use crate::tables::{Accounts, Combos, Kept, Rooms, Viewers};
use crate::totals::{HOUR_MS, HOURS_MAX, hour_of};

/// Rooms with open seconds that an account has at most; above it those of the room that was liked longest ago are
/// forgotten.
const OPEN_ROOMS_MAX: usize = 64;

/// Likes, gifts and memberships of rooms and of viewers in rooms, on `barrage.room`.
#[derive(Debug, Clone, Copy, Default)]
pub struct RoomTallies;

/// Likes, gifts and memberships of accounts over all rooms, on `barrage.user`.
#[derive(Debug, Clone, Copy, Default)]
pub struct AccountTallies;

impl Projection for RoomTallies {
    fn name(&self) -> &'static str {
        "like-tallies.rooms"
    }

    fn topic(&self) -> Topic {
        Topic::Room
    }

    fn tables(&self) -> Vec<TableDef> {
        vec![TableDef::of::<Rooms>(), TableDef::of::<Viewers>(), TableDef::of::<Kept>(), TableDef::buckets::<Combos>()]
    }

    fn apply(&self, cx: &mut Context<'_>, record: &EnvelopeView<'_>) -> Result<(), ApplyError> {
        // At every record, so that it follows from how far the partition is.
        let hours_from = hours_from(cx)?;
        let Some(happening) = Happening::of(record, cx.stamped) else { return Ok(()) };
        let room = (record.app, happening.room);
        let viewer = (record.app, happening.room, happening.account);
        match happening.what {
            What::Likes { stated, refused: true } => totals(cx, room)?.likes.get_or_insert_default().refuse(stated),
            What::Likes { stated, refused: false } => {
                let second = like_second(record, cx.stamped);
                let open_from = open_from(cx);
                let rules = &cx.stamped.likes;
                let row = cx.table::<Viewers>()?.entry(&viewer)?;
                let counted = seconds::count(&mut row.seconds, (second, open_from), stated, rules);
                row.add_likes(stated, counted.count, (second / 3_600, hours_from));
                totals(cx, room)?.likes.get_or_insert_default().add(stated, &counted);
            }
            What::Gift { message, gift } => {
                let added = match gift {
                    Some(gift) => combos::add(cx, record, &happening, &gift)?,
                    None => combos::Added::default(),
                };
                cx.table::<Viewers>()?.entry(&viewer)?.add_gift(message, &added, hours_from);
                totals(cx, room)?.gifts.get_or_insert_default().add(message, &added);
            }
            What::Membership { months, value } => {
                let row = cx.table::<Viewers>()?.entry(&viewer)?;
                row.memberships = row.memberships.saturating_add(1);
                totals(cx, room)?.memberships.get_or_insert_default().add(months, value);
            }
        }
        Ok(())
    }
}

impl Projection for AccountTallies {
    fn name(&self) -> &'static str {
        "like-tallies.accounts"
    }

    fn topic(&self) -> Topic {
        Topic::User
    }

    fn tables(&self) -> Vec<TableDef> {
        vec![TableDef::of::<Accounts>(), TableDef::of::<Kept>(), TableDef::buckets::<Combos>()]
    }

    fn apply(&self, cx: &mut Context<'_>, record: &EnvelopeView<'_>) -> Result<(), ApplyError> {
        let Some(happening) = Happening::of(record, cx.stamped) else { return Ok(()) };
        let added = match happening.what {
            What::Gift { gift: Some(gift), .. } => combos::add(cx, record, &happening, &gift)?,
            _ => combos::Added::default(),
        };
        let (second, open_from) = (like_second(record, cx.stamped), open_from(cx));
        let rules = &cx.stamped.likes;
        let account = cx.table::<Accounts>()?.entry(&(record.app, happening.account))?;
        match happening.what {
            What::Likes { stated, refused } => {
                let counted = (!refused).then(|| {
                    let seconds = account.seconds_of(happening.room, open_from);
                    seconds::count(seconds, (second, open_from), stated, rules)
                });
                let likes = account.totals.get_or_insert_default().likes.get_or_insert_default();
                match counted {
                    Some(counted) => likes.add(stated, &counted),
                    None => likes.refuse(stated),
                }
            }
            What::Gift { message, .. } => {
                let totals = account.totals.get_or_insert_default();
                totals.gifts.get_or_insert_default().add(message, &added);
            }
            What::Membership { months, value } => {
                let totals = account.totals.get_or_insert_default();
                totals.memberships.get_or_insert_default().add(months, value);
            }
        }
        Ok(())
    }
}

fn totals<'c>(cx: &'c mut Context<'_>, room: (u32, &str)) -> Result<&'c mut Totals, StoreError> {
    cx.table::<Rooms>()?.entry(&room)
}

/// The first hour of which every viewer keeps what it did. It never goes back: what is gone does not come again when
/// the rules keep more from now on.
fn hours_from(cx: &mut Context<'_>) -> Result<u32, StoreError> {
    let keep_ms = i64::try_from(cx.rules.retention.minutes_ms).unwrap_or(i64::MAX);
    let from = hour_of(cx.stream_time_ms.saturating_sub(keep_ms.min(i64::from(HOURS_MAX) * HOUR_MS)));
    let known = cx.table::<Kept>()?.get(&())?.map_or(0, |kept| kept.hours_from);
    if from > known {
        cx.table::<Kept>()?.entry(&())?.hours_from = from;
    }
    Ok(from.max(known))
}

impl Account {
    /// The open seconds of a room, made when there are none yet. Those of other rooms that are over go.
    fn seconds_of(&mut self, room: &str, open_from: u32) -> &mut Vec<u32> {
        let hash = xxh3_64(room.as_bytes());
        if self.rooms.len() > 1 {
            self.rooms.retain_mut(|row| {
                seconds::forget(&mut row.seconds, open_from);
                row.room == hash || !row.seconds.is_empty()
            });
        }
        let at = match self.rooms.binary_search_by_key(&hash, |row| row.room) {
            Ok(at) => at,
            Err(_) => {
                if self.rooms.len() >= OPEN_ROOMS_MAX {
                    let last = |row: &RoomSeconds| row.seconds.iter().rev().nth(2).copied();
                    let oldest = self.rooms.iter().enumerate().min_by_key(|(_, row)| last(row)).map(|(at, _)| at);
                    self.rooms.remove(oldest.unwrap_or_default());
                }
                let at = self.rooms.partition_point(|row| row.room < hash);
                self.rooms.insert(at, RoomSeconds { room: hash, seconds: Vec::new() });
                at
            }
        };
        &mut self.rooms[at].seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_that_likes_in_many_rooms_keeps_the_newest() {
        let mut account = Account::default();
        for n in 0..200_u32 {
            let seconds = account.seconds_of(&format!("room_{n}"), 0);
            let counted = seconds::count(seconds, (1_000 + n, 0), 150, &barrage_event::rules::LikeRules::default());
            assert_eq!((counted.count, counted.over_message), (100, 50));
        }
        assert_eq!(account.rooms.len(), OPEN_ROOMS_MAX);
        assert!(account.rooms.is_sorted_by_key(|row| row.room));
        assert!(account.rooms.iter().all(|row| row.seconds[0] >= 1_200 - 64), "the newest ones");
        account.seconds_of("room_1", 5_000);
        assert_eq!(account.rooms.len(), 1, "all others are over");
    }
}
