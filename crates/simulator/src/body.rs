//! Bodies of callbacks, in the platform's field names and order.

use std::fmt::Write as _;

use crate::kind::Kind;
use crate::line::append_json_string;
use crate::random::Random;
use crate::text;

/// A JSON object that is written field by field.
#[derive(Debug)]
pub(crate) struct Object(String);

impl Object {
    pub(crate) fn new() -> Self {
        let mut text = String::with_capacity(640);
        text.push('{');
        Self(text)
    }

    /// The body of a callback of this command.
    pub(crate) fn callback(command: &str) -> Self {
        Self::new().text("CallbackCommand", command)
    }

    fn name(&mut self, name: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        // Names are ours and need no escapes.
        self.0.push('"');
        self.0.push_str(name);
        self.0.push_str("\":");
    }

    pub(crate) fn text(mut self, name: &str, value: &str) -> Self {
        self.name(name);
        append_json_string(&mut self.0, value);
        self
    }

    pub(crate) fn number(mut self, name: &str, value: impl Into<i64>) -> Self {
        self.name(name);
        write!(self.0, "{}", value.into()).expect("writing to a String cannot fail");
        self
    }

    /// A field whose value is JSON text already.
    pub(crate) fn json(mut self, name: &str, value: &str) -> Self {
        self.name(name);
        self.0.push_str(value);
        self
    }

    /// `[{"Member_Account": ...}, ...]`.
    pub(crate) fn members<'a>(self, name: &str, accounts: impl IntoIterator<Item = &'a str>) -> Self {
        let objects = accounts.into_iter().map(|account| Self::new().text("Member_Account", account).end());
        let list = array(objects);
        self.json(name, &list)
    }

    pub(crate) fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// A JSON array of values that are JSON text.
pub(crate) fn array(values: impl IntoIterator<Item = String>) -> String {
    let mut out = String::from("[");
    for value in values {
        if out.len() > 1 {
            out.push(',');
        }
        out.push_str(&value);
    }
    out.push(']');
    out
}

fn element(msg_type: &str, content: Object) -> String {
    Object::new().text("MsgType", msg_type).json("MsgContent", &content.end()).end()
}

pub(crate) fn text_element(text: &str) -> String {
    element("TIMTextElem", Object::new().text("Text", text))
}

/// A custom element with this payload.
pub(crate) fn custom_element(data: &str, desc: &str) -> String {
    element("TIMCustomElem", Object::new().text("Data", data).text("Desc", desc).text("Ext", "").text("Sound", ""))
}

fn face_element(random: &mut Random) -> String {
    element("TIMFaceElem", Object::new().number("Index", random.between(0, 120)).text("Data", "smile"))
}

fn uuid(random: &mut Random) -> String {
    format!("1400000000_{:016x}", random.u64())
}

fn url(kind: &str, random: &mut Random) -> String {
    format!("https://files.example.com/{kind}/{:08x}?a=1&b=2", random.u32())
}

fn image_element(random: &mut Random) -> String {
    let images = (1..=3_i64).map(|size| {
        Object::new()
            .number("Type", size)
            .number("Size", random.between(1_000, 4_000_000) / size)
            .number("Width", 1_920 / size)
            .number("Height", 1_080 / size)
            .text("URL", "https://files.example.com/image/1.jpg")
            .end()
    });
    let images = array(images.collect::<Vec<_>>());
    let content = Object::new().text("UUID", &uuid(random)).number("ImageFormat", random.pick(&[1, 2, 3, 4, 255]));
    element("TIMImageElem", content.json("ImageInfoArray", &images))
}

fn sound_element(random: &mut Random) -> String {
    let content = Object::new()
        .text("Url", &url("sound", random))
        .text("UUID", &uuid(random))
        .number("Size", random.between(1_000, 200_000))
        .number("Second", random.between(1, 60))
        .number("Download_Flag", 2);
    element("TIMSoundElem", content)
}

fn file_element(random: &mut Random) -> String {
    let content = Object::new()
        .text("Url", &url("file", random))
        .text("UUID", &uuid(random))
        .number("FileSize", random.between(1, 90_000_000))
        .text("FileName", "歌单 (final).txt")
        .number("Download_Flag", 2);
    element("TIMFileElem", content)
}

fn video_element(random: &mut Random) -> String {
    let content = Object::new()
        .text("VideoUrl", &url("video", random))
        .text("VideoUUID", &uuid(random))
        .number("VideoSize", random.between(100_000, 90_000_000))
        .number("VideoSecond", random.between(1, 300))
        .text("VideoFormat", "mp4")
        .number("VideoDownloadFlag", 2)
        .text("ThumbUrl", &url("thumb", random))
        .text("ThumbUUID", &uuid(random))
        .number("ThumbSize", 13_907)
        .number("ThumbWidth", 720)
        .number("ThumbHeight", 1_280)
        .text("ThumbFormat", "JPG")
        .number("ThumbDownloadFlag", 2);
    element("TIMVideoFileElem", content)
}

fn location_element(random: &mut Random) -> String {
    let latitude = format!("{}.{:06}", random.between(-89, 89), random.below(1_000_000));
    let longitude = format!("{}.{:06}", random.between(-179, 179), random.below(1_000_000));
    let content = Object::new().text("Desc", "某地").json("Latitude", &latitude).json("Longitude", &longitude);
    element("TIMLocationElem", content)
}

fn relay_element(random: &mut Random) -> String {
    let forwarded = array([Object::new().text("From_Account", "someone").text("Text", &text::chat(random)).end()]);
    element("TIMRelayElem", Object::new().text("Title", "Chat history").number("MsgNum", 1).json("MsgList", &forwarded))
}

/// A custom element that the app made and the service has no meaning for.
fn unknown_custom_element(random: &mut Random) -> String {
    const DATA: [&str; 9] = [
        "{\"type\":\"poll\",\"options\":[\"A\",\"B\"],\"count\":2}",
        "{\"type\":\"level\",\"level\":5}",
        "not json at all",
        "",
        "[1,2,3]",
        "{\"type\":7}",
        "{\"count\":3}",
        "{\"type\":\"gifts\",\"count\":1}",
        "{\"type\":\"like\"",
    ];
    custom_element(random.pick(&DATA), "app")
}

/// What a viewer writes or shows: its kind and its `MsgBody`.
pub(crate) fn chat(random: &mut Random) -> (Kind, String) {
    let (kind, elements) = match random.below(1_000) {
        0..=39 => (Kind::Face, vec![face_element(random)]),
        40..=57 => (Kind::Image, vec![image_element(random)]),
        58..=65 => (Kind::Sound, vec![sound_element(random)]),
        66..=69 => (Kind::Video, vec![video_element(random)]),
        70..=71 => (Kind::File, vec![file_element(random)]),
        72..=74 => (Kind::Location, vec![location_element(random)]),
        75..=77 => (Kind::Relay, vec![relay_element(random)]),
        78..=95 => (Kind::Custom, vec![unknown_custom_element(random)]),
        96..=105 => (Kind::Text, vec![text_element(&text::chat(random)), face_element(random)]),
        106..=109 => (Kind::Face, vec![face_element(random), text_element(&text::chat(random))]),
        110..=112 => (Kind::Image, vec![image_element(random), text_element("👆"), unknown_custom_element(random)]),
        _ => (Kind::Text, vec![text_element(&text::chat(random))]),
    };
    (kind, array(elements))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_keeps_the_order_of_its_fields() {
        let body = Object::callback("X.Y").number("n", -5).json("j", "[1]").members("m", ["a", "b\""]).end();
        let expected =
            r#"{"CallbackCommand":"X.Y","n":-5,"j":[1],"m":[{"Member_Account":"a"},{"Member_Account":"b\""}]}"#;
        assert_eq!(body, expected);
    }

    #[test]
    fn every_message_is_an_array_of_elements_whose_first_tells_the_kind() {
        let mut random = Random::new(5);
        let mut seen = crate::kind::Counts::default();
        for _ in 0..20_000 {
            let (kind, elements) = chat(&mut random);
            seen.add(kind);
            let parsed: Vec<serde_json::Value> = serde_json::from_str(&elements).unwrap();
            let first = parsed[0]["MsgType"].as_str().unwrap();
            let expected = match kind {
                Kind::Text => "TIMTextElem",
                Kind::Face => "TIMFaceElem",
                Kind::Image => "TIMImageElem",
                Kind::Sound => "TIMSoundElem",
                Kind::Video => "TIMVideoFileElem",
                Kind::File => "TIMFileElem",
                Kind::Location => "TIMLocationElem",
                Kind::Relay => "TIMRelayElem",
                Kind::Gift | Kind::Like | Kind::Membership | Kind::Notice | Kind::Custom => "TIMCustomElem",
            };
            assert_eq!(first, expected);
            assert!(parsed.iter().filter(|element| element["MsgType"] == "TIMCustomElem").count() <= 1);
        }
        assert_eq!(seen.by_type().len(), 9, "{seen:?}");
    }
}
