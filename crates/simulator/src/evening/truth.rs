//! What was true of the evening, in the form of the expected files.

use std::collections::BTreeMap;

use super::Evening;
use crate::expected::{Expected, ExpectedGifts, ExpectedRoom, ExpectedUser, ExpectedViewer};
use crate::kind::Counts;
use crate::people::{Person, Whereabouts, union_ms};
use crate::rooms::{Room, RoomId, Stage};

impl Evening {
    /// The ground truth. Complete once the iterator has ended; before that it is what has happened so far, of which
    /// some lines may not be sent yet.
    #[must_use]
    pub fn expected(&self) -> Expected {
        let named =
            |sent: &BTreeMap<&'static str, u64>| sent.iter().map(|(&name, &count)| (name.to_owned(), count)).collect();
        let users = self.people.iter().filter(|person| was_there(person));
        let mut viewers = self.viewers_truth();
        let numbered = self.rooms.iter().zip(0..);
        Expected {
            callbacks: named(&self.callbacks_sent),
            events: named(&self.events_sent),
            first_ms: self.first_ms.unwrap_or(self.config.start_ms),
            last_ms: self.last_ms,
            end_ms: self.end_ms,
            lotteries: Vec::new(),
            rooms: numbered
                .filter(|(room, _)| room.stage != Stage::Planned)
                .map(|(room, number)| {
                    let viewers = viewers.remove(&RoomId(number)).unwrap_or_default();
                    (room.group_id.clone(), ExpectedRoom { viewers, ..self.room_truth(room) })
                })
                .collect(),
            users: users.map(|person| (person.account.clone(), self.user_truth(person))).collect(),
        }
    }

    /// What everybody did, by room and account.
    fn viewers_truth(&self) -> BTreeMap<RoomId, BTreeMap<String, ExpectedViewer>> {
        let mut rooms: BTreeMap<RoomId, BTreeMap<String, ExpectedViewer>> = BTreeMap::new();
        for person in &self.people {
            for seen in &person.truth.rooms {
                let viewer = ExpectedViewer {
                    messages: seen.messages,
                    likes_attempted: seen.likes_attempted,
                    gift_value: seen.gift_value,
                    joined: seen.joined,
                    watch_ms: seen.watch.until(self.end_ms),
                };
                rooms.entry(seen.room).or_default().insert(person.account.clone(), viewer);
            }
        }
        rooms
    }

    fn room_truth(&self, room: &Room) -> ExpectedRoom {
        let truth = &room.truth;
        let by_minute = |minutes: &BTreeMap<i64, Counts>| {
            minutes.iter().map(|(&minute, counts)| (minute, counts.by_type())).collect()
        };
        let billed = if self.config.billing_feed { truth.billed } else { truth.gifts_delivered };
        ExpectedRoom {
            attempts_by_type: truth.attempted.by_type(),
            messages_by_type: truth.delivered.by_type(),
            messages: truth.delivered.total(),
            dropped: truth.dropped.total(),
            dropped_by_type: truth.dropped.by_type(),
            likes: truth.likes,
            likes_attempted: truth.likes_attempted,
            gifts: ExpectedGifts { messages: truth.gifts_delivered.messages, ..billed },
            gifts_delivered: truth.gifts_delivered,
            distinct_joiners: truth.distinct_joiners,
            distinct_senders: truth.distinct_senders,
            peak_online: truth.headcount.peak(),
            peak_online_upper: truth.headcount_upper.peak(),
            final_online: truth.headcount.now(),
            final_online_upper: truth.final_upper,
            failed: truth.failed.total(),
            failed_by_type: truth.failed.by_type(),
            failed_attempted: truth.failed_attempted,
            unattempted: truth.unattempted.total(),
            unattempted_by_type: truth.unattempted.by_type(),
            memberships: truth.memberships,
            recalled: truth.recalled,
            duplicates_sent: truth.duplicates_sent,
            destroyed: room.stage == Stage::Destroyed,
            minutes: by_minute(&truth.minutes),
            attempt_minutes: by_minute(&truth.attempt_minutes),
            viewers: BTreeMap::new(),
        }
    }

    fn user_truth(&self, person: &Person) -> ExpectedUser {
        let truth = &person.truth;
        let mut rooms: Vec<String> = truth
            .rooms
            .iter()
            .filter(|seen| seen.joined || seen.delivered)
            .map(|seen| self.rooms[seen.room.0 as usize].group_id.clone())
            .collect();
        rooms.sort_unstable();
        let mut sessions = truth.sessions.clone();
        let end_ms = self.end_ms;
        for device in &person.devices {
            // Nobody can tell a connection that is open from one whose loss has not been noticed yet.
            let lower_ms = person.last_sign_ms.max(end_ms - device.platform.detection_ms_max()).min(end_ms);
            sessions.push(crate::people::Session {
                open_ms: device.since_ms,
                close_ms: end_ms,
                lower_ms,
                upper_ms: end_ms,
            });
        }
        if let Whereabouts::Dead(death) = &person.whereabouts
            && !death.noticed
        {
            sessions.push(crate::people::Session {
                open_ms: death.device.since_ms,
                close_ms: death.since_ms,
                lower_ms: person.last_sign_ms.min(death.since_ms),
                upper_ms: end_ms,
            });
        }
        let union = |close: fn(&crate::people::Session) -> i64| {
            union_ms(sessions.iter().map(|session| (session.open_ms, close(session))).collect(), end_ms)
        };
        ExpectedUser {
            messages: truth.delivered.total(),
            messages_by_type: truth.delivered.by_type(),
            attempts_by_type: truth.attempted.by_type(),
            likes: truth.likes,
            likes_attempted: truth.likes_attempted,
            gift_value: truth.gift_value,
            gift_count: truth.gift_count,
            memberships: truth.memberships,
            online_ms: union(|session| session.close_ms),
            online_lower_ms: union(|session| session.lower_ms),
            online_upper_ms: union(|session| session.upper_ms),
            online: person.is_online(),
            rooms,
        }
    }
}

/// Whether the outside has seen this account at all.
fn was_there(person: &Person) -> bool {
    let truth = &person.truth;
    let connected = !truth.sessions.is_empty() || !person.devices.is_empty();
    let dead = matches!(person.whereabouts, Whereabouts::Dead(_));
    connected || dead || truth.delivered.total() > 0 || truth.attempted.total() > 0
}
