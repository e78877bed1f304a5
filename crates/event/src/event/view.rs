//! A macro that makes a borrowed view from a list of fields: the struct and its decoder.
//!
//! The decoder matches on whole tags (number and wire type together), which is a good deal faster than reading a
//! field of any type and asking then.

/// Declares a view: each field with its type, its number in `event.proto` and how its value is read.
macro_rules! view {
    ($(#[$doc:meta])* pub struct $name:ident $(<$life:lifetime>)? {
        $($(#[$field_doc:meta])* $field:ident: $type:ty = $number:literal $kind:ident,)*
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq)]
        pub struct $name $(<$life>)? {
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl $(<$life>)? $name $(<$life>)? {
            /// Reads the message; unknown fields are skipped.
            pub(crate) fn decode(bytes: &$($life)? [u8]) -> Result<Self, $crate::wire::WireError> {
                let mut view = Self::default();
                let mut reader = $crate::wire::Reader::new(bytes);
                loop {
                    // Only lists use it.
                    let _start = reader.position();
                    let Some(tag) = reader.next_tag()? else { return Ok(view) };
                    $(
                        if tag == $crate::event::view::tag!($number $kind) {
                            $crate::event::view::read!($kind, view.$field, reader, bytes, tag, _start);
                            continue;
                        }
                    )*
                    reader.skip(tag, &[$($number),*])?;
                }
            }
        }
    };
}

/// The tag of a field: its number times 8 plus the wire type of its kind.
macro_rules! tag {
    ($number:literal double) => {
        $number << 3 | 1
    };
    ($number:literal fixed64) => {
        $number << 3 | 1
    };
    ($number:literal action) => {
        $number << 3
    };
    ($number:literal cause) => {
        $number << 3
    };
    ($number:literal kind) => {
        $number << 3
    };
    ($number:literal opt_uint32) => {
        $number << 3
    };
    ($number:literal opt_uint64) => {
        $number << 3
    };
    ($number:literal opt_int64) => {
        $number << 3
    };
    ($number:literal uint64) => {
        $number << 3
    };
    ($number:literal uint32) => {
        $number << 3
    };
    ($number:literal int64) => {
        $number << 3
    };
    ($number:literal int32) => {
        $number << 3
    };
    ($number:literal bool) => {
        $number << 3
    };
    // Strings, messages and lists of them.
    ($number:literal $kind:ident) => {
        $number << 3 | 2
    };
}

/// Reads one value as `$kind` into `$target`.
macro_rules! read {
    (string, $target:expr, $reader:ident, $bytes:ident, $tag:ident, $start:ident) => {
        $target = $reader.string($tag)?
    };
    (opt_string, $target:expr, $reader:ident, $bytes:ident, $tag:ident, $start:ident) => {
        $target = Some($reader.string($tag)?)
    };
    (opt_uint32, $target:expr, $reader:ident, $bytes:ident, $tag:ident, $start:ident) => {
        $target = Some($reader.uint32()?)
    };
    (opt_uint64, $target:expr, $reader:ident, $bytes:ident, $tag:ident, $start:ident) => {
        $target = Some($reader.uint64()?)
    };
    (opt_int64, $target:expr, $reader:ident, $bytes:ident, $tag:ident, $start:ident) => {
        $target = Some($reader.int64()?)
    };
    (action, $target:expr, $reader:ident, $bytes:ident, $tag:ident, $start:ident) => {
        $target = $crate::event::Action::from_wire($reader.int32()?)
    };
    (cause, $target:expr, $reader:ident, $bytes:ident, $tag:ident, $start:ident) => {
        $target = $crate::event::Cause::from_wire($reader.int32()?)
    };
    (kind, $target:expr, $reader:ident, $bytes:ident, $tag:ident, $start:ident) => {
        $target = $crate::event::MessageKind::from_wire($reader.int32()?)
    };
    (custom, $target:expr, $reader:ident, $bytes:ident, $tag:ident, $start:ident) => {
        $target = Some($crate::event::CustomFields::decode($reader.bytes()?)?)
    };
    // Lists are checked once, here, so that walking over them cannot fail; only elements are left for later.
    (elements, $target:expr, $reader:ident, $bytes:ident, $tag:ident, $start:ident) => {{
        $reader.bytes()?;
        $target.0.extend($bytes, $tag >> 3, $start, $reader.position());
    }};
    (strings, $target:expr, $reader:ident, $bytes:ident, $tag:ident, $start:ident) => {{
        $reader.string($tag)?;
        $target.0.extend($bytes, $tag >> 3, $start, $reader.position());
    }};
    (key_values, $target:expr, $reader:ident, $bytes:ident, $tag:ident, $start:ident) => {{
        $crate::event::KeyValue::decode($reader.bytes()?)?;
        $target.0.extend($bytes, $tag >> 3, $start, $reader.position());
    }};
    (account_moves, $target:expr, $reader:ident, $bytes:ident, $tag:ident, $start:ident) => {{
        $crate::event::AccountMove::decode($reader.bytes()?)?;
        $target.0.extend($bytes, $tag >> 3, $start, $reader.position());
    }};
    (recalled, $target:expr, $reader:ident, $bytes:ident, $tag:ident, $start:ident) => {{
        $crate::event::RecalledMessage::decode($reader.bytes()?)?;
        $target.0.extend($bytes, $tag >> 3, $start, $reader.position());
    }};
    (images, $target:expr, $reader:ident, $bytes:ident, $tag:ident, $start:ident) => {{
        $crate::event::ImageInfo::decode($reader.bytes()?)?;
        $target.0.extend($bytes, $tag >> 3, $start, $reader.position());
    }};
    // Everything else is the reader's method of that name.
    ($kind:ident, $target:expr, $reader:ident, $bytes:ident, $tag:ident, $start:ident) => {
        $target = $reader.$kind()?
    };
}

pub(crate) use {read, tag, view};
