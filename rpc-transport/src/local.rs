//! For code that runs on a reactor: tasks polled there, and handlers of other connections.

use std::task::Waker;
use std::time::{Duration, Instant};

use crate::clock;
use crate::conn::{self, ConnId, Cx};
use crate::handler::Handler;
use crate::reactor::core::{self, Core, after, try_with, with};
use crate::reactor::{LocalTask, ReactorHandle, ReservedTask, TaskId};

/// The reactor this thread is turning, or is a guest of, if any. Clones a reference count.
pub fn current() -> Option<ReactorHandle> {
    try_with(|core| core.handle.clone())
}

/// Whether this thread is turning a reactor, and so must not wait for one. It is so within [`peek`], too, where [`current`] knows of none.
pub fn is_on_reactor() -> bool {
    core::turns()
}

/// Runs `f` on the handler of a connection of `reactor`, with that connection's [`Cx`]. `None` if this thread does not turn `reactor`, if
/// the connection is gone, if its handler is running just now, or if its handler is not an `H`.
#[inline]
pub fn visit<H: Handler, R>(
    reactor: &ReactorHandle,
    id: ConnId,
    f: impl FnOnce(&mut H, &mut Cx<'_>) -> R,
) -> Option<R> {
    conn::visit_from(reactor, id, |pipeline, cx| pipeline.handler().downcast_mut::<H>().map(|handler| f(handler, cx)))
        .flatten()
}

/// As [`visit`] for who only looks: `f` must not write output, wake, arm timers or do anything else that concerns the reactor, and
/// gets no [`Cx`] therefore; what it asks of this module meanwhile is answered as on a thread that turns no reactor. It costs a third.
#[inline]
pub fn peek<H: Handler, R>(reactor: &ReactorHandle, id: ConnId, f: impl FnOnce(&mut H) -> R) -> Option<R> {
    let look = |core: &mut Core| {
        let entry = if core.handle.is(reactor) { core.conns.get(id) } else { None };
        entry?.handler().downcast_mut::<H>().map(f)
    };
    try_with(look).flatten()
}

/// As [`peek`], of a reactor that [takes this thread as a guest](ReactorHandle::takes_guests); `None` otherwise.
#[inline]
pub fn look_in<H: Handler, R>(reactor: &ReactorHandle, id: ConnId, f: impl FnOnce(&mut H) -> R) -> Option<R> {
    let _guest = reactor.look_in()?;
    peek(reactor, id, f)
}

/// The local task that is being polled, if `waker` is its own: then [`wake`] does the same for less.
#[inline]
pub fn task_of(waker: &Waker) -> Option<TaskId> {
    let address = waker.data() as usize;
    // Nobody's waker has the address 0, but a no-op waker does.
    try_with(|core| core.polled_at(address)).flatten().filter(|_| address != 0)
}

/// Wakes a task of this thread's reactor.
#[inline]
pub fn wake(task: TaskId) {
    try_with(|core| core.wake_task(task));
}

/// Takes a task slot before it is known whether a task is needed; `None` off a reactor.
pub fn reserve() -> Option<ReservedTask> {
    try_with(|core| {
        let handle = core.handle.clone();
        core.tasks.reserve(&handle)
    })
}

/// Gives an unused slot back.
pub fn release(reserved: ReservedTask) {
    with(|core| core.tasks.release(reserved));
}

/// Runs a task that has been polled with the slot's waker and was pending.
pub fn spawn_reserved(reserved: ReservedTask, task: Box<dyn LocalTask>) {
    with(|core| core.tasks.start(reserved, task));
}

/// Takes a task away from this thread's reactor: it is not polled any more. `None` if there is no such task, or if it is the
/// one being polled. The id must be of a task that has not finished.
pub fn cancel(task: TaskId) -> Option<Box<dyn LocalTask>> {
    try_with(|core| core.tasks.cancel(task)).flatten()
}

/// The time of this turn; off a reactor, the clock's.
#[inline]
pub fn now() -> Instant {
    try_with(|core| core.now).unwrap_or_else(clock::now)
}

/// As [`now`], and the time so much later: 136 years later if no clock could tell it. On a reactor it costs next to nothing to ask for
/// the same again in a turn.
#[inline]
pub fn now_and_after(time: Duration) -> (Instant, Instant) {
    match try_with(|core| (core.now, core.after(time))) {
        Some(times) => times,
        None => now_and_after_off_reactors(time),
    }
}

#[cold]
fn now_and_after_off_reactors(time: Duration) -> (Instant, Instant) {
    let now = clock::now();
    (now, after(now, time))
}

/// The clock, read now: what a turn does takes time, too.
pub fn read_clock() -> Instant {
    clock::now()
}

/// A number for back-off and the like; not for secrets. 0 off a reactor.
pub fn random() -> u64 {
    try_with(|core| core.driver.random()).unwrap_or(0)
}
