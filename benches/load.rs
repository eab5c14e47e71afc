//! Load, and what it costs: `load --help`. One table for `docs/performance.md`: `load table`.

use std::process::ExitCode;

use benches::{
    Command, Failure, Load, bytes, codec, connections, fleet, gate, idle, instructions, run, serve, table, transport,
};
use clap::Parser;

fn main() -> ExitCode {
    let Load { command, run: args } = Load::parse();
    let done = match &command {
        None => run(&args).and_then(|report| report.print(args.run.json)),
        Some(Command::Server(args)) => serve(args),
        Some(Command::Table(args)) => table(args),
        Some(Command::Instructions(args)) => instructions(args),
        Some(Command::Gate(args)) => gate(args),
        Some(Command::Codec(args)) => codec(args),
        Some(Command::Connections(args)) => connections(args),
        Some(Command::Fleet(args)) => fleet(args),
        Some(Command::Bytes(args)) => bytes(args).and_then(|report| report.print(args.run.json)),
        Some(Command::Idle(args)) => idle(args),
        Some(Command::Transport(args)) => transport(args),
        #[cfg(feature = "tls")]
        Some(Command::TlsFlood(args)) => benches::tls_flood(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure),
    }
}

fn fail(failure: &Failure) -> ExitCode {
    eprintln!("load: {failure}");
    ExitCode::FAILURE
}
