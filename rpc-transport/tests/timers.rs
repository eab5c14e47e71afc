//! Closures that run later.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rpc_transport::{ReactorHandle, Timer};
use support::{DEADLINE, on, pool, until};

const MS: Duration = Duration::from_millis(1);

#[test]
fn once_means_once_and_never_early_from_anywhere() {
    let pool = pool(1);
    let reactor = pool.next().clone();
    let (tell, hear) = mpsc::channel();
    let start = |reactor: &ReactorHandle, delay: Duration, tell: mpsc::Sender<(Duration, bool)>| {
        let (begun, here) = (Instant::now(), reactor.clone());
        reactor.run_after(delay, move || tell.send((begun.elapsed(), here.is_current())).unwrap())
    };
    for delay in [Duration::ZERO, MS, 5 * MS, 30 * MS] {
        let from_outside = start(&reactor, delay, tell.clone());
        let tell_there = tell.clone();
        let from_there = {
            let here = reactor.clone();
            on(&reactor, move || start(&here, delay, tell_there))
        };
        for _ in 0..2 {
            let (after, there) = hear.recv_timeout(DEADLINE).expect("it runs");
            assert!(after >= delay && there, "{after:?} of {delay:?}");
        }
        drop((from_outside, from_there));
    }
    on(&reactor, || {});
    assert!(hear.try_recv().is_err(), "none runs twice");
}

/// A turn may have taken long when it arms a timer: that time is neither lost to it nor waited for once more.
#[test]
fn the_turn_that_arms_it_does_not_count() {
    let pool = pool(1);
    let reactor = pool.next().clone();
    let mut soonest = Duration::MAX;
    for _ in 0..10 {
        let (tell, hear) = mpsc::channel();
        let here = reactor.clone();
        on(&reactor, move || {
            let turn = Instant::now();
            while turn.elapsed() < 60 * MS {
                std::hint::spin_loop();
            }
            let armed = Instant::now();
            here.run_after(40 * MS, move || tell.send(armed.elapsed()).unwrap()).detach();
        });
        let after = hear.recv_timeout(DEADLINE).expect("it runs");
        assert!(after >= 40 * MS, "{after:?}: early");
        soonest = soonest.min(after);
    }
    assert!(soonest < 55 * MS, "{soonest:?}: the turn has been waited for once more, each time");
}

#[test]
fn a_periodic_one_keeps_its_rhythm_and_leaves_out_what_it_missed() {
    let pool = pool(1);
    let (tell, hear) = mpsc::channel();
    let begun = Instant::now();
    let mut runs = 0;
    let timer = pool.next().run_every(10 * MS, move || {
        tell.send(begun.elapsed()).unwrap();
        runs += 1;
        // The second run takes the time of three others.
        while runs == 2 && begun.elapsed() < 55 * MS {
            std::hint::spin_loop();
        }
    });
    let runs: Vec<Duration> = (0..8).map(|_| hear.recv_timeout(DEADLINE).expect("it runs")).collect();
    drop(timer);
    for (run, at) in runs.iter().enumerate() {
        // Of those after the long one the first is due at 60 ms.
        let due = 10 * MS * (if run < 2 { run + 1 } else { run + 4 }) as u32;
        assert!(*at >= due, "run {run} at {at:?}, due at {due:?} at the earliest: {runs:?}");
    }
}

#[test]
fn cancelled_ones_do_not_run_and_free_what_they_hold() {
    struct Held(Arc<AtomicUsize>);
    impl Drop for Held {
        fn drop(&mut self) {
            self.0.fetch_add(1, SeqCst);
        }
    }
    let pool = pool(1);
    let reactor = pool.next().clone();
    let (freed, ran) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let start = |reactor: &ReactorHandle, delay, freed: &Arc<AtomicUsize>, ran: &Arc<AtomicUsize>| {
        let (held, ran) = (Held(Arc::clone(freed)), Arc::clone(ran));
        reactor.run_after(delay, move || {
            let _held = held;
            ran.fetch_add(1, SeqCst);
        })
    };
    // Here, and there before its time, which is over while the reactor does not look.
    start(&reactor, Duration::from_secs(3600), &freed, &ran).cancel();
    assert_eq!(freed.load(SeqCst), 1);
    let (freed_there, ran_there) = (Arc::clone(&freed), Arc::clone(&ran));
    let here = reactor.clone();
    on(&reactor, move || {
        let timer = start(&here, MS, &freed_there, &ran_there);
        let begun = Instant::now();
        while begun.elapsed() < 5 * MS {
            std::hint::spin_loop();
        }
        timer.cancel();
    });
    assert_eq!((freed.load(SeqCst), ran.load(SeqCst)), (2, 0));
    // A detached one runs, and frees what it holds; one that cancels itself while it runs does not run again.
    start(&reactor, MS, &freed, &ran).detach();
    let (tell, hear) = mpsc::channel();
    let own: Arc<std::sync::Mutex<Option<Timer>>> = Arc::default();
    let (its, mut runs) = (Arc::clone(&own), 0);
    let timer = reactor.run_every(MS, move || {
        runs += 1;
        drop(its.lock().unwrap().take());
        tell.send(runs).unwrap();
    });
    *own.lock().unwrap() = Some(timer);
    let runs: Vec<i32> = hear.iter().collect(); // until the closure is dropped
    assert!(!runs.is_empty() && runs.len() < 3, "{runs:?}: twice if it ran before it was told of itself");
    on(&reactor, || {});
    until("the detached one ran", || (freed.load(SeqCst), ran.load(SeqCst)) == (3, 1));
}

#[test]
fn a_panic_ends_the_timer_and_not_the_reactor() {
    let pool = pool(1);
    let (tell, hear) = mpsc::channel::<()>();
    pool.next()
        .run_every(MS, move || {
            let _tell = &tell;
            panic!("as it is told");
        })
        .detach();
    assert_eq!(hear.recv_timeout(DEADLINE), Err(mpsc::RecvTimeoutError::Disconnected), "its closure is dropped");
    assert_eq!(on(pool.next(), || 7), 7);
}

#[test]
fn at_the_end_of_a_reactor_nothing_runs() {
    let pool = pool(1);
    let (tell, hear) = mpsc::channel::<()>();
    pool.next().run_after(Duration::from_secs(3600), move || tell.send(()).unwrap()).detach();
    on(pool.next(), || {});
    drop(pool);
    assert_eq!(hear.recv_timeout(DEADLINE), Err(mpsc::RecvTimeoutError::Disconnected));
}
