//! A connection, as a snapshot shows it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::text::{Ago, Bytes, Maybe};
use super::{ConnSeen, TcpInfo};
use crate::conn::ConnId;
use crate::handler::Load;
use crate::url::Url;

/// One connection at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnSnapshot {
    /// Its id within its reactor.
    pub id: ConnId,
    /// The peer as a URL; of an accepted Unix connection the listener's path.
    pub peer: Arc<str>,
    /// Its own address; `None` without a socket, or for one without a name.
    pub local: Option<Url>,
    /// It was accepted, and not connected.
    pub accepted: bool,
    /// What it is doing.
    pub state: ConnState,
    /// This side of it has ended, or is to once the output is written: [`Cx::finish`](crate::Cx::finish).
    pub finished: bool,
    /// The peer's side has ended, and the handler goes on: [`Handler::on_eof`](crate::Handler::on_eof).
    pub peer_finished: bool,
    /// Since it was opened.
    pub age: Duration,
    /// Since bytes of the peer were last read.
    pub quiet: Duration,
    /// Bytes that the kernel has taken. How many have come is in [`TcpInfo::bytes_received`].
    pub bytes_out: u64,
    /// What its handler has to do, as far as it says.
    pub load: Load,
    /// Bytes that have been read and not handed up: of an unfinished frame, or of frames that wait.
    pub input: usize,
    /// Bytes that have been written by the handler and not been taken by the kernel.
    pub output: usize,
    /// Since when a frame has been incomplete.
    pub within_frame: Option<Duration>,
    /// Since when the kernel has taken no output, though there is some.
    pub stalled: Option<Duration>,
    /// Why it is not read, if it is not.
    pub held: Held,
    /// What was seen of it since somebody observes; `None` if nobody does.
    pub seen: Option<ConnSeen>,
    /// What the kernel says of it; `None` for what is not TCP, where the kernel cannot be asked, and when it was closed meanwhile.
    pub tcp: Option<TcpInfo>,
}

/// What a connection is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnState {
    /// It is being established.
    Connecting,
    /// It is established.
    Open,
    /// It closes when its output is written; why.
    Closing(String),
    /// Its handler has heard of its end; its socket waits for the peer's.
    Lingering,
    /// Its socket is closed, and its handler has work that is to end all the same; why it was closed.
    Outlasting(String),
}

/// Why a connection is not read: all that hold it up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Held {
    /// Its handler said so: [`Cx::pause`](crate::Cx::pause), or [`Handler::takes`](crate::Handler::takes).
    pub by_handler: bool,
    /// Its output has reached `write_high`: the peer does not read what it asked for.
    pub by_output: bool,
    /// Memory is short, and it holds more than its share.
    pub by_memory: bool,
}

impl Held {
    /// Whether anything does.
    pub fn any(&self) -> bool {
        self.by_handler || self.by_output || self.by_memory
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all =
            [(self.by_handler, "its handler"), (self.by_output, "its output"), (self.by_memory, "want of memory")];
        let mut first = true;
        for (_, by) in all.into_iter().filter(|(holds, _)| *holds) {
            f.write_str(if std::mem::take(&mut first) { "not read because of " } else { " and " })?;
            f.write_str(by)?;
        }
        Ok(())
    }
}

impl fmt::Display for ConnState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnState::Connecting => f.write_str("connecting"),
            ConnState::Open => f.write_str("open"),
            ConnState::Closing(why) => write!(f, "closing ({why})"),
            ConnState::Lingering => f.write_str("lingering"),
            ConnState::Outlasting(why) => write!(f, "its handler goes on ({why})"),
        }
    }
}

/// One line.
impl fmt::Display for ConnSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = if self.accepted { "from" } else { "to" };
        write!(f, "{} {direction} {}: {}", self.id, self.peer, self.state)?;
        for (ended, whose) in [(self.finished, "this"), (self.peer_finished, "the peer's")] {
            if ended {
                write!(f, ", {whose} side has ended")?;
            }
        }
        write!(f, ", age {}, quiet {}", Ago(self.age), Ago(self.quiet))?;
        write!(f, ", out {}", Bytes(self.bytes_out))?;
        if let Some(tcp) = &self.tcp {
            write!(f, ", in {}", Bytes(tcp.bytes_received))?;
        }
        let Load { in_flight, queued, frames_in, frames_out } = self.load;
        write!(f, "{}{}", Maybe(", in flight ", in_flight), Maybe(", queued ", queued))?;
        write!(f, "{}{}", Maybe(", frames in ", frames_in), Maybe(", frames out ", frames_out))?;
        if self.input + self.output > 0 {
            write!(f, ", holds {} in and {} out", Bytes(self.input as u64), Bytes(self.output as u64))?;
        }
        if let Some(since) = self.within_frame {
            write!(f, ", within a frame for {}", Ago(since))?;
        }
        if let Some(since) = self.stalled {
            write!(f, ", output stalled for {}", Ago(since))?;
        }
        if self.held.any() {
            write!(f, ", {}", self.held)?;
        }
        if let Some(seen) = &self.seen {
            write!(f, ", seen {} frames, {} in, {} out", seen.frames, Bytes(seen.bytes_in), Bytes(seen.bytes_out))?;
            write!(f, ", busy {}", Ago(seen.busy))?;
        }
        match &self.tcp {
            Some(tcp) => write!(f, ", {tcp}"),
            None => Ok(()),
        }
    }
}
