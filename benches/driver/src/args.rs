//! What a measurement is told, whoever makes it.

use std::fmt;

use clap::{Args, ValueEnum};

/// One measurement.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Bytes of the payload; for `mixed` about the size of the message.
    #[arg(long, default_value_t = 32)]
    pub payload: usize,
    /// Calls under way at any time, over all connections; with `--rate` at most.
    #[arg(long, default_value_t = 100)]
    pub in_flight: usize,
    /// Connections; calls take them in turn.
    #[arg(long, default_value_t = 1)]
    pub connections: usize,
    /// The sockets.
    #[arg(long, value_enum, default_value_t = Transport::Tcp)]
    pub transport: Transport,
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
    #[arg(long, conflicts_with = "rate")]
    pub calls: Option<u64>,
    /// Calls a second, due at fixed times, instead of each as soon as the last has ended.
    #[arg(long)]
    pub rate: Option<f64>,
    /// The server on core 0, the client on core 1.
    #[arg(long)]
    pub pin: bool,
    /// A program and its arguments, split at spaces, that runs the server's command line.
    #[arg(long)]
    pub server_under: Option<String>,
    /// A program, and what it is told, split at spaces, that serves instead of this one; it speaks as `answer` does.
    #[arg(long, value_name = "WORDS")]
    pub server: Option<String>,
    /// Prints one line of JSON instead of text.
    #[arg(long)]
    pub json: bool,
}

/// What every server is told.
#[derive(Clone, Debug, Args)]
pub struct ServerArgs {
    /// The sockets.
    #[arg(long, value_enum, default_value_t = Transport::Tcp)]
    pub transport: Transport,
    /// The one core it may use.
    #[arg(long)]
    pub core: Option<usize>,
}

/// The sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// TCP over loopback.
    Tcp,
    /// A Unix socket in the directory for temporary files.
    Unix,
}

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MethodName {
    /// Bytes there and back.
    Echo,
    /// A nested message, decoded and encoded again on both sides.
    Mixed,
}

/// A value as the command line has it.
fn named<T: ValueEnum>(value: &T) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

impl RunArgs {
    /// A closed loop of echoes of `payload` bytes over one TCP connection.
    pub fn echo(payload: usize, in_flight: usize, seconds: f64) -> Self {
        RunArgs {
            payload,
            in_flight,
            connections: 1,
            transport: Transport::Tcp,
            method: MethodName::Echo,
            seconds,
            warm_up: (seconds / 3.0).min(0.3),
            calls: None,
            rate: None,
            pin: false,
            server_under: None,
            server: None,
            json: true,
        }
    }

    /// The arguments again, for a process that measures the same.
    pub fn to_command_line(&self) -> Vec<String> {
        let mut line = Vec::new();
        let mut put = |name: &str, value: &dyn fmt::Display| line.extend([format!("--{name}"), value.to_string()]);
        put("payload", &self.payload);
        put("in-flight", &self.in_flight);
        put("connections", &self.connections);
        put("transport", &named(&self.transport));
        put("method", &named(&self.method));
        put("seconds", &self.seconds);
        put("warm-up", &self.warm_up);
        if let Some(calls) = self.calls {
            put("calls", &calls);
        }
        if let Some(rate) = self.rate {
            put("rate", &rate);
        }
        if let Some(under) = &self.server_under {
            put("server-under", under);
        }
        if let Some(server) = &self.server {
            put("server", server);
        }
        line.extend(self.pin.then(|| "--pin".to_owned()));
        line.extend(self.json.then(|| "--json".to_owned()));
        line
    }

    /// What every server of this measurement is told, in front of what only this one is.
    pub(crate) fn server(&self) -> Vec<String> {
        let mut line = vec!["server".to_owned(), "--transport".to_owned(), named(&self.transport)];
        if self.pin {
            line.extend(["--core".to_owned(), "0".to_owned()]);
        }
        line
    }

    /// The measurement's name, as in `echo_32b_x100_in_flight`.
    pub fn case(&self) -> String {
        let size = match self.payload {
            n if n >= 1 << 20 && n % (1 << 20) == 0 => format!("{}mib", n >> 20),
            n if n >= 1 << 10 && n % (1 << 10) == 0 => format!("{}kib", n >> 10),
            n => format!("{n}b"),
        };
        let mut name = format!("{}_{size}_x{}_in_flight", named(&self.method), self.in_flight);
        if self.connections > 1 {
            name += &format!("_x{}_connections", self.connections);
        }
        if self.transport == Transport::Unix {
            name += "_unix";
        }
        if self.pin {
            name += "_pinned";
        }
        if let Some(rate) = self.rate {
            name += &format!("_at_{rate:.0}_a_second");
        }
        name
    }
}

impl ServerArgs {
    /// A free address for its listener: `tcp://127.0.0.1:0`, or `unix:` and a path that nothing else uses.
    pub fn url(&self) -> String {
        match self.transport {
            Transport::Tcp => "tcp://127.0.0.1:0".to_owned(),
            Transport::Unix => {
                let name = format!("bench-{}.sock", std::process::id());
                format!("unix:{}", std::env::temp_dir().join(name).display())
            }
        }
    }
}
