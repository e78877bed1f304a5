//! The projection on rooms: who is there.

use barrage_event::event::Cause;
use barrage_event::{EnvelopeView, Event, Topic};
use barrage_projection::{ApplyError, Context, Intent, Projection, StoreError, TableDef, minute_of};
use serde_json::{Map, Value as Json};
use xxhash_rust::xxh3::xxh3_128;

use crate::crowd::{self, RoomKey};
use crate::member::{Changes, Inserted, length};
use crate::proto::{Ended, Member, Moment, MomentKind, RecentMember, Room};
use crate::tables::{Chunks, EarlyMoments, Members, Recent, Rooms};

/// Entries of one row of the ring, and rows of it: the last 2,048 joins hold the last 1,000 members unless more than
/// half of them came twice.
pub(crate) const RING_ENTRIES: u64 = 64;
pub(crate) const RING_ROWS: u64 = 32;

/// Disbandings that a room remembers; a group's id is used again now and then.
const ENDED_MAX: usize = 8;

/// What is remembered of an account that is no member: as much as fits into a member's row.
const EARLY_MAX: usize = 32;

const MINUTE_MS: i64 = 60_000;

/// Members, their stays and their number, on `barrage.room`.
#[derive(Debug, Clone, Copy, Default)]
pub struct RoomPresence;

impl Projection for RoomPresence {
    fn name(&self) -> &'static str {
        "presence.rooms"
    }

    fn topic(&self) -> Topic {
        Topic::Room
    }

    fn tables(&self) -> Vec<TableDef> {
        vec![
            TableDef::of::<Rooms>(),
            TableDef::of::<Chunks>(),
            TableDef::of::<Members>(),
            TableDef::of::<Recent>(),
            TableDef::buckets::<EarlyMoments>(),
        ]
    }

    fn apply(&self, cx: &mut Context<'_>, record: &EnvelopeView<'_>) -> Result<(), ApplyError> {
        let delay_ms = cx.rules.presence.member_state_delay_ms;
        let moment = |kind: MomentKind, uncertain_ms| {
            Said::Moment(Moment { at_ms: record.occurred_at_ms, kind: kind.into(), uncertain_ms })
        };
        match &record.event {
            Event::MembersJoined(e) => told(cx, record, e.group_id, e.members.iter(), &moment(MomentKind::Joined, 0)),
            Event::MembersLeft(e) => told(cx, record, e.group_id, e.members.iter(), &moment(MomentKind::Left, 0)),
            Event::MemberState(e) => {
                // What a user did is told at once, what the platform found out is told late.
                let at_once = matches!(e.cause, Cause::Join | Cause::Quit);
                let kind = if e.online { MomentKind::Online } else { MomentKind::Offline };
                told(cx, record, e.group_id, e.members.iter(), &moment(kind, if at_once { 0 } else { delay_ms }))
            }
            Event::AccountMoves(e) => {
                let moves = e.moves.iter().map(|one| {
                    let kind = match (one.back, one.maybe) {
                        (false, _) => MomentKind::Gone,
                        (true, true) => MomentKind::MaybeBack,
                        (true, false) if one.uncertain_ms == 0 => MomentKind::Back,
                        (true, false) => MomentKind::Replaced,
                    };
                    Moment { at_ms: one.at_ms, kind: kind.into(), uncertain_ms: one.uncertain_ms }
                });
                let moves = Said::Moves { from_ms: e.from_ms, list: moves.collect() };
                told(cx, record, e.group_id, std::iter::once(e.account), &moves)
            }
            Event::GroupDestroyed(e) => ended(cx, record, e.group_id),
            // Signs of life are of use to the idle time-out alone.
            Event::AfterSend(m) | Event::BeforeSend(m)
                if cx.rules.presence.idle_timeout_ms > 0 && record.platform != "restapi" =>
            {
                told(cx, record, m.group_id, std::iter::once(m.from_account), &moment(MomentKind::Sign, 0))
            }
            _ => Ok(()),
        }
    }
}

fn span(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// An idle time-out, ms, when it is on.
pub(crate) fn idle(ms: u64) -> Option<i64> {
    Some(span(ms)).filter(|&ms| ms > 0)
}

/// What is told of an account in a room.
#[derive(Debug)]
enum Said {
    Moment(Moment),
    /// All its goings and returns from a time on.
    Moves {
        from_ms: i64,
        list: Vec<Moment>,
    },
}

impl Said {
    fn comes(&self) -> bool {
        matches!(self, Self::Moment(moment) if matches!(moment.kind(), MomentKind::Joined | MomentKind::Online))
    }

    fn moments(&self) -> &[Moment] {
        match self {
            Self::Moment(moment) => std::slice::from_ref(moment),
            Self::Moves { list, .. } => list,
        }
    }
}

/// Something was told of accounts in a room.
fn told<'e>(
    cx: &mut Context<'_>,
    record: &EnvelopeView<'_>,
    group_id: &str,
    accounts: impl Iterator<Item = &'e str>,
    said: &Said,
) -> Result<(), ApplyError> {
    let key = (record.app, group_id);
    let horizon_ms = cx.stream_time_ms.saturating_sub(span(cx.rules.windows.lateness_ms));
    let floor = minute_of(horizon_ms);
    cx.buckets::<EarlyMoments>()?.expire_below(floor);
    if !said.comes() && cx.table::<Rooms>()?.get(&key)?.is_none() {
        for account in accounts {
            keep_early(cx, key, account, said)?;
        }
        return Ok(());
    }
    // Taken out while the event is applied, because the other tables are changed through the same context.
    let mut room = std::mem::take(cx.table::<Rooms>()?.entry(&key)?);
    let mut result = crowd::fold(cx, &mut room, key, horizon_ms);
    crowd::follow_idle(&mut room, cx.rules.presence.idle_timeout_ms);
    for account in accounts.filter(|account| !account.is_empty()) {
        result = result.and_then(|()| member_told(cx, &mut room, key, account, said));
    }
    notify(cx, record, &mut room, group_id);
    *cx.table::<Rooms>()?.entry(&key)? = room;
    Ok(result?)
}

/// Where what is told of an account that is no member is kept.
fn early_hash(key: RoomKey<'_>, account: &str) -> u128 {
    let mut bytes = Vec::with_capacity(16 + key.1.len() + account.len());
    bytes.extend_from_slice(&key.0.to_be_bytes());
    bytes.extend_from_slice(&(key.1.len() as u64).to_be_bytes());
    bytes.extend_from_slice(key.1.as_bytes());
    bytes.extend_from_slice(account.as_bytes());
    xxh3_128(&bytes)
}

fn keep_early(cx: &mut Context<'_>, key: RoomKey<'_>, account: &str, said: &Said) -> Result<(), StoreError> {
    if account.is_empty() {
        return Ok(());
    }
    let minute = minute_of(cx.stream_time_ms);
    let hash = early_hash(key, account);
    let mut rows = cx.buckets::<EarlyMoments>()?;
    let known = rows.remove(hash);
    if known.is_none() && said.moments().is_empty() {
        return Ok(());
    }
    let mut row = known.unwrap_or_default();
    match said {
        Said::Moves { from_ms, list } => {
            row.moments.retain(|moment| moment.at_ms < *from_ms || !moment.is_move());
            row.moments.extend_from_slice(list);
        }
        Said::Moment(moment) => {
            // Of signs of life the last of a minute is enough.
            let minute = |m: &Moment| (m.kind, m.at_ms.div_euclid(MINUTE_MS));
            let same = |m: &&mut Moment| moment.kind() == MomentKind::Sign && minute(m) == minute(moment);
            match row.moments.iter_mut().find(same) {
                Some(known) => known.at_ms = known.at_ms.max(moment.at_ms),
                None => row.moments.push(*moment),
            }
        }
    }
    let too_many = row.moments.len().saturating_sub(EARLY_MAX);
    row.moments.drain(..too_many);
    rows.insert(minute, hash, row);
    Ok(())
}

fn member_told(
    cx: &mut Context<'_>,
    room: &mut Room,
    key: RoomKey<'_>,
    account: &str,
    said: &Said,
) -> Result<(), StoreError> {
    let member_key = (key.0, key.1, account);
    let comes = said.comes();
    let known = cx.table::<Members>()?.get(&member_key)?.is_some();
    if !known && !comes {
        return keep_early(cx, key, account, said);
    }
    let mut member = std::mem::take(cx.table::<Members>()?.entry(&member_key)?);
    catch_up(room, &mut member, known);
    // What is counted of it was made with the idle time-out of then.
    let counted_by = idle(member.idle_ms);
    member.fold(room.folded_to_ms, counted_by);
    let mut before = Changes::default();
    let stood = member.walk(i64::MAX, counted_by, &mut before);
    let mut in_time = insert(room, &mut member, said);
    if !known {
        room.distinct = room.distinct.saturating_add(1);
        let early = cx.buckets::<EarlyMoments>()?.remove(early_hash(key, account)).unwrap_or_default();
        for moment in early.moments {
            room.last_ms = room.last_ms.max(moment.at_ms);
            member.insert(moment);
        }
    }
    let counts_by = idle(room.idle_ms);
    member.idle_ms = room.idle_ms;
    let mut after = Changes::default();
    let stay = member.walk(i64::MAX, counts_by, &mut after);
    in_time &= differ(cx, room, key, before.list(), after.list())?;
    in_time &= place_end(cx, room, key, &mut member, stay.silent_from(counts_by).unwrap_or(0))?;
    room.too_late = room.too_late.saturating_add(u64::from(!in_time));
    if stay.joined_ms > stood.joined_ms {
        remember(cx, room, key, account, stay.joined_ms)?;
    }
    member.fold_surplus(counts_by);
    *cx.table::<Members>()?.entry(&member_key)? = member;
    Ok(())
}

/// Puts what is told of a member among its moments; whether all of it was in time.
fn insert(room: &mut Room, member: &mut Member, said: &Said) -> bool {
    let in_time = match said {
        Said::Moment(moment) => match member.insert(*moment) {
            Inserted::New => true,
            Inserted::Known => return true,
            Inserted::TooLate => return false,
        },
        Said::Moves { from_ms, list } => member.replace_moves(*from_ms, list),
    };
    for moment in said.moments() {
        room.last_ms = room.last_ms.max(moment.at_ms);
    }
    if let Said::Moment(moment) = said
        && said.comes()
    {
        for ended in room.ended.iter().filter(|ended| ended.at_ms >= moment.at_ms) {
            member.insert(ended.moment());
        }
    }
    in_time
}

/// Counts a member's provisional end where it is now, 0 for nowhere; whether that was in time for the peak.
fn place_end(
    cx: &mut Context<'_>,
    room: &mut Room,
    key: RoomKey<'_>,
    member: &mut Member,
    end_ms: i64,
) -> Result<bool, StoreError> {
    let placed_ms = std::mem::replace(&mut member.placed_end_ms, end_ms);
    let mut in_time = true;
    if end_ms != placed_ms {
        if placed_ms != 0 {
            in_time &= crowd::change_end(cx, room, key, placed_ms, false)?;
        }
        if end_ms != 0 {
            in_time &= crowd::change_end(cx, room, key, end_ms, true)?;
        }
    }
    Ok(in_time)
}

/// A room that was disbanded ended the stays of members whose rows nobody touched then, and their provisional ends are
/// void.
fn catch_up(room: &Room, member: &mut Member, known: bool) {
    if known && let Some(ended) = ended_since(room, member) {
        member.insert(ended.moment());
    }
    if member.era != room.era {
        member.placed_end_ms = 0;
        member.era = room.era;
    }
}

impl Ended {
    /// What a member sees of it: the end of its stay, if that had not ended without being told.
    pub(crate) fn moment(&self) -> Moment {
        Moment { at_ms: self.at_ms, kind: MomentKind::Ended.into(), uncertain_ms: self.uncertain_ms }
    }
}

/// How the room was disbanded first since the member's row was changed last.
pub(crate) fn ended_since<'r>(room: &'r Room, member: &Member) -> Option<&'r Ended> {
    room.ended.iter().find(|ended| ended.era > member.era)
}

/// Brings the room's count from what a member's moments made of it to what they make of it now; whether all that was in
/// time for the peak.
fn differ(
    cx: &mut Context<'_>,
    room: &mut Room,
    key: RoomKey<'_>,
    before: &[(i64, i32)],
    after: &[(i64, i32)],
) -> Result<bool, StoreError> {
    let same = before.iter().zip(after).take_while(|(b, a)| b == a).count();
    let mut in_time = true;
    for &(at_ms, delta) in &before[same..] {
        if !after[same..].contains(&(at_ms, delta)) {
            in_time &= crowd::change(cx, room, key, at_ms, -delta)?;
        }
    }
    for &(at_ms, delta) in &after[same..] {
        if !before[same..].contains(&(at_ms, delta)) {
            in_time &= crowd::change(cx, room, key, at_ms, delta)?;
        }
    }
    Ok(in_time)
}

/// Puts a member who came into the ring.
fn remember(
    cx: &mut Context<'_>,
    room: &mut Room,
    key: RoomKey<'_>,
    account: &str,
    joined_ms: i64,
) -> Result<(), StoreError> {
    let place = u32::try_from(room.joins / RING_ENTRIES % RING_ROWS).unwrap_or(0);
    let row = cx.table::<Recent>()?.entry(&(key.0, key.1, place))?;
    if room.joins.is_multiple_of(RING_ENTRIES) {
        row.members.clear();
    }
    row.members.push(RecentMember { account: account.to_owned(), joined_ms });
    room.joins = room.joins.saturating_add(1);
    Ok(())
}

fn ended(cx: &mut Context<'_>, record: &EnvelopeView<'_>, group_id: &str) -> Result<(), ApplyError> {
    let key = (record.app, group_id);
    let horizon_ms = cx.stream_time_ms.saturating_sub(span(cx.rules.windows.lateness_ms));
    // Also of a room that nobody is known to have joined: joins may still come.
    let mut room = std::mem::take(cx.table::<Rooms>()?.entry(&key)?);
    let result = crowd::fold(cx, &mut room, key, horizon_ms).and_then(|()| {
        crowd::follow_idle(&mut room, cx.rules.presence.idle_timeout_ms);
        // A disbanding ends all stays at once without a look at the members' rows. So it counts from behind all that is
        // known of them by now, which is its own time unless it is told late.
        let told_ms = record.occurred_at_ms;
        if room.ended.last().is_some_and(|last| last.told_ms >= told_ms) {
            return Ok(());
        }
        let known_ms = if room.last_ms >= told_ms { room.last_ms.saturating_add(1) } else { told_ms };
        let at_ms = known_ms.max(room.folded_to_ms);
        room.last_ms = at_ms;
        room.too_late = room.too_late.saturating_add(u64::from(told_ms < room.folded_to_ms));
        crowd::clear(cx, &mut room, key, at_ms)?;
        room.era = room.era.saturating_add(1);
        if room.ended.len() >= ENDED_MAX {
            room.ended.remove(0);
        }
        // As of a viewer who is there: nobody can tell one from a client whose loss is not told yet.
        let uncertain_ms = length(told_ms, at_ms).saturating_add(cx.rules.duration.native_detection_ms);
        room.ended.push(Ended { era: room.era, at_ms, told_ms, uncertain_ms });
        Ok(())
    });
    notify(cx, record, &mut room, group_id);
    *cx.table::<Rooms>()?.entry(&key)? = room;
    Ok(result?)
}

/// Tells of the online count when it has moved by more than a share, or by a number, since it was last told.
fn notify(cx: &mut Context<'_>, record: &EnvelopeView<'_>, room: &mut Room, group_id: &str) {
    let rules = &cx.rules.notify;
    if rules.online_percent == 0 && rules.online_number == 0 {
        return;
    }
    let now = crowd::count_about(room, cx.stream_time_ms);
    let moved = now.abs_diff(room.told);
    let share = u128::from(rules.online_percent) * u128::from(room.told);
    let by_share = rules.online_percent > 0 && moved >= rules.online_min && u128::from(moved) * 100 > share;
    let by_number = rules.online_number > 0 && moved >= rules.online_number;
    if moved == 0 || !by_share && !by_number {
        return;
    }
    let mut fields = Map::new();
    fields.insert("room".to_owned(), Json::from(group_id));
    fields.insert("online".to_owned(), Json::from(now));
    fields.insert("before".to_owned(), Json::from(room.told));
    room.told = now;
    cx.notify(Intent {
        kind: "online_moved",
        app: record.app,
        key: format!("{group_id}/{}", cx.offset.0),
        at_ms: record.occurred_at_ms,
        fields,
    });
}
