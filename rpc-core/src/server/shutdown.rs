//! A running server: what its connections share, its counters, and its end.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};
use rpc_transport::{Counter, ListenerHandle, MemoryBudget, ReactorPool, ReservedTask, Url};

use super::router::Router;
use super::runner::Runner;
use super::workers::Workers;
use crate::codegen::MethodDescriptor;
use crate::error::Refusal;
use crate::limits::Limits;

/// What all connections of a server share.
pub(crate) struct ServerShared {
    pub(crate) limits: Limits,
    pub(crate) router: Router,
    pub(crate) reactors: Vec<Arc<OnReactor>>,
    workers: Option<Arc<Workers>>,
    running: AtomicUsize,
    draining: AtomicBool,
    open: Mutex<usize>,
    closed: Condvar,
}

/// What a server has on one reactor.
pub(crate) struct OnReactor {
    /// Taken out while a batch is handled.
    pub(crate) table: Mutex<Option<Box<Table>>>,
    pub(crate) counters: Counters,
}

/// The methods of a server on one reactor.
pub(crate) struct Table {
    pub(crate) methods: Vec<TableEntry>,
    /// A task slot at hand, for the next handler that does not end at once.
    pub(crate) reserved: Option<ReservedTask>,
}

pub(crate) struct TableEntry {
    pub(crate) method: &'static MethodDescriptor,
    pub(crate) runner: Box<dyn Runner>,
}

/// Counters of one reactor, written by it alone.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counters {
    pub(crate) accepted: Counter,
    pub(crate) replied: Counter,
    pub(crate) in_flight: Counter,
    pub(crate) glitches: Counter,
}

impl ServerShared {
    pub(crate) fn new(limits: Limits, router: Router, reactors: Vec<Arc<OnReactor>>, workers: Option<Workers>) -> Self {
        ServerShared {
            limits,
            router,
            reactors,
            workers: workers.map(Arc::new),
            running: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            open: Mutex::new(0),
            closed: Condvar::new(),
        }
    }

    pub(crate) fn workers(&self) -> Option<&Arc<Workers>> {
        self.workers.as_ref()
    }

    /// Whether `max_inflight` handlers run: nothing new begins.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.running.load(Ordering::Relaxed) >= self.limits.max_inflight
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}

/// One running handler that did not end at once, counted until it does.
pub(crate) struct InFlight(Arc<ServerShared>);

impl InFlight {
    pub(crate) fn begin(shared: &Arc<ServerShared>) -> Result<InFlight, Refusal> {
        let limit = shared.limits.max_inflight;
        if shared.running.fetch_add(1, Ordering::AcqRel) >= limit {
            shared.running.fetch_sub(1, Ordering::AcqRel);
            return Err(Refusal::TooManyInFlight { name: "max_inflight", limit });
        }
        Ok(InFlight(Arc::clone(shared)))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

/// One open connection.
pub(crate) struct Open(Arc<ServerShared>);

impl Open {
    pub(crate) fn new(shared: &Arc<ServerShared>) -> Open {
        *shared.open.lock() += 1;
        Open(Arc::clone(shared))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        *self.0.open.lock() -= 1;
        self.0.closed.notify_all();
    }
}

/// What a server has done, and what it holds now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStats {
    /// Open connections.
    pub connections: u64,
    /// Handlers that run and did not end at once.
    pub in_flight: u64,
    /// Requests received. At rest they are as many as `replied`, and those whose connection ended before their handler did.
    pub accepted: u64,
    /// Requests answered: with a reply or an error. Oneway ones count as answered when their handler ends.
    pub replied: u64,
    /// Bytes held for peers: partial frames and queued output.
    pub buffered_bytes: u64,
    /// Content errors of peers.
    pub glitches: u64,
}

/// How a shutdown went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// Connections that were still open when the time was over, and were cut.
    pub cut_connections: usize,
    /// Handlers that were still running then.
    pub cut_calls: usize,
    /// How long it took.
    pub elapsed: Duration,
}

/// A server that has been bound and is serving. Cheap to clone. When the last clone is dropped the server stops at once; call
/// [`ServerHandle::shutdown`] to let running calls end.
#[derive(Clone)]
pub struct ServerHandle(Arc<Bound>);

struct Bound {
    listeners: Vec<ListenerHandle>,
    shared: Arc<ServerShared>,
    memory: Arc<MemoryBudget>,
    pool: Arc<ReactorPool>,
    hurry: AtomicBool,
}

impl Drop for Bound {
    fn drop(&mut self) {
        for listener in &self.listeners {
            listener.close();
            listener.abort_connections("the server was dropped");
        }
    }
}

impl ServerHandle {
    pub(crate) fn new(
        listeners: Vec<ListenerHandle>,
        shared: Arc<ServerShared>,
        memory: Arc<MemoryBudget>,
        pool: Arc<ReactorPool>,
    ) -> Self {
        ServerHandle(Arc::new(Bound { listeners, shared, memory, pool, hurry: AtomicBool::new(false) }))
    }

    /// The addresses it is bound to, in the order they were given, with real ports.
    pub fn urls(&self) -> Vec<Url> {
        self.0.listeners.iter().map(|l| l.url().clone()).collect()
    }

    /// The first of [`ServerHandle::urls`].
    pub fn url(&self) -> Url {
        self.0.listeners[0].url().clone()
    }

    /// The server's reactors.
    pub fn reactors(&self) -> &Arc<ReactorPool> {
        &self.0.pool
    }

    /// The counters now; reading them costs the server nothing.
    pub fn stats(&self) -> ServerStats {
        self.monitor().stats()
    }

    /// A view of the counters that does not keep the server alive: for a handler that reports on its own server.
    pub fn monitor(&self) -> Monitor {
        Monitor {
            shared: Arc::downgrade(&self.0.shared),
            memory: Arc::clone(&self.0.memory),
            pool: Arc::downgrade(&self.0.pool),
        }
    }

    /// Shuts down gracefully: stops accepting, lets running calls end and tells peers to go elsewhere, for at most
    /// `shutdown_grace`; then cuts what is left. Blocks until no connection is left. Calling it again returns at once.
    ///
    /// # Panics
    /// On a reactor's thread, which it would wait for.
    pub fn shutdown(&self) -> Drained {
        assert!(rpc_transport::local::current().is_none(), "shutdown on a reactor's thread would wait for itself");
        let Bound { listeners, shared, hurry, .. } = &*self.0;
        let start = Instant::now();
        shared.draining.store(true, Ordering::Release);
        for listener in listeners {
            listener.close();
            listener.shut_down_connections();
        }
        let mut open = shared.open.lock();
        while *open > 0 && start.elapsed() < shared.limits.shutdown_grace && !hurry.load(Ordering::Acquire) {
            // In steps, so that a hurried end is noticed.
            shared.closed.wait_for(&mut open, Duration::from_millis(20));
        }
        let cut_connections = *open;
        drop(open);
        let cut_calls = shared.running.load(Ordering::Acquire);
        if cut_connections > 0 {
            listeners.iter().for_each(|l| l.abort_connections("the server's shutdown_grace is over"));
            let mut open = shared.open.lock();
            let until = Instant::now() + Duration::from_secs(1);
            while *open > 0 && Instant::now() < until {
                shared.closed.wait_for(&mut open, Duration::from_millis(20));
            }
        }
        let drained = Drained { cut_connections, cut_calls, elapsed: start.elapsed() };
        tracing::info!(?drained, "server stopped");
        drained
    }

    /// Ends a [`ServerHandle::shutdown`] that another thread waits in: what is left is cut now.
    pub fn hurry(&self) {
        self.0.hurry.store(true, Ordering::Release);
    }

    /// Serves until SIGTERM or SIGINT, then shuts down gracefully; a second signal ends that at once. Signals are handled from now
    /// until the process ends.
    ///
    /// # Errors
    /// When the system does not let us handle signals.
    pub fn serve(self) -> crate::Result<Drained> {
        let mut signals =
            signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT])?;
        if let Some(signal) = signals.forever().next() {
            tracing::info!(signal, "shutting down");
        }
        let hurried = self.clone();
        let closer = signals.handle();
        let second = std::thread::Builder::new().name("rpc-signals".to_owned()).spawn(move || {
            if signals.forever().next().is_some() {
                hurried.hurry();
            }
        })?;
        let drained = self.shutdown();
        closer.close();
        let _ = second.join();
        Ok(drained)
    }
}

impl fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "server at {:?}", self.urls())
    }
}

/// See [`ServerHandle::monitor`].
#[derive(Clone)]
pub struct Monitor {
    shared: Weak<ServerShared>,
    memory: Arc<MemoryBudget>,
    pool: Weak<ReactorPool>,
}

impl Monitor {
    /// The counters now; all zero when the server is gone.
    pub fn stats(&self) -> ServerStats {
        let Some(shared) = self.shared.upgrade() else { return ServerStats::default() };
        let sum = |f: fn(&Counters) -> &Counter| shared.reactors.iter().map(|r| f(&r.counters).get()).sum();
        ServerStats {
            connections: *shared.open.lock() as u64,
            in_flight: sum(|c| &c.in_flight),
            accepted: sum(|c| &c.accepted),
            replied: sum(|c| &c.replied),
            glitches: sum(|c| &c.glitches),
            buffered_bytes: self.memory.used() as u64,
        }
    }

    /// The server's reactors, while it lives.
    pub fn reactors(&self) -> Option<Arc<ReactorPool>> {
        self.pool.upgrade()
    }
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stats().fmt(f)
    }
}

/// The reactors of the process's server, which its clients share.
static SERVER_POOL: RwLock<Weak<ReactorPool>> = RwLock::new(Weak::new());

pub(crate) fn set_default_pool(pool: &Arc<ReactorPool>) {
    *SERVER_POOL.write() = Arc::downgrade(pool);
}

pub(crate) fn default_pool() -> Option<Arc<ReactorPool>> {
    SERVER_POOL.read().upgrade()
}
