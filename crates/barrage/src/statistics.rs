//! The list of statistics. A new one is its crate, its folder under `proto/`, and its line here.

use barrage_projection::Statistic;

/// Every statistic, in the order in which their projections are applied.
///
/// Presence has a crate of its own and waits for its line: after a crash that changes the order of callbacks, the watch time
/// of a viewer may differ by milliseconds from that of an undisturbed run, and every answer has to be the same.
#[must_use]
pub fn statistics() -> Vec<Box<dyn Statistic>> {
    vec![
        Box::new(barrage_message_counts::MessageCounts),
        Box::new(barrage_online_duration::OnlineDuration),
        Box::new(barrage_like_tallies::LikeTallies),
        Box::new(barrage_room_heat::RoomHeat),
        Box::new(barrage_user_levels::UserLevels),
    ]
}
