//! The two sides of a connection under TLS, each of which may end alone: by a `close_notify`, which no bystander can make. The peer is rustls by itself.

#[path = "support/certificates.rs"]
mod certificates;
mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use bytes::Bytes;
use certificates::Authority;
use rpc_transport::rustls::{ClientConnection, StreamOwned, SupportedProtocolVersion, version};
use rpc_transport::{ConnLimits, ConnRef, ListenOptions, ListenerHandle, NotWritten, ReactorPool, TlsServer};
use support::*;

type Peer = StreamOwned<ClientConnection, TcpStream>;

/// TLS 1.2 wanted a `close_notify` answered by one at once, with what waits thrown away; nobody does that, and 1.3 has given it up.
const VERSIONS: [&SupportedProtocolVersion; 2] = [&version::TLS12, &version::TLS13];

/// A server whose handlers echo, tell what happens to them, and go on when their peer has closed its side.
struct Echo {
    authority: Authority,
    pool: ReactorPool,
    listener: ListenerHandle,
    conns: Receiver<ConnRef>,
    told: Receiver<String>,
}

impl Echo {
    fn start() -> Echo {
        let (authority, pool) = (Authority::new("tests"), pool(1));
        let ((tell_conn, conns), (tell, told)) = (channel(), channel());
        let tls = Some(TlsServer::builder(authority.issue("localhost").identity()).build().unwrap());
        let conn = ConnLimits { write_hard: 256 << 20, ..ConnLimits::default() };
        let options = ListenOptions { tls, conn, ..ListenOptions::default() };
        let listener = listen(&pool, "tls://127.0.0.1:0", options, move |_| {
            let (tell_conn, eof, end) = (tell_conn.clone(), tell.clone(), tell.clone());
            Script::new()
                .open(move |cx| tell_conn.send(cx.conn_ref()).unwrap_or(()))
                .frame(|cx, frame| match frame.bytes() {
                    b"quiet" => {}
                    other => reply(cx, other),
                })
                .eof(move |_| eof.send("eof".to_owned()).is_ok())
                .close(move |_, reason| end.send(reason.to_string()).unwrap_or(()))
        });
        Echo { authority, pool, listener, conns, told }
    }

    /// A peer that has been answered once, and its connection at the server.
    fn dial(&self) -> (Peer, ConnRef) {
        self.dial_by(&version::TLS13)
    }

    fn dial_by(&self, version: &'static SupportedProtocolVersion) -> (Peer, ConnRef) {
        let mut peer = StreamOwned::new(self.authority.foreign(&[version]), dial(&self.listener));
        assert_eq!(call(&mut peer, b"hello"), b"hello");
        (peer, hear(&self.conns))
    }
}

/// The peer says that it writes no more.
fn part(peer: &mut Peer) {
    peer.conn.send_close_notify();
    peer.flush().unwrap();
}

/// rustls would report the end of the socket, without a `close_notify`, as an error.
fn ends(peer: &mut Peer) {
    assert_eq!(peer.read(&mut [0]).expect("an end"), 0);
}

#[test]
fn a_peer_that_has_parted_still_hears() {
    for (version, and_its_socket) in VERSIONS.into_iter().flat_map(|version| [(version, false), (version, true)]) {
        let echo = Echo::start();
        let (mut peer, conn) = echo.dial_by(version);
        part(&mut peer);
        if and_its_socket {
            peer.sock.shutdown(Shutdown::Write).unwrap();
        }
        assert_eq!(hear(&echo.told), "eof");
        for text in ["later", "and later"] {
            assert_eq!(hear(&write(&conn, text.as_bytes())), Ok(()));
            assert_eq!(read_frame(&mut peer), text.as_bytes());
        }
        conn.run(|cx| cx.finish());
        ends(&mut peer);
        assert_eq!(hear(&echo.told), "the peer closed the connection", "both sides have");
        assert!(echo.told.try_recv().is_err(), "each once");
    }
}

#[test]
fn a_side_that_is_finished_goes_on_reading() {
    for version in VERSIONS {
        let echo = Echo::start();
        let (mut peer, conn) = echo.dial_by(version);
        // The end comes after what was written before it: more than the system takes while nobody reads.
        let large = vec![b'x'; 32 << 20];
        let written = write(&conn, &large);
        conn.run(|cx| cx.finish());
        assert!(read_frame(&mut peer) == large);
        ends(&mut peer);
        assert_eq!(hear(&written), Ok(()));
        assert_eq!(hear(&write(&conn, b"late")), Err(NotWritten));
        let frames = echo.pool.handles()[0].stats().frames.get();
        peer.write_all(&wire(b"quiet").repeat(3)).unwrap();
        until("they are heard", || echo.pool.handles()[0].stats().frames.get() == frames + 3);
        assert!(echo.told.try_recv().is_err(), "it is open");
        part(&mut peer);
        assert_eq!((hear(&echo.told), hear(&echo.told)), ("eof".into(), "the peer closed the connection".into()));
    }
}

#[test]
fn writing_after_the_end_of_this_side_ends_the_connection() {
    let echo = Echo::start();
    let (mut peer, conn) = echo.dial();
    conn.run(|cx| cx.finish());
    ends(&mut peer);
    peer.write_all(&wire(b"echo me")).unwrap();
    let end = hear(&echo.told);
    assert!(end.starts_with("the connection failed: ") && end.contains("broken pipe"), "{end}");
}

/// Both end at once: each hears all that the other has written, and an end that is no cut.
#[test]
fn sides_may_end_at_once() {
    let echo = Echo::start();
    let (mut peer, conn) = echo.dial();
    let gate = hold(conn.reactor());
    let written = write(&conn, b"last words");
    conn.run(|cx| cx.finish());
    part(&mut peer);
    drop(gate);
    assert_eq!(read_frame(&mut peer), b"last words");
    ends(&mut peer);
    assert_eq!(hear(&written), Ok(()));
    assert_eq!((hear(&echo.told), hear(&echo.told)), ("eof".into(), "the peer closed the connection".into()));
}

/// A peer that nobody here wrote, under OpenSSL: it ends its side with its input, and waits for ours. Left out where there is no socat.
#[test]
fn socat_ends_its_side_and_hears_the_rest() {
    let echo = Echo::start();
    let address = echo.listener.url().to_string().replace("tls://", "OPENSSL:") + ",verify=0";
    let mut socat = Command::new("socat");
    let Ok(mut socat) = socat.args(["-t20", "-", &address]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() else {
        return println!("socat is left out");
    };
    socat.stdin.take().unwrap().write_all(&wire(b"hello")).unwrap();
    let conn = hear(&echo.conns);
    assert_eq!(hear(&echo.told), "eof");
    assert_eq!(hear(&write(&conn, b"later")), Ok(()));
    conn.run(|cx| cx.finish());
    let output = socat.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout, [wire(b"hello"), wire(b"later")].concat());
    assert_eq!(hear(&echo.told), "the peer closed the connection");
}

/// Anybody on the way can end the TCP connection: that is no end of the peer's side.
#[test]
fn the_end_of_the_socket_alone_is_a_cut() {
    let echo = Echo::start();
    let (peer, _) = echo.dial();
    peer.sock.shutdown(Shutdown::Write).unwrap();
    let end = hear(&echo.told);
    assert!(end.contains("without a close_notify"), "{end}");
}

/// What is encrypted and waits has not been taken by the system.
#[test]
fn who_writes_from_elsewhere_hears_when_it_is_written() {
    let echo = Echo::start();
    let (mut peer, conn) = echo.dial();
    let (tell, told) = channel();
    let pieces = 1024;
    for n in 0..pieces {
        let tell = tell.clone();
        conn.write(Bytes::from(wire(&[n as u8; 32 << 10])), move |result| tell.send((n, result)).unwrap_or(()));
    }
    on(conn.reactor(), || ());
    let taken: Vec<_> = told.try_iter().collect();
    assert!(taken.len() < pieces, "nobody reads");
    let stats = echo.pool.handles()[0].stats();
    let told_bytes = taken.len() as u64 * (4 + (32 << 10));
    assert!(told_bytes < stats.bytes_out.get(), "{told_bytes} told, {} taken", stats.bytes_out.get());
    (0..pieces).for_each(|n| assert_eq!(read_frame(&mut peer), [n as u8; 32 << 10]));
    let rest = (taken.len()..pieces).map(|_| hear(&told));
    let all: Vec<_> = taken.iter().copied().chain(rest).collect();
    assert!(all.iter().enumerate().all(|(n, told)| *told == (n, Ok(()))), "each once, in their order");
}

#[test]
fn who_writes_to_a_connection_that_ends_hears_that() {
    let echo = Echo::start();
    let (peer, conn) = echo.dial();
    let waits = write(&conn, &vec![b'x'; 64 << 20]);
    let mut socket = peer.sock;
    socket.read_exact(&mut [0; 100]).unwrap();
    drop(socket); // with unread input: a reset
    assert_eq!(hear(&waits), Err(NotWritten));
}
