//! A statistic that tells rooms of messages by the way of their senders, and listeners too.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use barrage_event::event::AccountMove;
use barrage_event::{Derived, EnvelopeView, Event, Partition, Topic, proto as wire};
use barrage_log::EventLog;
use barrage_projection::{ApplyError, Context, Intent, Projection, ReaderExt as _, Statistic, Table, TableDef};
use barrage_state::runtime::{Intents, Outbox};
use barrage_worker::Worker;

use crate::common::{Ingest, Kind, START_MS, message};

pub(crate) const APP: u32 = 1_400_000_000;
pub(crate) const ROOMS: u32 = 5;
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Events that each room was told, in `used`.
pub(crate) struct Told;
impl Table for Told {
    const ID: u8 = 200;
    const NAME: &'static str = "test.told";
    type Key<'a> = (&'a str,);
    type Value = wire::QuotaAlarm;
}

/// Tells a room of every message in it by the way of its sender.
struct Teller;
impl Projection for Teller {
    fn name(&self) -> &'static str {
        "test.teller"
    }
    fn topic(&self) -> Topic {
        Topic::User
    }
    fn tables(&self) -> Vec<TableDef> {
        Vec::new()
    }
    fn apply(&self, cx: &mut Context<'_>, record: &EnvelopeView<'_>) -> Result<(), ApplyError> {
        let Event::AfterSend(message) = &record.event else { return Ok(()) };
        // Two at a time, so that the number among what one record causes matters.
        for back in [false, true] {
            cx.derive(Derived {
                app: record.app,
                group_id: message.group_id.to_owned(),
                account: message.from_account.to_owned(),
                from_ms: record.occurred_at_ms,
                moves: vec![AccountMove { at_ms: record.occurred_at_ms, back, uncertain_ms: 7, maybe: false }],
                occurred_at_ms: record.occurred_at_ms,
                received_at_ms: record.received_at_ms,
                rules_version: cx.rules_version,
            });
        }
        cx.notify(Intent {
            kind: "test",
            app: record.app,
            key: message.msg_id.to_owned(),
            at_ms: record.occurred_at_ms,
            fields: serde_json::Map::new(),
        });
        Ok(())
    }
}

struct Listener;
impl Projection for Listener {
    fn name(&self) -> &'static str {
        "test.listener"
    }
    fn topic(&self) -> Topic {
        Topic::Room
    }
    fn tables(&self) -> Vec<TableDef> {
        vec![TableDef::of::<Told>()]
    }
    fn apply(&self, cx: &mut Context<'_>, record: &EnvelopeView<'_>) -> Result<(), ApplyError> {
        let Event::AccountMoves(moves) = &record.event else { return Ok(()) };
        cx.table::<Told>()?.entry(&(moves.group_id,))?.used += 1;
        Ok(())
    }
}

pub(crate) struct Telling;
impl Statistic for Telling {
    fn name(&self) -> &'static str {
        "test"
    }
    fn state_version(&self) -> u32 {
        1
    }
    fn projections(&self) -> Vec<Box<dyn Projection>> {
        vec![Box::new(Teller), Box::new(Listener)]
    }
}

/// The message with this number, and its sender's partition.
pub(crate) fn numbered(ingest: &mut Ingest, log: &dyn EventLog, n: u32) -> (Partition, Vec<u8>) {
    let (room, user) = (format!("room_{}", n % ROOMS), format!("user_{}", n % 50));
    let index = barrage_event::routes::partition_of(APP, &user, log.partitions(Topic::User));
    let partition = Partition { topic: Topic::User, index };
    (partition, ingest.stamp(partition, message(Kind::After, &room, &user, n, START_MS + i64::from(n) * 10)))
}

/// Events that the rooms were told, once everything that is on its way is there.
pub(crate) fn settled_counts(worker: &Worker, log: &dyn EventLog) -> BTreeMap<String, u64> {
    let stores = worker.stores();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = log.wait(u64::MAX, Duration::ZERO);
        let mut counts = BTreeMap::new();
        let mut quiet = true;
        for partition in log.all_partitions() {
            let read = stores.read(partition, |snapshot| {
                let mut waiting = 0;
                snapshot.scan::<Outbox>(&(), |_, _| {
                    waiting += 1;
                    ControlFlow::Continue(())
                })?;
                snapshot.scan::<Intents>(&(), |_, _| {
                    waiting += 1;
                    ControlFlow::Continue(())
                })?;
                snapshot.scan::<Told>(&(), |(room,), row| {
                    counts.insert(room.to_owned(), row.used);
                    ControlFlow::Continue(())
                })?;
                Ok::<_, barrage_projection::StoreError>(waiting == 0 && snapshot.next_offset() == log.end(partition))
            });
            quiet &= read.expect("is here").expect("reads");
        }
        if quiet {
            return counts;
        }
        assert!(Instant::now() < deadline, "never quiet: {counts:?}");
        log.wait(seen, Duration::from_millis(5));
    }
}
