//! Checks a rule set, and says of what is wrong in which field it stands.

mod statistics;

use super::{CustomRules, DAY_MS, HOUR_MS, MINUTE_MS, Mute, RuleSet, WordAction, Words};

/// Limits of a rule set, so that it fits a record of the log and its compiled form stays small.
pub mod limits {
    /// Length of the TOML text, bytes. Records of the log have at most 2 MiB.
    pub const TOML_BYTES_MAX: usize = 1 << 20;
    /// Muted rooms, muted users, and pairs of them: this many of each.
    pub const MUTES_MAX: usize = 100_000;
    /// Length of a room's or account's id, bytes.
    pub const ID_BYTES_MAX: usize = 128;
    /// Tables of words.
    pub const WORD_TABLES_MAX: usize = 1_000;
    /// Words in all tables together.
    pub const WORDS_MAX: usize = 100_000;
    /// Length of a word, bytes.
    pub const WORD_BYTES_MAX: usize = 256;
    /// Length of a message to the sender, bytes.
    pub const MESSAGE_BYTES_MAX: usize = 1_024;
    /// Types that mean one kind of message.
    pub const TYPES_MAX: usize = 100;
    /// Length of such a type, bytes.
    pub const TYPE_BYTES_MAX: usize = 128;
    /// Steps of a path.
    pub const PATH_STEPS_MAX: usize = 16;
    /// Thresholds of user levels.
    pub const THRESHOLDS_MAX: usize = 1_000;
    /// Points of a threshold.
    pub const POINTS_MAX: u64 = 1_000_000_000_000;
    /// Any weight, thousandths of a point.
    pub const WEIGHT_MAX: u64 = 1_000_000_000;
    /// Length of a path, bytes.
    pub const PATH_BYTES_MAX: usize = 256;
}

/// What is wrong in one field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{field}`: {problem}")]
pub struct RuleError {
    /// The field, as `before.words[2].code`.
    pub field: String,
    /// What is wrong with it, and what would be right.
    pub problem: String,
}

#[derive(Default)]
struct Errors(Vec<RuleError>);

impl Errors {
    /// A text of thousands of errors helps nobody.
    const MAX: usize = 100;

    fn add(&mut self, field: impl Into<String>, problem: impl Into<String>) {
        if self.0.len() < Self::MAX {
            self.0.push(RuleError { field: field.into(), problem: problem.into() });
        }
    }

    fn range(&mut self, field: &str, value: u64, min: u64, max: u64) {
        if !(min..=max).contains(&value) {
            self.add(field, format!("{value} ms is outside {min} to {max}"));
        }
    }

    fn number(&mut self, field: &str, value: u64, min: u64, max: u64) {
        if !(min..=max).contains(&value) {
            self.add(field, format!("{value} is outside {min} to {max}"));
        }
    }

    fn count(&mut self, field: &str, count: usize, max: usize) {
        if count > max {
            self.add(field, format!("has {count} entries, more than {max}"));
        }
    }

    fn id(&mut self, field: impl FnOnce() -> String, id: &str) {
        if id.is_empty() || id.len() > limits::ID_BYTES_MAX {
            self.add(field(), format!("has {} bytes in place of 1 to {}", id.len(), limits::ID_BYTES_MAX));
        }
    }

    fn reject_code(&mut self, field: impl Into<String>, code: u32) {
        if code != 1 && !(10_100..=10_200).contains(&code) {
            self.add(field, format!("{code} is neither 1 nor within 10100 to 10200, which IM accepts"));
        }
    }

    fn message(&mut self, field: impl Into<String>, message: &str) {
        if message.len() > limits::MESSAGE_BYTES_MAX {
            self.add(field, format!("has {} bytes, more than {}", message.len(), limits::MESSAGE_BYTES_MAX));
        }
    }
}

impl RuleSet {
    /// Checks all values against their ranges and each other.
    ///
    /// # Errors
    /// Everything that is wrong (at most 100 entries), each with its field.
    pub fn validate(&self) -> Result<(), Vec<RuleError>> {
        let mut errors = Errors::default();
        check_custom(&self.custom, &mut errors);
        let w = &self.windows;
        errors.range("windows.join_late_ms", w.join_late_ms, 1_000, DAY_MS);
        errors.range("windows.join_ms", w.join_ms, 100, w.join_late_ms.min(DAY_MS));
        errors.range("windows.duplicates_keep_ms", w.duplicates_keep_ms, MINUTE_MS, DAY_MS);
        errors.range("windows.duplicates_lookup_ms", w.duplicates_lookup_ms, 0, w.duplicates_keep_ms.min(DAY_MS));
        errors.range("windows.business_keep_ms", w.business_keep_ms, HOUR_MS, 90 * DAY_MS);
        errors.range("windows.lateness_ms", w.lateness_ms, 0, DAY_MS);
        let r = &self.retention;
        errors.range("retention.minutes_ms", r.minutes_ms, HOUR_MS, 366 * DAY_MS);
        errors.range("retention.hours_ms", r.hours_ms, r.minutes_ms.min(366 * DAY_MS), 3_660 * DAY_MS);
        statistics::check(self, &mut errors);
        check_mute(&self.before.mute, &mut errors);
        check_words(&self.before.words, &mut errors);
        if errors.0.is_empty() { Ok(()) } else { Err(errors.0) }
    }
}

fn check_custom(custom: &CustomRules, errors: &mut Errors) {
    if custom.type_path.is_empty() {
        errors.add("custom.type", "is empty: without it every custom element is of kind `custom`");
    }
    for (name, path) in custom.paths() {
        let steps = path.split('.').count();
        if path.len() > limits::PATH_BYTES_MAX || steps > limits::PATH_STEPS_MAX {
            errors.add(
                format!("custom.{name}"),
                format!("has more than {} bytes or {} steps", limits::PATH_BYTES_MAX, limits::PATH_STEPS_MAX),
            );
        }
        if !path.is_empty() && path.split('.').any(str::is_empty) {
            errors.add(format!("custom.{name}"), format!("`{path}` has an empty step"));
        }
    }
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (name, types) in custom.types() {
        errors.count(&format!("custom.{name}"), types.len(), limits::TYPES_MAX);
        for (i, text) in types.iter().enumerate().take(limits::TYPES_MAX) {
            if text.is_empty() || text.len() > limits::TYPE_BYTES_MAX {
                errors.add(
                    format!("custom.{name}[{i}]"),
                    format!("has {} bytes in place of 1 to {}", text.len(), limits::TYPE_BYTES_MAX),
                );
            }
            if let Some((other, _)) = seen.iter().find(|(_, seen)| seen == text) {
                errors.add(format!("custom.{name}[{i}]"), format!("`{text}` already stands in custom.{other}"));
            }
            seen.push((name, text));
        }
    }
}

fn check_mute(mute: &Mute, errors: &mut Errors) {
    for (name, ids) in [("rooms", &mute.rooms), ("users", &mute.users)] {
        errors.count(&format!("before.mute.{name}"), ids.len(), limits::MUTES_MAX);
        for (i, id) in ids.iter().enumerate() {
            errors.id(|| format!("before.mute.{name}[{i}]"), id);
        }
    }
    errors.count("before.mute.room_users", mute.room_users.len(), limits::MUTES_MAX);
    for (i, pair) in mute.room_users.iter().enumerate() {
        errors.id(|| format!("before.mute.room_users[{i}].room"), &pair.room);
        errors.id(|| format!("before.mute.room_users[{i}].user"), &pair.user);
    }
    errors.reject_code("before.mute.code", mute.code);
    errors.message("before.mute.message", &mute.message);
}

fn check_words(tables: &[Words], errors: &mut Errors) {
    errors.count("before.words", tables.len(), limits::WORD_TABLES_MAX);
    let total: usize = tables.iter().map(|table| table.words.len()).sum();
    if total > limits::WORDS_MAX {
        errors.add("before.words", format!("has {total} words in all, more than {}", limits::WORDS_MAX));
    }
    for (i, table) in tables.iter().enumerate() {
        let field = format!("before.words[{i}]");
        if table.words.is_empty() {
            errors.add(format!("{field}.words"), "is empty: leave the table out");
        }
        for (j, word) in table.words.iter().enumerate() {
            if word.trim().is_empty() || word.len() > limits::WORD_BYTES_MAX {
                errors.add(
                    format!("{field}.words[{j}]"),
                    format!("is blank or longer than {} bytes", limits::WORD_BYTES_MAX),
                );
            }
        }
        match (table.action, table.code) {
            (WordAction::Reject, Some(code)) => errors.reject_code(format!("{field}.code"), code),
            (WordAction::Drop, Some(_)) => {
                errors.add(format!("{field}.code"), "a dropped message is always answered with 2: leave the code out");
            }
            (_, None) => {}
        }
        errors.message(format!("{field}.message"), &table.message);
    }
}

/// Line (from 1) of a place in a TOML text, and the table and key that stand there.
pub(super) fn locate(text: &str, at: usize) -> (usize, String) {
    let before = text.get(..at).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let lines: Vec<&str> = text.lines().take(line).collect();
    let header = lines.iter().rev().map(|l| l.trim()).find(|l| l.starts_with('['));
    let table = header.and_then(|l| l.split(']').next());
    let table = table.unwrap_or_default().trim_matches(['[', ']', ' ']);
    let key = lines.last().and_then(|l| l.split_once('=')).map_or("", |(key, _)| key.trim());
    let field = [table, key].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(".");
    (line, field)
}
