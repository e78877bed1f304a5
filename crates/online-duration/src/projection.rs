//! The projection: what a record says of its account's connections.

use barrage_event::event::{Action, StateChange};
use barrage_event::{EnvelopeView, Event, Message, Topic};
use barrage_projection::{ApplyError, Context, Projection, StoreError, TableDef, minute_of};

use crate::proto::{self, EarlySign, Happening, Kind};
use crate::recent;
use crate::tables::{Accounts, EarlySigns};

/// Signs of life that are kept of one account without a row.
const EARLY_MAX: usize = 8;

/// Connections of accounts, on `barrage.user`.
#[derive(Debug, Clone, Copy, Default)]
pub struct AccountOnlineDuration;

impl Projection for AccountOnlineDuration {
    fn name(&self) -> &'static str {
        "online-duration.accounts"
    }

    fn topic(&self) -> Topic {
        Topic::User
    }

    fn tables(&self) -> Vec<TableDef> {
        vec![TableDef::of::<Accounts>(), TableDef::of::<EarlySigns>()]
    }

    fn apply(&self, cx: &mut Context<'_>, record: &EnvelopeView<'_>) -> Result<(), ApplyError> {
        if let Event::StateChange(change) = &record.event
            && let Some(kind) = kind(change)
        {
            return state_change(cx, record, change, kind);
        }
        match sign_of_life(record) {
            Some((account, at_ms)) => sign(cx, record, account, at_ms),
            None => Ok(()),
        }
    }
}

/// Whose sign of life a record is, and of when, ms since the epoch.
#[must_use]
pub fn sign_of_life<'a>(record: &EnvelopeView<'a>) -> Option<(&'a str, i64)> {
    // What the app's own server does in somebody's name says nothing of their connection.
    let own = record.platform != "restapi";
    match &record.event {
        Event::StateChange(change) => {
            (change.action == Action::CustomStatus).then_some((change.account, record.occurred_at_ms))
        }
        Event::AfterSend(message) if own => Some((message.from_account, sent_ms(record, message))),
        Event::BeforeSend(message) if own => Some((message.from_account, record.occurred_at_ms)),
        // The copy for an account lists that account alone. A member state is no sign of life: it may be that of the
        // connection whose login is told in the same moment.
        Event::MembersJoined(e) | Event::MembersLeft(e) if own && !e.by_other => {
            Some((e.members.iter().next().unwrap_or(""), record.occurred_at_ms))
        }
        _ => None,
    }
}

/// When its sender sent a delivered message, as far as that is told: delivery comes later.
fn sent_ms(record: &EnvelopeView<'_>, message: &Message<'_>) -> i64 {
    let delivered_ms = record.occurred_at_ms;
    let sent_ms = message.msg_time_s.map_or_else(|| delivered_ms.saturating_sub(1_000), |s| s.saturating_mul(1_000));
    sent_ms.min(delivered_ms)
}

fn lateness_ms(cx: &Context<'_>) -> i64 {
    i64::try_from(cx.rules.windows.lateness_ms).unwrap_or(i64::MAX)
}

fn kind(change: &StateChange<'_>) -> Option<Kind> {
    match change.action {
        Action::Login => Some(Kind::Login),
        Action::Logout => Some(Kind::Logout),
        Action::Disconnect if change.reason == "TimeOut" => Some(Kind::TimedOut),
        Action::Disconnect => Some(Kind::Closed),
        Action::CustomStatus | Action::Unspecified => None,
    }
}

fn state_change(
    cx: &mut Context<'_>,
    record: &EnvelopeView<'_>,
    change: &StateChange<'_>,
    kind: Kind,
) -> Result<(), ApplyError> {
    let key = (record.app, change.account);
    let horizon_ms = cx.stream_time_ms.saturating_sub(lateness_ms(cx));
    let rules = &cx.rules.duration;
    let early = match cx.table::<Accounts>()?.get(&key)? {
        Some(_) => proto::EarlySigns::default(),
        None => cx.table::<EarlySigns>()?.remove(&key)?.unwrap_or_default(),
    };
    let account = cx.table::<Accounts>()?.entry(&key)?;
    let platform = recent::platform(account, record.platform);
    let mut kicked: Vec<u32> = change.kicked_platforms.iter().map(|name| recent::platform(account, name)).collect();
    kicked.sort_unstable();
    kicked.dedup();
    let change =
        Happening { at_ms: record.occurred_at_ms, kind: kind.into(), platform, kicked, ..Happening::default() };
    recent::insert(account, change, rules);
    for sign in early.since(horizon_ms) {
        recent::insert_sign(account, &sign.platform, sign.first_ms(), rules);
        recent::insert_sign(account, &sign.platform, sign.at_ms, rules);
    }
    recent::fold(account, horizon_ms, rules);
    Ok(())
}

fn sign(cx: &mut Context<'_>, record: &EnvelopeView<'_>, name: &str, at_ms: i64) -> Result<(), ApplyError> {
    let key = (record.app, name);
    let horizon_ms = cx.stream_time_ms.saturating_sub(lateness_ms(cx));
    let rules = &cx.rules.duration;
    // An app that has no state changes called back has nothing here but what is early, however much its people write.
    let mut accounts = cx.table::<Accounts>()?;
    let Some(account) = accounts.get_mut(&key)? else {
        return Ok(keep_early(cx, key, horizon_ms, record.platform, at_ms)?);
    };
    recent::insert_sign(account, record.platform, at_ms, rules);
    recent::fold(account, horizon_ms, rules);
    Ok(())
}

impl EarlySign {
    fn first_ms(&self) -> i64 {
        self.at_ms.saturating_sub(self.spread_ms.into())
    }
}

impl proto::EarlySigns {
    /// Those that are not beyond what may come late.
    fn since(mut self, horizon_ms: i64) -> Vec<EarlySign> {
        self.forget(horizon_ms);
        self.signs
    }

    fn forget(&mut self, horizon_ms: i64) {
        self.signs.retain(|sign| minute_of(sign.at_ms) >= minute_of(horizon_ms));
    }

    /// Puts one in; of too many the oldest goes. One that is forgotten early widens a bound, and only when the login is told
    /// late.
    fn insert(&mut self, platform: &str, at_ms: i64) {
        let wanted = (minute_of(at_ms), platform);
        match self.signs.binary_search_by(|sign| (minute_of(sign.at_ms), sign.platform.as_str()).cmp(&wanted)) {
            Ok(at) => {
                let sign = &mut self.signs[at];
                let (first_ms, last_ms) = (sign.first_ms().min(at_ms), sign.at_ms.max(at_ms));
                (sign.at_ms, sign.spread_ms) = (last_ms, recent::span_ms(first_ms, last_ms));
            }
            Err(at) => {
                self.signs.insert(at, EarlySign { at_ms, platform: platform.to_owned(), spread_ms: 0 });
                if self.signs.len() > EARLY_MAX {
                    self.signs.remove(0);
                }
            }
        }
    }
}

/// Keeps a sign of life for a login that is still to be told.
fn keep_early(
    cx: &mut Context<'_>,
    key: (u32, &str),
    horizon_ms: i64,
    platform: &str,
    at_ms: i64,
) -> Result<(), StoreError> {
    if key.1.is_empty() || at_ms < horizon_ms {
        return Ok(());
    }
    let early = cx.table::<EarlySigns>()?.entry(&key)?;
    early.forget(horizon_ms);
    early.insert(platform, at_ms);
    Ok(())
}
