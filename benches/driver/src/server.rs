//! The server: a process of its own, so that neither side's time counts as the other's.
//!
//! It prints `LISTENING url`, answers each line `report` with its counters, and ends when its input does.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::{Counts, Failure, RunArgs};

/// The server's part: says where it listens, and answers until the input ends.
///
/// # Errors
/// When the output is closed.
pub fn answer(url: &str, counts: impl Fn() -> Result<Counts, Failure>) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "LISTENING {url}")?;
    out.flush()?;
    for line in io::stdin().lines() {
        if line? == "report" {
            writeln!(out, "{}", serde_json::to_string(&counts()?)?)?;
            out.flush()?;
        }
    }
    if let Some(path) = url.strip_prefix("unix:") {
        let _ = std::fs::remove_file(path); // some servers do it themselves
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
    /// Starts this very program with these words behind what every server is told, or the program that is given; under another program if
    /// one is given.
    pub(crate) fn start(args: &RunArgs, own: &[String]) -> Result<ServerProcess, Failure> {
        let (program, own) = match args.server.as_deref().map(str::split_whitespace) {
            None => (std::env::current_exe()?, own.to_vec()),
            Some(mut words) => {
                let program = words.next().ok_or("--server names no program")?;
                (program.into(), words.map(str::to_owned).collect())
            }
        };
        let mut command = match args.server_under.as_deref().map(str::split_whitespace) {
            None => Command::new(program),
            Some(mut words) => {
                let mut command = Command::new(words.next().ok_or("--server-under names no program")?);
                command.args(words).arg(program);
                command
            }
        };
        command.args(args.server()).args(own).stdin(Stdio::piped()).stdout(Stdio::piped());
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

    pub(crate) fn counts(&mut self) -> Result<Counts, Failure> {
        let input = self.input.as_mut().ok_or("the server has ended")?;
        input.write_all(b"report\n")?;
        Ok(serde_json::from_str(&self.line()?)?)
    }

    fn line(&mut self) -> Result<String, Failure> {
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
            eprintln!("the server: {error}");
        }
    }
}
