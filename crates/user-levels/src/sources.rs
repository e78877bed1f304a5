//! What other statistics have counted of an account: nothing is counted twice by two pieces of code.

use barrage_event::rules::RuleSet;
use barrage_like_tallies::tables::Accounts as TallyAccounts;
use barrage_online_duration::online;
use barrage_online_duration::tables::Accounts as OnlineAccounts;
use barrage_projection::{Context, StoreError};

use crate::metrics::Metric;

type Key<'a> = (u32, &'a str);

/// Online time up to a time, ms, and whether it goes on growing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Online {
    pub(crate) ms: u64,
    pub(crate) open: bool,
}

impl Online {
    pub(crate) fn of(account: &barrage_online_duration::proto::Account, at_ms: i64, rules: &RuleSet) -> Self {
        let online = online(account, at_ms, &rules.duration);
        Self { ms: online.ms, open: online.now }
    }
}

/// As online duration knows it after this event.
pub(crate) fn online_at(cx: &mut Context<'_>, key: Key<'_>, at_ms: i64) -> Result<Online, StoreError> {
    let rules = cx.rules;
    let account = cx.table::<OnlineAccounts>()?.get(&key)?.map(|account| Online::of(account, at_ms, rules));
    Ok(account.unwrap_or_default())
}

/// Totals of like tallies, after this event.
pub(crate) fn tallies(cx: &mut Context<'_>, key: Key<'_>) -> Result<[(Metric, u64); 3], StoreError> {
    let totals = cx.table::<TallyAccounts>()?.get(&key)?.and_then(|account| account.totals).unwrap_or_default();
    Ok([
        (Metric::Likes, totals.likes.unwrap_or_default().count),
        (Metric::GiftValue, totals.gifts.unwrap_or_default().value),
        (Metric::MembershipMonths, totals.memberships.unwrap_or_default().months),
    ])
}
