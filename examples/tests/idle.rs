//! Connections that do nothing (I19): what each costs in memory and processor time, and how often a reactor wakes for them.
//!
//! `RPC_TEST_SIZE=full` holds 10,000 of them for ten seconds. Memory is the server's own resident memory, with what the allocator
//! adds: not the kernel's sockets.

use std::io::Write;
use std::net::TcpStream;
use std::process::{self, Command};
use std::thread;
use std::time::{Duration, Instant};

use testee::{Figures, Testee, eventually, full, raw, resident};

const BIN: &str = env!("CARGO_BIN_EXE_testee");
const LIMIT: Duration = Duration::from_secs(60);

/// Over a connection that is there already: one more would be work to measure.
fn stats(mut socket: &TcpStream) -> Figures {
    socket.write_all(&raw::request(1, "Stats", b"")).expect("sent");
    let reply = raw::read_frame(&mut socket).expect("a frame").expect("a reply");
    Figures::parse(&String::from_utf8_lossy(&reply.body))
}

#[test]
fn idle_connections_cost_next_to_nothing() {
    let (wanted, span) = if full() { (10_000, Duration::from_secs(10)) } else { (1_500, Duration::from_secs(2)) };
    // The usual limit of open files is 1,024, and the hard one more.
    let pid = format!("--pid={}", process::id());
    let _ = Command::new("prlimit").args([&pid, &format!("--nofile={}:", wanted + 500)]).status();
    let server =
        Testee::start(BIN, ["--reactors", "2", "--set", "idle_timeout=60min", "--set", "first_frame_timeout=60min"]);
    server.limit_files(wanted + 500);
    let dial = || {
        let mut socket = TcpStream::connect(server.addr()).ok()?;
        // Each has made a call: what that needs is given back, or is counted here.
        socket.write_all(&raw::request(1, "Echo", &raw::blob(b"hello"))).ok()?;
        raw::read_frame(&mut socket).ok()?.map(|_| socket)
    };
    let warm: Vec<_> = (0..50).filter_map(|_| dial()).collect();
    let control = dial().expect("it listens");
    let before = server.own_memory();
    let idle: Vec<_> = (0..wanted).map_while(|_| dial()).collect();
    let n = idle.len() as u64;
    if n < wanted {
        println!("only {n} connections: the limit of open files is in the way");
    }
    assert!(n > 500, "{n} connections");
    assert!(eventually(LIMIT, || stats(&control).get("connections") >= n), "all are open");
    let grown = server.own_memory().saturating_sub(before);
    let each = grown / n;
    thread::sleep(Duration::from_millis(500)); // what opening them left to do
    let (polls, used, from) = (stats(&control).sum("polls"), server.cpu(), Instant::now());
    thread::sleep(span); // the span that is measured
    let (used, took) = (server.cpu().saturating_sub(used), from.elapsed());
    let polls = stats(&control).sum("polls") - polls;
    let per_second = polls as f64 / 2.0 / took.as_secs_f64();
    let share = used.as_secs_f64() / took.as_secs_f64() * 100.0;
    println!(
        "{n} idle connections: {each} bytes of user memory each; over {:.1} s {share:.3} % of a processor, \
         {per_second:.1} wake-ups per reactor and second",
        took.as_secs_f64()
    );
    // The aim is 1,024. Half is the connection's own state, and 170 bytes each its handler and the last request's header.
    assert!(grown <= resident(1280 * n), "{each} bytes each");
    assert!(share <= 0.1 || used < Duration::from_millis(10), "{share} %");
    assert!(per_second <= 5.0, "{per_second} wake-ups");
    drop((warm, idle));
    assert!(eventually(LIMIT, || stats(&control).get("connections") == 1), "all are gone");
}
