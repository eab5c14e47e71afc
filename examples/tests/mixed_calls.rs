//! Many calls of all kinds at once: each has exactly one outcome, its own, and nothing is left afterwards (I1, I3, I14).
//!
//! `cargo test --release -p examples --test mixed_calls -- --nocapture` makes 100,000 calls over each kind of socket; without
//! `--release` it is 2,000. `TESTEE_CALLS=N` sets the number.

use std::time::Duration;

use testee::{Figures, Testee, eventually, output_of, scratch};

const BIN: &str = env!("CARGO_BIN_EXE_testee");

/// Until when everything must be over, on a machine that does much else.
const LIMIT: Duration = Duration::from_secs(20);

fn calls() -> u64 {
    let usual = if cfg!(debug_assertions) { 2_000 } else { 100_000 };
    std::env::var("TESTEE_CALLS").map_or(usual, |n| n.parse().expect("TESTEE_CALLS is a number"))
}

/// Runs a mixture and checks what both sides and the system count afterwards.
fn check(server: &Testee, args: &[&str], calls: u64) {
    let (fds, log) = (server.at_rest(), scratch("log"));
    let number = calls.to_string();
    let usual = ["client", "--method", "mix", "--strict", "--calls", &number, "--log", log.to_str().expect("text")];
    let output = output_of(BIN, [&usual[..], args].concat(), Duration::from_secs(300));
    let (json, surprises) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{args:?}\n  {}", json.trim_end());
    assert!(output.status.success(), "{json}{surprises}");

    let mut numbers: Vec<u64> = std::fs::read_to_string(&log)
        .expect("the log was written")
        .lines()
        .map(|line| line.split(' ').next().and_then(|n| n.parse().ok()).expect("a line begins with its number"))
        .collect();
    let _ = std::fs::remove_file(&log);
    numbers.sort_unstable();
    assert!(numbers.iter().copied().eq(0..calls), "each call has one line in the log");

    let client = Figures::parse(&json);
    for (name, due) in [("missing", 0), ("twice", 0), ("wrong", 0), ("unexpected", 0), ("glitches", 0)] {
        assert_eq!(client.get(name), due, "{name}: {json}");
    }
    assert_eq!(client.get("fds_after"), client.get("fds_before"), "descriptors of the client: {json}");

    let quiet = eventually(LIMIT, || {
        let now = server.stats();
        // The one connection, call and few bytes are the question's own.
        now.get("connections") == 1 && now.get("in_flight") == 0 && now.get("buffered_bytes") < 4096
    });
    assert!(quiet, "something is left: {:?}", server.stats());
    server.returns_to(&fds, LIMIT);
    println!("  server: {fds} descriptors before and after, {} KiB resident", server.rss() / 1024);
}

/// Time enough on a busy machine; every other limit is at its default.
const PATIENT: [&str; 2] = ["--set", "default_timeout=60s"];

#[test]
fn mixed_calls_have_one_outcome_each() {
    let path = format!("unix:{}", scratch("sock").display());
    let server = Testee::listen(BIN, &["tcp://127.0.0.1:0", &path], [] as [&str; 0]);
    for url in server.urls() {
        let args = ["--connect", url, "--connections", "4", "--in-flight", "64"];
        check(&server, &[&args[..], &PATIENT].concat(), calls());
    }
}

/// The same from threads that block, from a foreign executor, and one at a time on each connection.
#[test]
fn every_kind_of_client_gets_its_own_replies() {
    let server = Testee::start(BIN, ["--reactors", "2"]);
    let kinds: [&[&str]; 4] = [
        &["--client", "blocking", "--connections", "4", "--in-flight", "8"],
        &["--client", "foreign", "--connections", "4", "--in-flight", "64"],
        &["--ping-pong", "--connections", "8", "--in-flight", "2"],
        &["--client", "blocking", "--ping-pong", "--connections", "4", "--in-flight", "1"],
    ];
    for (seed, kind) in kinds.iter().enumerate() {
        let seed = (seed + 2).to_string();
        let args = [&["--connect", server.url(), "--seed", &seed][..], &PATIENT, kind].concat();
        check(&server, &args, calls() / 4);
    }
}

/// Limits so low that every one of them is met: still one outcome each, and nothing left.
#[test]
fn tiny_limits_change_the_pace_and_nothing_else() {
    let tiny = ["max_inflight_per_conn=2", "turn_frames=1", "turn_bytes=4096", "write_low=1024", "write_high=4096"];
    let server = Testee::start(BIN, tiny.iter().flat_map(|limit| ["--set", limit]));
    let own = [
        "--set",
        "client_max_inflight=5",
        "--set",
        "turn_frames=1",
        "--set",
        "write_low=1024",
        "--set",
        "write_high=4096",
    ];
    let args = ["--connect", server.url(), "--connections", "2", "--in-flight", "32", "--set", "default_timeout=60s"];
    check(&server, &[&args[..], &own].concat(), calls() / 4);
}

/// Payloads of one size around every boundary that a block, a header or a limit has.
#[test]
fn sizes_at_boundaries_come_back_whole() {
    let server = Testee::start(BIN, [] as [&str; 0]);
    for size in
        [0, 1, 15, 16, 17, 127, 128, 4095, 4096, 4097, 16_383, 16_384, 65_535, 65_536, 1 << 20, (16 << 20) - 256]
    {
        // Two of the largest at a time would be over write_hard.
        let (size, in_flight) = (size.to_string(), if size > 1 << 20 { "1" } else { "4" });
        let args = [
            "client",
            "--connect",
            server.url(),
            "--size",
            &size,
            "--calls",
            "8",
            "--in-flight",
            in_flight,
            "--strict",
        ];
        let output = output_of(BIN, [&args[..], &PATIENT].concat(), Duration::from_secs(300));
        assert!(output.status.success(), "{size} bytes: {}", String::from_utf8_lossy(&output.stderr));
    }
}
