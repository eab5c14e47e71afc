//! Guests: threads that do something on a reactor between two of its turns.
//!
//! A reactor that a runtime hosts lies behind a lock while it sleeps, not in a system call on some thread's stack. So a task of that runtime
//! that makes a call need not send it there and be sent the reply: it takes the reactor for a moment, and is on it then as the reactor's own
//! tasks are. What it writes leaves with the reactor's next turn, together with what other guests write until then.
//!
//! Only where the runtime has one thread: guests on several would wait for each other, and would find the reactor being turned when their
//! replies have come.

use super::{Reactor, ReactorHandle, core};
use crate::sync::MutexGuard;

/// This thread's stay on a reactor; what is done meanwhile must be short, as the next turn waits for it.
pub struct Guest<'a> {
    place: MutexGuard<'a, Option<Reactor>>,
}

impl ReactorHandle {
    /// Enters this reactor for a call that is made from here: until the guest is dropped this thread is on it, and a turn follows.
    ///
    /// `None` unless its host is a runtime with one thread, while somebody turns or visits it, when it has ended, and on a thread that is on a
    /// reactor already. Whoever gets none sends what he has to say, as from any thread.
    #[inline]
    pub fn enter(&self) -> Option<Guest<'_>> {
        let guest = self.look_in()?;
        let early = core::with(|core| {
            self.arouse(self.0.inbox.arouse());
            // It sleeps, or its turn is still to come: its time may be any.
            (core.now, core.deadline) = (core.driver.now(), None);
            #[cfg(feature = "tokio")]
            let early = core.expected.guest() && core.writes_to_one();
            #[cfg(not(feature = "tokio"))]
            let early = false;
            early
        });
        if early {
            super::flush_all();
        }
        Some(guest)
    }

    /// As [`enter`](ReactorHandle::enter), for who only looks, as [`local::peek`](crate::local::peek) does: no turn follows.
    #[inline]
    pub fn look_in(&self) -> Option<Guest<'_>> {
        if self.takes_guests() { self.take_place() } else { None }
    }

    fn take_place(&self) -> Option<Guest<'_>> {
        if core::turns() {
            return None;
        }
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
