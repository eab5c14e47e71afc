//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use bench_driver::{MethodName, RunArgs, ServerArgs};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::floor::Manner;

/// Makes calls in loops for some seconds, and says what they cost on both sides.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Load {
    /// What to do instead of one measurement.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The measurement.
    #[command(flatten)]
    pub run: LoadArgs,
}

/// What `load` can do beside one measurement.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serves until its input ends; started by the other commands.
    Server(LoadServerArgs),
    /// Measures every case in turn, several rounds, and prints the medians as markdown.
    Table(TableArgs),
    /// Counts instructions per call of both sides under callgrind, which must be installed.
    Instructions(InstructionsArgs),
    /// Counts the instructions of some cases, and fails where they are over the accepted ones. Needs valgrind.
    Gate(GateArgs),
    /// Encodes and decodes messages without any call, and prints the time that takes: what is prost's of a call.
    Codec(CodecArgs),
    /// Measures what servers take for a connection with one call at a time.
    Connections(ConnectionsArgs),
    /// Measures what a fleet of idle connections costs a server.
    Idle(IdleArgs),
    /// Measures Kitex's clients at servers of ours and ours at Kitex's, beside either among themselves.
    Fleet(FleetArgs),
    /// Sends bytes to a server of the transport alone, or of others, and awaits what is due: one measurement.
    Bytes(BytesArgs),
    /// Measures the transport alone beside others that move bytes.
    Transport(TransportArgs),
    /// Measures what floods of TLS handshakes leave of live traffic.
    #[cfg(feature = "tls")]
    TlsFlood(crate::TlsFloodArgs),
}

/// One measurement of ours.
#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    /// The calls.
    #[command(flatten)]
    pub run: RunArgs,
    /// Who calls.
    #[arg(long, value_enum, default_value_t = Client::Reactor)]
    pub client: Client,
    /// Reactors of the server. Default: the cores it may use.
    #[arg(long)]
    pub server_reactors: Option<usize>,
    /// Reactors of the client.
    #[arg(long, default_value_t = 1)]
    pub client_reactors: usize,
    /// Slow neighbours: loops beside the measured ones, on the same connections, each of whose calls blocks a thread of the server for
    /// 5 ms, in a method that is marked as blocking. Their own times are not taken.
    #[arg(long, default_value_t = 0)]
    pub slow: usize,
    /// How long reactors of our own threads, on both sides, poll busily before they sleep, in microseconds. Default: 50 for `reactor-busy`,
    /// else 0.
    #[arg(long)]
    pub busy_poll: Option<u64>,
    /// One call at a time on a connection, as servers without multiplexing take them.
    #[arg(long)]
    pub ping_pong: bool,
}

/// A server of ours, or the floor's.
#[derive(Clone, Debug, Args)]
pub struct LoadServerArgs {
    /// What every server is told.
    #[command(flatten)]
    pub server: ServerArgs,
    /// Reactors. Default: the cores it may use.
    #[arg(long)]
    pub reactors: Option<usize>,
    /// Serves the floor instead: answers what `--client floor` sends for this payload.
    #[arg(long)]
    pub floor: Option<usize>,
    /// How long the reactors poll busily before they sleep, in microseconds.
    #[arg(long, default_value_t = 0)]
    pub busy_poll: u64,
    /// Serves bytes instead, on the transport alone.
    #[arg(long, value_enum)]
    pub speaks: Option<Speaks>,
    /// How the floor goes about it.
    #[arg(long, value_enum, default_value_t)]
    pub manner: Manner,
}

/// Every case.
#[derive(Clone, Debug, Args)]
pub struct TableArgs {
    /// Rounds; each has every case once, so that a slow minute hits all of them. Default: 5, of a quick run 3.
    #[arg(long)]
    rounds: Option<usize>,
    /// Measured seconds of a case in a round. Default: 1, of a quick run 0.3.
    #[arg(long)]
    seconds: Option<f64>,
    /// Few cases, and short: to see that everything runs, and roughly what comes out.
    #[arg(long)]
    pub quick: bool,
    /// Only cases whose name contains this.
    #[arg(long)]
    pub only: Option<String>,
    /// Only these, by their names, with commas between them.
    #[arg(long, value_delimiter = ',')]
    pub who: Vec<String>,
    /// A program of `benches/peers`: other frameworks are measured beside ours. May be said more than once.
    #[arg(long)]
    pub peers: Vec<PathBuf>,
    /// Puts the results into this page, in place of the last ones, instead of printing them.
    #[arg(long)]
    pub into: Option<PathBuf>,
    /// Draws throughput and p99 against calls in flight into this SVG file.
    #[arg(long)]
    pub plot: Option<PathBuf>,
}

impl TableArgs {
    pub(crate) fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 3 } else { 5 })
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.seconds.unwrap_or(if self.quick { 0.3 } else { 1.0 })
    }
}

/// A count of instructions.
#[derive(Clone, Debug, Args)]
pub struct InstructionsArgs {
    /// Keeps callgrind's files of the longer run in this directory, as `client.out` and `server.out`.
    #[arg(long)]
    pub keep: Option<PathBuf>,
    /// The calls; `--calls` are those of the shorter run, the longer one has twice as many. Default: 5000.
    #[command(flatten)]
    pub run: LoadArgs,
}

/// What is accepted.
#[derive(Clone, Debug, Args)]
pub struct GateArgs {
    /// Accepts what is counted now.
    #[arg(long)]
    pub accept: bool,
    /// Where the accepted figures stand. Default: benches/counts.txt of this source.
    #[arg(long)]
    pub file: Option<PathBuf>,
}

/// Whose servers are looked at, beside ours and the floor's.
#[derive(Clone, Debug, Args)]
pub struct ConnectionsArgs {
    /// A program of `benches/peers`. May be said more than once.
    #[arg(long)]
    pub peers: Vec<PathBuf>,
}

/// A fleet of idle connections.
#[derive(Clone, Debug, Args)]
pub struct IdleArgs {
    /// How many: each takes a descriptor of either process, and a port.
    #[arg(long, default_value_t = 19_000)]
    pub connections: usize,
    /// How long they are idle.
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// Reactors of the server.
    #[arg(long, default_value_t = 1)]
    pub reactors: usize,
    /// A server of calls, instead of the transport alone.
    #[arg(long)]
    pub rpc: bool,
    /// Under TLS.
    #[cfg(feature = "tls")]
    #[arg(long, conflicts_with = "rpc")]
    pub tls: bool,
    /// Is the server: started by the other process.
    #[arg(long, hide = true)]
    pub serve: bool,
}

/// Kitex and ours.
#[derive(Clone, Debug, Args)]
pub struct FleetArgs {
    /// The program of `benches/peers/go`.
    #[arg(long)]
    pub kitex: PathBuf,
    /// Rounds; each has every pair once.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Measured seconds of a pair in a round.
    #[arg(long, default_value_t = 1.0)]
    pub seconds: f64,
    /// Puts the results into this page, in place of the last ones, instead of printing them.
    #[arg(long)]
    pub into: Option<PathBuf>,
}

/// One measurement without RPC.
#[derive(Clone, Debug, Args)]
pub struct BytesArgs {
    /// The exchanges.
    #[command(flatten)]
    pub run: RunArgs,
    /// What the server speaks.
    #[arg(long, value_enum, default_value_t = Speaks::Echo)]
    pub speaks: Speaks,
    /// Reactors of our own server. Default: the cores it may use.
    #[arg(long)]
    pub server_reactors: Option<usize>,
}

/// The transport and others.
#[derive(Clone, Debug, Args)]
pub struct TransportArgs {
    /// A program of `benches/peers`. May be said more than once.
    #[arg(long)]
    pub peers: Vec<PathBuf>,
    /// Rounds; each has everybody once.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Measured seconds of each in a round.
    #[arg(long, default_value_t = 1.0)]
    pub seconds: f64,
    /// Puts the results into this page, in place of the last ones, instead of printing them.
    #[arg(long)]
    pub into: Option<PathBuf>,
}

/// What a server without RPC speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Speaks {
    /// Whatever comes goes back.
    Echo,
    /// HTTP/1.1: each request is answered with the same few words.
    Http,
}

impl Speaks {
    /// As the command line has it.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// What is encoded and decoded.
#[derive(Clone, Debug, Args)]
pub struct CodecArgs {
    /// Whose message.
    #[arg(long, value_enum, default_value_t = MethodName::Mixed)]
    pub method: MethodName,
    /// Bytes of the payload; for `mixed` about the size of the message.
    #[arg(long, default_value_t = 200)]
    pub payload: usize,
    /// How long it goes on.
    #[arg(long, default_value_t = 1.0)]
    pub seconds: f64,
}

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Client {
    /// Tasks on the reactor of the connection.
    Reactor,
    /// The same, where the reactors of both sides poll busily: see `--busy-poll`.
    ReactorBusy,
    /// Tasks of tokio, on its own threads.
    Tokio,
    /// Tasks of tokio, which turns the reactor, too. Needs the feature `tokio`.
    TokioHosted,
    /// Threads that wait, one for each call in flight.
    Blocking,
    /// No RPC, F: raw sockets and the bytes that the RPC would have sent, as many at once as there are.
    Floor,
    /// The same, with a write for each message on both sides.
    FloorSingly,
    /// As the floor, but neither side ever sleeps: each keeps a processor busy.
    FloorSpinning,
    /// The floor's server, called by tasks of tokio: T.
    FloorTokio,
}

impl Client {
    /// Whether there is no RPC.
    pub fn is_floor(self) -> bool {
        matches!(self, Client::Floor | Client::FloorSingly | Client::FloorSpinning | Client::FloorTokio)
    }

    /// Whether callers sleep and wake by means that no reactor counts.
    pub(crate) fn is_foreign(self) -> bool {
        matches!(self, Client::Tokio | Client::TokioHosted | Client::Blocking | Client::FloorTokio)
    }

    /// Whether this program has what it needs.
    pub(crate) fn is_built(self) -> bool {
        self != Client::TokioHosted || cfg!(feature = "tokio")
    }

    /// As the command line has it.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

impl LoadArgs {
    /// What is said of this measurement beside [`RunArgs`].
    pub fn to_command_line(&self) -> Vec<String> {
        let mut line = self.run.to_command_line();
        line.extend(["--client".to_owned(), self.client.name()]);
        line.extend(["--client-reactors".to_owned(), self.client_reactors.to_string()]);
        line.extend(["--slow".to_owned(), self.slow.to_string()]);
        line.extend(["--busy-poll".to_owned(), self.busy_poll().as_micros().to_string()]);
        line.extend(self.ping_pong.then(|| "--ping-pong".to_owned()));
        if let Some(reactors) = self.server_reactors {
            line.extend(["--server-reactors".to_owned(), reactors.to_string()]);
        }
        line
    }

    /// How long reactors poll busily.
    pub(crate) fn busy_poll(&self) -> Duration {
        let usual = if self.client == Client::ReactorBusy { 50 } else { 0 };
        Duration::from_micros(self.busy_poll.unwrap_or(usual))
    }

    /// What the server of this measurement is told beside [`ServerArgs`].
    pub(crate) fn server(&self) -> Vec<String> {
        let floor = self.client.is_floor().then_some(self.run.payload);
        let busy_poll = Some(self.busy_poll().as_micros() as usize).filter(|_| floor.is_none());
        let numbers = [("--reactors", self.server_reactors), ("--floor", floor), ("--busy-poll", busy_poll)];
        let given = numbers.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let mut line: Vec<String> = given.flat_map(|(name, value)| [name.to_owned(), value.to_string()]).collect();
        let manner = match self.client {
            Client::FloorSingly => "singly",
            Client::FloorSpinning => "spinning",
            _ => return line,
        };
        line.extend(["--manner", manner].map(str::to_owned));
        line
    }

    /// Whether the floor can be asked for it.
    pub(crate) fn check(&self) -> Result<(), crate::Failure> {
        if self.client.is_floor() && (self.run.method == MethodName::Mixed || self.slow > 0) {
            return Err("the floor knows no messages: it echoes".into());
        }
        Ok(())
    }
}
