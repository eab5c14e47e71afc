//! Who looks on: hears what the network does with every connection, and knows nothing else.

use super::State;
use super::socket::SockId;
use crate::url::{Endpoint, Url};

/// Looks on from outside of all reactors. Ends of connections are told by numbers that are never used twice. Must not touch the
/// network from within.
#[allow(unused_variables, reason = "one listens to what one likes")]
pub trait Observer: Send {
    /// A reactor begins a turn.
    fn turn(&mut self, reactor: usize) {}
    /// There are two ends now: the one that connects, of this reactor if it is of any, and the one that waits to be accepted.
    fn paired(&mut self, client: usize, reactor: Option<usize>, server: usize, at: &Url) {}
    /// The system has taken these bytes from this end, and will deliver them unless something breaks.
    fn wrote(&mut self, end: usize, bytes: &[u8]) {}
    /// A write is over; `all`: nothing was left of it.
    fn written(&mut self, end: usize, all: bool) {}
    /// So many of the bytes for this end have arrived.
    fn arrived(&mut self, end: usize, n: usize) {}
    /// This end has read so many bytes.
    fn read(&mut self, end: usize, n: usize) {}
    /// This end was broken on purpose: whatever happens to its connection now is nobody's fault.
    fn broke(&mut self, end: usize) {}
    /// This end has written all that it will, and says so; it may go on reading.
    fn finished(&mut self, end: usize) {}
    /// This end is closed.
    fn closed(&mut self, end: usize) {}
}

impl State {
    pub(super) fn tell(&mut self, tell: impl FnOnce(&mut dyn Observer)) {
        if let Some(observer) = &mut self.observer {
            tell(&mut **observer);
        }
    }

    pub(super) fn tell_paired(&mut self, client: SockId, server: SockId, at: &Endpoint) {
        let reactor = self.sockets.get(&client).and_then(|socket| socket.registered).map(|r| r.driver);
        self.tell(|observer| observer.paired(client.0, reactor, server.0, &Url::from(at)));
    }
}
