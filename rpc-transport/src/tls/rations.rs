//! How much of a reactor handshakes may take: others' traffic goes on while many want in.
//!
//! A handshake costs some hundred times what a small frame costs, and who only begins one costs its client next to nothing. So two
//! things are bounded on each reactor: how many accepted connections are in a handshake, where the oldest makes room for the newest, for
//! one that goes on takes a round trip or two; and, while frames come in on others, the share of time that their steps take.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::conn::ConnId;

/// Of a thousand parts of a reactor's time, what handshakes may take while there is other traffic.
const SHARE: u64 = 250;

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
    /// Oldest first. Those that are over go when they come to the front, or when there are many.
    begun: VecDeque<ConnId>,
    under_way: usize,
    /// Those that have something to go on with, and no time.
    waiting: VecDeque<ConnId>,
    /// Time in hand, in nanoseconds, and since when it has grown; less than nothing after a long step.
    credit: i64,
    since: Option<Instant>,
    frames: u64,
    traffic_until: Option<Instant>,
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
    /// A handshake begins. If more than `most` are under way then, the oldest that `is_under_way` is to end.
    pub(crate) fn begin(
        &mut self,
        id: ConnId,
        most: usize,
        mut is_under_way: impl FnMut(ConnId) -> bool,
    ) -> Option<ConnId> {
        self.begun.push_back(id);
        self.under_way += 1;
        if self.under_way > most {
            while let Some(oldest) = self.begun.pop_front() {
                if oldest != id && is_under_way(oldest) {
                    return Some(oldest);
                }
            }
            self.begun.push_back(id); // all others are just ending
        }
        if self.begun.len() > 2 * self.under_way + 64 {
            self.begun.retain(|other| *other == id || is_under_way(*other));
        }
        None
    }

    /// One is over, whatever its end was.
    pub(crate) fn end(&mut self) {
        self.under_way -= 1;
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
        self.waiting.push_back(id);
        if self.waiting.len() == 1 { Turn::WaitsFirst } else { Turn::Waits }
    }

    /// A step has taken so long.
    pub(crate) fn spend(&mut self, took: Duration) {
        // No more debt than a second's: a reactor that was held for long is none of its handshakes' doing.
        self.credit = (self.credit - took.min(SAVED * 1000).as_nanos() as i64).max(-(SAVED.as_nanos() as i64) * 100);
    }

    /// The next of those that wait.
    pub(crate) fn next(&mut self) -> Option<ConnId> {
        self.waiting.pop_front()
    }

    /// Whether any waits.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
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
        let table = [(us(100), 25, 100), (us(700), 25, 100), (us(5_000), 25, 100)];
        for (step, with, without) in table {
            assert!(share(step, true).abs_diff(with) <= 2, "{step:?}: {} %", share(step, true));
            assert_eq!(share(step, false), without, "{step:?}");
        }
    }

    #[test]
    fn the_oldest_makes_room_for_the_newest() {
        let mut rations = Rations::default();
        let all = |_| true;
        assert_eq!((1..=3).filter_map(|n| rations.begin(id(n), 3, all)).count(), 0);
        assert_eq!(rations.begin(id(4), 3, all), Some(id(1)));
        rations.end();
        rations.end(); // of the second
        assert_eq!(rations.begin(id(5), 3, |id| id.to_bits() != 2), None);
        assert_eq!(rations.begin(id(6), 3, |id| id.to_bits() != 2), Some(id(3)), "one that is over is passed over");
    }

    #[test]
    fn handshakes_that_are_over_are_forgotten() {
        let mut rations = Rations::default();
        for n in 0..10_000 {
            rations.begin(id(n), 100, |_| false);
            rations.end();
        }
        assert!(rations.begun.len() < 100, "{} are remembered", rations.begun.len());
    }
}
