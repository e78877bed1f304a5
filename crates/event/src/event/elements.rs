//! Elements of a message, read one by one when asked for.

use std::fmt;

pub use super::lists::Images;
use super::lists::Repeated;
use super::view::view;
use crate::wire::{Reader, WireError};

/// The elements of a message, in its order. An element is read when the iterator comes to it.
#[derive(Clone, Copy, Default)]
pub struct Elements<'a>(pub(crate) Repeated<'a>);

impl<'a> Elements<'a> {
    /// Walks over the elements. An item is an error when its bytes are no element; the others are not affected.
    pub fn iter(self) -> impl Iterator<Item = Result<ElementView<'a>, WireError>> + Clone {
        self.0.items().map(ElementView::decode)
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Elements<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl PartialEq for Elements<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

/// One element of a message.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ElementView<'a> {
    /// `TIMTextElem`: its text.
    Text(&'a str),
    /// `TIMCustomElem`.
    Custom(CustomElement<'a>),
    /// `TIMFaceElem`.
    Face(FaceElement<'a>),
    /// `TIMLocationElem`.
    Location(LocationElement<'a>),
    /// `TIMSoundElem`.
    Sound(SoundElement<'a>),
    /// `TIMImageElem`.
    Image(ImageElement<'a>),
    /// `TIMFileElem`.
    File(FileElement<'a>),
    /// `TIMVideoFileElem`.
    Video(VideoElement<'a>),
    /// Any other element.
    Other(OtherElement<'a>),
    /// An element of a newer version.
    Unknown,
}

impl<'a> ElementView<'a> {
    fn decode(bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut element = ElementView::Unknown;
        let mut reader = Reader::new(bytes);
        while let Some(field) = reader.next_field()? {
            element = match field.number {
                1 => ElementView::Text(read_text(field.bytes()?)?),
                2 => ElementView::Custom(CustomElement::decode(field.bytes()?)?),
                3 => ElementView::Face(FaceElement::decode(field.bytes()?)?),
                4 => ElementView::Location(LocationElement::decode(field.bytes()?)?),
                5 => ElementView::Sound(SoundElement::decode(field.bytes()?)?),
                6 => ElementView::Image(ImageElement::decode(field.bytes()?)?),
                7 => ElementView::File(FileElement::decode(field.bytes()?)?),
                8 => ElementView::Video(VideoElement::decode(field.bytes()?)?),
                9 => ElementView::Other(OtherElement::decode(field.bytes()?)?),
                _ => continue,
            };
        }
        Ok(element)
    }
}

fn read_text(bytes: &[u8]) -> Result<&str, WireError> {
    let mut text = "";
    let mut reader = Reader::new(bytes);
    while let Some(field) = reader.next_field()? {
        if field.number == 1 {
            text = field.string()?;
        }
    }
    Ok(text)
}

view! {
    /// `TIMCustomElem`.
    pub struct CustomElement<'a> {
        /// The payload; usually JSON text.
        data: &'a str = 1 string,
        /// Description.
        desc: &'a str = 2 string,
        /// Extension.
        ext: &'a str = 3 string,
        /// Sound of the push notification.
        sound: &'a str = 4 string,
    }
}

view! {
    /// `TIMFaceElem`.
    pub struct FaceElement<'a> {
        /// Index of the face.
        index: i64 = 1 int64,
        /// The app's own data.
        data: &'a str = 2 string,
    }
}

view! {
    /// `TIMLocationElem`.
    pub struct LocationElement<'a> {
        /// Description.
        desc: &'a str = 1 string,
        /// Degrees.
        latitude: f64 = 2 double,
        /// Degrees.
        longitude: f64 = 3 double,
    }
}

view! {
    /// `TIMSoundElem`.
    pub struct SoundElement<'a> {
        /// Where it lies.
        url: &'a str = 1 string,
        /// Its id.
        uuid: &'a str = 2 string,
        /// Size, bytes.
        size_bytes: u64 = 3 uint64,
        /// Length, seconds.
        duration_s: u64 = 4 uint64,
    }
}

view! {
    /// `TIMImageElem`.
    pub struct ImageElement<'a> {
        /// Its id.
        uuid: &'a str = 1 string,
        /// 1 JPG, 2 GIF, 3 PNG, 4 BMP, 255 other.
        format: u32 = 2 uint32,
        /// Its sizes.
        images: Images<'a> = 3 images,
    }
}

view! {
    /// One size of a picture.
    pub struct ImageInfo<'a> {
        /// 1 original, 2 large, 3 thumbnail.
        image_type: u32 = 1 uint32,
        /// Size, bytes.
        size_bytes: u64 = 2 uint64,
        /// Width, pixels.
        width: u32 = 3 uint32,
        /// Height, pixels.
        height: u32 = 4 uint32,
        /// Where it lies.
        url: &'a str = 5 string,
    }
}

view! {
    /// `TIMFileElem`.
    pub struct FileElement<'a> {
        /// Where it lies.
        url: &'a str = 1 string,
        /// Its id.
        uuid: &'a str = 2 string,
        /// Size, bytes.
        size_bytes: u64 = 3 uint64,
        /// Name of the file.
        name: &'a str = 4 string,
    }
}

view! {
    /// `TIMVideoFileElem`.
    pub struct VideoElement<'a> {
        /// Where it lies.
        url: &'a str = 1 string,
        /// Its id.
        uuid: &'a str = 2 string,
        /// Size, bytes.
        size_bytes: u64 = 3 uint64,
        /// Length, seconds.
        duration_s: u64 = 4 uint64,
        /// `mp4`, ...
        format: &'a str = 5 string,
        /// Where the first picture lies.
        thumb_url: &'a str = 6 string,
    }
}

view! {
    /// Any other element, `TIMRelayElem` for one.
    pub struct OtherElement<'a> {
        /// Its `MsgType`.
        msg_type: &'a str = 1 string,
        /// Its `MsgContent` as JSON text.
        content_json: &'a str = 2 string,
    }
}
