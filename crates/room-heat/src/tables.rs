//! The tables. Ids 64 to 71 are this statistic's; 66 was an index of rooms.

use barrage_projection::{BucketTable, Entity, Stands, Table, table};

use crate::proto;

table!(
    /// The half-lives of this partition: one row.
    Generations, 64, "room_heat.generations", (), proto::Generations
);
table!(
    /// Rooms by the hour of their newest event, the last hour first: hours left until the last one there is, app,
    /// `GroupId`. From it the rankings are read again.
    Recent, 69, "room_heat.recent", (u32, u32, &'a str), proto::Recent
);

/// Rooms: app, `GroupId`. They are ranked by heat and by what they are recommended by.
#[derive(Debug)]
pub struct Rooms;
impl Table for Rooms {
    const ID: u8 = 65;
    const NAME: &'static str = "room_heat.rooms";
    type Key<'a> = (u32, &'a str);
    type Value = proto::Room;
    const ENTITY: Option<Entity> = Some(Entity::Room);
    const STANDS: Option<fn(&proto::Room) -> Stands> = Some(proto::Room::stands);
}

/// What accounts added to rooms in epochs that are not over for good, by `account_bucket`.
#[derive(Debug)]
pub struct Accounts;
impl BucketTable for Accounts {
    const ID: u8 = 67;
    const NAME: &'static str = "room_heat.accounts";
    // About 32 MB of memory. Above it a part of the oldest minute's accounts is forgotten, and what they do next is
    // capped by itself.
    const ROWS_MAX: usize = 400_000;
    type Value = proto::Account;
}

/// Parts of a minute, 2 to the power of it: of a full table one event forgets a 32nd, and not all that came in the
/// half-life under way.
const PART_BITS: u32 = 5;
/// Latest minute that is told apart: the year 2225.
const MINUTE_MAX: u32 = u32::MAX >> PART_BITS;

/// Where an account's row lies: the minute in which the epoch ends, and a part of it by the row's hash.
pub(crate) fn account_bucket(minute: u32, hash: u128) -> u32 {
    let part = u32::try_from(hash >> (u128::BITS - PART_BITS)).unwrap_or_default();
    accounts_from(minute) | part
}

/// First bucket of a minute.
pub(crate) fn accounts_from(minute: u32) -> u32 {
    minute.min(MINUTE_MAX) << PART_BITS
}

/// What combos count as here: a row for each of like tallies' combos.
#[derive(Debug)]
pub struct ComboHeats;
impl BucketTable for ComboHeats {
    const ID: u8 = 68;
    const NAME: &'static str = "room_heat.combos";
    const ROWS_MAX: usize = barrage_like_tallies::tables::Combos::ROWS_MAX;
    type Value = proto::ComboHeat;
}
