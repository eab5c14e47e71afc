//! Connections that come and go: by twelve kinds of death (T29), and so fast that their descriptors' numbers are used again while
//! events of the former owners are under way (T30).
//!
//! `RPC_TEST_SIZE=full` makes 100,000 of the first and 60,000 of the second kind.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;
use testee::idl::testee::Blob;
use testee::{Testee, eventually, full, make, raw, resident};

const BIN: &str = env!("CARGO_BIN_EXE_testee");
const SLACK: Duration = Duration::from_secs(10);
const DEATHS: u64 = 12;
const THREADS: u64 = 4;

/// A server at all loopback addresses: one pair of addresses has too few ports for so many connections in so little time.
fn start() -> Testee {
    Testee::listen(BIN, &["tcp://0.0.0.0:0"], ["--set", "max_frame_size=1MiB", "--set", "max_glitches=1000000"])
}

fn dial(server: &Testee, n: u64) -> TcpStream {
    let port = server.addr().rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let host = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1 + (n % 16) as u8));
    let socket = TcpStream::connect(SocketAddr::new(host, port)).expect("it listens");
    socket.set_read_timeout(Some(SLACK)).expect("a timeout");
    socket
}

fn reset(socket: TcpStream) {
    SockRef::from(&socket).set_linger(Some(Duration::ZERO)).expect("linger can be set");
}

/// One connection, from its beginning to its death. What the server cannot know of is not checked; what it says is.
fn live_and_die(server: &Testee, n: u64) {
    let mut socket = dial(server, n / DEATHS);
    let seq = (n % 1_000_000) as i32 + 1;
    let payload = make(n, 100);
    let echo = raw::request(seq, "Echo", &raw::blob(&payload));
    let say = |mut socket: &TcpStream, bytes: &[u8]| _ = socket.write_all(bytes);
    let answered = |socket: &mut TcpStream| {
        let reply = raw::read_frame(socket).expect("a frame").expect("a reply");
        assert_eq!((reply.seq, reply.blob()), (seq, Some(&payload[..])), "connection {n}");
    };
    let ends = |socket: &mut TcpStream| _ = socket.read_to_end(&mut Vec::new());
    match n % DEATHS {
        0 => drop(socket), // never says a word
        1 => reset(socket),
        2 => say(&socket, &echo[..echo.len() / 2]), // in the middle of a frame
        3 => {
            say(&socket, &echo[..echo.len() - 1]);
            reset(socket);
        }
        4 => say(&socket, &echo), // does not wait for the reply
        5 => {
            say(&socket, &echo);
            reset(socket);
        }
        6 => {
            say(&socket, &echo);
            answered(&mut socket);
        }
        7 => {
            say(&socket, &echo);
            answered(&mut socket);
            reset(socket);
        }
        8 => {
            say(&socket, b"GET / HTTP/1.1\r\n\r\n"); // the server closes
            ends(&mut socket);
        }
        9 => {
            say(&socket, &(2_u32 << 20).to_be_bytes()); // a frame too large: the server closes
            say(&socket, &echo[4..]);
            ends(&mut socket);
        }
        10 => {
            say(&socket, &echo);
            socket.shutdown(Shutdown::Write).expect("open"); // half-closed: the reply still comes, then the end
            answered(&mut socket);
            ends(&mut socket);
        }
        _ => {
            say(&socket, &raw::request(seq, "Sleep", &raw::number(5_000))); // with a handler running, and output on its way
            say(&socket, &raw::request(seq, "Give", &raw::number(100_000)));
            reset(socket);
        }
    }
}

/// Runs `n` connections on some threads beside a polite client, and looks at what is left.
fn churn(row: &str, n: u64, one: impl Fn(&Testee, u64) + Sync) {
    let server = start();
    let fds = server.at_rest();
    // The first of everything allocates what stays.
    (0..DEATHS * 20).for_each(|n| live_and_die(&server, n));
    let settled = || server.stats().get("connections") == 1 && server.stats().get("in_flight") == 0;
    assert!(eventually(SLACK, settled), "{:?}", server.stats());
    let (rss, begun) = (server.rss(), Instant::now());
    let (next, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let client = server.client();
    let polite = thread::scope(|scope| {
        let polite = scope.spawn(|| {
            let mut calls = 0_u64;
            while !over.load(Ordering::Acquire) {
                let payload = make(calls, 300);
                let reply = client.echo(Blob { payload: payload.clone() }).wait().expect("a polite call");
                assert_eq!(reply.payload, payload);
                calls += 1;
                thread::sleep(Duration::from_millis(1)); // it is not the load
            }
            calls
        });
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= n {
                            break;
                        }
                        one(&server, number);
                    }
                })
            })
            .collect();
        let outcomes: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        over.store(true, Ordering::Release);
        outcomes.into_iter().for_each(|outcome| outcome.expect("each connection was treated well"));
        polite.join().expect("every polite call succeeds")
    });
    drop(client);
    server.returns_to(&fds, SLACK);
    assert!(eventually(SLACK, settled), "{:?}", server.stats());
    let grown = server.rss().saturating_sub(rss);
    println!(
        "{row}: {n} connections in {:.1} s; polite: {polite} of {polite} calls; resident memory grew by {} KiB; \
         descriptors {fds} before and after",
        begun.elapsed().as_secs_f64(),
        grown / 1024
    );
    assert!(grown < resident(8 << 20), "{grown} bytes");
}

#[test]
fn t29_twelve_kinds_of_death_leak_nothing() {
    churn("T29", if full() { 100_000 } else { 2_400 }, live_and_die);
}

/// T30: requests whose replies come when the connection is gone, and at once the next connection, which has the same descriptor's
/// number on both sides. Whatever it hears must be its own.
#[test]
fn t30_a_number_used_again_hears_nothing_of_its_former_owner() {
    let heard = AtomicU64::new(0);
    churn("T30", if full() { 60_000 } else { 2_000 }, |server, n| {
        let mut socket = dial(server, n);
        let seq = (n % 1_000_000) as i32 + 1;
        let payload = make(n, 64);
        // A reply now, one in a millisecond or two, and one that takes more than one write.
        let asks = [
            raw::request(seq, "Echo", &raw::blob(&payload)),
            raw::request(seq + 1_000_000, "Sleep", &raw::number(n % 3)),
            raw::request(seq + 2_000_000, "Give", &raw::number(n % 4 * 30_000)),
        ];
        let _ = socket.write_all(&asks.concat());
        let reads = match n % 4 {
            0 => 0, // gone before any reply
            1 => 1,
            _ => 3,
        };
        for _ in 0..reads {
            let reply = raw::read_frame(&mut socket).expect("a frame").expect("a reply");
            match reply.seq - seq {
                0 => assert_eq!(reply.blob(), Some(&payload[..]), "connection {n}"),
                1_000_000 => assert_eq!(reply.body, b""),
                2_000_000 => assert_eq!(reply.blob().map(<[u8]>::len), Some(n as usize % 4 * 30_000)),
                other => panic!("connection {n} heard of {other}"),
            }
            heard.fetch_add(1, Ordering::Relaxed);
        }
        if n % 2 == 0 { reset(socket) } else { drop(socket) }
    });
    println!("T30: {} replies, each to its own connection", heard.into_inner());
}
