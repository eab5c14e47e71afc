//! Kitex and ours in every pairing of client and server.

use std::fmt::Write as _;
use std::path::Path;

use bench_driver::{Report, RunArgs, facts};

use crate::args::{Client, FleetArgs};
use crate::cases::Case;
use crate::subject::Subject;
use crate::table::{Group, Row, measure};
use crate::{Failure, page, versions};

const IN_FLIGHT: [usize; 3] = [1, 100, 1000];
const PAYLOAD: usize = 1 << 10;

/// How calls share connections: as Kitex's program in `benches/peers/go` has it, and in words.
#[derive(Clone, Copy)]
struct Mode {
    peer: &'static str,
    multiplexed: bool,
    words: &'static str,
}

const MODES: [Mode; 2] = [
    Mode { peer: "kitex-mux", multiplexed: true, words: "one multiplexed connection" },
    Mode { peer: "kitex-pool", multiplexed: false, words: "a connection for each call under way" },
];

/// What the others are multiples of.
const BASELINE: &str = "Kitex → Kitex";

/// Measures everything in turn, and writes it as markdown.
///
/// # Errors
/// When a measurement fails, or the page has no place for the results.
pub fn fleet(args: &FleetArgs) -> Result<(), Failure> {
    let pairs = MODES.iter().flat_map(|mode| IN_FLIGHT.map(|in_flight| (*mode, in_flight)));
    let mut groups = Vec::new();
    for (mode, in_flight) in pairs.clone() {
        let connections = if mode.multiplexed { 1 } else { in_flight };
        let run = RunArgs { connections, ..RunArgs::echo(PAYLOAD, in_flight, args.seconds) };
        let rows = pairings(&args.kitex, mode)?.into_iter().map(Row::new).collect();
        groups.push(Group { case: Case::closed(run, &[]), rows });
    }
    measure(args.rounds, &mut groups)?;
    if let Some(failure) = groups.iter().flat_map(|group| &group.rows).find_map(|row| row.failures.first()) {
        return Err(failure.clone().into());
    }
    let mut text = String::new();
    for (what, value) in facts().into_iter().chain([("other frameworks", versions::of_peers())]) {
        let _ = writeln!(text, "* {what}: {value}");
    }
    let (rounds, seconds) = (args.rounds, args.seconds);
    let _ = writeln!(text, "* {rounds} rounds, each with every pair once, {seconds} s each; medians\n");
    for (group, (mode, in_flight)) in groups.iter().zip(pairs) {
        one_case(&mut text, group, &format!("{PAYLOAD} bytes, {in_flight} in flight, {}", mode.words));
    }
    match &args.into {
        Some(page) => page::write(page, &text),
        None => {
            print!("{text}");
            Ok(())
        }
    }
}

/// Each end is Kitex's or ours.
fn pairings(kitex: &Path, mode: Mode) -> Result<Vec<Subject>, Failure> {
    let me = std::env::current_exe()?;
    let (ours, go) = (me.display(), kitex.display());
    let of_kitex = format!("--peer {}", mode.peer);
    let at_kitex = ["--server".to_owned(), format!("{go} {of_kitex}")];
    let of_kitex = || of_kitex.split(' ').map(str::to_owned);
    // Of more connections than one each core has its share, as in a process that serves, too.
    let reactors = if mode.multiplexed { 1 } else { std::thread::available_parallelism()?.get() };
    let of_ours = |client: Client, reactors: usize| {
        let order = (!mode.multiplexed).then(|| "--ping-pong".to_owned());
        ["--client-reactors".to_owned(), reactors.to_string(), "--client".to_owned(), client.name()]
            .into_iter()
            .chain(order)
    };
    let mut all = vec![
        Subject::program(BASELINE, kitex, of_kitex()),
        Subject::program("Kitex with header → Kitex", kitex, of_kitex().chain(["--header".to_owned()])),
        Subject::program("Kitex → ours", kitex, of_kitex().chain(["--server".to_owned(), ours.to_string()])),
        Subject::program("ours → Kitex", &me, of_ours(Client::Reactor, reactors).chain(at_kitex.clone())),
    ];
    if reactors > 1 {
        let one = of_ours(Client::Reactor, 1).chain(at_kitex.clone());
        all.push(Subject::program("ours, one reactor → Kitex", &me, one));
    }
    if Client::TokioHosted.is_built() {
        all.push(Subject::program(
            "ours on tokio → Kitex",
            &me,
            of_ours(Client::TokioHosted, reactors).chain(at_kitex),
        ));
    }
    all.push(Subject::program("ours → ours", &me, of_ours(Client::Reactor, reactors)));
    Ok(all)
}

fn one_case(text: &mut String, group: &Group, title: &str) {
    let baseline = group.rows.iter().find(|row| row.subject.name() == BASELINE);
    let of =
        |row: &Row, figure: fn(&Report) -> f64| baseline.map_or(0.0, |base| row.median(figure) / base.median(figure));
    let _ = writeln!(text, "{title}:\n");
    let _ = writeln!(
        text,
        "| client → server | calls/s | least – most | × {BASELINE} | p50 µs | × | p99 µs | CPU µs a call, client + server |"
    );
    let _ = writeln!(text, "| --- |{}", " ---: |".repeat(7));
    for row in &group.rows {
        let rates = row.reports.iter().map(Report::rate);
        let (least, most) = rates.fold((f64::MAX, 0.0_f64), |(least, most), rate| (least.min(rate), most.max(rate)));
        let p50: fn(&Report) -> f64 = |report| report.latency.p50;
        let _ = writeln!(
            text,
            "| {} | {:.0} | {least:.0} – {most:.0} | {:.2} | {:.0} | {:.2} | {:.0} | {:.1} + {:.1} |",
            row.subject.name(),
            row.median(Report::rate),
            of(row, Report::rate),
            row.median(p50),
            of(row, p50),
            row.median(|report| report.latency.p99),
            row.median(|report| report.per_call(report.client.cpu_us)),
            row.median(|report| report.per_call(report.server.cpu_us)),
        );
    }
    text.push('\n');
}
