//! What a record says of likes, gifts and memberships, before any state is looked at.
//!
//! It follows from the record and the rules that are stamped in it alone, so it is the same in the copies for the room
//! and for the account, wherever their partitions stand.

use barrage_event::rules::{GiftSource, RuleSet};
use barrage_event::{EnvelopeView, Event, Message, MessageKind};

/// Something that this statistic counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Happening<'a> {
    /// The room; empty when it happened in none.
    pub room: &'a str,
    /// Who did it; empty when not told.
    pub account: &'a str,
    /// What.
    pub what: What<'a>,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What<'a> {
    /// A like message was about to be delivered.
    Likes {
        /// Likes that it names, not capped.
        stated: u64,
        /// Whether we refused it.
        refused: bool,
    },
    /// A gift message was delivered, or a gift was billed.
    Gift {
        /// Whether it is a delivered message.
        message: bool,
        /// What counts; `None` where gifts are counted from the other source.
        gift: Option<Gift<'a>>,
    },
    /// A membership was opened, as the source of the rules tells it.
    Membership {
        /// For how many months.
        months: u64,
        /// What was paid, minor units.
        value: u64,
    },
}

/// A gift, or a combo's total so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gift<'a> {
    /// How many.
    pub count: u64,
    /// Value of all of them, minor units.
    pub value: u64,
    /// Which gift.
    pub gift_id: &'a str,
    /// The combo; empty when it is none.
    pub combo_id: &'a str,
    /// A bill says what it adds, a message of a combo the total so far.
    pub billed: bool,
}

impl<'a> Happening<'a> {
    /// Reads the record; `None` when it says nothing that is counted here.
    #[must_use]
    pub fn of(record: &EnvelopeView<'a>, stamped: &RuleSet) -> Option<Self> {
        let billing = stamped.gifts.source == GiftSource::Billing;
        let (room, account, what) = match &record.event {
            Event::BeforeSend(m) if m.kind == MessageKind::Like => {
                let refused = record.verdict.is_some_and(|verdict| verdict.outcome.refuses());
                let stated = m.custom.map_or(1, |custom| custom.count);
                (m.group_id, m.from_account, What::Likes { stated, refused })
            }
            Event::AfterSend(m) if m.kind == MessageKind::Gift => {
                let gift = (!billing).then(|| told_by(m));
                (m.group_id, m.from_account, What::Gift { message: true, gift })
            }
            Event::AfterSend(m) if m.kind == MessageKind::Membership && !billing => {
                let (months, value) = m.custom.map_or((0, 0), |custom| (u64::from(custom.months), custom.value));
                (m.group_id, m.from_account, What::Membership { months, value })
            }
            Event::GiftBilled(bill) if billing => {
                let gift = Gift {
                    count: bill.count,
                    value: bill.value,
                    gift_id: bill.gift_id,
                    combo_id: bill.combo_id,
                    billed: true,
                };
                (bill.group_id, bill.from_account, What::Gift { message: false, gift: Some(gift) })
            }
            Event::MembershipOpened(e) if billing => {
                (e.group_id, e.account, What::Membership { months: u64::from(e.months), value: e.value })
            }
            _ => return None,
        };
        Some(Self { room, account, what })
    }
}

fn told_by<'a>(message: &Message<'a>) -> Gift<'a> {
    let custom = message.custom.unwrap_or_default();
    let count = message.custom.map_or(1, |custom| custom.count);
    Gift { count, value: custom.value, gift_id: custom.gift_id, combo_id: custom.combo_id, billed: false }
}
