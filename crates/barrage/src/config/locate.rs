//! Finds keys in the text of a TOML file: the key at a place, and the place of a key.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Line and column, both from 1, of a byte offset. The column counts characters, as editors do.
pub(super) fn line_column(text: &str, offset: usize) -> (usize, usize) {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// A key of the file with what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// With its sections, as in `ingest.tokens[0].name`.
    pub(super) path: String,
    /// From the start of the key to the end of its value; `None` for a whole table or an element of an array.
    pub(super) leaf: Option<Range<usize>>,
    key: Range<usize>,
    value: Range<usize>,
}

impl Entry {
    /// Where the key starts.
    pub(super) fn start(&self) -> usize {
        self.key.start
    }

    fn holds(&self, offset: usize) -> bool {
        self.key.contains(&offset) || self.value.contains(&offset)
    }
}

/// Every key of the text, outer before inner; nothing when it is not TOML.
pub(super) fn entries(text: &str) -> Vec<Entry> {
    let mut found = Vec::new();
    if let Ok(root) = DeTable::parse(text) {
        walk_table(root.get_ref(), "", &mut found);
    }
    found
}

fn walk_table(table: &DeTable<'_>, prefix: &str, found: &mut Vec<Entry>) {
    for (key, value) in table {
        let path = if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
        walk_value(&path, key.span(), value, found);
    }
}

fn walk_value(path: &str, key: Range<usize>, value: &Spanned<DeValue<'_>>, found: &mut Vec<Entry>) {
    let leaf = match value.get_ref() {
        DeValue::Table(_) => None,
        _ => Some(key.start..value.span().end),
    };
    found.push(Entry { path: path.to_owned(), leaf, key, value: value.span() });
    match value.get_ref() {
        DeValue::Table(table) => walk_table(table, path, found),
        DeValue::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                let before = found.len();
                walk_value(&format!("{path}[{i}]"), item.span(), item, found);
                found[before].leaf = None;
            }
        }
        _ => {}
    }
}

/// The innermost key whose name or value covers `offset`.
pub(super) fn entry_at(entries: &[Entry], offset: usize) -> Option<&Entry> {
    // Inner entries come after outer ones; a header's span may not cover its keys, so no tree is needed.
    entries
        .iter()
        .rev()
        .find(|e| e.leaf.is_some() && e.holds(offset))
        .or_else(|| entries.iter().rev().find(|e| e.holds(offset)))
}

/// The entry of `path`, or of the nearest table around it.
pub(super) fn entry_of<'e>(entries: &'e [Entry], path: &str) -> Option<&'e Entry> {
    let mut path = path;
    loop {
        if let Some(found) = entries.iter().find(|e| e.path == path) {
            return Some(found);
        }
        path = &path[..path.rfind(['.', '['])?];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "a = 1\n[log]\n  room_partitions = 0 # ä\nlist = [1, { x = 2 }]\n[deep.er]\nkey = \"ü\"\n";

    #[test]
    fn keys_are_found_by_place() {
        let entries = entries(TEXT);
        for (needle, path) in [
            ("a = 1", "a"),
            ("room_partitions", "log.room_partitions"),
            ("0 # ä", "log.room_partitions"),
            ("x = 2", "log.list[1].x"),
            ("\"ü\"", "deep.er.key"),
        ] {
            let offset = TEXT.find(needle).expect(needle);
            assert_eq!(entry_at(&entries, offset).map(|e| e.path.as_str()), Some(path), "{needle}");
        }
    }

    #[test]
    fn places_are_found_by_key_or_by_the_table_around_it() {
        let entries = entries(TEXT);
        for (path, place) in [
            ("log.room_partitions", Some((3, 3))),
            ("deep.er.key", Some((6, 1))),
            ("log.absent", Some((2, 2))),
            ("log.list[1].x", Some((4, 14))),
            ("absent", None),
        ] {
            assert_eq!(entry_of(&entries, path).map(|e| line_column(TEXT, e.start())), place, "{path}");
        }
    }

    #[test]
    fn columns_count_characters_and_offsets_past_the_end_are_the_end() {
        assert_eq!(line_column("ä=1", 2), (1, 2));
        assert_eq!(line_column("ä=1", 1), (1, 1));
        assert_eq!(line_column("a\nb", 99), (2, 2));
    }
}
