//! The projection: what a record says of its account's connections.

use barrage_event::event::{Action, StateChange};
use barrage_event::{EnvelopeView, Event, Message, Topic};
use barrage_projection::{ApplyError, Context, Projection, TableDef};

use crate::machine::ANY;
use crate::proto::{Happening, Kind};
use crate::recent;
use crate::tables::Accounts;

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
        vec![TableDef::of::<Accounts>()]
    }

    fn apply(&self, cx: &mut Context<'_>, record: &EnvelopeView<'_>) -> Result<(), ApplyError> {
        match &record.event {
            Event::StateChange(change) => state_change(cx, record, change),
            // What the app's own server sends in somebody's name says nothing of their connection.
            Event::AfterSend(message) if record.platform != "restapi" => {
                sign_of_life(cx, record, message.from_account, sent_ms(record, message))
            }
            Event::BeforeSend(message) if record.platform != "restapi" => {
                sign_of_life(cx, record, message.from_account, record.occurred_at_ms)
            }
            // The copy for an account lists that account alone. A member state is no sign of life: it may be that of the
            // connection whose login is told in the same moment.
            Event::MembersJoined(e) | Event::MembersLeft(e) if !e.by_other && record.platform != "restapi" => {
                sign_of_life(cx, record, e.members.iter().next().unwrap_or(""), record.occurred_at_ms)
            }
            _ => Ok(()),
        }
    }
}

/// When its sender sent a delivered message, as far as that is told: delivery comes later.
fn sent_ms(record: &EnvelopeView<'_>, message: &Message<'_>) -> i64 {
    let delivered_ms = record.occurred_at_ms;
    let sent_ms = message.msg_time_s.map_or_else(|| delivered_ms.saturating_sub(1_000), |s| s.saturating_mul(1_000));
    sent_ms.clamp(delivered_ms.saturating_sub(60_000), delivered_ms)
}

fn lateness_ms(cx: &Context<'_>) -> i64 {
    i64::try_from(cx.rules.windows.lateness_ms).unwrap_or(i64::MAX)
}

fn state_change(cx: &mut Context<'_>, record: &EnvelopeView<'_>, change: &StateChange<'_>) -> Result<(), ApplyError> {
    let kind = match change.action {
        Action::Login => Kind::Login,
        Action::Logout => Kind::Logout,
        Action::Disconnect if change.reason == "TimeOut" => Kind::TimedOut,
        Action::Disconnect => Kind::Closed,
        Action::CustomStatus => return sign_of_life(cx, record, change.account, record.occurred_at_ms),
        Action::Unspecified => return Ok(()),
    };
    let horizon_ms = cx.stream_time_ms.saturating_sub(lateness_ms(cx));
    let rules = &cx.rules.duration;
    let account = cx.table::<Accounts>()?.entry(&(record.app, change.account))?;
    let platform = recent::platform(account, record.platform);
    let mut kicked: Vec<u32> = change.kicked_platforms.iter().map(|name| recent::platform(account, name)).collect();
    kicked.sort_unstable();
    kicked.dedup();
    let happening = Happening { at_ms: record.occurred_at_ms, kind: kind.into(), platform, kicked };
    recent::insert(account, happening, rules);
    recent::fold(account, horizon_ms, rules);
    Ok(())
}

fn sign_of_life(cx: &mut Context<'_>, record: &EnvelopeView<'_>, name: &str, at_ms: i64) -> Result<(), ApplyError> {
    let horizon_ms = cx.stream_time_ms.saturating_sub(lateness_ms(cx));
    let rules = &cx.rules.duration;
    let mut accounts = cx.table::<Accounts>()?;
    // An app that has no state changes called back has no rows here, however much its people write.
    let Some(account) = accounts.get_mut(&(record.app, name))? else { return Ok(()) };
    let platform = if record.platform.is_empty() { ANY } else { recent::platform(account, record.platform) };
    let happening = Happening { at_ms, kind: Kind::Sign.into(), platform, kicked: Vec::new() };
    recent::insert(account, happening, rules);
    recent::fold(account, horizon_ms, rules);
    Ok(())
}
