//! A network that breaks a conversation at every byte: cut by reset (T21), ended by FIN (T22), split and coalesced (T23), in both
//! directions.
//!
//! ```text
//!  client ──► Chaos: forwards so many bytes, then does its worst ──► testee
//! ```

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rpc_core::{Channel, Code, Sent};
use socket2::SockRef;
use testee::idl::testee::{Blob, TesteeClient};
use testee::{Attack, GONE, Testee, eventually, make, raw, reset};

const BIN: &str = env!("CARGO_BIN_EXE_testee");
const SLACK: Duration = Duration::from_secs(3);

fn dial(addr: &str) -> TcpStream {
    let socket = TcpStream::connect(addr).expect("it listens");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout can be set");
    socket.set_nodelay(true).expect("no delay");
    socket
}

/// Three requests in one stream: plain, with a header, bare.
fn conversation() -> (Vec<u8>, [usize; 3]) {
    let info = raw::strings(&[("isn", "Testee"), ("RPC_PERSIST_k", "v")]);
    let frames = [
        raw::request(1, "Echo", &raw::blob(b"one")),
        raw::ttheader(1, 2, &info, &raw::framed(raw::CALL, "Echo", 2, &raw::blob(b"two"))),
        raw::framed(raw::CALL, "Echo", 3, &raw::blob(b"three")),
    ];
    let ends = [frames[0].len(), frames[0].len() + frames[1].len(), frames.iter().map(Vec::len).sum()];
    (frames.concat(), ends)
}

fn replies(socket: &mut TcpStream) -> Vec<raw::Frame> {
    std::iter::from_fn(|| raw::read_frame(socket).expect("whole frames")).collect()
}

/// T22 towards the server: the complete frames before the FIN are answered (B04), the partial one is dropped.
#[test]
fn t22_a_fin_at_every_byte_loses_no_complete_request() {
    Attack::new(BIN, "T22").run(|scene| {
        let (bytes, ends) = conversation();
        for cut in 0..=bytes.len() {
            let mut socket = dial(scene.server.addr());
            socket.write_all(&bytes[..cut]).expect("sent");
            socket.shutdown(Shutdown::Write).expect("open");
            let got: Vec<_> = replies(&mut socket).iter().map(|reply| reply.seq).collect();
            let whole = ends.iter().filter(|end| **end <= cut).count() as i32;
            assert_eq!(got, (1..=whole).collect::<Vec<_>>(), "FIN after {cut} bytes");
        }
        // A connection is counted until its handler is gone, which is after its descriptor. One is the polite client's.
        assert!(eventually(GONE, || scene.stats().get("connections") == 1), "{:?}", scene.stats());
        format!("a FIN after each of {} bytes of three requests: those that were whole were answered", bytes.len())
    });
}

/// T21 towards the server.
#[test]
fn t21_a_reset_at_every_byte_leaves_nothing_behind() {
    Attack::new(BIN, "T21").run(|scene| {
        let (bytes, _) = conversation();
        for cut in 0..=bytes.len() {
            let mut socket = dial(scene.server.addr());
            socket.write_all(&bytes[..cut]).expect("sent");
            reset(socket);
            scene.stats(); // what came with the connection has been handled, or is being so
        }
        assert!(eventually(GONE, || scene.stats().get("connections") == 1), "{:?}", scene.stats());
        format!("a reset after each of {} bytes of three requests", bytes.len())
    });
}

/// T23: what the server says does not depend on how the bytes arrive.
#[test]
fn t23_every_split_gives_the_same_replies() {
    Attack::new(BIN, "T23").run(|scene| {
        let (bytes, _) = conversation();
        let answer = |pieces: &[&[u8]]| {
            let mut socket = dial(scene.server.addr());
            for (n, piece) in pieces.iter().enumerate() {
                if n > 0 {
                    // Let the server take the piece before the next one, at most places.
                    thread::yield_now();
                }
                socket.write_all(piece).expect("sent");
            }
            socket.shutdown(Shutdown::Write).expect("open");
            let mut heard = Vec::new();
            socket.read_to_end(&mut heard).expect("an orderly end");
            heard
        };
        let whole = answer(&[&bytes]);
        assert_eq!(whole.len(), answer(&bytes.chunks(1).collect::<Vec<_>>()).len());
        assert_eq!(whole, answer(&bytes.chunks(1).collect::<Vec<_>>()), "byte by byte");
        for at in 1..bytes.len() {
            assert_eq!(whole, answer(&[&bytes[..at], &bytes[at..]]), "split at {at}");
        }
        format!(
            "three requests of {} bytes byte by byte, and in two at each place: the same {} bytes back",
            bytes.len(),
            whole.len()
        )
    });
}

/// A proxy that passes bytes in both directions until it has passed as many of one direction as it is told, then ends both sides.
struct Chaos {
    url: String,
    /// Bytes still to pass; `u64::MAX` for all of them.
    left: Arc<AtomicU64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Reset,
    Fin,
    /// No end: each byte in a write of its own.
    Bytewise,
}

impl Chaos {
    /// Counts the bytes to the client if `to_client`, else those to the server.
    fn start(server: &str, to_client: bool, end: End) -> Chaos {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("tcp://{}", listener.local_addr().expect("bound"));
        let left = Arc::new(AtomicU64::new(u64::MAX));
        let (server, shared) = (server.to_owned(), Arc::clone(&left));
        thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(&server)) else { continue };
                let left = Arc::clone(&shared);
                thread::spawn(move || pass(client, server, &left, to_client, end));
            }
        });
        Chaos { url, left }
    }
}

/// Passes bytes both ways. One thread has both sockets, so that closing them is a reset.
fn pass(client: TcpStream, server: TcpStream, left: &AtomicU64, to_client: bool, end: End) -> io::Result<()> {
    for socket in [&client, &server] {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_micros(200)))?;
    }
    let mut open = [true, true];
    while open[0] || open[1] {
        for (at, (mut from, mut to)) in [(&client, &server), (&server, &client)].into_iter().enumerate() {
            let mut bytes = [0; 4096];
            let n = match open[at].then(|| from.read(&mut bytes)) {
                None => continue,
                Some(Ok(n)) => n,
                Some(Err(e)) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => continue,
                Some(Err(e)) => return Err(e),
            };
            if n == 0 {
                open[at] = false;
                to.shutdown(Shutdown::Write)?;
                continue;
            }
            let budget = if (at == 1) == to_client { left.load(Ordering::Acquire) } else { u64::MAX };
            let pass = n.min(usize::try_from(budget).unwrap_or(usize::MAX));
            for piece in bytes[..pass].chunks(if end == End::Bytewise { 1 } else { pass.max(1) }) {
                to.write_all(piece)?;
            }
            if budget == u64::MAX {
                continue;
            }
            left.store(budget - pass as u64, Ordering::Release);
            if budget == pass as u64 {
                if end == End::Reset {
                    for socket in [&client, &server] {
                        SockRef::from(socket).set_linger(Some(Duration::ZERO))?;
                    }
                }
                return Ok(()); // both are closed: with a reset, or with a FIN
            }
        }
    }
    Ok(())
}

/// Breaks three calls of our client after every byte of one direction; each ends once, precisely, and the next ones succeed.
fn check(to_client: bool, end: End) {
    let server = Testee::start(BIN, [] as [&str; 0]);
    let fds = server.at_rest();
    let chaos = Chaos::start(server.addr(), to_client, end);
    let channel = Channel::builder(&chaos.url).connections(1).build().expect("a channel");
    let client = TesteeClient::new(channel);
    let three = || -> [rpc_core::Result<Blob>; 3] {
        thread::scope(|scope| {
            let calls = [1, 2, 3].map(|n| {
                let client = &client;
                scope.spawn(move || client.echo(Blob { payload: make(n, 20) }).timeout(SLACK).wait())
            });
            calls.map(|call| call.join().expect("no panic"))
        })
    };
    let (mut broken, mut whole) = (0, 0);
    for cut in 1.. {
        // A fresh connection that works; it may have to wait for the pause after failures.
        assert!(eventually(SLACK, || client.echo(Blob::default()).wait().is_ok()), "the proxy passes all again");
        chaos.left.store(cut, Ordering::Release);
        let outcomes = three();
        let untouched = chaos.left.swap(u64::MAX, Ordering::AcqRel);
        for (n, outcome) in (1..).zip(&outcomes) {
            match outcome {
                Ok(reply) => {
                    assert_eq!(testee::check(n, 20, &reply.payload), Ok(()));
                    whole += 1;
                }
                Err(error) => {
                    assert_eq!(error.code(), Code::Unavailable, "{end:?} after {cut} bytes: {error}");
                    // Not sent: a call that moved on to the next connection, which is not tried yet.
                    assert!(error.sent() == Sent::Maybe || !error.to_string().is_empty());
                    broken += 1;
                }
            }
        }
        if untouched > 0 && outcomes.iter().all(Result::is_ok) {
            break; // beyond the end of the conversation
        }
    }
    println!(
        "{end:?}, {}: {broken} calls broken, {whole} whole",
        if to_client { "to the client" } else { "to the server" }
    );
    assert!(broken > 0);
    drop(client);
    server.returns_to(&fds, GONE);
    assert_eq!(server.stats().get("in_flight"), 0);
}

#[test]
fn t21_calls_end_once_when_requests_are_cut() {
    check(false, End::Reset);
}

#[test]
fn t21_calls_end_once_when_replies_are_cut() {
    check(true, End::Reset);
}

#[test]
fn t22_calls_end_once_when_requests_end_in_fin() {
    check(false, End::Fin);
}

#[test]
fn t22_calls_end_once_when_replies_end_in_fin() {
    check(true, End::Fin);
}

/// T22, B04: replies and the FIN in one segment: the replies count.
#[test]
fn t22_replies_before_a_fin_arrive() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("tcp://{}", listener.local_addr().expect("bound"));
    let server = thread::spawn(move || {
        for _ in 0..20 {
            let (mut socket, _) = listener.accept().expect("a client");
            let request = raw::read_frame(&mut socket).expect("a frame").expect("a request");
            socket.write_all(&raw::reply(request.seq, &request.method, &request.body)).expect("sent");
            socket.shutdown(Shutdown::Both).expect("open");
        }
    });
    let client = TesteeClient::new(Channel::builder(url).connections(1).build().expect("a channel"));
    for n in 0..20 {
        let mut reply = client.echo(Blob { payload: make(n, 30) }).wait();
        while reply.as_ref().is_err_and(|error| error.is_retryable()) {
            reply = client.echo(Blob { payload: make(n, 30) }).wait(); // met the old connection's end, unsent
        }
        match reply {
            Ok(reply) => assert_eq!(testee::check(n, 30, &reply.payload), Ok(())),
            // Written to the connection whose FIN was under way: lost with it, and the client says so.
            Err(error) => {
                assert_eq!((error.code(), error.sent()), (Code::Unavailable, Sent::Maybe), "{error}");
            }
        }
    }
    drop(client);
    drop(server); // it may wait for connections that were not needed
}

/// T23 towards the client.
#[test]
fn t23_byte_by_byte_changes_nothing() {
    let server = Testee::start(BIN, [] as [&str; 0]);
    let chaos = Chaos::start(server.addr(), true, End::Bytewise);
    let client = TesteeClient::new(Channel::builder(&chaos.url).connections(1).build().expect("a channel"));
    for n in 0..50 {
        let len = 11 * n as usize;
        let reply = client.echo(Blob { payload: make(n, len) }).wait().expect("a reply");
        assert_eq!(testee::check(n, len, &reply.payload), Ok(()));
    }
}
