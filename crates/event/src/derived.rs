//! Events that Barrage derives from others: one flow, from accounts to rooms. Nothing derived causes another one.

use xxhash_rust::xxh3::xxh3_128;

use crate::command;
use crate::envelope::{PARSER_VERSION, Source, field};
use crate::event::{AccountMove, number};
use crate::wire::Writer;

/// What a room is told of an account, on its way from that account's partition to the room's.
#[derive(Debug, Clone, PartialEq)]
pub struct Derived {
    /// `SdkAppid`.
    pub app: u32,
    /// The room that is told: what the record is keyed by.
    pub group_id: String,
    /// The account.
    pub account: String,
    /// The time from which on `moves` takes the place of everything told before, ms.
    pub from_ms: i64,
    /// When the account went and was back, in order of time.
    pub moves: Vec<AccountMove>,
    /// When the event happened that it follows from, ms.
    pub occurred_at_ms: i64,
    /// Time of receipt of that event, ms.
    pub received_at_ms: i64,
    /// Version of the rules in force there.
    pub rules_version: u32,
}

impl Derived {
    /// The record of the log. The same event from the same source gives the same bytes.
    #[must_use]
    pub fn encode(&self, source: Source) -> Vec<u8> {
        let mut from = Vec::with_capacity(48);
        source.encode(&mut Writer::new(&mut from));
        let mut record = Vec::with_capacity(128 + 2 * self.group_id.len() + self.account.len());
        let mut w = Writer::new(&mut record);
        w.bytes(field::ID, &xxh3_128(&from).to_be_bytes());
        w.uint64(field::SDK_APP_ID, u64::from(self.app));
        w.string(field::COMMAND, command::ACCOUNT_MOVES);
        w.int64(field::OCCURRED_AT, self.occurred_at_ms);
        w.int64(field::RECEIVED_AT, self.received_at_ms);
        w.uint64(field::RULES_VERSION, u64::from(self.rules_version));
        w.uint64(field::PARSER_VERSION, u64::from(PARSER_VERSION));
        w.bool(field::HAS_EVENT_TIME, true);
        w.string(field::ROUTE_KEY, &self.group_id);
        w.item(field::SOURCE, &from);
        w.message(number::ACCOUNT_MOVES, |w| {
            w.string(1, &self.group_id);
            w.string(2, &self.account);
            w.int64(3, self.from_ms);
            for one in &self.moves {
                w.message(4, |w| {
                    w.int64(1, one.at_ms);
                    w.bool(2, one.back);
                    w.uint64(3, one.uncertain_ms);
                    w.bool(4, one.maybe);
                });
            }
        });
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::EnvelopeView;
    use crate::event::Event;

    #[test]
    fn what_is_written_is_read_back() {
        let source = Source { log_uuid: 7 << 90, partition: 3, offset: 1 << 40, index: 2 };
        let derived = Derived {
            app: 1_400_000_001,
            group_id: "room".to_owned(),
            account: "user".to_owned(),
            from_ms: 1_699_999_000_000,
            moves: vec![
                AccountMove { at_ms: 1_699_999_999_000, back: false, uncertain_ms: 400_000, maybe: false },
                AccountMove { at_ms: 1_700_000_000_000, back: true, uncertain_ms: 0, maybe: true },
            ],
            occurred_at_ms: 1_700_000_000_000,
            received_at_ms: 1_700_000_000_500,
            rules_version: 4,
        };
        for derived in [derived.clone(), Derived { moves: Vec::new(), ..derived }] {
            let record = derived.encode(source);
            let view = EnvelopeView::decode(&record).expect("a record");
            let Event::AccountMoves(moves) = view.event else { panic!("{:?}", view.event) };
            assert_eq!((moves.group_id, moves.account, moves.from_ms), ("room", "user", derived.from_ms));
            assert_eq!(moves.moves.iter().collect::<Vec<_>>(), derived.moves);
            assert_eq!((view.source, view.app), (Some(source), derived.app));
            assert_eq!((view.occurred_at_ms, view.received_at_ms), (1_700_000_000_000, 1_700_000_000_500));
            assert_eq!((view.route_key, view.rules_version, view.sequence, view.newer), ("room", 4, 0, false));
            assert_eq!(record, derived.encode(source), "the same bytes every time");
            let other = derived.encode(Source { index: 3, ..source });
            assert_ne!(record[..18], other[..18], "an id of its own");
        }
    }
}
