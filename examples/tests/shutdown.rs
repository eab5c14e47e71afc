//! The end of a server: SIGTERM lets accepted calls end (T35, I23), a second one ends at once, and clients find the next server.

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use rpc_core::{Channel, Code, Sent};
use testee::idl::testee::{Blob, Millis, TesteeClient};
use testee::{Figures, Testee, eventually, output_of, raw, scratch};

const BIN: &str = env!("CARGO_BIN_EXE_testee");
/// What is waited for comes much sooner, but for a machine that does much else. Less than `shutdown_grace` is, unless a test sets it.
const LIMIT: Duration = Duration::from_secs(20);

fn ask_to_sleep(client: &TesteeClient, ms: u32) -> rpc_core::Result<()> {
    client.sleep(Millis { ms, kind: String::new() }).wait().map(|_| ())
}

fn stopped(out: &str) -> Figures {
    let line =
        out.lines().find_map(|line| line.strip_prefix("STOPPED ")).unwrap_or_else(|| panic!("no STOPPED in {out:?}"));
    Figures::parse(line)
}

/// Every accepted call is answered; those that come later fail unsent; the exit code is 0.
#[test]
fn sigterm_under_load_loses_no_accepted_call() {
    let mut server = Testee::start(BIN, [] as [&str; 0]);
    let url = server.url().to_owned();
    let lanes: Vec<_> = (0..8)
        .map(|lane| {
            let channel = Channel::builder(&url).connections(2).build().expect("a channel");
            thread::spawn(move || {
                let client = TesteeClient::new(channel);
                let mut calls = 0_u64;
                loop {
                    let outcome = if lane % 2 == 0 {
                        ask_to_sleep(&client, 3)
                    } else {
                        client.echo(Blob::default()).wait().map(|_| ())
                    };
                    match outcome {
                        Ok(()) => calls += 1,
                        Err(error) => return (calls, error),
                    }
                }
            })
        })
        .collect();
    let mut questions = 0;
    let loaded = eventually(LIMIT, || {
        questions += 1;
        server.stats().get("accepted") > 500
    });
    assert!(loaded, "the load is on");
    let start = Instant::now();
    server.terminate();
    let (status, out) = server.wait(LIMIT);
    let took = start.elapsed();
    let figures = stopped(&out);
    let mut answered = questions;
    for lane in lanes {
        let (calls, error) = lane.join().expect("no panic");
        answered += calls;
        // Usually not sent; but a connection that the kernel made and the server never took is reset, whatever was written to it.
        assert_eq!(error.code(), Code::Unavailable, "{error}");
        if error.sent() == Sent::Maybe {
            println!("SIGTERM under load: {error}");
        }
    }
    println!("SIGTERM under load: {answered} calls answered, {out:?}, ended after {took:?}");
    assert_eq!(status.code(), Some(0), "{}", server.errors());
    assert_eq!(
        (figures.get("accepted"), figures.get("replied")),
        (answered, answered),
        "accepted, replied, and seen by callers"
    );
    assert_eq!((figures.get("cut_calls"), figures.get("cut_connections")), (0, 0));
}

/// I6, seen from outside: what succeeded has run once, what was not sent has not run, nothing has run twice. The server is stopped in
/// the middle, by SIGTERM and by SIGKILL.
#[test]
fn handlers_run_at_most_once() {
    for kill in [false, true] {
        let (exec_log, log) = (scratch("exec"), scratch("log"));
        let server = Testee::start(BIN, ["--exec-log", exec_log.to_str().expect("text")]);
        let url = server.url().to_owned();
        let path = log.to_str().expect("text").to_owned();
        let load = thread::spawn(move || {
            let shape = ["--calls", "20000", "--connections", "2", "--in-flight", "32", "--seed", "7"];
            let args = [&["client", "--connect", &url, "--method", "once", "--log", &path], &shape[..]].concat();
            output_of(BIN, args, Duration::from_secs(60))
        });
        assert!(eventually(LIMIT, || server.stats().get("accepted") > 1000), "the load is on");
        if kill {
            drop(server);
        } else {
            let mut server = server;
            server.terminate();
            assert_eq!(server.wait(LIMIT).0.code(), Some(0));
        }
        let output = load.join().expect("no panic");
        assert!(output.status.success(), "one outcome each: {}", String::from_utf8_lossy(&output.stderr));

        let mut runs = vec![0; 20_000];
        for nonce in std::fs::read_to_string(&exec_log).expect("a log").lines() {
            let number = nonce.strip_prefix("7-").and_then(|n| n.parse::<usize>().ok());
            runs[number.expect("a nonce on each line")] += 1;
        }
        let (mut good, mut unsent, mut unknown) = (0, 0, 0);
        for line in std::fs::read_to_string(&log).expect("a log").lines() {
            let fields: Vec<_> = line.split(' ').collect();
            let run = runs[fields[0].parse::<usize>().expect("a number")];
            match (fields[1], fields[2]) {
                ("Ok", _) => {
                    assert_eq!(run, 1, "{line}");
                    good += 1;
                }
                (_, "no") => {
                    assert_eq!(run, 0, "{line}");
                    unsent += 1;
                }
                _ => {
                    assert!(run <= 1, "{line}");
                    unknown += 1;
                }
            }
        }
        println!(
            "{}: {good} calls ran once, {unsent} not sent, {unknown} maybe",
            if kill { "SIGKILL" } else { "SIGTERM" }
        );
        assert_eq!(good + unsent + unknown, 20_000);
        assert!(good > 900 && unsent > 0);
        for path in [exec_log, log] {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A call that is running when the signal comes gets its reply, on both kinds of connections.
#[test]
fn running_calls_end_before_the_server_does() {
    let mut server = Testee::start(BIN, [] as [&str; 0]);
    let (many, one) = (server.client(), Channel::builder(server.url()).ping_pong().build().expect("a channel"));
    let one = TesteeClient::new(one);
    thread::scope(|scope| {
        let calls = [&many, &one].map(|client| scope.spawn(|| ask_to_sleep(client, 3_000)));
        assert!(eventually(LIMIT, || server.stats().get("in_flight") == 2));
        server.terminate();
        // The listener is closed at once.
        assert!(eventually(LIMIT, || TcpStream::connect(server.addr()).is_err()));
        for call in calls {
            call.join().expect("no panic").expect("it was accepted before the signal");
        }
    });
    let (status, out) = server.wait(LIMIT);
    assert_eq!(status.code(), Some(0));
    assert_eq!(stopped(&out).get("cut_calls"), 0);
}

#[test]
fn a_second_sigterm_ends_at_once() {
    let mut server = Testee::start(BIN, [] as [&str; 0]);
    let client = server.client();
    thread::scope(|scope| {
        let call = scope.spawn(|| ask_to_sleep(&client, 60_000));
        assert!(eventually(LIMIT, || server.stats().get("in_flight") == 1));
        server.terminate();
        assert!(eventually(LIMIT, || TcpStream::connect(server.addr()).is_err()), "it has begun to stop");
        server.terminate();
        let (status, out) = server.wait(LIMIT);
        assert_eq!((status.code(), stopped(&out).get("cut_calls")), (Some(0), 1));
        let error = call.join().expect("no panic").expect_err("it was cut");
        assert_eq!((error.code(), error.sent()), (Code::Unavailable, Sent::Maybe), "{error}");
    });
}

/// The grace is over: what still runs is cut and counted; the exit code stays 0.
#[test]
fn the_grace_is_finite() {
    let mut server = Testee::start(BIN, ["--set", "shutdown_grace=300ms"]);
    let mut socket = TcpStream::connect(server.addr()).expect("it listens");
    socket.write_all(&raw::request(1, "Sleep", &raw::number(60_000))).expect("sent");
    assert!(eventually(LIMIT, || server.stats().get("in_flight") == 1));
    server.terminate();
    let (status, out) = server.wait(LIMIT);
    assert_eq!((status.code(), stopped(&out).get("cut_calls")), (Some(0), 1));
}

/// Idle peers do not hold the server up: a silent one, one that has spoken, one in the middle of a frame.
#[test]
fn idle_connections_do_not_delay_the_end() {
    let mut server = Testee::start(BIN, [] as [&str; 0]);
    let dial = || TcpStream::connect(server.addr()).expect("it listens");
    let (silent, mut spoken, mut partial) = (dial(), dial(), dial());
    let frame = raw::ttheader(0, 1, b"", &raw::framed(raw::CALL, "Echo", 1, b""));
    spoken.write_all(&frame).expect("sent");
    raw::read_frame(&mut spoken).expect("a frame").expect("a reply");
    partial.write_all(&frame[..20]).expect("sent");
    assert!(eventually(LIMIT, || server.stats().get("connections") == 4));
    let start = Instant::now();
    server.terminate();
    let (status, _) = server.wait(LIMIT);
    println!("three idle peers: ended after {:?}", start.elapsed());
    assert_eq!(status.code(), Some(0));
    drop((silent, spoken, partial));
}

/// The goodbye of a multiplexed connection comes after the last reply (8.4), and a ping-pong connection sees `crrst` instead (8.2).
#[test]
fn peers_are_told_in_their_own_way() {
    let mut server = Testee::start(BIN, [] as [&str; 0]);
    let dial = || {
        let socket = TcpStream::connect(server.addr()).expect("it listens");
        socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
        socket
    };
    let (mut many, mut one) = (dial(), dial());
    many.write_all(&raw::request(1, "Sleep", &raw::number(3_000))).expect("sent");
    one.write_all(&raw::ttheader(0, 1, b"", &raw::framed(raw::CALL, "Sleep", 1, &raw::number(3_000)))).expect("sent");
    assert!(eventually(LIMIT, || server.stats().get("in_flight") == 2));
    server.terminate();
    let reply = raw::read_frame(&mut many).expect("a frame").expect("the reply first");
    assert_eq!((reply.seq, reply.kind, reply.get("crrst")), (1, raw::REPLY, None));
    let goodbye = raw::read_frame(&mut many).expect("a frame").expect("then the goodbye");
    assert_eq!((goodbye.seq, goodbye.kind, goodbye.get("crrst")), (0, 0, Some("1")));
    let reply = raw::read_frame(&mut one).expect("a frame").expect("the reply");
    assert_eq!((reply.seq, reply.get("crrst")), (1, Some("1")));
    assert_eq!(raw::read_frame(&mut one).expect("an orderly end"), None);
    drop(many);
    assert_eq!(server.wait(LIMIT).0.code(), Some(0));
}

/// A new server at the same address: the client finds it by itself.
#[test]
fn clients_find_the_next_server() {
    let path = scratch("sock");
    let url = format!("unix:{}", path.display());
    let client = TesteeClient::new(Channel::builder(&url).connections(1).build().expect("a channel"));
    for round in 0..3 {
        let mut server = Testee::listen(BIN, &[&url], [] as [&str; 0]);
        assert!(eventually(LIMIT, || client.echo(Blob::default()).wait().is_ok()), "round {round}");
        server.terminate();
        assert_eq!(server.wait(LIMIT).0.code(), Some(0));
        let error = client.echo(Blob::default()).wait().expect_err("nobody listens");
        assert_eq!((error.code(), error.sent()), (Code::Unavailable, Sent::No), "{error}");
        assert!(error.is_retryable());
    }
    // A server that was killed leaves its socket file behind; the next one replaces it.
    Testee::listen(BIN, &[&url], [] as [&str; 0]).kill();
    assert!(path.exists(), "SIGKILL leaves the file");
    let _server = Testee::listen(BIN, &[&url], [] as [&str; 0]);
    assert!(eventually(LIMIT, || client.echo(Blob::default()).wait().is_ok()));
    drop(_server);
    let _ = std::fs::remove_file(path);
}
