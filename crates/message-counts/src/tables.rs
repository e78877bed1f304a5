//! The tables. Ids 16 to 23 are this statistic's; 17 was minutes, each a row.

use barrage_projection::{BucketTable, table};

use crate::proto;

table!(
    /// Rooms: app, `GroupId`.
    Rooms, 16, "message_counts.rooms", of Room, proto::Room
);
table!(
    /// Minutes of rooms, ten in a row: app, `GroupId`, tens of minutes since the epoch. The newest ten lie in the room's row,
    /// which is read and written anyway. Where rooms are quiet nearly every record begins a minute: rows of one would be
    /// about as many as records, each written once and taken out once.
    Minutes, 23, "message_counts.minutes", (u32, &'a str, u32), proto::Minutes
);
table!(
    /// Hours of rooms: app, `GroupId`, hour since the epoch.
    Hours, 18, "message_counts.hours", (u32, &'a str, u32), proto::Slice
);
table!(
    /// Days of rooms: app, `GroupId`, day since the epoch (UTC).
    Days, 19, "message_counts.days", (u32, &'a str, u32), proto::Slice
);
table!(
    /// Senders in rooms: app, `GroupId`, account.
    RoomSenders, 20, "message_counts.room_senders", of Viewer, proto::Sender
);
table!(
    /// Senders over all rooms: app, account.
    Senders, 22, "message_counts.senders", of Account, proto::Sender
);

/// Messages whose other callback may still come, by minute of `received_at`.
#[derive(Debug)]
pub struct PendingMessages;
impl BucketTable for PendingMessages {
    const ID: u8 = 21;
    const NAME: &'static str = "message_counts.pending";
    // About 40 MB of memory. Only a deployment without before-callbacks comes near it, and there nothing is lost by
    // forgetting early: what is unattempted stays so.
    const ROWS_MAX: usize = 400_000;
    type Value = proto::Pending;
}
