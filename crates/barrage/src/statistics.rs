//! The list of statistics. A new one is its crate, its folder under `proto/`, and its line here.

use barrage_projection::Statistic;

/// Every statistic, in the order in which their projections are applied: presence reads online duration's rows, heat and
/// levels those of like tallies.
#[must_use]
pub fn statistics() -> Vec<Box<dyn Statistic>> {
    vec![
        Box::new(barrage_message_counts::MessageCounts),
        Box::new(barrage_online_duration::OnlineDuration),
        Box::new(barrage_presence::Presence),
        Box::new(barrage_like_tallies::LikeTallies),
        Box::new(barrage_room_heat::RoomHeat),
        Box::new(barrage_user_levels::UserLevels),
    ]
}
