//! Answers and failures.

use barrage_event::{Offset, Partition};
use barrage_worker::{PartitionStatus, Phase, RebuildStatus, SnapshotStatus, TakenSnapshot};

use super::{BadMessage, place_in, place_out};
use crate::error::{ApiError, Code};
use crate::proto::answer::Found as Wire;
use crate::proto::ask_response::Result as Outcome;
use crate::proto::failure::Kind as WireKind;
use crate::proto::partition_status::Phase as WirePhase;
use crate::proto::{self, AskResponse};
use crate::question::{Failure, Fields, Found, Kind, Ranked, Seen};

/// The message of an outcome.
pub(crate) fn response(outcome: Result<Found, Failure>) -> AskResponse {
    let result = match outcome {
        Ok(found) => Outcome::Answer(found_out(found)),
        Err(failure) => Outcome::Failure(failure_out(failure)),
    };
    AskResponse { result: Some(result) }
}

fn found_out(found: Found) -> proto::Answer {
    let (seen, found) = match found {
        Found::Fields(fields, seen) => (Some(seen), Wire::Fields(fields.into_text())),
        Found::Rooms(rooms, seen) => {
            let rooms = rooms.into_iter().map(|Ranked { place, fields }| proto::RankedRoom {
                place: Some(place_out(&place)),
                fields: fields.into_text(),
            });
            (Some(seen), Wire::Rooms(proto::RoomList { rooms: rooms.collect() }))
        }
        Found::Places(places, generation, seen) => {
            (Some(seen), Wire::Places(proto::PlaceList { places: places.iter().map(place_out).collect(), generation }))
        }
        Found::Number(number, seen) => (Some(seen), Wire::Number(proto::Number { number })),
        Found::Levels(levels, seen) => {
            let levels = levels.into_iter().map(|(level, accounts)| proto::LevelCount { level, accounts });
            (Some(seen), Wire::Levels(proto::LevelCounts { levels: levels.collect() }))
        }
        Found::Rows(rows, seen) => {
            (Some(seen), Wire::Rows(proto::Rows { rows: rows.into_iter().map(Fields::into_text).collect() }))
        }
        Found::Status(found) => (None, Wire::Status(status(&found))),
        Found::Done => (None, Wire::Done(proto::Done {})),
        Found::Apps(apps) => (None, Wire::Apps(proto::AppList { apps })),
        Found::HighWater(place) => {
            let place = place.map(|(offset, index)| proto::EventPlace { offset, index });
            (None, Wire::HighWater(proto::HighWater { place }))
        }
    };
    let seen = seen.map(|seen| proto::Seen {
        next_offset: seen.next_offset.0,
        stream_time_ms: seen.stream_time_ms,
        rules_version: seen.rules_version,
        at_ms: seen.at_ms,
    });
    proto::Answer { seen, found: Some(found) }
}

fn failure_out(Failure { kind, error }: Failure) -> proto::Failure {
    let kind = match kind {
        Kind::Answer => WireKind::Answer,
        // An owner asks nobody else, so it is never unreachable itself.
        Kind::NotMine | Kind::Unreachable => WireKind::NotMine,
        Kind::Starting => WireKind::Starting,
        Kind::Stopped => WireKind::Stopped,
        Kind::TimedOut => WireKind::TimedOut,
    };
    let ApiError { code, message, hint } = error;
    proto::Failure { kind: kind.into(), code: code.as_str().to_owned(), message, hint }
}

/// The message of a partition's state.
pub(crate) fn status(status: &PartitionStatus) -> proto::PartitionStatus {
    let (phase, error) = match &status.phase {
        Phase::Starting => (WirePhase::Starting, String::new()),
        Phase::Live => (WirePhase::Live, String::new()),
        Phase::Stopped { error } => (WirePhase::Stopped, error.clone()),
    };
    proto::PartitionStatus {
        partition: status.partition.to_string(),
        generation: status.generation,
        phase: phase.into(),
        error,
        offset: status.offset.0,
        end: status.end.0,
        state_hash: status.state_hash.to_be_bytes().to_vec(),
        store_hash: status.store_hash.to_be_bytes().to_vec(),
        stream_time_ms: status.stream_time_ms,
        rules_version: status.rules_version,
        applied: status.applied,
        duplicates: status.duplicates,
        dead_letters: status.dead_letters,
        needs_rebuild: status.needs_rebuild,
        outgoing: status.outgoing,
        rebuild: status.rebuild.as_ref().map(|rebuild| proto::RebuildStatus {
            offset: rebuild.offset.0,
            end: rebuild.end.0,
            done: rebuild.done,
            hashes_match: rebuild.hashes_match,
            error: rebuild.error.clone(),
        }),
        snapshot: status.snapshot.as_ref().map(|snapshot| proto::SnapshotStatus {
            taking: snapshot.taking,
            error: snapshot.error.clone(),
            last: snapshot.last.as_ref().map(|last| proto::TakenSnapshot {
                name: last.name.clone(),
                next_offset: last.next_offset.0,
                created_at_ms: last.created_at_ms,
                bytes: last.bytes,
                state_hash: last.state_hash.clone(),
            }),
        }),
    }
}

/// What the owner of a partition answered.
pub(crate) fn answer(partition: Partition, response: AskResponse) -> Result<Found, Failure> {
    let read = match response.result {
        Some(Outcome::Answer(answer)) => found_in(partition, answer),
        Some(Outcome::Failure(failure)) => return Err(failure_in(failure)),
        None => Err(BadMessage("it holds neither an answer nor a failure")),
    };
    read.map_err(|error| {
        tracing::warn!(%partition, %error, "the owner's answer cannot be read");
        Failure::not_an_answer()
    })
}

fn found_in(partition: Partition, answer: proto::Answer) -> Result<Found, BadMessage> {
    let seen = answer.seen.map(|seen| Seen {
        partition,
        next_offset: Offset(seen.next_offset),
        stream_time_ms: seen.stream_time_ms,
        rules_version: seen.rules_version,
        at_ms: seen.at_ms,
    });
    // An answer that does not say what it rests on is none.
    let seen = || seen.ok_or(BadMessage("seen is missing"));
    let object = |text: String| Fields::from_text(text).ok_or(BadMessage("fields are no JSON object"));
    Ok(match answer.found.ok_or(BadMessage("found is missing"))? {
        Wire::Fields(text) => Found::Fields(object(text)?, seen()?),
        Wire::Rooms(rooms) => {
            let rooms = rooms.rooms.into_iter().map(|room| {
                let place = place_in(room.place.ok_or(BadMessage("place is missing"))?);
                Ok(Ranked { place, fields: object(room.fields)? })
            });
            Found::Rooms(rooms.collect::<Result<_, BadMessage>>()?, seen()?)
        }
        Wire::Places(proto::PlaceList { places, generation }) => {
            Found::Places(places.into_iter().map(place_in).collect(), generation, seen()?)
        }
        Wire::Number(number) => Found::Number(number.number, seen()?),
        Wire::Levels(counts) => {
            Found::Levels(counts.levels.into_iter().map(|one| (one.level, one.accounts)).collect(), seen()?)
        }
        Wire::Rows(rows) => Found::Rows(rows.rows.into_iter().map(object).collect::<Result<_, BadMessage>>()?, seen()?),
        Wire::Status(status) => Found::Status(Box::new(status_in(partition, status)?)),
        Wire::Done(proto::Done {}) => Found::Done,
        Wire::Apps(apps) => Found::Apps(apps.apps),
        Wire::HighWater(found) => Found::HighWater(found.place.map(|place| (place.offset, place.index))),
    })
}

fn failure_in(failure: proto::Failure) -> Failure {
    let kind = match failure.kind() {
        WireKind::Answer => Kind::Answer,
        WireKind::NotMine => Kind::NotMine,
        WireKind::Starting => Kind::Starting,
        WireKind::Stopped => Kind::Stopped,
        WireKind::TimedOut => Kind::TimedOut,
    };
    // A code of a newer version says at least that there is no answer.
    let code = Code::from_text(&failure.code).unwrap_or(Code::Failed);
    Failure { kind, error: ApiError::new(code, failure.message, failure.hint) }
}

fn status_in(partition: Partition, status: proto::PartitionStatus) -> Result<PartitionStatus, BadMessage> {
    let hash =
        |bytes: &[u8]| bytes.try_into().map(u128::from_be_bytes).map_err(|_| BadMessage("a hash is not 16 bytes long"));
    let phase = match status.phase() {
        WirePhase::Starting => Phase::Starting,
        WirePhase::Live => Phase::Live,
        WirePhase::Stopped => Phase::Stopped { error: status.error },
    };
    Ok(PartitionStatus {
        partition,
        generation: status.generation,
        phase,
        offset: Offset(status.offset),
        end: Offset(status.end),
        state_hash: hash(&status.state_hash)?,
        store_hash: hash(&status.store_hash)?,
        stream_time_ms: status.stream_time_ms,
        rules_version: status.rules_version,
        applied: status.applied,
        duplicates: status.duplicates,
        dead_letters: status.dead_letters,
        needs_rebuild: status.needs_rebuild,
        outgoing: status.outgoing,
        rebuild: status.rebuild.map(|rebuild| RebuildStatus {
            offset: Offset(rebuild.offset),
            end: Offset(rebuild.end),
            done: rebuild.done,
            hashes_match: rebuild.hashes_match,
            error: rebuild.error,
        }),
        snapshot: status.snapshot.map(|snapshot| SnapshotStatus {
            taking: snapshot.taking,
            error: snapshot.error,
            last: snapshot.last.map(|last| TakenSnapshot {
                name: last.name,
                next_offset: Offset(last.next_offset),
                created_at_ms: last.created_at_ms,
                bytes: last.bytes,
                state_hash: last.state_hash,
            }),
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTITION: Partition = Partition::room(3);

    fn seen() -> Seen {
        Seen { partition: PARTITION, next_offset: Offset(9), stream_time_ms: 8, rules_version: 7, at_ms: 6 }
    }

    fn object(text: &str) -> Fields {
        Fields::from_text(text.to_owned()).expect("an object")
    }

    /// What an answer is after it travelled, as text.
    fn travelled(found: Found) -> (String, String) {
        let text = |found: &Found| match found {
            // Made fields arrive as text; what they say is the same.
            Found::Fields(fields, seen) => format!("{} {seen:?}", fields.clone().into_text()),
            other => format!("{other:?}"),
        };
        let before = text(&found);
        (before, text(&answer(PARTITION, response(Ok(found))).expect("an answer")))
    }

    #[test]
    fn every_answer_travels() {
        let place = (std::cmp::Reverse(4), "r".to_owned());
        let status = PartitionStatus {
            partition: PARTITION,
            generation: 10,
            phase: Phase::Stopped { error: "why".to_owned() },
            offset: Offset(1),
            end: Offset(2),
            state_hash: 3,
            store_hash: u128::MAX,
            stream_time_ms: 5,
            rules_version: 6,
            applied: 7,
            duplicates: 8,
            dead_letters: 9,
            needs_rebuild: true,
            outgoing: 10,
            rebuild: Some(RebuildStatus {
                offset: Offset(1),
                end: Offset(2),
                done: true,
                hashes_match: Some(false),
                error: Some(String::new()),
            }),
            snapshot: Some(SnapshotStatus {
                taking: true,
                last: Some(TakenSnapshot {
                    name: "n".to_owned(),
                    next_offset: Offset(3),
                    created_at_ms: 4,
                    bytes: 5,
                    state_hash: "6".to_owned(),
                }),
                error: Some("e".to_owned()),
            }),
        };
        let made = serde_json::Map::from_iter([("b".to_owned(), serde_json::json!(1.5)), ("a".to_owned(), "é".into())]);
        for found in [
            Found::Fields(Fields::Made(made), seen()),
            Found::Places(vec![place.clone()], 7, seen()),
            Found::Rooms(vec![Ranked { place, fields: object("{\"a\":1}") }], seen()),
            Found::Rows(vec![object("{}"), object("{\"x\":[]}")], seen()),
            Found::Number(None, seen()),
            Found::Number(Some(0), seen()),
            Found::Levels([(0, u64::MAX), (3, 1)].into(), seen()),
            Found::Status(Box::new(PartitionStatus {
                phase: Phase::Live,
                rebuild: None,
                snapshot: None,
                ..status.clone()
            })),
            Found::Status(Box::new(status)),
            Found::Done,
            Found::Apps(vec![1, u32::MAX]),
            Found::HighWater(None),
            Found::HighWater(Some((u64::MAX, u32::MAX))),
        ] {
            let (before, after) = travelled(found);
            assert_eq!(before, after);
        }
    }

    #[test]
    fn every_failure_reads_the_same_after_it_travelled() {
        for code in Code::ALL {
            for kind in [Kind::Answer, Kind::NotMine, Kind::Starting, Kind::Stopped, Kind::TimedOut] {
                let failure = Failure { kind, error: ApiError::new(code, "m", "h") };
                assert_eq!(answer(PARTITION, response(Err(failure.clone()))).err(), Some(failure));
            }
        }
    }

    #[test]
    fn answers_that_are_none_are_refused() {
        let wire = |seen: bool, found| {
            let seen = seen.then(proto::Seen::default);
            AskResponse { result: Some(Outcome::Answer(proto::Answer { seen, found })) }
        };
        for bad in [
            AskResponse { result: None },
            wire(true, None),
            wire(false, Some(Wire::Fields("{}".to_owned()))),
            wire(false, Some(Wire::Places(proto::PlaceList::default()))),
            wire(false, Some(Wire::Levels(proto::LevelCounts::default()))),
            wire(true, Some(Wire::Fields("[]".to_owned()))),
            wire(true, Some(Wire::Rows(proto::Rows { rows: vec!["{".to_owned()] }))),
            wire(true, Some(Wire::Rooms(proto::RoomList { rooms: vec![proto::RankedRoom::default()] }))),
            wire(true, Some(Wire::Status(proto::PartitionStatus::default()))),
        ] {
            assert_eq!(answer(PARTITION, bad.clone()).err(), Some(Failure::not_an_answer()), "{bad:?}");
        }
    }
}
