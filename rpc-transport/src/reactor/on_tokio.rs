//! A tokio runtime as the host of reactors: feature `tokio`.
//!
//! ```text
//!  poller readable ─┐
//!  timer due ───────┼─► wakes the reactor's task ─► a worker polls it: turn, …, doze ─► pending
//!  something put in ┘
//! ```
//!
//! The reactor is turned by a task of the runtime: when the task is dropped, because the runtime ends, the reactor ends with it
//! as any other does. On a runtime of one thread a task makes its calls between two turns, as a [`guest`](super::guest); elsewhere they are
//! put in. Either wakes the reactor's task by the runtime's own means, on the same worker as a rule: there is no hop to another thread, and no write
//! to a wake-up descriptor.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep};

use super::host::Host;
use super::{Reactor, ReactorHandle, ReactorPool};
use crate::driver::{Descriptor, ReadinessDriver, Wake};

/// Turns in a row before other tasks of the runtime have their turn.
const TURNS: usize = 16;

/// The longest that the runtime is asked to wait; waking up early is harmless.
const LONGEST: Duration = Duration::from_secs(3600);

impl ReactorPool {
    /// Reactors that a tokio runtime's threads turn, for the clients of a program that runs on tokio anyway: a call from one of its
    /// tasks then needs no other thread. Feature `tokio`.
    ///
    /// The reactors end with the runtime, or when the pool is dropped: their connections end, and calls on them with an error.
    /// Nothing turns them while nothing drives the runtime: a current-thread one must be blocked on.
    ///
    /// On a runtime with one thread, tasks make their calls on the reactor itself, between two of its turns ([`ReactorHandle::enter`]). With
    /// several, their calls go through the reactor's inbox, as those of any other thread do. Blocking for a call needs a
    /// thread that is not one of the runtime's workers: [`ReactorHandle::block_on`](super::ReactorHandle::block_on).
    ///
    /// # Errors
    /// When the system gives no poller.
    ///
    /// # Panics
    /// If the runtime was built without its I/O or time driver: `enable_all`.
    pub fn on_tokio(runtime: &Handle, reactors: usize) -> io::Result<ReactorPool> {
        let _entered = runtime.enter();
        let mut pool = ReactorPool::of(Vec::new());
        for index in 0..reactors.max(1) {
            let driver = ReadinessDriver::new()?;
            #[allow(
                deprecated,
                reason = "its successor is unsafe, for descriptors that may be closed before; this one is owned"
            )]
            let readable = AsyncFd::with_interest(driver.descriptor()?, Interest::READABLE)?;
            let wake = Arc::new(TaskWake::default());
            let host = Host::of_runtime(Runtime(runtime.clone()));
            let reactor = Reactor::with_waker(Box::new(driver), wake.clone(), format!("tokio-{index}"), index, host);
            let handle = reactor.handle().clone();
            pool.push(handle.clone());
            let timer = Box::pin(tokio::time::sleep(Duration::ZERO)); // set anew for each sleep of the reactor
            let alone = runtime.metrics().num_workers() == 1;
            handle.give(reactor);
            runtime.spawn(Hosted { readable, timer, wake, handle, alone, look: true });
        }
        Ok(pool)
    }
}

/// The runtime that turns a reactor.
pub(crate) struct Runtime(Handle);

impl Runtime {
    /// Blocks this thread until the future ends.
    ///
    /// # Panics
    /// On a worker of a runtime: the reactor's own task may be next in that worker's queue, and would wait for it for ever.
    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.0.block_on(future)
    }
}

/// Wakes the task that turns a reactor.
#[derive(Default)]
struct TaskWake(Mutex<Option<Waker>>);

impl TaskWake {
    fn register(&self, waker: &Waker) {
        let mut known = self.0.lock();
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
    }
}

impl Wake for TaskWake {
    fn wake(&self) {
        // Under the lock: these are the runtime's own wakers, which run nobody's code.
        if let Some(waker) = &*self.0.lock() {
            waker.wake_by_ref();
        }
    }
}

/// The task that turns a reactor.
struct Hosted {
    /// The reactor's poller.
    readable: AsyncFd<Descriptor>,
    /// Never later than the reactor's next timer while the reactor dozes. Mostly earlier: the reactor's next timer moves away again
    /// and again, and to wake up once in vain is cheaper than to move this one with it.
    timer: Pin<Box<Sleep>>,
    wake: Arc<TaskWake>,
    handle: ReactorHandle,
    /// The runtime has one thread.
    alone: bool,
    /// The poller may have events.
    look: bool,
}

impl Hosted {
    /// Notes whether the poller has become readable, and sees to it that the task is woken when it does so again.
    fn note_readiness(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while let Poll::Ready(ready) = self.readable.poll_read_ready(cx) {
            // Cleared before the poller is looked at: what comes in between is ready again.
            ready?.clear_ready();
            self.look = true;
        }
        Ok(())
    }

    /// Waits until then; ready if that is now.
    fn poll_timer(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if at < self.timer.deadline() || self.timer.is_elapsed() {
            self.timer.as_mut().reset(at);
        }
        self.timer.as_mut().poll(cx)
    }

    /// Lets the worker's other tasks run first. One of them may keep that worker busy, and no other worker can take what waits there: so a
    /// timer wakes the reactor, too, wherever there is somebody to see to it.
    fn step_back(&mut self, until: Instant, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let due = self.poll_timer(until, cx).is_ready();
        if pin!(tokio::task::yield_now()).poll(cx).is_ready() || due {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Turns the reactor as long as it has something to do.
    fn turns(&mut self, reactor: &mut Reactor, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Before the reactor says that it sleeps: from then on it may be woken.
        self.wake.register(cx.waker());
        for _ in 0..TURNS {
            if self.handle.is_stopping() {
                return Poll::Ready(Ok(()));
            }
            if let Some(until) = reactor.expects_more() {
                return self.step_back(Instant::from_std(until), cx);
            }
            self.note_readiness(cx)?;
            self.look = reactor.rouse_and_look(self.look);
            let timeout = reactor.doze();
            if self.look || timeout == Some(Duration::ZERO) {
                continue;
            }
            let (Some(timeout), Some(now)) = (timeout, reactor.now()) else { return Poll::Pending };
            if self.poll_timer(Instant::from_std(now + timeout.min(LONGEST)), cx).is_pending() {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Future for Hosted {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let handle = self.handle.clone();
        if self.alone {
            handle.host().take_guests_here();
        }
        let Some(mut place) = handle.host().reactor.try_lock() else {
            // A guest is there: the runtime's thread has changed under it. To wait for it here would be to wait for ever if it waits for us.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        };
        let Some(reactor) = place.as_mut() else { return Poll::Ready(()) };
        // An error is the end of the runtime.
        self.turns(reactor, cx).map(|_: io::Result<()>| ())
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        self.handle.discard();
    }
}

/// Whether this thread belongs to a runtime.
pub(super) fn in_a_runtime() -> bool {
    tokio::runtime::Handle::try_current().is_ok()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Who watches tells one turn from the next by its number. Turns without a look at the poller had none of their own, and many
    /// short ones passed for one that would not end.
    #[test]
    fn every_turn_counts() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let driver = ReadinessDriver::new().unwrap();
        let host = Host::of_runtime(Runtime(runtime.handle().clone()));
        let mut reactor = Reactor::new(Box::new(driver), "counted".to_owned(), 0, host);
        let handle = reactor.handle().clone();
        let (tell, told) = mpsc::channel();
        for look in [true, false, false, true, false] {
            let (tell, inside) = (tell.clone(), handle.clone());
            handle.run(move || tell.send(inside.turn()).unwrap());
            reactor.rouse_and_look(look);
            assert_eq!(reactor.doze(), None, "nothing is left to do");
            assert_eq!(handle.turn(), None, "it sleeps");
        }
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [1, 2, 3, 4, 5].map(Some));
        assert_eq!(handle.stats().polls.get(), 5);
    }
}
