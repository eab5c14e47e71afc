//! One measurement, from the server's start to its report.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::server::ServerProcess;
use crate::stage::{Part, Stage};
use crate::{Counts, Failure, Latency, Report, RunArgs, machine};

/// How long calls may take to come to their end after the measurement.
const LINGER: Duration = Duration::from_secs(10);

/// What is held while the loops run.
pub trait Caller {
    /// What the client's side has used up to now.
    ///
    /// # Errors
    /// When the system does not tell.
    fn counts(&self) -> Result<Counts, Failure> {
        Counts::now(None)
    }
}

/// Starts the server as `program server` with the arguments `server`, then the loops by `start`, and measures.
///
/// # Errors
/// When a side cannot start, a call fails, or a reply is wrong.
pub fn run<C: Caller>(
    args: &RunArgs,
    name: &str,
    server: &[String],
    start: impl FnOnce(&str, &Arc<Stage>) -> Result<C, Failure>,
) -> Result<Report, Failure> {
    if args.in_flight == 0 || args.connections == 0 || args.in_flight < args.connections {
        return Err("each connection needs a call in flight, and there must be one".into());
    }
    let mut server = ServerProcess::start(args, server)?;
    if args.pin {
        machine::pin(1)?; // before any thread starts
    }
    let stage = Stage::new(args.in_flight, args.calls, args.rate)?;
    let caller = start(&server.url, &stage)?;
    let case = format!("{} {name}", args.case());
    if let Some(calls) = args.calls {
        if !stage.wait(Duration::from_secs(600)) {
            return Err("the calls did not end in ten minutes".into());
        }
        stage.check()?;
        let (client, server) = (caller.counts()?, server.counts()?);
        return Ok(Report { case, calls, client, server, ..Report::default() });
    }
    pass(&stage, args.warm_up)?;
    let before = (caller.counts()?, server.counts()?);
    stage.enter(Part::Measure);
    let start = Instant::now();
    pass(&stage, args.seconds)?;
    let seconds = start.elapsed().as_secs_f64();
    stage.enter(Part::Stop);
    let after = (caller.counts()?, server.counts()?);
    if !stage.wait(LINGER) {
        return Err("some calls did not come to their end".into());
    }
    stage.check()?;
    let latencies = stage.latencies()?;
    Ok(Report {
        case,
        calls: latencies.len(),
        seconds,
        latency: Latency::of(&latencies),
        client: after.0.since(&before.0),
        server: after.1.since(&before.1),
    })
}

/// Lets time pass; ends early when a loop fails.
fn pass(stage: &Stage, seconds: f64) -> Result<(), Failure> {
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        stage.check()?;
        thread::sleep(left.min(Duration::from_millis(100))); // of the span that is measured
    }
    stage.check()
}
