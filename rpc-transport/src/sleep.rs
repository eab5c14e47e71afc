//! A future that waits, for code on a reactor and anywhere else.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::local;
use crate::log_limit::LogLimit;
use crate::reactor::core::{TimerKey, try_with, with};
use crate::reactor::{ReactorHandle, ReactorPool};
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
}

impl Wake for Remote {
    fn wake(self: Arc<Self>) {
        let waker = self.0.lock().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Remote {
    /// On the reactor: sets the timer, unless the sleeper is gone already.
    fn arm(self: Arc<Self>, at: Instant) {
        let mut slot = self.0.lock();
        if !slot.given_up {
            let waker = Waker::from(Arc::clone(&self));
            slot.timer = Some(with(|core| core.arm_work(at, TimerKey::Waker(waker))));
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if local::now() >= self.at {
            return Poll::Ready(());
        }
        if let State::Elsewhere(_, remote) = &self.state {
            // Another poll costs no other timer. Its old waker is dropped outside of the lock.
            let waker = cx.waker().clone();
            let old = remote.0.lock().waker.replace(waker);
            drop(old);
            return Poll::Pending;
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
                    remote.0.lock().waker = Some(waker);
                    let reactor = pool.next().clone();
                    let armed = Arc::clone(&remote);
                    reactor.run(move || armed.arm(at));
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
                let mut slot = remote.0.lock();
                slot.given_up = true;
                let (waker, timer) = (slot.waker.take(), slot.timer);
                drop(slot);
                // Without a waker the timer has come: there is nothing to take back.
                if let (Some(_), Some(timer)) = (waker, timer) {
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
