//! The list of statistics. A new one is its crate, its folder under `proto/`, and its line here.

use barrage_projection::Statistic;

/// Every statistic, in the order in which their projections are applied.
///
/// Online duration, presence and user levels have crates of their own and wait for their lines: after some faults an answer
/// of theirs differs from that of an undisturbed run, and every answer has to be the same.
#[must_use]
pub fn statistics() -> Vec<Box<dyn Statistic>> {
    vec![
        Box::new(barrage_message_counts::MessageCounts),
        Box::new(barrage_like_tallies::LikeTallies),
        Box::new(barrage_room_heat::RoomHeat),
    ]
}
