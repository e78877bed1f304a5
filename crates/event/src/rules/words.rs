//! Banned words: all tables in one automaton, one pass over a text however many words there are.

use aho_corasick::{AhoCorasick, AhoCorasickKind, BuildError};

use super::{Matching, Words};

/// The words of all tables.
#[derive(Debug)]
pub(super) struct Automaton {
    automaton: AhoCorasick,
    /// For each pattern its table and whether it must stand alone.
    patterns: Vec<(usize, Matching)>,
}

impl Automaton {
    /// `None` when there are no words.
    pub(super) fn new(tables: &[Words]) -> Result<Option<Self>, BuildError> {
        let words = tables.iter().enumerate().flat_map(|(table, words)| {
            words.words.iter().map(move |word| (word.to_lowercase(), table, words.matching))
        });
        let (texts, patterns): (Vec<_>, Vec<_>) = words.map(|(text, table, m)| (text, (table, m))).unzip();
        if texts.is_empty() {
            return Ok(None);
        }
        // A DFA of many words would take gigabytes; this one stays within some ten times the words.
        let automaton = AhoCorasick::builder().kind(Some(AhoCorasickKind::ContiguousNFA)).build(&texts)?;
        Ok(Some(Self { automaton, patterns }))
    }

    /// The first table, in their order, one of whose words stands in the text.
    pub(super) fn first_table(&self, text: &str) -> Option<usize> {
        let text = text.to_lowercase();
        let mut first = None;
        for hit in self.automaton.find_overlapping_iter(&text) {
            let (table, matching) = self.patterns[hit.pattern().as_usize()];
            let better = first.is_none_or(|first| table < first);
            if better && (matching == Matching::Part || stands_alone(&text, hit.start(), hit.end())) {
                if table == 0 {
                    return Some(0);
                }
                first = Some(table);
            }
        }
        first
    }
}

/// Whether neither a letter nor a digit stands right before or after `start..end`.
fn stands_alone(text: &str, start: usize, end: usize) -> bool {
    let before = text[..start].chars().next_back();
    let after = text[end..].chars().next();
    !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
}
