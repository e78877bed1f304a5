//! Group messages before delivery, delivered, and failed: one shape of body with more or fewer fields.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::error::UntypedReason;
use super::json::{List, Number, Object, Real, Text};
use super::typed::{Body, Context, body, common, key};
use crate::event::MessageKind;
use crate::rules::{Classified, Compiled};
use crate::wire::Writer;

body! {
    /// Body of `Group.CallbackBeforeSendMsg`, `Group.CallbackAfterSendMsg` and `Group.CallbackSendMsgException`.
    struct Send<'a> {
        group_id: Text<'a> = "GroupId",
        group_type: Text<'a> = "Type",
        from_account: Text<'a> = "From_Account",
        operator_account: Text<'a> = "Operator_Account",
        random: Number = "Random",
        msg_id: Text<'a> = "MsgId",
        msg_seq: Number = "MsgSeq",
        msg_time: Number = "MsgTime",
        elements: List<Element<'a>> = "MsgBody",
        cloud_custom_data: Text<'a> = "CloudCustomData",
        topic_id: Text<'a> = "TopicId",
        at: List<Object<At<'a>>> = "GroupAtInfo",
        error_code: Number = "ErrorCode",
        error_info: Text<'a> = "ErrorInfo",
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct At<'a> {
    #[serde(rename = "GroupAtAllFlag")]
    all: Number,
    #[serde(rename = "GroupAt_Account")]
    account: Text<'a>,
}

impl<'a> Body<'a> for Send<'a> {
    common!();

    fn write(&self, context: &Context<'_>, w: &mut Writer<'_>) -> Result<(), UntypedReason> {
        w.string(1, key(&self.group_id, "GroupId")?);
        w.string(2, &self.group_type);
        w.string(3, key(&self.from_account, "From_Account")?);
        w.string(4, &self.operator_account);
        w.opt_uint64(5, self.random.get::<u32>().map(u64::from));
        w.string(6, &self.msg_id);
        w.opt_uint64(7, self.msg_seq.get());
        w.opt_int64(8, self.msg_time.get());
        let Classified { kind, custom } = classify(self.elements.0.first(), context.rules);
        w.int64(9, i64::from(kind.to_wire()));
        if let Some(custom) = custom {
            w.message(10, |w| {
                w.uint64(1, custom.count);
                w.uint64(2, custom.value);
                w.string(3, &custom.gift_id);
                w.string(4, &custom.combo_id);
                w.string(5, &custom.order_id);
                w.string(6, &custom.tier);
                w.uint64(7, u64::from(custom.months));
            });
        }
        w.int64(11, self.error_code.get::<i32>().map_or(0, i64::from));
        w.string(12, &self.error_info);
        w.string(13, &self.topic_id);
        for element in &self.elements.0 {
            w.message(16, |w| element.write(w));
        }
        w.string(17, &self.cloud_custom_data);
        for Object(at) in &self.at.0 {
            w.string(18, &at.account);
        }
        w.bool(19, self.at.0.iter().any(|Object(at)| at.all.is_one()));
        Ok(())
    }
}

fn classify<'e>(first: Option<&'e Element<'_>>, rules: &Compiled) -> Classified<'e> {
    let kind = match first {
        Some(Element::Custom(custom)) => return rules.classify(&custom.data),
        Some(Element::Text(_)) => MessageKind::Text,
        Some(Element::Face(_)) => MessageKind::Face,
        Some(Element::Location(_)) => MessageKind::Location,
        Some(Element::Sound(_)) => MessageKind::Sound,
        Some(Element::Image(_)) => MessageKind::Image,
        Some(Element::File(_)) => MessageKind::File,
        Some(Element::Video(_)) => MessageKind::Video,
        Some(Element::Other { msg_type, .. }) if **msg_type == *"TIMRelayElem" => MessageKind::Relay,
        Some(Element::Other { .. }) | None => MessageKind::Custom,
    };
    Classified { kind, custom: None }
}

/// One element of `MsgBody`.
#[derive(Debug)]
enum Element<'a> {
    Text(TextContent<'a>),
    Custom(CustomContent<'a>),
    Face(FaceContent<'a>),
    Location(LocationContent<'a>),
    Sound(SoundContent<'a>),
    Image(ImageContent<'a>),
    File(FileContent<'a>),
    Video(VideoContent<'a>),
    Other { msg_type: Text<'a>, content: &'a str },
}

macro_rules! content {
    ($name:ident { $($field:ident: $type:ty = $json:literal,)* }) => {
        #[derive(Debug, Default, Deserialize)]
        #[serde(default, bound(deserialize = "'de: 'a"))]
        struct $name<'a> {
            $(#[serde(rename = $json)] $field: $type,)*
        }
    };
}

content!(TextContent { text: Text<'a> = "Text", });
content!(CustomContent {
    data: Text<'a> = "Data",
    desc: Text<'a> = "Desc",
    ext: Text<'a> = "Ext",
    sound: Text<'a> = "Sound",
});
content!(FaceContent { index: Number = "Index", data: Text<'a> = "Data", });
content!(LocationContent { desc: Text<'a> = "Desc", latitude: Real = "Latitude", longitude: Real = "Longitude", });
content!(SoundContent { url: Text<'a> = "Url", uuid: Text<'a> = "UUID", size: Number = "Size", seconds: Number = "Second", });
content!(ImageContent { uuid: Text<'a> = "UUID", format: Number = "ImageFormat", images: List<Object<ImageInfo<'a>>> = "ImageInfoArray", });
content!(ImageInfo {
    image_type: Number = "Type",
    size: Number = "Size",
    width: Number = "Width",
    height: Number = "Height",
    url: Text<'a> = "URL",
});
content!(FileContent { url: Text<'a> = "Url", uuid: Text<'a> = "UUID", size: Number = "FileSize", name: Text<'a> = "FileName", });
content!(VideoContent {
    url: Text<'a> = "VideoUrl",
    uuid: Text<'a> = "VideoUUID",
    size: Number = "VideoSize",
    seconds: Number = "VideoSecond",
    format: Text<'a> = "VideoFormat",
    thumb_url: Text<'a> = "ThumbUrl",
});

impl<'de: 'a, 'a> Deserialize<'de> for Element<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Object::<Tagged<'a>>::deserialize(deserializer).map(|Object(Tagged(element))| element)
    }
}

impl Default for Element<'_> {
    fn default() -> Self {
        Element::Other { msg_type: Text::default(), content: "" }
    }
}

/// An element read from an object.
#[derive(Debug, Default)]
struct Tagged<'a>(Element<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for Tagged<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ElementVisitor).map(Tagged)
    }
}

struct ElementVisitor;

#[derive(Deserialize)]
#[serde(field_identifier)]
enum Key {
    MsgType,
    MsgContent,
    #[serde(other)]
    Other,
}

impl<'de> Visitor<'de> for ElementVisitor {
    type Value = Element<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    /// How the content is read depends on the type. The type comes first in all that the vendor sends, so that the
    /// content is read in the same pass; where it comes later, the content waits as a piece of text.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut msg_type = Text::default();
        let mut waiting: Option<&'de RawValue> = None;
        let mut element = None;
        while let Some(key) = map.next_key()? {
            match key {
                Key::MsgType => msg_type = map.next_value()?,
                Key::MsgContent if msg_type.is_empty() => waiting = Some(map.next_value()?),
                Key::MsgContent => element = Some(Element::read(&msg_type, InMap(&mut map))?),
                Key::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        match (element, waiting) {
            (Some(element), _) => Ok(element),
            (None, waiting) => {
                let content = waiting.map_or("null", RawValue::get);
                Element::read(&msg_type, InText(content)).map_err(A::Error::custom)
            }
        }
    }
}

/// Where the content of an element is read from.
trait Content<'de> {
    type Error;

    fn read<T: Deserialize<'de>>(self) -> Result<T, Self::Error>;
}

struct InMap<'m, A>(&'m mut A);

impl<'de, A: MapAccess<'de>> Content<'de> for InMap<'_, A> {
    type Error = A::Error;

    fn read<T: Deserialize<'de>>(self) -> Result<T, A::Error> {
        self.0.next_value()
    }
}

struct InText<'de>(&'de str);

impl<'de> Content<'de> for InText<'de> {
    type Error = serde_json::Error;

    fn read<T: Deserialize<'de>>(self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.0)
    }
}

impl<'de> Element<'de> {
    /// Content of the wrong shape reads as empty: the message is still one of its type.
    fn read<C: Content<'de>>(msg_type: &Text<'de>, content: C) -> Result<Self, C::Error> {
        Ok(match &**msg_type {
            "TIMTextElem" => Self::Text(content.read::<Object<_>>()?.0),
            "TIMCustomElem" => Self::Custom(content.read::<Object<_>>()?.0),
            "TIMFaceElem" => Self::Face(content.read::<Object<_>>()?.0),
            "TIMLocationElem" => Self::Location(content.read::<Object<_>>()?.0),
            "TIMSoundElem" => Self::Sound(content.read::<Object<_>>()?.0),
            "TIMImageElem" => Self::Image(content.read::<Object<_>>()?.0),
            "TIMFileElem" => Self::File(content.read::<Object<_>>()?.0),
            "TIMVideoFileElem" => Self::Video(content.read::<Object<_>>()?.0),
            _ => Self::Other { msg_type: msg_type.clone(), content: content.read::<&RawValue>()?.get() },
        })
    }
}

impl Element<'_> {
    fn write(&self, w: &mut Writer<'_>) {
        match self {
            Self::Text(e) => w.message(1, |w| w.string(1, &e.text)),
            Self::Custom(e) => w.message(2, |w| {
                w.string(1, &e.data);
                w.string(2, &e.desc);
                w.string(3, &e.ext);
                w.string(4, &e.sound);
            }),
            Self::Face(e) => w.message(3, |w| {
                w.int64(1, e.index.get().unwrap_or_default());
                w.string(2, &e.data);
            }),
            Self::Location(e) => w.message(4, |w| {
                w.string(1, &e.desc);
                w.double(2, e.latitude.0);
                w.double(3, e.longitude.0);
            }),
            Self::Sound(e) => w.message(5, |w| {
                w.string(1, &e.url);
                w.string(2, &e.uuid);
                w.uint64(3, e.size.get().unwrap_or_default());
                w.uint64(4, e.seconds.get().unwrap_or_default());
            }),
            Self::Image(e) => w.message(6, |w| {
                w.string(1, &e.uuid);
                w.uint64(2, e.format.get::<u32>().map_or(0, u64::from));
                for Object(image) in &e.images.0 {
                    w.message(3, |w| image.write(w));
                }
            }),
            Self::File(e) => w.message(7, |w| {
                w.string(1, &e.url);
                w.string(2, &e.uuid);
                w.uint64(3, e.size.get().unwrap_or_default());
                w.string(4, &e.name);
            }),
            Self::Video(e) => w.message(8, |w| {
                w.string(1, &e.url);
                w.string(2, &e.uuid);
                w.uint64(3, e.size.get().unwrap_or_default());
                w.uint64(4, e.seconds.get().unwrap_or_default());
                w.string(5, &e.format);
                w.string(6, &e.thumb_url);
            }),
            Self::Other { msg_type, content } => w.message(9, |w| {
                w.string(1, msg_type);
                w.string(2, content);
            }),
        }
    }
}

impl ImageInfo<'_> {
    fn write(&self, w: &mut Writer<'_>) {
        w.uint64(1, self.image_type.get::<u32>().map_or(0, u64::from));
        w.uint64(2, self.size.get().unwrap_or_default());
        w.uint64(3, self.width.get::<u32>().map_or(0, u64::from));
        w.uint64(4, self.height.get::<u32>().map_or(0, u64::from));
        w.string(5, &self.url);
    }
}
