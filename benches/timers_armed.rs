//! Do timers that are only armed cost the reactor anything?
//!
//! On paper: no. A turn asks the wheel for its next slot, which is a look at some bitmaps; arming and cancelling touch one slot's list, however many
//! entries there are. What a million of them can cost is the cache.

use std::hint::black_box;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use rpc_transport::{PoolOptions, ReactorHandle, ReactorPool, Timer};

/// Runs it on the reactor and waits for what it returns.
fn on<R: Send + 'static>(reactor: &ReactorHandle, f: impl FnOnce(&ReactorHandle) -> R + Send + 'static) -> R {
    let (tell, hear) = mpsc::sync_channel(1);
    let here = reactor.clone();
    reactor.run(move || tell.send(f(&here)).expect("it is waited for"));
    hear.recv().expect("it runs")
}

/// So many timers, each at a time of its own within some hours.
fn arm(reactor: &ReactorHandle, count: u64) -> Vec<Timer> {
    let far = |n: u64| Duration::from_secs(3600) + Duration::from_millis(n.wrapping_mul(7919) % 10_000_000);
    on(reactor, move |reactor| (0..count).map(|n| reactor.run_after(far(n), || ())).collect())
}

fn timers_armed(c: &mut Criterion) {
    let pool = ReactorPool::start(PoolOptions { reactors: 1, ..PoolOptions::default() }).expect("a reactor");
    let reactor = pool.next().clone();
    for count in [0, 1_000_000_u64] {
        let armed = arm(&reactor, count);
        c.bench_with_input(BenchmarkId::new("arm_and_cancel", count), &count, |b, _| {
            b.iter_custom(|rounds| {
                on(&reactor, move |reactor| {
                    let begun = Instant::now();
                    for _ in 0..rounds {
                        black_box(reactor.run_after(Duration::from_secs(60), || ())).cancel();
                    }
                    begun.elapsed()
                })
            });
        });
        // A closure that asks for the next one: a turn each.
        c.bench_with_input(BenchmarkId::new("turn", count), &count, |b, _| {
            b.iter_custom(|rounds| {
                let (tell, hear) = mpsc::sync_channel(1);
                let begun = Instant::now();
                turn(reactor.clone(), rounds, tell);
                hear.recv().expect("it ends");
                begun.elapsed()
            });
        });
        drop(armed);
    }
}

fn turn(reactor: ReactorHandle, left: u64, tell: mpsc::SyncSender<()>) {
    let next = reactor.clone();
    reactor.run(move || match left {
        0 => tell.send(()).expect("it is waited for"),
        left => turn(next, left - 1, tell),
    });
}

criterion_group!(benches, timers_armed);
criterion_main!(benches);
