//! How much of a reactor handshakes may take: others' traffic goes on while many want in.
//!
//! A handshake costs some hundred times what a small frame costs, nearly all of it the answer to the ClientHello; and who only sends one
//! pays next to nothing. So two things are bounded on each reactor: how many accepted connections are in a handshake; and, while frames come in
//! on others, the share of time that their steps take.
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

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::conn::ConnId;

/// Of a thousand parts of a reactor's time, what handshakes may take while there is other traffic.
const SHARE: u64 = 125;

/// The most that is saved up: of the time of some handshakes.
const SAVED: Duration = Duration::from_millis(1);

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
    /// Those that have something to go on with, and no time; who came last is at the end.
    waiting: Vec<ConnId>,
    /// A timer is to call them.
    called: bool,
    /// Time in hand, in nanoseconds, and since when it has grown; less than nothing after a long step.
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
            self.waiting.retain(|other| stage(*other).is_some());
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

    /// Asked before each step of a handshake; `frames` counts what the reactor has handed up since it started.
    pub(crate) fn turn(&mut self, id: ConnId, frames: u64, now: Instant) -> Turn {
        if std::mem::replace(&mut self.frames, frames) != frames {
            self.traffic_until = Some(now + TRAFFIC);
        }
        let passed = self.since.replace(now).map_or(SAVED, |since| now.saturating_duration_since(since));
        let earned = passed.min(SAVED * 1000).as_nanos() as u64 * SHARE / 1000;
        self.credit = (self.credit + earned as i64).min(SAVED.as_nanos() as i64);
        if self.credit > 0 || self.traffic_until.is_none_or(|until| now >= until) {
            return Turn::Now;
        }
        self.waiting.push(id);
        if self.is_to_be_called() { Turn::WaitsFirst } else { Turn::Waits }
    }

    /// A step has taken so long.
    pub(crate) fn spend(&mut self, took: Duration) {
        // No more debt than a second's: a reactor that was held for long is none of its handshakes' doing.
        self.credit = (self.credit - took.min(SAVED * 1000).as_nanos() as i64).max(-(SAVED.as_nanos() as i64) * 100);
    }

    /// The next of those that wait.
    pub(crate) fn next(&mut self) -> Option<ConnId> {
        self.waiting.pop()
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

    /// The share of a second that steps of `step` take if one is asked for whenever there is time, with frames coming or without.
    fn share(step: Duration, traffic: bool) -> u128 {
        let start = Instant::now();
        let (mut rations, mut now, mut spent, mut frames) = (Rations::default(), start, Duration::ZERO, 0);
        while now < start + Duration::from_secs(1) {
            frames += u64::from(traffic);
            match rations.turn(id(1), frames, now) {
                Turn::Now => {
                    rations.spend(step);
                    (spent, now) = (spent + step, now + step);
                }
                Turn::WaitsFirst | Turn::Waits => {
                    rations.called();
                    assert_eq!(rations.next(), Some(id(1)));
                    now += AGAIN;
                }
            }
        }
        spent.as_millis() / 10
    }

    #[test]
    fn handshakes_leave_most_of_the_time_to_other_traffic() {
        let us = Duration::from_micros;
        //          a step takes    with traffic: of a hundred    without
        let table = [(us(100), 12, 100), (us(700), 12, 100), (us(5_000), 12, 100)];
        for (step, with, without) in table {
            assert!(share(step, true).abs_diff(with) <= 2, "{step:?}: {} %", share(step, true));
            assert_eq!(share(step, false), without, "{step:?}");
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
        let mut arrivals = HashMap::new();
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
                if rations.turn(one, frames, now) == Turn::Now {
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
