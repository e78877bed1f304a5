//! Questions.

use barrage_event::Offset;

use super::{BadMessage, place_in, place_out};
use crate::TIME_MS_MAX;
use crate::options::{AT_LEAST_WAIT_MS_MAX, LIMIT_MAX};
use crate::proto::ask_request::Question as Wire;
use crate::proto::{self, AskRequest};
use crate::question::{Ask, Question};

/// The message of a question to the owner of that generation.
pub(crate) fn request(question: &Question, generation: u64) -> AskRequest {
    AskRequest {
        partition: question.partition.to_string(),
        generation,
        at_ms: question.at_ms,
        question: Some(ask_out(&question.ask)),
    }
}

fn ask_out(ask: &Ask) -> Wire {
    match ask.clone() {
        Ask::Room { app, room } => Wire::Room(proto::Room { app, room }),
        Ask::User { app, account } => Wire::User(proto::User { app, account }),
        Ask::Minutes { app, room, from_ms, to_ms, limit, after } => Wire::Minutes(proto::Minutes {
            app,
            room,
            from_ms,
            to_ms,
            limit: count(limit),
            after: after.map(|(start_ms, width_ms)| proto::Slice { start_ms, width_ms }),
        }),
        Ask::Viewers { app, room, sort, limit, after, span } => {
            let (from_ms, to_ms) = span.unzip();
            Wire::Viewers(proto::Viewers { app, room, sort, limit: count(limit), after, from_ms, to_ms })
        }
        Ask::RankRooms { app, sort, keep, after, before } => Wire::RankRooms(proto::RankRooms {
            app,
            sort,
            keep: count(keep),
            after: after.as_ref().map(place_out),
            before: before.as_ref().map(place_out),
        }),
        Ask::RankedRooms { app, sort, rooms } => Wire::RankedRooms(proto::RankedRooms { app, sort, rooms }),
        Ask::RoomScore { app, sort, room } => Wire::RoomScore(proto::RoomScore { app, sort, room }),
        Ask::RoomsBefore { app, sort, place } => {
            Wire::RoomsBefore(proto::RoomsBefore { app, sort, place: Some(place_out(&place)) })
        }
        Ask::Levels { app } => Wire::Levels(proto::Levels { app }),
        Ask::DeadLetters { from, limit } => Wire::DeadLetters(proto::DeadLetters { from: from.0, limit: count(limit) }),
        Ask::Status => Wire::PartitionState(proto::PartitionState {}),
        Ask::Rebuild => Wire::Rebuild(proto::Rebuild {}),
        Ask::Snapshot => Wire::Snapshot(proto::Snapshot {}),
        Ask::WaitFor { offset, timeout_ms } => Wire::WaitFor(proto::WaitFor { offset: offset.0, timeout_ms }),
        Ask::Apps => Wire::Apps(proto::Apps {}),
        Ask::SeenOf { end, source: (log_uuid, partition) } => Wire::SeenOf(proto::SeenOf {
            end: end.0,
            log_uuid: log_uuid.to_be_bytes().to_vec(),
            user_partition: partition.into(),
        }),
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// The question that a message asks, with the generation that the caller knows the owner by.
pub(crate) fn question(request: AskRequest) -> Result<(Question, u64), BadMessage> {
    let partition = request.partition.parse().map_err(|_| BadMessage("partition is none, as in room/3"))?;
    if !(0..=TIME_MS_MAX).contains(&request.at_ms) {
        return Err(BadMessage("at_ms is out of range"));
    }
    let ask = ask_in(request.question.ok_or(BadMessage("it holds no question that this version knows"))?)?;
    Ok((Question { partition, at_ms: request.at_ms, ask }, request.generation))
}

fn ask_in(wire: Wire) -> Result<Ask, BadMessage> {
    Ok(match wire {
        Wire::Room(proto::Room { app, room }) => Ask::Room { app, room },
        Wire::User(proto::User { app, account }) => Ask::User { app, account },
        Wire::Minutes(proto::Minutes { app, room, from_ms, to_ms, limit, after }) => {
            let times = 0..=TIME_MS_MAX;
            let after = after.map(|slice| (slice.start_ms, slice.width_ms));
            if !times.contains(&from_ms) || !times.contains(&to_ms) {
                return Err(BadMessage("from_ms or to_ms is out of range"));
            }
            if after.is_some_and(|(start, width)| !times.contains(&start) || width < 0) {
                return Err(BadMessage("after is no slice"));
            }
            Ask::Minutes { app, room, from_ms, to_ms, limit: limited(limit)?, after }
        }
        Wire::Viewers(proto::Viewers { app, room, sort, limit, after, from_ms, to_ms }) => {
            Ask::Viewers { app, room, sort, limit: limited(limit)?, after, span: from_ms.zip(to_ms) }
        }
        Wire::RankRooms(proto::RankRooms { app, sort, keep, after, before }) => {
            Ask::RankRooms { app, sort, keep: limited(keep)?, after: after.map(place_in), before: before.map(place_in) }
        }
        Wire::RankedRooms(proto::RankedRooms { app, sort, rooms }) => {
            limited(count(rooms.len()))?;
            Ask::RankedRooms { app, sort, rooms }
        }
        Wire::RoomScore(proto::RoomScore { app, sort, room }) => Ask::RoomScore { app, sort, room },
        Wire::RoomsBefore(proto::RoomsBefore { app, sort, place }) => {
            Ask::RoomsBefore { app, sort, place: place_in(place.ok_or(BadMessage("place is missing"))?) }
        }
        Wire::Levels(proto::Levels { app }) => Ask::Levels { app },
        Wire::DeadLetters(proto::DeadLetters { from, limit }) => {
            Ask::DeadLetters { from: Offset(from), limit: limited(limit)? }
        }
        Wire::PartitionState(proto::PartitionState {}) => Ask::Status,
        Wire::Rebuild(proto::Rebuild {}) => Ask::Rebuild,
        Wire::Snapshot(proto::Snapshot {}) => Ask::Snapshot,
        Wire::WaitFor(proto::WaitFor { offset, timeout_ms }) => {
            if timeout_ms > AT_LEAST_WAIT_MS_MAX {
                return Err(BadMessage("timeout_ms is out of range"));
            }
            Ask::WaitFor { offset: Offset(offset), timeout_ms }
        }
        Wire::Apps(proto::Apps {}) => Ask::Apps,
        Wire::SeenOf(proto::SeenOf { end, log_uuid, user_partition }) => {
            let log_uuid = <[u8; 16]>::try_from(log_uuid).map_err(|_| BadMessage("log_uuid is none"))?;
            let partition = u16::try_from(user_partition).map_err(|_| BadMessage("user_partition is out of range"))?;
            Ask::SeenOf { end: Offset(end), source: (u128::from_be_bytes(log_uuid), partition) }
        }
    })
}

/// A ranking is asked for one room more than its page holds.
fn limited(n: u32) -> Result<usize, BadMessage> {
    let n = usize::try_from(n).unwrap_or(usize::MAX);
    if n <= LIMIT_MAX + 1 { Ok(n) } else { Err(BadMessage("limit or keep is out of range")) }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use barrage_event::Partition;

    use super::*;

    #[test]
    fn every_question_travels() {
        let (app, room) = (7, "@TGS#房间".to_owned());
        let place = (Reverse(u64::MAX), "r".to_owned());
        for ask in [
            Ask::Room { app, room: room.clone() },
            Ask::User { app, account: room.clone() },
            Ask::Minutes {
                app,
                room: room.clone(),
                from_ms: 1,
                to_ms: TIME_MS_MAX,
                limit: 9,
                after: Some((5, 60_000)),
            },
            Ask::Minutes { app, room: room.clone(), from_ms: 0, to_ms: 0, limit: 1, after: None },
            Ask::Viewers {
                app,
                room: room.clone(),
                sort: "messages".to_owned(),
                limit: 1_000,
                after: Some(String::new()),
                span: None,
            },
            Ask::Viewers { app, room, sort: "likes".to_owned(), limit: 1, after: None, span: Some((1, i64::MAX)) },
            Ask::RankRooms { app, sort: "x".to_owned(), keep: 1_001, after: Some(place.clone()), before: None },
            Ask::RankRooms { app, sort: "x".to_owned(), keep: 1, after: None, before: Some(place.clone()) },
            Ask::RankedRooms { app, sort: "x".to_owned(), rooms: vec!["r".to_owned(), String::new()] },
            Ask::RoomScore { app, sort: "heat".to_owned(), room: "r".to_owned() },
            Ask::RoomsBefore { app, sort: "heat".to_owned(), place },
            Ask::Levels { app },
            Ask::DeadLetters { from: Offset(3), limit: 2 },
            Ask::Status,
            Ask::Rebuild,
            Ask::Snapshot,
            Ask::WaitFor { offset: Offset(u64::MAX), timeout_ms: 60_000 },
            Ask::Apps,
            Ask::SeenOf { end: Offset(u64::MAX), source: (u128::MAX, u16::MAX) },
        ] {
            let sent = Question { partition: Partition::room(3), at_ms: 12, ask };
            assert_eq!(question(request(&sent, 4)), Ok((sent, 4)));
        }
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        let good = |ask: Ask| request(&Question { partition: Partition::room(0), at_ms: 1, ask }, 1);
        let minutes = |from_ms, after| Ask::Minutes { app: 1, room: String::new(), from_ms, to_ms: 1, limit: 1, after };
        for bad in [
            AskRequest { partition: "rooms/0".to_owned(), ..good(Ask::Apps) },
            AskRequest { at_ms: -1, ..good(Ask::Apps) },
            AskRequest { at_ms: i64::MAX, ..good(Ask::Apps) },
            AskRequest { question: None, ..good(Ask::Apps) },
            AskRequest { question: Some(Wire::SeenOf(proto::SeenOf::default())), ..good(Ask::Apps) },
            AskRequest { question: Some(Wire::RoomsBefore(proto::RoomsBefore::default())), ..good(Ask::Apps) },
            good(minutes(-1, None)),
            good(minutes(0, Some((i64::MIN, 1)))),
            good(minutes(0, Some((1, -1)))),
            good(Ask::DeadLetters { from: Offset(0), limit: 1_002 }),
            good(Ask::RankedRooms { app: 1, sort: String::new(), rooms: vec![String::new(); 1_002] }),
            good(Ask::WaitFor { offset: Offset(0), timeout_ms: u64::MAX }),
        ] {
            assert!(question(bad.clone()).is_err(), "{bad:?}");
        }
    }
}
