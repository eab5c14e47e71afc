//! How time passes: to the next thing that happens, or up to a moment before which nothing does.

use std::cmp::Reverse;
use std::time::Duration;

use super::{Sleep, State, Timed};

impl State {
    /// When the first sleep of a reactor is over.
    fn timer(&self) -> Option<Duration> {
        let timers = self.drivers.iter().filter_map(|driver| match driver.sleep {
            Sleep::Until(at) => Some(at),
            _ => None,
        });
        timers.min()
    }

    /// Lets time pass up to `until`; false, and none passes, if something happens before.
    pub(in crate::driver::sim) fn rest_until(&mut self, until: Duration) -> bool {
        let awake = self.drivers.iter().any(|driver| match driver.sleep {
            Sleep::Gone => false,
            Sleep::None => true,
            Sleep::Until(_) | Sleep::ForEver => driver.woken || !driver.listed.is_empty(),
        });
        let next = self.due.peek().map(|Reverse(next)| next.0).into_iter().chain(self.timer()).min();
        let rests = self.now >= until || (!awake && next.is_none_or(|at| at > until));
        if rests {
            self.set_now(until);
        }
        rests
    }

    /// Lets the next thing happen; false if there is none.
    pub(in crate::driver::sim) fn pass(&mut self) -> bool {
        let timer = self.timer();
        match self.due.peek() {
            Some(Reverse(next)) if timer.is_none_or(|at| next.0 <= at) => {
                let Some(Reverse(Timed(at, order, due))) = self.due.pop() else { return false };
                self.set_now(at);
                self.happen(at, order, due);
                true
            }
            _ => match timer {
                Some(at) => {
                    self.set_now(at);
                    true
                }
                None => false,
            },
        }
    }
}
