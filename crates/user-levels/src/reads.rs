//! Answers from one snapshot.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use barrage_online_duration::tables::Accounts as OnlineAccounts;
use barrage_projection::{ReadContext, ReaderExt as _, StoreError, json};
use serde_json::{Map, Value as Json};

use crate::metrics::{Metric, amounts, level, points, score};
use crate::online::Look;
use crate::proto::{Account, GiftsPart, Level, LikesPart, MembershipPart, MessagesPart, OnlinePart, Parts};
use crate::sources::Online;
use crate::tables::Accounts;

pub(crate) fn user(cx: &ReadContext<'_>, account: &str, out: &mut Map<String, Json>) -> Result<bool, StoreError> {
    let found = cx.reader.get::<Accounts>(&(cx.app, account))?;
    let known = found.is_some();
    let mut row = found.unwrap_or_default();
    go_on(cx, account, &mut row)?;
    out.insert("level".to_owned(), json(&shown(cx, &row)));
    Ok(known)
}

/// Puts the online time since the account was looked at last into the row, up to the time asked for.
fn go_on(cx: &ReadContext<'_>, account: &str, row: &mut Account) -> Result<(), StoreError> {
    row.fold(cx.at_ms, &cx.rules.levels);
    if let Some(online) = cx.reader.get::<OnlineAccounts>(&(cx.app, account))? {
        let found = Online::of(&online, row.look_at(cx.at_ms), cx.rules);
        row.put_online(found, Look { event_ms: cx.at_ms, stream_ms: cx.at_ms });
    }
    Ok(())
}

fn shown(cx: &ReadContext<'_>, row: &Account) -> Level {
    let rules = &cx.rules.levels;
    let counted = row.counted(rules);
    let points = points(&counted, rules);
    let score = score(&points);
    let level = level(score, rules);
    let [ms, delivered, likes, value, months] = amounts(row.totals);
    let [counted_ms, messages, counted_likes, counted_value, counted_months] = counted;
    let parts = Parts {
        online: Some(OnlinePart { ms, counted_ms, points: points[Metric::Online as usize] }),
        messages: Some(MessagesPart { delivered, counted: messages, points: points[Metric::Messages as usize] }),
        likes: Some(LikesPart { count: likes, counted: counted_likes, points: points[Metric::Likes as usize] }),
        gifts: Some(GiftsPart { value, counted: counted_value, points: points[Metric::GiftValue as usize] }),
        membership: Some(MembershipPart {
            months,
            counted: counted_months,
            points: points[Metric::MembershipMonths as usize],
        }),
    };
    // A level is at most the number of thresholds, so it is the place of the next one.
    let next_at = rules.thresholds.get(level as usize).copied();
    let missing = next_at.map(|next| next.saturating_sub(score));
    Level { level, score, next_at, missing, parts: Some(parts), too_late: row.too_late }
}

/// Walks over all accounts of the partition: their levels follow from rules that may have changed since yesterday, so
/// there is nothing to keep up between two questions. The row of online duration is read only where a session that is
/// open may have made a difference.
pub(crate) fn levels(cx: &ReadContext<'_>) -> Result<BTreeMap<u32, u64>, StoreError> {
    let rules = &cx.rules.levels;
    let highest = u32::try_from(rules.thresholds.len()).unwrap_or(u32::MAX);
    let mut counts: BTreeMap<u32, u64> = (0..=highest).map(|level| (level, 0)).collect();
    cx.reader.try_scan_from::<Accounts>(&(cx.app,), None, |(_, account), mut row| {
        *counts.entry(level_at(cx, account, &mut row)?).or_default() += 1;
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(counts)
}

fn level_at(cx: &ReadContext<'_>, account: &str, row: &mut Account) -> Result<u32, StoreError> {
    let rules = &cx.rules.levels;
    let now = row.level(rules);
    if row.level_at_most(row.look_at(cx.at_ms), rules) == now {
        return Ok(now);
    }
    go_on(cx, account, row)?;
    Ok(row.level(rules))
}
