//! Opening a listener: its sockets are bound, and put on reactors.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::admission::Books;
use super::rate::Rate;
use super::{Accepted, FIRST_BACKOFF, ListenOptions, Listener, ListenerHandle, ListenerShared, Tenure, forget};
use crate::config::Placement;
use crate::conn::{Framed, Token};
use crate::cores;
use crate::diagnose::ListenerSnapshot;
use crate::driver::{CloseHow, Driver, Key};
use crate::framing::Framing;
use crate::handler::Handler;
use crate::reactor::core::with;
use crate::reactor::{ReactorHandle, ReactorPool};
use crate::socket::SocketOptions;
use crate::url::{Endpoint, Url};

impl ReactorPool {
    /// Listens at `url`. `make` gives each accepted connection its framing and its handler; it runs on the
    /// connection's reactor. Returns when the socket is bound.
    ///
    /// # Errors
    /// What the system says to bind and listen, with the URL in the text.
    ///
    /// # Panics
    /// On a reactor's thread, where it would wait for itself.
    pub fn listen<F, H>(
        &self,
        url: &Url,
        options: ListenOptions,
        make: impl Fn(&Accepted<'_>) -> (F, H) + Send + Sync + 'static,
    ) -> io::Result<ListenerHandle>
    where
        F: Framing + 'static,
        H: Handler,
    {
        let endpoints = url.resolve().map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        let endpoint = endpoints.into_iter().next().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let sharded = options.placement.is_sharded();
        if sharded && matches!(endpoint, Endpoint::Unix(_)) {
            let why = format!("cannot listen at {url}: Unix sockets have no SO_REUSEPORT; choose another placement");
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        let mut options = options;
        options.socket.reuse_port |= sharded;
        #[cfg(feature = "tls")]
        let has_tls = options.tls.is_some();
        #[cfg(not(feature = "tls"))]
        let has_tls = false;
        if url.is_tls() != has_tls {
            let why = match has_tls {
                false => "a certificate is missing; set `tls` (feature `tls`), or use tcp://",
                true => "it is not for TLS, and `tls` is set; use tls://",
            };
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("cannot listen at {url}: {why}")));
        }
        let shared = self.prepare(url, options, make);
        let say = |e: io::Error| {
            let remedy = match e.kind() {
                io::ErrorKind::AddrInUse => {
                    "; another process listens there: stop it, or choose another port (0: any free one)"
                }
                io::ErrorKind::PermissionDenied => "; choose a port above 1023 or a path you may write to",
                io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
                _ => "",
            };
            io::Error::new(e.kind(), format!("cannot listen at {url}: {e}{remedy}"))
        };
        let first = if sharded { &self.handles()[0] } else { self.next() };
        let sockets = if sharded { self.handles().len() } else { 1 };
        let socket = shared.socket.clone();
        let by_core = shared.placement == Placement::IncomingCpu;
        let shared = bind_on(first, endpoint, &socket, by_core, sockets, shared.named()).map_err(say)?;
        let listener = ListenerHandle { shared };
        let others = self.handles().iter().skip(1).take(if sharded { usize::MAX } else { 0 });
        for reactor in others {
            let (shared, endpoints) = (Arc::clone(&listener.shared), listener.shared.url.resolve());
            let endpoint =
                endpoints.ok().and_then(|all| all.into_iter().next()).ok_or(io::ErrorKind::AddrNotAvailable)?;
            if let Err(e) = bind_on(reactor, endpoint, &socket, by_core, sockets, move |_, _| shared) {
                listener.close();
                return Err(say(e));
            }
        }
        listener.announce();
        self.remember(&listener);
        Ok(listener)
    }

    /// As [`listen`](ReactorPool::listen), at several addresses: a listener for each, in their order, each with the limits of `options` for itself.
    ///
    /// # Errors
    /// As [`listen`](ReactorPool::listen), for the address that is named: then none is bound any more, and who had connected to another
    /// meanwhile is cut off.
    ///
    /// # Panics
    /// As [`listen`](ReactorPool::listen).
    pub fn listen_all<F, H>(
        &self,
        urls: &[Url],
        options: ListenOptions,
        make: impl Fn(&Accepted<'_>) -> (F, H) + Clone + Send + Sync + 'static,
    ) -> io::Result<Vec<ListenerHandle>>
    where
        F: Framing + 'static,
        H: Handler,
    {
        let mut bound: Vec<ListenerHandle> = Vec::new();
        for url in urls {
            #[cfg_attr(not(feature = "tls"), expect(unused_mut))]
            let mut options = options.clone();
            #[cfg(feature = "tls")]
            let _ = options.tls.take_if(|_| !url.is_tls() && urls.iter().any(Url::is_tls));
            match self.listen(url, options, make.clone()) {
                Ok(listener) => bound.push(listener),
                Err(error) => {
                    bound.iter().for_each(ListenerHandle::undo);
                    return Err(error);
                }
            }
        }
        Ok(bound)
    }

    /// For snapshots. Those that have ended are forgotten.
    pub(super) fn remember(&self, listener: &ListenerHandle) {
        let mut listeners = self.listeners.lock();
        listeners.retain(|known| known.strong_count() > 0);
        listeners.push(Arc::downgrade(&listener.shared));
    }

    pub(crate) fn listeners(&self) -> Vec<ListenerSnapshot> {
        let known: Vec<_> = self.listeners.lock().iter().filter_map(Weak::upgrade).collect();
        known.iter().filter_map(|listener| listener.report()).collect()
    }

    /// What a listener's connections share, before its address and its seed are known.
    pub(super) fn prepare<F, H>(
        &self,
        url: &Url,
        options: ListenOptions,
        make: impl Fn(&Accepted<'_>) -> (F, H) + Send + Sync + 'static,
    ) -> ListenerShared
    where
        F: Framing + 'static,
        H: Handler,
    {
        ListenerShared {
            url: url.clone(),
            factory: Box::new(move |accepted| {
                let (framing, handler) = make(accepted);
                Box::new(Framed { framing, handler })
            }),
            conn_limits: Arc::new(options.conn),
            limits: options.listen,
            socket: options.socket,
            placement: options.placement,
            memory: options.memory,
            #[cfg(feature = "tls")]
            tls: options.tls,
            reactors: self.handles().to_vec(),
            next: AtomicUsize::new(0),
            seed: 0,
            books: Books::new(self.handles().len()),
            pauses: Mutex::default(),
            arriving: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            sockets: Mutex::default(),
            over: AtomicBool::new(false),
        }
    }
}

impl ListenerShared {
    /// The same, with what its first socket has shown.
    pub(super) fn named(self) -> impl FnOnce(Url, u64) -> Arc<ListenerShared> {
        move |url, seed| {
            let url = self.url_of(url);
            Arc::new(ListenerShared { url, seed, ..self })
        }
    }
}

impl ListenerHandle {
    /// As if it had not been bound: who has connected meanwhile is cut off.
    fn undo(&self) {
        self.shared.closed.store(true, Ordering::Release);
        for (reactor, index) in self.sockets() {
            reactor.ask(move || forget(index, CloseHow::Graceful));
        }
        self.abort_connections("another address could not be bound");
    }

    /// Its sockets.
    pub(super) fn sockets(&self) -> Vec<(ReactorHandle, usize)> {
        self.shared.sockets.lock().clone()
    }

    pub(super) fn announce(&self) {
        let (wanted, backlog) = (self.shared.socket.backlog, self.backlog());
        tracing::info!(url = %self.shared.url, sockets = self.sockets().len(), backlog, "listening");
        if i64::from(wanted) > i64::from(backlog) {
            tracing::warn!(
                wanted,
                backlog,
                "the kernel queues fewer connections than asked for: raise net.core.somaxconn"
            );
        }
    }
}

/// Connections that the kernel queues, which is at most what it is told to.
pub(super) fn effective_backlog(options: &SocketOptions) -> u32 {
    let wanted = options.backlog.max(0).unsigned_abs();
    let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn").ok().and_then(|text| text.trim().parse().ok());
    most.map_or(wanted, |most: u32| wanted.min(most))
}

/// A socket on a reactor.
fn bind_on(
    reactor: &ReactorHandle,
    endpoint: Endpoint,
    socket: &SocketOptions,
    by_core: bool,
    sockets: usize,
    shared: impl FnOnce(Url, u64) -> Arc<ListenerShared> + Send + 'static,
) -> io::Result<Arc<ListenerShared>> {
    let mut socket = socket.clone();
    let bind = move |driver: &mut dyn Driver, token| {
        if by_core {
            socket.incoming_cpu = Some(own_core()?);
        }
        driver.listen(&endpoint, &socket, token)
    };
    let bound = reactor.ask(move || open(sockets, Tenure::Sole, bind, shared));
    bound.unwrap_or_else(|| Err(io::Error::other("the reactor has stopped")))
}

/// The core that this reactor is bound to, for [`Placement::IncomingCpu`].
pub(super) fn own_core() -> io::Result<usize> {
    let why = "the reactors are not bound to a core each, as `Placement::IncomingCpu` needs it: set `PoolOptions::cores` \
               (feature `affinity`), or choose another placement";
    cores::bound().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, why))
}

/// Puts a socket on this reactor: one of so many of its listener.
pub(super) fn open(
    sockets: usize,
    tenure: Tenure,
    socket: impl FnOnce(&mut dyn Driver, usize) -> io::Result<(Key, Endpoint)>,
    shared: impl FnOnce(Url, u64) -> Arc<ListenerShared>,
) -> io::Result<Arc<ListenerShared>> {
    with(|core| {
        let index = core.listeners.iter().position(Option::is_none).unwrap_or(core.listeners.len());
        let token = Token::Listener(index).pack();
        let (key, bound) = socket(&mut *core.driver, token)?;
        let shared = shared(Url::from(&bound), core.driver.random());
        let mut known = shared.sockets.lock();
        if shared.closed.load(Ordering::Acquire) {
            core.driver.close(key, CloseHow::Graceful);
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "it was closed while it was opened"));
        }
        known.push((core.handle.clone(), index));
        drop(known);
        // Each socket has its share of the rate.
        let rate = Rate::new(shared.limits.accept_rate.div_ceil(sockets as u32));
        let listener = Listener {
            key,
            shared: Arc::clone(&shared),
            tenure,
            ready: true,
            paused: tenure.is_held(),
            timer: None,
            backoff: FIRST_BACKOFF,
            rate,
        };
        if index == core.listeners.len() {
            core.listeners.push(None);
        }
        core.listeners[index] = Some(listener);
        Ok(shared)
    })
}
