//! Who one is, and whom one trusts: certificates and keys from PEM.

use std::fmt;
use std::fs;
use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::error::TlsConfigError;

/// A certificate chain and its private key: what one side of a connection shows the other. `Debug` does not show the key.
pub struct TlsIdentity {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

impl TlsIdentity {
    /// From PEM: the chain with the own certificate first, then those between it and the root; and a key in PKCS #8, PKCS #1 or SEC 1.
    ///
    /// # Errors
    /// No certificate or no key in the text, or text that is no PEM. Whether the two belong together is seen when a server or client is
    /// built.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<TlsIdentity, TlsConfigError> {
        Self::parse(chain, "the certificate chain", key, "the private key")
    }

    /// The same from two files, which may be one.
    ///
    /// # Errors
    /// As [`TlsIdentity::from_pem`], with the path; and what the system says to read them.
    pub fn from_files(chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<TlsIdentity, TlsConfigError> {
        let (chain, key) = (chain.as_ref(), key.as_ref());
        Self::parse(&read(chain)?, &chain.display().to_string(), &read(key)?, &key.display().to_string())
    }

    fn parse(chain: &[u8], chain_name: &str, key: &[u8], key_name: &str) -> Result<TlsIdentity, TlsConfigError> {
        let chain = certificates(chain, chain_name)?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|e| TlsConfigError::new(key_name, format!("no private key in PEM can be read there: {e}")))?;
        Ok(TlsIdentity { chain, key })
    }
}

impl Clone for TlsIdentity {
    fn clone(&self) -> Self {
        TlsIdentity { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "identity with a chain of {} certificates", self.chain.len())
    }
}

/// The certificates of the authorities that one side trusts.
#[derive(Clone, Debug)]
pub struct TlsRoots(pub(super) RootCertStore);

impl TlsRoots {
    /// From PEM with one certificate or several.
    ///
    /// # Errors
    /// No certificate in the text, or one that cannot be a root.
    pub fn from_pem(certificates: &[u8]) -> Result<TlsRoots, TlsConfigError> {
        Self::parse(certificates, "the trusted roots")
    }

    /// The same from a file, such as the system's `/etc/ssl/certs/ca-certificates.crt`.
    ///
    /// # Errors
    /// As [`TlsRoots::from_pem`], with the path; and what the system says to read it.
    pub fn from_file(path: impl AsRef<Path>) -> Result<TlsRoots, TlsConfigError> {
        let path = path.as_ref();
        Self::parse(&read(path)?, &path.display().to_string())
    }

    fn parse(pem: &[u8], name: &str) -> Result<TlsRoots, TlsConfigError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(pem, name)? {
            roots.add(certificate).map_err(|e| TlsConfigError::new(name, format!("a certificate is no root: {e}")))?;
        }
        Ok(TlsRoots(roots))
    }
}

fn certificates(pem: &[u8], name: &str) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|e| TlsConfigError::new(name, format!("it is no PEM: {e}")))?;
    match found.is_empty() {
        true => Err(TlsConfigError::new(name, "no certificate in PEM (-----BEGIN CERTIFICATE-----) is in it")),
        false => Ok(found),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsConfigError> {
    fs::read(path).map_err(|e| TlsConfigError::new(path.display().to_string(), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_pem_is_refused_by_name() {
        let check = |got: Result<(), TlsConfigError>, words: &[&str]| {
            let error = got.expect_err("refused").to_string();
            assert!(words.iter().all(|words| error.contains(words)), "{error}");
        };
        check(TlsIdentity::from_pem(b"", b"").map(drop), &["the certificate chain", "no certificate in PEM"]);
        check(TlsRoots::from_pem(b"hello").map(drop), &["the trusted roots", "no certificate in PEM"]);
        check(TlsRoots::from_file("/nowhere/ca.pem").map(drop), &["/nowhere/ca.pem", "No such file"]);
        let torn = b"-----BEGIN CERTIFICATE-----\nAAAA";
        check(TlsRoots::from_pem(torn).map(drop), &["it is no PEM"]);
    }
}
