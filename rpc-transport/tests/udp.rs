//! Datagrams on reactors, against the system's own sockets.

mod support;

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use bytes::Bytes;
use rpc_transport::{DatagramCx, DatagramHandler, ReactorPool, SendError, UdpHandle, UdpOptions};
use support::{DEADLINE, pool};

/// Sends back what comes; `panic` makes it panic.
struct Echo {
    served: usize,
    reactor: usize,
}

impl DatagramHandler for Echo {
    fn on_datagram(&mut self, cx: &mut DatagramCx<'_>, datagram: &[u8], from: SocketAddr) {
        assert_ne!(datagram, b"panic", "as it is told");
        self.served += 1;
        match datagram {
            b"count" => cx.send_to(self.served.to_string().as_bytes(), from).unwrap(),
            b"who" => cx.send_to(&[self.reactor as u8], from).unwrap(),
            _ => cx.send_to(datagram, from).unwrap(),
        }
    }
}

fn echo(pool: &ReactorPool, options: UdpOptions) -> UdpHandle {
    pool.bind_udp(([127, 0, 0, 1], 0).into(), options, |here| Echo { served: 0, reactor: here.index() }).unwrap()
}

fn client(server: &UdpHandle) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(server.local_addr()).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

fn ask(socket: &UdpSocket, datagram: &[u8]) -> Vec<u8> {
    socket.send(datagram).unwrap();
    let mut room = vec![0; 1 << 16];
    let len = socket.recv(&mut room).expect("a reply");
    room.truncate(len);
    room
}

#[test]
fn datagrams_of_every_size_come_back_from_the_port_they_were_sent_to() {
    let pool = pool(3);
    for reuse_port in [true, false] {
        let server = echo(&pool, UdpOptions { reuse_port, ..UdpOptions::default() });
        assert_eq!(server.sockets(), if reuse_port { 3 } else { 1 });
        // `connect` has the kernel drop what comes from another port.
        for client in (0..8).map(|_| client(&server)) {
            for len in [0, 1, 512, 1472, 9000, 65_507] {
                let sent: Vec<u8> = (0..len).map(|n| n as u8).collect();
                assert_eq!(ask(&client, &sent), sent, "{len} bytes");
            }
        }
        let stats = server.stats();
        assert_eq!((stats.received, stats.sent, stats.oversize, stats.errors), (48, 48, 0, 0));
    }
}

/// The kernel spreads them by the hash of both addresses: of 60 clients none of three sockets is left out, but once in 10¹⁰ runs.
#[test]
fn with_a_socket_for_each_reactor_all_of_them_serve_and_each_client_has_one() {
    let pool = pool(3);
    let server = echo(&pool, UdpOptions { reuse_port: true, ..UdpOptions::default() });
    let served: BTreeSet<_> = (0..60)
        .map(|_| {
            let client = client(&server);
            let by = ask(&client, b"who");
            assert_eq!(ask(&client, b"who"), by);
            by
        })
        .collect();
    assert_eq!(served, [vec![0], vec![1], vec![2]].into());
}

/// A driver stands in front of the reactor's meanwhile.
#[test]
fn it_goes_on_while_somebody_observes() {
    let pool = pool(1);
    let before = echo(&pool, UdpOptions::default());
    let observer = pool.observe();
    let after = echo(&pool, UdpOptions::default());
    for server in [&before, &after] {
        assert_eq!(ask(&client(server), b"hello"), b"hello");
    }
    drop(observer);
    assert_eq!(ask(&client(&after), b"hello"), b"hello");
}

#[test]
fn what_is_too_long_is_dropped_whole_and_counted() {
    let pool = pool(1);
    let server = echo(&pool, UdpOptions { max_datagram: 100, ..UdpOptions::default() });
    let client = client(&server);
    for len in [101, 102, 5000] {
        client.send(&vec![b'x'; len]).unwrap();
    }
    assert_eq!(ask(&client, &[b'y'; 100]), [b'y'; 100]);
    assert_eq!((server.stats().oversize, server.stats().received), (3, 1));
}

#[test]
fn a_panic_costs_its_datagram_and_the_handler_s_state() {
    let pool = pool(1);
    let server = echo(&pool, UdpOptions::default());
    let client = client(&server);
    assert_eq!((ask(&client, b"count"), ask(&client, b"count")), (b"1".to_vec(), b"2".to_vec()));
    client.send(b"panic").unwrap();
    assert_eq!(ask(&client, b"count"), b"1");
}

#[test]
fn what_the_system_refuses_is_told_and_ends_nothing() {
    struct TooLong;
    impl DatagramHandler for TooLong {
        fn on_datagram(&mut self, cx: &mut DatagramCx<'_>, datagram: &[u8], from: SocketAddr) {
            let refused = cx.send_to(&vec![0; 1 << 16], from);
            assert!(matches!(refused, Err(SendError::Io(_))), "{refused:?}");
            cx.send_to(datagram, from).unwrap();
        }
    }
    let pool = pool(1);
    let server = pool.bind_udp(([127, 0, 0, 1], 0).into(), UdpOptions::default(), |_| TooLong).unwrap();
    let gone = UdpSocket::bind("127.0.0.1:0").unwrap();
    let nobody = gone.local_addr().unwrap();
    drop(gone);
    server.send_to(Bytes::from_static(b"to nobody"), nobody).unwrap();
    let client = client(&server);
    assert_eq!((ask(&client, b"a"), ask(&client, b"b")), (b"a".to_vec(), b"b".to_vec()));
    assert_eq!(server.stats().errors, 2);
}

#[test]
fn other_threads_send_from_its_port_until_it_is_dropped() {
    let pool = pool(2);
    let server = echo(&pool, UdpOptions { send_queue: 4000, ..UdpOptions::default() });
    let client = client(&server);
    let to = client.local_addr().unwrap();
    for n in 0..20_u8 {
        server.send_to(Bytes::copy_from_slice(&[n]), to).unwrap();
    }
    let mut heard: Vec<u8> = (0..20)
        .map(|_| {
            let mut byte = [0];
            client.recv(&mut byte).unwrap();
            byte[0]
        })
        .collect();
    heard.sort_unstable();
    assert_eq!(heard, (0..20).collect::<Vec<u8>>());
    match server.send_to(Bytes::from_static(&[0; 4000]), to) {
        Err(SendError::Full { limit: 4000, .. }) => {}
        other => panic!("{other:?}"),
    }
    let addr = server.local_addr();
    drop(server);
    let begun = Instant::now();
    while let Err(e) = UdpSocket::bind(addr) {
        assert!(begun.elapsed() < DEADLINE, "its port is not free: {e}");
        std::thread::yield_now();
    }
}

#[test]
fn an_address_that_is_taken_is_named_and_nothing_stays_bound() {
    let pool = pool(2);
    let other = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = other.local_addr().unwrap();
    let error = pool.bind_udp(addr, UdpOptions::default(), |_| Echo { served: 0, reactor: 0 }).unwrap_err();
    assert!(error.to_string().contains(&format!("udp://{addr}")), "{error}");
}

/// A socket in which there is always one more datagram, because each is sent to it again, leaves the others of its reactor their turns.
#[test]
fn others_of_the_reactor_are_served_beside_one_that_never_ends() {
    struct Again(Arc<AtomicUsize>);
    impl DatagramHandler for Again {
        fn on_datagram(&mut self, cx: &mut DatagramCx<'_>, datagram: &[u8], _: SocketAddr) {
            cx.send_to(datagram, cx.local_addr()).unwrap();
            self.0.fetch_add(1, Relaxed);
        }
    }
    let (pool, handled) = (pool(1), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&handled);
    let endless =
        pool.bind_udp(([127, 0, 0, 1], 0).into(), UdpOptions::default(), move |_| Again(Arc::clone(&count))).unwrap();
    let calm = echo(&pool, UdpOptions::default());
    client(&endless).send(b"again").unwrap();
    let calm = client(&calm);
    for n in 0..50_u8 {
        assert_eq!(ask(&calm, &[n]), [n]);
    }
    assert!(handled.load(Relaxed) > 50, "{handled:?} datagrams beside 50 others");
}
