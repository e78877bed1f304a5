//! Records by hand, and answers.

#![allow(dead_code, reason = "each test file uses its part")]

use barrage_event::rules::RuleSet;
use barrage_event::{EnvelopeView, proto as wire};
use barrage_like_tallies::AccountTallies;
use barrage_online_duration::AccountOnlineDuration;
use barrage_projection::memory::Harness;
use barrage_projection::{Intent, ReadContext, Reader, Statistic as _};
use barrage_user_levels::{AccountLevels, UserLevels};
use prost::Message as _;
use serde_json::{Map, Value as Json};

pub(crate) const APP: u32 = 1_400_000_000;
/// 2026-01-05T00:00:00Z, a Monday.
pub(crate) const MONDAY_MS: i64 = 1_767_571_200_000;
pub(crate) const MINUTE_MS: i64 = 60_000;
pub(crate) const HOUR_MS: i64 = 3_600_000;
pub(crate) const DAY_MS: i64 = 86_400_000;

/// What an account does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    Login,
    Logout,
    /// A text was delivered.
    Text,
    /// Likes are about to be delivered, in a message that we refuse or not.
    Like {
        count: u64,
        refused: bool,
    },
    /// A gift was delivered.
    Gift {
        value: u64,
    },
    /// A membership was delivered.
    Membership {
        months: u32,
    },
    GiftBilled {
        value: u64,
    },
    MembershipOpened {
        months: u32,
    },
    /// Came into a room.
    Join,
}

/// The partition of accounts of all statistics that levels need.
pub(crate) fn new(rules: RuleSet) -> Harness {
    Harness::of(vec![Box::new(AccountOnlineDuration), Box::new(AccountTallies), Box::new(AccountLevels)], rules)
        .expect("own ids")
}

/// When an event happened and was received, ms, and the rules in force.
#[derive(Debug, Clone, Copy)]
pub(crate) struct When {
    pub(crate) occurred: i64,
    pub(crate) received: i64,
    pub(crate) version: u32,
}

impl From<i64> for When {
    fn from(at: i64) -> Self {
        Self { occurred: at, received: at, version: 1 }
    }
}

fn envelope(when: When, number: u64, event: wire::envelope::Event) -> wire::Envelope {
    wire::Envelope {
        id: u128::from(number).to_be_bytes().to_vec(),
        sdk_app_id: APP,
        occurred_at: when.occurred,
        received_at: when.received,
        rules_version: when.version,
        platform: "Android".to_owned(),
        has_event_time: true,
        event: Some(event),
        ..wire::Envelope::default()
    }
}

/// One record of an account; `number` makes it another than all others.
pub(crate) fn record(account: &str, act: Act, when: impl Into<When>, number: u64) -> Vec<u8> {
    let when = when.into();
    let message = |kind: i32, custom: Option<wire::CustomFields>| wire::Message {
        group_id: "room".to_owned(),
        from_account: account.to_owned(),
        random: u32::try_from(number & 0xffff_ffff).ok(),
        msg_id: format!("144-{number}"),
        kind,
        custom,
        ..wire::Message::default()
    };
    let state = |action: i32| {
        wire::envelope::Event::StateChange(wire::StateChange {
            action,
            account: account.to_owned(),
            ..wire::StateChange::default()
        })
    };
    let custom = |count: u64, value: u64, months: u32| {
        Some(wire::CustomFields { count, value, months, ..wire::CustomFields::default() })
    };
    let mut outcome = 0;
    let event = match act {
        Act::Login => state(1),
        Act::Logout => state(2),
        Act::Text => wire::envelope::Event::AfterSend(message(1, None)),
        Act::Like { count, refused } => {
            outcome = if refused { 2 } else { 1 };
            wire::envelope::Event::BeforeSend(message(10, custom(count, 0, 0)))
        }
        Act::Gift { value } => wire::envelope::Event::AfterSend(message(9, custom(1, value, 0))),
        Act::Membership { months } => wire::envelope::Event::AfterSend(message(11, custom(1, 0, months))),
        Act::GiftBilled { value } => wire::envelope::Event::GiftBilled(wire::GiftBilled {
            idempotency_key: number.to_string(),
            group_id: "room".to_owned(),
            from_account: account.to_owned(),
            count: 1,
            value,
            ..wire::GiftBilled::default()
        }),
        Act::Join => wire::envelope::Event::MembersJoined(wire::MembersJoined {
            group_id: "room".to_owned(),
            members: vec![account.to_owned()],
            ..wire::MembersJoined::default()
        }),
        Act::MembershipOpened { months } => wire::envelope::Event::MembershipOpened(wire::MembershipOpened {
            idempotency_key: number.to_string(),
            account: account.to_owned(),
            months,
            ..wire::MembershipOpened::default()
        }),
    };
    let mut envelope = envelope(when, number, event);
    envelope.verdict = (outcome > 0).then(|| wire::Verdict { outcome, ..wire::Verdict::default() });
    envelope.encode_to_vec()
}

/// The record of a version of the rules. As in the log, it has no time of receipt.
pub(crate) fn rules_record(version: u32) -> Vec<u8> {
    let applied = wire::RulesApplied { version, ..wire::RulesApplied::default() };
    let when = When { occurred: 0, received: 0, version };
    envelope(when, u64::from(version) << 40, wire::envelope::Event::RulesApplied(applied)).encode_to_vec()
}

/// Applies a record; what it tells others.
pub(crate) fn apply(harness: &mut Harness, record: &[u8]) -> Vec<Intent> {
    harness.apply(&EnvelopeView::decode(record).expect("our own record")).expect("applies");
    harness.effects.intents.clone()
}

/// The accounts and levels of intents, in their order.
pub(crate) fn told(intents: &[Intent]) -> Vec<(String, u64)> {
    let one = |intent: &Intent| {
        assert_eq!((intent.kind, intent.app), ("level_reached", APP));
        let account = intent.fields["account"].as_str().expect("an account").to_owned();
        let level = intent.fields["level"].as_u64().expect("a level");
        assert_eq!(intent.key, format!("{account}/{level}"));
        (account, level)
    };
    intents.iter().map(one).collect()
}

/// The level of an account at a time.
pub(crate) fn level(reader: &dyn Reader, rules: &RuleSet, account: &str, at: i64) -> Json {
    let mut out = Map::new();
    UserLevels.user(&ReadContext { reader, app: APP, at_ms: at, rules }, account, &mut out).expect("reads");
    out.remove("level").expect("it is always there")
}

/// The level of an account at a time, of everything that was applied.
pub(crate) fn level_of(harness: &mut Harness, account: &str, at: i64) -> Json {
    harness.commit(usize::MAX);
    level(&harness.store, &harness.rules, account, at)
}
