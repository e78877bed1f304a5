//! The tables. Ids 64 to 71 are this statistic's; 66 was an index of rooms, 67 had what accounts added.

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
table!(
    /// What viewers added to rooms lately: app, `GroupId`, account.
    Viewers, 70, "room_heat.viewers", of Viewer, proto::Viewer
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

/// What combos count as here: a row for each of like tallies' combos.
#[derive(Debug)]
pub struct ComboHeats;
impl BucketTable for ComboHeats {
    const ID: u8 = 68;
    const NAME: &'static str = "room_heat.combos";
    const ROWS_MAX: usize = barrage_like_tallies::tables::Combos::ROWS_MAX;
    type Value = proto::ComboHeat;
}
