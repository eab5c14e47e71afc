//! The server: a process of its own, so that neither side's time counts as the other's.
//!
//! It prints `LISTENING url`, answers each line `report` with its counters, and ends when its input does.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use rpc_core::{Code, Context, Error, Result, Server};
use rpc_transport::{ReactorHandle, ReactorStats};

use crate::args::{RunArgs, ServerArgs, Transport};
use crate::idl::testee::*;
use crate::{Counts, Failure, floor, machine};

/// Answers with what it is sent.
#[derive(Debug)]
pub struct Service;

fn not_measured<T>() -> Result<T> {
    Err(Error::new(Code::Unimplemented, "this server only echoes"))
}

impl Testee for Service {
    async fn echo(&self, _: &Context, req: Blob) -> Result<Blob> {
        Ok(req)
    }

    async fn echo_mixed(&self, _: &Context, req: Mixed) -> Result<Mixed> {
        Ok(req)
    }

    async fn sleep(&self, _: &Context, _: Millis) -> Result<Empty> {
        not_measured()
    }

    async fn spin(&self, _: &Context, _: Millis) -> Result<Empty> {
        not_measured()
    }

    async fn panic(&self, _: &Context, _: Millis) -> Result<Empty> {
        not_measured()
    }

    async fn fail(&self, _: &Context, _: Fault) -> Result<Empty> {
        not_measured()
    }

    async fn give(&self, _: &Context, _: Size) -> Result<Blob> {
        not_measured()
    }

    async fn count(&self, _: &Context, _: Tree) -> Result<Size> {
        not_measured()
    }

    async fn sink(&self, _: &Context, _: Blob) -> Result<Size> {
        not_measured()
    }

    async fn once(&self, _: &Context, _: Nonce) -> Result<Empty> {
        not_measured()
    }

    async fn relay(&self, _: &Context, _: Hop) -> Result<Empty> {
        not_measured()
    }

    async fn stats(&self, _: &Context, _: Empty) -> Result<Report> {
        not_measured()
    }
}

/// Serves until the input ends.
///
/// # Errors
/// When it cannot bind, or its output is closed.
pub fn serve(args: &ServerArgs) -> std::result::Result<(), Failure> {
    if let Some(core) = args.core {
        machine::pin(core)?;
    }
    let url = match args.transport {
        Transport::Tcp => "tcp://127.0.0.1:0".to_owned(),
        Transport::Unix => {
            let name = format!("load-{}.sock", std::process::id());
            format!("unix:{}", std::env::temp_dir().join(name).display())
        }
    };
    if let Some(payload) = args.floor {
        let stats = Arc::new(ReactorStats::default());
        let url = floor::serve(&url, payload, Arc::clone(&stats))?;
        let answered = answer(&url, || Counts::now([&*stats]));
        if let Some(path) = url.strip_prefix("unix:") {
            std::fs::remove_file(path)?;
        }
        return answered;
    }
    let mut builder = Server::builder();
    if let Some(reactors) = args.reactors {
        builder = builder.reactors(reactors);
    }
    let server = builder.add(TesteeServer::new(Service)).bind(url)?;
    let url = server.url().to_string();
    answer(&url, || Counts::now(server.reactors().handles().iter().map(ReactorHandle::stats)))
}

fn answer(url: &str, counts: impl Fn() -> std::result::Result<Counts, Failure>) -> std::result::Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "LISTENING {url}")?;
    out.flush()?;
    for line in io::stdin().lines() {
        if line? == "report" {
            writeln!(out, "{}", serde_json::to_string(&counts()?)?)?;
            out.flush()?;
        }
    }
    Ok(())
}

/// A server's process; it ends when this is dropped.
pub(crate) struct ServerProcess {
    child: Child,
    /// `None` once the server has been told to end.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    pub(crate) url: String,
}

impl ServerProcess {
    pub(crate) fn start(args: &RunArgs) -> std::result::Result<ServerProcess, Failure> {
        let me = std::env::current_exe()?;
        let mut command = match args.server_under.as_deref().map(str::split_whitespace) {
            None => Command::new(me),
            Some(mut words) => {
                let mut command = Command::new(words.next().ok_or("--server-under names no program")?);
                command.args(words).arg(me);
                command
            }
        };
        command.args(args.server().to_command_line()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("the server's pipes are missing".into());
        };
        let mut server =
            ServerProcess { child, input: Some(input), output: BufReader::new(output), url: String::new() };
        let line = server.line()?;
        let url = line.strip_prefix("LISTENING ").ok_or_else(|| format!("the server said {line:?}"))?;
        server.url = url.to_owned();
        Ok(server)
    }

    pub(crate) fn counts(&mut self) -> std::result::Result<Counts, Failure> {
        let input = self.input.as_mut().ok_or("the server has ended")?;
        input.write_all(b"report\n")?;
        Ok(serde_json::from_str(&self.line()?)?)
    }

    fn line(&mut self) -> std::result::Result<String, Failure> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err("the server ended early".into());
        }
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        drop(self.input.take());
        if let Err(error) = self.child.wait() {
            eprintln!("load: the server: {error}");
        }
    }
}
