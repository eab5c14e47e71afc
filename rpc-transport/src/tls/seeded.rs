//! TLS whose every byte follows from a seed: for simulated networks and fuzz targets. It keeps no secret, and no build but those has it.
//!
//! What is random in TLS comes from three places. rustls asks a provider for it (`Seeded` answers); the library that exchanges keys has
//! its own source, so that a toy stands in for that here; and of the kinds of signatures Ed25519's have no randomness. Tickets are encrypted
//! by nobody: sessions are kept at the server, under numbers that are drawn. The clock stands still.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use rustls::crypto::{
    ActiveKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom, SharedSecret, SupportedKxGroup, ring,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{
    ClientConfig, Error, NamedGroup, PeerMisbehaved, RootCertStore, ServerConfig, SupportedProtocolVersion, version,
};

use super::{TlsClient, TlsServer};

/// The name that the certificate is for.
pub const NAME: &str = "simulated.test";

/// Its certificate, by itself: a test makes it anew and compares.
const CERTIFICATE: &[u8] = include_bytes!("seeded.der");

/// An Ed25519 key as PKCS #8 has it, up to the key itself.
const KEY_PREFIX: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

thread_local! {
    static RNG: RefCell<Rng> = const { RefCell::new(Rng::with_seed(0)) };
}

/// What this thread's TLS draws from now on follows from `seed`.
pub fn seed(seed: u64) {
    RNG.set(Rng::with_seed(seed));
}

/// What both sides of a conversation have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kind {
    /// TLS 1.2, and not 1.3.
    pub old: bool,
    /// The client shows a certificate, too, and the server asks for one.
    pub mutual: bool,
    /// Sessions are resumed.
    pub resumes: bool,
}

/// A server's settings.
pub fn server_config(kind: Kind) -> ServerConfig {
    let provider = provider();
    let builder = ServerConfig::builder_with_details(Arc::clone(&provider), Arc::new(Still));
    let builder = builder.with_protocol_versions(kind.versions()).expect("suites for both versions");
    let builder = match kind.mutual {
        false => builder.with_no_client_auth(),
        true => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots()), provider).build();
            builder.with_client_cert_verifier(verifier.expect("a root"))
        }
    };
    let mut config = builder.with_single_cert(vec![CertificateDer::from(CERTIFICATE)], key()).expect("they fit");
    if !kind.resumes {
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    config
}

/// A client's.
pub fn client_config(kind: Kind) -> ClientConfig {
    let builder = ClientConfig::builder_with_details(provider(), Arc::new(Still));
    let builder = builder.with_protocol_versions(kind.versions()).expect("suites for both versions");
    let builder = builder.with_root_certificates(roots());
    let mut config = match kind.mutual {
        false => builder.with_no_client_auth(),
        true => builder.with_client_auth_cert(vec![CertificateDer::from(CERTIFICATE)], key()).expect("they fit"),
    };
    if !kind.resumes {
        config.resumption = rustls::client::Resumption::disabled();
    }
    config
}

/// A server of [`server_config`].
pub fn server(kind: Kind) -> TlsServer {
    TlsServer::from_rustls(server_config(kind))
}

/// A client of [`client_config`], of servers called [`NAME`].
pub fn client(kind: Kind) -> TlsClient {
    TlsClient::from_rustls(client_config(kind)).for_server(NAME).expect("a name")
}

impl Kind {
    fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        const OLD: &[&SupportedProtocolVersion] = &[&version::TLS12];
        const NEW: &[&SupportedProtocolVersion] = &[&version::TLS13];
        if self.old { OLD } else { NEW }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider { kx_groups: vec![&Toy], secure_random: &Seeded, ..ring::default_provider() })
}

fn roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(CERTIFICATE)).expect("a root");
    roots
}

fn key() -> PrivateKeyDer<'static> {
    let der: Vec<u8> = KEY_PREFIX.into_iter().chain([7; 32]).collect();
    PrivateKeyDer::from(PrivatePkcs8KeyDer::from(der))
}

/// What this thread draws.
#[derive(Debug)]
struct Seeded;

impl SecureRandom for Seeded {
    fn fill(&self, buf: &mut [u8]) -> Result<(), GetRandomFailed> {
        RNG.with_borrow_mut(|rng| rng.fill(buf));
        Ok(())
    }
}

/// 2023-11-14, for ever.
#[derive(Debug)]
struct Still;

impl TimeProvider for Still {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(1_700_000_000)))
    }
}

/// Diffie and Hellman's exchange with numbers that anybody can take the logarithm of. Its messages have the name and the length of X25519's.
#[derive(Debug)]
struct Toy;

/// 2^61 - 1, a prime.
const PRIME: u128 = (1 << 61) - 1;

const SHARE: usize = 32;

fn power(base: u64, exponent: u64) -> u64 {
    let (mut base, mut result) = (u128::from(base) % PRIME, 1);
    for bit in 0..u64::BITS {
        if exponent >> bit & 1 == 1 {
            result = result * base % PRIME;
        }
        base = base * base % PRIME;
    }
    result as u64
}

fn share(number: u64) -> [u8; SHARE] {
    let mut share = [0; SHARE];
    share[..8].copy_from_slice(&number.to_be_bytes());
    share
}

impl SupportedKxGroup for Toy {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let secret = RNG.with_borrow_mut(|rng| rng.u64(..));
        Ok(Box::new(Exchange { secret, share: share(power(37, secret)) }))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

struct Exchange {
    secret: u64,
    share: [u8; SHARE],
}

impl ActiveKeyExchange for Exchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let peer: [u8; SHARE] = peer.try_into().map_err(|_| PeerMisbehaved::InvalidKeyShare)?;
        let (number, rest) = peer.split_first_chunk().expect("it is longer");
        if rest.iter().any(|byte| *byte != 0) {
            return Err(PeerMisbehaved::InvalidKeyShare.into());
        }
        Ok(SharedSecret::from(&share(power(u64::from_be_bytes(*number), self.secret))[..]))
    }

    fn pub_key(&self) -> &[u8] {
        &self.share
    }

    fn group(&self) -> NamedGroup {
        Toy.name()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    /// `UPDATE_GOLDEN=1` writes it.
    #[test]
    fn the_certificate_is_that_of_its_key() {
        let PrivateKeyDer::Pkcs8(key) = key() else { panic!("PKCS #8") };
        let key = KeyPair::try_from(&key).expect("a key");
        let mut params = CertificateParams::new(vec![NAME.to_owned()]).expect("a name");
        params.distinguished_name.push(rcgen::DnType::CommonName, NAME);
        let made = params.self_signed(&key).expect("a certificate");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/tls/seeded.der");
            std::fs::write(path, made.der()).expect("a file");
        } else {
            assert!(made.der().as_ref() == CERTIFICATE, "UPDATE_GOLDEN=1 writes it anew");
        }
    }

    #[test]
    fn both_ends_get_the_same_secret() {
        seed(3);
        let (one, other) = (Toy.start().expect("a toy"), Toy.start().expect("a toy"));
        let (of_one, of_other) = (one.pub_key().to_vec(), other.pub_key().to_vec());
        let secrets = [one.complete(&of_other), other.complete(&of_one)].map(|secret| secret.expect("a share"));
        assert_ne!(of_one, of_other);
        assert_eq!(secrets[0].secret_bytes(), secrets[1].secret_bytes());
    }
}
