//! Copies of one callback have one identity; a callback that differs in a field that counts has another.

use std::collections::HashMap;

use barrage_event::identity::{Identity, business_key, identity};
use barrage_event::{EnvelopeView, Outcome, Stamp, Verdict, business};
use proptest::prelude::{any, prop_assert_eq, prop_assume, proptest};

use crate::common::{NOW_MS, decode, record, records, stamp};

/// Identities of the records of a callback, in the order of its routes.
fn identities(body: &str) -> Vec<Option<Identity>> {
    identities_at(body, &stamp())
}

fn identities_at(body: &str, stamp: &Stamp) -> Vec<Option<Identity>> {
    let view = |bytes: &Vec<u8>| identity(&EnvelopeView::decode(bytes).expect("our own record reads"));
    records(&decode(body), stamp).iter().map(view).collect()
}

const MESSAGE: &str = r#"{"CallbackCommand":"Group.CallbackAfterSendMsg","GroupId":"r","From_Account":"a","Random":5,
    "MsgId":"m","MsgSeq":9,"MsgTime":1772366399,"MsgBody":[{"MsgType":"TIMTextElem","MsgContent":{"Text":"t"}}],
    "EventTime":1772366399500}"#;
const OLD_MESSAGE: &str = r#"{"CallbackCommand":"Group.CallbackAfterSendMsg","GroupId":"r","From_Account":"a","Random":5,
    "MsgSeq":9,"MsgTime":1772366399}"#;
const EXCEPTION: &str = r#"{"CallbackCommand":"Group.CallbackSendMsgException","GroupId":"r","From_Account":"a",
    "Random":5,"EventTime":1772366399500}"#;
const JOIN: &str = r#"{"CallbackCommand":"Group.CallbackAfterNewMemberJoin","GroupId":"r","Type":"AVChatRoom",
    "NewMemberList":["a","b"],"EventTime":1772366399500}"#;
const STATE: &str = r#"{"CallbackCommand":"Group.CallbackOnMemberStateChange","GroupId":"r","EventType":"Online",
    "EventCause":"Join","MemberList":["a"],"EventTime":1772366399500}"#;
const LOGIN: &str = r#"{"CallbackCommand":"State.StateChange","Info":{"Action":"Login","To_Account":"a",
    "Reason":"Register"},"EventTime":1772366399500}"#;
const INFO: &str = r#"{"CallbackCommand":"Group.CallbackAfterGroupInfoChanged","GroupId":"r","Name":"n",
    "EventTime":1772366399500}"#;
const UNKNOWN: &str = r#"{"CallbackCommand":"Future.Command","GroupId":"r","Value":1,"EventTime":1772366399500}"#;

#[test]
fn a_change_of_a_field_that_counts_changes_the_identity_and_of_another_does_not() {
    /// (body, what to replace, by what, whether the identity changes)
    const CHANGES: [(&str, &str, &str, bool); 29] = [
        (MESSAGE, "\"GroupId\":\"r\"", "\"GroupId\":\"s\"", true),
        (MESSAGE, "\"From_Account\":\"a\"", "\"From_Account\":\"b\"", true),
        (MESSAGE, "\"MsgId\":\"m\"", "\"MsgId\":\"n\"", true),
        (MESSAGE, "AfterSendMsg", "BeforeSendMsg", true),
        // With a MsgId nothing else counts.
        (MESSAGE, "\"MsgSeq\":9", "\"MsgSeq\":10", false),
        (MESSAGE, "\"Random\":5", "\"Random\":6", false),
        (MESSAGE, "1772366399500", "1772366399501", false),
        (MESSAGE, "\"Text\":\"t\"", "\"Text\":\"u\"", false),
        (OLD_MESSAGE, "\"Random\":5", "\"Random\":6", true),
        (OLD_MESSAGE, "\"MsgTime\":1772366399", "\"MsgTime\":1772366398", true),
        (OLD_MESSAGE, "\"MsgSeq\":9", "\"MsgSeq\":10", true),
        (OLD_MESSAGE, "\"From_Account\":\"a\"", "\"From_Account\":\"b\"", true),
        (OLD_MESSAGE, "\"MsgSeq\":9", "\"CloudCustomData\":\"x\",\"MsgSeq\":9", false),
        (EXCEPTION, "1772366399500", "1772366399501", true),
        (EXCEPTION, "\"Random\":5", "\"Random\":6", true),
        (JOIN, "\"GroupId\":\"r\"", "\"GroupId\":\"s\"", true),
        (JOIN, "1772366399500", "1772366399501", true),
        (JOIN, "AVChatRoom", "Public", false),
        (STATE, "Online", "Offline", true),
        (STATE, "\"EventCause\":\"Join\"", "\"EventCause\":\"HeartbeatRecover\"", true),
        (STATE, "\"MemberList\"", "\"Type\":\"AVChatRoom\",\"MemberList\"", false),
        (LOGIN, "\"Action\":\"Login\"", "\"Action\":\"Logout\"", true),
        (LOGIN, "Register", "TimeOut", true),
        (LOGIN, "\"a\"", "\"b\"", true),
        (LOGIN, "1772366399500", "1772366399501", true),
        (INFO, "\"Name\":\"n\"", "\"Name\":\"o\"", true),
        (UNKNOWN, "\"Value\":1", "\"Value\":2", true),
        (UNKNOWN, "Future.Command", "Future.Other", true),
        (UNKNOWN, "1772366399500", "1772366399501", true),
    ];
    for (body, from, to, changes) in CHANGES {
        let changed = body.replacen(from, to, 1);
        assert_ne!(changed, body, "{from}");
        for (before, after) in identities(body).into_iter().zip(identities(&changed)) {
            assert!(before.is_some() && after.is_some(), "{body}");
            assert_eq!(before != after, changes, "{from} -> {to} in {body}");
        }
    }
}

#[test]
fn without_a_time_of_its_own_an_event_is_told_by_its_receipt_and_a_message_is_not() {
    let later = Stamp { received_at_ms: stamp().received_at_ms + 1, ..stamp() };
    for (body, by_receipt) in [
        (MESSAGE, false),
        (OLD_MESSAGE, false),
        (EXCEPTION, false),
        (JOIN, true),
        (STATE, true),
        (LOGIN, true),
        (INFO, true),
        (UNKNOWN, true),
    ] {
        let timed = identities(body);
        let body = body.replace(",\"EventTime\":1772366399500", "").replace(",\n    \"EventTime\":1772366399500", "");
        assert!(!body.contains("EventTime"), "{body}");
        let (now, again, then) = (identities(&body), identities(&body), identities_at(&body, &later));
        assert_eq!(now, again);
        for ((now, then), timed) in now.into_iter().zip(then).zip(timed) {
            assert!(now.is_some(), "{body}");
            assert_eq!(now != then, by_receipt, "{body}");
            assert!(now != timed || !by_receipt, "{body}");
        }
    }
    // MsgSeq alone is no key.
    let only_sequence = OLD_MESSAGE.replace("\"Random\":5,", "");
    assert_eq!(identities(&only_sequence), [None, None]);
}

#[test]
fn members_and_their_order_count_in_the_room_and_the_account_in_its_copy() {
    let [room, a, b] = identities(JOIN).try_into().unwrap();
    assert!(room != a && a != b && room != b);
    let [other_room, other_a] = identities(&JOIN.replace("[\"a\",\"b\"]", "[\"a\"]")).try_into().unwrap();
    assert_ne!(room, other_room, "another list of members");
    assert_eq!(a, other_a, "the same account, room and time");
    let [joined, _] = identities(&JOIN.replace("[\"a\",\"b\"]", "[\"ab\"]")).try_into().unwrap();
    assert!(joined != room && joined != other_room);
}

#[test]
fn one_platform_is_not_another() {
    let rules = barrage_event::rules::Compiled::shipped();
    let on = |platform| {
        let callback = barrage_event::callback::decode("", platform, LOGIN.as_bytes(), &rules).unwrap();
        identity(&EnvelopeView::decode(&records(&callback, &stamp())[0]).unwrap())
    };
    assert_ne!(on("iOS"), on("Web"));
    assert_eq!(on("iOS"), on("IOS"), "spellings of one");
}

#[test]
fn business_events_are_told_by_kind_and_key_and_their_content_by_its_digest() {
    const GIFT: &str = r#"{"type":"gift_billed","id":"k1","room":"r","account":"a","gift_id":"g","count":1,"value":5}"#;
    const MEMBER: &str =
        r#"{"type":"membership_opened","id":"k1","room":"r","account":"a","tier":"t","months":1,"value":5}"#;
    let key = |item: &str, app: u32, received_at_ms: i64| {
        let event = business::parse(item).unwrap();
        let stamp = Stamp { app, received_at_ms, ..stamp() };
        let bytes = record(&event.callback, &stamp, &event.callback.routes()[0], true);
        business_key(&EnvelopeView::decode(&bytes).unwrap()).unwrap()
    };
    let (gift, content) = key(GIFT, 1, NOW_MS);
    assert_eq!(key(GIFT, 1, NOW_MS + 5), (gift, content), "sent again later");
    assert_eq!(key(&GIFT.replace(',', " , "), 1, NOW_MS), (gift, content), "written otherwise");
    for (from, to) in
        [("\"value\":5", "\"value\":6"), ("\"count\":1", "\"count\":2"), ("\"account\":\"a\"", "\"account\":\"b\"")]
    {
        let (same, other) = key(&GIFT.replace(from, to), 1, NOW_MS);
        assert!(same == gift && other != content, "{to}");
    }
    assert_ne!(key(&GIFT.replace("\"value\":5", "\"value\":5,\"at_ms\":1772366399500"), 1, NOW_MS).1, content);
    assert_ne!(key(&GIFT.replace("k1", "k2"), 1, NOW_MS).0, gift);
    assert_ne!(key(GIFT, 2, NOW_MS).0, gift);
    assert_ne!(key(MEMBER, 1, NOW_MS).0, gift);
    let bytes = records(&decode(MESSAGE), &stamp()).remove(0);
    assert_eq!(business_key(&EnvelopeView::decode(&bytes).unwrap()), None);
}

#[test]
fn identities_of_different_callbacks_never_meet() {
    let mut seen = HashMap::new();
    for body in [MESSAGE, OLD_MESSAGE, EXCEPTION, JOIN, STATE, LOGIN, INFO, UNKNOWN] {
        for identity in identities(body).into_iter().flatten() {
            assert_eq!(seen.insert(identity, body), None, "{body}");
        }
    }
}

proptest! {
    #[test]
    fn copies_of_one_callback_have_one_identity(
        which in 0..8_usize,
        id: u128,
        received_at_ms in any::<i64>(),
        incarnation: u64,
        rules_version: u32,
        rejected: bool,
        sequence: u64,
    ) {
        let body = [MESSAGE, OLD_MESSAGE, EXCEPTION, JOIN, STATE, LOGIN, INFO, UNKNOWN][which];
        let verdict = rejected.then(|| Verdict {
            outcome: Outcome::Rejected, code: 1, rule: "before.mute.users".into(), message: String::new(),
        });
        let again = Stamp { id, received_at_ms, incarnation, rules_version, verdict, ..stamp() };
        prop_assert_eq!(identities_at(body, &again), identities(body));

        let callback = decode(body);
        let mut bytes = Vec::new();
        callback.encode(&again, &callback.routes()[0], true, &mut bytes);
        barrage_event::append_sequence(&mut bytes, sequence);
        prop_assert_eq!(identity(&EnvelopeView::decode(&bytes).unwrap()), identities(body)[0]);
    }

    #[test]
    fn fields_do_not_run_into_each_other(room in "[ab]{1,4}", account in "[ab]{1,4}", id in "[ab]{1,4}",
                                         other_room in "[ab]{1,4}", other_account in "[ab]{1,4}", other_id in "[ab]{1,4}") {
        prop_assume!((&room, &account, &id) != (&other_room, &other_account, &other_id));
        let body = |room: &str, account: &str, id: &str| format!(
            r#"{{"CallbackCommand":"Group.CallbackBeforeSendMsg","GroupId":"{room}","From_Account":"{account}","MsgId":"{id}"}}"#
        );
        let one = identities(&body(&room, &account, &id));
        let other = identities(&body(&other_room, &other_account, &other_id));
        prop_assert_eq!(one == other, false);
    }
}
