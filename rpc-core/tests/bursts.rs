//! What a burst of calls leaves behind: not the tables that it needed. Counts are the process's: one test, alone.

#[path = "support/held.rs"]
mod held;
mod support;

use std::future::poll_fn;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use held::{HELD, MOST};
use rpc_core::{Channel, Server};
use support::{Blob, EchoClient, EchoServer, on_reactor};

/// Calls at once: of each the client keeps some 400 bytes, while it waits for its turn and for its reply.
const BURST: usize = 30_000;

/// What may stay, in bytes: the reactors' timers, which all their connections share.
const LEFT: usize = 4 << 20;

#[test]
fn a_burst_of_calls_leaves_no_large_tables() {
    let server = Server::builder().reactors(1).add(EchoServer::new()).bind("tcp://127.0.0.1:0").unwrap();
    let channel =
        Channel::builder(server.url().to_string()).connections(1).timeout(Duration::from_secs(60)).build().unwrap();
    let calls_at_once = |n: usize| {
        let client = EchoClient(channel.clone());
        on_reactor(&channel, async move {
            let mut calls: Vec<_> = (0..n).map(|_| Box::pin(client.blob(Blob::default()).into_future())).collect();
            // All begin before this reactor reads the first reply.
            poll_fn(|cx| {
                assert!(calls.iter_mut().all(|call| call.as_mut().poll(cx).is_pending()));
                Poll::Ready(())
            })
            .await;
            for call in calls {
                call.await.expect("an echo");
            }
        });
    };
    calls_at_once(2_000);
    let before = HELD.load(Ordering::Relaxed);
    calls_at_once(BURST);
    calls_at_once(1); // where the last of them ended, there was nothing to do afterwards
    let (left, most) = (HELD.load(Ordering::Relaxed).saturating_sub(before), MOST.load(Ordering::Relaxed) - before);
    println!("{} KiB more than before, {} at most", left >> 10, most >> 10);
    assert!(most > 300 * BURST, "it was a burst: {most} bytes");
    assert!(left < LEFT, "{left} bytes left of a burst, which took {most}");
}
