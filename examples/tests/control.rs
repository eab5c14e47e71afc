//! Attacks by control frames (T12, T15, T16) and the vanished peer (T5), on `testee` in a process of its own, a polite client beside each.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rpc_core::{Channel, Code};
use testee::idl::testee::{Blob, Millis, TesteeClient};
use testee::{Attack, Testee, eventually, raw};

const BIN: &str = env!("CARGO_BIN_EXE_testee");
const LIMIT: Duration = Duration::from_secs(20);

/// A control frame.
fn control(kind: &str, number: &str) -> Vec<u8> {
    raw::ttheader(0, 0, &raw::ints(&[(31002, kind), (31003, number)]), b"")
}

/// A request of a client that knows control frames; `timeout` in milliseconds, if it has one.
fn request(seq: i32, method: &str, body: &[u8], timeout: Option<&str>) -> Vec<u8> {
    let mut ints = vec![(31001, "1")];
    ints.extend(timeout.map(|ms| (12, ms)));
    raw::ttheader(raw::OUT_OF_ORDER, seq, &raw::ints(&ints), &raw::framed(raw::CALL, method, seq, body))
}

fn dial(server: &Testee) -> TcpStream {
    let socket = TcpStream::connect(server.addr()).expect("it listens");
    socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
    socket.set_write_timeout(Some(LIMIT)).expect("a timeout");
    socket
}

/// A connection on which both sides know control frames.
fn negotiated(server: &Testee) -> TcpStream {
    let mut socket = dial(server);
    socket.write_all(&request(1, "Echo", &raw::blob(b"hello"), None)).expect("it reads");
    let reply = raw::read_frame(&mut socket).expect("a frame").expect("a reply");
    assert_eq!(reply.get("#31001"), Some("1"));
    socket
}

/// Writes the same again and again and reads nothing, until the server has closed the connection; how many bytes it took.
fn flood(mut socket: TcpStream, piece: &[u8]) -> usize {
    let until = Instant::now() + LIMIT;
    let mut written = 0;
    while socket.write_all(piece).is_ok() {
        written += piece.len();
        assert!(Instant::now() < until, "{written} bytes, and the server goes on reading");
    }
    written
}

/// T12: pings, or cancellations of nothing, at full speed by who never reads. Each connection is closed; nothing piles up.
#[test]
fn t12_floods_of_control_frames_are_cut_off() {
    for (what, frame) in [("pings", control("ping", "7")), ("cancellations", control("cancel", "12345"))] {
        Attack::new(BIN, "T12").growth(16 << 20).run(|scene| {
            let attackers: Vec<_> = (0..16)
                .map(|_| {
                    let (socket, piece) = (negotiated(&scene.server), frame.repeat(100));
                    thread::spawn(move || flood(socket, &piece))
                })
                .collect();
            let taken = attackers.into_iter().map(|attacker| attacker.join().expect("it is cut off"));
            let most = taken.max().unwrap_or_default();
            format!("16 connections flooded with {what} and read nothing, cut off after {most} bytes at most")
        });
    }
}

/// Calls that are cut short as soon as they run, over one connection after another, for a while.
fn storm(server: &Testee, body: &[u8], timeout: Option<&str>) -> (usize, usize) {
    let (mut connections, mut told) = (0, 0);
    let until = Instant::now() + Duration::from_secs(3); // how long the attack lasts, not what is waited for
    while Instant::now() < until {
        connections += 1;
        let mut socket = negotiated(server);
        let mut reader = socket.try_clone().expect("a socket");
        let heard = thread::spawn(move || {
            let mut reasons = Vec::new();
            while let Ok(Some(frame)) = raw::read_frame(&mut reader) {
                if frame.get("#31002") == Some("goaway") {
                    reasons.extend(frame.get("rpc-reason").map(str::to_owned));
                }
            }
            reasons
        });
        for round in 0.. {
            let mut segment = Vec::new();
            for seq in 2 + 50 * round..52 + 50 * round {
                segment.extend(request(seq, "Sleep", body, timeout));
                if timeout.is_none() {
                    segment.extend(control("cancel", &seq.to_string()));
                }
            }
            if socket.write_all(&segment).is_err() {
                break;
            }
        }
        let reasons = heard.join().expect("no panic");
        told += usize::from(reasons.iter().any(|reason| reason == "cancel_budget"));
    }
    (connections, told)
}

/// T15, T16: calls and their cancellations in one segment; and calls whose deadline passes as soon as they run. Handlers stay within the
/// limit, each connection is told why it has to go, and nothing is left.
#[test]
fn t15_t16_storms_of_calls_cut_short_are_told_to_leave() {
    let limits = ["max_inflight=512", "max_inflight_per_conn=64"];
    for (row, timeout) in [("T15", None), ("T16", Some("1"))] {
        Attack::new(BIN, row).limits(&limits).run(|scene| {
            let (most, over) = (AtomicU64::new(0), AtomicBool::new(false));
            let (connections, told) = thread::scope(|scope| {
                let watcher = scope.spawn(|| {
                    while !over.load(Ordering::Acquire) {
                        most.fetch_max(scene.stats().get("in_flight"), Ordering::Relaxed);
                    }
                });
                let outcome = storm(&scene.server, &raw::number(60_000), timeout);
                over.store(true, Ordering::Release);
                watcher.join().expect("the server answers");
                outcome
            });
            let most = most.into_inner();
            assert_eq!(told, connections, "each is told why it has to go");
            assert!(most <= 64, "{most} handlers ran at once");
            let cut = if timeout.is_some() { "whose deadlines pass at once" } else { "cancelled in their own segment" };
            format!(
                "calls {cut}, {connections} connections, each told why it is closed; at most {most} handlers at once"
            )
        });
    }
}

/// A proxy that forwards in both directions until it is told to stop, and then takes and says nothing, as a broken link does.
struct Link {
    url: String,
    broken: Arc<AtomicBool>,
}

impl Link {
    fn to(addr: &str) -> Link {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("tcp://{}", listener.local_addr().expect("bound"));
        let broken = Arc::new(AtomicBool::new(false));
        let (addr, state) = (addr.to_owned(), Arc::clone(&broken));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = TcpStream::connect(&addr).expect("it listens");
                let ends =
                    [(client.try_clone().expect("a socket"), server.try_clone().expect("a socket")), (server, client)];
                for (from, to) in ends {
                    let broken = Arc::clone(&state);
                    thread::spawn(move || forward(from, to, &broken));
                }
            }
        });
        Link { url, broken }
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, broken: &AtomicBool) {
    let mut bytes = [0; 4096];
    loop {
        match from.read(&mut bytes) {
            _ if broken.load(Ordering::SeqCst) => break,
            Ok(n) if n > 0 && to.write_all(&bytes[..n]).is_ok() => {}
            _ => return,
        }
    }
    // Both ends stay open, and neither hears of the other any more.
    thread::sleep(Duration::from_secs(60)); // the link stays broken for longer than the test
    drop((from, to));
}

/// T5: the link breaks without a word. The client's calls end when the keepalive finds out, long before their deadlines; the server gives
/// up the handlers of a client that is gone. Whoever comes by another way is served all the while.
#[test]
fn t5_a_broken_link_is_noticed_at_both_ends() {
    const CALLS: usize = 8;
    let limits = ["keepalive_min_interval=50ms", "keepalive_interval=300ms", "keepalive_timeout=5s"];
    Attack::new(BIN, "T5").limits(&limits).run(|scene| {
        let link = Link::to(scene.server.addr());
        let builder = limits.iter().fold(Channel::builder(&link.url).connections(1), |builder, limit| {
            let (name, value) = limit.split_once('=').expect("a pair");
            builder.set(name, value)
        });
        let client = TesteeClient::new(builder.build().expect("a channel"));
        client.echo(Blob::default()).wait().expect("the link works");
        let call = || client.sleep(Millis { ms: 50_000, kind: String::new() }).timeout(Duration::from_secs(55));
        let noticed = thread::scope(|scope| {
            let calls: Vec<_> = (0..CALLS).map(|_| scope.spawn(|| call().wait())).collect();
            let running = || scene.stats().get("in_flight");
            assert!(eventually(LIMIT, || running() == CALLS as u64));
            // The handlers outlast several pings while the link works.
            thread::sleep(Duration::from_millis(1500));
            assert_eq!(running(), CALLS as u64, "pings keep the connection");
            link.broken.store(true, Ordering::SeqCst);
            let broken = Instant::now();
            for call in calls {
                let error = call.join().expect("no panic").expect_err("the link is broken");
                assert_eq!(error.code(), Code::Unavailable, "{error}");
                assert!(error.to_string().contains("keepalive_timeout"), "{error}");
            }
            assert!(eventually(LIMIT, || running() == 0), "the server gives up, too");
            broken.elapsed()
        });
        assert!(noticed < Duration::from_secs(40), "long before any deadline: {noticed:?}");
        format!(
            "a link that breaks without a word under {CALLS} calls: their ends and their handlers' within {noticed:?}"
        )
    });
}
