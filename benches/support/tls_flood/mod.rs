//! What a flood of handshakes leaves of the live traffic.
//!
//! ```text
//!  core 0   server, one reactor
//!  core 1   this process: calls at fixed times, and newcomers     flooder, nice 19
//! ```
//!
//! The question is what the *server* does with its core, so nobody else may have it, and nobody but the server may hold up the calls.
//! So they are measured in two ways:
//!
//! * *At fixed times*, as many as keep the server's core half busy, and echoes at that: whether a server that has time to spare still
//!   answers in time. A call counts if it is answered in time.
//! * *One after another* on each connection, each with some work at the server, so that it has no time to spare while the caller has: every
//!   microsecond of a handshake is one that calls do not have. Each call counts. That is the harder way: without rations a
//!   server loses nearly all of its throughput.
//!
//! In both the flooder has what the caller leaves of the other core.

mod flooder;
mod live;
mod server;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use bench_driver::{Counts, facts};
use clap::{Args, ValueEnum};
use rpc_transport::{Endpoint, LengthField, LengthWidth};

pub use self::flooder::Flood;
use self::live::{CONNECTIONS, Live, Slice, WELCOME};
use crate::{Failure, page};

const SERVER_CORE: usize = 0;
const CLIENT_CORE: usize = 1;

/// A call is answered in time within this.
const IN_TIME: Duration = Duration::from_millis(50);

/// A flood builds up for so long before anything counts.
const LEAD: Duration = Duration::from_millis(500);

/// How live traffic comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Traffic {
    /// At fixed times, as many as keep the server's core as busy as `--load` says.
    Timed,
    /// One call after another on each connection, each of which costs the server `--work`.
    InTurn,
}

impl Traffic {
    const ALL: [Traffic; 2] = [Traffic::InTurn, Traffic::Timed];
}

/// Floods of handshakes beside live traffic.
#[derive(Clone, Debug, Args)]
pub struct TlsFloodArgs {
    /// Rounds; each has every kind of flood once, beside as much time without it.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Measured seconds of each in a round.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Only live traffic of this kind.
    #[arg(long, value_enum)]
    traffic: Option<Traffic>,
    /// How busy calls at fixed times keep the server's core without a flood.
    #[arg(long, default_value_t = 0.5)]
    load: f64,
    /// Microseconds that each call of those one after another takes in its handler: so many that the caller's core is not the busier one.
    #[arg(long, default_value_t = 20)]
    work: u64,
    /// Only this kind. May be said more than once.
    #[arg(long, value_enum)]
    only: Vec<Flood>,
    /// The flooder's, beside a caller of 0.
    #[arg(long, default_value_t = 19)]
    nice: u8,
    /// Fails if a flood leaves less than this share of the calls, in percent.
    #[arg(long)]
    at_least: Option<f64>,
    /// Puts the results into this page, in place of the last ones, instead of printing them.
    #[arg(long)]
    into: Option<PathBuf>,
    /// Is the server: started by the other process.
    #[arg(long, hide = true)]
    serve: bool,
    /// Floods this server: started by the other process.
    #[arg(long, hide = true)]
    flood: Option<SocketAddr>,
}

fn framing() -> LengthField {
    LengthField::new(LengthWidth::U32)
}

/// Measures every kind of flood, and prints the result as markdown.
///
/// # Errors
/// When a process cannot start or be bound to its core, or a flood leaves too little.
pub fn tls_flood(args: &TlsFloodArgs) -> Result<(), Failure> {
    match (args.serve, args.flood) {
        (true, _) => server::serve(Duration::from_micros(args.work)),
        (_, Some(address)) => flooder::flood(*args.only.first().ok_or("of which kind?")?, address),
        _ => measure(args),
    }
}

/// Another process of this program, which answers lines with lines.
struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(mut command: Command, words: &[&str]) -> Result<Process, Failure> {
        command.arg("tls-flood").args(words).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("its pipes are missing".into());
        };
        Ok(Process { child, input, output: BufReader::new(output) })
    }

    fn line(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        match self.output.read_line(&mut line)? {
            0 => Err("a process of the measurement ended early".into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    fn tell(&mut self, what: &str) -> Result<(), Failure> {
        Ok(writeln!(self.input, "{what}")?)
    }

    /// A number is the answer.
    fn ask(&mut self, what: &str) -> Result<f64, Failure> {
        self.tell(what)?;
        Ok(self.line()?.parse()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it has nothing to put in order
        let _ = self.child.wait();
    }
}

/// A slice, and what it cost.
struct Measured {
    slice: Slice,
    /// Shares of a core.
    server: f64,
    client: f64,
    /// The flood's connections, a second.
    flood: f64,
}

impl Measured {
    /// What is compared: the share of the calls that were answered in time, or how many calls there were.
    fn of_calls(&self, traffic: Traffic) -> f64 {
        match traffic {
            Traffic::Timed => self.in_time(),
            Traffic::InTurn => self.slice.due as f64,
        }
    }

    /// The share of the calls that were answered in time.
    fn in_time(&self) -> f64 {
        let in_time = self.slice.calls.iter().filter(|took| **took <= IN_TIME).count();
        in_time as f64 / self.slice.due.max(1) as f64
    }

    fn came_in(&self) -> f64 {
        self.slice.newcomers.len() as f64 / self.slice.begun.max(1) as f64
    }
}

/// Everybody who takes part.
struct Scene {
    server: Process,
    address: SocketAddr,
    live: Live,
    seconds: f64,
}

impl Scene {
    fn set(args: &TlsFloodArgs, traffic: Traffic) -> Result<Scene, Failure> {
        let work = if traffic == Traffic::InTurn { args.work } else { 0 };
        let words = ["--serve", "--work", &work.to_string()];
        let mut server = Process::start(Command::new(std::env::current_exe()?), &words)?;
        let said = server.line()?;
        let (address, certificate) = said.split_once(' ').ok_or_else(|| format!("the server said {said:?}"))?;
        let hex = |at: usize| u8::from_str_radix(certificate.get(at..at + 2).unwrap_or_default(), 16);
        let certificate = (0..certificate.len()).step_by(2).map(hex).collect::<Result<_, _>>()?;
        bench_driver::pin(CLIENT_CORE)?;
        let address = address.parse()?;
        let live = Live::start(&Endpoint::Tcp(address), certificate, traffic == Traffic::InTurn)?;
        Ok(Scene { server, address, live, seconds: args.seconds })
    }

    /// Shares of a core that the server and this process have used while `f` ran.
    fn busy<R>(&mut self, f: impl FnOnce(&mut Scene) -> R) -> Result<(R, f64, f64), Failure> {
        let (before, own, begun) = (self.server.ask("")?, Counts::now(None)?.cpu_us, Instant::now());
        let result = f(self);
        let passed = begun.elapsed().as_secs_f64() * 1e6;
        let (server, own) = (self.server.ask("")? - before, Counts::now(None)?.cpu_us - own);
        Ok((result, server / passed, own as f64 / passed))
    }

    /// How many calls a second keep the server so busy. The fewer at a time, the more each costs: so it is found by trying.
    fn rate_for(&mut self, load: f64) -> Result<f64, Failure> {
        let mut rate = 10_000.0;
        for _ in 0..6 {
            self.live.set_rate(rate);
            std::thread::sleep(LEAD); // the flood has reached its height by then // what the last rate has left
            let ((), server, _) = self.busy(|_| std::thread::sleep(Duration::from_secs(1)))?; // as long as it is measured
            rate *= (load / server.max(0.01)).clamp(0.3, 3.0);
        }
        self.live.set_rate(rate);
        Ok(rate)
    }

    fn slice(&mut self, flooder: Option<&mut Process>) -> Result<Measured, Failure> {
        let mut flooder = flooder;
        if let Some(flooder) = &mut flooder {
            flooder.tell("go")?;
        }
        std::thread::sleep(LEAD); // the flood has reached its height by then
        let (begun, seconds) = (Instant::now(), Duration::from_secs_f64(self.seconds));
        self.live.begin();
        let ((), server, client) = self.busy(|_| std::thread::sleep(seconds))?; // the slice
        self.live.end();
        std::thread::sleep(WELCOME + IN_TIME); // what has begun in it ends under the same flood
        let flood = match &mut flooder {
            None => 0.0,
            Some(flooder) => flooder.ask("stop")? / (LEAD + begun.elapsed()).as_secs_f64(),
        };
        Ok(Measured { slice: self.live.take()?, server, client, flood })
    }
}

fn measure(args: &TlsFloodArgs) -> Result<(), Failure> {
    if std::thread::available_parallelism()?.get() < 2 {
        return Err("it takes a core for the server and another for who floods".into());
    }
    let mut text = String::new();
    for (what, value) in facts() {
        let _ = writeln!(text, "* {what}: {value}");
    }
    let mut least = f64::INFINITY;
    let traffic = args.traffic.map_or(Traffic::ALL.to_vec(), |one| vec![one]);
    for traffic in traffic {
        least = least.min(table(args, traffic, &mut text)?);
    }
    match &args.into {
        Some(page) => page::write(page, &text)?,
        None => print!("{text}"),
    }
    match args.at_least.filter(|wanted| least * 100.0 < *wanted) {
        Some(wanted) => Err(format!("a flood leaves {:.1} %, not {wanted} %", 100.0 * least).into()),
        None => Ok(()),
    }
}

/// A row for each kind of flood; the least that one leaves.
fn table(args: &TlsFloodArgs, traffic: Traffic, text: &mut String) -> Result<f64, Failure> {
    let mut scene = Scene::set(args, traffic)?;
    let rate = match traffic {
        Traffic::Timed => Some(scene.rate_for(args.load)?),
        Traffic::InTurn => None,
    };
    let kinds = if args.only.is_empty() { Flood::ALL.to_vec() } else { args.only.clone() };
    let mut flooders = Vec::new();
    for kind in &kinds {
        let mut command = Command::new("nice");
        command.args(["-n", &args.nice.to_string()]).arg(std::env::current_exe()?);
        let words = ["--only", &kind.name(), "--flood", &scene.address.to_string()];
        flooders.push((*kind, Process::start(command, &words)?, Vec::new(), Vec::new()));
    }
    for _ in 0..args.rounds {
        for (_, flooder, without, with) in &mut flooders {
            without.push(scene.slice(None)?);
            with.push(scene.slice(Some(flooder))?);
        }
    }
    let calls = match rate {
        Some(rate) => format!(
            "**At fixed times**, {rate:.0} calls a second of 64 B, which keep the server's core half busy; kept is what was answered in time"
        ),
        None => {
            let all: Vec<f64> =
                flooders.iter().flat_map(|(_, _, without, _)| without).map(|one| one.slice.due as f64).collect();
            let rate = median(all) / args.seconds;
            format!(
                "**One after another** on each connection, {rate:.0} calls a second of 64 B and {} µs of work; kept is throughput",
                args.work
            )
        }
    };
    let _ = writeln!(
        text,
        "\n{calls}. {CONNECTIONS} connections; {} rounds, each with every kind of flood for {} s and as long without; medians.\n",
        args.rounds, args.seconds
    );
    let _ = writeln!(
        text,
        "| flood | its connections/s | live calls kept, % | least | p50, p99 without, ms | p50, p99 with, ms | server's core busy, \
         without – with, % | newcomers that come in, without – with, % | p50, p99 without, ms | p50, p99 with, ms |"
    );
    let _ = writeln!(text, "| --- |{}", " ---: |".repeat(9));
    let mut least_of_all = f64::INFINITY;
    for (kind, _, without, with) in &flooders {
        let kept: Vec<f64> = without
            .iter()
            .zip(with)
            .map(|(without, with)| with.of_calls(traffic) / without.of_calls(traffic))
            .collect();
        let least = kept.iter().copied().fold(f64::INFINITY, f64::min);
        least_of_all = least_of_all.min(median(kept.clone()));
        let of = |all: &[Measured], figure: fn(&Measured) -> f64| median(all.iter().map(figure).collect());
        let percent = |figure: fn(&Measured) -> f64| {
            format!("{:.0} – {:.0}", 100.0 * of(without, figure), 100.0 * of(with, figure))
        };
        let _ = writeln!(
            text,
            "| {} | {:.0} | {:.1} | {:.1} | {} | {} | {} | {} | {} | {} |",
            kind.title(),
            of(with, |measured| measured.flood),
            100.0 * median(kept),
            100.0 * least,
            times(without, |slice| &slice.calls),
            times(with, |slice| &slice.calls),
            percent(|measured| measured.server),
            percent(Measured::came_in),
            times(without, |slice| &slice.newcomers),
            times(with, |slice| &slice.newcomers),
        );
        eprintln!(
            "{}: the caller has {:.0} % of its core; {:?}",
            kind.name(),
            100.0 * of(with, |measured| measured.client),
            turned_away(with)
        );
    }
    Ok(least_of_all)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// p50 and p99 over all slices, in milliseconds.
fn times(all: &[Measured], of: fn(&Slice) -> &Vec<Duration>) -> String {
    let mut times: Vec<Duration> = all.iter().flat_map(|measured| of(&measured.slice)).copied().collect();
    times.sort();
    let at = |share: f64| {
        let time = times.get((share * times.len() as f64) as usize)?;
        Some(format!("{:.1}", 1e3 * time.as_secs_f64()))
    };
    [0.5, 0.99].map(|share| at(share).unwrap_or_else(|| "–".to_owned())).join(", ")
}

fn turned_away(all: &[Measured]) -> BTreeMap<String, u64> {
    let mut sum = BTreeMap::new();
    for (reason, times) in all.iter().flat_map(|measured| &measured.slice.turned_away) {
        *sum.entry(reason.clone()).or_default() += times;
    }
    sum
}
