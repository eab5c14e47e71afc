//! A reactor: one poller, its connections, timers and local tasks; a value that a host turns.
//!
//! ```text
//!  wait ─► note events ─► inbox ─► ready connections ─► timers ─► local tasks, once ─► what follows from visits ─► one write each
//! ```
//!
//! Who turns it is the host's business ([`host`]): its own thread, or a blocking caller who would otherwise wait for
//! that thread. At any time one thread turns it, or is its [`guest`]; nothing inside is shared with another.

#[cfg(feature = "testing")]
pub(crate) mod audit;
pub(crate) mod core;
mod host;
#[cfg(feature = "tokio")]
mod expected;
mod guest;
mod inbox;
#[cfg(feature = "tokio")]
mod on_tokio;
#[cfg(all(test, any(model = "loom", model = "shuttle")))]
mod model;
mod pool;
pub(crate) mod tasks;
mod timer;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

pub(crate) use host::Question;
pub(crate) use inbox::Command;
pub use pool::{BUSY_POLL_MAX, GLOBAL_MAX, PoolOptions, ReactorPool};
pub use tasks::{LocalTask, ReservedTask, TaskId};
pub use timer::Timer;

use self::core::{Core, TimerKey, with};
use self::host::Host;
use self::inbox::{Attention, Inbox};
use self::tasks::FutureTask;
use crate::clock;
use crate::conn::{self, EARLY_FLUSH_FRAMES, Slab, Token};
use crate::driver::{Driver, EVENTS, Wake};
use crate::error::CloseReason;
use crate::listener;
use crate::local;
use crate::log_limit::LogLimit;
use crate::panics::caught;
use crate::stats::ReactorStats;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::timer::TimerWheel;

/// Connections that were read and have output which waits for each other's to be written. Each keeps a block of 64 KiB until then, so
/// that many ready at once would take as much memory as they are many. Not of those that tasks write to: theirs come in any order, and
/// would leave one by one.
const DIRTY_MAX: usize = 32;

/// A reactor, from any thread: cheap to clone. It stays valid when the reactor has stopped; what is asked of it then
/// comes back as not done.
#[derive(Clone)]
pub struct ReactorHandle(Arc<Shared>);

struct Shared {
    name: String,
    index: usize,
    inbox: Inbox,
    waker: Arc<dyn Wake>,
    stats: ReactorStats,
    host: Host,
}

impl ReactorHandle {
    /// Its thread's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its place in its pool, from 0.
    pub fn index(&self) -> usize {
        self.0.index
    }

    /// Its counters.
    #[inline]
    pub fn stats(&self) -> &ReactorStats {
        &self.0.stats
    }

    /// The number of the turn it is in; `None` while it sleeps or nobody turns it. For who looks from outside whether a reactor gets on.
    pub fn turn(&self) -> Option<u64> {
        self.0.inbox.is_running().then(|| self.0.stats.polls.get())
    }

    /// Whether both name the same reactor.
    #[inline]
    pub fn is(&self, other: &ReactorHandle) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether this thread is turning this very reactor, or is its guest: [`enter`](ReactorHandle::enter).
    #[inline]
    pub fn is_current(&self) -> bool {
        core::try_with(|core| core.handle.is(self)).unwrap_or(false)
    }

    /// Runs a future on this reactor, beside its connections. It must not block; calls that it makes stay on the
    /// reactor's thread. Allocates the future's box. Dropped unfinished if the reactor stops.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.spawn_task(Box::new(FutureTask(Box::pin(future))));
    }

    /// Runs a task on this reactor.
    pub fn spawn_task(&self, task: Box<dyn LocalTask>) {
        self.submit(Command::Spawn(task));
    }

    /// Runs a closure on this reactor, soon. It is dropped without running if the reactor has stopped.
    pub fn run(&self, f: impl FnOnce() + Send + 'static) {
        self.submit(Command::Run(Box::new(f)));
    }

    pub(crate) fn submit(&self, command: Command) {
        match self.0.inbox.submit(command) {
            Ok(attention) => self.arouse(attention),
            Err(Command::Message(_, parcel)) => parcel.give_back(),
            Err(_) => {}
        }
    }

    fn arouse(&self, attention: Attention) {
        match attention {
            Attention::Running => {}
            Attention::Polling => {
                self.0.stats.wakes.add(1); // who got this answer is the only one
                self.0.waker.wake();
            }
            Attention::Unattended => self.0.host.call_thread(),
        }
    }
}

impl fmt::Debug for ReactorHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "reactor {}", self.0.name)
    }
}

/// What is turned. Dropping it ends every connection and task on it.
pub(crate) struct Reactor {
    core: Option<Box<Core>>,
    handle: ReactorHandle,
}

/// The future of a blocking caller who hosts the reactor meanwhile.
pub(crate) struct Main<'a> {
    /// Polls it; true when it is done.
    pub(crate) poll: &'a mut dyn FnMut() -> bool,
    /// The address that tells its waker from others.
    pub(crate) waker: usize,
    /// Set when the caller must leave though the future is not done.
    pub(crate) stopping: &'a AtomicBool,
}

impl Reactor {
    /// A reactor over `driver`, in the care of no host yet.
    pub(crate) fn new(driver: Box<dyn Driver>, name: String, index: usize, host: Host) -> Self {
        let waker = driver.waker();
        Reactor::with_waker(driver, waker, name, index, host)
    }

    /// As [`Reactor::new`], for a host that does not sleep in the driver.
    pub(crate) fn with_waker(
        driver: Box<dyn Driver>,
        waker: Arc<dyn Wake>,
        name: String,
        index: usize,
        host: Host,
    ) -> Self {
        let handle = ReactorHandle(Arc::new(Shared {
            name,
            index,
            inbox: Inbox::new(),
            waker,
            stats: ReactorStats::default(),
            host,
        }));
        let now = driver.now();
        let core = Box::new(Core {
            driver,
            conns: Slab::new(),
            listeners: Vec::new(),
            timers: TimerWheel::new(now),
            ready: Default::default(),
            visited: Vec::new(),
            dirty: Vec::new(),
            tasks: Default::default(),
            wakers: Vec::new(),
            #[cfg(feature = "tokio")]
            expected: Default::default(),
            main_woken: false,
            main_waker: 0,
            now,
            deadline: None,
            busy_poll: Duration::ZERO,
            busy_until: now,
            handle: handle.clone(),
            work: 0,
            stale_timers: 0,
            stopping: false,
            events: Vec::with_capacity(EVENTS),
            commands: Vec::new(),
            #[cfg(feature = "tls")]
            rations: Default::default(),
        });
        Reactor { core: Some(core), handle }
    }

    /// From now on it looks for events again and again for so long before it sleeps.
    pub(crate) fn poll_busily(&mut self, busy_poll: Duration) {
        if let Some(core) = &mut self.core {
            core.busy_poll = busy_poll;
        }
    }

    pub(crate) fn handle(&self) -> &ReactorHandle {
        &self.handle
    }

    pub(crate) fn has_work(&self) -> bool {
        self.core.as_ref().is_some_and(|core| core.has_work())
    }

    /// The time of its last turn.
    #[cfg(feature = "tokio")]
    pub(crate) fn now(&self) -> Option<std::time::Instant> {
        self.core.as_ref().map(|core| core.now)
    }

    /// One turn: waits until something happens, then does everything that is due once.
    pub(crate) fn turn(&mut self) {
        self.inside(|| {
            let timeout = doze();
            wake_up(timeout);
            work();
        });
    }

    /// The first half of a turn, for a host that knows by itself when the reactor's sleep is over: how long it may last. Whoever
    /// submits something from here on uses the waker.
    #[cfg(any(feature = "testing", feature = "tokio"))]
    pub(crate) fn doze(&mut self) -> Option<Duration> {
        let mut timeout = None;
        self.inside(|| timeout = doze());
        timeout
    }

    /// The second half: the sleep is over.
    #[cfg(feature = "testing")]
    pub(crate) fn rouse(&mut self) {
        self.inside(|| {
            wake_up(Some(Duration::ZERO));
            work();
        });
    }

    /// Whether a turn had better wait for more calls: see [`Expected`].
    #[cfg(feature = "tokio")]
    pub(crate) fn expects_more(&mut self) -> Option<std::time::Instant> {
        let core = self.core.as_mut()?;
        core.expected.more(|| core.driver.now(), || core.handle.0.inbox.count())
    }

    /// The second half for a host that knows whether the driver has events: it is not asked if it has none. Returns whether it may
    /// have more.
    #[cfg(feature = "tokio")]
    pub(crate) fn rouse_and_look(&mut self, look: bool) -> bool {
        let mut more = false;
        self.inside(|| {
            if look {
                wake_up(Some(Duration::ZERO));
                more = with(|core| core.events.len() >= EVENTS / 2);
            } else {
                awake();
            }
            work();
        });
        more
    }

    /// Turns until the caller's future is done (true), or the caller is told to stop (false).
    pub(crate) fn turn_until(&mut self, main: Main<'_>) -> bool {
        struct Drives;
        impl Drop for Drives {
            fn drop(&mut self) {
                with(|core| (core.main_waker, core.main_woken) = (0, false));
            }
        }
        let mut done = false;
        self.inside(|| {
            let now = with(|core| {
                core.main_waker = main.waker;
                core.driver.now()
            });
            with(|core| {
                (core.now, core.deadline) = (now, None);
                core.happened();
            });
            let drives = Drives;
            loop {
                done = (main.poll)();
                finish_turn();
                if done {
                    break;
                }
                while !with(|core| std::mem::take(&mut core.main_woken)) {
                    if main.stopping.load(Ordering::Acquire) {
                        return;
                    }
                    let timeout = doze();
                    wake_up(timeout);
                    work();
                }
            }
            drop(drives);
        });
        done
    }

    pub(crate) fn inside(&mut self, f: impl FnOnce()) {
        struct PutBack<'a> {
            core: &'a mut Option<Box<Core>>,
            outer: Option<Box<Core>>,
        }
        impl Drop for PutBack<'_> {
            fn drop(&mut self) {
                *self.core = core::exchange(self.outer.take());
            }
        }
        if let Some(core) = self.core.take() {
            // Only the end of a reactor can come within the turn of another.
            let outer = core::exchange(Some(core));
            let _put_back = PutBack { core: &mut self.core, outer };
            f();
        }
    }
}

impl Drop for Reactor {
    /// Ends everything, in an order in which whoever waits for something hears of it: messages reach handlers or come
    /// back, connections end, tasks are dropped, wakers of timers and of other executors fire.
    fn drop(&mut self) {
        let late = self.handle.0.inbox.close();
        self.inside(|| {
            with(|core| core.stopping = true);
            late.into_iter().for_each(obey);
            let listeners = with(|core| core.listeners.len());
            (0..listeners).for_each(listener::close);
            for id in with(|core| core.conns.ids()) {
                conn::kill(id, CloseReason::Stopped);
            }
            for task in with(|core| core.tasks.clear()) {
                guarded("the end of a task", || drop(task));
            }
            while let Some(key) = with(|core| core.timers.pop()) {
                if let TimerKey::Waker(waker) = key {
                    wake(waker);
                }
            }
            finish_turn();
        });
    }
}

/// A timer that is due within this time comes on it, however long the turn before took; one that is farther off may be late by that turn.
const NEAR: Duration = Duration::from_millis(200);

/// Announces that the reactor is about to sleep, and says for how long: not at all if something is due already.
fn doze() -> Option<Duration> {
    with(|core| {
        if core.now < core.busy_until {
            return Some(Duration::ZERO); // not announced: nobody needs to wake it
        }
        // Announced before the last look into the inbox: see `Inbox`.
        let sleep = core.is_idle() && !core.handle.0.inbox.announce(Attention::Polling);
        match sleep {
            true => core.timers.next_at().map(|at| {
                // The turn has taken time, too: of what is left to a timer that is near, perhaps all.
                let now = if at < core.now + NEAR { clock::now() } else { core.now };
                at.saturating_duration_since(now)
            }),
            false => Some(Duration::ZERO),
        }
    })
}

/// Sleeps until something happens or the time is over, and ends the announcement.
fn wake_up(timeout: Option<Duration>) {
    with(|core| {
        #[cfg(feature = "tls")]
        if core.rations.has_waiting() {
            core.rations.falls_asleep(clock::now());
        }
        if let Err(error) = core.driver.wait(timeout, &mut core.events) {
            static FAILURES: LogLimit = LogLimit::new();
            if let Some(skipped) = FAILURES.pass(core.now) {
                tracing::error!(%error, skipped, "the poller failed");
            }
            std::thread::sleep(Duration::from_millis(10)); // nothing here can cause this: do not spin on it
        }
    });
    awake();
}

/// A turn begins.
fn awake() {
    with(|core| {
        core.handle.stats().polls.add(1); // before who watches is told that it runs
        core.handle.0.inbox.announce(Attention::Running);
        (core.now, core.deadline) = (core.driver.now(), None);
        #[cfg(feature = "tls")]
        core.rations.wakes_up(core.now);
    });
}

fn work() {
    with(|core| {
        let mut events = std::mem::take(&mut core.events);
        if !events.is_empty() {
            core.happened();
        }
        for event in events.drain(..) {
            match Token::unpack(event.token) {
                Token::Conn(id) => {
                    if core.conns.get(id).is_some_and(|entry| conn::note(entry, event)) {
                        core.ready.push_back(id);
                    }
                }
                Token::Listener(index) => listener::note(core, index),
                Token::Task(slot) => core.tasks.wake(slot),
            }
        }
        core.events = events;
    });
    let asked = with(|core| {
        let Core { handle, commands, .. } = core;
        let asked = handle.0.inbox.drain(commands).then(|| std::mem::take(commands));
        if asked.is_some() {
            core.happened();
        }
        asked
    });
    if let Some(mut commands) = asked {
        commands.drain(..).for_each(obey);
        with(|core| core.commands = commands);
    }
    if with(|core| core.has_ready_listener()) {
        listener::accept_all();
    }
    for _ in 0..with(|core| core.ready.len()) {
        let Some((id, others)) = with(|core| core.ready.pop_front().map(|id| (id, !core.ready.is_empty()))) else {
            break;
        };
        conn::advance(id, others);
        if with(|core| core.dirty.len() + core.visited.len() >= DIRTY_MAX) {
            flush_all();
        }
    }
    // Not more than there are now: a timer that is armed anew for a time already past comes in the next turn.
    for _ in 0..with(|core| core.timers.len()) {
        let Some(key) = with(Core::expire_one) else { break };
        expire(key);
    }
    run_tasks();
    finish_turn();
}

/// Writes all output, and wakes who was to be woken after that.
fn finish_turn() {
    flush_all();
    wake_others(usize::MAX);
}

fn obey(command: Command) {
    match command {
        Command::Message(id, parcel) => {
            // One owner at a time: the closure takes the parcel only if there is a handler.
            let mut parcel = Some(parcel);
            conn::visit(id, |pipeline, cx| {
                if let Some(parcel) = parcel.take_if(|_| !cx.is_lingering()) {
                    pipeline.on_message(cx, parcel.open());
                }
            });
            if let Some(parcel) = parcel {
                guarded("a message that came back", || parcel.give_back());
            }
        }
        Command::Wake(slot) => with(|core| core.tasks.enqueue(slot)),
        Command::WakeMain(waker) => with(|core| core.main_woken |= waker == core.main_waker),
        Command::Spawn(task) => with(|core| {
            let handle = core.handle.clone();
            let reserved = core.tasks.reserve(&handle);
            let slot = reserved.id.0;
            core.tasks.start(reserved, task);
            core.tasks.wake(slot);
        }),
        Command::Run(f) => _ = guarded("a closure on the reactor", f),
    }
}

fn expire(key: TimerKey) {
    match key {
        TimerKey::Check(id) => conn::on_check(id),
        TimerKey::Handler(id, key) => {
            with(|core| core.count_off(id));
            conn::visit(id, |pipeline, cx| pipeline.on_deadline(cx, key));
        }
        TimerKey::Reminder(id, key) => _ = conn::visit(id, |pipeline, cx| pipeline.on_deadline(cx, key)),
        TimerKey::Accept(index) => with(|core| listener::resume(core, index)),
        #[cfg(feature = "tls")]
        TimerKey::Handshakes => conn::resume_handshakes(),
        TimerKey::Waker(waker) => {
            with(|core| core.work -= 1);
            wake(waker);
        }
    }
}

/// Polls each task that was woken before now, once. What the first of many write leaves early, so that the peer has
/// something to do meanwhile.
fn run_tasks() {
    let batch = with(|core| core.tasks.woken());
    let woken = batch.len();
    for (n, slot) in (1..).zip(&batch) {
        let Some(mut polling) = with(|core| core.tasks.take(*slot)) else { continue };
        match guarded("a task on the reactor", || polling.poll()) {
            Some(Poll::Pending) => with(|core| core.tasks.put_back(polling)),
            Some(Poll::Ready(())) => {
                let task = with(|core| core.tasks.retire(polling));
                guarded("a finished task", || task.map(LocalTask::finished));
            }
            None => {
                let task = with(|core| core.tasks.retire(polling));
                guarded("the end of a task", || drop(task));
            }
        }
        // What many connections have to write is little for each, and the peer is busy with one of them while the next is written.
        let early = n == EARLY_FLUSH_FRAMES && woken - n >= EARLY_FLUSH_FRAMES / 3;
        if early && with(|core| core.writes_to_one()) {
            flush_all();
        }
    }
    with(|core| {
        core.tasks.keep(batch);
        core.handle.stats().task_polls.add(woken as u64);
    });
}

fn flush_all() {
    loop {
        // Each time: the end of one connection may be a visit to another.
        conn::settle_visited();
        let Some(id) = with(|core| core.dirty.pop()) else { return };
        conn::flush(id);
    }
}

/// Wakes who was to be woken, unless they are more than `most`.
pub(crate) fn wake_others(most: usize) {
    let taken = with(|core| (1..=most).contains(&core.wakers.len()).then(|| std::mem::take(&mut core.wakers)));
    if let Some(mut wakers) = taken {
        #[cfg(feature = "tokio")]
        with(|core| core.expected.woke(wakers.len()));
        wakers.drain(..).for_each(wake);
        with(|core| core.keep_wakers_vec(wakers));
    }
}

/// Wakes somebody outside; what a waker does is not ours.
fn wake(waker: Waker) {
    guarded("a waker", || waker.wake());
}

/// A panic in a user's code ends that piece of code, not the reactor.
pub(crate) fn guarded<T>(what: &str, f: impl FnOnce() -> T) -> Option<T> {
    let result = caught(f);
    if result.is_none() {
        static PANICS: LogLimit = LogLimit::new();
        if let Some(skipped) = PANICS.pass(local::now()) {
            tracing::error!(skipped, "{what} panicked; the reactor goes on");
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use std::task::Wake as WakeTask;

    use super::*;
    use crate::driver::ReadinessDriver;

    /// Wakes the future of who leads.
    struct WakeMain;

    impl WakeTask for WakeMain {
        fn wake(self: Arc<Self>) {
            local::wake(TaskId::MAIN);
        }
    }

    /// What who leads polls may ask a peer for something, without an event or a command.
    #[test]
    fn who_leads_polls_busily() {
        let driver = ReadinessDriver::new().unwrap();
        let mut reactor = Reactor::new(Box::new(driver), "led".to_owned(), 0, Host::new(host::HostedBy::Thread));
        reactor.poll_busily(Duration::from_millis(5));
        let mut polled = 0;
        let mut poll = || {
            polled += 1;
            let waker = TimerKey::Waker(Arc::new(WakeMain).into());
            with(|core| core.arm_work(core.now + Duration::from_millis(10), waker));
            polled == 2
        };
        assert!(reactor.turn_until(Main { poll: &mut poll, waker: 1, stopping: &AtomicBool::new(false) }));
        let looks = reactor.handle().stats().polls.get();
        assert!(looks > 50, "{looks} looks");
    }
}
