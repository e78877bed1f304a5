//! Business events: what is taken, and that what is refused is told by field.

use barrage_event::business::{self, BusinessError, limits};
use barrage_event::proto::envelope::Event;
use barrage_event::proto::{self, Envelope};
use prost::Message as _;

use crate::common::{NOW_MS, records, stamp};

const GIFT: &str = r#"{"type":"gift_billed","id":"order-1","app":1400000002,"room":"r","account":"a","gift_id":"rocket",
    "count":2,"value":1998,"combo_id":"c","order_id":"o","at_ms":1772366399500}"#;
const MEMBER: &str = r#"{"type":"membership_opened","id":"m-1","account":"a","room":"r","tier":"gold","months":12,
    "value":9900,"at_ms":1772366399500}"#;

fn envelope(item: &str) -> Envelope {
    let event = business::parse(item).expect("a valid item");
    let bytes = records(&event.callback, &stamp()).remove(0);
    Envelope::decode(bytes.as_slice()).expect("prost reads what we write")
}

#[test]
fn a_billed_gift_is_kept_with_its_text() {
    let event = business::parse(GIFT).unwrap();
    assert_eq!((event.app, &*event.id), (Some(1_400_000_002), "order-1"));
    let expected = Event::GiftBilled(proto::GiftBilled {
        idempotency_key: "order-1".into(),
        group_id: "r".into(),
        from_account: "a".into(),
        gift_id: "rocket".into(),
        count: 2,
        value: 1998,
        combo_id: "c".into(),
        order_id: "o".into(),
    });
    let envelope = envelope(GIFT);
    assert_eq!(
        (envelope.event, &*envelope.body, &*envelope.command),
        (Some(expected), GIFT.as_bytes(), "Barrage.GiftBilled")
    );
    assert_eq!((envelope.occurred_at, envelope.has_event_time), (1_772_366_399_500, true));
}

#[test]
fn a_membership_is_kept_with_its_text_and_may_name_no_room() {
    let membership = |group_id: &str| {
        Event::MembershipOpened(proto::MembershipOpened {
            idempotency_key: "m-1".into(),
            account: "a".into(),
            group_id: group_id.into(),
            tier: "gold".into(),
            months: 12,
            value: 9900,
        })
    };
    assert_eq!(envelope(MEMBER).event, Some(membership("r")));
    for room in ["", r#""room":null,"#] {
        let item = MEMBER.replace(r#""room":"r","#, room);
        assert_eq!(envelope(&item).event, Some(membership("")), "{item}");
        assert_eq!(envelope(&item).body, item.as_bytes());
    }
}

#[test]
fn what_may_be_left_out_may_be_left_out() {
    let item = r#"{"type":"gift_billed","id":"k","room":"r","account":"a","gift_id":"g","count":1,"value":0}"#;
    let event = business::parse(item).unwrap();
    assert_eq!((event.app, event.callback.event_time_ms()), (None, None));
    assert_eq!(envelope(item).occurred_at, NOW_MS);
}

#[test]
fn a_refused_item_names_the_field() {
    let long = |bytes: usize| format!("\"{}\"", "x".repeat(bytes));
    let table = [
        (GIFT, "\"order-1\"", long(limits::ID_BYTES_MAX + 1), "id"),
        (GIFT, "\"order-1\"", "\"\"".into(), "id"),
        (GIFT, "\"r\"", "\"\"".into(), "room"),
        (GIFT, "\"r\"", long(limits::TEXT_BYTES_MAX + 1), "room"),
        (GIFT, "\"a\"", "\"\"".into(), "account"),
        (GIFT, "\"rocket\"", "\"\"".into(), "gift_id"),
        (GIFT, "\"count\":2", "\"count\":0".into(), "count"),
        (GIFT, "\"count\":2", "\"count\":1000000001".into(), "count"),
        (GIFT, "1998", "1000000000000001".into(), "value"),
        (GIFT, "\"c\"", long(limits::TEXT_BYTES_MAX + 1), "combo_id"),
        (GIFT, "\"o\"", long(limits::TEXT_BYTES_MAX + 1), "order_id"),
        (GIFT, "1772366399500", "0".into(), "at_ms"),
        (GIFT, "1772366399500", "-9223372036854775808".into(), "at_ms"),
        (MEMBER, "\"gold\"", "\"\"".into(), "tier"),
        (MEMBER, "12", "0".into(), "months"),
        (MEMBER, "12", "1201".into(), "months"),
        (MEMBER, "\"r\"", "\"\"".into(), "room"),
    ];
    for (item, from, to, field) in table {
        let changed = item.replacen(from, &to, 1);
        match business::parse(&changed) {
            Err(BusinessError::Field { field: named, .. }) => assert_eq!(named, field, "{changed:.100}"),
            other => panic!("{other:?}: {changed}"),
        }
    }
    // The limits themselves are taken.
    for (from, to) in [
        ("\"order-1\"", long(limits::ID_BYTES_MAX)),
        ("\"r\"", long(limits::TEXT_BYTES_MAX)),
        ("\"count\":2", format!("\"count\":{}", limits::COUNT_MAX)),
        ("1998", limits::VALUE_MAX.to_string()),
    ] {
        business::parse(&GIFT.replacen(from, &to, 1)).unwrap_or_else(|error| panic!("{error}: {to}"));
    }
}

#[test]
fn an_unreadable_item_says_why() {
    for (item, told) in [
        (GIFT.replace("\"room\":\"r\",", ""), "room"),
        (GIFT.replace("\"count\"", "\"cuont\""), "cuont"),
        (GIFT.replace("\"count\":2", "\"count\":-2"), "-2"),
        (GIFT.replace("\"count\":2", "\"count\":1.5"), "1.5"),
        (GIFT.replace("\"count\":2", "\"count\":\"2\""), "\"2\""),
        (GIFT.replace("gift_billed", "gift_refunded"), "gift_refunded"),
        (GIFT.replace("\"type\":\"gift_billed\",", ""), "type"),
        (MEMBER.replace("\"value\"", "\"gift_id\":\"x\",\"value\""), "gift_id"),
        ("[]".into(), ""),
        ("{".into(), ""),
        (String::new(), ""),
    ] {
        match business::parse(&item) {
            Err(BusinessError::Unreadable(problem)) => assert!(problem.contains(told), "{problem}: {item}"),
            other => panic!("{other:?}: {item}"),
        }
    }
}
