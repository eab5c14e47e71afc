//! A server and a client with every knob, for black-box tests and for trying things out. Its service is `idl/testee.proto`.
//!
//! ```text
//! cargo run --bin testee -- server --listen tcp://127.0.0.1:7000 --listen unix:testee.sock
//! cargo run --bin testee -- client --connect tcp://127.0.0.1:7000 --calls 10000 --in-flight 64 --method mix
//! ```
//!
//! With the feature `tls` at tls:// addresses, too: `--identity FILE` and `--roots FILE`.

mod client;
#[cfg(feature = "upgrade")]
mod liar;
mod log;
mod plan;
mod server;
mod service;
mod summary;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "upgrade")]
mod upgrade;

use std::process::ExitCode;

use clap::Parser;

/// A server and a client of the service `testee.Testee`, with every knob.
#[derive(Parser)]
#[command(name = "testee", version, max_term_width = 120)]
struct Args {
    /// Writes what the framework logs to standard error: info and worse; twice: all of it
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Server(server::Args),
    Client(client::Args),
    /// Plays the new process of an upgrade as it should not be
    #[cfg(feature = "upgrade")]
    #[command(hide = true)]
    Liar {
        kind: String,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    log::start(args.verbose);
    let outcome = match args.command {
        Command::Server(args) => server::run(args).map(|()| ExitCode::SUCCESS),
        Command::Client(args) => client::run(args),
        #[cfg(feature = "upgrade")]
        Command::Liar { kind } => {
            liar::play(&kind);
            Ok(ExitCode::SUCCESS)
        }
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("testee: {error}");
        ExitCode::FAILURE
    })
}

/// `NAME=VALUE`, as `--set` takes it.
fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE, such as max_frame_size=1MiB")?;
    Ok((name.to_owned(), value.to_owned()))
}
