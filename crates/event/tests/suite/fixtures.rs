//! Messages, as the vendor sends them before delivery, delivered and failed, with every kind of element and the
//! oddities of older deployments. prost reads what we wrote.

use barrage_event::callback;
use barrage_event::proto::element::Element as El;
use barrage_event::proto::envelope::Event;
use barrage_event::proto::{self, Message, MessageKind};
use barrage_event::rules::Compiled;
use barrage_event::{Stamp, Topic, Verdict};
use prost::Message as _;

use crate::common::{NOW_MS, decode, envelope, event, record, records, route_list, stamp};

const TEXT: &str = r#"{"CallbackCommand":"Group.CallbackAfterSendMsg","GroupId":"room_31","Type":"AVChatRoom",
    "From_Account":"li","Operator_Account":"li","Random":4026531841,"MsgId":"144-1772366399-4026531841","MsgSeq":9,
    "MsgTime":1772366399,"OnlineOnlyFlag":0,"MsgBody":[{"MsgType":"TIMTextElem","MsgContent":{"Text":"晚上好 \"hi\""}}],
    "CloudCustomData":"{\"lv\":3}","EventTime":1772366399500}"#;

fn text_element(text: &str) -> proto::Element {
    proto::Element { element: Some(El::Text(proto::TextElement { text: text.to_owned() })) }
}

fn delivered() -> Message {
    Message {
        group_id: "room_31".into(),
        group_type: "AVChatRoom".into(),
        from_account: "li".into(),
        operator_account: "li".into(),
        random: Some(4_026_531_841),
        msg_id: "144-1772366399-4026531841".into(),
        msg_seq: Some(9),
        msg_time_s: Some(1_772_366_399),
        kind: MessageKind::Text.into(),
        elements: vec![text_element("晚上好 \"hi\"")],
        cloud_custom_data: "{\"lv\":3}".into(),
        ..Message::default()
    }
}

fn message(body: &str) -> Message {
    match event(body) {
        Event::BeforeSend(m) | Event::AfterSend(m) | Event::SendException(m) => m,
        other => panic!("{other:?}"),
    }
}

/// A delivered message with these elements.
fn with_elements(elements: &str) -> Message {
    message(&format!(
        r#"{{"CallbackCommand":"Group.CallbackAfterSendMsg","GroupId":"r","From_Account":"a","MsgBody":{elements}}}"#
    ))
}

#[test]
fn a_delivered_message_becomes_a_record_of_its_room_with_the_body_and_one_of_its_sender_without() {
    let callback =
        callback::decode("Group.CallbackAfterSendMsg", "iOS", TEXT.as_bytes(), &Compiled::shipped()).unwrap();
    let records = records(&callback, &stamp());
    let expected = proto::Envelope {
        id: stamp().id.to_be_bytes().to_vec(),
        sdk_app_id: 1_400_000_001,
        command: "Group.CallbackAfterSendMsg".into(),
        occurred_at: 1_772_366_399_500,
        received_at: NOW_MS,
        incarnation: 0xfeed_0000_0000_0001,
        sequence: 41,
        platform: "ios".into(),
        rules_version: 3,
        parser_version: barrage_event::PARSER_VERSION,
        has_event_time: true,
        route_key: "room_31".into(),
        body: TEXT.as_bytes().to_vec(),
        event: Some(Event::AfterSend(delivered())),
        ..proto::Envelope::default()
    };
    assert_eq!(proto::Envelope::decode(&*records[0]).unwrap(), expected);
    let copy = proto::Envelope { route_key: "li".into(), body: Vec::new(), ..expected };
    assert_eq!(proto::Envelope::decode(&*records[1]).unwrap(), copy);
    assert_eq!(records.len(), 2);
}

#[test]
fn times_random_and_sequence_are_read_as_numbers_strings_or_not_at_all() {
    for (from, to) in [
        ("1772366399500}", "\"1772366399500\"}"),
        ("4026531841,", "\"4026531841\","),
        ("\"MsgSeq\":9,", "\"MsgSeq\":\"9\","),
        ("\"MsgTime\":1772366399,", "\"MsgTime\":\"1772366399\","),
        ("\"OnlineOnlyFlag\":0", "\"OnlineOnlyFlag\":\"0\",\"SomethingNew\":{\"a\":[1,null]}"),
    ] {
        let body = TEXT.replacen(from, to, 1);
        assert_ne!(body, TEXT, "{from}");
        let envelope = envelope(&body);
        assert_eq!(envelope.event, Some(Event::AfterSend(delivered())), "{to}");
        assert!(envelope.has_event_time, "{to}");
        assert_eq!(envelope.occurred_at, 1_772_366_399_500, "{to}");
    }

    // Absent, null, negative, huge or fractional: the field is absent, the message is not.
    for value in ["null", "-1", "4294967296", "1e999", "0.5", "\"x\"", "[4026531841]", "{}"] {
        let body = TEXT.replacen("4026531841,", &format!("{value},"), 1);
        assert_eq!(message(&body), Message { random: None, ..delivered() }, "{value}");
    }
    for value in ["null", "-5", "99999999999999999999999", "0", "\"soon\"", "1772366399500.5", "1e400"] {
        let envelope = envelope(&TEXT.replacen("1772366399500}", &format!("{value}}}"), 1));
        assert!(!envelope.has_event_time, "{value}");
        assert_eq!((envelope.occurred_at, envelope.original_event_time), (NOW_MS, None), "{value}");
        assert_eq!(envelope.event, Some(Event::AfterSend(delivered())), "{value}");
    }
}

#[test]
fn event_times_in_seconds_are_told_and_wild_ones_are_clamped_and_kept() {
    for (value, occurred_at, original) in [
        ("1772366399", 1_772_366_399_000, None),
        ("\"1772366399\"", 1_772_366_399_000, None),
        ("1772366500000", NOW_MS + 60_000, Some(1_772_366_500_000)),
        ("9223372036854775807", NOW_MS + 60_000, Some(i64::MAX)),
        ("1", NOW_MS - 86_400_000, Some(1000)),
    ] {
        let envelope = envelope(&TEXT.replacen("1772366399500}", &format!("{value}}}"), 1));
        assert_eq!(envelope.occurred_at, occurred_at, "{value}");
        assert_eq!(envelope.original_event_time, original, "{value}");
        assert!(envelope.has_event_time, "{value}");
    }
}

#[test]
fn the_oldest_shape_has_neither_id_nor_time() {
    let oldest = r#"{"CallbackCommand":"Group.CallbackAfterSendMsg","GroupId":"room_31","Type":"AVChatRoom",
        "From_Account":"li","Operator_Account":"li","Random":7,"MsgSeq":10,"MsgTime":1772366399,
        "MsgBody":[{"MsgType":"TIMTextElem","MsgContent":{"Text":"."}}]}"#;
    let expected = Message {
        random: Some(7),
        msg_id: String::new(),
        msg_seq: Some(10),
        elements: vec![text_element(".")],
        cloud_custom_data: String::new(),
        ..delivered()
    };
    assert_eq!(message(oldest), expected);
}

#[test]
fn every_kind_of_element_is_read() {
    let table = [
        (
            r#"{"MsgType":"TIMTextElem","MsgContent":{"Text":"t"}}"#,
            MessageKind::Text,
            text_element("t").element.unwrap(),
        ),
        (
            r#"{"MsgType":"TIMFaceElem","MsgContent":{"Index":-3,"Data":"smile"}}"#,
            MessageKind::Face,
            El::Face(proto::FaceElement { index: -3, data: "smile".into() }),
        ),
        (
            r#"{"MsgType":"TIMLocationElem","MsgContent":{"Desc":"d","Latitude":22.5,"Longitude":"113"}}"#,
            MessageKind::Location,
            El::Location(proto::LocationElement { desc: "d".into(), latitude: 22.5, longitude: 113.0 }),
        ),
        (
            r#"{"MsgType":"TIMSoundElem","MsgContent":{"Url":"u","UUID":"i","Size":5,"Second":2,"Download_Flag":2}}"#,
            MessageKind::Sound,
            El::Sound(proto::SoundElement { url: "u".into(), uuid: "i".into(), size_bytes: 5, duration_s: 2 }),
        ),
        (
            r#"{"MsgType":"TIMImageElem","MsgContent":{"UUID":"i","ImageFormat":255,"ImageInfoArray":
                [{"Type":1,"Size":9,"Width":3,"Height":4,"URL":"u"},7,{"Type":3}]}}"#,
            MessageKind::Image,
            El::Image(proto::ImageElement {
                uuid: "i".into(),
                format: 255,
                images: vec![
                    proto::ImageInfo { r#type: 1, size_bytes: 9, width: 3, height: 4, url: "u".into() },
                    proto::ImageInfo::default(),
                    proto::ImageInfo { r#type: 3, ..Default::default() },
                ],
            }),
        ),
        (
            r#"{"MsgType":"TIMFileElem","MsgContent":{"Url":"u","UUID":"i","FileSize":6,"FileName":"n.pdf"}}"#,
            MessageKind::File,
            El::File(proto::FileElement { url: "u".into(), uuid: "i".into(), size_bytes: 6, name: "n.pdf".into() }),
        ),
        (
            r#"{"MsgType":"TIMVideoFileElem","MsgContent":{"VideoUrl":"u","VideoUUID":"i","VideoSize":8,"VideoSecond":3,
                "VideoFormat":"mp4","VideoDownloadFlag":2,"ThumbUrl":"t"}}"#,
            MessageKind::Video,
            El::Video(proto::VideoElement {
                url: "u".into(),
                uuid: "i".into(),
                size_bytes: 8,
                duration_s: 3,
                format: "mp4".into(),
                thumb_url: "t".into(),
            }),
        ),
        (
            r#"{"MsgType":"TIMRelayElem","MsgContent":{"Title": "f", "List":[1, 2]}}"#,
            MessageKind::Relay,
            El::Other(proto::OtherElement {
                msg_type: "TIMRelayElem".into(),
                content_json: r#"{"Title": "f", "List":[1, 2]}"#.into(),
            }),
        ),
        (
            r#"{"MsgType":"TIMHologramElem","MsgContent":[3]}"#,
            MessageKind::Custom,
            El::Other(proto::OtherElement { msg_type: "TIMHologramElem".into(), content_json: "[3]".into() }),
        ),
        (
            r#"{"MsgType":"TIMCustomElem","MsgContent":{"Data":"plain","Desc":"d","Ext":"e","Sound":"s"}}"#,
            MessageKind::Custom,
            El::Custom(proto::CustomElement {
                data: "plain".into(),
                desc: "d".into(),
                ext: "e".into(),
                sound: "s".into(),
            }),
        ),
        // The type after the content, content of another shape, nothing at all.
        (
            r#"{"MsgContent":{"Text":"t"},"MsgType":"TIMTextElem"}"#,
            MessageKind::Text,
            text_element("t").element.unwrap(),
        ),
        (r#"{"MsgType":"TIMTextElem","MsgContent":["t"]}"#, MessageKind::Text, text_element("").element.unwrap()),
        (r#"{"MsgType":"TIMTextElem"}"#, MessageKind::Text, text_element("").element.unwrap()),
        ("17", MessageKind::Custom, El::Other(proto::OtherElement::default())),
    ];
    for (json, kind, element) in table {
        // Alone, and as the first of two: the first decides what the message is.
        for (elements, count) in [(format!("[{json}]"), 1), (format!("[{json},{{\"MsgType\":\"TIMFaceElem\"}}]"), 2)] {
            let message = with_elements(&elements);
            assert_eq!(message.kind(), kind, "{elements}");
            assert_eq!(message.elements[0].element.as_ref(), Some(&element), "{elements}");
            assert_eq!(message.elements.len(), count, "{elements}");
        }
    }
    for none in ["[]", "null", "{}", "\"x\"", "3"] {
        assert_eq!((with_elements(none).kind(), with_elements(none).elements), (MessageKind::Custom, vec![]), "{none}");
    }
}

#[test]
fn custom_elements_are_classified_by_the_shipped_rules() {
    let gift = r#"{"CallbackCommand":"Group.CallbackBeforeSendMsg","GroupId":"r","From_Account":"a",
        "Operator_Account":"administrator","MsgBody":[{"MsgType":"TIMCustomElem","MsgContent":{"Data":
        "{\"type\":\"gift\",\"gift_id\":\"yacht\",\"count\":3,\"value\":\"5997\",\"combo_id\":\"c1\",\"order_id\":17}"}}]}"#;
    let Event::BeforeSend(message) = event(gift) else { panic!("not a before-callback") };
    assert_eq!(message.kind(), MessageKind::Gift);
    let fields = proto::CustomFields {
        count: 3,
        value: 5997,
        gift_id: "yacht".into(),
        combo_id: "c1".into(),
        order_id: "17".into(),
        ..Default::default()
    };
    assert_eq!(message.custom, Some(fields));
    assert_eq!(route_list(&decode(gift)), [(Topic::Room, "r".to_owned())], "a gift counts when it is delivered");

    let like = gift.replace(r#"\"type\":\"gift\""#, r#"\"type\":\"like\""#);
    let likes = decode(&like);
    assert_eq!(route_list(&likes), [(Topic::Room, "r".to_owned()), (Topic::User, "a".to_owned())]);
}

#[test]
fn a_failed_message_tells_why() {
    let failed = r#"{"CallbackCommand":"Group.CallbackSendMsgException","GroupId":"r","Type":"Live","From_Account":"a",
        "Operator_Account":"a","Random":5,"MsgBody":[{"MsgType":"TIMTextElem","MsgContent":{"Text":"x"}}],
        "ErrorCode":10017,"ErrorInfo":"muted","EventTime":1772366399500}"#;
    let Event::SendException(message) = event(failed) else { panic!("not an exception") };
    assert_eq!((message.error_code, &*message.error_info, &*message.group_type), (10017, "muted", "Live"));
    assert_eq!(route_list(&decode(failed)), [(Topic::Room, "r".to_owned())]);
}

#[test]
fn mentions_are_listed() {
    let message = message(
        r#"{"CallbackCommand":"Group.CallbackAfterSendMsg","GroupId":"r","From_Account":"a","TopicId":"t","MsgBody":[],
        "GroupAtInfo":[{"GroupAtAllFlag":1},{"GroupAtAllFlag":0,"GroupAt_Account":"b"},7,{"GroupAt_Account":"c"}]}"#,
    );
    assert_eq!((message.at_all, message.at_accounts, &*message.topic_id), (true, vec!["b".into(), "c".into()], "t"));
}

#[test]
fn half_a_surrogate_pair_in_a_text_costs_that_character_only() {
    let body = TEXT.replace("晚上好", r"\ud83d晚\ude00\ud83d\ude00");
    let expected = Message { elements: vec![text_element("\u{fffd}晚\u{fffd}\u{1f600} \"hi\"")], ..delivered() };
    assert_eq!(message(&body), expected);
    assert_eq!(envelope(&body).body, body.as_bytes(), "the body is kept as it came");
}

#[test]
fn the_verdict_is_recorded() {
    let before = TEXT.replace("AfterSend", "BeforeSend");
    let callback = decode(&before);
    let verdict = Verdict {
        outcome: barrage_event::Outcome::Rejected,
        code: 10_101,
        rule: "before.words[2]".into(),
        message: "not here".into(),
    };
    let stamp = Stamp { verdict: Some(verdict), ..stamp() };
    let envelope = proto::Envelope::decode(&*record(&callback, &stamp, &callback.routes()[0], true)).unwrap();
    let expected = proto::Verdict {
        outcome: proto::verdict::Outcome::Rejected.into(),
        code: 10_101,
        rule: "before.words[2]".into(),
    };
    assert_eq!(envelope.verdict, Some(expected));
}

#[test]
fn a_message_without_room_or_sender_is_kept_untyped() {
    for (from, to, field) in [
        ("\"GroupId\":\"room_31\",", "", "GroupId"),
        ("\"GroupId\":\"room_31\"", "\"GroupId\":31", "GroupId"),
        ("\"From_Account\":\"li\"", "\"From_Account\":\"\"", "From_Account"),
        ("\"From_Account\":\"li\"", "\"From_Account\":[\"li\"]", "From_Account"),
    ] {
        let body = TEXT.replacen(from, to, 1);
        let callback = decode(&body);
        assert_eq!(callback.untyped_reason(), Some(&callback::UntypedReason::Field(field)), "{to}");
        assert_eq!(callback.event_time_ms(), Some(1_772_366_399_500), "{to}");
        let envelope = envelope(&body);
        assert_eq!((envelope.event, &*envelope.body), (None, body.as_bytes()), "{to}");
    }
}
