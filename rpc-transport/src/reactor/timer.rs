//! Timers for everybody: a closure that runs on a reactor later, once or again and again.

use std::fmt;
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use super::ReactorHandle;
use super::core::{TimerKey, try_with, with};
use crate::local;
use crate::sync::Mutex;
use crate::timer::TimerId;

/// A closure that is to run on a reactor. Dropping this cancels it; [`detach`](Timer::detach) leaves it.
///
/// It never runs early, and late by at most a millisecond and what the reactor does meanwhile. If the closure panics the timer ends, and the
/// reactor goes on; if the reactor stops it does not run any more.
#[must_use = "a timer is cancelled when this is dropped"]
pub struct Timer(Option<Arc<Alarm>>);

/// What the reactor wakes when the time has come.
struct Alarm {
    reactor: ReactorHandle,
    state: Mutex<State>,
}

struct State {
    /// Out while it runs, and when it will not run any more.
    run: Option<Box<dyn FnMut() + Send>>,
    at: Instant,
    period: Option<Duration>,
    /// In the reactor's wheel.
    timer: Option<TimerId>,
    cancelled: bool,
}

impl ReactorHandle {
    /// Runs a closure on this reactor once, when `delay` is over. From any thread; costs two allocations. It must not block.
    ///
    /// For futures there is [`sleep`](crate::sleep), for handlers [`Cx::arm`](crate::Cx::arm), which allocates nothing.
    pub fn run_after(&self, delay: Duration, f: impl FnOnce() + Send + 'static) -> Timer {
        let mut f = Some(f);
        let once = move || {
            if let Some(f) = f.take() {
                f();
            }
        };
        Timer::start(self, delay, None, Box::new(once))
    }

    /// Runs a closure on this reactor again and again, for the first time when `period` is over. From any thread; allocates twice, and not
    /// for each run. It must not block.
    ///
    /// The n-th run is due n periods after this call, however long runs take: it does not drift. Runs that a busy reactor has missed are left
    /// out, and not made up for.
    ///
    /// # Panics
    /// If `period` is zero.
    pub fn run_every(&self, period: Duration, f: impl FnMut() + Send + 'static) -> Timer {
        assert!(!period.is_zero(), "a period of no time");
        Timer::start(self, period, Some(period), Box::new(f))
    }
}

impl Timer {
    fn start(
        reactor: &ReactorHandle,
        delay: Duration,
        period: Option<Duration>,
        run: Box<dyn FnMut() + Send>,
    ) -> Timer {
        let at = later(local::read_clock(), delay); // the turn may have begun long ago
        let state = State { run: Some(run), at, period, timer: None, cancelled: false };
        let alarm = Arc::new(Alarm { reactor: reactor.clone(), state: Mutex::new(state) });
        let armed = Arc::clone(&alarm);
        match reactor.is_current() {
            true => armed.arm(),
            false => reactor.run(move || armed.arm()),
        }
        Timer(Some(alarm))
    }

    /// The closure does not run any more. On its own reactor that holds at once; elsewhere it may be running just now. Drops the closure,
    /// here or on the reactor.
    pub fn cancel(self) {}

    /// Lets it go on without this.
    pub fn detach(mut self) {
        self.0 = None;
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let Some(alarm) = self.0.take() else { return };
        let mut state = alarm.state.lock();
        state.cancelled = true;
        let (run, armed) = (state.run.take(), state.timer.is_some());
        drop(state);
        drop(run); // outside of the lock: it is code of others
        if !armed {
            return;
        }
        if alarm.reactor.is_current() {
            alarm.disarm();
        } else {
            let reactor = alarm.reactor.clone();
            reactor.run(move || alarm.disarm());
        }
    }
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timer").finish_non_exhaustive()
    }
}

impl Alarm {
    /// On the reactor: sets the timer for the time that is due.
    fn arm(self: Arc<Self>) {
        let key = TimerKey::Waker(Waker::from(Arc::clone(&self)));
        let mut state = self.state.lock();
        if state.cancelled {
            drop(state);
            return drop(key);
        }
        let at = state.at;
        state.timer = Some(with(|core| core.arm_work(at, key)));
    }

    /// On the reactor: takes the timer back.
    fn disarm(&self) {
        let timer = self.state.lock().timer.take();
        if let Some(timer) = timer {
            let key = with(|core| core.disarm_work(timer));
            drop(key);
        }
    }
}

impl Wake for Alarm {
    /// The time has come, or the reactor ends.
    fn wake(self: Arc<Self>) {
        let mut state = self.state.lock();
        state.timer = None;
        let run = state.run.take();
        drop(state);
        let stopping = try_with(|core| core.stopping).unwrap_or(true);
        let Some(mut run) = run.filter(|_| !stopping) else { return };
        run();
        let mut state = self.state.lock();
        let Some(period) = state.period.filter(|_| !state.cancelled) else {
            drop(state);
            return drop(run);
        };
        state.at = next(state.at, period, local::read_clock());
        state.run = Some(run);
        drop(state);
        self.arm();
    }
}

fn later(now: Instant, delay: Duration) -> Instant {
    now.checked_add(delay).unwrap_or(now + Duration::from_secs(1 << 31))
}

/// The first time after `now` that is whole periods after `at`.
fn next(at: Instant, period: Duration, now: Instant) -> Instant {
    let missed = now.saturating_duration_since(at).as_nanos() / period.as_nanos();
    let skipped = u32::try_from(missed).ok().and_then(|missed| period.checked_mul(missed));
    later(later(at, skipped.unwrap_or_default()), period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn a_missed_run_is_left_out() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let next = |now| (next(at(10), Duration::from_millis(10), at(now)) - start).as_millis();
        assert_eq!(next(10), 20, "in time");
        assert_eq!(next(11), 20, "a little late");
        assert_eq!(next(19), 20);
        assert_eq!(next(20), 30, "as late as the next one: it is left out");
        assert_eq!(next(45), 50);
        assert_eq!(next(0), 20, "a clock that stood still");
    }
}
