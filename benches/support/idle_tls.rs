//! What an idle fleet under TLS needs: a certificate, and who trusts it.

use std::net::TcpStream;
use std::sync::Arc;

use rpc_transport::rustls::crypto::ring;
use rpc_transport::rustls::pki_types::pem::PemObject;
use rpc_transport::rustls::pki_types::{CertificateDer, ServerName};
use rpc_transport::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rpc_transport::{TlsIdentity, TlsServer};

use crate::Failure;

/// A server's settings with a certificate that has just been made, in PEM.
pub(crate) fn server() -> Result<(TlsServer, String), Failure> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let certificate = made.cert.pem();
    let identity = TlsIdentity::from_pem(certificate.as_bytes(), made.signing_key.serialize_pem().as_bytes())?;
    Ok((TlsServer::builder(identity).build()?, certificate))
}

/// Clients that are not ours.
pub(crate) struct Client(Arc<ClientConfig>);

impl Client {
    pub(crate) fn new(certificate: &str) -> Result<Client, Failure> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(certificate.as_bytes())?)?;
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions()?;
        Ok(Client(Arc::new(config.with_root_certificates(roots).with_no_client_auth())))
    }

    /// A connection that has not shaken hands yet. Its TLS is forgotten with this, not its socket: who says nothing more does not need it.
    pub(crate) fn over<'a>(
        &self,
        socket: &'a mut TcpStream,
    ) -> Result<StreamOwned<ClientConnection, &'a mut TcpStream>, Failure> {
        let name = ServerName::try_from("localhost")?;
        Ok(StreamOwned::new(ClientConnection::new(Arc::clone(&self.0), name)?, socket))
    }
}
