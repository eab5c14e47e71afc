//! Every case, several rounds, medians: the table of `docs/performance.md`.

use std::process::{Command, Stdio};

use crate::args::{Client, MethodName, RunArgs, TableArgs, Transport};
use crate::{Failure, Report, machine};

/// Cases that share everything but the client; the floor comes first and is what the others are shares of.
fn groups(seconds: f64) -> Vec<Vec<RunArgs>> {
    use Client::{Blocking, Floor, Reactor, Tokio};
    let plain = RunArgs {
        payload: 32,
        in_flight: 1,
        connections: 1,
        transport: Transport::Tcp,
        client: Floor,
        method: MethodName::Echo,
        seconds,
        warm_up: (seconds / 3.0).min(0.3),
        calls: None,
        pin: false,
        server_reactors: None,
        client_reactors: 1,
        server_under: None,
        json: true,
    };
    let echo = |payload, in_flight| RunArgs { payload, in_flight, ..plain.clone() };
    let group = |args: RunArgs, clients: &[Client]| {
        clients.iter().map(|client| RunArgs { client: *client, ..args.clone() }).collect::<Vec<_>>()
    };
    let all = &[Floor, Reactor, Tokio, Blocking];
    vec![
        group(echo(32, 1), all),
        group(echo(32, 16), all),
        group(echo(32, 100), all),
        group(echo(32, 1000), all),
        group(echo(1 << 10, 1), all),
        group(echo(1 << 10, 16), all),
        group(echo(1 << 10, 100), all),
        group(echo(1 << 10, 1000), all),
        group(RunArgs { pin: true, ..echo(32, 1) }, &[Floor, Reactor, Blocking]),
        group(RunArgs { pin: true, ..echo(32, 100) }, &[Floor, Reactor, Tokio]),
        group(echo(64 << 10, 16), &[Floor, Reactor, Tokio]),
        group(echo(1 << 20, 4), &[Floor, Reactor]),
        group(RunArgs { connections: 4, ..echo(32, 100) }, &[Floor, Reactor]),
        group(RunArgs { transport: Transport::Unix, ..echo(32, 1) }, &[Floor, Reactor]),
        group(RunArgs { transport: Transport::Unix, ..echo(32, 100) }, &[Floor, Reactor]),
        group(RunArgs { method: MethodName::Mixed, ..echo(500, 100) }, &[Reactor, Tokio]),
    ]
}

/// Measures and prints the table; progress goes to standard error.
///
/// # Errors
/// When a measurement fails.
pub fn table(args: &TableArgs) -> Result<(), Failure> {
    let facts = machine::facts();
    let mut groups = groups(args.seconds);
    if let Some(only) = &args.only {
        groups.retain(|group| group.iter().any(|case| case.case().contains(only.as_str())));
    }
    let cases = groups.iter().map(Vec::len).sum::<usize>();
    let mut reports: Vec<Vec<Vec<Report>>> = groups.iter().map(|group| vec![Vec::new(); group.len()]).collect();
    for round in 1..=args.rounds {
        let mut done = 0;
        for (group, reports) in groups.iter().zip(&mut reports) {
            for (case, reports) in group.iter().zip(reports) {
                done += 1;
                let report = measure(case)?;
                eprintln!(
                    "round {round}/{} case {done}/{cases}: {} {:.0} calls/s",
                    args.rounds,
                    report.case,
                    report.rate()
                );
                reports.push(report);
            }
        }
    }
    for (what, value) in &facts {
        println!("* {what}: {value}");
    }
    println!("* {} rounds, each with every case once, {} s a case; medians\n", args.rounds, args.seconds);
    println!(
        "| case | client | calls/s | of F | p50 µs | p99 µs | p99.9 µs | CPU µs a call, client + server | system calls a call | spread |"
    );
    println!("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for (group, reports) in groups.iter().zip(&reports) {
        let floor = reports.first().zip(group.first()).filter(|(_, case)| case.client == Client::Floor);
        let floor = floor.map(|(reports, _)| median(reports, Report::rate));
        for (case, reports) in group.iter().zip(reports) {
            print_row(case, reports, floor);
        }
    }
    Ok(())
}

/// A process for each measurement, so that each starts alike.
fn measure(case: &RunArgs) -> Result<Report, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(case.to_command_line()).arg("--json").stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output()?;
    if !output.status.success() {
        return Err(format!("{} failed", case.case()).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn print_row(case: &RunArgs, reports: &[Report], floor: Option<f64>) {
    let of = |f: fn(&Report) -> f64| median(reports, f);
    let rate = of(Report::rate);
    let share = floor.map_or_else(|| "–".to_owned(), |floor| format!("{:.2}", rate / floor));
    let name = case.case();
    let (name, client) = name.split_once(' ').unwrap_or((&name, ""));
    let rates = reports.iter().map(Report::rate);
    let (least, most) = rates.fold((f64::MAX, 0.0_f64), |(least, most), rate| (least.min(rate), most.max(rate)));
    let calls = of(Report::system_calls);
    // Who sleeps and wakes outside of a reactor does so by system calls that nobody here counts.
    let more = if matches!(case.client, Client::Tokio | Client::Blocking) { "+" } else { "" };
    println!(
        "| {name} | {client} | {rate:.0} | {share} | {:.1} | {:.1} | {:.1} | {:.2} + {:.2} | {calls:.3}{more} | ±{:.0} % |",
        of(|r| r.latency.p50),
        of(|r| r.latency.p99),
        of(|r| r.latency.p999),
        of(|r| r.per_call(r.client.cpu_us)),
        of(|r| r.per_call(r.server.cpu_us)),
        (most - least) / 2.0 / rate * 100.0,
    );
}

fn median(reports: &[Report], f: impl Fn(&Report) -> f64) -> f64 {
    let mut values: Vec<f64> = reports.iter().map(f).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
