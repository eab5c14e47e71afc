//! System calls that fail (T34): each error at each call, injected by strace into a running server or client. What must come of it is
//! a retry or the error of a connection: each call has one outcome, nobody spins, no process dies, and afterwards all is well. A cell of
//! the matrix in which no error was injected has shown nothing, and fails.
//!
//! The usual run takes a sample; `RPC_TEST_SIZE=full` goes through the whole matrix. Left out are calls whose failure the language's runtime
//! answers with the end of the process (memory), and `futex`, which does not fail and whose wake-ups strace would swallow. Short
//! reads and writes are made by the proxy of `storm`: strace cannot.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rpc_core::transport::GLOBAL_MAX;
use rpc_core::{Channel, Code};
use testee::idl::testee::{Blob, TesteeClient};
use testee::{Figures, Testee, eventually, full, make, output_of, resident, scratch};

const BIN: &str = env!("CARGO_BIN_EXE_testee");
const LIMIT: Duration = Duration::from_secs(20);

/// Polite calls after each cell.
const POLITE: u64 = 20;

const ERRNOS: [&str; 8] = ["EINTR", "EAGAIN", "ENOBUFS", "ENOMEM", "EPERM", "ECONNRESET", "ETIMEDOUT", "EHOSTUNREACH"];

/// What a server calls while it serves.
const SERVING: [&str; 9] =
    ["epoll_wait", "epoll_ctl", "accept4", "recvfrom", "sendto", "sendmsg", "setsockopt", "write", "close"];

/// Those of them that a connection which stands does not need: who has one has every call answered.
const OTHERS: [&str; 3] = ["accept4", "setsockopt", "close"];

/// What a server calls while it starts.
const STARTING: [&str; 9] =
    ["socket", "setsockopt", "bind", "listen", "getsockname", "epoll_create1", "eventfd2", "socketpair", "clone3"];

/// What a client calls. `close` is not among them: the loader of libraries does not live without it.
const CALLING: [&str; 10] = [
    "socket",
    "connect",
    "getsockopt",
    "getpeername",
    "setsockopt",
    "epoll_ctl",
    "epoll_wait",
    "recvfrom",
    "sendto",
    "sendmsg",
];

/// Whether strace is here and may trace. Where all is to be checked, which is where `CI` is set, a Linux without it is an error.
fn has_strace() -> bool {
    let works = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    let works = works.is_ok_and(|status| status.success());
    let wanted = cfg!(target_os = "linux") && std::env::var_os("CI").is_some();
    assert!(works || !wanted, "strace is not here, or may not trace: nothing of T34 can be checked");
    if !works {
        // Past what the test harness keeps of tests that pass: it is to be seen.
        let _ = writeln!(io::stderr(), "T34 is left out: strace is not here, or may not trace");
    }
    works
}

/// What strace wrote of one cell: the calls it saw, and those it made fail.
struct Trace(PathBuf);

impl Trace {
    fn new() -> Trace {
        Trace(scratch("strace"))
    }

    fn injected(&self) -> usize {
        fs::read_to_string(&self.0).unwrap_or_default().matches("(INJECTED)").count()
    }

    fn calls(&self) -> usize {
        fs::read_to_string(&self.0).unwrap_or_default().lines().count()
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The cells of a matrix: all, or those of a diagonal so that each call and each errno is in the sample.
fn cells(calls: &'static [&'static str]) -> Vec<(&'static str, &'static str)> {
    let all = calls.iter().enumerate().flat_map(|(row, call)| {
        ERRNOS
            .iter()
            .enumerate()
            .filter(move |(column, _)| full() || *column == row % ERRNOS.len())
            .map(|(_, e)| (*call, *e))
    });
    all.collect()
}

/// strace on a running process: each third call fails, from the second on.
struct Injection {
    strace: Child,
    trace: Trace,
}

impl Injection {
    fn into_process(pid: u32, call: &str, errno: &str) -> Injection {
        let trace = Trace::new();
        let inject = format!("inject={call}:error={errno}:when=2+3");
        let strace = Command::new("strace")
            .args(["-f", "-qq", "-e", &format!("trace={call}"), "-e", &inject, "-o"])
            .arg(&trace.0)
            .args(["-p", &pid.to_string()])
            .stderr(Stdio::null())
            .spawn()
            .expect("strace starts");
        assert!(eventually(LIMIT, || is_traced(pid)), "strace attaches to every thread");
        Injection { strace, trace }
    }

    /// Detaches, and says how many calls were made to fail.
    fn end(mut self) -> usize {
        let _ = Command::new("kill").args(["-TERM", &self.strace.id().to_string()]).status();
        let _ = self.strace.wait();
        self.trace.injected()
    }
}

fn is_traced(pid: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.map(|task| fs::read_to_string(task.path().join("status")).unwrap_or_default()).all(|status| {
        status.lines().find_map(|line| line.strip_prefix("TracerPid:")).is_none_or(|tracer| tracer.trim() != "0")
    })
}

/// Whether an interrupted call is made again, as it has to be. mio takes a second registration of a socket for a mistake, in builds with
/// debug assertions, though the first one failed.
fn is_made_again(call: &str) -> bool {
    call != "epoll_ctl" || !cfg!(debug_assertions)
}

/// Some calls by a client of its own process; each has one outcome.
fn load(url: &str, calls: u32) -> Figures {
    let numbers = [("--calls", calls), ("--in-flight", 4), ("--connections", 3), ("--timeout", 1_000), ("--pause", 10)];
    let mut args: Vec<String> =
        ["client", "--connect", url, "--method", "storm", "--size", "60000"].map(str::to_owned).into();
    args.extend(numbers.into_iter().flat_map(|(name, value)| [name.to_owned(), value.to_string()]));
    let output = output_of(BIN, args, 3 * LIMIT);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "one outcome each: {text} {}", String::from_utf8_lossy(&output.stderr));
    Figures::parse(&text)
}

/// Calls of a client that was connected before the errors began, until told to stop, once at least: each ends, with its own reply or with the
/// end of a connection: the errors are of the whole process. How many there were, and how many succeeded.
fn polite_beside(client: &TesteeClient, over: &AtomicBool) -> (u64, u64) {
    let (mut calls, mut good) = (0, 0);
    while calls == 0 || !over.load(Ordering::Acquire) {
        let payload = make(calls, 100);
        calls += 1;
        match client.echo(Blob { payload: payload.clone() }).timeout(LIMIT).wait() {
            Ok(reply) => {
                assert_eq!(reply.payload, payload);
                good += 1;
            }
            Err(error) => assert_eq!(error.code(), Code::Unavailable, "{error}"),
        }
        thread::sleep(Duration::from_millis(2)); // it is not the load
    }
    (calls, good)
}

#[test]
fn t34_errors_under_a_serving_server() {
    if !has_strace() {
        return;
    }
    let exec_log = scratch("exec");
    // An EAGAIN that strace makes takes the place of the end that the kernel had told of, and the kernel tells it once: what finds such a
    // connection is a time limit.
    let limits =
        ["idle_timeout=5s", "frame_progress=5s", "write_stall_timeout=5s"].iter().flat_map(|limit| ["--set", limit]);
    let args = ["--reactors", "2", "--exec-log", exec_log.to_str().expect("text")];
    let mut server = Testee::start(BIN, args.into_iter().chain(limits));
    load(server.url(), 50);
    let (mut fds, rss) = (server.at_rest(), server.rss());
    let (mut tried, mut well_after) = (0, 0);
    let (mut beside, mut well_beside) = (0, 0);
    for (call, errno) in cells(&SERVING) {
        let polite = server.client();
        polite.echo(Blob::default()).wait().expect("nothing fails yet");
        let injection = Injection::into_process(server.pid(), call, errno);
        let over = AtomicBool::new(false);
        let (figures, (calls, good)) = thread::scope(|scope| {
            let polite = scope.spawn(|| polite_beside(&polite, &over));
            let figures = load(server.url(), 60);
            over.store(true, Ordering::Release);
            (figures, polite.join().expect("each polite call ends as it may"))
        });
        (beside, well_beside) = (beside + calls, well_beside + good);
        assert!(eventually(LIMIT, || injection.trace.injected() > 0), "{call} {errno}: no error was injected");
        // While nothing is asked of it, and the errors go on: no spin.
        thread::sleep(Duration::from_millis(200)); // what the load's end left to do
        let (cpu, traced, from) = (server.cpu(), injection.trace.calls(), Instant::now());
        thread::sleep(Duration::from_millis(300)); // the span that is measured
        let (used, span, more) = (server.cpu().saturating_sub(cpu), from.elapsed(), injection.trace.calls() - traced);
        let injected = injection.end();
        println!(
            "T34 server {call} {errno}: {injected} injected, {} of 60 calls succeeded, {good} of {calls} polite ones; at rest {used:?} of \
             {span:?}, {more} such calls",
            figures.get("Ok")
        );
        assert!(used * 2 <= span && more < 100, "{call} {errno}: it spins");
        assert!(server.is_alive(), "{call} {errno}: {}", server.errors());
        assert!(good == calls || !OTHERS.contains(&call), "{call} {errno}: {good} of {calls} polite calls beside");
        let well = || polite.echo(Blob { payload: make(1, 100) }).wait().is_ok();
        assert!(eventually(LIMIT, well), "{call} {errno}: it serves again");
        // The same client has all its calls when the errors are over.
        for n in 0..POLITE {
            tried += 1;
            well_after += u32::from(polite.echo(Blob { payload: make(n, 100) }).wait().is_ok());
        }
        drop(polite);
        assert_eq!(well_after, tried, "{call} {errno}: polite calls afterwards");
        if call == "close" {
            // strace skips the call that it makes fail: what should have been closed stays open, and that is its doing.
            fds = server.at_rest();
        }
        server.returns_to(&fds, LIMIT);
        if errno == "EINTR" && call != "close" && is_made_again(call) {
            assert_eq!((figures.get("Ok"), good), (60, calls), "{call}: a signal is no reason to fail");
        }
    }
    let grown = server.peak_rss().saturating_sub(rss);
    println!(
        "T34 server: polite: {well_beside} of {beside} calls beside the errors, {well_after} of {tried} after them | memory: {} KiB more at most | descriptors: {} after, as many \
         as before each",
        grown / 1024,
        server.fds()
    );
    assert!(grown < resident(16 << 20), "{grown} bytes more");
    let _ = fs::remove_file(exec_log);
}

/// A server that cannot start says why, and ends by itself with 1; one that can do without the call serves.
#[test]
fn t34_errors_under_a_starting_server() {
    if !has_strace() {
        return;
    }
    for (call, errno) in cells(&STARTING) {
        let inject = format!("inject={call}:error={errno}:when=1+2");
        let trace = format!("trace={call}");
        let seen = Trace::new();
        let file = seen.0.to_str().expect("text");
        let args = ["5", "strace", "-f", "-qq", "-o", file, "-e", &trace, "-e", &inject, BIN, "server"];
        let output = output_of("timeout", args, LIMIT);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let serves = String::from_utf8_lossy(&output.stdout).contains("LISTENING");
        let end = output.status.code();
        let injected = seen.injected();
        println!(
            "T34 start {call} {errno}: {injected} injected; {}",
            if serves { "serves" } else { said.lines().next().unwrap_or("") }
        );
        assert!(injected > 0, "{call} {errno}: no error was injected");
        assert!(!said.contains("panicked"), "{call} {errno}: {said}");
        assert!(serves || (end == Some(1) && !said.is_empty()), "{call} {errno}: {end:?} {said}");
    }
}

#[test]
fn t34_errors_under_a_client() {
    if !has_strace() {
        return;
    }
    let exec_log = scratch("exec");
    let server = Testee::start(BIN, ["--exec-log", exec_log.to_str().expect("text")]);
    let polite = TesteeClient::new(Channel::builder(server.url()).connections(1).build().expect("a channel"));
    assert!(polite.echo(Blob::default()).wait().is_ok());
    let (fds, rss, mut polite_calls) = (server.at_rest(), server.rss(), 0);
    let mut worst = BTreeMap::new();
    let pollers = thread::available_parallelism().map_or(1, usize::from).min(GLOBAL_MAX);
    for (call, errno) in cells(&CALLING) {
        // Not the reactors' own pollers: a client without them says so, and ends.
        let first = if call == "epoll_ctl" { pollers + 1 } else { 2 };
        let inject = format!("inject={call}:error={errno}:when={first}+3");
        let trace = format!("trace={call}");
        let numbers = "--calls 60 --in-flight 4 --connections 3 --timeout 1000 --pause 10 --method storm --size 60000";
        let seen = Trace::new();
        let file = seen.0.to_str().expect("text");
        let mut args =
            vec!["-f", "-qq", "-o", file, "-e", &trace, "-e", &inject, BIN, "client", "--connect", server.url()];
        args.extend(numbers.split(' '));
        let begun = Instant::now();
        let output = output_of("strace", args, 3 * LIMIT);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let figures = Figures::parse(&out);
        let injected = seen.injected();
        println!(
            "T34 client {call} {errno}: {injected} injected, {} of 60 calls succeeded, in {:?}",
            figures.get("Ok"),
            begun.elapsed()
        );
        assert!(injected > 0, "{call} {errno}: no error was injected");
        assert!(
            output.status.success() && !err.contains("panicked"),
            "{call} {errno}: {:?} {out} {err}",
            output.status
        );
        assert_eq!((figures.get("calls"), figures.get("missing"), figures.get("twice")), (60, 0, 0), "{call} {errno}");
        if errno == "EINTR" && is_made_again(call) {
            assert_eq!(figures.get("Ok"), 60, "{call}: a signal is no reason to fail: {err}");
        }
        worst.insert(figures.get("Ok"), (call, errno));
        for n in 0..POLITE {
            polite.echo(Blob { payload: make(n, 100) }).wait().expect("a polite call beside");
            polite_calls += 1;
        }
        server.returns_to(&fds, LIMIT);
    }
    let grown = server.peak_rss().saturating_sub(rss);
    println!(
        "T34 client: fewest successes {:?} | polite: {polite_calls} of {polite_calls} calls to the same server | memory of the server: \
         {} KiB more at most | descriptors: {fds} before and after each",
        worst.first_key_value(),
        grown / 1024
    );
    assert!(grown < resident(16 << 20), "{grown} bytes more");
    let _ = fs::remove_file(exec_log);
}
