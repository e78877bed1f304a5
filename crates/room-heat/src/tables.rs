//! The tables. Ids 64 to 71 are this statistic's.

use barrage_projection::{BucketTable, table};

use crate::proto;

table!(
    /// The half-lives of this partition: one row.
    Generations, 64, "room_heat.generations", (), proto::Generations
);
table!(
    /// Rooms: app, `GroupId`.
    Rooms, 65, "room_heat.rooms", of Room, proto::Room
);
table!(
    /// Rooms in the order of their heat: app, list, generation, place counted from the top, `GroupId`.
    Index, 66, "room_heat.index", (u32, u8, u32, u64, &'a str), proto::Place
);

/// What accounts added to rooms in epochs that are not over for good, by the minute in which they end.
#[derive(Debug)]
pub struct Accounts;
impl BucketTable for Accounts {
    const ID: u8 = 67;
    const NAME: &'static str = "room_heat.accounts";
    // About 32 MB of memory. Above it the oldest epoch is forgotten, and an account may add to it up to the limit again.
    const ROWS_MAX: usize = 400_000;
    type Value = proto::Account;
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
