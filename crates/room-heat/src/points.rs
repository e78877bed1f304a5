//! What an event adds to a room, and what an account may add to it among the recommendations.

use barrage_projection::{Context, StoreError, minute_of};

use crate::epochs::{Sums, Way};
use crate::generation::Slot;
use crate::proto::{Added, Generation, Room, Viewer};
use crate::tables::Viewers;

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

impl Viewer {
    /// Forgets epochs of another generation, those that do not count any more in their room, and those of which nothing is
    /// expected since before this minute.
    fn forget(&mut self, room: &Room, generation: &Generation, floor: u32) {
        if self.generation != generation.number {
            (self.generation, self.added) = (generation.number, Vec::new());
        }
        self.added.retain(|added| room.keeps(added.epoch) && added.minute(generation) >= floor);
    }

    /// The sum of an epoch. Where there is none it is made, with this `late_minute`, or not.
    fn sum(&mut self, epoch: u64, make: Option<u32>) -> Option<&mut u64> {
        let at = self.added.partition_point(|added| added.epoch < epoch);
        if self.added.get(at).is_none_or(|added| added.epoch != epoch) {
            self.added.insert(at, Added { epoch, sum: 0, late_minute: make? });
        }
        Some(&mut self.added[at].sum)
    }
}

impl Added {
    /// The minute after which nothing is expected any more.
    fn minute(&self, generation: &Generation) -> u32 {
        self.late_minute.max(end_minute(generation, self.epoch))
    }
}

/// The minute in which an epoch ends.
fn end_minute(generation: &Generation, epoch: u64) -> u32 {
    minute_of(generation.begin_ms(epoch.saturating_add(1)))
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
    // Of an epoch that is over, what comes now is kept from now on.
    let late_minute = if end_minute(generation, epoch) < floor { minute_of(cx.stream_time_ms) } else { 0 };
    let key = (who.app, who.room, who.account);
    let mut viewers = cx.table::<Viewers>()?;
    let viewer = match way {
        Way::Add => Some(viewers.entry(&key)?),
        Way::Take => viewers.get_mut(&key)?,
    };
    let sum = viewer.and_then(|viewer| {
        viewer.forget(room, generation, floor);
        viewer.sum(epoch, (way == Way::Add).then_some(late_minute))
    });
    let by = match sum {
        Some(sum) => {
            let before = capped(*sum);
            let changed = match way {
                Way::Add => u128::from(*sum).saturating_add(heat),
                Way::Take => u128::from(*sum).saturating_sub(heat),
            };
            *sum = u64::try_from(changed).unwrap_or(u64::MAX);
            let after = capped(*sum);
            Sums { heat, fair: before.fair.abs_diff(after.fair), fresh: before.fresh.abs_diff(after.fresh) }
        }
        // Forgotten: it stays counted.
        None => Sums { heat, ..Sums::default() },
    };
    room.change(generation, way, epoch, by);
    Ok(())
}

fn lateness_ms(cx: &Context<'_>) -> i64 {
    i64::try_from(cx.rules.windows.lateness_ms).unwrap_or(i64::MAX)
}
