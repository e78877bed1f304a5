//! Combos: several messages about one gift that grows.
//!
//! Messages of a combo tell its total so far and bills what each of them adds, so a combo counts as the larger of the
//! largest message and the sum of the bills, and every record adds what that grows by. The order in which they come does
//! not matter; and where the source of gifts is changed while a combo is under way, it still counts once.

use barrage_event::EnvelopeView;
use barrage_projection::{Context, StoreError, minute_of};
use xxhash_rust::xxh3::Xxh3;

use crate::happening::{Gift, Happening};
use crate::proto::Combo;
use crate::tables::{Combos, Kept};

/// Under which a combo is found: the app, the room, the giver, the gift and the combo's own id.
#[must_use]
pub fn combo_hash(app: u32, happening: &Happening<'_>, gift: &Gift<'_>) -> u128 {
    let mut hasher = Xxh3::new();
    hasher.update(&app.to_be_bytes());
    for text in [happening.room, happening.account, gift.gift_id, gift.combo_id] {
        hasher.update(&(text.len() as u64).to_be_bytes());
        hasher.update(text.as_bytes());
    }
    hasher.digest128()
}

/// For how long combos are kept, so that any two projections that keep rows about them keep them equally long.
#[derive(Debug, Clone, Copy)]
pub struct Keeping {
    floor: u32,
    now: u32,
}

impl Keeping {
    /// By the stream time and the rules at this place of the log: until nothing of a combo can come any more that is not
    /// later than the lateness window.
    #[must_use]
    pub fn at(cx: &Context<'_>) -> Self {
        let keep_ms = cx.rules.gifts.combo_ms.saturating_add(cx.rules.windows.lateness_ms);
        let floor_ms = cx.stream_time_ms.saturating_sub(i64::try_from(keep_ms).unwrap_or(i64::MAX));
        Self { floor: minute_of(floor_ms), now: minute_of(cx.stream_time_ms) }
    }

    /// Buckets below this are over.
    #[must_use]
    pub fn floor(&self) -> u32 {
        self.floor
    }

    /// The bucket of a combo whose last message is of this time. One that comes too late is kept from now on, because
    /// what follows of it will come as late.
    #[must_use]
    pub fn bucket(&self, last_ms: i64) -> u32 {
        let own = minute_of(last_ms);
        if own < self.floor { self.now } else { own }
    }
}

/// What a combo counts as.
#[must_use]
pub fn counted(combo: &Combo) -> (u64, u64) {
    (combo.count.max(combo.billed_count), combo.value.max(combo.billed_value))
}

/// A combo lasts for so many times `gifts.combo_ms` at most, however closely its messages follow each other: all of it
/// counts at the time of the first one.
const LENGTHS_MAX: i64 = 6;

/// Where a message or a bill stands to the combo that is known by its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It is of a combo that had this id before.
    Before,
    /// It is of this one.
    In,
    /// It begins another one.
    Behind,
}

impl Combo {
    fn place(&self, at_ms: i64, combo_ms: i64) -> Place {
        let in_reach = |ms: i64, times: i64| at_ms <= ms.saturating_add(combo_ms.saturating_mul(times));
        if at_ms < self.first_ms.saturating_sub(combo_ms) || self.before_ms > 0 && at_ms <= self.before_ms {
            Place::Before
        } else if in_reach(self.last_ms, 1) && in_reach(self.first_ms, LENGTHS_MAX) {
            Place::In
        } else {
            Place::Behind
        }
    }

    fn tell(&mut self, gift: &Gift<'_>) {
        if gift.billed {
            self.billed_count = self.billed_count.saturating_add(gift.count);
            self.billed_value = self.billed_value.saturating_add(gift.value);
        } else {
            self.count = self.count.max(gift.count);
            self.value = self.value.max(gift.value);
        }
    }

    /// Whether a message of this combo tells that the one before had not ended: there are less than `combo_ms` between.
    fn joins_before(&self, at_ms: i64, combo_ms: i64) -> bool {
        self.before_ms > 0 && at_ms < self.first_ms && at_ms <= self.before_ms.saturating_add(combo_ms)
    }
}

/// What a gift record adds, and when it is taken to have happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Added {
    pub(crate) count: u64,
    pub(crate) value: u64,
    /// Event time: of the combo's first message where it is one.
    pub(crate) at_ms: i64,
    /// The combo began earlier than was known: this much was told to have happened at that time.
    pub(crate) moved: Option<(i64, u64, u64)>,
    pub(crate) too_late: bool,
}

/// Counts a gift.
pub(crate) fn add(
    cx: &mut Context<'_>,
    record: &EnvelopeView<'_>,
    happening: &Happening<'_>,
    gift: &Gift<'_>,
) -> Result<Added, StoreError> {
    let at_ms = record.occurred_at_ms;
    if gift.combo_id.is_empty() {
        return Ok(Added { count: gift.count, value: gift.value, at_ms, ..Added::default() });
    }
    let keeping = Keeping::at(cx);
    let combo_ms = i64::try_from(cx.stamped.gifts.combo_ms).unwrap_or(i64::MAX);
    let hash = combo_hash(record.app, happening, gift);
    let known = {
        let mut combos = cx.buckets::<Combos>()?;
        combos.expire_below(keeping.floor());
        combos.get(hash).copied()
    };
    let place = known.map_or(Place::Behind, |known| known.place(at_ms, combo_ms));
    // A message that tells more than the first one of a combo does, where the combo is none that is known.
    let goes_on = place == Place::Behind && !gift.billed && gift.count > 1;
    let too_late = match known {
        None if minute_of(at_ms) < keeping.floor() => true,
        None => goes_on && minute_of(at_ms.saturating_sub(combo_ms)) <= forgotten_early(cx)?,
        Some(known) => match place {
            Place::Before => true,
            Place::In => known.joins_before(at_ms, combo_ms),
            Place::Behind => goes_on && at_ms <= known.last_ms.saturating_add(combo_ms),
        },
    };
    let mut added = Added { at_ms, too_late, ..Added::default() };
    let mut combo = match known {
        // What that combo counts as was told by its other messages; a bill is money, wherever it is counted.
        Some(_) if place == Place::Before && !gift.billed => return Ok(added),
        Some(known) if place != Place::Behind => known,
        before => Combo {
            first_ms: at_ms,
            last_ms: at_ms,
            before_ms: before.map_or(0, |before| before.last_ms),
            ..Combo::default()
        },
    };
    let before = counted(&combo);
    combo.last_ms = combo.last_ms.max(at_ms);
    if place == Place::In && at_ms < combo.first_ms {
        added.moved = Some((combo.first_ms, before.0, before.1));
        combo.first_ms = at_ms;
    }
    combo.tell(gift);
    let after = counted(&combo);
    added.at_ms = combo.first_ms;
    (added.count, added.value) = (after.0 - before.0, after.1 - before.1);
    let lost = cx.buckets::<Combos>()?.insert(keeping.bucket(combo.last_ms), hash, combo);
    if let Some(minute) = lost {
        let kept = cx.table::<Kept>()?.entry(&())?;
        kept.combos_lost = kept.combos_lost.max(minute);
    }
    Ok(added)
}

/// The newest minute whose combos were forgotten early, because there were too many; 0 when none were.
fn forgotten_early(cx: &mut Context<'_>) -> Result<u32, StoreError> {
    Ok(cx.table::<Kept>()?.get(&())?.map_or(0, |kept| kept.combos_lost))
}
