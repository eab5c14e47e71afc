//! Some seeds of the simulation, and that a seed is a run. `cargo run --release -p simulation` runs as many as one likes.

use simulation::{Violation, run, run_bare};

/// Seeds in an ordinary test run; a build with optimisation runs thirty times as many in the same time.
const SEEDS: u64 = if cfg!(debug_assertions) { 60 } else { 2_000 };

#[test]
fn no_seed_breaks_an_invariant() {
    for seed in 0..SEEDS {
        run(seed).unwrap_or_else(|violation| panic!("{violation}"));
    }
}

/// I22: handlers that close, abort, panic and write whenever they like hear of everything once, and in order.
#[test]
fn no_seed_of_the_transport_alone_breaks_an_invariant() {
    for seed in 0..SEEDS {
        run_bare(seed, false).unwrap_or_else(|violation| panic!("{violation}"));
    }
}

/// I27: what was found once can be looked at again.
#[test]
fn the_same_seed_is_the_same_run_and_another_is_not() {
    let mut traces = Vec::new();
    // The last two under TLS.
    for seed in [0, 1, 7, 1 << 40, 2, 10] {
        let report = run(seed).expect("no violation");
        assert_eq!(run(seed).expect("no violation"), report, "seed {seed}");
        assert_eq!(run_bare(seed, false).ok(), run_bare(seed, false).ok(), "seed {seed} of the transport alone");
        traces.push(report.trace);
    }
    traces.sort_unstable();
    traces.dedup();
    assert_eq!(traces.len(), 6);
}

/// The calls of some seeds, so that a simulation in which nothing ever succeeds, or nothing ever fails, is noticed.
#[test]
fn calls_succeed_fail_and_are_given_up() {
    let (mut sum, mut panics) = ([0; 5], 0);
    for seed in 0..40 {
        let report = run(seed).expect("no violation");
        let calls = report.outcomes;
        for (sum, n) in sum.iter_mut().zip([calls.replied, calls.late, calls.refused, calls.cut, calls.cancelled]) {
            *sum += n;
        }
        panics += report.panics;
        assert_eq!(calls.calls, calls.replied + calls.failed + calls.cancelled, "I1, seed {seed}");
    }
    assert!(sum.iter().all(|n| *n > 20), "replied, late, refused, cut, given up: {sum:?}");
    assert!(panics > 5, "T31: {panics} panics in the midst of what handlers do");
}

/// Every fourth run is under TLS, and calls fare there as they do elsewhere.
#[test]
fn calls_succeed_under_tls() {
    let (mut secure, mut records) = ([0; 4], 0);
    for seed in 0..160 {
        let report = run(seed).expect("no violation");
        let calls = report.outcomes;
        assert!(report.records == 0 || seed % 4 == 2, "seed {seed}");
        records += report.records;
        if report.records > 0 {
            let all = [calls.replied, calls.late, calls.cut, calls.cancelled];
            secure.iter_mut().zip(all).for_each(|(sum, n)| *sum += n);
        }
    }
    assert!(secure.iter().all(|n| *n > 20), "replied, late, cut, given up: {secure:?}");
    assert!(records > 1_000, "{records} records");
}

#[test]
fn a_violation_says_how_to_see_it_again() {
    let violation =
        Violation { seed: 17, what: "I1: as an example".into(), at: Default::default(), step: 3, bare: true };
    assert!(violation.to_string().ends_with("cargo run --release -p simulation -- --seed 17 --bare"), "{violation}");
}
