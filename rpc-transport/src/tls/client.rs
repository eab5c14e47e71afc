//! What a connector needs for TLS.

use std::fmt;
use std::sync::Arc;

use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, version};

use super::error::TlsConfigError;
use super::identity::{TlsIdentity, TlsRoots};
use crate::url::Endpoint;

/// Sessions that a client keeps for resumption, one for each server name.
const SESSIONS: usize = 256;

/// The client's side of TLS, shared by all connections of a connector, and by all clones.
#[derive(Clone)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
}

impl TlsClient {
    /// A client that trusts servers whose certificates `roots` have issued, for the name they are called by.
    pub fn builder(roots: TlsRoots) -> TlsClientBuilder {
        TlsClientBuilder { roots, identity: None, name: None, alpn: Vec::new() }
    }

    /// With rustls's own settings, whatever they are; early data is switched off.
    pub fn from_rustls(mut config: ClientConfig) -> TlsClient {
        config.enable_early_data = false;
        TlsClient { config: Arc::new(config), name: None }
    }

    /// The same, for servers called by this name: it is sent to them, and their certificate must be for it. It may be an IP address, which
    /// is not sent.
    ///
    /// # Errors
    /// A name that is neither.
    pub fn for_server(&self, name: &str) -> Result<TlsClient, TlsConfigError> {
        Ok(TlsClient { config: Arc::clone(&self.config), name: Some(server_name(name)?) })
    }

    /// Whether the server's name was set. Without one its certificate must be for the address that is connected to.
    pub fn has_server_name(&self) -> bool {
        self.name.is_some()
    }

    /// The client's side of a new connection.
    pub(super) fn connect(&self, endpoint: &Endpoint) -> Result<UnbufferedClientConnection, rustls::Error> {
        let name = match (&self.name, endpoint) {
            (Some(name), _) => name.clone(),
            (None, Endpoint::Tcp(addr)) => ServerName::from(addr.ip()),
            (None, Endpoint::Unix(_)) => {
                return Err(rustls::Error::General("a server at a Unix socket needs a server name".to_owned()));
            }
        };
        UnbufferedClientConnection::new(Arc::clone(&self.config), name)
    }
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "TLS client for {}", name.to_str()),
            None => f.write_str("TLS client"),
        }
    }
}

/// Settings of a [`TlsClient`].
#[derive(Clone, Debug)]
pub struct TlsClientBuilder {
    roots: TlsRoots,
    identity: Option<TlsIdentity>,
    name: Option<String>,
    alpn: Vec<Vec<u8>>,
}

impl TlsClientBuilder {
    /// What this client shows to servers that ask for a certificate. Default: nothing.
    pub fn identity(mut self, identity: TlsIdentity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// The name that the server's certificate must be for. Default: what is connected to.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Application protocols that this client speaks, best first. Default: none is offered.
    pub fn alpn<P: Into<Vec<u8>>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.alpn = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// TLS 1.3 and 1.2 with rustls's defaults; sessions of up to 256 server names are resumed.
    ///
    /// # Errors
    /// A malformed server name, a key that does not belong to the certificate, a kind of key that is not known.
    pub fn build(self) -> Result<TlsClient, TlsConfigError> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .map_err(|e| TlsConfigError::new("versions", e))?
            .with_root_certificates(self.roots.0);
        let mut config = match self.identity {
            None => builder.with_no_client_auth(),
            Some(TlsIdentity { chain, key }) => builder
                .with_client_auth_cert(chain, key)
                .map_err(|e| TlsConfigError::new("the client's identity", e))?,
        };
        config.alpn_protocols = self.alpn;
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        let name = self.name.as_deref().map(server_name).transpose()?;
        Ok(TlsClient { name, ..TlsClient::from_rustls(config) })
    }
}

fn server_name(name: &str) -> Result<ServerName<'static>, TlsConfigError> {
    let parsed = ServerName::try_from(name.to_owned());
    parsed
        .map_err(|_| TlsConfigError::new(format!("server name `{name}`"), "it is neither a DNS name nor an IP address"))
}
