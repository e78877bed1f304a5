//! The rooms of the evening: their plan, who is in them, and what is true of each.

use std::collections::BTreeMap;

use crate::config::Config;
use crate::expected::ExpectedGifts;
use crate::kind::{Counts, Kind};
use crate::people::PersonId;
use crate::random::Random;
use crate::text;

/// Index of a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RoomId(pub(crate) u32);

/// Where a room is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Not yet created.
    Planned,
    /// On air.
    Live,
    /// The show is over; people leave.
    Over,
    /// Disbanded.
    Destroyed,
}

/// A random process whose rate changes: events come as in a Poisson process that runs faster and slower.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Process {
    /// Expected events until the next one, in millionths. 0 before the first draw.
    until_next: u64,
}

/// One expected event, in the unit of [`Process::due`].
pub(crate) const ONE_EVENT: u64 = 1_000_000;

/// Most events of one process and second: no configuration makes a simulator that never ends a second.
const EVENTS_PER_SECOND_MAX: u32 = 100_000;

impl Process {
    /// How many events come while `expected` millionths of an event are expected.
    pub(crate) fn due(&mut self, random: &mut Random, mut expected: u64) -> u32 {
        if self.until_next == 0 {
            self.until_next = 1 + random.exponential(ONE_EVENT);
        }
        let mut events = 0;
        while expected >= self.until_next && events < EVENTS_PER_SECOND_MAX {
            expected -= self.until_next;
            self.until_next = 1 + random.exponential(ONE_EVENT);
            events += 1;
        }
        self.until_next = self.until_next.saturating_sub(expected).max(1);
        events
    }
}

/// Counts members over time. Changes of one millisecond are netted before they can make a peak.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Headcount {
    now: u64,
    peak: u64,
    changed_ms: i64,
}

impl Headcount {
    pub(crate) fn join(&mut self, at_ms: i64) {
        self.settle(at_ms);
        self.now += 1;
    }

    pub(crate) fn leave(&mut self, at_ms: i64) {
        self.settle(at_ms);
        self.now = self.now.checked_sub(1).expect("only someone who is there can leave");
    }

    pub(crate) fn clear(&mut self, at_ms: i64) {
        self.settle(at_ms);
        self.now = 0;
    }

    pub(crate) fn now(&self) -> u64 {
        self.now
    }

    pub(crate) fn peak(&self) -> u64 {
        self.peak.max(self.now)
    }

    fn settle(&mut self, at_ms: i64) {
        if at_ms != self.changed_ms {
            self.peak = self.peak.max(self.now);
            self.changed_ms = at_ms;
        }
    }
}

/// A message on its way to the platform's throttle.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) at_ms: i64,
    pub(crate) from: PersonId,
    /// Sent by the app's server in this account's name.
    pub(crate) by_server: bool,
    /// Whether the before-callback fires.
    pub(crate) asks: bool,
    pub(crate) random: u32,
    /// Empty in older rooms.
    pub(crate) msg_id: String,
    pub(crate) kind: Kind,
    /// `MsgBody`, JSON text.
    pub(crate) elements: String,
    /// `CloudCustomData`.
    pub(crate) cloud: String,
    /// `GroupAtInfo`, JSON text, or empty.
    pub(crate) mentions: String,
    /// Taps in a like.
    pub(crate) likes: u32,
    /// What a gift message says: (number of the combo, gifts so far, value so far).
    pub(crate) combo: Option<(u64, u32, u32)>,
}

/// A client that died here and whose loss the platform's sweep will find.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Missing {
    pub(crate) person: PersonId,
    pub(crate) life: u32,
    pub(crate) since_ms: i64,
}

/// What is true of one room.
#[derive(Debug, Clone, Default)]
pub(crate) struct RoomTruth {
    pub(crate) attempted: Counts,
    pub(crate) delivered: Counts,
    pub(crate) dropped: Counts,
    pub(crate) failed: Counts,
    pub(crate) failed_attempted: u64,
    pub(crate) unattempted: Counts,
    pub(crate) likes: u64,
    pub(crate) likes_attempted: u64,
    pub(crate) billed: ExpectedGifts,
    pub(crate) gifts_delivered: ExpectedGifts,
    pub(crate) memberships: u64,
    pub(crate) recalled: u64,
    pub(crate) distinct_joiners: u64,
    pub(crate) distinct_senders: u64,
    pub(crate) duplicates_sent: u64,
    /// Who is there.
    pub(crate) headcount: Headcount,
    /// Who is there as far as the platform knows.
    pub(crate) headcount_upper: Headcount,
    pub(crate) final_upper: u64,
    pub(crate) minutes: BTreeMap<i64, Counts>,
    pub(crate) attempt_minutes: BTreeMap<i64, Counts>,
}

/// A live room.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) group_id: String,
    pub(crate) group_type: &'static str,
    pub(crate) name: String,
    pub(crate) owner: PersonId,
    /// Visits that are expected while it is on air.
    pub(crate) visits: u64,
    /// An older deployment: no MsgId, no `CloudCustomData`, no application callback.
    pub(crate) older: bool,
    /// Whether member states are called back.
    pub(crate) member_state: bool,
    pub(crate) opens_ms: i64,
    pub(crate) ends_ms: i64,
    pub(crate) stage: Stage,
    pub(crate) members: Vec<PersonId>,
    /// Second (since the epoch) of the attempts that wait for the throttle.
    pub(crate) second: i64,
    pub(crate) attempts: Vec<Attempt>,
    /// Whether the next second is planned.
    pub(crate) ticking: bool,
    pub(crate) msg_seq: u64,
    pub(crate) burst_until_ms: i64,
    /// People come because of a big gift: until when, and how many a second in millionths.
    pub(crate) wave_until_ms: i64,
    pub(crate) wave: u64,
    pub(crate) arrivals: Process,
    pub(crate) chat: Process,
    pub(crate) likes: Process,
    pub(crate) gifts: Process,
    pub(crate) memberships: Process,
    pub(crate) bursts: Process,
    pub(crate) news: Process,
    pub(crate) missing: Vec<Missing>,
    /// Delivered so far of combos that still run: (gifts, value).
    pub(crate) combos: BTreeMap<u64, (u32, u32)>,
    pub(crate) stream_sequence: u64,
    pub(crate) truth: RoomTruth,
}

impl Room {
    /// The room with this number, planned into the evening.
    pub(crate) fn plan(config: &Config, number: u32, owner: PersonId, weights: u64, random: &mut Random) -> Self {
        // The first rooms are large and open at once; small ones come and go.
        let open_latest = config.duration_ms / if number < 3 { 25 } else { 3 };
        let opens_ms = config.start_ms + random.between(0, open_latest.max(1));
        let ends_ms = config.start_ms + config.duration_ms * random.between(80, 112) / 100;
        Self {
            group_id: group_id(number),
            group_type: if number % 7 == 2 { "Live" } else { "AVChatRoom" },
            name: text::show_name(random),
            owner,
            visits: u64::from(config.viewers) * u64::from(Self::weight(number)) / weights.max(1),
            older: spread(number, config.older_rooms_permille, 500),
            member_state: spread(number, config.member_state_rooms_permille, 600),
            opens_ms,
            ends_ms,
            stage: Stage::Planned,
            members: Vec::new(),
            second: 0,
            attempts: Vec::new(),
            ticking: false,
            msg_seq: 0,
            burst_until_ms: 0,
            wave_until_ms: 0,
            wave: 0,
            arrivals: Process::default(),
            chat: Process::default(),
            likes: Process::default(),
            gifts: Process::default(),
            memberships: Process::default(),
            bursts: Process::default(),
            news: Process::default(),
            missing: Vec::new(),
            combos: BTreeMap::new(),
            stream_sequence: 0,
            truth: RoomTruth::default(),
        }
    }

    /// Zipf: the k-th room has 1/k of the first one's weight.
    pub(crate) fn weight(number: u32) -> u32 {
        1_000_000 / (number + 1)
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Live | Stage::Over)
    }
}

/// Whether the room with this number has a trait that `permille` of the rooms have: spread evenly, so that an evening
/// of a dozen rooms has its share of every oddity.
fn spread(number: u32, permille: u32, offset: u32) -> bool {
    let share = |count: u32| (u64::from(count) * u64::from(permille) + u64::from(offset)) / 1_000;
    share(number + 1) > share(number)
}

/// `GroupIds` in the forms that the platform allows: its own, and any printable ASCII, which has to be escaped in a URL.
fn group_id(number: u32) -> String {
    let mixed = u64::from(number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24;
    match number % 6 {
        0 | 2 => format!("@TGS#a{mixed:010X}"),
        1 => format!("room_{}", 2_000 + number),
        3 => format!("live-{number}"),
        4 => format!("show/{number} #1 50% off?"),
        _ => format!("@TGS#3{mixed:010X}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traits_are_spread_over_the_rooms() {
        for (permille, expected) in [(0, 0), (250, 250), (400, 400), (1_000, 1_000)] {
            let with = (0..1_000).filter(|&number| spread(number, permille, 500)).count();
            assert_eq!(with, expected, "{permille}");
        }
    }

    #[test]
    fn an_exit_and_a_join_of_one_millisecond_make_no_peak() {
        let mut headcount = Headcount::default();
        headcount.join(1);
        headcount.join(5);
        headcount.leave(5);
        assert_eq!((headcount.now(), headcount.peak()), (1, 1));
        headcount.join(6);
        headcount.leave(7);
        assert_eq!((headcount.now(), headcount.peak()), (1, 2));
        headcount.clear(8);
        assert_eq!((headcount.now(), headcount.peak()), (0, 2));
    }

    #[test]
    fn a_process_keeps_its_rate() {
        let mut random = Random::new(11);
        let mut process = Process::default();
        let events: u32 = (0..100_000).map(|_| process.due(&mut random, ONE_EVENT / 4)).sum();
        assert!((24_000..=26_000).contains(&events), "{events}");
    }

    #[test]
    fn group_ids_are_allowed_by_the_platform() {
        for number in 0..600 {
            let id = group_id(number);
            assert!(id.len() <= 48 && id.bytes().all(|byte| (0x20..=0x7e).contains(&byte)), "{id}");
        }
    }
}
