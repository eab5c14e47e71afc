//! Plays calls between this framework and Kitex, in both directions, and prints what came of each.
//!
//! ```text
//!  kitex-v0.15 client ─► testee server          testee client ─► kitex-v0.15 server          and chains through both
//!  kitex-v0.11                                  plays.rs          kitex-v0.11
//! ```

mod cases;
mod plays;
mod tap;

use std::cell::RefCell;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

use clap::Parser;

use crate::cases::{Case, all};
use crate::tap::Tap;

/// Plays all cases with Kitex at the other end, and prints a table. Needs Go; without it, it says so and plays none.
#[derive(Parser)]
#[command(name = "interop", max_term_width = 120)]
struct Args {
    /// Only the cases whose name contains this
    #[arg(long, default_value = "")]
    only: String,
    /// Calls of a mixture; some have ten times as many, some few of them
    #[arg(long, value_name = "N", default_value_t = 2000)]
    calls: u64,
    /// Where the Go programs are, or are built
    #[arg(long, value_name = "DIRECTORY", default_value = "target/interop")]
    programs: PathBuf,
    /// The testee [default: the one beside this program]
    #[arg(long, value_name = "PROGRAM")]
    testee: Option<PathBuf>,
    /// Writes what both ends said into this file: a request and a reply of each shape in each case, in hex
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

/// The programs at the two ends.
pub(crate) struct Ends {
    pub(crate) kitex: PathBuf,
    pub(crate) testee: PathBuf,
    pub(crate) calls: u64,
    /// Between the ends of the case that is played, if it is recorded.
    taps: Option<RefCell<Vec<Tap>>>,
}

impl Ends {
    /// Whether what is said is recorded.
    pub(crate) fn is_tapped(&self) -> bool {
        self.taps.is_some()
    }

    /// Where the client of a case calls a server.
    pub(crate) fn meet(&self, server: &str) -> Result<String, Failure> {
        let Some(taps) = &self.taps else { return Ok(server.to_owned()) };
        let tap = Tap::before(server)?;
        let url = tap.url.clone();
        taps.borrow_mut().push(tap);
        Ok(url)
    }
}

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let args = Args::parse();
    if Command::new("go").arg("version").output().is_err() {
        println!("== NO GO HERE: no case with Kitex was played. CONTRIBUTING.md says how to install it.");
        return ExitCode::SUCCESS;
    }
    match run(&args) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            eprintln!("interop: {failed} cases failed");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("interop: {error}");
            ExitCode::FAILURE
        }
    }
}

/// How many cases failed.
fn run(args: &Args) -> Result<usize, Failure> {
    let build = Command::new("bash").arg("interop/kitex/build.sh").arg(&args.programs).status()?;
    if !build.success() {
        return Err("the Go programs cannot be built: run this where the repository is, with a network".into());
    }
    let testee = match &args.testee {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("testee"),
    };
    if !testee.exists() {
        return Err(format!("{} is missing: cargo build --bin testee", testee.display()).into());
    }
    println!("| case | Kitex | direction | options | outcome | s |\n| --- | --- | --- | --- | --- | ---: |");
    let (mut played, mut failed, mut said) = (0, 0, String::new());
    for release in ["v0.15", "v0.11"] {
        let ends = Ends {
            kitex: args.programs.join(format!("kitex-{release}")),
            testee: testee.clone(),
            calls: args.calls,
            taps: args.record.as_ref().map(|_| RefCell::default()),
        };
        for case in all().iter().filter(|case| case.name().contains(&args.only)) {
            failed += usize::from(!play(case, release, &ends));
            played += 1;
            if let Some(taps) = &ends.taps {
                let _ = writeln!(said, "== {release} | {} | {} | {}", case.name(), case.direction(), case.options());
                taps.take().iter().for_each(|tap| said += &tap.pairs());
            }
        }
    }
    if let Some(file) = args.record.as_ref().filter(|_| failed == 0) {
        std::fs::write(file, said).map_err(|e| format!("--record {}: {e}; name a writable file", file.display()))?;
    }
    match played {
        0 => Err(format!("--only {}: no case has such a name", args.only).into()),
        _ => Ok(failed),
    }
}

/// Plays one case and prints its row; whether it went well.
fn play(case: &Case, release: &str, ends: &Ends) -> bool {
    let begun = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| case.play(ends))).unwrap_or_else(|_| Err("it panicked".into()));
    let (good, text) = match outcome {
        Ok(text) => (true, text),
        Err(error) => (false, format!("**FAILED**: {error}")),
    };
    let [name, direction, options] = [case.name(), case.direction(), case.options()];
    println!("| {name} | {release} | {direction} | {options} | {text} | {:.1} |", begun.elapsed().as_secs_f64());
    good
}
