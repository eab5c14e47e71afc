//! Certificates for tests: an authority, and what it issues.
#![allow(dead_code, unreachable_pub)] // each test file uses its part

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rpc_transport::rustls::crypto::{CryptoProvider, ring};
use rpc_transport::rustls::pki_types::pem::PemObject;
use rpc_transport::rustls::pki_types::{CertificateDer, ServerName};
use rpc_transport::rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};
use rpc_transport::{TlsIdentity, TlsRoots};

pub struct Authority {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A chain and its key, in PEM.
pub struct Issued {
    pub chain: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { pem, issuer: Issuer::new(params, key) }
    }

    pub fn roots(&self) -> TlsRoots {
        TlsRoots::from_pem(self.pem.as_bytes()).unwrap()
    }

    /// A peer that is not ours: rustls as a library, which trusts this authority.
    pub fn foreign(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConnection {
        self.foreign_by(ring::default_provider(), versions)
    }

    /// As [`Authority::foreign`], of what `provider` has.
    pub fn foreign_by(
        &self,
        provider: CryptoProvider,
        versions: &[&'static SupportedProtocolVersion],
    ) -> ClientConnection {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(provider));
        let config = config.with_protocol_versions(versions).unwrap();
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.enable_secret_extraction = true; // for `Forger`
        ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap()
    }

    /// A certificate for `name`, of an ordinary age.
    pub fn issue(&self, name: &str) -> Issued {
        self.issue_for_years(name, 2000, 4000)
    }

    pub fn issue_for_years(&self, name: &str, from: i32, to: i32) -> Issued {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(to, 1, 1);
        let key = KeyPair::generate().unwrap();
        let chain = params.signed_by(&key, &self.issuer).unwrap().pem();
        Issued { chain, key: key.serialize_pem() }
    }
}

impl Issued {
    pub fn identity(&self) -> TlsIdentity {
        TlsIdentity::from_pem(self.chain.as_bytes(), self.key.as_bytes()).unwrap()
    }
}
