//! One account in one room: when it was there, as all that was told of it says, in order of time.
//!
//! Moments within the lateness window are kept one by one, so their order of arrival does not matter: coming and going
//! are set, never counted up and down. Of several sources that tell the same, the first moment counts.

use crate::proto::{Ended, Member, Moment, MomentKind, Stay};

/// Most moments of a row; above it the oldest is folded before its time.
const MOMENTS_MAX: usize = 32;

const MINUTE_MS: i64 = 60_000;

/// Length of [from, to), 0 when it is empty.
pub(crate) fn length(from: i64, to: i64) -> u64 {
    u64::try_from(to.saturating_sub(from)).unwrap_or(0)
}

/// What the moments of one member change in the room's count, in order of time.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Not one may be missing: the room's count is their sum.
    list: Vec<(i64, i32)>,
}

impl Changes {
    fn push(&mut self, at_ms: i64, delta: i32) {
        // Coming and going in the same ms is nothing.
        if self.list.last() == Some(&(at_ms, -delta)) {
            self.list.pop();
        } else {
            self.list.push((at_ms, delta));
        }
    }

    pub(crate) fn list(&self) -> &[(i64, i32)] {
        &self.list
    }
}

impl Stay {
    /// When it fell silent or will, with an idle time-out.
    pub(crate) fn silent_from(&self, idle_ms: Option<i64>) -> Option<i64> {
        idle_ms.filter(|_| self.on).map(|idle_ms| self.sign_ms.saturating_add(idle_ms))
    }

    fn open(&mut self, at_ms: i64, changes: &mut Changes) {
        self.maybe_until(at_ms);
        self.on = true;
        self.gone = false;
        self.unproven = false;
        self.since_ms = at_ms;
        self.sign_ms = at_ms;
        changes.push(at_ms, 1);
    }

    /// Until when it was certainly there, if it was there until at most `uncertain_ms` before `at_ms`.
    fn sure_to(&self, at_ms: i64, uncertain_ms: u64) -> i64 {
        let earliest_ms = at_ms.saturating_sub(i64::try_from(uncertain_ms).unwrap_or(i64::MAX));
        if self.unproven { self.since_ms } else { self.since_ms.max(self.sign_ms).max(earliest_ms) }
    }

    /// It left at `at_ms`, or up to `uncertain_ms` earlier.
    fn close(&mut self, at_ms: i64, uncertain_ms: u64, changes: &mut Changes) {
        self.watch_up_to(at_ms, self.sure_to(at_ms, uncertain_ms));
        self.on = false;
        self.ended_ms = at_ms;
        changes.push(at_ms, -1);
    }

    /// It may have been there up to `at_ms`, which is nothing more than an upper bound.
    fn maybe_until(&mut self, at_ms: i64) {
        if self.maybe_ms != 0 {
            self.extra_ms = self.extra_ms.saturating_add(length(self.maybe_ms, at_ms));
        }
        self.maybe_ms = 0;
        self.maybe_gone = false;
    }

    /// Adds what it watched up to `at_ms`, of which what is behind `sure_ms` may not have been.
    fn watch_up_to(&mut self, at_ms: i64, sure_ms: i64) {
        self.watch_ms = self.watch_ms.saturating_add(length(self.since_ms, at_ms));
        self.doubtful_ms = self.doubtful_ms.saturating_add(length(sure_ms, at_ms));
    }

    fn maybe_since(&mut self, at_ms: i64) {
        self.maybe_ms = at_ms;
        self.maybe_gone = false;
        self.gone = false;
    }

    fn alive(&mut self, at_ms: i64) {
        if self.on {
            self.sign_ms = self.sign_ms.max(at_ms);
        }
    }

    /// It came while it was there: a client that was started again meanwhile need not have been there before.
    fn came_again(&mut self, at_ms: i64) {
        if self.unproven {
            self.watch_up_to(at_ms, self.since_ms);
            self.since_ms = at_ms;
            self.unproven = false;
        }
        self.alive(at_ms);
    }

    fn step(&mut self, moment: &Moment, idle_ms: Option<i64>, changes: &mut Changes) {
        let (at_ms, kind) = (moment.at_ms, moment.kind());
        if let Some(silent_ms) = self.silent_from(idle_ms)
            && silent_ms < at_ms
            && matches!(kind, MomentKind::Joined | MomentKind::Online | MomentKind::Ended)
        {
            // Nothing says that it was there meanwhile; whatever else is told of it shows that it was.
            self.close(silent_ms, u64::MAX, changes);
        }
        match kind {
            MomentKind::Joined | MomentKind::Online if !self.on => {
                if self.ended_ms != 0 {
                    let before_ms = moment.uncertain_ms.min(length(self.ended_ms, at_ms));
                    self.extra_ms = self.extra_ms.saturating_add(before_ms);
                }
                self.joined_ms = at_ms;
                self.open(at_ms, changes);
            }
            MomentKind::Joined | MomentKind::Online => self.came_again(at_ms),
            MomentKind::Sign => {
                self.unproven = false;
                self.alive(at_ms);
            }
            MomentKind::Left | MomentKind::Offline | MomentKind::Ended => {
                // Who leaves was there; a room that ends says nothing of it.
                self.unproven &= kind == MomentKind::Ended;
                if self.on {
                    self.close(at_ms, moment.uncertain_ms, changes);
                }
                self.maybe_until(at_ms);
                self.gone = false;
            }
            MomentKind::Gone if self.on => {
                self.close(at_ms, moment.uncertain_ms, changes);
                self.gone = true;
            }
            MomentKind::Gone if self.maybe_ms != 0 => {
                self.maybe_until(at_ms);
                self.maybe_gone = true;
            }
            MomentKind::Gone => {}
            MomentKind::Back if self.gone => {
                self.open(at_ms, changes);
                self.unproven = true;
            }
            MomentKind::Back | MomentKind::MaybeBack if self.maybe_gone => self.maybe_since(at_ms),
            MomentKind::MaybeBack if self.gone => self.maybe_since(at_ms),
            MomentKind::Back => self.alive(at_ms),
            MomentKind::Replaced if self.on => {
                self.watch_up_to(at_ms, self.sure_to(at_ms, moment.uncertain_ms));
                self.since_ms = at_ms;
                self.sign_ms = at_ms;
                self.unproven = true;
            }
            MomentKind::MaybeBack | MomentKind::Replaced => {}
        }
    }

    /// How long its last stay, which is over, went on behind a disbanding that was told late, ms.
    pub(crate) fn behind(&self, ended: &Ended) -> u64 {
        let within = !self.on && ended.told_ms < self.ended_ms && self.ended_ms < ended.at_ms;
        if within { length(self.since_ms.max(ended.told_ms), self.ended_ms) } else { 0 }
    }

    /// How long it watched up to `at_ms`: the value, and its lower and upper bound. `detection_ms`: how late a lost
    /// connection may be told.
    pub(crate) fn watched(&self, at_ms: i64, idle_ms: Option<i64>, detection_ms: u64) -> (u64, u64, u64) {
        let mut stay = *self;
        match stay.silent_from(idle_ms) {
            Some(silent_ms) if silent_ms < at_ms => stay.close(silent_ms, u64::MAX, &mut Changes::default()),
            // Nobody can tell a viewer who is there from one whose loss is not told yet.
            _ if stay.on => stay.close(at_ms.max(stay.since_ms), detection_ms, &mut Changes::default()),
            _ => stay.maybe_until(at_ms),
        }
        let lower_ms = stay.watch_ms.saturating_sub(stay.doubtful_ms);
        (stay.watch_ms, lower_ms, stay.watch_ms.saturating_add(stay.extra_ms))
    }
}

impl Moment {
    /// Whether it is what the room was told of an account's connection.
    pub(crate) fn is_move(&self) -> bool {
        matches!(self.kind(), MomentKind::Gone | MomentKind::Back | MomentKind::MaybeBack | MomentKind::Replaced)
    }
}

impl Member {
    fn stay(&self) -> Stay {
        self.folded.unwrap_or_default()
    }

    /// Where it stands after all moments up to `until_ms`; adds what those that are not folded change.
    pub(crate) fn walk(&self, until_ms: i64, idle_ms: Option<i64>, changes: &mut Changes) -> Stay {
        let mut stay = self.stay();
        for moment in self.recent.iter().take_while(|moment| moment.at_ms <= until_ms) {
            stay.step(moment, idle_ms, changes);
        }
        stay
    }

    /// Puts a moment in its place.
    pub(crate) fn insert(&mut self, moment: Moment) -> Inserted {
        if moment.at_ms < self.stay().folded_ms {
            return Inserted::TooLate;
        }
        if moment.kind() == MomentKind::Sign {
            let minute = moment.at_ms.div_euclid(MINUTE_MS);
            let same = |m: &Moment| m.kind() == MomentKind::Sign && m.at_ms.div_euclid(MINUTE_MS) == minute;
            if let Some(at) = self.recent.iter().rposition(same) {
                if self.recent[at].at_ms >= moment.at_ms {
                    return Inserted::Known;
                }
                self.recent.remove(at);
            }
        }
        let key = (moment.at_ms, moment.kind);
        let at = self.recent.iter().rposition(|other| (other.at_ms, other.kind) <= key).map_or(0, |at| at + 1);
        if at > 0 && (self.recent[at - 1].at_ms, self.recent[at - 1].kind) == key {
            return Inserted::Known;
        }
        self.recent.insert(at, moment);
        Inserted::New
    }

    /// Puts these goings and returns of the account in the place of those from a time on. Whether none of them is too late.
    pub(crate) fn replace_moves(&mut self, from_ms: i64, moves: &[Moment]) -> bool {
        self.recent.retain(|moment| moment.at_ms < from_ms || !moment.is_move());
        moves.iter().filter(|moment| self.insert(**moment) == Inserted::TooLate).count() == 0
    }

    /// Folds what is older than the horizon, which is beyond being changed by something that comes late.
    pub(crate) fn fold(&mut self, horizon_ms: i64, idle_ms: Option<i64>) {
        let old = self.recent.iter().take_while(|moment| moment.at_ms < horizon_ms).count();
        self.fold_first(old, idle_ms);
    }

    /// Folds what is too much for a row. What it says stays the same.
    pub(crate) fn fold_surplus(&mut self, idle_ms: Option<i64>) {
        self.fold_first(self.recent.len().saturating_sub(MOMENTS_MAX), idle_ms);
    }

    fn fold_first(&mut self, count: usize, idle_ms: Option<i64>) {
        if count == 0 {
            return;
        }
        let mut stay = self.stay();
        let mut known = Changes::default();
        for moment in self.recent.drain(..count) {
            stay.step(&moment, idle_ms, &mut known);
            stay.folded_ms = moment.at_ms;
        }
        self.folded = Some(stay);
    }
}

/// What became of a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inserted {
    /// It is in its place.
    New,
    /// It was there already.
    Known,
    /// Later ones are folded.
    TooLate,
}
