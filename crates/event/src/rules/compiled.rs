//! A rule set made ready for the hot path.

use std::collections::{HashMap, HashSet};

use super::check::RuleError;
use super::custom::{Classified, Paths};
use super::words::Automaton;
use super::{RuleSet, WordAction};
use crate::callback::Callback;
use crate::envelope::Outcome;
use crate::event::{Event, Message};

/// `ErrorCode` for a message that is not delivered while its sender sees success.
const CODE_DROP: u32 = 2;

/// The answer to a before-callback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The decision.
    pub outcome: Outcome,
    /// `ErrorCode` of the answer: 0, 1, 2, or 10100 to 10200.
    pub code: u32,
    /// Which rule decided, as `before.mute.users` or `before.words[2]`; empty when allowed.
    pub rule: String,
    /// `ErrorInfo` of the answer, for the sender.
    pub message: String,
}

impl Verdict {
    /// Passed; allocates nothing.
    #[must_use]
    pub const fn allowed() -> Self {
        Self { outcome: Outcome::Allowed, code: 0, rule: String::new(), message: String::new() }
    }
}

/// A rule set with its version, checked and made ready: classification and verdicts take no more than one pass.
#[derive(Debug)]
pub struct Compiled {
    rules: RuleSet,
    version: u32,
    paths: Paths,
    muted_rooms: HashSet<Box<str>>,
    muted_users: HashSet<Box<str>>,
    muted_in_room: HashMap<Box<str>, HashSet<Box<str>>>,
    words: Option<Automaton>,
}

impl Compiled {
    /// Checks the rule set and makes it ready. Versions count from 1; 0 is the shipped set before any was applied.
    ///
    /// # Errors
    /// What [`RuleSet::validate`] finds.
    pub fn new(rules: &RuleSet, version: u32) -> Result<Self, Vec<RuleError>> {
        rules.validate()?;
        let mute = &rules.before.mute;
        let mut muted_in_room: HashMap<Box<str>, HashSet<Box<str>>> = HashMap::new();
        for pair in &mute.room_users {
            muted_in_room.entry(pair.room.as_str().into()).or_default().insert(pair.user.as_str().into());
        }
        let words = Automaton::new(&rules.before.words)
            .map_err(|error| vec![RuleError { field: "before.words".to_owned(), problem: error.to_string() }])?;
        Ok(Self {
            version,
            paths: Paths::new(&rules.custom),
            muted_rooms: mute.rooms.iter().map(|id| id.as_str().into()).collect(),
            muted_users: mute.users.iter().map(|id| id.as_str().into()).collect(),
            muted_in_room,
            words,
            rules: rules.clone(),
        })
    }

    /// The shipped rule set as version 0.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "the shipped rule set is valid")]
    pub fn shipped() -> Self {
        Self::new(&RuleSet::default(), 0).expect("a test proves that the shipped rule set is valid")
    }

    /// Version of the rule set.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// The rule set it was made from.
    #[must_use]
    pub const fn rules(&self) -> &RuleSet {
        &self.rules
    }

    /// Tells what a custom element is, from its `Data`.
    #[must_use]
    pub fn classify<'d>(&self, data: &'d str) -> Classified<'d> {
        self.paths.classify(data)
    }

    /// The answer to a before-callback; `None` when it is none.
    #[must_use]
    pub fn verdict(&self, callback: &Callback<'_>) -> Option<Verdict> {
        if !callback.is_before() {
            return None;
        }
        Some(match callback.event() {
            Event::BeforeSend(message) => self.verdict_on_message(&message),
            _ => Verdict::allowed(),
        })
    }

    /// The answer to a message before its delivery.
    #[must_use]
    pub fn verdict_on_message(&self, message: &Message<'_>) -> Verdict {
        if let Some(rule) = self.muted(message.group_id, message.from_account) {
            let mute = &self.rules.before.mute;
            return Verdict {
                outcome: Outcome::Rejected,
                code: mute.code,
                rule: rule.to_owned(),
                message: mute.message.clone(),
            };
        }
        let table = self.words.as_ref().and_then(|words| {
            let text = message.text();
            if text.is_empty() { None } else { words.first_table(&text) }
        });
        let Some(table) = table else { return Verdict::allowed() };
        let words = &self.rules.before.words[table];
        let (outcome, code) = match words.action {
            WordAction::Reject => (Outcome::Rejected, words.code.unwrap_or(1)),
            WordAction::Drop => (Outcome::Dropped, CODE_DROP),
        };
        Verdict { outcome, code, rule: format!("before.words[{table}]"), message: words.message.clone() }
    }

    fn muted(&self, room: &str, user: &str) -> Option<&'static str> {
        if self.muted_rooms.contains(room) {
            Some("before.mute.rooms")
        } else if self.muted_users.contains(user) {
            Some("before.mute.users")
        } else if self.muted_in_room.get(room).is_some_and(|users| users.contains(user)) {
            Some("before.mute.room_users")
        } else {
            None
        }
    }
}
