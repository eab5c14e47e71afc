//! Connecting: one connection to one endpoint, within a deadline.

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
