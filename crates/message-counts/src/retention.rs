//! Minutes roll up to hours and hours to days, when an event of the room comes by.

use barrage_projection::{Context, StoreError};

use crate::proto::{KindTally, Minute, Minutes as Ten, Room};
use crate::tables::{Days, Hours, Minutes};
use crate::tally::{merge, tally};

pub(crate) const MINUTE_MS: i64 = 60_000;
pub(crate) const HOUR_MS: i64 = 60 * MINUTE_MS;
pub(crate) const DAY_MS: i64 = 24 * HOUR_MS;

/// Minutes in a row of [`Minutes`].
pub(crate) const MINUTES_PER_ROW: u32 = 10;
const ROWS_PER_HOUR: u32 = 60 / MINUTES_PER_ROW;

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
    let tallies = if day < row.days_rolled_below {
        &mut cx.table::<Days>()?.entry(&(app, room, day))?.tallies
    } else if hour < row.hours_rolled_below {
        remember(&mut row.hour_days, day);
        &mut cx.table::<Hours>()?.entry(&(app, room, hour))?.tallies
    } else {
        remember(&mut row.minute_hours, hour);
        let ten = minute / MINUTES_PER_ROW;
        if ten > row.open_ten {
            close(cx, row, (app, room))?;
            row.open_ten = ten;
            row.open = Some(Ten::default());
        }
        let minutes = match &mut row.open {
            Some(open) if ten == row.open_ten => open,
            _ => cx.table::<Minutes>()?.entry(&(app, room, ten))?,
        };
        &mut of_ten(minutes, minute % MINUTES_PER_ROW).tallies
    };
    change(tally(tallies, kind));
    Ok(())
}

/// Gives the newest ten minutes a row of their own.
fn close(cx: &mut Context<'_>, row: &mut Room, (app, room): (u32, &str)) -> Result<(), StoreError> {
    if let Some(open) = row.open.take() {
        // Whatever was counted in them lay in the room's row.
        *cx.table::<Minutes>()?.entry_known_new(&(app, room, row.open_ten))? = open;
    }
    Ok(())
}

/// A minute of ten, made when it is not there.
fn of_ten(ten: &mut Ten, minute: u32) -> &mut Minute {
    let minutes = &mut ten.minutes;
    let at = minutes.binary_search_by_key(&minute, |one| one.minute).unwrap_or_else(|at| {
        minutes.insert(at, Minute { minute, tallies: Vec::new() });
        at
    });
    &mut minutes[at]
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

    if row.open_ten / ROWS_PER_HOUR < hour_edge {
        close(cx, row, (app, room))?;
    }
    for _ in 0..ROLLED_PER_EVENT_MAX {
        let Some(&hour) = row.minute_hours.first().filter(|&&hour| hour < hour_edge) else { break };
        row.minute_hours.remove(0);
        row.hours_rolled_below = row.hours_rolled_below.max(hour + 1);
        let tens = hour * ROWS_PER_HOUR..(hour + 1) * ROWS_PER_HOUR;
        let rows: Vec<_> = tens.map(|ten| (app, room, ten)).collect();
        let mut sum = Vec::new();
        cx.table::<Minutes>()?.remove_neighbours(&rows, |ten: Ten| {
            ten.minutes.iter().for_each(|minute| merge(&mut sum, &minute.tallies));
        })?;
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
