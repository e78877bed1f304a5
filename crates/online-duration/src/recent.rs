//! What happened lately, in order of time: events that come late are put in their place until it is folded.

use std::borrow::Cow;
use std::cmp::Ordering;

use barrage_event::rules::DurationRules;

use crate::machine::{ANY, Machine, PLATFORMS_MAX};
use crate::proto::device::Stage;
use crate::proto::{Account, Happening, Kind};

/// Most entries of a row; above it the oldest is folded before its time. An account has a handful.
const RECENT_MAX: usize = 96;

const MINUTE_MS: i64 = 60_000;

impl Happening {
    /// When it happened, which may be before the time from which on it counts.
    pub(crate) fn happened_ms(&self) -> i64 {
        self.at_ms.saturating_sub(self.late_ms.into())
    }

    /// Of signs of life of one platform and minute, when the first was.
    fn first_ms(&self) -> i64 {
        self.at_ms.saturating_sub(self.spread_ms.into())
    }
}

/// The platform's number in this account's row.
pub(crate) fn platform(account: &mut Account, name: &str) -> u32 {
    let at = account.platforms.iter().position(|known| known == name).unwrap_or_else(|| {
        if account.platforms.len() < PLATFORMS_MAX {
            account.platforms.push(name.to_owned());
        }
        account.platforms.len() - 1
    });
    // At most 16 of them.
    u32::try_from(at).unwrap_or(0)
}

/// Puts a sign of life in its place; an empty platform is one that is not told.
pub(crate) fn insert_sign(account: &mut Account, platform_name: &str, at_ms: i64, rules: &DurationRules) {
    let platform = if platform_name.is_empty() { ANY } else { platform(account, platform_name) };
    if at_ms < folded_to_ms(account) {
        return late_sign(account, platform, at_ms);
    }
    let sign = Happening { at_ms, kind: Kind::Sign.into(), platform, ..Happening::default() };
    let minute = at_ms.div_euclid(MINUTE_MS);
    // Nearly every record is a sign of life in the minute of the one before.
    let lately = account.recent.iter().rev().take_while(|other| other.at_ms.div_euclid(MINUTE_MS) >= minute);
    let Some(back) = lately.into_iter().position(|other| is_same_minute(other, &sign)) else {
        return place(account, sign, rules);
    };
    let at = account.recent.len() - 1 - back;
    let known = &mut account.recent[at];
    let (first_ms, last_ms) = (known.first_ms().min(at_ms), known.at_ms.max(at_ms));
    let goes_later = known.at_ms != last_ms;
    known.at_ms = last_ms;
    known.spread_ms = span_ms(first_ms, last_ms);
    if goes_later && back > 0 {
        let sign = account.recent.remove(at);
        place(account, sign, rules);
    }
}

/// A sign of life of a time that is folded. One that names no platform says whose it is where there is one platform: which
/// sessions were open then is not known any more.
fn late_sign(account: &mut Account, platform: u32, at_ms: i64) {
    let single = account.platforms.len() == 1;
    let devices = account.folded.iter_mut().flat_map(|state| state.devices.iter_mut().enumerate());
    for (index, device) in devices {
        let own = index == platform as usize || platform == ANY && single;
        if own && device.stage() == Stage::Open && device.since_ms <= at_ms {
            device.sign_ms = device.sign_ms.max(at_ms);
        }
    }
}

/// Puts a state change in its place. One of a time that is folded changes no total any more; what it says of a device
/// holds from then on, when nothing later is known of that.
pub(crate) fn insert(account: &mut Account, mut change: Happening, rules: &DurationRules) {
    let folded_to_ms = folded_to_ms(account);
    if change.at_ms < folded_to_ms {
        account.too_late = account.too_late.saturating_add(1);
        change.late_ms = span_ms(change.at_ms, folded_to_ms);
        change.at_ms = folded_to_ms;
    }
    place(account, change, rules);
}

fn place(account: &mut Account, happening: Happening, rules: &DurationRules) {
    let at = account.recent.iter().rposition(|other| !order(&account.platforms, &happening, other).is_lt());
    let at = at.map_or(0, |at| at + 1);
    if at > 0 && account.recent[at - 1] == happening {
        return;
    }
    account.recent.insert(at, happening);
    if account.recent.len() > RECENT_MAX {
        let minute_after_ms = account.recent[0].at_ms.saturating_add(MINUTE_MS);
        fold(account, minute_after_ms, rules);
    }
}

fn folded_to_ms(account: &Account) -> i64 {
    account.folded.as_ref().map_or(0, |state| state.at_ms)
}

/// Length of what is shorter than a month, ms.
pub(crate) fn span_ms(from_ms: i64, to_ms: i64) -> u32 {
    u32::try_from(to_ms.saturating_sub(from_ms)).unwrap_or(u32::MAX)
}

/// What is applied first. Numbers of platforms follow the order of arrival, so names decide.
fn order(platforms: &[String], a: &Happening, b: &Happening) -> Ordering {
    let name = |h: &Happening| platforms.get(h.platform as usize);
    let time = |h: &Happening| (h.at_ms, h.happened_ms(), h.kind);
    time(a).cmp(&time(b)).then_with(|| name(a).cmp(&name(b)))
}

/// Whether both are signs of life of one platform and minute.
fn is_same_minute(a: &Happening, b: &Happening) -> bool {
    let key = |h: &Happening| (h.platform, h.kind, h.at_ms.div_euclid(MINUTE_MS));
    b.kind() == Kind::Sign && key(a) == key(b)
}

/// The first so many that happened, as they are applied up to `until_ms`: where something lies between the first and the
/// last sign of life of a minute, both count.
pub(crate) fn steps(account: &Account, count: usize, until_ms: i64) -> Cow<'_, [Happening]> {
    let recent = &account.recent[..count];
    let firsts: Vec<Happening> = (0..count).filter_map(|at| first_sign(recent, at, until_ms)).collect();
    if firsts.is_empty() {
        return Cow::Borrowed(recent);
    }
    let mut steps = [recent, &firsts].concat();
    steps.sort_by(|a, b| order(&account.platforms, a, b));
    Cow::Owned(steps)
}

fn first_sign(recent: &[Happening], at: usize, until_ms: i64) -> Option<Happening> {
    let last = &recent[at];
    if last.spread_ms == 0 {
        return None;
    }
    let first_ms = last.first_ms();
    let mut between = recent[..at].iter().rev().take_while(|other| other.at_ms > first_ms);
    let counts = until_ms < last.at_ms || between.any(|other| other.kind() != Kind::Sign);
    counts.then(|| Happening { at_ms: first_ms, spread_ms: 0, ..last.clone() })
}

/// Folds the minutes that are older than the horizon: they are beyond being changed by something that comes late.
pub(crate) fn fold(account: &mut Account, horizon_ms: i64, rules: &DurationRules) {
    let horizon_ms = horizon_ms.saturating_sub(horizon_ms.rem_euclid(MINUTE_MS));
    let old = account.recent.iter().take_while(|happening| happening.at_ms < horizon_ms).count();
    if old == 0 {
        return;
    }
    let mut state = account.folded.take().unwrap_or_default();
    let mut machine = Machine { state: &mut state, platforms: &account.platforms, rules };
    for happening in steps(account, old, i64::MAX).iter() {
        machine.apply(happening);
    }
    account.folded = Some(state);
    account.recent.drain(..old);
}
