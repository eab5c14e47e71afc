//! What a reactor owns, and how code that runs on it reaches it.
//!
//! During a turn the core stands in a thread-local; it is taken out for a moment at a time, but not while code of a handler or a task
//! runs. So a handler, and a future polled under it, can both arm timers and reach connections. Code of a user's that runs within such a moment,
//! as the decoding of a reply does, finds no core; [`turns`] tells it still that this thread must not wait.

use std::cell::Cell;
use std::collections::VecDeque;
use std::mem::ManuallyDrop;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::ReactorHandle;
#[cfg(feature = "tokio")]
use super::expected::Expected;
use super::inbox::Command;
use super::tasks::{Polled, TaskId, Tasks};
use crate::conn::{ConnId, Entry, Slab};
use crate::driver::{Driver, Event};
use crate::listener::Listener;
use crate::sync::thread_local;
use crate::timer::{TimerId, TimerWheel};
#[cfg(feature = "tls")]
use crate::tls::Rations;

thread_local! {
    /// Never dropped, as whoever puts a core there takes it out again; so no look has to see whether it has been.
    static CORE: ManuallyDrop<Cell<Option<Box<Core>>>> = const { ManuallyDrop::new(Cell::new(None)) };
    /// A core stands there, or would if it were not out for a moment.
    static TURNS: Cell<bool> = const { Cell::new(false) };
}

pub(crate) struct Core {
    pub(crate) driver: Box<dyn Driver>,
    pub(crate) conns: Slab<Box<Entry>>,
    pub(crate) listeners: Vec<Option<Listener>>,
    pub(crate) timers: TimerWheel<TimerKey>,
    /// Connections with something to do, each once.
    pub(crate) ready: VecDeque<ConnId>,
    /// Connections that somebody has visited, such as a task, each once: what follows from that is still to be done.
    pub(crate) visited: Vec<ConnId>,
    /// Connections with output to write, each once.
    pub(crate) dirty: Vec<ConnId>,
    pub(crate) tasks: Tasks,
    /// Wakers of other executors, to be woken.
    pub(crate) wakers: Vec<Waker>,
    /// Those who have been woken and may make calls soon.
    #[cfg(feature = "tokio")]
    pub(crate) expected: Expected,
    /// The blocking caller's future has been woken.
    pub(crate) main_woken: bool,
    pub(crate) main_waker: usize,
    pub(crate) now: Instant,
    /// The last deadline that was asked for in this turn, and how far from now it is: mostly the next one is the same.
    pub(crate) deadline: Option<(Duration, Instant)>,
    /// How long to look again and again after something has happened, before sleeping; and until when that is.
    pub(crate) busy_poll: Duration,
    pub(crate) busy_until: Instant,
    pub(crate) handle: ReactorHandle,
    /// Timers armed for work in progress, and connections with work under way: a reactor with any must not be left unattended.
    pub(crate) work: usize,
    /// Timers of handlers whose connection is gone: they wait for their time, or for a sweep.
    pub(crate) stale_timers: usize,
    /// The reactor is ending: nothing new begins.
    pub(crate) stopping: bool,
    pub(crate) events: Vec<Event>,
    pub(crate) commands: Vec<Command>,
    #[cfg(feature = "tls")]
    pub(crate) rations: Rations,
}

pub(crate) enum TimerKey {
    /// A connection's own time limits.
    Check(ConnId),
    /// A deadline of a connection's handler.
    Handler(ConnId, u64),
    /// The same for what is no work: see `Cx::remind`.
    Reminder(ConnId, u64),
    /// A paused listener tries again.
    Accept(usize),
    /// Handshakes wait for their turn.
    #[cfg(feature = "tls")]
    Handshakes,
    /// A sleeping future.
    Waker(Waker),
}

impl Core {
    pub(crate) fn arm_work(&mut self, at: Instant, key: TimerKey) -> TimerId {
        self.work += 1;
        self.timers.insert(at, key)
    }

    /// Takes a sleeper's timer back. The key is the caller's to drop, outside of the core: it holds a waker, whose end may
    /// run any code.
    #[must_use]
    pub(crate) fn disarm_work(&mut self, timer: TimerId) -> Option<TimerKey> {
        let key = self.timers.cancel(timer);
        self.work -= usize::from(key.is_some());
        key
    }

    /// A handler's timer has come.
    pub(crate) fn count_off(&mut self, id: ConnId) {
        match self.conns.get(id) {
            Some(entry) => {
                entry.timer_gone();
                self.work -= 1;
            }
            None => self.stale_timers -= 1,
        }
    }

    /// A connection left timers behind. Sweeps when most timers are such ones, so that a sweep costs each of them O(1).
    pub(crate) fn leave_timers(&mut self, armed: usize) {
        self.work -= armed;
        self.stale_timers += armed;
        if self.stale_timers > 64 && self.stale_timers * 2 > self.timers.len() {
            let Core { conns, timers, .. } = self;
            timers.retain(|key| match key {
                TimerKey::Handler(id, _) => conns.is_used(*id),
                _ => true,
            });
            self.stale_timers = 0;
        }
    }

    /// Gives the drained vector's memory back.
    pub(crate) fn keep_wakers_vec(&mut self, empty: Vec<Waker>) {
        if self.wakers.is_empty() && self.wakers.capacity() < empty.capacity() {
            self.wakers = empty;
        }
    }

    /// The task that is being polled, if its waker has this address, which is not 0.
    #[inline]
    pub(crate) fn polled_at(&self, waker: usize) -> Option<TaskId> {
        match self.tasks.current {
            Some(Polled { task, waker: own }) => (own == waker).then_some(task),
            None => (self.main_waker == waker).then_some(TaskId::MAIN),
        }
    }

    #[inline]
    pub(crate) fn wake_task(&mut self, task: TaskId) {
        if task == TaskId::MAIN {
            self.main_woken = self.main_waker != 0; // who led may have left
        } else {
            self.tasks.wake(task.0);
        }
    }

    /// Whether at most one connection has output, as far as that is known before visits are settled.
    pub(crate) fn writes_to_one(&self) -> bool {
        let mut written = self.visited.iter().chain(&self.dirty);
        let first = written.next();
        written.all(|id| Some(id) == first)
    }

    /// So much later than now; a time that no clock can tell is one of 136 years.
    #[inline]
    pub(crate) fn after(&mut self, time: Duration) -> Instant {
        match self.deadline {
            Some((last, at)) if last == time => at,
            _ => self.after_anew(time),
        }
    }

    #[inline(never)]
    fn after_anew(&mut self, time: Duration) -> Instant {
        let at = after(self.now, time);
        self.deadline = Some((time, at));
        at
    }

    /// A timer that is due.
    pub(crate) fn expire_one(&mut self) -> Option<TimerKey> {
        self.timers.expire(self.now).inspect(|_| self.happened())
    }

    /// Something has happened, and more may soon.
    pub(crate) fn happened(&mut self) {
        if !self.busy_poll.is_zero() {
            self.busy_until = self.now + self.busy_poll;
        }
    }

    /// Whether there is nothing to do at once.
    pub(crate) fn is_idle(&self) -> bool {
        self.ready.is_empty()
            && self.tasks.runnable() == 0
            && self.visited.is_empty()
            && self.dirty.is_empty()
            && self.wakers.is_empty()
            && !self.main_woken
            && !self.has_ready_listener()
    }

    pub(crate) fn has_ready_listener(&self) -> bool {
        self.listeners.iter().flatten().any(Listener::is_ready)
    }

    /// Whether something must happen without anybody asking for it.
    pub(crate) fn has_work(&self) -> bool {
        self.work > 0
            || self.tasks.running() > 0
            || !self.ready.is_empty()
            || !self.visited.is_empty()
            || !self.dirty.is_empty()
            || !self.wakers.is_empty()
            || self.listeners.iter().any(Option::is_some)
    }
}

/// So much later; a time that no clock can tell is one of 136 years.
pub(crate) fn after(now: Instant, time: Duration) -> Instant {
    now.checked_add(time).unwrap_or_else(|| now + Duration::from_secs(u32::MAX.into()))
}

/// Puts a core, or none, into its place for a turn, and returns what stood there.
pub(crate) fn exchange(core: Option<Box<Core>>) -> Option<Box<Core>> {
    TURNS.with(|turns| turns.set(core.is_some()));
    CORE.with(|place| place.replace(core))
}

/// What tells this thread from others that live.
#[cfg(feature = "tokio")]
pub(crate) fn this_thread() -> usize {
    TURNS.with(|turns| std::ptr::from_ref(turns) as usize)
}

/// Whether this thread is turning a reactor.
pub(crate) fn turns() -> bool {
    TURNS.with(Cell::get)
}

/// The core, out of its place for a moment: a few instructions there and back, unlike a `RefCell`'s borrow.
struct Taken(ManuallyDrop<Option<Box<Core>>>);

impl Taken {
    /// `None` when this thread is not inside a turn, and while the core is out.
    #[inline(always)]
    fn take() -> Option<Taken> {
        CORE.with(|place| place.take()).map(|core| Taken(ManuallyDrop::new(Some(core))))
    }

    #[inline(always)]
    fn lend<R>(mut self, f: impl FnOnce(&mut Core) -> R) -> Option<R> {
        self.0.as_mut().map(|core| f(core))
    }
}

impl Drop for Taken {
    #[inline(always)]
    fn drop(&mut self) {
        let out = CORE.with(|place| place.replace(self.0.take()));
        debug_assert!(out.is_none(), "nothing stands there meanwhile");
        std::mem::forget(out);
    }
}

/// Takes the core for a moment.
///
/// # Panics
/// Outside of a turn; everything that calls it runs inside one.
#[inline(always)]
pub(crate) fn with<R>(f: impl FnOnce(&mut Core) -> R) -> R {
    try_with(f).expect("inside a turn, and not within another moment")
}

/// As [`with`], but `None` when this thread is not inside a turn.
#[inline(always)]
pub(crate) fn try_with<R>(f: impl FnOnce(&mut Core) -> R) -> Option<R> {
    Taken::take()?.lend(f)
}

/// Queues a task of this thread's own reactor; false if the task belongs elsewhere.
pub(crate) fn wake_here(reactor: &ReactorHandle, slot: u32) -> bool {
    let queued = try_with(|core| {
        let here = core.handle.is(reactor);
        if here {
            core.tasks.enqueue(slot);
        }
        here
    });
    queued.unwrap_or(false)
}
