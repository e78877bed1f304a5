//! Minutes roll up to hours and hours to days, when an event of the room comes by.

use barrage_projection::{Context, StoreError};

use crate::proto::{KindTally, Room, Slice};
use crate::tables::{Days, Hours, Minutes};
use crate::tally::{merge, tally};

pub(crate) const MINUTE_MS: i64 = 60_000;
pub(crate) const HOUR_MS: i64 = 60 * MINUTE_MS;
pub(crate) const DAY_MS: i64 = 24 * HOUR_MS;

/// Hours or days that one event rolls up at most; the rest waits for the next one.
const ROLLED_PER_EVENT_MAX: usize = 4;

/// Changes the tally under which an event of this minute is counted: its minute's, or its hour's or day's when those
/// have been rolled up already.
pub(crate) fn in_slice(
    cx: &mut Context<'_>,
    row: &mut Room,
    (app, room): (u32, &str),
    minute: u32,
    kind: u32,
    change: impl FnOnce(&mut KindTally),
) -> Result<(), StoreError> {
    let hour = minute / 60;
    let day = hour / 24;
    let slice: &mut Slice = if day < row.days_rolled_below {
        cx.table::<Days>()?.entry(&(app, room, day))?
    } else if hour < row.hours_rolled_below {
        remember(&mut row.hour_days, day);
        cx.table::<Hours>()?.entry(&(app, room, hour))?
    } else {
        remember(&mut row.minute_hours, hour);
        let (key, minutes) = ((app, room, minute), cx.table::<Minutes>()?);
        if minute <= row.newest_minute {
            minutes.entry(&key)?
        } else {
            // Where a room is quiet, most of its messages begin a minute: the store is not asked for what is not there.
            row.newest_minute = minute;
            minutes.entry_known_new(&key)?
        }
    };
    change(tally(&mut slice.tallies, kind));
    Ok(())
}

fn remember(sorted: &mut Vec<u32>, number: u32) {
    if sorted.last() == Some(&number) {
        return;
    }
    if let Err(at) = sorted.binary_search(&number) {
        sorted.insert(at, number);
    }
}

/// Rolls up what the rules no longer keep in minutes or hours. The edges move with stream time even where there is
/// nothing to roll up, so that what an event is counted under follows from the log alone.
pub(crate) fn roll_up(cx: &mut Context<'_>, row: &mut Room, (app, room): (u32, &str)) -> Result<(), StoreError> {
    let keep = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    let minutes_from_ms = cx.stream_time_ms.saturating_sub(keep(cx.rules.retention.minutes_ms));
    let hours_from_ms = cx.stream_time_ms.saturating_sub(keep(cx.rules.retention.hours_ms));
    let due = |time_ms: i64, unit_ms: i64| u32::try_from(time_ms.max(0) / unit_ms).unwrap_or(u32::MAX);
    let (hour_edge, day_edge) = (due(minutes_from_ms, HOUR_MS), due(hours_from_ms, DAY_MS));

    for _ in 0..ROLLED_PER_EVENT_MAX {
        let Some(&hour) = row.minute_hours.first().filter(|&&hour| hour < hour_edge) else { break };
        row.minute_hours.remove(0);
        row.hours_rolled_below = row.hours_rolled_below.max(hour + 1);
        let minutes: Vec<_> = (hour * 60..hour * 60 + 60).map(|minute| (app, room, minute)).collect();
        let mut sum = Vec::new();
        cx.table::<Minutes>()?.remove_neighbours(&minutes, |slice| merge(&mut sum, &slice.tallies))?;
        remember(&mut row.hour_days, hour / 24);
        merge(&mut cx.table::<Hours>()?.entry(&(app, room, hour))?.tallies, &sum);
    }
    for _ in 0..ROLLED_PER_EVENT_MAX {
        let Some(&day) = row.hour_days.first().filter(|&&day| day < day_edge) else { break };
        row.hour_days.remove(0);
        row.days_rolled_below = row.days_rolled_below.max(day + 1);
        let hours: Vec<_> = (day * 24..day * 24 + 24).map(|hour| (app, room, hour)).collect();
        let mut sum = Vec::new();
        cx.table::<Hours>()?.remove_neighbours(&hours, |slice| merge(&mut sum, &slice.tallies))?;
        merge(&mut cx.table::<Days>()?.entry(&(app, room, day))?.tallies, &sum);
    }
    Ok(())
}
