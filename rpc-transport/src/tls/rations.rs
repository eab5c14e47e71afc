//! How much of a reactor handshakes may take: others' traffic goes on while many want in.
//!
//! A handshake costs some hundred times what a small frame costs, nearly all of it the answer to the ClientHello; and who only sends one
//! pays next to nothing. So two things are bounded on each reactor: how many accepted connections are in a handshake; and, while frames come in
//! on others, the time that their steps take: a share of it all, and as much as the reactor has slept beside them, which nobody has missed.
//!
//! ```text
//!  accepted ──► begun ── a ClientHello, and its turn ──► answered ── the client's last words ──► open
//!               newest first                             at once
//! ```
//!
//! A server that asks for another ClientHello (HelloRetryRequest) has not answered: that costs little, and the second hello has its turn like
//! the first. What follows the answer does not wait: a client's certificate and its signature are verified, and TLS 1.2's key exchange is
//! made, when they come. That happens once for each answer, so that it is bounded by the same share; and its time is counted: those that are
//! to be answered next wait for it.
//!
//! Nobody can tell a client from a flood before it has gone on. So when there are more than can be answered, who has come last is: the
//! answer finds it there, and the others are reset soon, the oldest first, rather than answered when they have no time left to go on. Who was
//! answered has half of the places at least, and nobody but others like it takes them: enough for a round trip.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::conn::ConnId;

/// Handshakes have one part in so many of a reactor's time while there is other traffic.
const SHARE: u128 = 10;

/// The most that is saved up, in nanoseconds: the time of some handshakes.
const SAVED: i64 = 1_000_000;

/// And the most that is owed.
const MOST: i64 = 100 * SAVED;

/// Frames within this time are other traffic.
const TRAFFIC: Duration = Duration::from_millis(20);

/// When those that wait are looked at again.
pub(crate) const AGAIN: Duration = Duration::from_millis(1);

/// Of those that wait, how many are looked at at a time: more than there is time for.
pub(crate) const AT_A_TIME: usize = 32;

/// A reactor's handshakes; connections that this side has accepted.
#[derive(Default)]
pub(crate) struct Rations {
    begun: Stand,
    answered: Stand,
    /// Those that have something to go on with, and no time, in the order in which they first had to wait.
    waiting: BTreeMap<u64, ConnId>,
    places: u64,
    /// A timer is to call them.
    called: bool,
    /// When the reactor went to sleep, if some wait.
    asleep: Option<Instant>,
    /// Time in hand, in nanoseconds; less than nothing after a long step. And when it was last looked at.
    credit: i64,
    since: Option<Instant>,
    frames: u64,
    traffic_until: Option<Instant>,
}

/// How far a handshake is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Begun,
    Answered,
}

/// Those who stand at one stage.
#[derive(Default)]
struct Stand {
    /// Oldest first. Those that are there no more go when they come to the front, or when there are many.
    ids: VecDeque<ConnId>,
    len: usize,
}

/// Whether a handshake may take its next step now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Now,
    /// It waits, and is the first that does: they are to be looked at [soon](AGAIN).
    WaitsFirst,
    Waits,
}

impl Rations {
    /// A handshake begins. If more than `most` are under way then, that one is to end which has stood longest at its stage: the one where
    /// more than half of them are. `stage` says where one is, if it is under way.
    pub(crate) fn begin(
        &mut self,
        id: ConnId,
        most: usize,
        mut stage: impl FnMut(ConnId) -> Option<Stage>,
    ) -> Option<ConnId> {
        self.begun.ids.push_back(id);
        self.begun.len += 1;
        let under_way = self.begun.len + self.answered.len;
        let full = if 2 * self.begun.len > under_way { Stage::Begun } else { Stage::Answered };
        let mut is_there = |other: ConnId| other != id && stage(other) == Some(full);
        let stand = match full {
            Stage::Begun => &mut self.begun,
            Stage::Answered => &mut self.answered,
        };
        let oldest = if under_way > most { stand.oldest(&mut is_there) } else { None };
        if full == Stage::Begun && self.begun.ids.is_empty() {
            self.begun.ids.push_back(id); // all others are just ending
        }
        let known = 2 * under_way + 64;
        if [self.begun.ids.len(), self.answered.ids.len(), self.waiting.len()].iter().any(|len| *len > known) {
            self.begun.ids.retain(|other| *other == id || stage(*other) == Some(Stage::Begun));
            self.answered.ids.retain(|other| stage(*other) == Some(Stage::Answered));
            self.waiting.retain(|_, other| stage(*other).is_some());
        }
        oldest
    }

    /// One has been answered.
    pub(crate) fn answer(&mut self, id: ConnId) {
        self.begun.len -= 1;
        self.answered.len += 1;
        self.answered.ids.push_back(id);
    }

    /// One is over, whatever its end was.
    pub(crate) fn end(&mut self, stage: Stage) {
        match stage {
            Stage::Begun => self.begun.len -= 1,
            Stage::Answered => self.answered.len -= 1,
        }
    }

    /// Asked before each step of a handshake; `frames` counts what the reactor has handed up since it started. `place` is the handshake's own,
    /// 0 until it has to wait: what it keeps its place by.
    pub(crate) fn turn(&mut self, id: ConnId, place: &mut u64, frames: u64, now: Instant) -> Turn {
        if std::mem::replace(&mut self.frames, frames) != frames {
            self.traffic_until = Some(now + TRAFFIC);
        }
        let since = self.since.replace(now);
        if self.traffic_until.is_none_or(|until| now >= until) {
            self.credit = SAVED; // what steps take is nobody else's, and nothing to make up for later
            return Turn::Now;
        }
        let passed = since.map_or(0, |since| now.saturating_duration_since(since).as_nanos());
        self.earn((passed / SHARE) as i64);
        if self.credit > 0 {
            return Turn::Now;
        }
        if *place == 0 {
            self.places += 1;
            *place = self.places;
        }
        self.waiting.insert(*place, id);
        if self.is_to_be_called() { Turn::WaitsFirst } else { Turn::Waits }
    }

    fn earn(&mut self, nanos: i64) {
        self.credit = self.credit.saturating_add(nanos).min(SAVED);
    }

    /// Whether there is anybody whom a reactor's sleep helps.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The reactor goes to sleep, in its own wait: a runtime that turns it has others to run meanwhile.
    pub(crate) fn falls_asleep(&mut self, now: Instant) {
        self.asleep = Some(now);
    }

    /// It goes on.
    pub(crate) fn wakes_up(&mut self, now: Instant) {
        if let Some(since) = self.asleep.take() {
            self.earn(now.saturating_duration_since(since).as_nanos() as i64);
        }
    }

    /// A step has taken so long.
    pub(crate) fn spend(&mut self, took: Duration) {
        // A reactor that was held for long is none of its handshakes' doing.
        self.credit -= (took.as_nanos() as i64).min(MOST);
        self.credit = self.credit.max(-MOST);
        // Nobody's frames could be handled meanwhile: that there were none does not make it quiet.
        self.traffic_until = self.traffic_until.map(|until| until + took);
    }

    /// The next of those that wait.
    pub(crate) fn next(&mut self) -> Option<ConnId> {
        self.waiting.pop_last().map(|(_, id)| id)
    }

    /// The timer has come.
    pub(crate) fn called(&mut self) {
        self.called = false;
    }

    /// Whether some wait, and nothing calls them: the caller sees to it.
    pub(crate) fn is_to_be_called(&mut self) -> bool {
        !self.waiting.is_empty() && !std::mem::replace(&mut self.called, true)
    }
}

impl Stand {
    /// Takes out the one that has stood there longest.
    fn oldest(&mut self, mut is_there: impl FnMut(ConnId) -> bool) -> Option<ConnId> {
        while let Some(id) = self.ids.pop_front() {
            if is_there(id) {
                return Some(id);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn id(n: u64) -> ConnId {
        ConnId::from_bits(n)
    }

    /// A reactor whose handshakes ask for a step whenever there is time.
    struct Asking {
        rations: Rations,
        now: Instant,
        frames: u64,
    }

    impl Asking {
        fn new() -> Asking {
            Asking { rations: Rations::default(), now: Instant::now(), frames: 0 }
        }

        /// Of so much time, how many hundredths steps of `step` take; of that which they leave others work `busy` hundredths, if there are any.
        fn share(&mut self, of: Duration, step: Duration, busy: Option<u32>) -> u128 {
            let (until, mut spent) = (self.now + of, Duration::ZERO);
            while self.now < until {
                self.frames += u64::from(busy.is_some());
                match self.rations.turn(id(1), &mut 0, self.frames, self.now) {
                    Turn::Now => {
                        self.rations.spend(step);
                        (spent, self.now) = (spent + step, self.now + step);
                    }
                    Turn::WaitsFirst | Turn::Waits => {
                        let busy = AGAIN * busy.unwrap_or_default() / 100;
                        self.rations.falls_asleep(self.now + busy);
                        self.now += AGAIN;
                        self.rations.wakes_up(self.now);
                        self.rations.called();
                        assert_eq!(self.rations.next(), Some(id(1)));
                    }
                }
            }
            spent.as_micros() * 100 / of.as_micros()
        }
    }

    #[test]
    #[rustfmt::skip]
    fn handshakes_have_a_share_of_the_time_and_as_much_as_nobody_else_takes() {
        let us = Duration::from_micros;
        //           a step takes  others work, of what is left  handshakes have
        let table = [(us(100),     Some(100),                    10),
                     (us(700),     Some(100),                    10),
                     (us(5_000),   Some(100),                    10),
                     (us(100),     Some(75),                     28),
                     (us(700),     Some(50),                     40),
                     (us(700),     Some(1),                      54),
                     (us(100),     None,                         100),
                     (us(5_000),   None,                         100)];
        for (step, busy, expected) in table {
            let share = Asking::new().share(Duration::from_secs(1), step, busy);
            assert!(share.abs_diff(expected) <= 2, "{step:?}, {busy:?}: {share} %");
        }
    }

    /// Steps of those that were answered are not rationed, and no frame is handled while they take their time.
    #[test]
    fn a_long_batch_of_handshakes_is_no_quiet_time() {
        let (mut asking, step) = (Asking::new(), Duration::from_micros(300));
        asking.share(Duration::from_millis(50), step, Some(100));
        for _ in 0..100 {
            asking.rations.spend(step);
            asking.now += step;
        }
        let answered = (0..100).filter(|n| {
            let turn = asking.rations.turn(id(*n), &mut 0, asking.frames, asking.now);
            if let Turn::Now = turn {
                asking.rations.spend(step);
                asking.now += step;
            }
            matches!(turn, Turn::Now)
        });
        assert_eq!(answered.count(), 0, "they wait until what the batch took is made up for");
    }

    #[test]
    fn what_handshakes_took_while_it_was_quiet_is_not_owed_later() {
        let (mut asking, step) = (Asking::new(), Duration::from_micros(500));
        assert_eq!(asking.share(Duration::from_secs(1), step, None), 100);
        let share = asking.share(Duration::from_millis(50), step, Some(100));
        assert!(share.abs_diff(12) <= 4, "{share} % at the beginning of traffic");
    }

    #[test]
    fn who_waits_keeps_its_place() {
        let (mut rations, now) = (Rations::default(), Instant::now());
        rations.turn(id(9), &mut 0, 0, now);
        rations.spend(Duration::from_secs(1));
        let mut places = [0; 4];
        for _ in 0..3 {
            for n in [3, 1, 2, 0] {
                assert_ne!(rations.turn(id(n as u64), &mut places[n], 2, now), Turn::Now);
            }
            let called: Vec<_> = std::iter::from_fn(|| rations.next()).map(|id| id.to_bits()).collect();
            assert_eq!(called, [0, 2, 1, 3], "who came last is the first");
        }
    }

    #[test]
    fn the_oldest_makes_room_for_the_newest() {
        let mut rations = Rations::default();
        let all = |_| Some(Stage::Begun);
        assert_eq!((1..=3).filter_map(|n| rations.begin(id(n), 3, all)).count(), 0);
        assert_eq!(rations.begin(id(4), 3, all), Some(id(1)));
        rations.end(Stage::Begun);
        rations.end(Stage::Begun); // of the second
        let but_two = |id: ConnId| all(id).filter(|_| id.to_bits() != 2);
        assert_eq!(rations.begin(id(5), 3, but_two), None);
        assert_eq!(rations.begin(id(6), 3, but_two), Some(id(3)), "one that is over is passed over");
    }

    /// Each row: how many have begun and how many of those were answered before one more begins, and who makes room: the first that was
    /// answered is 1, the first that was not 101.
    #[test]
    #[rustfmt::skip]
    fn neither_stage_takes_more_than_half_from_the_other() {
        //           begun  answered  makes room
        let table = [(10,   0,        101),
                     (10,   4,        101),
                     (10,   5,        101),
                     (10,   6,        1),
                     (10,   10,       1)];
        for (begun, answered, expected) in table {
            let mut rations = Rations::default();
            let stage = |id: ConnId| Some(if id.to_bits() <= 100 { Stage::Answered } else { Stage::Begun });
            for n in 1..=begun {
                let id = id(if n <= answered { n } else { n - answered + 100 });
                assert_eq!(rations.begin(id, 10, stage), None);
                if n <= answered {
                    rations.answer(id);
                }
            }
            assert_eq!(rations.begin(id(999), 10, stage), Some(id(expected)), "{answered} of {begun}");
        }
    }

    /// A flood of ClientHellos, ten times what there is time for, and clients beside it that go on after 50 ms: those that are
    /// answered come in, and those are as large a part of all as there is time for; nobody waits long to be answered.
    #[test]
    fn clients_have_their_share_of_a_flood() {
        const STEP: Duration = Duration::from_micros(200);
        let (start, mut rations, mut stages) = (Instant::now(), Rations::default(), HashMap::new());
        let (mut now, mut number, mut frames, mut answers) = (start, 0, 0, VecDeque::new());
        let (mut clients, mut came_in, mut slowest) = (0, 0, Duration::ZERO);
        let is_client = |id: ConnId| (id.to_bits().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40).is_multiple_of(100);
        let (mut arrivals, mut places) = (HashMap::new(), HashMap::<ConnId, u64>::new());
        while now < start + Duration::from_secs(5) {
            // Twelve in each millisecond, where there is time for 0.6; one of a hundred is a client.
            let mut asking: Vec<_> = (number + 1..=number + 12).map(id).collect();
            number += 12;
            for one in &asking {
                clients += u64::from(is_client(*one));
                stages.insert(*one, Stage::Begun);
                arrivals.insert(*one, now);
                if let Some(oldest) = rations.begin(*one, 1024, |id| stages.get(&id).copied()) {
                    rations.end(stages.remove(&oldest).unwrap());
                }
            }
            frames += 1;
            rations.called();
            asking.extend((0..AT_A_TIME).map_while(|_| rations.next()));
            let mut used = Duration::ZERO;
            for one in asking.into_iter().filter(|one| stages.contains_key(one)).collect::<Vec<_>>() {
                if rations.turn(one, places.entry(one).or_default(), frames, now) == Turn::Now {
                    rations.spend(STEP);
                    used += STEP;
                    rations.answer(one);
                    stages.insert(one, Stage::Answered);
                    if is_client(one) {
                        slowest = slowest.max(now - arrivals[&one]);
                        answers.push_back((one, now + Duration::from_millis(50)));
                    }
                }
            }
            while answers.front().is_some_and(|(_, at)| *at <= now) {
                let (client, _) = answers.pop_front().unwrap();
                if let Some(stage) = stages.remove(&client) {
                    rations.end(stage);
                    came_in += 1;
                }
            }
            now += Duration::from_millis(1).max(used);
        }
        assert!(came_in * 100 >= clients * 3, "{came_in} of {clients} clients came in");
        assert!(slowest < Duration::from_millis(20), "one was answered after {slowest:?}");
        let known = rations.begun.ids.len() + rations.answered.ids.len() + rations.waiting.len();
        assert!(known < 8 * 1024, "{known} are remembered");
    }

    #[test]
    fn handshakes_that_are_over_are_forgotten() {
        let mut rations = Rations::default();
        for n in 0..10_000 {
            rations.begin(id(n), 100, |_| None);
            rations.answer(id(n));
            rations.end(Stage::Answered);
        }
        let known = rations.begun.ids.len() + rations.answered.ids.len();
        assert!(known < 200, "{known} are remembered");
    }
}
