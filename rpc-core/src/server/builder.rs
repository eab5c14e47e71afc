//! Settings of a server.

use std::fmt;
use std::sync::Arc;

#[cfg(feature = "tls")]
use rpc_transport::TlsServer;
use rpc_transport::{
    Accepted, ListenOptions, ListenerHandle, MemoryBudget, Placement, PoolOptions, ReactorPool, SocketOptions,
    WorkerOptions, WorkerPool,
};

use super::address::Address;
use super::hand_over::HandOver;
use super::handle::{Drained, ServerHandle, set_default_pool};
use super::handler::ServerHandler;
use super::methods::Methods;
use super::router::Router;
use super::runtime::Runtime;
use super::shared::{OnReactor, ServerShared, Table, TableEntry};
use super::watchdog::{Watchdog, Watched};
use crate::codegen::Service;
use crate::error::{ConfigError, Error, Peer, Result};
use crate::limits::Limits;
use crate::middleware::{Middleware, Stack};
use crate::protocol::KitexFraming;

/// A server of generated services. Start with [`Server::builder`].
#[derive(Debug)]
pub struct Server(());

impl Server {
    /// A server with every default: a reactor for each core, 16 workers for methods that block, the limits of
    /// [`Limits::server`].
    pub fn builder() -> ServerBuilder {
        ServerBuilder {
            settings: Settings {
                limits: Limits::server(),
                checksum: false,
                wrong: None,
                pool: PoolOptions::default(),
                own_reactors: false,
                shared_pool: None,
                workers: 16,
                placement: Placement::default(),
                socket: SocketOptions::default(),
                runtime: Runtime::default(),
                #[cfg(feature = "tls")]
                tls: None,
            },
            layers: (),
        }
    }
}

#[derive(Debug)]
pub(super) struct Settings {
    limits: Limits,
    checksum: bool,
    wrong: Option<ConfigError>,
    pool: PoolOptions,
    own_reactors: bool,
    shared_pool: Option<Arc<ReactorPool>>,
    workers: usize,
    placement: Placement,
    socket: SocketOptions,
    pub(super) runtime: Runtime,
    #[cfg(feature = "tls")]
    tls: Option<TlsServer>,
}

impl Settings {
    fn worker_options(&self) -> WorkerOptions {
        WorkerOptions {
            threads: self.workers,
            slow_threads: self.workers / 2,
            queue: self.limits.worker_queue,
            ..WorkerOptions::default()
        }
    }
}

/// Settings of a server; all have defaults. Then [`add`](ServerBuilder::add) the services.
#[derive(Debug)]
pub struct ServerBuilder<M = ()> {
    pub(super) settings: Settings,
    layers: M,
}

impl<M: Middleware> ServerBuilder<M> {
    /// Reactors of its own, each with a thread. Default: the available cores. Not with [`pool`](ServerBuilder::pool).
    pub fn reactors(mut self, n: usize) -> Self {
        self.settings.pool.reactors = n;
        self.settings.own_reactors = true;
        self
    }

    /// Serves on reactors that exist already, and may have other servers and clients, instead of its own. Whoever holds the pool last
    /// stops them. It must be a pool that callers do not lead ([`PoolOptions::callers_may_lead`]): handlers that block would run on its
    /// reactors.
    pub fn pool(mut self, pool: Arc<ReactorPool>) -> Self {
        self.settings.shared_pool = Some(pool);
        self
    }

    /// Threads for methods marked as blocking, started only if there are any. Default 16. Those marked as slow get half of them at most; so many
    /// calls may wait for a thread as `worker_queue` says, of each kind.
    pub fn workers(mut self, n: usize) -> Self {
        self.settings.workers = n;
        self
    }

    /// Which reactor gets a connection. Default: each in turn.
    pub fn placement(mut self, placement: Placement) -> Self {
        self.settings.placement = placement;
        self
    }

    /// Options of the sockets.
    pub fn socket(mut self, options: SocketOptions) -> Self {
        self.settings.socket = options;
        self
    }

    /// Compares every payload with the CRC-32C in its header, if there is one, and sends one with every reply. Default: no. A payload
    /// that differs is answered with `DataLoss`, and its handler does not run. Both cost a pass over the payload's bytes.
    #[cfg(feature = "crc32c")]
    pub fn checksum(mut self, on: bool) -> Self {
        self.settings.checksum = on;
        self
    }

    /// What `tls://` addresses are served with; they need it. Handlers see what a caller has proved by
    /// [`Context::tls`](crate::Context::tls). The certificate is renewed under way by [`TlsServer::reload`] on a clone.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: TlsServer) -> Self {
        self.settings.tls = Some(tls);
        self
    }

    /// All limits at once.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.settings.limits = limits;
        self
    }

    /// One limit by its name, as in `set("max_frame_size", "1MiB")`. A wrong name or value is an error of `bind`.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        if let Err(wrong) = self.settings.limits.set(name, value) {
            self.settings.wrong.get_or_insert(wrong);
        }
        self
    }

    /// Adds a middleware around those added before: the last one added sees a call first.
    pub fn layer<L: Middleware>(self, layer: L) -> ServerBuilder<Stack<L, M>> {
        ServerBuilder { settings: self.settings, layers: Stack::new(layer, self.layers) }
    }

    /// Adds a service: a generated `…Server` around your implementation.
    #[allow(clippy::should_implement_trait, reason = "a builder's `add`, not arithmetic")]
    pub fn add<S: Service>(self, service: S) -> Services<M> {
        let services = Services {
            methods: Methods::new(Arc::new(self.layers), self.settings.runtime.clone()),
            settings: self.settings,
            router: Router::default(),
        };
        services.add(service)
    }
}

/// A server with its services, ready to be bound.
pub struct Services<M = ()> {
    settings: Settings,
    methods: Methods<M>,
    router: Router,
}

impl<M: Middleware> Services<M> {
    /// Adds another service on the same port.
    #[allow(clippy::should_implement_trait, reason = "a builder's `add`, not arithmetic")]
    pub fn add<S: Service>(mut self, service: S) -> Self {
        let first = self.methods.len();
        let added = self.router.add(service.descriptor(), first).and_then(|()| self.methods.add(service));
        if let Err(wrong) = added {
            self.settings.wrong.get_or_insert(wrong);
        }
        self
    }

    /// Adds another service, which a call means that names none, when several have its method. Without
    /// a fallback such a call is refused as one to an unknown service. Clients of ours name the service; Kitex's do with
    /// `ClientTTHeaderHandler` only. Kitex has it as `WithFallbackService`. There can be one; a second is an error of
    /// `bind`.
    pub fn add_fallback<S: Service>(mut self, service: S) -> Self {
        if let Err(wrong) = self.router.fall_back_to(service.descriptor()) {
            self.settings.wrong.get_or_insert(wrong);
        }
        self.add(service)
    }

    /// Binds one address and starts serving; returns at once, with the real address in [`ServerHandle::url`].
    ///
    /// With feature `upgrade`, on Linux, an address for which this process was given a listening socket is not bound: that socket is served.
    /// It was given by systemd (`LISTEN_FDS`), which `fd://NAME` asks for, or by a server that is replaced. The module
    /// `upgrade` of [`transport`](crate::transport) has the rules.
    ///
    /// # Errors
    /// A wrong setting, a duplicate service, a malformed URL, or what the system says to bind; the text names the thing and the remedy.
    ///
    /// # Panics
    /// On a reactor's thread, and on a thread of the runtime that hosts the pool: it would wait for itself.
    pub fn bind(self, url: impl AsRef<str>) -> Result<ServerHandle> {
        self.bind_all([url])
    }

    /// As [`bind`](Services::bind), for several addresses. Limits of connections hold for each of them.
    ///
    /// # Errors
    /// As [`bind`](Services::bind), for the address that is named; then none is bound.
    pub fn bind_all<U: AsRef<str>>(self, urls: impl IntoIterator<Item = U>) -> Result<ServerHandle> {
        let Services { settings, methods, router } = self;
        if let Some(wrong) = settings.wrong {
            return Err(wrong.into());
        }
        settings.limits.check()?;
        let addresses = urls.into_iter().map(|url| Address::parse(url.as_ref())).collect::<Result<Vec<_>>>()?;
        if addresses.is_empty() {
            let reason = "a server needs at least one, such as tcp://127.0.0.1:7000";
            return Err(ConfigError::new("url", "", reason).into());
        }
        let secure = addresses.iter().filter_map(Address::url).find(|url| url.is_tls());
        let given = addresses.iter().any(|address| address.url().is_none()); // with settings of TLS they speak it
        #[cfg(feature = "tls")]
        let has_tls = settings.tls.is_some();
        #[cfg(not(feature = "tls"))]
        let has_tls = false;
        match (secure, has_tls) {
            (Some(url), false) => {
                let reason = "tls:// needs a certificate: set `tls` of the builder (feature `tls`), or use tcp://";
                return Err(ConfigError::new("url", url.to_string(), reason).into());
            }
            (None, true) if !given => {
                let reason =
                    "no address is a tls:// one, so that nothing would be encrypted: leave `tls` out, or use tls://";
                return Err(ConfigError::new("tls", "", reason).into());
            }
            _ => {}
        }
        let entries = methods.finish()?;
        let workers = match entries.iter().any(|entry| entry.lane.is_some()) {
            true => Some(WorkerPool::start(settings.worker_options()).map_err(Error::from)?),
            false => None,
        };
        let pool = match settings.shared_pool {
            Some(_) if settings.own_reactors => {
                let reason =
                    "a server has reactors of its own, or those of a pool: leave one of `reactors` and `pool` out";
                return Err(ConfigError::new("pool", "", reason).into());
            }
            Some(pool) if pool.callers_may_lead() => {
                let reason = "blocking callers may lead its reactors, and handlers would run on their threads: start it without callers_may_lead";
                return Err(ConfigError::new("pool", "", reason).into());
            }
            Some(pool) => pool,
            None => Arc::new(ReactorPool::start(settings.pool).map_err(Error::from)?),
        };
        let tables = pool.handles().iter().map(|_| {
            let methods: Vec<_> = entries.iter().map(|e| TableEntry { method: e.method, runner: (e.make)() }).collect();
            let polling = methods.iter().filter_map(|entry| Some((entry.method, entry.runner.polling()?)));
            let polling = polling.collect();
            Arc::new(OnReactor::new(Table { methods, ..Table::default() }, polling))
        });
        let memory = Arc::new(MemoryBudget::new(settings.limits.max_buffered_bytes));
        let shared = Arc::new(ServerShared::new(settings.limits, settings.checksum, router, tables.collect(), workers));
        #[allow(clippy::needless_update, reason = "the transport has a field more when somebody wants its TLS")]
        let options = ListenOptions {
            conn: shared.limits.conn(),
            listen: shared.limits.listen(),
            socket: settings.socket,
            placement: settings.placement,
            memory: Arc::clone(&memory),
            ..ListenOptions::default()
        };
        #[cfg(feature = "tls")]
        let options = ListenOptions { tls: settings.tls, ..options };
        let make = {
            let shared = Arc::clone(&shared);
            move |accepted: &Accepted<'_>| {
                let here = Arc::clone(&shared.reactors[accepted.reactor.index()]);
                let peer = Peer::from(Arc::clone(accepted.peer_text));
                let framing = KitexFraming::new(shared.limits.max_frame_size);
                (framing, ServerHandler::new(Arc::clone(&shared), here, peer))
            }
        };
        // Closes what it holds if something fails from here on: the pool may be others', and go on.
        let mut bound = Listening::default();
        let mut hand_over = HandOver::default();
        for address in &addresses {
            let listeners = address.listen(&pool, &options, make.clone())?;
            hand_over.add(address, listeners.len());
            bound.0.extend(listeners);
        }
        let reactors = pool.handles().iter().zip(&shared.reactors);
        let watched = reactors.map(|(reactor, here)| Watched::new(reactor.clone(), Arc::clone(here))).collect();
        let watchdog = Watchdog::start(watched, shared.limits.reactor_stall).map_err(Error::from)?;
        set_default_pool(&pool);
        Ok(ServerHandle::new(bound.take(), shared, memory, pool, watchdog, hand_over))
    }

    /// Binds one address and serves until SIGTERM or SIGINT, then lets running calls end: `fn main` in one line.
    ///
    /// # Errors
    /// As [`bind`](Services::bind).
    pub fn run(self, url: impl AsRef<str>) -> Result<()> {
        self.bind(url)?.serve().map(|Drained { .. }| ())
    }
}

/// Listeners that nobody else knows yet.
#[derive(Default)]
pub(super) struct Listening(pub(super) Vec<ListenerHandle>);

impl Listening {
    /// Somebody else closes them from now on.
    pub(super) fn take(mut self) -> Vec<ListenerHandle> {
        std::mem::take(&mut self.0)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        for listener in &self.0 {
            listener.close();
            listener.abort_connections("the server could not start");
        }
    }
}

impl<M> fmt::Debug for Services<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services").field("router", &self.router).finish_non_exhaustive()
    }
}
