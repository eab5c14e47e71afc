//! The books of a listener: who is in, from where, and on which reactor.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::{ListenerHandle, ListenerShared};
use crate::config::ListenLimits;

/// How many connections there are.
pub(super) struct Books {
    connections: AtomicUsize,
    /// Of those, how many each reactor has, or is about to get.
    placed: Vec<AtomicUsize>,
    /// By [peer](peer_of), where that has a limit.
    by_peer: Mutex<HashMap<IpAddr, usize>>,
    /// Those that were one too many.
    refused: AtomicU64,
}

impl Books {
    pub(super) fn new(reactors: usize) -> Books {
        let placed = (0..reactors).map(|_| AtomicUsize::new(0)).collect();
        Books { connections: AtomicUsize::new(0), placed, by_peer: Mutex::default(), refused: AtomicU64::new(0) }
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Acquire)
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// The reactor with the fewest.
    pub(super) fn least(&self) -> usize {
        let placed = |index: &usize| self.placed[*index].load(Ordering::Relaxed);
        (0..self.placed.len()).min_by_key(placed).unwrap_or(0)
    }

    /// Whether another may come from there, which counts from now on then.
    fn enter(&self, limits: &ListenLimits, from: Option<IpAddr>) -> bool {
        let more = |there: usize| (there < limits.max_connections).then_some(there + 1);
        if self.connections.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_err() {
            return false;
        }
        let Some(from) = from else { return true };
        let mut by_peer = self.by_peer.lock();
        let there = by_peer.get(&from).copied().unwrap_or_default();
        if there >= limits.max_connections_per_peer {
            self.connections.fetch_sub(1, Ordering::AcqRel);
            return false;
        }
        by_peer.insert(from, there + 1);
        true
    }

    fn leave(&self, from: IpAddr) {
        let mut by_peer = self.by_peer.lock();
        if let Some(there) = by_peer.get_mut(&from) {
            *there -= 1;
            if *there == 0 {
                by_peer.remove(&from);
            }
        }
    }
}

/// IPv4 addresses behind a translator (RFC 6052): in the last 32 bits.
const TRANSLATED: u128 = 0x64_ff9b << 96;

/// Who is behind an address: of IPv6 everybody within a /64, for that is what one host is given, to number itself as it likes. Not of
/// link-local addresses, of which a whole network has one /64, nor where an IPv4 address is within.
fn peer_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if address.to_bits() >> 32 == TRANSLATED >> 32 => {
            Ipv4Addr::from_bits(address.to_bits() as u32).into()
        }
        IpAddr::V6(address) if !address.is_unicast_link_local() => {
            Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into()
        }
        as_it_is => as_it_is,
    }
}

/// One connection's entry in its listener's books, from accepting it to its end, whatever that is.
pub(crate) struct Admission {
    pub(super) listener: Arc<ListenerShared>,
    /// Where it comes from, if that is counted. In memory of its own: few listeners do.
    from: Option<Box<IpAddr>>,
    place: u32,
    /// It counts as a connection of the listener.
    counted: bool,
}

impl Admission {
    /// Nothing if a limit is reached.
    pub(super) fn new(
        listener: Arc<ListenerShared>,
        from: Option<IpAddr>,
        place: impl FnOnce(&ListenerShared) -> usize,
    ) -> Option<Self> {
        let limits = &listener.limits;
        let from = from.filter(|_| limits.max_connections_per_peer < limits.max_connections).map(peer_of);
        if !listener.books.enter(&listener.limits, from) {
            listener.books.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let place = place(&listener);
        listener.books.placed[place].fetch_add(1, Ordering::Relaxed);
        Some(Admission { listener, from: from.map(Box::new), place: place as u32, counted: true })
    }

    /// Handshakes that may be under way on its reactor.
    #[cfg(feature = "tls")]
    pub(crate) fn max_handshakes(&self) -> usize {
        self.listener.limits.max_handshakes
    }

    pub(crate) fn listener(&self) -> ListenerHandle {
        ListenerHandle { shared: Arc::clone(&self.listener) }
    }

    pub(super) fn place(&self) -> usize {
        self.place as usize
    }

    /// The socket is closed: another may come in its place, whatever its handler has left to do.
    pub(crate) fn leave(&mut self) {
        if std::mem::take(&mut self.counted) {
            if let Some(from) = &self.from {
                self.listener.books.leave(**from);
            }
            self.listener.books.placed[self.place as usize].fetch_sub(1, Ordering::Relaxed);
            self.listener.books.connections.fetch_sub(1, Ordering::AcqRel);
        }
    }

    pub(crate) fn is_of(&self, listener: &Arc<ListenerShared>) -> bool {
        Arc::ptr_eq(&self.listener, listener)
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn a_peer_is_an_ipv4_address_or_an_ipv6_network() {
        //           from                        its peer
        let table = [("192.0.2.7",               "192.0.2.7"),
                     ("::ffff:192.0.2.7",        "192.0.2.7"),
                     ("2001:db8:1:2:3:4:5:6",    "2001:db8:1:2::"),
                     ("2001:db8:1:2:ffff::1",    "2001:db8:1:2::"),
                     ("2001:db8:1:3::1",         "2001:db8:1:3::"),
                     ("fe80::1:2:3:4",           "fe80::1:2:3:4"),
                     ("64:ff9b::c000:207",       "192.0.2.7"),
                     ("64:ff9b:1::1",            "64:ff9b:1::"),
                     ("::1",                     "::")];
        for (from, expected) in table {
            assert_eq!(peer_of(from.parse().unwrap()).to_string(), expected, "{from}");
        }
    }
}
