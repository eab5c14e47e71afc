//! What a listener needs for TLS, and how it is renewed under way.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert, UnbufferedServerConnection, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, version};

use super::error::TlsConfigError;
use super::identity::{TlsIdentity, TlsRoots};

/// The server's side of TLS, shared by all connections of a listener, and by all clones.
///
/// [`TlsServer::reload`] renews it for handshakes that begin from then on; connections that there are stay as they are. Sessions are
/// resumed by tickets, but not across a reload: who may resume was decided by what is replaced.
#[derive(Clone)]
pub struct TlsServer(Arc<Mutex<Arc<ServerConfig>>>);

impl TlsServer {
    /// A server that shows `identity`.
    pub fn builder(identity: TlsIdentity) -> TlsServerBuilder {
        TlsServerBuilder { identity, client_roots: None, optional: false, alpn: Vec::new() }
    }

    /// With rustls's own settings, whatever they are; early data is switched off.
    pub fn from_rustls(mut config: ServerConfig) -> TlsServer {
        config.max_early_data_size = 0;
        config.send_half_rtt_data = false; // an unfinished handshake has nothing to say
        config.cert_resolver = Arc::new(Noting(config.cert_resolver));
        TlsServer(Arc::new(Mutex::new(Arc::new(config))))
    }

    /// From now on handshakes are made with what `new` has, such as renewed certificates.
    pub fn reload(&self, new: &TlsServer) {
        let config = Arc::clone(&new.0.lock());
        *self.0.lock() = config;
    }

    /// The server's side of a new connection, and the name that its client asks for is noted.
    pub(super) fn accept(&self) -> Result<UnbufferedServerConnection, rustls::Error> {
        let config = Arc::clone(&self.0.lock());
        UnbufferedServerConnection::new(config)
    }
}

impl fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TLS server")
    }
}

/// Settings of a [`TlsServer`].
#[derive(Clone, Debug)]
pub struct TlsServerBuilder {
    identity: TlsIdentity,
    client_roots: Option<TlsRoots>,
    optional: bool,
    alpn: Vec<Vec<u8>>,
}

impl TlsServerBuilder {
    /// Clients must show a certificate that one of these has issued; handlers see it. Default: clients are not asked.
    pub fn client_roots(mut self, roots: TlsRoots) -> Self {
        self.client_roots = Some(roots);
        self
    }

    /// Clients are asked for a certificate, and may come without one. One that is shown is verified all the same.
    pub fn client_optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// Application protocols that the server speaks, best first. Default: none, and what clients offer is ignored. A client that offers
    /// some, and none of these, is refused; one that offers none is not.
    pub fn alpn<P: Into<Vec<u8>>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.alpn = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// TLS 1.3 and 1.2 with rustls's defaults, and tickets for resumption under keys that are changed every six hours.
    ///
    /// # Errors
    /// A key that does not belong to the certificate, a kind of key that is not known, no root for clients.
    pub fn build(self) -> Result<TlsServer, TlsConfigError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .map_err(|e| TlsConfigError::new("versions", e))?;
        let builder = match self.client_roots {
            None => builder.with_no_client_auth(),
            Some(roots) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots.0), provider);
                let verifier = if self.optional { verifier.allow_unauthenticated() } else { verifier };
                builder.with_client_cert_verifier(
                    verifier.build().map_err(|e| TlsConfigError::new("the roots of clients", e))?,
                )
            }
        };
        let TlsIdentity { chain, key } = self.identity;
        let mut config =
            builder.with_single_cert(chain, key).map_err(|e| TlsConfigError::new("the server's identity", e))?;
        config.alpn_protocols = self.alpn;
        config.ticketer = ring::Ticketer::new().map_err(|e| TlsConfigError::new("tickets", e))?;
        Ok(TlsServer::from_rustls(config))
    }
}

thread_local! {
    /// The name in the ClientHello that this thread is looking at: a handshake's step does not leave its thread.
    static ASKED_FOR: RefCell<Option<Box<str>>> = const { RefCell::new(None) };
}

/// The name that a client has asked for in the step of a handshake that this thread has just made.
pub(super) fn take_asked_for() -> Option<Box<str>> {
    ASKED_FOR.take()
}

/// Chooses as another does, and notes for whom: rustls tells nobody else of the name.
#[derive(Debug)]
struct Noting(Arc<dyn ResolvesServerCert>);

impl ResolvesServerCert for Noting {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        ASKED_FOR.set(hello.server_name().map(Box::from));
        self.0.resolve(hello)
    }

    fn only_raw_public_keys(&self) -> bool {
        self.0.only_raw_public_keys()
    }
}
