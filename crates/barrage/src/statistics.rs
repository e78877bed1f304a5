//! The list of statistics. A new one is its crate, its folder under `proto/`, and its line here.

use barrage_projection::Statistic;

/// Every statistic, in the order in which their projections are applied.
///
/// Online duration, presence, likes and gifts, heat and levels have crates of their own and wait for their lines: on Kafka
/// their answers are not yet seen to be those of one process, after every fault.
#[must_use]
pub fn statistics() -> Vec<Box<dyn Statistic>> {
    vec![Box::new(barrage_message_counts::MessageCounts)]
}
