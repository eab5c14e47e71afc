//! Who turns a reactor: its own thread, or a blocking caller.
//!
//! A hop between threads costs an idle core's wake-up, 8 to 10 µs each way. So a blocking caller takes the lead: it
//! turns the reactor itself until its own call is done. Who comes second follows: its call goes through the inbox, and
//! it takes the lead when the first one leaves.
//!
//! ```text
//!  thread   turns ──── sees a blocking caller, nothing under way ──► stands back ──── called, or 20 ms quiet ──► turns
//!  callers                 1st: follows          2nd…: lead, lead, lead
//! ```
//!
//! While nobody leads and the thread stands back the reactor is *unattended*. That is allowed only with no work under way,
//! and whoever submits work to an unattended reactor calls the thread.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use super::inbox::Attention;
use super::{Main, Reactor, ReactorHandle, core};

/// How long the thread stands back after the last blocking caller led.
const STAND_BACK: Duration = Duration::from_millis(20);

pub(crate) struct Host {
    reactor: Mutex<Option<Reactor>>,
    thread: Mutex<Option<Thread>>,
    /// Blocking callers may turn it.
    leadable: bool,
    stopping: AtomicBool,
    /// A blocking caller found the lead taken.
    lead_wanted: AtomicBool,
    /// The thread is needed.
    called: AtomicBool,
    leads: AtomicU64,
    followers: Mutex<Vec<Arc<Caller>>>,
}

/// A blocking caller: wakes its thread, or the reactor it sleeps in.
struct Caller {
    thread: Thread,
    woken: AtomicBool,
    leading: Mutex<Option<ReactorHandle>>,
}

thread_local! {
    static CALLER: Arc<Caller> = Arc::new(Caller {
        thread: thread::current(),
        woken: AtomicBool::new(false),
        leading: Mutex::new(None),
    });
}

impl Wake for Caller {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.woken.swap(true, Ordering::AcqRel) {
            return;
        }
        let here = core::try_with(|core| {
            if core.main_waker == Arc::as_ptr(self) as usize {
                core.main_woken = true;
                return true;
            }
            false
        });
        if here == Some(true) {
            return;
        }
        self.thread.unpark();
        if let Some(reactor) = &*self.leading.lock() {
            // The closure wakes the reactor; the turn then finds the flag.
            let caller = Arc::clone(self);
            reactor.run(move || {
                core::with(|core| core.main_woken |= core.main_waker == Arc::as_ptr(&caller) as usize);
            });
        }
    }
}

impl Host {
    pub(crate) fn new(leadable: bool) -> Self {
        Host {
            reactor: Mutex::new(None),
            thread: Mutex::new(None),
            leadable,
            stopping: AtomicBool::new(false),
            lead_wanted: AtomicBool::new(false),
            called: AtomicBool::new(false),
            leads: AtomicU64::new(0),
            followers: Mutex::new(Vec::new()),
        }
    }

    pub(crate) fn call_thread(&self) {
        self.called.store(true, Ordering::Release);
        if let Some(thread) = &*self.thread.lock() {
            thread.unpark();
        }
    }
}

impl ReactorHandle {
    fn host(&self) -> &Host {
        &self.0.host
    }

    pub(crate) fn give(&self, reactor: Reactor) {
        *self.host().reactor.lock() = Some(reactor);
    }

    /// The body of the reactor's own thread; returns when the reactor has been stopped.
    pub(crate) fn host_on_this_thread(&self) {
        let host = self.host();
        *host.thread.lock() = Some(thread::current());
        let mut leads_seen = 0;
        loop {
            if let Some(mut place) = host.reactor.try_lock() {
                self.0.inbox.announce(Attention::Running);
                host.called.store(false, Ordering::Release);
                let Some(reactor) = place.as_mut() else { return };
                loop {
                    if host.stopping.load(Ordering::Acquire) {
                        drop(place.take());
                        return;
                    }
                    if host.lead_wanted.swap(false, Ordering::AcqRel) && !reactor.has_work() {
                        break;
                    }
                    reactor.turn(None);
                }
                self.leave(place);
            }
            thread::park_timeout(STAND_BACK);
            while !host.called.swap(false, Ordering::AcqRel) && !host.stopping.load(Ordering::Acquire) {
                let leads = host.leads.load(Ordering::Relaxed);
                if std::mem::replace(&mut leads_seen, leads) == leads {
                    break; // a quiet time: attend it
                }
                thread::park_timeout(STAND_BACK);
            }
        }
    }

    /// Gives up the lead: to a follower if there is one, to the thread if there is work, else to nobody.
    fn leave(&self, place: MutexGuard<'_, Option<Reactor>>) {
        let work = place.as_ref().is_some_and(Reactor::has_work);
        let late = self.0.inbox.announce(Attention::Unattended);
        drop(place);
        let follower = self.host().followers.lock().pop();
        match follower {
            Some(follower) => follower.thread.unpark(),
            None if work || late => self.host().call_thread(),
            None => {}
        }
    }

    pub(crate) fn stop(&self) {
        self.host().stopping.store(true, Ordering::Release);
        self.run(|| {});
        self.host().call_thread();
    }

    /// Runs a future to its end on this thread, and turns the reactor meanwhile if nobody else does: then the calls
    /// the future makes are local to the reactor, and no other thread is involved. Allocates nothing in steady state.
    ///
    /// # Panics
    /// On a thread that is turning a reactor: it would wait for itself. Check [`local::current`](crate::local::current).
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        assert!(core::try_with(|_| ()).is_none(), "block_on on a reactor's thread would wait for itself");
        let mut future = pin!(future);
        let caller = CALLER.with(Arc::clone);
        let waker = Waker::from(Arc::clone(&caller));
        let mut cx = Context::from_waker(&waker);
        if let Some(place) = self.try_lead() {
            let mut output = None;
            self.lead(place, &caller, &mut || match future.as_mut().poll(&mut cx) {
                Poll::Ready(value) => {
                    output = Some(value);
                    true
                }
                Poll::Pending => false,
            });
            match output {
                Some(output) => return output,
                None => panic!("the reactor stopped while a caller drove it"),
            }
        }
        loop {
            caller.woken.store(false, Ordering::Release);
            if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
                return output;
            }
            self.follow(&caller);
        }
    }

    /// Sleeps until the caller's future is woken, in the lead if it comes free.
    fn follow(&self, caller: &Arc<Caller>) {
        let host = self.host();
        host.lead_wanted.store(true, Ordering::Release);
        let woken = || caller.woken.load(Ordering::Acquire);
        while !woken() {
            if host.leadable {
                host.followers.lock().push(Arc::clone(caller));
            }
            // After registering: a leader who left before this saw no follower.
            if let Some(place) = self.try_lead() {
                host.followers.lock().retain(|c| !Arc::ptr_eq(c, caller));
                self.lead(place, caller, &mut || woken());
                return;
            }
            if !woken() {
                thread::park();
            }
            if host.leadable {
                host.followers.lock().retain(|c| !Arc::ptr_eq(c, caller));
            }
        }
        // Being woken and being offered the lead may coincide: pass the offer on.
        if let Some(place) = self.try_lead() {
            self.leave(place);
        }
    }

    fn try_lead(&self) -> Option<MutexGuard<'_, Option<Reactor>>> {
        if !self.host().leadable || self.host().stopping.load(Ordering::Acquire) {
            return None;
        }
        let place = self.host().reactor.try_lock()?;
        place.is_some().then_some(place)
    }

    fn lead(&self, mut place: MutexGuard<'_, Option<Reactor>>, caller: &Arc<Caller>, poll: &mut dyn FnMut() -> bool) {
        self.0.inbox.announce(Attention::Running);
        self.host().leads.fetch_add(1, Ordering::Relaxed);
        *caller.leading.lock() = Some(self.clone());
        if let Some(reactor) = place.as_mut() {
            let waker = Arc::as_ptr(caller) as usize;
            let mut poll = || {
                caller.woken.store(false, Ordering::Release);
                poll()
            };
            reactor.turn_until(Main { poll: &mut poll, waker });
        }
        *caller.leading.lock() = None;
        self.leave(place);
    }
}
