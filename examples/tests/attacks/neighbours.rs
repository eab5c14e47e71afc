//! One connection that takes all it can get, beside a hundred that do not (T41).

use std::io::{BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use testee::idl::testee::{Blob, TesteeClient};
use testee::{Scene, make, raw, size};

use crate::attack;

const NEIGHBOURS: usize = 100;
const THREADS: usize = 4;

/// Calls that each neighbour has to have answered beside the flood.
const SERVED: u32 = 3;

/// How long the flood may go on until they have, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(120);

/// A call on each connection in turn until told to stop, four times around at least; how long each took, in microseconds, in order. `served`
/// counts those of each.
fn neighbours(scene: &Scene, served: &[AtomicU32], over: &AtomicBool) -> Vec<u64> {
    let lane = |served: &[AtomicU32]| {
        let clients: Vec<TesteeClient> = served.iter().map(|_| scene.server.client()).collect();
        let mut micros = Vec::new();
        while micros.len() < 4 * clients.len() || !over.load(Ordering::Acquire) {
            for (n, client) in clients.iter().enumerate() {
                let (payload, start) = (make(n as u64, 100), Instant::now());
                let reply = client.echo(Blob { payload: payload.clone() }).wait();
                assert_eq!(reply.unwrap_or_else(|e| panic!("a neighbour's call failed: {e}")).payload, payload);
                micros.push(start.elapsed().as_micros() as u64);
                served[n].fetch_add(1, Ordering::Relaxed);
            }
            thread::sleep(Duration::from_millis(5)); // neighbours are polite; nothing depends on its length
        }
        micros
    };
    let mut micros: Vec<u64> = thread::scope(|scope| {
        let lanes: Vec<_> =
            served.chunks(NEIGHBOURS / THREADS).map(|served| scope.spawn(move || lane(served))).collect();
        lanes.into_iter().flat_map(|lane| lane.join().expect("every neighbour's call succeeds")).collect()
    });
    micros.sort_unstable();
    micros
}

fn nobody_yet() -> Vec<AtomicU32> {
    (0..NEIGHBOURS).map(|_| AtomicU32::new(0)).collect()
}

/// On one reactor. Each neighbour is served while the flood goes on, or it goes on for ever. Times are printed, not held: on cores that
/// others use they say little.
#[test]
fn t41_a_noisy_neighbour_delays_nobody_for_long() {
    // A million takes a debug build on two busy cores half a minute.
    let frames = size(250_000, 1_000_000) as i32;
    attack("T41").args(&["--reactors", "1"]).run(|scene| {
        let alone = neighbours(scene, &nobody_yet(), &AtomicBool::new(true));
        let (served, over) = (nobody_yet(), AtomicBool::new(false));
        let start = Instant::now();
        let (beside, sent, took) = thread::scope(|scope| {
            let mut noisy = scene.dial();
            let mut replies = BufReader::with_capacity(1 << 18, noisy.try_clone().expect("a second handle"));
            let reader = scope.spawn(move || {
                let mut answered = 0;
                while let Some(reply) = raw::read_bytes(&mut replies).expect("whole frames") {
                    answered += 1;
                    assert_eq!(reply[8..12], i32::to_be_bytes(answered), "each is answered");
                }
                answered
            });
            let batch = |noisy: &mut TcpStream, from: i32| {
                let ids = from + 1..=from + 1_000;
                let bytes: Vec<u8> = ids.flat_map(|id| raw::request(id, "Echo", &raw::blob(&[7; 16]))).collect();
                noisy.write_all(&bytes).expect("it is read");
                from + 1_000
            };
            let mut sent = batch(&mut noisy, 0);
            let beside = scope.spawn(|| neighbours(scene, &served, &over));
            let all_served = || served.iter().all(|served| served.load(Ordering::Relaxed) >= SERVED);
            while sent < frames || (!all_served() && start.elapsed() < PATIENCE) {
                sent = batch(&mut noisy, sent);
            }
            let by_then: Vec<_> = served.iter().map(|served| served.load(Ordering::Relaxed)).collect();
            over.store(true, Ordering::Release);
            noisy.shutdown(Shutdown::Write).expect("open");
            assert_eq!(reader.join().expect("every frame is answered"), sent);
            let took = start.elapsed();
            let fewest = by_then.iter().min().expect("neighbours");
            assert!(*fewest >= SERVED, "calls of each neighbour while the flood was on: {by_then:?}");
            (beside.join().expect("no panic"), sent, took)
        });
        let p99 = |micros: &[u64]| micros[micros.len() * 99 / 100];
        format!(
            "{sent} frames pipelined in {took:?}; {} calls on {NEIGHBOURS} connections beside them, p99 {} µs (alone {} µs)",
            beside.len(),
            p99(&beside),
            p99(&alone)
        )
    });
}
