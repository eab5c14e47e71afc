//! Ends of connections at an awkward moment: beside a last request, and while there is output.

mod support;

use std::io::Write;
use std::net::Shutdown;
use std::sync::mpsc;

use rpc_transport::{Connector, ListenOptions};
use support::*;

/// B05: the peer's end comes while its last request is handled, in the same turn or the next. Nothing of it stays.
#[test]
fn b05_a_peer_that_leaves_with_its_last_request_leaves_nothing() {
    const PEERS: usize = 200;
    let pool = pool(2);
    let (tell, told) = mpsc::channel();
    let listener = serve(&pool, move |_| Script::new().told_to(tell.clone()));
    for n in 0..PEERS {
        let mut socket = dial(&listener);
        socket.write_all(&wire(b"last")).unwrap();
        match n % 3 {
            0 => socket.shutdown(Shutdown::Both).unwrap(),
            1 => drop(socket),
            _ => {
                until("it is handled", || listener.connections() > 0);
                socket.shutdown(Shutdown::Write).unwrap();
            }
        }
    }
    let (mut requests, mut ends) = (0, 0);
    while ends < PEERS {
        match hear(&told).as_str() {
            "last" => requests += 1,
            end => {
                assert_eq!(end, "closed: the peer closed the connection");
                ends += 1;
            }
        }
    }
    assert_eq!(requests, PEERS);
    until("books are balanced", || listener.connections() == 0);
    assert_eq!(pool.handles().iter().map(|reactor| reactor.stats().connections.get()).sum::<u64>(), 0);
}

/// B24: a connection with so much output that it is not read any more learns of its peer's end by writing. It ends, and its output
/// is nobody's burden.
#[test]
fn b24_a_failed_write_ends_the_connection() {
    let pool = pool(1);
    let (tell, ends) = mpsc::channel();
    let mut options = ListenOptions::default();
    (options.conn.write_high, options.conn.write_low, options.conn.write_hard) = (64 << 10, 16 << 10, 64 << 20);
    let memory = options.memory.clone();
    let listener = listen(&pool, "tcp://127.0.0.1:0", options, move |_| {
        Script::new().frame(|cx, _| cx.output().write_bytes(vec![0; 8 << 20].into())).end_to(tell.clone())
    });
    let mut socket = dial(&listener);
    socket.write_all(&wire(b"x").repeat(100)).unwrap();
    until("its output stands", || memory.used() > 1 << 20);
    socket2::SockRef::from(&socket).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(socket); // a reset
    let end = hear(&ends);
    assert!(end.starts_with("the connection failed: "), "{end}");
    until("nothing is accounted any more", || memory.used() == 0 && listener.connections() == 0);
}

/// A connection that is not read has an event of a reset all the same, and does not wait for its next read to end.
#[test]
fn a_reset_is_heard_of_though_nobody_reads() {
    let pool = pool(1);
    for frames_behind in [0, 3] {
        let (tell, ends) = mpsc::channel();
        let (began, begun) = mpsc::channel();
        let listener = serve(&pool, move |_| {
            let began = began.clone();
            let full = Script::new().frame(move |cx, _| {
                cx.pause();
                began.send(()).unwrap();
            });
            full.end_to(tell.clone())
        });
        let mut socket = dial(&listener);
        socket.write_all(&wire(b"x").repeat(1 + frames_behind)).unwrap();
        hear(&begun);
        socket2::SockRef::from(&socket).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(socket); // a reset
        let end = hear(&ends);
        assert!(end.starts_with("the connection failed: connection reset"), "{end}");
        until("it is gone", || listener.connections() == 0);
        assert!(begun.try_recv().is_err(), "nobody handles what is behind");
    }
}

/// Its output might wait for a peer that reads no more until it is read itself: the simulator found both waiting for `write_stall_timeout`.
#[test]
fn a_client_that_cannot_read_on_does_not_wait_for_its_output() {
    let pool = pool(1);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("tcp://{}", silent.local_addr().unwrap()).parse().unwrap();
    let (tell, ends) = mpsc::channel();
    let full = Script::new().open(|cx| cx.output().write_bytes(vec![0; 16 << 20].into()));
    connect(&pool.handles()[0], &url, Connector::default(), full.end_to(tell));
    let (mut peer, _) = silent.accept().unwrap();
    peer.write_all(&[255; 4]).unwrap();
    let end = hear(&ends);
    assert!(end.starts_with("the peer's bytes are not frames: "), "{end}");
}
