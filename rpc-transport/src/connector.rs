//! Connecting: one connection to one endpoint, within a deadline.

use std::io;
use std::sync::Arc;

use crate::config::ConnLimits;
use crate::conn::{self, ConnId, Framed, Setup};
use crate::framing::Framing;
use crate::handler::Handler;
use crate::reactor::ReactorHandle;
use crate::reactor::core::try_with;
use crate::socket::SocketOptions;
use crate::stats::MemoryBudget;
#[cfg(feature = "tls")]
use crate::tls::{Session, TlsClient};
use crate::url::{Endpoint, Url};

/// How to connect; shared by all connections of a client.
#[derive(Clone, Debug, Default)]
pub struct Connector {
    /// Limits of each connection.
    pub limits: Arc<ConnLimits>,
    /// Options of the sockets.
    pub socket: SocketOptions,
    /// The buffered bytes that all connections share.
    pub memory: Arc<MemoryBudget>,
    /// Connections are under TLS: the handshake is a part of connecting, and its failure is one of that. Default: not.
    #[cfg(feature = "tls")]
    pub tls: Option<TlsClient>,
}

impl Connector {
    /// Starts connecting on the reactor that this thread is turning; `None` on any other thread (see
    /// [`ReactorHandle::run`](crate::ReactorHandle::run)), and when the reactor is stopping: the handler is dropped then.
    ///
    /// The handler can be given messages at once; what it writes leaves when the connection is established. If it never is,
    /// the handler hears so in [`Handler::on_close`], after this has returned.
    pub fn connect<F: Framing + 'static, H: Handler>(
        &self,
        endpoint: &Endpoint,
        framing: F,
        handler: H,
    ) -> Option<ConnId> {
        let setup = Setup {
            peer: self.peer(endpoint).to_string().into(),
            admission: None,
            limits: Arc::clone(&self.limits),
            memory: Arc::clone(&self.memory),
            reactor: running_reactor()?,
            #[cfg(feature = "tls")]
            tls: self.tls.as_ref().map(|client| Box::new(Session::client(client, endpoint))),
        };
        let pipeline = Box::new(Framed { framing, handler });
        Some(conn::open(setup, pipeline, |driver, token| driver.connect(endpoint, &self.socket, token)))
    }

    /// The addresses of a URL, by [`Url::resolve`], if they are to be spoken to as this connector does: a mistake in a URL does not send in
    /// plain text what was meant for TLS. What is connected to is an address:
    /// the settings of `tls` have the name that the certificate must have.
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for a `tls://` URL without `tls`, another URL with it, or a name without an address.
    pub fn endpoints(&self, url: &Url) -> io::Result<Vec<Endpoint>> {
        #[cfg(feature = "tls")]
        let has_tls = self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        let has_tls = false;
        if url.is_tls() != has_tls {
            let why = match has_tls {
                false => "TLS has no settings; set `tls` of the connector (feature `tls`), or use tcp://",
                true => "it is not for TLS, and `tls` of the connector is set; use tls://",
            };
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("cannot connect to {url}: {why}")));
        }
        url.resolve().map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))
    }

    fn peer(&self, endpoint: &Endpoint) -> Url {
        let peer = Url::from(endpoint);
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            return peer.secured();
        }
        peer
    }
}

/// This thread's reactor, unless it is ending.
fn running_reactor() -> Option<ReactorHandle> {
    try_with(|core| (!core.stopping).then(|| core.handle.clone())).flatten()
}
