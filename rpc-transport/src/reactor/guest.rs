//! Guests: code that runs on a reactor between two of its turns.
//!
//! A reactor that a runtime hosts lies behind a lock while it sleeps, not in a system call on some thread's stack. So a task of that runtime
//! that makes a call need not send it there and be sent the reply: it takes the reactor for a moment, and is on it then as the reactor's own
//! tasks are. What it writes leaves with the reactor's next turn, together with what other guests write until then.
//!
//! Only where the runtime has one thread, and only on that: guests on several would wait for each other, and would find the reactor being
//! turned when their replies have come. No code of a user's that may wait runs here: messages are encoded before and decoded after.

use super::{Reactor, ReactorHandle, core};
use crate::sync::MutexGuard;

/// This thread's stay on a reactor.
pub(crate) struct Guest<'a> {
    place: MutexGuard<'a, Option<Reactor>>,
}

impl ReactorHandle {
    /// Whether this thread may enter this reactor now: a runtime of one thread turns it, on this thread, and this thread is on no reactor.
    #[inline]
    pub fn takes_guests(&self) -> bool {
        #[cfg(feature = "tokio")]
        return self.host().takes_guests_here() && !core::turns();
        #[cfg(not(feature = "tokio"))]
        false
    }

    /// Runs a closure, on this reactor if it [takes guests](ReactorHandle::takes_guests), and a turn follows; else where it is. The next turn waits
    /// for it: it must not block.
    #[inline]
    pub fn enter<R>(&self, f: impl FnOnce() -> R) -> R {
        let _guest = self.be_guest();
        f()
    }

    /// As [`enter`](ReactorHandle::enter), for a closure that makes a call. Of many such, the first may be written before: by a system call here.
    #[inline(always)]
    pub fn enter_to_call<R>(&self, f: impl FnOnce() -> R) -> R {
        let guest = self.be_guest();
        #[cfg(feature = "tokio")]
        if guest.is_some() {
            self.stats().guests.add(1);
            if core::with(|core| core.expected.guest() && core.writes_to_one()) {
                super::flush_all();
            }
        }
        let result = f();
        drop(guest);
        result
    }

    #[inline]
    fn be_guest(&self) -> Option<Guest<'_>> {
        let guest = self.look_in()?;
        self.arouse(self.0.inbox.arouse());
        // It sleeps, or its turn is still to come: its time may be any.
        core::with(|core| (core.now, core.deadline) = (core.driver.now(), None));
        Some(guest)
    }

    /// Enters for a look that changes nothing: no turn follows.
    #[inline]
    pub(crate) fn look_in(&self) -> Option<Guest<'_>> {
        if self.takes_guests() { self.take_place() } else { None }
    }

    fn take_place(&self) -> Option<Guest<'_>> {
        let mut place = self.host().reactor.try_lock()?;
        let core = place.as_mut()?.core.take()?;
        core::exchange(Some(core));
        Some(Guest { place })
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        let core = core::exchange(None);
        if let Some(reactor) = self.place.as_mut() {
            reactor.core = core;
        }
    }
}
