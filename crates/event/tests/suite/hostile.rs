//! Bodies that are wrong, on purpose or not: what is refused, with which error, and that nothing panics.

use barrage_event::callback::{self, Callback, CallbackError, DEPTH_MAX, KEY_BYTES_MAX, UntypedReason};
use barrage_event::rules::Compiled;
use barrage_event::{EnvelopeView, Event, command};
use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
use proptest::strategy::Strategy;

use crate::common::{decode, records, stamp};

fn try_decode<'a>(command: &str, body: &'a [u8]) -> Result<Callback<'a>, CallbackError> {
    callback::decode(command, "", body, &Compiled::shipped())
}

#[test]
fn what_cannot_be_kept_is_refused_with_its_reason() {
    let command = r#"{"CallbackCommand":"State.StateChange"}"#;
    let deep = format!(r#"{{"CallbackCommand":"X.Y","a":{}{}}}"#, "[".repeat(DEPTH_MAX), "]".repeat(DEPTH_MAX));
    let deeper = "[".repeat(1 << 20);
    let long = format!(r#"{{"CallbackCommand":"{}"}}"#, "x".repeat(300));
    let table: [(&str, &[u8], &str); 22] = [
        ("", b"", "empty"),
        ("State.StateChange", b" \r\n\t", "empty"),
        ("", b"\xff\xfe{}", "invalid_utf8"),
        ("", b"{\"CallbackCommand\":\"\xc3\x28\"}", "invalid_utf8"),
        ("", b"hello", "not_json"),
        ("State.StateChange", b"{", "not_json"),
        ("State.StateChange", b"{\"a\":1,}", "not_json"),
        ("State.StateChange", b"{} {}", "not_json"),
        ("State.StateChange", br#"{"Info":{"Action":"Login","To_Acc"#, "not_json"),
        ("State.StateChange", b"{\"a\":\"\\ud8", "not_json"),
        ("State.StateChange", b"{'a':1}", "not_json"),
        ("State.StateChange", b"{\"a\":\"tab\tin string\"}", "not_json"),
        ("", b"[1]", "not_an_object"),
        ("", b"\"x\"", "not_an_object"),
        ("", b"null", "not_an_object"),
        ("", b"[1", "not_json"),
        ("", deep.as_bytes(), "too_deep"),
        ("", deeper.as_bytes(), "too_deep"),
        ("Group.CallbackAfterSendMsg", command.as_bytes(), "command_mismatch"),
        ("Future.Unknown", command.as_bytes(), "command_mismatch"),
        ("", b"{}", "missing_command"),
        ("", long.as_bytes(), "command_too_long"),
    ];
    for (command, body, label) in table {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        match try_decode(command, body) {
            Err(error) => {
                assert_eq!(error.label(), label, "{shown}");
                assert!(!error.to_string().is_empty() && error.to_string().len() < 600, "{error}");
            }
            Ok(callback) => panic!("{shown} was taken: {callback:?}"),
        }
    }
}

#[test]
fn what_can_be_kept_is_kept() {
    let nested =
        format!(r#"{{"CallbackCommand":"X.Y","a":{}{}}}"#, "[".repeat(DEPTH_MAX - 1), "]".repeat(DEPTH_MAX - 1));
    let brackets = format!(r#"{{"CallbackCommand":"X.Y","a":"{}"}}"#, "[{".repeat(1000));
    let huge = r#"{"CallbackCommand":"X.Y","n":1e999,"s":"\ud800"}"#;
    for body in [nested.as_str(), &brackets, huge, " \n{\"CallbackCommand\":\"X.Y\"}\n "] {
        assert_eq!(decode(body).untyped_reason(), Some(&UntypedReason::UnknownCommand), "{body:.80}");
        assert_eq!(decode(body).body(), body.as_bytes());
    }
    // A field that stands there twice is valid JSON, and nobody knows which one counts.
    let twice = r#"{"CallbackCommand":"Group.CallbackAfterSendMsg","GroupId":"a","GroupId":"b","From_Account":"c"}"#;
    assert!(matches!(decode(twice).untyped_reason(), Some(UntypedReason::Fields(_))));
}

#[test]
fn keys_longer_than_any_of_the_vendors_leave_the_callback_untyped() {
    let body = |room: usize, member: usize| {
        let (room, member) = ("r".repeat(room), "m".repeat(member));
        format!(
            r#"{{"CallbackCommand":"Group.CallbackAfterNewMemberJoin","GroupId":"{room}","NewMemberList":["a","{member}"]}}"#
        )
    };
    assert_eq!(decode(&body(KEY_BYTES_MAX, KEY_BYTES_MAX)).untyped_reason(), None);
    assert_eq!(decode(&body(KEY_BYTES_MAX + 1, 1)).untyped_reason(), Some(&UntypedReason::Field("GroupId")));
    assert_eq!(decode(&body(1, KEY_BYTES_MAX + 1)).untyped_reason(), Some(&UntypedReason::Field("NewMemberList")));
    assert_eq!(decode(&body(1, 0)).untyped_reason(), Some(&UntypedReason::Field("NewMemberList")));
}

#[test]
fn event_and_body_together_fit_a_record() {
    let text = "好".repeat(340_000);
    let body = format!(
        r#"{{"CallbackCommand":"Group.CallbackAfterSendMsg","GroupId":"r","From_Account":"a",
        "MsgBody":[{{"MsgType":"TIMTextElem","MsgContent":{{"Text":"{text}"}}}}]}}"#
    );
    let callback = decode(&body);
    assert_eq!(callback.untyped_reason(), Some(&UntypedReason::TooLarge));
    assert_eq!(callback.routes()[0].key, "r");
    assert!(records(&callback, &stamp())[0].len() < 2 << 20);
}

#[test]
fn a_list_of_tens_of_thousands_of_members_is_read_in_reasonable_time() {
    // Quadratic work on this would take minutes.
    let members: Vec<_> = (0..100_000).map(|i| format!("\"u{}\"", i % 50_000)).collect();
    let body = format!(
        r#"{{"CallbackCommand":"Group.CallbackAfterNewMemberJoin","GroupId":"r","NewMemberList":[{}]}}"#,
        members.join(",")
    );
    assert_eq!(decode(&body).routes().len(), 1 + 50_000);
}

/// Valid bodies of the commands that matter, as a start for damage.
const BODIES: [&str; 4] = [
    r#"{"CallbackCommand":"Group.CallbackAfterSendMsg","GroupId":"r","From_Account":"a","Random":1,"MsgBody":[{"MsgType":"TIMCustomElem","MsgContent":{"Data":"{\"type\":\"gift\",\"count\":2}"}},{"MsgType":"TIMImageElem","MsgContent":{"ImageInfoArray":[{"Type":1}]}}],"GroupAtInfo":[{"GroupAtAllFlag":1}],"EventTime":1772366399500}"#,
    r#"{"CallbackCommand":"State.StateChange","Info":{"Action":"Login","To_Account":"a\ud83d\ude00"},"KickedDevice":[{"Platform":"Web"}],"EventTime":"1"}"#,
    r#"{"CallbackCommand":"Group.CallbackOnMemberStateChange","GroupId":"r","EventType":"Online","MemberList":[{"Member_Account":"a"},"b"]}"#,
    r#"{"event_type":1,"stream_id":"r","event_time":1772366399,"sequence":12345678901234567890}"#,
];

/// What every decoded callback keeps to.
fn check(callback: &Callback<'_>) {
    for (i, bytes) in records(callback, &stamp()).iter().enumerate() {
        let view = EnvelopeView::decode(bytes).expect("our own record reads");
        assert!(!view.newer);
        assert_eq!(view.body, if i == 0 { callback.body() } else { &[] });
        assert_eq!(view.event == Event::None, callback.untyped_reason().is_some());
    }
}

proptest! {
    #[test]
    fn damaged_bodies_never_panic(
        base in 0..BODIES.len(),
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>(), 0..4_u8), 1..6),
    ) {
        let mut body = BODIES[base].as_bytes().to_vec();
        for (at, byte, how) in edits {
            let at = at.index(body.len().max(1)).min(body.len().saturating_sub(1));
            match how {
                _ if body.is_empty() => break,
                0 => body[at] = byte,
                1 => { body.remove(at); }
                2 => body.insert(at, b"{}[]\",:\\-1eE.n"[usize::from(byte) % 14]),
                _ => body.truncate(at),
            }
        }
        for command in ["", command::AFTER_SEND] {
            if let Ok(callback) = try_decode(command, &body) {
                check(&callback);
            }
        }
    }

    #[test]
    fn any_values_in_the_known_fields_never_panic(
        command in proptest::sample::select(command::all().collect::<Vec<_>>()),
        fields in proptest::collection::vec((field(), value()), 0..12),
    ) {
        let fields: String = fields.iter().map(|(name, value)| format!(",\"{name}\":{value}")).collect();
        let body = format!("{{\"CallbackCommand\":\"{command}\"{fields}}}");
        let callback = try_decode("", body.as_bytes());
        prop_assert!(callback.is_ok(), "{:?}: {}", callback, body);
        check(&callback.unwrap());
    }

    #[test]
    fn any_bytes_read_as_a_record_or_give_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = EnvelopeView::decode(&bytes);
    }

    #[test]
    fn a_damaged_record_never_panics(base in 0..BODIES.len(), at: proptest::sample::Index, byte: u8, cut: bool) {
        let mut bytes = records(&decode(BODIES[base]), &stamp()).remove(0);
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        if let Ok(view) = EnvelopeView::decode(&bytes) {
            let _ = (barrage_event::identity::identity(&view), format!("{view:?}"));
            prop_assert_eq!(view, EnvelopeView::decode(&bytes).unwrap());
        }
    }
}

fn field() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec![
        "GroupId",
        "From_Account",
        "MsgBody",
        "MsgSeq",
        "MsgTime",
        "Random",
        "EventTime",
        "Info",
        "KickedDevice",
        "NewMemberList",
        "ExitMemberList",
        "MemberList",
        "EventType",
        "GroupAtInfo",
        "MsgSeqList",
        "GroupAttr",
        "QuotaUsed",
        "Quota",
        "Request",
        "Limit",
        "stream_id",
        "event_type",
        "sequence",
        "Events",
        "Name",
        "MsgId",
        "Requestor_Account",
        "Owner_Account",
        "ErrorCode",
        "CloudCustomData",
    ])
}

fn value() -> impl Strategy<Value = String> {
    let leaf = proptest::prop_oneof![
        proptest::sample::select(vec![
            "null",
            "true",
            "0",
            "-1",
            "1.5",
            "1e999",
            "18446744073709551616",
            "\"\"",
            "\"x\"",
            "\"1\"",
            "\"\\ud83d\"",
            "\"Online\"",
            "[]",
            "{}",
        ])
        .prop_map(str::to_owned),
        any::<i64>().prop_map(|n| n.to_string()),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        let names = ["Member_Account", "MsgType", "MsgContent", "Text", "Data", "Platform", "To_Account", "Action"];
        proptest::prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(|items| format!("[{}]", items.join(","))),
            (proptest::sample::select(names.to_vec()), inner)
                .prop_map(|(name, value)| format!("{{\"{name}\":{value}}}")),
        ]
    })
}
