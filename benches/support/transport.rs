//! The transport alone beside others that move bytes: an echo, and plaintext HTTP.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use bench_driver::{Report, RunArgs, facts};

use crate::args::{Speaks, TransportArgs};
use crate::cases::Case;
use crate::subject::Subject;
use crate::table::{Group, Row, measure};
use crate::{Failure, page, versions};

/// Connections, each with one exchange at a time.
const CONNECTIONS: [usize; 3] = [1, 64, 1000];

/// What is exchanged, with how many bytes if that is to be said.
const KINDS: [(Speaks, usize, &str); 3] = [
    (Speaks::Echo, 64, "Echo of 64 bytes"),
    (Speaks::Echo, 4096, "Echo of 4 KiB"),
    (Speaks::Http, 0, "Plaintext HTTP/1.1"),
];

/// What the others are multiples of.
const OURS: &str = "ours";

/// Measures everybody in turn, and writes it as markdown.
///
/// # Errors
/// When a measurement fails, or the page has no place for the results.
pub fn transport(args: &TransportArgs) -> Result<(), Failure> {
    let (mut groups, mut titles) = (Vec::new(), Vec::new());
    for (speaks, payload, title) in KINDS {
        for connections in CONNECTIONS {
            let run = RunArgs { connections, ..RunArgs::echo(payload, connections, args.seconds) };
            let rows = servers(&args.peers, speaks)?.into_iter().map(Row::new).collect();
            groups.push(Group { case: Case::closed(run, &[]), rows });
            titles.push(format!("{title}, {connections} connections"));
        }
    }
    measure(args.rounds, &mut groups)?;
    let mut text = String::new();
    for (what, value) in facts().into_iter().chain([("others", versions::of_peers())]) {
        let _ = writeln!(text, "* {what}: {value}");
    }
    let _ = writeln!(text, "* {} rounds, each with everybody once, {} s each; medians\n", args.rounds, args.seconds);
    groups.iter().zip(&titles).for_each(|(group, title)| one_case(&mut text, group, title));
    match &args.into {
        Some(page) => page::write(page, &text),
        None => {
            print!("{text}");
            Ok(())
        }
    }
}

/// The same client at each server.
fn servers(peers: &[PathBuf], speaks: Speaks) -> Result<Vec<Subject>, Failure> {
    let me = std::env::current_exe()?;
    let words = |more: Option<[String; 2]>| {
        ["bytes".to_owned(), "--speaks".to_owned(), speaks.name()].into_iter().chain(more.into_iter().flatten())
    };
    let one = ["--server-reactors".to_owned(), "1".to_owned()];
    let mut all =
        vec![Subject::program(OURS, &me, words(None)), Subject::program("ours, one reactor", &me, words(Some(one)))];
    for program in peers {
        for name in names(program)? {
            let server = format!("{} --peer {name} --speaks {}", program.display(), speaks.name());
            all.push(Subject::program(&name, &me, words(Some(["--server".to_owned(), server]))));
        }
    }
    Ok(all)
}

/// Who only serves, of those that a program knows.
fn names(program: &Path) -> Result<Vec<String>, Failure> {
    let output = Command::new(program).arg("transports").output();
    let output = output.map_err(|e| format!("{}: {e}; build it with: bash benches/run build", program.display()))?;
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
}

fn one_case(text: &mut String, group: &Group, title: &str) {
    let ours = group.rows.iter().find(|row| row.subject.name() == OURS);
    let _ = writeln!(text, "{title}:\n");
    let _ = writeln!(
        text,
        "| server | exchanges/s | least – most | × {OURS} | p50 µs | p99 µs | CPU µs of the server for one | × |"
    );
    let _ = writeln!(text, "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let cpu: fn(&Report) -> f64 = |report| report.per_call(report.server.cpu_us);
    for row in &group.rows {
        if let Some(failure) = row.failures.first() {
            let _ = writeln!(text, "| {} | – ({failure}) | | | | | | |", row.subject.name());
            continue;
        }
        let of = |figure: fn(&Report) -> f64| row.median(figure) / ours.map_or(f64::NAN, |ours| ours.median(figure));
        let rates = row.reports.iter().map(Report::rate);
        let (least, most) = rates.fold((f64::MAX, 0.0_f64), |(least, most), rate| (least.min(rate), most.max(rate)));
        let _ = writeln!(
            text,
            "| {} | {:.0} | {least:.0} – {most:.0} | {:.2} | {:.0} | {:.0} | {:.2} | {:.2} |",
            row.subject.name(),
            row.median(Report::rate),
            of(Report::rate),
            row.median(|report| report.latency.p50),
            row.median(|report| report.latency.p99),
            row.median(cpu),
            of(cpu),
        );
    }
    let _ = writeln!(text);
}
