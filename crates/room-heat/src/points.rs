//! What an event adds to a room, and what an account may add to it among the recommendations.

use barrage_projection::{Context, StoreError, minute_of};
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

use crate::epochs::{Sums, Way};
use crate::generation::Slot;
use crate::proto::{Account, Generation, Room};
use crate::tables::{Accounts, account_bucket, accounts_from};

/// As far as an event time may be ahead of its receipt: one that is far ahead must not make everything else old.
const AHEAD_MS: i64 = 60_000;
/// Bits behind the point of a weight.
const WEIGHT_BITS: u32 = 24;

/// Who does something in which room.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Who<'a> {
    pub(crate) app: u32,
    pub(crate) room: &'a str,
    pub(crate) account: &'a str,
}

impl Who<'_> {
    /// Under which the account's sum of an epoch is found. Epochs of different half-lives are different ones.
    fn hash(&self, generation: &Generation, epoch: u64) -> u128 {
        let seed = u64::from(self.app) << 32 | u64::from(generation.number);
        let room =
            xxh3_64_with_seed(self.room.as_bytes(), seed).wrapping_add(epoch.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        xxh3_128_with_seed(self.account.as_bytes(), room)
    }
}

/// When something that happened counts, ms.
pub(crate) fn counted_ms(cx: &Context<'_>, at_ms: i64) -> i64 {
    at_ms.min(cx.stream_time_ms.saturating_add(AHEAD_MS))
}

/// Adds points (thousandths) that came at a time, or takes them away again.
pub(crate) fn change(
    cx: &mut Context<'_>,
    room: &mut Room,
    generation: &Generation,
    who: Who<'_>,
    (way, at_ms, points): (Way, i64, u128),
) -> Result<(), StoreError> {
    if points == 0 {
        return Ok(());
    }
    let Slot { epoch, weight } = generation.slot(counted_ms(cx, at_ms));
    if !room.keeps(epoch) {
        room.too_late = room.too_late.saturating_add((way == Way::Add).into());
        return Ok(());
    }
    let heat = points.saturating_mul(weight);
    let most = u128::from(cx.rules.heat.account_max) << WEIGHT_BITS;
    let capped = |sum: u64| Sums { heat, fair: u128::from(sum).min(most), fresh: (u128::from(sum) << 1).min(most) };
    let floor = minute_of(cx.stream_time_ms.saturating_sub(lateness_ms(cx)));
    let now = minute_of(cx.stream_time_ms);
    let hash = who.hash(generation, epoch);
    let mut accounts = cx.buckets::<Accounts>()?;
    accounts.expire_below(accounts_from(floor));
    let by = match (accounts.get_mut(hash), way) {
        (Some(row), _) => {
            let before = capped(row.sum);
            let sum = match way {
                Way::Add => u128::from(row.sum).saturating_add(heat),
                Way::Take => u128::from(row.sum).saturating_sub(heat),
            };
            row.sum = u64::try_from(sum).unwrap_or(u64::MAX);
            let after = capped(row.sum);
            Sums { heat, fair: before.fair.abs_diff(after.fair), fresh: before.fresh.abs_diff(after.fresh) }
        }
        (None, Way::Add) => {
            let sum = u64::try_from(heat).unwrap_or(u64::MAX);
            // Of an epoch that is over, what comes now is kept from now on.
            let end = minute_of(generation.begin_ms(epoch.saturating_add(1)));
            let minute = if end < floor { now } else { end };
            accounts.insert(account_bucket(minute, hash), hash, Account { sum });
            capped(sum)
        }
        // Forgotten: it stays counted.
        (None, Way::Take) => Sums { heat, ..Sums::default() },
    };
    room.change(generation, way, epoch, by);
    Ok(())
}

fn lateness_ms(cx: &Context<'_>) -> i64 {
    i64::try_from(cx.rules.windows.lateness_ms).unwrap_or(i64::MAX)
}
