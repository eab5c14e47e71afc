//! B26, I14, I25: when clients and servers are gone, so are their threads and descriptors. Counts are the process's: one test, alone.

mod support;

use std::time::{Duration, Instant};

use rpc_core::{Channel, Server};
use support::{Blob, EchoClient, EchoServer, call_apart};

fn entries(of: &str) -> usize {
    std::fs::read_dir(of).expect("Linux").count()
}

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
    round(0); // what a process starts once
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
    (1..13).for_each(round);
    let after = settled(Some(before));
    assert!(after.0 <= before.0 && after.1 <= before.1, "descriptors and threads: {before:?}, then {after:?}");
}
