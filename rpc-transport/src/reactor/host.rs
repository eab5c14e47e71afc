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

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::inbox::Attention;
use super::{Command, Main, Reactor, ReactorHandle, core};
#[cfg(feature = "tokio")]
use crate::sync::atomic::AtomicUsize;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use crate::sync::thread::{self, Thread};
use crate::sync::{Mutex, MutexGuard, put_back, thread_local};

/// How long the thread stands back after the last blocking caller led.
const STAND_BACK: Duration = Duration::from_millis(20);

/// How long the thread sleeps while a caller leads; whoever leads calls it on leaving, so this is only a safety net.
const LED: Duration = Duration::from_secs(1);

/// Who may turn a reactor.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum HostedBy {
    Thread,
    /// Its thread, and blocking callers meanwhile.
    ThreadOrCallers,
    /// No thread: whoever holds it turns it, step by step.
    #[cfg(feature = "testing")]
    Hand,
}

pub(crate) struct Host {
    /// What turns it instead of a thread.
    #[cfg(feature = "tokio")]
    runtime: Option<super::on_tokio::Runtime>,
    /// The only thread that turns it and may be its guest meanwhile; 0 if there is none.
    #[cfg(feature = "tokio")]
    guests_from: AtomicUsize,
    pub(super) reactor: Mutex<Option<Reactor>>,
    thread: Mutex<Option<Thread>>,
    by: HostedBy,
    stopping: AtomicBool,
    /// A blocking caller found the lead taken. Stays until the thread stands back for it.
    lead_wanted: AtomicBool,
    /// The thread is needed.
    called: AtomicBool,
    /// The thread sleeps until the caller who leads has left.
    awaits_leaving: AtomicBool,
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
            reactor.submit(Command::WakeMain(Arc::as_ptr(self) as usize));
        }
    }
}

impl Host {
    pub(crate) fn new(by: HostedBy) -> Self {
        Host {
            #[cfg(feature = "tokio")]
            runtime: None,
            #[cfg(feature = "tokio")]
            guests_from: AtomicUsize::new(0),
            reactor: Mutex::new(None),
            thread: Mutex::new(None),
            by,
            stopping: AtomicBool::new(false),
            lead_wanted: AtomicBool::new(false),
            called: AtomicBool::new(false),
            awaits_leaving: AtomicBool::new(false),
            leads: AtomicU64::new(0),
            followers: Mutex::new(Vec::new()),
        }
    }

    /// A reactor that a runtime's task turns.
    #[cfg(feature = "tokio")]
    pub(crate) fn of_runtime(runtime: super::on_tokio::Runtime) -> Self {
        Host { runtime: Some(runtime), ..Host::new(HostedBy::Thread) }
    }

    /// This thread turns it, and is the only one that does.
    #[cfg(feature = "tokio")]
    pub(super) fn take_guests_here(&self) {
        self.guests_from.store(core::this_thread(), Ordering::Relaxed);
    }

    /// Whether that is this thread.
    #[cfg(feature = "tokio")]
    #[inline]
    pub(super) fn takes_guests_here(&self) -> bool {
        self.guests_from.load(Ordering::Relaxed) == core::this_thread()
    }

    pub(crate) fn call_thread(&self) {
        self.called.store(true, Ordering::Release);
        self.unpark_thread();
    }

    fn unpark_thread(&self) {
        if let Some(thread) = &*self.thread.lock() {
            thread.unpark();
        }
    }

    fn leadable(&self) -> bool {
        self.by == HostedBy::ThreadOrCallers
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn forget_follower(&self, caller: &Arc<Caller>) {
        self.followers.lock().retain(|c| !Arc::ptr_eq(c, caller));
    }
}

/// An answer that a reactor may not have given yet.
pub(crate) struct Question<R> {
    pub(crate) hear: mpsc::Receiver<R>,
    _wanted: Arc<()>,
}

/// Ends the reactor with its thread, by whatever way the thread ends: nobody else would.
struct EndWithThread<'a>(&'a ReactorHandle);

impl Drop for EndWithThread<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.stop(); // a caller who leads must leave
        }
        self.0.discard();
    }
}

/// A caller's lead. However it ends, the reactor is left in somebody's care.
struct Lead<'a> {
    handle: &'a ReactorHandle,
    caller: &'a Caller,
    place: Option<MutexGuard<'a, Option<Reactor>>>,
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        *self.caller.leading.lock() = None;
        if let Some(mut place) = self.place.take() {
            if self.handle.host().is_stopping() {
                drop(place.take());
            }
            self.handle.leave(place);
        }
    }
}

impl ReactorHandle {
    #[inline]
    pub(super) fn host(&self) -> &Host {
        &self.0.host
    }

    pub(crate) fn give(&self, reactor: Reactor) {
        *self.host().reactor.lock() = Some(reactor);
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn is_stopping(&self) -> bool {
        self.host().is_stopping()
    }

    /// Ends the reactor, unless it has been ended.
    pub(crate) fn discard(&self) {
        let mut place = self.host().reactor.lock();
        drop(place.take());
    }

    pub(crate) fn callers_may_lead(&self) -> bool {
        self.host().leadable()
    }

    /// Whether the reactor stands still while this thread waits: this thread turns a reactor, or belongs to the runtime that hosts
    /// this one.
    pub fn is_hosted_here(&self) -> bool {
        #[cfg(feature = "tokio")]
        if self.host().runtime.is_some() && super::on_tokio::in_a_runtime() {
            return true;
        }
        core::turns()
    }

    /// Whether its host sleeps elsewhere than in the reactor's driver.
    #[inline]
    pub(crate) fn is_hosted_outside(&self) -> bool {
        #[cfg(feature = "tokio")]
        return self.host().runtime.is_some();
        #[cfg(not(feature = "tokio"))]
        false
    }

    /// Asks a reactor, from wherever: at once if this thread turns it, or if it is turned by hand; else what it returns comes when the reactor
    /// gets to it. The channel is closed if it has stopped. What nobody waits for any more is not done.
    pub(crate) fn question<R: Send + 'static>(&self, f: impl FnOnce() -> R + Send + 'static) -> Question<R> {
        let (tell, hear) = mpsc::sync_channel(1);
        let wanted = Arc::new(());
        let asker = Arc::downgrade(&wanted);
        let answer = move || {
            if asker.strong_count() > 0 {
                let _ = tell.send(f());
            }
        };
        if self.is_current() {
            answer();
        } else {
            #[cfg(feature = "testing")]
            if self.host().by == HostedBy::Hand {
                self.at_hand(answer);
                return Question { hear, _wanted: wanted };
            }
            self.run(answer);
        }
        Question { hear, _wanted: wanted }
    }

    /// Runs a closure on the reactor and waits for what it returns; `None` if the reactor has stopped.
    ///
    /// # Panics
    /// On a reactor's thread, where it might wait for itself.
    pub(crate) fn ask<R: Send + 'static>(&self, f: impl FnOnce() -> R + Send + 'static) -> Option<R> {
        assert!(core::try_with(|_| ()).is_none(), "asking a reactor on a reactor's thread would wait for itself");
        #[cfg(feature = "testing")]
        if self.host().by == HostedBy::Hand {
            return self.at_hand(f);
        }
        let (tell, hear) = mpsc::sync_channel(1);
        self.run(move || {
            let _ = tell.send(f());
        });
        #[cfg(feature = "tokio")]
        if let Some(runtime) = &self.host().runtime {
            return runtime.block_on(async { hear.recv().ok() }); // panics where waiting would be for ever
        }
        hear.recv().ok()
    }

    /// Runs a closure on a reactor that is turned by hand, here and now.
    #[cfg(feature = "testing")]
    pub(crate) fn at_hand<R>(&self, f: impl FnOnce() -> R) -> Option<R> {
        let mut result = None;
        self.by_hand(|reactor| reactor.inside(|| result = Some(f())));
        result
    }

    /// For who turns a reactor by hand; `None` if it has stopped. Ends it if that was asked for meanwhile.
    #[cfg(feature = "testing")]
    pub(crate) fn by_hand<R>(&self, f: impl FnOnce(&mut Reactor) -> R) -> Option<R> {
        let mut place = self.host().reactor.try_lock()?;
        let result = place.as_mut().map(f);
        if self.host().is_stopping() {
            drop(place.take());
        }
        result
    }

    /// The body of the reactor's own thread; returns when the reactor has been stopped.
    pub(crate) fn host_on_this_thread(&self) {
        let host = self.host();
        *host.thread.lock() = Some(thread::current());
        let _end = EndWithThread(self);
        let mut leads_seen = 0;
        let mut called = false;
        while !host.is_stopping() {
            match host.reactor.try_lock() {
                Some(place) => self.attend(place),
                // Whoever holds it may be on the way out, and may have looked for work before what the thread was called for.
                None if called => host.called.store(!put_back!("B32-call"), Ordering::Release),
                None => {}
            }
            called = self.stand_back(&mut leads_seen);
        }
    }

    /// Turns the reactor until it is stopped, or blocking callers want it and nothing is under way.
    fn attend(&self, mut place: MutexGuard<'_, Option<Reactor>>) {
        let host = self.host();
        self.0.inbox.announce(Attention::Running);
        host.called.store(false, Ordering::Release);
        while let Some(reactor) = place.as_mut() {
            if host.is_stopping() {
                return;
            }
            if host.lead_wanted.load(Ordering::Acquire) && !reactor.has_work() {
                host.lead_wanted.store(false, Ordering::Release);
                return self.leave(place);
            }
            reactor.turn();
        }
    }

    /// Leaves the reactor to blocking callers until the thread is called (true), or there has been none for a while.
    fn stand_back(&self, leads_seen: &mut u64) -> bool {
        let host = self.host();
        while !host.is_stopping() {
            host.awaits_leaving.store(true, Ordering::Relaxed);
            // Pairs with the fence in `leave`: either the caller who leaves sees the flag, or the thread a free lock.
            fence(Ordering::SeqCst);
            let led = host.reactor.is_locked();
            if !led {
                host.awaits_leaving.store(false, Ordering::Relaxed);
                if host.called.swap(false, Ordering::AcqRel) {
                    return true;
                }
            }
            thread::park_timeout(if led { LED } else { STAND_BACK });
            if host.called.swap(false, Ordering::AcqRel) {
                host.awaits_leaving.store(false, Ordering::Relaxed);
                return true;
            }
            let leads = host.leads.load(Ordering::Relaxed);
            if std::mem::replace(leads_seen, leads) == leads && !led {
                break; // a quiet time: attend it
            }
        }
        host.awaits_leaving.store(false, Ordering::Relaxed);
        false
    }

    /// Gives up the lead: to a follower if there is one, to the thread if there is work, else to nobody.
    fn leave(&self, place: MutexGuard<'_, Option<Reactor>>) {
        let host = self.host();
        let work = place.as_ref().is_some_and(Reactor::has_work);
        let late = self.0.inbox.announce(Attention::Unattended) && !put_back!("B32-host"); // or nobody comes for them
        drop(place);
        let follower = host.followers.lock().pop();
        if let Some(follower) = &follower {
            follower.thread.unpark();
        }
        if host.is_stopping() || (follower.is_none() && (work || late)) {
            return host.call_thread();
        }
        fence(Ordering::SeqCst);
        if host.awaits_leaving.load(Ordering::Relaxed) && host.awaits_leaving.swap(false, Ordering::AcqRel) {
            host.unpark_thread();
        }
    }

    pub(crate) fn stop(&self) {
        self.host().stopping.store(true, Ordering::Release);
        #[cfg(feature = "testing")]
        if self.host().by == HostedBy::Hand {
            // If it is being turned just now, it ends after that.
            self.by_hand(|_| ());
            return;
        }
        self.run(|| {}); // ends a wait for events
        self.host().call_thread();
    }

    /// Runs a future to its end on this thread, and turns the reactor meanwhile if nobody else does: then the calls
    /// the future makes are local to the reactor, and no other thread is involved. Allocates nothing in steady state.
    ///
    /// When the reactor stops meanwhile, its connections end, and the future goes on without it.
    ///
    /// # Panics
    /// On a thread that is turning a reactor: it would wait for itself. Check [`local::current`](crate::local::current). If a tokio
    /// runtime turns this reactor, also on a thread that drives a runtime, for the same reason.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        assert!(!core::turns(), "block_on on a reactor's thread would wait for itself");
        #[cfg(feature = "tokio")]
        if let Some(runtime) = &self.host().runtime {
            return runtime.block_on(future);
        }
        let mut future = pin!(future);
        let caller = CALLER.with(Arc::clone);
        let waker = Waker::from(Arc::clone(&caller));
        let mut cx = Context::from_waker(&waker);
        let output = Cell::new(None);
        let mut poll = || {
            // Before the poll, and with acquire: the poll sees what was done before any wake-up that is forgotten here.
            caller.woken.swap(false, Ordering::AcqRel);
            match future.as_mut().poll(&mut cx) {
                Poll::Ready(value) => {
                    output.set(Some(value));
                    true
                }
                Poll::Pending => false,
            }
        };
        loop {
            // First of all the lead: a follower who was offered it takes it, if only to pass it on.
            let done = match self.try_lead() {
                Some(place) => self.lead(place, &caller, &mut poll),
                None => {
                    let done = poll();
                    if !done {
                        self.follow(&caller);
                    }
                    done
                }
            };
            if done {
                // The future may have been polled inside that of another `block_on` of this thread, whose wake-up was lost on us.
                caller.woken.store(true, Ordering::Release);
                return output.take().expect("set when the future was ready");
            }
        }
    }

    /// Sleeps until the caller is woken or the lead is free.
    fn follow(&self, caller: &Arc<Caller>) {
        let host = self.host();
        let woken = || caller.woken.load(Ordering::Acquire);
        if !host.leadable() {
            while !woken() {
                thread::park();
            }
            return;
        }
        host.lead_wanted.store(true, Ordering::Release);
        loop {
            host.followers.lock().push(Arc::clone(caller));
            // After registering: a leader who left before that saw no follower, but then the lock is seen free.
            let goes_on = woken() || (!host.reactor.is_locked() && !host.is_stopping());
            if !goes_on {
                thread::park();
            }
            host.forget_follower(caller);
            if goes_on || woken() {
                return;
            }
        }
    }

    fn try_lead(&self) -> Option<MutexGuard<'_, Option<Reactor>>> {
        if !self.host().leadable() || self.host().is_stopping() {
            return None;
        }
        let place = self.host().reactor.try_lock()?;
        place.is_some().then_some(place)
    }

    /// Turns the reactor until `poll` says that it is done (true), or the reactor is stopped (false).
    fn lead(
        &self,
        place: MutexGuard<'_, Option<Reactor>>,
        caller: &Arc<Caller>,
        poll: &mut dyn FnMut() -> bool,
    ) -> bool {
        self.0.inbox.announce(Attention::Running);
        self.host().leads.fetch_add(1, Ordering::Relaxed);
        *caller.leading.lock() = Some(self.clone());
        let mut lead = Lead { handle: self, caller, place: Some(place) };
        let Some(reactor) = lead.place.as_mut().and_then(|place| place.as_mut()) else { return false };
        let waker = Arc::as_ptr(caller) as usize;
        reactor.turn_until(Main { poll, waker, stopping: &self.host().stopping })
    }
}
