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
use std::time::Duration;
use std::{fs, thread};

use rpc_core::{Channel, Code, Sent};
use socket2::SockRef;
use testee::idl::testee::{Blob, Nonce, TesteeClient};
use testee::{Attack, GONE, Testee, eventually, make, raw, reset, scratch};

const BIN: &str = env!("CARGO_BIN_EXE_testee");
const SLACK: Duration = Duration::from_secs(20);

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
    let exec_log = scratch("exec");
    let server = Testee::start(BIN, ["--exec-log", exec_log.to_str().expect("text")]);
    let fds = server.at_rest();
    let chaos = Chaos::start(server.addr(), to_client, end);
    let channel = Channel::builder(&chaos.url).connections(1).build().expect("a channel");
    let client = TesteeClient::new(channel);
    let three = |cut: u64| -> [rpc_core::Result<()>; 3] {
        thread::scope(|scope| {
            let echo = |n| {
                let reply = client.echo(Blob { payload: make(n, 20) }).timeout(SLACK).wait()?;
                assert_eq!(testee::check(n, 20, &reply.payload), Ok(()));
                Ok(())
            };
            let once = || client.once(Nonce { value: cut.to_string() }).timeout(SLACK).wait().map(|_| ());
            let calls = [scope.spawn(move || echo(1)), scope.spawn(once), scope.spawn(move || echo(3))];
            calls.map(|call| call.join().expect("no panic"))
        })
    };
    let (mut broken, mut whole) = (0, 0);
    let mut onces = Vec::new();
    for cut in 1.. {
        // A fresh connection that works; it may have to wait for the pause after failures.
        assert!(eventually(SLACK, || client.echo(Blob::default()).wait().is_ok()), "the proxy passes all again");
        chaos.left.store(cut, Ordering::Release);
        let outcomes = three(cut);
        let untouched = chaos.left.swap(u64::MAX, Ordering::AcqRel);
        for outcome in &outcomes {
            match outcome {
                Ok(()) => whole += 1,
                Err(error) => {
                    assert_eq!(error.code(), Code::Unavailable, "{end:?} after {cut} bytes: {error}");
                    // Not sent: a call that moved on to the next connection, which is not tried yet.
                    assert!(error.sent() == Sent::Maybe || error.is_retryable(), "{end:?} after {cut} bytes: {error}");
                    broken += 1;
                }
            }
        }
        onces.push((cut, outcomes[1].as_ref().map_err(|error| error.sent()).copied()));
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
    // I6: what each caller was told is what has happened.
    let log = fs::read_to_string(&exec_log).expect("a log");
    for (cut, outcome) in onces {
        let ran = log.lines().filter(|line| *line == cut.to_string()).count();
        let told = match outcome {
            Ok(()) => ran == 1,
            Err(Sent::No) => ran == 0,
            Err(Sent::Maybe) => ran <= 1,
        };
        assert!(told, "{end:?} after {cut} bytes: {outcome:?}, and it ran {ran} times");
    }
    let _ = fs::remove_file(exec_log);
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

/// T22, B04: the reply and the FIN in one segment: the reply counts, each time.
#[test]
fn t22_replies_before_a_fin_arrive() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("tcp://{}", listener.local_addr().expect("bound"));
    thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            // A client that connects again, and has nothing more to ask, is none that counts.
            let Ok(Some(request)) = raw::read_frame(&mut socket) else { continue };
            #[cfg(target_os = "linux")]
            SockRef::from(&socket).set_tcp_cork(true).expect("held back until the FIN");
            socket.write_all(&raw::reply(request.seq, &request.method, &request.body)).expect("sent");
            socket.shutdown(Shutdown::Write).expect("open");
        }
    });
    for n in 0..20 {
        // A connection of its own for each call: none meets the end of the one before.
        let client = TesteeClient::new(Channel::builder(&url).connections(1).build().expect("a channel"));
        let reply = client.echo(Blob { payload: make(n, 30) }).wait();
        let reply = reply.unwrap_or_else(|error| panic!("call {n} has its reply, and then the end: {error}"));
        assert_eq!(testee::check(n, 30, &reply.payload), Ok(()));
    }
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
