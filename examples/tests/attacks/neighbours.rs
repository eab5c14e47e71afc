//! One connection that takes all it can get, beside a hundred that do not (T41).

use std::io::{BufReader, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use testee::idl::testee::{Blob, TesteeClient};
use testee::{Scene, make, raw, size};

use crate::attack;

const NEIGHBOURS: usize = 100;
const THREADS: usize = 4;

/// A call on each connection in turn until told to stop, once around at least; how long each took, in microseconds, in order.
fn neighbours(scene: &Scene, over: &AtomicBool) -> Vec<u64> {
    let lane = || {
        let clients: Vec<TesteeClient> = (0..NEIGHBOURS / THREADS).map(|_| scene.server.client()).collect();
        let mut micros = Vec::new();
        while micros.len() < 4 * clients.len() || !over.load(Ordering::Acquire) {
            for (n, client) in clients.iter().enumerate() {
                let (payload, start) = (make(n as u64, 100), Instant::now());
                let reply = client.echo(Blob { payload: payload.clone() }).wait();
                assert_eq!(reply.unwrap_or_else(|e| panic!("a neighbour's call failed: {e}")).payload, payload);
                micros.push(start.elapsed().as_micros() as u64);
            }
            thread::sleep(Duration::from_millis(5)); // neighbours are polite; nothing depends on its length
        }
        micros
    };
    let mut micros: Vec<u64> = thread::scope(|scope| {
        let lanes: Vec<_> = (0..THREADS).map(|_| scope.spawn(lane)).collect();
        lanes.into_iter().flat_map(|lane| lane.join().expect("every neighbour's call succeeds")).collect()
    });
    micros.sort_unstable();
    micros
}

/// On one reactor. Times are printed, not held: on cores that others use they say little.
#[test]
fn t41_a_noisy_neighbour_delays_nobody_for_long() {
    // A million takes a debug build on two busy cores half a minute.
    let frames = size(250_000, 1_000_000);
    attack("T41").args(&["--reactors", "1"]).run(|scene| {
        let alone = neighbours(scene, &AtomicBool::new(true));
        let over = AtomicBool::new(false);
        let start = Instant::now();
        let (beside, took) = thread::scope(|scope| {
            let beside = scope.spawn(|| neighbours(scene, &over));
            let mut noisy = scene.dial();
            let mut replies = BufReader::with_capacity(1 << 18, noisy.try_clone().expect("a second handle"));
            let reader = scope.spawn(move || {
                for n in 0..frames {
                    let reply = raw::read_bytes(&mut replies).expect("a frame").expect("a reply");
                    assert_eq!(reply[8..12], (n as i32 + 1).to_be_bytes(), "each is answered");
                }
            });
            for from in (0..frames).step_by(1_000) {
                let ids = from + 1..=(from + 1_000).min(frames);
                let bytes: Vec<u8> = ids.flat_map(|id| raw::request(id as i32, "Echo", &raw::blob(&[7; 16]))).collect();
                noisy.write_all(&bytes).expect("it is read");
            }
            reader.join().expect("every frame is answered");
            let took = start.elapsed();
            over.store(true, Ordering::Release);
            let _ = noisy.shutdown(Shutdown::Both);
            (beside.join().expect("no panic"), took)
        });
        let p99 = |micros: &[u64]| micros[micros.len() * 99 / 100];
        format!(
            "{frames} frames pipelined in {took:?}; {} calls on {NEIGHBOURS} connections beside them, p99 {} µs (alone {} µs)",
            beside.len(),
            p99(&beside),
            p99(&alone)
        )
    });
}
