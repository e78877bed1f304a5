//! Keys as bytes: tuples of parts, big-endian, so that order on disk is order in time.
//!
//! Layout of a part: `u8`/`u16`/`u32`/`u64`/`u128` big-endian; a text is its length (one byte below 255, else 255 and a
//! `u32` big-endian) and then its bytes. A text may hold any character; keys that share their leading parts are
//! neighbours, which is all that a prefix scan needs. Persisted: the layout of a part never changes.

/// A stored key that is not of the table's form.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a stored key is damaged: {0}")]
pub struct KeyError(pub &'static str);

/// One part of a key.
pub trait KeyPart<'a>: Sized {
    /// Appends the part's bytes.
    fn put(&self, out: &mut Vec<u8>);
    /// Takes the part from the front of `bytes`.
    ///
    /// # Errors
    /// [`KeyError`] when `bytes` is too short or not of this part's form.
    fn take(bytes: &mut &'a [u8]) -> Result<Self, KeyError>;
}

/// A whole key: a tuple of parts.
pub trait KeyCodec<'a>: Sized {
    /// Appends the key's bytes.
    fn encode(&self, out: &mut Vec<u8>);
    /// Reads a key; all bytes must be used.
    ///
    /// # Errors
    /// [`KeyError`] when the bytes are not a key of this form.
    fn decode(bytes: &'a [u8]) -> Result<Self, KeyError>;
}

fn split<'a>(bytes: &mut &'a [u8], n: usize) -> Result<&'a [u8], KeyError> {
    let (head, tail) = bytes.split_at_checked(n).ok_or(KeyError("too short"))?;
    *bytes = tail;
    Ok(head)
}

macro_rules! int_part {
    ($($t:ty),*) => {$(
        impl<'a> KeyPart<'a> for $t {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_be_bytes());
            }
            fn take(bytes: &mut &'a [u8]) -> Result<Self, KeyError> {
                let head = split(bytes, size_of::<$t>())?;
                Ok(<$t>::from_be_bytes(head.try_into().map_err(|_| KeyError("too short"))?))
            }
        }
    )*};
}
int_part!(u8, u16, u32, u64, u128);

impl<'a> KeyPart<'a> for &'a [u8] {
    fn put(&self, out: &mut Vec<u8>) {
        match u8::try_from(self.len()) {
            Ok(n) if n < u8::MAX => out.push(n),
            _ => {
                out.push(u8::MAX);
                // Records are at most 2 MiB, so no text in one is longer than a u32 counts.
                out.extend_from_slice(&u32::try_from(self.len()).unwrap_or(u32::MAX).to_be_bytes());
            }
        }
        out.extend_from_slice(self);
    }

    fn take(bytes: &mut &'a [u8]) -> Result<Self, KeyError> {
        let short = u8::take(bytes)?;
        let len = if short == u8::MAX { u32::take(bytes)? as usize } else { usize::from(short) };
        split(bytes, len)
    }
}

impl<'a> KeyPart<'a> for &'a str {
    fn put(&self, out: &mut Vec<u8>) {
        self.as_bytes().put(out);
    }

    fn take(bytes: &mut &'a [u8]) -> Result<Self, KeyError> {
        std::str::from_utf8(<&[u8]>::take(bytes)?).map_err(|_| KeyError("not UTF-8"))
    }
}

/// No key: as a prefix, that of every row.
impl<'a> KeyCodec<'a> for () {
    fn encode(&self, _: &mut Vec<u8>) {}

    fn decode(bytes: &'a [u8]) -> Result<Self, KeyError> {
        if bytes.is_empty() { Ok(()) } else { Err(KeyError("too long")) }
    }
}

macro_rules! tuple_key {
    ($($name:ident $index:tt),+) => {
        impl<'a, $($name: KeyPart<'a>),+> KeyCodec<'a> for ($($name,)+) {
            fn encode(&self, out: &mut Vec<u8>) {
                $(self.$index.put(out);)+
            }
            fn decode(mut bytes: &'a [u8]) -> Result<Self, KeyError> {
                let key = ($($name::take(&mut bytes)?,)+);
                if bytes.is_empty() { Ok(key) } else { Err(KeyError("too long")) }
            }
        }
    };
}
tuple_key!(A 0);
tuple_key!(A 0, B 1);
tuple_key!(A 0, B 1, C 2);
tuple_key!(A 0, B 1, C 2, D 3);
tuple_key!(A 0, B 1, C 2, D 3, E 4);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keys_round_trip(app: u32, room in ".{0,300}", minute: u32, id: u128, kind: u8) {
            let mut bytes = Vec::new();
            let key = (app, room.as_str(), minute, id, kind);
            key.encode(&mut bytes);
            prop_assert_eq!(<(u32, &str, u32, u128, u8)>::decode(&bytes), Ok(key));
        }

        #[test]
        fn different_keys_have_different_bytes(a in ("[\\x00-\\xff]{0,4}", "[\\x00-\\xff]{0,4}"), b in ("[\\x00-\\xff]{0,4}", "[\\x00-\\xff]{0,4}")) {
            let (mut x, mut y) = (Vec::new(), Vec::new());
            (a.0.as_str(), a.1.as_str()).encode(&mut x);
            (b.0.as_str(), b.1.as_str()).encode(&mut y);
            prop_assert_eq!(a == b, x == y);
        }

        #[test]
        fn any_bytes_are_refused_or_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = <(u32, &str, u32)>::decode(&bytes);
            let _ = <(u128, &[u8])>::decode(&bytes);
        }

        #[test]
        fn minutes_of_one_room_lie_in_order(a: u32, b: u32) {
            let (mut x, mut y) = (Vec::new(), Vec::new());
            (7_u32, "room", a).encode(&mut x);
            (7_u32, "room", b).encode(&mut y);
            prop_assert_eq!(a.cmp(&b), x.cmp(&y));
        }
    }
}
