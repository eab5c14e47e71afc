//! Runs seeds of the simulation, many or one.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use simulation::{Report, Violation};

/// Runs clients and servers over a simulated network, and checks every invariant after every step.
#[derive(Parser)]
struct Options {
    /// Run this seed alone, and print every step with --trace.
    #[arg(long)]
    seed: Option<u64>,
    /// How many seeds to run.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Threads; default: one for each core.
    #[arg(long)]
    jobs: Option<usize>,
    /// Run every n-th seed twice and compare the traces.
    #[arg(long, default_value_t = 10)]
    replay: u64,
    /// With --seed: the transport alone.
    #[arg(long)]
    bare: bool,
    /// Print what happens, with --seed.
    #[arg(long)]
    trace: bool,
    /// Go on after a violation, up to this many.
    #[arg(long, default_value_t = 1)]
    violations: usize,
    /// Fail if the virtual time is not this many times the real one.
    #[arg(long, default_value_t = 0.0)]
    least_ratio: f64,
}

#[derive(Default)]
struct Sum {
    runs: u64,
    replays: u64,
    steps: u64,
    calls: u64,
    replied: u64,
    failed: u64,
    late: u64,
    refused: u64,
    cut: u64,
    cancelled: u64,
    faults: u64,
    panics: u64,
    records: u64,
    virtual_time: Duration,
    violations: Vec<Violation>,
}

impl Sum {
    fn add(&mut self, report: &Report) {
        self.runs += 1;
        self.steps += report.steps;
        self.calls += report.outcomes.calls;
        self.replied += report.outcomes.replied;
        self.failed += report.outcomes.failed;
        self.late += report.outcomes.late;
        self.refused += report.outcomes.refused;
        self.cut += report.outcomes.cut;
        self.cancelled += report.outcomes.cancelled;
        self.faults += report.faults;
        self.panics += report.panics;
        self.records += report.records;
        self.virtual_time += report.elapsed;
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(seed) = options.seed {
        return one(seed, options.bare, options.trace);
    }
    let jobs = options.jobs.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from)).max(1);
    let begun = Instant::now();
    let next = Arc::new(AtomicU64::new(options.first));
    let sum = Arc::new(Mutex::new(Sum::default()));
    let end = options.first.saturating_add(options.seeds);
    let (replay, most) = (options.replay.max(1), options.violations.max(1));
    let workers: Vec<_> = (0..jobs)
        .map(|_| {
            let (next, sum) = (Arc::clone(&next), Arc::clone(&sum));
            thread::spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || work(seed, seed.is_multiple_of(replay), &sum) >= most {
                        return;
                    }
                }
            })
        })
        .collect();
    let mut shown = begun;
    while workers.iter().any(|worker| !worker.is_finished()) {
        thread::park_timeout(Duration::from_millis(100));
        if shown.elapsed() > Duration::from_secs(5) {
            shown = Instant::now();
            let done = next.load(Ordering::Relaxed).min(end) - options.first;
            eprintln!("{done} of {} seeds, {:.0?}", options.seeds, begun.elapsed());
        }
    }
    let sum = sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let took = begun.elapsed();
    let ratio = sum.virtual_time.as_secs_f64() / took.as_secs_f64();
    for violation in &sum.violations {
        println!("VIOLATION {violation}");
    }
    println!(
        "{} seeds, {} violations, {} replayed to the same trace\n\
         {} calls: {} replied, {} failed ({} late, {} refused by a limit, {} by their connection), {} dropped by their callers; {} faults; {} panics of our own code; {} records under TLS; {} steps\n\
         {:.1} s; virtual time {:.0} s, {:.0} times real time",
        sum.runs,
        sum.violations.len(),
        sum.replays,
        sum.calls,
        sum.replied,
        sum.failed,
        sum.late,
        sum.refused,
        sum.cut,
        sum.cancelled,
        sum.faults,
        sum.panics,
        sum.records,
        sum.steps,
        took.as_secs_f64(),
        sum.virtual_time.as_secs_f64(),
        ratio,
    );
    if ratio < options.least_ratio {
        println!("that is less than {} times real time", options.least_ratio);
        return ExitCode::FAILURE;
    }
    if sum.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a seed, perhaps twice; returns how many violations there are by now.
fn work(seed: u64, twice: bool, sum: &Mutex<Sum>) -> usize {
    let bare = simulation::run_bare(seed, false);
    let mut result = simulation::run(seed).and_then(|report| bare.as_ref().map(|_| report).map_err(Clone::clone));
    let mut replayed = false;
    if let (true, Ok(report)) = (twice, &result) {
        replayed = true;
        match simulation::run(seed) {
            Ok(again) if again == *report && simulation::run_bare(seed, false).ok() == bare.ok() => {}
            Ok(again) => {
                let what = format!("I27: not the same run twice: {report:?}, {again:?}");
                result = Err(Violation { seed, what, at: report.elapsed, step: report.steps, bare: false });
            }
            Err(violation) => result = Err(violation),
        }
    }
    let mut sum = sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    sum.replays += u64::from(replayed);
    match result {
        Ok(report) => sum.add(&report),
        Err(violation) => sum.violations.push(violation),
    }
    sum.violations.len()
}

fn one(seed: u64, bare: bool, prints: bool) -> ExitCode {
    let result = match bare {
        true => simulation::run_bare(seed, prints).map(|trace| format!("trace {trace}")),
        false => simulation::run_printing(seed, prints).map(|report| format!("{report:?}")),
    };
    match result {
        Ok(report) => {
            println!("seed {seed}: {report}");
            ExitCode::SUCCESS
        }
        Err(violation) => {
            println!("VIOLATION {violation}");
            ExitCode::FAILURE
        }
    }
}
