//! The projection on accounts: in which rooms an account is, and what those are told when its last device goes.

use barrage_event::derived::{Change, Derived};
use barrage_event::{EnvelopeView, Event, Topic};
use barrage_online_duration::{Online, online, tables::Accounts as Connections};
use barrage_projection::{ApplyError, Context, Projection, StoreError, TableDef};

use crate::proto::{Account, OpenRoom};
use crate::tables::Accounts;

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
        match &record.event {
            Event::MembersJoined(e) => {
                let web = record.platform == "web";
                came(cx, record, e.members.iter().next().unwrap_or(""), e.group_id, Some(web))
            }
            Event::MembersLeft(e) => left(cx, record, e.members.iter().next().unwrap_or(""), e.group_id, true),
            Event::MemberState(e) => {
                let account = e.members.iter().next().unwrap_or("");
                if e.online {
                    came(cx, record, account, e.group_id, None)
                } else {
                    left(cx, record, account, e.group_id, false)
                }
            }
            Event::StateChange(e) => connection_changed(cx, record, e.account),
            _ => Ok(()),
        }
    }
}

impl OpenRoom {
    /// Whether the account is in the room, as far as joins and exits tell.
    pub(crate) fn is_open(&self) -> bool {
        self.joined_ms != 0 && self.joined_ms >= self.left_ms
    }
}

/// What a record makes rooms hear.
struct Voice<'a> {
    record: &'a EnvelopeView<'a>,
    account: &'a str,
    rules_version: u32,
    said: Vec<Derived>,
}

impl Voice<'_> {
    fn say(&mut self, group_id: &str, change: Change, at_ms: i64) {
        self.said.push(Derived {
            app: self.record.app,
            group_id: group_id.to_owned(),
            account: self.account.to_owned(),
            change,
            occurred_at_ms: at_ms,
            received_at_ms: self.record.received_at_ms,
            rules_version: self.rules_version,
        });
    }
}

/// Takes the account's row out, lets it be changed, and lets rooms hear what follows.
fn with_account(
    cx: &mut Context<'_>,
    record: &EnvelopeView<'_>,
    name: &str,
    change: impl FnOnce(&mut Account, &mut Voice<'_>),
) -> Result<(), StoreError> {
    let key = (record.app, name);
    let mut voice = Voice { record, account: name, rules_version: cx.rules_version, said: Vec::new() };
    let keep_ms = cx.rules.windows.lateness_ms.max(cx.rules.presence.back_grace_ms);
    let floor_ms = cx.stream_time_ms.saturating_sub(i64::try_from(keep_ms).unwrap_or(i64::MAX));
    let account = cx.table::<Accounts>()?.entry(&key)?;
    change(account, &mut voice);
    let gone_ms = account.gone_ms;
    account.rooms.retain(|room| {
        if room.is_open() { !(room.told_gone && gone_ms < floor_ms) } else { room.left_ms >= floor_ms }
    });
    for derived in voice.said {
        cx.derive(derived);
    }
    Ok(())
}

fn room<'r>(account: &'r mut Account, group_id: &str) -> &'r mut OpenRoom {
    let at = account.rooms.iter().position(|room| room.group_id == group_id).unwrap_or_else(|| {
        if account.rooms.len() >= ROOMS_MAX {
            let oldest = (0..account.rooms.len()).min_by_key(|&at| account.rooms[at].joined_ms);
            account.rooms.remove(oldest.unwrap_or(0));
        }
        account.rooms.push(OpenRoom { group_id: group_id.to_owned(), ..OpenRoom::default() });
        account.rooms.len() - 1
    });
    &mut account.rooms[at]
}

fn came(
    cx: &mut Context<'_>,
    record: &EnvelopeView<'_>,
    name: &str,
    group_id: &str,
    web: Option<bool>,
) -> Result<(), ApplyError> {
    let at_ms = record.occurred_at_ms;
    let one_room = cx.rules.presence.web_one_room;
    Ok(with_account(cx, record, name, |account, voice| {
        let (gone_ms, gone_uncertain_ms) = (account.gone_ms, account.gone_uncertain_ms);
        let own = room(account, group_id);
        if at_ms >= own.joined_ms {
            // A member state names no platform: it says something new of one who was not there only.
            own.web = web.unwrap_or(own.web && own.is_open());
            own.joined_ms = at_ms;
            own.told_gone = false;
        }
        // The account went after that, and this room was not told because it was not known to be one of its rooms.
        if gone_ms != 0 && own.is_open() && own.joined_ms <= gone_ms && !own.told_gone {
            own.told_gone = true;
            voice.say(group_id, Change::Gone { uncertain_ms: gone_uncertain_ms }, gone_ms);
        }
        if web == Some(true) && one_room {
            leave_for_another(account, voice, group_id, at_ms);
        }
    })?)
}

/// The Web's rule: joining a room leaves the one before. The joins may have come in any order.
fn leave_for_another(account: &mut Account, voice: &mut Voice<'_>, group_id: &str, at_ms: i64) {
    let next_ms = account
        .rooms
        .iter()
        .filter(|room| room.web && room.group_id != group_id && room.joined_ms > at_ms)
        .map(|room| room.joined_ms)
        .min();
    for room in account.rooms.iter_mut().filter(|room| room.web && room.is_open()) {
        let left_ms = match next_ms {
            Some(next_ms) if room.group_id == group_id && room.joined_ms == at_ms => next_ms,
            _ if room.group_id != group_id && room.joined_ms <= at_ms => at_ms,
            _ => continue,
        };
        // One ms more than the exit, so that a join in the same ms does not reopen it.
        room.left_ms = left_ms.max(room.joined_ms.saturating_add(1));
        voice.say(&room.group_id, Change::Gone { uncertain_ms: 0 }, left_ms);
    }
}

fn left(
    cx: &mut Context<'_>,
    record: &EnvelopeView<'_>,
    name: &str,
    group_id: &str,
    exit: bool,
) -> Result<(), ApplyError> {
    let at_ms = record.occurred_at_ms;
    Ok(with_account(cx, record, name, |account, _| {
        // What the platform notices of a lost connection is no exit.
        account.left_since |= exit && account.gone_ms != 0 && at_ms > account.gone_ms;
        let own = room(account, group_id);
        own.left_ms = own.left_ms.max(at_ms);
    })?)
}

fn connection_changed(cx: &mut Context<'_>, record: &EnvelopeView<'_>, name: &str) -> Result<(), ApplyError> {
    let key = (record.app, name);
    if cx.table::<Accounts>()?.get(&key)?.is_none() {
        return Ok(());
    }
    let at_ms = cx.stream_time_ms.max(record.occurred_at_ms);
    let grace_ms = cx.rules.presence.back_grace_ms;
    let rules = &cx.rules.duration;
    // Online duration is applied before, so this event is in it.
    let Some(now) = cx.table::<Connections>()?.get(&key)?.map(|row| online(row, at_ms, rules)) else { return Ok(()) };
    Ok(with_account(cx, record, name, |account, voice| {
        come_back(account, voice, &now, grace_ms);
        let hidden = now.now && now.left_ms != 0 && now.left_ms < now.since_ms;
        if !now.now && now.left_ms != 0 && now.left_ms != account.gone_ms {
            account.gone_ms = now.left_ms;
            account.gone_uncertain_ms = now.left_uncertain_ms;
            account.left_since = false;
            tell_gone(account, voice, now.left_ms, now.left_uncertain_ms);
        } else if hidden && now.since_ms.abs_diff(now.left_ms) > grace_ms {
            // Nobody was told when it went, because nobody knew: its session had no end.
            let gone_ms = now.left_ms;
            let uncertain_ms = now.left_uncertain_ms;
            for room in account.rooms.iter_mut().filter(|r| r.is_open() && r.joined_ms <= gone_ms && !r.told_gone) {
                room.left_ms = room.joined_ms.saturating_add(1).max(gone_ms);
                voice.say(&room.group_id, Change::Gone { uncertain_ms }, gone_ms);
            }
        }
    })?)
}

/// Every room that the account was in by then hears that it is gone.
fn tell_gone(account: &mut Account, voice: &mut Voice<'_>, gone_ms: i64, uncertain_ms: u64) {
    for room in account.rooms.iter_mut().filter(|room| room.is_open() && room.joined_ms <= gone_ms) {
        room.told_gone = true;
        voice.say(&room.group_id, Change::Gone { uncertain_ms }, gone_ms);
    }
}

/// The account is connected again since its rooms were told that it is gone, or it never went then.
fn come_back(account: &mut Account, voice: &mut Voice<'_>, now: &Online, grace_ms: u64) {
    let gone_ms = account.gone_ms;
    let again = now.now || now.left_ms > gone_ms;
    if gone_ms == 0 || !again {
        return;
    }
    let back_ms = now.since_ms.max(gone_ms);
    let reconnected = back_ms.abs_diff(gone_ms) <= grace_ms && !account.left_since;
    for room in account.rooms.iter_mut().filter(|room| room.told_gone) {
        room.told_gone = false;
        if !room.is_open() {
            continue;
        }
        if reconnected {
            voice.say(&room.group_id, Change::Back, back_ms);
        } else {
            room.left_ms = room.joined_ms.saturating_add(1).max(gone_ms);
        }
    }
    account.gone_ms = 0;
    account.gone_uncertain_ms = 0;
    account.left_since = false;
}
