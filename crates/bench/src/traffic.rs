//! Seeded callbacks as a live evening has them: 45 % before-send, 45 % after-send, 10 % join, exit and state change, of
//! about 450 bytes.
//!
//! Every callback is another one: a `MsgId` or an event time never comes twice, or else the worker would drop it as a
//! duplicate and look faster than it is.

use std::collections::VecDeque;
use std::io::Write as _;

use bytes::Bytes;

/// `SdkAppid` of all traffic.
pub(crate) const APP: u32 = 1_400_000_001;

/// Seed of everything: the same numbers in every run.
pub(crate) const SEED: u64 = 20_260_823;

/// After how many messages the after-callback of one follows its before-callback.
const DELIVERY_LAG: usize = 64;

/// Steele, Lea and Flood's `SplitMix64`: small, seedable, good enough to pick rooms.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is above 0. The bias of the remainder is far below anything measured here.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// Who talks where: `pairs` (room, account) pairs at a time, over `rooms` rooms and `users` accounts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Crowd {
    pub(crate) rooms: u64,
    pub(crate) users: u64,
    pub(crate) pairs: u64,
    /// With every so many callbacks of all, the pair that is longest there gives way to a new one, so that each causes about
    /// so many; `None`: all stay.
    pub(crate) stay: Option<u64>,
}

impl Crowd {
    /// 200 rooms with 100 viewers each.
    pub(crate) const HOT: Self = Self::staying(200, 20_000, 20_000);

    /// Far more than an overlay of 32 MiB holds.
    pub(crate) const COLD: Self = Self::staying(100_000, 500_000, 2_000_000);

    /// The same, to try.
    pub(crate) const COLD_QUICK: Self = Self::staying(10_000, 50_000, 100_000);

    /// As many as are there at a time of [`Self::PASSING`], and the same ones all the time.
    pub(crate) const REGULARS: Self = Self::staying(200, 2_000, 2_000);

    /// Rooms of a busy evening, for the load over HTTP.
    pub(crate) const EVENING: Self = Self::staying(2_000, 100_000, 100_000);

    /// 2,000 viewers at a time who come, cause 20 callbacks each, and go, as in a room that is open to everybody: after
    /// 64,000 records those who are there are as long there as ever after.
    pub(crate) const PASSING: Self = Self { stay: Some(20), ..Self::staying(200, 1_000_000, 2_000) };

    pub(crate) const fn staying(rooms: u64, users: u64, pairs: u64) -> Self {
        Self { rooms, users, pairs, stay: None }
    }

    fn room(self, pair: u64) -> u64 {
        pair % self.rooms
    }

    fn user(self, pair: u64) -> u64 {
        // A prime spreads a room's viewers over all accounts; the first `users` pairs are all of them, and the next
        // ones the same in other rooms.
        (pair * 7_919 + pair / self.users) % self.users
    }
}

/// What the query of a callback says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) command: &'static str,
    pub(crate) platform: &'static str,
}

const BEFORE: &str = "Group.CallbackBeforeSendMsg";
const AFTER: &str = "Group.CallbackAfterSendMsg";
const JOIN: &str = "Group.CallbackAfterNewMemberJoin";
const EXIT: &str = "Group.CallbackAfterMemberExit";
const STATE: &str = "State.StateChange";

const PLATFORMS: [&str; 4] = ["iOS", "Android", "Web", "Windows"];

/// One account in so many has two devices at a time; the others have one.
const TWO_DEVICES: u64 = 10;

/// What an account uses, on its first or on its second device if it has one.
fn platform(user: u64, device: u64) -> &'static str {
    let first = Random::new(user).below(PLATFORMS.len() as u64);
    let second = if user.is_multiple_of(TWO_DEVICES) { device } else { 0 };
    PLATFORMS[usize::try_from(first + second).unwrap_or(0) % PLATFORMS.len()]
}

const TEXTS: [&str; 6] = [
    "good evening everyone, greetings from the other side of the country",
    "主播今天唱得真好听，再来一首吧，我们都在等着呢，加油加油",
    "hahahaha",
    "what is the name of this song? i have been looking for it for weeks, thank you so much",
    "前排围观，打卡第三天，今天也要开心呀",
    "can you say hi to my friend who is watching for the first time tonight, she is very shy",
];

/// A message on its way from its before- to its after-callback.
#[derive(Debug, Clone, Copy)]
struct Sent {
    pair: u64,
    number: u64,
    at_ms: i64,
}

/// A stream of callbacks.
#[derive(Debug, Clone)]
pub(crate) struct Traffic {
    crowd: Crowd,
    random: Random,
    /// Distinguishes streams of one run from each other.
    stream: u32,
    callbacks: u64,
    messages: u64,
    others: u64,
    sent: VecDeque<Sent>,
}

impl Traffic {
    pub(crate) fn new(crowd: Crowd, stream: u32) -> Self {
        let random = Random::new(SEED ^ u64::from(stream) << 32);
        Self { crowd, random, stream, callbacks: 0, messages: 0, others: 0, sent: VecDeque::new() }
    }

    /// Writes the body of the next callback.
    pub(crate) fn next(&mut self, at_ms: i64, body: &mut Vec<u8>) -> Kind {
        body.clear();
        self.callbacks += 1;
        let die = self.random.below(100);
        let (command, user) = match die {
            // By turns: by a die, the number of those on their way would wander off, and a delivery take longer and longer.
            0..90 => match self.delivery() {
                Some(sent) => (AFTER, self.message(AFTER, sent, body)),
                None => {
                    let sent = Sent { pair: self.pair(), number: self.messages, at_ms };
                    self.messages += 1;
                    self.sent.push_back(sent);
                    (BEFORE, self.message(BEFORE, sent, body))
                }
            },
            90..94 => (JOIN, self.membership(JOIN, "JoinType\":\"Apply", "NewMemberList", at_ms, body)),
            94..97 => (EXIT, self.membership(EXIT, "ExitType\":\"Quit", "ExitMemberList", at_ms, body)),
            _ => (STATE, self.state_change(at_ms, body)),
        };
        // Drawn for every callback, so that whose it is changes nothing about the next one.
        let device = self.random.below(2);
        Kind { command, platform: platform(user, device) }
    }

    /// Writes the delivery of one message of this pair, without a before-callback.
    pub(crate) fn delivered(&mut self, pair: u64, at_ms: i64, body: &mut Vec<u8>) -> Kind {
        body.clear();
        let sent = Sent { pair, number: self.messages, at_ms };
        self.messages += 1;
        let user = self.message(AFTER, sent, body);
        Kind { command: AFTER, platform: platform(user, 0) }
    }

    /// The message that is delivered next, when it is its turn.
    fn delivery(&mut self) -> Option<Sent> {
        if self.sent.len() > DELIVERY_LAG { self.sent.pop_front() } else { None }
    }

    fn pair(&mut self) -> u64 {
        let gone = self.crowd.stay.map_or(0, |stay| self.callbacks / stay);
        gone + self.random.below(self.crowd.pairs)
    }

    /// Writes a callback of a message; whose it is.
    fn message(&self, command: &str, sent: Sent, out: &mut Vec<u8>) -> u64 {
        let (room, user) = (self.crowd.room(sent.pair), self.crowd.user(sent.pair));
        let (seconds, number) = (sent.at_ms / 1_000, sent.number);
        let random = (number.wrapping_mul(2_654_435_761) ^ u64::from(self.stream)) & 0xffff_ffff;
        write(
            out,
            format_args!(
                "{{\"CallbackCommand\":\"{command}\",\"GroupId\":\"room_{room:06}\",\"Type\":\"AVChatRoom\",\
                 \"From_Account\":\"user_{user:08}\",\"Operator_Account\":\"user_{user:08}\",\"Random\":{random},\
                 \"MsgId\":\"{}{number:012}-{seconds}-{random}\",\"OnlineOnlyFlag\":0,",
                144_115 + u64::from(self.stream),
            ),
        );
        if command == AFTER {
            write(out, format_args!("\"MsgSeq\":{},\"MsgTime\":{seconds},", number + 1));
        }
        out.extend_from_slice(b"\"MsgBody\":[{");
        match number % 20 {
            0..3 => write(
                out,
                format_args!(
                    "\"MsgType\":\"TIMCustomElem\",\"MsgContent\":{{\"Data\":\"{{\\\"type\\\":\\\"like\\\",\
                     \\\"count\\\":{}}}\",\"Desc\":\"like\",\"Ext\":\"\",\"Sound\":\"\"}}",
                    number % 9 + 1
                ),
            ),
            3 => write(
                out,
                format_args!(
                    "\"MsgType\":\"TIMCustomElem\",\"MsgContent\":{{\"Data\":\"{{\\\"type\\\":\\\"gift\\\",\
                     \\\"gift_id\\\":\\\"rose\\\",\\\"count\\\":1,\\\"value\\\":{},\\\"combo_id\\\":\\\"c{number}\\\"}}\",\
                     \"Desc\":\"gift\",\"Ext\":\"\",\"Sound\":\"\"}}",
                    number % 500
                ),
            ),
            4 => write(
                out,
                format_args!("\"MsgType\":\"TIMFaceElem\",\"MsgContent\":{{\"Index\":{},\"Data\":\"\"}}", number % 99),
            ),
            _ => {
                let text = TEXTS[usize::try_from(number % 6).unwrap_or(0)];
                write(out, format_args!("\"MsgType\":\"TIMTextElem\",\"MsgContent\":{{\"Text\":\"{text}\"}}"));
            }
        }
        write(
            out,
            format_args!(
                "}}],\"CloudCustomData\":\"{{\\\"lv\\\":{},\\\"nick\\\":\\\"viewer {user}\\\"}}\",\"EventTime\":{}}}",
                number % 60,
                sent.at_ms
            ),
        );
        user
    }

    /// Writes a join or an exit; whose it is. The event time is what makes two of a pair's joins two events.
    fn membership(&mut self, command: &str, how: &str, list: &str, at_ms: i64, out: &mut Vec<u8>) -> u64 {
        let pair = self.pair();
        let (room, user) = (self.crowd.room(pair), self.crowd.user(pair));
        let at_ms = self.other_time(at_ms);
        write(
            out,
            format_args!(
                "{{\"CallbackCommand\":\"{command}\",\"GroupId\":\"room_{room:06}\",\"Type\":\"AVChatRoom\",\"{how}\",\
                 \"Operator_Account\":\"user_{user:08}\",\"{list}\":[{{\"Member_Account\":\"user_{user:08}\"}}],\
                 \"EventTime\":{at_ms}}}"
            ),
        );
        user
    }

    /// Writes a login or a lost connection; whose it is.
    fn state_change(&mut self, at_ms: i64, out: &mut Vec<u8>) -> u64 {
        let pair = self.pair();
        let user = self.crowd.user(pair);
        let at_ms = self.other_time(at_ms);
        let (action, reason) =
            if self.others.is_multiple_of(2) { ("Login", "Register") } else { ("Disconnect", "LinkClose") };
        write(
            out,
            format_args!(
                "{{\"CallbackCommand\":\"{STATE}\",\"EventTime\":{at_ms},\"Info\":{{\"Action\":\"{action}\",\
                 \"To_Account\":\"user_{user:08}\",\"Reason\":\"{reason}\"}}}}"
            ),
        );
        user
    }

    fn other_time(&mut self, at_ms: i64) -> i64 {
        self.others += 1;
        at_ms - i64::try_from(self.others % 20_000).unwrap_or(0)
    }
}

fn write(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Writing into memory cannot fail.
    let _ = out.write_fmt(text);
}

/// Whole HTTP requests in one piece of memory, each another callback.
pub(crate) fn requests(traffic: &mut Traffic, count: usize, at_ms: i64) -> std::sync::Arc<[Bytes]> {
    let mut all = Vec::with_capacity(count * 800);
    let mut ends = Vec::with_capacity(count);
    let mut body = Vec::with_capacity(1_024);
    for _ in 0..count {
        let kind = traffic.next(at_ms, &mut body);
        let (command, platform, length) = (kind.command, kind.platform, body.len());
        write(
            &mut all,
            format_args!(
                "POST /callback?SdkAppid={APP}&CallbackCommand={command}&contenttype=json&ClientIP=203.0.113.9&\
                 OptPlatform={platform} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n\
                 Content-Length: {length}\r\n\r\n"
            ),
        );
        all.extend_from_slice(&body);
        ends.push(all.len());
    }
    let all = Bytes::from(all);
    let mut start = 0;
    ends.into_iter().map(|end| all.slice(std::mem::replace(&mut start, end)..end)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    #[test]
    fn the_mix_is_as_described_and_no_callback_comes_twice() {
        let mut traffic = Traffic::new(Crowd::HOT, 1);
        let (mut body, mut kinds, mut bodies) = (Vec::new(), HashMap::new(), HashSet::new());
        let mut bytes = 0;
        for _ in 0..20_000 {
            let kind = traffic.next(1_735_689_600_000, &mut body);
            serde_json::from_slice::<serde_json::Value>(&body).unwrap();
            bytes += body.len();
            *kinds.entry(kind.command).or_insert(0) += 1;
            assert!(bodies.insert(body.clone()), "{}", String::from_utf8_lossy(&body));
        }
        for (command, expected) in [(BEFORE, 9_000), (AFTER, 9_000), (JOIN, 800), (EXIT, 600), (STATE, 600)] {
            let found: i32 = kinds[command];
            assert!((found - expected).abs() < 500, "{command}: {found}");
        }
        assert!((400..500).contains(&(bytes / 20_000)), "{} bytes a body", bytes / 20_000);
    }

    #[test]
    fn accounts_keep_to_their_devices() {
        let mut traffic = Traffic::new(Crowd::REGULARS, 1);
        let (mut body, mut platforms) = (Vec::new(), HashMap::<u64, HashSet<&str>>::new());
        for _ in 0..200_000 {
            let kind = traffic.next(1_735_689_600_000, &mut body);
            let text = String::from_utf8_lossy(&body);
            let (_, account) = text.split_once("user_").unwrap();
            platforms.entry(account[..8].parse().unwrap()).or_default().insert(kind.platform);
        }
        assert_eq!(platforms.len(), 2_000);
        for (user, used) in &platforms {
            assert_eq!(used.len(), if user.is_multiple_of(TWO_DEVICES) { 2 } else { 1 }, "{user}: {used:?}");
        }
        for platform in PLATFORMS {
            let users = platforms.values().filter(|used| used.contains(platform)).count();
            assert!((400..700).contains(&users), "{platform}: {users}");
        }
    }

    #[test]
    fn a_delivery_takes_as_long_late_as_early() {
        let mut traffic = Traffic::new(Crowd::HOT, 1);
        let mut body = Vec::new();
        for callback in 0..200_000 {
            traffic.next(1_735_689_600_000, &mut body);
            let on_their_way = traffic.sent.len();
            assert!(on_their_way <= DELIVERY_LAG + 1, "{on_their_way} messages after {callback} callbacks");
        }
    }

    #[test]
    fn pairs_are_distinct_and_the_first_ones_are_all_users() {
        for crowd in [Crowd::HOT, Crowd::EVENING, Crowd::COLD, Crowd::COLD_QUICK] {
            let users: HashSet<u64> = (0..crowd.users).map(|pair| crowd.user(pair)).collect();
            assert_eq!(users.len() as u64, crowd.users, "{crowd:?}");
            let pairs: HashSet<_> = (0..crowd.pairs).map(|pair| (crowd.room(pair), crowd.user(pair))).collect();
            assert_eq!(pairs.len() as u64, crowd.pairs, "{crowd:?}");
        }
    }

    #[test]
    fn viewers_who_pass_cause_as_many_callbacks_each_whenever_they_come() {
        let mut traffic = Traffic::new(Crowd::PASSING, 1);
        let mut body = Vec::new();
        let mut callbacks: HashMap<String, u32> = HashMap::new();
        for _ in 0..200_000 {
            traffic.next(1_735_689_600_000, &mut body);
            let text = String::from_utf8_lossy(&body);
            let (_, account) = text.split_once("user_").unwrap();
            *callbacks.entry(account[..8].to_owned()).or_default() += 1;
        }
        let of = |pair: u64| callbacks.get(&format!("{:08}", Crowd::PASSING.user(pair))).copied().unwrap_or(0);
        for first in (2_000..10_000).step_by(1_000) {
            let sum: u32 = (first..first + 1_000).map(of).sum();
            assert!((18_000..22_000).contains(&sum), "the thousand from {first} on caused {sum}");
        }
        assert_eq!((12_000..1_000_000).map(of).sum::<u32>(), 0);
    }

    #[test]
    fn requests_carry_their_length() {
        let requests = requests(&mut Traffic::new(Crowd::HOT, 2), 100, 1_735_689_600_000);
        for request in requests.iter() {
            let text = std::str::from_utf8(request).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("Content-Length: {}", body.len())), "{text}");
        }
    }
}
