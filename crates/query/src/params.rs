//! Parameters: the query string of a request, checked against what its path takes.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use barrage_event::Position;

use crate::TIME_MS_MAX;
use crate::error::ApiError;
use crate::options::{LIMIT_DEFAULT, LIMIT_MAX, POSITIONS_MAX, QUERY_BYTES_MAX};

/// The parameters of one request; every name is known and there once.
#[derive(Debug, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    /// Reads a query string. Unknown names are refused: a misspelt one would otherwise silently answer something else.
    pub(crate) fn parse(query: &str, allowed: &[&str]) -> Result<Self, ApiError> {
        if query.len() > QUERY_BYTES_MAX {
            return Err(ApiError::parameter(
                "?",
                "the query string is too long",
                format!("at most {QUERY_BYTES_MAX} bytes"),
            ));
        }
        let mut found: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if !allowed.contains(&name.as_ref()) {
                let name: String = name.chars().take(64).collect();
                let hint = if allowed.is_empty() {
                    "this path takes no parameters".to_owned()
                } else {
                    format!("this path takes {}", allowed.join(", "))
                };
                return Err(ApiError::parameter(&name, "is not known here", hint));
            }
            if found.iter().any(|(n, _)| *n == name) {
                return Err(ApiError::parameter(&name, "is there twice", "give it once"));
            }
            found.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(found))
    }

    /// The text of a parameter.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// A number in a range.
    pub(crate) fn number<T>(&self, name: &str, range: &RangeInclusive<T>) -> Result<Option<T>, ApiError>
    where
        T: FromStr + PartialOrd + Display,
    {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.parse::<T>() {
            Ok(value) if range.contains(&value) => Ok(Some(value)),
            _ => {
                let hint = format!("a whole number from {} to {}", range.start(), range.end());
                Err(ApiError::parameter(name, "is not a number in range", hint))
            }
        }
    }

    /// A time in ms since the epoch.
    pub(crate) fn time(&self, name: &str) -> Result<Option<i64>, ApiError> {
        self.number(name, &(0..=TIME_MS_MAX))
    }

    /// `limit=`.
    pub(crate) fn limit(&self) -> Result<usize, ApiError> {
        Ok(self.number("limit", &(1..=LIMIT_MAX))?.unwrap_or(LIMIT_DEFAULT))
    }

    /// `app=`.
    pub(crate) fn app(&self) -> Result<Option<u32>, ApiError> {
        self.number("app", &(1..=u32::MAX))
    }

    /// `at_least=`.
    pub(crate) fn at_least(&self) -> Result<Vec<Position>, ApiError> {
        let Some(text) = self.text("at_least") else { return Ok(Vec::new()) };
        let positions: Result<Vec<Position>, _> = text.split(',').take(POSITIONS_MAX + 1).map(str::parse).collect();
        let hint =
            "one or several positions with commas between, as answers of writes hold them: room/3@1234,user/0@17";
        match positions {
            Ok(positions) if positions.len() <= POSITIONS_MAX => Ok(positions),
            Ok(_) => Err(ApiError::parameter("at_least", format!("holds more than {POSITIONS_MAX} positions"), hint)),
            Err(error) => Err(ApiError::parameter("at_least", error, hint)),
        }
    }

    /// One of a list of words, the first of which is the default.
    pub(crate) fn word(&self, name: &str, words: &[&'static str]) -> Result<Option<&'static str>, ApiError> {
        let Some(text) = self.text(name) else { return Ok(words.first().copied()) };
        words.iter().find(|w| **w == text).map(|w| Some(*w)).ok_or_else(|| {
            let hint =
                if words.is_empty() { "nothing here".to_owned() } else { format!("one of {}", words.join(", ")) };
            ApiError::parameter(name, "is none of the words it may be", hint)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: &[&str] = &["limit", "app", "at", "at_least", "sort", "from"];

    #[test]
    fn every_bad_parameter_is_refused_by_its_name() {
        let table: [(&str, &str); 16] = [
            ("limits=1", "limits"),
            ("limit=1&limit=2", "limit"),
            ("limit=0", "limit"),
            ("limit=1001", "limit"),
            ("limit=-1", "limit"),
            ("limit=1.5", "limit"),
            ("limit=", "limit"),
            ("limit=99999999999999999999999", "limit"),
            ("app=0", "app"),
            ("app=4294967296", "app"),
            ("at=-1", "at"),
            ("at=253402300800000", "at"),
            ("at_least=room/0", "at_least"),
            ("at_least=room/0@1,", "at_least"),
            ("sort=beauty", "sort"),
            ("a%20b=1", "a b"),
        ];
        for (query, name) in table {
            let error = Params::parse(query, ALLOWED).and_then(|p| {
                p.limit()?;
                p.app()?;
                p.time("at")?;
                p.at_least()?;
                p.word("sort", &["messages", "likes"])?;
                Ok(())
            });
            let error = error.expect_err(query);
            assert!(error.message.starts_with(&format!("parameter `{name}`: ")), "{query}: {error}");
            assert!(!error.hint.is_empty(), "{query}");
        }
    }

    #[test]
    fn good_parameters_are_read_and_absent_ones_have_defaults() {
        let params = Params::parse("limit=1000&app=1400000000&at=0&at_least=room/3@1,user%2F0%402&sort=likes", ALLOWED);
        let params = params.expect("good");
        assert_eq!(params.limit(), Ok(1_000));
        assert_eq!(params.app(), Ok(Some(1_400_000_000)));
        assert_eq!(params.time("at"), Ok(Some(0)));
        assert_eq!(params.at_least().map(|p| p.len()), Ok(2));
        assert_eq!(params.word("sort", &["messages", "likes"]), Ok(Some("likes")));
        let params = Params::parse("", ALLOWED).expect("good");
        assert_eq!((params.limit(), params.app(), params.time("at")), (Ok(LIMIT_DEFAULT), Ok(None), Ok(None)));
        assert_eq!(params.word("sort", &["messages", "likes"]), Ok(Some("messages")));
        assert_eq!(params.at_least(), Ok(Vec::new()));
    }

    #[test]
    fn too_much_is_refused() {
        let long = format!("sort={}", "x".repeat(QUERY_BYTES_MAX));
        assert!(Params::parse(&long, ALLOWED).is_err());
        let many = format!("at_least={}", vec!["room/0@1"; POSITIONS_MAX + 1].join(","));
        let params = Params::parse(&many, ALLOWED).expect("short enough");
        assert!(params.at_least().is_err());
    }
}
