//! The people of the evening: accounts, their devices, where they are, and what is true of each.

use crate::kind::Counts;
use crate::random::Random;
use crate::rooms::RoomId;

/// Index of a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PersonId(pub(crate) u32);

/// Where a client runs, and how the platform calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Platform {
    Ios,
    Android,
    Web,
    Windows,
    Mac,
    IPad,
    /// A phone or computer that the platform could not tell.
    Unknown,
    /// The app's own server.
    Rest,
}

impl Platform {
    /// `OptPlatform` of all callbacks but State.StateChange.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ios => "iOS",
            Self::Android => "Android",
            Self::Web => "Web",
            Self::Windows => "Windows",
            Self::Mac => "Mac",
            Self::IPad => "iPad",
            Self::Unknown => "Unknown",
            Self::Rest => "RESTAPI",
        }
    }

    /// `OptPlatform` of State.StateChange, which spells one differently.
    pub(crate) fn name_in_state_change(self) -> &'static str {
        match self {
            Self::Ios => "IOS",
            Self::Android | Self::Web | Self::Windows | Self::Mac | Self::IPad | Self::Unknown | Self::Rest => {
                self.name()
            }
        }
    }

    /// Longest time from the loss of a connection to its report, ms.
    pub(crate) fn detection_ms_max(self) -> i64 {
        if self == Self::Web { 60_000 } else { 400_000 }
    }

    fn draw(random: &mut Random) -> Self {
        const SHARES: [(Platform, u32); 7] = [
            (Platform::Android, 400),
            (Platform::Ios, 330),
            (Platform::Web, 140),
            (Platform::Windows, 70),
            (Platform::IPad, 30),
            (Platform::Mac, 25),
            (Platform::Unknown, 5),
        ];
        SHARES[random.weighted(&SHARES.map(|(_, share)| share))].0
    }

    /// Another platform than this one.
    pub(crate) fn other(self) -> Self {
        if self == Self::Web { Self::Android } else { Self::Web }
    }
}

/// Why an account's messages fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Muted {
    /// They do not.
    No,
    /// Muted in rooms: the before-callback fires, then the message fails.
    InRooms,
    /// Muted in the whole app: no before-callback fires.
    InApp,
}

/// A device that is connected.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Device {
    pub(crate) platform: Platform,
    pub(crate) since_ms: i64,
}

/// A connection that was: from `open_ms` to `close_ms` in the world; one who sees only callbacks can say that it ended
/// between `lower_ms` and `upper_ms`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Session {
    pub(crate) open_ms: i64,
    pub(crate) close_ms: i64,
    pub(crate) lower_ms: i64,
    pub(crate) upper_ms: i64,
}

impl Session {
    /// A connection whose end was called back in time.
    pub(crate) fn told(open_ms: i64, close_ms: i64) -> Self {
        Self { open_ms, close_ms, lower_ms: close_ms, upper_ms: close_ms }
    }
}

/// Presence in one room.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stay {
    /// Tells this stay from the person's other ones, so that what was planned for a former stay does not happen.
    pub(crate) number: u64,
    pub(crate) room: RoomId,
    /// Index among the room's members.
    pub(crate) position: usize,
}

/// Someone whose client died in these rooms.
#[derive(Debug, Clone)]
pub(crate) struct Death {
    pub(crate) since_ms: i64,
    pub(crate) device: Device,
    /// Whether the platform has called the loss back.
    pub(crate) noticed: bool,
    /// The rooms, and whether an observer could know by now.
    pub(crate) rooms: Vec<(RoomId, bool)>,
}

/// Where someone is.
#[derive(Debug, Clone)]
pub(crate) enum Whereabouts {
    /// Not connected.
    Away,
    /// At least one device is connected.
    Online,
    /// The client died; nobody has told anyone.
    Dead(Box<Death>),
}

/// How long someone was in a room.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Watch {
    /// Since when it has been there.
    since_ms: Option<i64>,
    /// Stays that are over.
    ms: i64,
}

impl Watch {
    /// It is there.
    pub(crate) fn enter(&mut self, at_ms: i64) {
        self.since_ms = Some(at_ms);
    }

    /// It is not there any more, whether or not the platform knows.
    pub(crate) fn leave(&mut self, at_ms: i64) {
        self.ms += self.since_ms.take().map_or(0, |since_ms| at_ms - since_ms);
    }

    /// The time up to the end.
    pub(crate) fn until(&self, end_ms: i64) -> i64 {
        self.ms + self.since_ms.map_or(0, |since_ms| end_ms - since_ms)
    }
}

/// What someone did in a room, for the truth.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) room: RoomId,
    pub(crate) joined: bool,
    pub(crate) delivered: bool,
    pub(crate) messages: u64,
    pub(crate) likes_attempted: u64,
    pub(crate) gift_value: u64,
    pub(crate) watch: Watch,
}

impl Seen {
    fn new(room: RoomId) -> Self {
        let watch = Watch::default();
        Self { room, joined: false, delivered: false, messages: 0, likes_attempted: 0, gift_value: 0, watch }
    }
}

/// What is true of one account.
#[derive(Debug, Clone, Default)]
pub(crate) struct PersonTruth {
    pub(crate) delivered: Counts,
    pub(crate) attempted: Counts,
    pub(crate) likes: u64,
    pub(crate) likes_attempted: u64,
    pub(crate) gift_count: u64,
    pub(crate) gift_value: u64,
    pub(crate) memberships: u64,
    pub(crate) sessions: Vec<Session>,
    pub(crate) rooms: Vec<Seen>,
}

/// An account and who is behind it.
#[derive(Debug, Clone)]
pub(crate) struct Person {
    pub(crate) account: String,
    pub(crate) platform: Platform,
    pub(crate) client_ip: String,
    /// How much more than others this one writes, 1 to 255.
    pub(crate) chattiness: u8,
    pub(crate) muted: Muted,
    pub(crate) whereabouts: Whereabouts,
    /// Grows with every arrival, death and departure, so that what was planned for a former life does not happen.
    pub(crate) life: u32,
    pub(crate) devices: Vec<Device>,
    pub(crate) stays: Vec<Stay>,
    /// The last time a callback showed this account alive, ms.
    pub(crate) last_sign_ms: i64,
    pub(crate) last_like_ms: i64,
    /// When its client was given up for dead, and the rooms that it was in then.
    pub(crate) former: (i64, Vec<RoomId>),
    /// Rooms that it did not take its place in again when its client was back: it watches elsewhere, and as long as nobody
    /// is told that its connection went, nothing that is called back shows that it is not there too.
    pub(crate) unshown: Vec<RoomId>,
    pub(crate) truth: PersonTruth,
}

impl Person {
    /// The app's server, which speaks as an account of its own.
    pub(crate) fn administrator() -> Self {
        Self::new("administrator".to_owned(), Platform::Rest, "198.51.100.250".to_owned(), Muted::No, 1)
    }

    /// The host of the room with this number.
    pub(crate) fn host(number: u32) -> Self {
        let client_ip = format!("198.51.100.{}", number % 200);
        Self::new(format!("host_{number:04}"), Platform::Ios, client_ip, Muted::No, 1)
    }

    /// The viewer with this number. The forms of names are those that apps use.
    pub(crate) fn viewer(number: u32, random: &mut Random, muted_permille: u32) -> Self {
        let account = match number % 16 {
            0..=8 => format!("viewer_{number:06}"),
            9..=11 => format!("u_{:08x}{number:x}", u64::from(number).wrapping_mul(0x9e37_79b9) & 0xffff_ffff),
            12 => format!("{}", 10_000_000 + number),
            13 => format!("mia.wang+{number}@example.com"),
            14 => format!("Ana-{number} O'Neil"),
            _ => format!("观众{number}"),
        };
        let muted = match random.permille(muted_permille) {
            true if random.permille(500) => Muted::InApp,
            true => Muted::InRooms,
            false => Muted::No,
        };
        // Most people watch; a few write without pause.
        let chattiness = match random.below(100) {
            0..=4 => 255,
            5..=24 => 110,
            25..=69 => 45,
            _ => 12,
        };
        let client_ip = format!("203.0.113.{}", random.below(254) + 1);
        Self::new(account, Platform::draw(random), client_ip, muted, chattiness)
    }

    fn new(account: String, platform: Platform, client_ip: String, muted: Muted, chattiness: u8) -> Self {
        Self {
            account,
            platform,
            client_ip,
            chattiness,
            muted,
            whereabouts: Whereabouts::Away,
            life: 0,
            devices: Vec::new(),
            stays: Vec::new(),
            last_sign_ms: 0,
            last_like_ms: 0,
            former: (0, Vec::new()),
            unshown: Vec::new(),
            truth: PersonTruth::default(),
        }
    }

    pub(crate) fn is_online(&self) -> bool {
        matches!(self.whereabouts, Whereabouts::Online)
    }

    /// The stay with this number, if it lasts.
    pub(crate) fn stay(&self, number: u64) -> Option<Stay> {
        self.stays.iter().find(|stay| stay.number == number).copied()
    }

    pub(crate) fn is_in(&self, room: RoomId) -> bool {
        self.stays.iter().any(|stay| stay.room == room)
    }

    /// What is noted about this room; the first look at it makes an empty note.
    pub(crate) fn seen(&mut self, room: RoomId) -> &mut Seen {
        let rooms = &mut self.truth.rooms;
        let at = rooms.iter().position(|seen| seen.room == room).unwrap_or_else(|| {
            rooms.push(Seen::new(room));
            rooms.len() - 1
        });
        &mut rooms[at]
    }
}

/// Length of the union of intervals, cut at `end_ms`.
pub(crate) fn union_ms(mut intervals: Vec<(i64, i64)>, end_ms: i64) -> i64 {
    intervals.sort_unstable();
    let mut total = 0;
    let mut covered_to = i64::MIN;
    for (open, close) in intervals {
        let close = close.min(end_ms);
        let open = open.max(covered_to);
        if close > open {
            total += close - open;
            covered_to = close;
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_sessions_count_once() {
        let cases = [
            (vec![], 100, 0),
            (vec![(10, 20)], 100, 10),
            (vec![(10, 20), (15, 40)], 100, 30),
            (vec![(30, 40), (10, 20)], 100, 20),
            (vec![(10, 90), (20, 30)], 50, 40),
            (vec![(10, 10), (60, 70)], 50, 0),
        ];
        for (intervals, end, expected) in cases {
            assert_eq!(union_ms(intervals.clone(), end), expected, "{intervals:?} to {end}");
        }
    }

    #[test]
    fn watch_time_counts_stays() {
        let mut watch = Watch::default();
        assert_eq!(watch.until(100), 0);
        watch.enter(100);
        assert_eq!(watch.until(150), 50);
        watch.leave(200);
        watch.enter(300);
        watch.leave(310);
        assert_eq!(watch.until(320), 110);
        watch.enter(330);
        assert_eq!(watch.until(340), 120);
    }

    #[test]
    fn accounts_differ_and_fit_the_platforms_limit() {
        let mut random = Random::new(1);
        let mut accounts: Vec<String> =
            (0..5_000).map(|number| Person::viewer(number, &mut random, 0).account).collect();
        assert!(accounts.iter().all(|account| account.len() <= 32), "at most 32 bytes");
        accounts.sort_unstable();
        accounts.dedup();
        assert_eq!(accounts.len(), 5_000);
    }
}
