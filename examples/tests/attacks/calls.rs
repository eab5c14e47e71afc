//! Calls that ask for too much, or whose handlers misbehave: unknown methods (T8), ids used twice (T9), peers that leave (T17), panics
//! (T18), held reactors (T19), deadlines (T20), limits of calls.

use std::collections::HashMap;
use std::io::Write;
use std::iter;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use socket2::SockRef;
use testee::idl::testee::Blob;
use testee::{GONE, Testee, eventually, make, raw, resident};

use crate::{BIN, attack};

#[test]
fn t08_unknown_methods_are_answered_and_not_remembered() {
    const NAMES: i32 = 100_000;
    attack("T8").run(|scene| {
        let mut socket = scene.dial();
        let mut round = |from: i32, to: i32| {
            for start in (from..to).step_by(500) {
                let isn = |seq: i32| raw::strings(&[("isn", format!("Service{}", seq % 1_007))]);
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
        let before = scene.server.rss();
        round(10_001, NAMES + 1);
        let grown = scene.server.rss().saturating_sub(before);
        assert!(grown < resident(1 << 20), "{grown} bytes");
        scene.still_works(&mut socket);
        format!("{NAMES} unknown names, each answered; the last 90,000 took {} KiB", grown / 1024)
    });
}

#[test]
fn t09_equal_ids_in_flight_are_each_answered() {
    attack("T9").run(|scene| {
        let mut socket = scene.dial();
        let frames: Vec<_> = (0..50).flat_map(|n| raw::request(5, "Sleep", &raw::number(n % 7))).collect();
        socket.write_all(&frames).expect("sent");
        for _ in 0..50 {
            let reply = raw::read_frame(&mut socket).expect("a frame").expect("a reply");
            assert_eq!((reply.seq, reply.kind), (5, raw::REPLY));
        }
        scene.still_works(&mut socket);
        "50 calls with one id at once, each answered".to_owned()
    });
}

/// Handlers on reactors are dropped; those on workers return when they please, and what they say goes nowhere: not to the connection
/// that has the descriptor's number next.
#[test]
fn t17_handlers_of_a_gone_peer_end_and_speak_to_nobody() {
    const SLEEPING: i32 = 984;
    const SPINNING: i32 = 16;
    /// The first id of who comes next.
    const NEXT: i32 = 2_000;
    attack("T17").limits(&["max_inflight_per_conn=2000"]).run(|scene| {
        let mut socket = scene.dial();
        let sleeps = (1..=SLEEPING).flat_map(|seq| raw::request(seq, "Sleep", &raw::number(60_000)));
        let spins = (1..=SPINNING).flat_map(|seq| raw::request(SLEEPING + seq, "Spin", &raw::number(5_000)));
        socket.write_all(&sleeps.chain(spins).collect::<Vec<_>>()).expect("sent");
        let all = (SLEEPING + SPINNING) as u64;
        assert!(eventually(GONE, || scene.stats().get("in_flight") == all), "{:?}", scene.stats());
        let (start, fds) = (Instant::now(), scene.server.fds());
        drop(socket);
        assert!(eventually(GONE, || scene.stats().get("in_flight") == 0), "{:?}", scene.stats());
        let ended = start.elapsed();
        // As many as were open: one of them has the number. They hear their own replies and nothing else for as long as a worker runs: those to
        // what is blocked on behind it come when it is free.
        let mut next: Vec<_> = iter::repeat_with(|| scene.dial()).take(3).collect();
        assert!(eventually(GONE, || scene.server.fds() > fds), "they are open");
        for socket in &mut next {
            scene.still_works(socket);
            let spins = (NEXT..NEXT + SPINNING).flat_map(|seq| raw::request(seq, "Spin", &raw::number(100)));
            socket.write_all(&spins.collect::<Vec<_>>()).expect("sent");
        }
        for socket in &mut next {
            let mut heard: Vec<_> =
                (0..SPINNING).map(|_| raw::read_frame(socket).expect("a frame").expect("a reply").seq).collect();
            heard.sort_unstable();
            assert!(heard.iter().copied().eq(NEXT..NEXT + SPINNING), "a reply to another's call: {heard:?}");
            scene.still_works(socket);
        }
        format!(
            "left with 1,000 handlers running; their calls had ended within {ended:?} (aim 100 ms), {SPINNING} handlers blocked on; \
             who came next heard nothing of them"
        )
    });
}

/// 5,000 innocent calls, and among them 1,000 of each way to panic, all on one connection.
#[test]
fn t18_a_panic_is_an_error_of_its_call_alone() {
    const INNOCENT: i32 = 5_000;
    const KINDS: [(&str, u64); 5] = [("now", 0), ("later", 2), ("drop", 0), ("drop", 2), ("lock", 0)];
    attack("T18").run(|scene| {
        let mut socket = scene.dial();
        let panic = |id: i32, (kind, ms): (&str, u64)| {
            let body = [&raw::number(ms)[..], &[0x12, kind.len() as u8], kind.as_bytes()].concat();
            raw::request(id, "Panic", &body)
        };
        let (mut innocent, mut panics) = (0, HashMap::new());
        for from in (0..INNOCENT).step_by(100) {
            // Odd ids are innocent, half of them wait; even ones panic.
            let pair = |n: i32| {
                let good = match n % 2 {
                    0 => raw::request(2 * n + 1, "Echo", &raw::blob(&n.to_be_bytes())),
                    _ => raw::request(2 * n + 1, "Sleep", &raw::number(3)),
                };
                [good, panic(2 * n + 2, KINDS[n as usize % KINDS.len()])].concat()
            };
            socket.write_all(&(from..from + 100).flat_map(pair).collect::<Vec<_>>()).expect("sent");
            for _ in 0..200 {
                let reply = raw::read_frame(&mut socket).expect("a frame").expect("the connection stays");
                let n = (reply.seq - 1) / 2;
                match reply.exception() {
                    None => {
                        let own = if n % 2 == 0 { &n.to_be_bytes()[..] } else { &[] };
                        assert_eq!((reply.seq % 2, reply.blob()), (1, Some(own)), "{reply:?}");
                        innocent += 1;
                    }
                    Some((type_id, text)) => {
                        assert!(reply.seq % 2 == 0 && type_id == 6 && text.starts_with("panic:"), "{type_id} {text}");
                        assert!(!text.contains("4711"), "the panic's text stays here: {text}");
                        *panics.entry(KINDS[n as usize % KINDS.len()]).or_insert(0) += 1;
                    }
                }
            }
        }
        scene.still_works(&mut socket);
        assert_eq!(innocent, INNOCENT);
        assert!(panics.len() == KINDS.len() && panics.values().all(|n| *n == 1_000), "{panics:?}");
        format!("5,000 calls panicked in 5 ways; {innocent} of {INNOCENT} innocent calls beside them, on their connection, succeeded")
    });
}

/// T18: panics in what a deadline or a leaving peer cancels.
#[test]
fn t18_a_panic_in_a_cancelled_handler_hurts_nobody() {
    attack("T18").run(|scene| {
        let mut socket = scene.dial();
        let bomb = [&raw::number(60_000)[..], b"\x12\x04drop"].concat();
        let info = raw::ints(&[(12, "20")]);
        for seq in 1..=200 {
            socket.write_all(&raw::ttheader(1, seq, &info, &raw::framed(1, "Panic", seq, &bomb))).expect("sent");
        }
        for _ in 1..=200 {
            let reply = raw::read_frame(&mut socket).expect("a frame").expect("the connection stays");
            assert!(reply.exception().is_some_and(|(_, text)| text.contains("deadline")), "{reply:?}");
        }
        scene.still_works(&mut socket);
        let frames: Vec<_> = (1..=200).flat_map(|seq| raw::request(seq, "Panic", &bomb)).collect();
        socket.write_all(&frames).expect("sent");
        assert!(eventually(GONE, || scene.stats().get("in_flight") == 200));
        drop(socket);
        assert!(eventually(GONE, || scene.stats().get("in_flight") == 0));
        "200 handlers panicked when their deadline cancelled them, 200 when their peer left".to_owned()
    });
}

/// A handler that blocks, though it was not to, holds its reactor; it is named, and who is on another reactor does not notice.
#[test]
fn t19_a_held_reactor_is_told_of_and_the_others_serve() {
    attack("T19").args(&["--reactors", "2", "--verbose"]).run(|scene| {
        // Connections go to each reactor in turn: this one is not where the polite one is.
        let mut socket = scene.dial();
        scene.still_works(&mut socket);
        let (before, start) = (scene.polite_calls(), Instant::now());
        let body = [&raw::number(2_000)[..], b"\x12\x04hold"].concat();
        socket.write_all(&raw::request(1, "Sleep", &body)).expect("sent");
        assert!(eventually(3 * GONE, || scene.stats().sum("stalls") >= 1), "the counter rises");
        // Its own neighbours wait, and are served then.
        let mut frames = raw::request(2, "Echo", b"");
        frames.extend(raw::request(3, "Echo", b""));
        socket.write_all(&frames).expect("sent");
        for seq in 1..=3 {
            let reply = raw::read_frame(&mut socket).expect("a frame").expect("a reply");
            assert_eq!((reply.seq, reply.kind), (seq, raw::REPLY));
        }
        let (took, beside) = (start.elapsed(), scene.polite_calls() - before);
        assert!(beside >= 20, "{beside} calls beside a held reactor in {took:?}");
        // On a machine that stands still for a moment other turns may take long, too.
        let log = scene.server.errors();
        let told = log.lines().filter(|line| line.contains("a reactor is held"));
        let named = told.filter(|line| line.contains("method=testee.Testee/Sleep")).count();
        assert_eq!(named, 1, "told of once, by name: {log}");
        format!("held a reactor for {took:?}, told of once, by name; meanwhile {beside} polite calls on the other one")
    });
}

/// A handler of a blocking method occupies a worker, not a reactor.
#[test]
fn t19_blocking_methods_leave_the_reactors_free() {
    attack("T19").args(&["--reactors", "1"]).run(|scene| {
        let mut socket = scene.dial();
        let frames: Vec<_> = (1..=16).flat_map(|seq| raw::request(seq, "Spin", &raw::number(1_000))).collect();
        let before = scene.polite_calls();
        socket.write_all(&frames).expect("sent");
        for _ in 1..=16 {
            let reply = raw::read_frame(&mut socket).expect("a frame").expect("a reply");
            assert_eq!(reply.kind, raw::REPLY);
        }
        let beside = scene.polite_calls() - before;
        assert!(beside >= 20, "{beside} calls beside 16 busy workers");
        format!("16 workers blocked for a second; {beside} polite calls on the only reactor meanwhile")
    });
}

#[test]
fn t20_odd_deadlines() {
    attack("T20").run(|scene| {
        let mut socket = scene.dial();
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
            (Some("10000"),                true),
            (Some("5"),                    false),
            (Some("1"),                    false),
        ];
        for (seq, (timeout, replies)) in (1..).zip(table) {
            let info = timeout.map(|t| raw::ints(&[(12, t)])).unwrap_or_default();
            let frame = raw::ttheader(1, seq, &info, &raw::framed(1, "Sleep", seq, &raw::number(50)));
            let reply = scene.ask(&mut socket, &frame);
            assert_eq!((reply.seq, reply.kind == raw::REPLY), (seq, replies), "{timeout:?}: {reply:?}");
        }
        scene.still_works(&mut socket);
        format!("{} deadlines, from none to 2^64: only those that are some bind", table.len())
    });
}

/// A call that expired while it was queued for a worker is not run.
#[test]
fn t20_expired_in_the_queue_is_not_run() {
    attack("T20").args(&["--workers", "1"]).run(|scene| {
        let mut socket = scene.dial();
        let spin = |seq, ms, timeout| {
            raw::ttheader(1, seq, &raw::ints(&[(12, timeout)]), &raw::framed(1, "Spin", seq, &raw::number(ms)))
        };
        let expired = (2..=50).map(|seq| spin(seq, 3_600_000, "50"));
        let frames = iter::once(spin(1, 400, "60000")).chain(expired).chain([spin(51, 1, "60000")]);
        socket.write_all(&frames.collect::<Vec<_>>().concat()).expect("sent");
        let mut order = Vec::new();
        for _ in 1..=51 {
            let reply = raw::read_frame(&mut socket).expect("a frame").expect("a reply");
            match reply.exception() {
                None => order.push(reply.seq),
                Some((type_id, _)) => assert!(type_id == 6 && (2..=50).contains(&reply.seq), "{reply:?}"),
            }
        }
        // One that ran would have kept the only worker for an hour.
        assert_eq!(order, [1, 51]);
        "49 calls expired in the queue of a busy worker, and were answered; none was run".to_owned()
    });
}

/// A deadline that passes while a reply is being written to a peer that reads late: the reply is whole or the deadline's error, never a
/// piece of one, and the connection stays.
#[test]
fn t20_expired_while_writing_leaves_the_frames_whole() {
    const REPLIES: i32 = 6;
    const LEN: usize = 1 << 20;
    attack("T20").run(|scene| {
        let mut socket = scene.dial();
        SockRef::from(&socket).set_recv_buffer_size(16 << 10).expect("a small buffer");
        let ask = |seq, method: &str, body: &[u8]| {
            raw::ttheader(1, seq, &raw::ints(&[(12, "100")]), &raw::framed(raw::CALL, method, seq, body))
        };
        // By turns, replies that do not fit into the kernel's buffers, and calls that outlast their deadlines behind them.
        let pair =
            |seq| [ask(seq, "Give", &raw::number(LEN as u64)), ask(seq + 100, "Sleep", &raw::number(60_000))].concat();
        let start = Instant::now();
        socket.write_all(&(1..=REPLIES).flat_map(pair).collect::<Vec<_>>()).expect("sent");
        assert!(eventually(GONE, || scene.stats().get("buffered_bytes") > 0), "{:?}", scene.stats());
        assert!(eventually(GONE, || start.elapsed() > Duration::from_millis(300)), "every deadline has passed");
        let (mut whole, mut late) = (Vec::new(), Vec::new());
        for _ in 0..2 * REPLIES {
            let reply = raw::read_frame(&mut socket).expect("a frame").expect("the connection stays");
            match reply.exception() {
                None => {
                    assert!(reply.blob().is_some_and(|blob| *blob == make(LEN as u64, LEN)), "{}", reply.seq);
                    whole.push(reply.seq);
                }
                Some((_, text)) => {
                    assert!(text.contains("deadline"), "{text}");
                    late.push(reply.seq);
                }
            }
        }
        let mut all = [&whole[..], &late].concat();
        all.sort_unstable();
        assert_eq!(all, (1..=REPLIES).chain(101..=100 + REPLIES).collect::<Vec<_>>(), "one answer each");
        assert!(whole.contains(&1) && (101..=100 + REPLIES).all(|seq| late.contains(&seq)), "{whole:?} {late:?}");
        scene.still_works(&mut socket);
        format!(
            "{} calls expired while replies of 1 MiB were written: {} whole, {} told of it",
            all.len(),
            whole.len(),
            late.len()
        )
    });
}

/// A peer that makes many content errors is told to stop, then cut off; others are not.
#[test]
fn glitches_have_a_budget() {
    attack("R1").limits(&["max_glitches=20"]).run(|scene| {
        let mut socket = scene.dial();
        let frames: Vec<_> = (1..=400).flat_map(|seq| raw::request(seq, "Echo", &[0x0e])).collect();
        let _ = socket.write_all(&frames);
        let mut answers = 0;
        while let Ok(Some(frame)) = raw::read_frame(&mut socket) {
            answers += i32::from(frame.seq != 0);
        }
        assert!(answers <= 20, "cut off after the budget: {answers} answers");
        format!("400 content errors with a budget of 20: {answers} answers, then cut off")
    });
}

/// I9: more requests than `max_inflight_per_conn` wait in the socket.
#[test]
fn running_handlers_of_a_connection_are_bounded() {
    attack("I9").limits(&["max_inflight_per_conn=8", "max_inflight=20"]).run(|scene| {
        let sleeps: Vec<_> = (1..=30).flat_map(|seq| raw::request(seq, "Sleep", &raw::number(1_000))).collect();
        let mut one = scene.dial();
        one.write_all(&sleeps).expect("sent");
        assert!(eventually(GONE, || scene.stats().get("in_flight") == 8));
        for _ in 0..30 {
            assert!(scene.stats().get("in_flight") <= 8);
            let reply = raw::read_frame(&mut one).expect("a frame").expect("a reply");
            assert_eq!(reply.kind, raw::REPLY, "none is refused: they wait");
        }
        "30 calls at once with a limit of 8 each: none refused, never more than 8 running".to_owned()
    });
}

/// I9: requests over `max_inflight` are refused, whoever makes them, and not executed. So there is no polite client here: it would
/// be refused, too.
#[test]
fn running_handlers_are_bounded() {
    let server = Testee::start(BIN, ["--set", "max_inflight_per_conn=8", "--set", "max_inflight=20"]);
    let sleeps: Vec<_> = (1..=30).flat_map(|seq| raw::request(seq, "Sleep", &raw::number(1_000))).collect();
    let mut many: Vec<_> = (0..4).map(|_| TcpStream::connect(server.addr()).expect("it listens")).collect();
    many.iter_mut().for_each(|socket| socket.write_all(&sleeps).expect("sent"));
    let mut refused = 0;
    for socket in &mut many {
        for _ in 0..30 {
            let reply = raw::read_frame(socket).expect("a frame").expect("a reply");
            refused += i32::from(reply.exception().is_some_and(|(_, text)| text.contains("max_inflight")));
        }
    }
    assert!(refused > 0, "4 × 8 are more than 20");
    assert!(eventually(GONE, || server.client().echo(Blob::default()).wait().is_ok()), "there is room again");
}
