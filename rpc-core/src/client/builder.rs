//! Settings of a channel.

use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "tls")]
use rpc_transport::TlsClient;
use rpc_transport::{ReactorPool, SocketOptions, Url};

use super::channel::{Channel, ChannelInner, config_error};
use crate::error::{ConfigError, Error, Result};
use crate::limits::Limits;
use crate::middleware::{Middleware, Stack};
use crate::server::default_pool;

/// What a channel does, and what its calls may cost.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) limits: Limits,
    pub(crate) connections: usize,
    pub(crate) multiplexed: bool,
    /// Requests get a checksum, and replies are compared with theirs.
    pub(crate) checksum: bool,
    pub(crate) socket: SocketOptions,
    pub(crate) from_service: String,
    pub(crate) to_service: Option<String>,
    /// For the name in the URL, unless another was set.
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<TlsClient>,
}

/// Settings of a [`Channel`]; all have defaults.
#[derive(Debug)]
pub struct ChannelBuilder<M = ()> {
    url: String,
    limits: Limits,
    wrong: Option<ConfigError>,
    connections: Option<usize>,
    multiplexed: bool,
    checksum: bool,
    socket: SocketOptions,
    from_service: String,
    to_service: Option<String>,
    pool: Option<Arc<ReactorPool>>,
    #[cfg(feature = "tls")]
    tls: Option<TlsClient>,
    layers: M,
}

impl ChannelBuilder {
    pub(crate) fn new(url: &str) -> Self {
        ChannelBuilder {
            url: url.to_owned(),
            limits: Limits::client(),
            wrong: None,
            connections: None,
            multiplexed: true,
            checksum: false,
            socket: SocketOptions::default(),
            from_service: String::new(),
            to_service: None,
            pool: None,
            #[cfg(feature = "tls")]
            tls: None,
            layers: (),
        }
    }
}

impl<M: Middleware> ChannelBuilder<M> {
    /// Connections to the peer; calls take them in turn, and calls made on a reactor take one of that reactor. Default: one for
    /// each reactor of the server in this process, or one where there is none; 16 with [`ping_pong`](ChannelBuilder::ping_pong). However
    /// many, without a server and without [`ping_pong`](ChannelBuilder::ping_pong) they are on one reactor: [`pool`](ChannelBuilder::pool) has more.
    pub fn connections(mut self, n: usize) -> Self {
        self.connections = Some(n);
        self
    }

    /// One call at a time on a connection, for servers that answer in order; at most `connections` of them (default here: 16), more
    /// calls wait. Default: many calls at a time.
    pub fn ping_pong(mut self) -> Self {
        self.multiplexed = false;
        self
    }

    /// Sends a CRC-32C of its payload with every request, and compares replies with theirs, if they have one. Default: no. A reply that
    /// differs ends its call with [`DataLoss`](crate::Code::DataLoss). Both cost a pass over the payload's bytes.
    #[cfg(feature = "crc32c")]
    pub fn checksum(mut self, on: bool) -> Self {
        self.checksum = on;
        self
    }

    /// Options of the sockets: how a peer is found that has gone without a word. Default: within 40 s.
    pub fn socket(mut self, options: SocketOptions) -> Self {
        self.socket = options;
        self
    }

    /// Timeout of calls that name none. Default 5 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.limits.default_timeout = timeout;
        self
    }

    /// Name of the calling service, for the peer's logs and rules. Default: none.
    pub fn from_service(mut self, name: impl Into<String>) -> Self {
        self.from_service = name.into();
        self
    }

    /// Registry name of the called service. Default: the service's name in the IDL.
    pub fn to_service(mut self, name: impl Into<String>) -> Self {
        self.to_service = Some(name.into());
        self
    }

    /// How a `tls://` address is called; it needs this. The server's certificate must be for the URL's host, unless another name is set
    /// there.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: TlsClient) -> Self {
        self.tls = Some(tls);
        self
    }

    /// All limits at once.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// One limit by its name, as in `set("client_max_inflight", "64")`. A wrong name or value is an error of `build`.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        if let Err(wrong) = self.limits.set(name, value) {
            self.wrong.get_or_insert(wrong);
        }
        self
    }

    /// The reactors its connections live on. Default: those of the process's server, or without one those of [`ReactorPool::global`]: all for
    /// [`ping_pong`](ChannelBuilder::ping_pong), the first otherwise.
    pub fn pool(mut self, pool: Arc<ReactorPool>) -> Self {
        self.pool = Some(pool);
        self
    }

    /// Adds a middleware around those added before: the last one added sees a call first.
    pub fn layer<L: Middleware>(self, layer: L) -> ChannelBuilder<Stack<L, M>> {
        ChannelBuilder {
            url: self.url,
            limits: self.limits,
            wrong: self.wrong,
            connections: self.connections,
            multiplexed: self.multiplexed,
            checksum: self.checksum,
            socket: self.socket,
            from_service: self.from_service,
            to_service: self.to_service,
            pool: self.pool,
            #[cfg(feature = "tls")]
            tls: self.tls,
            layers: Stack::new(layer, self.layers),
        }
    }

    /// Makes the channel. Does not connect.
    ///
    /// # Errors
    /// A malformed URL, a host name without an address, a wrong limit, or no reactor to be had.
    pub fn build(self) -> Result<Channel<M>> {
        let url: Url = self.url.parse().map_err(config_error)?;
        if let Some(wrong) = self.wrong {
            return Err(wrong.into());
        }
        self.limits.check()?;
        #[cfg(feature = "tls")]
        let tls = tls_for(self.tls, &url)?;
        #[cfg(not(feature = "tls"))]
        if url.is_tls() {
            let reason = "tls:// needs the feature `tls` of rpc-core; use tcp:// without it";
            return Err(ConfigError::new("url", self.url, reason).into());
        }
        let endpoints = url.resolve().map_err(config_error)?;
        let pool = self.pool.or_else(default_pool);
        let reactors = match &pool {
            Some(pool) => pool.handles().to_vec(),
            None => {
                let all = ReactorPool::global().map_err(Error::from)?.handles();
                // Calls that share a connection share system calls, too: more of either would only make batches smaller.
                all[..if self.multiplexed { 1 } else { all.len() }].to_vec()
            }
        };
        let default = if self.multiplexed { reactors.len() } else { 16 };
        let connections = self.connections.unwrap_or(default);
        if !(1..=4096).contains(&connections) {
            let reason = "a channel has from 1 to 4096 connections";
            return Err(ConfigError::new("connections", connections.to_string(), reason).into());
        }
        let config = Config {
            limits: self.limits,
            connections,
            multiplexed: self.multiplexed,
            checksum: self.checksum,
            socket: self.socket,
            from_service: self.from_service,
            to_service: self.to_service,
            #[cfg(feature = "tls")]
            tls,
        };
        Ok(Channel::new(ChannelInner::new(&url, endpoints, config, reactors, pool), self.layers))
    }
}

/// What is needed for that address, and nothing else: who has set up TLS must not send in plain text by a mistake in a URL.
#[cfg(feature = "tls")]
fn tls_for(tls: Option<TlsClient>, url: &Url) -> Result<Option<TlsClient>> {
    match (tls, url) {
        (None, Url::Tls { .. }) => {
            let reason = "tls:// needs the roots to trust: set `tls` of Channel::builder, or use tcp://";
            Err(ConfigError::new("url", url.to_string(), reason).into())
        }
        (Some(tls), Url::Tls { host, .. }) if !tls.has_server_name() => {
            let named = tls.for_server(host);
            named.map(Some).map_err(|e| ConfigError::new("url", url.to_string(), e.to_string()).into())
        }
        (Some(_), Url::Tcp { .. } | Url::Unix(_)) => {
            let reason =
                "`tls` was set, and nothing would be encrypted at this address: use tls://, or leave `tls` out";
            Err(ConfigError::new("url", url.to_string(), reason).into())
        }
        (tls, _) => Ok(tls),
    }
}
