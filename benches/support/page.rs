//! The results as markdown.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use bench_driver::{Report, RunArgs};

use crate::Failure;
use crate::args::Client;
use crate::cases::Pace;
use crate::subject::{BASELINE, Subject};
use crate::table::{Group, Row};

/// Between these lines of a page the results stand.
const MARKS: [&str; 2] = ["<!-- results: written by benches/run -->\n", "<!-- end of the results -->\n"];

/// Payloads and calls in flight of the overview.
const OVERVIEW: ([usize; 2], [usize; 4]) = ([32, 1 << 10], [1, 16, 100, 1000]);

/// Puts the results into a page, in place of the last ones.
///
/// # Errors
/// When the page has no place for them.
pub(crate) fn write(page: &Path, results: &str) -> Result<(), Failure> {
    let old = fs::read_to_string(page).map_err(|e| format!("{}: {e}", page.display()))?;
    let parts = old.split_once(MARKS[0]).and_then(|(head, rest)| Some((head, rest.split_once(MARKS[1])?.1)));
    let (head, foot) = parts.ok_or_else(|| format!("{} has no place for results", page.display()))?;
    Ok(fs::write(page, format!("{head}{}\n{results}{}{foot}", MARKS[0], MARKS[1]))?)
}

pub(crate) fn text(groups: &[Group], facts: &[(&str, String)], rounds: usize, seconds: f64) -> String {
    let mut text = String::from("![Throughput and p99 against calls in flight](benchmarks.svg)\n\n");
    for (what, value) in facts {
        line(&mut text, format_args!("* {what}: {value}"));
    }
    line(&mut text, format_args!("* {rounds} rounds, each with every case once, {seconds} s a case; medians\n"));
    overview(&mut text, groups);
    groups.iter().for_each(|group| one_case(&mut text, group));
    text
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a string takes everything");
}

/// Thousands of calls a second of the plain cases: a row a subject.
fn overview(text: &mut String, groups: &[Group]) {
    let (payloads, in_flight) = OVERVIEW;
    let plain = |payload: usize| in_flight.map(|in_flight| RunArgs::echo(payload, in_flight, 1.0).case());
    let columns = payloads.map(plain).concat();
    let shown: Vec<&Group> =
        columns.iter().filter_map(|name| groups.iter().find(|group| group.case.name() == *name)).collect();
    let mut subjects: Vec<&Subject> = Vec::new();
    for row in shown.iter().flat_map(|group| &group.rows) {
        if !subjects.contains(&&row.subject) {
            subjects.push(&row.subject);
        }
    }
    if subjects.is_empty() {
        return;
    }
    let names: Vec<String> = shown.iter().map(|group| short(&group.case.run)).collect();
    line(text, format_args!("Thousands of calls a second, one TCP connection, closed loop, not pinned:\n"));
    line(text, format_args!("| who | {} |", names.join(" | ")));
    line(text, format_args!("| --- |{}", " ---: |".repeat(names.len())));
    for subject in subjects {
        let figure = |group: &&Group| {
            let row = group.rows.iter().find(|row| row.subject == *subject);
            row.map_or_else(|| "–".to_owned(), |row| format!("{:.1}", row.median(Report::rate) / 1000.0))
        };
        let figures: Vec<String> = shown.iter().map(figure).collect();
        line(text, format_args!("| {} | {} |", subject.name(), figures.join(" | ")));
    }
    text.push('\n');
}

fn short(run: &RunArgs) -> String {
    let size = if run.payload < 1 << 10 { format!("{} B", run.payload) } else { format!("{} KiB", run.payload >> 10) };
    format!("{size} × {}", run.in_flight)
}

fn one_case(text: &mut String, group: &Group) {
    let rate = |row: &Row| row.median(Report::rate);
    let rate_of = |wanted: &dyn Fn(&Subject) -> bool| {
        group.rows.iter().filter(|row| wanted(&row.subject)).map(rate).reduce(f64::max)
    };
    // In an open loop everybody makes as many calls as it is told to.
    let closed = |rate: Option<f64>| rate.filter(|_| group.case.pace == Pace::Closed);
    let floor = closed(rate_of(&|subject| subject.is(Client::Floor)));
    let tokio_floor = closed(rate_of(&|subject| subject.is(Client::FloorTokio)));
    let baseline = closed(rate_of(&Subject::is_baseline));
    let rival = closed(rate_of(&Subject::is_rival));
    line(text, format_args!("### {}\n", group.case.name()));
    line(
        text,
        format_args!(
            "| who | calls/s | least – most | of F | of T | × {BASELINE} | × peer | p50 µs | p99 µs | p99.9 µs \
             | CPU µs a call, client + server | MiB, client + server | system calls a call |"
        ),
    );
    line(text, format_args!("| --- |{}", " ---: |".repeat(12)));
    for row in group.rows.iter().filter(|row| !row.reports.is_empty()) {
        let calls = rate(row);
        let share = |of: Option<f64>| of.map_or_else(|| "–".to_owned(), |of| format!("{:.2}", calls / of));
        let rates = row.reports.iter().map(Report::rate);
        let (least, most) = rates.fold((f64::MAX, 0.0_f64), |(least, most), rate| (least.min(rate), most.max(rate)));
        let counted = row.reports.iter().all(|report| report.system_calls().is_some());
        let system_calls = row.median(|report| report.system_calls().unwrap_or_default());
        let system_calls = if counted { format!("{system_calls:.3}") } else { "–".to_owned() };
        // Who sleeps and wakes outside of a reactor does so by system calls that nobody here counts.
        let more = if matches!(&row.subject, Subject::Ours(client) if client.is_foreign()) { "+" } else { "" };
        line(
            text,
            format_args!(
                "| {} | {calls:.0} | {least:.0} – {most:.0} | {} | {} | {} | {} | {:.1} | {:.1} | {:.1} | {:.2} + {:.2} \
                 | {:.1} + {:.1} | {system_calls}{more} |",
                row.subject.name(),
                share(floor),
                share(tokio_floor),
                share(baseline),
                share(rival),
                row.median(|r| r.latency.p50),
                row.median(|r| r.latency.p99),
                row.median(|r| r.latency.p999),
                row.median(|r| r.per_call(r.client.cpu_us)),
                row.median(|r| r.per_call(r.server.cpu_us)),
                row.median(|r| r.client.rss_kib as f64 / 1024.0),
                row.median(|r| r.server.rss_kib as f64 / 1024.0),
            ),
        );
    }
    text.push('\n');
    for row in group.rows.iter().filter(|row| !row.failures.is_empty()) {
        let (times, first) = (row.failures.len(), row.failures[0].replace('\n', " "));
        line(text, format_args!("`{}` failed in {times} of the rounds, first with: {first}\n", row.subject.name()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_take_the_place_of_the_last_ones() {
        let page = std::env::temp_dir().join(format!("page-{}.md", std::process::id()));
        fs::write(&page, format!("above\n{}old\n{}below\n", MARKS[0], MARKS[1])).expect("a page");
        for _ in 0..2 {
            write(&page, "new\n").expect("a place for results");
        }
        let text = fs::read_to_string(&page).expect("the page");
        fs::remove_file(&page).expect("the page");
        assert_eq!(text, format!("above\n{}\nnew\n{}below\n", MARKS[0], MARKS[1]));
    }
}
