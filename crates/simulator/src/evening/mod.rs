//! The world: what happens, and which lines the outside gets to see of it.
//!
//! The world runs from happening to happening (`agenda`). A happening changes the world and its truth, plans others,
//! and may put lines on their way. A line leaves the simulator once nothing that is still to happen can be called back
//! before it: the platform decides at the end of a second which messages of that second it delivers, so lines are held
//! for [`HOLD_MS`].

mod chat;
mod devices;
mod gifts;
mod platform;
mod post;
mod shows;
mod truth;
mod visits;

use std::collections::BTreeMap;

use crate::agenda::{Happening, Schedule};
use crate::config::{Config, ConfigError};
use crate::line::{Line, LineKind};
use crate::people::{Person, PersonId};
use crate::random::Random;
use crate::rooms::{Room, RoomId};

/// How long a line is held back, ms: no happening is called back earlier than this before it happens.
const HOLD_MS: i64 = 1_000;

/// Index of the app's own account.
const ADMINISTRATOR: PersonId = PersonId(0);

/// A line on its way, and the room it is about.
#[derive(Debug)]
struct Posted {
    line: Line,
    /// What it is counted as.
    name: &'static str,
}

/// A simulated live evening: an iterator over its lines in order of `at_ms`.
///
/// Its memory is the people and rooms that were there so far and what is planned for them, not the evening.
#[derive(Debug)]
pub struct Evening {
    config: Config,
    app: String,
    random: Random,
    now_ms: i64,
    end_ms: i64,
    agenda: Schedule<Happening>,
    post: Schedule<Posted>,
    people: Vec<Person>,
    /// Index of the first viewer among the people.
    viewers_from: u32,
    /// Viewers that came so far.
    viewers: u32,
    /// Those of them who are gone and may come again.
    away: Vec<PersonId>,
    rooms: Vec<Room>,
    /// Sums of the rooms' weights, to draw a room by its size.
    cumulative: Vec<u64>,
    stays: u64,
    combos: u64,
    orders: u64,
    streams: u64,
    callbacks_sent: BTreeMap<&'static str, u64>,
    events_sent: BTreeMap<&'static str, u64>,
    first_ms: Option<i64>,
    last_ms: i64,
}

impl Evening {
    /// Prepares an evening.
    ///
    /// # Errors
    /// When a field of the configuration is out of range.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.check()?;
        let mut random = Random::new(config.seed);
        let mut weights = 0;
        let cumulative: Vec<u64> = (0..config.rooms)
            .map(|number| {
                weights += u64::from(Room::weight(number));
                weights
            })
            .collect();
        let mut people = vec![Person::administrator()];
        let mut rooms = Vec::new();
        let mut agenda = Schedule::new();
        for number in 0..config.rooms {
            let owner = PersonId(number + 1);
            people.push(Person::host(number));
            let room = Room::plan(&config, number, owner, weights, &mut random);
            agenda.plan(room.opens_ms, Happening::HostComes(RoomId(number)));
            rooms.push(room);
        }
        let end_ms = config.start_ms + config.duration_ms;
        if config.other_callbacks_per_minute > 0 {
            agenda.plan(config.start_ms + 1, Happening::Other);
        }
        agenda.plan(end_ms, Happening::Stop);
        Ok(Self {
            app: config.app.to_string(),
            random,
            now_ms: config.start_ms,
            end_ms,
            agenda,
            post: Schedule::new(),
            viewers_from: config.rooms + 1,
            viewers: 0,
            people,
            away: Vec::new(),
            rooms,
            cumulative,
            stays: 0,
            combos: 0,
            orders: 0,
            streams: 0,
            callbacks_sent: BTreeMap::new(),
            events_sent: BTreeMap::new(),
            first_ms: None,
            last_ms: 0,
            config,
        })
    }

    /// The configuration that the evening was made of.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// When the evening ends, ms since the epoch; some lines are sent after it.
    #[must_use]
    pub fn end_ms(&self) -> i64 {
        self.end_ms
    }

    fn room(&mut self, room: RoomId) -> &mut Room {
        &mut self.rooms[room.0 as usize]
    }

    fn person(&mut self, person: PersonId) -> &mut Person {
        &mut self.people[person.0 as usize]
    }

    /// Whether the evening still lasts, for what only happens during it.
    fn lasts(&self) -> bool {
        self.now_ms < self.end_ms
    }

    fn plan_in(&mut self, delay_ms: i64, what: Happening) {
        self.agenda.plan(self.now_ms + delay_ms, what);
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::HostComes(room) => self.host_comes(room),
            Happening::Create(room) => self.create(room),
            Happening::Open(room) => self.open(room),
            Happening::End(room) => self.end(room),
            Happening::Destroy(room) => self.destroy(room),
            Happening::HostLeaves(room) => self.host_leaves(room),
            Happening::StreamResumes(room) => self.stream_resumes(room),
            Happening::Second(room) => self.second(room),
            Happening::Apply { person, life, room } => self.apply(person, life, room),
            Happening::Join { person, life, room } => self.join(person, life, room),
            Happening::Leave { person, stay } => self.leave(person, stay),
            Happening::Chat { person, stay } => self.chat(person, stay),
            Happening::Like { person, stay } => self.like(person, stay),
            Happening::Membership { person, stay } => self.membership(person, stay),
            Happening::Gift(combo) => self.gift(combo),
            Happening::Bill(combo) => self.bill(&combo),
            Happening::Recall { room, msg_seq, msg_id } => self.recall(room, msg_seq, &msg_id),
            Happening::SecondDevice { person, life } => self.second_device(person, life),
            Happening::DeviceGoes { person, life, platform } => self.device_goes(person, life, platform),
            Happening::Logout { person, life } => self.logout(person, life),
            Happening::Notice { person, life } => self.notice_loss(person, life),
            Happening::Return { person, life } => self.come_back(person, life),
            Happening::GiveUp { person, life } => self.give_up(person, life),
            Happening::ShownAnew { room } => self.leave_visibly(room),
            Happening::Other => self.other(),
            Happening::Stop => self.stop(),
        }
    }

    /// The evening is over: what is true now is the answer.
    fn stop(&mut self) {
        for room in &mut self.rooms {
            room.truth.final_upper = room.truth.headcount_upper.now();
        }
    }

    fn note_sent(&mut self, posted: &Posted) {
        let sent = match posted.line.kind {
            LineKind::Event { .. } => &mut self.events_sent,
            LineKind::Callback { .. } | LineKind::Request { .. } => &mut self.callbacks_sent,
        };
        *sent.entry(posted.name).or_default() += 1;
        self.first_ms.get_or_insert(posted.line.at_ms);
        self.last_ms = posted.line.at_ms;
    }
}

impl Iterator for Evening {
    type Item = Line;

    fn next(&mut self) -> Option<Line> {
        loop {
            let settled = match (self.post.next_ms(), self.agenda.next_ms()) {
                (Some(line), Some(happening)) => line <= happening - HOLD_MS,
                (Some(_), None) => true,
                (None, _) => false,
            };
            if settled {
                let (_, posted) = self.post.take()?;
                self.note_sent(&posted);
                return Some(posted.line);
            }
            let (at_ms, what) = self.agenda.take()?;
            debug_assert!(at_ms >= self.now_ms, "time goes on");
            self.now_ms = at_ms;
            self.happen(what);
        }
    }
}
