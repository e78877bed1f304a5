//! A reader who does not stop reading, and does not accept a number that is older than the one before.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value as Json;

use super::{escape, get_text};

/// What was read so far.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    /// Messages delivered in each room, as last answered.
    seen: BTreeMap<String, u64>,
    pub(crate) answered: usize,
    pub(crate) unavailable: usize,
}

impl Reads {
    /// Reads a room once. There are two answers: a number that is not behind the last one, or that it is unavailable and
    /// to be asked for again.
    pub(crate) fn room(&mut self, query: &str, room: &str) -> bool {
        let (status, text) = get_text(query, &format!("/v1/rooms/{}", escape(room)));
        let answer: Json = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{room}: {error}: {text}"));
        match status {
            200 => {
                let found = answer["messages"]["delivered"].as_u64().unwrap_or(0);
                let before = self.seen.insert(room.to_owned(), found).unwrap_or(0);
                assert!(found >= before, "{room}: {found} messages after {before}: {answer}");
                assert!(answer["as_of"].is_object(), "{answer}");
                self.answered += 1;
                true
            }
            503 => {
                assert_eq!(answer["error"]["code"], "unavailable", "{answer}");
                let hint = answer["error"]["hint"].as_str().unwrap_or_default();
                assert!(hint.contains("try again"), "{answer}");
                self.unavailable += 1;
                false
            }
            // Before its first message a room is not known.
            404 if !self.seen.contains_key(room) => {
                self.answered += 1;
                true
            }
            _ => panic!("{room}: {status} {answer}"),
        }
    }

    /// Reads all rooms in turn until it is told to stop.
    pub(crate) fn all_until(mut self, query: &str, rooms: &[String], stop: &AtomicBool) -> Self {
        while !stop.load(Ordering::Acquire) {
            for room in rooms {
                self.room(query, room);
            }
        }
        self
    }
}
