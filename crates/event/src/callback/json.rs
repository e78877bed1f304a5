//! Reading JSON that may be anything: values of the wrong type read as absent, never as an error.
//!
//! Strings without escapes are borrowed. Two things that are valid JSON but not readable as a value, half a surrogate
//! pair and a number beyond all floats, are mended by [`repair`](super::repair::repair) when they come.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// What a field is made from; each way has a default, so that a field of another type is absent.
pub(super) trait Scalar<'a>: Default {
    fn from_text(_: Cow<'a, str>) -> Self {
        Self::default()
    }

    fn from_integer(_: i128) -> Self {
        Self::default()
    }

    fn from_real(_: f64) -> Self {
        Self::default()
    }

    fn from_bool(_: bool) -> Self {
        Self::default()
    }
}

/// Reads a [`Scalar`].
pub(super) struct ScalarVisitor<T>(PhantomData<T>);

impl<T> ScalarVisitor<T> {
    pub(super) const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<'de, T: Scalar<'de>> Visitor<'de> for ScalarVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<T, E> {
        Ok(T::from_text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<T, E> {
        Ok(T::from_text(Cow::Owned(text.to_owned())))
    }

    fn visit_u64<E>(self, number: u64) -> Result<T, E> {
        Ok(T::from_integer(i128::from(number)))
    }

    fn visit_i64<E>(self, number: i64) -> Result<T, E> {
        Ok(T::from_integer(i128::from(number)))
    }

    fn visit_f64<E>(self, number: f64) -> Result<T, E> {
        Ok(T::from_real(number))
    }

    fn visit_bool<E>(self, value: bool) -> Result<T, E> {
        Ok(T::from_bool(value))
    }

    fn visit_unit<E>(self) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<T, A::Error> {
        skip_seq(seq).map(|()| T::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        skip_map(map).map(|()| T::default())
    }
}

fn skip_seq<'de, A: SeqAccess<'de>>(mut seq: A) -> Result<(), A::Error> {
    while seq.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

fn skip_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<(), A::Error> {
    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(())
}

macro_rules! deserialize_scalar {
    ($($type:ty),*) => {$(
        impl<'de: 'a, 'a> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(ScalarVisitor::new())
            }
        }
    )*};
}
deserialize_scalar!(Text<'a>, Label<'a>, OptionalText<'a>);

macro_rules! deserialize_number {
    ($($type:ty),*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(ScalarVisitor::new())
            }
        }
    )*};
}
deserialize_number!(Number, Real);

/// A JSON string; empty for anything else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

impl<'a> Scalar<'a> for Text<'a> {
    fn from_text(text: Cow<'a, str>) -> Self {
        Self(text)
    }
}

impl std::ops::Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// A JSON string, or the digits of a number: some fields are declared both ways.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Label<'a>(pub(super) Cow<'a, str>);

impl<'a> Scalar<'a> for Label<'a> {
    fn from_text(text: Cow<'a, str>) -> Self {
        Self(text)
    }

    fn from_integer(number: i128) -> Self {
        Self(Cow::Owned(number.to_string()))
    }
}

/// A string when it is there at all: tells an empty string from an absent one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct OptionalText<'a>(pub(super) Option<Cow<'a, str>>);

impl<'a> Scalar<'a> for OptionalText<'a> {
    fn from_text(text: Cow<'a, str>) -> Self {
        Self(Some(text))
    }
}

/// An integer, given as a number or as a quoted string; absent for anything else, fractions and what does not fit 64
/// bits included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Number(Option<i128>);

impl Number {
    /// As `T`; `None` when it is absent or does not fit.
    pub(super) fn get<T: TryFrom<i128>>(self) -> Option<T> {
        self.0.and_then(|n| n.try_into().ok())
    }

    /// Whether it is 1, or `true`.
    pub(super) fn is_one(self) -> bool {
        self.0 == Some(1)
    }
}

impl Scalar<'_> for Number {
    fn from_text(text: Cow<'_, str>) -> Self {
        let text = text.trim();
        // What Rust takes as a float beyond JSON (`inf`, `nan`) does not begin with a digit.
        let numeric = text.starts_with(|c: char| c.is_ascii_digit() || c == '-');
        match text.parse() {
            Ok(number) if numeric => Self(Some(number)),
            _ if numeric => text.parse().map_or_else(|_| Self::default(), Self::from_real),
            _ => Self::default(),
        }
    }

    fn from_integer(number: i128) -> Self {
        Self(Some(number))
    }

    /// A number such as `5.0` or `1e3`, when it is whole and small enough to be exact.
    fn from_real(number: f64) -> Self {
        const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
        if number.fract() != 0.0 || number.abs() > EXACT_MAX {
            return Self::default();
        }
        #[expect(clippy::cast_possible_truncation, reason = "whole and at most 2^53")]
        let whole = number as i64;
        Self(Some(i128::from(whole)))
    }

    fn from_bool(value: bool) -> Self {
        Self(Some(i128::from(value)))
    }
}

/// A number with a fraction; 0 for anything else.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Real(pub(super) f64);

impl Scalar<'_> for Real {
    fn from_text(text: Cow<'_, str>) -> Self {
        Self(text.trim().parse().ok().filter(|n: &f64| n.is_finite()).unwrap_or_default())
    }

    #[expect(clippy::cast_precision_loss, reason = "degrees are small")]
    fn from_integer(number: i128) -> Self {
        Self(number as f64)
    }

    fn from_real(number: f64) -> Self {
        Self(number)
    }
}

/// The methods of a visitor for values that are neither object nor array.
macro_rules! other_values_are {
    ($value:expr) => {
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
            Ok($value)
        }
    };
}

/// A JSON object read as `T`; the default of `T` for anything else.
#[derive(Debug, Clone, Default)]
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de> + Default> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        skip_seq(seq).map(|()| Object::default())
    }

    other_values_are!(Object::default());
}

/// A JSON array; empty for anything else.
#[derive(Debug, Clone)]
pub(super) struct List<T>(pub(super) Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListVisitor(PhantomData))
    }
}

struct ListVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
    type Value = List<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        skip_map(map).map(|()| List::default())
    }

    other_values_are!(List::default());
}

/// A text, or an object that holds it under the name that `T` reads: `"user"` or `{"Member_Account": "user"}`.
#[derive(Debug, Default)]
pub(super) struct TextOr<'a, T>(pub(super) Text<'a>, PhantomData<T>);

impl<'de: 'a, 'a, T: Deserialize<'de> + Default + Into<Text<'a>>> Deserialize<'de> for TextOr<'a, T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrVisitor::<T>(PhantomData)).map(|text| Self(text.into(), PhantomData))
    }
}

struct TextOrVisitor<T>(PhantomData<T>);

/// What [`TextOrVisitor`] saw.
pub(super) enum Either<'a, T> {
    Text(Text<'a>),
    Object(T),
}

impl<'a, T: Into<Text<'a>>> From<Either<'a, T>> for Text<'a> {
    fn from(either: Either<'a, T>) -> Self {
        match either {
            Either::Text(text) => text,
            Either::Object(object) => object.into(),
        }
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for TextOrVisitor<T> {
    type Value = Either<'de, T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Either::Object)
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Either::Text(Text(Cow::Borrowed(text))))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Either::Text(Text(Cow::Owned(text.to_owned()))))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        skip_seq(seq).map(|()| Either::Text(Text::default()))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Either::Text(Text::default()))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Either::Text(Text::default()))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Either::Text(Text::default()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Either::Text(Text::default()))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Either::Text(Text::default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{prop_assert_eq, proptest};

    fn read<'a, T: Deserialize<'a>>(raw: &'a str) -> T {
        serde_json::from_str(raw).unwrap_or_else(|error| panic!("{raw}: {error}"))
    }

    #[test]
    fn numbers_may_be_quoted_and_what_does_not_fit_is_absent() {
        let table: [(&str, Option<i64>); 23] = [
            ("0", Some(0)),
            ("-0", Some(0)),
            ("1735689600204", Some(1_735_689_600_204)),
            ("\"1735689600204\"", Some(1_735_689_600_204)),
            ("\" 7 \"", Some(7)),
            ("\"-7\"", Some(-7)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("99999999999999999999999", None),
            ("\"1e999\"", None),
            ("1.5", None),
            ("\"1.5\"", None),
            ("5.0", Some(5)),
            ("1e3", Some(1000)),
            ("\"\"", None),
            ("\"nan\"", None),
            ("\"inf\"", None),
            ("null", None),
            ("true", Some(1)),
            ("[1]", None),
            ("{\"a\":1}", None),
            ("\"1 2\"", None),
        ];
        for (raw, expected) in table {
            assert_eq!(read::<Number>(raw).get::<i64>(), expected, "{raw}");
        }
    }

    #[test]
    fn values_of_another_type_read_as_absent() {
        for raw in ["null", "1", "-1", "1.5", "true", "\"x\"", "\"\\n\"", "[1, [2], {\"a\": 3}]", "{\"a\": [1]}"] {
            if !raw.starts_with('{') {
                assert_eq!(read::<Object<Option<IgnoredAny>>>(raw).0, None, "{raw}");
            }
            if !raw.starts_with('[') {
                assert!(read::<List<IgnoredAny>>(raw).0.is_empty(), "{raw}");
            }
            if !raw.starts_with('"') {
                assert_eq!(&*read::<Text<'_>>(raw), "", "{raw}");
                assert_eq!(read::<OptionalText<'_>>(raw).0, None, "{raw}");
            }
        }
    }

    proptest! {
        #[test]
        fn integers_of_64_bits_are_read_exactly(number: i64, quoted: bool) {
            let raw = if quoted { format!("\"{number}\"") } else { number.to_string() };
            prop_assert_eq!(read::<Number>(&raw).get::<i64>(), Some(number));
        }
    }
}
