//! Other RPC frameworks under the driver that measures ours: the same loops, payloads, checks, clocks and reports.
//!
//! ```text
//! peers names                                        their names, a line each
//! peers transports                                   the same of those that only move bytes, which `load transport` measures
//! peers --peer tonic --payload 32 --in-flight 100    one measurement
//! ```
//!
//! Each has the fastest settings that its documentation knows; they stand at the top of its file. All run on tokio, with as many threads
//! as there are cores to use, unless the name says otherwise.

mod echoes;
mod socket;
mod tarpc_peer;
mod tonic_peer;
mod transports;
mod ttrpc_peer;
mod volo_grpc_peer;
mod volo_net;
mod volo_thrift_peer;

use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;

use bench_driver::{Caller, Calls, Failure, Laps, MethodName, RunArgs, ServerArgs, Stage, repeat};
use clap::{Args, Parser, Subcommand, ValueEnum};
use tokio::runtime::{Builder, Runtime};

use crate::echoes::{Echo, EchoMixed, Echoes};
use crate::transports::{Speaks, Transport};

/// Makes calls in loops for some seconds, and says what they cost on both sides.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: PeerArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Prints the peers' names.
    Names,
    /// Prints the names of those that have no RPC.
    Transports,
    /// Serves until its input ends; started by a measurement.
    Server(PeerServerArgs),
}

#[derive(Args)]
struct PeerArgs {
    #[command(flatten)]
    run: RunArgs,
    /// Who is measured.
    #[arg(long, value_enum, default_value_t = Peer::Tonic)]
    peer: Peer,
}

#[derive(Args)]
struct PeerServerArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Who serves.
    #[arg(long)]
    peer: Served,
    /// What, if it is a transport.
    #[arg(long, value_enum, default_value_t = Speaks::Echo)]
    speaks: Speaks,
}

/// One of those with RPC, or of those without.
#[derive(Clone, Copy)]
enum Served {
    Rpc(Peer),
    Bytes(Transport),
}

impl FromStr for Served {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Peer::from_str(name, true).map(Served::Rpc).or_else(|_| Transport::from_str(name, true).map(Served::Bytes))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Peer {
    Tonic,
    VoloGrpc,
    /// All calls over the given connections.
    VoloThriftMux,
    /// A connection for each call in flight, kept for the next one.
    VoloThriftPool,
    Tarpc,
    /// On tokio's current-thread runtime, on both sides.
    TarpcCurrentThread,
    Ttrpc,
}

impl Peer {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn runtime(self) -> Result<Runtime, Failure> {
        let mut builder = match self {
            Peer::TarpcCurrentThread => Builder::new_current_thread(),
            _ => Builder::new_multi_thread(),
        };
        Ok(builder.enable_all().build()?)
    }
}

fn main() -> ExitCode {
    let Cli { command, run } = Cli::parse();
    let done = match &command {
        None => measure(&run),
        Some(Command::Server(args)) => serve(args),
        Some(Command::Names) => print_names::<Peer>(),
        Some(Command::Transports) => print_names::<Transport>(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("peers: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn print_names<T: ValueEnum>() -> Result<(), Failure> {
    let values = T::value_variants().iter().filter_map(ValueEnum::to_possible_value);
    values.for_each(|value| println!("{}", value.get_name()));
    Ok(())
}

fn serve(args: &PeerServerArgs) -> Result<(), Failure> {
    if let Some(core) = args.server.core {
        bench_driver::pin(core)?;
    }
    let wanted = args.server.url();
    let peer = match args.peer {
        Served::Rpc(peer) => peer,
        Served::Bytes(transport) => {
            let url = transports::serve(transport, args.speaks, &wanted)?;
            return bench_driver::answer(&url, || bench_driver::Counts::now(None));
        }
    };
    let runtime = peer.runtime()?;
    let url = runtime.block_on(async {
        match peer {
            Peer::Tonic => tonic_peer::serve(&wanted).await,
            Peer::VoloGrpc => volo_grpc_peer::serve(&wanted).await,
            Peer::VoloThriftMux => volo_thrift_peer::serve(&wanted, true).await,
            Peer::VoloThriftPool => volo_thrift_peer::serve(&wanted, false).await,
            Peer::Tarpc | Peer::TarpcCurrentThread => tarpc_peer::serve(&wanted).await,
            Peer::Ttrpc => ttrpc_peer::serve(&wanted).await,
        }
    })?;
    let answer = move || bench_driver::answer(&url, || bench_driver::Counts::now(None));
    match peer {
        // Its one thread is this one.
        Peer::TarpcCurrentThread => runtime.block_on(async { tokio::task::spawn_blocking(answer).await? }),
        _ => answer(),
    }
}

/// What is held while the loops run.
struct Loops {
    _runtime: Option<Runtime>,
}

impl Caller for Loops {}

fn measure(args: &PeerArgs) -> Result<(), Failure> {
    let (name, peer) = (args.peer.name(), args.peer);
    let server = ["--peer".to_owned(), name.clone()];
    let report = bench_driver::run(&args.run, &name, &server, |url, stage| {
        let runtime = peer.runtime()?;
        let starts = Starts { run: args.run.clone(), url: url.to_owned(), stage: Arc::clone(stage) };
        let start = async move {
            match peer {
                Peer::Tonic => tonic_peer::start(&starts).await,
                Peer::VoloGrpc => volo_grpc_peer::start(&starts).await,
                Peer::VoloThriftMux => volo_thrift_peer::start(&starts, true).await,
                Peer::VoloThriftPool => volo_thrift_peer::start(&starts, false).await,
                Peer::Tarpc | Peer::TarpcCurrentThread => tarpc_peer::start(&starts).await,
                Peer::Ttrpc => ttrpc_peer::start(&starts).await,
            }
        };
        if peer == Peer::TarpcCurrentThread {
            let (started, ready) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                runtime.block_on(async {
                    let _ = started.send(start.await);
                    std::future::pending::<()>().await;
                });
            });
            ready.recv()??;
            return Ok(Loops { _runtime: None });
        }
        runtime.block_on(start)?;
        Ok(Loops { _runtime: Some(runtime) })
    })?;
    report.print(args.run.json)
}

/// What a peer's client starts with.
struct Starts {
    run: RunArgs,
    url: String,
    stage: Arc<Stage>,
}

impl Starts {
    /// Starts a loop for each call in flight, over the clients in turn.
    fn loops<C: Echoes>(&self, clients: &[C]) {
        let RunArgs { method, payload, in_flight, .. } = self.run;
        match method {
            MethodName::Echo => {
                let payloads = bench_driver::payloads(payload, in_flight);
                self.spawn(clients, payloads, |client, payload| Echo { client, payload });
            }
            MethodName::Mixed => {
                let orders = bench_driver::orders(payload, in_flight);
                self.spawn(clients, orders, |client, order| EchoMixed { client, message: C::mixed(order) });
            }
        }
    }

    fn spawn<C: Echoes, T, L: Calls>(&self, clients: &[C], all: Vec<T>, calls: impl Fn(C, T) -> L) {
        for (index, one) in all.into_iter().enumerate() {
            let client = clients[index % clients.len()].clone();
            tokio::spawn(repeat(calls(client, one), Laps::start(&self.stage)));
        }
    }
}
