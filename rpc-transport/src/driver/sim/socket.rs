//! The ends of simulated connections, and listeners.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use super::pipe::Pipe;
use crate::url::Endpoint;

/// Names a socket for ever: no number is used twice, unlike the keys that drivers give out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SockId(pub(super) usize);

/// Where a socket's or listener's readiness is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Registered {
    pub(super) driver: usize,
    pub(super) token: usize,
}

#[derive(Debug)]
pub(super) enum Link {
    Connecting,
    Failed(io::ErrorKind),
    Open,
}

#[derive(Debug)]
pub(super) struct Socket {
    pub(super) link: Link,
    pub(super) unix: bool,
    /// Its own address, once it has one.
    pub(super) name: Option<Endpoint>,
    /// The other end, while it is there.
    pub(super) peer: Option<SockId>,
    /// What this end reads.
    pub(super) input: Pipe,
    pub(super) registered: Option<Registered>,
    /// Stands in its driver's list of events to report.
    pub(super) listed: bool,
    /// Reports of it that are on their way, late.
    pub(super) late_reports: u32,
    /// The last write came up short: room is worth an event.
    pub(super) wants_room: bool,
    /// Room is reported at all: always on TCP, on Unix sockets only while asked for.
    pub(super) watches_room: bool,
    /// Nothing that it writes arrives any more: it has said so, or the network has decided it.
    pub(super) write_closed: bool,
    /// It has said so.
    pub(super) has_finished: bool,
    /// Nothing arrives before.
    pub(super) stalled_until: Duration,
}

impl Socket {
    pub(super) fn new(unix: bool, link: Link, peer: Option<SockId>) -> Socket {
        Socket {
            link,
            unix,
            name: None,
            peer,
            input: Pipe::default(),
            registered: None,
            listed: false,
            late_reports: 0,
            wants_room: false,
            watches_room: !unix,
            write_closed: false,
            has_finished: false,
            stalled_until: Duration::ZERO,
        }
    }
}

#[derive(Debug)]
pub(super) struct ListenerSocket {
    pub(super) endpoint: Endpoint,
    pub(super) registered: Option<Registered>,
    pub(super) listed: bool,
    pub(super) backlog: VecDeque<(SockId, Endpoint)>,
}
