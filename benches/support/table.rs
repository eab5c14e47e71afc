//! Every case, several rounds, medians: the table of `docs/benchmarks.md`, and its picture.

use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bench_driver::{MethodName, Report, RunArgs, Transport, facts};

use crate::args::{Client, TableArgs};
use crate::{Failure, plot};

/// Who is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Ours(Client),
    /// One of `benches/peers`, by its name there.
    Peer(String),
}

impl Subject {
    pub(crate) fn name(&self) -> String {
        match self {
            Subject::Ours(client) => client.name(),
            Subject::Peer(name) => name.clone(),
        }
    }
}

/// A case, and what came of each subject's rounds.
pub(crate) struct Group {
    pub(crate) run: RunArgs,
    pub(crate) rows: Vec<(Subject, Vec<Report>)>,
}

/// The subject that others are shares of.
const FLOOR: Subject = Subject::Ours(Client::Floor);
const BASELINE: &str = "tonic";

/// Cases, each with every client that makes sense for it.
fn cases(seconds: f64) -> Vec<(RunArgs, &'static [Client])> {
    use Client::{Blocking, Floor, Reactor, Tokio};
    let echo = |payload, in_flight| RunArgs::echo(payload, in_flight, seconds);
    let mixed = |in_flight| RunArgs { method: MethodName::Mixed, ..echo(200, in_flight) };
    let pinned = |run| RunArgs { pin: true, ..run };
    let unix = |run| RunArgs { transport: Transport::Unix, ..run };
    let over = |connections, run| RunArgs { connections, ..run };
    let all: &[Client] = &[Floor, Reactor, Tokio, Blocking];
    let tasks: &[Client] = &[Floor, Reactor, Tokio];
    vec![
        (echo(32, 1), all),
        (echo(32, 16), all),
        (echo(32, 100), all),
        (echo(32, 1000), all),
        (echo(1 << 10, 1), all),
        (echo(1 << 10, 16), all),
        (echo(1 << 10, 100), all),
        (echo(1 << 10, 1000), all),
        (echo(0, 100), tasks),
        (pinned(echo(32, 1)), all),
        (pinned(echo(32, 100)), tasks),
        (pinned(echo(1 << 10, 100)), tasks),
        (echo(64 << 10, 16), tasks),
        (echo(1 << 20, 1), tasks),
        (echo(1 << 20, 4), tasks),
        (over(4, echo(32, 100)), tasks),
        (over(100, echo(32, 100)), tasks),
        (unix(echo(32, 1)), tasks),
        (unix(echo(32, 100)), tasks),
        (mixed(1), &[Reactor, Tokio]),
        (mixed(100), &[Reactor, Tokio]),
    ]
}

/// Measures, and writes the table; progress goes to standard error.
///
/// # Errors
/// When a measurement fails.
pub fn table(args: &TableArgs) -> Result<(), Failure> {
    let facts = facts();
    let mut cases = cases(args.seconds);
    if let Some(only) = &args.only {
        cases.retain(|(run, _)| run.case().contains(only.as_str()));
    }
    let peers = args.peers.as_deref().map(names).transpose()?.unwrap_or_default();
    let mut groups: Vec<Group> = cases
        .into_iter()
        .map(|(run, clients)| {
            let ours = clients.iter().copied().map(Subject::Ours);
            let rows = ours.chain(peers.iter().cloned().map(Subject::Peer)).map(|subject| (subject, Vec::new()));
            Group { run, rows: rows.collect() }
        })
        .collect();
    let (all, started) = (args.rounds * groups.iter().map(|group| group.rows.len()).sum::<usize>(), Instant::now());
    let mut done = 0;
    for round in 1..=args.rounds {
        for group in &mut groups {
            for (subject, reports) in &mut group.rows {
                let report = measure(args, &group.run, subject)?;
                done += 1;
                let left = started.elapsed().mul_f64((all - done) as f64 / done as f64);
                eprintln!(
                    "{done}/{all}, round {round}: {} {:.0} calls/s; {} left",
                    report.case,
                    report.rate(),
                    minutes(left)
                );
                reports.push(report);
            }
        }
    }
    let mut text = String::new();
    for (what, value) in &facts {
        writeln!(text, "* {what}: {value}")?;
    }
    writeln!(text, "* {} rounds, each with every case once, {} s a case; medians\n", args.rounds, args.seconds)?;
    for group in &groups {
        write_group(&mut text, group)?;
    }
    print!("{text}");
    if let Some(path) = &args.plot {
        plot::draw(path, &groups, &facts)?;
    }
    Ok(())
}

fn minutes(left: Duration) -> String {
    format!("{} min {:02} s", left.as_secs() / 60, left.as_secs() % 60)
}

/// The peers that a program knows.
fn names(program: &Path) -> Result<Vec<String>, Failure> {
    let output = Command::new(program).arg("names").stderr(Stdio::inherit()).output();
    let output = output.map_err(|e| format!("{}: {e}; build it with: bash benches/run build", program.display()))?;
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
}

/// A process for each measurement, so that each starts alike.
fn measure(args: &TableArgs, run: &RunArgs, subject: &Subject) -> Result<Report, Failure> {
    let mut command = match (subject, &args.peers) {
        (Subject::Ours(client), _) => {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["--client", &client.name()]);
            command
        }
        (Subject::Peer(name), Some(peers)) => {
            let mut command = Command::new(peers);
            command.args(["--peer", name]);
            command
        }
        (Subject::Peer(_), None) => return Err("no program of peers".into()),
    };
    let output = command.args(run.to_command_line()).stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("{} {} failed", run.case(), subject.name()).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn write_group(text: &mut String, group: &Group) -> Result<(), Failure> {
    let rate_of = |wanted: &Subject| {
        let row = group.rows.iter().find(|(subject, _)| subject == wanted)?;
        Some(median(&row.1, Report::rate))
    };
    let floor = rate_of(&FLOOR);
    let baseline = rate_of(&Subject::Peer(BASELINE.to_owned()));
    writeln!(text, "### {}\n", group.run.case())?;
    writeln!(
        text,
        "| who | calls/s | least – most | of F | × {BASELINE} | p50 µs | p99 µs | p99.9 µs | CPU µs a call, client + server \
         | MiB, client + server | system calls a call |"
    )?;
    writeln!(text, "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")?;
    for (subject, reports) in &group.rows {
        let of = |f: fn(&Report) -> f64| median(reports, f);
        let rate = of(Report::rate);
        let share = |of: Option<f64>, digits: usize| {
            of.map_or_else(|| "–".to_owned(), |of| format!("{:.*}", digits, rate / of))
        };
        let rates = reports.iter().map(Report::rate);
        let (least, most) = rates.fold((f64::MAX, 0.0_f64), |(least, most), rate| (least.min(rate), most.max(rate)));
        let counted: Vec<f64> = reports.iter().filter_map(Report::system_calls).collect();
        let calls = if counted.is_empty() { "–".to_owned() } else { format!("{:.3}", middle(counted)) };
        // Who sleeps and wakes outside of a reactor does so by system calls that nobody here counts.
        let more = if matches!(subject, Subject::Ours(Client::Tokio | Client::Blocking)) { "+" } else { "" };
        writeln!(
            text,
            "| {} | {rate:.0} | {least:.0} – {most:.0} | {} | {} | {:.1} | {:.1} | {:.1} | {:.2} + {:.2} | {:.1} + {:.1} | {calls}{more} |",
            subject.name(),
            share(floor, 2),
            share(baseline, 1),
            of(|r| r.latency.p50),
            of(|r| r.latency.p99),
            of(|r| r.latency.p999),
            of(|r| r.per_call(r.client.cpu_us)),
            of(|r| r.per_call(r.server.cpu_us)),
            of(|r| r.client.rss_kib as f64 / 1024.0),
            of(|r| r.server.rss_kib as f64 / 1024.0),
        )?;
    }
    writeln!(text)?;
    Ok(())
}

pub(crate) fn median(reports: &[Report], f: impl Fn(&Report) -> f64) -> f64 {
    middle(reports.iter().map(f).collect())
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
