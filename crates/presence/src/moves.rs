//! What a room has to see of an account's comings and goings: a function of all that is known of them, so that the order
//! in which it became known does not matter.
//!
//! The account's row keeps the joins and exits of the lateness window, online duration's row the times without a
//! connection. Of both follows, for each room, the list of moves: when the account went while it was in the room, and when
//! it was back. What is told is the list; when something late changes it, the new list takes its place.

use barrage_event::rules::PresenceRules;
use barrage_online_duration::{Gap, Gaps};

use crate::proto::{Account, Entry, EntryKind, Move, OpenRoom, Standing};

/// A login this soon after a logout belongs to it, ms: a device that is pushed out may log out before the other logs in.
const PUSHED_OUT_MS: u64 = 1_000;

/// Who joins a room this soon after the login, ms, has started anew: a client that only reconnects joins nothing.
const STARTED_MS: i64 = 10_000;

/// Joins and exits of a room that are kept; above it the oldest is folded before its time.
const ENTRIES_MAX: usize = 32;

/// Moves that are kept of what a room was told; above it what is older is told for good.
const TOLD_MAX: usize = 32;

/// How far back a join or exit can decide about a return that may still change, ms.
pub(crate) fn keep_ms(lateness_ms: u64, rules: &PresenceRules) -> i64 {
    let keep_ms = lateness_ms.saturating_add(rules.back_grace_ms).saturating_add(STARTED_MS.unsigned_abs());
    i64::try_from(keep_ms).unwrap_or(i64::MAX)
}

/// Something that changes whether an account is in a room.
#[derive(Debug, Clone, Copy)]
enum Step<'a> {
    Entry(EntryKind),
    /// Its connection is back after the going at that time; or it seems to have begun anew.
    Back {
        gone_ms: i64,
        maybe: bool,
    },
    /// It went.
    Gone {
        uncertain_ms: u64,
        replaced: bool,
    },
    /// Its connection was replaced by another one, which goes on.
    Replaced {
        uncertain_ms: u64,
    },
    /// It joined this other room from the Web.
    LeftFor(&'a str),
    /// What the room was told, and what is not computed anew.
    Told(Move),
}

/// What a new connection is to the rooms of before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Return {
    /// The account goes on there.
    Certain,
    /// It seems to have begun anew: it may be there, but that is not told.
    Maybe,
    /// It is not back.
    No,
}

/// What comes first in one ms: exits before joins, and goings before what takes their place, as in the room itself.
fn rank(step: &Step<'_>) -> u8 {
    match step {
        Step::Entry(EntryKind::Left) => 0,
        Step::Entry(EntryKind::Offline) => 1,
        Step::Entry(EntryKind::Joined | EntryKind::JoinedFromWeb) => 2,
        Step::Entry(EntryKind::Online) => 3,
        Step::Back { maybe: false, .. } => 4,
        Step::Told(told) if told.back && !told.maybe && told.uncertain_ms == 0 => 4,
        Step::Gone { .. } | Step::LeftFor(_) => 5,
        Step::Told(told) if !told.back => 5,
        Step::Back { maybe: true, .. } | Step::Replaced { .. } | Step::Told(_) => 6,
    }
}

fn in_order(steps: &mut [(i64, Step<'_>)]) {
    steps.sort_by_key(|(at_ms, step)| (*at_ms, rank(step)));
}

impl Entry {
    fn is_join(&self) -> bool {
        matches!(self.kind(), EntryKind::Joined | EntryKind::JoinedFromWeb)
    }
}

impl Standing {
    fn entry(&mut self, at_ms: i64, kind: EntryKind) {
        match kind {
            EntryKind::Joined | EntryKind::JoinedFromWeb => {
                self.web = kind == EntryKind::JoinedFromWeb;
                self.since_ms = at_ms;
                self.on = true;
            }
            EntryKind::Online => {
                if !self.on {
                    // A member state names no platform.
                    self.web = false;
                    self.since_ms = at_ms;
                }
                self.on = true;
            }
            EntryKind::Left | EntryKind::Offline => self.on = false,
        }
        self.gone_ms = 0;
        self.maybe = false;
        self.maybe_gone_ms = 0;
    }

    /// It went at a time; whether that changes anything for the room.
    fn go(&mut self, at_ms: i64) -> bool {
        if self.on {
            self.gone_ms = at_ms;
        } else if self.maybe {
            self.maybe_gone_ms = at_ms;
        } else {
            return false;
        }
        (self.on, self.maybe) = (false, false);
        true
    }

    /// It is back, or may be, where it was or may have been when it went.
    fn come_back(&mut self, maybe: bool) {
        self.on = self.gone_ms != 0 && !maybe;
        self.maybe = !self.on;
        self.gone_ms = 0;
        self.maybe_gone_ms = 0;
    }

    fn told(&mut self, told: &Move) {
        if !told.back {
            self.go(told.at_ms);
        } else if self.gone_ms != 0 || self.maybe_gone_ms != 0 {
            self.come_back(told.maybe);
        }
    }

    /// Takes a step; returns the move that the room has to see, if that is one.
    fn step(&mut self, at_ms: i64, step: Step<'_>, group_id: &str) -> Option<Move> {
        let uncertain_ms = match step {
            Step::Entry(kind) => {
                self.entry(at_ms, kind);
                return None;
            }
            Step::Told(told) => {
                self.told(&told);
                return None;
            }
            Step::Back { gone_ms, maybe } => {
                if self.on || self.gone_ms.max(self.maybe_gone_ms) != gone_ms {
                    return None;
                }
                self.come_back(maybe);
                return Some(Move { at_ms, back: true, uncertain_ms: 0, maybe });
            }
            // The connection that was replaced is not the one that it joined from in the same ms.
            Step::Gone { replaced: true, .. } | Step::Replaced { .. } if self.since_ms >= at_ms => return None,
            Step::Replaced { uncertain_ms } => {
                let told = self.on && uncertain_ms > 0;
                return told.then_some(Move { at_ms, back: true, uncertain_ms, maybe: false });
            }
            Step::Gone { uncertain_ms, .. } => uncertain_ms,
            // Of two joins in the same ms one has to be the last.
            Step::LeftFor(other) if !self.web || (self.since_ms, group_id) >= (at_ms, other) => return None,
            Step::LeftFor(_) => {
                let left = self.go(at_ms);
                (self.gone_ms, self.maybe_gone_ms) = (0, 0);
                return left.then_some(Move { at_ms, back: false, uncertain_ms: 0, maybe: false });
            }
        };
        self.go(at_ms).then_some(Move { at_ms, back: false, uncertain_ms, maybe: false })
    }
}

impl OpenRoom {
    fn standing(&self) -> Standing {
        self.folded.unwrap_or_default()
    }

    /// Notes a join or exit; what is older than something that is folded is too late.
    pub(crate) fn enter(&mut self, at_ms: i64, kind: EntryKind) {
        if at_ms < self.standing().folded_ms {
            return;
        }
        let key = (at_ms, i32::from(kind));
        let before = self.entries.iter().take_while(|entry| (entry.at_ms, entry.kind) < key).count();
        if self.entries.get(before).is_some_and(|entry| (entry.at_ms, entry.kind) == key) {
            return;
        }
        self.entries.insert(before, Entry { at_ms, kind: kind.into() });
        if self.entries.len() > ENTRIES_MAX {
            let first_ms = self.entries[0].at_ms;
            self.fold(first_ms.saturating_add(1));
        }
    }

    /// Folds what is older than the horizon.
    pub(crate) fn fold(&mut self, horizon_ms: i64) {
        let entries = self.entries.iter().take_while(|entry| entry.at_ms < horizon_ms).count();
        let told = self.told.iter().take_while(|told| told.at_ms < horizon_ms).count();
        if entries + told == 0 {
            return;
        }
        let mut steps: Vec<(i64, Step<'_>)> = Vec::with_capacity(entries + told);
        steps.extend(self.entries.drain(..entries).map(|entry| (entry.at_ms, Step::Entry(entry.kind()))));
        steps.extend(self.told.drain(..told).map(|told| (told.at_ms, Step::Told(told))));
        in_order(&mut steps);
        let mut standing = self.standing();
        for (at_ms, step) in steps {
            standing.step(at_ms, step, &self.group_id);
            standing.folded_ms = at_ms;
        }
        self.folded = Some(standing);
    }

    /// Whether nothing follows from it any more. Call it after [`OpenRoom::fold`].
    pub(crate) fn is_over(&self) -> bool {
        let standing = self.standing();
        self.entries.is_empty() && self.told.is_empty() && !standing.on && !standing.maybe
    }

    /// Whether the account is in the room at a time.
    pub(crate) fn is_open(&self, at_ms: i64) -> bool {
        let mut steps: Vec<(i64, Step<'_>)> = Vec::with_capacity(self.entries.len() + self.told.len());
        steps.extend(self.entries.iter().map(|entry| (entry.at_ms, Step::Entry(entry.kind()))));
        steps.extend(self.told.iter().map(|told| (told.at_ms, Step::Told(*told))));
        in_order(&mut steps);
        let mut standing = self.standing();
        for (at_ms, step) in steps.into_iter().take_while(|(step_ms, _)| *step_ms <= at_ms) {
            standing.step(at_ms, step, &self.group_id);
        }
        standing.on
    }

    /// Whether its own joins and exits alone say that the account was in the room at a time.
    fn was_entered(&self, at_ms: i64) -> bool {
        let before = self.entries.iter().rev().find(|entry| entry.at_ms < at_ms);
        before.map_or_else(
            || self.folded.is_some_and(|folded| folded.on || folded.gone_ms != 0),
            |entry| entry.is_join() || entry.kind() == EntryKind::Online,
        )
    }

    /// When it joined last, as far as is known; 0 when it never did.
    pub(crate) fn last_joined_ms(&self) -> i64 {
        let joins = self.entries.iter().rev().find(|entry| entry.is_join());
        joins.map_or_else(|| self.standing().since_ms, |entry| entry.at_ms)
    }
}

/// The moves that a room has to see now.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct News {
    /// Where the room is among the account's.
    pub(crate) room: usize,
    /// From here on the list takes the place of what was told before: where the two begin to differ.
    pub(crate) from_ms: i64,
    pub(crate) moves: Vec<Move>,
}

/// Computes what every room has to see, and notes it as told. Returns what is new.
pub(crate) fn tell(account: &mut Account, gaps: &Gaps, rules: &PresenceRules) -> Vec<News> {
    let mut news = Vec::new();
    // Whether a connection goes on with the one before is the same for all rooms.
    let next = gaps.list.iter().skip(1).map(|gap| gap.gone_ms).chain([i64::MAX]);
    let returned = |(gap, next_ms): (&Gap, i64)| (*gap, what_returned(account, gap, next_ms, rules.back_grace_ms));
    let gaps_told: Vec<(Gap, Return)> = gaps.list.iter().zip(next).map(returned).collect();
    for room in 0..account.rooms.len() {
        let own = &account.rooms[room];
        let folded_ms = own.folded.map_or(0, |folded| folded.folded_ms.saturating_add(1));
        let from_ms = gaps.from_ms.max(account.settled_ms).max(folded_ms);
        let known = own.told.iter().take_while(|told| told.at_ms < from_ms).count();
        let mut moves = moves(account, room, &gaps_told, rules, from_ms);
        let own = &mut account.rooms[room];
        if let Some((from_ms, same)) = difference(&own.told[known..], &moves) {
            own.told.truncate(known + same);
            let moves = moves.split_off(same);
            own.told.extend_from_slice(&moves);
            news.push(News { room, from_ms, moves });
        }
    }
    settle(account);
    account.gone = gaps.list.last().is_some_and(|gap| gap.back_ms.is_none());
    news
}

/// From when on two lists of moves differ, and how many of the new one come before; `None` when they are the same.
fn difference(told: &[Move], new: &[Move]) -> Option<(i64, usize)> {
    let same = told.iter().zip(new).take_while(|(told, new)| told == new).count();
    let from_ms = [told.get(same), new.get(same)].into_iter().flatten().map(|one| one.at_ms).min()?;
    // A list takes the place of all that was told of its first ms.
    Some((from_ms, new[..same].partition_point(|one| one.at_ms < from_ms)))
}

/// An account whose connection comes and goes all the time: where a room was told more than is kept, what is older is told
/// for good. In all rooms from the same going on, because joins and exits of each decide about the returns in the others:
/// a return that is computed anew must see all of them.
fn settle(account: &mut Account) {
    let kept = account.rooms.iter().filter_map(|room| {
        let first = room.told.len().checked_sub(TOLD_MAX).filter(|&first| first > 0)?;
        room.told[first..].iter().find(|one| !one.back).map(|one| one.at_ms)
    });
    if let Some(settled_ms) = kept.max() {
        account.settled_ms = account.settled_ms.max(settled_ms);
        for room in &mut account.rooms {
            room.fold(settled_ms);
        }
    }
}

/// The moves of a room from a time on.
fn moves(account: &Account, room: usize, gaps: &[(Gap, Return)], rules: &PresenceRules, from_ms: i64) -> Vec<Move> {
    let own = &account.rooms[room];
    let mut steps: Vec<(i64, Step<'_>)> = Vec::with_capacity(own.entries.len() + 2 * gaps.len());
    steps.extend(own.told.iter().take_while(|told| told.at_ms < from_ms).map(|told| (told.at_ms, Step::Told(*told))));
    steps.extend(own.entries.iter().map(|entry| (entry.at_ms, Step::Entry(entry.kind()))));
    for &(gap, returned) in gaps.iter().filter(|(gap, _)| gap.back_ms.unwrap_or(i64::MAX) >= from_ms) {
        let Gap { gone_ms, uncertain_ms, logged_out, back_ms } = gap;
        let (replaced, told) = (gap.is_replacement(), gone_ms < from_ms);
        // Of a device that was pushed out the logout may be told before the login that did it: the account was not away.
        if returned == Return::Certain && (replaced || logged_out && !told) {
            steps.push((back_ms.unwrap_or(gone_ms), Step::Replaced { uncertain_ms }));
            continue;
        }
        if !told {
            steps.push((gone_ms, Step::Gone { uncertain_ms, replaced }));
        }
        if let Some(back_ms) = back_ms.filter(|_| returned != Return::No) {
            steps.push((back_ms, Step::Back { gone_ms, maybe: returned == Return::Maybe }));
        }
    }
    if rules.web_one_room {
        for other in account.rooms.iter().filter(|other| other.group_id != own.group_id) {
            let joins = other.entries.iter().filter(|e| e.kind() == EntryKind::JoinedFromWeb && e.at_ms >= from_ms);
            steps.extend(joins.map(|join| (join.at_ms, Step::LeftFor(&other.group_id))));
        }
    }
    in_order(&mut steps);
    let mut standing = own.standing();
    steps.into_iter().filter_map(|(at_ms, step)| standing.step(at_ms, step, &own.group_id)).collect()
}

/// Whether the connection after a gap goes on with what the account did before. `next_ms`: when that went or was replaced;
/// a join after it says nothing of the one before.
fn what_returned(account: &Account, gap: &Gap, next_ms: i64, grace_ms: u64) -> Return {
    let Some(back_ms) = gap.back_ms else { return Return::No };
    let grace_ms = if gap.logged_out { grace_ms.min(PUSHED_OUT_MS) } else { grace_ms };
    let entries = || account.rooms.iter().flat_map(|room| room.entries.iter().map(move |entry| (room, entry)));
    let exits = || entries().filter(|(_, entry)| entry.kind() == EntryKind::Left).map(|(_, entry)| entry.at_ms);
    let left = |at_ms: i64| gap.gone_ms < at_ms && at_ms < back_ms;
    if back_ms.abs_diff(gap.gone_ms) > grace_ms || exits().any(left) {
        return Return::No;
    }
    let soon = back_ms..=back_ms.saturating_add(STARTED_MS).min(next_ms.saturating_sub(1));
    let joins = entries().filter(|(_, entry)| entry.is_join() && soon.contains(&entry.at_ms));
    // A client of which no loss was told may go to one more room; but into one that it is in it goes only when it began anew.
    let lost = !gap.is_replacement() && !gap.logged_out;
    let mut anew = joins.filter(|(room, _)| lost || room.was_entered(gap.gone_ms));
    // Who left a room in between was there, and goes to another one.
    if anew.any(|(_, join)| !exits().any(|at_ms| (back_ms..=join.at_ms).contains(&at_ms))) {
        return Return::Maybe;
    }
    Return::Certain
}
