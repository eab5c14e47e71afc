//! Reactors with a thread each.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use parking_lot::Mutex;

use super::host::{Host, HostedBy};
use super::{Reactor, ReactorHandle};
#[cfg(feature = "testing")]
use crate::driver::Driver;
use crate::driver::ReadinessDriver;
use crate::local;

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
}

impl Default for PoolOptions {
    fn default() -> Self {
        let reactors = thread::available_parallelism().map_or(1, usize::from);
        PoolOptions { reactors, name: "reactor".to_owned(), callers_may_lead: false }
    }
}

/// Reactors and their threads. Dropping the pool stops them: connections end with
/// [`CloseReason::Stopped`](crate::CloseReason), unfinished tasks are dropped, threads are joined.
#[derive(Debug)]
pub struct ReactorPool {
    handles: Vec<ReactorHandle>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    next: AtomicUsize,
}

impl ReactorPool {
    /// Starts the reactors.
    ///
    /// # Errors
    /// When the system gives no poller or no thread.
    pub fn start(options: PoolOptions) -> io::Result<ReactorPool> {
        let mut pool = ReactorPool { handles: Vec::new(), threads: Mutex::default(), next: AtomicUsize::new(0) };
        for index in 0..options.reactors.max(1) {
            let driver = Box::new(ReadinessDriver::new()?);
            let name = format!("{}-{index}", options.name);
            let by = if options.callers_may_lead { HostedBy::ThreadOrCallers } else { HostedBy::Thread };
            let reactor = Reactor::new(driver, name.clone(), index, Host::new(by));
            let handle = reactor.handle().clone();
            handle.give(reactor);
            pool.handles.push(handle.clone());
            let hosted = handle.clone();
            match thread::Builder::new().name(name).spawn(move || hosted.host_on_this_thread()) {
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
        ReactorPool { handles: handles.collect(), threads: Mutex::default(), next: AtomicUsize::new(0) }
    }

    /// Reactors that have their hosts already.
    #[cfg(feature = "tokio")]
    pub(crate) fn of(handles: Vec<ReactorHandle>) -> ReactorPool {
        ReactorPool { handles, threads: Mutex::default(), next: AtomicUsize::new(0) }
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn push(&mut self, handle: ReactorHandle) {
        self.handles.push(handle);
    }

    /// The pool of a process without a server: one reactor, started at the first call, never stopped.
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
            let options = PoolOptions { reactors: 1, name: "rpc-client".to_owned(), callers_may_lead: true };
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
