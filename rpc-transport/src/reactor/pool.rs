//! Reactors with a thread each.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{OnceLock, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;

use super::host::{Host, HostedBy};
use super::{Reactor, ReactorHandle};
use crate::cores;
#[cfg(feature = "testing")]
use crate::driver::Driver;
use crate::driver::ReadinessDriver;
use crate::listener::ListenerShared;
use crate::local;

/// The longest [`busy_poll`](PoolOptions::busy_poll).
pub const BUSY_POLL_MAX: Duration = Duration::from_secs(1);

/// The most reactors of [`ReactorPool::global`].
pub const GLOBAL_MAX: usize = 4;

/// How to start a [`ReactorPool`].
#[derive(Clone, Debug)]
pub struct PoolOptions {
    /// Reactors, each with a thread. Default: the available cores.
    pub reactors: usize,
    /// Threads are named `name-0`, `name-1`, … Default `reactor`.
    pub name: String,
    /// Whether a thread in [`ReactorHandle::block_on`] may turn an idle reactor itself. Default off: handlers of a
    /// server should run on the server's threads only. On for [`ReactorPool::global`].
    pub callers_may_lead: bool,
    /// How long a reactor to which something has happened looks for more, again and again, before it sleeps. Default 0: it sleeps at once.
    /// At most [`BUSY_POLL_MAX`]. Where every reactor, and the peer, has a core of its own, some 50 µs save the time that a sleeping core
    /// takes to wake up; where they share one, they take that time away from those they wait for. Whatever happens begins the time anew,
    /// a single byte from a peer included. `docs/performance.md` has figures.
    pub busy_poll: Duration,
    /// The cores that the reactors' threads are bound to, reactor 0 to the first of them, and so on, and round again. Default none: the
    /// system places them. Linux, and feature `affinity`.
    ///
    /// Threads inherit the core of the thread that starts them: if that is a reactor's, because a handler starts one, or makes the first
    /// client that needs [`ReactorPool::global`], or has a runtime start one. A caller who leads a reactor stays where it is.
    pub cores: Vec<usize>,
}

impl Default for PoolOptions {
    fn default() -> Self {
        let reactors = thread::available_parallelism().map_or(1, usize::from);
        PoolOptions {
            reactors,
            name: "reactor".to_owned(),
            callers_may_lead: false,
            busy_poll: Duration::ZERO,
            cores: Vec::new(),
        }
    }
}

/// Reactors and their threads. Dropping the pool stops them: connections end with
/// [`CloseReason::Stopped`](crate::CloseReason), unfinished tasks are dropped, threads are joined.
pub struct ReactorPool {
    handles: Vec<ReactorHandle>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    next: AtomicUsize,
    /// Those that were opened on it.
    pub(crate) listeners: Mutex<Vec<Weak<ListenerShared>>>,
}

impl ReactorPool {
    /// Starts the reactors.
    ///
    /// # Errors
    /// When the system gives no poller or no thread; [`InvalidInput`](io::ErrorKind::InvalidInput) for a core that this process may not use,
    /// or a `busy_poll` over its bound; [`Unsupported`](io::ErrorKind::Unsupported) for cores where they cannot be chosen.
    pub fn start(options: PoolOptions) -> io::Result<ReactorPool> {
        cores::check(&options.cores)?;
        if options.busy_poll > BUSY_POLL_MAX {
            let text = format!("`busy_poll` is {:?}, of {BUSY_POLL_MAX:?} at most", options.busy_poll);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let mut pool = ReactorPool::of(Vec::new());
        for index in 0..options.reactors.max(1) {
            let driver = Box::new(ReadinessDriver::new()?);
            let core = options.cores.get(index % options.cores.len().max(1)).copied();
            let name = format!("{}-{index}", options.name);
            let by = if options.callers_may_lead { HostedBy::ThreadOrCallers } else { HostedBy::Thread };
            let mut reactor = Reactor::new(driver, name.clone(), index, Host::new(by));
            reactor.poll_busily(options.busy_poll);
            let handle = reactor.handle().clone();
            handle.give(reactor);
            pool.handles.push(handle.clone());
            let hosted = handle.clone();
            let body = move || {
                if let Some(core) = core {
                    cores::bind(core);
                }
                hosted.host_on_this_thread();
            };
            match thread::Builder::new().name(name).spawn(body) {
                Ok(thread) => pool.threads.lock().push(thread),
                Err(e) => {
                    handle.discard(); // nobody hosts it
                    return Err(e);
                }
            }
        }
        Ok(pool)
    }

    /// Reactors that nobody turns but whoever holds them, each over a driver of its own.
    #[cfg(feature = "testing")]
    pub(crate) fn by_hand(name: &str, drivers: Vec<Box<dyn Driver>>) -> ReactorPool {
        let handles = drivers.into_iter().enumerate().map(|(index, driver)| {
            let reactor = Reactor::new(driver, format!("{name}-{index}"), index, Host::new(HostedBy::Hand));
            let handle = reactor.handle().clone();
            handle.give(reactor);
            handle
        });
        ReactorPool::of(handles.collect())
    }

    /// Reactors that have their hosts already.
    pub(crate) fn of(handles: Vec<ReactorHandle>) -> ReactorPool {
        ReactorPool { handles, threads: Mutex::default(), next: AtomicUsize::new(0), listeners: Mutex::default() }
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn push(&mut self, handle: ReactorHandle) {
        self.handles.push(handle);
    }

    /// The pool of a process without a server, started at the first call, never stopped: a reactor for each available core, at most
    /// [`GLOBAL_MAX`]. Timers of threads without a reactor are on the first one, and who needs only one takes that.
    ///
    /// # Errors
    /// When the system gives no poller or no thread.
    pub fn global() -> io::Result<&'static ReactorPool> {
        static GLOBAL: OnceLock<ReactorPool> = OnceLock::new();
        static STARTING: Mutex<()> = Mutex::new(());
        if let Some(pool) = GLOBAL.get() {
            return Ok(pool);
        }
        let _one_at_a_time = STARTING.lock();
        if GLOBAL.get().is_none() {
            let options =
                PoolOptions { name: "rpc-client".to_owned(), callers_may_lead: true, ..PoolOptions::default() };
            let options = PoolOptions { reactors: options.reactors.min(GLOBAL_MAX), ..options };
            let _ = GLOBAL.set(ReactorPool::start(options)?);
        }
        GLOBAL.get().ok_or_else(|| io::Error::other("the pool was not kept"))
    }

    /// The reactors.
    pub fn handles(&self) -> &[ReactorHandle] {
        &self.handles
    }

    /// Whether blocking callers may turn its reactors: [`PoolOptions::callers_may_lead`].
    pub fn callers_may_lead(&self) -> bool {
        self.handles.iter().any(ReactorHandle::callers_may_lead)
    }

    /// One of the reactors, each in turn.
    pub fn next(&self) -> &ReactorHandle {
        &self.handles[self.next.fetch_add(1, Ordering::Relaxed) % self.handles.len()]
    }
}

impl fmt::Debug for ReactorPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.handles).finish()
    }
}

impl Drop for ReactorPool {
    fn drop(&mut self) {
        self.handles.iter().for_each(ReactorHandle::stop);
        let here = local::current();
        let mut threads = self.threads.lock();
        for (handle, thread) in self.handles.iter().zip(threads.drain(..)) {
            // The last owner may live on one of the reactors: that one ends when this thread has left it.
            let own = here.as_ref().is_some_and(|here| here.is(handle));
            if !own && thread.join().is_err() {
                tracing::error!("a reactor's thread had panicked");
            }
        }
    }
}
