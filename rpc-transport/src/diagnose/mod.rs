//! What an operator asks of reactors that run: what they do, what they hold, and who holds them up.
//!
//! ```text
//!  ReactorPool::snapshot ──► each reactor, by its inbox: its connections, from what they hold anyway
//!                      └──► the kernel: round trips, queues of listeners            (a held reactor is not needed for that)
//!  ReactorPool::observe  ──► Observed, in front of each driver, while the guard lives: time, latency, the longest stall
//! ```
//!
//! Who does not ask pays nothing: no counter, no look at the clock and no branch is here for a snapshot's sake.

mod conn;
mod listener;
pub(crate) mod observed;
mod reactor;
#[cfg(target_os = "linux")]
mod sock_diag;
mod text;

use std::fmt;
#[cfg(target_os = "linux")]
use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub use self::conn::{ConnSnapshot, ConnState, Held};
pub use self::listener::{ListenerSnapshot, Queue};
pub use self::observed::{ConnSeen, During};
pub use self::reactor::{Inside, ReactorCounts, ReactorSeen, ReactorSnapshot, Silence, Stall};
use self::text::{Ago, Bytes};
use crate::clock;
pub use crate::histogram::Histogram;
use crate::reactor::{ReactorHandle, ReactorPool};
#[cfg(target_os = "linux")]
use crate::url::Url;

/// How to take a snapshot.
#[derive(Clone, Debug)]
pub struct SnapshotOptions {
    /// How long to wait for the reactors, for all of them together. Default 1 s. Then those that have not answered are shown as silent.
    pub timeout: Duration,
    /// Connections shown of each reactor: those that are held up, then those that hold the most bytes. Default 32. Each costs the reactor a
    /// system call and some 300 bytes, the choice among all of them a look at each.
    pub connections: usize,
}

impl Default for SnapshotOptions {
    fn default() -> Self {
        SnapshotOptions { timeout: Duration::from_secs(1), connections: 32 }
    }
}

/// A pool at one moment, or each of its reactors at a moment of its own. It is shown as an operator reads it, a line a thing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// Its reactors.
    pub reactors: Vec<ReactorSnapshot>,
    /// The listeners that were opened on it and are not closed.
    pub listeners: Vec<ListenerSnapshot>,
    /// What the kernel counts for all listeners of this network namespace, whoever's they are; `None` where it cannot be read.
    pub overflows: Option<ListenOverflows>,
}

/// Connections that the kernel did not queue, since the machine was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenOverflows {
    /// Because a queue was full.
    pub overflows: u64,
    /// For whatever reason; those are among them.
    pub drops: u64,
}

/// What the kernel knows of a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TcpInfo {
    /// Time to the peer and back, smoothed.
    pub rtt: Duration,
    /// How much it varies.
    pub rtt_var: Duration,
    /// Segments sent again, since the connection was made.
    pub retransmits: u32,
    /// Times in a row that the oldest segment has been sent again without an answer.
    pub unanswered: u32,
    /// Probes in a row, of keepalive or of a closed window, without an answer.
    pub probes: u32,
    /// Segments that may be on their way.
    pub congestion_window: u32,
    /// Bytes of a segment, at most.
    pub max_segment: u32,
    /// Bytes that the peer has acknowledged.
    pub bytes_acked: u64,
    /// Bytes that have come.
    pub bytes_received: u64,
    /// Of those, what nobody has read yet.
    pub receive_queue: u32,
    /// Bytes that have been written, and not been acknowledged.
    pub send_queue: u32,
}

/// While it lives the pool's reactors look at the clock around each call of their drivers, and a [`Snapshot`] has in it what they saw. That is
/// a tenth, or less, of what a small request costs a server. Several at once are one. Of a connection that lives meanwhile some 100 bytes are
/// kept.
#[derive(Debug)]
#[must_use = "it observes until it is dropped"]
pub struct Observation {
    reactors: Vec<ReactorHandle>,
}

impl Drop for Observation {
    fn drop(&mut self) {
        for reactor in &self.reactors {
            reactor.run(observed::end);
        }
    }
}

impl ReactorPool {
    /// Observes the reactors from now on, until what this returns is dropped: then nothing is left of it. A reactor that is held begins when
    /// it comes to it.
    pub fn observe(&self) -> Observation {
        let reactors = self.handles().to_vec();
        for reactor in &reactors {
            reactor.run(observed::begin);
        }
        Observation { reactors }
    }

    /// Asks the reactors what they do, the listeners how they are, and the kernel for what it knows. Blocks for `timeout` at most, and a
    /// moment for the kernel; in that time a reactor that answers does little else for some microseconds, and for some 100 ns more
    /// for each of its connections. One that is held does not answer, and is shown with what is known of it all the same.
    ///
    /// From any thread. On a reactor's own it answers for itself at once, without the connection whose handler asks; the others of its pool
    /// are waited for, and so is all else on that reactor meanwhile.
    pub fn snapshot(&self, options: &SnapshotOptions) -> Snapshot {
        let most = options.connections;
        let asked = clock::now();
        let until = asked.checked_add(options.timeout);
        let questions: Vec<_> = self.handles().iter().map(|reactor| reactor::ask(reactor, most)).collect();
        let answers = questions.into_iter().map(|question| question.answer(asked, until));
        let mut reactors: Vec<_> = answers.collect();
        let mut listeners = self.listeners();
        kernel(&mut reactors, &mut listeners);
        Snapshot { reactors, listeners, overflows: listen_overflows() }
    }
}

/// Adds what the kernel knows.
#[cfg(target_os = "linux")]
fn kernel(reactors: &mut [ReactorSnapshot], listeners: &mut [ListenerSnapshot]) {
    let Ok(mut diag) = sock_diag::SockDiag::open() else { return };
    for conn in reactors.iter_mut().filter_map(|reactor| reactor.inside.as_mut().ok()).flat_map(|i| &mut i.connections)
    {
        let peer = conn.peer.parse().ok().and_then(|url| address_of(&url));
        if let (Some(local), Some(peer)) = (conn.local.as_ref().and_then(address_of), peer) {
            conn.tcp = diag.connection(local, peer);
        }
    }
    for listener in listeners {
        listener.queues = address_of(&listener.url).and_then(|at| diag.queues(at).ok());
    }
}

#[cfg(not(target_os = "linux"))]
fn kernel(_: &mut [ReactorSnapshot], _: &mut [ListenerSnapshot]) {}

/// What stands in a URL that was made of an address.
#[cfg(target_os = "linux")]
fn address_of(url: &Url) -> Option<SocketAddr> {
    match url {
        Url::Tcp { host, port } | Url::Tls { host, port } => Some(SocketAddr::new(host.parse().ok()?, *port)),
        Url::Unix(_) => None,
    }
}

/// Of the network namespace of this thread.
fn listen_overflows() -> Option<ListenOverflows> {
    overflows_in(&std::fs::read_to_string("/proc/thread-self/net/netstat").ok()?)
}

/// Two lines belong together: names, and their values.
fn overflows_in(netstat: &str) -> Option<ListenOverflows> {
    let mut lines = netstat.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let value = |wanted| {
        let at = names.split_whitespace().position(|name| name == wanted)?;
        values.split_whitespace().nth(at)?.parse().ok()
    };
    Some(ListenOverflows { overflows: value("ListenOverflows")?, drops: value("ListenDrops")? })
}

impl fmt::Display for TcpInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rtt {} ± {}, retransmits {}", Ago(self.rtt), Ago(self.rtt_var), self.retransmits)?;
        if self.unanswered + self.probes > 0 {
            write!(f, ", {} tries unanswered", self.unanswered.max(self.probes))?;
        }
        if self.receive_queue > 0 {
            write!(f, ", unread {}", Bytes(self.receive_queue.into()))?;
        }
        if self.send_queue > 0 {
            write!(f, ", unacknowledged {}", Bytes(self.send_queue.into()))?;
        }
        Ok(())
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reactors.iter().try_for_each(|reactor| reactor.fmt(f))?;
        self.listeners.iter().try_for_each(|listener| listener.fmt(f))?;
        match self.overflows {
            Some(ListenOverflows { overflows, drops }) => {
                writeln!(
                    f,
                    "kernel: {overflows} connections found a queue full, {drops} were dropped, of all listeners here"
                )
            }
            None => Ok(()),
        }
    }
}

/// How much longer, until then.
fn left(until: Option<Instant>) -> Duration {
    until.map_or(Duration::MAX, |until| until.saturating_duration_since(clock::now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overflows_are_found_by_their_names() {
        let netstat =
            "IpExt: ListenDrops\nIpExt: 9\nTcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 7 3 5\n";
        assert_eq!(overflows_in(netstat), Some(ListenOverflows { overflows: 3, drops: 5 }));
        assert_eq!(overflows_in("TcpExt: ListenOverflows ListenDrops\nTcpExt: 3"), None);
        assert_eq!(overflows_in(""), None);
    }
}
