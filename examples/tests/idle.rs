//! Connections that do nothing (I19): what each costs in memory and processor time, and how often a reactor wakes for them.
//!
//! `RPC_TEST_SIZE=full` holds 10,000 of them for ten seconds. Memory is the server's own resident memory, with what the allocator
//! adds: not the kernel's sockets. It is measured of connections that have made a call, with a header as clients of one service send
//! it, once with Kitex's and once with ours, which announces control frames; of such that have said nothing yet; and of such that have made
//! many calls at once.

use std::io::{self, Write};
use std::net::TcpStream;
use std::process::{self, Command};
use std::thread;
use std::time::{Duration, Instant};

use testee::{Figures, Testee, eventually, full, raw, resident};

const BIN: &str = env!("CARGO_BIN_EXE_testee");
const LIMIT: Duration = Duration::from_secs(60);

/// What one may cost, in bytes; how much of a processor all of them, in percent; how often each reactor may wake in a second.
const MOST: u64 = 1024;
const SHARE: f64 = 0.1;
const WAKE_UPS: f64 = 5.0;

/// Connections that are there before the measurement begins, so that no first time is measured.
const WARM: usize = 50;

/// Over a connection that is there already: one more would be work to measure.
fn stats(mut socket: &TcpStream) -> Figures {
    socket.write_all(&raw::request(1, "Stats", b"")).expect("sent");
    let reply = raw::read_frame(&mut socket).expect("a frame").expect("a reply");
    Figures::parse(&String::from_utf8_lossy(&reply.body))
}

/// Makes a call with the header that Kitex's clients send, and waits for its reply.
fn call(socket: &TcpStream) -> io::Result<()> {
    call_with(socket, &[(3, "test.caller"), (6, "rpc.testee"), (9, "Echo"), (12, "5000"), (22, "1")])
}

/// The same as a client of ours, which announces that it knows control frames: the server keeps more of such a connection.
fn announced_call(socket: &TcpStream) -> io::Result<()> {
    call_with(socket, &[(3, "test.caller"), (6, "rpc.testee"), (9, "Echo"), (12, "5000"), (22, "1"), (31001, "1")])
}

fn call_with(mut socket: &TcpStream, ints: &[(u16, &str)]) -> io::Result<()> {
    let payload = raw::framed(raw::CALL, "Echo", 1, &raw::blob(b"hello"));
    socket.write_all(&raw::ttheader(raw::OUT_OF_ORDER, 1, &raw::ints(ints), &payload))?;
    let reply = raw::read_frame(&mut socket)?;
    assert_eq!(reply.and_then(|reply| reply.blob().map(<[u8]>::to_vec)).as_deref(), Some(&b"hello"[..]));
    Ok(())
}

/// Makes 64 calls at once whose handlers wait a moment, and waits for their replies.
fn burst(mut socket: &TcpStream) -> io::Result<()> {
    let calls: Vec<u8> = (1..=64).flat_map(|seq| raw::request(seq, "Sleep", &raw::number(2))).collect();
    socket.write_all(&calls)?;
    for _ in 1..=64 {
        assert_eq!(raw::read_frame(&mut socket)?.map(|reply| reply.kind), Some(raw::REPLY));
    }
    Ok(())
}

/// A server that holds many connections.
struct Held {
    server: Testee,
    control: TcpStream,
    idle: Vec<TcpStream>,
    /// Bytes of memory for each of them.
    each: u64,
    /// Whether that is within what they may have.
    is_little: bool,
}

/// Opens that many connections, each by `dial`, which gets a socket that has just been connected.
fn hold(wanted: usize, dial: impl Fn(&TcpStream) -> io::Result<()>) -> Held {
    let server =
        Testee::start(BIN, ["--reactors", "2", "--set", "idle_timeout=60min", "--set", "first_frame_timeout=60min"]);
    server.limit_files(wanted as u64 + 500);
    let connect = || TcpStream::connect(server.addr()).and_then(|socket| dial(&socket).map(|()| socket)).ok();
    let control = connect().expect("it listens");
    let mut idle: Vec<_> = (0..WARM).filter_map(|_| connect()).collect();
    let are_open = |n| eventually(LIMIT, || stats(&control).get("connections") == n as u64 + 1);
    assert!(are_open(idle.len()), "it is warm");
    let (before, warm) = (server.own_memory(), idle.len());
    idle.extend((0..wanted).map_while(|_| connect()));
    let n = idle.len() - warm;
    assert_eq!(n, wanted, "connections; the hard limit of open files must allow them, here and in the server");
    assert!(are_open(idle.len()), "all are open");
    let grown = server.own_memory().saturating_sub(before);
    let n = n as u64;
    Held { server, control, idle, each: grown / n, is_little: grown <= resident(MOST * n) }
}

#[test]
fn idle_connections_cost_next_to_nothing() {
    let (wanted, span) = if full() { (10_000, Duration::from_secs(10)) } else { (1_500, Duration::from_secs(2)) };
    // The usual limit of open files is 1,024, and the hard one more.
    let pid = format!("--pid={}", process::id());
    let _ = Command::new("prlimit").args([&pid, &format!("--nofile={}:", wanted + 500)]).status();

    let Held { each: silent, is_little, .. } = hold(wanted, |_| Ok(()));
    assert!(is_little, "{silent} bytes each before the first call");
    let Held { each: burst, is_little, .. } = hold(wanted, burst);
    assert!(is_little, "{burst} bytes each after a burst of calls");
    let Held { each: kitex, is_little, .. } = hold(wanted, call);
    assert!(is_little, "{kitex} bytes each after a call without control frames");
    let Held { server, control, idle, each, is_little } = hold(wanted, announced_call);
    thread::sleep(Duration::from_millis(500)); // what opening them left to do
    let (polls, used, from) = (stats(&control).each("polls"), server.cpu(), Instant::now());
    thread::sleep(span); // the span that is measured
    let (used, took) = (server.cpu().saturating_sub(used), from.elapsed());
    let polls_of_each = stats(&control).each("polls").into_iter().zip(polls).map(|(after, before)| after - before);
    let per_second = polls_of_each.max().unwrap_or(u64::MAX) as f64 / took.as_secs_f64();
    let share = used.as_secs_f64() / took.as_secs_f64() * 100.0;
    println!(
        "{} idle connections: {each} bytes of user memory each of clients of ours, {kitex} of Kitex's, {silent} before their first \
         call, {burst} after 64 calls at once; over {:.1} s {share:.3} % of a processor, {per_second:.1} wake-ups a second of \
         the reactor that has most",
        idle.len(),
        took.as_secs_f64()
    );
    assert!(is_little, "{each} bytes each");
    // Less than what the questions themselves take is not told apart where the span is short.
    assert!(share <= SHARE || used < Duration::from_millis(10), "{share} %");
    assert!(per_second <= WAKE_UPS, "{per_second} wake-ups");
    drop(idle);
    assert!(eventually(LIMIT, || stats(&control).get("connections") == 1), "all are gone");
}
