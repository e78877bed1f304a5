//! The projection on accounts: in which rooms an account is, and what those are told when its last device goes.

use barrage_event::derived::{Change, Derived};
use barrage_event::{EnvelopeView, Event, Topic};
use barrage_online_duration::{Online, online, tables::Accounts as Connections};
use barrage_projection::{ApplyError, Context, Projection, StoreError, TableDef};

use crate::proto::{Account, OpenRoom};
use crate::tables::Accounts;

/// Rooms that are kept of one account; above it those that it came to first are forgotten.
const ROOMS_MAX: usize = 64;

/// A login this soon after a logout belongs to it, ms: a device that is pushed out may log out before the other logs in.
const PUSHED_OUT_MS: u64 = 1_000;

/// Who joins a room this soon after the login, ms, has started anew: a client that only reconnects joins nothing.
const STARTED_MS: i64 = 10_000;

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
    fn gone(&mut self, room: &mut OpenRoom, at_ms: i64, uncertain_ms: u64) {
        room.told_gone_ms = at_ms.max(room.told_back_ms);
        self.say(&room.group_id, Change::Gone { uncertain_ms }, room.told_gone_ms);
    }

    fn back(&mut self, room: &mut OpenRoom, at_ms: i64) {
        let behind_ms = if room.told_gone_ms == 0 { 0 } else { room.told_gone_ms.saturating_add(1) };
        room.told_back_ms = at_ms.max(behind_ms);
        self.say(&room.group_id, Change::Back, room.told_back_ms);
    }

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
    account
        .rooms
        .retain(|room| if room.is_open() { !(room.told_gone && gone_ms < floor_ms) } else { room.left_ms >= floor_ms });
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
    let grace_ms = cx.rules.presence.back_grace_ms;
    let connection = connection(cx, record, name)?;
    Ok(with_account(cx, record, name, |account, voice| {
        if web.is_some() && started(account.back_ms, at_ms) {
            not_back(account, voice);
        }
        let (gone_ms, gone_uncertain_ms) = (account.gone_ms, account.gone_uncertain_ms);
        let own = room(account, group_id);
        if web.is_some() {
            own.entered_ms = own.entered_ms.max(at_ms);
        }
        if at_ms >= own.joined_ms {
            // A member state names no platform: it says something new of one who was not there only.
            own.web = web.unwrap_or_else(|| own.web && own.is_open());
            own.joined_ms = at_ms;
            own.told_gone = false;
            own.went_on = false;
        }
        // The account went after that, and this room was not told because it was not known to be one of its rooms.
        if gone_ms != 0 && own.is_open() && own.joined_ms <= gone_ms && !own.told_gone {
            own.told_gone = true;
            voice.gone(own, gone_ms, gone_uncertain_ms);
        }
        if web == Some(true) && one_room {
            leave_for_another(account, voice, group_id, at_ms);
        }
        // A join that is told late may have been over by now.
        if let Some(now) = &connection {
            told_connection(account, voice, now, grace_ms);
        }
    })?)
}

/// Whether a join at `at_ms` shows that a client that connected at `since_ms` began anew.
fn started(since_ms: i64, at_ms: i64) -> bool {
    since_ms != 0 && (since_ms..=since_ms.saturating_add(STARTED_MS)).contains(&at_ms)
}

/// The account connected again, but is not in its former rooms.
fn not_back(account: &mut Account, voice: &mut Voice<'_>) {
    let back_ms = account.back_ms;
    for room in account.rooms.iter_mut().filter(|room| room.went_on) {
        room.went_on = false;
        room.left_ms = room.left_ms.max(room.joined_ms.saturating_add(1));
        voice.gone(room, back_ms, 0);
    }
    account.back_ms = 0;
}

/// The Web's rule: joining a room leaves the one before. The joins may have come in any order.
fn leave_for_another(account: &mut Account, voice: &mut Voice<'_>, group_id: &str, at_ms: i64) {
    let next_ms = account
        .rooms
        .iter()
        .filter(|room| room.web && room.group_id != group_id && room.joined_ms > at_ms)
        .map(|room| room.joined_ms)
        .min();
    // Also of a room that is left already: it was left earlier than was known.
    for room in account.rooms.iter_mut().filter(|room| room.web && (room.is_open() || room.left_ms > at_ms)) {
        let left_ms = match next_ms {
            Some(next_ms) if room.group_id == group_id && room.joined_ms == at_ms => next_ms,
            _ if room.group_id != group_id && room.joined_ms <= at_ms => at_ms,
            _ => continue,
        };
        // One ms more than the exit, so that a join in the same ms does not reopen it.
        room.left_ms = left_ms.max(room.joined_ms.saturating_add(1));
        room.exited_ms = room.left_ms;
        voice.gone(room, left_ms, 0);
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
        own.exited_ms = own.exited_ms.max(at_ms);
    })?)
}

/// Where the account stands. Online duration is applied before, so this event is in it.
fn connection(cx: &mut Context<'_>, record: &EnvelopeView<'_>, name: &str) -> Result<Option<Online>, StoreError> {
    let at_ms = cx.stream_time_ms.max(record.occurred_at_ms);
    let rules = &cx.rules.duration;
    Ok(cx.table::<Connections>()?.get(&(record.app, name))?.map(|row| online(row, at_ms, rules)))
}

fn connection_changed(cx: &mut Context<'_>, record: &EnvelopeView<'_>, name: &str) -> Result<(), ApplyError> {
    if cx.table::<Accounts>()?.get(&(record.app, name))?.is_none() {
        return Ok(());
    }
    let Some(now) = connection(cx, record, name)? else { return Ok(()) };
    let grace_ms = cx.rules.presence.back_grace_ms;
    Ok(with_account(cx, record, name, |account, voice| told_connection(account, voice, &now, grace_ms))?)
}

/// Lets rooms hear what is new in the account's connection.
fn told_connection(account: &mut Account, voice: &mut Voice<'_>, now: &Online, grace_ms: u64) {
    come_back(account, voice, now, grace_ms);
    if now.again_ms > account.back_ms && account.gone_ms == 0 {
        // Its client reconnected, as far as can be told now.
        account.back_ms = now.again_ms;
        for room in &mut account.rooms {
            room.went_on = room.is_open() && room.joined_ms < now.again_ms;
        }
    }
    let hidden = now.now && now.left_ms != 0 && now.left_ms < now.since_ms;
    if !now.now && now.left_ms != 0 && now.left_ms != account.gone_ms {
        never_went(account, voice, now.left_ms);
        account.gone_ms = now.left_ms;
        account.gone_uncertain_ms = now.left_uncertain_ms;
        account.logged_out = now.logged_out;
        account.left_since = false;
        tell_gone(account, voice, now.left_ms, now.left_uncertain_ms);
    } else if hidden && reconnected(account, now.left_ms, now.since_ms, now.logged_out, grace_ms) {
        came_back_earlier(account, voice, now);
    } else if hidden {
        // Nobody was told when it went, because nobody knew: its session had no end, or its end is told late.
        let gone_ms = now.left_ms;
        let uncertain_ms = now.left_uncertain_ms;
        for room in account.rooms.iter_mut().filter(|r| r.is_open() && r.joined_ms <= gone_ms) {
            room.left_ms = room.joined_ms.saturating_add(1).max(gone_ms);
            voice.gone(room, gone_ms, uncertain_ms);
        }
    }
}

/// Whether a login at `since_ms` goes on with what ended at `gone_ms`.
fn reconnected(account: &Account, gone_ms: i64, since_ms: i64, logged_out: bool, grace_ms: u64) -> bool {
    let grace_ms = if logged_out { grace_ms.min(PUSHED_OUT_MS) } else { grace_ms };
    let anew = account.rooms.iter().any(|room| room.entered_ms > gone_ms && started(since_ms, room.entered_ms));
    since_ms.abs_diff(gone_ms) <= grace_ms && !anew
}

/// It was connected again sooner than was known, so that those of its rooms that had taken it for gone go on.
fn came_back_earlier(account: &mut Account, voice: &mut Voice<'_>, now: &Online) {
    if account.final_ms == now.left_ms {
        return;
    }
    for room in account.rooms.iter_mut().filter(|r| r.told_gone_ms == now.left_ms && r.told_back_ms < now.left_ms) {
        if room.joined_ms <= now.left_ms {
            room.left_ms = room.exited_ms;
        }
        voice.back(room, now.since_ms);
    }
}

/// It went earlier than its rooms were told: those that it joined after that never saw it go.
fn never_went(account: &mut Account, voice: &mut Voice<'_>, left_ms: i64) {
    let back_ms = account.gone_ms.saturating_add(1);
    for room in account.rooms.iter_mut().filter(|room| room.told_gone && room.joined_ms > left_ms) {
        room.told_gone = false;
        if room.is_open() {
            voice.back(room, back_ms);
        }
    }
}

/// Every room that the account was in by then hears that it is gone.
fn tell_gone(account: &mut Account, voice: &mut Voice<'_>, gone_ms: i64, uncertain_ms: u64) {
    for room in account.rooms.iter_mut().filter(|room| room.is_open() && room.joined_ms <= gone_ms) {
        room.told_gone = true;
        room.went_on = false;
        voice.gone(room, gone_ms, uncertain_ms);
    }
}

/// The account is connected again since its rooms were told that it is gone, or it never went then.
fn come_back(account: &mut Account, voice: &mut Voice<'_>, now: &Online, grace_ms: u64) {
    let gone_ms = account.gone_ms;
    let again = now.now || now.left_ms > gone_ms;
    if gone_ms == 0 || !again {
        return;
    }
    // Where it never went, a ms later, so that it comes behind the going.
    let back_ms = now.since_ms.max(gone_ms.saturating_add(1));
    let on = now.since_ms <= gone_ms;
    let reconnected =
        on || !account.left_since && reconnected(account, gone_ms, now.since_ms, account.logged_out, grace_ms);
    for room in account.rooms.iter_mut().filter(|room| room.told_gone) {
        room.told_gone = false;
        if reconnected {
            // Also one that it had left before it went: if a later join is still to be told, it must not end there.
            room.went_on = !on && room.is_open();
            voice.back(room, back_ms);
        } else if room.is_open() {
            room.left_ms = room.joined_ms.saturating_add(1).max(gone_ms);
        }
    }
    if account.left_since {
        account.final_ms = gone_ms;
    }
    account.back_ms = if reconnected && !on { back_ms } else { 0 };
    account.gone_ms = 0;
    account.gone_uncertain_ms = 0;
    account.logged_out = false;
    account.left_since = false;
}
