//! prost is the oracle of the codec: what it writes, the view reads as the same; what we write, it reads as the same.

use barrage_event::event::{self, ElementView};
use barrage_event::proto::element::Element as El;
use barrage_event::proto::envelope::Event as P;
use barrage_event::proto::{self, Envelope};
use barrage_event::wire::{Reader, WireError, Writer};
use barrage_event::{DecodeError, EnvelopeView, Event, append_sequence};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use prost::Message as _;

use crate::common::{decode, records, stamp};

/// The view as prost's type. Numbers of enums that this version does not know read as a default, so none are made.
fn to_proto(view: &EnvelopeView<'_>) -> Envelope {
    Envelope {
        id: if view.id == 0 { Vec::new() } else { view.id.to_be_bytes().to_vec() },
        sdk_app_id: view.app,
        command: view.command.into(),
        occurred_at: view.occurred_at_ms,
        received_at: view.received_at_ms,
        incarnation: view.incarnation,
        sequence: view.sequence,
        platform: view.platform.into(),
        verdict: view.verdict.map(|v| proto::Verdict {
            outcome: v.outcome.to_wire(),
            code: v.code,
            rule: v.rule.into(),
        }),
        rules_version: view.rules_version,
        parser_version: view.parser_version,
        original_event_time: view.original_event_time_ms,
        has_event_time: view.has_event_time,
        route_key: view.route_key.into(),
        body: view.body.to_vec(),
        source: view.source.map(|s| proto::Source {
            log_uuid: s.log_uuid.to_be_bytes().to_vec(),
            partition: u32::from(s.partition),
            offset: s.offset,
            index: s.index,
        }),
        event: event_to_proto(&view.event),
    }
}

fn strings(list: event::Strings<'_>) -> Vec<String> {
    list.iter().map(str::to_owned).collect()
}

/// A message of prost's with the fields of a view by the same names, `into()` where the types differ.
macro_rules! same {
    ($view:expr, $name:ident { $($field:ident),* $(; $($other:ident: $value:expr),*)? }) => {
        proto::$name { $($field: $view.$field.into(),)* $($($other: $value,)*)? }
    };
}

fn event_to_proto(event: &Event<'_>) -> Option<P> {
    Some(match event {
        Event::None => return None,
        Event::StateChange(e) => P::StateChange(same!(e, StateChange { account, reason, custom_status;
            action: e.action.to_wire(), kicked_platforms: strings(e.kicked_platforms) })),
        Event::BeforeSend(m) => P::BeforeSend(message_to_proto(m)),
        Event::AfterSend(m) => P::AfterSend(message_to_proto(m)),
        Event::SendException(m) => P::SendException(message_to_proto(m)),
        Event::GroupCreated(e) => P::GroupCreated(same!(e, GroupCreated { group_id, group_type, operator_account,
            owner_account, name; members: strings(e.members) })),
        Event::BeforeJoin(e) => {
            P::BeforeJoin(same!(e, BeforeJoin { group_id, group_type, requestor_account, apply_msg }))
        }
        Event::MembersJoined(e) => P::MembersJoined(same!(e, MembersJoined { group_id, group_type, operator_account;
            invited: e.by_other, members: strings(e.members) })),
        Event::MembersLeft(e) => P::MembersLeft(same!(e, MembersLeft { group_id, group_type, operator_account;
            kicked: e.by_other, members: strings(e.members) })),
        Event::MemberState(e) => P::MemberState(same!(e, MemberState { group_id, online;
            cause: e.cause.to_wire(), members: strings(e.members) })),
        Event::MessagesRecalled(e) => P::MessagesRecalled(same!(e, MessagesRecalled { group_id, group_type,
            operator_account; messages: e.messages.iter().map(|m| same!(m, RecalledMessage { msg_seq, msg_id })).collect() })),
        Event::GroupInfoChanged(e) => P::GroupInfoChanged(same!(e, GroupInfoChanged { group_id, group_type,
            operator_account; name: e.name.map(Into::into), introduction: e.introduction.map(Into::into),
            notification: e.notification.map(Into::into), face_url: e.face_url.map(Into::into) })),
        Event::GroupAttributesChanged(e) => P::GroupAttributesChanged(same!(e, GroupAttributesChanged { group_id,
            group_type, operator_account, option;
            attributes: e.attributes.iter().map(|a| same!(a, KeyValue { key, value })).collect() })),
        Event::GroupDestroyed(e) => {
            P::GroupDestroyed(same!(e, GroupDestroyed { group_id, group_type, owner_account, name }))
        }
        Event::QuotaAlarm(e) => P::QuotaAlarm(same!(e, QuotaAlarm { used, quota })),
        Event::RequestOverLimit(e) => {
            P::RequestOverLimit(same!(e, RequestOverLimit { service_name, request_command, requests, limit }))
        }
        Event::StreamChange(e) => P::StreamChange(same!(e, StreamChange { stream_id, started, sequence, domain, path,
            error_code, error_message; push_duration: e.push_duration_ms })),
        Event::BeforeCreateGroup(e) => {
            P::BeforeCreateGroup(same!(e, BeforeCreateGroup { group_type, operator_account, owner_account, name }))
        }
        Event::GiftBilled(e) => P::GiftBilled(same!(
            e,
            GiftBilled { idempotency_key, group_id, from_account, gift_id, count, value, combo_id, order_id }
        )),
        Event::MembershipOpened(e) => {
            P::MembershipOpened(same!(e, MembershipOpened { idempotency_key, account, group_id, tier, months, value }))
        }
        Event::RulesApplied(e) => {
            P::RulesApplied(same!(e, RulesApplied { version, rules_toml, applied_by, applied_at_ms }))
        }
        Event::AccountMoves(e) => P::AccountMoves(same!(e, AccountMoves { group_id, account, from_ms;
            moves: e.moves.iter().map(|m| same!(m, AccountMove { at_ms, back, uncertain_ms, maybe })).collect() })),
    })
}

fn message_to_proto(m: &event::Message<'_>) -> proto::Message {
    same!(m, Message { group_id, group_type, from_account, operator_account, random, msg_id, msg_seq, msg_time_s,
        error_code, error_info, topic_id, cloud_custom_data, at_all;
        kind: m.kind.to_wire(),
        custom: m.custom.map(|c| same!(c, CustomFields { count, value, gift_id, combo_id, order_id, tier, months })),
        elements: m.elements.iter().map(|e| element_to_proto(&e.expect("prost wrote it"))).collect(),
        at_accounts: strings(m.at_accounts) })
}

fn element_to_proto(element: &ElementView<'_>) -> proto::Element {
    let element = match element {
        ElementView::Unknown => None,
        ElementView::Text(text) => Some(El::Text(proto::TextElement { text: (*text).into() })),
        ElementView::Custom(e) => Some(El::Custom(same!(e, CustomElement { data, desc, ext, sound }))),
        ElementView::Face(e) => Some(El::Face(same!(e, FaceElement { index, data }))),
        ElementView::Location(e) => Some(El::Location(same!(e, LocationElement { desc, latitude, longitude }))),
        ElementView::Sound(e) => Some(El::Sound(same!(e, SoundElement { url, uuid, size_bytes, duration_s }))),
        ElementView::Image(e) => Some(El::Image(same!(e, ImageElement { uuid, format;
            images: e.images.iter().map(|i| same!(i, ImageInfo { size_bytes, width, height, url; r#type: i.image_type })).collect() }))),
        ElementView::File(e) => Some(El::File(same!(e, FileElement { url, uuid, size_bytes, name }))),
        ElementView::Video(e) => {
            Some(El::Video(same!(e, VideoElement { url, uuid, size_bytes, duration_s, format, thumb_url })))
        }
        ElementView::Other(e) => Some(El::Other(same!(e, OtherElement { msg_type, content_json }))),
    };
    proto::Element { element }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[a-z好]{1,6}", "\\PC{100,200}"]
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    vec(text(), 0..4)
}

fn t<const N: usize>() -> impl Strategy<Value = [String; N]> {
    vec(text(), N).prop_map(|texts| texts.try_into().expect("of that length"))
}

fn elements() -> impl Strategy<Value = Vec<proto::Element>> {
    let real = prop_oneof![Just(0.0), any::<f64>().prop_filter("a number", |n| !n.is_nan() && *n != 0.0)];
    let image = (any::<(u32, u64, u32, u32)>(), text()).prop_map(|((r#type, size_bytes, width, height), url)| {
        proto::ImageInfo { r#type, size_bytes, width, height, url }
    });
    let element =
        prop_oneof![
            text().prop_map(|text| El::Text(proto::TextElement { text })),
            t().prop_map(|[data, desc, ext, sound]| El::Custom(proto::CustomElement { data, desc, ext, sound })),
            (any::<i64>(), text()).prop_map(|(index, data)| El::Face(proto::FaceElement { index, data })),
            (text(), real.clone(), real).prop_map(|(desc, latitude, longitude)| {
                El::Location(proto::LocationElement { desc, latitude, longitude })
            }),
            (t(), any::<(u64, u64)>()).prop_map(|([url, uuid], (size_bytes, duration_s))| {
                El::Sound(proto::SoundElement { url, uuid, size_bytes, duration_s })
            }),
            (text(), any::<u32>(), vec(image, 0..3))
                .prop_map(|(uuid, format, images)| El::Image(proto::ImageElement { uuid, format, images })),
            (t(), any::<u64>()).prop_map(|([url, uuid, name], size_bytes)| {
                El::File(proto::FileElement { url, uuid, size_bytes, name })
            }),
            (t(), any::<(u64, u64)>()).prop_map(|([url, uuid, format, thumb_url], (size_bytes, duration_s))| {
                El::Video(proto::VideoElement { url, uuid, size_bytes, duration_s, format, thumb_url })
            }),
            t().prop_map(|[msg_type, content_json]| El::Other(proto::OtherElement { msg_type, content_json })),
        ];
    vec(option::of(element).prop_map(|element| proto::Element { element }), 0..4)
}

fn message() -> impl Strategy<Value = proto::Message> {
    let custom =
        (any::<(u64, u64, u32)>(), t()).prop_map(|((count, value, months), [gift_id, combo_id, order_id, tier])| {
            proto::CustomFields { count, value, gift_id, combo_id, order_id, tier, months }
        });
    (
        (t(), any::<(Option<u32>, Option<u64>, Option<i64>, i32, bool)>()),
        (1..=13_i32, option::of(custom), elements(), texts()),
    )
        .prop_map(
            |((texts, (random, msg_seq, msg_time_s, error_code, at_all)), (kind, custom, elements, at_accounts))| {
                let [group_id, group_type, from_account, operator_account, msg_id, error_info, topic_id, cloud] = texts;
                proto::Message {
                    group_id,
                    group_type,
                    from_account,
                    operator_account,
                    random,
                    msg_id,
                    msg_seq,
                    msg_time_s,
                    kind,
                    custom,
                    error_code,
                    error_info,
                    topic_id,
                    elements,
                    cloud_custom_data: cloud,
                    at_accounts,
                    at_all,
                }
            },
        )
}

fn room_event() -> impl Strategy<Value = P> {
    prop_oneof![
        (0..5, t(), texts()).prop_map(|(action, [account, reason, custom_status], kicked_platforms)| {
            P::StateChange(proto::StateChange { action, account, reason, kicked_platforms, custom_status })
        }),
        (t(), texts()).prop_map(|([group_id, group_type, operator_account, owner_account, name], members)| {
            P::GroupCreated(proto::GroupCreated {
                group_id,
                group_type,
                operator_account,
                owner_account,
                name,
                members,
            })
        }),
        t().prop_map(|[group_id, group_type, requestor_account, apply_msg]| {
            P::BeforeJoin(proto::BeforeJoin { group_id, group_type, requestor_account, apply_msg })
        }),
        (t(), any::<bool>(), texts()).prop_map(|([group_id, group_type, operator_account], invited, members)| {
            P::MembersJoined(proto::MembersJoined { group_id, group_type, operator_account, invited, members })
        }),
        (t(), any::<bool>(), texts()).prop_map(|([group_id, group_type, operator_account], kicked, members)| {
            P::MembersLeft(proto::MembersLeft { group_id, group_type, operator_account, kicked, members })
        }),
        (text(), any::<bool>(), 0..5, texts()).prop_map(|(group_id, online, cause, members)| {
            P::MemberState(proto::MemberState { group_id, online, cause, members })
        }),
        (t(), vec((any::<u64>(), text()), 0..4)).prop_map(|([group_id, group_type, operator_account], messages)| {
            let messages = messages.into_iter().map(|(msg_seq, msg_id)| proto::RecalledMessage { msg_seq, msg_id });
            let messages = messages.collect();
            P::MessagesRecalled(proto::MessagesRecalled { group_id, group_type, operator_account, messages })
        }),
        (t(), vec(option::of(text()), 4)).prop_map(|([group_id, group_type, operator_account], mut o)| {
            P::GroupInfoChanged(proto::GroupInfoChanged {
                group_id,
                group_type,
                operator_account,
                name: o.pop().flatten(),
                introduction: o.pop().flatten(),
                notification: o.pop().flatten(),
                face_url: o.pop().flatten(),
            })
        }),
        (t(), vec(t(), 0..4)).prop_map(|([group_id, group_type, operator_account, option], attributes)| {
            let attributes = attributes.into_iter().map(|[key, value]| proto::KeyValue { key, value }).collect();
            let changed = proto::GroupAttributesChanged { group_id, group_type, operator_account, option, attributes };
            P::GroupAttributesChanged(changed)
        }),
        t().prop_map(|[group_id, group_type, owner_account, name]| {
            P::GroupDestroyed(proto::GroupDestroyed { group_id, group_type, owner_account, name })
        }),
    ]
}

fn other_event() -> impl Strategy<Value = P> {
    prop_oneof![
        any::<(u64, u64)>().prop_map(|(used, quota)| P::QuotaAlarm(proto::QuotaAlarm { used, quota })),
        (t(), any::<(u64, u64)>()).prop_map(|([service_name, request_command], (requests, limit))| {
            P::RequestOverLimit(proto::RequestOverLimit { service_name, request_command, requests, limit })
        }),
        (t(), any::<(bool, i32, u64)>()).prop_map(|(texts, (started, error_code, push_duration))| {
            let [stream_id, sequence, domain, path, error_message] = texts;
            P::StreamChange(proto::StreamChange {
                stream_id,
                started,
                sequence,
                domain,
                path,
                error_code,
                error_message,
                push_duration,
            })
        }),
        t().prop_map(|[group_type, operator_account, owner_account, name]| {
            P::BeforeCreateGroup(proto::BeforeCreateGroup { group_type, operator_account, owner_account, name })
        }),
        (t(), any::<(u64, u64)>()).prop_map(|(texts, (count, value))| {
            let [idempotency_key, group_id, from_account, gift_id, combo_id, order_id] = texts;
            P::GiftBilled(proto::GiftBilled {
                idempotency_key,
                group_id,
                from_account,
                gift_id,
                count,
                value,
                combo_id,
                order_id,
            })
        }),
        (t(), any::<(u32, u64)>()).prop_map(|([idempotency_key, account, group_id, tier], (months, value))| {
            P::MembershipOpened(proto::MembershipOpened { idempotency_key, account, group_id, tier, months, value })
        }),
        (any::<(u32, i64)>(), t()).prop_map(|((version, applied_at_ms), [rules_toml, applied_by])| {
            P::RulesApplied(proto::RulesApplied { version, rules_toml, applied_by, applied_at_ms })
        }),
        (any::<(i64, Vec<(i64, bool, u64, bool)>)>(), t()).prop_map(|((from_ms, moves), [group_id, account])| {
            let made = |(at_ms, back, uncertain_ms, maybe)| proto::AccountMove { at_ms, back, uncertain_ms, maybe };
            let moves = moves.into_iter().map(made).collect();
            P::AccountMoves(proto::AccountMoves { group_id, account, from_ms, moves })
        }),
    ]
}

fn envelopes() -> impl Strategy<Value = Envelope> {
    let event = prop_oneof![
        message().prop_map(P::BeforeSend),
        message().prop_map(P::AfterSend),
        message().prop_map(P::SendException),
        room_event(),
        other_event(),
    ];
    let verdict = (0..4, any::<u32>(), text()).prop_map(|(outcome, code, rule)| proto::Verdict { outcome, code, rule });
    (
        (1..=u128::MAX, any::<(u32, i64, i64, u64, u64, u32, u32)>(), t()),
        (option::of(verdict), any::<(Option<i64>, bool, Vec<u8>)>(), option::of(event)),
        option::of(any::<(u128, u16, u64, u32)>()),
    )
        .prop_map(
            |((id, numbers, texts), (verdict, (original_event_time, has_event_time, body), event), source)| {
                let (sdk_app_id, occurred_at, received_at, incarnation, sequence, rules_version, parser_version) =
                    numbers;
                let [command, platform, route_key] = texts;
                Envelope {
                    id: id.to_be_bytes().to_vec(),
                    sdk_app_id,
                    command,
                    occurred_at,
                    received_at,
                    incarnation,
                    sequence,
                    platform,
                    verdict,
                    rules_version,
                    parser_version,
                    original_event_time,
                    has_event_time,
                    route_key,
                    body,
                    source: source.map(|(log_uuid, partition, offset, index)| proto::Source {
                        log_uuid: log_uuid.to_be_bytes().to_vec(),
                        partition: u32::from(partition),
                        offset,
                        index,
                    }),
                    event,
                }
            },
        )
}

/// One delivered message as JSON, with the event that it should become.
fn json_message() -> impl Strategy<Value = (String, proto::Message)> {
    let id = "[ -~好]{1,20}";
    (id, id, t(), any::<(Option<u32>, Option<u32>, i32)>(), vec((any::<bool>(), text()), 0..4)).prop_map(
        |(group_id, from_account, [group_type, operator_account, msg_id, cloud], (random, seq, time), elements)| {
            let body: Vec<_> = elements
                .iter()
                .map(|(face, text)| match face {
                    true => serde_json::json!({"MsgType": "TIMFaceElem", "MsgContent": {"Index": 1, "Data": text}}),
                    false => serde_json::json!({"MsgType": "TIMTextElem", "MsgContent": {"Text": text}}),
                })
                .collect();
            let json = serde_json::json!({
                "CallbackCommand": "Group.CallbackAfterSendMsg", "GroupId": group_id, "From_Account": from_account,
                "Type": group_type, "Operator_Account": operator_account, "MsgId": msg_id, "CloudCustomData": cloud,
                "Random": random, "MsgSeq": seq.map(|s| s.to_string()), "MsgTime": time, "MsgBody": body,
            });
            let kind = match elements.first() {
                Some((true, _)) => proto::MessageKind::Face,
                Some((false, _)) => proto::MessageKind::Text,
                None => proto::MessageKind::Custom,
            };
            let elements = elements.into_iter().map(|(face, text)| match face {
                true => El::Face(proto::FaceElement { index: 1, data: text }),
                false => El::Text(proto::TextElement { text }),
            });
            let message = proto::Message {
                group_id,
                from_account,
                group_type,
                operator_account,
                msg_id,
                cloud_custom_data: cloud,
                random,
                msg_seq: seq.map(u64::from),
                msg_time_s: Some(time.into()),
                kind: kind.into(),
                elements: elements.map(|e| proto::Element { element: Some(e) }).collect(),
                ..Default::default()
            };
            (json.to_string(), message)
        },
    )
}

proptest! {
    #[test]
    fn what_prost_writes_the_view_reads(envelope in envelopes()) {
        let bytes = envelope.encode_to_vec();
        let view = EnvelopeView::decode(&bytes).unwrap();
        prop_assert!(!view.newer);
        prop_assert_eq!(to_proto(&view), envelope);
    }

    #[test]
    fn what_we_write_prost_reads((json, message) in json_message()) {
        for bytes in records(&decode(&json), &stamp()) {
            let envelope = Envelope::decode(bytes.as_slice()).unwrap();
            prop_assert_eq!(envelope.event.as_ref(), Some(&P::AfterSend(message.clone())));
            // And our own view agrees with prost about all of it.
            prop_assert_eq!(to_proto(&EnvelopeView::decode(&bytes).unwrap()), envelope);
        }
    }

    #[test]
    fn a_truncated_record_is_an_error_or_a_shorter_record(envelope in envelopes(), at: proptest::sample::Index) {
        let bytes = envelope.encode_to_vec();
        let cut = &bytes[..at.index(bytes.len() + 1)];
        prop_assert_eq!(EnvelopeView::decode(cut).is_ok(), Envelope::decode(cut).is_ok());
    }

    #[test]
    fn fields_of_any_type_survive_reading_and_writing(envelope in envelopes()) {
        let bytes = envelope.encode_to_vec();
        let (mut copy, mut reader) = (Vec::new(), Reader::new(&bytes));
        let mut w = Writer::new(&mut copy);
        while let Some(field) = reader.next_field().unwrap() {
            w.field(field);
        }
        prop_assert_eq!(reader.position(), bytes.len());
        prop_assert_eq!(copy, bytes);
    }
}

#[test]
fn the_sequence_is_written_last_and_read_wherever_it_stands() {
    for sequence in [0, 1, 127, 128, u64::MAX] {
        let mut bytes = Envelope { command: "x".into(), ..Default::default() }.encode_to_vec();
        append_sequence(&mut bytes, sequence);
        assert_eq!(EnvelopeView::decode(&bytes).unwrap().sequence, sequence);
        assert_eq!(Envelope::decode(bytes.as_slice()).unwrap().sequence, sequence);
    }
}

#[test]
fn an_event_of_a_newer_version_marks_the_record_and_other_new_fields_do_not() {
    let base = Envelope { route_key: "r".into(), ..Default::default() }.encode_to_vec();
    let with = |write: &dyn Fn(&mut Writer<'_>)| {
        let mut bytes = base.clone();
        write(&mut Writer::new(&mut bytes));
        bytes
    };
    for (bytes, newer, number) in [
        (base.clone(), false, 0),
        (with(&|w| w.string(17, "new")), false, 0),
        (with(&|w| w.uint64(19, 7)), false, 0),
        (with(&|w| w.message(37, |w| w.string(1, "new"))), true, 37),
        (with(&|w| w.uint64(9999, 1)), true, 9999),
    ] {
        let view = EnvelopeView::decode(&bytes).unwrap();
        assert_eq!((view.newer, view.event_field, view.route_key), (newer, number, "r"));
        assert_eq!(view.event, Event::None);
    }
}

#[test]
fn a_record_that_is_none_gives_a_typed_error() {
    let write = |write: &dyn Fn(&mut Writer<'_>)| {
        let mut bytes = Vec::new();
        write(&mut Writer::new(&mut bytes));
        bytes
    };
    let event = |field, error| DecodeError::Event { field, error };
    for (bytes, error) in [
        (vec![0x0a], DecodeError::Wire(WireError::Truncated)),
        (vec![0x0a, 5, 1], DecodeError::Wire(WireError::Truncated)),
        (vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], DecodeError::Wire(WireError::Truncated)),
        (
            vec![0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
            DecodeError::Wire(WireError::VarintTooLong),
        ),
        (vec![0x13], DecodeError::Wire(WireError::WireType(3))),
        (vec![0x00], DecodeError::Wire(WireError::FieldNumber(0))),
        (write(&|w| w.bytes(1, b"short")), DecodeError::Id(5)),
        (write(&|w| w.uint64(3, 1)), DecodeError::Wire(WireError::WrongType(3))),
        (write(&|w| w.bytes(3, b"\xff")), DecodeError::Wire(WireError::Utf8(3))),
        (write(&|w| w.uint64(22, 1)), event(22, WireError::WrongType(22))),
        (write(&|w| w.message(22, |w| w.bytes(1, b"\xff"))), event(22, WireError::Utf8(1))),
        (write(&|w| w.message(20, |w| w.string(1, "login"))), event(20, WireError::WrongType(1))),
    ] {
        assert_eq!(EnvelopeView::decode(&bytes).err(), Some(error), "{bytes:02x?}");
    }
}

#[test]
fn the_bytes_of_a_record_and_its_identity_never_change() {
    let body = r#"{"CallbackCommand":"Group.CallbackAfterSendMsg","GroupId":"r","From_Account":"a","Random":7,"MsgId":"m","MsgSeq":1,"MsgTime":1772366399,"MsgBody":[{"MsgType":"TIMTextElem","MsgContent":{"Text":"hi"}}],"EventTime":1772366399500}"#;
    let callback = decode(body);
    let bytes = &records(&callback, &stamp())[1];
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(
        hex,
        "0a100102030405060708090a0b0c0d0e0f1010819cc99b051a1a47726f75702e43616c6c6261636b4166746572\
         53656e644d7367208c9094caca3328809494caca3331010000000000edfe500358016801720161b2011e0a0172\
         1a0161280732016d380140bfd490cd0648018201060a040a0268693829"
    );
    let identity = barrage_event::identity::identity(&EnvelopeView::decode(bytes).unwrap()).unwrap();
    assert_eq!(format!("{:032x}", identity.0), "f8d7c62d37ccda8eb5cf375eb5f51a3b");
}
