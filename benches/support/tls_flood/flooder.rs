//! Who floods: as many connections as it can, each of which costs it as little as its kind allows.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use clap::ValueEnum;
use rpc_transport::rustls::client::Resumption;
use rpc_transport::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rpc_transport::rustls::crypto::ring;
use rpc_transport::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rpc_transport::rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};
use socket2::{Domain, Socket, Type};

use super::CLIENT_CORE;
use crate::Failure;

/// What is done with each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Flood {
    /// Connects, and says nothing.
    Silence,
    /// Half a ClientHello, and then nothing.
    HalfHello,
    /// A whole ClientHello, and then nothing: the server has paid for a key exchange and a signature.
    Hello,
    /// A whole ClientHello, and behind it what no keys fit.
    Garbage,
    /// A whole handshake, and the end.
    Handshake,
}

impl Flood {
    /// All of them, as the table has them.
    pub(super) const ALL: [Flood; 5] =
        [Flood::Silence, Flood::HalfHello, Flood::Hello, Flood::Garbage, Flood::Handshake];

    /// As the command line has it.
    pub(super) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Flood::Silence => "connects and says nothing",
            Flood::HalfHello => "half a ClientHello, then nothing",
            Flood::Hello => "a whole ClientHello, then nothing",
            Flood::Garbage => "a ClientHello and garbage",
            Flood::Handshake => "whole handshakes, closed at once",
        }
    }
}

/// Connections that are held, more than the server lets be in a handshake; then the oldest is reset for each new one.
const HELD: usize = 2_000;

/// Whole handshakes under way: the flooder has to answer in each.
const AT_ONCE: usize = 64;

/// A server that does not answer a flooder is not waited for.
const PATIENCE: Duration = Duration::from_millis(500);

/// Floods from `go` to `stop`, and says after each how many connections that were; until the input ends.
pub(super) fn flood(kind: Flood, address: SocketAddr) -> Result<(), Failure> {
    bench_driver::pin(CLIENT_CORE)?;
    let (on, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let config = Arc::new(gullible()?);
    let mut hello = Vec::new();
    client(&config)?.write_tls(&mut hello)?;
    let said = match kind {
        Flood::Silence | Flood::Handshake => Vec::new(),
        Flood::HalfHello => hello[..hello.len() / 2].to_vec(),
        Flood::Hello => hello,
        // A record under keys, of as much as the smallest frame would be.
        Flood::Garbage => [&hello[..], &[0x17, 3, 3, 0, 64], &[0x5a; 64]].concat(),
    };
    let loops = if kind == Flood::Handshake { AT_ONCE } else { 1 };
    let floods: Vec<_> = (0..loops)
        .map(|_| {
            let (on, count, said, config) = (Arc::clone(&on), Arc::clone(&count), said.clone(), Arc::clone(&config));
            std::thread::spawn(move || {
                loop {
                    while !on.load(Ordering::Acquire) {
                        std::thread::park();
                    }
                    let mut held = VecDeque::with_capacity(HELD);
                    while on.load(Ordering::Acquire) {
                        // Whatever goes wrong with one, the next may fare better.
                        let done = match kind {
                            Flood::Handshake => shake(&config, address),
                            _ => begin(&said, address).map(|socket| held.push_back(socket)),
                        };
                        count.fetch_add(u64::from(done.is_ok()), Ordering::Relaxed);
                        if held.len() >= HELD {
                            held.pop_front();
                        }
                    }
                }
            })
        })
        .collect();
    for line in io::stdin().lock().lines() {
        let go = line? == "go";
        on.store(go, Ordering::Release);
        match go {
            true => floods.iter().for_each(|flood| flood.thread().unpark()),
            false => println!("{}", count.swap(0, Ordering::Relaxed)),
        }
    }
    Ok(())
}

/// A connection whose end is a reset: nothing of it stays, at either side.
fn begin(said: &[u8], address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    socket.set_linger(Some(Duration::ZERO))?;
    // On this machine it is established by then, unless the server's queue is full.
    if let Err(e) = socket.connect(&address.into())
        && e.raw_os_error() != Some(nix::errno::Errno::EINPROGRESS as i32)
    {
        return Err(e);
    }
    match socket.send(said)? {
        n if n == said.len() => Ok(socket),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

fn shake(config: &Arc<ClientConfig>, address: SocketAddr) -> io::Result<()> {
    let mut socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.connect_timeout(&address.into(), PATIENCE)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut client = client(config).map_err(io::Error::other)?;
    while client.is_handshaking() {
        client.complete_io(&mut Both(&mut socket))?;
    }
    Ok(())
}

/// As rustls wants it.
struct Both<'a>(&'a mut Socket);

impl Read for Both<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Both<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn client(config: &Arc<ClientConfig>) -> Result<ClientConnection, Failure> {
    Ok(ClientConnection::new(Arc::clone(config), ServerName::try_from("localhost")?)?)
}

fn gullible() -> Result<ClientConfig, Failure> {
    let config = ClientConfig::builder_with_provider(ring::default_provider().into());
    let config = config.with_safe_default_protocol_versions()?.dangerous();
    let mut config = config.with_custom_certificate_verifier(Arc::new(Gullible)).with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Believes everybody: who floods has no use for the truth, and its price.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
