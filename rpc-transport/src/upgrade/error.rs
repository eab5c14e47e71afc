//! Why an upgrade did not happen.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

pub use super::message::MessageError;

/// An upgrade that did not happen. The new process, if there was one, has been killed and reaped; this one has the sockets and accepts on,
/// as before. Its text is one line with all of it.
#[derive(Debug)]
#[non_exhaustive]
pub struct UpgradeError {
    /// The program that was to be the next one.
    pub program: PathBuf,
    /// Its process, if it was started.
    pub pid: Option<u32>,
    /// What it had to do next.
    pub waiting: Waiting,
    /// What happened instead.
    pub cause: UpgradeCause,
}

/// What the new process had to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Waiting {
    /// To be started.
    Start,
    /// To connect, and to take the sockets: it does when it binds an address.
    Connect,
    /// To say that it is ready.
    Ready,
    /// To live on for [`Upgrade::settle`](super::Upgrade::settle).
    Settle,
    /// To accept.
    Serve,
}

/// What went wrong.
#[derive(Debug)]
#[non_exhaustive]
pub enum UpgradeCause {
    /// It exited, or a signal ended it.
    Exited(ExitStatus),
    /// It lives, and has closed the connection to this process.
    Closed,
    /// It took longer than this.
    TimedOut(Duration),
    /// Another process, or another user's, connected in its place. A script that starts the program has to `exec` it.
    Stranger {
        /// That process.
        pid: u32,
        /// Its user.
        uid: u32,
    },
    /// It said what it should not have.
    Message(MessageError),
    /// Another upgrade of this process is under way, or the one that it came from is not over.
    UnderWay,
    /// Meanwhile this server was told to stop.
    Cancelled,
    /// The system refused something.
    System(io::Error),
}

impl fmt::Display for UpgradeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no upgrade to {}", self.program.display())?;
        if let Some(pid) = self.pid {
            write!(f, " (process {pid})")?;
        }
        write!(f, ": {}, {}", self.waiting, self.cause)
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Waiting::Start => "before it was started",
            Waiting::Connect => "before it had taken the sockets",
            Waiting::Ready => "before it was ready",
            Waiting::Settle => "when it had said that it was ready",
            Waiting::Serve => "before it accepted",
        })
    }
}

impl fmt::Display for UpgradeCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UpgradeCause::Exited(status) => write!(f, "it ended: {status}"),
            UpgradeCause::Closed => f.write_str("it closed the connection"),
            UpgradeCause::TimedOut(after) => write!(f, "{after:?} were over"),
            UpgradeCause::Stranger { pid, uid } => {
                write!(f, "process {pid} of user {uid} connected in its place (a script must `exec` the program)")
            }
            UpgradeCause::Message(error) => write!(f, "{error}"),
            UpgradeCause::UnderWay => f.write_str("another upgrade is under way"),
            UpgradeCause::Cancelled => f.write_str("this server was told to stop"),
            UpgradeCause::System(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for UpgradeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            UpgradeCause::System(error) => Some(error),
            _ => None,
        }
    }
}

impl std::error::Error for MessageError {}
