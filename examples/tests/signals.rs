//! Signals at any moment, and with peers that are in the middle of something (T35, I23): what was accepted is answered, what was not
//! is refused unsent, the exit code is 0 within the grace.
//!
//! `RPC_TEST_SIZE=full` makes fifty rounds; `SEED=n` chooses the moments.

use std::collections::HashSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rpc_core::{Channel, Code, Sent};
use socket2::SockRef;
use testee::chaos::Dice;
use testee::idl::testee::{Blob, Millis, Nonce, Size, TesteeClient};
use testee::{Figures, Testee, eventually, full, make, raw, resident, scratch, seed};

const BIN: &str = env!("CARGO_BIN_EXE_testee");
const GRACE: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_secs(20);

fn stopped(out: &str) -> Figures {
    let line = out.lines().find_map(|line| line.strip_prefix("STOPPED "));
    Figures::parse(line.unwrap_or_else(|| panic!("no STOPPED in {out:?}")))
}

/// How much more memory a server may have used at the moment of the signal: the load has replies of 1 MiB.
const GROWTH: u64 = 48 << 20;

/// What a server has used until now of memory, in KiB more than at its start. Its descriptors end with it.
fn grown(server: &Testee, rss: u64) -> u64 {
    let grown = server.peak_rss().saturating_sub(rss);
    assert!(grown < resident(GROWTH), "{grown} bytes more");
    grown / 1024
}

/// Calls of a client on a connection of its own, each of which must succeed; how many.
fn polite(client: &TesteeClient) -> usize {
    const CALLS: usize = 50;
    (0..CALLS).for_each(|n| _ = client.echo(Blob { payload: make(n as u64, 100) }).wait().expect("a polite call"));
    CALLS
}

/// Calls of a client on a connection of its own, one after the other, until its server has gone: each succeeds, or was not begun there.
/// How many succeeded.
fn polite_to_the_end(client: TesteeClient) -> JoinHandle<u64> {
    client.echo(Blob::default()).wait().expect("a polite call");
    thread::spawn(move || {
        for n in 1.. {
            let payload = make(n, 100);
            match client.echo(Blob { payload: payload.clone() }).wait() {
                Ok(reply) => assert_eq!(reply.payload, payload),
                Err(error) => {
                    assert_eq!((error.code(), error.sent()), (Code::Unavailable, Sent::No), "polite call {n}: {error}");
                    return n;
                }
            }
        }
        unreachable!("servers end")
    })
}

/// Callers that do the same until a call of theirs fails.
struct Lane {
    what: &'static str,
    /// How many there are, each with one call under way.
    callers: u32,
    /// Connections, if they share them; none: each call makes its own.
    connections: usize,
    /// Its connections know control frames: no call of theirs may come to an unknown end.
    negotiated: bool,
    /// The call of a caller and its number. Where ends may be unknown each leaves a trace of having begun.
    call: fn(&TesteeClient, u32, u32) -> rpc_core::Result<()>,
}

const LANES: [Lane; 6] = [
    Lane {
        what: "sleep",
        callers: 50,
        connections: 1,
        negotiated: true,
        call: |client, _, n| client.sleep(Millis { ms: n * 7 % 120, kind: String::new() }).wait().map(|_| ()),
    },
    Lane {
        what: "give",
        callers: 50,
        connections: 2,
        negotiated: true,
        call: |client, _, _| client.give(Size { bytes: 100_000 }).wait().map(|_| ()),
    },
    Lane {
        what: "spin",
        callers: 50,
        connections: 1,
        negotiated: true,
        call: |client, _, n| client.spin(Millis { ms: n % 3, kind: String::new() }).wait().map(|_| ()),
    },
    Lane { what: "echo", callers: 100, connections: 2, negotiated: true, call: |client, _, n| echo(client, n) },
    // One call at a time knows no control frames: a request may cross the end of its connection.
    Lane { what: "ping-pong", callers: 16, connections: 16, negotiated: false, call: once },
    // The system makes connections that the server never takes in, and resets them, whatever was written there.
    Lane { what: "connect", callers: 2, connections: 0, negotiated: false, call: once },
];

fn echo(client: &TesteeClient, n: u32) -> rpc_core::Result<()> {
    client.echo(Blob { payload: vec![7; n as usize % 5000].into() }).wait().map(|_| ())
}

fn once(client: &TesteeClient, caller: u32, n: u32) -> rpc_core::Result<()> {
    client.once(Nonce { value: nonce(caller, n) }).wait().map(|_| ())
}

fn nonce(caller: u32, n: u32) -> String {
    format!("{caller}-{n}")
}

/// What the callers of a lane saw: each call is one of these.
#[derive(Default)]
struct Log {
    answered: u64,
    /// Those of the answered calls that have left a trace, by what they left.
    traced: Vec<String>,
    /// Not begun there: refused by name, or never sent.
    unsent: u64,
    maybe: u64,
}

impl Lane {
    /// Begins its callers, numbered from `first` on. `warm` counts those that have had an answer.
    fn begin(&'static self, url: &str, first: u32, warm: &Arc<AtomicU32>) -> Vec<JoinHandle<Log>> {
        let url = url.to_owned();
        let client = move |lane: &Lane| {
            // 50 sleeps, two at a time, are 1.5 s, and more on a busy machine: the time of a call is no matter of this test.
            let builder = Channel::builder(&url).connections(lane.connections.max(1)).timeout(3 * LIMIT);
            let builder = if lane.what == "ping-pong" { builder.ping_pong() } else { builder };
            TesteeClient::new(builder.build().expect("a channel"))
        };
        let shared = client(self);
        let callers = (first..first + self.callers).map(|caller| {
            let (warm, client, shared) = (Arc::clone(warm), client.clone(), shared.clone());
            thread::spawn(move || {
                let mut log = Log::default();
                for n in caller.. {
                    let own = (self.connections == 0).then(|| client(self));
                    match (self.call)(own.as_ref().unwrap_or(&shared), caller, n) {
                        Ok(()) => {
                            log.answered += 1;
                            log.traced.extend((!self.negotiated).then(|| nonce(caller, n)));
                        }
                        Err(error) => {
                            assert_eq!(error.code(), Code::Unavailable, "{}: {error}", self.what);
                            let maybe = error.sent() == Sent::Maybe;
                            assert!(!(maybe && self.negotiated), "{}: {error}", self.what);
                            *(if maybe { &mut log.maybe } else { &mut log.unsent }) += 1;
                            break;
                        }
                    }
                    if log.answered == 1 {
                        warm.fetch_add(1, Ordering::Relaxed);
                    }
                }
                log
            })
        });
        callers.collect()
    }
}

#[test]
fn t35_sigterm_at_any_moment_loses_no_accepted_call() {
    println!("seed {}; SEED={} repeats the moments", seed(), seed());
    let rounds = if full() { 50 } else { 5 };
    let callers: u32 = LANES.iter().map(|lane| lane.callers).sum();
    let (mut sum, mut refused, mut slowest, mut most) = (Log::default(), 0, Duration::ZERO, 0);
    for round in 0..rounds {
        let mut dice = Dice::seeded(seed() << 8 | round);
        // With few at a time requests wait unread, and the answers to the server's ping behind them.
        let at_a_time = ["max_inflight_per_conn=1024", "max_inflight_per_conn=2"][round as usize % 2];
        let exec_log = scratch("exec");
        let exec_log = exec_log.to_str().expect("text");
        let mut server =
            Testee::start(BIN, ["--set", "shutdown_grace=10s", "--set", at_a_time, "--exec-log", exec_log]);
        let (url, rss) = (server.url().to_owned(), server.rss());
        let warm = Arc::new(AtomicU32::new(0));
        let mut next = 0;
        let lanes = LANES.each_ref().map(|lane| {
            let first = next;
            next += lane.callers;
            lane.begin(&url, first, &warm)
        });
        let polite = polite_to_the_end(server.client());
        assert!(eventually(LIMIT, || warm.load(Ordering::Relaxed) == callers), "the load is on: {warm:?}");
        thread::sleep(Duration::from_micros(dice.below(120_000))); // the moment
        most = most.max(grown(&server, rss));
        let start = Instant::now();
        server.terminate();
        let (status, out) = server.wait(LIMIT);
        let took = start.elapsed();
        let figures = stopped(&out);
        let mut seen = Log { answered: polite.join().expect("polite calls end unsent"), ..Log::default() };
        for log in lanes.into_iter().flatten().map(|caller| caller.join().expect("a caller ends with Unavailable")) {
            seen.answered += log.answered;
            seen.unsent += log.unsent;
            seen.maybe += log.maybe;
            seen.traced.extend(log.traced);
        }
        assert_eq!(status.code(), Some(0), "round {round}: {}", server.errors());
        let counts = (figures.get("replied"), figures.get("cut_calls"), figures.get("cut_connections"));
        let accepted = figures.get("accepted");
        assert_eq!(counts, (accepted, 0, 0), "round {round}: replied, cut; {accepted} accepted");
        // What the server says it answered with success is what callers have.
        assert!(accepted >= seen.answered, "round {round}: {accepted} accepted, {} answered", seen.answered);
        // A call of unknown end is one that the server has not begun: what it has begun, once, is what its callers have answers to.
        let text = fs::read_to_string(exec_log).expect("a log");
        let begun: HashSet<&str> = text.lines().collect();
        assert_eq!(begun.len(), text.lines().count(), "round {round}: none ran twice");
        let known: HashSet<&str> = seen.traced.iter().map(String::as_str).collect();
        assert_eq!(begun, known, "round {round}: begun, and answered");
        let _ = fs::remove_file(exec_log);
        assert!(took < 2 * GRACE, "round {round}: {took:?}");
        sum.answered += seen.answered;
        sum.unsent += seen.unsent;
        sum.maybe += seen.maybe;
        refused += accepted - seen.answered;
        slowest = slowest.max(took);
    }
    println!(
        "T35: SIGTERM {rounds} times with {callers} calls under way: {} answered, {refused} refused unbegun, {} callers ended unsent, \
         0 cut; 0 negotiated ones of unknown end, {} others, none of which had begun; exit 0 within {slowest:?} | \
         polite: each call to the end | memory: {most} KiB more at most | descriptors: ended with it",
        sum.answered, sum.unsent, sum.maybe
    );
}

/// A stalled writer: its peer does not read. Who reads again within the grace gets everything, who does not is cut.
#[test]
fn t35_sigterm_with_stalled_writers() {
    for reads_again in [true, false] {
        let grace = if reads_again { "15s" } else { "1s" };
        let mut server = Testee::start(BIN, ["--set", &format!("shutdown_grace={grace}")]);
        let (rss, beside) = (server.rss(), server.client());
        let mut socket = TcpStream::connect(server.addr()).expect("it listens");
        SockRef::from(&socket).set_recv_buffer_size(64 << 10).expect("a small buffer");
        socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
        const REPLIES: i32 = 8;
        let asks: Vec<u8> = (1..=REPLIES).flat_map(|seq| raw::request(seq, "Give", &raw::number(1 << 20))).collect();
        socket.write_all(&asks).expect("sent");
        let mut questions = 0;
        let begun = eventually(LIMIT, || {
            questions += 1; // it is a call, too
            server.stats().get("accepted") > questions
        });
        assert!(begun, "{:?}", server.stats());
        let (calls, memory) = (polite(&beside), grown(&server, rss));
        let to_the_end = polite_to_the_end(beside);
        let start = Instant::now();
        server.terminate();
        assert!(eventually(LIMIT, || TcpStream::connect(server.addr()).is_err()), "it has begun to stop");
        let mut got = Vec::new();
        if reads_again {
            while let Ok(Some(frame)) = raw::read_frame(&mut socket) {
                match frame.exception() {
                    _ if frame.seq == 0 => continue, // the goodbye
                    Some((_, text)) => assert!(text.contains("shutting down"), "{text}"),
                    None => assert_eq!(frame.blob().map(<[u8]>::len), Some(1 << 20)),
                }
                got.push(frame.seq);
            }
            drop(socket);
        }
        let (status, out) = server.wait(LIMIT);
        let (figures, took) = (stopped(&out), start.elapsed());
        let during = to_the_end.join().expect("polite calls end unsent");
        println!(
            "T35: a stalled writer that {}: {out:?} after {took:?} | polite: {calls} of {calls} calls before the signal, {during} \
             of {during} until it was told to go | memory: {memory} KiB more at most",
            if reads_again { "reads again" } else { "never reads" }
        );
        assert_eq!(status.code(), Some(0), "{}", server.errors());
        if reads_again {
            got.sort_unstable();
            assert!(got.iter().copied().eq(1..=REPLIES), "each has its reply, or is refused by name: {got:?}");
            assert_eq!(figures.get("cut_connections"), 0);
        } else {
            assert_eq!(figures.get("cut_connections"), 1);
            assert!(took < Duration::from_secs(1) + GRACE, "{took:?}");
        }
    }
}

/// SIGHUP and SIGINT end a server as SIGTERM does; one that was begun with SIGHUP ignored goes on.
#[test]
fn t35_hang_up_and_interrupt() {
    // Who runs the tests under nohup has servers that ignore SIGHUP, as they should.
    let ignored = |pid: u32| mask(pid, "SigIgn:") & 1 == 1;
    let signals = if ignored(std::process::id()) { &["INT"][..] } else { &["HUP", "INT"] };
    for signal in signals {
        let mut server = Testee::start(BIN, [] as [&str; 0]);
        let (client, rss) = (server.client(), server.rss());
        thread::scope(|scope| {
            let call = scope.spawn(|| client.sleep(Millis { ms: 3_000, kind: String::new() }).wait());
            assert!(eventually(LIMIT, || server.stats().get("in_flight") == 1));
            let beside = server.client();
            let (before, memory) = (polite(&beside), grown(&server, rss));
            let beside = polite_to_the_end(beside);
            server.signal(signal);
            let (status, out) = server.wait(LIMIT);
            assert_eq!((status.code(), stopped(&out).get("cut_calls")), (Some(0), 0), "SIG{signal}: {out}");
            call.join().expect("no panic").expect("it was accepted before the signal");
            let calls = before as u64 + beside.join().expect("polite calls end unsent");
            println!(
                "T35: SIG{signal}: the running call is answered, exit 0 | polite: {calls} of {calls} calls until it was told to go | \
                 memory: {memory} KiB more at most"
            );
        });
    }
    let script = "trap '' HUP; exec \"$0\" server --listen tcp://127.0.0.1:0";
    let mut child = Command::new("sh").args(["-c", script, BIN]).stdout(Stdio::piped()).spawn().expect("sh is there");
    let mut line = vec![0; 64];
    let n = child.stdout.as_mut().map_or(Ok(0), |out| out.read(&mut line)).expect("it speaks");
    let line = String::from_utf8_lossy(&line[..n]).into_owned();
    let url = line.trim().strip_prefix("LISTENING ").expect("it listens").to_owned();
    let kill = |name: &str| Command::new("kill").args([name, &child.id().to_string()]).status().expect("kill is there");
    let client = TesteeClient::new(Channel::builder(&url).build().expect("a channel"));
    let beside = polite_to_the_end(client.clone());
    kill("-HUP");
    let lives = (0..5).all(|_| client.echo(Blob::default()).wait().is_ok());
    // Handlers are set up a moment after LISTENING; before that SIGTERM would end it with its default meaning.
    let ready = eventually(LIMIT, || mask(child.id(), "SigCgt:") >> 14 & 1 == 1);
    let ignored = ignored(child.id());
    kill("-TERM");
    let status = child.wait().expect("a child can be waited for");
    assert!(lives && ready && ignored, "answers {lives}, handles SIGTERM {ready}, still ignores SIGHUP {ignored}");
    assert_eq!(status.code(), Some(0));
    let calls = beside.join().expect("polite calls end unsent");
    println!("T35: SIGHUP under nohup: it goes on | polite: {calls} of {calls} calls until SIGTERM");
}

/// Which signals a process treats in some way, a bit each.
fn mask(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix(name)?.trim(), 16).ok());
    mask.unwrap_or(0)
}

/// SIGTERM, then SIGKILL in the middle of the drain: each call ends at its client, and nobody hangs.
#[test]
fn t35_sigkill_during_the_drain() {
    let server = Testee::start(BIN, [] as [&str; 0]);
    let (client, rss) = (server.client(), server.rss());
    thread::scope(|scope| {
        let calls: Vec<_> = (0..20)
            .map(|_| scope.spawn(|| client.sleep(Millis { ms: 8_000, kind: String::new() }).timeout(LIMIT).wait()))
            .collect();
        assert!(eventually(LIMIT, || server.stats().get("in_flight") == 20));
        let beside = server.client();
        let (before, memory) = (polite(&beside), grown(&server, rss));
        let beside = polite_to_the_end(beside);
        server.terminate();
        assert!(eventually(LIMIT, || TcpStream::connect(server.addr()).is_err()), "it has begun to stop");
        let polite =
            before as u64 + beside.join().expect("polite calls end unsent, told to go before the second signal");
        let start = Instant::now();
        server.signal("KILL");
        for call in calls {
            let error = call.join().expect("no panic").expect_err("its server is gone");
            assert_eq!((error.code(), error.sent()), (Code::Unavailable, Sent::Maybe), "{error}");
        }
        println!(
            "T35: SIGKILL while 20 calls drain: each ended within {:?} | polite: {polite} of {polite} calls until it was told to go | \
             memory: {memory} KiB more at most",
            start.elapsed()
        );
        assert!(start.elapsed() < GRACE, "at the end of the connection, not at the deadline");
    });
}
