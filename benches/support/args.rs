//! The command line.

use std::fmt;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Makes calls in closed loops for some seconds, and says what they cost on both sides.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Load {
    /// What to do instead of one measurement.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The measurement.
    #[command(flatten)]
    pub run: RunArgs,
}

/// What `load` can do beside one measurement.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serves until its input ends; started by the other commands.
    Server(ServerArgs),
    /// Measures every case in turn, several rounds, and prints the medians as markdown.
    Table(TableArgs),
    /// Counts instructions per call of both sides under callgrind, which must be installed.
    Instructions(InstructionsArgs),
}

/// One measurement.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Bytes of the payload; for `mixed` about the size of the message.
    #[arg(long, default_value_t = 32)]
    pub payload: usize,
    /// Calls under way at any time, over all connections.
    #[arg(long, default_value_t = 100)]
    pub in_flight: usize,
    /// Connections; calls take them in turn.
    #[arg(long, default_value_t = 1)]
    pub connections: usize,
    /// The sockets.
    #[arg(long, value_enum, default_value_t = Transport::Tcp)]
    pub transport: Transport,
    /// Who calls.
    #[arg(long, value_enum, default_value_t = Client::Reactor)]
    pub client: Client,
    /// What is called.
    #[arg(long, value_enum, default_value_t = MethodName::Echo)]
    pub method: MethodName,
    /// Measured seconds.
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// Seconds before them.
    #[arg(long, default_value_t = 0.5)]
    pub warm_up: f64,
    /// Makes this many calls instead, without reading the clock: for counting instructions.
    #[arg(long)]
    pub calls: Option<u64>,
    /// The server on core 0, the client on core 1.
    #[arg(long)]
    pub pin: bool,
    /// Reactors of the server. Default: the cores it may use.
    #[arg(long)]
    pub server_reactors: Option<usize>,
    /// Reactors of the client.
    #[arg(long, default_value_t = 1)]
    pub client_reactors: usize,
    /// A program and its arguments, split at spaces, that runs the server's command line.
    #[arg(long)]
    pub server_under: Option<String>,
    /// Prints one line of JSON instead of text.
    #[arg(long)]
    pub json: bool,
}

/// A server.
#[derive(Clone, Debug, Args)]
pub struct ServerArgs {
    /// The sockets.
    #[arg(long, value_enum, default_value_t = Transport::Tcp)]
    pub transport: Transport,
    /// Reactors. Default: the cores it may use.
    #[arg(long)]
    pub reactors: Option<usize>,
    /// The one core it may use.
    #[arg(long)]
    pub core: Option<usize>,
    /// Serves the floor instead: answers what `--client floor` sends for this payload.
    #[arg(long)]
    pub floor: Option<usize>,
}

/// Every case.
#[derive(Clone, Debug, Args)]
pub struct TableArgs {
    /// Rounds; each has every case once, so that a slow minute hits all of them.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Measured seconds of a case in a round.
    #[arg(long, default_value_t = 1.0)]
    pub seconds: f64,
    /// Only cases whose name contains this.
    #[arg(long)]
    pub only: Option<String>,
}

/// A count of instructions.
#[derive(Clone, Debug, Args)]
pub struct InstructionsArgs {
    /// Calls of the shorter run; the longer one has twice as many.
    #[arg(long, default_value_t = 5000)]
    pub calls: u64,
    /// Keeps callgrind's files of the longer run in this directory, as `client.out` and `server.out`.
    #[arg(long)]
    pub keep: Option<std::path::PathBuf>,
    /// The calls.
    #[command(flatten)]
    pub run: RunArgs,
}

/// The sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// TCP over loopback.
    Tcp,
    /// A Unix socket in the directory for temporary files.
    Unix,
}

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Client {
    /// Tasks on the reactor of the connection.
    Reactor,
    /// Tasks of tokio, on its own threads.
    Tokio,
    /// Threads that wait, one for each call in flight.
    Blocking,
    /// No RPC: raw sockets and the bytes that the RPC would have sent.
    Floor,
}

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MethodName {
    /// Bytes there and back.
    Echo,
    /// A nested message, decoded and encoded again on both sides.
    Mixed,
}

/// Writes a value as the command line has it.
macro_rules! display_as_argument {
    ($($name:ident)*) => { $(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
            }
        }
    )* };
}
display_as_argument!(Transport Client MethodName);

impl RunArgs {
    /// The arguments again, for a process that measures the same.
    pub fn to_command_line(&self) -> Vec<String> {
        let mut line = Vec::new();
        let mut put = |name: &str, value: &dyn fmt::Display| line.extend([format!("--{name}"), value.to_string()]);
        put("payload", &self.payload);
        put("in-flight", &self.in_flight);
        put("connections", &self.connections);
        put("transport", &self.transport);
        put("client", &self.client);
        put("method", &self.method);
        put("seconds", &self.seconds);
        put("warm-up", &self.warm_up);
        put("client-reactors", &self.client_reactors);
        if let Some(calls) = self.calls {
            put("calls", &calls);
        }
        if let Some(reactors) = self.server_reactors {
            put("server-reactors", &reactors);
        }
        if let Some(under) = &self.server_under {
            put("server-under", under);
        }
        line.extend(self.pin.then(|| "--pin".to_owned()));
        line
    }

    /// What the server of this measurement is started with.
    pub(crate) fn server(&self) -> ServerArgs {
        ServerArgs {
            transport: self.transport,
            reactors: self.server_reactors,
            core: self.pin.then_some(0),
            floor: (self.client == Client::Floor).then_some(self.payload),
        }
    }
}

impl ServerArgs {
    pub(crate) fn to_command_line(&self) -> Vec<String> {
        let mut line = vec!["server".to_owned()];
        let mut put = |name: &str, value: &dyn fmt::Display| line.extend([format!("--{name}"), value.to_string()]);
        put("transport", &self.transport);
        let numbers = [("reactors", self.reactors), ("core", self.core), ("floor", self.floor)];
        for (name, value) in numbers {
            if let Some(value) = value {
                put(name, &value);
            }
        }
        line
    }
}
