//! What follows from things that happened, in order of time: the sums of an account, and its devices.
//!
//! Time with any session is painted once, up to [`State::at_ms`]. What was painted and may not have been connected is
//! summed beside it as *doubtful*: of each session that did not end by a logout the time from its last certain moment
//! to the report, as far as nothing else covers it. A second is doubtful at most once, because it is the last session
//! to end that decides; so `online_ms - doubtful_ms` is a lower bound.
//!
//! Time in which a session may have lasted is painted on a layer of its own, which covers the other one: its sum is the
//! upper bound.
//!
//! Sessions that fall silent, and ends that may not have been ends, are taken back by later evidence: for that a device
//! remembers what was painted when it ended, so the part of the gap that other devices painted meanwhile is known.

use barrage_event::rules::DurationRules;

use crate::proto::device::Stage;
use crate::proto::{Account, Device, Happening, Kind, Run, State};
use crate::recent::steps;
use crate::{Gap, Gaps, Online};

/// Platforms of one account that are kept apart.
pub(crate) const PLATFORMS_MAX: usize = 16;
/// [`Happening::platform`] of a sign of life whose platform is not told.
pub(crate) const ANY: u32 = 16;

/// Sure parts that are remembered while another session is open; the oldest is forgotten, which lowers the lower bound.
const RUNS_MAX: usize = 8;

/// A sign of life takes an end back only when it is this much later, ms: what happened at the same time is told in any
/// order.
const SETTLED_MS: i64 = 1_000;

/// A logout this soon after a login that pushed its own platform out is that of the device that was pushed out, ms. Older
/// clients log out then, a moment before or after the login. A lost connection is that of this device within [`SETTLED_MS`].
const PUSHED_OUT_MS: i64 = 5_000;

/// Length of [from, to), 0 when it is empty.
pub(crate) fn length(from: i64, to: i64) -> u64 {
    u64::try_from(to.saturating_sub(from)).unwrap_or(0)
}

fn span(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// The account's answer at `at_ms`.
pub(crate) fn read(account: &Account, at_ms: i64, rules: &DurationRules) -> Online {
    let mut state = account.folded.clone().unwrap_or_default();
    let mut machine = Machine { state: &mut state, platforms: &account.platforms, rules };
    for happening in steps(account, account.recent.len(), at_ms).iter().take_while(|h| h.at_ms <= at_ms) {
        machine.apply(happening);
    }
    machine.advance(at_ms);
    machine.answer()
}

/// The times without a connection, as far as they are not folded.
pub(crate) fn gaps(account: &Account, rules: &DurationRules) -> Gaps {
    let mut state = account.folded.clone().unwrap_or_default();
    let folded_to_ms = state.at_ms;
    // What comes too late to be put in its place counts from the end of what is folded, in the same ms.
    let shifted = account.recent.first().is_some_and(|first| first.at_ms == folded_to_ms);
    let mut gaps = Gaps { from_ms: folded_to_ms.saturating_add(i64::from(!shifted)), list: Vec::new() };
    if state.left_ms != 0 && state.left_ms <= state.since_ms {
        // What it is uncertain by matters no more.
        let back_ms = Some(state.since_ms);
        gaps.list.push(Gap { gone_ms: state.left_ms, uncertain_ms: 0, logged_out: state.logged_out, back_ms });
    }
    let mut machine = Machine { state: &mut state, platforms: &account.platforms, rules };
    machine.note(&mut gaps, folded_to_ms);
    for happening in steps(account, account.recent.len(), i64::MAX).iter() {
        machine.advance(happening.at_ms);
        machine.note(&mut gaps, happening.at_ms);
        machine.apply(happening);
        machine.note(&mut gaps, happening.at_ms);
    }
    gaps
}

/// Applies things that happened, in order.
#[derive(Debug)]
pub(crate) struct Machine<'m> {
    pub(crate) state: &'m mut State,
    /// Names, by number.
    pub(crate) platforms: &'m [String],
    pub(crate) rules: &'m DurationRules,
}

impl Machine<'_> {
    /// Applies what happened; nothing that is applied later may be earlier.
    pub(crate) fn apply(&mut self, happening: &Happening) {
        let at_ms = happening.at_ms;
        self.advance(at_ms);
        while self.state.devices.len() < self.platforms.len() {
            self.state.devices.push(Device::default());
        }
        let was_on = self.is_on();
        let restored = match happening.kind() {
            Kind::Sign => self.sign(happening.platform, at_ms),
            Kind::Login => self.login(happening),
            kind => self.close(happening.platform as usize, happening, kind),
        };
        match (was_on, self.is_on()) {
            (false, true) if !restored => self.state.since_ms = at_ms,
            // Also an end that was taken back and came again at once: the account went now, not then.
            (was_on, false) if was_on || restored => {
                self.state.left_ms = at_ms;
                self.state.logged_out = happening.kind() == Kind::Logout;
            }
            _ => {}
        }
    }

    /// Lets time pass up to `to_ms`; sessions fall silent on the way.
    pub(crate) fn advance(&mut self, to_ms: i64) {
        let timeout_ms = span(self.rules.session_timeout_ms);
        while self.state.at_ms < to_ms {
            let due = |d: &Device| match d.stage() {
                Stage::Open => Some(d.sign_ms.saturating_add(timeout_ms)),
                Stage::MaybeClosed => Some(d.ended_ms.saturating_add(timeout_ms)),
                Stage::Closed | Stage::Silent => None,
            };
            let next_ms = self.state.devices.iter().filter_map(due).min().unwrap_or(i64::MAX);
            if next_ms >= to_ms {
                self.paint(to_ms);
                return;
            }
            self.paint(next_ms);
            // Later than that only when the rules have changed.
            let was_on = self.is_on();
            let State { at_ms: ended_ms, online_ms, upper_ms, .. } = *self.state;
            for device in &mut self.state.devices {
                if due(device).is_none_or(|due_ms| due_ms > next_ms) {
                    continue;
                }
                if device.stage() == Stage::MaybeClosed {
                    device.set_stage(Stage::Closed);
                    continue;
                }
                device.set_stage(Stage::Silent);
                device.ended_ms = ended_ms;
                device.ended_online_ms = online_ms;
                device.ended_upper_ms = upper_ms;
                device.ended_doubtful_ms = 0;
                self.state.sure_to_ms = self.state.sure_to_ms.max(device.sign_ms);
            }
            if was_on && !self.is_on() {
                self.state.left_ms = ended_ms;
                self.state.logged_out = false;
            }
        }
    }

    /// Brings the list of gaps up to now, which is the time of something that happened.
    fn note(&self, gaps: &mut Gaps, now_ms: i64) {
        let State { since_ms, left_ms, sure_to_ms, logged_out, .. } = *self.state;
        let open = gaps.list.last_mut().filter(|gap| gap.back_ms.is_none());
        if !self.is_on() {
            if left_ms == 0 || open.as_ref().is_some_and(|gap| gap.gone_ms == left_ms) {
                return;
            }
            let gap = Gap { gone_ms: left_ms, uncertain_ms: length(sure_to_ms, left_ms), logged_out, back_ms: None };
            match open {
                // What seemed to be its end was none.
                Some(last) => *last = gap,
                None => gaps.list.push(gap),
            }
            return;
        }
        match open {
            Some(last) if since_ms >= last.gone_ms => last.back_ms = Some(since_ms),
            Some(_) => {
                gaps.list.pop();
            }
            None => {}
        }
        let noted = gaps.list.last().is_some_and(|last| last.gone_ms == now_ms && last.is_replacement());
        if self.again_ms() == now_ms && now_ms != 0 && !noted {
            let uncertain_ms = length(sure_to_ms, now_ms);
            gaps.list.push(Gap { gone_ms: now_ms, uncertain_ms, logged_out: false, back_ms: Some(now_ms) });
        }
    }

    /// The last login on top of the one session that is open; 0 when there was none, or when several are open.
    fn again_ms(&self) -> i64 {
        let mut open = self.state.devices.iter().filter(|device| device.stage() == Stage::Open);
        open.next().filter(|_| open.next().is_none()).map_or(0, |device| device.again_ms)
    }

    fn paint(&mut self, to_ms: i64) {
        let ms = length(self.state.at_ms, to_ms);
        let is_on = self.is_on();
        if is_on {
            self.state.online_ms = self.state.online_ms.saturating_add(ms);
        }
        if is_on || self.state.devices.iter().any(|device| device.stage() == Stage::MaybeClosed) {
            self.state.upper_ms = self.state.upper_ms.saturating_add(ms);
        }
        self.state.at_ms = self.state.at_ms.max(to_ms);
    }

    fn is_on(&self) -> bool {
        self.state.devices.iter().any(|device| device.stage() == Stage::Open)
    }

    /// How late the platform tells of a lost connection at most, ms.
    fn detection_ms(&self, platform: usize) -> i64 {
        let web = self.platforms.get(platform).is_some_and(|name| name == "web");
        span(if web { self.rules.web_detection_ms } else { self.rules.native_detection_ms })
    }

    /// Until when a session was certainly connected, if the next that is heard of it comes at `at_ms`.
    fn sure_to(&self, platform: usize, at_ms: i64) -> i64 {
        let device = &self.state.devices[platform];
        // After a report that was not believed, that there was none since says nothing.
        let told_ms = if device.doubted { i64::MIN } else { at_ms.saturating_sub(self.detection_ms(platform)) };
        device.since_ms.max(device.sign_ms).max(told_ms).min(at_ms)
    }

    /// What of [from, to) no other session covers, ms.
    fn uncovered(&self, except: usize, from_ms: i64, to_ms: i64) -> u64 {
        let mut cover = [(i64::MAX, i64::MAX); PLATFORMS_MAX + RUNS_MAX];
        let open = self.state.devices.iter().enumerate().filter(|(index, _)| *index != except);
        let open = open.filter_map(|(_, device)| match device.stage() {
            Stage::Open => Some((device.since_ms, i64::MAX)),
            Stage::Silent => Some((device.since_ms, device.ended_ms)),
            Stage::Closed | Stage::MaybeClosed => None,
        });
        let known = open.chain(self.state.sure.iter().map(|run| (run.from_ms, run.to_ms)));
        for (place, interval) in cover.iter_mut().zip(known) {
            *place = interval;
        }
        cover.sort_unstable();
        let (mut at_ms, mut bare) = (from_ms, 0_u64);
        for (from, to) in cover {
            bare = bare.saturating_add(length(at_ms, from.min(to_ms)));
            at_ms = at_ms.max(to.min(to_ms));
        }
        bare
    }

    /// A session was certainly connected until `sure_ms` and ended at `end_ms`. Returns what that made doubtful, ms.
    fn end(&mut self, platform: usize, sure_ms: i64, end_ms: i64) -> u64 {
        let doubtful_ms = self.uncovered(platform, sure_ms, end_ms);
        self.state.doubtful_ms = self.state.doubtful_ms.saturating_add(doubtful_ms);
        self.state.sure_to_ms = self.state.sure_to_ms.max(sure_ms);
        let from_ms = self.state.devices[platform].since_ms;
        let others = |(index, device): (usize, &Device)| {
            index != platform && matches!(device.stage(), Stage::Open | Stage::Silent)
        };
        if !self.state.devices.iter().enumerate().any(others) {
            self.state.sure.clear();
        } else if sure_ms > from_ms {
            if self.state.sure.len() >= RUNS_MAX {
                self.state.sure.remove(0);
            }
            self.state.sure.push(Run { from_ms, to_ms: sure_ms });
        }
        doubtful_ms
    }

    /// A session that had ended or fallen silent lasts, as something at `at_ms` shows.
    fn restore(&mut self, platform: usize, at_ms: i64) {
        let device = self.state.devices[platform];
        let (from_ms, painted) = (device.ended_ms, device.ended_online_ms);
        // Of the time before another device's end, so much is painted only now.
        for other in &mut self.state.devices {
            if other.stage() != Stage::Open && other.ended_ms > from_ms {
                let meanwhile = other.ended_online_ms.saturating_sub(painted);
                let more = length(from_ms, other.ended_ms).saturating_sub(meanwhile);
                other.ended_online_ms = other.ended_online_ms.saturating_add(more);
            }
        }
        let meanwhile = self.state.online_ms.saturating_sub(painted);
        let more = length(from_ms, at_ms).saturating_sub(meanwhile);
        self.state.online_ms = self.state.online_ms.saturating_add(more);
        self.state.doubtful_ms = self.state.doubtful_ms.saturating_sub(device.ended_doubtful_ms);
        self.may_have_lasted(platform, at_ms);
        let device = &mut self.state.devices[platform];
        device.ended_doubtful_ms = 0;
        device.set_stage(Stage::Open);
    }

    /// The same on the layer of what may have been.
    fn may_have_lasted(&mut self, platform: usize, at_ms: i64) {
        let Device { ended_ms: from_ms, ended_upper_ms: painted, .. } = self.state.devices[platform];
        for other in &mut self.state.devices {
            if other.stage() != Stage::Open && other.ended_ms > from_ms {
                let meanwhile = other.ended_upper_ms.saturating_sub(painted);
                let more = length(from_ms, other.ended_ms).saturating_sub(meanwhile);
                other.ended_upper_ms = other.ended_upper_ms.saturating_add(more);
            }
        }
        let meanwhile = self.state.upper_ms.saturating_sub(painted);
        let more = length(from_ms, at_ms).saturating_sub(meanwhile);
        self.state.upper_ms = self.state.upper_ms.saturating_add(more);
    }

    /// A second device of the platform may have been connected until `at_ms`. Without a second login there was none: apps
    /// have accounts write that are not connected.
    fn extend(&mut self, platform: usize, at_ms: i64) {
        let device = &self.state.devices[platform];
        let soon = length(device.ended_ms, at_ms) <= self.rules.session_timeout_ms;
        if device.again_ms == 0 || device.pushed_out || !soon {
            return;
        }
        self.may_have_lasted(platform, at_ms);
        let State { online_ms, upper_ms, .. } = *self.state;
        let device = &mut self.state.devices[platform];
        device.ended_ms = at_ms;
        device.ended_online_ms = online_ms;
        device.ended_upper_ms = upper_ms;
    }

    /// Whose sign of life one is that names no platform. Of several sessions that of the last login: whichever of their
    /// devices it was, the account has been connected since then. Nobody's when it may be that of a later login still.
    fn whose(&self) -> Option<usize> {
        let last = |stage: Stage| {
            let those = self.state.devices.iter().enumerate().filter(move |(_, device)| device.stage() == stage);
            those.max_by_key(|(index, device)| (device.since_ms, self.platforms.get(*index)))
        };
        let (index, device) = last(Stage::Open).or_else(|| last(Stage::Silent))?;
        let maybe_later = last(Stage::MaybeClosed).is_some_and(|(_, maybe)| maybe.since_ms > device.since_ms);
        (!maybe_later).then_some(index)
    }

    /// Returns whether a session was restored.
    fn sign(&mut self, platform: u32, at_ms: i64) -> bool {
        let named = platform != ANY;
        let index = if named { Some(platform as usize) } else { self.whose() };
        let Some(index) = index else { return false };
        let Some(device) = self.state.devices.get(index) else { return false };
        let settled = at_ms >= device.ended_ms.saturating_add(SETTLED_MS);
        let restored = match device.stage() {
            Stage::Open => false,
            Stage::Silent => {
                self.restore(index, at_ms);
                true
            }
            Stage::MaybeClosed if settled => {
                self.restore(index, at_ms);
                true
            }
            Stage::Closed if settled => {
                self.extend(index, at_ms);
                return false;
            }
            Stage::Closed | Stage::MaybeClosed => return false,
        };
        let its_own = named || self.state.devices.iter().filter(|device| device.stage() != Stage::Closed).count() == 1;
        let device = &mut self.state.devices[index];
        device.sign_ms = device.sign_ms.max(at_ms);
        device.doubted &= !its_own;
        restored
    }

    /// Whether what came too late to be put in its place says more of a platform than is known already.
    fn is_news(&self, platform: usize, happening: &Happening) -> bool {
        let known = |device: &Device| device.changed_ms >= happening.happened_ms();
        happening.late_ms == 0 || !self.state.devices.get(platform).is_some_and(known)
    }

    /// Returns whether a session was restored before it ended.
    fn close(&mut self, platform: usize, happening: &Happening, kind: Kind) -> bool {
        if !self.is_news(platform, happening) {
            return false;
        }
        let at_ms = happening.at_ms;
        let Some(device) = self.state.devices.get_mut(platform) else { return false };
        device.changed_ms = happening.happened_ms();
        let mut restored = false;
        match device.stage() {
            Stage::Open => {}
            // Of a session that may have ended: two logins and two ends, the first of which was that of the connection
            // before the second login.
            Stage::MaybeClosed | Stage::Silent => {
                self.restore(platform, at_ms);
                restored = true;
            }
            Stage::Closed => {
                self.extend(platform, at_ms);
                self.state.devices[platform].again_ms = 0;
                return false;
            }
        }
        let device = &self.state.devices[platform];
        let again = device.again_ms != 0 && at_ms.saturating_sub(device.again_ms) <= self.detection_ms(platform);
        let soon_ms = if kind == Kind::Logout { PUSHED_OUT_MS } else { SETTLED_MS };
        let pushed_out = device.pushed_out && at_ms.saturating_sub(device.since_ms) <= soon_ms;
        if !restored && (pushed_out || again && kind == Kind::TimedOut) {
            let device = &mut self.state.devices[platform];
            device.doubted = true;
            device.again_ms = 0;
            device.pushed_out = false;
            return false;
        }
        let maybe = !restored && again && !device.pushed_out && kind == Kind::Closed;
        let sure_ms = if kind == Kind::Logout { at_ms } else { self.sure_to(platform, at_ms) };
        let doubtful_ms = self.end(platform, sure_ms, at_ms);
        let State { online_ms, upper_ms, .. } = *self.state;
        let device = &mut self.state.devices[platform];
        device.set_stage(if maybe { Stage::MaybeClosed } else { Stage::Closed });
        device.ended_ms = at_ms;
        device.ended_online_ms = online_ms;
        device.ended_upper_ms = upper_ms;
        device.ended_doubtful_ms = doubtful_ms;
        device.doubted = false;
        restored
    }

    /// Returns whether a session was restored because it was pushed out.
    fn login(&mut self, happening: &Happening) -> bool {
        let at_ms = happening.at_ms;
        let platform = happening.platform as usize;
        for &other in happening.kicked.iter().filter(|&&other| other != happening.platform) {
            // What is pushed out may have been lost before: as uncertain as a lost connection, but no second end.
            let other = other as usize;
            if self.is_news(other, happening)
                && let Some(device) = self.state.devices.get_mut(other)
            {
                device.again_ms = 0;
                device.pushed_out = false;
                self.close(other, happening, Kind::Closed);
            }
        }
        if !self.is_news(platform, happening) {
            return false;
        }
        let kicks_itself = happening.kicked.contains(&happening.platform);
        let Some(&device) = self.state.devices.get(platform) else { return false };
        let stage = device.stage();
        // Then the end of the device that is pushed out was told before.
        let is_over = matches!(stage, Stage::Closed | Stage::MaybeClosed);
        let told = is_over && at_ms.saturating_sub(device.ended_ms) <= PUSHED_OUT_MS;
        let pushes_out = kicks_itself && !told;
        let restored = pushes_out && matches!(stage, Stage::Silent | Stage::MaybeClosed);
        if restored {
            self.restore(platform, at_ms);
        }
        match stage {
            _ if restored || stage == Stage::Open => {
                let sure_ms = self.sure_to(platform, at_ms);
                self.end(platform, sure_ms, at_ms);
            }
            Stage::Silent => {
                let sure_ms = device.sign_ms.max(device.since_ms);
                self.end(platform, sure_ms, device.ended_ms);
            }
            Stage::Closed if pushes_out => self.extend(platform, at_ms),
            Stage::Open | Stage::Closed | Stage::MaybeClosed => {}
        }
        let device = &mut self.state.devices[platform];
        device.again_ms = if stage == Stage::Open || restored { at_ms } else { 0 };
        device.pushed_out = pushes_out;
        device.set_stage(Stage::Open);
        device.since_ms = at_ms;
        device.sign_ms = at_ms;
        device.changed_ms = happening.happened_ms();
        device.doubted = false;
        restored
    }

    /// What is true now. Ends every session, so nothing can be applied after it.
    fn answer(mut self) -> Online {
        let now = self.is_on();
        let at_ms = self.state.at_ms;
        for index in 0..self.state.devices.len() {
            let device = self.state.devices[index];
            match device.stage() {
                // Nobody can tell a connection that lasts from one whose loss is not told yet.
                Stage::Open => self.end(index, self.sure_to(index, at_ms), at_ms),
                Stage::Silent => self.end(index, device.sign_ms.max(device.since_ms), device.ended_ms),
                Stage::Closed | Stage::MaybeClosed => continue,
            };
            self.state.devices[index].set_stage(Stage::Closed);
        }
        let ms = self.state.online_ms;
        let lower_ms = ms.saturating_sub(self.state.doubtful_ms);
        Online { ms, lower_ms, upper_ms: self.state.upper_ms, now }
    }
}
