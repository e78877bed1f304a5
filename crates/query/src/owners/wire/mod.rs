//! Questions, answers and failures as messages, and back. Messages come from outside: whatever is not as it should be
//! is refused, and nothing is trusted to be in range.

mod answer;
mod question;

pub(crate) use answer::{answer, response, status};
pub(crate) use question::{question, request};

use crate::proto;
use crate::question::Place;

/// A message that does not say what it should; the text names the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the message cannot be read: {0}")]
pub(crate) struct BadMessage(pub(crate) &'static str);

fn place_out((score, room): &Place) -> proto::Place {
    proto::Place { score: score.0, room: room.clone() }
}

fn place_in(place: proto::Place) -> Place {
    (std::cmp::Reverse(place.score), place.room)
}
