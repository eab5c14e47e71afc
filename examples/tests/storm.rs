//! Many calls through a network that breaks at drawn byte offsets: none is lost, none ends twice, none gets another's reply, none
//! runs twice (I1, I2, I3, I6).
//!
//! ```text
//!  testee client ──► Proxy: cut, reset, stall, split, coalesce, half-close, slow; `ss -K` ──► testee server
//! ```
//!
//! `RPC_TEST_SIZE=full` makes a million calls over TCP and 200,000 over Unix sockets. `SEED=n` repeats the faults of a run.

use std::collections::HashMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use rpc_core::Channel;
use testee::chaos::{Fault, Plan, Proxy};
use testee::idl::testee::{Blob, TesteeClient};
use testee::{Figures, GONE, Testee, eventually, full, output_of, scratch, seed};

const BIN: &str = env!("CARGO_BIN_EXE_testee");

/// What each call may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// How much later than that the client may see the end of a call, on a machine that does much else.
const MARGIN: Duration = Duration::from_secs(5);

const CONNECTIONS: u64 = 8;
const IN_FLIGHT: u64 = 24;

struct Size {
    calls: u64,
    /// How often a connection is to be cut, reset or stalled at least.
    faults: u64,
    /// `ss -K`, which ends every connection of the server.
    kills: u64,
}

#[test]
fn calls_over_tcp_survive_a_storm() {
    let size = match full() {
        true => Size { calls: 1_000_000, faults: 2_000, kills: 20 },
        false => Size { calls: 20_000, faults: 100, kills: 2 },
    };
    storm("calls_over_tcp_survive_a_storm", "tcp://127.0.0.1:0", &size);
}

#[test]
fn calls_over_unix_sockets_survive_a_storm() {
    let size = match full() {
        true => Size { calls: 200_000, faults: 2_000, kills: 0 },
        false => Size { calls: 10_000, faults: 100, kills: 0 },
    };
    let path = scratch("sock");
    storm("calls_over_unix_sockets_survive_a_storm", &format!("unix:{}", path.display()), &size);
}

fn storm(test: &str, listen: &str, size: &Size) {
    // The first line that a failure shows.
    let replay = format!(
        "SEED={} {}cargo test -p examples --test storm {test} -- --nocapture",
        seed(),
        if full() { "RPC_TEST_SIZE=full " } else { "" }
    );
    println!("to repeat the faults: {replay}");
    let exec_log = scratch("exec");
    let beside = format!("unix:{}", scratch("beside").display());
    let mut server = Testee::listen(BIN, &[listen, &beside], ["--exec-log", exec_log.to_str().expect("text")]);
    let fds = server.at_rest();
    // Some 600 bytes of a call pass the proxy, in both directions together, and six of ten faults are of those that count. Half as many
    // again as are asked for and fifty more, because chance and the machine decide what becomes of each.
    let every = size.calls * 360 / (size.faults * 3 / 2 + 50);
    let proxy = Proxy::start(server.url(), Plan { seed: seed(), every, stall: 2 * TIMEOUT });
    // Around the storm, and out of the reach of `ss -K`.
    let polite = TesteeClient::new(Channel::builder(&beside).connections(1).build().expect("a channel"));
    let over = AtomicBool::new(false);
    let begun = Instant::now();
    let (output, log, kills, polite_calls) = thread::scope(|scope| {
        let killer = scope.spawn(|| kill_sockets(&server, size.kills, &over));
        let beside = scope.spawn(|| {
            let mut calls = 0_u64;
            while !over.load(Ordering::Acquire) {
                polite.echo(Blob::default()).wait().expect("a polite call beside the storm");
                calls += 1;
                thread::sleep(Duration::from_millis(1)); // it is not the load
            }
            calls
        });
        let log = scratch("log");
        let output = calls(&proxy, size, log.to_str().expect("text"));
        over.store(true, Ordering::Release);
        let polite = beside.join().expect("every polite call succeeds");
        (output, log, killer.join().expect("no panic"), polite)
    });
    let took = begun.elapsed();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (hard, other): (Vec<_>, Vec<_>) =
        Fault::ALL.into_iter().zip(proxy.faults()).partition(|(kind, _)| Fault::HARD.contains(kind));
    let list = |kinds: &[(Fault, u64)]| {
        let list: Vec<_> = kinds.iter().map(|(kind, n)| format!("{kind:?} {n}")).collect();
        list.join(", ")
    };
    let total = hard.iter().map(|(_, n)| n).sum::<u64>() + kills;
    println!("{} {}", test, text.trim());
    println!(
        "{total} faults on {} connections in {:.1} s: {}, ss -K {kills}; and {}",
        proxy.connections(),
        took.as_secs_f64(),
        list(&hard),
        list(&other)
    );
    assert!(output.status.success(), "one outcome for each call: {}", String::from_utf8_lossy(&output.stderr));
    let figures = Figures::parse(&text);
    assert_eq!((figures.get("missing"), figures.get("twice"), figures.get("wrong")), (0, 0, 0));
    let limit = (TIMEOUT + MARGIN).as_micros() as u64;
    assert!(figures.get("max_us") <= limit, "a call took {} µs, its deadline is {TIMEOUT:?}", figures.get("max_us"));
    assert!(total >= size.faults, "{total} faults");
    // A cut takes what is in flight with it, a long stall what is begun meanwhile.
    assert!(figures.get("Ok") * 2 >= size.calls, "most calls succeed: {text}");
    assert_eq!(figures.get("fds_before"), figures.get("fds_after"), "descriptors of the client");
    runs_at_most_once(&exec_log, &log);

    // The server is none the worse.
    drop(proxy);
    drop(polite);
    assert!(server.is_alive(), "{}", server.errors());
    server.returns_to(&fds, GONE);
    assert!(eventually(MARGIN, || server.stats().get("in_flight") == 0), "{:?}", server.stats());
    println!(
        "the server: {} KiB resident, {} descriptors as before; polite calls beside: {polite_calls}",
        server.rss() / 1024,
        server.fds()
    );
    for path in [exec_log, log] {
        let _ = fs::remove_file(path);
    }
}

fn calls(proxy: &Proxy, size: &Size, log: &str) -> std::process::Output {
    let numbers = [
        ("--calls", size.calls),
        ("--connections", CONNECTIONS),
        ("--in-flight", IN_FLIGHT),
        ("--size", 2048),
        ("--timeout", TIMEOUT.as_millis() as u64),
        ("--pause", 5),
        ("--seed", seed()),
    ];
    let mut args: Vec<String> =
        ["client", "--connect", proxy.url(), "--method", "storm", "--log", log].map(str::to_owned).into();
    args.extend(numbers.into_iter().flat_map(|(name, value)| [name.to_owned(), value.to_string()]));
    output_of(BIN, args, Duration::from_secs(if full() { 3_000 } else { 240 }))
}

/// Ends all TCP connections of the server by the kernel's socket killer; how often that worked.
fn kill_sockets(server: &Testee, times: u64, over: &AtomicBool) -> u64 {
    if times == 0 {
        return 0;
    }
    let port = server.addr().rsplit(':').next().expect("a port").to_owned();
    let filter = format!("sport = :{port}");
    let mut killed = 0;
    while killed < times && !over.load(Ordering::Acquire) {
        let before = server_sockets(&filter);
        if before > 0 {
            match Command::new("ss").args(["-HK", "-t", "state", "established", &filter]).output() {
                // It lists what it has killed.
                Ok(output) if output.status.success() => killed += u64::from(!output.stdout.is_empty()),
                refused => {
                    println!("ss -K is not to be had here: {refused:?}");
                    return killed;
                }
            }
        }
        thread::sleep(Duration::from_millis(if full() { 2_000 } else { 300 })); // the storm between two of them
    }
    killed
}

fn server_sockets(filter: &str) -> usize {
    let output = Command::new("ss").args(["-H", "-t", "state", "established", filter]).output();
    output.map_or(1, |output| output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count())
}

/// I6 from outside: what succeeded ran once, what was not sent did not run, nothing ran twice.
fn runs_at_most_once(exec_log: &std::path::Path, log: &std::path::Path) {
    let mut runs: HashMap<u64, u32> = HashMap::new();
    for nonce in fs::read_to_string(exec_log).expect("a log").lines() {
        let number = nonce.rsplit('-').next().and_then(|n| n.parse().ok());
        *runs.entry(number.expect("a nonce on each line")).or_default() += 1;
    }
    let (mut once, mut unsent, mut maybe) = (0, 0, 0);
    for line in fs::read_to_string(log).expect("a log").lines() {
        let fields: Vec<_> = line.split(' ').collect();
        let number: u64 = fields[0].parse().expect("a number");
        if number % 8 != 7 {
            continue; // an Echo
        }
        let ran = runs.get(&number).copied().unwrap_or(0);
        match (fields[1], fields[2]) {
            ("Ok", _) => {
                assert_eq!(ran, 1, "{line}");
                once += 1;
            }
            (_, "no") => {
                assert_eq!(ran, 0, "{line}");
                unsent += 1;
            }
            _ => {
                assert!(ran <= 1, "{line}");
                maybe += 1;
            }
        }
    }
    println!(
        "of the calls that leave a trace {once} ran once, {unsent} were not sent and did not run, {maybe} ran at most once"
    );
    assert!(once > 0);
}
