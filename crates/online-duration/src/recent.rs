//! What happened lately, in order of time: events that come late are put in their place until it is folded.

use barrage_event::rules::DurationRules;

use crate::machine::{ANY, Machine, PLATFORMS_MAX};
use crate::proto::device::Stage;
use crate::proto::{Account, Happening, Kind};

/// Most entries of a row; above it the oldest is folded before its time. An account has a handful.
const RECENT_MAX: usize = 96;

const MINUTE_MS: i64 = 60_000;

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
    insert(account, Happening { at_ms, kind: Kind::Sign.into(), platform, kicked: Vec::new() }, rules);
}

/// Puts it in its place.
pub(crate) fn insert(account: &mut Account, mut happening: Happening, rules: &DurationRules) {
    let folded_to_ms = account.folded.as_ref().map_or(0, |state| state.at_ms);
    if happening.at_ms < folded_to_ms {
        let devices = account.folded.iter_mut().flat_map(|state| state.devices.iter_mut().enumerate());
        let own = devices.filter(|(index, _)| happening.platform == ANY || *index == happening.platform as usize);
        if happening.kind() == Kind::Sign {
            for (_, device) in own.filter(|(_, d)| d.stage() == Stage::Open && d.since_ms <= happening.at_ms) {
                device.sign_ms = device.sign_ms.max(happening.at_ms);
            }
            return;
        }
        account.too_late = account.too_late.saturating_add(1);
        // What it says of a device still holds when nothing later is known of that; it just counts from here on.
        if own.map(|(_, device)| device.changed_ms).max().unwrap_or(0) > happening.at_ms {
            return;
        }
        happening.at_ms = folded_to_ms;
    }
    if happening.kind() == Kind::Sign {
        // Nearly every record is a sign of life in the minute of the one before.
        if let Some(last) = account.recent.last_mut().filter(|last| same_minute(last, &happening)) {
            last.at_ms = last.at_ms.max(happening.at_ms);
            return;
        }
        if !coalesce(account, &happening) {
            return;
        }
    }
    let at = account.recent.iter().rposition(|other| !goes_before(&account.platforms, &happening, other));
    let at = at.map_or(0, |at| at + 1);
    if at > 0 && account.recent[at - 1] == happening {
        return;
    }
    account.recent.insert(at, happening);
    if account.recent.len() > RECENT_MAX {
        fold_first(account, rules);
    }
}

/// Whether `a` is applied before `b`. Numbers of platforms follow the order of arrival, so names decide.
fn goes_before(platforms: &[String], a: &Happening, b: &Happening) -> bool {
    let name = |h: &Happening| platforms.get(h.platform as usize);
    (a.at_ms, a.kind).cmp(&(b.at_ms, b.kind)).then_with(|| name(a).cmp(&name(b))).is_lt()
}

/// Whether both are signs of life of one platform and minute.
fn same_minute(a: &Happening, b: &Happening) -> bool {
    let key = |h: &Happening| (h.platform, h.kind, h.at_ms.div_euclid(MINUTE_MS));
    b.kind() == Kind::Sign && key(a) == key(b)
}

/// Makes room for a sign of life among those of its platform and minute, of which the last is kept; `false` when it is
/// not the last.
fn coalesce(account: &mut Account, sign: &Happening) -> bool {
    let minute = sign.at_ms.div_euclid(MINUTE_MS);
    let lately = account.recent.iter().rev().take_while(|other| other.at_ms.div_euclid(MINUTE_MS) >= minute).count();
    let from = account.recent.len() - lately;
    let Some(at) = account.recent[from..].iter().position(|other| same_minute(other, sign)) else { return true };
    if account.recent[from + at].at_ms >= sign.at_ms {
        return false;
    }
    account.recent.remove(from + at);
    true
}

/// Folds what is older than the horizon: it is beyond being changed by something that comes late.
pub(crate) fn fold(account: &mut Account, horizon_ms: i64, rules: &DurationRules) {
    let old = account.recent.iter().take_while(|happening| happening.at_ms < horizon_ms).count();
    if old == 0 {
        return;
    }
    let state = account.folded.get_or_insert_default();
    let mut machine = Machine { state, platforms: &account.platforms, rules };
    for happening in account.recent.drain(..old) {
        machine.apply(&happening);
    }
}

fn fold_first(account: &mut Account, rules: &DurationRules) {
    let first = account.recent.remove(0);
    let state = account.folded.get_or_insert_default();
    Machine { state, platforms: &account.platforms, rules }.apply(&first);
}
