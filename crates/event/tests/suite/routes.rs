//! Whom an event concerns: the routes of every kind, and what the copies hold.

use barrage_event::{EnvelopeView, Event, Route, Topic, business};
use proptest::prelude::{prop_assert_eq, proptest};

use crate::common::{decode, record, route_list, stamp};

fn room(key: &str) -> (Topic, String) {
    (Topic::Room, key.to_owned())
}

fn user(key: &str) -> (Topic, String) {
    (Topic::User, key.to_owned())
}

#[test]
fn business_events_concern_their_account_and_room() {
    let gift = r#"{"type":"gift_billed","id":"k","room":"r","account":"a","gift_id":"g","count":1,"value":5}"#;
    let member = r#"{"type":"membership_opened","id":"k","account":"a","tier":"t","months":1,"value":5}"#;
    let in_room = member.replace("\"account\"", "\"room\":\"r\",\"account\"");
    for (item, routes) in
        [(gift, vec![room("r"), user("a")]), (member, vec![user("a")]), (&in_room, vec![room("r"), user("a")])]
    {
        assert_eq!(route_list(&business::parse(item).unwrap().callback), routes, "{item}");
    }
}

#[test]
fn rules_concern_every_partition_and_so_nobody() {
    let rules = business::rules_applied(7, "[windows]\njoin_ms = 5000\n", "operator", 1_767_225_600_000);
    assert!(rules.routes().is_empty());
    let bytes = record(&rules, &stamp(), &Route::user(""), false);
    let view = EnvelopeView::decode(&bytes).unwrap();
    let Event::RulesApplied(applied) = view.event else { panic!("{view:?}") };
    assert_eq!(
        (applied.version, applied.rules_toml, applied.applied_by, applied.applied_at_ms),
        (7, "[windows]\njoin_ms = 5000\n", "operator", 1_767_225_600_000)
    );
    assert_eq!((view.command, view.route_key, view.body), ("Barrage.RulesApplied", "", &b""[..]));
}

#[test]
fn what_names_no_room_is_keyed_by_whatever_it_names() {
    for (fields, key) in [
        (r#""GroupId":"g","RoomId":"r""#, "g"),
        (r#""GroupId":"","RoomId":"r","To_Account":"t""#, "r"),
        (r#""To_Account":"t","From_Account":"f""#, "t"),
        (r#""Operator_Account":"o","From_Account":"f""#, "f"),
        (r#""Nothing":1"#, ""),
    ] {
        for command in ["Alert.RequestOverLimit", "Group.CallbackOnDailyGroupQuotaAlarm", "Future.Command"] {
            let body =
                format!(r#"{{"CallbackCommand":"{command}",{fields},"Request":1,"Limit":2,"QuotaUsed":1,"Quota":2}}"#);
            assert_eq!(route_list(&decode(&body)), [room(key)], "{body}");
        }
    }
    let ownerless = r#"{"CallbackCommand":"Group.CallbackBeforeCreateGroup","Operator_Account":"op","Type":"Public"}"#;
    assert_eq!(route_list(&decode(ownerless)), [room("op")]);
}

fn members_of(bytes: &[u8]) -> Vec<String> {
    match EnvelopeView::decode(bytes).expect("our own record reads").event {
        Event::MembersJoined(e) | Event::MembersLeft(e) => e.members.iter().map(str::to_owned).collect(),
        Event::MemberState(e) => e.members.iter().map(str::to_owned).collect(),
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn every_member_gets_one_copy_that_names_only_it(
        members in proptest::collection::vec("[a-f]{1,2}", 1..20),
        command in 0..3_usize,
    ) {
        let (name, list) = [
            ("AfterNewMemberJoin", "NewMemberList"),
            ("AfterMemberExit", "ExitMemberList"),
            ("OnMemberStateChange", "MemberList"),
        ][command];
        let list_json = serde_json::to_string(&members).unwrap();
        let body = format!(
            r#"{{"CallbackCommand":"Group.Callback{name}","GroupId":"r","EventType":"Online","{list}":{list_json}}}"#
        );
        let callback = decode(&body);
        prop_assert_eq!(callback.routes()[0], Route::room("r"));
        prop_assert_eq!(members_of(&record(&callback, &stamp(), &Route::room("r"), true)), members.clone());

        let routes = callback.routes();
        let copies = &routes[1..];
        let mut expected = Vec::new();
        for member in members {
            if !expected.contains(&member) {
                expected.push(member);
            }
        }
        prop_assert_eq!(copies.iter().map(|r| r.key.to_owned()).collect::<Vec<_>>(), expected);
        for route in copies {
            let bytes = record(&callback, &stamp(), route, false);
            let view = EnvelopeView::decode(&bytes).unwrap();
            prop_assert_eq!(route.topic, Topic::User);
            prop_assert_eq!((view.route_key, view.body, view.event.group_id()), (route.key, &b""[..], Some("r")));
            prop_assert_eq!(members_of(&bytes), [route.key.to_owned()]);
        }
    }
}
