//! A future that waits, for code on a reactor and anywhere else.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use crate::local;
use crate::log_limit::LogLimit;
use crate::reactor::core::{TimerKey, try_with, with};
use crate::reactor::{ReactorHandle, ReactorPool};
use crate::sync::{Mutex, put_back};
use crate::timer::TimerId;

/// Waits for `duration` without blocking its thread. On a reactor it is that reactor's timer; elsewhere it is a timer
/// of [`ReactorPool::global`]. Ends at most a millisecond late, never early.
pub fn sleep(duration: Duration) -> Sleep {
    let now = local::now();
    Sleep { at: now.checked_add(duration).unwrap_or(now + Duration::from_secs(1 << 31)), state: State::New }
}

/// See [`sleep`].
#[derive(Debug)]
pub struct Sleep {
    at: Instant,
    state: State,
}

#[derive(Debug)]
enum State {
    New,
    /// A timer of the reactor whose thread polled it.
    Here(ReactorHandle, TimerId),
    /// A timer of the global pool, for a thread that turns no reactor.
    Elsewhere(ReactorHandle, Arc<Remote>),
}

/// What a sleeper on some other executor shares with its timer.
#[derive(Debug, Default)]
struct Remote(Mutex<Slot>);

#[derive(Debug, Default)]
struct Slot {
    waker: Option<Waker>,
    timer: Option<TimerId>,
    given_up: bool,
    /// The time has come: nobody will be woken any more.
    come: bool,
}

impl Wake for Remote {
    fn wake(self: Arc<Self>) {
        let mut slot = self.0.lock();
        slot.come = true;
        let waker = slot.waker.take();
        drop(slot);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Remote {
    /// On the reactor: sets the timer, unless the sleeper is gone already.
    fn arm(self: Arc<Self>, set: impl FnOnce(Waker) -> TimerId) {
        let mut slot = self.0.lock();
        if !slot.given_up || put_back!("B13") {
            slot.timer = Some(set(Waker::from(Arc::clone(&self)))); // for a sleeper who is gone nobody would take it back
        }
    }

    /// The sleeper: whom to wake when the time comes; false if it has come.
    fn wake_me(&self, waker: Waker) -> bool {
        let mut slot = self.0.lock();
        if slot.come && !put_back!("B32-sleep") {
            return false; // its wake-up went to the waker before this one
        }
        let old = slot.waker.replace(waker);
        drop(slot);
        drop(old); // outside of the lock: the end of a waker may run any code
        true
    }

    /// The sleeper goes away. Returns the timer that the reactor still has, if it has one.
    fn give_up(&self) -> Option<TimerId> {
        let mut slot = self.0.lock();
        slot.given_up = true;
        let (waker, timer) = (slot.waker.take(), slot.timer);
        drop(slot);
        // Without a waker the timer has come: there is nothing to take back.
        waker.and(timer)
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if local::now() >= self.at {
            return Poll::Ready(());
        }
        if let State::Elsewhere(_, remote) = &self.state {
            // Another poll costs no other timer.
            return if remote.wake_me(cx.waker().clone()) { Poll::Pending } else { Poll::Ready(()) };
        }
        self.disarm();
        let at = self.at;
        let waker = cx.waker().clone();
        let here = try_with(|core| core.handle.clone());
        self.state = match here {
            Some(reactor) => State::Here(reactor, with(|core| core.arm_work(at, TimerKey::Waker(waker)))),
            None => match ReactorPool::global() {
                Ok(pool) => {
                    let remote = Arc::new(Remote::default());
                    remote.wake_me(waker);
                    let reactor = pool.handles()[0].clone();
                    let armed = Arc::clone(&remote);
                    reactor.run(move || armed.arm(|waker| with(|core| core.arm_work(at, TimerKey::Waker(waker)))));
                    State::Elsewhere(reactor, remote)
                }
                Err(error) => {
                    static UNTIMED: LogLimit = LogLimit::new();
                    if let Some(skipped) = UNTIMED.pass(local::now()) {
                        tracing::error!(%error, skipped, "no reactor for a timer: the sleep ends at once");
                    }
                    return Poll::Ready(());
                }
            },
        };
        Poll::Pending
    }
}

impl Sleep {
    fn disarm(&mut self) {
        match std::mem::replace(&mut self.state, State::New) {
            State::New => {}
            State::Here(reactor, timer) => disarm(&reactor, timer),
            State::Elsewhere(reactor, remote) => {
                if let Some(timer) = remote.give_up() {
                    disarm(&reactor, timer);
                }
            }
        }
    }
}

/// Takes a timer back from the reactor that has it; the future may have moved to another thread since.
fn disarm(reactor: &ReactorHandle, timer: TimerId) {
    if reactor.is_current() {
        drop(with(|core| core.disarm_work(timer)));
    } else {
        reactor.run(move || drop(with(|core| core.disarm_work(timer))));
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.disarm();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// B32: the timer comes between a poll's look at the clock and its new waker.
    #[test]
    fn a_waker_that_comes_too_late_is_not_waited_for() {
        let remote = Arc::new(Remote::default());
        assert!(remote.wake_me(Waker::noop().clone()));
        Waker::from(Arc::clone(&remote)).wake();
        assert!(!remote.wake_me(Waker::noop().clone()), "nobody would wake it");
        assert!(remote.give_up().is_none());
    }
}

#[cfg(all(test, model = "loom"))]
mod model {
    use super::*;
    use crate::sync::model::{Unpark, explore};
    use crate::sync::thread;
    use crate::timer::TimerWheel;

    const AT: Duration = Duration::from_millis(5);

    /// The reactor's wheel and its clock's start; a lock stands for "on the reactor's thread".
    struct Reactor(Mutex<TimerWheel<Waker>>, Instant);

    impl Reactor {
        fn start() -> Arc<Reactor> {
            let start = Instant::now();
            Arc::new(Reactor(Mutex::new(TimerWheel::new(start)), start))
        }

        fn arm(&self, remote: &Arc<Remote>) {
            Arc::clone(remote).arm(|waker| self.0.lock().insert(self.1 + AT, waker));
        }

        fn fire(&self) {
            let due = self.0.lock().expire(self.1 + AT * 2);
            if let Some(waker) = due {
                waker.wake();
            }
        }
    }

    /// M7, B13: a sleeper goes away while its timer is set and comes. No timer stays behind.
    #[test]
    fn sleep_cancel() {
        explore("sleep_cancel", || {
            let (reactor, remote) = (Reactor::start(), Arc::new(Remote::default()));
            assert!(remote.wake_me(Waker::noop().clone()));
            let sleeper = {
                let (reactor, remote) = (Arc::clone(&reactor), Arc::clone(&remote));
                thread::spawn(move || {
                    if let Some(timer) = remote.give_up() {
                        reactor.0.lock().cancel(timer);
                    }
                })
            };
            let armed = {
                let (reactor, remote) = (Arc::clone(&reactor), Arc::clone(&remote));
                thread::spawn(move || reactor.arm(&remote))
            };
            armed.join().unwrap();
            sleeper.join().unwrap();
            assert!(reactor.0.lock().is_empty(), "a timer that nobody waits for");
        });
    }

    /// M7: a sleeper that is polled anew, by another waker, while its timer comes. It hears of it one way or the other; a wake-up that
    /// is lost is a deadlock here.
    #[test]
    fn sleep_fire() {
        explore("sleep_fire", || {
            let (reactor, remote) = (Reactor::start(), Arc::new(Remote::default()));
            assert!(remote.wake_me(Waker::noop().clone()), "the first poll's waker, soon of no use");
            let others = {
                let (reactor, remote) = (Arc::clone(&reactor), Arc::clone(&remote));
                thread::spawn(move || {
                    reactor.arm(&remote);
                    reactor.fire();
                })
            };
            while remote.wake_me(Unpark::this_thread()) {
                thread::park();
            }
            assert!(remote.give_up().is_none(), "the timer has come");
            others.join().unwrap();
            assert!(reactor.0.lock().is_empty());
        });
    }
}
