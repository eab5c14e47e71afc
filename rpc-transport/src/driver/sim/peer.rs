//! Peers whose every byte a test decides.

use std::fmt;
use std::io::{self, IoSlice};
use std::sync::Arc;

use super::socket::{Link, SockId};
use super::{Network, Shared};
use crate::driver::CloseHow;
use crate::url::Endpoint;

/// One end of a simulated connection without a reactor. Dropping it closes it.
pub struct RawPeer {
    net: Arc<Shared>,
    id: SockId,
}

/// What a raw peer finds when it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// That many bytes; 0: nothing yet.
    Bytes(usize),
    /// The other end writes no more.
    End,
    /// The connection was reset, or never came to be.
    Reset,
}

impl RawPeer {
    pub(super) fn connect(net: &Network, endpoint: &Endpoint) -> RawPeer {
        let mut state = net.state();
        // Where nobody listens on a Unix socket, it is as if the connection had been reset at once.
        let id = state.connect(endpoint, None).unwrap_or(SockId(usize::MAX));
        drop(state);
        RawPeer { net: Arc::clone(&net.0), id }
    }

    /// Writes as much as the system takes, and says how much that is: 0 before the connection is established, while there is no room,
    /// and when it is over.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        if self.is_nowhere() {
            return 0;
        }
        self.net.state.lock().write(self.id, &[IoSlice::new(bytes)]).unwrap_or(0)
    }

    /// Appends what has arrived.
    pub fn read(&mut self, into: &mut Vec<u8>) -> Received {
        if self.is_nowhere() {
            return Received::Reset;
        }
        let mut state = self.net.state.lock();
        if state.socket(self.id).is_none_or(|socket| matches!(socket.link, Link::Failed(_))) {
            return Received::Reset;
        }
        match state.read(self.id, usize::MAX, &mut |piece| into.extend_from_slice(piece)) {
            Ok(0) => Received::End,
            Ok(n) => Received::Bytes(n),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Received::Bytes(0),
            Err(_) => Received::Reset,
        }
    }

    /// Writes no more; goes on reading.
    pub fn finish(&mut self) {
        if !self.is_nowhere() {
            self.net.state.lock().shut(self.id);
        }
    }

    /// Ends the connection at once.
    pub fn reset(&mut self) {
        if !self.is_nowhere() {
            self.net.state.lock().close(self.id, CloseHow::Abort);
        }
    }

    /// Whether the connection is established.
    pub fn is_open(&self) -> bool {
        let state = self.net.state.lock();
        !self.is_nowhere() && state.socket(self.id).is_some_and(|socket| matches!(socket.link, Link::Open))
    }

    /// The number by which an [`Observer`](super::Observer) hears of it.
    pub fn number(&self) -> usize {
        self.id.0
    }

    fn is_nowhere(&self) -> bool {
        self.id.0 == usize::MAX
    }
}

impl Drop for RawPeer {
    fn drop(&mut self) {
        if !self.is_nowhere() {
            self.net.state.lock().close(self.id, CloseHow::Graceful);
        }
    }
}

impl fmt::Debug for RawPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "raw peer {}", self.id.0)
    }
}

/// A simulated listener without a reactor. Dropping it closes it.
pub struct RawListener {
    net: Arc<Shared>,
    index: usize,
}

impl RawListener {
    pub(super) fn new(net: &Network, endpoint: &Endpoint) -> RawListener {
        let (index, _) = net.state().listen(endpoint, None).expect("nobody else listens there");
        RawListener { net: Arc::clone(&net.0), index }
    }

    /// The next connection that waits, if there is one.
    pub fn accept(&mut self) -> Option<RawPeer> {
        let (id, _) = self.net.state.lock().accept(self.index).ok()?;
        Some(RawPeer { net: Arc::clone(&self.net), id })
    }
}

impl Drop for RawListener {
    fn drop(&mut self) {
        self.net.state.lock().close_listener(self.index);
    }
}

impl fmt::Debug for RawListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "raw listener {}", self.index)
    }
}
