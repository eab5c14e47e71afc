//! Who is measured, and how: by a process for each measurement, so that each starts alike.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bench_driver::{MethodName, Report, RunArgs};

use crate::Failure;
use crate::args::Client;

/// Who is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Ours(Client),
    Peer(Peer),
}

/// Another framework.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    name: String,
    /// Who measures it, and what it is told for that.
    program: PathBuf,
    words: Vec<String>,
    /// Whether it knows messages; else it echoes bytes.
    messages: bool,
}

/// The peer that the others are multiples of.
pub(crate) const BASELINE: &str = "tonic";

impl Subject {
    /// What a program measures when it is told these words.
    pub(crate) fn program(name: &str, program: &Path, words: impl IntoIterator<Item = String>) -> Subject {
        let words = words.into_iter().collect();
        Subject::Peer(Peer { name: name.to_owned(), program: program.to_owned(), words, messages: true })
    }

    pub(crate) fn name(&self) -> String {
        match self {
            Subject::Ours(client) => client.name(),
            Subject::Peer(peer) => peer.name.clone(),
        }
    }

    pub(crate) fn is(&self, client: Client) -> bool {
        *self == Subject::Ours(client)
    }

    pub(crate) fn is_baseline(&self) -> bool {
        self.name() == BASELINE
    }

    /// Not ours, and no floor.
    pub(crate) fn is_other(&self) -> bool {
        matches!(self, Subject::Peer(_))
    }

    /// One of the frameworks in Rust beside tonic.
    pub(crate) fn is_rival(&self) -> bool {
        let Subject::Peer(peer) = self else { return false };
        ["tarpc", "ttrpc", "volo"].iter().any(|rival| peer.name.starts_with(rival))
    }

    pub(crate) fn can(&self, method: MethodName) -> bool {
        match self {
            Subject::Ours(client) => method == MethodName::Echo || !client.is_floor(),
            Subject::Peer(peer) => method == MethodName::Echo || peer.messages,
        }
    }

    /// Makes one measurement. What the process says beside is shown if it fails.
    pub(crate) fn measure(&self, run: &RunArgs) -> Result<Report, Failure> {
        let mut command = match self {
            Subject::Ours(client) => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["--client", &client.name()]);
                command
            }
            Subject::Peer(peer) => {
                let mut command = Command::new(&peer.program);
                command.args(&peer.words);
                command
            }
        };
        let output = command.args(run.to_command_line()).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{} {} failed: {said}", run.case(), self.name()).into());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

/// The peers that a program knows: a name a line, with the one method it has, if it has not all.
pub(crate) fn peers(program: &Path) -> Result<Vec<Subject>, Failure> {
    let output = Command::new(program).arg("names").output();
    let output = output.map_err(|e| format!("{}: {e}; build it with: bash benches/run build", program.display()))?;
    let known = String::from_utf8(output.stdout)?;
    let peer = |line: &str| {
        let (name, only) = line.split_once(' ').unwrap_or((line, ""));
        let words = ["--peer", name].map(str::to_owned).to_vec();
        Subject::Peer(Peer { name: name.to_owned(), program: program.to_owned(), words, messages: only.is_empty() })
    };
    Ok(known.lines().map(|line| peer(line.trim_end())).collect())
}
