//! A running server, and its end.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::RwLock;
#[cfg(all(feature = "upgrade", target_os = "linux"))]
use rpc_transport::upgrade::{Upgrade, UpgradeError};
use rpc_transport::{ListenerHandle, MemoryBudget, ReactorHandle, ReactorPool, Url};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::hand_over::HandOver;
use super::monitor::{Monitor, ServerStats};
use super::shared::ServerShared;
use super::watchdog::Watchdog;
use crate::sync::{Condvar, Mutex, put_back, thread};

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
    /// The end that [`ServerHandle::serve`] waits for.
    end: End,
    hurry: AtomicBool,
    /// Held while the server is shut down.
    drained: Mutex<Option<Drained>>,
    #[allow(dead_code, reason = "held for its drop")]
    watchdog: Watchdog,
    hand_over: HandOver,
}

/// Whether a server's end has been asked for.
struct End {
    asked: Mutex<bool>,
    changed: Condvar,
}

impl End {
    fn new() -> Self {
        End { asked: Mutex::new(false), changed: Condvar::new() }
    }

    /// Whether this is the first time.
    fn ask(&self) -> bool {
        let first = !std::mem::replace(&mut *self.asked.lock(), true);
        self.changed.notify_all();
        first
    }

    fn wait(&self) {
        let mut asked = self.asked.lock();
        while !*asked {
            self.changed.wait(&mut asked);
        }
    }
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
    pub(super) fn new(
        listeners: Vec<ListenerHandle>,
        shared: Arc<ServerShared>,
        memory: Arc<MemoryBudget>,
        pool: Arc<ReactorPool>,
        watchdog: Watchdog,
        hand_over: HandOver,
    ) -> Self {
        let (end, hurry, drained) = (End::new(), AtomicBool::new(false), Mutex::new(None));
        ServerHandle(Arc::new(Bound { listeners, shared, memory, pool, end, hurry, drained, watchdog, hand_over }))
    }

    #[cfg(feature = "testing")]
    pub(crate) fn shared(&self) -> &Arc<ServerShared> {
        &self.0.shared
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
    /// `shutdown_grace`; then cuts what is left. Blocks until no connection is left. Calling it again returns the same; meanwhile,
    /// it waits as well.
    ///
    /// # Panics
    /// On a reactor's thread, and on a thread of the runtime that hosts its reactors: it would wait for itself.
    pub fn shutdown(&self) -> Drained {
        self.must_not_wait_for_itself("shutdown");
        *self.0.drained.lock().get_or_insert_with(|| self.drain())
    }

    fn drain(&self) -> Drained {
        let Bound { listeners, shared, hurry, .. } = &*self.0;
        let start = Instant::now();
        self.0.hand_over.stop();
        self.begin_shutdown();
        let go_on = || start.elapsed() < shared.limits.shutdown_grace && !hurry.load(Ordering::Acquire);
        // Who had connected counts as open from here on, though its reactor did not know it when it was told to finish.
        wait_while(|| !put_back!("B18-arriving") && listeners.iter().any(ListenerHandle::is_taking_in) && go_on());
        shared.wait_closed(go_on);
        // A connection that lingers has no handler any more and owes nothing: it is waited for, but to end it is not to cut it.
        let linger = || listeners.iter().any(|listener| listener.connections() > 0);
        wait_while(|| linger() && go_on());
        let cut_connections = *shared.open.lock();
        let cut_calls = shared.running.load(Ordering::Acquire);
        if cut_connections > 0 || linger() {
            self.cut();
            let until = Instant::now() + Duration::from_secs(1);
            shared.wait_closed(|| Instant::now() < until);
            wait_while(|| linger() && Instant::now() < until);
        }
        let drained = Drained { cut_connections, cut_calls, elapsed: start.elapsed() };
        tracing::info!(?drained, "server stopped");
        drained
    }

    pub(super) fn must_not_wait_for_itself(&self, what: &str) {
        let waits_for_itself = self.0.pool.handles().iter().any(ReactorHandle::is_hosted_here);
        assert!(!waits_for_itself, "{what} on a thread that its reactors need would wait for itself");
    }

    /// Hands the listeners over to a new process, whose number it returns; who serves comes to the end then.
    #[cfg(all(feature = "upgrade", target_os = "linux"))]
    pub(super) fn hand_over(&self, how: &Upgrade) -> Result<u32, UpgradeError> {
        let (outcome, stop) = self.0.hand_over.to(how, &self.0.listeners);
        if stop {
            self.begin_shutdown(); // it was asked for meanwhile, and left to this
        }
        let pid = outcome?;
        self.0.end.ask();
        Ok(pid)
    }

    /// The first step of [`ServerHandle::shutdown`], which does not wait: stops accepting, and asks every connection to finish. An upgrade that
    /// is under way is cancelled, and this done at its end.
    pub fn begin_shutdown(&self) {
        if self.0.hand_over.cancel() {
            return; // nobody is told to go while everybody who comes is let in
        }
        self.0.shared.draining.store(true, Ordering::Release);
        for (place, listener) in self.0.listeners.iter().enumerate() {
            self.0.hand_over.end(place, listener);
        }
    }

    /// The last step of [`ServerHandle::shutdown`]: cuts the connections that are left.
    pub fn cut(&self) {
        self.0.listeners.iter().for_each(|l| l.abort_connections("the server's shutdown_grace is over"));
    }

    /// Ends a [`ServerHandle::shutdown`] that another thread waits in: what is left is cut now.
    pub fn hurry(&self) {
        self.0.hurry.store(true, Ordering::Release);
    }

    /// Serves until SIGTERM, SIGINT or SIGHUP, then shuts down gracefully; a second signal ends that at once. Signals are handled
    /// from now until the process ends: one that comes before, though the server is bound, does what it did without us, which is to end
    /// the process. To bind alone must not change what signals do, because a process may do more than serve; so call this soon after it.
    /// A SIGHUP that was ignored when the process began, as `nohup` has it, stays ignored.
    ///
    /// With feature `upgrade`, on Linux, it says first that the server is ready, as `ready` does; and it returns after an `upgrade`, too.
    ///
    /// # Errors
    /// When the system does not let us handle signals, or the process that this one takes over from does not let go.
    pub fn serve(self) -> crate::Result<Drained> {
        let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT])?;
        if !is_ignored(SIGHUP) {
            signals.add_signal(SIGHUP)?;
        }
        let (closer, asked) = (signals.handle(), self.clone());
        let heard = std::thread::Builder::new().name("rpc-signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                if asked.0.end.ask() {
                    tracing::info!(signal, "shutting down");
                } else {
                    asked.hurry();
                }
            }
        })?;
        let drained = self.serve_to_the_end();
        closer.close();
        let _ = heard.join();
        drained
    }

    fn serve_to_the_end(&self) -> crate::Result<Drained> {
        self.0.hand_over.serving()?;
        self.0.end.wait();
        if self.0.hand_over.stop() {
            self.0.hand_over.stopping();
        }
        Ok(self.shutdown())
    }
}

/// Asks again and again: a listener tells nobody what becomes of its connections, and a server ends once.
fn wait_while(more: impl Fn() -> bool) {
    while more() {
        thread::sleep(Duration::from_millis(1)); // between questions: nothing depends on its length
    }
}

/// Whether this process ignores a signal, as far as the system tells.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

impl fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "server at {:?}", self.urls())
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
