//! A server that is replaced while it serves (T36, I26): nobody is refused, no call fails; and a new process that is no good changes nothing.

mod activation;
mod chain;
mod liar;
mod load;
#[cfg(feature = "tls")]
mod secure;

use std::collections::HashSet;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;

use testee::idl::testee::{Blob, Millis};
use testee::{eventually, raw, scratch, size};

use chain::{Chain, LIMIT, kill, lives};
use load::{Load, Report};

/// Prints what a load came to, and wants no failure among it.
#[track_caller]
fn unharmed(what: &str, report: &Report) {
    let Report { calls, short, took, connects, failures } = report;
    let rate = *calls as f64 / took.as_secs_f64();
    println!(
        "T36: {what}: {calls} calls, {rate:.0} a second, over {connects} connections; {short} short connections; {} failed",
        failures.len()
    );
    assert!(failures.is_empty(), "{failures:#?}");
}

fn upgrades_under_load(what: &str, url: &str, args: &[&str], times: usize) {
    let mut chain = Chain::start(&[url], args);
    let load = Load::begin(chain.url(), 64);
    let mut pids = HashSet::from([chain.pid()]);
    for round in 0..times {
        load.goes_on();
        let figures = chain.upgrade();
        assert!(pids.insert(chain.pid()), "another process each time");
        assert_eq!((figures.get("cut_calls"), figures.get("cut_connections")), (0, 0), "round {round}");
        assert_eq!(figures.get("accepted"), figures.get("replied"), "round {round}: each request has its reply");
        assert!(!load.has_failed(), "round {round}: {:?}", load.end().failures);
    }
    load.goes_on();
    unharmed(&format!("{times} upgrades, {what}"), &load.end());
    assert_eq!(chain.left_over(), [""; 0]);
    chain.signal("TERM");
    chain.stopped();
}

#[test]
fn t36_upgrades_fail_no_call_and_refuse_no_connection() {
    upgrades_under_load("TCP", "tcp://127.0.0.1:0", &[], size(5, 100));
}

#[test]
fn t36_upgrades_hand_over_a_socket_for_each_reactor() {
    let args = ["--reactors", "3", "--reuse-port"];
    upgrades_under_load("a socket for each reactor", "tcp://127.0.0.1:0", &args, size(3, 20));
}

/// The file is that of the first process, which did not remove it; the last one does.
#[test]
fn t36_a_unix_socket_keeps_its_file() {
    let path = scratch("sock");
    let url = format!("unix:{}", path.display());
    let mut chain = Chain::start(&[&url], &[]);
    let inode = || std::fs::metadata(&path).expect("it is there").ino();
    let first = inode();
    let load = Load::begin(chain.url(), 16);
    for _ in 0..size(3, 20) {
        load.goes_on();
        chain.upgrade();
        assert_eq!(inode(), first);
    }
    load.goes_on();
    unharmed("a Unix socket", &load.end());
    chain.signal("TERM");
    chain.stopped();
    assert!(!path.exists(), "the last one removes it");
}

/// Each row is what stands in the place of the new program, and what the old process says of it.
#[test]
#[rustfmt::skip]
fn t36_a_bad_new_process_changes_nothing() {
    let mut chain = Chain::start(&["tcp://127.0.0.1:0"], &[]);
    let load = Load::begin(chain.url(), 64);
    let check = |script: &str, expected: &[&str]| {
        chain.install(Some(script));
        load.goes_on();
        let said = chain.upgrade_in_vain();
        for part in expected {
            assert!(said.contains(part), "{script}: {said}");
        }
        if let Some(pid) = said.split("(process ").nth(1).and_then(|rest| rest.split(')').next()) {
            assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "{script}: {pid} was not killed and reaped");
        }
        assert_eq!(chain.left_over(), [""; 0], "{script}");
        load.goes_on();
    };
    // crashes
    check("exit 7",                     &["before it had taken the sockets", "it ended: exit status: 7"]);
    check("kill -SEGV $$",              &["before it had taken the sockets", "signal: 11"]);
    check("exec /nonexistent/program",  &["before it had taken the sockets", "it ended: exit status: 127"]);
    // lies
    check(&liar::script("garbage"),     &["before it had taken the sockets", "what no process of ours says"]);
    check(&liar::script("flood"),       &["before it had taken the sockets", "what no process of ours says"]);
    check(&liar::script("version"),     &["before it had taken the sockets", "it speaks version 2 of the hand-over, this process version 1"]);
    check(&liar::script("twice"),       &["before it was ready", "it said `hello` out of turn"]);
    check(&liar::script("leaves"),      &["before it was ready", "it closed the connection"]);
    check(&liar::script_of_a_stranger(), &["before it had taken the sockets", "connected in its place"]);
    // says that it is ready, and dies
    check(&liar::script("dies"),        &["when it had said that it was ready", "it ended: exit status: 3"]);

    chain.install(None);
    chain.upgrade();
    load.goes_on();
    unharmed("ten bad processes and a good one", &load.end());
}

/// As long as `--upgrade-timeout`, and no longer.
#[test]
fn t36_a_new_process_that_hangs_is_killed() {
    let chain = Chain::start(&["tcp://127.0.0.1:0"], &["--upgrade-timeout", "500", "--upgrade-settle", "50"]);
    let load = Load::begin(chain.url(), 64);
    for (script, expected) in [
        ("exec sleep 1000".to_owned(), "before it had taken the sockets, 500ms were over"),
        (liar::script("hello"), "before it was ready, 500ms were over"),
        (liar::script("sleeps"), "before it accepted, 500ms were over"),
    ] {
        chain.install(Some(&script));
        // On a machine that does much else a process may not come as far as it means to in that time: then once more.
        let mut said = String::new();
        let found = (0..20).any(|_| {
            said = chain.upgrade_in_vain();
            let pid = said.split("(process ").nth(1).and_then(|rest| rest.split(')').next()).expect("its number");
            assert!(
                !std::path::Path::new(&format!("/proc/{pid}")).exists(),
                "{script}: {pid} was not killed and reaped"
            );
            assert!(said.ends_with("500ms were over"), "{script}: {said}");
            said.contains(expected)
        });
        assert!(found, "{script}: {said}");
        load.goes_on();
    }
    unharmed("three that hang", &load.end());
}

/// It is a server like the old one, and has said that it is ready; but it has not lived for `--upgrade-settle`, and so who connects is with the old
/// one.
#[test]
fn t36_a_new_process_that_dies_at_once_takes_nobody_with_it() {
    const PEERS: u32 = 30;
    let chain = Chain::start(&["tcp://127.0.0.1:0"], &["--upgrade-settle", "60000"]);
    let (client, load) = (chain.client(), Load::begin(chain.url(), 64));
    let accepted = || {
        let report = client.stats(Default::default()).wait().expect("counters");
        testee::Figures::parse(&report.json).get("connections")
    };
    for round in 0..3 {
        chain.signal("USR2");
        let line = chain.line(&["SERVING"]);
        let before = accepted();
        let mut peers: Vec<_> = (0..PEERS).map(|_| TcpStream::connect(chain.addr()).expect("it listens")).collect();
        // The others come and go.
        let all = || accepted() + 10 >= before + u64::from(PEERS);
        assert!(
            eventually(LIMIT, all),
            "round {round}: {} of {PEERS} are with the old one",
            accepted().saturating_sub(before)
        );
        kill(line["SERVING ".len()..].parse().expect("a number"));
        let said = chain.line(&["NO UPGRADE", "STOPPED"]);
        assert!(said.contains("it ended: signal: 9"), "{said}");
        for (number, peer) in (1..).zip(&mut peers) {
            peer.write_all(&raw::request(number, "Echo", &raw::blob(b"here"))).expect("it is open");
            let reply = raw::read_frame(peer).expect("a frame").expect("a reply");
            assert_eq!(reply.blob(), Some(&b"here"[..]), "round {round}, peer {number}");
        }
        load.goes_on();
    }
    unharmed("three that die at once", &load.end());
}

/// The program is not there at all.
#[test]
fn a_program_that_is_missing_is_named() {
    let chain = Chain::start(&["tcp://127.0.0.1:0"], &[]);
    chain.install(Some("exit 0"));
    chain.remove_program();
    let said = chain.upgrade_in_vain();
    assert!(said.contains("/server: before it was started, No such file or directory"), "{said}");
    assert!(chain.client().echo(Blob::default()).wait().is_ok());
}

/// The old process is killed when the new one has said that it is ready: that one goes on alone, with the sockets.
#[test]
fn t36_an_old_process_that_is_killed_leaves_the_sockets() {
    let mut chain = Chain::start(&["tcp://127.0.0.1:0"], &["--upgrade-settle", "60000"]);
    chain.signal("USR2");
    let line = chain.line(&["SERVING"]);
    let pid = line["SERVING ".len()..].parse().expect("a number");
    chain.signal("KILL");
    chain.gone();
    chain.is_now(pid);
    let client = chain.client();
    assert!(eventually(LIMIT, || client.echo(Blob::default()).wait().is_ok()), "{}", chain.errors());
    // It is one as any other: it can be replaced.
    chain.install(Some("exit 7"));
    assert!(chain.upgrade_in_vain().contains("exit status: 7"));
}

/// Who stops a service does not want the next one of it.
#[test]
fn a_process_that_is_told_to_stop_meanwhile_ends_with_the_new_one() {
    let mut chain = Chain::start(&["tcp://127.0.0.1:0"], &["--upgrade-settle", "60000"]);
    chain.signal("USR2");
    let line = chain.line(&["SERVING"]);
    let new: u32 = line["SERVING ".len()..].parse().expect("a number");
    chain.signal("TERM");
    chain.line(&["STOPPED"]);
    chain.gone();
    assert!(eventually(LIMIT, || !lives(new)), "the new one has ended, too");
    assert!(TcpStream::connect(chain.addr()).is_err(), "nobody listens");
}

/// But when it may accept, and says so soon, it has connections, perhaps: it is not killed any more.
#[test]
fn a_process_that_is_told_to_stop_too_late_leaves_the_new_one() {
    let mut chain = Chain::start(&["tcp://127.0.0.1:0"], &[]);
    chain.install(Some(&liar::script("'stops it'")));
    chain.signal("USR2");
    chain.line(&["SERVING"]);
    chain.line(&["STOPPED"]);
    chain.gone();
}

/// Calls that run when the new process takes over get their replies from the old one.
#[test]
fn running_calls_end_in_the_old_process() {
    let mut chain = Chain::start(&["tcp://127.0.0.1:0"], &[]);
    let (client, stats) = (chain.client(), chain.client());
    let figures = std::thread::scope(|scope| {
        let slow = scope.spawn(|| client.sleep(Millis { ms: 3_000, kind: String::new() }).wait());
        let in_flight = || testee::Figures::parse(&stats.stats(Default::default()).wait().expect("counters").json);
        assert!(eventually(LIMIT, || in_flight().get("in_flight") == 1));
        let figures = chain.upgrade();
        slow.join().expect("no panic").expect("its reply");
        figures
    });
    assert_eq!(figures.get("cut_calls"), 0);
}

/// The new one serves fewer addresses: the old one ends the other as in any shutdown, with its file.
#[test]
fn an_address_that_is_not_served_any_more_is_closed() {
    let path = scratch("sock");
    let unix = format!("unix:{}", path.display());
    let mut chain = Chain::start(&["tcp://127.0.0.1:0", &unix], &[]);
    let program = env!("CARGO_BIN_EXE_testee");
    // As it was asked for the first time: port 0.
    chain.install(Some(&format!("exec {program} server --listen tcp://127.0.0.1:0")));
    chain.upgrade();
    assert!(chain.client().echo(Blob::default()).wait().is_ok(), "at the same port");
    assert!(!path.exists());
}
