//! The projection on accounts: in which rooms an account is, and what those are told when its last device goes.

use barrage_event::derived::Derived;
use barrage_event::event::AccountMove;
use barrage_event::{EnvelopeView, Event, Topic};
use barrage_online_duration::proto::Kind;
use barrage_online_duration::{Gaps, gaps, sign_of_life, tables::Accounts as Connections};
use barrage_projection::{ApplyError, Context, Projection, StoreError, TableDef};

use crate::moves::{keep_ms, tell};
use crate::proto::{Account, EntryKind, Move, OpenRoom};
use crate::tables::Accounts;

/// Of the signs of life of a minute the last is known.
const MINUTE_MS: i64 = 60_000;

/// Rooms that are kept of one account; above it those that it came to first are forgotten.
const ROOMS_MAX: usize = 64;

/// Open rooms of accounts, on `barrage.user`.
#[derive(Debug, Clone, Copy, Default)]
pub struct AccountPresence;

impl Projection for AccountPresence {
    fn name(&self) -> &'static str {
        "presence.accounts"
    }

    fn topic(&self) -> Topic {
        Topic::User
    }

    fn tables(&self) -> Vec<TableDef> {
        vec![TableDef::of::<Accounts>(), TableDef::of::<Connections>()]
    }

    fn apply(&self, cx: &mut Context<'_>, record: &EnvelopeView<'_>) -> Result<(), ApplyError> {
        // Copies for an account list that account alone.
        let (members, group_id, kind) = match &record.event {
            Event::MembersJoined(e) if record.platform == "web" => (e.members, e.group_id, EntryKind::JoinedFromWeb),
            Event::MembersJoined(e) => (e.members, e.group_id, EntryKind::Joined),
            Event::MembersLeft(e) => (e.members, e.group_id, EntryKind::Left),
            Event::MemberState(e) if e.online => (e.members, e.group_id, EntryKind::Online),
            Event::MemberState(e) => (e.members, e.group_id, EntryKind::Offline),
            Event::StateChange(e) => return Ok(look(cx, record, e.account)?),
            _ => return Ok(sign(cx, record)?),
        };
        let name = members.iter().next().unwrap_or("");
        let at_ms = record.occurred_at_ms;
        Ok(with_account(cx, record, name, |account| room(account, group_id).enter(at_ms, kind))?)
    }
}

/// An account did something. That changes what its rooms see when its connection was taken for lost, and when a change of
/// its connection that is known is later, or of the same minute: then a loss may be more or less certain than it was.
fn sign(cx: &mut Context<'_>, record: &EnvelopeView<'_>) -> Result<(), StoreError> {
    let Some((name, at_ms)) = sign_of_life(record) else { return Ok(()) };
    let key = (record.app, name);
    let Some(gone) = cx.table::<Accounts>()?.get(&key)?.map(|account| account.gone) else { return Ok(()) };
    let minute_ms = at_ms - at_ms.rem_euclid(MINUTE_MS);
    let changed = cx.table::<Connections>()?.get(&key)?.is_some_and(|row| {
        let since = row.recent.iter().rev().take_while(|happening| happening.at_ms >= minute_ms);
        since.into_iter().any(|happening| happening.kind() != Kind::Sign)
    });
    if !gone && !changed {
        return Ok(());
    }
    with_account(cx, record, name, |_| ())
}

/// The account's connection changed.
fn look(cx: &mut Context<'_>, record: &EnvelopeView<'_>, name: &str) -> Result<(), StoreError> {
    if cx.table::<Accounts>()?.get(&(record.app, name))?.is_none() {
        return Ok(());
    }
    with_account(cx, record, name, |_| ())
}

/// Lets the account's row be changed, and its rooms hear what follows.
fn with_account(
    cx: &mut Context<'_>,
    record: &EnvelopeView<'_>,
    name: &str,
    change: impl FnOnce(&mut Account),
) -> Result<(), StoreError> {
    let key = (record.app, name);
    let rules = &cx.rules.presence;
    let horizon_ms = cx.stream_time_ms.saturating_sub(keep_ms(cx.rules.windows.lateness_ms, rules));
    let rules_version = cx.rules_version;
    // Online duration is applied before, so this event is in it.
    let duration = &cx.rules.duration;
    let gaps = cx.table::<Connections>()?.get(&key)?.map_or_else(Gaps::default, |row| gaps(row, duration));
    let account = cx.table::<Accounts>()?.entry(&key)?;
    for room in &mut account.rooms {
        room.fold(horizon_ms);
    }
    account.rooms.retain(|room| !room.is_over());
    change(account);
    let said = tell(account, &gaps, rules).into_iter().map(|news| Derived {
        app: record.app,
        group_id: account.rooms[news.room].group_id.clone(),
        account: name.to_owned(),
        from_ms: news.from_ms,
        moves: news
            .moves
            .iter()
            .map(|&Move { at_ms, back, uncertain_ms, maybe }| AccountMove { at_ms, back, uncertain_ms, maybe })
            .collect(),
        occurred_at_ms: record.occurred_at_ms,
        received_at_ms: record.received_at_ms,
        rules_version,
    });
    let said: Vec<Derived> = said.collect();
    for derived in said {
        cx.derive(derived);
    }
    Ok(())
}

fn room<'r>(account: &'r mut Account, group_id: &str) -> &'r mut OpenRoom {
    let at = account.rooms.iter().position(|room| room.group_id == group_id).unwrap_or_else(|| {
        if account.rooms.len() >= ROOMS_MAX {
            let oldest = (0..account.rooms.len()).min_by_key(|&at| account.rooms[at].last_joined_ms());
            account.rooms.remove(oldest.unwrap_or(0));
        }
        account.rooms.push(OpenRoom { group_id: group_id.to_owned(), ..OpenRoom::default() });
        account.rooms.len() - 1
    });
    &mut account.rooms[at]
}
