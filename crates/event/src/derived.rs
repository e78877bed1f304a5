//! Events that Barrage derives from others: one flow, from accounts to rooms. Nothing derived causes another one.

use xxhash_rust::xxh3::xxh3_128;

use crate::command;
use crate::envelope::{PARSER_VERSION, Source, field};
use crate::event::number;
use crate::wire::Writer;

/// What a room is told of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Its last device went.
    Gone {
        /// How much earlier it may have happened, ms; 0 when the time is exact.
        uncertain_ms: u64,
    },
    /// It is connected again within the grace.
    Back,
}

/// A derived event on its way from an account's partition to a room's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Derived {
    /// `SdkAppid`.
    pub app: u32,
    /// The room that is told: what the record is keyed by.
    pub group_id: String,
    /// The account.
    pub account: String,
    /// What happened.
    pub change: Change,
    /// When it happened, ms.
    pub occurred_at_ms: i64,
    /// Time of receipt of the record that it follows from, ms.
    pub received_at_ms: i64,
    /// Version of the rules in force there.
    pub rules_version: u32,
}

impl Derived {
    /// The record of the log. The same event from the same source gives the same bytes.
    #[must_use]
    pub fn encode(&self, source: Source) -> Vec<u8> {
        let (command, number) = match self.change {
            Change::Gone { .. } => (command::ACCOUNT_GONE, number::ACCOUNT_GONE),
            Change::Back => (command::ACCOUNT_BACK, number::ACCOUNT_BACK),
        };
        let mut from = Vec::with_capacity(48);
        source.encode(&mut Writer::new(&mut from));
        let mut record = Vec::with_capacity(128 + 2 * self.group_id.len() + self.account.len());
        let mut w = Writer::new(&mut record);
        w.bytes(field::ID, &xxh3_128(&from).to_be_bytes());
        w.uint64(field::SDK_APP_ID, u64::from(self.app));
        w.string(field::COMMAND, command);
        w.int64(field::OCCURRED_AT, self.occurred_at_ms);
        w.int64(field::RECEIVED_AT, self.received_at_ms);
        w.uint64(field::RULES_VERSION, u64::from(self.rules_version));
        w.uint64(field::PARSER_VERSION, u64::from(PARSER_VERSION));
        w.bool(field::HAS_EVENT_TIME, true);
        w.string(field::ROUTE_KEY, &self.group_id);
        w.item(field::SOURCE, &from);
        w.message(number, |w| {
            w.string(1, &self.group_id);
            w.string(2, &self.account);
            if let Change::Gone { uncertain_ms } = self.change {
                w.uint64(3, uncertain_ms);
            }
        });
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::EnvelopeView;
    use crate::event::{AccountBack, AccountGone, Event};

    #[test]
    fn what_is_written_is_read_back() {
        let source = Source { log_uuid: 7 << 90, partition: 3, offset: 1 << 40, index: 2 };
        let gone = Derived {
            app: 1_400_000_001,
            group_id: "room".to_owned(),
            account: "user".to_owned(),
            change: Change::Gone { uncertain_ms: 400_000 },
            occurred_at_ms: 1_700_000_000_000,
            received_at_ms: 1_700_000_000_500,
            rules_version: 4,
        };
        let back = Derived { change: Change::Back, ..gone.clone() };
        let events = [
            (&gone, Event::AccountGone(AccountGone { group_id: "room", account: "user", uncertain_ms: 400_000 })),
            (&back, Event::AccountBack(AccountBack { group_id: "room", account: "user" })),
        ];
        for (derived, event) in events {
            let record = derived.encode(source);
            let view = EnvelopeView::decode(&record).expect("a record");
            assert_eq!((view.event, view.source, view.app), (event, Some(source), derived.app));
            assert_eq!((view.occurred_at_ms, view.received_at_ms), (1_700_000_000_000, 1_700_000_000_500));
            assert_eq!((view.route_key, view.rules_version, view.sequence, view.newer), ("room", 4, 0, false));
            assert_eq!(record, derived.encode(source), "the same bytes every time");
        }
        assert_ne!(gone.encode(source)[..18], gone.encode(Source { index: 3, ..source })[..18], "an id of its own");
    }
}
