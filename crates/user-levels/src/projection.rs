//! The projection, on accounts.

use barrage_event::rules::LevelRules;
use barrage_event::{EnvelopeView, Event, MessageKind, Topic};
use barrage_like_tallies::tables::Accounts as TallyAccounts;
use barrage_online_duration::{sign_of_life, tables::Accounts as OnlineAccounts};
use barrage_projection::{ApplyError, Context, Intent, Projection, StoreError, TableDef};
use serde_json::{Map, Value as Json};

use crate::account::day_of;
use crate::metrics::{Metric, level, points, score};
use crate::online::Look;
use crate::proto::{self, Account};
use crate::sources::{self, Online};
use crate::tables::{Accounts, RulesSince};

/// How far an event may lie ahead of stream time: as ingest lets it. A record of another producer may say anything.
const AHEAD_MS: i64 = 60_000;

/// Metrics of accounts, on `barrage.user`. Behind online duration and like tallies, whose tables it reads.
#[derive(Debug, Clone, Copy, Default)]
pub struct AccountLevels;

impl Projection for AccountLevels {
    fn name(&self) -> &'static str {
        "user-levels.accounts"
    }

    fn topic(&self) -> Topic {
        Topic::User
    }

    fn tables(&self) -> Vec<TableDef> {
        vec![
            TableDef::of::<Accounts>(),
            TableDef::of::<RulesSince>(),
            TableDef::of::<OnlineAccounts>(),
            TableDef::of::<TallyAccounts>(),
        ]
    }

    fn apply(&self, cx: &mut Context<'_>, record: &EnvelopeView<'_>) -> Result<(), ApplyError> {
        let (account, what) = match &record.event {
            Event::AfterSend(message) => (message.from_account, What::Delivered(message.kind)),
            Event::BeforeSend(message) => (message.from_account, What::Counted),
            Event::GiftBilled(gift) => (gift.from_account, What::Counted),
            Event::MembershipOpened(membership) => (membership.account, What::Counted),
            Event::StateChange(change) => (change.account, What::Connection),
            // Signs of life for online duration; they make nobody an account that has a level.
            Event::MembersJoined(_) | Event::MembersLeft(_) => match sign_of_life(record) {
                Some((account, _)) if cx.table::<Accounts>()?.get(&(record.app, account))?.is_some() => {
                    (account, What::Sign)
                }
                _ => return Ok(()),
            },
            Event::RulesApplied(rules) => return rules_applied(cx, rules.version),
            _ => return Ok(()),
        };
        if account.is_empty() {
            return Ok(());
        }
        let event_ms = record.occurred_at_ms.clamp(0, cx.stream_time_ms.saturating_add(AHEAD_MS).max(0));
        let look = Look { event_ms, stream_ms: cx.stream_time_ms };
        let step = Step { key: (record.app, account), what, look };
        let (rules, version) = (cx.rules, cx.rules_version);
        let row = cx.table::<Accounts>()?.entry(&step.key)?;
        let plain = step.is_plain(row, version);
        if plain {
            // Nearly every event: nothing else needs to be read.
            step.begin(row, &rules.levels);
            step.add_message(row);
            if row.level_at_most(row.look_at(event_ms), &rules.levels) <= row.told_level {
                return Ok(());
            }
        }
        // Taken out meanwhile, because other tables are read through the same context.
        let mut row = std::mem::take(row);
        let result = if plain { step.tell(cx, &mut row) } else { step.apply(cx, &mut row) };
        *cx.table::<Accounts>()?.entry(&step.key)? = row;
        Ok(result?)
    }
}

/// A version of the rules counts from here on. It is noted when levels follow from it otherwise than from the one before:
/// whoever is muted changes nobody's level.
fn rules_applied(cx: &mut Context<'_>, version: u32) -> Result<(), ApplyError> {
    // An older one comes by too, and changes nothing.
    if version != cx.rules_version {
        return Ok(());
    }
    let rules = serde_json::to_string(&(&cx.rules.levels, &cx.rules.duration))
        .map_err(|error| ApplyError::Reject(format!("the rules of levels cannot be written: {error}")))?;
    // The record has no time of receipt, so that it moves no stream time.
    let since_ms = cx.stream_time_ms;
    if cx.table::<RulesSince>()?.get(&())?.is_none_or(|row| row.version < version && row.rules != rules) {
        *cx.table::<RulesSince>()?.entry(&())? = proto::RulesSince { version, since_ms, rules };
    }
    Ok(())
}

/// What an event may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// A message of this kind was delivered.
    Delivered(MessageKind),
    /// Something that like tallies count.
    Counted,
    /// A connection.
    Connection,
    /// Nothing but that somebody is there.
    Sign,
}

/// Whether like tallies count something of such a message.
fn is_counted_elsewhere(kind: MessageKind) -> bool {
    matches!(kind, MessageKind::Gift | MessageKind::Like | MessageKind::Membership)
}

struct Step<'a> {
    key: (u32, &'a str),
    what: What,
    look: Look,
}

impl Step<'_> {
    fn apply(&self, cx: &mut Context<'_>, row: &mut Account) -> Result<(), StoreError> {
        self.begin(row, &cx.rules.levels);
        if row.rules_version != cx.rules_version {
            self.follow_rules(cx, row)?;
        }
        match self.what {
            What::Connection => self.look(cx, row, self.look.event_ms)?,
            What::Sign => {}
            What::Delivered(kind) => {
                self.add_message(row);
                if is_counted_elsewhere(kind) {
                    self.take_over(cx, row)?;
                }
            }
            What::Counted => self.take_over(cx, row)?,
        }
        if self.needs_a_look(row) {
            self.look(cx, row, self.look.event_ms)?;
        }
        self.tell(cx, row)
    }

    fn begin(&self, row: &mut Account, rules: &LevelRules) {
        row.fold(self.look.stream_ms, rules);
        let too_late = self.what != What::Sign && day_of(self.look.event_ms) < row.folded_below;
        row.too_late = row.too_late.saturating_add(too_late.into());
    }

    /// Whether the event is a message, or a sign of life, and nothing else.
    fn is_plain(&self, row: &Account, version: u32) -> bool {
        let plain = match self.what {
            What::Delivered(kind) => !is_counted_elsewhere(kind),
            What::Sign => true,
            What::Counted | What::Connection => false,
        };
        plain && row.rules_version == version && !self.needs_a_look(row)
    }

    /// Once a day online time is put into its days, while it is clear on which it was. And a session that had fallen
    /// silent is open again when somebody writes, or comes into a room.
    fn needs_a_look(&self, row: &Account) -> bool {
        let next_day = day_of(self.look.event_ms) > day_of(row.online_until_ms);
        let silent = !row.online_open && row.online_until_ms != 0;
        self.what != What::Connection && (row.online_open && next_day || silent)
    }

    fn add(&self, row: &mut Account, metric: Metric, amount: u64) {
        row.add(metric, amount, day_of(self.look.event_ms), self.look.stream_ms);
    }

    fn add_message(&self, row: &mut Account) {
        if matches!(self.what, What::Delivered(_)) {
            self.add(row, Metric::Messages, 1);
        }
    }

    /// Takes over what online duration has counted up to a time.
    fn look(&self, cx: &mut Context<'_>, row: &mut Account, event_ms: i64) -> Result<(), StoreError> {
        let found = sources::online_at(cx, self.key, row.look_at(event_ms))?;
        row.put_online(found, Look { event_ms, ..self.look });
        Ok(())
    }

    /// Takes over what like tallies have counted.
    fn take_over(&self, cx: &mut Context<'_>, row: &mut Account) -> Result<(), StoreError> {
        let day = day_of(self.look.event_ms);
        for (metric, total) in sources::tallies(cx, self.key)? {
            row.move_to(metric, total, day, self.look.stream_ms);
        }
        Ok(())
    }

    /// The rules changed since the account was looked at last: where levels follow from them otherwise than before, the
    /// level that it had by then, by the new ones, is told to nobody. What it reaches from there on is.
    fn follow_rules(&self, cx: &mut Context<'_>, row: &mut Account) -> Result<(), StoreError> {
        let seen = std::mem::replace(&mut row.rules_version, cx.rules_version);
        let since = cx.table::<RulesSince>()?.get(&())?.map(|since| (since.version, since.since_ms));
        let Some((_, since_ms)) = since.filter(|&(version, _)| version > seen) else { return Ok(()) };
        if row.online_open {
            let since_ms = since_ms.min(self.look.event_ms);
            let now = sources::online_at(cx, self.key, row.look_at(self.look.event_ms))?;
            let then = Online { ms: now.ms.min(row.online_at_most(row.look_at(since_ms))), open: true };
            row.put_online(then, Look { event_ms: since_ms, ..self.look });
        }
        row.told_level = row.told_level.max(row.level(&cx.rules.levels));
        Ok(())
    }

    /// Tells of levels that the account has reached.
    fn tell(&self, cx: &mut Context<'_>, row: &mut Account) -> Result<(), StoreError> {
        let rules = cx.rules;
        let at_ms = row.look_at(self.look.event_ms);
        // The row of online duration need not be read for nearly any event.
        if row.level_at_most(at_ms, &rules.levels) <= row.told_level {
            return Ok(());
        }
        if row.online_open {
            self.look(cx, row, self.look.event_ms)?;
        }
        let score = score(&points(&row.counted(&rules.levels), &rules.levels));
        let reached = level(score, &rules.levels);
        let first = row.told_level + 1;
        row.told_level = row.told_level.max(reached);
        if rules.notify.levels {
            // At most as many as there are thresholds, and never again for this account.
            for level in first..=reached {
                cx.notify(self.intent(level, score));
            }
        }
        Ok(())
    }

    fn intent(&self, level: u32, score: u64) -> Intent {
        let (app, account) = self.key;
        let fields = Map::from_iter([
            ("account".to_owned(), Json::from(account)),
            ("level".to_owned(), level.into()),
            ("score".to_owned(), score.into()),
        ]);
        let key = format!("{account}/{level}");
        Intent { kind: "level_reached", app, key, at_ms: self.look.event_ms, fields }
    }
}
