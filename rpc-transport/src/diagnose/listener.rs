//! A listener, as a snapshot shows it.

use std::fmt;

use super::text::Maybe;
use crate::url::Url;

/// One listener at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ListenerSnapshot {
    /// Its address.
    pub url: Url,
    /// Its open connections.
    pub connections: usize,
    /// How many there may be.
    pub max_connections: usize,
    /// Connections refused because of that, or of `max_connections_per_peer`.
    pub refused: u64,
    /// Times that it had to pause because the process had no descriptor or no memory.
    pub pauses: u64,
    /// Why it paused last.
    pub last_pause: Option<String>,
    /// Who waits at each of the sockets that listen there, another process's included that shares the port. `None` where the kernel cannot be
    /// asked.
    pub queues: Option<Vec<Queue>>,
}

/// The kernel's queue of connections that wait to be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Queue {
    /// How many wait.
    pub waiting: u32,
    /// How many may. One more is dropped, and its peer tries again by itself, a second later.
    pub backlog: u32,
}

impl fmt::Display for ListenerSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ListenerSnapshot { url, connections, max_connections, refused, pauses, last_pause, queues } = self;
        write!(
            f,
            "listener {url}: {connections} of {max_connections} connections, {refused} refused, {pauses} pauses"
        )?;
        write!(f, "{}", Maybe(", the last: ", last_pause.as_ref()))?;
        for Queue { waiting, backlog } in queues.iter().flatten() {
            write!(f, "; {waiting} of {backlog} wait")?;
        }
        writeln!(f)
    }
}
