//! The two sides of a connection under TLS, each of which may end alone: by a `close_notify`, which no bystander can make. The peer is rustls by itself.

#[path = "support/certificates.rs"]
mod certificates;
mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, channel};

use bytes::Bytes;
use certificates::Authority;
use rpc_transport::rustls::{ClientConnection, StreamOwned, version};
use rpc_transport::{ConnLimits, ConnRef, ListenOptions, ListenerHandle, NotWritten, ReactorPool, TlsServer};
use support::*;

type Peer = StreamOwned<ClientConnection, TcpStream>;

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
                .eof(move |_| eof.send("eof".to_owned()).is_ok())
                .close(move |_, reason| end.send(reason.to_string()).unwrap_or(()))
        });
        Echo { authority, pool, listener, conns, told }
    }

    /// A peer that has been answered once, and its connection at the server.
    fn dial(&self) -> (Peer, ConnRef) {
        let mut peer = StreamOwned::new(self.authority.foreign(&[&version::TLS13]), dial(&self.listener));
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
    for and_its_socket in [false, true] {
        let echo = Echo::start();
        let (mut peer, conn) = echo.dial();
        part(&mut peer);
        if and_its_socket {
            peer.sock.shutdown(Shutdown::Write).unwrap();
        }
        assert_eq!(hear(&echo.told), "eof");
        for text in ["later", "and later"] {
            assert_eq!(hear(&write(&conn, text.as_bytes())), Ok(()));
            assert_eq!(read_frame(&mut peer), text.as_bytes());
        }
        finish(&conn);
        ends(&mut peer);
        assert_eq!(hear(&echo.told), "the peer closed the connection", "both sides have");
        assert!(echo.told.try_recv().is_err(), "each once");
    }
}

#[test]
fn a_side_that_is_finished_goes_on_reading() {
    let echo = Echo::start();
    let (mut peer, conn) = echo.dial();
    // The end comes after what was written before it: more than the system takes while nobody reads.
    let large = vec![b'x'; 32 << 20];
    let written = write(&conn, &large);
    finish(&conn);
    assert!(read_frame(&mut peer) == large);
    ends(&mut peer);
    assert_eq!(hear(&written), Ok(()));
    let frames = echo.pool.handles()[0].stats().frames.get();
    peer.write_all(&[0; 4].repeat(3)).unwrap(); // empty frames; their echoes would end the connection
    until("they are heard", || echo.pool.handles()[0].stats().frames.get() > frames);
    let end = hear(&echo.told);
    assert!(end.starts_with("the connection failed: ") && end.contains("pipe"), "{end}");
}

/// Writes until the system takes no more: the last piece is encrypted, and waits. Says how many there are.
fn fill(conn: &ConnRef) -> usize {
    let taken = |_: &usize| {
        let told = write(conn, &[b'x'; 1 << 10]);
        (0..2).for_each(|_| on(conn.reactor(), || ())); // the turn is over that has written it, or found that it waits
        told.try_recv().is_ok()
    };
    1 + (0..).take_while(taken).count()
}

#[test]
fn a_side_ends_behind_what_is_encrypted_and_waits() {
    let echo = Echo::start();
    let (mut peer, conn) = echo.dial();
    let pieces = fill(&conn);
    finish(&conn);
    (0..pieces).for_each(|_| assert_eq!(read_frame(&mut peer).len(), 1 << 10));
    ends(&mut peer);
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
