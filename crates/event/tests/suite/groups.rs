//! Groups, members, accounts, limits and streams: every other typed command, and the untyped ones.

use barrage_event::callback::{self, UntypedReason};
use barrage_event::proto::envelope::Event;
use barrage_event::proto::{self, Envelope, member_state, state_change};
use barrage_event::rules::Compiled;
use barrage_event::{Topic, command};
use prost::Message as _;

use crate::common::{decode, envelope, event, records, route_list, stamp};

fn strings(items: &[&str]) -> Vec<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

fn room(key: &str) -> (Topic, String) {
    (Topic::Room, key.to_owned())
}

fn user(key: &str) -> (Topic, String) {
    (Topic::User, key.to_owned())
}

#[test]
fn state_changes_are_read() {
    use state_change::Action;
    let body = |info: &str, more: &str| {
        format!(r#"{{"CallbackCommand":"State.StateChange","EventTime":1772366399500,"Info":{info}{more}}}"#)
    };
    let expected = |action: Action, reason: &str| proto::StateChange {
        action: action.into(),
        account: "mei".into(),
        reason: reason.into(),
        ..Default::default()
    };
    for (action, reason, wire) in [
        ("Login", "Register", Action::Login),
        ("Logout", "Unregister", Action::Logout),
        ("Disconnect", "LinkClose", Action::Disconnect),
        ("Disconnect", "TimeOut", Action::Disconnect),
        ("Teleport", "New", Action::Unspecified),
    ] {
        let body = body(&format!(r#"{{"Action":"{action}","To_Account":"mei","Reason":"{reason}"}}"#), "");
        assert_eq!(event(&body), Event::StateChange(expected(wire, reason)));
        assert_eq!(route_list(&decode(&body)), [user("mei")]);
        assert_eq!(envelope(&body).body, body.as_bytes(), "the only record of a callback carries the body");
    }

    let custom = body(
        r#"{"Action":"CustomStatusChange","To_Account":"mei","Reason":"SetCustomStatus","CustomStatus":"in room_31"}"#,
        "",
    );
    let status =
        proto::StateChange { custom_status: "in room_31".into(), ..expected(Action::CustomStatus, "SetCustomStatus") };
    assert_eq!(event(&custom), Event::StateChange(status));

    let login = r#"{"Action":"Login","To_Account":"mei","Reason":"Register"}"#;
    for devices in [r#"[{"Platform":"macOS"},{"Platform":"IPad"},{"Platform":"Linux"}]"#, r#"["Mac","iPad","linux"]"#] {
        let kicked = proto::StateChange {
            kicked_platforms: strings(&["mac", "ipad", "linux"]),
            ..expected(Action::Login, "Register")
        };
        assert_eq!(event(&body(login, &format!(r#","KickedDevice":{devices}"#))), Event::StateChange(kicked));
    }

    for info in ["null", "{}", r#"["Login","mei","Register"]"#, r#"{"Action":"Login","To_Account":7}"#] {
        let body = body(info, "");
        assert_eq!(decode(&body).untyped_reason(), Some(&UntypedReason::Field("Info.To_Account")), "{info}");
    }
}

#[test]
fn joins_and_exits_list_their_members_as_objects_or_strings() {
    for members in [
        r#"[{"Member_Account":"mei"},{"Member_Account":"bo"},{"Member_Account":"mei"}]"#,
        r#"["mei","bo","mei"]"#,
        r#"[{"Modified_Account":"mei"},{"Account":"bo"},"mei"]"#,
    ] {
        for (word, list, by, other) in [
            ("AfterNewMemberJoin", "NewMemberList", "JoinType", "Invited"),
            ("AfterMemberExit", "ExitMemberList", "ExitType", "Kicked"),
        ] {
            for (value, by_other) in [(other, true), ("Apply", false)] {
                let body = format!(
                    r#"{{"CallbackCommand":"Group.Callback{word}","GroupId":"room_31","Type":"Public","{by}":"{value}",
                    "Operator_Account":"op","{list}":{members},"EventTime":"1772366399500"}}"#
                );
                let (group_id, group_type, operator) = ("room_31".to_owned(), "Public".to_owned(), "op".to_owned());
                let expected = |members: &[&str]| {
                    let (group_id, group_type) = (group_id.clone(), group_type.clone());
                    let (operator_account, members) = (operator.clone(), strings(members));
                    if word == "AfterNewMemberJoin" {
                        let invited = by_other;
                        Event::MembersJoined(proto::MembersJoined {
                            group_id,
                            group_type,
                            operator_account,
                            invited,
                            members,
                        })
                    } else {
                        let kicked = by_other;
                        Event::MembersLeft(proto::MembersLeft {
                            group_id,
                            group_type,
                            operator_account,
                            kicked,
                            members,
                        })
                    }
                };
                let callback = decode(&body);
                assert_eq!(route_list(&callback), [room("room_31"), user("mei"), user("bo")]);
                let events: Vec<_> = records(&callback, &stamp())
                    .iter()
                    .map(|bytes| Envelope::decode(&**bytes).unwrap().event.unwrap())
                    .collect();
                assert_eq!(events, [expected(&["mei", "bo", "mei"]), expected(&["mei"]), expected(&["bo"])]);
            }
        }
    }
}

#[test]
fn member_states_are_read_in_the_new_and_the_old_shape() {
    let body = |kind: &str, cause: &str| {
        format!(
            r#"{{"CallbackCommand":"Group.CallbackOnMemberStateChange","GroupId":"room_31","EventType":"{kind}"{cause},
            "MemberList":[{{"Member_Account":"mei"}},{{"Member_Account":"bo"}}]}}"#
        )
    };
    use member_state::Cause;
    for (kind, cause, online, wire) in [
        ("Online", r#","EventCause":"Join""#, true, Cause::Join),
        ("Offline", r#","EventCause":"Quit""#, false, Cause::Quit),
        ("Offline", r#","EventCause":"HeartbeatInterrupt""#, false, Cause::HeartbeatInterrupt),
        ("Online", r#","EventCause":"HeartbeatRecover""#, true, Cause::HeartbeatRecover),
        ("Offline", "", false, Cause::Unspecified),
    ] {
        let body = body(kind, cause);
        let expected = |members: &[&str]| {
            let (group_id, cause, members) = ("room_31".to_owned(), wire.into(), strings(members));
            Event::MemberState(proto::MemberState { group_id, online, cause, members })
        };
        let callback = decode(&body);
        let records = records(&callback, &stamp());
        let events = records.iter().map(|bytes| Envelope::decode(&**bytes).unwrap().event.unwrap());
        let all = [expected(&["mei", "bo"]), expected(&["mei"]), expected(&["bo"])];
        assert_eq!(events.collect::<Vec<_>>(), all, "{body}");
        assert_eq!(route_list(&callback), [room("room_31"), user("mei"), user("bo")]);
    }
    let sideways = body("Sideways", "");
    assert_eq!(decode(&sideways).untyped_reason(), Some(&UntypedReason::Field("EventType")));
}

#[test]
fn the_life_of_a_group_is_read() {
    let table = [
        (
            r#"{"CallbackCommand":"Group.CallbackBeforeCreateGroup","Operator_Account":"op","Owner_Account":"host",
            "Type":"AVChatRoom","Name":"晚间","CreateGroupNum":3,"MemberList":[],"EventTime":1}"#,
            Event::BeforeCreateGroup(proto::BeforeCreateGroup {
                group_type: "AVChatRoom".into(),
                operator_account: "op".into(),
                owner_account: "host".into(),
                name: "晚间".into(),
            }),
            user("host"),
        ),
        (
            r#"{"CallbackCommand":"Group.CallbackAfterCreateGroup","GroupId":"g","Operator_Account":"op",
            "Owner_Account":"host","Type":"Public","Name":"n","MemberList":[{"Member_Account":"mei"}],
            "UserDefinedDataList":[{"Key":"k","Value":"v"}]}"#,
            Event::GroupCreated(proto::GroupCreated {
                group_id: "g".into(),
                group_type: "Public".into(),
                operator_account: "op".into(),
                owner_account: "host".into(),
                name: "n".into(),
                members: strings(&["mei"]),
            }),
            room("g"),
        ),
        (
            r#"{"CallbackCommand":"Group.CallbackBeforeApplyJoinGroup","GroupId":"g","Type":"AVChatRoom",
            "Requestor_Account":"mei","ApplyMsg":"please"}"#,
            Event::BeforeJoin(proto::BeforeJoin {
                group_id: "g".into(),
                group_type: "AVChatRoom".into(),
                requestor_account: "mei".into(),
                apply_msg: "please".into(),
            }),
            room("g"),
        ),
        (
            r#"{"CallbackCommand":"Group.CallbackAfterRecallMsg","GroupId":"g","Type":"AVChatRoom",
            "Operator_Account":"op","MsgSeqList":[{"MsgSeq":102,"MsgId":"m"},{"MsgSeq":"103"}]}"#,
            Event::MessagesRecalled(proto::MessagesRecalled {
                group_id: "g".into(),
                group_type: "AVChatRoom".into(),
                operator_account: "op".into(),
                messages: vec![
                    proto::RecalledMessage { msg_seq: 102, msg_id: "m".into() },
                    proto::RecalledMessage { msg_seq: 103, msg_id: String::new() },
                ],
            }),
            room("g"),
        ),
        (
            r#"{"CallbackCommand":"Group.CallbackAfterGroupInfoChanged","GroupId":"g","Type":"AVChatRoom",
            "Operator_Account":"op","Notification":"","Name":"new"}"#,
            Event::GroupInfoChanged(proto::GroupInfoChanged {
                group_id: "g".into(),
                group_type: "AVChatRoom".into(),
                operator_account: "op".into(),
                name: Some("new".into()),
                introduction: None,
                notification: Some(String::new()),
                face_url: None,
            }),
            room("g"),
        ),
        (
            r#"{"CallbackCommand":"Group.CallbackAfterGroupAttrChanged","GroupId":"g","Type":"AVChatRoom",
            "Operator_Account":"op","OptionType":"modify","GroupAttr":[{"key":"a","value":"1"},{"Key":"b","Value":"2"}]}"#,
            Event::GroupAttributesChanged(proto::GroupAttributesChanged {
                group_id: "g".into(),
                group_type: "AVChatRoom".into(),
                operator_account: "op".into(),
                option: "modify".into(),
                attributes: vec![
                    proto::KeyValue { key: "a".into(), value: "1".into() },
                    proto::KeyValue { key: "b".into(), value: "2".into() },
                ],
            }),
            room("g"),
        ),
        (
            r#"{"CallbackCommand":"Group.CallbackAfterGroupDestroyed","GroupId":"g","Type":"AVChatRoom",
            "Owner_Account":"host","Name":"n"}"#,
            Event::GroupDestroyed(proto::GroupDestroyed {
                group_id: "g".into(),
                group_type: "AVChatRoom".into(),
                owner_account: "host".into(),
                name: "n".into(),
            }),
            room("g"),
        ),
    ];
    for (body, expected, route) in table {
        assert_eq!(event(body), expected);
        assert_eq!(route_list(&decode(body)), [route], "{body}");
    }
}

#[test]
fn alarms_name_no_room() {
    let table = [
        (
            r#"{"CallbackCommand":"Group.CallbackOnDailyGroupQuotaAlarm","QuotaUsed":7001,"Quota":"10000"}"#,
            Event::QuotaAlarm(proto::QuotaAlarm { used: 7001, quota: 10_000 }),
            room(""),
        ),
        (
            r#"{"CallbackCommand":"Alert.RequestOverLimit","ServiceName":"s","Command":"c","Request":180,"Limit":200}"#,
            Event::RequestOverLimit(proto::RequestOverLimit {
                service_name: "s".into(),
                request_command: "c".into(),
                requests: 180,
                limit: 200,
            }),
            room(""),
        ),
    ];
    for (body, expected, route) in table {
        assert_eq!(event(body), expected);
        assert_eq!(route_list(&decode(body)), [route], "{body}");
    }
}

#[test]
fn streams_name_no_command_and_are_told_by_their_event_type() {
    let body = |kind: &str, more: &str| {
        format!(
            r#"{{"app":"push.example.net","appid":1250000001,"appname":"live","channel_id":"room_31",
            "stream_id":"room_31","errcode":0,"errmsg":"ok","event_time":1772366399,"event_type":{kind},
            "sequence":"77","t":1772366999{more}}}"#
        )
    };
    let stream = |started, more: &dyn Fn(&mut proto::StreamChange)| {
        let mut stream = proto::StreamChange {
            stream_id: "room_31".into(),
            started,
            sequence: "77".into(),
            domain: "push.example.net".into(),
            path: "live".into(),
            error_message: "ok".into(),
            ..Default::default()
        };
        more(&mut stream);
        Event::StreamChange(stream)
    };
    let push = body("1", "");
    assert_eq!((event(&push), decode(&push).command()), (stream(true, &|_| ()), command::STREAM_PUSH));
    let interrupt = body("\"0\"", r#","push_duration":"7200000""#);
    assert_eq!(event(&interrupt), stream(false, &|s| s.push_duration = 7_200_000));
    assert_eq!(decode(&interrupt).command(), command::STREAM_INTERRUPT);
    for body in [&push, &interrupt] {
        assert_eq!(route_list(&decode(body)), [room("room_31")]);
        assert_eq!(decode(body).event_time_ms(), Some(1_772_366_399_000));
    }
    // A command of ours in the query says the same, and a recording file is kept.
    let told = callback::decode(command::STREAM_PUSH, "", push.as_bytes(), &Compiled::shipped()).unwrap();
    assert_eq!((told.command(), told.untyped_reason()), (command::STREAM_PUSH, None));
    let recording = body("100", "");
    let callback = decode(&recording);
    assert_eq!(
        (callback.command(), callback.untyped_reason()),
        (command::STREAM_OTHER, Some(&UntypedReason::NotTyped))
    );
    assert_eq!(callback.event_time_ms(), Some(1_772_366_399_000));
    assert_eq!(route_list(&callback), [room("room_31")]);
}

#[test]
fn pushes_in_bulk_take_time_and_command_from_their_first_event() {
    let body = r#"{"Events":[{"CallbackCommand":"Push.OfflinePush","EventTime":1772366399,"x":1},{"EventTime":1}]}"#;
    let callback = decode(body);
    assert_eq!((callback.command(), callback.event_time_ms()), ("Push.OfflinePush", Some(1_772_366_399_000)));
    assert_eq!(callback.untyped_reason(), Some(&UntypedReason::NotTyped));
    assert_eq!(envelope(body).body, body.as_bytes());
    for events in ["[]", "{}", "[[]]", "null", "[7]"] {
        let body = format!(r#"{{"Events":{events}}}"#);
        let told = callback::decode("Push.AllMemberPush", "", body.as_bytes(), &Compiled::shipped()).unwrap();
        assert_eq!(told.event_time_ms(), None, "{events}");
    }
}

#[test]
fn every_other_command_is_kept_with_its_body_under_what_it_names() {
    let table = [
        ("C2C.CallbackAfterSendMsg", r#""From_Account":"a","To_Account":"b""#, "b"),
        ("C2C.CallbackAfterMsgReport", r#""Report_Account":"a","Peer_Account":"b""#, "a"),
        ("Group.CallbackAfterGroupFull", r#""GroupId":"g""#, "g"),
        ("Live.CallbackAfterCreateRoom", r#""RoomId":"live_9","Operator_Account":"op""#, "live_9"),
        ("Group.CallbackAfterMemberInvited", r#""GroupId":5,"Operator_Account":"op""#, "op"),
        ("Future.Anything", r#""Deep":{"GroupId":"not this"}"#, ""),
    ];
    for (name, fields, key) in table {
        let body = format!(r#"{{"CallbackCommand":"{name}",{fields},"EventTime":1772366399500}}"#);
        let callback = decode(&body);
        let reason = match command::known(name) {
            Some(_) => UntypedReason::NotTyped,
            None => UntypedReason::UnknownCommand,
        };
        assert_eq!(callback.untyped_reason(), Some(&reason), "{name}");
        assert_eq!(route_list(&callback), [room(key)], "{name}");
        let envelope = envelope(&body);
        assert_eq!((&*envelope.command, envelope.event, &*envelope.body), (name, None, body.as_bytes()));
        assert!(envelope.has_event_time, "{name}");
    }
    // Every command of the vendor's list is taken, whatever its body holds.
    for name in command::all() {
        let body = format!(r#"{{"CallbackCommand":"{name}","EventTime":1772366399500}}"#);
        let callback = decode(&body);
        assert_eq!((callback.command(), callback.known_command()), (name, Some(name)));
        assert!(!callback.routes().is_empty(), "{name} would be lost");
        assert_eq!(callback.event_time_ms(), Some(1_772_366_399_500), "{name}");
    }
}
