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
use crate::tables::Combos;

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

    /// The bucket of a combo that began at this time. One that comes too late is kept from now on, because what follows
    /// of it will come as late.
    #[must_use]
    pub fn bucket(&self, first_ms: i64) -> u32 {
        let own = minute_of(first_ms);
        if own < self.floor { self.now } else { own }
    }
}

/// What a combo counts as.
#[must_use]
pub fn counted(combo: &Combo) -> (u64, u64) {
    (combo.count.max(combo.billed_count), combo.value.max(combo.billed_value))
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
    let mut combos = cx.buckets::<Combos>()?;
    combos.expire_below(keeping.floor());
    let begun = Combo { first_ms: at_ms, ..Combo::default() };
    let known = combos.get(hash).copied();
    let late = minute_of(at_ms) < keeping.floor();
    let mut added = Added { at_ms, too_late: late && known.is_none(), ..Added::default() };
    let mut combo = match known {
        Some(known) if at_ms < known.first_ms.saturating_sub(combo_ms) => {
            // Of a combo that had this id before and is forgotten. What it counts as was told by its other messages.
            return Ok(Added { too_late: true, ..added });
        }
        // An app that uses ids again: the combo before is over.
        Some(known) if at_ms > known.first_ms.saturating_add(combo_ms) => begun,
        Some(known) => known,
        None => begun,
    };
    let before = counted(&combo);
    if at_ms < combo.first_ms {
        added.moved = Some((combo.first_ms, before.0, before.1));
        combo.first_ms = at_ms;
    }
    if gift.billed {
        combo.billed_count = combo.billed_count.saturating_add(gift.count);
        combo.billed_value = combo.billed_value.saturating_add(gift.value);
    } else {
        combo.count = combo.count.max(gift.count);
        combo.value = combo.value.max(gift.value);
    }
    let after = counted(&combo);
    added.at_ms = combo.first_ms;
    (added.count, added.value) = (after.0 - before.0, after.1 - before.1);
    if known.is_some_and(|known| known.first_ms == combo.first_ms)
        && let Some(row) = combos.get_mut(hash)
    {
        *row = combo;
    } else {
        combos.insert(keeping.bucket(combo.first_ms), hash, combo);
    }
    Ok(added)
}
