//! B26, I14, I25: when clients and servers are gone, so are their threads, descriptors and memory. Counts are the process's: one
//! test, alone.

#[path = "support/held.rs"]
mod held;
mod support;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use held::HELD;
use rpc_core::{Channel, Server};
use support::{Blob, EchoClient, EchoServer, call_apart};

fn entries(of: &str) -> usize {
    std::fs::read_dir(of).expect("Linux").count()
}

/// Bytes that may be left of six rounds: less than any connection, channel or reactor of ours takes.
const LEFT: usize = 400;

/// Descriptors and threads of this process.
fn counts() -> (usize, usize) {
    (entries("/proc/self/fd"), entries("/proc/self/task"))
}

#[cfg(target_os = "linux")]
#[test]
fn what_ends_leaves_nothing_behind() {
    let round = |n: usize| {
        let mut service = EchoServer::new();
        if n.is_multiple_of(2) {
            service.blocking.all();
        }
        let server = Server::builder().reactors(2).add(service).bind("tcp://127.0.0.1:0").unwrap();
        let url = server.url().to_string();
        // On the server's reactors, each with connections of its own; multiplexed, one at a time, shared by their URL.
        let many = Channel::builder(&url).connections(3).build().unwrap();
        let one = Channel::builder(&url).ping_pong().connections(2).build().unwrap();
        let shared = Channel::connect(&url).unwrap();
        for channel in [&many, &one, &shared] {
            EchoClient(channel.clone()).blob(Blob::default()).wait().expect("an echo");
        }
        // In the middle of calls, too.
        let calls = [many, one].map(|channel| call_apart(&channel, b"call", Duration::from_secs(5)));
        if n.is_multiple_of(3) {
            server.shutdown();
        }
        drop((shared, server));
        for call in calls {
            let _ = call.recv_timeout(Duration::from_secs(10)).expect("it ends, one way or the other");
        }
    };
    (0..6).for_each(&round); // what a process starts once, and tables that grow
    let settled = |before: Option<(usize, usize)>| {
        let (start, mut last) = (Instant::now(), counts());
        while start.elapsed() < Duration::from_secs(10) {
            std::thread::yield_now();
            let now = counts();
            if before.is_some_and(|before| now.0 <= before.0 && now.1 <= before.1) {
                return now;
            }
            last = now;
            if before.is_none() && start.elapsed() > Duration::from_secs(1) {
                break;
            }
        }
        last
    };
    let before = settled(None);
    // A table that grows does so once: each shard of the map that shares channels has one of 180 bytes from its first address on, and
    // parking_lot keeps one for threads, of 8,224 bytes when there have been some forty at a time. What is lost, is in each span.
    let mut left = Vec::new();
    for span in 1..=5 {
        let held = HELD.load(Ordering::Relaxed);
        (6 * span..6 * span + 6).for_each(&round);
        let after = settled(Some(before));
        assert!(after.0 <= before.0 && after.1 <= before.1, "descriptors and threads: {before:?}, then {after:?}");
        // A thread is gone from the list a moment before the last of its memory is.
        let more = || HELD.load(Ordering::Relaxed).saturating_sub(held);
        let start = Instant::now();
        while more() >= LEFT && start.elapsed() < Duration::from_secs(3) {
            std::thread::yield_now();
        }
        left.push(more());
        if left[span - 1] < LEFT {
            break;
        }
    }
    println!("bytes of memory that were left of six rounds: {left:?}");
    assert!(left.last().is_some_and(|left| *left < LEFT), "each time: {left:?}");
}
