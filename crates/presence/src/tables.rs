//! The tables. Ids 32 to 47 are this statistic's: up to 39 on `barrage.room`, from 40 on `barrage.user`.

use barrage_projection::{BucketTable, table};

use crate::proto;

table!(
    /// Rooms: app, `GroupId`.
    Rooms, 32, "presence.rooms", of Room, proto::Room
);
table!(
    /// Changes of a room's online count: app, `GroupId`, number of the chunk of 20 s since the epoch.
    Chunks, 33, "presence.chunks", (u32, &'a str, u32), proto::Chunk
);
table!(
    /// Members of rooms: app, `GroupId`, account.
    Members, 34, "presence.members", of Viewer, proto::Member
);
table!(
    /// The ring of a room's recent members: app, `GroupId`, place in the ring.
    Recent, 35, "presence.recent", (u32, &'a str, u32), proto::RecentMembers
);
table!(
    /// Rooms of accounts: app, account.
    Accounts, 40, "presence.accounts", of Account, proto::Account
);

/// What was told of accounts that are no members, by minute of its arrival.
#[derive(Debug)]
pub struct EarlyMoments;
impl BucketTable for EarlyMoments {
    const ID: u8 = 36;
    const NAME: &'static str = "presence.early";
    // About 20 MB of memory, with a moment or two each, of 32 at most. One that is forgotten early matters only when its join
    // is still to come.
    const ROWS_MAX: usize = 100_000;
    type Value = proto::Early;
}
