//! The same at `tls://` addresses: sockets that are handed over and those that were passed, and the certificate that each process has read for itself.

use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rpc_core::Channel;
use rpc_transport::rustls::client::Resumption;
use rpc_transport::rustls::crypto::ring;
use rpc_transport::rustls::pki_types::{CertificateDer, ServerName};
use rpc_transport::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rpc_transport::{TlsClient, TlsRoots};
use testee::idl::testee::{Blob, TesteeClient};
use testee::{scratch, size};

use crate::activation::activated;
use crate::chain::{Chain, LIMIT};
use crate::load::{Load, one_call};
use crate::unharmed;

/// Who issues the server's certificates, and the file where the server finds the newest.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    roots: TlsRoots,
    /// One for all clients, so that they try to resume what the process before has begun.
    config: Arc<ClientConfig>,
    path: PathBuf,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let own = params.self_signed(&key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(own.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(ring::default_provider().into());
        let config = config.with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let roots = TlsRoots::from_pem(own.pem().as_bytes()).unwrap();
        Authority { issuer: Issuer::new(params, key), roots, config: Arc::new(config), path: scratch("identity") }
    }

    /// A new certificate for the server, which reads it when it starts.
    fn issue(&self) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        let issued = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(&self.path, issued.pem() + &key.serialize_pem()).unwrap();
        issued.der().clone()
    }

    fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// Calls over two connections, and connections for one call each.
    fn load(&self, chain: &Chain, lanes: usize) -> Load {
        let tls = TlsClient::builder(self.roots.clone()).server_name("localhost").build().unwrap();
        let (config, addr) = (Arc::clone(&self.config), chain.addr().to_owned());
        Load::by(Channel::builder(chain.url()).tls(tls), lanes, move |number| one_call(dial(&config, &addr)?, number))
    }

    fn client(&self, chain: &Chain) -> TesteeClient {
        let tls = TlsClient::builder(self.roots.clone()).server_name("localhost").build().unwrap();
        let channel = Channel::builder(chain.url()).tls(tls).connections(1).timeout(LIMIT).build();
        TesteeClient::new(channel.unwrap())
    }

    /// The certificate that a new connection is shown.
    fn shown(&self, chain: &Chain) -> CertificateDer<'static> {
        // A session that is resumed has no certificate of its own.
        let mut config = ClientConfig::clone(&self.config);
        config.resumption = Resumption::disabled();
        let mut stream = dial(&Arc::new(config), chain.addr()).unwrap();
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).unwrap();
        }
        stream.conn.peer_certificates().unwrap()[0].clone().into_owned()
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn dial(config: &Arc<ClientConfig>, addr: &str) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let socket = TcpStream::connect(addr)?;
    socket.set_read_timeout(Some(LIMIT))?;
    let name = ServerName::try_from("localhost").unwrap();
    let client = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    Ok(StreamOwned::new(client, socket))
}

/// Each process has a certificate of its own, which connections see from then on; and nobody notices anything else.
#[test]
fn t36_upgrades_under_tls_fail_no_call_and_renew_the_certificate() {
    let authority = Authority::new();
    let mut certificate = authority.issue();
    let mut chain = Chain::start(&["tls://127.0.0.1:0"], &["--identity", authority.path()]);
    assert!(chain.url().starts_with("tls://"), "{}", chain.url());
    let load = authority.load(&chain, 64);
    let times = size(3, 20);
    for round in 0..times {
        load.goes_on();
        assert_eq!(authority.shown(&chain), certificate, "round {round}");
        certificate = authority.issue();
        let figures = chain.upgrade();
        assert_eq!((figures.get("cut_calls"), figures.get("cut_connections")), (0, 0), "round {round}");
        assert_eq!(figures.get("accepted"), figures.get("replied"), "round {round}: each request has its reply");
        assert_eq!(authority.shown(&chain), certificate, "round {round}: that of the new process");
        assert!(!load.has_failed(), "round {round}: {:?}", load.end().failures);
    }
    load.goes_on();
    unharmed(&format!("{times} upgrades, TLS"), &load.end());
    assert_eq!(chain.left_over(), [""; 0]);
    chain.signal("TERM");
    chain.stopped();
}

/// By its name, as the only one there is, and by its address: under TLS all of them, and after an upgrade, too.
#[test]
fn a_socket_that_is_passed_is_served_under_tls() {
    let authority = Authority::new();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("tls://{}", socket.local_addr().unwrap());
    for asked in ["fd://web", "fd://", &url] {
        let passed = socket.try_clone().unwrap();
        let first = authority.issue();
        let args = ["--identity", authority.path()];
        let mut chain = Chain::start_by(&[asked], &args, |program: &Path, args| activated(program, args, passed));
        assert_eq!(chain.url(), url, "{asked}");
        let load = authority.load(&chain, 16);
        load.goes_on();
        assert_eq!(authority.shown(&chain), first, "{asked}");
        let second = authority.issue();
        chain.upgrade();
        assert_eq!(authority.shown(&chain), second, "{asked}");
        load.goes_on();
        unharmed(&format!("{asked} under TLS"), &load.end());
        authority.client(&chain).echo(Blob::default()).wait().expect("the next one serves");
        chain.signal("TERM");
        chain.stopped();
    }
}

/// A new process whose certificate cannot be read is none: the old one goes on with its own.
#[test]
fn t36_a_new_process_without_its_certificate_changes_nothing() {
    let authority = Authority::new();
    let first = authority.issue();
    let mut chain = Chain::start(&["tls://127.0.0.1:0"], &["--identity", authority.path()]);
    let load = authority.load(&chain, 16);
    load.goes_on();
    for wrong in ["", "no certificate"] {
        fs::write(&authority.path, wrong).unwrap();
        let said = chain.upgrade_in_vain();
        assert!(said.contains("before it had taken the sockets"), "{said}");
        assert_eq!(authority.shown(&chain), first);
        load.goes_on();
    }
    let second = authority.issue();
    chain.upgrade();
    assert_eq!(authority.shown(&chain), second);
    load.goes_on();
    unharmed("two without a certificate", &load.end());
}
