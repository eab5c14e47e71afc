//! The gate: what a call costs in instructions must not grow unnoticed.
//!
//! The accepted figures stand in a file that is changed on purpose, by `load gate --accept`, so that a change of them is seen in review.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use bench_driver::{Failure, RunArgs, facts};

use crate::args::{Client, GateArgs, LoadArgs};
use crate::instructions::count;

/// How much more than accepted a figure may be, in hundredths: they repeat within one.
const TOLERATED: u64 = 2;

/// Payload, calls in flight, and calls of the shorter run.
const CASES: [(usize, usize, u64); 4] = [(32, 1, 2_000), (32, 100, 20_000), (32, 1000, 60_000), (1024, 100, 10_000)];

struct Row {
    case: String,
    client: u64,
    server: u64,
}

/// Counts every case, and compares it with what is accepted.
///
/// # Errors
/// A figure is over the accepted one by more than is tolerated; there is none for it; or the count fails.
pub fn gate(args: &GateArgs) -> Result<(), Failure> {
    let path = args.file.clone().unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("counts.txt"));
    let rustc = facts().into_iter().find_map(|(what, value)| (what == "rustc").then_some(value)).unwrap_or_default();
    let counted = CASES.map(|(payload, in_flight, calls)| {
        let run = RunArgs { calls: Some(calls), ..RunArgs::echo(payload, in_flight, 0.0) };
        let load = LoadArgs {
            run,
            client: Client::Reactor,
            server_reactors: None,
            client_reactors: 1,
            slow: 0,
            busy_poll: None,
            ping_pong: false,
        };
        let [client, server] = count(&load, None)?;
        Ok::<_, Failure>(Row { case: load.run.case(), client, server })
    });
    let counted: Vec<Row> = counted.into_iter().collect::<Result<_, _>>()?;
    if args.accept {
        fs::write(&path, text(&counted, &rustc)?)?;
        println!("accepted, in {}", path.display());
    }
    let accepted = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let of = accepted.lines().find_map(|line| line.strip_prefix("# by ")).unwrap_or("an unknown compiler");
    let worse: Vec<String> = counted.iter().filter_map(|row| compare(row, &accepted)).collect();
    if worse.is_empty() {
        return Ok(());
    }
    let differ = if of == rustc { String::new() } else { format!("; accepted of {of}, this is {rustc}") };
    Err(format!("dearer than accepted: {}{differ}. If it must be: load gate --accept", worse.join(", ")).into())
}

/// Prints a row beside what is accepted, and says what is too much.
fn compare(row: &Row, accepted: &str) -> Option<String> {
    let known = accepted.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(&row.case)).then(|| [words.next(), words.next()].map(|word| word?.parse::<u64>().ok()))
    });
    let [client, server] = known.unwrap_or_default();
    let Row { case, client: new_client, server: new_server } = row;
    let shown = |of: Option<u64>| of.map_or_else(|| "nothing".to_owned(), |of| of.to_string());
    println!("{case}: client {new_client} (accepted {}), server {new_server} ({})", shown(client), shown(server));
    let sides = [("client", client, *new_client), ("server", server, *new_server)];
    let worse = |of: Option<u64>, now: u64| of.is_none_or(|of| now * 100 > of * (100 + TOLERATED));
    let worse: Vec<String> = sides
        .into_iter()
        .filter(|(_, of, now)| worse(*of, *now))
        .map(|(side, of, now)| format!("{case}, {side}: {now} after {}", shown(of)))
        .collect();
    (!worse.is_empty()).then(|| worse.join(", "))
}

fn text(rows: &[Row], rustc: &str) -> Result<String, Failure> {
    let mut text = format!(
        "# Instructions a call that are accepted: case, client, server. Changed on purpose, by\n\
         #   cargo run --release -p benches --bin load -- gate --accept\n\
         # by {rustc}\n"
    );
    for Row { case, client, server } in rows {
        writeln!(text, "{case:<28} {client:>6} {server:>6}")?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn what_grows_by_more_than_the_tolerance_is_named() {
        let accepted = "# by rustc 1\necho_32b_x1_in_flight   1000   2000\n";
        let check = |case: &str, client, server, expected: Option<&str>| {
            let found = compare(&Row { case: case.to_owned(), client, server }, accepted);
            assert_eq!(found.as_deref(), expected);
        };
        //    case                     client server   what is too much
        check("echo_32b_x1_in_flight", 1000,  2000,    None);
        check("echo_32b_x1_in_flight", 1020,  2040,    None);
        check("echo_32b_x1_in_flight",  500,  1000,    None);
        check("echo_32b_x1_in_flight", 1021,  2000,    Some("echo_32b_x1_in_flight, client: 1021 after 1000"));
        check("echo_32b_x1_in_flight", 1000,  2041,    Some("echo_32b_x1_in_flight, server: 2041 after 2000"));
        check("echo_32b_x9_in_flight",    1,     1,
            Some("echo_32b_x9_in_flight, client: 1 after nothing, echo_32b_x9_in_flight, server: 1 after nothing"));
    }
}
