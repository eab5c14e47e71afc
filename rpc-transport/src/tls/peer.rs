//! What a handshake has told of the other end.

use std::fmt;

use rustls::CommonState;
use rustls::pki_types::CertificateDer;

/// What a TLS handshake has agreed on, and whom it has shown.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TlsPeer {
    certificates: Box<[CertificateDer<'static>]>,
    alpn: Option<Box<[u8]>>,
    server_name: Option<Box<str>>,
    version: &'static str,
    cipher_suite: &'static str,
    resumed: bool,
}

impl TlsPeer {
    pub(super) fn of(state: &CommonState, server_name: Option<Box<str>>) -> TlsPeer {
        TlsPeer {
            certificates: state.peer_certificates().unwrap_or_default().into(),
            alpn: state.alpn_protocol().map(Box::from),
            server_name,
            version: state.protocol_version().and_then(|version| version.as_str()).unwrap_or("unknown"),
            cipher_suite: state.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or("unknown"),
            resumed: matches!(state.handshake_kind(), Some(rustls::HandshakeKind::Resumed)),
        }
    }

    /// The peer's verified certificate chain in DER, its own certificate first. Empty for a client that has shown none.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// The application protocol that both agreed on, if any.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.alpn.as_deref()
    }

    /// At a server: the name that the client asked for (SNI), if any. A client may ask for any name; it proves nothing.
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// Such as `TLSv1_3`.
    pub fn version(&self) -> &'static str {
        self.version
    }

    /// Such as `TLS13_AES_256_GCM_SHA384`.
    pub fn cipher_suite(&self) -> &'static str {
        self.cipher_suite
    }

    /// Whether an earlier session was resumed. The certificates are those of that session then.
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }
}

impl fmt::Debug for TlsPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsPeer")
            .field("version", &self.version)
            .field("cipher_suite", &self.cipher_suite)
            .field("certificates", &self.certificates.len())
            .field("alpn", &self.alpn.as_deref().map(String::from_utf8_lossy))
            .field("server_name", &self.server_name)
            .field("resumed", &self.resumed)
            .finish()
    }
}
