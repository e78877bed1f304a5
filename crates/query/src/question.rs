//! Questions to one partition, and what comes back.
//!
//! Every read of the service is made of these: the handlers compose questions and merge answers, [`crate::local`]
//! answers them from the stores of this process, [`crate::owners`] finds who is to be asked. They hold values only, so
//! that asking another process differs from asking this one by nothing but the way.

use std::collections::BTreeMap;

use barrage_event::{Offset, Partition};
use barrage_worker::{PartitionStatus, Unavailable};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value as Json};

use crate::error::{ApiError, Code};

/// Start and width of a slice of time, in ms.
pub(crate) type Slice = (i64, i64);

/// Place in a ranking: more is first, equal ones by name. Places never tie, so paging neither skips nor repeats as long
/// as scores stand still.
pub(crate) type Place = (std::cmp::Reverse<u64>, String);

/// A question to one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) partition: Partition,
    /// The time asked for, in ms since the epoch.
    pub(crate) at_ms: i64,
    pub(crate) ask: Ask,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Everything known of a room.
    Room { app: u32, room: String },
    /// Everything known of an account.
    User { app: u32, account: String },
    /// Slices of time of a room that overlap [`from_ms`, `to_ms`), behind `after`.
    Minutes { app: u32, room: String, from_ms: i64, to_ms: i64, limit: usize, after: Option<Slice> },
    /// A page of a room's viewers.
    Viewers { app: u32, room: String, sort: String, limit: usize, after: Option<String>, span: Option<(i64, i64)> },
    /// The places of the best rooms behind `after` and before `before`, at most `keep`.
    RankRooms { app: u32, sort: String, keep: usize, after: Option<Place>, before: Option<Place> },
    /// These rooms with their places; ranked and read in one snapshot, so that place and fields of a room never
    /// disagree.
    RankedRooms { app: u32, sort: String, rooms: Vec<String> },
    /// What a room is ranked by.
    RoomScore { app: u32, sort: String, room: String },
    /// How many rooms stand before a place of a ranking.
    RoomsBefore { app: u32, sort: String, place: Place },
    /// How many accounts there are at each level.
    Levels { app: u32 },
    /// The first dead letters from an offset on.
    DeadLetters { from: Offset, limit: usize },
    /// How far the partition is.
    Status,
    /// Starts a rebuild; its progress is part of the status.
    Rebuild,
    /// Has a snapshot taken; how it goes is part of the status.
    Snapshot,
    /// Waits until the record at an offset is in the committed numbers.
    WaitFor { offset: Offset, timeout_ms: u64 },
    /// The `SdkAppid`s that the partition knows.
    Apps,
    /// What it has seen of a source of derived events, a log's uuid and a partition's number, when all below `end` is
    /// applied.
    SeenOf { end: Offset, source: (u128, u16) },
}

impl Ask {
    /// Whether asking again, when it is not known what became of the first time, changes nothing.
    pub(crate) fn is_read(&self) -> bool {
        !matches!(self, Self::Rebuild | Self::Snapshot)
    }
}

/// A JSON object of an answer: as it was made here, or as its text came from another process, which is neither parsed
/// into values nor written anew, so that its bytes are the owner's.
#[derive(Debug, Clone)]
pub(crate) enum Fields {
    Made(Map<String, Json>),
    Text(Box<RawValue>),
}

impl Fields {
    /// The object that a text is.
    pub(crate) fn from_text(text: String) -> Option<Self> {
        let raw = RawValue::from_string(text).ok()?;
        raw.get().starts_with('{').then_some(Self::Text(raw))
    }

    /// Puts a number into the object, or into an object inside it, `outer`, when that is there. What else the object
    /// holds keeps its bytes.
    pub(crate) fn put(&mut self, outer: Option<&str>, name: &str, number: Option<u64>) {
        let number = Json::from(number);
        match self {
            Self::Made(map) => match outer {
                None => drop(map.insert(name.to_owned(), number)),
                Some(outer) => {
                    if let Some(Json::Object(inner)) = map.get_mut(outer) {
                        inner.insert(name.to_owned(), number);
                    }
                }
            },
            Self::Text(raw) => {
                if let Some(text) = put_in_text(raw.get(), outer, name, &number) {
                    *raw = text;
                }
            }
        }
    }

    /// The object's text without one of its fields.
    pub(crate) fn text_without(&self, name: &str) -> String {
        match self {
            Self::Made(map) => {
                let others = map.iter().filter(|(field, _)| *field != name);
                Json::Object(others.map(|(field, value)| (field.clone(), value.clone())).collect()).to_string()
            }
            Self::Text(raw) => {
                let fields: Option<BTreeMap<String, Box<RawValue>>> = serde_json::from_str(raw.get()).ok();
                let others = fields.map(|mut fields| {
                    fields.remove(name);
                    fields
                });
                others.and_then(|fields| serde_json::to_string(&fields).ok()).unwrap_or_default()
            }
        }
    }

    /// The object's text.
    pub(crate) fn into_text(self) -> String {
        match self {
            Self::Made(map) => Json::Object(map).to_string(),
            Self::Text(raw) => Box::<str>::from(raw).into(),
        }
    }
}

/// The text of an object with a number put in. Fields stand in the order of their names, as where they were made.
fn put_in_text(text: &str, outer: Option<&str>, name: &str, number: &Json) -> Option<Box<RawValue>> {
    let mut fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(text).ok()?;
    match outer {
        None => drop(fields.insert(name.to_owned(), serde_json::value::to_raw_value(number).ok()?)),
        Some(outer) => {
            let inner = fields.get_mut(outer)?;
            *inner = put_in_text(inner.get(), None, name, number)?;
        }
    }
    serde_json::value::to_raw_value(&fields).ok()
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Made(map) => map.serialize(serializer),
            Self::Text(raw) => raw.serialize(serializer),
        }
    }
}

/// A room of a ranking with everything known of it.
#[derive(Debug, Clone)]
pub(crate) struct Ranked {
    pub(crate) place: Place,
    pub(crate) fields: Fields,
}

/// What a read saw of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) partition: Partition,
    pub(crate) next_offset: Offset,
    pub(crate) stream_time_ms: i64,
    pub(crate) rules_version: u32,
    /// The time at which what depends on elapsed time was computed, in ms since the epoch.
    pub(crate) at_ms: i64,
}

/// An answer of one partition.
#[derive(Debug, Clone)]
pub(crate) enum Found {
    /// To `Room`, `User`, `Minutes` and `Viewers`.
    Fields(Fields, Seen),
    /// To `RankRooms`, best first, with the generation of their scores.
    Places(Vec<Place>, u32, Seen),
    /// To `RankedRooms`, best first.
    Rooms(Vec<Ranked>, Seen),
    /// To `RoomScore`, where it is nothing for a room that is not ranked, and `RoomsBefore`.
    Number(Option<u64>, Seen),
    /// To `Levels`.
    Levels(BTreeMap<u32, u64>, Seen),
    /// To `DeadLetters`, in order of offset.
    Rows(Vec<Fields>, Seen),
    /// To `Status`.
    Status(Box<PartitionStatus>),
    /// To `Rebuild`, `Snapshot` and `WaitFor`: it has begun, or is over.
    Done,
    /// To `Apps`.
    Apps(Vec<u32>),
    /// To `SeenOf`: the highest (offset, index); nothing when nothing came.
    HighWater(Option<(u64, u32)>),
}

impl Found {
    pub(crate) fn into_fields(self) -> Result<(Fields, Seen), ApiError> {
        if let Self::Fields(fields, seen) = self { Ok((fields, seen)) } else { Err(Failure::not_an_answer().error) }
    }
}

/// What kind of failure it is: decides whether asking again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// The answer of the partition's owner, which asking again does not change.
    Answer,
    /// The process that was asked does not own the partition.
    NotMine,
    /// Its owner is still opening it.
    Starting,
    /// It has stopped.
    Stopped,
    /// Not reached or not answered in time.
    TimedOut,
    /// Its owner could not be reached, or broke off.
    Unreachable,
}

/// Why a question has no answer, with the error that a client gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) error: ApiError,
}

impl Failure {
    pub(crate) fn unavailable(kind: Kind, message: impl std::fmt::Display) -> Self {
        Self { kind, error: ApiError::unavailable(message) }
    }

    pub(crate) fn not_mine(partition: Partition) -> Self {
        Unavailable::NotMine(partition).into()
    }

    /// An answer that is none to the question.
    pub(crate) fn not_an_answer() -> Self {
        ApiError::failed("the partition's owner answered something else than was asked; do both run the same version?")
            .into()
    }

    /// Whether it passes by itself when a partition has moved.
    pub(crate) fn passes(&self) -> bool {
        matches!(self.kind, Kind::NotMine | Kind::Starting | Kind::Unreachable)
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self { kind: Kind::Answer, error }
    }
}

impl From<barrage_projection::StoreError> for Failure {
    fn from(error: barrage_projection::StoreError) -> Self {
        ApiError::from(error).into()
    }
}

impl From<Unavailable> for Failure {
    fn from(error: Unavailable) -> Self {
        let kind = match &error {
            Unavailable::NotMine(_) => Kind::NotMine,
            Unavailable::Starting(_) => Kind::Starting,
            Unavailable::Stopped { .. } => Kind::Stopped,
            Unavailable::TimedOut(_) => Kind::TimedOut,
            Unavailable::Store(_) => Kind::Answer,
        };
        Self { kind, error: ApiError::new(Code::Unavailable, error.to_string(), ApiError::TRY_AGAIN) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_stands_in_an_answer_as_it_came() {
        // Key order, spacing of numbers and escapes would not survive parsing.
        let text = r#"{"z":1.0,"a":"\u00e9","n":1e2}"#;
        let fields = Fields::from_text(text.to_owned()).expect("an object");
        assert_eq!(serde_json::to_string(&vec![fields.clone()]).expect("text"), format!("[{text}]"));
        assert_eq!(fields.into_text(), text);
    }

    #[test]
    fn a_number_is_put_into_a_text_as_into_what_it_was_made_from() {
        let made = serde_json::json!({ "a\"heat\":{": "\"heat\":{", "heat": { "score": 7, "z": [1.5] }, "room": "é" });
        let Json::Object(made) = made else { unreachable!("an object") };
        for (outer, name) in [(None, "rank"), (Some("heat"), "rank"), (Some("nothing"), "rank"), (Some("room"), "rank")]
        {
            let mut here = Fields::Made(made.clone());
            let mut there = Fields::from_text(Json::Object(made.clone()).to_string()).expect("an object");
            here.put(outer, name, Some(3));
            there.put(outer, name, Some(3));
            assert_eq!(here.clone().into_text(), there.into_text(), "{outer:?}");
            let fields: Json = serde_json::from_str(&here.into_text()).expect("JSON");
            let expected = matches!(outer, None | Some("heat")).then_some(3);
            assert_eq!(outer.map_or(&fields, |outer| &fields[outer])["rank"].as_u64(), expected, "{outer:?}");
        }
        let here = Fields::Made(made.clone()).text_without("heat");
        let there = Fields::from_text(Json::Object(made).to_string()).expect("an object");
        assert_eq!(here, there.text_without("heat"));
        assert_eq!(here, r#"{"a\"heat\":{":"\"heat\":{","room":"é"}"#);
        // Key order and spacing of what was there survive.
        let mut text = Fields::from_text(r#"{"a":{"z":1.0,"b":1e2}}"#.to_owned()).expect("an object");
        text.put(None, "n", None);
        assert_eq!(text.into_text(), r#"{"a":{"z":1.0,"b":1e2},"n":null}"#);
    }

    #[test]
    fn what_is_no_object_is_no_answer() {
        for text in ["", "[]", "1", "{", "{}{}", "{\"a\":}", "null"] {
            assert!(Fields::from_text(text.to_owned()).is_none(), "{text}");
        }
    }
}
