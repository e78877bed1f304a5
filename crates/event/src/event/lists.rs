//! Repeated fields of a view, walked over in the record's bytes.

use std::fmt;

use super::elements::ImageInfo;
use super::{AccountMove, KeyValue, RecalledMessage};
use crate::wire::Reader;

/// The part of a message that holds all items of one repeated field, other fields perhaps between them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Repeated<'a> {
    /// The message from the first item's tag on.
    rest: &'a [u8],
    /// How much of it is needed to come to the last item's end.
    length: usize,
    field: u32,
}

impl<'a> Repeated<'a> {
    /// Takes in the item that stands at `start..end` of `message`; items come in order.
    #[inline]
    pub(crate) fn extend(&mut self, message: &'a [u8], field: u32, start: usize, end: usize) {
        if self.field == 0 {
            self.field = field;
            self.rest = &message[start..];
        }
        self.length = end - (message.len() - self.rest.len());
    }

    /// The items' bytes, in order.
    pub(crate) fn items(self) -> impl Iterator<Item = &'a [u8]> + Clone {
        let mut reader = Reader::new(&self.rest[..self.length]);
        std::iter::from_fn(move || {
            loop {
                // The whole message was read once when the view was made, so there is no error to lose here.
                let field = reader.next_field().ok().flatten()?;
                if field.number == self.field {
                    return field.bytes().ok();
                }
            }
        })
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.field == 0
    }
}

macro_rules! list {
    ($(#[$doc:meta])* $name:ident, $item:ty, $decode:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default)]
        pub struct $name<'a>(pub(crate) Repeated<'a>);

        impl<'a> $name<'a> {
            /// Walks over the items, in order.
            pub fn iter(self) -> impl Iterator<Item = $item> + Clone {
                self.0.items().filter_map($decode)
            }

            /// Whether there is none.
            #[must_use]
            pub const fn is_empty(self) -> bool {
                self.0.is_empty()
            }
        }

        impl fmt::Debug for $name<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_list().entries(self.iter()).finish()
            }
        }

        impl PartialEq for $name<'_> {
            fn eq(&self, other: &Self) -> bool {
                self.iter().eq(other.iter())
            }
        }
    };
}

list!(
    /// A list of strings.
    Strings,
    &'a str,
    |bytes| std::str::from_utf8(bytes).ok()
);
list!(
    /// Attributes of a group.
    KeyValues,
    KeyValue<'a>,
    |bytes| KeyValue::decode(bytes).ok()
);
list!(
    /// An account's goings and returns, in order of time.
    AccountMoveList,
    AccountMove,
    |bytes| AccountMove::decode(bytes).ok()
);
list!(
    /// Recalled messages.
    RecalledMessages,
    RecalledMessage<'a>,
    |bytes| RecalledMessage::decode(bytes).ok()
);
list!(
    /// The sizes of one picture.
    Images,
    ImageInfo<'a>,
    |bytes| ImageInfo::decode(bytes).ok()
);
