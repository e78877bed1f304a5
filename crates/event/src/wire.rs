//! The protobuf wire format without allocation: [`Writer`] appends to a `Vec<u8>`, [`Reader`] walks over a `&[u8]`.
//!
//! Only what proto3 needs: varint, 64-bit, length-delimited and 32-bit fields. Groups (wire types 3 and 4) are
//! refused: proto3 never writes them. Nothing here knows a message of ours.
//! Source: <https://protobuf.dev/programming-guides/encoding/>.

use std::ops::Range;

/// Why bytes are no protobuf message, or not the one that was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The message ends inside a field.
    #[error("the message ends inside a field")]
    Truncated,
    /// A varint is longer than ten bytes or does not fit 64 bits.
    #[error("a varint does not fit 64 bits")]
    VarintTooLong,
    /// A wire type that proto3 does not write.
    #[error("wire type {0} is not used by proto3")]
    WireType(u8),
    /// A field number outside 1..=536,870,911.
    #[error("{0} is no field number")]
    FieldNumber(u64),
    /// A known field is of another wire type.
    #[error("field {0} is of another wire type")]
    WrongType(u32),
    /// A string field is not UTF-8.
    #[error("field {0} is not UTF-8")]
    Utf8(u32),
}

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LENGTH_DELIMITED: u8 = 2;
const FIXED32: u8 = 5;
const FIELD_NUMBER_MAX: u64 = (1 << 29) - 1;

/// Value of one field, not yet interpreted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// `int32`, `int64`, `uint32`, `uint64`, `sint64`, `bool`, enums.
    Varint(u64),
    /// `fixed64`, `double`.
    Fixed64(u64),
    /// `string`, `bytes`, messages.
    Bytes(&'a [u8]),
    /// `fixed32`, `float`.
    Fixed32(u32),
}

/// One field of a message: its number and its value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Field<'a> {
    /// Field number, 1..=536,870,911.
    pub number: u32,
    /// The value.
    pub value: Value<'a>,
}

impl<'a> Field<'a> {
    /// The value as `uint64` or an enum.
    ///
    /// # Errors
    /// [`WireError::WrongType`] when it is no varint.
    #[inline]
    pub fn uint64(self) -> Result<u64, WireError> {
        match self.value {
            Value::Varint(v) => Ok(v),
            _ => Err(WireError::WrongType(self.number)),
        }
    }

    /// The value as `uint32`; higher bits are cut off, as the format demands.
    ///
    /// # Errors
    /// [`WireError::WrongType`] when it is no varint.
    #[inline]
    pub fn uint32(self) -> Result<u32, WireError> {
        self.uint64().map(low_u32)
    }

    /// The value as `int64`.
    ///
    /// # Errors
    /// [`WireError::WrongType`] when it is no varint.
    #[inline]
    pub fn int64(self) -> Result<i64, WireError> {
        self.uint64().map(u64::cast_signed)
    }

    /// The value as `int32` or an enum; higher bits are cut off, as the format demands.
    ///
    /// # Errors
    /// [`WireError::WrongType`] when it is no varint.
    #[inline]
    pub fn int32(self) -> Result<i32, WireError> {
        self.uint64().map(|v| low_u32(v).cast_signed())
    }

    /// The value as zigzag `sint64`.
    ///
    /// # Errors
    /// [`WireError::WrongType`] when it is no varint.
    #[inline]
    pub fn sint64(self) -> Result<i64, WireError> {
        self.uint64().map(unzigzag)
    }

    /// The value as `bool`.
    ///
    /// # Errors
    /// [`WireError::WrongType`] when it is no varint.
    #[inline]
    pub fn bool(self) -> Result<bool, WireError> {
        self.uint64().map(|v| v != 0)
    }

    /// The value as `fixed64`.
    ///
    /// # Errors
    /// [`WireError::WrongType`] when it is not of 64 bits.
    #[inline]
    pub fn fixed64(self) -> Result<u64, WireError> {
        match self.value {
            Value::Fixed64(v) => Ok(v),
            _ => Err(WireError::WrongType(self.number)),
        }
    }

    /// The value as `double`.
    ///
    /// # Errors
    /// [`WireError::WrongType`] when it is not of 64 bits.
    #[inline]
    pub fn double(self) -> Result<f64, WireError> {
        self.fixed64().map(f64::from_bits)
    }

    /// The value as `bytes` or the bytes of a message.
    ///
    /// # Errors
    /// [`WireError::WrongType`] when it is not length-delimited.
    #[inline]
    pub fn bytes(self) -> Result<&'a [u8], WireError> {
        match self.value {
            Value::Bytes(v) => Ok(v),
            _ => Err(WireError::WrongType(self.number)),
        }
    }

    /// The value as `string`.
    ///
    /// # Errors
    /// [`WireError::WrongType`] when it is not length-delimited, [`WireError::Utf8`] when it is not UTF-8.
    #[inline]
    pub fn string(self) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| WireError::Utf8(self.number))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the format defines 32-bit fields as the low bits of the varint")]
const fn low_u32(v: u64) -> u32 {
    v as u32
}

const fn unzigzag(v: u64) -> i64 {
    (v >> 1).cast_signed() ^ -(v & 1).cast_signed()
}

/// Walks over the fields of one message, in their order.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Reads the fields of the message in `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes read so far.
    #[must_use]
    pub const fn position(&self) -> usize {
        self.at
    }

    /// The next field, or `None` at the end.
    ///
    /// # Errors
    /// A [`WireError`] when the bytes are no protobuf message; reading on after one makes no sense.
    #[inline]
    pub fn next_field(&mut self) -> Result<Option<Field<'a>>, WireError> {
        self.next_tag()?.map(|tag| self.field(tag)).transpose()
    }

    /// The next tag: field number times 8 plus wire type; `None` at the end. Its value is to be read or skipped next.
    #[inline]
    pub(crate) fn next_tag(&mut self) -> Result<Option<u32>, WireError> {
        if self.at >= self.bytes.len() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = tag >> 3;
        if number == 0 || number > FIELD_NUMBER_MAX {
            return Err(WireError::FieldNumber(number));
        }
        Ok(Some(low_u32(tag)))
    }

    /// The value of a tag, whatever its type.
    #[inline]
    pub(crate) fn field(&mut self, tag: u32) -> Result<Field<'a>, WireError> {
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(self.fixed64()?),
            2 => Value::Bytes(self.bytes()?),
            5 => Value::Fixed32(u32::from_le_bytes(self.array()?)),
            // Wire types 3, 4, 6 and 7.
            other => return Err(WireError::WireType(other.to_le_bytes()[0])),
        };
        Ok(Field { number: tag >> 3, value })
    }

    /// Skips the value of a tag that is not known.
    ///
    /// # Errors
    /// [`WireError::WrongType`] when the field's number is one of `known`: then it is of another type than it should
    /// be.
    #[cold]
    pub(crate) fn skip(&mut self, tag: u32, known: &[u32]) -> Result<(), WireError> {
        let field = self.field(tag)?;
        if known.contains(&field.number) { Err(WireError::WrongType(field.number)) } else { Ok(()) }
    }

    #[inline]
    pub(crate) fn uint64(&mut self) -> Result<u64, WireError> {
        self.varint()
    }

    #[inline]
    pub(crate) fn uint32(&mut self) -> Result<u32, WireError> {
        self.varint().map(low_u32)
    }

    #[inline]
    pub(crate) fn int64(&mut self) -> Result<i64, WireError> {
        self.varint().map(u64::cast_signed)
    }

    #[inline]
    pub(crate) fn int32(&mut self) -> Result<i32, WireError> {
        self.varint().map(|v| low_u32(v).cast_signed())
    }

    #[inline]
    pub(crate) fn sint64(&mut self) -> Result<i64, WireError> {
        self.varint().map(unzigzag)
    }

    #[inline]
    pub(crate) fn bool(&mut self) -> Result<bool, WireError> {
        self.varint().map(|v| v != 0)
    }

    #[inline]
    pub(crate) fn fixed64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }

    #[inline]
    pub(crate) fn double(&mut self) -> Result<f64, WireError> {
        self.fixed64().map(f64::from_bits)
    }

    #[inline]
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let length = usize::try_from(self.varint()?).map_err(|_| WireError::Truncated)?;
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let bytes = rest.get(..length).ok_or(WireError::Truncated)?;
        self.at += length;
        Ok(bytes)
    }

    /// A string; `tag` is for the error.
    #[inline]
    pub(crate) fn string(&mut self, tag: u32) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| WireError::Utf8(tag >> 3))
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (array, _) = self.bytes[self.at..].split_first_chunk().ok_or(WireError::Truncated)?;
        self.at += N;
        Ok(*array)
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, WireError> {
        match self.bytes.get(self.at) {
            Some(&byte) if byte < 0x80 => {
                self.at += 1;
                Ok(u64::from(byte))
            }
            Some(_) => self.long_varint(),
            None => Err(WireError::Truncated),
        }
    }

    fn long_varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0;
        for (i, &byte) in self.bytes[self.at..].iter().take(10).enumerate() {
            // The tenth byte holds the last of the 64 bits.
            if i == 9 && byte > 1 {
                return Err(WireError::VarintTooLong);
            }
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte < 0x80 {
                self.at += i + 1;
                return Ok(value);
            }
        }
        Err(if self.bytes.len() - self.at < 10 { WireError::Truncated } else { WireError::VarintTooLong })
    }
}

/// Appends fields to a buffer.
///
/// Methods without `opt_` leave out the default value of proto3 (0, false, empty), as every implementation does.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    /// Appends to `out`.
    pub const fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    /// A `uint32`, `uint64` or enum field.
    #[inline]
    pub fn uint64(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.opt_uint64(field, Some(value));
        }
    }

    /// A field with presence: written when there is a value, 0 included.
    #[inline]
    pub fn opt_uint64(&mut self, field: u32, value: Option<u64>) {
        if let Some(value) = value {
            self.tag(field, VARINT);
            self.varint(value);
        }
    }

    /// An `int32` or `int64` field. Negative values take ten bytes.
    #[inline]
    pub fn int64(&mut self, field: u32, value: i64) {
        self.uint64(field, value.cast_unsigned());
    }

    /// An `int64` field with presence.
    #[inline]
    pub fn opt_int64(&mut self, field: u32, value: Option<i64>) {
        self.opt_uint64(field, value.map(i64::cast_unsigned));
    }

    /// A zigzag `sint64` field with presence.
    #[inline]
    pub fn opt_sint64(&mut self, field: u32, value: Option<i64>) {
        self.opt_uint64(field, value.map(|v| ((v << 1) ^ (v >> 63)).cast_unsigned()));
    }

    /// A `bool` field.
    #[inline]
    pub fn bool(&mut self, field: u32, value: bool) {
        self.uint64(field, u64::from(value));
    }

    /// A `fixed64` field.
    #[inline]
    pub fn fixed64(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.tag(field, FIXED64);
            self.out.extend_from_slice(&value.to_le_bytes());
        }
    }

    /// A `double` field.
    #[inline]
    pub fn double(&mut self, field: u32, value: f64) {
        self.fixed64(field, value.to_bits());
    }

    /// A `string` field.
    #[inline]
    pub fn string(&mut self, field: u32, value: &str) {
        self.bytes(field, value.as_bytes());
    }

    /// A `string` field with presence, or an item of a repeated one: written when empty too.
    #[inline]
    pub fn opt_string(&mut self, field: u32, value: Option<&str>) {
        if let Some(value) = value {
            self.item(field, value.as_bytes());
        }
    }

    /// A `bytes` field.
    #[inline]
    pub fn bytes(&mut self, field: u32, value: &[u8]) {
        if !value.is_empty() {
            self.item(field, value);
        }
    }

    /// A length-delimited field that is written when empty too: an item of a repeated field, or an encoded message.
    #[inline]
    pub fn item(&mut self, field: u32, value: &[u8]) {
        self.tag(field, LENGTH_DELIMITED);
        self.varint(value.len() as u64);
        self.out.extend_from_slice(value);
    }

    /// A field as another message had it.
    pub fn field(&mut self, field: Field<'_>) {
        match field.value {
            Value::Varint(v) => self.opt_uint64(field.number, Some(v)),
            Value::Bytes(v) => self.item(field.number, v),
            Value::Fixed64(v) => {
                self.tag(field.number, FIXED64);
                self.out.extend_from_slice(&v.to_le_bytes());
            }
            Value::Fixed32(v) => {
                self.tag(field.number, FIXED32);
                self.out.extend_from_slice(&v.to_le_bytes());
            }
        }
    }

    /// A nested message; written when empty too, because presence of a message has a meaning.
    #[inline]
    pub fn message<R>(&mut self, field: u32, write: impl FnOnce(&mut Writer<'_>) -> R) -> R {
        self.tag(field, LENGTH_DELIMITED);
        // One byte is the length of most messages; longer ones are moved once they are known.
        let prefix = self.out.len();
        self.out.push(0);
        let result = write(&mut Writer { out: self.out });
        let content = prefix + 1..self.out.len();
        let (length, bytes) = encode_varint((content.end - content.start) as u64);
        self.place_length(prefix, content, &length[..bytes]);
        result
    }

    fn place_length(&mut self, prefix: usize, content: Range<usize>, length: &[u8]) {
        if length.len() > 1 {
            let end = content.end;
            self.out.resize(end + length.len() - 1, 0);
            self.out.copy_within(content, prefix + length.len());
        }
        self.out[prefix..prefix + length.len()].copy_from_slice(length);
    }

    #[inline]
    fn tag(&mut self, field: u32, wire_type: u8) {
        debug_assert!(field >= 1 && u64::from(field) <= FIELD_NUMBER_MAX, "field numbers are constants");
        self.varint(u64::from(field) << 3 | u64::from(wire_type));
    }

    #[inline]
    fn varint(&mut self, value: u64) {
        if value < 0x80 {
            self.out.push(value.to_le_bytes()[0]);
        } else {
            let (bytes, length) = encode_varint(value);
            self.out.extend_from_slice(&bytes[..length]);
        }
    }
}

#[inline]
fn encode_varint(mut value: u64) -> ([u8; 10], usize) {
    let mut bytes = [0; 10];
    let mut at = 0;
    while value >= 0x80 {
        bytes[at] = value.to_le_bytes()[0] | 0x80;
        value >>= 7;
        at += 1;
    }
    bytes[at] = value.to_le_bytes()[0];
    (bytes, at + 1)
}
