//! Mends what is valid JSON and still not readable as a value: half a surrogate pair, which chat clients do cut, and a
//! number beyond all floats.

/// Mends what is valid JSON and still not readable: half a surrogate pair becomes U+FFFD, a number beyond all floats
/// becomes null. `None` when there is nothing of the kind; then the text has another fault.
pub(super) fn repair(text: &str) -> Option<String> {
    let mut repaired = String::with_capacity(text.len());
    let mut changed = false;
    let mut rest = text;
    while let Some(first) = rest.bytes().next() {
        let (piece, mended) = match first {
            b'"' => string_piece(rest),
            b'-' | b'0'..=b'9' => number_piece(rest),
            _ => {
                let end = rest.find(['"', '-']).into_iter().chain(rest.find(|c: char| c.is_ascii_digit())).min();
                (&rest[..end.unwrap_or(rest.len())], None)
            }
        };
        changed |= mended.is_some();
        repaired.push_str(mended.as_deref().unwrap_or(piece));
        rest = &rest[piece.len()..];
    }
    changed.then_some(repaired)
}

/// The string at the start of `text`, quotes included, and what it is to be when it holds half a pair.
fn string_piece(text: &str) -> (&str, Option<String>) {
    let bytes = text.as_bytes();
    let mut at = 1;
    let mut halves = Vec::new();
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at += 1;
                break;
            }
            b'\\' => match (escaped_unit(&bytes[at..]), bytes.get(at + 6..).and_then(escaped_unit)) {
                (Some(0xd800..0xdc00), Some(0xdc00..0xe000)) => at += 12,
                (Some(0xd800..0xe000), _) => {
                    halves.push(at);
                    at += 6;
                }
                _ => at += 2,
            },
            _ => at += 1,
        }
    }
    // The end of a truncated string may lie inside a character.
    let end = (0..=at.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0).max(1);
    let piece = &text[..end];
    if halves.is_empty() {
        return (piece, None);
    }
    let mut mended = piece.to_owned();
    for at in halves {
        mended.replace_range(at..at + 6, "\\ufffd");
    }
    (piece, Some(mended))
}

/// The UTF-16 unit of a `\uXXXX` at the start of `bytes`.
fn escaped_unit(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.strip_prefix(b"\\u")?.get(..4)?;
    digits.iter().try_fold(0, |unit, digit| Some(unit * 16 + char::from(*digit).to_digit(16)?))
}

/// The number at the start of `text`, and null when no float is so large.
fn number_piece(text: &str) -> (&str, Option<String>) {
    let end = text.find(|c: char| !matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E')).unwrap_or(text.len());
    let piece = &text[..end];
    let too_large = piece.parse().is_ok_and(f64::is_infinite);
    (piece, too_large.then(|| "null".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    #[test]
    fn half_a_surrogate_pair_and_numbers_beyond_all_floats_are_mended() {
        for (raw, expected) in [
            (r#"{"a":"x\ud83dy"}"#, Some(r#"{"a":"x\ufffdy"}"#)),
            (r#"["\udc00",1e999,-1E+999,"1e999"]"#, Some(r#"["\ufffd",null,null,"1e999"]"#)),
            (r#"["\ud83d\ud83d\ude00"]"#, Some(r#"["\ufffd\ud83d\ude00"]"#)),
            (r#"["\ud83d\n"]"#, Some(r#"["\ufffd\n"]"#)),
            (r#"["\\ud83d","\ud83d\ude00","大",12,-3.5e2]"#, None),
            (r#"["\ud83d"#, Some(r#"["\ufffd"#)),
            ("\"大\\", None),
        ] {
            assert_eq!(repair(raw).as_deref(), expected, "{raw}");
        }
    }

    proptest! {
        #[test]
        fn readable_json_needs_no_repair(text: String, number in any::<f64>(), ascii: bool) {
            let mut raw = serde_json::json!({ "t": text, "n": number }).to_string();
            if ascii {
                // The other way to write it: every character outside ASCII as an escape.
                raw = raw.chars().map(|c| {
                    let mut units = [0; 2];
                    if c.is_ascii() { c.to_string() }
                    else { c.encode_utf16(&mut units).iter().map(|u| format!("\\u{u:04x}")).collect() }
                }).collect();
            }
            prop_assert_eq!(repair(&raw), None);
        }

        #[test]
        fn what_was_repaired_is_readable(units in proptest::collection::vec(any::<u16>(), 0..8)) {
            let escapes: String = units.iter().map(|u| format!("\\u{u:04X}")).collect();
            let raw = format!("[\"{escapes}\",{{\"{escapes}\":1e400}}]");
            let repaired = repair(&raw).expect("the number at least");
            let value: serde_json::Value = serde_json::from_str(&repaired).unwrap();
            prop_assert_eq!(value[0].as_str().map(str::to_owned), Some(String::from_utf16_lossy(&units)));
        }

        #[test]
        fn no_text_at_all_makes_repair_panic(raw in "(\\\\|\"|u|d83d|e9|1|-|大|.){0,40}") {
            if let Some(repaired) = repair(&raw) {
                prop_assert!(!repaired.is_empty());
            }
        }
    }
}
