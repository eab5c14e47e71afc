//! Peers that misbehave, one test a row of the table of attacks (T1, T3, …). During each a well-behaved client on another
//! connection has every call answered, and afterwards the server is alive with the descriptors it had before.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;
use testee::idl::testee::{Blob, Millis};
use testee::{Testee, eventually, make, raw};

const BIN: &str = env!("CARGO_BIN_EXE_testee");

/// How late a closed connection may be noticed on a machine that does much else.
const SLACK: Duration = Duration::from_secs(3);

/// Runs an attack on a server with these limits, with the well-behaved client beside it.
fn attack(limits: &[&str], attack: impl FnOnce(&Testee)) {
    let mut server = Testee::start(BIN, limits.iter().flat_map(|limit| ["--set", limit]));
    let fds = server.fds();
    let over = AtomicBool::new(false);
    let calls = thread::scope(|scope| {
        let (client, over) = (server.client(), &over);
        let polite = scope.spawn(move || {
            let mut calls = 0;
            while calls == 0 || !over.load(Ordering::Acquire) {
                let payload = make(calls, 100);
                let reply = client.echo(Blob { payload: payload.clone() }).wait();
                assert_eq!(reply.unwrap_or_else(|e| panic!("a polite call failed: {e}")).payload, payload);
                calls += 1;
            }
            calls
        });
        // So that the polite one stops even if the attack's own checks fail.
        let end = End(over);
        attack(&server);
        drop(end);
        polite.join().expect("every polite call succeeds")
    });
    assert!(calls > 0, "the polite client has called");
    assert!(server.is_alive(), "the server lives: {}", server.errors());
    assert!(eventually(SLACK, || server.fds() == fds), "descriptors: {fds} before, {} after", server.fds());
    let quiet = eventually(SLACK, || server.stats().get("in_flight") == 0);
    assert!(quiet, "nothing runs any more: {:?}", server.stats());
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn dial(server: &Testee) -> TcpStream {
    let socket = TcpStream::connect(server.addr()).expect("it listens");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout can be set");
    socket
}

/// Sends bytes; the server must close without an answer, at once.
fn refused(server: &Testee, bytes: &[u8]) {
    let mut socket = dial(server);
    let start = Instant::now();
    let (heard, _) = raw::say(&mut socket, bytes);
    let took = start.elapsed();
    assert_eq!(heard, b"", "an answer to {:02x?}…", &bytes[..bytes.len().min(20)]);
    assert!(took < SLACK, "closed after {took:?}");
}

/// Sends one request and reads its answer.
fn ask(socket: &mut TcpStream, frame: &[u8]) -> raw::Frame {
    socket.write_all(frame).expect("sent");
    raw::read_frame(socket).expect("a frame").expect("the connection stays")
}

fn still_works(socket: &mut TcpStream) {
    let reply = ask(socket, &raw::request(77, "Echo", &raw::blob(b"still here")));
    assert_eq!((reply.seq, reply.blob()), (77, Some(&b"still here"[..])));
}

/// Closes with a reset.
fn reset(socket: TcpStream) {
    SockRef::from(&socket).set_linger(Some(Duration::ZERO)).expect("linger can be set");
}

#[test]
fn t01_lengths_over_the_limit_close_and_cost_nothing() {
    attack(&["max_frame_size=1MiB"], |server| {
        refused(server, &[0xff; 8]);
        let before = server.rss();
        for round in 0..1000 {
            let length = [0xffff_ffff_u32, 0x7fff_ffff, (1 << 20) + 1][round % 3];
            let mut frame = raw::request(1, "Echo", b"");
            frame[..4].copy_from_slice(&length.to_be_bytes());
            refused(server, &frame);
        }
        let grown = server.rss().saturating_sub(before);
        println!("T1: resident memory grew by {} KiB over 1,000 connections", grown / 1024);
        assert!(grown < 1 << 20, "{grown} bytes");
    });
}

#[test]
fn t02_an_announced_frame_takes_no_memory_before_it_comes() {
    attack(&["frame_progress=1s"], |server| {
        let (before, start) = (server.rss(), Instant::now());
        let mut frame = raw::request(1, "Echo", b"");
        frame[..4].copy_from_slice(&(15_u32 << 20).to_be_bytes());
        let sockets: Vec<_> = (0..200)
            .map(|_| {
                let mut socket = dial(server);
                socket.write_all(&frame).expect("sent");
                socket
            })
            .collect();
        assert!(eventually(SLACK, || server.stats().get("connections") >= 200 || start.elapsed() > SLACK));
        let grown = server.rss().saturating_sub(before);
        println!("T2: 200 announced frames of 15 MiB hold {} KiB", grown / 1024);
        assert!(grown < 200 * (64 << 10) + (2 << 20), "{grown} bytes");
        for mut socket in sockets {
            assert!(closes(&mut socket), "closed after frame_progress");
        }
    });
}

/// Whether the peer closes, orderly or not, without saying anything.
fn closes(socket: &mut TcpStream) -> bool {
    match socket.read(&mut [0; 64]) {
        Ok(n) => n == 0,
        Err(e) => e.kind() != ErrorKind::WouldBlock && e.kind() != ErrorKind::TimedOut,
    }
}

#[test]
fn t03_impossible_lengths_close() {
    attack(&[], |server| {
        let good = raw::request(1, "Echo", &raw::blob(b"x"));
        for length in 0..=13_u32 {
            let mut frame = good.clone();
            frame[..4].copy_from_slice(&length.to_be_bytes());
            refused(server, &frame);
        }
        for header_size in [0_u16, 0xffff, 100] {
            let mut frame = good.clone();
            frame[12..14].copy_from_slice(&header_size.to_be_bytes());
            refused(server, &frame);
        }
    });
}

#[test]
fn t04_a_slow_loris_is_closed() {
    attack(&["frame_progress=500ms"], |server| {
        let frame = raw::ttheader(
            1,
            1,
            &raw::strings(&[("k", "v".repeat(50))]),
            &raw::framed(1, "Echo", 1, &raw::blob(&[7; 200])),
        );
        // In the length, in the fixed part, in the header, in the body.
        let sockets: Vec<_> = [1, 3, 7, 12, 15, 40, 80, 120, frame.len() - 1]
            .into_iter()
            .map(|cut| {
                let mut socket = dial(server);
                still_works(&mut socket); // so that it is not first_frame_timeout that acts
                socket.write_all(&frame[..cut]).expect("sent");
                (cut, socket, Instant::now())
            })
            .collect();
        for (cut, mut socket, start) in sockets {
            assert!(closes(&mut socket), "cut at {cut}: closed without an answer");
            let took = start.elapsed();
            assert!(
                took > Duration::from_millis(400) && took < Duration::from_millis(500) + SLACK,
                "cut at {cut}: after {took:?}"
            );
        }
    });
}

#[test]
fn t05_silent_connections_are_closed() {
    attack(&["first_frame_timeout=500ms"], |server| {
        let start = Instant::now();
        let sockets: Vec<_> = (0..200).map(|_| dial(server)).collect();
        for mut socket in sockets {
            assert!(closes(&mut socket));
        }
        let took = start.elapsed();
        assert!(took > Duration::from_millis(400) && took < Duration::from_millis(500) + SLACK, "after {took:?}");
    });
}

/// T6, the part that needs no fuzzer: a message that does not parse is answered, and the connection stays.
#[test]
fn t06_a_bad_message_is_answered() {
    attack(&[], |server| {
        let mut socket = dial(server);
        let bad: [&[u8]; 7] = [
            &[0x0a, 0x05, b'x'],   // a length past the end
            &[0xff; 11],           // a varint of 11 bytes
            &[0x0e, 0x00],         // wire type 6
            &[0x0f, 0x00],         // wire type 7
            &[0x02, 0x00],         // field 0
            &[0x08, 0x01],         // a number where bytes are due
            &[0x0b].repeat(5_000), // groups, 5,000 deep
        ];
        for (seq, body) in (1..).zip(bad) {
            let reply = ask(&mut socket, &raw::request(seq, "Echo", body));
            assert_eq!((reply.seq, reply.exception().map(|(id, _)| id)), (seq, Some(7)), "{body:02x?}");
        }
        still_works(&mut socket);
        assert_eq!(server.stats().get("glitches"), bad.len() as u64);
    });
}

#[test]
fn t07_header_bombs_are_refused_to_the_call() {
    attack(&["max_header_size=4KiB", "max_header_entries=32"], |server| {
        let mut socket = dial(server);
        let pairs = |n: usize, len: usize| -> Vec<(String, String)> {
            (0..n).map(|i| (format!("k{i}"), "v".repeat(len))).collect()
        };
        let same: Vec<_> = (0..10_000).map(|_| ("k", "")).collect();
        let bombs = [
            raw::strings(&pairs(4, 60_000)),
            raw::strings(&pairs(33, 1)),
            raw::strings(&pairs(10_000, 0)),
            raw::strings(&same),
            vec![0; 100_000], // padding only
        ];
        for (seq, info) in (1..).zip(&bombs) {
            let reply = ask(&mut socket, &raw::ttheader(1, seq, info, &raw::framed(1, "Echo", seq, b"")));
            let (type_id, text) = reply.exception().expect("an exception");
            assert_eq!((reply.seq, type_id), (seq, 6), "{text}");
            assert!(text.contains("max_header"), "it names the limit: {text}");
        }
        // Odd but legal: keys that are no text.
        let info = raw::strings(&[(&b"\xff\xfe"[..], &b"\x80"[..])]);
        let reply = ask(&mut socket, &raw::ttheader(1, 99, &info, &raw::framed(1, "Echo", 99, b"")));
        assert_eq!((reply.kind, reply.seq), (raw::REPLY, 99));
        still_works(&mut socket);
        assert_eq!(server.stats().get("glitches"), bombs.len() as u64);
    });
}

#[test]
fn t08_unknown_methods_are_answered_and_not_remembered() {
    attack(&[], |server| {
        let mut socket = dial(server);
        let mut round = |from: i32, to: i32| {
            for start in (from..to).step_by(500) {
                let isn = |seq: i32| raw::strings(&[("isn", format!("Service{}", seq % 7))]);
                let one =
                    |seq: i32| raw::ttheader(1, seq, &isn(seq), &raw::framed(1, &format!("Method{seq}"), seq, b""));
                socket.write_all(&(start..start + 500).flat_map(one).collect::<Vec<_>>()).expect("sent");
                for seq in start..start + 500 {
                    let reply = raw::read_frame(&mut socket).expect("a frame").expect("the connection stays");
                    assert_eq!((reply.seq, reply.exception().map(|(id, _)| id)), (seq, Some(20)));
                }
            }
        };
        round(1, 10_001);
        let before = server.rss();
        round(10_001, 50_001);
        let grown = server.rss().saturating_sub(before);
        println!("T8: 40,000 more unknown names took {} KiB", grown / 1024);
        assert!(grown < 1 << 20, "{grown} bytes");
        still_works(&mut socket);
    });
}

#[test]
fn t09_equal_ids_in_flight_are_each_answered() {
    attack(&[], |server| {
        let mut socket = dial(server);
        let frames: Vec<_> = (0..50).flat_map(|n| raw::request(5, "Sleep", &raw::number(n % 7))).collect();
        socket.write_all(&frames).expect("sent");
        for _ in 0..50 {
            let reply = raw::read_frame(&mut socket).expect("a frame").expect("a reply");
            assert_eq!((reply.seq, reply.kind), (5, raw::REPLY));
        }
        still_works(&mut socket);
    });
}

#[test]
fn t11_a_peer_that_never_reads_is_bounded_then_reset() {
    let limits =
        ["max_frame_size=64KiB", "write_low=16KiB", "write_high=64KiB", "write_hard=128KiB", "write_stall_timeout=1s"];
    const PEERS: usize = 32;
    attack(&limits, |server| {
        let before = server.rss();
        let flood: Vec<u8> = (1..200).flat_map(|seq| raw::request(seq, "Give", &raw::number(8 << 10))).collect();
        let mut peers: Vec<_> = (0..PEERS)
            .map(|_| {
                let socket = dial(server);
                SockRef::from(&socket).set_recv_buffer_size(4096).expect("a small buffer");
                socket.set_nonblocking(true).expect("non-blocking");
                (socket, 0_usize, true)
            })
            .collect();
        let (mut most, mut rss, start) = (0, 0, Instant::now());
        let all_reset = eventually(Duration::from_secs(20), || {
            for (socket, sent, open) in &mut peers {
                while *open {
                    match socket.write(&flood[*sent % flood.len()..]) {
                        Ok(n) => *sent += n,
                        Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                        Err(_) => *open = false,
                    }
                }
            }
            most = most.max(server.stats().get("buffered_bytes"));
            rss = rss.max(server.rss());
            peers.iter().all(|(_, _, open)| !open)
        });
        println!(
            "T11: {PEERS} floods held at most {} KiB, resident memory grew by {} KiB, reset after {:?}",
            most / 1024,
            rss.saturating_sub(before) / 1024,
            start.elapsed()
        );
        assert!(all_reset, "reset after write_stall_timeout");
        // Each: the mark, one more batch of replies, and what of a block it holds for input.
        let bound = PEERS * ((128 << 10) + (64 << 10));
        assert!(most as usize <= bound, "{most} bytes buffered, bound {bound}");
        assert!(rss.saturating_sub(before) as usize <= 2 * bound, "resident memory grew by {}", rss - before);
    });
}

/// Without the busy client: the processor time is to be the pause's own.
#[test]
fn t13_without_descriptors_accepting_pauses() {
    let server = Testee::start(BIN, ["--reactors", "2"]);
    let mut alive = dial(&server);
    still_works(&mut alive);
    let fds = server.fds();
    server.limit_files(fds as u64 + 3);
    let mut sockets: Vec<_> = (0..60).map(|_| dial(&server)).collect();
    // Over the connection that exists: a new one would not be accepted.
    let errors = |mut socket: &TcpStream| {
        socket.write_all(&raw::request(1, "Stats", b"")).expect("the connection lives");
        let reply = raw::read_frame(&mut socket).expect("a frame").expect("a reply");
        let json = String::from_utf8_lossy(&reply.body).into_owned();
        json.split("\"accept_errors\":").skip(1).filter_map(|s| s.split(',').next()?.parse::<u64>().ok()).sum::<u64>()
    };
    assert!(eventually(SLACK, || errors(&alive) > 0), "accepting fails");
    let (cpu, before) = (server.cpu(), errors(&alive));
    thread::sleep(Duration::from_secs(1)); // the span that is measured
    let (used, failed) = (server.cpu() - cpu, errors(&alive) - before);
    println!("T13: one second without descriptors: {failed} accept errors, {used:?} of processor time");
    assert!(used <= Duration::from_millis(50), "5 % of a second, used {used:?}");
    still_works(&mut alive);

    server.limit_files(1024);
    let start = Instant::now();
    for socket in &mut sockets {
        still_works(socket);
    }
    println!("T13: all 60 are served {:?} after descriptors are free", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(1) + SLACK);
    drop(sockets);
    assert!(eventually(SLACK, || server.fds() == fds), "descriptors: {fds} before, {} after", server.fds());
}

#[test]
fn t14_connect_and_reset_storm() {
    attack(&[], |server| {
        for round in 0..3_000 {
            let mut socket = dial(server);
            if round % 3 == 0 {
                let _ = socket.write_all(&raw::request(1, "Echo", b"")[..round % 38]);
            }
            reset(socket);
        }
    });
}

#[test]
fn t17_handlers_of_a_gone_peer_end() {
    attack(&["max_inflight_per_conn=2000"], |server| {
        let mut socket = dial(server);
        let frames: Vec<_> = (1..=1000).flat_map(|seq| raw::request(seq, "Sleep", &raw::number(60_000))).collect();
        socket.write_all(&frames).expect("sent");
        assert!(eventually(SLACK, || server.stats().get("in_flight") >= 1000), "{:?}", server.stats());
        let start = Instant::now();
        drop(socket);
        assert!(eventually(SLACK, || server.stats().get("in_flight") < 10), "{:?}", server.stats());
        println!("T17: 1,000 handlers ended {:?} after their peer", start.elapsed());
        // Whoever gets the descriptor's number next hears nothing of it.
        let mut next = dial(server);
        still_works(&mut next);
    });
}

#[test]
fn t18_a_panic_is_an_error_of_its_call_alone() {
    attack(&[], |server| {
        let mut socket = dial(server);
        let mut panic_later = raw::number(20);
        panic_later.extend([0x12, 5]);
        panic_later.extend(b"later");
        let mut frames = Vec::new();
        for seq in (1..=90).step_by(3) {
            frames.extend(raw::request(seq, "Sleep", &raw::number(30)));
            frames.extend(raw::request(seq + 1, "Panic", b""));
            frames.extend(raw::request(seq + 2, "Panic", &panic_later));
        }
        socket.write_all(&frames).expect("sent");
        for _ in 0..90 {
            let reply = raw::read_frame(&mut socket).expect("a frame").expect("the connection stays");
            match reply.exception() {
                None => assert_eq!(reply.seq % 3, 1, "a sleep succeeds"),
                Some((type_id, text)) => {
                    assert!(reply.seq % 3 != 1 && type_id == 6 && text.starts_with("panic:"), "{type_id} {text}");
                    assert!(!text.contains("4711"), "the panic's text stays here: {text}");
                }
            }
        }
        still_works(&mut socket);
        assert_eq!(server.stats().get("in_flight"), 0);
    });
}

/// A handler that blocks occupies a worker, not a reactor.
#[test]
fn t19_blocking_methods_leave_the_reactors_free() {
    attack(&[], |server| {
        let client = server.client();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| client.spin(Millis { ms: 300, kind: String::new() }).wait().expect("it ends"));
            }
            let start = Instant::now();
            client.echo(Blob::default()).wait().expect("not behind the four");
            assert!(start.elapsed() < Duration::from_millis(250), "{:?}", start.elapsed());
        });
    });
}

#[test]
fn t20_odd_deadlines() {
    attack(&[], |server| {
        let mut socket = dial(server);
        #[rustfmt::skip]
        let table = [
            // key 12                      of Sleep(50): a reply, or the deadline
            (None,                         true),
            (Some("0"),                    true),
            (Some("-1"),                   true),
            (Some("soon"),                 true),
            (Some(""),                     true),
            (Some("9223372036854775808"),  true),
            (Some("99999999999999999999"), true),
            (Some("4294967295"),           true),
            (Some("1000"),                 true),
            (Some("5"),                    false),
            (Some("1"),                    false),
        ];
        for (seq, (timeout, replies)) in (1..).zip(table) {
            let info = timeout.map(|t| raw::ints(&[(12, t)])).unwrap_or_default();
            let reply =
                ask(&mut socket, &raw::ttheader(1, seq, &info, &raw::framed(1, "Sleep", seq, &raw::number(50))));
            assert_eq!((reply.seq, reply.kind == raw::REPLY), (seq, replies), "{timeout:?}: {reply:?}");
        }
        still_works(&mut socket);
    });
}

/// T20: a call that expired while it was queued for a worker is not run.
#[test]
fn t20_expired_in_the_queue_is_not_run() {
    let server = Testee::start(BIN, ["--workers", "1"]);
    let mut socket = dial(&server);
    let spin = |seq, ms, timeout| {
        raw::ttheader(1, seq, &raw::ints(&[(12, timeout)]), &raw::framed(1, "Spin", seq, &raw::number(ms)))
    };
    let start = Instant::now();
    socket.write_all(&[spin(1, 300, "60000"), spin(2, 5_000, "50")].concat()).expect("sent");
    let first = raw::read_frame(&mut socket).expect("a frame").expect("a reply");
    assert_eq!((first.seq, first.exception().map(|(id, _)| id)), (2, Some(6)), "its deadline passes first");
    let second = raw::read_frame(&mut socket).expect("a frame").expect("a reply");
    assert_eq!((second.seq, second.kind), (1, raw::REPLY));
    assert!(eventually(SLACK, || server.stats().get("in_flight") == 0) && start.elapsed() < Duration::from_secs(5));
}

#[test]
fn t33_writing_to_a_closed_peer_kills_nobody() {
    attack(&[], |server| {
        for round in 0..200 {
            let mut socket = dial(server);
            let frames: Vec<_> = (1..20).flat_map(|seq| raw::request(seq, "Give", &raw::number(20_000))).collect();
            socket.write_all(&frames).expect("sent");
            if round % 2 == 0 { reset(socket) } else { drop(socket) }
        }
    });
}

#[test]
fn t39_other_protocols_are_closed_at_once() {
    attack(&[], |server| {
        let junk: [&[u8]; 8] = [
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaaaaaaaaaaaaaaaaaaaa",
            b"SSH-2.0-OpenSSH_9.6\r\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c",
            b"stats\r\nstats\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\xde\xad\xbe\xef\xde\xad\xbe\xef\xde\xad\xbe\xef",
        ];
        for bytes in junk {
            refused(server, bytes);
        }
    });
}

/// A log is no amplifier: a flood of junk writes nothing unless someone asked for a log.
#[test]
fn t39_junk_does_not_flood_the_log() {
    let server = Testee::start(BIN, [] as [&str; 0]);
    for _ in 0..200 {
        refused(&server, b"GET / HTTP/1.1\r\n\r\n");
    }
    assert_eq!(server.errors(), "");
}

/// A peer that makes many content errors is told to stop, then cut off; others are not.
#[test]
fn glitches_have_a_budget() {
    attack(&["max_glitches=20"], |server| {
        let mut socket = dial(server);
        let frames: Vec<_> = (1..=40).flat_map(|seq| raw::request(seq, "Echo", &[0x0e])).collect();
        let _ = socket.write_all(&frames);
        let mut answers = 0;
        while let Ok(Some(frame)) = raw::read_frame(&mut socket) {
            answers += i32::from(frame.seq != 0);
        }
        assert!(answers <= 20, "cut off after the budget: {answers} answers");
    });
}

/// I9: more requests than `max_inflight_per_conn` wait in the socket.
#[test]
fn running_handlers_of_a_connection_are_bounded() {
    attack(&["max_inflight_per_conn=8", "max_inflight=20"], |server| {
        let sleeps: Vec<_> = (1..=30).flat_map(|seq| raw::request(seq, "Sleep", &raw::number(100))).collect();
        let mut one = dial(server);
        one.write_all(&sleeps).expect("sent");
        assert!(eventually(SLACK, || server.stats().get("in_flight") == 8));
        for _ in 0..30 {
            assert!(server.stats().get("in_flight") <= 8);
            let reply = raw::read_frame(&mut one).expect("a frame").expect("a reply");
            assert_eq!(reply.kind, raw::REPLY, "none is refused: they wait");
        }
    });
}

/// I9: requests over `max_inflight` are refused, whoever makes them, and not executed.
#[test]
fn running_handlers_are_bounded() {
    let server = Testee::start(BIN, ["--set", "max_inflight_per_conn=8", "--set", "max_inflight=20"]);
    let sleeps: Vec<_> = (1..=30).flat_map(|seq| raw::request(seq, "Sleep", &raw::number(100))).collect();
    let mut many: Vec<_> = (0..4).map(|_| dial(&server)).collect();
    many.iter_mut().for_each(|socket| socket.write_all(&sleeps).expect("sent"));
    let mut refused = 0;
    for socket in &mut many {
        for _ in 0..30 {
            let reply = raw::read_frame(socket).expect("a frame").expect("a reply");
            refused += i32::from(reply.exception().is_some_and(|(_, text)| text.contains("max_inflight")));
        }
    }
    assert!(refused > 0, "4 × 8 are more than 20");
    still_works(&mut many[0]);
}

/// `max_connections`: more are accepted, closed, counted.
#[test]
fn connections_are_bounded() {
    let server = Testee::start(BIN, ["--set", "max_connections=5"]);
    let mut sockets: Vec<_> = (0..5).map(|_| dial(&server)).collect();
    sockets.iter_mut().for_each(still_works);
    for _ in 0..20 {
        assert!(closes(&mut dial(&server)));
    }
    sockets.iter_mut().for_each(still_works);
    drop(sockets);
    assert!(eventually(SLACK, || server.client().echo(Blob::default()).wait().is_ok()), "there is room again");
}
