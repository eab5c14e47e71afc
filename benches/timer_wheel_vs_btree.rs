//! Every call has a deadline, and nearly none comes: what do setting and cancelling one cost in the wheel, and in an ordered map?
//!
//! On paper: the wheel turns the time into ticks, a division, and links and unlinks an entry of a list, 30 to 40 ns together
//! whatever it holds. The map walks from its root twice, 2 levels with 100 entries and 4 with 10,000, and moves keys within
//! nodes: 60 to 150 ns. Expiry is rare, so it does not count.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rpc_transport::TimerWheel;

const TIMEOUT: Duration = Duration::from_secs(5);

/// The time between two calls.
const STEP: Duration = Duration::from_micros(2);

fn compare(c: &mut Criterion) {
    let mut group = c.benchmark_group("timer_wheel_vs_btree");
    group.throughput(Throughput::Elements(1));
    for alive in [100, 10_000] {
        let start = Instant::now();
        group.bench_function(format!("timer_wheel/set_and_cancel_x{alive}_in_flight"), |b| {
            let mut wheel = TimerWheel::new(start);
            let mut now = start;
            let mut ids: Vec<_> = (0..alive).map(|key| wheel.insert(now + TIMEOUT, key)).collect();
            let mut oldest = 0;
            b.iter(|| {
                now += STEP;
                black_box(wheel.cancel(ids[oldest]));
                ids[oldest] = wheel.insert(black_box(now + TIMEOUT), oldest);
                oldest = (oldest + 1) % alive;
            });
        });
        group.bench_function(format!("btree/set_and_cancel_x{alive}_in_flight"), |b| {
            let mut map = BTreeMap::new();
            let mut now = start;
            let mut ids: Vec<_> = (0..alive).map(|key| (now + TIMEOUT, key)).collect();
            map.extend(ids.iter().map(|id| (*id, id.1)));
            let mut oldest = 0;
            b.iter(|| {
                now += STEP;
                black_box(map.remove(&ids[oldest]));
                ids[oldest] = (black_box(now + TIMEOUT), oldest);
                map.insert(ids[oldest], oldest);
                oldest = (oldest + 1) % alive;
            });
        });
    }
    group.finish();
}

criterion_group!(benches, compare);
criterion_main!(benches);
