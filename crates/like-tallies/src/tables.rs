//! The tables. Ids 48 to 63 are this statistic's.

use barrage_projection::{BucketTable, table};

use crate::proto;

table!(
    /// Rooms: app, `GroupId`.
    Rooms, 48, "like_tallies.rooms", of Room, proto::Totals
);
table!(
    /// Viewers of rooms: app, `GroupId`, account.
    Viewers, 49, "like_tallies.viewers", of Viewer, proto::Viewer
);
table!(
    /// Accounts over all rooms: app, account.
    Accounts, 50, "like_tallies.accounts", of Account, proto::Account
);
table!(
    /// How far back this partition knows what it keeps: one row.
    Kept, 52, "like_tallies.kept", (), proto::Kept
);

/// Combos whose messages may still come, by [`combo_hash`](crate::combos::combo_hash); in partitions of either topic.
#[derive(Debug)]
pub struct Combos;
impl BucketTable for Combos {
    const ID: u8 = 51;
    const NAME: &'static str = "like_tallies.combos";
    // About 35 MB of memory. Above it the oldest minute's combos are forgotten early: messages that still come of them
    // count as new combos, and as too late.
    const ROWS_MAX: usize = 200_000;
    type Value = proto::Combo;
}
