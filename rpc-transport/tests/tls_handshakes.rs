//! Handshakes on real sockets: which stage one is at, what is left when it ends there, and whose its time is.

#[path = "support/certificates.rs"]
mod certificates;
mod support;

use std::any::Any;
use std::io::Write;
use std::net::TcpStream;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use certificates::Authority;
use rpc_transport::diagnose::During;
use rpc_transport::rustls::crypto::{CryptoProvider, SupportedKxGroup, ring};
use rpc_transport::rustls::pki_types::pem::PemObject;
use rpc_transport::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rpc_transport::rustls::server::{ClientHello, ResolvesServerCert};
use rpc_transport::rustls::sign::{CertifiedKey, SingleCertAndKey};
use rpc_transport::rustls::{ClientConnection, ServerConfig, StreamOwned, version};
use rpc_transport::{
    CloseReason, ConnLimits, Cx, Frame, Handler, ListenLimits, ListenOptions, ListenerHandle, Message, SnapshotOptions,
    TlsServer,
};
use support::*;

fn provider(groups: &[&'static dyn SupportedKxGroup]) -> CryptoProvider {
    CryptoProvider { kx_groups: groups.to_vec(), ..ring::default_provider() }
}

fn key_and_chain(authority: &Authority) -> CertifiedKey {
    let identity = authority.issue("localhost");
    let chain = CertificateDer::pem_slice_iter(identity.chain.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    CertifiedKey::new(chain, ring::sign::any_supported_type(&key).unwrap())
}

/// A server that exchanges keys over `groups` only: it asks a client that begins with another group for a second ClientHello.
fn server(groups: &[&'static dyn SupportedKxGroup], shows: impl ResolvesServerCert + 'static) -> TlsServer {
    let config = ServerConfig::builder_with_provider(Arc::new(provider(groups)));
    let config = config.with_protocol_versions(&[&version::TLS13]).unwrap().with_no_client_auth();
    TlsServer::from_rustls(config.with_cert_resolver(Arc::new(shows)))
}

/// A client that has said its first words, and has heard all that the server says to them.
fn stop_at_the_answer(
    mut peer: ClientConnection,
    listener: &ListenerHandle,
) -> StreamOwned<ClientConnection, TcpStream> {
    let mut socket = dial(listener);
    peer.write_tls(&mut socket).unwrap();
    while !peer.wants_write() {
        peer.read_tls(&mut socket).unwrap();
        peer.process_new_packets().unwrap();
    }
    StreamOwned::new(peer, socket)
}

/// A server that asks for another ClientHello has spent nothing yet: whoever leaves it at that takes no place from clients that were
/// answered. Whoever goes on is answered, and comes in.
#[test]
fn a_request_for_another_hello_is_no_answer() {
    const MOST: usize = 4;
    let authority = Authority::new("tests");
    let pool = pool(1);
    let (tell, told) = mpsc::channel();
    let options = ListenOptions {
        tls: Some(server(&[ring::kx_group::SECP384R1], SingleCertAndKey::from(key_and_chain(&authority)))),
        listen: ListenLimits { max_handshakes: MOST, ..ListenLimits::default() },
        ..ListenOptions::default()
    };
    let listener = listen(&pool, "tls://127.0.0.1:0", options, move |_| Script::new().told_to(tell.clone()));
    let client = |groups: &[&'static dyn SupportedKxGroup]| {
        stop_at_the_answer(authority.foreign_by(provider(groups), &[&version::TLS13]), &listener)
    };
    let mut first = client(&[ring::kx_group::SECP384R1]);
    let mut asked: Vec<_> =
        (0..2 * MOST).map(|_| client(&[ring::kx_group::X25519, ring::kx_group::SECP384R1])).collect();
    assert!(
        !first.conn.is_handshaking() && asked.iter().all(|peer| peer.conn.is_handshaking()),
        "those are asked again"
    );
    for _ in 0..=MOST {
        assert_eq!(hear(&told), "closed: the connection reached its limit max_handshakes");
    }
    for (peer, text) in [(&mut first, "first"), (asked.last_mut().unwrap(), "last")] {
        peer.write_all(&wire(text.as_bytes())).unwrap();
        peer.flush().unwrap();
        assert_eq!(hear(&told), text);
    }
}

struct Close;

impl Message for Close {
    fn undelivered(self: Arc<Self>) {}
}

/// Echoes, closes when it is told to, and outlasts its socket until it is told that.
struct Stays(mpsc::Sender<String>);

impl Handler for Stays {
    fn on_frame(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) {
        reply(cx, frame.bytes());
    }

    fn on_message(&mut self, cx: &mut Cx<'_>, _: Arc<dyn Any + Send + Sync>) {
        cx.close(CloseReason::Local("told to"));
    }

    fn outlasts(&mut self, _: &mut Cx<'_>, reason: &CloseReason) -> bool {
        self.0.send(format!("outlasts: {reason}")).unwrap_or(());
        true
    }

    fn on_close(&mut self, _: &mut Cx<'_>, reason: &CloseReason) {
        self.0.send(format!("closed: {reason}")).unwrap_or(());
    }
}

/// Whatever ends a handshake that was answered, and whoever stays behind: it is not counted any more, once, and the next client comes in.
#[test]
fn a_handshake_may_end_behind_its_answer() {
    //           handshake_timeout, what its handler hears; the last is when it is told to close
    let table = [
        (
            Duration::from_millis(500),
            &[
                "outlasts: the connection reached its limit handshake_timeout",
                "closed: the connection reached its limit handshake_timeout",
            ][..],
        ),
        (DEADLINE, &["closed: closed by this side: told to"]),
    ];
    for (handshake_timeout, ends) in table {
        let authority = Authority::new("tests");
        let pool = pool(1);
        let (tell, told) = mpsc::channel();
        let options = ListenOptions {
            tls: Some(TlsServer::builder(authority.issue("localhost").identity()).build().unwrap()),
            conn: ConnLimits { handshake_timeout, ..ConnLimits::default() },
            ..ListenOptions::default()
        };
        let url = "tls://127.0.0.1:0".parse().unwrap();
        let listener = pool.listen(&url, options, move |_| (framing(), Stays(tell.clone()))).unwrap();
        let peer = stop_at_the_answer(authority.foreign(&[&version::TLS13]), &listener);
        let snapshot = pool.snapshot(&SnapshotOptions::default());
        let id = snapshot.reactors[0].inside.as_ref().expect("it answers").connections[0].id;
        let [before @ .., last] = ends else { unreachable!() };
        for end in before {
            assert_eq!(hear(&told), *end);
        }
        pool.handles()[0].send(id, Arc::new(Close));
        assert_eq!(hear(&told), *last);
        drop(peer);
        until("it is gone", || listener.connections() == 0);
        let mut next = StreamOwned::new(authority.foreign(&[&version::TLS13]), dial(&listener));
        assert_eq!(call(&mut next, b"next"), b"next", "{last}");
    }
}

/// Takes its time to choose a certificate, as handshakes take theirs.
#[derive(Debug)]
struct Ponders(Arc<CertifiedKey>);

const PONDERS: Duration = Duration::from_millis(100);

impl ResolvesServerCert for Ponders {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let end = Instant::now() + PONDERS;
        while Instant::now() < end {
            std::hint::spin_loop();
        }
        Some(Arc::clone(&self.0))
    }
}

/// What handshakes take is the time of the reactor and of their connections: none of it is sleep.
#[test]
fn who_observes_sees_the_time_of_handshakes() {
    const HANDSHAKES: u32 = 5;
    let authority = Authority::new("tests");
    let shows = Ponders(Arc::new(key_and_chain(&authority)));
    let tls = Some(server(&[ring::kx_group::X25519], shows));
    let pool = pool(1);
    let options = ListenOptions { tls, ..ListenOptions::default() };
    let listener = listen(&pool, "tls://127.0.0.1:0", options, |_| Script::new());
    let _observation = pool.observe();
    on(&pool.handles()[0], || ()); // from now on
    let peers: Vec<_> = (0..HANDSHAKES)
        .map(|_| {
            let mut peer = StreamOwned::new(authority.foreign(&[&version::TLS13]), dial(&listener));
            assert_eq!(call(&mut peer, b"hi"), b"hi");
            peer
        })
        .collect();
    let snapshot = pool.snapshot(&SnapshotOptions::default());
    let inside = snapshot.reactors[0].inside.as_ref().expect("it answers");
    let seen = inside.seen.as_ref().expect("it is observed");
    let busy = seen.span.mul_f64(seen.busy.expect("it sleeps in its driver"));
    assert!(busy >= HANDSHAKES * PONDERS / 2 && seen.turn.longest() >= PONDERS, "{seen}");
    let stall = seen.longest_stall.expect("there was one");
    assert!(stall.lasted >= PONDERS && matches!(stall.during, During::Connection(_)), "{stall}");
    assert_eq!(inside.connections.len(), peers.len());
    assert!(inside.connections.iter().all(|conn| conn.seen.is_some_and(|seen| seen.busy >= PONDERS)), "{snapshot}");
}
