//! Names of client platforms, brought to one spelling.

use std::borrow::Cow;

/// Platforms that the vendor lists, with the variants that its pages and SDKs use.
const PLATFORMS: [(&str, &str); 11] = [
    ("android", "android"),
    ("ios", "ios"),
    ("web", "web"),
    ("windows", "windows"),
    ("ipad", "ipad"),
    ("mac", "mac"),
    ("macos", "mac"),
    ("linux", "linux"),
    ("restapi", "restapi"),
    ("unknown", "unknown"),
    ("unkown", "unknown"),
];

/// Longest name that is kept as it is, bytes. Statistics keep names; the vendor's longest has 7.
const LENGTH_MAX: usize = 32;

/// The platform in lower case and one spelling. What is not known is kept as text, in lower case; what is no name, as it
/// is longer than any, is unknown.
#[must_use]
pub fn normalise(platform: &str) -> Cow<'static, str> {
    let platform = platform.trim();
    if platform.is_empty() {
        return Cow::Borrowed("");
    }
    match PLATFORMS.iter().find(|(variant, _)| variant.eq_ignore_ascii_case(platform)) {
        Some((_, name)) => Cow::Borrowed(name),
        None if platform.len() > LENGTH_MAX => Cow::Borrowed("unknown"),
        None => Cow::Owned(platform.to_lowercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_a_platform_are_one() {
        for (stated, expected) in [
            ("", ""),
            ("iOS", "ios"),
            ("IOS", "ios"),
            ("macOS", "mac"),
            ("Mac", "mac"),
            ("IPad", "ipad"),
            ("iPad", "ipad"),
            ("Unkown", "unknown"),
            ("RESTAPI", "restapi"),
            (" Web ", "web"),
            ("HarmonyOS", "harmonyos"),
        ] {
            assert_eq!(normalise(stated), expected, "{stated:?}");
        }
    }

    #[test]
    fn what_is_longer_than_a_name_is_unknown() {
        assert_eq!(normalise(&"X".repeat(LENGTH_MAX)), "x".repeat(LENGTH_MAX));
        assert_eq!(normalise(&"X".repeat(LENGTH_MAX + 1)), "unknown");
        assert_eq!(normalise(&"界".repeat(5_000)), "unknown");
    }
}
